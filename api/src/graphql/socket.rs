//! Subscriptions over a WebSocket, by the subprotocol `graphql-transport-ws`.
//!
//! Who connects says so with `connection_init`: `{"authorization": "Bearer …"}`. The token is checked again for each
//! operation, so one that has run out opens nothing new, and a subscription looks at its session as it goes on. A connection
//! ends with its session, and when no operation has run for as long as a connection may wait for a request.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_graphql::http::{WebSocket, WebSocketProtocols, WsMessage};
use async_graphql::{Data, Executor, Request as Operation, Response as Answer};
use futures::stream::{self, BoxStream};
use futures::{Sink, SinkExt, StreamExt};
use poem::http::header;
use poem::web::websocket::{CloseCode, Message, WebSocket as Upgrade, WebSocketConfig, WebSocketStream};
use poem::{FromRequest, IntoResponse, Request, RequestBody, Response};
use roost_shared::telemetry::TraceContext;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, MissedTickBehavior};
use uuid::Uuid;

use super::caller::{Caller, bearer};
use super::endpoint::{Graphql, prepare, refusal};
use super::sockets::OpenSocket;
use super::{Roots, errors, loaders};
use crate::auth;
use crate::client::Client;
use crate::error::{ApiError, ApiResult};
use crate::middleware::guard::BODY_LIMIT;
use crate::request;
use crate::rest::booking_events::OpenStream;
use crate::state::AppState;

/// How long a client may take to say who it is.
const INIT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often, at the least, a ping keeps proxies from closing a silent connection.
const PING: Duration = Duration::from_secs(15);
/// Pings within the time that a connection may be without an operation, at the least.
const PINGS_WHILE_IDLE: u32 = 5;
/// How long a client may take to read a message.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection lasts; a client that still cares opens another one.
const LONGEST: Duration = Duration::from_secs(60 * 60);
/// How many operations of one connection may run at the same time.
const MOST_OPERATIONS: usize = 20;

/// Takes the connection over.
pub async fn open(graphql: &Graphql, client: Client, request: Request) -> poem::Result<Response> {
    let protocol = WebSocketProtocols::GraphQLWS.sec_websocket_protocol();
    let offered = request.header(header::SEC_WEBSOCKET_PROTOCOL).unwrap_or_default();
    if !offered.split(',').any(|offer| offer.trim() == protocol) {
        return Err(ApiError::bad_request(
            "bad_request",
            "The WebSocket must be of the subprotocol graphql-transport-ws.",
        )
        .into());
    }
    let place = graphql.state.sockets.enter()?;
    let (request, _) = request.split();
    let upgrade = Upgrade::from_request(&request, &mut RequestBody::default()).await?;
    let config = WebSocketConfig::default()
        .max_message_size(Some(BODY_LIMIT))
        .max_frame_size(Some(BODY_LIMIT));
    let operations = Operations {
        state: graphql.state.clone(),
        schema: graphql.schema.clone(),
        connected: Arc::new(Connected {
            client,
            outcome: OnceLock::new(),
            running: Arc::new(Semaphore::new(MOST_OPERATIONS)),
            idle_since: Mutex::new(Instant::now()),
        }),
    };
    // The task that serves the connection is a part of this request, in logs as well.
    let (id, trace) = (request::current_id(), TraceContext::current());
    let serve = move |stream| async move {
        let work = request::scope(id, serve(operations, stream, place));
        match trace {
            Some(trace) => trace.scope(work).await,
            None => work.await,
        }
    };
    Ok(upgrade
        .config(config)
        .protocols([protocol])
        .on_upgrade(serve)
        .into_response())
}

/// What a connection knows of its client.
struct Connected {
    client: Client,
    /// Who it is, or why it was refused.
    outcome: OnceLock<Result<SignedIn, Refused>>,
    running: Arc<Semaphore>,
    /// When it connected, or an operation last ended.
    idle_since: Mutex<Instant>,
}

struct SignedIn {
    token: String,
    session_id: Uuid,
    _open: OpenStream,
}

enum Refused {
    NotSignedIn,
    TooMany,
}

impl Connected {
    fn idle_since(&self) -> MutexGuard<'_, Instant> {
        self.idle_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When it will have been without an operation for so long; nothing while one runs.
    fn idle_for(&self, bound: Duration) -> Option<Instant> {
        let idle = self.running.available_permits() == MOST_OPERATIONS;
        idle.then(|| *self.idle_since() + bound)
    }

    fn session_id(&self) -> Option<Uuid> {
        let signed_in = self.outcome.get()?.as_ref().ok()?;
        Some(signed_in.session_id)
    }
}

/// Executes the operations of one connection.
#[derive(Clone)]
struct Operations {
    state: AppState,
    schema: Roots,
    connected: Arc<Connected>,
}

impl Operations {
    /// Who `connection_init` says it is.
    async fn connect(self, payload: serde_json::Value) -> async_graphql::Result<Data> {
        let members = payload.as_object();
        let given = members
            .into_iter()
            .flatten()
            .find(|(name, _)| name.eq_ignore_ascii_case("authorization"))
            .and_then(|(_, value)| value.as_str())
            .unwrap_or_default();
        let checked = async {
            let token = bearer(given)?;
            let identity = auth::authenticate(&self.state, token).await?;
            Ok::<_, ApiError>((token.to_owned(), identity))
        };
        let (outcome, refusal) = match checked.await {
            Ok((token, identity)) => match self.state.sockets.of(identity.user_id) {
                Some(open) => {
                    let session_id = identity.session_id;
                    let signed_in = SignedIn {
                        token,
                        session_id,
                        _open: open,
                    };
                    (Ok(signed_in), None)
                }
                None => (Err(Refused::TooMany), Some("Too many connections".into())),
            },
            Err(error) => (Err(Refused::NotSignedIn), Some(error.into())),
        };
        // Called once a connection, so nothing was set before.
        let _set = self.connected.outcome.set(outcome);
        refusal.map_or_else(|| Ok(Data::default()), Err)
    }

    async fn begin(&self, operation: Operation) -> ApiResult<BoxStream<'static, Answer>> {
        let Some(Ok(SignedIn { token, .. })) = self.connected.outcome.get() else {
            return Err(ApiError::internal("an operation before connection_init"));
        };
        let caller = Caller {
            identity: Some(auth::authenticate(&self.state, token).await?),
            client: self.connected.client.clone(),
        };
        let permit = Arc::clone(&self.connected.running).try_acquire_owned();
        let permit = permit.map_err(|_| {
            let detail = format!("A connection may have {MOST_OPERATIONS} operations at the same time.");
            ApiError::too_many_requests(detail, 1)
        })?;
        let running = Running {
            connected: Arc::clone(&self.connected),
            _permit: permit,
        };
        let (operation, document) = prepare(&self.state, &caller, operation).await?;
        let (loader, wanted) = loaders::for_operation(&self.state);
        let operation = operation.data(caller).data(loader);
        let answers = wanted.between(self.schema.execute_stream(operation).boxed());
        let answers = answers.map(move |mut answer| {
            errors::complete(&mut answer, Some(&document));
            answer
        });
        Ok(hold(running, answers.boxed()))
    }
}

/// An operation that runs.
struct Running {
    connected: Arc<Connected>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Running {
    fn drop(&mut self) {
        *self.connected.idle_since() = Instant::now();
    }
}

/// The answers of an operation that runs until their end.
fn hold(running: Running, answers: BoxStream<'static, Answer>) -> BoxStream<'static, Answer> {
    answers
        .map(move |answer| {
            let _held = &running;
            answer
        })
        .boxed()
}

impl Executor for Operations {
    async fn execute(&self, operation: Operation) -> Answer {
        match self.begin(operation).await {
            Ok(mut answers) => answers.next().await.unwrap_or_default(),
            Err(error) => refusal(error),
        }
    }

    fn execute_stream(&self, operation: Operation, _: Option<Arc<Data>>) -> BoxStream<'static, Answer> {
        let operations = self.clone();
        let answers = async move {
            match operations.begin(operation).await {
                Ok(answers) => answers,
                Err(error) => stream::once(std::future::ready(refusal(error))).boxed(),
            }
        };
        stream::once(answers).flatten().boxed()
    }
}

/// Serves a connection to its end.
async fn serve(operations: Operations, socket: WebSocketStream, place: OpenSocket) {
    let _place = place;
    let state = operations.state.clone();
    let idle = state.settings.connections.idle;
    let connected = Arc::clone(&operations.connected);
    let (mut sink, messages) = socket.split();
    let messages = messages
        .take_while(|message| std::future::ready(message.is_ok()))
        .filter_map(|message| {
            let text = message.ok().filter(|message| message.is_text() || message.is_binary());
            std::future::ready(text.map(Message::into_bytes))
        });
    let connect = operations.clone();
    let mut replies = std::pin::pin!(
        WebSocket::new(operations, messages, WebSocketProtocols::GraphQLWS)
            .on_connection_init(move |payload| connect.connect(payload))
    );
    let began = Instant::now();
    let often = PING.min(idle / PINGS_WHILE_IDLE).max(Duration::from_millis(1));
    let mut ping = tokio::time::interval_at(began + often, often);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let silent = connected.outcome.get().is_none();
        let idle_at = connected.idle_for(idle);
        let message = tokio::select! {
            reply = replies.next() => match reply {
                Some(WsMessage::Text(text)) => Message::text(text),
                Some(WsMessage::Close(code, reason)) => Message::close_with(close_code(code, &connected), reason),
                None => break,
            },
            _ = ping.tick() => match ended(&state, &connected).await {
                true => Message::close_with(4403, "the session has ended"),
                false => Message::ping(Vec::new()),
            },
            () = tokio::time::sleep_until(began + INIT_TIMEOUT), if silent => {
                Message::close_with(4408, "Connection initialisation timeout")
            }
            () = tokio::time::sleep_until(idle_at.unwrap_or(began + LONGEST)), if idle_at.is_some() => {
                if connected.idle_for(idle).is_none_or(|at| at > Instant::now()) {
                    continue;
                }
                Message::close_with(CloseCode::Normal, "no operation")
            }
            () = tokio::time::sleep_until(began + LONGEST) => Message::close_with(CloseCode::Normal, "connect again"),
            () = state.stopping.cancelled() => Message::close_with(CloseCode::Away, "the server stops"),
        };
        let last = message.is_close();
        if !send(&mut sink, message).await || last {
            break;
        }
    }
}

/// Whether the session has. Without Redis it goes on, as an access token does.
async fn ended(state: &AppState, connected: &Connected) -> bool {
    match connected.session_id() {
        Some(session_id) => matches!(state.sessions.exists(session_id).await, Ok(false)),
        None => false,
    }
}

/// The subprotocol's codes where the library has codes of its own.
fn close_code(code: u16, connected: &Connected) -> u16 {
    match (code, connected.outcome.get()) {
        (1002, Some(Err(Refused::NotSignedIn))) => 4403,
        (1002, Some(Err(Refused::TooMany))) => 4429,
        (1002, _) => 4400,
        (1011, _) => 4401,
        (other, _) => other,
    }
}

async fn send(sink: &mut (impl Sink<Message> + Unpin), message: Message) -> bool {
    matches!(tokio::time::timeout(SEND_TIMEOUT, sink.send(message)).await, Ok(Ok(())))
}
