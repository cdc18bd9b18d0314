//! What claims to come from Stripe is kept once if it does, and not at all if it does not.

use futures::future::join_all;
use hmac::{Hmac, KeyInit, Mac};
use roost_shared::config::Secret;
use roost_tests::app::{Reply, TestApp, WEBHOOK_SECRET};
use serde_json::{Value, json};
use sha2::Sha256;

fn event(id: &str, kind: &str) -> String {
    json!({
        "id": id, "object": "event", "api_version": "2026-09-30.endive", "created": 1_900_000_000, "livemode": false,
        "pending_webhooks": 1, "request": null, "type": kind,
        "data": {"object": {"id": "pi_1", "object": "payment_intent"}},
    })
    .to_string()
}

fn signature(payload: &str, secret: &str, at: i64) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("{at}.{payload}").as_bytes());
    format!("t={at},v1={}", hex::encode(mac.finalize().into_bytes()))
}

fn signed(app: &TestApp, payload: &str) -> String {
    signature(payload, WEBHOOK_SECRET, app.clock.now().timestamp())
}

async fn delivered(app: &TestApp, payload: &str, signature: &str) -> Reply {
    let call = app.request(reqwest::Method::POST, "/webhooks/stripe");
    call.header("Stripe-Signature", signature)
        .bytes(payload.to_owned())
        .send()
        .await
}

/// The kept events, and how many jobs there are for them.
async fn kept(app: &TestApp) -> (Vec<String>, i64) {
    let events = sqlx::query_scalar("SELECT id FROM stripe_events ORDER BY id")
        .fetch_all(app.state.db.pool())
        .await
        .unwrap();
    (events, app.jobs_of("stripe.event.handle").await)
}

fn nothing() -> (Vec<String>, i64) {
    (Vec::new(), 0)
}

#[tokio::test]
async fn an_event_is_kept_once_and_its_job_is_enqueued_once() {
    let app = TestApp::start().await;
    let payload = event("evt_1", "payment_intent.succeeded");
    for _ in 0..3 {
        let reply = delivered(&app, &payload, &signed(&app, &payload)).await;
        assert_eq!(reply.expect(200), json!({"received": true}));
    }
    assert_eq!(kept(&app).await, (vec!["evt_1".to_owned()], 1));
    let args: Value = sqlx::query_scalar("SELECT args FROM jobs WHERE kind = 'stripe.event.handle'")
        .fetch_one(app.state.db.pool())
        .await
        .unwrap();
    assert_eq!(args, json!({"event_id": "evt_1"}));
    let (kind, object_id): (String, String) = sqlx::query_as("SELECT type, object_id FROM stripe_events")
        .fetch_one(app.state.db.pool())
        .await
        .unwrap();
    assert_eq!(
        (kind.as_str(), object_id.as_str()),
        ("payment_intent.succeeded", "pi_1")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_deliveries_at_once_are_one_event() {
    let app = TestApp::start().await;
    let payload = event("evt_1", "charge.refunded");
    let signature = signed(&app, &payload);
    let replies = join_all((0..100).map(|_| delivered(&app, &payload, &signature))).await;
    assert!(replies.iter().all(|reply| reply.status == 200));
    assert_eq!(kept(&app).await, (vec!["evt_1".to_owned()], 1));
}

#[tokio::test]
async fn forged_and_stale_deliveries_leave_nothing_behind() {
    let app = TestApp::start().await;
    let payload = event("evt_1", "payment_intent.succeeded");
    let now = app.clock.now().timestamp();
    let good = signed(&app, &payload);
    let tampered = payload.replace("pi_1", "pi_2");
    for (payload, signature, code) in [
        (&tampered, good.clone(), "invalid_signature"),
        (
            &payload,
            signature(&payload, "whsec_of_somebody_else", now),
            "invalid_signature",
        ),
        (&payload, good.replace("v1=", "v0="), "invalid_signature"),
        (
            &payload,
            good.replace(&now.to_string(), &(now + 1).to_string()),
            "invalid_signature",
        ),
        (&payload, String::new(), "invalid_signature"),
        (&payload, "t=now,v1=00".to_owned(), "invalid_signature"),
        (&payload, format!("t={now}"), "invalid_signature"),
        (
            &payload,
            signature(&payload, WEBHOOK_SECRET, now - 301),
            "stale_signature",
        ),
        (
            &payload,
            signature(&payload, WEBHOOK_SECRET, now + 400),
            "stale_signature",
        ),
    ] {
        delivered(&app, payload, &signature).await.refused(400, code);
    }
    let unsigned = app
        .request(reqwest::Method::POST, "/webhooks/stripe")
        .bytes(payload.clone());
    unsigned.send().await.refused(400, "invalid_signature");
    assert_eq!(kept(&app).await, nothing());
    delivered(&app, &payload, &good).await.expect(200);
}

#[tokio::test]
async fn what_is_signed_and_no_event_is_refused() {
    let app = TestApp::start().await;
    let no_object = json!({"id": "evt_1", "type": "charge.failed", "created": 1, "data": {"object": {}}}).to_string();
    let long = event(&format!("evt_{}", "x".repeat(300)), "charge.failed");
    for payload in [
        "",
        "{}",
        "[]",
        "null",
        "not json",
        r#"{"id":"evt_1"}"#,
        &no_object,
        &long,
        &event("ch_1", "charge.failed"),
    ] {
        delivered(&app, payload, &signed(&app, payload))
            .await
            .refused(400, "invalid_event");
    }
    let latin = b"\xff\xfe";
    let call = app
        .request(reqwest::Method::POST, "/webhooks/stripe")
        .header("Stripe-Signature", "t=1,v1=00");
    call.bytes(latin.to_vec())
        .send()
        .await
        .refused(400, "invalid_signature");
    assert_eq!(kept(&app).await, nothing());
    app.get("/webhooks/stripe")
        .send()
        .await
        .refused(405, "method_not_allowed");
}

#[tokio::test]
async fn large_events_are_taken_up_to_256_kibibytes() {
    let app = TestApp::start().await;
    let with_length = |length: usize| {
        let mut payload = event("evt_large", "payment_intent.succeeded");
        payload.push_str(&" ".repeat(length - payload.len()));
        payload
    };
    let too_large = with_length(256 * 1024 + 1);
    delivered(&app, &too_large, &signed(&app, &too_large))
        .await
        .refused(413, "body_too_large");
    assert_eq!(kept(&app).await, nothing());
    let largest = with_length(256 * 1024);
    delivered(&app, &largest, &signed(&app, &largest)).await.expect(200);
    assert_eq!(kept(&app).await.1, 1);
}

#[tokio::test]
async fn both_secrets_are_good_during_a_rotation() {
    let app = TestApp::start_with(|settings| {
        settings.stripe_webhook_secrets = vec![Secret::new("whsec_new"), Secret::new("whsec_old")];
    })
    .await;
    let now = app.clock.now().timestamp();
    for (number, secret) in ["whsec_new", "whsec_old"].into_iter().enumerate() {
        let payload = event(&format!("evt_{number}"), "payment_intent.canceled");
        delivered(&app, &payload, &signature(&payload, secret, now))
            .await
            .expect(200);
    }
    let payload = event("evt_9", "payment_intent.canceled");
    delivered(&app, &payload, &signature(&payload, WEBHOOK_SECRET, now))
        .await
        .refused(400, "invalid_signature");
    let stale = signature(&payload, "whsec_old", now - 301);
    delivered(&app, &payload, &stale).await.refused(400, "stale_signature");
    assert_eq!(kept(&app).await.0, ["evt_0", "evt_1"]);

    let closed = TestApp::start_with(|settings| settings.stripe_webhook_secrets.clear()).await;
    delivered(&closed, &payload, &signed(&closed, &payload))
        .await
        .refused(400, "invalid_signature");
}

#[tokio::test]
async fn events_about_other_things_are_acknowledged_and_not_kept() {
    let app = TestApp::start().await;
    for kind in ["customer.created", "payout.paid", "product.updated"] {
        let payload = event("evt_1", kind);
        delivered(&app, &payload, &signed(&app, &payload)).await.expect(200);
    }
    // Their objects have no id, or they have no object at all.
    for payload in [
        json!({"id": "evt_1", "type": "balance.available", "created": 1, "data": {"object": {"object": "balance"}}}),
        json!({"id": "evt_1", "type": "invoice.upcoming", "created": 1, "data": {"object": {"payment_intent": null}}}),
        json!({"id": "evt_1", "type": "v2.core.account.updated", "object": "v2.core.event",
               "created": "2026-11-22T12:00:00.000Z", "related_object": {"id": "acct_1"}}),
    ] {
        let payload = payload.to_string();
        delivered(&app, &payload, &signed(&app, &payload)).await.expect(200);
    }
    assert_eq!(kept(&app).await, nothing());
}
