//! The buttons for queues, kinds, schedules and workers, pressed while a worker's own process runs: the fleet does what
//! they say.

use roost_shared::jobs::catalogue::WarmCache;
use roost_shared::operators::Role;
use roost_tests::browser::Browser;
use roost_tests::ops::Dashboard;
use roost_tests::world::World;
use uuid::Uuid;

use super::acting::Desk;
use crate::programs::{Logging, worker};

async fn warm(world: &World, pages: usize) {
    let mut tx = world.state.db.begin().await.unwrap();
    for _ in 0..pages {
        let property_id = Uuid::now_v7();
        tx.enqueue(&WarmCache { property_id });
    }
    tx.commit().await.unwrap();
}

/// The worker is at work: a mail that is enqueued now goes out.
async fn a_mail_goes_out(world: &World) {
    let guest = world.guest().await;
    world
        .eventually("a mail goes out", async || world.mails_to(&guest).len() == 1)
        .await;
}

/// All jobs of the queue `cache` have succeeded, and there are so many.
async fn are_warm(world: &World, pages: i32) {
    let all = [format!("succeeded={pages}")];
    world
        .eventually("the pages are warm", async || world.jobs("cache.warm").await == all)
        .await;
}

async fn queues_kinds_and_keeping(desk: &Desk<'_>, browser: &Browser, world: &World) {
    desk.opens("/ops/queues").await;
    let moves = Some("the cache moves");
    let because = [("reason", "the cache moves")];
    desk.submits(
        "/ops/queues/cache/pause",
        &because,
        "Paused: workers stop taking its jobs",
    )
    .await;
    desk.is_written("queue.pause", "cache", moves).await;
    world.workers_heed().await;
    warm(world, 2).await;
    a_mail_goes_out(world).await;
    assert_eq!(world.jobs("cache.warm").await, ["queued=2"]);
    desk.submits("/ops/queues/cache/resume", &[], "Resumed: workers take its jobs again")
        .await;
    desk.is_written("queue.resume", "cache", None).await;
    are_warm(world, 2).await;

    let settings = "/ops/queues/cache/settings";
    let set = "Set: workers heed it within two seconds.";
    let limits = [
        ("concurrency", "2"),
        ("rate_limit", "1"),
        ("rate_seconds", "3000"),
        ("target_seconds", "120"),
        ("weight", "7"),
    ];
    desk.submits(settings, &limits, set).await;
    desk.is_written("queue.set", "cache", None).await;
    browser.sees("1 in 50 min").await;
    let as_set = "SELECT count(*) FROM queues WHERE name = 'cache' AND concurrency = 2 AND rate_limit = 1 AND rate_seconds = 3000
                  AND target_seconds = 120 AND weight = 7";
    assert_eq!(world.counts(as_set).await, 1);
    world.workers_heed().await;
    warm(world, 3).await;
    a_mail_goes_out(world).await;
    let waiting = "SELECT count(*) FROM jobs WHERE kind = 'cache.warm' AND state = 'queued'";
    assert!(world.counts(waiting).await >= 2, "at most one may begin");
    let lifted = [("concurrency", ""), ("rate_limit", ""), ("reason", "it is over")];
    desk.submits(settings, &lifted, set).await;
    desk.is_written("queue.set", "cache", Some("it is over")).await;
    are_warm(world, 5).await;

    let limits = [("concurrency", "3"), ("rate_limit", "500"), ("rate_seconds", "60")];
    desk.submits("/ops/kinds/mail.send/limits", &limits, set).await;
    desk.is_written("kind.set", "mail.send", None).await;
    browser.sees("500 in 60 s").await;
    let as_set = "SELECT count(*) FROM kinds WHERE name = 'mail.send' AND concurrency = 3 AND rate_limit = 500 AND rate_seconds = 60";
    assert_eq!(world.counts(as_set).await, 1);
    let kept = [("days", "30"), ("reason", "the disk is small")];
    desk.submits("/ops/retention/dead", &kept, "the next hourly pruning goes by it")
        .await;
    desk.is_written("retention.set", "dead", Some("the disk is small"))
        .await;
    browser.sees("30 d").await;
}

async fn schedules(desk: &Desk<'_>, browser: &Browser, world: &World) {
    world
        .eventually("the cron table is filled", async || {
            world.counts("SELECT count(*) FROM cron_schedules").await == 4
        })
        .await;
    desk.opens("/ops/schedules").await;
    let fired = world.jobs_of("outbox.prune").await;
    let fires = "It fires within five seconds, once.";
    desk.submits("/ops/schedules/outbox.prune/run", &[], fires).await;
    desk.is_written("schedule.run", "outbox.prune", None).await;
    world
        .eventually("it fires", async || world.jobs_of("outbox.prune").await == fired + 1)
        .await;
    let reason = [("reason", "a host asks for the money")];
    desk.submits("/ops/schedules/overdue.sweep/run", &reason, fires).await;
    desk.is_written("schedule.run", "overdue.sweep", Some("a host asks for the money"))
        .await;
    let settings = "/ops/schedules/outbox.prune/settings";
    desk.unfolds(settings).await;
    browser.click(&format!("form[action='{settings}'] [name=paused]")).await;
    let because = [("reason", "the disk is looked at")];
    desk.submits(settings, &because, "Set: it goes by this from now on.")
        .await;
    desk.is_written("schedule.set", "outbox.prune", Some("the disk is looked at"))
        .await;
    browser.sees("paused").await;
    let paused = "SELECT count(*) FROM cron_schedules WHERE name = 'outbox.prune' AND paused AND next_tick IS NULL";
    assert_eq!(world.counts(paused).await, 1);
}

async fn workers(desk: &Desk<'_>, browser: &Browser, world: &World, name: &str) {
    desk.opens("/ops/workers").await;
    let tell = |wish: &str| format!("/ops/workers/{name}/{wish}");
    // It serves payments, so its page asks why.
    desk.submits(&tell("quiet"), &[], "say why").await;
    desk.submits(
        &tell("quiet"),
        &[("reason", "a new disk")],
        "It takes nothing new within two seconds",
    )
    .await;
    desk.is_written("worker.quiet", name, Some("a new disk")).await;
    browser.sees("Resume").await;
    world.workers_heed().await;
    let guest = world.guest().await;
    let waiting = "SELECT count(*) FROM jobs WHERE kind = 'mail.send' AND state = 'queued'";
    assert_eq!(world.counts(waiting).await, 1);
    desk.submits(&tell("resume"), &[], "It takes jobs again within two seconds.")
        .await;
    desk.is_written("worker.resume", name, None).await;
    world
        .eventually("the mail goes out", async || world.mails_to(&guest).len() == 1)
        .await;
    desk.submits(
        &tell("stop"),
        &[("reason", "a new disk")],
        "It begins to stop within two seconds",
    )
    .await;
    desk.is_written("worker.stop", name, Some("a new disk")).await;
    world
        .eventually("its process ends", async || {
            let stopped = "SELECT count(*) FROM workers WHERE stopped_at IS NOT NULL";
            world.counts(stopped).await == 1
        })
        .await;
    desk.opens("/ops/workers").await;
    browser.sees("stopped").await;
    desk.opens("/ops").await;
    browser.sees("No worker is alive").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_button_for_the_fleet_does_what_it_says_and_is_written_down() {
    let Some(browser) = Browser::open().await else { return };
    let world = World::without_worker().await;
    let program = Logging::start(worker(&world));
    let name = world.only_worker().await;
    let ops = Dashboard::start(&world.state).await;
    let desk = Desk::of(&browser, &ops, &world, Role::Admin).await;
    queues_kinds_and_keeping(&desk, &browser, &world).await;
    schedules(&desk, &browser, &world).await;
    workers(&desk, &browser, &world, &name).await;
    desk.audit_lists(&["queue.pause", "queue.set", "kind.set", "schedule.run", "worker.stop"])
        .await;
    drop(program);
    browser.close().await;
}
