//! Charts as a browser draws them: their scales, the hours of the viewer's zone, what the pointer is told, and what there is
//! for whoever does not see them.

use chrono::{DateTime, TimeDelta, Utc};
use roost_shared::operators::Role;
use roost_tests::browser::Browser;
use roost_tests::ops::Dashboard;
use roost_tests::world::World;
use serde_json::{Value, json};

use super::acting::Desk;
use super::{AXE, a_bad_night};

/// What is written on a canvas from now on, with the chart that it is on.
const LISTEN: &str =
    "window.drawn = []; window.shown = 0; document.addEventListener('shown', () => { window.shown += 1; });
    const fill = CanvasRenderingContext2D.prototype.fillText;
    CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
        window.drawn.push([this.canvas.closest('.chart').id, text]);
        return fill.call(this, text, ...rest);
    }";
/// What the policy of the page's contents has forbidden so far.
const FORBIDDEN: &str = "const observer = new ReportingObserver(() => {}, {types: ['csp-violation'], buffered: true});
    observer.observe(); return observer.takeRecords().map((one) => one.body.blockedURL + ' ' + one.body.sample)";
/// The chart of the hour: when it begins, its numbers, and what its legend says.
const HOUR: &str = "const {first, succeeded, failures} = document.querySelector('#chart-hour').dataset;
    return [Number(first), succeeded.split(',').map(Number), failures.split(',').map(Number),
            [...document.querySelectorAll('#chart-hour .u-value')].map((one) => one.textContent)]";

/// Minutes of the day, of a clock like `21:07` or `9:07 pm`.
fn minutes(clock: &str) -> Option<u32> {
    let (hours, rest) = clock.split_once(':')?;
    let (minutes, half) = rest.split_at(2);
    let hours: u32 = hours.parse().ok()?;
    let hours = match half.trim().to_ascii_lowercase().as_str() {
        "" => hours,
        "pm" => hours % 12 + 12,
        _ => hours % 12,
    };
    Some(hours * 60 + minutes.parse::<u32>().ok()?)
}

/// The clock of somebody in Kathmandu, in minutes of the day: a quarter of an hour off from everybody else, and no summer time.
fn in_kathmandu(at: DateTime<Utc>) -> Option<u32> {
    minutes(&(at + TimeDelta::minutes(345)).format("%H:%M").to_string())
}

/// The end of a slice of time, as it is told.
fn end(slice: &str) -> Option<u32> {
    minutes(slice.rsplit('–').next()?.trim())
}

async fn hour(browser: &Browser) -> (DateTime<Utc>, Vec<i64>, Vec<i64>, Vec<String>) {
    let (first, succeeded, failed, legend): (i64, Vec<i64>, Vec<i64>, Vec<String>) =
        serde_json::from_value(browser.script(HOUR).await).unwrap();
    (DateTime::from_timestamp(first, 0).unwrap(), succeeded, failed, legend)
}

#[tokio::test(flavor = "multi_thread")]
async fn charts_have_a_scale_the_hours_of_the_viewers_zone_and_their_numbers() {
    let Some(browser) = Browser::open().await else { return };
    let world = World::start().await;
    a_bad_night(&world).await;
    let ops = Dashboard::start(&world.state).await;
    browser.zone("Asia/Kathmandu").await;
    let desk = Desk::of(&browser, &ops, &world, Role::Viewer).await;
    browser
        .until("return document.querySelectorAll('.chart canvas').length === 2")
        .await;

    // They are drawn again for a window of another width.
    browser.script(LISTEN).await;
    browser.width(1100).await;
    browser
        .until("return new Set(window.drawn.map((one) => one[0])).size === 2")
        .await;
    let drawn: Vec<(String, String)> = serde_json::from_value(browser.script("return window.drawn").await).unwrap();
    let (first, ..) = hour(&browser).await;
    // A minute may have passed since they were drawn.
    let clocks: Vec<Option<u32>> = (-1..=61)
        .map(|minute| in_kathmandu(first + TimeDelta::minutes(minute)))
        .collect();
    for chart in ["chart-hour", "chart-day"] {
        let of_chart = drawn.iter().filter(|(id, _)| id == chart);
        let (hours, counts): (Vec<&str>, Vec<&str>) = of_chart
            .map(|(_, text)| text.as_str())
            .partition(|text| text.contains(':'));
        assert!(counts.contains(&"0") && counts.len() >= 3, "{chart}: {counts:?}");
        assert!(hours.len() >= 3, "{chart}: {hours:?}");
        if chart == "chart-hour" {
            assert!(hours.iter().all(|hour| clocks.contains(&minutes(hour))), "{hours:?}");
        } else {
            assert!(
                hours
                    .iter()
                    .all(|hour| minutes(hour).is_some_and(|minutes| minutes % 60 == 0)),
                "{hours:?}"
            );
        }
    }

    // The sums; and what is under the pointer, as long as it rests there.
    let (_, succeeded, failed, legend) = hour(&browser).await;
    let sums = [succeeded.iter().sum::<i64>(), failed.iter().sum()].map(|sum| sum.to_string());
    assert!(
        succeeded.len() == 60 && failed.iter().any(|failed| *failed > 0),
        "{succeeded:?} {failed:?}"
    );
    assert_eq!(legend, ["the last hour", &sums[0], &sums[1]]);
    let width = browser
        .script("return document.querySelector('#chart-hour .u-over').clientWidth")
        .await;
    browser
        .rest_on("#chart-hour .u-over", width.as_i64().unwrap() / 2 - 3)
        .await;
    browser
        .until("return document.querySelector('#chart-hour .u-value').textContent !== 'the last hour'")
        .await;
    browser
        .script("window.canvas = document.querySelector('#chart-hour canvas')")
        .await;
    browser.click("#numbers-hour > summary").await;
    browser
        .rest_on("#chart-hour .u-over", width.as_i64().unwrap() / 2 - 3)
        .await;
    let shown = browser.script("return window.shown").await.as_i64().unwrap();
    browser.until(&format!("return window.shown >= {}", shown + 2)).await;
    let (first, succeeded, failed, legend) = hour(&browser).await;
    assert_eq!(
        end(&legend[0]),
        in_kathmandu(first + TimeDelta::hours(1)),
        "{legend:?} from {first}"
    );
    let counts = [succeeded[59], failed[59]].map(|count| count.to_string());
    assert_eq!(legend[1..], counts);
    // Neither what is drawn nor what is unfolded is gone with the page below it.
    let kept = "return [window.canvas === document.querySelector('#chart-hour canvas'), document.querySelector('#numbers-hour').open]";
    assert_eq!(browser.script(kept).await, json!([true, true]));

    // The same as text: of the whole, and of each minute.
    let label = "return document.getElementById(document.querySelector('#chart-hour').getAttribute('aria-labelledby')).textContent";
    let label = browser.script(label).await.as_str().unwrap().to_owned();
    let says = format!("{} attempts, {} failed", sum(&succeeded) + sum(&failed), sum(&failed));
    assert!(
        label.starts_with("Last hour, by the minute") && label.contains(&says),
        "{label}"
    );
    assert!(!label.contains("UTC"), "{label}");
    let rows = "return [...document.querySelectorAll('#numbers-hour tbody tr')].map((row) => [...row.cells].map((cell) => cell.textContent))";
    let rows: Vec<[String; 3]> = serde_json::from_value(browser.script(rows).await).unwrap();
    let told: i64 = rows
        .iter()
        .map(|[_, succeeded, failed]| succeeded.parse::<i64>().unwrap() + failed.parse::<i64>().unwrap())
        .sum();
    assert_eq!(told, sum(&succeeded) + sum(&failed), "{rows:?}");
    let newest = (0..60).rev().find(|at| succeeded[*at] + failed[*at] > 0).unwrap();
    let ended = first + TimeDelta::minutes(i64::try_from(newest).unwrap() + 1);
    assert_eq!(end(&rows[0][0]), in_kathmandu(ended), "{rows:?}");

    // In other colours, once they are preferred.
    browser.prefer("light").await;
    browser.script("window.drawn = []").await;
    browser.prefer("dark").await;
    browser.until("return window.drawn.length > 0").await;
    assert_eq!(
        browser.script(FORBIDDEN).await,
        json!([]),
        "the page keeps to its own policy"
    );
    browser
        .script("document.body.setAttribute('style', 'color: red')")
        .await;
    assert_ne!(browser.script(FORBIDDEN).await, json!([]), "what it forbids is told");
    let faults = browser.faults(AXE).await;
    assert!(faults.is_empty(), "{faults:?}");
    drop(desk);
    browser.close().await;
}

fn sum(counts: &[i64]) -> i64 {
    counts.iter().sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chart_appears_once_there_is_something_to_draw() {
    let Some(browser) = Browser::open().await else { return };
    let world = World::without_worker().await;
    let ops = Dashboard::start(&world.state).await;
    let _desk = Desk::of(&browser, &ops, &world, Role::Viewer).await;
    browser.sees("No attempt ended in this time.").await;
    assert!(!browser.has("canvas").await);
    browser.picture("overview-empty-light").await;
    let faults = browser.faults(AXE).await;
    assert!(faults.is_empty(), "{faults:?}");
    sqlx::query(
        "INSERT INTO job_attempts (job_id, fence, attempt, worker, started_at, ended_at, outcome)
         SELECT gen_random_uuid(), 1, 1, 'w', now(), now(), outcome FROM unnest(ARRAY['succeeded', 'succeeded', 'failed']) AS outcome",
    )
    .execute(world.pool())
    .await
    .unwrap();
    browser.sees_no_more("No attempt ended in this time.").await;
    browser
        .until("return document.querySelectorAll('.chart canvas').length === 2")
        .await;
    let (.., legend) = hour(&browser).await;
    assert_eq!(legend, ["the last hour", "2", "1"]);
    assert_eq!(
        browser
            .script("return document.querySelectorAll('.chart table.u-legend').length")
            .await,
        Value::from(2)
    );
    browser.close().await;
}
