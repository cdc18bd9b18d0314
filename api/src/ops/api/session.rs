//! Signing in.

use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};

use crate::body::JsonBody;
use crate::client::Client;
use crate::error::{ApiError, ApiResult};
use crate::ops::access;
use crate::state::AppState;

/// The operations.
pub struct SessionApi(pub AppState);

/// Who signs in
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct Credentials {
    /// Of the operator
    #[oai(validator(min_length = 1, max_length = 254))]
    email: String,
    /// Of the operator
    #[oai(validator(min_length = 1, max_length = 128))]
    password: String,
    /// Of the authenticator, if one is set up
    code: Option<String>,
}

/// A session
#[derive(Object)]
struct Session {
    /// Send it as `Authorization: Bearer …`
    token: String,
    /// `viewer`, `operator` or `admin`
    role: String,
}

#[OpenApi]
impl SessionApi {
    /// Sign in
    #[oai(path = "/session", method = "post", operation_id = "ops_sign_in")]
    async fn sign_in(&self, client: Client, body: JsonBody<Credentials>) -> ApiResult<Json<Session>> {
        let code = body.code.as_deref().unwrap_or_default();
        let signed = access::sign_in(&self.0, &client, &body.email, &body.password, code).await?;
        let (operator, opened) = signed.ok_or_else(|| {
            ApiError::unauthorized(
                "invalid_credentials",
                "The e-mail address, the password or the code is not right.",
                None,
            )
        })?;
        Ok(Json(Session {
            token: opened.token,
            role: operator.role.name().to_owned(),
        }))
    }
}
