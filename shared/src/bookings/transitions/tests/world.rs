//! A booking and its cards. What may happen is decided by the code of production; Stripe is a reference that knows only
//! its own rules. Each phase of a job is a step of its own.

use proptest::prelude::*;

use super::super::*;
use crate::payments::PaymentState;
use crate::payments::transitions::{Step, Told};
use crate::stripe::IntentStatus;

const PRICE: i64 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    Authorize(usize),
    Confirm,
    Capture(usize),
    Void(usize),
    Release(usize),
    Expire,
    ExpireReleased(usize, BookingState),
    Refund(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Good,
    ProofWanted,
    Declined,
    /// Done at Stripe, and nobody heard of it.
    Lost,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Move {
    TryCard,
    Ask(Transition),
    HoldEnds,
    ApprovalEnds,
    /// Somebody else books the nights, if they are free.
    OthersBook,
    Prove(bool),
    Lapse,
    Webhook(usize),
    Run(usize, Answer),
}

struct Card {
    state: PaymentState,
    at_stripe: Option<IntentStatus>,
    /// The guest knows how to prove it.
    secret: bool,
    releasing: bool,
    authorized: i64,
    captured: i64,
    refunded: i64,
    promised: i64,
    captures: u32,
}

pub(super) struct World {
    instant: bool,
    pub booking: BookingState,
    cards: Vec<Card>,
    jobs: Vec<Job>,
    hold_over: bool,
    approval_over: bool,
    taken_by_others: bool,
    /// What a cancellation has promised.
    owed_back: Option<i64>,
    /// A stay has begun and its money is gone: people settle it.
    unpaid: bool,
}

impl World {
    pub fn new(instant: bool) -> Self {
        let mut world = Self {
            instant,
            booking: BookingState::Held,
            cards: Vec::new(),
            jobs: vec![Job::Expire],
            hold_over: false,
            approval_over: false,
            taken_by_others: false,
            owed_back: None,
            unpaid: false,
        };
        world.try_card();
        world
    }

    /// As with a dedupe key: one of a kind waits.
    fn enqueue(&mut self, job: Job) {
        if !self.jobs.contains(&job) {
            self.jobs.push(job);
        }
    }

    fn moves(&mut self, transition: Transition) -> bool {
        let Some(to) = self.booking.after(transition) else {
            return false;
        };
        self.booking = to;
        true
    }

    fn step(&mut self, card: usize, step: Step) {
        let before = self.cards[card].state;
        let Some(to) = before.after(step) else { return };
        let one = &mut self.cards[card];
        one.state = to;
        match step {
            Step::Authorize => {
                one.authorized = PRICE;
                self.enqueue(Job::Confirm);
            }
            Step::Capture => {
                one.authorized = one.authorized.max(PRICE);
                one.captured = PRICE;
            }
            Step::RequireAction => one.secret = true,
            Step::Fail if before == PaymentState::RequiresAction => self.enqueue(Job::Void(card)),
            Step::Fail | Step::Supersede | Step::Void => {}
        }
    }

    fn follow(&mut self, card: usize) {
        let Some(status) = self.cards[card].at_stripe else {
            return;
        };
        match self.cards[card].state.told(status) {
            Told::Moves(step) => self.step(card, step),
            Told::Lapsed => {
                self.step(card, Step::Void);
                if !self.moves(Transition::LosePayment) && self.booking.is_bound() {
                    self.unpaid = true;
                }
            }
            Told::Unwanted => self.enqueue(Job::Void(card)),
            Told::TakenUnwanted => panic!("a card that was given up was captured"),
            Told::Nothing => {}
        }
    }

    fn try_card(&mut self) {
        if !self.booking.takes_payment() || self.hold_over || self.cards.len() > 3 {
            return;
        }
        match self.cards.last().map(|card| card.state).filter(|state| state.is_live()) {
            Some(PaymentState::RequiresAction) => {
                let last = self.cards.len() - 1;
                self.step(last, Step::Supersede);
                self.cards[last].releasing = true;
                self.enqueue(Job::Void(last));
            }
            Some(_) => return,
            None => {}
        }
        self.cards.push(Card {
            state: PaymentState::Pending,
            at_stripe: None,
            secret: false,
            releasing: false,
            authorized: 0,
            captured: 0,
            refunded: 0,
            promised: 0,
            captures: 0,
        });
        self.enqueue(Job::Authorize(self.cards.len() - 1));
    }

    fn may_be_captured(&self) -> bool {
        let last = self.cards.last();
        last.is_some_and(|card| card.state == PaymentState::Authorized && !card.releasing)
    }

    fn ask(&mut self, transition: Transition) {
        let was_bound = self.booking.is_bound();
        match transition {
            Transition::Approve => {
                if self.may_be_captured() && !self.approval_over && self.moves(transition) {
                    self.enqueue(Job::Capture(self.cards.len() - 1));
                }
            }
            Transition::Decline | Transition::CancelByGuest | Transition::CancelByHost => {
                if !self.moves(transition) {
                    return;
                }
                let last = self.cards.len() - 1;
                let live = self.cards[last].state.is_live();
                if was_bound {
                    let back = if transition == Transition::CancelByHost {
                        PRICE
                    } else {
                        PRICE / 2
                    };
                    self.owed_back = Some(back);
                    if live {
                        self.promise(last, back);
                    }
                } else if live {
                    self.enqueue(Job::Void(last));
                }
            }
            Transition::CheckIn | Transition::CheckOut | Transition::MissGuest | Transition::Complete => {
                self.moves(transition);
            }
            // Not for people to ask for.
            Transition::Confirm
            | Transition::AwaitApproval
            | Transition::Expire
            | Transition::ExpireUnpaid
            | Transition::LosePayment => {}
        }
    }

    fn promise(&mut self, card: usize, amount: i64) {
        self.cards[card].promised += amount;
        self.enqueue(Job::Refund(card));
    }

    fn pay_back_rest(&mut self, card: usize) {
        let one = &self.cards[card];
        let rest = one.captured - one.refunded - one.promised;
        if rest > 0 {
            self.promise(card, rest);
        }
    }

    pub fn apply(&mut self, next: Move) {
        match next {
            Move::TryCard => self.try_card(),
            Move::Ask(transition) => self.ask(transition),
            Move::HoldEnds => self.hold_over = true,
            Move::ApprovalEnds => self.approval_over |= self.booking == BookingState::PendingApproval,
            Move::OthersBook => self.taken_by_others |= !self.booking.holds_nights(),
            Move::Prove(right) => {
                for card in self.cards.iter_mut().filter(|card| card.secret) {
                    if let Some(IntentStatus::RequiresAction | IntentStatus::RequiresPaymentMethod) = card.at_stripe {
                        card.at_stripe = Some(if right {
                            IntentStatus::RequiresCapture
                        } else {
                            IntentStatus::RequiresPaymentMethod
                        });
                    }
                }
            }
            Move::Lapse => {
                for card in &mut self.cards {
                    if card.at_stripe == Some(IntentStatus::RequiresCapture) {
                        card.at_stripe = Some(IntentStatus::Canceled);
                    }
                }
            }
            Move::Webhook(card) => self.follow(card % self.cards.len()),
            Move::Run(at, answer) => {
                if !self.jobs.is_empty() {
                    let job = self.jobs.remove(at % self.jobs.len());
                    self.run(job, answer);
                }
            }
        }
    }

    fn run(&mut self, job: Job, answer: Answer) {
        match job {
            Job::Authorize(card) => self.authorize(card, answer),
            Job::Confirm => self.confirm(),
            Job::Capture(card) => self.capture(card, answer),
            Job::Void(card) => self.void(card),
            Job::Release(card) => {
                if self.release(card, answer) {
                    self.record_release(card);
                } else {
                    self.enqueue(job);
                }
            }
            Job::Expire => self.expire(),
            Job::ExpireReleased(card, state) => {
                if !self.release(card, answer) {
                    return self.enqueue(job);
                }
                self.record_release(card);
                self.end_hold(state);
            }
            Job::Refund(card) => {
                let one = &mut self.cards[card];
                match one.state {
                    PaymentState::Captured => {
                        one.refunded += one.promised;
                        one.promised = 0;
                    }
                    PaymentState::Pending | PaymentState::RequiresAction | PaymentState::Authorized => {
                        self.enqueue(Job::Capture(card));
                        self.enqueue(job);
                    }
                    PaymentState::Voided | PaymentState::Failed => one.promised = 0,
                }
            }
        }
    }

    fn authorize(&mut self, card: usize, answer: Answer) {
        let wanted = self.booking.takes_payment() && !self.hold_over && !self.cards[card].releasing;
        let one = &mut self.cards[card];
        match one.at_stripe {
            _ if one.state != PaymentState::Pending => {}
            None if wanted => {
                one.at_stripe = Some(IntentStatus::RequiresConfirmation);
                self.enqueue(Job::Authorize(card));
            }
            None => self.step(card, Step::Void),
            Some(IntentStatus::RequiresConfirmation) if wanted => {
                one.at_stripe = Some(match answer {
                    Answer::Good | Answer::Lost => IntentStatus::RequiresCapture,
                    Answer::ProofWanted => IntentStatus::RequiresAction,
                    Answer::Declined => IntentStatus::RequiresPaymentMethod,
                });
                if answer == Answer::Lost {
                    self.enqueue(Job::Authorize(card));
                } else {
                    self.follow(card);
                }
            }
            Some(IntentStatus::RequiresConfirmation) => {
                one.releasing = true;
                self.enqueue(Job::Release(card));
            }
            Some(_) => self.follow(card),
        }
    }

    fn confirm(&mut self) {
        if !self.may_be_captured() {
            return;
        }
        let last = self.cards.len() - 1;
        match self.booking.when_authorized() {
            Authorized::GoesOn => {}
            Authorized::GoesOnIfFree if !self.taken_by_others => {}
            Authorized::GoesOnIfFree | Authorized::Release => return self.enqueue(Job::Void(last)),
            Authorized::Nothing => return,
        }
        if self.instant {
            assert!(self.moves(Transition::Confirm), "{:?} does not go on", self.booking);
            self.enqueue(Job::Capture(last));
        } else {
            assert!(
                self.moves(Transition::AwaitApproval),
                "{:?} does not go on",
                self.booking
            );
            self.enqueue(Job::Expire);
        }
    }

    fn capture(&mut self, card: usize, answer: Answer) {
        let one = &mut self.cards[card];
        if one.state != PaymentState::Authorized {
            return;
        }
        if one.releasing {
            return self.enqueue(Job::Release(card));
        }
        if one.at_stripe == Some(IntentStatus::RequiresCapture) {
            if answer == Answer::Declined {
                one.releasing = true;
                return self.enqueue(Job::Release(card));
            }
            one.at_stripe = Some(IntentStatus::Succeeded);
            one.captures += 1;
            if answer == Answer::Lost {
                return self.enqueue(Job::Capture(card));
            }
        }
        self.follow(card);
    }

    fn void(&mut self, card: usize) {
        let bound = self.booking.is_bound();
        let asking = self.jobs.contains(&Job::Authorize(card));
        let one = &mut self.cards[card];
        match one.state {
            PaymentState::Voided | PaymentState::Failed if one.at_stripe.is_none() => {}
            PaymentState::Captured => {
                if !bound {
                    self.pay_back_rest(card);
                }
            }
            PaymentState::Pending if asking => self.enqueue(Job::Void(card)),
            PaymentState::Pending if one.at_stripe.is_none() => self.step(card, Step::Void),
            PaymentState::Authorized if bound => {}
            PaymentState::Voided
            | PaymentState::Failed
            | PaymentState::Pending
            | PaymentState::RequiresAction
            | PaymentState::Authorized => {
                one.releasing = true;
                self.enqueue(Job::Release(card));
            }
        }
    }

    /// Whether the answer arrived.
    fn release(&mut self, card: usize, answer: Answer) -> bool {
        let one = &mut self.cards[card];
        if one.at_stripe != Some(IntentStatus::Succeeded) {
            one.at_stripe = Some(IntentStatus::Canceled);
        }
        answer != Answer::Lost
    }

    fn record_release(&mut self, card: usize) {
        self.follow(card);
        if self.cards[card].at_stripe == Some(IntentStatus::Succeeded) && !self.booking.is_bound() {
            self.pay_back_rest(card);
        }
    }

    fn expire(&mut self) {
        let state = self.booking;
        let over = match state {
            BookingState::Held => self.hold_over,
            BookingState::PendingApproval => self.approval_over,
            _ => return,
        };
        let last = self.cards.len() - 1;
        let asking = self.jobs.contains(&Job::Authorize(last));
        let one = &mut self.cards[last];
        if !over {
            return self.enqueue(Job::Expire);
        }
        if !one.state.is_live() {
            return self.end_hold(state);
        }
        if one.state == PaymentState::Pending && (asking || one.at_stripe.is_none()) {
            if !asking {
                self.step(last, Step::Void);
            }
            return self.enqueue(Job::Expire);
        }
        if !one.releasing {
            let told = one.at_stripe.map_or(Told::Nothing, |status| one.state.told(status));
            if one.state == PaymentState::Authorized && state == BookingState::Held {
                self.enqueue(Job::Confirm);
                return self.enqueue(Job::Expire);
            }
            if told != Told::Nothing {
                self.follow(last);
                return self.enqueue(Job::Expire);
            }
            one.releasing = true;
        }
        self.enqueue(Job::ExpireReleased(last, state));
    }

    fn end_hold(&mut self, state: BookingState) {
        let last = self.cards.last().map(|card| card.state);
        let in_play = last.is_some_and(|state| state.is_live() && state != PaymentState::Captured);
        if self.booking != state || in_play {
            return self.enqueue(Job::Expire);
        }
        let refused = state == BookingState::Held && last == Some(PaymentState::Failed);
        let how = if refused {
            Transition::ExpireUnpaid
        } else {
            Transition::Expire
        };
        assert!(self.moves(how), "{state:?} does not end");
    }

    /// What holds at every moment.
    pub fn check(&self, before: BookingState) -> Result<(), TestCaseError> {
        for card in &self.cards {
            prop_assert!(card.captured <= card.authorized, "captured more than authorised");
            prop_assert!(
                card.refunded + card.promised <= card.authorized.max(PRICE),
                "promised more than there is"
            );
            prop_assert!(card.refunded <= card.captured, "refunded more than captured");
            prop_assert!(card.captures <= 1, "a card was captured twice");
        }
        let captures: u32 = self.cards.iter().map(|card| card.captures).sum();
        prop_assert!(captures <= 1, "two cards were captured");
        let live = self.cards.iter().filter(|card| card.state.is_live()).count();
        prop_assert!(live <= 1, "two cards in play");
        prop_assert!(
            !(self.taken_by_others && self.booking.holds_nights()),
            "the nights are sold twice"
        );
        if self.booking == BookingState::Confirmed && before != BookingState::Confirmed {
            prop_assert!(self.may_be_captured(), "confirmed without an authorisation");
        }
        if before.is_final() && self.booking != before {
            let revived = before.when_authorized() == Authorized::GoesOnIfFree && self.may_be_captured();
            prop_assert!(revived, "{:?} became {:?}", before, self.booking);
        }
        Ok(())
    }

    /// Time passes, Stripe answers and tells, and every job runs as often as it wants to.
    pub fn settle(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..40 {
            self.hold_over = true;
            self.apply(Move::ApprovalEnds);
            for card in 0..self.cards.len() {
                self.follow(card);
            }
            if self.jobs.is_empty() {
                return Ok(());
            }
            for job in std::mem::take(&mut self.jobs) {
                let before = self.booking;
                self.run(job, Answer::Good);
                self.check(before)?;
            }
        }
        Err(TestCaseError::fail(format!(
            "no end: {:?} of a booking that is {:?}",
            self.jobs, self.booking
        )))
    }

    /// What holds when nothing is left to do.
    pub fn check_end(&self) -> Result<(), TestCaseError> {
        let undecided = matches!(self.booking, BookingState::Held | BookingState::PendingApproval);
        prop_assert!(!undecided, "still {:?}", self.booking);
        for card in &self.cards {
            let reserved = card.at_stripe == Some(IntentStatus::RequiresCapture);
            prop_assert!(
                !reserved,
                "{:?}: still reserved on a card that is {:?}",
                self.booking,
                card.state
            );
            let taken = card.at_stripe == Some(IntentStatus::Succeeded);
            prop_assert_eq!(
                taken,
                card.state == PaymentState::Captured,
                "our record is not Stripe's"
            );
            prop_assert_eq!(card.promised, 0, "a promise was not kept");
        }
        let kept: i64 = self.cards.iter().map(|card| card.captured - card.refunded).sum();
        let captured: i64 = self.cards.iter().map(|card| card.captured).sum();
        let due = match self.owed_back {
            _ if self.unpaid => 0,
            Some(back) => (captured - back).max(0),
            None if self.booking.is_bound() => PRICE,
            None => 0,
        };
        prop_assert_eq!(kept, due, "kept of a booking that is {:?}", self.booking);
        Ok(())
    }
}
