//! Idempotency keys: replay, other parameters, in flight, what is kept and for how long.

use std::time::Duration;

use roost_tests::stripe::{Fault, FaultKind};

use super::{AUTHORISE, Shop};

const INTENTS: &str = "/v1/payment_intents";
const FORM: &str = "amount=700&currency=usd";

#[tokio::test]
async fn the_same_request_is_answered_byte_for_byte_and_runs_once() {
    let shop = Shop::open().await;
    let form = format!("{AUTHORISE}pm_card_visa");
    let first = shop.post_with_key(INTENTS, &form, "authorize:b1:1").await;
    assert_eq!(first.header("idempotent-replayed"), None);
    assert_eq!(first.header("idempotency-key"), Some("authorize:b1:1"));
    // The order of parameters does not matter.
    let (head, tail) = form.split_once('&').unwrap();
    let again = shop
        .post_with_key(INTENTS, &format!("{tail}&{head}"), "authorize:b1:1")
        .await;
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(again.header("original-request"), first.header("request-id"));
    assert_ne!(again.header("request-id"), first.header("request-id"));
    assert_eq!((again.status, &again.text), (first.status, &first.text));
    assert_eq!(shop.sandbox.record().len(), 1);

    let capture = format!("{INTENTS}/{}/capture", first.id());
    shop.post_with_key(&capture, "", "capture:p1").await;
    // The replay shows the past, not the present.
    let replay = shop.post_with_key(INTENTS, &form, "authorize:b1:1").await;
    assert_eq!(replay.json["status"], "requires_capture");
    let replay = shop.post_with_key(&capture, "", "capture:p1").await;
    assert_eq!((replay.status, &replay.json["status"]), (200, &"succeeded".into()));
    assert_eq!(shop.sandbox.record()[0].captures, 1);
}

#[tokio::test]
async fn a_key_belongs_to_its_first_request() {
    let shop = Shop::open().await;
    shop.post_with_key(INTENTS, FORM, "k1").await;
    let other = shop.post_with_key(INTENTS, "amount=800&currency=usd", "k1").await;
    assert_eq!((other.status, other.error("type")), (400, "idempotency_error"));
    let elsewhere = shop.post_with_key("/v1/refunds", FORM, "k1").await;
    assert_eq!((elsewhere.status, elsewhere.error("type")), (400, "idempotency_error"));
    let long = shop.post_with_key(INTENTS, FORM, &"k".repeat(256)).await;
    assert_eq!(long.status, 400);
    assert_eq!(shop.sandbox.record().len(), 1);
}

/// Long enough for another request meanwhile.
const A_WHILE: Duration = Duration::from_secs(4);

/// The fault is used up once the slow request is in flight.
async fn in_flight(shop: &Shop) {
    while !shop.sandbox.faults().is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_key_in_flight_is_refused_and_later_replayed() {
    let shop = Shop::open().await;
    shop.sandbox
        .fault(Fault::new(FaultKind::Delay).on("POST", INTENTS).delay(A_WHILE));
    let slow = shop.post_with_key(INTENTS, FORM, "k1");
    let eager = async {
        in_flight(&shop).await;
        shop.post_with_key(INTENTS, FORM, "k1").await
    };
    let (slow, eager) = tokio::join!(slow, eager);
    assert_eq!((eager.status, eager.error("code")), (409, "idempotency_key_in_use"));
    assert_eq!(eager.header("stripe-should-retry"), Some("true"));
    let replay = shop.post_with_key(INTENTS, FORM, "k1").await;
    assert_eq!((replay.status, replay.text), (200, slow.text));
    assert_eq!(shop.sandbox.record().len(), 1);
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_undo_its_request() {
    let shop = Shop::open().await;
    shop.sandbox
        .fault(Fault::new(FaultKind::Delay).on("POST", INTENTS).delay(A_WHILE));
    tokio::select! {
        reply = shop.post_with_key(INTENTS, FORM, "k1") => panic!("answered at once: {}", reply.status),
        () = in_flight(&shop) => {}
    }
    let replay = loop {
        let reply = shop.post_with_key(INTENTS, FORM, "k1").await;
        if reply.status != 409 {
            break reply;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(
        (replay.status, replay.header("idempotent-replayed")),
        (200, Some("true"))
    );
    assert_eq!(shop.sandbox.record().len(), 1);
}

#[tokio::test]
async fn failures_after_execution_began_are_kept_and_refusals_before_it_are_not() {
    let shop = Shop::open().await;
    // A decline is a result like any other.
    let declined = format!("{AUTHORISE}pm_card_chargeDeclined");
    let first = shop.post_with_key(INTENTS, &declined, "decline").await;
    let again = shop.post_with_key(INTENTS, &declined, "decline").await;
    assert_eq!((again.status, &again.text), (402, &first.text));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));

    // So is a 500, whatever it did.
    shop.sandbox
        .fault(Fault::new(FaultKind::ServerError).on("POST", INTENTS));
    assert_eq!(shop.post_with_key(INTENTS, FORM, "fault").await.status, 500);
    let replay = shop.post_with_key(INTENTS, FORM, "fault").await;
    assert_eq!((replay.status, replay.error("type")), (500, "api_error"));
    assert_eq!(replay.header("idempotent-replayed"), Some("true"));

    // And a state that forbids.
    let intent = shop.pay("pm_card_visa").await;
    let cancel = format!("{INTENTS}/{intent}/cancel");
    shop.post_with_key(&cancel, "", "void").await;
    let replay = shop.post_with_key(&cancel, "", "void").await;
    assert_eq!(
        (replay.status, replay.header("idempotent-replayed")),
        (400, Some("true"))
    );

    // Refusals before execution leave the key free, even for other parameters.
    for refused in [
        "amount=700",
        "amount=700&currency=usd&colour=red",
        "amount=x&currency=usd",
    ] {
        assert_eq!(shop.post_with_key(INTENTS, refused, "free").await.status, 400);
    }
    shop.sandbox.fault(Fault::new(FaultKind::RateLimited));
    assert_eq!(
        shop.post_with_key(INTENTS, FORM, "free").await.error("code"),
        "rate_limit"
    );
    let taken = shop.post_with_key(INTENTS, FORM, "free").await;
    assert_eq!((taken.status, taken.header("idempotent-replayed")), (200, None));
}

#[tokio::test]
async fn keys_are_forgotten_after_a_day() {
    let shop = Shop::open().await;
    let first = shop.post_with_key(INTENTS, FORM, "k1").await;
    shop.sandbox.advance_clock(Duration::from_secs(24 * 60 * 60 - 60));
    assert_eq!(shop.post_with_key(INTENTS, FORM, "k1").await.id(), first.id());
    shop.sandbox.advance_clock(Duration::from_secs(61));
    let anew = shop.post_with_key(INTENTS, FORM, "k1").await;
    assert_ne!(anew.id(), first.id());
    assert_eq!(shop.sandbox.record().len(), 2);
}
