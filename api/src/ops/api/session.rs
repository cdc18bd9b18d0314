//! Signing in and out.

use poem_openapi::payload::Json;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};

use super::OpsAuth;
use crate::body::JsonBody;
use crate::client::Client;
use crate::error::{ApiError, ApiResult};
use crate::ops::access;
use crate::rest::users::NoContent;
use crate::state::AppState;

/// The operations.
pub struct SessionApi(pub AppState);

/// Who signs in
#[derive(Object)]
#[oai(deny_unknown_fields, example)]
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

impl Example for Credentials {
    fn example() -> Self {
        Self {
            email: "ada@ops.example.com".to_owned(),
            password: "correct horse battery staple".to_owned(),
            code: Some("123456".to_owned()),
        }
    }
}

/// A session
#[derive(Object)]
#[oai(example)]
struct Session {
    /// Send it as `Authorization: Bearer …`
    token: String,
    /// `viewer`, `operator` or `admin`
    role: String,
}

impl Example for Session {
    fn example() -> Self {
        Self {
            token: "q3fXk9vVxkJb0s2mY7pQ4wT8uZ1cR5dN6hL0aE3gI2o".to_owned(),
            role: "operator".to_owned(),
        }
    }
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

    /// Sign out
    ///
    /// Ends the session of the token.
    #[oai(path = "/session", method = "delete", operation_id = "ops_sign_out")]
    async fn sign_out(&self, auth: OpsAuth) -> ApiResult<NoContent> {
        auth.0.end(&self.0).await?;
        Ok(NoContent::Done)
    }
}
