//! Logs and the trace that leads from a request to the jobs it caused.

use std::cell::RefCell;
use std::sync::OnceLock;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::io::IsTerminal;

use rand::RngCore;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;
use uuid::Uuid;

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging to standard error. `RUST_LOG` filters; the default is `info`.
pub fn init(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn,apalis=warn,apalis_core=warn,apalis_redis=warn"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(FmtSpan::NONE)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}

/// Starts collecting metrics, once per process, and returns the way to read them as Prometheus text. Histograms
/// are in seconds.
#[must_use]
pub fn metrics() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let builder = PrometheusBuilder::new()
                .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
                .unwrap_or_else(|_| PrometheusBuilder::new());
            let recorder = builder.build_recorder();
            let handle = recorder.handle();
            if metrics::set_global_recorder(recorder).is_err() {
                tracing::warn!("metrics are already collected elsewhere");
            }
            handle
        })
        .clone()
}

const SECONDS: [f64; 14] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0,
];

tokio::task_local! {
    static CURRENT: RefCell<TraceContext>;
}

/// Where the work at hand comes from: kept on every job that it enqueues.
#[derive(Clone, Debug)]
pub struct TraceContext {
    /// W3C `traceparent`.
    pub traceparent: String,
    /// The signed-in user, if any: an id, nothing personal.
    pub actor: Option<String>,
    /// The running job, if it is one that enqueues.
    pub job_id: Option<Uuid>,
}

impl TraceContext {
    /// Continues the caller's trace if its header is well formed, else starts one.
    #[must_use]
    pub fn from_header(traceparent: Option<&str>) -> Self {
        let traceparent = traceparent
            .filter(|value| is_traceparent(value))
            .map_or_else(new_traceparent, str::to_owned);
        Self {
            traceparent,
            actor: None,
            job_id: None,
        }
    }

    /// The same, within this job.
    #[must_use]
    pub fn of_job(mut self, job_id: Uuid) -> Self {
        self.job_id = Some(job_id);
        self
    }

    /// The trace id: 32 hex digits.
    #[must_use]
    pub fn trace_id(&self) -> &str {
        self.traceparent.get(3..35).unwrap_or("")
    }

    /// The context of the running request or job, if there is one.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.try_with(|context| context.borrow().clone()).ok()
    }

    /// Says who is behind the running request, once that is known.
    pub fn set_actor(actor: String) {
        // Outside a request there is no context to complete.
        let _ = CURRENT.try_with(|context| context.borrow_mut().actor = Some(actor));
    }

    /// Runs `work` within this context.
    pub async fn scope<F: Future>(self, work: F) -> F::Output {
        CURRENT.scope(RefCell::new(self), work).await
    }
}

fn is_traceparent(value: &str) -> bool {
    let parts: Vec<&str> = value.split('-').collect();
    let hex = |part: &str, length: usize| {
        part.len() == length
            && part
                .bytes()
                .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    matches!(parts.as_slice(), [version, trace, span, flags]
        if *version == "00" && hex(trace, 32) && hex(span, 16) && hex(flags, 2) && trace.bytes().any(|byte| byte != b'0'))
}

fn new_traceparent() -> String {
    let mut bytes = [0_u8; 24];
    rand::rng().fill_bytes(&mut bytes);
    format!("00-{}-{}-01", hex::encode(&bytes[..16]), hex::encode(&bytes[16..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_well_formed_traceparent_is_continued_and_others_are_replaced() {
        let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(
            TraceContext::from_header(Some(given)).trace_id(),
            "4bf92f3577b34da6a3ce929d0e0e4736"
        );
        let zero = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
        for bad in ["", "00-xyz", zero, "\n"] {
            assert_eq!(TraceContext::from_header(Some(bad)).trace_id().len(), 32);
            assert_ne!(TraceContext::from_header(Some(bad)).traceparent, bad);
        }
    }
}
