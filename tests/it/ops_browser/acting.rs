//! Every button for jobs, pressed on a system that runs and has jobs that really failed: what it did is in Postgres, on
//! the page and in the audit log.

use std::time::Duration;

use roost_shared::jobs::Queue;
use roost_shared::operators::Role;
use roost_tests::app::Actor;
use roost_tests::browser::Browser;
use roost_tests::mailbox::{Fault, Misbehaviour, Stage};
use roost_tests::ops::Dashboard;
use roost_tests::world::{World, id_of};
use roost_worker::email::Mailer;
use roost_worker::{Context, Worker};
use serde_json::{Value, json};
use uuid::Uuid;

use super::sign_in;

/// An operator before a browser.
pub(super) struct Desk<'a> {
    browser: &'a Browser,
    base: &'a str,
    world: &'a World,
    pub(super) email: String,
}

impl<'a> Desk<'a> {
    pub(super) async fn of(browser: &'a Browser, ops: &'a Dashboard, world: &'a World, role: Role) -> Self {
        let email = ops.make(role).await;
        sign_in(browser, ops, &email).await;
        Self {
            browser,
            base: &ops.base,
            world,
            email,
        }
    }

    pub(super) async fn opens(&self, path: &str) {
        self.browser.goto(&format!("{}{path}", self.base)).await;
    }

    /// Unfolds what holds the form that goes to `action`, if it is folded.
    pub(super) async fn unfolds(&self, action: &str) {
        let folded = format!("details:not([open]):has(form[action='{action}']) > summary");
        if self.browser.has(&folded).await {
            self.browser.click(&folded).await;
        }
    }

    /// Fills the form that goes to `action` and presses its button; the page then says `told`.
    pub(super) async fn submits(&self, action: &str, fields: &[(&str, &str)], told: &str) {
        self.unfolds(action).await;
        for (name, text) in fields {
            let field = format!("form[action='{action}'] [name='{name}']");
            self.browser.replace(&field, text).await;
        }
        self.browser.click(&format!("form[action='{action}'] button")).await;
        self.browser.sees(told).await;
    }

    /// The audit log ends with this. A page that says what the one before said may not have been asked for yet.
    pub(super) async fn is_written(&self, action: &str, target: &str, reason: Option<&str>) {
        let wanted = (
            self.email.clone(),
            action.to_owned(),
            target.to_owned(),
            reason.map(str::to_owned),
        );
        let what = format!("written down: {wanted:?}");
        self.world
            .eventually(&what, async || {
                let newest: Option<(String, String, String, Option<String>)> = sqlx::query_as(
                    "SELECT actor, action, target, reason FROM operator_audit ORDER BY seq DESC LIMIT 1",
                )
                .fetch_optional(self.world.pool())
                .await
                .unwrap();
                newest.as_ref() == Some(&wanted)
            })
            .await;
    }

    /// The audit page lists these, and finds its chain whole.
    pub(super) async fn audit_lists(&self, actions: &[&str]) {
        self.opens("/ops/audit").await;
        self.browser.sees("as they were written").await;
        for action in actions {
            self.browser.sees(action).await;
        }
    }
}

/// A worker that waits for a mail server as long as a job may run.
pub(super) fn a_patient_worker(world: &World) -> Worker {
    let sender = "Roost <no-reply@roost.example>";
    let context = Context {
        mailer: Mailer::with_timeout(&world.mailbox.smtp_url(), sender, Duration::from_secs(60)).unwrap(),
        ..world.context()
    };
    let registry = roost_worker::jobs::registry();
    Worker::run(context, registry, &Queue::ALL, 16, Duration::from_secs(10))
}

/// Somebody who signs up while the mail server does this to their mail, and the mail's job.
async fn signs_up(world: &World, what: Misbehaviour) -> (Actor, Uuid) {
    let fault = Fault {
        at: Stage::Rcpt,
        what,
        times: 1,
    };
    world.mailbox.inject(fault);
    let guest = world.guest().await;
    let job = sqlx::query_scalar("SELECT id FROM jobs WHERE kind = 'mail.send' AND args ->> 'subject_id' = $1")
        .bind(&guest.id)
        .fetch_one(world.pool())
        .await
        .unwrap();
    (guest, job)
}

async fn column(world: &World, sql: &'static str, job: Uuid) -> Option<String> {
    sqlx::query_scalar(sql)
        .bind(job)
        .fetch_optional(world.pool())
        .await
        .unwrap()
}

pub(super) async fn state(world: &World, job: Uuid) -> Option<String> {
    column(world, "SELECT state FROM jobs WHERE id = $1", job).await
}

/// The job that ends the hold of a booking with this card.
pub(super) async fn a_hold(world: &World, guest: &Actor, flat: Uuid, day: i64, card: &str) -> (Uuid, Uuid) {
    let (from, to) = (world.day(day), world.day(day + 2));
    let booking = id_of(&world.books(guest, flat, from, to, card).await.expect(201));
    let hold =
        sqlx::query_scalar("SELECT id FROM jobs WHERE kind = 'booking.expire_hold' AND args ->> 'booking_id' = $1")
            .bind(booking.to_string())
            .fetch_one(world.pool())
            .await
            .unwrap();
    (booking, hold)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_button_for_jobs_does_what_it_says_and_is_written_down() {
    let Some(browser) = Browser::open().await else { return };
    let world = World::without_worker().await;
    let worker = a_patient_worker(&world);
    let (host, guest) = (world.host().await, world.guest().await);
    let flat = world.lists(&host, json!({})).await;
    let (kept, early) = a_hold(&world, &guest, flat, 60, "pm_card_visa").await;
    let (_, dropped) = a_hold(&world, &guest, flat, 70, "pm_card_chargeDeclinedInsufficientFunds").await;
    world.run_jobs().await;
    let refused = Misbehaviour::Reply(550);
    let mut dead = Vec::new();
    for _ in 0..8 {
        dead.push(signs_up(&world, refused).await);
        world.run_jobs().await;
    }
    let ops = Dashboard::start(&world.state).await;
    let desk = Desk::of(&browser, &ops, &world, Role::Admin).await;
    let page = |job: Uuid| format!("/ops/jobs/{job}");
    let to = |job: Uuid, action: &str| format!("/ops/jobs/{job}/{action}");
    let because = |reason| [("reason", reason)];

    // Retry one.
    let (ada, job) = &dead[0];
    desk.opens(&page(*job)).await;
    browser.sees("550").await;
    let queued = "Queued: it runs as soon as a worker takes it.";
    desk.submits(&to(*job, "retry"), &because("the server is back"), queued)
        .await;
    desk.is_written("job.retry", &job.to_string(), Some("the server is back"))
        .await;
    world.run_jobs().await;
    assert_eq!(world.mails_to(ada).len(), 1);
    desk.opens(&page(*job)).await;
    browser.sees("succeeded").await;
    browser.sees("the server is back").await;

    // Another's arguments, so that it writes to somebody else whose own job is deleted.
    let ((ben, job), (cleo, twin)) = (&dead[1], &dead[2]);
    desk.opens(&page(*job)).await;
    let args = json!({"mail": "verify-email", "subject_id": cleo.id});
    let fields = [("args", args.to_string()), ("reason", "the wrong guest".to_owned())];
    let fields = fields.each_ref().map(|(name, text)| (*name, text.as_str()));
    desk.submits(&to(*job, "edit"), &fields, "Arguments replaced").await;
    desk.is_written("job.edit", &job.to_string(), Some("the wrong guest"))
        .await;
    let before: Value = sqlx::query_scalar("SELECT before FROM operator_audit ORDER BY seq DESC LIMIT 1")
        .fetch_one(world.pool())
        .await
        .unwrap();
    assert_eq!(before["args"]["subject_id"], json!(ben.id));
    desk.opens(&page(*twin)).await;
    desk.submits(&to(*twin, "delete"), &because("another job writes to them"), "Deleted.")
        .await;
    desk.is_written("job.delete", &twin.to_string(), Some("another job writes to them"))
        .await;
    assert_eq!(state(&world, *twin).await, None);
    desk.opens(&page(*twin)).await;
    browser.sees("404").await;
    desk.opens(&page(*job)).await;
    desk.submits(&to(*job, "retry"), &[], queued).await;
    world.run_jobs().await;
    assert_eq!((world.mails_to(ben).len(), world.mails_to(cleo).len()), (0, 1));

    // Two that are ticked.
    desk.opens("/ops/jobs?state=dead").await;
    for (_, job) in &dead[3..5] {
        browser.click(&format!("input[name=id][value='{job}']")).await;
    }
    browser.click("button[value=retry]").await;
    browser.sees("2 of 2 ticked can have this").await;
    desk.submits("/ops/jobs/bulk", &because("these two first"), "retry: done to 2")
        .await;
    world.run_jobs().await;
    for (guest, job) in &dead[3..5] {
        assert_eq!(state(&world, *job).await.as_deref(), Some("succeeded"));
        assert_eq!(world.mails_to(guest).len(), 1);
    }

    // All that match: shown first, then worked off while the page follows.
    desk.opens("/ops/jobs?state=dead&kind=mail.send").await;
    browser.click(".tools a[href*='action=retry']").await;
    browser.sees("3 jobs match").await;
    for (_, job) in &dead[5..] {
        assert!(browser.has(&format!(".ticked a[href='/ops/jobs/{job}']")).await);
    }
    desk.submits("/ops/jobs/bulk", &because("and all others"), "in bulk")
        .await;
    browser.sees("Done to 3, 0 had moved on").await;
    browser.sees("finished").await;
    let progress = "return document.querySelector('progress').value";
    assert_eq!(browser.script(progress).await, json!(100));
    world.run_jobs().await;
    assert_eq!(
        world
            .counts("SELECT count(*) FROM jobs WHERE kind = 'mail.send' AND state <> 'succeeded'")
            .await,
        0
    );
    let each =
        "SELECT count(DISTINCT job_id) FROM operator_audit WHERE action = 'job.retry' AND reason = 'and all others'";
    assert_eq!(world.counts(each).await, 3);

    // Run now, which asks why since money may move; the booking is confirmed, so nothing is released.
    desk.opens(&page(early)).await;
    let run = to(early, "run");
    desk.unfolds(&run).await;
    browser.click(&format!("form[action='{run}'] button")).await;
    assert!(browser.has(&format!("form[action='{run}'] input:invalid")).await);
    assert_eq!(state(&world, early).await.as_deref(), Some("scheduled"));
    desk.submits(&run, &because("nobody waits for it"), queued).await;
    desk.is_written("job.run", &early.to_string(), Some("nobody waits for it"))
        .await;
    world.run_jobs().await;
    assert_eq!(state(&world, early).await.as_deref(), Some("succeeded"));
    assert_eq!(world.booking(&guest, kept).await["state"], "confirmed");

    // Cancel one that waits, and one that runs: its mail server says nothing more.
    desk.opens(&page(dropped)).await;
    desk.submits(&to(dropped, "cancel"), &because("kept by hand"), "Cancelled.")
        .await;
    desk.is_written("job.cancel", &dropped.to_string(), Some("kept by hand"))
        .await;
    assert_eq!(state(&world, dropped).await.as_deref(), Some("cancelled"));
    let (_, stuck) = signs_up(&world, Misbehaviour::Hang).await;
    world
        .eventually("it runs", async || {
            state(&world, stuck).await.as_deref() == Some("running")
        })
        .await;
    desk.opens(&page(stuck)).await;
    desk.submits(
        &to(stuck, "cancel"),
        &because("it hangs"),
        "Asked the worker to stop it",
    )
    .await;
    desk.is_written("job.cancel", &stuck.to_string(), Some("it hangs"))
        .await;
    world
        .eventually("it is stopped", async || {
            state(&world, stuck).await.as_deref() == Some("cancelled")
        })
        .await;
    desk.opens(&page(stuck)).await;
    browser.sees("cancelled").await;

    let actions = [
        "job.retry",
        "job.edit",
        "job.delete",
        "jobs.bulk",
        "job.run",
        "job.cancel",
    ];
    desk.audit_lists(&actions).await;
    worker.stop().await;
    browser.close().await;
}
