//! Refunds give back what was captured and no more.

use stripe::{StripeError, StripeRequest as _};
use stripe_core::refund::{CreateRefund, ListRefund, RetrieveRefund};
use stripe_shared::ApiErrorsCode;

use super::{Shop, idempotent};

#[tokio::test]
async fn refunds_never_exceed_what_was_captured() {
    let shop = Shop::open().await;
    let intent = shop.pay("pm_card_visa").await;
    let refund = |amount: i64, key: &str| {
        CreateRefund::new()
            .payment_intent(intent.as_str())
            .amount(amount)
            .metadata([("refund".to_owned(), "r1".to_owned())])
            .customize()
            .request_strategy(idempotent(key))
            .send(&shop.stripe)
    };
    let first = refund(5_000, "refund:r1").await.unwrap();
    assert_eq!((first.amount, first.status.as_deref()), (5_000, Some("succeeded")));
    let same = refund(5_000, "refund:r1").await.unwrap();
    assert_eq!(same.id, first.id);

    let refused = refund(7_001, "refund:r2").await.unwrap_err();
    let StripeError::Stripe(error, 400) = refused else {
        panic!("{refused}")
    };
    assert_eq!(error.code, Some(ApiErrorsCode::AmountTooLarge));
    assert!(error.message.unwrap().contains("70.01 eur"));

    // Without an amount, all that is left.
    let rest = shop.post("/v1/refunds", &format!("payment_intent={intent}")).await;
    assert_eq!(rest.json["amount"], 7_000);
    let nothing = shop.post("/v1/refunds", &format!("payment_intent={intent}")).await;
    assert_eq!(nothing.error("code"), "charge_already_refunded");
    assert_eq!(shop.sandbox.payment(&intent).unwrap().refunded, 12_000);

    let read = RetrieveRefund::new(first.id.clone()).send(&shop.stripe).await.unwrap();
    assert_eq!(read.metadata.unwrap()["refund"], "r1");
    let all = ListRefund::new()
        .payment_intent(intent.as_str())
        .send(&shop.stripe)
        .await
        .unwrap();
    assert_eq!(all.data.len(), 2);
    let charge = shop.get(&format!("/v1/charges?payment_intent={intent}")).await;
    assert_eq!(charge.json["data"][0]["refunded"], true);
    let events = shop.event_types();
    assert_eq!(events.iter().filter(|kind| *kind == "charge.refunded").count(), 2);
}

#[tokio::test]
async fn what_was_not_captured_cannot_be_refunded() {
    let shop = Shop::open().await;
    let authorised = shop.authorise("pm_card_visa").await;
    let uncaptured = shop
        .post("/v1/refunds", &format!("payment_intent={}", authorised.id()))
        .await;
    assert_eq!(
        (uncaptured.status, uncaptured.error("code")),
        (400, "charge_not_refundable")
    );
    let open = shop.post("/v1/payment_intents", "amount=100&currency=usd").await;
    let unpaid = shop.post("/v1/refunds", &format!("payment_intent={}", open.id())).await;
    assert_eq!(unpaid.error("code"), "charge_not_refundable");
    assert_eq!(
        shop.post("/v1/refunds", "charge=ch_nope").await.error("code"),
        "resource_missing"
    );
    assert_eq!(
        shop.post("/v1/refunds", "amount=100").await.error("code"),
        "parameter_missing"
    );

    let disputed = shop.pay("pm_card_createDispute").await;
    let refused = shop.post("/v1/refunds", &format!("payment_intent={disputed}")).await;
    assert_eq!(refused.error("code"), "charge_disputed");
}

#[tokio::test]
async fn a_refund_may_be_pending_or_come_back() {
    let shop = Shop::open().await;
    let slow = shop.pay("pm_card_pendingRefund").await;
    let pending = shop.post("/v1/refunds", &format!("payment_intent={slow}")).await;
    assert_eq!(pending.json["status"], "pending");
    let path = format!("/v1/refunds/{}", pending.id());
    assert_eq!(shop.get(&path).await.json["status"], "pending");
    shop.sandbox.settle_refund(pending.id(), true).unwrap();
    let later = shop.get(&format!("/v1/refunds/{}", pending.id())).await;
    assert_eq!(later.json["status"], "succeeded");

    let failing = shop.pay("pm_card_refundFail").await;
    let refund = shop.post("/v1/refunds", &format!("payment_intent={failing}")).await;
    assert_eq!(refund.json["status"], "succeeded");
    let later = shop.get(&format!("/v1/refunds/{}", refund.id())).await;
    assert_eq!(later.json["status"], "failed");
    assert_eq!(shop.sandbox.payment(&failing).unwrap().refunded, 0);
    assert!(
        shop.event_types()
            .ends_with(&["refund.updated".to_owned(), "refund.failed".to_owned()])
    );
}
