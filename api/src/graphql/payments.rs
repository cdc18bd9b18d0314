//! Payments in GraphQL.

use async_graphql::{ComplexObject, Context, Object, Result};
use futures::FutureExt;
use roost_shared::payments::{self, Payment as Row};
use uuid::Uuid;

use super::bookings::of_party;
use super::caller::{app, auth, identity, rows};
use super::connection::{Page, cost, page, replayed};
use super::input::Input;
use super::limits::CHANGE;
use super::loaders::{AttemptsOf, RefundsOf, forget};
use crate::error::ApiError;
use crate::idempotency::Idempotency;
use crate::page::PageRequest;
use crate::rest::bookings::objects::{Booking, Side};
use crate::rest::payments::objects::{Attempt, NewPayment, Payment, PaymentState, Refund};
use crate::rest::payments::{PaymentsApi, of_party as payment_of_party};

/// What can be read of payments.
#[derive(Default)]
pub struct PaymentQueries;

/// What can be done with payments.
#[derive(Default)]
pub struct PaymentMutations;

#[ComplexObject]
impl Payment {
    /// What it pays for
    async fn booking(&self, ctx: &Context<'_>) -> Result<Booking> {
        of_party(ctx, self.summary.booking_id).await
    }

    /// What was asked of Stripe, refunds included, oldest first
    #[graphql(complexity = "1 + 3 * child_complexity")]
    async fn attempts(&self, ctx: &Context<'_>) -> Result<Vec<Attempt>> {
        let attempts = rows(ctx)?.load_one(AttemptsOf(self.summary.id)).boxed().await?;
        let for_guest = self.summary.payment_method.is_some();
        let attempts = attempts.unwrap_or_default().into_iter();
        Ok(attempts.map(|tried| Attempt::new(tried, for_guest)).collect())
    }

    /// What was or will be paid back, oldest first
    #[graphql(complexity = "1 + 3 * child_complexity")]
    async fn refunds(&self, ctx: &Context<'_>) -> Result<Vec<Refund>> {
        let refunds = rows(ctx)?.load_one(RefundsOf(self.summary.id)).boxed().await?;
        Ok(refunds.unwrap_or_default().into_iter().map(Refund::from).collect())
    }
}

#[Object]
impl PaymentQueries {
    /// List payments: those you made, or with `role: HOST` those for your properties; newest first
    #[allow(clippy::too_many_arguments, reason = "each is an argument of the field")]
    #[graphql(complexity = "cost(first, child_complexity)")]
    async fn payments(
        &self,
        ctx: &Context<'_>,
        #[graphql(default_with = "Side::Guest", desc = "On which side you stand")] role: Side,
        #[graphql(desc = "Only of this booking")] booking_id: Option<Uuid>,
        #[graphql(desc = "Only in these states")] state: Option<Vec<PaymentState>>,
        #[graphql(default = 20, desc = "How many at most: 1 to 100")] first: i32,
        #[graphql(desc = "The cursor of the last item of the page before")] after: Option<String>,
    ) -> Result<Page<Payment>> {
        let user_id = identity(ctx)?.user_id;
        let request = PageRequest::<Uuid>::of_connection(first, after.as_deref())?;
        let filter = payments::Filter {
            as_host: role == Side::Host,
            booking_id,
            states: state.into_iter().flatten().map(payments::PaymentState::from).collect(),
            before: request.after().copied(),
            limit: request.fetch(),
        };
        let found = payments::list(app(ctx)?.db.pool(), user_id, &filter)
            .await
            .map_err(ApiError::from)?;
        Ok(page(&request, found, |row| row.id, |row| seen_by(row, user_id)))
    }

    /// A payment, for its guest and its host only. The host sees amounts, and nothing of the card
    async fn payment(&self, ctx: &Context<'_>, id: Uuid) -> Option<Result<Payment>> {
        let read = async {
            let user_id = identity(ctx)?.user_id;
            let mut conn = app(ctx)?.db.pool().acquire().await.map_err(ApiError::from)?;
            let payment = payment_of_party(&mut conn, id, user_id).boxed().await?;
            Ok(seen_by(payment, user_id))
        };
        Some(read.boxed().await)
    }
}

#[Object]
impl PaymentMutations {
    /// Try another card, for the guest while the booking is `HELD` and no other card is in play. Refusals of its own:
    /// `not_payable`, `hold_ended`, `already_paying`
    #[graphql(complexity = "CHANGE + child_complexity")]
    async fn create_payment(
        &self,
        ctx: &Context<'_>,
        input: Input<NewPayment>,
        #[graphql(desc = "The same key gets the first reply again, for 24 hours")] idempotency_key: Option<String>,
    ) -> Result<Payment> {
        forget(ctx)?;
        let idempotency = Idempotency::of_operation(idempotency_key.as_deref(), "createPayment")?;
        let payments = PaymentsApi(app(ctx)?.clone());
        replayed(
            ctx,
            payments
                .create(auth(ctx)?, idempotency, input.into_body())
                .boxed()
                .await?,
        )
    }
}

/// The payment as its guest or host sees it, without what is only read when it is asked for.
pub fn seen_by(row: Row, user_id: Uuid) -> Payment {
    Payment::new(row, Vec::new(), Vec::new(), user_id)
}
