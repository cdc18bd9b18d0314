//! Signing in and out, refreshing tokens, and proving an e-mail address.

mod verify_page;

use std::time::Duration;

use async_graphql::{InputObject, SimpleObject};
use chrono::{DateTime, Utc};
use poem::http::Uri;
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::{Html, Json, Response};
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use roost_shared::sessions::{Opened, RefreshError, Session};
use roost_shared::users::{self, User};
use roost_shared::{sessions, tokens};
use uuid::Uuid;

use super::Tag;
use super::users::{NoContent, Profile};
use crate::auth::Auth;
use crate::body::JsonBody;
use crate::client::Client;
use crate::error::{ApiError, ApiResult};
use crate::page::{PageRequest, Paged};
use crate::state::AppState;

/// Operations on sessions.
pub struct AuthApi(pub AppState);

/// Who signs in.
#[derive(Clone, Debug, Object, InputObject)]
#[oai(deny_unknown_fields, example)]
pub struct Credentials {
    /// Of the registration; upper and lower case are the same
    #[oai(validator(min_length = 1, max_length = 254))]
    pub email: String,
    /// Of the registration
    #[oai(validator(min_length = 1, max_length = 128))]
    pub password: String,
}

impl Example for Credentials {
    fn example() -> Self {
        Self {
            email: "ada@example.com".to_owned(),
            password: "correct horse battery staple".to_owned(),
        }
    }
}

/// A refresh token.
#[derive(Clone, Debug, Object, InputObject)]
#[oai(deny_unknown_fields, example)]
pub struct RefreshRequest {
    /// The newest of its session: `rt_…`
    #[oai(validator(min_length = 1, max_length = 200))]
    pub refresh_token: String,
}

impl Example for RefreshRequest {
    fn example() -> Self {
        Self {
            refresh_token: TokenPair::example().refresh_token,
        }
    }
}

/// The tokens of a session.
#[derive(Clone, Debug, Object, SimpleObject)]
#[oai(example)]
pub struct TokenPair {
    /// Send it as `Authorization: Bearer …`
    pub access_token: String,
    /// Always `Bearer`
    pub token_type: String,
    /// Seconds until the access token ends
    pub expires_in: i64,
    /// For `POST /auth/refresh`, once: each refresh gives the next one
    pub refresh_token: String,
    /// Seconds until the refresh token ends if it is not used
    pub refresh_expires_in: i64,
    /// The session
    pub session_id: Uuid,
}

impl Example for TokenPair {
    fn example() -> Self {
        Self {
            access_token: "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiIsImtpZCI6IjFhMmIifQ.eyJ0eXAiOiJhY2Nlc3MifQ.c2ln"
                .to_owned(),
            token_type: "Bearer".to_owned(),
            expires_in: 900,
            refresh_token: "rt_AZq2yG9efDqdDi9PH28KEQ".to_owned(),
            refresh_expires_in: 2_592_000,
            session_id: Uuid::from_u128(0x019a_b6c8_6f5e_7c3a_9d0e_2f4f_1f6f_0a11),
        }
    }
}

/// A device that is signed in.
#[derive(Clone, Debug, Object, SimpleObject)]
#[oai(example)]
pub struct SessionView {
    /// The session
    pub id: Uuid,
    /// The sign-in
    pub created_at: DateTime<Utc>,
    /// The last refresh, or the sign-in
    pub last_used_at: DateTime<Utc>,
    /// The program that signed in
    pub user_agent: Option<String>,
    /// The address that it signed in from
    pub ip: Option<String>,
    /// Whether this request belongs to it
    pub current: bool,
}

impl Example for SessionView {
    fn example() -> Self {
        Self {
            id: TokenPair::example().session_id,
            created_at: DateTime::UNIX_EPOCH + chrono::Duration::days(22_000),
            last_used_at: DateTime::UNIX_EPOCH + chrono::Duration::days(22_000) + chrono::Duration::hours(5),
            user_agent: Some("Mozilla/5.0 (X11; Linux x86_64; rv:146.0) Gecko/20100101 Firefox/146.0".to_owned()),
            ip: Some("192.0.2.7".to_owned()),
            current: true,
        }
    }
}

impl SessionView {
    pub(crate) fn seen_by(session: Session, current: Uuid) -> Self {
        Self {
            current: session.id == current,
            id: session.id,
            created_at: session.created_at,
            last_used_at: session.last_used_at,
            user_agent: session.user_agent,
            ip: session.ip,
        }
    }
}

/// A token from a mail.
#[derive(Clone, Debug, Object, InputObject)]
#[oai(deny_unknown_fields, example)]
pub struct EmailVerification {
    /// From the link in the mail: `ev_…`
    #[oai(validator(min_length = 1, max_length = 200))]
    pub token: String,
}

impl Example for EmailVerification {
    fn example() -> Self {
        Self {
            token: "ev_AZq2yG9efDqdDi9PH28KEQ".to_owned(),
        }
    }
}

#[OpenApi(tag = "Tag::Auth")]
impl AuthApi {
    /// Sign in
    ///
    /// Opens a session. A wrong password and an unknown address get the same reply (401 `invalid_credentials`).
    #[oai(path = "/auth/login", method = "post", operation_id = "login")]
    pub(crate) async fn login(&self, client: Client, body: JsonBody<Credentials>) -> ApiResult<Json<TokenPair>> {
        let state = &self.0;
        let credentials = body.into_inner();
        let (network, account) = (client.network(), credentials.email.to_ascii_lowercase());
        let pair = format!("{network} {account}");
        // One account from one address; then, ten times as often, any account from it and this account from anywhere
        // it has not been seen at: what strangers try keeps nobody out of where they sign in usually.
        let often = state.settings.logins_per_minute;
        let minute = Duration::from_secs(60);
        let limits = [
            ("login", &pair, often),
            ("login-address", &network, often.saturating_mul(10)),
        ];
        for (limit, subject, count) in limits {
            state.limiter.check(limit, subject, count, minute).await?;
        }
        if !state.limiter.is_remembered(&pair).await {
            let count = often.saturating_mul(10);
            state.limiter.check("login-account", &account, count, minute).await?;
        }
        let authenticated = users::authenticate(
            state.db.pool(),
            &state.passwords,
            &credentials.email,
            credentials.password,
        )
        .await?
        .ok_or_else(wrong_credentials)?;
        let user = &authenticated.user;
        let now = state.clock.now();
        let opened = state.sessions.open(user.id, &client.origin(), now).await?;
        // Whoever changed the password meanwhile ended the sessions there were, and perhaps not this one.
        let still = users::is_still_authentic(state.db.pool(), &authenticated).await;
        if !matches!(still, Ok(true)) {
            state.sessions.end(user.id, opened.session_id).await?;
            still?;
            return Err(wrong_credentials());
        }
        state.limiter.remember(&pair).await;
        self.pair(user, opened)
    }

    /// Refresh the tokens of a session
    ///
    /// The refresh token is spent and replaced. One that was spent before ends its session
    /// (401 `refresh_token_reused`), because two parties hold it.
    #[oai(path = "/auth/refresh", method = "post", operation_id = "refresh_session")]
    pub(crate) async fn refresh(&self, body: JsonBody<RefreshRequest>) -> ApiResult<Json<TokenPair>> {
        let state = &self.0;
        let held = state.sessions.holder(&body.refresh_token).await?;
        // Before the token is spent: a client that is told to try again has nothing else to try with.
        let Some(user) = users::find(state.db.pool(), held.user_id()).await? else {
            state.sessions.end(held.user_id(), held.session_id()).await?;
            return Err(RefreshError::Invalid.into());
        };
        let opened = state.sessions.refresh(held, state.clock.now()).await?;
        self.pair(&user, opened)
    }

    /// Sign out
    ///
    /// Ends the session of the access token.
    #[oai(path = "/auth/logout", method = "post", operation_id = "logout")]
    pub(crate) async fn logout(&self, auth: Auth) -> ApiResult<NoContent> {
        self.0.sessions.end(auth.user_id, auth.session_id).await?;
        Ok(NoContent::Done)
    }

    /// Your sessions
    ///
    /// Every device that is signed in, the newest first. There are 50 at most: one more ends the one that was used
    /// longest ago.
    #[oai(path = "/auth/sessions", method = "get", operation_id = "list_sessions")]
    async fn sessions(
        &self,
        auth: Auth,
        /// How many at most
        #[oai(
            default = "crate::page::default_limit",
            validator(minimum(value = "1"), maximum(value = "100"))
        )]
        limit: Query<u16>,
        /// `next_cursor` of the page before
        cursor: Query<Option<String>>,
        uri: &Uri,
    ) -> ApiResult<Paged<SessionView>> {
        let page = PageRequest::<Uuid>::new(limit.0, cursor.0.as_deref(), uri)?;
        let after = page.after().copied();
        let sessions = self.0.sessions.list_after(auth.user_id, after, page.fetch()).await?;
        Ok(page.reply(
            sessions,
            |session| session.id,
            |session| SessionView::seen_by(session, auth.session_id),
        ))
    }

    /// End one of your sessions
    #[oai(path = "/auth/sessions/:session_id", method = "delete", operation_id = "end_session")]
    pub(crate) async fn end_session(
        &self,
        auth: Auth,
        /// The session
        session_id: Path<Uuid>,
    ) -> ApiResult<NoContent> {
        if self.0.sessions.end(auth.user_id, session_id.0).await? {
            Ok(NoContent::Done)
        } else {
            Err(ApiError::not_found("session"))
        }
    }

    /// The page that a verification mail links to
    ///
    /// For people: a button that sends `POST /auth/verify-email`. Reading it spends nothing.
    #[oai(path = "/auth/verify-email", method = "get", operation_id = "get_verification_page")]
    async fn verification_page(
        &self,
        /// From the mail; read by the page itself
        #[oai(name = "token")]
        _token: Query<Option<String>>,
    ) -> ApiResult<Response<Html<&'static str>>> {
        Ok(verify_page::page())
    }

    /// Prove an e-mail address
    ///
    /// With the token that was mailed there. It is good once, for 24 hours.
    #[oai(path = "/auth/verify-email", method = "post", operation_id = "verify_email")]
    pub(crate) async fn verify_email(&self, body: JsonBody<EmailVerification>) -> ApiResult<Json<Profile>> {
        let mut tx = self.0.db.begin().await?;
        let user = users::verify_email(&mut tx, &body.token).await?;
        tx.commit().await?;
        Ok(Json(user.into()))
    }

    /// Send the verification mail again
    ///
    /// 409 `already_verified` if there is nothing left to prove.
    #[oai(
        path = "/auth/verify-email/resend",
        method = "post",
        operation_id = "resend_verification"
    )]
    pub(crate) async fn resend_verification(&self, auth: Auth) -> ApiResult<NoContent> {
        let state = &self.0;
        state
            .limiter
            .check(
                "resend",
                &auth.scope(),
                state.settings.logins_per_minute,
                Duration::from_secs(3600),
            )
            .await?;
        let user = users::find(state.db.pool(), auth.user_id)
            .await?
            .ok_or_else(|| ApiError::not_found("user"))?;
        let mut tx = state.db.begin().await?;
        users::resend_verification(&mut tx, &user)?;
        tx.commit().await?;
        Ok(NoContent::Done)
    }
}

impl AuthApi {
    fn pair(&self, user: &User, opened: Opened) -> ApiResult<Json<TokenPair>> {
        let access_token = self
            .0
            .tokens
            .issue(user.id, opened.session_id, user.role, self.0.clock.now())
            .map_err(ApiError::internal)?;
        Ok(Json(TokenPair {
            access_token,
            token_type: "Bearer".to_owned(),
            expires_in: tokens::LIFETIME.num_seconds(),
            refresh_token: opened.refresh_token,
            refresh_expires_in: sessions::LIFETIME.num_seconds(),
            session_id: opened.session_id,
        }))
    }
}

fn wrong_credentials() -> ApiError {
    ApiError::unauthorized(
        "invalid_credentials",
        "The e-mail address or the password is not right.",
        None,
    )
}

impl From<RefreshError> for ApiError {
    fn from(error: RefreshError) -> Self {
        match error {
            RefreshError::Invalid => Self::unauthorized(
                "invalid_refresh_token",
                "The refresh token is not valid; sign in again.",
                Some("invalid_token"),
            ),
            RefreshError::Reused => {
                tracing::warn!("a spent refresh token came back, its session was ended");
                Self::unauthorized(
                    "refresh_token_reused",
                    "The refresh token was used before; its session has been ended. Sign in again.",
                    Some("invalid_token"),
                )
            }
            RefreshError::Redis(error) => error.into(),
        }
    }
}
