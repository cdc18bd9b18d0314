//! What a search by an id follows: a booking's payments, messages and events, a user's bookings. So far and no further, and it
//! says so where there is more.

use sqlx::PgConnection;
use uuid::Uuid;

use super::filter::LONGEST_TERM;

/// Related ids that a search follows: a user's bookings, a payment's events, a booking's messages.
const MOST_RELATED: i64 = 40;
/// Ids of events, and ids of messages, that a search looks for.
const MOST_TERMS: i64 = 400;

/// What somebody is told whose search was cut.
pub const CUT: &str = "This is not all: more belongs to this id than a search follows. It follows the newest 40 bookings as a guest \
                       and as a host, and of each booking 40 messages and of each payment 40 Stripe events, 400 together. Search \
                       for the id of an older booking to find its jobs.";

/// What belongs to an id.
pub(super) struct Related {
    /// As they stand in arguments.
    pub terms: Vec<String>,
    /// Whether there is more.
    pub cut: bool,
}

/// The id itself and what belongs to it: a booking's payments, their refunds, Stripe's events about both, messages
/// with the ones that gave their mails a name, and what moderators decided about its reviews; a user's newest bookings and theirs.
/// One more than is followed is read of each, to tell whether there is more.
pub(super) async fn related(conn: &mut PgConnection, id: Uuid) -> Result<Related, sqlx::Error> {
    sqlx::query_as!(
        Related,
        r#"WITH as_guest AS (SELECT id FROM bookings WHERE guest_id = $1 ORDER BY id DESC LIMIT $2::bigint + 1),
           as_host AS (SELECT id FROM bookings WHERE host_id = $1 ORDER BY id DESC LIMIT $2 + 1),
           bookings_of AS (
               (SELECT id FROM bookings WHERE id = $1)
               UNION (SELECT booking_id FROM payments WHERE id = $1)
               UNION (SELECT id FROM as_guest ORDER BY id DESC LIMIT $2)
               UNION (SELECT id FROM as_host ORDER BY id DESC LIMIT $2)),
           payments_of AS (
               SELECT payments.id, stripe_payment_intent_id AS object FROM payments JOIN bookings_of ON payments.booking_id = bookings_of.id),
           refunds_of AS (
               SELECT refunds.id, stripe_refund_id AS object FROM refunds JOIN payments_of ON refunds.payment_id = payments_of.id),
           events_read AS (
               SELECT event.id, event.n FROM (SELECT object FROM payments_of UNION SELECT object FROM refunds_of) AS objects
               CROSS JOIN LATERAL (
                   SELECT id, row_number() OVER (ORDER BY created_at DESC) AS n FROM stripe_events
                   WHERE object_id = object ORDER BY created_at DESC LIMIT $2 + 1) AS event
               LIMIT $3::bigint + 1),
           events_of AS (SELECT id FROM events_read WHERE n <= $2 LIMIT $3),
           messages_read AS (
               SELECT message.id, message.digest_id, message.n FROM bookings_of
               CROSS JOIN LATERAL (
                   SELECT id, digest_id, row_number() OVER (ORDER BY id DESC) AS n FROM messages
                   WHERE booking_id = bookings_of.id ORDER BY id DESC LIMIT $2 + 1) AS message
               ORDER BY message.id DESC LIMIT $3 + 1),
           messages_of AS (SELECT id, digest_id FROM messages_read WHERE n <= $2 ORDER BY id DESC LIMIT $3),
           decisions_read AS (
               SELECT review_decisions.id FROM bookings_of
               JOIN reviews ON reviews.booking_id = bookings_of.id AND reviews.deleted_at IS NULL
               JOIN review_decisions ON review_decisions.review_id = reviews.id
               ORDER BY review_decisions.id DESC LIMIT $3 + 1),
           decisions_of AS (SELECT id FROM decisions_read ORDER BY id DESC LIMIT $3)
           SELECT ARRAY(
                      SELECT $1::uuid::text UNION SELECT id::text FROM bookings_of UNION SELECT id::text FROM payments_of
                      UNION SELECT id::text FROM refunds_of UNION SELECT left(id, $4) FROM events_of
                      UNION SELECT id::text FROM messages_of UNION SELECT digest_id::text FROM messages_of WHERE digest_id IS NOT NULL
                      UNION SELECT id::text FROM decisions_of) AS "terms!",
                  (SELECT count(*) FROM as_guest) > $2 OR (SELECT count(*) FROM as_host) > $2
                      OR EXISTS (SELECT FROM events_read WHERE n > $2) OR (SELECT count(*) FROM events_read) > $3
                      OR EXISTS (SELECT FROM messages_read WHERE n > $2) OR (SELECT count(*) FROM messages_read) > $3
                      OR (SELECT count(*) FROM decisions_read) > $3 AS "cut!""#,
        id,
        MOST_RELATED,
        MOST_TERMS,
        i32::from(LONGEST_TERM)
    )
    .fetch_one(conn)
    .await
}
