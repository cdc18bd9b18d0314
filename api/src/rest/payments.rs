//! Payments: the cards tried for a booking, and trying another one.

pub mod objects;

use poem::http::Uri;
use poem_openapi::OpenApi;
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use roost_shared::db::Retries;
use roost_shared::payments::{self, Payment as Row, PaymentError};
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

pub use self::objects::PaymentState;
use self::objects::{NewPayment, Payment, PaymentSummary};
use super::Tag;
use super::bookings::objects::Side;
use super::bookings::refusals::sentence;
use super::several::Several;
use crate::auth::Auth;
use crate::body::JsonBody;
use crate::error::{ApiError, ApiResult};
use crate::idempotency::{Begun, Created, Idempotency};
use crate::page::{PageRequest, Paged};
use crate::state::AppState;

/// Operations on payments.
pub struct PaymentsApi(pub AppState);

#[OpenApi(tag = "Tag::Payments")]
impl PaymentsApi {
    /// Try another card
    ///
    /// For the guest, while the booking is `held` and no other card is in play; one that waits for 3-D Secure is given
    /// up for the new one. The card is authorised in the background: follow the booking. Refusals of its own, all 409: `not_payable` (the booking's state takes no
    /// payment), `hold_ended`, `already_paying`.
    #[oai(path = "/payments", method = "post", operation_id = "create_payment")]
    pub(crate) async fn create(
        &self,
        auth: Auth,
        idempotency: Idempotency,
        body: JsonBody<NewPayment>,
    ) -> ApiResult<Created<Payment>> {
        let mut retries = Retries::default();
        loop {
            let mut work = match idempotency.begin(&self.0, &auth.scope(), body.raw()).await? {
                Begun::Replay(stored) => return Ok(stored.into()),
                Begun::Work(work) => work,
            };
            match payments::try_card(work.tx(), auth.user_id, body.booking_id, &body.payment_method).await {
                Ok(payment) => {
                    let location = format!("/payments/{}", payment.id);
                    let view = Payment::new(payment, Vec::new(), Vec::new(), auth.user_id);
                    return work.created(&location, &view).await;
                }
                Err(PaymentError::Database(error)) if retries.again(&error).await => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// List payments
    ///
    /// Those you made, or with `role=host` those for your properties; newest first.
    #[oai(path = "/payments", method = "get", operation_id = "list_payments")]
    #[allow(clippy::too_many_arguments, reason = "one argument a parameter")]
    async fn list(
        &self,
        auth: Auth,
        /// On which side you stand
        #[oai(default = "super::bookings::default_side")]
        role: Query<Side>,
        /// Only of this booking
        booking_id: Query<Option<Uuid>>,
        /// Only in these states; repeat the parameter, or separate them by commas
        state: Query<Several<PaymentState>>,
        /// How many at most
        #[oai(
            default = "crate::page::default_limit",
            validator(minimum(value = "1"), maximum(value = "100"))
        )]
        limit: Query<u16>,
        /// `next_cursor` of the page before
        cursor: Query<Option<String>>,
        uri: &Uri,
    ) -> ApiResult<Paged<PaymentSummary>> {
        let page = PageRequest::<Uuid>::new(limit.0, cursor.0.as_deref(), uri)?;
        let filter = payments::Filter {
            as_host: role.0 == Side::Host,
            booking_id: booking_id.0,
            states: state.0.into_iter().map(payments::PaymentState::from).collect(),
            before: page.after().copied(),
            limit: page.fetch(),
        };
        let rows = payments::list(self.0.db.pool(), auth.user_id, &filter).await?;
        Ok(page.reply(rows, |row| row.id, |row: Row| PaymentSummary::new(row, auth.user_id)))
    }

    /// Read a payment
    ///
    /// For its guest and its host only: what was asked of Stripe for it, and what was paid back. The host sees
    /// amounts, and nothing of the card.
    #[oai(path = "/payments/:payment_id", method = "get", operation_id = "get_payment")]
    async fn get(
        &self,
        auth: Auth,
        /// The payment
        payment_id: Path<Uuid>,
    ) -> ApiResult<Json<Payment>> {
        let mut conn = self.0.db.pool().acquire().await?;
        let payment = of_party(&mut conn, payment_id.0, auth.user_id).await?;
        let attempts = payments::attempts(&mut conn, payment.id).await?;
        let refunds = payments::refunds_of(&mut conn, payment.id).await?;
        Ok(Json(Payment::new(payment, attempts, refunds, auth.user_id)))
    }
}

/// The payment, if the user is its guest or host.
pub(crate) async fn of_party(conn: &mut PgConnection, id: Uuid, user_id: Uuid) -> ApiResult<Row> {
    payments::get(conn, id)
        .await?
        .filter(|payment| payment.guest_id == user_id || payment.host_id == user_id)
        .ok_or_else(|| ApiError::not_found("payment"))
}

impl From<PaymentError> for ApiError {
    fn from(error: PaymentError) -> Self {
        let detail = sentence(&error);
        match error {
            PaymentError::NoSuchBooking => Self::not_found("booking"),
            PaymentError::NotPayable(state) => {
                Self::conflict("not_payable", detail).with_member("state", json!(state.name()))
            }
            PaymentError::HoldEnded(at) => {
                Self::conflict("hold_ended", detail).with_member("hold_expires_at", json!(at))
            }
            PaymentError::AlreadyPaying(state) => {
                Self::conflict("already_paying", detail).with_member("payment_state", json!(state.name()))
            }
            PaymentError::Database(error) => error.into(),
        }
    }
}
