//! What operators change about themselves: password, authenticator, sessions, on the page and over JSON.

use chrono::TimeDelta;
use roost_shared::operators::{self, Role, audit};
use roost_tests::app::TestApp;
use roost_tests::ops::{Browser, Dashboard, PASSWORD};
use serde_json::{Value, json};
use uuid::Uuid;

const EMAIL: &str = "operator@ops.example.com";
const NEW: &str = "a password after the first";

/// What the operator did to the account, the oldest first; without signing in.
async fn written(app: &TestApp) -> Vec<String> {
    let mut entries = audit::list(app.state.db.pool(), None, 50).await.unwrap();
    entries.reverse();
    let own = entries
        .into_iter()
        .filter(|entry| entry.actor == EMAIL && entry.target == EMAIL);
    own.map(|entry| entry.action)
        .filter(|action| action != "operator.sign_in")
        .collect()
}

/// Where a page leads whose session has ended.
async fn is_out(browser: &Browser) -> bool {
    browser.get("/ops").await.location == "/ops/login"
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_changed_by_whoever_knows_the_one_before() {
    let app = TestApp::start().await;
    let ops = Dashboard::start(&app.state).await;
    let browser = ops.signed_in(Role::Operator).await;
    let other = ops.opens(EMAIL, PASSWORD, "").await;
    let somebody_else = ops.signed_in(Role::Viewer).await;
    let change = async |current: &str, new: &str| {
        let form = [("current_password", current), ("new_password", new)];
        browser.post("/ops/account/password", &form).await
    };
    change("not the password", NEW)
        .await
        .is(422)
        .says("the current password is not right");
    change(PASSWORD, "too short").await.is(422).says("12 to 128 characters");
    let form = [("current_password", PASSWORD), ("new_password", NEW)];
    browser.post_without_token("/ops/account/password", &form).await.is(403);
    assert!(!is_out(&other).await && written(&app).await.is_empty());

    let location = change(PASSWORD, NEW).await.is(303).location;
    browser.get(&location).await.is(200).says("Password changed.");
    assert!(is_out(&other).await, "their other sessions end");
    assert!(!is_out(&somebody_else).await);
    change(PASSWORD, NEW).await.is(422);
    ops.signs_in(EMAIL, PASSWORD, "").await.is(401);
    ops.signs_in(EMAIL, NEW, "").await.is(303);
    assert_eq!(written(&app).await, ["operator.password"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_at_an_open_desk_are_counted_with_those_at_the_door() {
    let app = TestApp::start_with(|settings| settings.logins_per_minute = 3).await;
    let ops = Dashboard::start(&app.state).await;
    let browser = ops.signed_in(Role::Operator).await;
    let remove = async || {
        let proof = [("proof", "a guess of some length")];
        browser.post("/ops/account/authenticator", &proof).await
    };
    remove().await.is(422);
    remove().await.is(422);
    let form = [("current_password", PASSWORD), ("new_password", NEW)];
    for path in [
        "password",
        "authenticator",
        "authenticator/confirm",
        "authenticator/remove",
    ] {
        let refused = browser.post(&format!("/ops/account/{path}"), &form).await.is(429);
        assert_eq!(refused.headers["retry-after"], "60", "{path}");
    }
    ops.signs_in(EMAIL, PASSWORD, "").await.is(429);
    app.clock.advance(TimeDelta::seconds(61));
    browser.post("/ops/account/password", &form).await.is(303);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authenticator_is_set_up_replaced_and_removed() {
    let app = TestApp::start().await;
    let ops = Dashboard::start(&app.state).await;
    let browser = ops.signed_in(Role::Operator).await;
    let begin = async |proof: &str| browser.post("/ops/account/authenticator", &[("proof", proof)]).await;
    let remove = async |proof: &str| {
        browser
            .post("/ops/account/authenticator/remove", &[("proof", proof)])
            .await
    };
    // Later, so that a code is of another step than the one before.
    let next = |secret: &str| {
        app.clock.advance(TimeDelta::seconds(60));
        operators::code_at(secret, app.clock.now()).unwrap()
    };

    assert_eq!(browser.shown_key().await, None, "nothing is begun by looking");
    begin("not the password").await.is(422);
    begin("123456").await.is(422).says("neither your password nor a code");
    remove(PASSWORD).await.is(409);
    browser.confirms("123456").await.is(409);

    // It waits for a quarter of an hour.
    let late = browser.new_key(PASSWORD).await;
    app.clock.advance(TimeDelta::minutes(15));
    assert_eq!(browser.shown_key().await, None);
    browser.confirms(&next(&late)).await.is(409);

    let first = browser.new_key(PASSWORD).await;
    assert_ne!(first, late);
    let other = ops.opens(EMAIL, PASSWORD, "").await;
    browser.confirms(&next(&late)).await.is(422);
    browser.confirms(&next(&first)).await.is(303);
    assert!(is_out(&other).await, "a session without the second factor ends");
    ops.signs_in(EMAIL, PASSWORD, "").await.is(401);

    // Another one, on the strength of a code that is good once; until it is confirmed the first is asked for.
    let code = next(&first);
    let second = browser.new_key(&code).await;
    begin(&code).await.is(422);
    ops.signs_in(EMAIL, PASSWORD, &next(&second)).await.is(401);
    let other = ops.opens(EMAIL, PASSWORD, &next(&first)).await;
    browser.confirms(&next(&second)).await.is(303);
    assert!(is_out(&other).await);
    ops.signs_in(EMAIL, PASSWORD, &next(&first)).await.is(401);
    ops.signs_in(EMAIL, PASSWORD, &next(&second)).await.is(303);

    remove(&next(&first)).await.is(422);
    remove(&next(&second)).await.is(303);
    ops.signs_in(EMAIL, PASSWORD, "").await.is(303);
    assert_eq!(
        written(&app).await,
        ["operator.totp_on", "operator.totp_replace", "operator.totp_off"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_ends_their_sessions_and_nobody_elses() {
    let app = TestApp::start().await;
    let ops = Dashboard::start(&app.state).await;
    let browser = ops.signed_in(Role::Operator).await;
    let other = ops.opens(EMAIL, PASSWORD, "").await;
    let somebody_else = ops.signed_in(Role::Viewer).await;
    let buttons = async |browser: &Browser| -> Vec<String> {
        let page = browser.get("/ops/account").await.is(200);
        page.says("this one");
        page.says("127.0.0.1");
        let forms = page.html.split("action=\"/ops/account/sessions/").skip(1);
        forms.map(|form| form.split('"').next().unwrap().to_owned()).collect()
    };
    let listed = buttons(&browser).await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert!(buttons(&somebody_else).await.is_empty());
    let end = format!("/ops/account/sessions/{}", listed[0]);
    somebody_else.post(&end, &[]).await.is(404);
    browser.post_without_token(&end, &[]).await.is(403);
    assert!(!is_out(&other).await);
    browser.post(&end, &[]).await.is(303);
    assert!(is_out(&other).await && !is_out(&browser).await);
    for gone in [
        end,
        format!("/ops/account/sessions/{}/end", Uuid::now_v7()),
        "/ops/account/sessions/x/end".to_owned(),
    ] {
        browser.post(&gone, &[]).await.is(404);
    }
    assert!(buttons(&browser).await.is_empty());
    assert_eq!(written(&app).await, ["operator.session_end"]);
    let ended = &audit::list(app.state.db.pool(), None, 1).await.unwrap()[0];
    assert_eq!(ended.before.as_ref().unwrap()["ip"], "127.0.0.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_look_after_their_account_as_well() {
    let app = TestApp::start().await;
    let ops = Dashboard::start(&app.state).await;
    let somebody_else = ops.signed_in(Role::Viewer).await;
    let email = ops.make(Role::Operator).await;
    let token = ops.token(&email).await;
    let other = ops.opens(&email, PASSWORD, "").await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = |path: &str| format!("{}/ops/api/account{path}", ops.base);
    let get = async |path: &str| -> Value {
        let reply = http.get(url(path)).bearer_auth(&token).send().await.unwrap();
        reply.json().await.unwrap()
    };
    let post = async |path: &str, body: Value| -> (u16, Value) {
        let reply = http
            .post(url(path))
            .bearer_auth(&token)
            .json(&body)
            .send()
            .await
            .unwrap();
        (reply.status().as_u16(), reply.json().await.unwrap_or_default())
    };
    let refusal = |(status, problem): &(u16, Value)| {
        let field = problem["errors"][0]["field"].as_str().unwrap_or_default().to_owned();
        (*status, problem["code"].as_str().unwrap_or_default().to_owned(), field)
    };
    let refused = |status: u16, code: &str, field: &str| (status, code.to_owned(), field.to_owned());

    assert_eq!(
        get("").await,
        json!({"email": email, "role": "operator", "authenticator": false})
    );
    let passwords = |current: &str, new: &str| json!({"current_password": current, "new_password": new});
    let told = post("/password", passwords("not the password", NEW)).await;
    assert_eq!(refusal(&told), refused(422, "wrong_password", "current_password"));
    let told = post("/password", passwords(PASSWORD, "too short")).await;
    assert_eq!(refusal(&told), refused(400, "invalid_body", "new_password"));

    let listed = get("/sessions").await;
    let (this, others): (Vec<&Value>, Vec<&Value>) = listed
        .as_array()
        .unwrap()
        .iter()
        .partition(|one| one["current"] == true);
    assert_eq!((this.len(), others.len()), (1, 1), "{listed}");
    let end = async |id: &str| {
        let sent = http.delete(url(&format!("/sessions/{id}"))).bearer_auth(&token).send();
        sent.await.unwrap().status().as_u16()
    };
    let theirs: Uuid = sqlx::query_scalar(
        "SELECT s.id FROM operator_sessions s JOIN operators o ON o.id = s.operator_id WHERE o.role = 'viewer'",
    )
    .fetch_one(app.state.db.pool())
    .await
    .unwrap();
    assert_eq!(end(&theirs.to_string()).await, 404);
    assert!(!is_out(&somebody_else).await && !is_out(&other).await);
    assert_eq!(end(others[0]["id"].as_str().unwrap()).await, 204);
    assert!(is_out(&other).await);

    let told = post("/authenticator", json!({"proof": "not the password"})).await;
    assert_eq!(refusal(&told), refused(422, "not_proven", "proof"));
    let told = post("/authenticator/remove", json!({"proof": PASSWORD})).await;
    assert_eq!(refusal(&told), refused(409, "wrong_state", ""));
    let (status, begun) = post("/authenticator", json!({"proof": PASSWORD})).await;
    assert_eq!(status, 200, "{begun}");
    let secret = begun["secret"].as_str().unwrap();
    assert!(begun["url"].as_str().unwrap().contains(secret), "{begun}");
    let told = post("/authenticator/confirm", json!({"code": "000000"})).await;
    assert_eq!(refusal(&told), refused(422, "wrong_code", "code"));
    let code = operators::code_at(secret, app.clock.now()).unwrap();
    assert_eq!(post("/authenticator/confirm", json!({"code": code})).await.0, 204);
    assert_eq!(get("").await["authenticator"], true);
    assert_eq!(post("/authenticator/remove", json!({"proof": PASSWORD})).await.0, 204);
    assert_eq!(post("/password", passwords(PASSWORD, NEW)).await.0, 204);
    assert_eq!(get("").await["authenticator"], false, "this session stays");
    let all = ["session_end", "totp_on", "totp_off", "password"].map(|action| format!("operator.{action}"));
    assert_eq!(written(&app).await, all);
}
