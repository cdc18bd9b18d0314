//! Buttons for many jobs at once, pressed: on those that are ticked, and to stop an action on all that match while it runs.

use roost_shared::operators::Role;
use roost_tests::browser::Browser;
use roost_tests::ops::Dashboard;
use roost_tests::world::World;
use serde_json::json;
use uuid::Uuid;

use super::acting::{Desk, a_hold, a_patient_worker, state};

/// Ticks these in the list at `path` and presses the button of this action; the preview says that all can have it.
async fn ticks(desk: &Desk<'_>, browser: &Browser, path: &str, jobs: &[Uuid], action: &str) {
    desk.opens(path).await;
    for job in jobs {
        browser.click(&format!("input[name=id][value='{job}']")).await;
    }
    browser.click(&format!(".tools button[value={action}]")).await;
    browser
        .sees(&format!("{0} of {0} ticked can have this", jobs.len()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ticked_jobs_are_cancelled_deleted_and_run_and_one_that_waits_is_edited() {
    let Some(browser) = Browser::open().await else { return };
    let world = World::without_worker().await;
    let ops = Dashboard::start(&world.state).await;
    let desk = Desk::of(&browser, &ops, &world, Role::Admin).await;
    // Nobody takes their mails.
    let mut guests = Vec::new();
    for _ in 0..4 {
        guests.push(world.guest().await);
    }
    let mut mails = Vec::new();
    for guest in &guests {
        let job: Uuid =
            sqlx::query_scalar("SELECT id FROM jobs WHERE kind = 'mail.send' AND args ->> 'subject_id' = $1")
                .bind(&guest.id)
                .fetch_one(world.pool())
                .await
                .unwrap();
        assert_eq!(state(&world, job).await.as_deref(), Some("queued"));
        mails.push(job);
    }

    ticks(&desk, &browser, "/ops/jobs?kind=mail.send", &mails[..2], "cancel").await;
    let because = [("reason", "they asked twice")];
    desk.submits("/ops/jobs/bulk", &because, "cancel: done to 2, 0 had moved on.")
        .await;
    for job in &mails[..2] {
        assert_eq!(state(&world, *job).await.as_deref(), Some("cancelled"));
    }
    let because = [("reason", "nobody looks at them")];
    ticks(&desk, &browser, "/ops/jobs?state=cancelled", &mails[..2], "delete").await;
    desk.submits("/ops/jobs/bulk", &because, "delete: done to 2, 0 had moved on.")
        .await;
    for job in &mails[..2] {
        assert_eq!(state(&world, *job).await, None);
    }
    let written = "SELECT count(*) FROM operator_audit WHERE (action, reason) IN (('job.cancel', 'they asked twice'), ('job.delete', 'nobody looks at them'))";
    assert_eq!(world.counts(written).await, 4);

    // One that is queued writes to somebody else: what the kind does not know is refused first.
    let edit = format!("/ops/jobs/{}/edit", mails[2]);
    desk.opens(&format!("/ops/jobs/{}", mails[2])).await;
    let nothing = [("args", "{\"mail\": \"none-such\"}"), ("reason", "to another")];
    desk.submits(&edit, &nothing, "422").await;
    desk.opens(&format!("/ops/jobs/{}", mails[2])).await;
    let args = json!({"mail": "verify-email", "subject_id": guests[3].id}).to_string();
    desk.submits(
        &edit,
        &[("args", &args), ("reason", "to another")],
        "Arguments replaced",
    )
    .await;
    desk.is_written("job.edit", &mails[2].to_string(), Some("to another"))
        .await;
    assert_eq!(state(&world, mails[2]).await.as_deref(), Some("queued"));
    ticks(&desk, &browser, "/ops/jobs?kind=mail.send", &mails[3..], "cancel").await;
    desk.submits("/ops/jobs/bulk", &[], "cancel: done to 1").await;
    let worker = a_patient_worker(&world);
    world.run_jobs().await;
    let sent = guests.iter().map(|guest| world.mails_to(guest).len());
    assert_eq!(sent.collect::<Vec<_>>(), [0, 0, 0, 1]);

    // Two that wait for their time; the bookings are confirmed, so that nothing is released.
    let (host, guest) = (world.host().await, world.guest().await);
    let flat = world.lists(&host, json!({})).await;
    let mut holds = Vec::new();
    let mut bookings = Vec::new();
    for day in [60, 70] {
        let (booking, hold) = a_hold(&world, &guest, flat, day, "pm_card_visa").await;
        bookings.push(booking);
        holds.push(hold);
    }
    world.run_jobs().await;
    ticks(&desk, &browser, "/ops/jobs?state=scheduled", &holds, "run").await;
    // Money may move: without a reason the browser does not send it.
    browser.click("form[action='/ops/jobs/bulk'] button").await;
    assert!(browser.has("form[action='/ops/jobs/bulk'] input:invalid").await);
    let because = [("reason", "nobody waits for them")];
    desk.submits("/ops/jobs/bulk", &because, "run: done to 2, 0 had moved on.")
        .await;
    world.run_jobs().await;
    for (hold, booking) in holds.iter().zip(bookings) {
        assert_eq!(state(&world, *hold).await.as_deref(), Some("succeeded"));
        assert_eq!(world.booking(&guest, booking).await["state"], "confirmed");
    }
    desk.audit_lists(&["job.cancel", "job.delete", "job.edit", "job.run"])
        .await;
    worker.stop().await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_on_many_jobs_is_stopped_while_it_runs() {
    let Some(browser) = Browser::open().await else { return };
    let world = World::without_worker().await;
    let ops = Dashboard::start(&world.state).await;
    let desk = Desk::of(&browser, &ops, &world, Role::Operator).await;
    sqlx::query(
        "INSERT INTO jobs (id, kind, queue, priority, args, state, run_at, max_attempts)
         SELECT ('018f0000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'cache.warm', 'cache', 50, jsonb_build_object('property_id', gen_random_uuid()), 'scheduled',
                now() + interval '1 day', 3
         FROM generate_series(1, 40000) AS n",
    )
    .execute(world.pool())
    .await
    .unwrap();
    // So that somebody has the time to read and to press: each batch takes longer.
    for sql in [
        "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.5); RETURN NEW; END $$",
        "CREATE TRIGGER slowly BEFORE UPDATE ON bulk_actions FOR EACH ROW WHEN (NEW.done > OLD.done) EXECUTE FUNCTION slowly()",
    ] {
        sqlx::query(sql).execute(world.pool()).await.unwrap();
    }
    let worker = a_patient_worker(&world);

    desk.opens("/ops/jobs?state=scheduled&kind=cache.warm").await;
    browser.click(".tools a[href*='action=cancel']").await;
    browser.sees("40,000 jobs match").await;
    desk.submits("/ops/jobs/bulk", &[("reason", "all stale")], "in bulk")
        .await;
    browser.sees("running").await;
    // The page follows it by itself.
    browser
        .until("return document.querySelector('progress').value > 0")
        .await;
    let bulk: Uuid = sqlx::query_scalar("SELECT id FROM bulk_actions")
        .fetch_one(world.pool())
        .await
        .unwrap();
    let stop = format!("/ops/bulk/{bulk}/stop");
    desk.submits(&stop, &[("reason", "not these")], "Stopped: no job more is acted on.")
        .await;
    desk.is_written("jobs.bulk.stop", &bulk.to_string(), Some("not these"))
        .await;
    browser.sees("stopped").await;
    assert!(!browser.has(&format!("form[action='{stop}']")).await);
    browser.picture("bulk-stopped-light").await;

    // Its job ends, and nothing more is done.
    world
        .eventually("its job has ended", async || {
            world
                .counts("SELECT count(*) FROM jobs WHERE kind = 'ops.bulk' AND state = 'succeeded'")
                .await
                == 1
        })
        .await;
    let done = world.counts("SELECT done FROM bulk_actions").await;
    assert!(done > 0 && done < 40_000, "{done}");
    let cancelled = "SELECT count(*) FROM jobs WHERE kind = 'cache.warm' AND state = 'cancelled'";
    assert_eq!(world.counts(cancelled).await, done);
    desk.opens(&format!("/ops/bulk/{bulk}")).await;
    // In batches of 500.
    let told = if done < 1_000 {
        done.to_string()
    } else {
        format!("{},{:03}", done / 1_000, done % 1_000)
    };
    browser.sees(&format!("Done to {told}, 0 had moved on")).await;
    worker.stop().await;
    browser.close().await;
}
