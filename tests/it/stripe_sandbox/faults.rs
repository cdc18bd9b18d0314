//! Each fault on demand, as a client sees it, and what is true at Stripe afterwards.

use std::time::{Duration, Instant};

use roost_tests::stripe::{Fault, FaultKind};
use serde_json::json;
use stripe::StripeError;

use super::{AUTHORISE, Shop};

const INTENTS: &str = "/v1/payment_intents";
const FORM: &str = "amount=700&currency=usd";

#[tokio::test]
async fn a_reset_after_the_commit_leaves_the_change_and_the_key() {
    let shop = Shop::open().await;
    shop.sandbox
        .fault(Fault::new(FaultKind::ResetAfterCommit).on("POST", INTENTS));
    let lost = shop
        .authorise_by_client("pm_card_visa", "authorize:1")
        .await
        .unwrap_err();
    assert!(matches!(lost, StripeError::ClientError(_)), "{lost}");
    assert_eq!(shop.sandbox.record()[0].authorised, 12_000);
    let intent = shop.authorise_by_client("pm_card_visa", "authorize:1").await.unwrap();

    shop.sandbox
        .fault(Fault::new(FaultKind::ResetAfterCommit).on_operation("/capture"));
    shop.capture_by_client(&intent, "capture:1").await.unwrap_err();
    assert_eq!(shop.sandbox.captured(intent.id.as_str()), 12_000);
    shop.capture_by_client(&intent, "capture:1").await.unwrap();
    let record = shop.sandbox.payment(intent.id.as_str()).unwrap();
    assert_eq!((record.captures, record.requests.len()), (1, 4));
    let replayed: Vec<bool> = record.requests.iter().map(|line| line.replayed).collect();
    assert_eq!(replayed, [false, true, false, true]);
}

#[tokio::test]
async fn a_reset_before_changes_nothing() {
    let shop = Shop::open().await;
    shop.sandbox.fault(Fault::new(FaultKind::ResetBefore).times(2));
    for _ in 0..2 {
        let lost = shop
            .try_send("POST", INTENTS, Some(FORM), Some("k1"))
            .await
            .unwrap_err();
        assert!(!lost.is_timeout() && !lost.is_decode(), "{lost:?}");
    }
    assert!(shop.sandbox.record().is_empty());
    assert_eq!(
        shop.post_with_key(INTENTS, FORM, "k1")
            .await
            .header("idempotent-replayed"),
        None
    );
}

#[tokio::test]
async fn truncated_and_empty_replies_hide_a_success() {
    let shop = Shop::open().await;
    for (kind, key) in [
        (FaultKind::Truncated, "k1"),
        (FaultKind::TruncatedJson, "k2"),
        (FaultKind::Empty, "k3"),
    ] {
        shop.sandbox.fault(Fault::new(kind));
        let unclear = shop.authorise_by_client("pm_card_visa", key).await.unwrap_err();
        match kind {
            FaultKind::Truncated => assert!(matches!(unclear, StripeError::ClientError(_)), "{unclear}"),
            _ => assert!(matches!(unclear, StripeError::JSONDeserialize(_)), "{unclear}"),
        }
        shop.authorise_by_client("pm_card_visa", key).await.unwrap();
    }
    assert_eq!(shop.sandbox.record().len(), 3);
}

#[tokio::test]
async fn server_errors_before_and_after_the_commit() {
    let shop = Shop::open().await;
    shop.sandbox.fault(Fault::new(FaultKind::ServerError));
    let failed = shop.authorise_by_client("pm_card_visa", "k1").await.unwrap_err();
    assert!(matches!(failed, StripeError::Stripe(_, 500)), "{failed}");
    assert!(shop.sandbox.record().is_empty());
    shop.sandbox.fault(Fault::new(FaultKind::ServerErrorAfterCommit));
    let failed = shop.authorise_by_client("pm_card_visa", "k2").await.unwrap_err();
    assert!(matches!(failed, StripeError::Stripe(_, 500)), "{failed}");
    assert_eq!(shop.sandbox.record()[0].authorised, 12_000);
}

#[tokio::test]
async fn a_proxy_answers_with_html() {
    let shop = Shop::open().await;
    shop.sandbox.fault(Fault::new(FaultKind::BadGateway));
    let unclear = shop.authorise_by_client("pm_card_visa", "k1").await.unwrap_err();
    assert!(matches!(unclear, StripeError::JSONDeserialize(_)), "{unclear}");
    assert!(shop.sandbox.record().is_empty());
    shop.sandbox.fault(Fault::new(FaultKind::BadGatewayAfterCommit));
    let page = shop.post_with_key(INTENTS, FORM, "k2").await;
    assert_eq!((page.status, page.header("content-type")), (502, Some("text/html")));
    assert_eq!(shop.sandbox.record().len(), 1);
    assert_eq!(
        shop.post_with_key(INTENTS, FORM, "k2")
            .await
            .header("idempotent-replayed"),
        Some("true")
    );
}

#[tokio::test]
async fn a_rate_limit_is_a_429_and_passes() {
    let shop = Shop::open().await;
    shop.sandbox.fault(Fault::new(FaultKind::RateLimited).times(2));
    for _ in 0..2 {
        let limited = shop.authorise_by_client("pm_card_visa", "k1").await.unwrap_err();
        assert!(matches!(limited, StripeError::Stripe(_, 429)), "{limited}");
    }
    shop.authorise_by_client("pm_card_visa", "k1").await.unwrap();
}

#[tokio::test]
async fn slow_requests_execute_late_or_answer_late() {
    let shop = Shop::open().await;
    let delay = Duration::from_millis(200);
    for kind in [FaultKind::Delay, FaultKind::DelayAfterCommit] {
        shop.sandbox.fault(Fault::new(kind).on("POST", INTENTS).delay(delay));
        let before = Instant::now();
        assert_eq!(shop.post(INTENTS, FORM).await.status, 200);
        assert!(before.elapsed() >= delay);
    }
    // The change is there while the reply is not.
    shop.sandbox
        .fault(Fault::new(FaultKind::DelayAfterCommit).delay(Duration::from_secs(60)));
    let form = format!("{AUTHORISE}pm_card_visa");
    let waiting = shop.post_with_key(INTENTS, &form, "k1");
    let hasty = tokio::time::timeout(Duration::from_secs(1), waiting).await;
    assert!(hasty.is_err());
    let replay = shop.post_with_key(INTENTS, &form, "k1").await;
    assert_eq!(replay.header("idempotent-replayed"), Some("true"));
}

#[tokio::test]
async fn faults_are_set_listed_and_taken_back_over_http() {
    let shop = Shop::open().await;
    let url = format!("{}/_control/faults", shop.sandbox.base_url());
    let fault = json!({"match": {"method": "POST", "path_prefix": INTENTS}, "kind": "500", "times": 3, "after": 1});
    assert_eq!(shop.http.post(&url).json(&fault).send().await.unwrap().status(), 200);
    assert_eq!(shop.get("/v1/balance").await.status, 200);
    assert_eq!(shop.post(INTENTS, FORM).await.status, 200);
    assert_eq!(shop.post(INTENTS, FORM).await.status, 500);
    let listed = shop.get("/_control/faults").await;
    assert_eq!(
        (&listed.json[0]["kind"], &listed.json[0]["times"]),
        (&json!("500"), &json!(2))
    );
    assert_eq!(shop.http.delete(&url).send().await.unwrap().status(), 200);
    assert_eq!(shop.post(INTENTS, FORM).await.status, 200);
    let unknown = json!({"kind": "earthquake"});
    assert_eq!(shop.http.post(&url).json(&unknown).send().await.unwrap().status(), 400);
}
