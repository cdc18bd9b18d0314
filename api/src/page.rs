//! Lists in pages. A page ends with a cursor: the sort key of its last item, so that nothing is skipped or repeated
//! when rows come and go in between.

use std::marker::PhantomData;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use poem::http::{Uri, header};
use poem::{IntoResponse, Response};
use poem_openapi::payload::{Json, Payload};
use poem_openapi::registry::{MetaHeader, MetaMediaType, MetaResponse, MetaResponses, Registry};
use poem_openapi::types::{ParseFromJSON, ToJSON, Type};
use poem_openapi::{ApiResponse, Object};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{ApiError, ApiResult};
use crate::problem::FieldError;

/// Items on a page when the client does not say.
pub const DEFAULT_LIMIT: u16 = 20;
/// The most items on a page.
pub const MAX_LIMIT: u16 = 100;

/// For `#[oai(default = "page::default_limit")]`.
#[must_use]
pub fn default_limit() -> u16 {
    DEFAULT_LIMIT
}

/// What the client asked for. `K` is the sort key of the list: an id, or a tuple that ends in one.
///
/// ```ignore
/// /// How many items at most
/// #[oai(default = "page::default_limit", validator(minimum(value = "1"), maximum(value = "100")))]
/// limit: Query<u16>,
/// /// From `next_cursor` of the page before
/// cursor: Query<Option<String>>,
/// uri: &Uri,
/// // …
/// let page = PageRequest::<(i32, Uuid)>::new(limit.0, cursor.0.as_deref(), uri)?;
/// let rows = properties::search(pool, &filter, page.after(), page.fetch()).await?;
/// Ok(page.reply(rows, |row| (row.rating_hundredths, row.id), PropertyView::from))
/// ```
#[derive(Debug)]
pub struct PageRequest<K> {
    limit: usize,
    after: Option<K>,
    uri: Uri,
}

impl<K: Serialize + DeserializeOwned> PageRequest<K> {
    /// Reads the two parameters of a list.
    ///
    /// # Errors
    /// 400 `invalid_cursor`, 400 `invalid_parameter`.
    pub fn new(limit: u16, cursor: Option<&str>, uri: &Uri) -> ApiResult<Self> {
        Self::named(limit.into(), cursor, uri.clone(), ["limit", "cursor", "next_cursor"])
    }

    /// Reads the two arguments of a connection.
    ///
    /// # Errors
    /// 400 `invalid_cursor`, 400 `invalid_parameter`.
    pub fn of_connection(first: i32, after: Option<&str>) -> ApiResult<Self> {
        Self::named(first, after, Uri::default(), ["first", "after", "a cursor"])
    }

    fn named(
        limit: i32,
        cursor: Option<&str>,
        uri: Uri,
        [limit_name, cursor_name, source]: [&str; 3],
    ) -> ApiResult<Self> {
        if !(1..=i32::from(MAX_LIMIT)).contains(&limit) {
            let error = FieldError::new(limit_name, format!("must be 1 to {MAX_LIMIT}"));
            return Err(ApiError::bad_request("invalid_parameter", "").with_errors(vec![error]));
        }
        let after = cursor
            .map(|cursor| {
                let error = FieldError::new(cursor_name, format!("must come from {source} of this list"));
                decode(cursor).ok_or_else(|| ApiError::bad_request("invalid_cursor", "").with_errors(vec![error]))
            })
            .transpose()?;
        Ok(Self {
            limit: usize::try_from(limit).map_err(ApiError::internal)?,
            after,
            uri,
        })
    }

    /// The key of the last item of the page before, if there was one.
    pub fn after(&self) -> Option<&K> {
        self.after.as_ref()
    }

    /// The `LIMIT` of the query: one more than is shown tells whether there is a next page.
    pub fn fetch(&self) -> i64 {
        i64::try_from(self.limit + 1).unwrap_or(i64::MAX)
    }

    /// The rows of the page, each with its cursor, and whether more follow.
    pub fn edges<R>(&self, mut rows: Vec<R>, key: impl Fn(&R) -> K) -> (Vec<(String, R)>, bool) {
        let more = rows.len() > self.limit;
        rows.truncate(self.limit);
        let edges = rows.into_iter().map(|row| (encode(&key(&row)), row)).collect();
        (edges, more)
    }

    /// The page of `rows`, which the query returned in the order of the list and not more than [`Self::fetch`] of.
    pub fn reply<R, T>(self, mut rows: Vec<R>, key: impl Fn(&R) -> K, view: impl FnMut(R) -> T) -> Paged<T>
    where
        T: ToJSON + ParseFromJSON + Type + Send + Sync,
    {
        let more = rows.len() > self.limit;
        rows.truncate(self.limit);
        let next_cursor = rows.last().filter(|_| more).map(|last| encode(&key(last)));
        let next = next_cursor.as_deref().map(|cursor| next_link(&self.uri, cursor));
        Paged::new(Page {
            items: rows.into_iter().map(view).collect(),
            next,
            next_cursor,
        })
    }
}

/// A page of a list.
#[derive(Clone, Debug, Object)]
pub struct Page<T: ToJSON + ParseFromJSON + Type + Send + Sync> {
    /// In the order of the list
    pub items: Vec<T>,
    /// The next page, relative to this API; null on the last one
    pub next: Option<String>,
    /// For the `cursor` parameter of the next page; null on the last one
    pub next_cursor: Option<String>,
}

/// A [`Page`] with the same link in its `Link` header; or what has more to say than a page, `B`.
#[derive(Debug)]
pub struct Paged<T, B = Page<T>> {
    body: B,
    next: Option<String>,
    items: PhantomData<T>,
}

impl<T: ToJSON + ParseFromJSON + Type + Send + Sync> Paged<T> {
    fn new(page: Page<T>) -> Self {
        Self {
            next: page.next.clone(),
            body: page,
            items: PhantomData,
        }
    }

    /// The same page with more to say.
    pub fn with<B>(self, more: impl FnOnce(Page<T>) -> B) -> Paged<T, B> {
        Paged {
            body: more(self.body),
            next: self.next,
            items: PhantomData,
        }
    }
}

impl<T: Send, B: ToJSON + Send> IntoResponse for Paged<T, B> {
    fn into_response(self) -> Response {
        let link = self.next.map(|next| format!("<{next}>; rel=\"next\""));
        let response = Json(self.body).into_response();
        match link {
            Some(link) => response.with_header(header::LINK, link).into_response(),
            None => response,
        }
    }
}

impl<T, B: ToJSON + Type> ApiResponse for Paged<T, B> {
    fn meta() -> MetaResponses {
        MetaResponses {
            responses: vec![MetaResponse {
                description: "A page of the list",
                status: Some(200),
                status_range: None,
                content: vec![MetaMediaType {
                    content_type: "application/json",
                    schema: <Json<B> as Payload>::schema_ref(),
                }],
                headers: vec![MetaHeader {
                    name: "LINK".to_owned(),
                    description: Some("`<…>; rel=\"next\"`: the next page, if there is one".to_owned()),
                    required: false,
                    deprecated: false,
                    schema: String::schema_ref(),
                }],
            }],
        }
    }

    fn register(registry: &mut Registry) {
        B::register(registry);
    }
}

fn encode<K: Serialize>(key: &K) -> String {
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(key).unwrap_or_default())
}

fn decode<K: DeserializeOwned>(cursor: &str) -> Option<K> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()
}

/// The same request with another cursor. The cursor's alphabet needs no escaping.
fn next_link(uri: &Uri, cursor: &str) -> String {
    let kept = uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty() && *pair != "cursor" && !pair.starts_with("cursor="));
    let mut query: Vec<&str> = kept.collect();
    let cursor = format!("cursor={cursor}");
    query.push(&cursor);
    format!("{}?{}", uri.path(), query.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(limit: u16, cursor: Option<&str>) -> ApiResult<PageRequest<(i32, String)>> {
        let uri = Uri::from_static("/things?limit=2&cursor=old&city=K%C3%B6ln");
        PageRequest::new(limit, cursor, &uri)
    }

    #[test]
    fn the_next_page_begins_after_the_last_shown_item() {
        let rows = vec![(5, "a".to_owned()), (4, "b".to_owned()), (3, "c".to_owned())];
        let first = page(2, None).unwrap();
        assert_eq!(first.fetch(), 3);
        let first = first.reply(rows, Clone::clone, |row| row.1).body;
        assert_eq!(first.items, ["a", "b"]);
        let cursor = first.next_cursor.unwrap();
        assert_eq!(
            first.next.unwrap(),
            format!("/things?limit=2&city=K%C3%B6ln&cursor={cursor}")
        );
        let second = page(2, Some(&cursor)).unwrap();
        assert_eq!(second.after(), Some(&(4, "b".to_owned())));
        let last = second.reply(vec![(3, "c".to_owned())], Clone::clone, |row| row.1).body;
        assert_eq!((last.items.len(), last.next, last.next_cursor), (1, None, None));
    }

    #[test]
    fn damaged_cursors_and_absurd_limits_are_refused() {
        for cursor in ["", "x", "!!", "bnVsbA", "WzEsMl0"] {
            assert_eq!(page(2, Some(cursor)).unwrap_err().code(), "invalid_cursor", "{cursor}");
        }
        assert_eq!(page(0, None).unwrap_err().code(), "invalid_parameter");
        assert_eq!(page(101, None).unwrap_err().code(), "invalid_parameter");
    }
}
