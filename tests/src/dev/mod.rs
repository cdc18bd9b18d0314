//! The development commands behind the Makefile: a whole Roost on private parts, and commands beside private servers.

mod alongside;
mod earlier;
mod env;
mod operator;
mod run;
mod secrets;
mod stack;

pub use alongside::alongside;
pub use earlier::remind_sandbox;
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

    /// From now on this many signals end this process at once; the watchdog stops what is still up. When we stop for
    /// another reason a first signal may be on its way already, and means no more than that.
    fn exit_on(mut self, count: u32) {
        tokio::spawn(async move {
            for _ in 0..count {
                self.next().await;
            }
            std::process::exit(130);
        });
    }
}
