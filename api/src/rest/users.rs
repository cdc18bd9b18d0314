//! Accounts: registering, the profile, the password, and leaving.

use std::time::Duration;

use async_graphql::{InputObject, SimpleObject};
use chrono::{DateTime, Datelike, Utc};
use futures::StreamExt;
use poem_openapi::param::Path;
use poem_openapi::payload::Json;
use poem_openapi::types::Example;
use poem_openapi::{ApiResponse, Enum, Object, OpenApi, Union};
use roost_shared::users::{self, NewUser, PasswordError, ProfileChange, User, UserError};
use uuid::Uuid;

use super::Tag;
use crate::auth::Auth;
use crate::body::JsonBody;
use crate::client::Client;
use crate::error::{ApiError, ApiResult};
use crate::idempotency::{Begun, Created, Idempotency};
use crate::state::AppState;
use crate::validate::Checks;

const LOCALE_MESSAGE: &str = "must be a BCP 47 tag such as en-GB";
/// Properties that the fleet's caches are told of at a time.
const MOST_AT_ONCE: usize = 16;

/// Operations on accounts.
pub struct UsersApi(pub AppState);

/// What an account was made for; both may book.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum, async_graphql::Enum)]
#[oai(rename_all = "lowercase")]
pub enum Role {
    /// Books stays
    Guest,
    /// Lists properties, and books stays
    Host,
}

impl From<users::Role> for Role {
    fn from(role: users::Role) -> Self {
        match role {
            users::Role::Guest => Self::Guest,
            users::Role::Host => Self::Host,
        }
    }
}

impl From<Role> for users::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Guest => Self::Guest,
            Role::Host => Self::Host,
        }
    }
}

/// A registration.
#[derive(Clone, Debug, Object, InputObject)]
#[oai(deny_unknown_fields, example)]
pub struct Registration {
    /// Where mail reaches you. Upper and lower case are the same
    #[oai(validator(min_length = 3, max_length = 254))]
    pub email: String,
    /// 12 to 128 characters, and not your e-mail address
    #[oai(validator(min_length = 12, max_length = 128))]
    pub password: String,
    /// As you write it
    #[oai(validator(min_length = 1, max_length = 200))]
    pub full_name: String,
    /// What the account is for
    pub role: Role,
    /// A BCP 47 tag: how mail writes amounts and dates to you. Default: `en`
    #[oai(validator(min_length = 2, max_length = 35))]
    pub locale: Option<String>,
}

impl Example for Registration {
    fn example() -> Self {
        Self {
            email: "ada@example.com".to_owned(),
            password: "correct horse battery staple".to_owned(),
            full_name: "Ada Lovelace".to_owned(),
            role: Role::Guest,
            locale: Some("en-GB".to_owned()),
        }
    }
}

/// Your own profile.
#[derive(Clone, Debug, Object, SimpleObject)]
#[oai(example)]
pub struct Profile {
    /// The account
    pub id: Uuid,
    /// In lower case
    pub email: String,
    /// Whether the address was proved to be yours
    pub email_verified: bool,
    /// As you write it
    pub full_name: String,
    /// What the account was made for
    pub role: Role,
    /// How mail writes amounts and dates to you
    pub locale: String,
    /// The registration
    pub created_at: DateTime<Utc>,
    /// The last change
    pub updated_at: DateTime<Utc>,
}

impl Example for Profile {
    fn example() -> Self {
        Self {
            id: Uuid::from_u128(0x019a_b6c8_6f5e_7c3a_9d0e_2f4f_1f6f_0a11),
            email: "ada@example.com".to_owned(),
            email_verified: true,
            full_name: "Ada Lovelace".to_owned(),
            role: Role::Guest,
            locale: "en-GB".to_owned(),
            created_at: DateTime::UNIX_EPOCH + chrono::Duration::days(22_000),
            updated_at: DateTime::UNIX_EPOCH + chrono::Duration::days(22_000),
        }
    }
}

impl From<User> for Profile {
    fn from(user: User) -> Self {
        Self {
            id: user.id,
            email: user.email,
            email_verified: user.email_verified_at.is_some(),
            full_name: user.full_name,
            role: user.role.into(),
            locale: user.locale,
            created_at: user.created_at,
            updated_at: user.updated_at,
        }
    }
}

/// What everybody may know of a user.
#[derive(Clone, Debug, Object, SimpleObject)]
#[oai(example)]
pub struct PublicProfile {
    /// The account
    pub id: Uuid,
    /// The first word of the name
    pub first_name: String,
    /// What the account was made for
    pub role: Role,
    /// The month of the registration: `2026-11`
    pub joined: String,
}

impl Example for PublicProfile {
    fn example() -> Self {
        Self {
            id: Profile::example().id,
            first_name: "Ada".to_owned(),
            role: Role::Guest,
            joined: "2030-03".to_owned(),
        }
    }
}

impl From<User> for PublicProfile {
    fn from(user: User) -> Self {
        Self {
            id: user.id,
            first_name: user.full_name.split_whitespace().next().unwrap_or_default().to_owned(),
            role: user.role.into(),
            joined: format!("{:04}-{:02}", user.created_at.year(), user.created_at.month()),
        }
    }
}

/// A user, as much as the asker may know.
#[derive(Clone, Debug, Union, async_graphql::Union)]
pub enum UserView {
    /// Your own profile
    Own(Profile),
    /// Somebody else's
    Public(PublicProfile),
}

/// What to change of a profile. What is left out stays.
#[derive(Clone, Debug, Default, Object, InputObject)]
#[oai(deny_unknown_fields, example)]
pub struct ProfilePatch {
    /// As you write it
    #[oai(validator(min_length = 1, max_length = 200))]
    pub full_name: Option<String>,
    /// A BCP 47 tag
    #[oai(validator(min_length = 2, max_length = 35))]
    pub locale: Option<String>,
    /// `host`: you may list properties from now on. There is no way back
    pub role: Option<Role>,
}

impl Example for ProfilePatch {
    fn example() -> Self {
        Self {
            full_name: Some("Ada King".to_owned()),
            locale: Some("en-GB".to_owned()),
            role: None,
        }
    }
}

/// A change of password.
#[derive(Clone, Debug, Object, InputObject)]
#[oai(deny_unknown_fields, example)]
pub struct PasswordChange {
    /// The present one
    #[oai(validator(min_length = 1, max_length = 128))]
    pub current_password: String,
    /// 12 to 128 characters, and not your e-mail address
    #[oai(validator(min_length = 12, max_length = 128))]
    pub new_password: String,
}

impl Example for PasswordChange {
    fn example() -> Self {
        Self {
            current_password: Registration::example().password,
            new_password: "a giraffe on the night train".to_owned(),
        }
    }
}

/// Done; there is nothing to say.
#[derive(ApiResponse)]
pub enum NoContent {
    /// Done
    #[oai(status = 204)]
    Done,
}

#[OpenApi(tag = "Tag::Users")]
impl UsersApi {
    /// Register
    ///
    /// Makes an account and sends a mail that proves the address; the account can be used at once. Sign in with
    /// `POST /auth/login`.
    #[oai(path = "/users", method = "post", operation_id = "register_user")]
    pub(crate) async fn register(
        &self,
        client: Client,
        idempotency: Idempotency,
        body: JsonBody<Registration>,
    ) -> ApiResult<Created<Profile>> {
        let state = &self.0;
        state
            .limiter
            .check(
                "register",
                &client.network(),
                state.settings.registrations_per_hour,
                Duration::from_secs(3600),
            )
            .await?;
        let email = users::normalise_email(&body.email);
        let locale = body.locale.clone().unwrap_or_else(|| "en".to_owned());
        Checks::new()
            .field("email", email.is_some(), "must be an e-mail address")
            .text("full_name", &body.full_name, 1, 200)
            .field("locale", is_language_tag(&locale), LOCALE_MESSAGE)
            .field(
                "password",
                !body.password.eq_ignore_ascii_case(&body.email),
                "must not be your e-mail address",
            )
            .finish()?;
        let password_hash = state
            .passwords
            .hash(body.password.clone())
            .await
            .map_err(UserError::from)?;
        // Strangers share no keys: one must not find out another's.
        let scope = format!("anonymous:{}", client.network());
        let mut work = match idempotency.begin(state, &scope, body.raw()).await? {
            Begun::Replay(stored) => return Ok(stored.into()),
            Begun::Work(work) => work,
        };
        let user = users::register(
            work.tx(),
            NewUser {
                email: email.unwrap_or_default(),
                password_hash,
                full_name: body.full_name.trim().to_owned(),
                role: body.role.into(),
                locale,
            },
        )
        .await?;
        let location = format!("/users/{}", user.id);
        work.created(&location, &Profile::from(user)).await
    }

    /// Your own profile
    #[oai(path = "/users/me", method = "get", operation_id = "get_own_user")]
    pub(crate) async fn own(&self, auth: Auth) -> ApiResult<Json<Profile>> {
        let user = users::find(self.0.db.pool(), auth.user_id).await?;
        Ok(Json(user.ok_or_else(|| ApiError::not_found("user"))?.into()))
    }

    /// A user
    ///
    /// Your own profile whole, somebody else's only as far as it is public.
    #[oai(path = "/users/:user_id", method = "get", operation_id = "get_user")]
    pub(crate) async fn get(
        &self,
        auth: Auth,
        /// The user
        user_id: Path<Uuid>,
    ) -> ApiResult<Json<UserView>> {
        let user = users::find(self.0.db.pool(), user_id.0)
            .await?
            .ok_or_else(|| ApiError::not_found("user"))?;
        Ok(Json(if user.id == auth.user_id {
            UserView::Own(user.into())
        } else {
            UserView::Public(user.into())
        }))
    }

    /// Change your own profile
    ///
    /// What is left out stays as it is.
    #[oai(path = "/users/me", method = "patch", operation_id = "update_own_user")]
    pub(crate) async fn update_own(&self, auth: Auth, body: JsonBody<ProfilePatch>) -> ApiResult<Json<Profile>> {
        self.change(auth.user_id, body.into_inner()).await
    }

    /// Change a profile
    ///
    /// Your own only. What is left out stays as it is.
    #[oai(path = "/users/:user_id", method = "patch", operation_id = "update_user")]
    async fn update(
        &self,
        auth: Auth,
        /// Yourself
        user_id: Path<Uuid>,
        body: JsonBody<ProfilePatch>,
    ) -> ApiResult<Json<Profile>> {
        own_only(&auth, user_id.0)?;
        self.change(user_id.0, body.into_inner()).await
    }

    /// Delete your own account
    ///
    /// Signs you out everywhere and erases what is personal; a host's properties are archived. Refused while
    /// bookings as guest or host are open (409 `open_bookings`).
    #[oai(path = "/users/me", method = "delete", operation_id = "delete_own_user")]
    pub(crate) async fn delete_own(&self, auth: Auth) -> ApiResult<NoContent> {
        self.erase(auth.user_id).await
    }

    /// Delete an account
    ///
    /// Your own only, with what `DELETE /users/me` says.
    #[oai(path = "/users/:user_id", method = "delete", operation_id = "delete_user")]
    async fn delete(
        &self,
        auth: Auth,
        /// Yourself
        user_id: Path<Uuid>,
    ) -> ApiResult<NoContent> {
        own_only(&auth, user_id.0)?;
        self.erase(user_id.0).await
    }

    /// Change your password
    ///
    /// Ends all your other sessions.
    #[oai(path = "/users/me/password", method = "post", operation_id = "change_password")]
    pub(crate) async fn change_password(&self, auth: Auth, body: JsonBody<PasswordChange>) -> ApiResult<NoContent> {
        let state = &self.0;
        let change = body.into_inner();
        state
            .limiter
            .check(
                "password",
                &auth.scope(),
                state.settings.logins_per_minute,
                Duration::from_secs(60),
            )
            .await?;
        let user = users::find(state.db.pool(), auth.user_id)
            .await?
            .ok_or_else(|| ApiError::not_found("user"))?;
        Checks::new()
            .field(
                "new_password",
                !change.new_password.eq_ignore_ascii_case(&user.email),
                "must not be your e-mail address",
            )
            .field(
                "new_password",
                change.new_password != change.current_password,
                "must not be the current password",
            )
            .finish()?;
        let old = users::check_password(state.db.pool(), &state.passwords, user.id, change.current_password).await?;
        let new = state.passwords.hash(change.new_password).await?;
        let mut tx = state.db.begin().await?;
        users::change_password(&mut tx, user.id, &old, &new).await?;
        // First the sessions: a password that is changed while they live on would promise too much.
        state.sessions.end_others(user.id, Some(auth.session_id)).await?;
        tx.commit().await?;
        self.end_late_sessions(user.id, Some(auth.session_id)).await;
        Ok(NoContent::Done)
    }
}

impl UsersApi {
    async fn change(&self, user_id: Uuid, patch: ProfilePatch) -> ApiResult<Json<Profile>> {
        let full_name = patch.full_name.map(|name| name.trim().to_owned());
        Checks::new()
            .text("full_name", full_name.as_deref().unwrap_or("-"), 1, 200)
            .optional(
                "locale",
                patch.locale.as_ref(),
                |tag| is_language_tag(tag),
                LOCALE_MESSAGE,
            )
            .finish()?;
        let change = ProfileChange {
            full_name,
            locale: patch.locale,
            role: patch.role.map(users::Role::from),
        };
        let mut tx = self.0.db.begin().await?;
        let user = users::update(&mut tx, user_id, &change).await?;
        tx.commit().await?;
        Ok(Json(user.into()))
    }

    async fn erase(&self, user_id: Uuid) -> ApiResult<NoContent> {
        let mut tx = self.0.db.begin().await?;
        let archived = users::delete(&mut tx, user_id).await?;
        // Before the commit: an account that is gone must have no session, and without Redis it stays.
        self.0.sessions.end_others(user_id, None).await?;
        tx.commit().await?;
        self.end_late_sessions(user_id, None).await;
        futures::stream::iter(archived)
            .for_each_concurrent(MOST_AT_ONCE, |(property_id, version)| {
                self.0.properties.changed(property_id, version)
            })
            .await;
        Ok(NoContent::Done)
    }

    /// Ends what was opened between the first ending of the sessions and the commit. Sign-ins that come later see the
    /// commit themselves.
    async fn end_late_sessions(&self, user_id: Uuid, kept: Option<Uuid>) {
        if let Err(error) = self.0.sessions.end_others(user_id, kept).await {
            tracing::warn!(%error, %user_id, "sessions opened at the same time not looked for");
        }
    }
}

fn own_only(auth: &Auth, user_id: Uuid) -> ApiResult<()> {
    if auth.user_id == user_id {
        Ok(())
    } else {
        Err(ApiError::forbidden("This is somebody else's account."))
    }
}

impl From<PasswordError> for ApiError {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Overloaded => {
                Self::unavailable("overloaded", "Too many people are signing in; try again shortly.", 2)
            }
            PasswordError::Hash(_) => Self::internal(error),
        }
    }
}

impl From<UserError> for ApiError {
    fn from(error: UserError) -> Self {
        match error {
            UserError::EmailTaken => Self::conflict("email_taken", "Another account has this e-mail address."),
            UserError::NotFound => Self::not_found("user"),
            UserError::WrongPassword => Self::unprocessable("wrong_password", "The current password is not right."),
            UserError::StaysHost => Self::conflict("stays_host", "A host does not become a guest again."),
            UserError::OpenBookings => Self::conflict(
                "open_bookings",
                "Bookings as guest or host are still open; cancel them or let them end first.",
            ),
            UserError::VerificationInvalid => Self::unprocessable(
                "verification_invalid",
                "The token is unknown, was used before, or has expired; ask for a new mail.",
            ),
            UserError::AlreadyVerified => Self::conflict("already_verified", "The e-mail address is verified already."),
            UserError::Password(error) => error.into(),
            UserError::Database(error) => error.into(),
        }
    }
}

/// A language tag as far as we read it: subtags of 1 to 8 letters or digits, the first one a language.
fn is_language_tag(tag: &str) -> bool {
    let mut subtags = tag.split('-');
    let language = subtags.next().unwrap_or_default();
    (2..=3).contains(&language.len())
        && language.bytes().all(|byte| byte.is_ascii_alphabetic())
        && subtags
            .all(|subtag| (1..=8).contains(&subtag.len()) && subtag.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}
