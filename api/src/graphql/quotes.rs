//! Quotes in GraphQL.

use async_graphql::{Context, Object, Result};
use futures::FutureExt;

use super::caller::app;
use super::input::Input;
use super::limits::CHANGE;
use crate::rest::quotes::{Quote, QuoteRequest, QuotesApi};

/// What can be done with quotes.
#[derive(Default)]
pub struct QuoteMutations;

#[Object]
impl QuoteMutations {
    /// Price a stay: says what it costs, line by line, and what a guest who cancels gets back, and promises both for
    /// 15 minutes. Needs no account, reserves nothing and keeps nothing
    #[graphql(complexity = "CHANGE + child_complexity")]
    async fn create_quote(&self, ctx: &Context<'_>, input: Input<QuoteRequest>) -> Result<Quote> {
        let quotes = QuotesApi(app(ctx)?.clone());
        Ok(quotes.create(input.into_body()).boxed().await?.0)
    }
}
