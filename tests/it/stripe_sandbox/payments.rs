//! Payment intents from creation to their end: states, declines, 3-D Secure, capture, lapse.

use std::time::Duration;

use serde_json::json;
use stripe::{StripeError, StripeRequest as _};
use stripe_client_core::{RequestBuilder, StripeMethod};
use stripe_core::payment_intent::{
    CancelPaymentIntent, CapturePaymentIntent, ConfirmPaymentIntent, CreatePaymentIntent,
    CreatePaymentIntentAutomaticPaymentMethods, CreatePaymentIntentAutomaticPaymentMethodsAllowRedirects,
    RetrievePaymentIntent,
};
use stripe_shared::{
    ApiErrorsCode, Charge, Dispute, Event, PaymentIntentCancellationReason, PaymentIntentStatus, PaymentMethod,
};
use stripe_types::{Currency, List};

use super::{Shop, idempotent};

const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

#[tokio::test]
async fn a_card_is_authorised_and_captured_through_async_stripe() {
    let shop = Shop::open().await;
    let intent = shop
        .authorise_by_client("pm_card_visa", "authorize:b1:1")
        .await
        .unwrap();
    assert_eq!(intent.status, PaymentIntentStatus::RequiresCapture);
    assert_eq!(
        (intent.amount, intent.amount_capturable, intent.amount_received),
        (12_000, 12_000, 0)
    );
    assert_eq!(intent.metadata["booking"], "b1");

    let captured = shop.capture_by_client(&intent, "capture:p1").await.unwrap();
    assert_eq!(captured.status, PaymentIntentStatus::Succeeded);
    assert_eq!((captured.amount_capturable, captured.amount_received), (0, 12_000));

    let read = RetrievePaymentIntent::new(intent.id.clone())
        .expand(["latest_charge".to_owned()])
        .send(&shop.stripe)
        .await
        .unwrap();
    let charge = read.latest_charge.unwrap().into_object().expect("the expanded charge");
    assert!(charge.captured && charge.paid && !charge.refunded);
    assert_eq!(charge.amount_captured, 12_000);

    let record = shop.sandbox.payment(intent.id.as_str()).unwrap();
    assert_eq!(
        (record.authorised, record.captured, record.captures),
        (12_000, 12_000, 1)
    );
    let keys: Vec<_> = record
        .requests
        .iter()
        .filter_map(|line| line.idempotency_key.as_deref())
        .collect();
    assert_eq!(keys, ["authorize:b1:1", "capture:p1"]);
    assert_eq!(
        shop.event_types(),
        [
            "payment_intent.created",
            "charge.succeeded",
            "payment_intent.amount_capturable_updated",
            "charge.captured",
            "payment_intent.succeeded"
        ]
    );
}

#[tokio::test]
async fn every_kind_of_reply_is_understood_by_async_stripe() {
    let shop = Shop::open().await;
    let intent = shop.pay("pm_card_createDispute").await;
    let get = |path: String| RequestBuilder::new(StripeMethod::Get, path);
    let charges: List<Charge> = get(format!("/charges?payment_intent={intent}"))
        .customize()
        .send(&shop.stripe)
        .await
        .unwrap();
    let charge = &charges.data[0];
    assert!(charge.disputed);
    let one: Charge = get(format!("/charges/{}", charge.id))
        .customize()
        .send(&shop.stripe)
        .await
        .unwrap();
    assert_eq!(one.id, charge.id);
    let disputes: List<Dispute> = get("/disputes".to_owned())
        .customize()
        .send(&shop.stripe)
        .await
        .unwrap();
    assert_eq!(disputes.data[0].amount, 12_000);
    let dispute: Dispute = get(format!("/disputes/{}", disputes.data[0].id))
        .customize()
        .send(&shop.stripe)
        .await
        .unwrap();
    assert_eq!(dispute.charge.id(), &charge.id);
    let method = one.payment_method.unwrap();
    let method: PaymentMethod = get(format!("/payment_methods/{method}"))
        .customize()
        .send(&shop.stripe)
        .await
        .unwrap();
    assert_eq!(method.card.unwrap().last4, "0259");
    let balance = shop.get("/v1/balance").await;
    assert_eq!(balance.json["pending"][0]["amount"], 12_000 - 348);
    assert_eq!(balance.json["available"][0]["amount"], -12_000);
    let events: List<Event> = get("/events?limit=3".to_owned())
        .customize()
        .send(&shop.stripe)
        .await
        .unwrap();
    assert_eq!((events.data.len(), events.has_more), (3, true));
    let event: Event = get(format!("/events/{}", events.data[0].id))
        .customize()
        .send(&shop.stripe)
        .await
        .unwrap();
    assert_eq!(event.type_.to_string(), "charge.dispute.funds_withdrawn");
    let movements = shop.get("/v1/balance_transactions?type=adjustment").await;
    let movement = movements.json["data"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(
        shop.get(&format!("/v1/balance_transactions/{movement}")).await.json["net"],
        -12_000
    );

    let closed = shop.sandbox.close_dispute(disputes.data[0].id.as_str(), true).unwrap();
    assert_eq!(closed["status"], "won");
    assert!(shop.sandbox.close_dispute(disputes.data[0].id.as_str(), true).is_err());
}

#[tokio::test]
async fn an_intent_is_created_confirmed_and_cancelled_in_steps() {
    let shop = Shop::open().await;
    let created = CreatePaymentIntent::new(5_000, Currency::USD)
        .automatic_payment_methods(CreatePaymentIntentAutomaticPaymentMethods {
            allow_redirects: Some(CreatePaymentIntentAutomaticPaymentMethodsAllowRedirects::Never),
            enabled: true,
        })
        .send(&shop.stripe)
        .await
        .unwrap();
    assert_eq!(created.status, PaymentIntentStatus::RequiresPaymentMethod);
    let confirmed = ConfirmPaymentIntent::new(created.id.clone())
        .payment_method("pm_card_mastercard")
        .customize()
        .request_strategy(idempotent("confirm:1"))
        .send(&shop.stripe)
        .await
        .unwrap();
    // Capture is automatic unless asked otherwise.
    assert_eq!(confirmed.status, PaymentIntentStatus::Succeeded);
    assert_eq!(shop.sandbox.captured(created.id.as_str()), 5_000);

    let refused = CancelPaymentIntent::new(created.id.clone())
        .send(&shop.stripe)
        .await
        .unwrap_err();
    let StripeError::Stripe(error, 400) = refused else {
        panic!("{refused}")
    };
    assert_eq!(error.code, Some(ApiErrorsCode::PaymentIntentUnexpectedState));
    assert_eq!(error.payment_intent.unwrap().status, PaymentIntentStatus::Succeeded);

    let authorised = shop.authorise_by_client("pm_card_visa", "authorize:2").await.unwrap();
    let cancelled = CancelPaymentIntent::new(authorised.id.clone())
        .customize()
        .request_strategy(idempotent("void:2"))
        .send(&shop.stripe)
        .await
        .unwrap();
    assert_eq!(cancelled.status, PaymentIntentStatus::Canceled);
    assert_eq!((cancelled.amount_capturable, cancelled.amount_received), (0, 0));
    let charge = shop.get(&format!("/v1/charges?payment_intent={}", authorised.id)).await;
    assert_eq!(charge.json["data"][0]["refunded"], true);
    let again = shop.capture_by_client(&authorised, "capture:2").await.unwrap_err();
    assert!(matches!(again, StripeError::Stripe(_, 400)));
}

#[tokio::test]
async fn a_declined_card_is_a_402_that_carries_the_whole_intent() {
    let shop = Shop::open().await;
    for (card, code, decline_code) in [
        ("pm_card_chargeDeclined", "card_declined", "generic_decline"),
        ("pm_card_visa_chargeDeclined", "card_declined", "generic_decline"),
        (
            "pm_card_chargeDeclinedInsufficientFunds",
            "card_declined",
            "insufficient_funds",
        ),
        ("pm_card_chargeDeclinedExpiredCard", "expired_card", "expired_card"),
        ("pm_card_chargeDeclinedIncorrectCvc", "incorrect_cvc", "incorrect_cvc"),
        (
            "pm_card_chargeDeclinedProcessingError",
            "processing_error",
            "processing_error",
        ),
    ] {
        let refused = shop.authorise(card).await;
        assert_eq!(refused.status, 402, "{card}");
        assert_eq!(
            (refused.error("code"), refused.error("decline_code")),
            (code, decline_code)
        );
        let intent = &refused.json["error"]["payment_intent"];
        assert_eq!(intent["status"], "requires_payment_method");
        assert_eq!(intent["last_payment_error"]["decline_code"], decline_code);
        assert_eq!(intent["latest_charge"], refused.json["error"]["charge"]);
    }
    assert_eq!(
        shop.event_types()[..3],
        [
            "payment_intent.created",
            "charge.failed",
            "payment_intent.payment_failed"
        ]
    );

    // Another card saves the payment.
    let refused = shop
        .authorise_by_client("pm_card_chargeDeclined", "authorize:1")
        .await
        .unwrap_err();
    let StripeError::Stripe(error, 402) = refused else {
        panic!("{refused}")
    };
    let intent = error.payment_intent.unwrap();
    let confirmed = ConfirmPaymentIntent::new(intent.id)
        .payment_method("pm_card_visa")
        .send(&shop.stripe)
        .await
        .unwrap();
    assert_eq!(confirmed.status, PaymentIntentStatus::RequiresCapture);
    assert!(confirmed.last_payment_error.is_none());
}

#[tokio::test]
async fn three_d_secure_waits_for_the_cardholder() {
    let shop = Shop::open().await;
    let waiting = shop
        .authorise_by_client("pm_card_authenticationRequired", "authorize:1")
        .await
        .unwrap();
    assert_eq!(waiting.status, PaymentIntentStatus::RequiresAction);
    assert!(waiting.next_action.is_some() && waiting.latest_charge.is_none());
    let early = shop.capture_by_client(&waiting, "capture:1").await.unwrap_err();
    assert!(matches!(early, StripeError::Stripe(_, 400)));

    let id = waiting.id.as_str();
    let path = format!("/_control/payment_intents/{id}/complete_3ds");
    let done = shop.post(&path, "").await;
    assert_eq!(done.json["status"], "requires_capture");
    assert_eq!(
        shop.post(&path, "").await.error("code"),
        "payment_intent_unexpected_state"
    );
    let charges = shop.get(&format!("/v1/charges?payment_intent={id}")).await;
    let card = &charges.json["data"][0]["payment_method_details"]["card"];
    assert_eq!(card["three_d_secure"]["result"], "authenticated");

    let second = shop.authorise("pm_card_authenticationRequired").await;
    let failed = shop.sandbox.fail_3ds(second.id()).unwrap();
    assert_eq!(failed["status"], "requires_payment_method");
    assert_eq!(
        failed["last_payment_error"]["code"],
        "payment_intent_authentication_failure"
    );

    let poor = shop
        .authorise("pm_card_authenticationRequiredChargeDeclinedInsufficientFunds")
        .await;
    let declined = shop.sandbox.complete_3ds(poor.id()).unwrap();
    assert_eq!(declined["last_payment_error"]["decline_code"], "insufficient_funds");

    // Nobody is there to authenticate.
    let form = format!("{}pm_card_authenticationRequired&off_session=true", super::AUTHORISE);
    let absent = shop.post("/v1/payment_intents", &form).await;
    assert_eq!((absent.status, absent.error("code")), (402, "authentication_required"));
    let redirected = shop
        .post(
            "/v1/payment_intents",
            "amount=900&currency=eur&confirm=true&payment_method=pm_card_threeDSecureRequired\
             &return_url=https://example.com/back",
        )
        .await;
    assert_eq!(redirected.json["next_action"]["type"], "redirect_to_url");
}

#[tokio::test]
async fn a_partial_capture_releases_the_rest_and_happens_once() {
    let shop = Shop::open().await;
    let intent = shop.authorise_by_client("pm_card_visa", "authorize:1").await.unwrap();
    let capture = format!("/v1/payment_intents/{}/capture", intent.id);
    let greedy = shop.post(&capture, "amount_to_capture=12001").await;
    assert_eq!((greedy.status, greedy.error("code")), (400, "amount_too_large"));

    let captured = CapturePaymentIntent::new(intent.id.clone())
        .amount_to_capture(7_000)
        .customize()
        .request_strategy(idempotent("capture:1"))
        .send(&shop.stripe)
        .await
        .unwrap();
    assert_eq!(captured.status, PaymentIntentStatus::Succeeded);
    assert_eq!(
        (captured.amount, captured.amount_received, captured.amount_capturable),
        (12_000, 7_000, 0)
    );
    let second = shop.post(&capture, "amount_to_capture=1000").await;
    assert_eq!(
        (second.status, second.error("code")),
        (400, "payment_intent_unexpected_state")
    );
    assert_eq!(second.json["error"]["payment_intent"]["amount_received"], 7_000);

    let record = shop.sandbox.payment(intent.id.as_str()).unwrap();
    assert_eq!(
        (record.authorised, record.captured, record.refunded, record.captures),
        (12_000, 7_000, 0, 1)
    );
    let charge = shop.get(&format!("/v1/charges?payment_intent={}", intent.id)).await;
    assert_eq!(charge.json["data"][0]["amount_captured"], 7_000);
    assert_eq!(charge.json["data"][0]["amount_refunded"], 5_000);
}

#[tokio::test]
async fn an_authorisation_lapses_at_capture_before() {
    let shop = Shop::open().await;
    let intent = shop.authorise("pm_card_visa").await;
    let other = shop.authorise("pm_card_visa").await;
    let charge = shop
        .get(&format!(
            "/v1/charges/{}",
            intent.json["latest_charge"].as_str().unwrap()
        ))
        .await;
    let card = &charge.json["payment_method_details"]["card"];
    assert_eq!(
        card["capture_before"],
        charge.json["created"].as_i64().unwrap() + 7 * 24 * 60 * 60
    );

    shop.sandbox.lapse(other.id()).unwrap();
    assert!(shop.sandbox.lapse(other.id()).is_err());
    shop.sandbox.advance_clock(WEEK - Duration::from_secs(60));
    assert_eq!(
        shop.get(&format!("/v1/payment_intents/{}", intent.id())).await.json["status"],
        "requires_capture"
    );
    let advanced = shop
        .http
        .post(format!("{}/_control/clock/advance", shop.sandbox.base_url()))
        .json(&json!({ "seconds": 61 }))
        .send()
        .await
        .unwrap();
    assert_eq!(advanced.status(), 200);
    let lapsed = RetrievePaymentIntent::new(intent.id())
        .send(&shop.stripe)
        .await
        .unwrap();
    assert_eq!(lapsed.status, PaymentIntentStatus::Canceled);
    assert_eq!(
        lapsed.cancellation_reason,
        Some(PaymentIntentCancellationReason::Automatic)
    );
    let late = shop
        .post(&format!("/v1/payment_intents/{}/capture", intent.id()), "")
        .await;
    assert_eq!(
        (late.status, late.error("code")),
        (400, "payment_intent_unexpected_state")
    );
    assert_eq!(
        shop.event_types()[6..],
        ["charge.expired", "payment_intent.canceled"].repeat(2)
    );
}

#[tokio::test]
async fn a_payment_method_pays_once() {
    let shop = Shop::open().await;
    let method = shop
        .post(
            "/v1/payment_methods",
            "type=card&card[token]=tok_visa&billing_details[name]=Ada",
        )
        .await;
    assert_eq!(method.json["billing_details"]["name"], "Ada");
    assert_eq!(shop.authorise(method.id()).await.json["status"], "requires_capture");
    let again = shop.authorise(method.id()).await;
    assert_eq!((again.status, again.error("param")), (400, "payment_method"));
}

#[tokio::test]
async fn an_open_intent_can_be_changed_and_a_page_shows_it() {
    let shop = Shop::open().await;
    let intent = shop
        .post(
            "/v1/payment_intents",
            "amount=100&currency=usd&metadata[a]=1&metadata[b]=2",
        )
        .await;
    let path = format!("/v1/payment_intents/{}", intent.id());
    let changed = shop.post(&path, "amount=250&metadata[a]=&description=Two+nights").await;
    assert_eq!(
        (&changed.json["amount"], &changed.json["metadata"]),
        (&json!(250), &json!({"b": "2"}))
    );
    let paid = shop.pay("pm_card_visa").await;
    let refused = shop.post(&format!("/v1/payment_intents/{paid}"), "amount=300").await;
    assert_eq!(refused.error("code"), "payment_intent_unexpected_state");

    let index = shop.get("/").await;
    assert!(
        index.text.contains(&paid) && index.text.contains("120.00 eur"),
        "{}",
        index.text
    );
    let page = shop.get(&format!("/payments/{paid}")).await;
    assert!(page.text.contains("payment_intent.succeeded"));
    assert_eq!(shop.get("/payments/pi_nope").await.status, 404);
}
