//! The demo data is what the platform itself would have written.

use roost_shared::bookings::{self, rules::guest_cancellation};
use roost_shared::users::Passwords;
use roost_tests::database::TestDatabase;
use roost_tests::dev::remind_sandbox;
use roost_tests::seed::seed;
use roost_tests::world::World;
use serde_json::json;
use sqlx::PgPool;

async fn count(pool: &PgPool, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn there_is_enough_of_everything_and_it_is_made_once() {
    let database = TestDatabase::create().await.unwrap();
    let first = seed(database.url()).await.unwrap();
    let pool = database.pool().unwrap();
    let now = roost_shared::clock::Clock::default().now();

    assert!(count(&pool, "SELECT count(*) FROM users WHERE role = 'host'").await >= 20);
    assert!(count(&pool, "SELECT count(*) FROM users WHERE role = 'guest'").await >= 50);
    assert!(count(&pool, "SELECT count(*) FROM properties WHERE status = 'listed'").await >= 200);
    assert_eq!(count(&pool, "SELECT count(DISTINCT city) FROM properties").await, 10);
    assert!(count(&pool, "SELECT count(DISTINCT currency) FROM properties").await >= 5);
    assert_eq!(
        count(&pool, "SELECT count(DISTINCT description) FROM properties").await,
        first.properties
    );
    assert!(count(&pool, "SELECT count(*) FROM properties WHERE NOT instant_book").await >= 20);
    for state in [
        "confirmed",
        "checked_out",
        "completed",
        "cancelled_by_guest",
        "cancelled_by_host",
    ] {
        let some: i64 = sqlx::query_scalar("SELECT count(*) FROM bookings WHERE state = $1")
            .bind(state)
            .fetch_one(&pool)
            .await
            .unwrap();
        assert!(some > 0, "{state}");
    }

    for (what, query) in [
        (
            "published",
            "SELECT count(*) FROM reviews WHERE published_at IS NOT NULL AND answer IS NOT NULL",
        ),
        ("to come", "SELECT count(*) FROM reviews WHERE published_at IS NULL"),
        ("stars", "SELECT count(DISTINCT overall) - 3 FROM reviews"),
    ] {
        assert!(count(&pool, query).await > 0, "{what}");
    }

    // Somebody signs in and everybody else is locked out.
    let passwords = Passwords::new().unwrap();
    for role in ["host", "guest"] {
        let login = first.logins.iter().find(|login| login.role == role).unwrap();
        let stored: String = sqlx::query_scalar("SELECT password_hash FROM users WHERE email = $1 AND role = $2")
            .bind(&login.email)
            .bind(role)
            .fetch_one(&pool)
            .await
            .unwrap();
        assert!(passwords.verify(login.password.clone(), Some(stored)).await.unwrap());
    }
    assert_eq!(count(&pool, "SELECT count(DISTINCT password_hash) FROM users").await, 2);

    // Each guest's cancellation paid back what the rules say of that instant.
    let ids = sqlx::query_scalar("SELECT id FROM bookings WHERE state = 'cancelled_by_guest'")
        .fetch_all(&pool)
        .await
        .unwrap();
    let mut connection = pool.acquire().await.unwrap();
    for id in ids {
        let booking = bookings::get(&mut connection, id).await.unwrap().unwrap();
        let payment = roost_shared::payments::latest_of(&mut connection, id)
            .await
            .unwrap()
            .unwrap();
        let decision = guest_cancellation(&booking.cancellation_terms(), booking.cancelled_at.unwrap());
        assert_eq!(payment.refunded_minor, decision.total(&booking.price_lines), "{id}");
        assert!(booking.cancelled_at.unwrap() < now);
        let last = bookings::timeline(&mut connection, id).await.unwrap();
        assert!(
            last.iter()
                .any(|entry| entry.to_state.as_deref() == Some("cancelled_by_guest"))
        );
    }
    drop(connection);

    let second = seed(database.url()).await.unwrap();
    assert_eq!(
        (first.users, first.properties, first.bookings, first.logins),
        (second.users, second.properties, second.bookings, second.logins)
    );
}

#[tokio::test]
async fn the_books_agree_with_the_payments() {
    let database = TestDatabase::create().await.unwrap();
    seed(database.url()).await.unwrap();
    let pool = database.pool().unwrap();
    for (what, query) in [
        (
            "a payment whose ledger entries are not what was captured less what was refunded",
            "SELECT count(*) FROM payments p WHERE captured_minor - refunded_minor <> coalesce((
                 SELECT sum(amount_minor) FROM ledger_transactions t JOIN ledger_entries e ON e.transaction_id = t.id
                 WHERE t.booking_id = p.booking_id AND e.account = 'stripe_balance'), 0)",
        ),
        (
            "a refund that its payment does not know",
            "SELECT count(*) FROM payments p WHERE refunded_minor <> coalesce((
                 SELECT sum(amount_minor) FROM refunds r WHERE r.payment_id = p.id), 0)",
        ),
        (
            "a stay that was let without being paid",
            "SELECT count(*) FROM bookings b JOIN payments p ON p.booking_id = b.id
             WHERE b.state IN ('confirmed', 'checked_in', 'checked_out', 'completed') AND p.captured_minor <> b.total_minor",
        ),
        (
            "a booking whose last transition is not its state",
            "SELECT count(*) FROM bookings b WHERE state <> (
                 SELECT to_state FROM booking_events e WHERE e.booking_id = b.id AND to_state IS NOT NULL ORDER BY id DESC LIMIT 1)",
        ),
        (
            "a timeline that goes back in time or into the future",
            "SELECT count(*) FROM (
                 SELECT at, lag(at) OVER (PARTITION BY booking_id ORDER BY id) AS before FROM booking_events) AS step
             WHERE at < before OR at > now()",
        ),
        (
            "a review that is public before its time, or not after it",
            "SELECT count(*) FROM reviews r JOIN review_windows w USING (booking_id)
             WHERE r.published_at IS DISTINCT FROM w.settled_at OR r.created_at NOT BETWEEN w.opened_at AND w.closes_at OR r.created_at > now()
                OR (w.settled_at IS NULL) <> (w.closes_at > now() AND (SELECT count(*) FROM reviews o WHERE o.booking_id = r.booking_id) < 2)",
        ),
        (
            "a property whose rating is not what its reviews say",
            "SELECT count(*) FROM properties p WHERE (review_count, rating_hundredths) IS DISTINCT FROM (
                 SELECT (count(*)::int, coalesce(round(avg(overall) * 100), 0)::int) FROM reviews
                 WHERE property_id = p.id AND side = 'guest' AND published_at IS NOT NULL)",
        ),
        (
            "a stay that can still be reviewed and whose reviews nothing will publish",
            "SELECT count(*) FROM review_windows w WHERE closes_at > now() AND NOT EXISTS (
                 SELECT 1 FROM jobs WHERE kind = 'review.publish' AND args ->> 'booking_id' = w.booking_id::text AND run_at = w.closes_at)",
        ),
        (
            "a host who books, or a guest who lets",
            "SELECT count(*) FROM bookings b JOIN users g ON g.id = b.guest_id JOIN users h ON h.id = b.host_id
             WHERE g.role <> 'guest' OR h.role <> 'host'",
        ),
    ] {
        assert_eq!(count(&pool, query).await, 0, "{what}");
    }
}

#[tokio::test]
async fn somebody_elses_data_is_left_alone() {
    let database = TestDatabase::create().await.unwrap();
    let pool = database.pool().unwrap();
    sqlx::query(
        "INSERT INTO users (id, email, password_hash, full_name, role, created_at, updated_at)
         VALUES (gen_random_uuid(), 'ada@example.com', 'x', 'Ada', 'guest', now(), now())",
    )
    .execute(&pool)
    .await
    .unwrap();
    let report = seed(database.url()).await.unwrap();
    assert_eq!((report.users, report.properties), (1, 0));
    assert!(report.logins.is_empty());
}

#[tokio::test]
async fn a_seeded_booking_can_be_cancelled_and_is_paid_back() {
    let world = World::start().await;
    let report = seed(world.database_url()).await.unwrap();
    remind_sandbox(world.database_url(), world.stripe.base_url())
        .await
        .unwrap();
    assert!(
        world.stripe.deliveries().is_empty(),
        "what is remembered is not told again"
    );

    // A host who cancels pays everything back.
    let login = report.logins.iter().find(|login| login.role == "host").unwrap();
    let host = world.login(&login.email, &login.password).await;
    let list = world
        .get("/bookings/?role=host&state=confirmed")
        .by(&host)
        .send()
        .await
        .expect(200);
    let id = list["items"][0]["id"].as_str().unwrap().to_owned();
    world
        .post(&format!("/bookings/{id}/cancel"), json!({}))
        .by(&host)
        .send()
        .await
        .expect(200);
    let path = format!("/payments/?role=host&booking_id={id}");
    world
        .eventually("the guest is paid back", async || {
            let payments = world.get(&path).by(&host).send().await.expect(200);
            let payment = &payments["items"][0];
            payment["refunded_minor"] == payment["captured_minor"]
        })
        .await;
}
