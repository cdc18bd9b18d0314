//! Lists as connections, with the cursors of REST.

use std::convert::Infallible;

use async_graphql::connection::{Connection, CursorType, Edge, EmptyFields};
use async_graphql::{Context, ObjectType, OutputType, Result};
use poem_openapi::types::{ParseFromJSON, ToJSON};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::idempotency::{REPLAYED_HEADER, Reply};
use crate::page::{MAX_LIMIT, PageRequest};

/// The cursor of an item: what `next_cursor` of REST would be after it.
pub struct Cursor(String);

impl CursorType for Cursor {
    type Error = Infallible;

    fn decode_cursor(text: &str) -> std::result::Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }

    fn encode_cursor(&self) -> String {
        self.0.clone()
    }
}

/// A page of a list; `More` is what it tells beside it.
pub type Page<T, More = EmptyFields> = Connection<Cursor, T, More>;

/// The page of `rows`, as [`PageRequest::reply`] makes one of REST.
pub fn page<K, R, T>(request: &PageRequest<K>, rows: Vec<R>, key: impl Fn(&R) -> K, view: impl FnMut(R) -> T) -> Page<T>
where
    K: Serialize + DeserializeOwned,
    T: OutputType,
{
    page_with(EmptyFields, request, rows, key, view)
}

/// The same with more to tell.
pub fn page_with<K, R, T, M>(
    additional: M,
    request: &PageRequest<K>,
    rows: Vec<R>,
    key: impl Fn(&R) -> K,
    mut view: impl FnMut(R) -> T,
) -> Page<T, M>
where
    K: Serialize + DeserializeOwned,
    T: OutputType,
    M: ObjectType,
{
    let (edges, more) = request.edges(rows, key);
    let mut page = Connection::with_additional_fields(request.after().is_some(), more, additional);
    let edges = edges
        .into_iter()
        .map(|(cursor, row)| Edge::new(Cursor(cursor), view(row)));
    page.edges.extend(edges);
    page
}

/// What an operation with an idempotency key answered; a header says if it did so before.
pub fn replayed<T: ToJSON + ParseFromJSON, const STATUS: u16>(ctx: &Context<'_>, reply: Reply<T, STATUS>) -> Result<T> {
    let (value, replayed) = reply.into_parts()?;
    if replayed {
        ctx.insert_http_header(REPLAYED_HEADER, "true");
    }
    Ok(value)
}

/// What a page costs whose items cost `each`.
pub fn cost(first: i32, each: usize) -> usize {
    let items = usize::try_from(first.clamp(1, i32::from(MAX_LIMIT))).unwrap_or(1);
    1 + items.saturating_mul(each)
}
