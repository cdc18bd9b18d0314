//! An account from registering to leaving.

use roost_shared::users;
use roost_tests::app::{Actor, PASSWORD, TestApp};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{ask, data, refused, refused_field};

const CHANGE_PASSWORD: &str = "mutation($input: PasswordChange!) { changePassword(input: $input) }";
const END_SESSION: &str = "mutation($id: UUID!) { endSession(id: $id) }";
const REFRESH: &str =
    "mutation($token: String!) { refreshSession(input: {refreshToken: $token}) { accessToken refreshToken } }";
const VERIFY: &str = "mutation($token: String!) { verifyEmail(input: {token: $token}) { emailVerified } }";

async fn verification_token(app: &TestApp, actor: &Actor) -> String {
    let mut tx = app.state.db.begin().await.unwrap();
    let token = users::create_verification(&mut tx, actor.id.parse().unwrap())
        .await
        .unwrap();
    tx.commit().await.unwrap();
    token.unwrap()
}

#[tokio::test]
async fn an_account_is_changed_by_its_owner_and_left() {
    let app = TestApp::start().await;
    let guest = app.guest().await;
    let own = async |query: &str, variables: Value| {
        let reply = ask(&app, query, &variables).by(&guest).send().await;
        data(&reply)
    };
    let token = verification_token(&app, &guest).await;
    assert_eq!(
        own("{ me { emailVerified } }", json!({})).await["me"]["emailVerified"],
        false
    );
    let verified = ask(&app, VERIFY, &json!({"token": token})).send().await;
    assert_eq!(data(&verified)["verifyEmail"]["emailVerified"], true);
    refused(
        &ask(&app, VERIFY, &json!({"token": token})).send().await,
        200,
        "verification_invalid",
    );
    let resend = ask(&app, "mutation { resendVerification }", &json!({})).by(&guest);
    refused(&resend.send().await, 200, "already_verified");

    let change = "mutation { updateOwnUser(input: {fullName: \"Ada King\"}) { fullName email } }";
    let changed = own(change, json!({})).await["updateOwnUser"].clone();
    assert_eq!(changed, json!({"fullName": "Ada King", "email": guest.email}));

    // A new password ends the other sessions, and the tokens of one are replaced.
    app.login(&guest.email, PASSWORD).await;
    let sessions = "{ sessions { nodes { id current } } }";
    assert_eq!(
        own(sessions, json!({})).await["sessions"]["nodes"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let new = json!({"input": {"currentPassword": PASSWORD, "newPassword": "a new long password"}});
    assert_eq!(own(CHANGE_PASSWORD, new).await["changePassword"], true);
    assert_eq!(
        own(sessions, json!({})).await["sessions"]["nodes"],
        json!([{"id": guest.session_id, "current": true}])
    );
    let refresh = async || ask(&app, REFRESH, &json!({"token": guest.refresh_token})).send().await;
    assert!(data(&refresh().await)["refreshSession"]["accessToken"].is_string());
    let body = refresh().await.json();
    let code = &body["errors"][0]["extensions"]["code"];
    assert_eq!(code, "refresh_token_reused", "{body}");

    let guest = app.login(&guest.email, "a new long password").await;
    let left = ask(&app, "mutation { deleteOwnUser }", &json!({}))
        .by(&guest)
        .send()
        .await;
    assert_eq!(data(&left)["deleteOwnUser"], true);
    let me = ask(&app, "{ me { id } }", &json!({})).by(&guest).send().await;
    refused(&me, 401, "invalid_token");
    let somebody = app.guest().await;
    let user = "query($id: UUID!) { user(id: $id) { __typename } }";
    let gone = ask(&app, user, &json!({"id": guest.id})).by(&somebody).send().await;
    assert_eq!(refused(&gone, 200, "not_found")["data"], json!({"user": null}));
}

#[tokio::test]
async fn strangers_and_bad_input_are_refused() {
    let app = TestApp::start().await;
    let (guest, stranger) = (app.guest().await, app.host().await);
    let by = async |actor: &Actor, query: &str, variables: Value| ask(&app, query, &variables).by(actor).send().await;

    // Somebody else's session is not there, and stays.
    let session = json!({"id": guest.session_id});
    refused(&by(&stranger, END_SESSION, session.clone()).await, 200, "not_found");
    data(&by(&guest, "{ me { id } }", json!({})).await);
    refused_field(
        &by(&guest, END_SESSION, json!({"id": "nonsense"})).await,
        200,
        "invalid_query",
        "id",
    );
    let user = "query($id: UUID!) { user(id: $id) { __typename ... on Profile { email } ... on PublicProfile { firstName } } }";
    let seen = data(&by(&stranger, user, json!({"id": guest.id})).await);
    assert_eq!(
        seen["user"],
        json!({"__typename": "PublicProfile", "firstName": "Grace"})
    );
    refused(&by(&stranger, user, json!({"id": Uuid::nil()})).await, 200, "not_found");
    refused(
        &ask(&app, user, &json!({"id": guest.id})).send().await,
        200,
        "unauthorized",
    );

    for (current, new, code, field) in [
        (PASSWORD, "short", "invalid_body", "newPassword"),
        (PASSWORD, PASSWORD, "validation_failed", "newPassword"),
        (PASSWORD, &guest.email, "validation_failed", "newPassword"),
    ] {
        let input = json!({"input": {"currentPassword": current, "newPassword": new}});
        refused_field(&by(&guest, CHANGE_PASSWORD, input).await, 200, code, field);
    }
    let input = json!({"input": {"currentPassword": "not the password", "newPassword": "a new long password"}});
    refused(&by(&guest, CHANGE_PASSWORD, input).await, 200, "wrong_password");
    let reply = ask(&app, REFRESH, &json!({"token": "rt_nonsense"})).send().await;
    refused(&reply, 200, "invalid_refresh_token");
    let reply = ask(&app, REFRESH, &json!({"token": "x".repeat(201)})).send().await;
    refused_field(&reply, 200, "invalid_body", "refreshToken");
    let body = refused(&reply, 200, "invalid_body");
    let message = body["errors"][0]["message"].as_str().unwrap();
    assert!(message.contains("refreshToken:"), "{body}");
    let wrong = "mutation { updateOwnUser(input: {fullName: \"\"}) { id } }";
    refused_field(&by(&guest, wrong, json!({})).await, 200, "invalid_body", "fullName");
    assert_eq!(data(&by(&guest, END_SESSION, session).await)["endSession"], true);
    refused(&by(&guest, "{ me { id } }", json!({})).await, 401, "invalid_token");
}
