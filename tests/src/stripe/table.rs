//! A table of objects in the order of their creation, and Stripe's cursor lists over it.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::errors::ApiError;
use super::params::Params;

/// What every stored object has.
pub(super) trait Row {
    /// Stripe's name of the kind, as in `No such payment_intent: '…'`.
    const KIND: &'static str;
    fn id(&self) -> &str;
    fn created(&self) -> i64;
}

/// Objects by id, oldest first.
#[derive(Debug)]
pub(super) struct Table<T> {
    rows: Vec<T>,
    positions: HashMap<String, usize>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            positions: HashMap::new(),
        }
    }
}

impl<T: Row> Table<T> {
    pub fn insert(&mut self, row: T) {
        self.positions.insert(row.id().to_owned(), self.rows.len());
        self.rows.push(row);
    }

    pub fn find(&self, id: &str) -> Option<&T> {
        self.positions.get(id).and_then(|position| self.rows.get(*position))
    }

    pub fn find_mut(&mut self, id: &str) -> Option<&mut T> {
        self.positions.get(id).and_then(|position| self.rows.get_mut(*position))
    }

    /// The object, or the error for an id in the path.
    pub fn get(&self, id: &str) -> Result<&T, ApiError> {
        self.find(id).ok_or_else(|| ApiError::not_found(T::KIND, id))
    }

    pub fn get_mut(&mut self, id: &str) -> Result<&mut T, ApiError> {
        self.find_mut(id).ok_or_else(|| ApiError::not_found(T::KIND, id))
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.rows.iter()
    }

    /// One page, newest first, of the rows that pass `keep`.
    pub fn page(&self, paging: &Paging, keep: impl Fn(&T) -> bool) -> Result<(Vec<&T>, bool), ApiError> {
        let position = |id: &str, param: &str| {
            self.positions
                .get(id)
                .copied()
                .ok_or_else(|| ApiError::no_such(T::KIND, id, param))
        };
        let wanted = |row: &&T| paging.created.contains(row.created()) && keep(row);
        let mut rows: Vec<&T>;
        if let Some(cursor) = &paging.ending_before {
            let after = position(cursor, "ending_before")? + 1;
            let newer = self.rows.get(after..).unwrap_or_default();
            rows = newer.iter().filter(wanted).take(paging.limit + 1).collect();
            let more = rows.len() > paging.limit;
            rows.truncate(paging.limit);
            rows.reverse();
            return Ok((rows, more));
        }
        let end = match &paging.starting_after {
            Some(cursor) => position(cursor, "starting_after")?,
            None => self.rows.len(),
        };
        let older = self.rows.get(..end).unwrap_or_default();
        rows = older.iter().rev().filter(wanted).take(paging.limit + 1).collect();
        let more = rows.len() > paging.limit;
        rows.truncate(paging.limit);
        Ok((rows, more))
    }
}

/// The parameters common to all lists.
#[derive(Debug, Default)]
pub(super) struct Paging {
    limit: usize,
    starting_after: Option<String>,
    ending_before: Option<String>,
    created: CreatedRange,
}

#[derive(Debug, Default)]
struct CreatedRange {
    from: Option<i64>,
    to: Option<i64>,
}

impl CreatedRange {
    fn contains(&self, created: i64) -> bool {
        self.from.is_none_or(|from| created >= from) && self.to.is_none_or(|to| created <= to)
    }

    fn read(params: &mut Params) -> Result<Self, ApiError> {
        // `created=…` names one second, `created[gte]=…` a range.
        if let Some(exact) = params.plain_integer("created")? {
            return Ok(Self {
                from: Some(exact),
                to: Some(exact),
            });
        }
        let Some(mut group) = params.group("created")? else {
            return Ok(Self::default());
        };
        let after = group.integer("gt")?.map(|seconds| seconds + 1);
        let before = group.integer("lt")?.map(|seconds| seconds - 1);
        let range = Self {
            from: group.integer("gte")?.max(after),
            to: match (group.integer("lte")?, before) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            },
        };
        group.finish()?;
        Ok(range)
    }
}

impl Paging {
    pub fn read(params: &mut Params) -> Result<Self, ApiError> {
        let limit = params.integer("limit")?.unwrap_or(10);
        if !(1..=100).contains(&limit) {
            return Err(ApiError::invalid("limit must be between 1 and 100")
                .code("parameter_invalid_integer")
                .param("limit"));
        }
        let paging = Self {
            limit: usize::try_from(limit).unwrap_or(10),
            starting_after: params.text("starting_after")?,
            ending_before: params.text("ending_before")?,
            created: CreatedRange::read(params)?,
        };
        if paging.starting_after.is_some() && paging.ending_before.is_some() {
            return Err(ApiError::invalid(
                "You cannot parameterize both starting_after and ending_before.",
            ));
        }
        Ok(paging)
    }
}

/// Stripe's list object.
pub(super) fn list_object(url: &str, data: Vec<Value>, has_more: bool) -> Value {
    let data = Value::Array(data);
    json!({ "object": "list", "url": url, "has_more": has_more, "data": data })
}
