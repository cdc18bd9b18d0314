//! Misbehaviour on demand: what a mail server does on a bad day, at the step asked for.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// The step of the conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Instead of the greeting.
    Connect,
    /// In reply to STARTTLS.
    StartTls,
    /// In reply to RCPT.
    Rcpt,
    /// In reply to DATA.
    Data,
    /// In reply to the message itself, the dot on its own line.
    Message,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Misbehaviour {
    /// Refuses with this code: 4xx for now, 5xx for good.
    Reply(u16),
    /// Goes on as usual, so many milliseconds late.
    Delay(u64),
    /// Says nothing more, and keeps the connection open until the client leaves.
    Hang,
    /// Hangs up. At [`Stage::Message`] the message has been taken: only the reply is lost.
    Close,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    pub at: Stage,
    pub what: Misbehaviour,
    /// How often.
    #[serde(default = "once")]
    pub times: u32,
}

fn once() -> u32 {
    1
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    pending: Vec<Fault>,
    seen: usize,
}

impl Faults {
    pub fn inject(&self, fault: Fault) {
        self.lock().pending.push(fault);
    }

    pub fn clear(&self) {
        self.lock().pending.clear();
    }

    pub fn pending(&self) -> Vec<Fault> {
        self.lock().pending.clone()
    }

    pub fn seen(&self) -> usize {
        self.lock().seen
    }

    /// The next fault for this step, used up once.
    pub fn next(&self, stage: Stage) -> Option<Misbehaviour> {
        let mut state = self.lock();
        let fault = state
            .pending
            .iter_mut()
            .find(|fault| fault.at == stage && fault.times > 0)?;
        fault.times -= 1;
        let what = fault.what;
        state.pending.retain(|fault| fault.times > 0);
        state.seen += 1;
        Some(what)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
