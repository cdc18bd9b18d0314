//! The job list: a filter, and pages of the jobs that match it, the newest first.
//!
//! Ids are made in the order of time, so they page the list and bound it in time. What a filter asks for decides the
//! index: values of arguments are walked in `job_terms`, a worker and unknown effects name their jobs, error text is looked up, kinds
//! and states are walked one by one in the order of ids, and without any the primary key is walked. The walk of kinds
//! and states orders by the bytes of the id, because that order is in its own index only. Running jobs are not in that
//! index: there are only as many as the workers have hands, so they are read all, beside the walk.

mod filter;
mod related;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{FromRow, PgConnection, PgPool, Postgres, QueryBuilder};
use uuid::Uuid;

use super::kinds;
use filter::Search;
pub use filter::{FilterError, JobFilter, MOST_IDS};
pub use related::CUT;
use related::related;

/// Every state, in the order of a job's life.
pub const STATES: [&str; 8] = [
    "scheduled",
    "queued",
    "running",
    "retrying",
    "succeeded",
    "dead",
    "cancelled",
    "quarantined",
];

/// The state that has indexes of its own.
const RUNNING: &str = "running";

/// A row of the list.
#[derive(Clone, Debug, FromRow)]
pub struct JobRow {
    /// The job.
    pub id: Uuid,
    /// Its kind.
    pub kind: String,
    /// Its queue.
    pub queue: String,
    /// Its state.
    pub state: String,
    /// Its arguments, not masked.
    pub args: Value,
    /// Attempts begun.
    pub attempt: i32,
    /// Attempts there are.
    pub max_attempts: i32,
    /// When it is due, or became so.
    pub run_at: DateTime<Utc>,
    /// When it was enqueued.
    pub created_at: DateTime<Utc>,
    /// When the last attempt began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// The worker that runs it, or ran it last.
    pub lease_owner: Option<String>,
    /// An operator wants it stopped.
    pub cancel_requested: bool,
}

const COLUMNS: &str = "id, kind, queue, state, args, attempt, max_attempts, run_at, created_at, started_at, finished_at, last_error, lease_owner, cancel_requested";

/// Why a list cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The filter makes no sense.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// Postgres has given the search up.
    #[error("This search takes too long: narrow it by kind, state or time.")]
    TooSlow,
    /// Postgres refused or could not be reached.
    #[error(transparent)]
    Database(sqlx::Error),
}

impl From<sqlx::Error> for ListError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            // The statement was cancelled, by its time-out or by hand.
            sqlx::Error::Database(database) if database.code().as_deref() == Some("57014") => {
                tracing::warn!(%error, "a search was given up");
                Self::TooSlow
            }
            _ => Self::Database(error),
        }
    }
}

/// A page of the list.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The newest first.
    pub jobs: Vec<JobRow>,
    /// Whether more belongs to the id that was searched for than a search follows: see [`CUT`].
    pub cut: bool,
}

/// The jobs that match and are older than the job `before`, the newest first.
///
/// # Errors
/// See [`ListError`].
pub async fn page(pool: &PgPool, filter: &JobFilter, before: Option<Uuid>, limit: i64) -> Result<Page, ListError> {
    let mut conn = pool.acquire().await?;
    let matching = Matching::of(&mut conn, filter).await?;
    let mut query = QueryBuilder::new("");
    matching.select(&mut query, COLUMNS, before, Some(limit));
    // Planned for these values, and not once for all.
    let jobs = query.build_query_as().persistent(false).fetch_all(&mut *conn).await?;
    Ok(Page {
        jobs,
        cut: matching.cut,
    })
}

/// The jobs of a [`page`] alone.
///
/// # Errors
/// See [`ListError`].
pub async fn list(
    pool: &PgPool,
    filter: &JobFilter,
    before: Option<Uuid>,
    limit: i64,
) -> Result<Vec<JobRow>, ListError> {
    Ok(page(pool, filter, before, limit).await?.jobs)
}

/// The ids that match and are older than `before`, the newest first: for working through them.
///
/// # Errors
/// See [`ListError`].
pub async fn ids(
    conn: &mut PgConnection,
    filter: &JobFilter,
    before: Uuid,
    limit: i64,
) -> Result<Vec<Uuid>, ListError> {
    let matching = Matching::of(conn, filter).await?;
    let mut query = QueryBuilder::new("");
    matching.select(&mut query, "id", Some(before), Some(limit));
    Ok(query.build_query_scalar().persistent(false).fetch_all(conn).await?)
}

/// How many match.
///
/// # Errors
/// See [`ListError`].
pub async fn count(pool: &PgPool, filter: &JobFilter) -> Result<i64, ListError> {
    let mut conn = pool.acquire().await?;
    let matching = Matching::of(&mut conn, filter).await?;
    let mut query = QueryBuilder::new("SELECT count(*) FROM (");
    matching.select(&mut query, "id", None, None);
    query.push(") AS matching");
    Ok(query
        .build_query_scalar()
        .persistent(false)
        .fetch_one(&mut *conn)
        .await?)
}

/// Jobs of a kind that match.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct KindCount {
    /// The kind.
    pub kind: String,
    /// How many.
    pub count: i64,
}

/// How many match of each kind, the most first.
///
/// # Errors
/// See [`ListError`].
pub async fn count_by_kind(conn: &mut PgConnection, filter: &JobFilter) -> Result<Vec<KindCount>, ListError> {
    let matching = Matching::of(&mut *conn, filter).await?;
    let mut query = QueryBuilder::new("SELECT kind, count(*) AS count FROM (");
    matching.select(&mut query, "id, kind", None, None);
    query.push(") AS matching GROUP BY kind ORDER BY count DESC, kind");
    Ok(query.build_query_as().persistent(false).fetch_all(conn).await?)
}

/// How Postgres finds a page, and how many rows it reads for that: for tests.
///
/// # Errors
/// See [`ListError`].
pub async fn plan(pool: &PgPool, filter: &JobFilter, limit: i64) -> Result<Vec<String>, ListError> {
    let mut conn = pool.acquire().await?;
    let matching = Matching::of(&mut conn, filter).await?;
    let mut query = QueryBuilder::new("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) ");
    matching.select(&mut query, COLUMNS, None, Some(limit));
    Ok(query
        .build_query_scalar()
        .persistent(false)
        .fetch_all(&mut *conn)
        .await?)
}

/// The kinds that there are rows of, and of a queue those that may be in it: a kind that this build knows is in its own
/// queue only, and one that it does not know may be in any.
async fn kinds_of(conn: &mut PgConnection, queue: Option<&str>) -> Result<Vec<String>, sqlx::Error> {
    let mut present = kinds_present(conn).await?;
    if let Some(queue) = queue {
        present.retain(|name| kinds::kind(name).is_none_or(|kind| kind.queue.name() == queue));
    }
    Ok(present)
}

/// The kinds that there are rows of, by name: one probe of the index a kind, and those of the running jobs.
///
/// # Errors
/// Postgres could not be reached.
pub async fn kinds_present(conn: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"WITH RECURSIVE at_rest AS (
               (SELECT kind FROM jobs WHERE state <> 'running' ORDER BY kind LIMIT 1)
               UNION ALL
               SELECT (SELECT kind FROM jobs WHERE state <> 'running' AND jobs.kind > at_rest.kind ORDER BY kind LIMIT 1)
               FROM at_rest WHERE at_rest.kind IS NOT NULL)
           SELECT kind AS "kind!" FROM at_rest WHERE kind IS NOT NULL
           UNION SELECT kind FROM jobs WHERE state = 'running' ORDER BY 1"#
    )
    .fetch_all(conn)
    .await
}

/// A filter with its search resolved.
struct Matching<'a> {
    filter: &'a JobFilter,
    search: Search,
    /// No job is found in two of them.
    ways: Vec<Way>,
    /// Whether more belongs to the id than the ways lead to.
    cut: bool,
}

/// How the matching jobs are found.
enum Way {
    /// By this id.
    One(Uuid),
    /// Value by value of the arguments.
    Terms(Vec<String>),
    /// Among those that run, on this worker if one is named.
    Running(Option<String>),
    /// By the effects whose outcome is unknown.
    Unknown,
    /// Kind by kind and state by state; running is none of them.
    Walk(Vec<String>, Vec<String>),
    /// All, by id.
    All,
}

impl<'a> Matching<'a> {
    async fn of(conn: &mut PgConnection, filter: &'a JobFilter) -> Result<Self, ListError> {
        filter.check()?;
        let search = filter.search()?;
        let mut cut = false;
        let ways = match &search {
            Search::Id(id) => vec![match Uuid::parse_str(id) {
                Ok(id) if is_job(conn, id).await? => Way::One(id),
                Ok(id) => {
                    let related = related(conn, id).await?;
                    cut = related.cut;
                    Way::Terms(related.terms)
                }
                Err(_) => Way::Terms(vec![id.clone()]),
            }],
            Search::Args(_, term) => vec![Way::Terms(vec![term.clone()])],
            Search::Anything | Search::Text(_) => match &filter.worker {
                Some(worker) if filter.ids.is_empty() => vec![Way::Running(Some(worker.clone()))],
                _ => Self::ways_without_ids(conn, filter, search == Search::Anything).await?,
            },
        };
        Ok(Self {
            filter,
            search,
            ways,
            cut,
        })
    }

    /// The ways to jobs of which the search names none.
    async fn ways_without_ids(
        conn: &mut PgConnection,
        filter: &JobFilter,
        any_error: bool,
    ) -> Result<Vec<Way>, sqlx::Error> {
        if !filter.ids.is_empty() {
            return Ok(vec![Way::All]);
        }
        if filter.effect.is_some() {
            return Ok(vec![Way::Unknown]);
        }
        // Few are tried again, and those have an index of their own.
        let tried_again = filter.attempts.is_some_and(|attempts| attempts > 1);
        if !any_error || tried_again || (filter.kind.is_none() && filter.queue.is_none() && filter.states.is_empty()) {
            return Ok(vec![Way::All]);
        }
        let wanted = |state: &str| filter.states.is_empty() || filter.states.iter().any(|wanted| wanted == state);
        let at_rest: Vec<String> = STATES
            .into_iter()
            .filter(|state| *state != RUNNING && wanted(state))
            .map(str::to_owned)
            .collect();
        let mut ways = Vec::new();
        if !at_rest.is_empty() {
            let kinds = match &filter.kind {
                Some(kind) => vec![kind.clone()],
                None => kinds_of(conn, filter.queue.as_deref()).await?,
            };
            ways.push(Way::Walk(kinds, at_rest));
        }
        if wanted(RUNNING) {
            ways.push(Way::Running(None));
        }
        Ok(ways)
    }

    fn select(
        &self,
        query: &mut QueryBuilder<Postgres>,
        columns: &'static str,
        before: Option<Uuid>,
        limit: Option<i64>,
    ) {
        if let [way] = self.ways.as_slice() {
            return self.select_by(way, query, columns, before, limit);
        }
        for (number, way) in self.ways.iter().enumerate() {
            query.push(if number == 0 { "(" } else { " UNION ALL (" });
            self.select_by(way, query, columns, before, limit);
            query.push(")");
        }
        if let Some(limit) = limit {
            query.push(" ORDER BY id DESC LIMIT ").push_bind(limit);
        }
    }

    fn select_by(
        &self,
        way: &Way,
        query: &mut QueryBuilder<Postgres>,
        columns: &'static str,
        before: Option<Uuid>,
        limit: Option<i64>,
    ) {
        let (id, many) = match way {
            Way::One(id) => {
                query.push("SELECT ").push(columns).push(" FROM jobs WHERE id = ");
                query.push_bind(*id);
                ("id", false)
            }
            Way::Terms(terms) => {
                // One job may have several of the values.
                query.push("SELECT DISTINCT ON (page.id) page.* FROM unnest(");
                query.push_bind(terms.clone()).push(") AS t CROSS JOIN LATERAL (");
                query.push("SELECT ").push(columns);
                query.push(" FROM job_terms JOIN jobs ON jobs.id = job_terms.job_id WHERE job_terms.term = t");
                ("job_id", true)
            }
            Way::Running(worker) => {
                // They are few, so they are read before they are put in order.
                query.push("SELECT ").push(columns);
                query.push(" FROM (SELECT * FROM jobs WHERE state = 'running'");
                if let Some(worker) = worker {
                    query.push(" AND lease_owner = ").push_bind(worker.clone());
                }
                query.push(" OFFSET 0) AS jobs WHERE true");
                ("id", false)
            }
            Way::Unknown => {
                query.push(
                    "SELECT page.* FROM (SELECT DISTINCT job_id FROM effects WHERE state = 'unknown') AS doubtful",
                );
                query.push(" CROSS JOIN LATERAL (SELECT ").push(columns);
                query.push(" FROM jobs WHERE jobs.id = doubtful.job_id");
                ("id", true)
            }
            Way::Walk(kinds, states) => {
                query.push("SELECT page.* FROM unnest(");
                query.push_bind(kinds.clone()).push(") AS k, unnest(");
                query.push_bind(states.clone()).push(") AS s CROSS JOIN LATERAL (");
                query.push("SELECT ").push(columns);
                // The last condition is that of the index, which the planner does not see in the one before.
                query.push(" FROM jobs WHERE jobs.kind = k AND jobs.state = s AND jobs.state <> 'running'");
                ("id", true)
            }
            Way::All => {
                query.push("SELECT ").push(columns).push(" FROM jobs WHERE true");
                ("id", false)
            }
        };
        self.conditions(way, query, id, before);
        if let Some(limit) = limit {
            let order = if matches!(way, Way::Walk(..)) {
                "uuid_send(id)"
            } else {
                id
            };
            query
                .push(" ORDER BY ")
                .push(order)
                .push(" DESC LIMIT ")
                .push_bind(limit);
        }
        if many {
            query.push(") AS page");
            if let Some(limit) = limit {
                query.push(" ORDER BY page.id DESC LIMIT ").push_bind(limit);
            }
        }
    }

    fn conditions(&self, way: &Way, query: &mut QueryBuilder<Postgres>, id: &'static str, before: Option<Uuid>) {
        let filter = self.filter;
        let walks = matches!(way, Way::Walk(..));
        if !filter.ids.is_empty() {
            query.push(" AND ").push(id).push(" = ANY(");
            query.push_bind(filter.ids.clone()).push(")");
        }
        if !walks {
            if let Some(kind) = &filter.kind {
                query.push(" AND kind = ").push_bind(kind.clone());
            }
            if !filter.states.is_empty() {
                query
                    .push(" AND state = ANY(")
                    .push_bind(filter.states.clone())
                    .push(")");
            }
        }
        if let Some(queue) = &filter.queue {
            query.push(" AND queue = ").push_bind(queue.clone());
        }
        let (from, to) = (filter.from.map(first_id_of), filter.to.map(first_id_of));
        for (comparison, bound) in [(">=", from), ("<", to), ("<", before)] {
            let Some(bound) = bound else { continue };
            if walks {
                query.push(" AND uuid_send(id) ").push(comparison).push(" uuid_send(");
                query.push_bind(bound).push(")");
            } else {
                query.push(" AND ").push(id).push(" ").push(comparison).push(" ");
                query.push_bind(bound);
            }
        }
        if let Some(attempts) = filter.attempts.filter(|attempts| *attempts > 1) {
            // The first half is the condition of an index.
            query.push(" AND attempt > 1 AND attempt >= ").push_bind(attempts);
        }
        if let Some(worker) = filter.worker.as_ref().filter(|_| !matches!(way, Way::Running(Some(_)))) {
            query
                .push(" AND state = 'running' AND lease_owner = ")
                .push_bind(worker.clone());
        }
        if filter.effect.is_some() && !matches!(way, Way::Unknown) {
            query
                .push(" AND EXISTS (SELECT FROM effects WHERE effects.job_id = jobs.id AND effects.state = 'unknown')");
        }
        match &self.search {
            Search::Text(text) => {
                let pattern = text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
                query.push(" AND last_error IS NOT NULL AND last_error ILIKE ");
                query.push_bind(format!("%{pattern}%"));
            }
            Search::Args(args, _) => {
                query.push(" AND args @> ").push_bind(args.clone());
            }
            Search::Anything | Search::Id(_) => {}
        }
    }
}

async fn is_job(conn: &mut PgConnection, id: Uuid) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM jobs WHERE id = $1) AS "is!""#, id)
        .fetch_one(conn)
        .await
}

/// The lowest id that is made at this instant or later.
fn first_id_of(at: DateTime<Utc>) -> Uuid {
    let milliseconds = u128::try_from(at.timestamp_millis()).unwrap_or(0);
    Uuid::from_u128((milliseconds << 80) | (0x7 << 76) | (0b10 << 62))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids;

    #[test]
    fn ids_bound_the_list_in_time() {
        let at: DateTime<Utc> = "2030-06-01T12:00:00Z".parse().unwrap();
        let bound = first_id_of(at);
        assert!(ids::new(at) >= bound);
        assert!(ids::new(at - chrono::TimeDelta::milliseconds(1)) < bound);
    }
}
