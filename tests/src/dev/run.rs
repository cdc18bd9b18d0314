//! `make run` and `make demo`: everything up, a demo booking, then waiting or leaving.

use std::{
    fs,
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};

use super::{
    RunEnv, StopSignals,
    operator::demo_operator,
    remind_sandbox,
    secrets::Secrets,
    stack::{Stack, listen_address},
};
use crate::{
    demo::demo,
    seed::{SeedReport, seed},
    services::{Durability, Instance, Services, free_port, workspace_root},
};

/// When to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Stay up until a signal.
    Serve,
    /// Leave after the demo; fail unless every step of it was observed.
    Demo,
}

/// Brings everything up, runs the demo, and stops everything again in order.
pub async fn run(goal: Goal, out: &mut impl Write) -> Result<()> {
    let mut signals = StopSignals::listen()?;
    refuse_live_key()?;
    let root = workspace_root()?.join(".roost");
    let env_file = root.join("env");
    let begun = Instant::now();

    let instance = Instance::open(&root)?;
    // A run that was killed could not take it away.
    let _ = fs::remove_file(&env_file);
    // Starting servers is not cut short: a signal meanwhile counts afterwards.
    let services = step(out, "PostgreSQL and Redis", async || {
        tokio::task::spawn_blocking(|| Services::start(instance, Durability::Durable)).await?
    })
    .await?;
    let mut stack = Stack::new(services)?;

    let (finished, asked_to_stop) = tokio::select! {
        () = signals.next() => match goal {
            Goal::Serve => (Ok(()), true),
            Goal::Demo => (Err(anyhow!("stopped by a signal before the demo was through")), true),
        },
        result = bring_up(&mut stack, goal, begun, &env_file, out) => (result, false),
    };
    let _ = fs::remove_file(&env_file);
    // Whoever is impatient presses Ctrl-C again.
    signals.exit_on(if asked_to_stop { 1 } else { 2 });
    let stopping = Instant::now();
    let data = if stack.services().database_is_private() {
        format!("the data stays in {} (make reset forgets it)", root.display())
    } else {
        "the data stays in the database of DATABASE_URL".to_owned()
    };
    tokio::task::spawn_blocking(move || drop(stack)).await?;
    writeln!(out, "Stopped everything in {}; {data}.", ms(stopping.elapsed()))?;
    finished
}

async fn bring_up(stack: &mut Stack, goal: Goal, begun: Instant, env_file: &Path, out: &mut impl Write) -> Result<()> {
    step(out, "migrations", async || {
        let mut command = stack.command("roost-api")?;
        command.arg("migrate");
        stack.finish("roost-api migrate", command).await
    })
    .await
    .context("if the private data is of another version of Roost, make reset forgets it")?;
    let database_url = stack.services().database_url().to_owned();
    let seeded = step(out, "demo data", async || seed(&database_url).await).await?;
    writeln!(out, "  {:<28}{seeded}", "")?;
    let env = step(out, "API, worker and their peers", async || {
        start_programs(stack, &seeded).await
    })
    .await?;
    env.write(env_file)?;

    writeln!(out, "\nOne booking, over HTTP:")?;
    let shown = demo(&env, out).await.context("the demo did not get through");
    match (goal, shown) {
        (Goal::Demo, shown) => {
            stack.check()?;
            match shown? {
                0 => Ok(()),
                unseen => {
                    bail!("{unseen} steps could not be observed: without SMTP_URL and STRIPE_SECRET_KEY all can be")
                }
            }
        }
        (Goal::Serve, shown) => {
            if let Err(error) = shown {
                // Still up for a look at the logs and the data.
                writeln!(
                    out,
                    "\n{error:#}\nLogs are in {}",
                    env_file.with_file_name("log").display()
                )?;
            }
            print_addresses(&env, begun, env_file, out)?;
            stack.watch().await
        }
    }
}

async fn start_programs(stack: &mut Stack, seeded: &SeedReport) -> Result<RunEnv> {
    let secrets = Secrets::load(&stack.services().instance().dir().join("secrets"))?;
    let given = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let api = listen_address("API_LISTEN", 8080)?;
    let api_metrics = listen_address("METRICS_LISTEN", 9090)?;
    let ops = listen_address("OPS_LISTEN", 9092)?;
    let worker_metrics = format!("127.0.0.1:{}", free_port(Some(9091))?);
    let api_url = given("PUBLIC_URL").unwrap_or_else(|| format!("http://{api}"));
    let webhook_secret = given("STRIPE_WEBHOOK_SECRET").unwrap_or(secrets.stripe_webhook);
    let jwt_secret = given("JWT_SECRET").unwrap_or(secrets.jwt);

    let mut worker = stack.command("roost-worker")?;
    worker
        .env("PUBLIC_URL", &api_url)
        .env("METRICS_LISTEN", &worker_metrics)
        .env("JWT_SECRET", &jwt_secret);

    let mailbox_url = if given("SMTP_URL").is_none() {
        let (smtp, http) = (free_port(None)?, free_port(Some(8025))?);
        let mut mailbox = stack.command("mailbox")?;
        mailbox.args([
            "--smtp-listen",
            &format!("127.0.0.1:{smtp}"),
            "--http-listen",
            &format!("127.0.0.1:{http}"),
        ]);
        stack.start("mailbox", mailbox)?;
        stack.wait_listening("mailbox", smtp).await?;
        stack.wait_listening("mailbox", http).await?;
        // The mailbox of this machine speaks in the clear.
        worker
            .env("SMTP_URL", format!("smtp://127.0.0.1:{smtp}"))
            .env_remove("SMTP_CA_FILE");
        Some(format!("http://127.0.0.1:{http}"))
    } else {
        None
    };
    let stripe_api_base = if given("STRIPE_SECRET_KEY").is_none() {
        let port = free_port(Some(12111))?;
        let mut sandbox = stack.command("stripe-sandbox")?;
        sandbox.args(["--listen", &format!("127.0.0.1:{port}")]);
        sandbox.args([
            "--webhook-url",
            &format!("http://{api}/webhooks/stripe"),
            "--webhook-secret",
            &webhook_secret,
        ]);
        stack.start("stripe-sandbox", sandbox)?;
        stack.wait_listening("stripe-sandbox", port).await?;
        // The client joins paths to it, so it ends in a slash.
        let base = format!("http://127.0.0.1:{port}/");
        remind_sandbox(stack.services().database_url(), &base).await?;
        worker
            .env("STRIPE_SECRET_KEY", "sk_test_sandbox")
            .env("STRIPE_API_BASE", &base);
        Some(base)
    } else {
        None
    };
    stack.start("worker", worker)?;

    let mut server = stack.command("roost-api")?;
    server
        .env("API_LISTEN", &api)
        .env("METRICS_LISTEN", &api_metrics)
        .env("OPS_LISTEN", &ops)
        .env("PUBLIC_URL", &api_url)
        .env("JWT_SECRET", &jwt_secret)
        .env("STRIPE_WEBHOOK_SECRET", &webhook_secret);
    // Who develops wants to see the schema; a deployment switches this on by itself, or not.
    for option in ["GRAPHQL_INTROSPECTION", "GRAPHIQL"] {
        server.env(option, given(option).unwrap_or_else(|| "true".to_owned()));
    }
    stack.start("api", server)?;
    stack.wait_ok("api", &format!("http://{api}/readyz")).await?;
    stack
        .wait_ok("worker", &format!("http://{worker_metrics}/healthz"))
        .await?;

    let mut logins = seeded.logins.clone();
    if !logins.is_empty() {
        logins.push(demo_operator(stack.services().database_url()).await?);
    }
    Ok(RunEnv {
        api_url: format!("http://{api}"),
        ops_url: (ops != "off").then(|| format!("http://{ops}/ops")),
        metrics_url: format!("http://{api_metrics}/metrics"),
        worker_metrics_url: format!("http://{worker_metrics}/metrics"),
        mailbox_url,
        stripe_api_base,
        database_url: stack.services().database_url().to_owned(),
        redis_url: stack.services().redis_url().to_owned(),
        logins,
    })
}

fn print_addresses(env: &RunEnv, begun: Instant, env_file: &Path, out: &mut impl Write) -> Result<()> {
    let api = &env.api_url;
    writeln!(out, "\nRoost is up, {} after the start.\n", ms(begun.elapsed()))?;
    let mut line = |name: &str, value: &str| writeln!(out, "  {name:<15}{value}");
    line("API docs", &format!("{api}/docs"))?;
    if let Some(url) = &env.ops_url {
        line("job dashboard", url)?;
    }
    line("health", &format!("{api}/healthz  {api}/readyz"))?;
    line("metrics", &format!("{}  {}", env.metrics_url, env.worker_metrics_url))?;
    match &env.mailbox_url {
        Some(url) => line("mailbox", url)?,
        None => line("mail", "goes out over the given SMTP_URL")?,
    }
    match &env.stripe_api_base {
        Some(url) => line("Stripe", &format!("sandbox at {url}"))?,
        None => {
            line(
                "Stripe",
                "the real one, with the given test key; its webhooks reach this machine through",
            )?;
            line("", &format!("stripe listen --forward-to {api}/webhooks/stripe"))?;
            if std::env::var_os("STRIPE_WEBHOOK_SECRET").is_none() {
                line(
                    "",
                    "which prints a whsec_…: start again with STRIPE_WEBHOOK_SECRET set to it",
                )?;
            }
        }
    }
    for login in &env.logins {
        line(
            &format!("demo {}", login.role),
            &format!("{}  {}", login.email, login.password),
        )?;
    }
    line("all of it", &env_file.display().to_string())?;
    line("logs", &env_file.with_file_name("log").display().to_string())?;
    writeln!(out)?;
    if let Some(login) = env.logins.first() {
        let body = serde_json::json!({ "email": login.email, "password": login.password });
        writeln!(
            out,
            "  curl -s {api}/auth/login -H 'content-type: application/json' -d '{body}'"
        )?;
    }
    writeln!(out, "  curl -s '{api}/properties/?limit=3'\n\nCtrl-C stops it.")?;
    out.flush()?;
    Ok(())
}

/// The demo books and pays: never with a key that moves real money.
fn refuse_live_key() -> Result<()> {
    let key = std::env::var("STRIPE_SECRET_KEY").unwrap_or_default();
    if key.starts_with("sk_live_") || key.starts_with("rk_live_") {
        bail!("STRIPE_SECRET_KEY is a live key, and the demo would charge with it: give a test key (sk_test_…)");
    }
    Ok(())
}

/// Does one thing and says how long it took.
async fn step<T>(out: &mut impl Write, name: &str, work: impl AsyncFnOnce() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    let done = work().await.with_context(|| name.to_owned())?;
    writeln!(out, "  {name:<28}{:>9}", ms(begun.elapsed()))?;
    out.flush()?;
    Ok(done)
}

fn ms(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}
