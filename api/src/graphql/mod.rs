//! GraphQL at `/graphql`: the operations of [`crate::rest`] with another face, and no rule of its own.
//!
//! Objects and inputs are those of REST. One file a resource here has its fields: a change calls the handler of the
//! REST operation, a read calls `roost_shared` and batches through [`loaders`], timed by
//! [`batches`]. [`endpoint`] takes requests, [`socket`] subscriptions, [`limits`] refuses what asks for too much,
//! [`errors`] is how a refusal reads, [`graphiql`] a page to try queries on.

mod batches;
mod bookings;
mod caller;
mod connection;
mod document;
mod endpoint;
mod errors;
mod graphiql;
mod input;
mod limits;
mod loaders;
mod messages;
mod notifications;
mod payments;
mod properties;
mod quotes;
mod reviews;
mod sessions;
mod socket;
mod sockets;
mod users;

use async_graphql::{MergedObject, SDLExportOptions, Schema};

pub use self::endpoint::{Graphql, route};
pub use self::graphiql::file as graphiql_file;
pub use self::sockets::OpenSockets;
use crate::state::AppState;

/// Everything that can be read.
#[derive(Default, MergedObject)]
pub struct Query(
    users::UserQueries,
    sessions::SessionQueries,
    properties::PropertyQueries,
    bookings::BookingQueries,
    payments::PaymentQueries,
    reviews::ReviewQueries,
    messages::MessageQueries,
    notifications::NotificationQueries,
);

/// Everything that changes something.
#[derive(Default, MergedObject)]
pub struct Mutation(
    users::UserMutations,
    sessions::SessionMutations,
    properties::PropertyMutations,
    quotes::QuoteMutations,
    bookings::BookingMutations,
    payments::PaymentMutations,
    reviews::ReviewMutations,
    messages::MessageMutations,
    notifications::NotificationMutations,
);

type Roots = Schema<Query, Mutation, bookings::Subscription>;

/// The schema, ready to be executed.
fn schema(state: &AppState) -> Roots {
    let builder = Schema::build(Query::default(), Mutation::default(), bookings::Subscription)
        .data(state.clone())
        .limit_directives(limits::MAX_DIRECTIVES)
        .extension(limits::Spending);
    if state.settings.graphql_introspection {
        builder.finish()
    } else {
        // A suggestion tells names of the schema as well.
        builder.disable_introspection().disable_suggestions().finish()
    }
}

/// The schema in its definition language.
#[must_use]
pub fn sdl() -> String {
    Schema::build(Query::default(), Mutation::default(), bookings::Subscription)
        .finish()
        .sdl_with_options(SDLExportOptions::new().prefer_single_line_descriptions())
}
