//! Accounts in GraphQL.

use async_graphql::{Context, Object, Result};
use futures::FutureExt;
use poem_openapi::param::Path;
use uuid::Uuid;

use super::caller::{app, auth, client, rows};
use super::connection::replayed;
use super::input::Input;
use super::limits::CHANGE;
use super::loaders::{UserId, forget};
use crate::idempotency::Idempotency;
use crate::rest::users::{PasswordChange, Profile, ProfilePatch, PublicProfile, Registration, UserView, UsersApi};

/// What can be read of accounts.
#[derive(Default)]
pub struct UserQueries;

/// What can be done with accounts.
#[derive(Default)]
pub struct UserMutations;

#[Object]
impl UserQueries {
    /// Your own profile
    async fn me(&self, ctx: &Context<'_>) -> Result<Profile> {
        Ok(UsersApi(app(ctx)?.clone()).own(auth(ctx)?).boxed().await?.0)
    }

    /// A user: your own profile whole, somebody else's only as far as it is public
    async fn user(&self, ctx: &Context<'_>, id: Uuid) -> Option<Result<UserView>> {
        let read = async { Ok(UsersApi(app(ctx)?.clone()).get(auth(ctx)?, Path(id)).boxed().await?.0) };
        Some(read.boxed().await)
    }
}

#[Object]
impl UserMutations {
    /// Register: makes an account and sends a mail that proves the address. Needs no access token
    #[graphql(complexity = "CHANGE + child_complexity")]
    async fn register_user(
        &self,
        ctx: &Context<'_>,
        input: Input<Registration>,
        #[graphql(desc = "The same key gets the first reply again, for 24 hours")] idempotency_key: Option<String>,
    ) -> Result<Profile> {
        let idempotency = Idempotency::of_operation(idempotency_key.as_deref(), "registerUser")?;
        let users = UsersApi(app(ctx)?.clone());
        replayed(
            ctx,
            users
                .register(client(ctx)?, idempotency, input.into_body())
                .boxed()
                .await?,
        )
    }

    /// Change your own profile. What is left out stays as it is
    #[graphql(complexity = "CHANGE + child_complexity")]
    async fn update_own_user(&self, ctx: &Context<'_>, input: Input<ProfilePatch>) -> Result<Profile> {
        forget(ctx)?;
        let users = UsersApi(app(ctx)?.clone());
        Ok(users.update_own(auth(ctx)?, input.into_body()).boxed().await?.0)
    }

    /// Delete your own account: signs you out everywhere and erases what is personal. Refused (`open_bookings`) while
    /// bookings as guest or host are open
    #[graphql(complexity = "CHANGE + child_complexity")]
    async fn delete_own_user(&self, ctx: &Context<'_>) -> Result<bool> {
        forget(ctx)?;
        UsersApi(app(ctx)?.clone()).delete_own(auth(ctx)?).boxed().await?;
        Ok(true)
    }

    /// Change your password. Ends all your other sessions
    #[graphql(complexity = "CHANGE + child_complexity")]
    async fn change_password(&self, ctx: &Context<'_>, input: Input<PasswordChange>) -> Result<bool> {
        let users = UsersApi(app(ctx)?.clone());
        users.change_password(auth(ctx)?, input.into_body()).boxed().await?;
        Ok(true)
    }
}

/// What everybody may know of a user; nobody once the account is deleted.
pub async fn public_profile(ctx: &Context<'_>, id: Uuid) -> Result<Option<PublicProfile>> {
    let user = rows(ctx)?.load_one(UserId(id)).boxed().await?;
    Ok(user.map(PublicProfile::from))
}
