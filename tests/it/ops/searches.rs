//! Searches that Postgres gives up, and those that do not follow all there is: told as what they are, with what to do about it.

use std::str::FromStr;

use roost_shared::db::Db;
use roost_shared::operators::Role;
use roost_tests::app::TestApp;
use roost_tests::ops::Dashboard;
use roost_tests::world::World;
use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use uuid::Uuid;

use crate::jobs::scene;
use crate::programs::on_a_terminal;

const TOO_SLOW: &str = "This search takes too long: narrow it by kind, state or time.";

#[tokio::test(flavor = "multi_thread")]
async fn a_search_that_takes_too_long_says_so_wherever_it_is_asked_for() {
    let app = TestApp::start().await;
    // As a table too large to look through does, one that is locked keeps a search waiting for longer than it may.
    let impatient = PgConnectOptions::from_str(app.database_url())
        .unwrap()
        .options([("statement_timeout", "2s")]);
    let mut state = app.state.clone();
    state.db = Db::new(
        PgPoolOptions::new().connect_lazy_with(impatient),
        app.state.db.publisher().clone(),
        app.clock.clone(),
    );
    let ops = Dashboard::start(&state).await;
    let operator = ops.signed_in(Role::Operator).await;
    let http = reqwest::Client::new();
    let url = |path: &str| format!("{}/ops/api{path}", ops.base);
    let token = ops.token("operator@ops.example.com").await;

    let mut lock = roost_shared::db::begin(app.state.db.pool()).await.unwrap();
    sqlx::query("LOCK TABLE effects IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *lock)
        .await
        .unwrap();
    operator.get("/ops/jobs?effect=unknown").await.is(200).says(TOO_SLOW);
    let preview = operator.get("/ops/jobs/bulk?all=1&action=retry&effect=unknown").await;
    preview.is(422).says(TOO_SLOW);
    let asked = [
        http.get(url("/jobs?effect=unknown")),
        http.get(url("/bulk/preview?action=retry&effect=unknown")),
        http.post(url("/bulk"))
            .json(&json!({"action": "retry", "effect": "unknown", "reason": "Stripe is back"})),
    ];
    for request in asked {
        let reply = request.bearer_auth(&token).send().await.unwrap();
        assert_eq!(reply.status().as_u16(), 422);
        let problem: Value = reply.json().await.unwrap();
        assert_eq!(
            (&problem["code"], &problem["errors"][0]["field"], &problem["detail"]),
            (&json!("search_too_slow"), &json!("q"), &json!(TOO_SLOW)),
            "{problem}"
        );
    }
    drop(lock);
    operator
        .get("/ops/jobs?effect=unknown")
        .await
        .is(200)
        .is_silent_about(TOO_SLOW);
}

/// So many more bookings of the same guest and host, all younger than any that there is.
async fn copy_bookings(pool: &PgPool, copies: std::ops::RangeInclusive<i32>) {
    sqlx::query(
        "INSERT INTO bookings
         SELECT (jsonb_populate_record(NULL::bookings, to_jsonb(booking) || jsonb_build_object(
             'id', 'ffffffff-ffff-7fff-bfff-' || lpad(n::text, 12, '0'), 'state', 'expired'))).*
         FROM generate_series($1, $2) AS n, (SELECT * FROM bookings ORDER BY id LIMIT 1) AS booking",
    )
    .bind(copies.start())
    .bind(copies.end())
    .execute(pool)
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_that_does_not_follow_all_that_belongs_to_an_id_says_so() {
    const CUT: &str = "This is not all: more belongs to this id than a search follows.";
    let scene = scene(World::without_worker().await, json!({})).await;
    let pool = scene.world.pool();
    let booking = scene.books("pm_card_visa").await;
    let (payment, job): (Uuid, Uuid) = sqlx::query_as(
        "SELECT payments.id, jobs.id FROM payments JOIN jobs ON jobs.kind = 'payment.authorize' AND jobs.args ->> 'payment_id' = payments.id::text",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    let ops = Dashboard::start(&scene.world.state).await;
    let operator = ops.signed_in(Role::Operator).await;
    let token = ops.token("operator@ops.example.com").await;
    let http = reqwest::Client::new();
    let get = async |path: String| -> Value {
        let sent = http.get(format!("{}/ops/api{path}", ops.base)).bearer_auth(&token);
        sent.send().await.unwrap().json().await.unwrap()
    };
    // Whether the job of the first booking is found by this id, and whether all say that not all is followed.
    let finds = async |id: &str| {
        let list = operator.get(&format!("/ops/jobs?q={id}")).await.is(200);
        let preview = operator
            .get(&format!("/ops/jobs/bulk?all=1&action=cancel&q={id}"))
            .await
            .is(200);
        let (_, listed) = on_a_terminal(&scene.world, &["list", id]).await;
        let cut = list.html.contains(CUT);
        for (other, told) in [
            ("preview", preview.html.contains(CUT)),
            ("terminal", listed.contains(CUT)),
            ("JSON", get(format!("/jobs?q={id}")).await["incomplete"] == true),
            (
                "preview as JSON",
                get(format!("/bulk/preview?action=cancel&q={id}")).await["incomplete"] == true,
            ),
        ] {
            assert_eq!(told, cut, "{other}");
        }
        (list.html.contains(&format!("data-href=\"/ops/jobs/{job}\"")), cut)
    };
    let (guest, host) = (&*scene.guest.id, &*scene.host.id);
    copy_bookings(pool, 1..=39).await;
    assert_eq!(finds(guest).await, (true, false), "forty bookings are all");
    assert_eq!(finds(host).await, (true, false));
    copy_bookings(pool, 40..=40).await;
    assert_eq!(finds(guest).await, (false, true));
    assert_eq!(finds(host).await, (false, true));

    // Its own id finds it, with forty messages and forty events.
    let booking = booking.to_string();
    let messages = async |from: i32, to: i32| {
        sqlx::query(
            "INSERT INTO messages (id, booking_id, sender_id, recipient_id, text, created_at)
             SELECT gen_random_uuid(), id, guest_id, host_id, 'Hello', now() FROM bookings, generate_series($2, $3) WHERE id = $1::uuid",
        )
        .bind(&booking)
        .bind(from)
        .bind(to)
        .execute(pool)
        .await
        .unwrap();
    };
    let events = async |from: i32, to: i32| {
        sqlx::query(
            "INSERT INTO stripe_events (id, type, object_id, created_at, received_at)
             SELECT 'evt_' || n, 'payment_intent.created', 'pi_of_many_events', now(), now() FROM generate_series($1, $2) AS n",
        )
        .bind(from)
        .bind(to)
        .execute(pool)
        .await
        .unwrap();
    };
    sqlx::query("UPDATE payments SET stripe_payment_intent_id = 'pi_of_many_events' WHERE id = $1")
        .bind(payment)
        .execute(pool)
        .await
        .unwrap();
    messages(1, 40).await;
    events(1, 40).await;
    assert_eq!(finds(&booking).await, (true, false));
    messages(41, 41).await;
    assert_eq!(finds(&booking).await, (true, true));
    sqlx::query("DELETE FROM messages").execute(pool).await.unwrap();
    events(41, 41).await;
    assert_eq!(finds(&booking).await, (true, true));
}
