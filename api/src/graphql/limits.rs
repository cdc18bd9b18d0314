//! What one request may ask for, and what it costs its caller.
//!
//! The shape of a document is bounded before it is validated, because validation itself walks fragments as often as
//! they are spread. What it would read is its complexity: a point a field, times the length of a page. Points are
//! taken from the caller's budget of the minute before anything is executed; what is refused for its complexity costs
//! as much as the dearest that is not.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_graphql::async_trait::async_trait;
use async_graphql::extensions::{Extension, ExtensionContext, ExtensionFactory, NextValidation};
use async_graphql::parser::types::{ExecutableDocument, Selection, SelectionSet};
use async_graphql::{ServerError, ValidationResult};
use poem::http::StatusCode;

use super::caller::Caller;
use super::errors::{invalid_query, refused};
use crate::error::{ApiError, ApiResult};
use crate::state::AppState;

/// How deep fields may be nested. What introspection asks is not counted.
pub const MAX_DEPTH: usize = 10;
/// How many fields may have another name.
pub const MAX_ALIASES: usize = 15;
/// How many fields there may be, fragments counted where they are spread.
pub const MAX_FIELDS: usize = 500;
/// How many directives one field may have.
pub const MAX_DIRECTIVES: usize = 4;
/// How many selections and fragments may be inside each other. Bounds our own recursion.
const MAX_NESTING: usize = 40;
/// How many lists of what introspection tells may be inside each other. A schema refers to itself, so each multiplies the
/// reply; the bound is that of graphql-js, and no tool comes near it.
const MAX_INTROSPECTED_LISTS: usize = 2;
/// How many points an operation may cost.
pub const MAX_COMPLEXITY: usize = 5_000;

/// What a change costs beside the fields of its reply.
pub const CHANGE: usize = 20;

const WINDOW: Duration = Duration::from_secs(60);

/// Takes points from the caller's budget.
///
/// # Errors
/// 429 `rate_limited` once it is spent.
pub async fn spend(state: &AppState, budget: &str, points: usize) -> ApiResult<()> {
    let most = state.settings.graphql_points_per_minute;
    let points = u32::try_from(points).unwrap_or(u32::MAX);
    state.limiter.spend("graphql", budget, points, most, WINDOW).await
}

/// Refuses a document whose shape is out of bounds, or that asks for the schema where it is not told.
///
/// # Errors
/// 400 `query_too_deep`, `too_many_aliases`, `query_too_complex`, `invalid_query`.
pub fn check_shape(document: &ExecutableDocument, introspection: bool) -> ApiResult<()> {
    let mut walk = Walk {
        document,
        known: HashMap::new(),
        nesting: 0,
    };
    let mut shape = Shape::default();
    for (_, operation) in document.operations.iter() {
        shape.beside(&walk.of(&operation.node.selection_set.node)?);
    }
    if shape.introspects && !introspection {
        return Err(invalid_query("This API does not tell its schema.", None));
    }
    if shape.introspected_lists > MAX_INTROSPECTED_LISTS {
        let what = "lists of fields, interfaces or types of the schema inside each other";
        return Err(over("query_too_deep", what, MAX_INTROSPECTED_LISTS));
    }
    if shape.depth > MAX_DEPTH {
        return Err(over("query_too_deep", "levels of fields", MAX_DEPTH));
    }
    if shape.aliases > MAX_ALIASES {
        return Err(over("too_many_aliases", "aliases", MAX_ALIASES));
    }
    if shape.fields > MAX_FIELDS {
        return Err(over("query_too_complex", "fields", MAX_FIELDS));
    }
    Ok(())
}

fn over(code: &'static str, what: &str, most: usize) -> ApiError {
    ApiError::bad_request(code, format!("A request may have {most} {what}."))
}

#[derive(Clone, Copy, Default)]
struct Shape {
    depth: usize,
    aliases: usize,
    fields: usize,
    introspects: bool,
    /// How many fields that would be lists of the schema are inside each other.
    lists: usize,
    /// The same within introspection.
    introspected_lists: usize,
}

impl Shape {
    fn beside(&mut self, other: &Self) {
        self.depth = self.depth.max(other.depth);
        self.aliases = self.aliases.saturating_add(other.aliases);
        self.fields = self.fields.saturating_add(other.fields);
        self.introspects |= other.introspects;
        self.lists = self.lists.max(other.lists);
        self.introspected_lists = self.introspected_lists.max(other.introspected_lists);
    }
}

fn is_list_of_schema(field: &str) -> bool {
    matches!(field, "fields" | "inputFields" | "interfaces" | "possibleTypes")
}

struct Walk<'a> {
    document: &'a ExecutableDocument,
    /// Each fragment is measured once; none while it is being measured.
    known: HashMap<&'a str, Option<Shape>>,
    nesting: usize,
}

impl<'a> Walk<'a> {
    fn of(&mut self, set: &'a SelectionSet) -> ApiResult<Shape> {
        if self.nesting == MAX_NESTING {
            return Err(over("query_too_deep", "levels of fields", MAX_DEPTH));
        }
        self.nesting += 1;
        let shape = self.measure(set);
        self.nesting -= 1;
        shape
    }

    fn measure(&mut self, set: &'a SelectionSet) -> ApiResult<Shape> {
        let mut shape = Shape::default();
        for selection in &set.items {
            match &selection.node {
                Selection::Field(field) => {
                    let mut inner = self.of(&field.node.selection_set.node)?;
                    let introspects = matches!(field.node.name.node.as_str(), "__schema" | "__type");
                    inner.depth = if introspects { 1 } else { inner.depth + 1 };
                    inner.introspects |= introspects;
                    inner.lists += usize::from(is_list_of_schema(field.node.name.node.as_str()));
                    if introspects {
                        inner.introspected_lists = inner.introspected_lists.max(std::mem::take(&mut inner.lists));
                    }
                    inner.fields = inner.fields.saturating_add(1);
                    inner.aliases = inner.aliases.saturating_add(usize::from(field.node.alias.is_some()));
                    shape.beside(&inner);
                }
                Selection::InlineFragment(fragment) => {
                    let inner = self.of(&fragment.node.selection_set.node)?;
                    shape.beside(&inner);
                }
                Selection::FragmentSpread(spread) => {
                    let inner = self.of_fragment(spread.node.fragment_name.node.as_str())?;
                    shape.beside(&inner);
                }
            }
        }
        Ok(shape)
    }

    fn of_fragment(&mut self, name: &'a str) -> ApiResult<Shape> {
        match self.known.get(name) {
            Some(Some(shape)) => return Ok(*shape),
            Some(None) => return Err(invalid_query("A fragment must not contain itself.", None)),
            None => {}
        }
        // Validation tells of one that is not there.
        let Some(fragment) = self.document.fragments.get(name) else {
            return Ok(Shape::default());
        };
        self.known.insert(name, None);
        let shape = self.of(&fragment.node.selection_set.node)?;
        self.known.insert(name, Some(shape));
        Ok(shape)
    }
}

/// Takes the complexity of each operation from its caller's budget, once it is known to be valid.
pub struct Spending;

impl ExtensionFactory for Spending {
    fn create(&self) -> Arc<dyn Extension> {
        Arc::new(Self)
    }
}

#[async_trait]
impl Extension for Spending {
    async fn validation(
        &self,
        ctx: &ExtensionContext<'_>,
        next: NextValidation<'_>,
    ) -> Result<ValidationResult, Vec<ServerError>> {
        let result = next.run(ctx).await?;
        charge(ctx, result.complexity)
            .await
            .map_err(|error| vec![refused(error)])?;
        Ok(result)
    }
}

async fn charge(ctx: &ExtensionContext<'_>, complexity: usize) -> ApiResult<()> {
    let (Some(state), Some(caller)) = (ctx.data_opt::<AppState>(), ctx.data_opt::<Caller>()) else {
        return Err(ApiError::internal("an operation without a caller"));
    };
    let spent = spend(state, &caller.budget(), complexity.min(MAX_COMPLEXITY)).await;
    // Also where the budget is gone: it does not become less complex by waiting.
    if complexity > MAX_COMPLEXITY {
        let detail = format!("A request may cost {MAX_COMPLEXITY} points; this one would cost {complexity}.");
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "query_too_complex", detail));
    }
    spent
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(query: &str) -> Result<(), &'static str> {
        let document = async_graphql::parser::parse_query(query).unwrap();
        check_shape(&document, true).map_err(|error| error.code())
    }

    #[test]
    fn documents_that_ask_for_too_much_are_told_apart() {
        assert_eq!(shape("{ me { id } }"), Ok(()));
        let deep = format!("{}id{}", "{ a ".repeat(9) + "{ ", " }".repeat(10));
        assert_eq!(shape(&deep), Ok(()));
        let deeper = format!("{}id{}", "{ a ".repeat(10) + "{ ", " }".repeat(11));
        assert_eq!(shape(&deeper), Err("query_too_deep"));
        let aliases: String = (0..16).map(|number| format!("a{number}: me {{ id }} ")).collect();
        assert_eq!(shape(&format!("{{ {aliases} }}")), Err("too_many_aliases"));
        let fields = "id ".repeat(501);
        assert_eq!(shape(&format!("{{ {fields} }}")), Err("query_too_complex"));
    }

    #[test]
    fn fragments_count_where_they_are_spread_and_are_walked_once() {
        let doubling: String = (0..12)
            .map(|number| format!("fragment F{number} on Q {{ ...F{0} ...F{0} }} ", number + 1))
            .collect();
        let bomb = format!("{{ ...F0 }} {doubling} fragment F12 on Q {{ id }}");
        assert_eq!(shape(&bomb), Err("query_too_complex"));
        let endless = "{ ...A } fragment A on Q { a { ...B } } fragment B on Q { b { ...A } }";
        assert_eq!(shape(endless), Err("invalid_query"));
        assert_eq!(shape("{ ...Nowhere }"), Ok(()));
    }

    #[test]
    fn introspection_may_go_deeper() {
        let deep = format!("{{ __schema {}id{} }}", "{ a ".repeat(14) + "{ ", " }".repeat(15));
        assert_eq!(shape(&deep), Ok(()));
    }

    #[test]
    fn the_schema_is_not_told_over_and_over() {
        let twice = "{ __schema { types { fields { type { fields { name } } } } } }";
        assert_eq!(shape(twice), Ok(()));
        let beside = "{ __type(name: \"A\") { fields { name } inputFields { name } interfaces { name } possibleTypes { name } } }";
        assert_eq!(shape(beside), Ok(()));
        let thrice = "{ __schema { types { fields { type { possibleTypes { fields { name } } } } } } }";
        assert_eq!(shape(thrice), Err("query_too_deep"));
        let spread = "{ __type(name: \"A\") { fields { type { ...F } } } }
            fragment F on __Type { interfaces { ... on __Type { inputFields { name } } } }";
        assert_eq!(shape(spread), Err("query_too_deep"));
        // Fields of ours may be named so.
        assert_eq!(shape("{ fields { fields { fields { id } } } }"), Ok(()));
    }
}
