//! The job dashboard over a million jobs: how long a person waits for each way of looking for one.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reqwest::header::COOKIE;
use roost_shared::{
    config::Secret,
    operators::{self, NewOperator, Role, SealingKeys, sessions},
    sessions::Origin,
    users::Passwords,
};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::{
    Plan,
    figure::{Figure, Report, Target, percentile},
    machine::Machine,
};

/// A filter as the list's address has it, for the look of this number.
struct Look {
    name: &'static str,
    address: fn(&Plan, u64) -> String,
}

const LOOKS: [Look; 15] = [
    Look {
        name: "all",
        address: |_, _| String::new(),
    },
    Look {
        name: "dead",
        address: |_, _| "state=dead".to_owned(),
    },
    Look {
        name: "dead of a kind",
        address: |_, _| "state=dead&kind=payment.capture".to_owned(),
    },
    Look {
        name: "a queue's last day",
        address: |_, _| "queue=payments&since=1d".to_owned(),
    },
    Look {
        name: "an old hour",
        address: |plan, number| {
            let hour = |hour| format!("{}T{hour:02}:00:00Z", plan.today - chrono::Days::new(3));
            format!("from={}&to={}", hour(number % 23), hour(number % 23 + 1))
        },
    },
    Look {
        name: "five attempts",
        address: |_, _| "attempts=5".to_owned(),
    },
    Look {
        name: "dead with a frequent error",
        address: |_, _| "state=dead&q=card_declined".to_owned(),
    },
    Look {
        name: "a frequent error",
        address: |_, _| "q=connection%20refused".to_owned(),
    },
    Look {
        name: "an error that nothing has",
        address: |_, number| format!("q=no%20such%20error%20{number}"),
    },
    Look {
        name: "a booking",
        address: |plan, number| format!("q={}", plan.dataset.booking(number * 7_919)),
    },
    Look {
        name: "a user of many bookings",
        address: |plan, number| format!("q={}", plan.dataset.guest(number)),
    },
    Look {
        name: "arguments",
        address: |plan, number| {
            format!(
                "q=%7B%22payment_id%22%3A%22{}%22%7D",
                plan.dataset.payment(number * 7_919)
            )
        },
    },
    Look {
        name: "on a worker",
        address: |_, _| "worker=bench-2".to_owned(),
    },
    Look {
        name: "effects of unknown outcome",
        address: |_, _| "effect=unknown".to_owned(),
    },
    Look {
        name: "far down a kind",
        address: |plan, number| {
            let at = (plan.today - chrono::Days::new(4))
                .and_time(chrono::NaiveTime::MIN)
                .and_utc();
            let before = at + chrono::TimeDelta::minutes(number.cast_signed());
            format!("kind=mail.send&before={}", roost_shared::ids::new(before))
        },
    },
];

/// Fills the job table and looks.
pub async fn measure(machine: &Machine, plan: &Plan, report: &mut Report) -> Result<()> {
    let began = Instant::now();
    fill(machine, plan).await?;
    let filled = began.elapsed().as_secs();
    let cookie = sign_in(machine).await?;
    let dashboard = machine.dashboard().await?;
    let client = reqwest::Client::builder().timeout(Duration::from_secs(20)).build()?;
    let look = async |path: &str| -> Result<f64> {
        let request = client
            .get(format!("http://{}{path}", dashboard.address))
            .header(COOKIE, &cookie);
        let began = Instant::now();
        let page = request.send().await?.error_for_status()?.text().await?;
        let milliseconds = began.elapsed().as_secs_f64() * 1000.0;
        ensure!(!page.contains("takes too long"), "{path} was given up by Postgres");
        ensure!(page.contains("</html>"), "{path} is no whole page");
        Ok(milliseconds)
    };
    let mut slowest = 0.0_f64;
    let mut notes = Vec::new();
    for Look { name, address } in &LOOKS {
        let mut waits = Vec::new();
        for number in 0..plan.looks {
            waits.push(look(&format!("/ops/jobs?{}", address(plan, number))).await?);
        }
        let p95 = percentile(&waits, 0.95);
        slowest = slowest.max(p95);
        notes.push(format!("{name} {p95:.0}"));
    }
    let looks = plan.looks * LOOKS.len() as u64;
    report.add(
        Figure::new("dashboard_jobs_p95", slowest, "ms", looks)
            .target(Target::AtMost(200.0))
            .note(format!(
                "of {} jobs, made in {filled} s, {} looks of each kind, the slowest kind",
                plan.dashboard_jobs, plan.looks
            ))
            .note(notes.join(", ")),
    )?;
    let mut waits = Vec::new();
    for _ in 0..plan.looks {
        waits.push(look("/ops").await?);
    }
    report.add(
        Figure::new("dashboard_overview_p95", percentile(&waits, 0.95), "ms", plan.looks)
            .target(Target::AtMost(200.0))
            .note("over the same jobs"),
    )?;
    dashboard.stop().await
}

async fn fill(machine: &Machine, plan: &Plan) -> Result<()> {
    let mut connection = PgConnection::connect(machine.database_url()).await?;
    connection
        .execute("TRUNCATE jobs, job_attempts, job_terms, effects, effect_inspections, stripe_events, messages")
        .await?;
    let script = include_str!("dashboard.sql")
        .replace("{jobs}", &plan.dashboard_jobs.to_string())
        .replace("{looks}", &plan.looks.to_string())
        .replace("{hosts}", &plan.dataset.hosts().to_string())
        .replace("{bookings}", &(plan.dataset.properties * 5).to_string())
        .replace("{properties}", &plan.dataset.properties.to_string());
    connection
        .execute(AssertSqlSafe(script))
        .await
        .context("filling the job table")?;
    let jobs: i64 = sqlx::query_scalar("SELECT count(*) FROM jobs")
        .fetch_one(&mut connection)
        .await?;
    ensure!(
        jobs.cast_unsigned() == plan.dashboard_jobs,
        "there are {jobs} jobs instead of {}",
        plan.dashboard_jobs
    );
    connection.execute("VACUUM ANALYZE").await?;
    connection.execute("CHECKPOINT").await?;
    Ok(connection.close().await?)
}

/// The cookie of an operator who may look.
async fn sign_in(machine: &Machine) -> Result<String> {
    let db = machine.db(1)?;
    let (email, password) = ("viewer@ops.roost.example", "a password for measuring".to_owned());
    let passwords = Passwords::new()?;
    let new = NewOperator::new(&passwords, email, password.clone(), Role::Viewer).await?;
    let mut tx = db.begin().await?;
    operators::create(&mut tx, new, "bench").await?;
    tx.commit().await?;
    let keys = SealingKeys::derive(&Secret::new("no authenticator is sealed under this"), None)?;
    let now = db.clock().now();
    let signed = operators::authenticate(db.pool(), &passwords, &keys, email, password, "", now).await?;
    let mut tx = db.begin().await?;
    let opened = match &signed {
        Some(signed) => sessions::open(&mut tx, signed, Origin::default()).await?,
        None => None,
    };
    tx.commit().await?;
    let opened = opened.context("the operator cannot sign in")?;
    Ok(format!("{}={}", roost_api::ops::COOKIE, opened.token))
}
