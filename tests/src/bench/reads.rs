//! Showing a property and searching: requests a second against a handler that does nothing, and against Postgres.

use std::time::Duration;

use anyhow::Result;
use chrono::{Days, NaiveDate};
use reqwest::header::ACCEPT_ENCODING;

use super::{
    Plan,
    figure::{Figure, Report, Target, median},
    jobs::rounds,
    machine::{Machine, Running},
    wrk::{Load, Tally},
};

pub const CONNECTIONS: usize = 32;
/// Properties that everybody looks at.
const POPULAR: u64 = 1_000;
/// Replies whose length is looked at.
const SAMPLE: usize = 100;

/// One property, from the cache and past it.
pub async fn detail(machine: &Machine, api: &Running, plan: &Plan, report: &mut Report) -> Result<()> {
    let paths: Vec<String> = (0..POPULAR.min(plan.dataset.properties))
        .map(|number| format!("/properties/{}", plan.dataset.property(number * 97)))
        .collect();
    // Fills the cache.
    let load = Load::get(machine.folder(), api.address, CONNECTIONS, &paths);
    load.run(plan.round).await?;
    let bytes = mean_body(api, &paths).await?;
    let compared = against_bare(machine, &load, bytes, plan).await?;
    report.add(
        compared
            .figure("detail_cached")
            .target(Target::RatioAtLeast(0.4))
            .note(format!(
                "{POPULAR} popular properties, {CONNECTIONS} kept connections, {bytes} bytes"
            )),
    )?;

    let everything: Vec<String> = (0..plan.dataset.properties)
        .map(|number| format!("/properties/{}", plan.dataset.property(number)))
        .collect();
    let load = Load::get(machine.folder(), api.address, CONNECTIONS, &everything);
    let script = format!(
        "\\set n random(1, {})\nSELECT * FROM properties WHERE id = ('01900000-0000-7000-9000-' || lpad(to_hex(:n::bigint), 12, '0'))::uuid;\n",
        plan.dataset.properties
    );
    let compared = against_pgbench(machine, &load, "detail", &script, plan).await?;
    report.add(
        compared
            .figure("detail_any")
            .note("any of all properties, so that most are in no cache of the process"),
    )
}

/// The first page of a search, as it is asked.
struct Shape {
    figure: &'static str,
    figure_bare: &'static str,
    query: fn(&Dates) -> String,
    filter: fn(&Dates) -> String,
}

struct Dates {
    check_in: NaiveDate,
    check_out: NaiveDate,
}

const SHAPES: [Shape; 4] = [
    Shape {
        figure: "search_city",
        figure_bare: "search_city_bare",
        query: |_| "city=Barcelona".to_owned(),
        filter: |_| "lower(city) = lower('Barcelona')".to_owned(),
    },
    Shape {
        figure: "search_city_dates",
        figure_bare: "search_city_dates_bare",
        query: |dates| {
            format!(
                "city=Barcelona&check_in={}&check_out={}&guests=2",
                dates.check_in, dates.check_out
            )
        },
        filter: |dates| {
            format!(
                "lower(city) = lower('Barcelona') AND max_guests >= 2 AND min_nights <= 4 AND max_nights >= 4 AND {}",
                free(dates)
            )
        },
    },
    Shape {
        figure: "search_price_dates",
        figure_bare: "search_price_dates_bare",
        query: |dates| {
            format!(
                "country=FR&check_in={}&check_out={}&guests=2&min_price=6000&max_price=12000",
                dates.check_in, dates.check_out
            )
        },
        filter: |dates| {
            format!(
                "country = 'FR' AND max_guests >= 2 AND nightly_rate_minor >= 6000 AND nightly_rate_minor <= 12000 \
                 AND min_nights <= 4 AND max_nights >= 4 AND {}",
                free(dates)
            )
        },
    },
    Shape {
        figure: "search_all",
        figure_bare: "search_all_bare",
        query: |_| "limit=20".to_owned(),
        filter: |_| "true".to_owned(),
    },
];

fn free(dates: &Dates) -> String {
    format!(
        "NOT EXISTS (SELECT FROM bookings WHERE bookings.property_id = property.id \
         AND state IN ('held', 'pending_approval', 'confirmed', 'checked_in', 'checked_out', 'completed', 'cancelled_by_host') \
         AND bookings.stay && daterange('{}', '{}'))",
        dates.check_in, dates.check_out
    )
}

/// Searches of several shapes.
pub async fn search(machine: &Machine, api: &Running, plan: &Plan, report: &mut Report) -> Result<()> {
    let today = plan.today;
    let dates = Dates {
        check_in: today.checked_add_days(Days::new(30)).unwrap_or(today),
        check_out: today.checked_add_days(Days::new(34)).unwrap_or(today),
    };
    for shape in SHAPES {
        let path = format!("/properties?{}", (shape.query)(&dates));
        let paths = std::slice::from_ref(&path);
        let load = Load::get(machine.folder(), api.address, CONNECTIONS, paths);
        // The page has one property more than are shown, to know whether there is another page.
        let script = format!(
            "SELECT properties.* FROM properties JOIN (SELECT id FROM properties AS property WHERE status = 'listed' AND {} \
             ORDER BY (-rating_hundredths), id LIMIT 21) AS found USING (id) ORDER BY (-rating_hundredths), id;\n",
            (shape.filter)(&dates)
        );
        let compared = against_pgbench(machine, &load, shape.figure, &script, plan).await?;
        report.add(compared.figure(shape.figure).note(&path))?;
        let bytes = mean_body(api, paths).await?;
        let compared = against_bare(machine, &load, bytes, plan).await?;
        report.add(compared.figure(shape.figure_bare).note(format!("{bytes} bytes")))?;
    }
    Ok(())
}

/// Rounds of the API and of its limit in turn.
pub struct Compared {
    limit: &'static str,
    tallies: Vec<Tally>,
    limits: Vec<f64>,
}

impl Compared {
    pub fn figure(&self, name: &'static str) -> Figure {
        let values: Vec<f64> = self.tallies.iter().map(Tally::per_second).collect();
        let replies = self.tallies.iter().map(|tally| tally.replies).sum();
        let latency = |of: fn(&Tally) -> f64| median(&self.tallies.iter().map(of).collect::<Vec<_>>());
        Figure::new(name, median(&values), "requests/s", replies)
            .against(self.limit, median(&self.limits))
            .note(format!(
                "p50 {:.2} ms, p99 {:.2} ms",
                latency(|tally| tally.p50_ms),
                latency(|tally| tally.p99_ms)
            ))
            .note(rounds(&values, &self.limits))
    }
}

/// The bytes that the bare handler has to return: those of a body, as a client gets it that takes no compression.
async fn mean_body(api: &Running, paths: &[String]) -> Result<usize> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).build()?;
    let mut bytes = 0;
    let sample = paths.get(..SAMPLE).unwrap_or(paths);
    for path in sample {
        let reply = client
            .get(format!("http://{}{path}", api.address))
            .header(ACCEPT_ENCODING, "identity")
            .send()
            .await?
            .error_for_status()?;
        bytes += reply.bytes().await?.len();
    }
    Ok(bytes / sample.len().max(1))
}

async fn against_bare(machine: &Machine, load: &Load, bytes: usize, plan: &Plan) -> Result<Compared> {
    let bare = machine.bare(bytes).await?;
    let bare_load = Load::get(machine.folder(), bare.address, load.connections, &["/".to_owned()]);
    let (mut tallies, mut limits) = (vec![], vec![]);
    bare_load.run(plan.warm_up).await?;
    load.run(plan.warm_up).await?;
    for _ in 0..plan.rounds {
        limits.push(bare_load.run(plan.round).await?.per_second());
        tallies.push(load.run(plan.round).await?);
    }
    bare.stop().await?;
    Ok(Compared {
        limit: "bare poem handler",
        tallies,
        limits,
    })
}

async fn against_pgbench(machine: &Machine, load: &Load, name: &str, script: &str, plan: &Plan) -> Result<Compared> {
    let (mut tallies, mut limits) = (vec![], vec![]);
    load.run(plan.warm_up).await?;
    for _ in 0..plan.rounds {
        let rate = machine
            .pgbench
            .run(name, script, &[], load.connections, plan.round)
            .await?;
        limits.push(rate.per_second);
        tallies.push(load.run(plan.round).await?);
    }
    Ok(Compared {
        limit: "pgbench with the same SQL",
        tallies,
        limits,
    })
}
