//! The statements that move payments and bookings against the state machines: each state with each step, on real Postgres.

use std::collections::BTreeMap;

use roost_shared::bookings::{self, Actor, BookingError, BookingState, Transition};
use roost_shared::db::Tx;
use roost_shared::payments::transitions::{Step, Told};
use roost_shared::payments::{self, Payment, PaymentState};
use roost_shared::stripe::{Decline, Intent, IntentStatus};
use roost_tests::world::{World, id_of};
use serde_json::json;
use uuid::Uuid;

const STATUSES: [IntentStatus; 7] = [
    IntentStatus::RequiresConfirmation,
    IntentStatus::RequiresAction,
    IntentStatus::RequiresCapture,
    IntentStatus::Succeeded,
    IntentStatus::Canceled,
    IntentStatus::RequiresPaymentMethod,
    IntentStatus::Processing,
];

/// A booking that waits, without a worker that would go on with it.
async fn booked(world: &World) -> (Uuid, Uuid) {
    let (host, guest) = (world.host().await, world.guest().await);
    let flat = world.lists(&host, json!({})).await;
    let reply = world.books(&guest, flat, world.day(60), world.day(63), "pm_card_visa");
    let booking = id_of(&reply.await.expect(201));
    let payment = sqlx::query_scalar("SELECT id FROM payments WHERE booking_id = $1")
        .bind(booking)
        .fetch_one(world.pool())
        .await
        .unwrap();
    (booking, payment)
}

async fn put(tx: &mut Tx, payment: Uuid, state: PaymentState) -> Payment {
    sqlx::query("UPDATE payments SET state = $2, authorized_minor = amount_minor, captured_minor = CASE WHEN $2 = 'captured' THEN amount_minor ELSE 0 END WHERE id = $1")
        .bind(payment)
        .bind(state.name())
        .execute(tx.conn())
        .await
        .unwrap();
    payments::lock(tx, payment).await.unwrap().unwrap()
}

async fn state_of(tx: &mut Tx, payment: Uuid) -> PaymentState {
    payments::get(tx.conn(), payment).await.unwrap().unwrap().state
}

fn intent(payment: &Payment, status: IntentStatus) -> Intent {
    let taken = status == IntentStatus::Succeeded;
    Intent {
        id: "pi_test".to_owned(),
        payment_id: Some(payment.id),
        status,
        amount_minor: payment.amount_minor,
        capturable_minor: payment.amount_minor,
        received_minor: if taken { payment.amount_minor } else { 0 },
        refunded_minor: 0,
        capture_before: None,
        client_secret: None,
        decline: None,
    }
}

/// The state after what Stripe told.
fn expected(state: PaymentState, told: Told) -> PaymentState {
    let step = match told {
        Told::Moves(step) => step,
        Told::Lapsed => Step::Void,
        Told::Unwanted | Told::TakenUnwanted | Told::Nothing => return state,
    };
    state.after(step).unwrap_or(state)
}

#[tokio::test(flavor = "multi_thread")]
async fn payments_follow_stripe_as_the_machine_says() {
    let world = World::without_worker().await;
    let (_, payment) = booked(&world).await;
    for state in PaymentState::ALL {
        for status in STATUSES {
            // Nothing of it is committed.
            let mut tx = world.state.db.begin().await.unwrap();
            let before = put(&mut tx, payment, state).await;
            payments::follow(&mut tx, &before, &intent(&before, status), Actor::Stripe)
                .await
                .unwrap();
            let after = state_of(&mut tx, payment).await;
            assert_eq!(
                after,
                expected(state, state.told(status)),
                "{state:?} told of {status:?}"
            );
        }
    }
}

/// Captured by hand at Stripe: whoever did it has to know that the money belongs to nobody.
#[tokio::test(flavor = "multi_thread")]
async fn money_taken_on_a_payment_that_was_given_up_is_told_once() {
    let world = World::without_worker().await;
    let (booking, payment) = booked(&world).await;
    let counted = || {
        let text = roost_shared::telemetry::metrics().render();
        let line = text
            .lines()
            .find(|line| line.starts_with("roost_payments_taken_unwanted_total "));
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
    };
    for state in [PaymentState::Voided, PaymentState::Failed] {
        let before = counted();
        let mut tx = world.state.db.begin().await.unwrap();
        let given_up = put(&mut tx, payment, state).await;
        let taken = intent(&given_up, IntentStatus::Succeeded);
        let paid_back = Intent {
            refunded_minor: taken.received_minor,
            ..taken.clone()
        };
        for word in [&paid_back, &taken, &taken, &paid_back] {
            payments::follow(&mut tx, &given_up, word, Actor::Stripe).await.unwrap();
        }
        let timeline = bookings::timeline(tx.conn(), booking).await.unwrap();
        let told: Vec<_> = timeline
            .iter()
            .filter(|entry| entry.event == "payment_taken_unwanted")
            .map(|entry| (entry.actor.as_str(), entry.reason.as_deref()))
            .collect();
        assert_eq!(told, [("stripe", Some("pi_test"))], "{state:?}");
        assert!(counted() > before, "{state:?}: {}", counted());
        assert_eq!(state_of(&mut tx, payment).await, state);
    }
}

/// The statement is asked whatever was read before: a record that is out of date changes nothing it may not.
#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_has_moved_on_is_moved_by_no_stale_word() {
    let world = World::without_worker().await;
    let (_, payment) = booked(&world).await;
    let word: BTreeMap<&str, (Step, IntentStatus)> = BTreeMap::from([
        ("authorised", (Step::Authorize, IntentStatus::RequiresCapture)),
        ("action", (Step::RequireAction, IntentStatus::RequiresAction)),
        ("captured", (Step::Capture, IntentStatus::Succeeded)),
        ("voided", (Step::Void, IntentStatus::Canceled)),
    ]);
    for state in PaymentState::ALL {
        for (what, (step, status)) in &word {
            let mut tx = world.state.db.begin().await.unwrap();
            let stale = put(&mut tx, payment, PaymentState::Pending).await;
            put(&mut tx, payment, state).await;
            payments::follow(&mut tx, &stale, &intent(&stale, *status), Actor::Stripe)
                .await
                .unwrap();
            let after = state_of(&mut tx, payment).await;
            assert_eq!(after, state.after(*step).unwrap_or(state), "{what} while {state:?}");
        }
        let mut tx = world.state.db.begin().await.unwrap();
        let before = put(&mut tx, payment, state).await;
        payments::failed(&mut tx, &before, None, &Decline::default(), Actor::Stripe)
            .await
            .unwrap();
        let after = state_of(&mut tx, payment).await;
        assert_eq!(
            after,
            state.after(Step::Fail).unwrap_or(state),
            "refused while {state:?}"
        );
    }
}

/// Asks as the side that may.
async fn ask(tx: &mut Tx, booking: Uuid, how: Transition) -> Result<bookings::Booking, BookingError> {
    let sides = bookings::get(tx.conn(), booking).await.unwrap().unwrap();
    let (guest, host) = (sides.guest_id, sides.host_id);
    match how {
        Transition::Decline => bookings::decline(tx, booking, host, None).await,
        Transition::CancelByGuest => bookings::cancel(tx, booking, guest, None).await,
        Transition::CancelByHost => bookings::cancel(tx, booking, host, None).await,
        Transition::CheckIn => bookings::check_in(tx, booking, guest).await,
        Transition::CheckOut => bookings::check_out(tx, booking, host).await,
        Transition::MissGuest => bookings::report_no_show(tx, booking, host, None).await,
        other => panic!("{other:?} is not for people to ask for"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_ask_of_a_stay_that_runs_is_done_as_the_machine_says() {
    let world = World::without_worker().await;
    let (booking, payment) = booked(&world).await;
    for state in BookingState::ALL {
        for how in [
            Transition::Decline,
            Transition::CancelByGuest,
            Transition::CancelByHost,
            Transition::CheckIn,
            Transition::CheckOut,
            Transition::MissGuest,
        ] {
            let mut tx = world.state.db.begin().await.unwrap();
            put(&mut tx, payment, PaymentState::Captured).await;
            let stays = "UPDATE bookings SET state = $2, confirmed_at = $3 - interval '9 days', stay = daterange($3::date - 2, $3::date + 3) WHERE id = $1";
            let now = tx.now();
            sqlx::query(stays)
                .bind(booking)
                .bind(state.name())
                .bind(now)
                .execute(tx.conn())
                .await
                .unwrap();
            let asked = ask(&mut tx, booking, how).await;
            let found = bookings::get(tx.conn(), booking).await.unwrap().unwrap().state;
            match state.after(how) {
                Some(after) => {
                    assert_eq!(asked.unwrap().state, after, "{how:?} while {state:?}");
                    assert_eq!(found, after, "{how:?} while {state:?}");
                }
                None => {
                    // Who says again that the guest did not come hears that it is known.
                    let known = how == Transition::MissGuest && state == BookingState::NoShow;
                    let refused = matches!(asked, Err(BookingError::WrongState { state: told, .. }) if told == state);
                    assert!(
                        refused || (known && asked.is_ok()),
                        "{how:?} while {state:?}: {asked:?}"
                    );
                    assert_eq!(found, state, "{how:?} while {state:?}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stays_that_ended_are_those_the_machine_completes() {
    let world = World::without_worker().await;
    let (booking, _) = booked(&world).await;
    for state in BookingState::ALL {
        let mut tx = world.state.db.begin().await.unwrap();
        sqlx::query("UPDATE bookings SET state = $2, stay = daterange('2020-01-01', '2020-01-04') WHERE id = $1")
            .bind(booking)
            .bind(state.name())
            .execute(tx.conn())
            .await
            .unwrap();
        let completed = bookings::complete_ended(&mut tx, 10).await.unwrap();
        let after = state.after(Transition::Complete);
        assert_eq!(completed, usize::from(after.is_some()), "{state:?}");
        let found = bookings::get(tx.conn(), booking).await.unwrap().unwrap().state;
        assert_eq!(found, after.unwrap_or(state), "{state:?}");
    }
}
