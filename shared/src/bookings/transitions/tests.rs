//! A booking and its cards, with everything that happens to them in any order: people, time, Stripe, webhooks and jobs.

mod world;

use proptest::prelude::*;

use super::*;
use world::{Answer, Move, World};

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let answer = prop_oneof![
        5 => Just(Answer::Good),
        2 => Just(Answer::ProofWanted),
        1 => Just(Answer::Declined),
        1 => Just(Answer::Lost),
    ];
    let next = prop_oneof![
        2 => Just(Move::TryCard),
        4 => prop::sample::select(Transition::ALL.to_vec()).prop_map(Move::Ask),
        1 => Just(Move::HoldEnds),
        1 => Just(Move::ApprovalEnds),
        1 => Just(Move::OthersBook),
        2 => any::<bool>().prop_map(Move::Prove),
        1 => Just(Move::Lapse),
        2 => (0..4_usize).prop_map(Move::Webhook),
        12 => (0..6_usize, answer).prop_map(|(at, answer)| Move::Run(at, answer)),
    ];
    prop::collection::vec(next, 0..50)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_booking_and_its_money_end_right_whatever_the_order(instant in any::<bool>(), moves in moves()) {
        let mut world = World::new(instant);
        for next in moves {
            let before = world.booking;
            world.apply(next);
            world.check(before)?;
        }
        world.settle()?;
        world.check_end()?;
    }
}

#[test]
fn what_takes_a_card_can_go_on_and_every_state_but_the_first_is_reached() {
    for state in BookingState::ALL {
        let goes_on = state.after(Transition::Confirm).is_some();
        let when = state.when_authorized();
        assert_eq!(
            goes_on,
            matches!(when, Authorized::GoesOn | Authorized::GoesOnIfFree),
            "{state:?}"
        );
        // What had let the nights go has to look before it takes them again.
        let looks = when == Authorized::GoesOnIfFree;
        assert_eq!(goes_on && !state.holds_nights(), looks, "{state:?}");
        let reached = BookingState::ALL
            .iter()
            .any(|from| Transition::ALL.iter().any(|how| from.after(*how) == Some(state)));
        assert_eq!(reached, state != BookingState::Held, "{state:?}");
    }
}
