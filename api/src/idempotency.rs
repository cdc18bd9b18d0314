//! `Idempotency-Key`: a POST that a client repeats, because it never saw the reply, is answered with the first reply
//! and does nothing again.
//!
//! The key is claimed in the transaction that does the work and the reply is stored in it, so there is never one
//! without the other. A second request with the same key waits for the first on the unique index. A refusal rolls
//! back and stores nothing: a request that failed can be sent again with the same key.
//!
//! A reply may be held after the commit, until more is known ([`Work::hold_until`]). Nobody is sent it before it was
//! made final ([`Idempotency::settle`]), so that a key never has two replies.

use std::marker::PhantomData;

use bytes::Bytes;
use chrono::{DateTime, Duration, Utc};
use hmac::{Hmac, KeyInit, Mac};
use poem::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use poem::{FromRequest, IntoResponse, Request, RequestBody, Response};
use poem_openapi::ApiResponse;
use poem_openapi::registry::{MetaHeader, MetaMediaType, MetaResponse, MetaResponses, Registry};
use poem_openapi::types::{ParseFromJSON, ToJSON, Type};
use roost_shared::db::Tx;
use sha2::Sha256;

use crate::error::{ApiError, ApiResult};
use crate::problem::FieldError;
use crate::state::AppState;

/// The request header.
pub const KEY_HEADER: &str = "Idempotency-Key";
/// Set on a reply that was stored before.
pub const REPLAYED_HEADER: &str = "Idempotent-Replayed";

/// How long a key is remembered.
pub const LIFETIME: Duration = Duration::hours(24);

const LONGEST_KEY: usize = 255;

/// The key of a request, if it has one, and what the request is. An argument of every handler that creates:
///
/// ```ignore
/// async fn create_thing(&self, auth: Auth, idempotency: Idempotency, body: JsonBody<NewThing>) -> ApiResult<Created<Thing>> {
///     // Check the body first: what is refused here stores nothing.
///     let mut work = match idempotency.begin(&self.0, &auth.scope(), body.raw()).await? {
///         Begun::Replay(stored) => return Ok(stored.into()),
///         Begun::Work(work) => work,
///     };
///     let thing = things::create(work.tx(), …).await?;        // an error rolls back
///     work.created(&format!("/things/{}", thing.id), &Thing::from(thing)).await   // commits
/// }
/// ```
#[derive(Debug)]
pub struct Idempotency {
    key: Option<String>,
    method: Method,
    path: String,
}

/// What [`Idempotency::begin`] found.
pub enum Begun {
    /// The request was answered before: send this, `return Ok(stored.into())`.
    Replay(Stored),
    /// It is new, and its key is claimed.
    Work(Work),
}

/// A reply that was stored earlier.
#[derive(Debug)]
pub struct Stored {
    status: StatusCode,
    body: Bytes,
    location: Option<String>,
    etag: Option<String>,
    held_until: Option<DateTime<Utc>>,
}

/// The transaction of a request that is done for the first time. Dropped, it rolls back.
pub struct Work {
    tx: Tx,
    claim: Option<Claim>,
    etag: Option<String>,
    held_until: Option<DateTime<Utc>>,
}

struct Claim {
    scope: String,
    key: String,
}

impl<'a> FromRequest<'a> for Idempotency {
    async fn from_request(request: &'a Request, _body: &mut RequestBody) -> poem::Result<Self> {
        let key = request.headers().get(KEY_HEADER);
        let key = key
            .map(|value| usable(value.to_str().unwrap_or_default(), KEY_HEADER))
            .transpose()?;
        Ok(Self {
            key,
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
        })
    }
}

/// The key, if it is as a key must be; `field` is where it was given.
fn usable(key: &str, field: &str) -> ApiResult<String> {
    if (1..=LONGEST_KEY).contains(&key.len()) && key.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Ok(key.to_owned());
    }
    let error = FieldError::new(field, "must have 1 to 255 printable ASCII characters");
    Err(ApiError::bad_request("invalid_parameter", "").with_errors(vec![error]))
}

impl Idempotency {
    /// The key of an operation that is not a request of its own: its name tells it from others with the
    /// same key.
    ///
    /// # Errors
    /// 400 `invalid_parameter`.
    pub fn of_operation(key: Option<&str>, name: &str) -> ApiResult<Self> {
        Ok(Self {
            key: key.map(|key| usable(key, "idempotency_key")).transpose()?,
            method: Method::POST,
            path: name.to_owned(),
        })
    }

    /// Begins the work, or finds its stored reply. `scope` separates the keys of different users: `auth.scope()`, or
    /// `anonymous:` and the client's network.
    ///
    /// # Errors
    /// 422 `idempotency_key_reused` if the key came before with another body, 409 `idempotency_key_in_use` if another
    /// request with it takes too long; 503 without Postgres.
    pub async fn begin(&self, state: &AppState, scope: &str, body: &Bytes) -> ApiResult<Begun> {
        let mut tx = state.db.begin().await?;
        let Some(key) = self.key.clone() else {
            return Ok(Begun::Work(Work::new(tx, None)));
        };
        let mut hashes = Vec::new();
        for secret in state.tokens.secrets() {
            hashes.push(fingerprint(secret.expose(), &self.method, &self.path, body)?);
        }
        let now = tx.now();
        // Waits here while another request with the key is being worked on.
        let claimed = sqlx::query!(
            "INSERT INTO idempotency_keys (scope, key, request_hash, created_at) VALUES ($1, $2, $3, $4)
             ON CONFLICT (scope, key) DO UPDATE
             SET request_hash = EXCLUDED.request_hash, created_at = EXCLUDED.created_at,
                 status = NULL, body = NULL, location = NULL, etag = NULL, held_until = NULL
             WHERE idempotency_keys.created_at <= $5",
            scope,
            key,
            hashes.first(),
            now,
            now - LIFETIME,
        )
        .execute(tx.conn())
        .await
        .map_err(|error| if was_given_up(&error) { in_use() } else { error.into() })?;
        if claimed.rows_affected() == 1 {
            let claim = Claim {
                scope: scope.to_owned(),
                key,
            };
            return Ok(Begun::Work(Work::new(tx, Some(claim))));
        }
        let row = sqlx::query!(
            "SELECT request_hash, status, body, location, etag, held_until FROM idempotency_keys WHERE scope = $1 AND key = $2",
            scope,
            key,
        )
        .fetch_optional(tx.conn())
        .await?;
        match row {
            Some(row) if !hashes.contains(&row.request_hash) => Err(ApiError::unprocessable(
                "idempotency_key_reused",
                "This Idempotency-Key came before with another request. A new request needs a new key.",
            )),
            Some(row) => Ok(Begun::Replay(Stored {
                status: row
                    .status
                    .and_then(|status| u16::try_from(status).ok())
                    .and_then(|status| StatusCode::from_u16(status).ok())
                    .ok_or_else(|| ApiError::internal("a stored reply has no status"))?,
                body: row.body.unwrap_or_default().into(),
                location: row.location,
                etag: row.etag,
                held_until: row.held_until,
            })),
            // It ran out and was pruned between the two statements.
            None => Err(in_use()),
        }
    }

    /// Whether the request can be repeated safely.
    #[must_use]
    pub fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// Makes a held reply final: as it was stored, or with `body` in its place, which says more. Of several requests
    /// with the same key the first to get here decides, and all send its reply.
    ///
    /// # Errors
    /// 503 without Postgres.
    pub async fn settle<T: ToJSON + Type, const STATUS: u16>(
        &self,
        state: &AppState,
        scope: &str,
        reply: &mut Reply<T, STATUS>,
        body: Option<&T>,
    ) -> ApiResult<()> {
        let mut bytes = body
            .map(|body| serde_json::to_vec(&body.to_json()))
            .transpose()
            .map_err(ApiError::internal)?;
        if let Some(key) = &self.key {
            // Under the row's lock, so that who comes second reads what the first has written.
            let settled = sqlx::query_scalar!(
                "UPDATE idempotency_keys SET body = CASE WHEN held_until IS NULL THEN body ELSE coalesce($3, body) END, held_until = NULL
                 WHERE scope = $1 AND key = $2 RETURNING body",
                scope,
                key,
                bytes,
            )
            .fetch_optional(state.db.pool())
            .await?;
            bytes = settled.flatten().or(bytes);
        }
        if let Some(bytes) = bytes {
            reply.stored.body = bytes.into();
        }
        reply.stored.held_until = None;
        Ok(())
    }
}

fn in_use() -> ApiError {
    ApiError::conflict(
        "idempotency_key_in_use",
        "Another request with this Idempotency-Key is being worked on; send it again.",
    )
}

/// Whether Postgres ended a statement because it waited too long.
fn was_given_up(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .is_some_and(|code| code == "57014" || code == "55P03")
}

impl Work {
    fn new(tx: Tx, claim: Option<Claim>) -> Self {
        Self {
            tx,
            claim,
            etag: None,
            held_until: None,
        }
    }

    /// The reply will have this entity tag, a replay as well.
    #[must_use]
    pub fn tagged(mut self, etag: &HeaderValue) -> Self {
        self.etag = etag.to_str().ok().map(str::to_owned);
        self
    }

    /// The reply will not be sent before [`Idempotency::settle`], or by somebody else with the same key after `until`.
    pub fn hold_until(&mut self, until: DateTime<Utc>) {
        self.held_until = Some(until);
    }

    /// The transaction.
    pub fn tx(&mut self) -> &mut Tx {
        &mut self.tx
    }

    /// Stores `201 Created` with its `Location`, commits, and returns the reply.
    ///
    /// # Errors
    /// The commit failed; nothing was done then, unless the connection broke in the middle of it.
    pub async fn created<T: ToJSON + Type>(self, location: &str, body: &T) -> ApiResult<Created<T>> {
        self.finish(body, Some(location)).await
    }

    /// Stores a reply of the status that the handler's type says, commits, and returns it.
    ///
    /// # Errors
    /// The commit failed; nothing was done then, unless the connection broke in the middle of it.
    pub async fn finish<T: ToJSON + Type, const STATUS: u16>(
        mut self,
        body: &T,
        location: Option<&str>,
    ) -> ApiResult<Reply<T, STATUS>> {
        let bytes = serde_json::to_vec(&body.to_json()).map_err(ApiError::internal)?;
        if let Some(claim) = &self.claim {
            sqlx::query!(
                "UPDATE idempotency_keys SET status = $3, body = $4, location = $5, etag = $6, held_until = $7
                 WHERE scope = $1 AND key = $2",
                claim.scope,
                claim.key,
                i16::try_from(STATUS).map_err(ApiError::internal)?,
                bytes,
                location,
                self.etag,
                self.held_until,
            )
            .execute(self.tx.conn())
            .await?;
        }
        self.tx.commit().await?;
        let stored = Stored {
            status: StatusCode::from_u16(STATUS).map_err(ApiError::internal)?,
            body: bytes.into(),
            location: location.map(str::to_owned),
            etag: self.etag,
            held_until: self.held_until,
        };
        Ok(Reply {
            stored,
            replayed: false,
            headers: Vec::new(),
            schema: PhantomData,
        })
    }
}

/// `201 Created` with a `T`.
pub type Created<T> = Reply<T, 201>;
/// `200 OK` with a `T`, of a POST that changes without creating.
pub type Done<T> = Reply<T, 200>;

/// A `T`, just serialised or stored earlier.
#[derive(Debug)]
pub struct Reply<T, const STATUS: u16> {
    stored: Stored,
    replayed: bool,
    headers: Vec<(HeaderName, HeaderValue)>,
    schema: PhantomData<fn() -> T>,
}

impl<T, const STATUS: u16> Reply<T, STATUS> {
    /// The bytes that are sent.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.stored.body
    }

    /// Until when the reply is held at most; none once it is final.
    #[must_use]
    pub fn held_until(&self) -> Option<DateTime<Utc>> {
        self.stored.held_until
    }

    /// What it says, and whether that was stored by an earlier request.
    ///
    /// # Errors
    /// What is stored is not a `T` any more.
    pub fn into_parts(self) -> ApiResult<(T, bool)>
    where
        T: ParseFromJSON,
    {
        let json = serde_json::from_slice(&self.stored.body).map_err(ApiError::internal)?;
        let value = T::parse_from_json(Some(json)).map_err(|error| ApiError::internal(error.message()))?;
        Ok((value, self.replayed))
    }

    /// Adds a header that a replay will not have.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }
}

impl<T, const STATUS: u16> From<Stored> for Reply<T, STATUS> {
    fn from(stored: Stored) -> Self {
        Self {
            stored,
            replayed: true,
            headers: Vec::new(),
            schema: PhantomData,
        }
    }
}

impl<T, const STATUS: u16> IntoResponse for Reply<T, STATUS> {
    fn into_response(self) -> Response {
        let mut response = Response::builder()
            .status(self.stored.status)
            .content_type("application/json")
            .body(self.stored.body);
        let headers = response.headers_mut();
        if let Some(location) = self
            .stored
            .location
            .and_then(|location| HeaderValue::try_from(location).ok())
        {
            headers.insert(header::LOCATION, location);
        }
        if let Some(etag) = self.stored.etag.and_then(|etag| HeaderValue::try_from(etag).ok()) {
            headers.insert(header::ETAG, etag);
        }
        if self.replayed {
            headers.insert(REPLAYED_HEADER, HeaderValue::from_static("true"));
        }
        headers.extend(
            self.headers
                .into_iter()
                .map(|(name, value)| (Some(name), value))
                .collect::<Vec<_>>(),
        );
        response
    }
}

impl<T: ToJSON + Type, const STATUS: u16> ApiResponse for Reply<T, STATUS> {
    fn meta() -> MetaResponses {
        let header = |name: &str, description: &str, required, schema| MetaHeader {
            name: name.to_uppercase(),
            description: Some(description.to_owned()),
            required,
            deprecated: false,
            schema,
        };
        let mut headers = vec![header(
            REPLAYED_HEADER,
            "`true` if this reply was stored by an earlier request with the same Idempotency-Key",
            false,
            bool::schema_ref(),
        )];
        if STATUS == 201 {
            headers.push(header(
                "Location",
                "The path of what was created",
                true,
                String::schema_ref(),
            ));
        }
        MetaResponses {
            responses: vec![MetaResponse {
                description: if STATUS == 201 { "Created" } else { "Done" },
                status: Some(STATUS),
                status_range: None,
                content: vec![MetaMediaType {
                    content_type: "application/json",
                    schema: T::schema_ref(),
                }],
                headers,
            }],
        }
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

/// Keyed, because the body of a registration holds a password, and a plain hash of it could be searched for.
fn fingerprint(secret: &str, method: &Method, path: &str, body: &Bytes) -> ApiResult<Vec<u8>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).map_err(ApiError::internal)?;
    mac.update(b"roost idempotency\n");
    mac.update(method.as_str().as_bytes());
    mac.update(b" ");
    mac.update(path.as_bytes());
    mac.update(b"\n");
    mac.update(body);
    Ok(mac.finalize().into_bytes().to_vec())
}
