//! Signing in and out in GraphQL.

use async_graphql::{Context, Object, Result};
use futures::FutureExt;
use poem_openapi::param::Path;
use uuid::Uuid;

use super::caller::{app, auth, client};
use super::connection::{Page, cost, page};
use super::input::Input;
use super::limits::CHANGE;
use crate::error::ApiError;
use crate::page::PageRequest;
use crate::rest::auth::{AuthApi, Credentials, EmailVerification, RefreshRequest, SessionView, TokenPair};
use crate::rest::users::Profile;

/// What can be read of sessions.
#[derive(Default)]
pub struct SessionQueries;

/// What can be done with sessions.
#[derive(Default)]
pub struct SessionMutations;

#[Object]
impl SessionQueries {
    /// Your sessions: every device that is signed in, the newest first
    #[graphql(complexity = "cost(first, child_complexity)")]
    async fn sessions(
        &self,
        ctx: &Context<'_>,
        #[graphql(default = 20, desc = "How many at most: 1 to 100")] first: i32,
        #[graphql(desc = "The cursor of the last item of the page before")] after: Option<String>,
    ) -> Result<Page<SessionView>> {
        let auth = auth(ctx)?;
        let request = PageRequest::<Uuid>::of_connection(first, after.as_deref())?;
        let before = request.after().copied();
        let sessions = &app(ctx)?.sessions;
        let found = sessions
            .list_after(auth.user_id, before, request.fetch())
            .await
            .map_err(ApiError::from)?;
        let view = |session| SessionView::seen_by(session, auth.session_id);
        Ok(page(&request, found, |session| session.id, view))
    }
}

#[Object]
impl SessionMutations {
    /// Sign in. A wrong password and an unknown address get the same reply (`invalid_credentials`)
    #[graphql(complexity = "CHANGE + child_complexity")]
    async fn login(&self, ctx: &Context<'_>, input: Input<Credentials>) -> Result<TokenPair> {
        Ok(AuthApi(app(ctx)?.clone())
            .login(client(ctx)?, input.into_body())
            .boxed()
            .await?
            .0)
    }

    /// Refresh the tokens of a session. The refresh token is spent and replaced; one that was spent before ends its
    /// session (`refresh_token_reused`)
    #[graphql(complexity = "CHANGE + child_complexity")]
    async fn refresh_session(&self, ctx: &Context<'_>, input: Input<RefreshRequest>) -> Result<TokenPair> {
        Ok(AuthApi(app(ctx)?.clone()).refresh(input.into_body()).boxed().await?.0)
    }

    /// Sign out: ends the session of the access token
    #[graphql(complexity = "CHANGE + child_complexity")]
    async fn logout(&self, ctx: &Context<'_>) -> Result<bool> {
        AuthApi(app(ctx)?.clone()).logout(auth(ctx)?).boxed().await?;
        Ok(true)
    }

    /// End one of your sessions
    #[graphql(complexity = "CHANGE + child_complexity")]
    async fn end_session(&self, ctx: &Context<'_>, id: Uuid) -> Result<bool> {
        AuthApi(app(ctx)?.clone())
            .end_session(auth(ctx)?, Path(id))
            .boxed()
            .await?;
        Ok(true)
    }

    /// Prove an e-mail address with the token that was mailed there
    #[graphql(complexity = "CHANGE + child_complexity")]
    async fn verify_email(&self, ctx: &Context<'_>, input: Input<EmailVerification>) -> Result<Profile> {
        Ok(AuthApi(app(ctx)?.clone())
            .verify_email(input.into_body())
            .boxed()
            .await?
            .0)
    }

    /// Send the verification mail again
    #[graphql(complexity = "CHANGE + child_complexity")]
    async fn resend_verification(&self, ctx: &Context<'_>) -> Result<bool> {
        AuthApi(app(ctx)?.clone())
            .resend_verification(auth(ctx)?)
            .boxed()
            .await?;
        Ok(true)
    }
}
