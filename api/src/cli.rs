//! The command line of `roost-api`: its options, each also an environment variable, and its subcommands.

mod operators;

use std::time::Duration;

use anyhow::{Context, bail};
use clap::{ArgAction, Args, Parser, Subcommand};
use poem::http::HeaderName;
use roost_shared::clock::Clock;
use roost_shared::config::{ConfigError, DatabaseArgs, LogArgs, PublicUrlArgs, RedisArgs, Secret};
use roost_shared::db::Db;
use roost_shared::jobs::Publisher;
use roost_shared::{db, telemetry, users};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use self::operators::OpsCommand;
use crate::graphql;
use crate::server::{self, Bounds};
use crate::state::{AppConfig, AppState, Settings};

/// Roost's HTTP API. Without a subcommand it serves.
#[derive(Debug, Parser)]
#[command(name = "roost-api", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Apply the migrations of this build to DATABASE_URL, and exit
    Migrate,
    /// Print the OpenAPI document, and exit
    Openapi,
    /// Let the account of this e-mail address hide reviews, and exit
    GrantModerator {
        /// The account's address
        email: String,
    },
    /// Take that right away, and exit
    RevokeModerator {
        /// The account's address
        email: String,
    },
    /// Operators of the job dashboard
    #[command(subcommand)]
    Ops(OpsCommand),
    /// Print the GraphQL schema in its definition language, and exit
    GraphqlSchema,
    /// Exit 0 if the API at --listen answers /healthz within 3 s, 1 if not: for containers
    Healthcheck,
}

/// Options of the server.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// Address and port of the API; port 0 lets the system choose
    #[arg(long, env = "API_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: String,

    /// Address and port of /metrics, for Prometheus
    #[arg(
        long,
        env = "METRICS_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:9090"
    )]
    metrics_listen: String,

    /// Address and port of the job dashboard at /ops, or `off`; put HTTPS before it when it leaves this machine
    #[arg(long, env = "OPS_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:9092")]
    ops_listen: String,

    #[command(flatten)]
    public_url: PublicUrlArgs,

    #[command(flatten)]
    database: DatabaseArgs,

    #[command(flatten)]
    redis: RedisArgs,

    /// Signs access tokens: 32 random bytes or more, the same on every replica. Required
    #[arg(long, env = "JWT_SECRET", value_name = "SECRET", hide_env_values = true)]
    jwt_secret: Option<Secret>,

    /// The secret before, still accepted: keep it for 24 hours. Its tokens live 15 minutes, the replies of idempotency keys a day
    #[arg(long, env = "JWT_SECRET_PREVIOUS", value_name = "SECRET", hide_env_values = true)]
    jwt_secret_previous: Option<Secret>,

    /// Signs Stripe's webhooks: `whsec_…`. Without it every webhook is refused
    #[arg(long, env = "STRIPE_WEBHOOK_SECRET", value_name = "SECRET", hide_env_values = true)]
    stripe_webhook_secret: Option<Secret>,

    /// The webhook secret before, still accepted during a rotation
    #[arg(
        long,
        env = "STRIPE_WEBHOOK_SECRET_PREVIOUS",
        value_name = "SECRET",
        hide_env_values = true
    )]
    stripe_webhook_secret_previous: Option<Secret>,

    /// Origins of web pages that may read replies, separated by commas: `https://app.example.com`. Default: none
    #[arg(long, env = "CORS_ALLOWED_ORIGINS", value_name = "ORIGINS", value_delimiter = ',')]
    cors_allowed_origins: Vec<String>,

    /// Header in which a trusted proxy names the client's address (its last entry counts): `x-forwarded-for`.
    /// Default: none, the connection's address counts
    #[arg(long, env = "CLIENT_IP_HEADER", value_name = "HEADER")]
    client_ip_header: Option<HeaderName>,

    /// Sign-ins tried per minute for one account from one address; ten times as many from one address, and for one
    /// account from places it has not signed in from this month. Also changes of password per minute and verification
    /// mails per hour of one account; 0: without bound
    #[arg(long, env = "LOGINS_PER_MINUTE", value_name = "COUNT", default_value_t = 10)]
    logins_per_minute: u32,

    /// Registrations per hour from one address; 0: without bound
    #[arg(long, env = "REGISTRATIONS_PER_HOUR", value_name = "COUNT", default_value_t = 100)]
    registrations_per_hour: u32,

    /// Connections that are open at the same time, at the API and again at the dashboard. One more closes those that have
    /// waited longest for a request
    #[arg(long, env = "API_MAX_CONNECTIONS", value_name = "COUNT", default_value_t = 4_096, value_parser = parse_connections)]
    max_connections: usize,

    /// Seconds that the head of a request may take
    #[arg(long, env = "API_HEAD_TIMEOUT", value_name = "SECONDS", default_value_t = 10,
          value_parser = clap::value_parser!(u64).range(1..=3_600))]
    head_timeout: u64,

    /// Seconds that a connection may wait for its next request, and a WebSocket be without an operation: longer than a
    /// proxy in front keeps it
    #[arg(long, env = "API_IDLE_TIMEOUT", value_name = "SECONDS", default_value_t = 75,
          value_parser = clap::value_parser!(u64).range(1..=3_600))]
    idle_timeout: u64,
    /// Whether /graphql tells its schema to whoever asks: `true` or `false`
    #[arg(long, env = "GRAPHQL_INTROSPECTION", value_name = "BOOL", default_value_t = false, action = ArgAction::Set)]
    graphql_introspection: bool,

    /// Whether /graphql shows GraphiQL to browsers, a page to try queries on, all of it from this program: `true`
    /// or `false`
    #[arg(long, env = "GRAPHIQL", value_name = "BOOL", default_value_t = false, action = ArgAction::Set)]
    graphiql: bool,

    /// Points of complexity that one user, or one address that is not signed in, may ask of /graphql per minute; 0:
    /// without bound
    #[arg(
        long,
        env = "GRAPHQL_POINTS_PER_MINUTE",
        value_name = "COUNT",
        default_value_t = 30_000
    )]
    graphql_points_per_minute: u32,

    #[command(flatten)]
    log: LogArgs,
}

fn parse_connections(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=1_000_000) => Ok(count),
        _ => Err("a number from 1 to 1000000".to_owned()),
    }
}

impl Cli {
    /// Does what the command line says.
    ///
    /// # Errors
    /// An option is missing or not usable, or what was asked for failed.
    pub async fn run(self) -> anyhow::Result<()> {
        match self.command {
            None => {
                telemetry::init(self.serve.log.log_format);
                self.serve.serve().await
            }
            Some(Command::Migrate) => {
                telemetry::init(self.serve.log.log_format);
                let mut connection = self.serve.database.connect()?.acquire().await?;
                // An index over many rows takes longer than any statement of a request may.
                sqlx::raw_sql("SET statement_timeout = 0")
                    .execute(&mut *connection)
                    .await?;
                db::MIGRATOR
                    .run(&mut *connection)
                    .await
                    .context("applying the migrations")?;
                tracing::info!("the database is up to date");
                Ok(())
            }
            Some(Command::GrantModerator { email }) => {
                set_moderator(&self.serve.database.connect()?, &email, true).await
            }
            Some(Command::RevokeModerator { email }) => {
                set_moderator(&self.serve.database.connect()?, &email, false).await
            }
            Some(Command::Openapi) => print_document(self.serve.public_url.public_url),
            Some(Command::Ops(command)) => command.run(&self.serve.db()?).await,
            Some(Command::GraphqlSchema) => {
                print!("{}", graphql::sdl());
                Ok(())
            }
            Some(Command::Healthcheck) => healthcheck(&self.serve.listen).await,
        }
    }
}

impl ServeArgs {
    fn settings(&self) -> Settings {
        Settings {
            public_url: self.public_url.public_url.trim_end_matches('/').to_owned(),
            cors_allowed_origins: self
                .cors_allowed_origins
                .iter()
                .map(|origin| origin.trim().trim_end_matches('/').to_owned())
                .filter(|origin| !origin.is_empty())
                .collect(),
            client_ip_header: self.client_ip_header.clone(),
            logins_per_minute: self.logins_per_minute,
            registrations_per_hour: self.registrations_per_hour,
            connections: Bounds {
                head: Duration::from_secs(self.head_timeout),
                idle: Duration::from_secs(self.idle_timeout),
                open: self.max_connections,
            },
            graphql_introspection: self.graphql_introspection,
            graphiql: self.graphiql,
            graphql_points_per_minute: self.graphql_points_per_minute,
            stripe_webhook_secrets: [&self.stripe_webhook_secret, &self.stripe_webhook_secret_previous]
                .into_iter()
                .flatten()
                .cloned()
                .collect(),
        }
    }

    async fn serve(self) -> anyhow::Result<()> {
        let config = AppConfig {
            pool: self.database.connect()?,
            redis: self.redis.connect()?,
            clock: Clock::default(),
            jwt_secret: self
                .jwt_secret
                .clone()
                .ok_or(ConfigError::Missing("JWT_SECRET (--jwt-secret)"))?,
            jwt_secret_previous: self.jwt_secret_previous.clone(),
            settings: self.settings(),
        };
        let pool = config.pool.clone();
        let metrics = server::start_metrics(pool.clone(), &self.metrics_listen).await?;
        let state = AppState::new(config)?;
        let publisher = state.db.publisher().clone();
        let ops = if self.ops_listen == "off" {
            None
        } else {
            seal_authenticators(&state).await;
            Some(server::start_ops(state.clone(), &self.ops_listen).await?)
        };
        let api = server::start(state, &self.listen).await?;
        tracing::info!(
            api = %api.address(),
            metrics = %metrics.address(),
            ops = ops.as_ref().map_or_else(|| "off".to_owned(), |ops| ops.address().to_string()),
            "serving"
        );
        wait_for_signal().await?;
        tracing::info!("stopping");
        api.stop().await?;
        if let Some(ops) = ops {
            ops.stop().await?;
        }
        publisher.flush().await;
        metrics.stop().await?;
        pool.close().await;
        Ok(())
    }
}

/// Whatever comes of it, the API starts: what is not sealed now is sealed at the next start.
async fn seal_authenticators(state: &AppState) {
    match roost_shared::operators::seal_all(state.db.pool(), &state.sealing).await {
        Ok(0) => {}
        Ok(sealed) => tracing::info!(sealed, "secrets of authenticators are sealed under JWT_SECRET"),
        Err(error) => tracing::warn!(%error, "secrets of authenticators could not be looked at"),
    }
}

async fn set_moderator(pool: &sqlx::PgPool, email: &str, moderates: bool) -> anyhow::Result<()> {
    if !users::set_moderator(pool, email, moderates).await? {
        bail!("no account has the address {email}");
    }
    println!(
        "{email} {}",
        if moderates {
            "hides reviews from now on"
        } else {
            "hides no reviews any more"
        }
    );
    Ok(())
}

impl ServeArgs {
    fn db(&self) -> anyhow::Result<Db> {
        let (pool, redis) = (self.database.connect()?, self.redis.connect()?);
        Ok(Db::new(pool.clone(), Publisher::spawn(pool, &redis)?, Clock::default()))
    }
}

async fn wait_for_signal() -> anyhow::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// The document does not depend on anything that runs, so nothing is connected to.
fn print_document(public_url: String) -> anyhow::Result<()> {
    let state = AppState::new(AppConfig {
        pool: db::connect("postgres://unused", 1)?,
        redis: roost_shared::redis::Redis::new("redis://unused", "unused")?,
        clock: Clock::default(),
        jwt_secret: Secret::new("unused unused unused unused unused"),
        jwt_secret_previous: None,
        settings: Settings {
            public_url,
            cors_allowed_origins: Vec::new(),
            client_ip_header: None,
            logins_per_minute: 0,
            registrations_per_hour: 0,
            connections: Bounds::default(),
            graphql_introspection: false,
            graphiql: false,
            graphql_points_per_minute: 0,
            stripe_webhook_secrets: Vec::new(),
        },
    })?;
    let text = serde_json::to_string_pretty(&crate::document(&state)?)?;
    println!("{text}");
    Ok(())
}

async fn healthcheck(listen: &str) -> anyhow::Result<()> {
    // A server that listens on all addresses is asked on this machine.
    let address = listen.replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]");
    let asked = async {
        let mut stream = tokio::net::TcpStream::connect(&address).await?;
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await?;
        anyhow::Ok(reply)
    };
    let reply = tokio::time::timeout(Duration::from_secs(3), asked)
        .await
        .context("no answer in 3 s")??;
    if !reply.starts_with("HTTP/1.1 200") {
        bail!("not healthy: {}", reply.lines().next().unwrap_or_default());
    }
    Ok(())
}
