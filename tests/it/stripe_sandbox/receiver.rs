//! A webhook endpoint that keeps what it gets and answers as told.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use poem::http::StatusCode;
use poem::listener::TcpAcceptor;
use poem::web::Data;
use poem::{Body, EndpointExt, Request, Route, Server, handler, post};
use stripe_webhook::{Event, Webhook};
use tokio::net::TcpListener;
use tokio::sync::watch;

pub(super) const SECRET: &str = "whsec_receiver";

/// What one delivery carried.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub body: String,
    pub signature: String,
}

impl Received {
    /// The event, its signature verified as production does it.
    pub fn event(&self) -> Event {
        Webhook::construct_event(&self.body, &self.signature, SECRET).expect("a signed event")
    }

    pub fn kind(&self) -> String {
        self.event().type_.to_string()
    }
}

#[derive(Default)]
struct Inbox {
    received: watch::Sender<Vec<Received>>,
    answers: Mutex<VecDeque<u16>>,
}

/// A running endpoint; dropping it stops it.
pub(super) struct Receiver {
    pub url: String,
    inbox: Arc<Inbox>,
    server: tokio::task::JoinHandle<()>,
}

impl Receiver {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
        let inbox = Arc::new(Inbox::default());
        let routes = Route::new().at("/hook", post(take)).data(inbox.clone());
        let acceptor = TcpAcceptor::from_tokio(listener).expect("an acceptor");
        let server = tokio::spawn(async move {
            Server::new_with_acceptor(acceptor).run(routes).await.expect("serving");
        });
        Self { url, inbox, server }
    }

    /// The statuses of the next answers; 200 afterwards.
    pub fn answer_with(&self, statuses: &[u16]) {
        self.inbox.answers.lock().expect("the lock").extend(statuses);
    }

    pub fn received(&self) -> Vec<Received> {
        self.inbox.received.borrow().clone()
    }

    /// Waits until so many deliveries arrived.
    pub async fn wait_for(&self, count: usize) -> Vec<Received> {
        let mut watching = self.inbox.received.subscribe();
        let enough = watching.wait_for(|received| received.len() >= count);
        let received = tokio::time::timeout(Duration::from_secs(20), enough).await;
        received
            .expect("deliveries in time")
            .expect("the receiver runs")
            .clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[handler]
async fn take(request: &Request, body: Body, Data(inbox): Data<&Arc<Inbox>>) -> StatusCode {
    let signature = request.header("stripe-signature").unwrap_or_default().to_owned();
    let body = body.into_string().await.expect("a text");
    let status = inbox.answers.lock().expect("the lock").pop_front().unwrap_or(200);
    inbox
        .received
        .send_modify(|received| received.push(Received { body, signature }));
    StatusCode::from_u16(status).expect("a status")
}
