//! The account of whoever asks.

use chrono::{DateTime, Utc};
use poem_openapi::param::Path;
use poem_openapi::payload::Json;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use roost_shared::operators::sessions;
use uuid::Uuid;

use super::OpsAuth;
use crate::body::JsonBody;
use crate::client::Client;
use crate::error::ApiResult;
use crate::ops::{access, account};
use crate::rest::bookings::objects::{example_id, example_instant};
use crate::rest::users::NoContent;
use crate::state::AppState;

/// The operations.
pub struct AccountApi(pub AppState);

/// An operator
#[derive(Object)]
#[oai(example)]
struct AccountView {
    email: String,
    /// `viewer`, `operator` or `admin`
    role: String,
    /// Whether signing in takes a code
    authenticator: bool,
}

impl Example for AccountView {
    fn example() -> Self {
        Self {
            email: "ada@ops.example.com".to_owned(),
            role: "operator".to_owned(),
            authenticator: true,
        }
    }
}

/// A change of password
#[derive(Object)]
#[oai(deny_unknown_fields, example)]
struct NewPassword {
    /// The present one
    #[oai(validator(min_length = 1, max_length = 128))]
    current_password: String,
    /// 12 to 128 characters
    #[oai(validator(min_length = 12, max_length = 128))]
    new_password: String,
}

impl Example for NewPassword {
    fn example() -> Self {
        Self {
            current_password: "correct horse battery staple".to_owned(),
            new_password: "a giraffe on the night train".to_owned(),
        }
    }
}

/// That it is you
#[derive(Object)]
#[oai(deny_unknown_fields, example)]
struct Proof {
    /// Your password or, with an authenticator, a code of it
    #[oai(validator(min_length = 1, max_length = 128))]
    proof: String,
}

impl Example for Proof {
    fn example() -> Self {
        Self {
            proof: "correct horse battery staple".to_owned(),
        }
    }
}

/// A new authenticator
#[derive(Object)]
#[oai(example)]
struct Enrolment {
    /// Base32, for typing
    secret: String,
    /// `otpauth://…`, for a QR code
    url: String,
}

impl Example for Enrolment {
    fn example() -> Self {
        Self {
            secret: "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ".to_owned(),
            url: "otpauth://totp/Roost:ada%40ops.example.com?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=Roost"
                .to_owned(),
        }
    }
}

/// What the new authenticator shows
#[derive(Object)]
#[oai(deny_unknown_fields, example)]
struct Code {
    /// Six digits
    #[oai(validator(min_length = 6, max_length = 8))]
    code: String,
}

impl Example for Code {
    fn example() -> Self {
        Self {
            code: "123456".to_owned(),
        }
    }
}

/// A session of yours
#[derive(Object)]
#[oai(example)]
struct SessionView {
    id: Uuid,
    /// When you signed in
    created_at: DateTime<Utc>,
    /// The last request, to half a minute
    last_seen_at: DateTime<Utc>,
    /// Where you signed in from
    ip: Option<String>,
    user_agent: Option<String>,
    /// Whether it is the one of this request
    current: bool,
}

impl Example for SessionView {
    fn example() -> Self {
        Self {
            id: example_id(7),
            created_at: example_instant(),
            last_seen_at: example_instant(),
            ip: Some("203.0.113.7".to_owned()),
            user_agent: Some("curl/8.10.1".to_owned()),
            current: true,
        }
    }
}

impl AccountApi {
    async fn counted(&self, client: &Client, auth: &OpsAuth) -> ApiResult<()> {
        Ok(access::limit(&self.0, client, &auth.0.operator().email).await?)
    }
}

#[OpenApi]
impl AccountApi {
    /// Your account
    #[oai(path = "/account", method = "get", operation_id = "ops_account")]
    async fn account(&self, auth: OpsAuth) -> ApiResult<Json<AccountView>> {
        let operator = auth.0.operator();
        Ok(Json(AccountView {
            email: operator.email.clone(),
            role: operator.role.name().to_owned(),
            authenticator: operator.has_totp,
        }))
    }

    /// Change your password
    ///
    /// Ends all your other sessions. Counts as a try to sign in, as what follows does.
    #[oai(path = "/account/password", method = "post", operation_id = "ops_change_password")]
    async fn change_password(
        &self,
        auth: OpsAuth,
        client: Client,
        body: JsonBody<NewPassword>,
    ) -> ApiResult<NoContent> {
        self.counted(&client, &auth).await?;
        let change = body.into_inner();
        account::change_password(&self.0, &auth.0, change.current_password, change.new_password).await?;
        Ok(NoContent::Done)
    }

    /// Begin to set up an authenticator
    ///
    /// The first one, or one in place of the present. Nothing changes until it is confirmed, within 15 minutes.
    #[oai(
        path = "/account/authenticator",
        method = "post",
        operation_id = "ops_begin_authenticator"
    )]
    async fn begin(&self, auth: OpsAuth, client: Client, body: JsonBody<Proof>) -> ApiResult<Json<Enrolment>> {
        self.counted(&client, &auth).await?;
        let begun = account::begin_authenticator(&self.0, &auth.0, body.into_inner().proof).await?;
        Ok(Json(Enrolment {
            secret: begun.secret,
            url: begun.url,
        }))
    }

    /// Confirm the new authenticator
    ///
    /// From then on signing in takes a code of it. Ends all your other sessions.
    #[oai(
        path = "/account/authenticator/confirm",
        method = "post",
        operation_id = "ops_confirm_authenticator"
    )]
    async fn confirm(&self, auth: OpsAuth, client: Client, body: JsonBody<Code>) -> ApiResult<NoContent> {
        self.counted(&client, &auth).await?;
        account::confirm_authenticator(&self.0, &auth.0, &body.code).await?;
        Ok(NoContent::Done)
    }

    /// Remove your authenticator
    ///
    /// Signing in takes the password alone then. Ends all your other sessions.
    #[oai(
        path = "/account/authenticator/remove",
        method = "post",
        operation_id = "ops_remove_authenticator"
    )]
    async fn remove(&self, auth: OpsAuth, client: Client, body: JsonBody<Proof>) -> ApiResult<NoContent> {
        self.counted(&client, &auth).await?;
        account::remove_authenticator(&self.0, &auth.0, body.into_inner().proof).await?;
        Ok(NoContent::Done)
    }

    /// Your sessions
    ///
    /// Those that have not ended, the last used first.
    #[oai(path = "/account/sessions", method = "get", operation_id = "ops_sessions")]
    async fn sessions(&self, auth: OpsAuth) -> ApiResult<Json<Vec<SessionView>>> {
        let this = auth.0.session().id;
        let listed = sessions::list(self.0.db.pool(), auth.0.operator(), self.0.clock.now()).await?;
        let views = listed.into_iter().map(|session| SessionView {
            id: session.id,
            created_at: session.created_at,
            last_seen_at: session.last_seen_at,
            ip: session.ip,
            user_agent: session.user_agent,
            current: session.id == this,
        });
        Ok(Json(views.collect()))
    }

    /// End one of your sessions
    #[oai(
        path = "/account/sessions/:session_id",
        method = "delete",
        operation_id = "ops_end_session"
    )]
    async fn end_session(
        &self,
        auth: OpsAuth,
        /// One of yours
        session_id: Path<Uuid>,
    ) -> ApiResult<NoContent> {
        account::end_session(&self.0, &auth.0, session_id.0).await?;
        Ok(NoContent::Done)
    }
}
