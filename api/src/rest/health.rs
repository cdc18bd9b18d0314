//! Alive and ready: for load balancers, containers and people.

use std::time::Duration;

use poem_openapi::payload::Json;
use poem_openapi::types::Example;
use poem_openapi::{ApiResponse, Enum, Object, OpenApi};

use super::Tag;
use crate::state::AppState;

const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// The health of this process.
pub struct HealthApi(pub AppState);

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename_all = "lowercase")]
pub enum Condition {
    /// It answers
    Up,
    /// It does not
    Down,
}

/// This process is alive.
#[derive(Clone, Debug, Object)]
#[oai(example)]
pub struct Alive {
    /// Always `up`
    pub status: Condition,
    /// The version that runs
    pub version: String,
}

impl Example for Alive {
    fn example() -> Self {
        Self {
            status: Condition::Up,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// What this process needs, and how it is.
#[derive(Clone, Debug, Object)]
#[oai(example)]
pub struct Readiness {
    /// `up` if everything is
    pub status: Condition,
    /// The database
    pub postgres: Condition,
    /// Sessions, caches and queues
    pub redis: Condition,
    /// The names of what is down
    pub down: Vec<String>,
}

impl Example for Readiness {
    fn example() -> Self {
        Self {
            status: Condition::Up,
            postgres: Condition::Up,
            redis: Condition::Up,
            down: Vec::new(),
        }
    }
}

/// Whether requests can be served.
#[derive(ApiResponse)]
pub enum ReadinessReply {
    /// Everything answers
    #[oai(status = 200)]
    Ready(Json<Readiness>),
    /// Something does not; `down` names it
    #[oai(status = 503)]
    NotReady(Json<Readiness>),
}

#[OpenApi(tag = "Tag::Health")]
impl HealthApi {
    /// Is the process alive
    ///
    /// Answers as long as the process runs, whatever else is down.
    #[oai(path = "/healthz", method = "get", operation_id = "get_health")]
    async fn health(&self) -> Json<Alive> {
        Json(Alive {
            status: Condition::Up,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }

    /// Can the process serve requests
    ///
    /// Asks Postgres and Redis, for one second at most.
    #[oai(path = "/readyz", method = "get", operation_id = "get_readiness")]
    async fn readiness(&self) -> ReadinessReply {
        let postgres = async {
            let asked = sqlx::query!(r#"SELECT 1 AS "one!""#).fetch_one(self.0.db.pool());
            matches!(tokio::time::timeout(PROBE_TIMEOUT, asked).await, Ok(Ok(_)))
        };
        let (postgres, redis) = tokio::join!(postgres, self.0.redis.answers());
        let condition = |up| if up { Condition::Up } else { Condition::Down };
        let down: Vec<String> = [("postgres", postgres), ("redis", redis)]
            .into_iter()
            .filter(|(_, up)| !up)
            .map(|(name, _)| name.to_owned())
            .collect();
        let body = Json(Readiness {
            status: condition(down.is_empty()),
            postgres: condition(postgres),
            redis: condition(redis),
            down,
        });
        match body.status {
            Condition::Up => ReadinessReply::Ready(body),
            Condition::Down => ReadinessReply::NotReady(body),
        }
    }
}
