//! One trace id from a request to the jobs it caused: read in what the two real programs write.

use roost_tests::app::Call;
use roost_tests::world::{World, id_of};
use serde_json::{Value, json};

use crate::programs::{self, Logging};

/// The trace id of the span that a line was written in.
fn trace_id(line: &Value) -> &str {
    line["span"]["trace_id"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bookings_trace_leads_from_the_request_to_its_jobs() {
    let world = World::without_worker().await;
    let (host, guest) = (world.host().await, world.guest().await);
    let flat = world.lists(&host, json!({})).await;
    let api = Logging::start(programs::api(&world));
    let worker = Logging::start(programs::worker(&world));
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
        let of_this = async || -> Vec<String> {
            let kinds =
                "SELECT DISTINCT kind FROM jobs WHERE trace_context LIKE '00-' || $1 || '-%' AND state = 'succeeded'";
            let rows = sqlx::query_scalar(kinds).bind(&trace);
            rows.fetch_all(world.pool()).await.unwrap()
        };
        world
            .eventually("captured, and the authorisation's job settled", async || {
                world.payment(&guest, booking).await["state"] == "captured"
                    && of_this().await.iter().any(|kind| kind == "payment.authorize")
            })
            .await;
        for kind in of_this().await {
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
