//! The development commands behind the Makefile: a whole Roost on private parts, and commands beside private servers.

mod alongside;
mod env;
mod run;
mod secrets;
mod stack;

pub use alongside::alongside;
pub use env::{DemoLogin, RunEnv};
pub use run::{Goal, run};

use tokio::signal::unix::{Signal, SignalKind, signal};

use anyhow::Result;

/// The signals that ask us to stop.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl StopSignals {
    fn listen() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }

    /// From now on the next signal ends this process at once; the watchdog stops what is still up.
    fn exit_on_next(mut self) {
        tokio::spawn(async move {
            self.next().await;
            std::process::exit(130);
        });
    }
}
