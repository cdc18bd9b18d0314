//! Who asks: a bearer access token, checked for signature, time and session.

use std::ops::Deref;

use poem::http::header::AUTHORIZATION;
use poem::{Request, RequestBody};
use poem_openapi::auth::Bearer;
use poem_openapi::registry::Registry;
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions, SecurityScheme};
use roost_shared::telemetry::TraceContext;
use roost_shared::tokens::TokenError;
use roost_shared::users::Role;
use uuid::Uuid;

use crate::error::{ApiError, ApiResult};
use crate::state::AppState;

/// The access token of `POST /auth/login` or `POST /auth/refresh`, good for 15 minutes.
#[derive(Debug, SecurityScheme)]
#[oai(ty = "bearer", bearer_format = "JWT", rename = "AccessToken", checker = "check")]
pub struct Auth(Identity);

/// What the token says.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The signed-in user.
    pub user_id: Uuid,
    /// What the account was made for, when the token was issued.
    pub role: Role,
    /// The session that the token belongs to.
    pub session_id: Uuid,
}

impl Identity {
    /// The scope of the user's idempotency keys.
    #[must_use]
    pub fn scope(&self) -> String {
        self.user_id.to_string()
    }
}

impl From<Identity> for Auth {
    fn from(identity: Identity) -> Self {
        Self(identity)
    }
}

impl Deref for Auth {
    type Target = Identity;

    fn deref(&self) -> &Identity {
        &self.0
    }
}

/// An access token where none is needed: with one, more is shown. One that is not valid is refused all the same.
#[derive(Debug)]
pub struct MaybeAuth(Option<Auth>);

impl MaybeAuth {
    /// The signed-in user, if somebody is.
    #[must_use]
    pub fn user_id(&self) -> Option<Uuid> {
        self.0.as_ref().map(|auth| auth.user_id)
    }
}

impl From<Option<Identity>> for MaybeAuth {
    fn from(identity: Option<Identity>) -> Self {
        Self(identity.map(Auth))
    }
}

impl<'a> ApiExtractor<'a> for MaybeAuth {
    const TYPES: &'static [ApiExtractorType] = Auth::TYPES;

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        Auth::register(registry);
    }

    fn security_schemes() -> Vec<&'static str> {
        Auth::security_schemes()
    }

    fn has_security_fallback() -> bool {
        true
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        if request.headers().contains_key(AUTHORIZATION) {
            Auth::from_request(request, body, options)
                .await
                .map(|auth| Self(Some(auth)))
        } else {
            Ok(Self(None))
        }
    }
}

async fn check(request: &Request, bearer: Bearer) -> poem::Result<Identity> {
    let state = request
        .data::<AppState>()
        .ok_or_else(|| ApiError::internal("the app has no state"))?;
    Ok(authenticate(state, &bearer.token).await?)
}

/// Who holds this access token.
///
/// # Errors
/// 401 if the token or its session has ended, or the token never was one.
pub async fn authenticate(state: &AppState, token: &str) -> ApiResult<Identity> {
    let claims = state
        .tokens
        .verify(token, state.clock.now())
        .map_err(|error| match error {
            TokenError::Expired => ApiError::unauthorized(
                "token_expired",
                "The access token has expired: POST /auth/refresh.",
                Some("invalid_token"),
            ),
            TokenError::Invalid => {
                ApiError::unauthorized("invalid_token", "The access token is not valid.", Some("invalid_token"))
            }
        })?;
    match state.sessions.exists(claims.sid).await {
        Ok(true) => {}
        Ok(false) => {
            return Err(ApiError::unauthorized(
                "invalid_token",
                "The session of this access token has ended.",
                Some("invalid_token"),
            ));
        }
        // Without Redis nobody signs in, but who is signed in goes on until the token ends.
        Err(error) => tracing::warn!(%error, "session not checked"),
    }
    TraceContext::set_actor(claims.sub.to_string());
    Ok(Identity {
        user_id: claims.sub,
        role: claims.role,
        session_id: claims.sid,
    })
}
