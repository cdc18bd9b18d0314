//! Subscriptions over a WebSocket, by the subprotocol `graphql-transport-ws`.
//!
//! Who connects says so with `connection_init`: `{"authorization": "Bearer …"}`. The token is checked again for each
//! operation, so one that has run out opens nothing new, and a subscription looks at its session as it goes on.

use std::sync::{Arc, OnceLock};
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

use super::caller::{Caller, bearer};
use super::endpoint::{Graphql, prepare, refusal};
use super::{Roots, errors, loaders};
use crate::auth;
use crate::client::Client;
use crate::error::{ApiError, ApiResult};
use crate::middleware::guard::BODY_LIMIT;
use crate::request;
use crate::state::AppState;

/// How long a client may take to say who it is.
const INIT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a ping keeps proxies from closing a silent connection.
const PING: Duration = Duration::from_secs(15);
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
        }),
    };
    // The task that serves the connection is a part of this request, in logs as well.
    let (id, trace) = (request::current_id(), TraceContext::current());
    let serve = move |stream| async move {
        let work = request::scope(id, serve(operations, stream));
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
    /// The token, or that it was refused.
    outcome: OnceLock<Result<String, ()>>,
    running: Arc<Semaphore>,
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
            auth::authenticate(&self.state, token).await?;
            Ok::<_, ApiError>(token.to_owned())
        };
        let outcome = checked.await;
        // Called once a connection, so nothing was set before.
        let _set = self.connected.outcome.set(outcome.as_ref().cloned().map_err(|_| ()));
        outcome?;
        Ok(Data::default())
    }

    async fn begin(&self, operation: Operation) -> ApiResult<BoxStream<'static, Answer>> {
        let Some(Ok(token)) = self.connected.outcome.get() else {
            return Err(ApiError::internal("an operation before connection_init"));
        };
        let caller = Caller {
            identity: Some(auth::authenticate(&self.state, token).await?),
            client: self.connected.client.clone(),
        };
        let permit = Arc::clone(&self.connected.running).try_acquire_owned().map_err(|_| {
            let detail = format!("A connection may have {MOST_OPERATIONS} operations at the same time.");
            ApiError::too_many_requests(detail, 1)
        })?;
        let (operation, document) = prepare(&self.state, &caller, operation).await?;
        let (loader, wanted) = loaders::for_operation(&self.state);
        let operation = operation.data(caller).data(loader);
        let answers = wanted.between(self.schema.execute_stream(operation).boxed());
        let answers = answers.map(move |mut answer| {
            errors::complete(&mut answer, Some(&document));
            answer
        });
        Ok(hold(permit, answers.boxed()))
    }
}

/// The answers, with the permit held until their end.
fn hold(permit: OwnedSemaphorePermit, answers: BoxStream<'static, Answer>) -> BoxStream<'static, Answer> {
    answers
        .map(move |answer| {
            let _held = &permit;
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
async fn serve(operations: Operations, socket: WebSocketStream) {
    let stopping = operations.state.stopping.clone();
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
    let mut ping = tokio::time::interval_at(began + PING, PING);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let silent = connected.outcome.get().is_none();
        let message = tokio::select! {
            reply = replies.next() => match reply {
                Some(WsMessage::Text(text)) => Message::text(text),
                Some(WsMessage::Close(code, reason)) => Message::close_with(close_code(code, &connected), reason),
                None => break,
            },
            _ = ping.tick() => Message::ping(Vec::new()),
            () = tokio::time::sleep_until(began + INIT_TIMEOUT), if silent => {
                Message::close_with(4408, "Connection initialisation timeout")
            }
            () = tokio::time::sleep_until(began + LONGEST) => Message::close_with(CloseCode::Normal, "connect again"),
            () = stopping.cancelled() => Message::close_with(CloseCode::Away, "the server stops"),
        };
        let last = message.is_close();
        if !send(&mut sink, message).await || last {
            break;
        }
    }
}

/// The subprotocol's codes where the library has codes of its own.
fn close_code(code: u16, connected: &Connected) -> u16 {
    match (code, connected.outcome.get()) {
        (1002, Some(Err(()))) => 4403,
        (1002, _) => 4400,
        (1011, _) => 4401,
        (other, _) => other,
    }
}

async fn send(sink: &mut (impl Sink<Message> + Unpin), message: Message) -> bool {
    matches!(tokio::time::timeout(SEND_TIMEOUT, sink.send(message)).await, Ok(Ok(())))
}
