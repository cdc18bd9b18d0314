//! Priority by time to breach. Each queue has a target, the time within which a due job should begin, and a weight. While
//! a queue comes near its target, queues of less weight that do not get a share of their slots only: a capture does not
//! wait for a processor that warms caches. What a queue has left is its time to breach.

use sqlx::PgExecutor;

use super::Queue;
use super::presence::Standing;

/// The share of the target after which a queue is pressed.
pub const PRESSED: f64 = 0.75;

/// Notes since when the longest waiting job of each queue is due, of the kinds that somebody knows. Writes nothing while
/// that does not change by much.
///
/// Whoever leads has just moved what is due to `queued`, the longest waiting first, so what is not there yet is younger; and
/// no index finds it by queue.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn note(db: impl PgExecutor<'_>, kinds: &[String]) -> Result<(), sqlx::Error> {
    // What runs next, and what was handed to Redis first: each has an index.
    sqlx::query!(
        "WITH seen AS (
             SELECT name, (SELECT min(run_at) FROM (
                 (SELECT run_at FROM jobs WHERE jobs.queue = queues.name AND state = 'queued' AND published_at IS NULL
                      AND kind = ANY($1) ORDER BY run_at - timestamptz 'epoch' + make_interval(secs => priority) LIMIT 1)
                 UNION ALL
                 (SELECT run_at FROM jobs WHERE jobs.queue = queues.name AND state = 'queued' AND published_at IS NOT NULL
                      AND kind = ANY($1) ORDER BY published_at LIMIT 1)
             ) AS first) AS oldest_due_at
             FROM queues)
         UPDATE queues SET oldest_due_at = seen.oldest_due_at FROM seen
         WHERE queues.name = seen.name
             AND coalesce(abs(extract(epoch FROM queues.oldest_due_at - seen.oldest_due_at)) > 0.5,
                          num_nulls(queues.oldest_due_at, seen.oldest_due_at) = 1)",
        kinds
    )
    .execute(db)
    .await?;
    Ok(())
}

/// The slots that each of its queues has of `all` in a worker. Never none: what is held back goes on slowly.
#[must_use]
pub fn shares(standing: &Standing, served: &[Queue], all: usize) -> Vec<(Queue, usize)> {
    let queues: Vec<(Queue, usize, bool)> = standing
        .queues
        .iter()
        .zip(standing.weights.iter().zip(&standing.pressed))
        .filter_map(|(name, (weight, pressed))| {
            let queue = Queue::by_name(name).filter(|queue| served.contains(queue))?;
            Some((queue, usize::try_from(*weight).ok()?, *pressed))
        })
        .collect();
    let pressing = queues.iter().filter(|(_, _, pressed)| *pressed);
    let heaviest = pressing.map(|(_, weight, _)| *weight).max();
    let share = |weight: usize, pressed: bool| match heaviest {
        Some(heaviest) if !pressed && weight < heaviest => (all * weight / heaviest).max(1),
        _ => all,
    };
    queues
        .iter()
        .map(|(queue, weight, pressed)| (*queue, share(*weight, *pressed)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(pressed: [bool; 3]) -> Standing {
        Standing {
            leads: false,
            fleet_kinds: Vec::new(),
            apart: Vec::new(),
            paused: Vec::new(),
            limited: Vec::new(),
            queues: ["cache", "notifications", "payments"].map(str::to_owned).to_vec(),
            weights: vec![1, 5, 10],
            pressed: pressed.to_vec(),
            quiet: false,
            stop: false,
            suspects: false,
        }
    }

    fn slots(pressed: [bool; 3]) -> Vec<usize> {
        shares(&standing(pressed), &Queue::ALL, 16)
            .into_iter()
            .map(|(_, slots)| slots)
            .collect()
    }

    #[test]
    fn while_a_queue_is_pressed_the_lighter_ones_get_their_share() {
        assert_eq!(slots([false, false, false]), [16, 16, 16]);
        assert_eq!(slots([false, false, true]), [1, 8, 16]);
        assert_eq!(slots([false, true, false]), [3, 16, 16]);
        assert_eq!(
            slots([true, false, false]),
            [16, 16, 16],
            "the lightest takes nothing from others"
        );
        assert_eq!(
            slots([true, true, true]),
            [16, 16, 16],
            "what is late itself is not held back"
        );
        let elsewhere = shares(&standing([false, false, true]), &[Queue::Cache], 16);
        assert_eq!(
            elsewhere,
            [(Queue::Cache, 16)],
            "what others work on takes nothing here"
        );
    }
}
