//! Who asks, as resolvers find it in their context.

use async_graphql::dataloader::{DataLoader, HashMapCache};
use async_graphql::{Context, Result};
use poem::http::header;
use poem::{FromRequest, Request, RequestBody};

use super::loaders::Rows;
use crate::auth::{self, Auth, Identity, MaybeAuth};
use crate::client::Client;
use crate::error::{ApiError, ApiResult};
use crate::state::AppState;

/// Who asks and from where.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The signed-in user, if somebody is.
    pub identity: Option<Identity>,
    /// The client's address and program.
    pub client: Client,
}

impl Caller {
    /// The caller of an HTTP request. A token that is not valid is refused, also where none is needed.
    pub async fn of(state: &AppState, request: &Request) -> ApiResult<Self> {
        let client = client_of(request).await?;
        let identity = match request.headers().get(header::AUTHORIZATION) {
            Some(value) => Some(auth::authenticate(state, bearer(value.to_str().unwrap_or_default())?).await?),
            None => None,
        };
        Ok(Self { identity, client })
    }

    /// Whose budget is spent: the user's, or that of the network.
    pub fn budget(&self) -> String {
        match &self.identity {
            Some(identity) => format!("user {}", identity.user_id),
            None => network_budget(&self.client),
        }
    }
}

/// What those who are not signed in spend, all of one network together.
pub fn network_budget(client: &Client) -> String {
    format!("network {}", client.network())
}

/// Where a request comes from.
pub async fn client_of(request: &Request) -> ApiResult<Client> {
    Client::from_request(request, &mut RequestBody::default())
        .await
        .map_err(ApiError::internal)
}

/// The token of an `Authorization` header or of the member of that name in `connection_init`.
pub fn bearer(value: &str) -> ApiResult<&str> {
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(not_signed_in()),
    }
}

/// The app behind the schema.
pub fn app<'a>(ctx: &Context<'a>) -> Result<&'a AppState> {
    ctx.data()
}

/// Where the request comes from.
pub fn client(ctx: &Context<'_>) -> Result<Client> {
    Ok(ctx.data::<Caller>()?.client.clone())
}

/// The signed-in user; the field is refused without one.
pub fn identity<'a>(ctx: &Context<'a>) -> Result<&'a Identity> {
    let caller: &Caller = ctx.data()?;
    Ok(caller.identity.as_ref().ok_or_else(not_signed_in)?)
}

/// The same for a handler of REST.
pub fn auth(ctx: &Context<'_>) -> Result<Auth> {
    Ok(identity(ctx)?.clone().into())
}

/// The signed-in user, if somebody is.
pub fn viewer<'a>(ctx: &Context<'a>) -> Result<Option<&'a Identity>> {
    let caller: &Caller = ctx.data()?;
    Ok(caller.identity.as_ref())
}

/// The same for a handler of REST that needs nobody.
pub fn maybe_auth(ctx: &Context<'_>) -> Result<MaybeAuth> {
    Ok(viewer(ctx)?.cloned().into())
}

/// The request's loader.
pub fn rows<'a>(ctx: &Context<'a>) -> Result<&'a DataLoader<Rows, HashMapCache>> {
    ctx.data()
}

fn not_signed_in() -> ApiError {
    ApiError::unauthorized("unauthorized", "Send an access token: Authorization: Bearer ….", None)
}
