//! What every request is checked for, and how lists are paged.

use std::time::Duration;

use serde_json::json;
use stripe_core::payment_intent::ListPaymentIntent;

use super::Shop;

#[tokio::test]
async fn bad_requests_are_refused_as_stripe_does() {
    let shop = Shop::open().await;
    let intents = "/v1/payment_intents";
    for (form, code, param) in [
        ("currency=usd", "parameter_missing", "amount"),
        ("amount=100", "parameter_missing", "currency"),
        ("amount=much&currency=usd", "parameter_invalid_integer", "amount"),
        ("amount=0&currency=usd", "parameter_invalid_integer", "amount"),
        ("amount=10&currency=usd", "amount_too_small", "amount"),
        ("amount=100000000&currency=usd", "amount_too_large", "amount"),
        ("amount=1234&currency=kwd", "", "amount"),
        ("amount=100&currency=zzz", "", "currency"),
        ("amount=100&currency=usd&colour=red", "parameter_unknown", "colour"),
        // Not since the API version that async-stripe speaks.
        (
            "amount=100&currency=usd&payment_method_types[]=card",
            "parameter_unknown",
            "payment_method_types",
        ),
        ("amount=100&currency=usd&capture_method=later", "", "capture_method"),
        (
            "amount=100&currency=usd&description=",
            "parameter_invalid_empty",
            "description",
        ),
        (
            "amount=100&currency=usd&payment_method=pm_nope",
            "resource_missing",
            "payment_method",
        ),
        (
            "amount=100&currency=usd&confirm=true",
            "payment_intent_unexpected_state",
            "",
        ),
        (
            "amount=100&currency=usd&return_url=https://example.com",
            "",
            "return_url",
        ),
        (
            "amount=100&currency=usd&receipt_email=nobody",
            "email_invalid",
            "receipt_email",
        ),
        (
            "amount=100&currency=usd&automatic_payment_methods[allow_redirects]=never",
            "parameter_missing",
            "automatic_payment_methods[enabled]",
        ),
        // Redirects are allowed by default and then need somewhere to return to.
        (
            "amount=100&currency=usd&confirm=true&payment_method=pm_card_visa",
            "",
            "",
        ),
    ] {
        let refused = shop.post(intents, form).await;
        assert_eq!(refused.status, 400, "{form}: {}", refused.text);
        assert_eq!((refused.error("code"), refused.error("param")), (code, param), "{form}");
        assert_eq!(refused.error("type"), "invalid_request_error");
        assert!(
            refused
                .error("request_log_url")
                .ends_with(refused.header("request-id").unwrap())
        );
    }
    assert!(shop.sandbox.record().is_empty());
    let missing = shop.get("/v1/payment_intents/pi_nope").await;
    assert_eq!((missing.status, missing.error("code")), (404, "resource_missing"));
    assert_eq!(shop.get("/v1/payment_intents/pi_nope/receipts").await.status, 404);
}

#[tokio::test]
async fn keys_versions_and_content_types_are_checked() {
    let shop = Shop::open().await;
    let url = format!("{}/v1/balance", shop.sandbox.base_url());
    let nobody = shop.http.get(&url).send().await.unwrap();
    assert_eq!(nobody.status(), 401);
    let live = shop.http.get(&url).bearer_auth("sk_live_1").send().await.unwrap();
    assert_eq!(live.status(), 401);
    let basic = shop
        .http
        .get(&url)
        .basic_auth("sk_test_1", Some(""))
        .header("stripe-version", "2024-04-10")
        .send()
        .await
        .unwrap();
    assert_eq!(basic.status(), 200);
    assert_eq!(basic.headers()["stripe-version"], "2024-04-10");
    assert!(basic.headers()["request-id"].to_str().unwrap().starts_with("req_"));
    let json = shop
        .http
        .post(format!("{}/v1/payment_intents", shop.sandbox.base_url()))
        .bearer_auth("sk_test_1")
        .json(&json!({"amount": 100, "currency": "usd"}))
        .send()
        .await
        .unwrap();
    assert_eq!(json.status(), 400);
}

#[tokio::test]
async fn lists_are_paged_newest_first() {
    let shop = Shop::open().await;
    let mut ids = Vec::new();
    for amount in [100, 200, 300] {
        let intent = shop
            .post("/v1/payment_intents", &format!("amount={amount}&currency=usd"))
            .await;
        ids.push(intent.id().to_owned());
        shop.sandbox.advance_clock(Duration::from_secs(10));
    }
    let first = ListPaymentIntent::new().limit(2).send(&shop.stripe).await.unwrap();
    let found: Vec<_> = first.data.iter().map(|intent| intent.id.as_str()).collect();
    assert_eq!((found, first.has_more), (vec![ids[2].as_str(), ids[1].as_str()], true));
    let rest = shop
        .get(&format!("/v1/payment_intents?starting_after={}", ids[1]))
        .await;
    assert_eq!(rest.json["data"][0]["id"], ids[0].as_str());
    assert_eq!(rest.json["has_more"], false);
    let newer = shop
        .get(&format!("/v1/payment_intents?ending_before={}&limit=1", ids[0]))
        .await;
    assert_eq!(newer.json["data"][0]["id"], ids[1].as_str());
    let since = first.data[1].created;
    let range = shop.get(&format!("/v1/payment_intents?created[gte]={since}")).await;
    assert_eq!(range.json["data"].as_array().unwrap().len(), 2);
    assert_eq!(shop.get("/v1/payment_intents?limit=101").await.status, 400);
    assert_eq!(
        shop.get("/v1/payment_intents?starting_after=pi_nope")
            .await
            .error("code"),
        "resource_missing"
    );
}
