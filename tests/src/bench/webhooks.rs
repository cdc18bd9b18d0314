//! Taking in Stripe's events: verified, stored and enqueued before the reply, against pgbench with the same statements.

use anyhow::Result;
use roost_shared::clock::Clock;
use serde_json::json;

use super::{
    Plan,
    figure::{Figure, Report, Target, median},
    jobs::rounds,
    machine::{Machine, Running, WEBHOOK_SECRET},
    wrk::{self, Load, Tally},
};
use crate::stripe::signature_header;

/// Stripe delivers many at a time after an outage.
const CONNECTIONS: usize = 16;
/// More than a core can take in.
const MOST_PER_SECOND: u64 = 10_000;

const TRANSACTION: &str = "\\set n :n + 1
SELECT 'evt_pgbench_' || :round || '_' || :client_id || '_' || :n AS event_id \\gset
BEGIN;
INSERT INTO stripe_events (id, type, object_id, created_at, received_at)
VALUES (:event_id, 'payment_intent.succeeded', 'pi_bench', now(), now()) ON CONFLICT (id) DO NOTHING;
INSERT INTO jobs (id, kind, queue, priority, args, dedupe_key, max_attempts, state, run_at, published_at, trace_context, actor,
                  batch_id, parent_id)
SELECT id, kind, queue, priority, args, dedupe_key, max_attempts,
       CASE WHEN run_at IS NULL THEN 'queued' ELSE 'scheduled' END,
       coalesce(run_at, now()),
       CASE WHEN run_at IS NULL AND published THEN now() END, '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01', NULL, batch_id, NULL
FROM unnest(ARRAY[('018f0000-0000-7000-8000-' || lpad(to_hex(:round::bigint * 100000000 + :n * 100 + :client_id), 12, '0'))::uuid], '{stripe.event.handle}'::text[], '{payments}'::text[], '{25}'::smallint[],
            ARRAY[jsonb_build_object('event_id', :event_id::text)], ARRAY['stripe.event.handle:' || :event_id],
            '{875}'::int[], '{NULL}'::timestamptz[], '{NULL}'::uuid[], '{true}'::bool[])
     AS new (id, kind, queue, priority, args, dedupe_key, max_attempts, run_at, batch_id, published)
ON CONFLICT (dedupe_key) WHERE dedupe_key IS NOT NULL AND state IN ('scheduled', 'queued', 'running', 'retrying')
DO UPDATE SET rerun = true WHERE jobs.state = 'running'
RETURNING id, queue, state = 'queued' AND published_at IS NOT NULL AS \"due!\";
COMMIT;
";

/// Delivers events, each once.
pub async fn measure(machine: &Machine, api: &Running, plan: &Plan, report: &mut Report) -> Result<()> {
    let address = api.address;
    let request = move |number: u64| {
        let now = Clock::default().now().timestamp();
        let body = json!({
            "id": format!("evt_bench_{number}"), "object": "event", "type": "payment_intent.succeeded", "created": now,
            "livemode": false, "pending_webhooks": 1, "data": {"object": {"id": format!("pi_bench_{number}"), "object": "payment_intent"}},
        })
        .to_string();
        let signature = signature_header(&body, &[WEBHOOK_SECRET.to_owned()], now);
        wrk::post(
            address,
            "/webhooks/stripe",
            &format!("stripe-signature: {signature}\r\n"),
            &body,
        )
    };
    let load = Load::once(machine.folder(), address, CONNECTIONS, MOST_PER_SECOND, request);
    let (mut tallies, mut limits) = (vec![], vec![]);
    let measured = async {
        load.run(plan.warm_up).await?;
        for round in 0..plan.rounds {
            let variables = [("n", "0".to_owned()), ("round", round.to_string())];
            let rate = machine
                .pgbench
                .run("webhooks", TRANSACTION, &variables, CONNECTIONS, plan.round)
                .await?;
            limits.push(rate.per_second);
            tallies.push(load.run(plan.round).await?);
        }
        anyhow::Ok(())
    };
    tokio::select! {
        done = measured => done?,
        failed = machine.drain("payments") => failed?,
    }
    let values: Vec<f64> = tallies.iter().map(Tally::per_second).collect();
    let replies = tallies.iter().map(|tally| tally.replies).sum();
    let latency = |of: fn(&Tally) -> f64| median(&tallies.iter().map(of).collect::<Vec<_>>());
    report.add(
        Figure::new("webhooks", median(&values), "events/s", replies)
            .against("pgbench with the same transaction", median(&limits))
            .note(format!("{CONNECTIONS} deliveries at a time, no worker runs"))
            .note(rounds(&values, &limits)),
    )?;
    report.add(
        Figure::new("webhook_p99", latency(|tally| tally.p99_ms), "ms", replies)
            .target(Target::AtMost(100.0))
            .note(format!(
                "at the rate above; p50 {:.2} ms",
                latency(|tally| tally.p50_ms)
            )),
    )
}
