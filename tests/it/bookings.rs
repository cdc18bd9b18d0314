//! Guests book, change and call off; hosts decide; nobody gets a night that somebody else holds.

mod changes;
mod reasons;

use std::collections::HashSet;

use chrono::{DateTime, NaiveTime, TimeDelta, Utc};
use futures::future::{join, join_all};
use roost_shared::db::{Retries, Tx};
use roost_tests::app::{Actor, PASSWORD, Reply};
use roost_tests::world::{World, id_of};
use serde_json::{Value, json};
use uuid::Uuid;

const VISA: &str = "pm_card_visa";

fn instant(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap().parse().unwrap()
}

async fn does(world: &World, actor: &Actor, booking: Uuid, what: &str) -> Reply {
    world
        .post(&format!("/bookings/{booking}/{what}"), json!({}))
        .by(actor)
        .send()
        .await
}

async fn bookings_in_state(world: &World, state: &str) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM bookings WHERE state = $1")
        .bind(state)
        .fetch_one(world.pool())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_guest_books_and_the_nights_are_held() {
    let world = World::without_worker().await;
    let (host, guest, stranger) = (world.host().await, world.guest().await, world.guest().await);
    let flat = world.lists(&host, json!({})).await;
    let reply = world.books(&guest, flat, world.day(30), world.day(33), VISA).await;
    let booking = reply.expect(201);
    let id = id_of(&booking);
    assert_eq!(reply.header("location"), format!("/bookings/{id}"));
    assert_eq!(
        (&booking["state"], &booking["payment_state"]),
        (&json!("held"), &json!("pending"))
    );
    assert_eq!((&booking["nights"], &booking["guests"]), (&json!(3), &json!(2)));
    assert_eq!(booking["property_title"], "Bright flat by the canal");
    let amounts: Vec<i64> = booking["price_lines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["amount_minor"].as_i64().unwrap())
        .collect();
    assert_eq!(amounts, [30_000, 2_000, 3_840]);
    assert_eq!(
        (&booking["total_minor"], &booking["currency"]),
        (&json!(35_840), &json!("EUR"))
    );
    assert_eq!(booking["host_fee_minor"], Value::Null);
    assert_eq!(
        (&booking["check_in_from"], &booking["time_zone"]),
        (&json!("15:00"), &json!("Europe/Berlin"))
    );
    assert_eq!(
        instant(&booking["hold_expires_at"]) - instant(&booking["created_at"]),
        TimeDelta::minutes(15)
    );
    let timeline = booking["timeline"].as_array().unwrap();
    assert_eq!(timeline.len(), 1);
    assert_eq!(
        (&timeline[0]["event"], &timeline[0]["actor"], &timeline[0]["to_state"]),
        (&json!("requested"), &json!("guest"), &json!("held"))
    );

    let path = format!("/bookings/{id}");
    assert_eq!(world.get(&path).by(&guest).send().await.expect(200), booking);
    let seen_by_host = world.get(&path).by(&host).send().await.expect(200);
    assert_eq!(seen_by_host["host_fee_minor"], 960);
    assert_eq!(seen_by_host["payment"]["state"], "pending");
    world.get(&path).by(&stranger).send().await.refused(404, "not_found");
    world.get(&path).send().await.refused(401, "unauthorized");
    assert_eq!(world.jobs("payment.authorize").await, ["queued=1"]);
    assert_eq!(world.jobs("booking.expire_hold").await, ["scheduled=1"]);
}

#[tokio::test]
async fn taken_nights_are_refused_with_the_range_that_is_in_the_way() {
    let world = World::without_worker().await;
    let (host, guest) = (world.host().await, world.guest().await);
    let flat = world.lists(&host, json!({})).await;
    let day = |days| world.day(days);
    world.books(&guest, flat, day(30), day(33), VISA).await.expect(201);
    for (from, to) in [(30, 33), (29, 31), (32, 35), (31, 32), (28, 40)] {
        let problem = world
            .books(&guest, flat, day(from), day(to), VISA)
            .await
            .refused(409, "dates_taken");
        assert_eq!(problem["conflict"], json!({"check_in": day(30), "check_out": day(33)}));
    }
    // One guest leaves in the morning, the next arrives in the afternoon.
    world.books(&guest, flat, day(33), day(34), VISA).await.expect(201);
    world.books(&guest, flat, day(29), day(30), VISA).await.expect(201);
    assert_eq!(bookings_in_state(&world, "held").await, 3);
    assert_eq!(world.jobs("payment.authorize").await, ["queued=3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_a_hundred_who_want_one_night_one_gets_it() {
    let world = World::without_worker().await;
    let host = world.host().await;
    let flat = world.lists(&host, json!({})).await;
    let guests = join_all((0..4).map(|_| world.guest())).await;
    let replies = join_all((0..100).map(|number| {
        let guest = &guests[number % guests.len()];
        world.books(guest, flat, world.day(30), world.day(31), VISA)
    }))
    .await;
    let (won, lost): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 201);
    assert_eq!((won.len(), lost.len()), (1, 99));
    for reply in lost {
        reply.refused(409, "dates_taken");
    }
    assert_eq!(bookings_in_state(&world, "held").await, 1);
    assert_eq!(world.jobs("payment.authorize").await, ["queued=1"]);
}

async fn books_with_key(world: &World, guest: &Actor, key: &str, body: &Value) -> Reply {
    let call = world.post("/bookings", body.clone()).by(guest);
    call.header("Idempotency-Key", key).send().await
}

fn request_for(world: &World, flat: Uuid, day: i64) -> Value {
    json!({
        "property_id": flat, "check_in": world.day(day), "check_out": world.day(day + 2), "guests": 1, "payment_method": VISA,
    })
}

#[tokio::test]
async fn a_request_that_is_sent_again_gets_the_same_reply() {
    let world = World::without_worker().await;
    let (host, guest, other) = (world.host().await, world.guest().await, world.guest().await);
    let flat = world.lists(&host, json!({})).await;
    let body = request_for(&world, flat, 30);
    let first = books_with_key(&world, &guest, "one", &body).await;
    first.expect(201);
    let again = books_with_key(&world, &guest, "one", &body).await;
    assert_eq!((again.status, &again.body), (201, &first.body));
    assert_eq!(again.header("location"), first.header("location"));
    assert_eq!(again.header("idempotent-replayed"), "true");

    let changed = request_for(&world, flat, 40);
    books_with_key(&world, &guest, "one", &changed)
        .await
        .refused(422, "idempotency_key_reused");
    // Keys are each user's own, and a refusal is not remembered.
    books_with_key(&world, &other, "one", &body)
        .await
        .refused(409, "dates_taken");
    does(&world, &guest, id_of(&first.json()), "cancel").await.expect(200);
    books_with_key(&world, &other, "one", &body).await.expect(201);
    // The reply is that of its time, whatever happened since.
    let late = books_with_key(&world, &guest, "one", &body).await;
    assert_eq!((late.status, &late.body), (201, &first.body));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_request_that_is_sent_many_times_at_once_is_done_once() {
    let world = World::without_worker().await;
    let (host, guest) = (world.host().await, world.guest().await);
    let flat = world.lists(&host, json!({})).await;
    let body = request_for(&world, flat, 30);
    let replies = join_all((0..20).map(|_| books_with_key(&world, &guest, "one", &body))).await;
    let bodies: HashSet<&Vec<u8>> = replies.iter().map(|reply| &reply.body).collect();
    assert_eq!(bodies.len(), 1);
    assert!(replies.iter().all(|reply| reply.status == 201));
    assert_eq!(bookings_in_state(&world, "held").await, 1);
}

async fn quoted(world: &World, guest: &Actor, flat: Uuid, guests: i32) -> Value {
    let body = json!({"property_id": flat, "check_in": world.day(30), "check_out": world.day(33), "guests": guests});
    world.post("/quotes", body).by(guest).send().await.expect(200)
}

async fn books_as_quoted(world: &World, guest: &Actor, flat: Uuid, guests: i32, token: &str) -> Reply {
    let body = json!({
        "property_id": flat, "check_in": world.day(30), "check_out": world.day(33), "guests": guests,
        "payment_method": VISA, "quote_token": token,
    });
    books_with_key(world, guest, "quoted", &body).await
}

#[tokio::test]
async fn a_booking_costs_what_was_quoted() {
    let world = World::without_worker().await;
    // The quote ends on the day that it was made on, or the wish is another one.
    let midnight_is_near = world.clock.now().time() > NaiveTime::from_hms_opt(23, 40, 0).unwrap();
    if midnight_is_near {
        world.clock.advance(TimeDelta::minutes(21));
    }
    let (host, guest) = (world.host().await, world.guest().await);
    let flat = world.lists(&host, json!({})).await;
    let quote = quoted(&world, &guest, flat, 2).await;
    let token = quote["token"].as_str().unwrap().to_owned();
    sqlx::query("UPDATE properties SET nightly_rate_minor = 99000")
        .execute(world.pool())
        .await
        .unwrap();

    let forged = format!("{token}x");
    for wrong in [forged.as_str(), "v1.e30.AA", "nonsense"] {
        books_as_quoted(&world, &guest, flat, 2, wrong)
            .await
            .refused_field(422, "quote_invalid", "quote_token");
    }
    books_as_quoted(&world, &guest, flat, 1, &token)
        .await
        .refused_field(422, "quote_mismatch", "quote_token");
    let day = world.day(30);
    let booked = books_as_quoted(&world, &guest, flat, 2, &token).await;
    assert_eq!(booked.expect(201)["total_minor"], 35_840);

    // Sent again after the quote ended, it is still the same booking; a new one is refused.
    world.clock.advance(TimeDelta::minutes(16));
    let guest = world.login(&guest.email, PASSWORD).await;
    assert_eq!(world.day(30), day);
    let again = books_as_quoted(&world, &guest, flat, 2, &token).await;
    assert_eq!((again.status, again.body), (201, booked.body));
    let body = json!({
        "property_id": flat, "check_in": day, "check_out": world.day(33), "guests": 2, "payment_method": VISA, "quote_token": token,
    });
    books_with_key(&world, &guest, "another", &body)
        .await
        .refused_field(422, "quote_expired", "quote_token");
}

#[tokio::test]
async fn only_listed_flats_of_others_can_be_booked() {
    let world = World::without_worker().await;
    let (host, guest) = (world.host().await, world.guest().await);
    let flat = world.lists(&host, json!({})).await;
    let draft = world.lists(&host, json!({"status": "draft"})).await;
    let (from, to) = (world.day(30), world.day(31));
    world
        .books(&host, flat, from, to, VISA)
        .await
        .refused(409, "own_property");
    world
        .books(&guest, draft, from, to, VISA)
        .await
        .refused(404, "not_found");
    world
        .books(&guest, Uuid::nil(), from, to, VISA)
        .await
        .refused(404, "not_found");
    assert_eq!(bookings_in_state(&world, "held").await, 0);
    // A host may be somebody else's guest.
    let neighbour = world.host().await;
    let (early, late) = (world.day(20), world.day(21));
    world.books(&neighbour, flat, early, late, VISA).await.expect(201);
}

#[tokio::test]
async fn lists_are_narrowed_and_paged() {
    let world = World::without_worker().await;
    let (host, guest) = (world.host().await, world.guest().await);
    let flat = world.lists(&host, json!({})).await;
    let hut = world.lists(&host, json!({"title": "Hut by the lake"})).await;
    let mut made = Vec::new();
    for (number, property) in [flat, hut, flat, hut, flat].into_iter().enumerate() {
        let day = 30 + 10 * i64::try_from(number).unwrap();
        let reply = world
            .books(&guest, property, world.day(day), world.day(day + 2), VISA)
            .await;
        made.push(id_of(&reply.expect(201)).to_string());
    }
    does(&world, &guest, made[0].parse().unwrap(), "cancel")
        .await
        .expect(200);
    let list = async |actor: &Actor, query: &str| {
        let page = world
            .get(&format!("/bookings/?{query}"))
            .by(actor)
            .send()
            .await
            .expect(200);
        let items = page["items"].as_array().unwrap();
        items
            .iter()
            .map(|item| item["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let newest_first = |numbers: &[usize]| numbers.iter().map(|number| made[*number].clone()).collect::<Vec<_>>();

    assert_eq!(list(&guest, "").await, newest_first(&[4, 3, 2, 1, 0]));
    assert_eq!(list(&host, "").await, newest_first(&[]));
    assert_eq!(list(&host, "role=host").await, newest_first(&[4, 3, 2, 1, 0]));
    assert_eq!(list(&guest, "role=host").await, newest_first(&[]));
    assert_eq!(list(&guest, "state=held").await, newest_first(&[4, 3, 2, 1]));
    let both = newest_first(&[4, 3, 2, 1, 0]);
    assert_eq!(list(&guest, "state=held&state=cancelled_by_guest").await, both);
    assert_eq!(list(&guest, "state=held,cancelled_by_guest").await, both);
    assert_eq!(list(&guest, "state=confirmed").await, newest_first(&[]));
    assert_eq!(list(&guest, &format!("property_id={hut}")).await, newest_first(&[3, 1]));
    let (from, to) = (world.day(41), world.day(60));
    assert_eq!(
        list(&guest, &format!("from={from}&to={to}")).await,
        newest_first(&[2, 1])
    );

    let titles = world.get("/bookings?limit=2").by(&guest).send().await.expect(200);
    assert_eq!(titles["items"][0]["property_title"], "Bright flat by the canal");
    assert_eq!(titles["items"][1]["property_title"], "Hut by the lake");
    assert_eq!(titles["items"][1]["payment_state"], "pending");
    let (mut path, mut seen) = ("/bookings?limit=2".to_owned(), Vec::new());
    loop {
        let reply = world.get(&path).by(&guest).send().await;
        let page = reply.expect(200);
        let items = page["items"].as_array().unwrap();
        seen.extend(items.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else {
            assert_eq!(reply.header("link"), "");
            break;
        };
        assert_eq!(reply.header("link"), format!("<{next}>; rel=\"next\""));
        next.clone_into(&mut path);
    }
    assert_eq!(seen, both);
}

#[tokio::test]
async fn what_postgres_ends_for_the_sake_of_another_is_tried_again() {
    let world = World::without_worker().await;
    let host = world.host().await;
    let flats = [world.lists(&host, json!({})).await, world.lists(&host, json!({})).await];
    let lock = async |tx: &mut Tx, flat: Uuid| {
        sqlx::query("SELECT 1 FROM properties WHERE id = $1 FOR UPDATE")
            .bind(flat)
            .execute(tx.conn())
            .await
    };
    let db = &world.state.db;
    let (mut one, mut other) = (db.begin().await.unwrap(), db.begin().await.unwrap());
    lock(&mut one, flats[0]).await.unwrap();
    lock(&mut other, flats[1]).await.unwrap();
    // Each waits for the other, until Postgres ends one of them.
    let first = async {
        let outcome = lock(&mut one, flats[1]).await;
        drop(one);
        outcome
    };
    let second = async {
        let outcome = lock(&mut other, flats[0]).await;
        drop(other);
        outcome
    };
    let (first, second) = join(first, second).await;
    let deadlock = match (first, second) {
        (Err(error), Ok(_)) | (Ok(_), Err(error)) => error,
        both => panic!("one goes on and one is ended: {both:?}"),
    };
    let mut retries = Retries::default();
    for _ in 0..3 {
        assert!(retries.again(&deadlock).await, "{deadlock}");
    }
    assert!(!retries.again(&deadlock).await, "three times are enough");
    assert!(!Retries::default().again(&sqlx::Error::RowNotFound).await);
}
