//! What an action on many jobs would do, told before it is done: to how many of which kind, and to the newest of them one
//! by one.

use sqlx::PgPool;

use super::actions::JobAction;
use super::bulk::{leaves_scheduled, narrowed};
use super::inspect;
use super::kinds;
use super::list::{self, JobFilter, JobRow, KindCount, ListError};
use super::outlook::{Outlook, Tone};

/// What an action on all jobs that match would do.
#[derive(Clone, Debug)]
pub struct Preview {
    /// How many it would be done to.
    pub expected: i64,
    /// The same by kind, the most first.
    pub kinds: Vec<KindCount>,
    /// The newest of them.
    pub sample: Vec<Previewed>,
    /// Whether it needs a reason.
    pub needs_reason: bool,
    /// Whether jobs that are scheduled are left alone, because nobody asked for them.
    pub leaves_scheduled: bool,
    /// Whether more belongs to the id that was searched for than is acted on: see [`list::CUT`].
    pub cut: bool,
}

/// A job and what would become of it.
#[derive(Clone, Debug)]
pub struct Previewed {
    /// The job.
    pub job: JobRow,
    /// Whether it can have the action.
    pub fits: bool,
    /// What the action would do to it.
    pub lines: Vec<Outlook>,
}

/// What `action` would do to all that match; `shown` of them are told one by one.
///
/// # Errors
/// See [`ListError`].
pub async fn preview(pool: &PgPool, filter: &JobFilter, action: JobAction, shown: i64) -> Result<Preview, ListError> {
    filter.check()?;
    let narrowed = narrowed(filter, action);
    let kinds = {
        let mut conn = pool.acquire().await?;
        list::count_by_kind(&mut conn, &narrowed).await?
    };
    let page = list::page(pool, &narrowed, None, shown).await?;
    Ok(Preview {
        expected: kinds.iter().map(|kind| kind.count).sum(),
        needs_reason: needs_reason(filter, &kinds),
        kinds,
        sample: told(pool, page.jobs, action).await?,
        leaves_scheduled: leaves_scheduled(filter, action),
        cut: page.cut,
    })
}

/// What `action` would do to each of the jobs that a filter names, those included that cannot have it.
///
/// # Errors
/// See [`ListError`].
pub async fn selected(pool: &PgPool, filter: &JobFilter, action: JobAction) -> Result<Vec<Previewed>, ListError> {
    let most = i64::try_from(filter.ids.len()).unwrap_or(i64::MAX);
    let rows = list::list(pool, filter, None, most).await?;
    Ok(told(pool, rows, action).await?)
}

/// Whether an action on what matches needs a reason: one of the jobs that are there moves money, or one that comes to
/// match while the action is worked off may.
pub(super) fn needs_reason(filter: &JobFilter, matching: &[KindCount]) -> bool {
    let of_one_kind = filter.kind.as_deref().is_some_and(|kind| !kinds::moves_money(kind));
    let only_these = !filter.ids.is_empty() && !matching.iter().any(|kind| kinds::moves_money(&kind.kind));
    !of_one_kind && !only_these
}

async fn told(pool: &PgPool, rows: Vec<JobRow>, action: JobAction) -> Result<Vec<Previewed>, sqlx::Error> {
    let outlooks = inspect::outlooks(pool, &rows).await?;
    let each = rows.into_iter().zip(outlooks);
    Ok(each
        .map(|(job, outlook)| {
            let fits = action.fits(&job.state);
            let lines = match action {
                _ if !fits => vec![say(
                    Tone::Futile,
                    format!("It is {}: nothing is done to it.", job.state),
                )],
                JobAction::Retry | JobAction::RunNow => outlook,
                JobAction::Cancel if job.state == "running" => outlook,
                JobAction::Cancel => vec![say(Tone::Acts, "It will not run; what it has done stays done.")],
                JobAction::Delete => vec![say(Tone::Acts, "It and its attempts are removed; its effects stay.")],
            };
            Previewed { job, fits, lines }
        })
        .collect())
}

fn say(tone: Tone, text: impl Into<String>) -> Outlook {
    Outlook {
        tone,
        text: text.into(),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_reason_is_needed_where_a_job_of_money_is_or_may_come_to_be_among_them() {
        let of = |kind: &str| KindCount {
            kind: kind.to_owned(),
            count: 1,
        };
        let all = JobFilter::default();
        assert!(needs_reason(&all, &[of("mail.send")]), "others may match by then");
        let mails = JobFilter {
            kind: Some("mail.send".to_owned()),
            ..JobFilter::default()
        };
        assert!(!needs_reason(&mails, &[of("mail.send")]));
        let captures = JobFilter {
            kind: Some("payment.capture".to_owned()),
            ..JobFilter::default()
        };
        assert!(needs_reason(&captures, &[]));
        let chosen = JobFilter {
            ids: vec![Uuid::nil()],
            ..JobFilter::default()
        };
        assert!(!needs_reason(&chosen, &[of("mail.send")]));
        assert!(needs_reason(&chosen, &[of("mail.send"), of("of.another.build")]));
    }
}
