//! Webhooks: signed, retried, and duplicated, reordered, delayed or dropped on demand.

use std::collections::HashSet;
use std::time::Duration;

use roost_tests::stripe::{DeliveryOutcome, Fault, FaultKind, WebhookEndpoint};
use stripe_webhook::{EventObject, Webhook, WebhookError};

use super::receiver::{Received, Receiver, SECRET};
use super::{AUTHORISE, Shop};

async fn shop_with_receiver() -> (Shop, Receiver) {
    let (shop, receiver) = (Shop::open().await, Receiver::start().await);
    shop.sandbox.set_webhook(&receiver.url, SECRET);
    (shop, receiver)
}

fn kinds(received: &[Received]) -> Vec<String> {
    received.iter().map(Received::kind).collect()
}

#[tokio::test]
async fn events_arrive_signed_in_order_and_are_understood() {
    let (shop, receiver) = shop_with_receiver().await;
    let intent = shop.authorise_by_client("pm_card_visa", "authorize:1").await.unwrap();
    shop.capture_by_client(&intent, "capture:1").await.unwrap();
    let received = receiver.wait_for(5).await;
    assert_eq!(kinds(&received), shop.event_types());
    let event = received[4].event();
    assert_eq!(
        event.request.as_ref().unwrap().idempotency_key.as_deref(),
        Some("capture:1")
    );
    let EventObject::PaymentIntentSucceeded(succeeded) = event.data.object else {
        panic!("{:?}", event.type_)
    };
    assert_eq!((succeeded.id, succeeded.amount_received), (intent.id, 12_000));

    // A forged body or another secret does not verify.
    let first = &received[0];
    let forged = first.body.replace("12000", "12001");
    let wrong = Webhook::construct_event(&forged, &first.signature, SECRET);
    assert!(matches!(wrong, Err(WebhookError::BadSignature)));
    let wrong = Webhook::construct_event(&first.body, &first.signature, "whsec_other");
    assert!(matches!(wrong, Err(WebhookError::BadSignature)));
}

#[tokio::test]
async fn every_kind_of_event_is_understood_by_async_stripe() {
    let (shop, receiver) = shop_with_receiver().await;
    shop.authorise("pm_card_chargeDeclined").await;
    let waiting = shop.authorise("pm_card_authenticationRequired").await;
    shop.sandbox.fail_3ds(waiting.id()).unwrap();
    let lapsing = shop.authorise("pm_card_visa").await;
    shop.sandbox.lapse(lapsing.id()).unwrap();
    let voided = shop.authorise("pm_card_visa").await;
    shop.post(
        &format!("/v1/payment_intents/{}/cancel", voided.id()),
        "cancellation_reason=abandoned",
    )
    .await;
    let refunded = shop.pay("pm_card_refundFail").await;
    shop.post("/v1/refunds", &format!("payment_intent={refunded}")).await;
    shop.pay("pm_card_createDispute").await;
    let dispute = shop.get("/v1/disputes").await.json["data"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    shop.sandbox.close_dispute(&dispute, true).unwrap();

    let expected = shop.event_types();
    let received = receiver.wait_for(expected.len()).await;
    for delivery in &received {
        let event = delivery.event();
        assert!(
            !matches!(event.data.object, EventObject::Unknown { .. }),
            "{}",
            event.type_
        );
    }
    let seen: HashSet<String> = kinds(&received).into_iter().collect();
    assert_eq!(seen, expected.into_iter().collect::<HashSet<_>>());
    assert!(seen.len() >= 17, "{seen:?}");
}

#[tokio::test]
async fn failed_deliveries_are_retried_with_a_fresh_signature() {
    let (shop, receiver) = shop_with_receiver().await;
    receiver.answer_with(&[500, 302, 200]);
    shop.post("/v1/payment_intents", "amount=700&currency=usd").await;
    let received = receiver.wait_for(3).await;
    let ids: HashSet<_> = received
        .iter()
        .map(|delivery| delivery.event().id.to_string())
        .collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(received[0].body, received[2].body);

    shop.sandbox.set_webhook("http://127.0.0.1:9/nobody", SECRET);
    shop.post("/v1/payment_intents", "amount=700&currency=usd").await;
    let giving_up = async {
        loop {
            let last = shop.sandbox.deliveries().pop();
            if let Some(last) = last.filter(|delivery| delivery.outcome == DeliveryOutcome::GivenUp) {
                break last;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let given_up = tokio::time::timeout(Duration::from_secs(20), giving_up).await.unwrap();
    assert_eq!((given_up.attempt, given_up.status), (5, None));
    let log = shop.get("/_control/deliveries").await;
    let outcomes: Vec<_> = log
        .json
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["outcome"].clone())
        .collect();
    assert_eq!(outcomes[..3], ["failed", "failed", "delivered"]);
    assert_eq!(log.json[1]["status"], 302);

    let pending = shop.get("/v1/events?delivery_success=false").await;
    assert_eq!(pending.json["data"][0]["id"], given_up.event.as_str());
    assert_eq!(pending.json["data"][0]["pending_webhooks"], 1);
}

#[tokio::test]
async fn both_secrets_sign_during_rotation_and_endpoints_choose_types() {
    let shop = Shop::open().await;
    let (all, some) = (Receiver::start().await, Receiver::start().await);
    shop.sandbox.set_webhook_endpoints(vec![
        WebhookEndpoint {
            secrets: vec!["whsec_new".into(), SECRET.into()],
            ..WebhookEndpoint::new(&all.url, "")
        },
        WebhookEndpoint {
            enabled_events: vec!["charge.succeeded".into()],
            ..WebhookEndpoint::new(&some.url, SECRET)
        },
    ]);
    shop.authorise("pm_card_visa").await;
    let received = all.wait_for(3).await;
    Webhook::construct_event(&received[0].body, &received[0].signature, "whsec_new").unwrap();
    received[0].event();
    assert_eq!(kinds(&some.wait_for(1).await), ["charge.succeeded"]);
}

#[tokio::test]
async fn events_are_duplicated_reordered_delayed_and_dropped_on_demand() {
    let (shop, receiver) = shop_with_receiver().await;
    shop.sandbox
        .fault(Fault::new(FaultKind::WebhookDuplicate).on_event("charge.succeeded"));
    shop.authorise("pm_card_visa").await;
    let received = receiver.wait_for(4).await;
    assert_eq!(
        kinds(&received)[1..],
        [
            "charge.succeeded",
            "charge.succeeded",
            "payment_intent.amount_capturable_updated"
        ]
    );
    assert_eq!(received[1].event().id, received[2].event().id);

    shop.sandbox
        .fault(Fault::new(FaultKind::WebhookReorder).on_event("payment_intent.created"));
    shop.authorise("pm_card_visa").await;
    let received = receiver.wait_for(7).await;
    assert_eq!(
        kinds(&received)[4..],
        [
            "charge.succeeded",
            "payment_intent.created",
            "payment_intent.amount_capturable_updated"
        ]
    );

    let late = Fault::new(FaultKind::WebhookDelay).on_event("payment_intent.created");
    shop.sandbox.fault(late.delay(Duration::from_secs(1)));
    shop.authorise("pm_card_visa").await;
    let received = receiver.wait_for(10).await;
    assert_eq!(kinds(&received)[9], "payment_intent.created");

    shop.sandbox
        .fault(Fault::new(FaultKind::WebhookDrop).on_event("charge."));
    shop.authorise("pm_card_visa").await;
    let received = receiver.wait_for(12).await;
    assert_eq!(
        kinds(&received)[10..],
        ["payment_intent.created", "payment_intent.amount_capturable_updated"]
    );
    let dropped = |delivery: &&roost_tests::stripe::Delivery| delivery.outcome == DeliveryOutcome::Dropped;
    assert_eq!(shop.sandbox.deliveries().iter().filter(dropped).count(), 1);

    // An event held back with none to follow it arrives all the same.
    let alone = Fault::new(FaultKind::WebhookReorder).delay(Duration::from_millis(50));
    shop.sandbox.fault(alone);
    shop.post("/v1/payment_intents", "amount=700&currency=usd").await;
    receiver.wait_for(13).await;
}

#[tokio::test]
async fn an_old_event_is_sent_again_by_hand() {
    let (shop, receiver) = shop_with_receiver().await;
    shop.post("/v1/payment_intents", &format!("{AUTHORISE}pm_card_visa"))
        .await;
    let first = receiver.wait_for(3).await[0].event();
    shop.sandbox.send_event_again(first.id.as_str()).unwrap();
    assert_eq!(receiver.wait_for(4).await[3].event().id, first.id);
    shop.post(&format!("/_control/events/{}/resend", first.id), "").await;
    assert_eq!(receiver.wait_for(5).await[4].event().id, first.id);
    assert!(shop.sandbox.send_event_again("evt_nope").is_err());
    assert_eq!(receiver.received().len(), 5);
}
