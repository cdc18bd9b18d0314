//! One trace id from a request to the jobs it caused: read in what the two real programs write.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use roost_tests::app::{Call, JWT_SECRET};
use roost_tests::world::{World, id_of};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// A program that runs, and the JSON lines it has written.
struct Program {
    lines: Arc<Mutex<Vec<Value>>>,
    _child: Child,
}

impl Program {
    fn start(world: &World, name: &str, more: &[(&str, &str)]) -> Self {
        let test = std::env::current_exe().unwrap();
        let binary: PathBuf = test.parent().unwrap().parent().unwrap().join(name);
        let mut child = Command::new(&binary)
            .env_clear()
            .env("DATABASE_URL", world.database_url())
            .env("REDIS_URL", world.redis_url())
            .env("REDIS_PREFIX", "test")
            .env("METRICS_LISTEN", "127.0.0.1:0")
            .env("LOG_FORMAT", "json")
            .envs(more.iter().copied())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", binary.display()));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let mut written = BufReader::new(child.stderr.take().unwrap()).lines();
        let kept = Arc::clone(&lines);
        tokio::spawn(async move {
            while let Ok(Some(line)) = written.next_line().await {
                let line = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line}"));
                kept.lock().unwrap().push(line);
            }
        });
        Self { lines, _child: child }
    }

    /// The lines that say this.
    fn saying(&self, message: &str) -> Vec<Value> {
        let lines = self.lines.lock().unwrap();
        lines
            .iter()
            .filter(|line| line["message"] == message)
            .cloned()
            .collect()
    }
}

/// The trace id of the span that a line was written in.
fn trace_id(line: &Value) -> &str {
    line["span"]["trace_id"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bookings_trace_leads_from_the_request_to_its_jobs() {
    let world = World::without_worker().await;
    let (host, guest) = (world.host().await, world.guest().await);
    let flat = world.lists(&host, json!({})).await;
    let api = Program::start(
        &world,
        "roost-api",
        &[
            ("API_LISTEN", "127.0.0.1:0"),
            ("OPS_LISTEN", "off"),
            ("JWT_SECRET", JWT_SECRET),
        ],
    );
    let worker = Program::start(
        &world,
        "roost-worker",
        &[
            ("STRIPE_SECRET_KEY", "sk_test_roost"),
            ("STRIPE_API_BASE", world.stripe.base_url()),
            ("SMTP_URL", &world.mailbox.smtp_url()),
        ],
    );
    world
        .eventually("the API to listen", async || !api.saying("serving").is_empty())
        .await;
    let address = api.saying("serving")[0]["api"].as_str().unwrap().to_owned();

    // A trace that the client began, and one that the API has to begin.
    let given = "4bf92f3577b34da6a3ce929d0e0e4736";
    let mut traces = Vec::new();
    for (days, header) in [(60, Some(format!("00-{given}-00f067aa0ba902b7-01"))), (70, None)] {
        let body = json!({
            "property_id": flat, "check_in": world.day(days), "check_out": world.day(days + 3), "guests": 1,
            "payment_method": "pm_card_visa",
        });
        let request = reqwest::Client::new()
            .post(format!("http://{address}/bookings/"))
            .json(&body);
        let call = Call::of(request).by(&guest);
        let call = match &header {
            Some(header) => call.header("traceparent", header),
            None => call,
        };
        let reply = call.send().await;
        let booking = id_of(&reply.expect(201));

        // The line of the request carries the id that the reply has, and a trace.
        let request_id = reply.header("x-request-id").to_owned();
        let answered = || {
            let lines = api.saying("answered").into_iter();
            lines
                .filter(|line| line["span"]["request_id"] == request_id.as_str())
                .collect::<Vec<_>>()
        };
        world
            .eventually("the API to log the request", async || !answered().is_empty())
            .await;
        let line = &answered()[0];
        assert_eq!(
            (&line["route"], &line["status"]),
            (&json!("/bookings"), &json!(201)),
            "{line}"
        );
        let trace = trace_id(line).to_owned();
        assert_eq!(trace.len(), 32, "{line}");

        // The worker's lines about the job that the request enqueued, and about those that came of it, carry the same.
        // Which those are is a matter of luck: Stripe's webhooks, which have traces of their own, may come first.
        world
            .eventually("captured", async || {
                world.payment(&guest, booking).await["state"] == "captured"
            })
            .await;
        let of_this: Vec<String> = sqlx::query_scalar(
            "SELECT DISTINCT kind FROM jobs WHERE trace_context LIKE '00-' || $1 || '-%' AND state = 'succeeded'",
        )
        .bind(&trace)
        .fetch_all(world.pool())
        .await
        .unwrap();
        assert!(of_this.iter().any(|kind| kind == "payment.authorize"), "{of_this:?}");
        for kind in of_this {
            let logged = || {
                let ended = worker.saying("attempt ended");
                ended
                    .iter()
                    .any(|line| trace_id(line) == trace && line["span"]["kind"] == kind.as_str())
            };
            world.eventually("the worker to log the job", async || logged()).await;
        }
        traces.push(trace);
    }
    assert_eq!(traces[0], given);
    assert_ne!(traces[0], traces[1], "one trace a request");
}
