//! Why a booking was declined or cancelled: in the words of who did it, for the other side to read, in its mail and on the timeline, and in no job.

use roost_tests::app::Actor;
use roost_tests::mailbox::Message;
use roost_tests::world::{World, id_of};
use serde_json::{Value, json};
use uuid::Uuid;

use super::VISA;

const REASON: &str = "<script>alert('x')</script>\r\n\nThe roof leaks & drips.";
/// A mail has it on one line.
const TOLD: &str = "writes: <script>alert('x')</script>   The roof leaks & drips.";

struct Stay {
    world: World,
    host: Actor,
    guest: Actor,
    booking: Uuid,
}

/// A booking that its host has confirmed, or has yet to decide.
async fn booked(instant_book: bool) -> Stay {
    let world = World::start().await;
    let (host, guest) = (
        world.register("host", "Anna Berg").await,
        world.register("guest", "Bo Lind").await,
    );
    let flat = world.lists(&host, json!({"instant_book": instant_book})).await;
    let reply = world.books(&guest, flat, world.day(30), world.day(33), VISA).await;
    let booking = id_of(&reply.expect(201));
    world.run_jobs().await;
    let state = world.booking(&guest, booking).await["state"].clone();
    assert_eq!(state, if instant_book { "confirmed" } else { "pending_approval" });
    Stay {
        world,
        host,
        guest,
        booking,
    }
}

impl Stay {
    async fn ends(&self, actor: &Actor, how: &str, body: Value) {
        let path = format!("/bookings/{}/{how}", self.booking);
        self.world.post(&path, body).by(actor).send().await.expect(200);
        self.world.run_jobs().await;
    }

    /// Text and HTML of the only mail to `reader` with this in its subject.
    fn mail(&self, reader: &Actor, subject: &str) -> (String, String) {
        let mails = self.world.mailbox.messages();
        let is_it = |mail: &&std::sync::Arc<Message>| mail.is_to(&reader.email) && mail.subject.contains(subject);
        let mails: Vec<_> = mails.iter().filter(is_it).collect();
        assert_eq!(mails.len(), 1, "{:?}", self.world.mails_to(reader));
        (mails[0].text.clone().unwrap(), mails[0].html.clone().unwrap())
    }

    /// What somebody wrote is read when the mail is written, and kept with no job.
    async fn no_job_has_it(&self) {
        let kept = "SELECT count(*) FROM jobs FULL JOIN effects ON effects.job_id = jobs.id
                    WHERE args::text LIKE '%roof%' OR response::text LIKE '%roof%'";
        assert_eq!(self.world.counts(kept).await, 0);
    }
}

#[track_caller]
fn tells((text, html): &(String, String), writer: &str) {
    assert!(text.contains(&format!("\n{writer} {TOLD}")), "{text}");
    assert!(html.contains(&format!("{writer} writes:")), "{html}");
    assert!(!html.contains("<script") && html.contains("&lt;script&gt;"), "{html}");
    assert!(html.contains("The roof leaks &amp; drips."), "{html}");
}

#[track_caller]
fn tells_none((text, html): &(String, String)) {
    for part in [text, html] {
        assert!(!part.contains("writes:") && !part.contains("roof"), "{part}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_reads_why_a_host_declined() {
    let stay = booked(false).await;
    stay.ends(&stay.host, "decline", json!({"reason": REASON})).await;
    tells(&stay.mail(&stay.guest, "Anna cannot host you"), "Anna");
    stay.no_job_has_it().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_reads_why_a_host_cancelled() {
    let stay = booked(true).await;
    stay.ends(&stay.host, "cancel", json!({"reason": REASON})).await;
    tells(&stay.mail(&stay.guest, "Cancelled"), "Anna");
    tells_none(&stay.mail(&stay.host, "Cancelled"));
    stay.no_job_has_it().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_reads_why_a_guest_cancelled() {
    let stay = booked(true).await;
    stay.ends(&stay.guest, "cancel", json!({"reason": REASON})).await;
    tells(&stay.mail(&stay.host, "Cancelled"), "Bo");
    tells_none(&stay.mail(&stay.guest, "Cancelled"));
    stay.no_job_has_it().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gives_no_reason_is_quoted_with_none() {
    let (declined, cancelled) = tokio::join!(booked(false), booked(true));
    declined.ends(&declined.host, "decline", json!({})).await;
    tells_none(&declined.mail(&declined.guest, "Anna cannot host you"));
    cancelled
        .ends(&cancelled.host, "cancel", json!({"reason": " \n "}))
        .await;
    tells_none(&cancelled.mail(&cancelled.guest, "Cancelled"));
}
