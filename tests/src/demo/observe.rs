//! What can be seen of jobs from outside: mail that arrived, a booking's events, the cache, and the counters of the two
//! processes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use roost_shared::{
    properties::cache::{self, Cached, Rendered},
    redis::Redis,
};
use serde_json::Value;

use super::{
    PATIENCE,
    client::{Api, Person},
};
use crate::{dev::RunEnv, mailbox::Message};

const POLL: Duration = Duration::from_millis(10);

/// Looks until there is what is wanted. `Err` is what was seen instead; the last one is told when time is over, with
/// the log to look into.
pub async fn until<T>(
    patience: Duration,
    log: &str,
    mut look: impl AsyncFnMut() -> Result<Result<T, String>>,
) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        match look().await? {
            Ok(found) => return Ok(found),
            Err(seen) if Instant::now() >= deadline => bail!(
                "not within {} s; seen: {seen}; .roost/log/{log}.log may say why",
                patience.as_secs()
            ),
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// The mailbox over its HTTP API.
pub struct Inbox {
    http: reqwest::Client,
    base: String,
}

/// A mail that arrived.
pub struct Mail(Message);

impl Inbox {
    pub fn new(base: &str) -> Result<Self> {
        Ok(Self {
            http: reqwest::Client::builder()
                .no_proxy()
                .timeout(Duration::from_secs(5))
                .build()?,
            base: base.to_owned(),
        })
    }

    /// The newest mail to this address whose subject begins so.
    pub async fn wait(&self, to: &str, subject: &str) -> Result<Mail> {
        until(PATIENCE, "worker", async || {
            let request = self
                .http
                .get(format!("{}/api/messages", self.base))
                .query(&[("to", to)]);
            let messages: Vec<Message> = request.send().await?.error_for_status()?.json().await?;
            let subjects: Vec<String> = messages.iter().map(|message| message.subject.clone()).collect();
            let found = messages
                .into_iter()
                .find(|message| message.subject.starts_with(subject));
            Ok(found
                .map(Mail)
                .ok_or_else(|| format!("mails to {to} with the subjects {subjects:?}")))
        })
        .await
    }
}

impl Mail {
    pub fn subject(&self) -> &str {
        &self.0.subject
    }

    /// What follows `part` in one of its links.
    pub fn token(&self, part: &str) -> Result<String> {
        let link = self.0.link(part).and_then(|link| link.split_once(part));
        link.map(|(_, token)| token.to_owned())
            .with_context(|| format!("no link with {part} among {:?}", self.0.links))
    }
}

/// Reads a payment until the answer to all that was asked of Stripe is known: an event may tell of a capture before the
/// reply to it is recorded.
pub async fn settled(patience: Duration, read: impl AsyncFn() -> Result<Value>) -> Result<Value> {
    let deadline = Instant::now() + patience;
    loop {
        let payment = read().await?;
        let attempts = payment["attempts"].as_array().map_or(&[][..], Vec::as_slice);
        if attempts.iter().all(|attempt| attempt["state"] != "intent") || Instant::now() > deadline {
            return Ok(payment);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Follows a booking's server-sent events until its payment stands so; what each of them said.
pub async fn follow(
    api: &Api,
    person: &Person,
    booking_id: &str,
    payment_state: &str,
    patience: Duration,
) -> Result<Vec<String>> {
    let mut seen: Vec<String> = Vec::new();
    let followed = tokio::time::timeout(patience, async {
        let mut stream = api
            .get(&format!("/bookings/{booking_id}/events"))
            .by(person)
            .open()
            .await?;
        let mut text = String::new();
        while let Some(chunk) = stream.chunk().await? {
            text.push_str(&String::from_utf8_lossy(&chunk));
            while let Some(end) = text.find('\n') {
                let line: String = text.drain(..=end).collect();
                let Some(data) = line.strip_prefix("data:") else {
                    continue;
                };
                let event: Value = serde_json::from_str(data.trim())?;
                let payment = event["payment_state"].as_str().unwrap_or("none");
                seen.push(format!("{}/{payment}", event["state"].as_str().unwrap_or("?")));
                if payment == payment_state {
                    return Ok(());
                }
            }
        }
        bail!("the stream of events ended")
    })
    .await;
    match followed {
        Ok(Ok(())) => Ok(seen),
        Ok(Err(error)) => Err(error.context(format!("seen: {seen:?}"))),
        Err(_) => bail!(
            "not {payment_state} within {} s; seen: {seen:?}; .roost/log/worker.log may say why",
            patience.as_secs()
        ),
    }
}

/// The rendering of a property in the cache that API and worker share, or what is there instead.
pub async fn cached(env: &RunEnv, property_id: &str) -> Result<Result<Rendered, String>> {
    let prefix = std::env::var("REDIS_PREFIX").unwrap_or_else(|_| "roost".to_owned());
    let redis = Redis::new(&env.redis_url, &prefix)?;
    Ok(match cache::fetch(&redis, property_id.parse()?).await? {
        Cached::Rendered(rendered) => Ok(rendered),
        other => Err(format!("{other:?} in the cache")),
    })
}

/// The metrics of both processes.
pub struct Counters {
    http: reqwest::Client,
    urls: [String; 2],
}

/// How often things happened since the processes started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub requests: u64,
    pub jobs: u64,
    pub mails: u64,
    /// Stripe's, each once.
    pub events_taken_in: u64,
    pub events_handled: u64,
}

impl Counters {
    pub fn new(env: &RunEnv) -> Result<Self> {
        Ok(Self {
            http: reqwest::Client::builder()
                .no_proxy()
                .timeout(Duration::from_secs(5))
                .build()?,
            urls: [env.metrics_url.clone(), env.worker_metrics_url.clone()],
        })
    }

    pub async fn read(&self) -> Result<Counts> {
        let mut metrics = String::new();
        for url in &self.urls {
            metrics.push_str(&self.http.get(url).send().await?.error_for_status()?.text().await?);
            metrics.push('\n');
        }
        let done = |kind: &str| {
            let kind = format!("kind=\"{kind}\"");
            sum(&metrics, "roost_job_attempts_total{", &[&kind, "outcome=\"succeeded\""])
        };
        Ok(Counts {
            requests: sum(&metrics, "roost_http_requests_total{", &[]),
            jobs: sum(&metrics, "roost_job_attempts_total{", &["outcome=\"succeeded\""]),
            mails: done("mail.send"),
            events_taken_in: sum(&metrics, "roost_stripe_events_total{", &["outcome=\"new\""]),
            events_handled: done("stripe.event.handle"),
        })
    }
}

/// Adds up the samples of a counter that have these labels.
fn sum(metrics: &str, name: &str, labels: &[&str]) -> u64 {
    let samples = metrics.lines().filter(|line| line.starts_with(name));
    samples
        .filter(|line| labels.iter().all(|label| line.contains(label)))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    #[test]
    fn samples_are_added_up_by_label() {
        let metrics = "# TYPE jobs counter\njobs{kind=\"a\",outcome=\"ok\"} 2\njobs{kind=\"b\",outcome=\"ok\"} 3\n\
                       jobs{kind=\"a\",outcome=\"no\"} 5\njobs_other{outcome=\"ok\"} 7\n";
        assert_eq!(super::sum(metrics, "jobs{", &["outcome=\"ok\""]), 5);
        assert_eq!(super::sum(metrics, "jobs{", &["kind=\"a\"", "outcome=\"no\""]), 5);
        assert_eq!(super::sum(metrics, "jobs{", &[]), 10);
        assert_eq!(super::sum(metrics, "nothing{", &[]), 0);
    }
}
