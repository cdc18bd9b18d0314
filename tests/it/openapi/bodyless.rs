//! Operations that read no body take none, or `{}`.

use roost_tests::app::TestApp;
use roost_tests::ops::Dashboard;

use super::Described;

#[tokio::test(flavor = "multi_thread")]
async fn what_reads_no_body_refuses_one_that_says_something() {
    let app = TestApp::start().await;
    let somebody = app.guest().await;
    let api = Described::api(&app, &somebody).await;
    let dashboard = Described::dashboard(&Dashboard::start(&app.state).await).await;
    let mut asked = Vec::new();
    for described in [&api, &dashboard] {
        for operation in described.operations() {
            if operation.method == "GET" || operation.described.get("requestBody").is_some() {
                continue;
            }
            asked.push(operation.id);
            let call = || operation.call(None, "");
            for field in ["surprise", "reason"] {
                let body = format!("{{\"{field}\": 1}}");
                let refused = call().bytes(body).send().await;
                refused.refused_field(400, "invalid_body", field);
            }
            for body in ["[]", "1", "null", "\"text\""] {
                let refused = call().bytes(body).send().await;
                refused.refused_field(400, "invalid_body", "body");
            }
            for body in ["{", "{} {}", " ", "{\"a\": 1, \"a\": 1}"] {
                call().bytes(body).send().await.refused(400, "invalid_json");
            }
            let form = call().body("application/x-www-form-urlencoded", "surprise=1");
            form.send().await.refused(415, "unsupported_media_type");
            for status in ["400", "413", "415"] {
                let promised = operation.described["responses"].get(status);
                assert!(promised.is_some(), "{} does not tell of {status}", operation.id);
            }
        }
    }
    for known in [
        "logout",
        "resend_verification",
        "check_in_booking",
        "approve_booking",
        "delete_own_user",
    ] {
        assert!(asked.contains(&known), "{known} is not among {asked:?}");
    }
    // None of it was done.
    app.get("/users/me").by(&somebody).send().await.expect(200);

    // Nothing is what is taken, in either spelling.
    let other = app.guest().await;
    let resend = || {
        app.request(reqwest::Method::POST, "/auth/verify-email/resend")
            .by(&other)
    };
    resend().send().await.expect(204);
    resend().bytes("{}").send().await.expect(204);
    resend().bytes("").send().await.expect(204);
    let spelled_otherwise = app.request(reqwest::Method::POST, "/auth/logout/").by(&other);
    let refused = spelled_otherwise.bytes("{\"everywhere\": true}").send().await;
    refused.refused_field(400, "invalid_body", "everywhere");
}

#[tokio::test]
async fn a_refused_body_is_counted_for_its_operation() {
    let metrics = roost_api::server::start_metrics(
        roost_shared::db::connect("postgres://nobody@127.0.0.1:1/none", 1).unwrap(),
        "127.0.0.1:0",
    )
    .await
    .unwrap();
    let app = TestApp::start().await;
    let guest = app.guest().await;
    let path = format!("/bookings/{}/check-in/", uuid::Uuid::now_v7());
    let refused = app.request(reqwest::Method::POST, &path).by(&guest);
    refused
        .bytes("{\"early\": true}")
        .send()
        .await
        .refused_field(400, "invalid_body", "early");
    let page = reqwest::get(format!("http://{}/metrics", metrics.address()))
        .await
        .unwrap();
    let text = page.text().await.unwrap();
    let line = "roost_http_requests_total{method=\"POST\",operation=\"check_in_booking\",status=\"400\"}";
    assert!(text.contains(line), "{line} is not in\n{text}");
}
