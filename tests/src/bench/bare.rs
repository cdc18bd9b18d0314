//! The limit that poem sets: a handler that returns so many bytes and does nothing else, in a process of its own.

use std::net::SocketAddr;

use anyhow::Result;
use bytes::Bytes;
use poem::{EndpointExt, Response, Route, Server, get, handler, listener::TcpListener, web::Data};

#[handler]
fn reply(Data(body): Data<&Bytes>) -> Response {
    Response::builder().content_type("application/json").body(body.clone())
}

/// Serves until it is stopped.
pub async fn serve(listen: SocketAddr, bytes: usize) -> Result<()> {
    let body = Bytes::from(vec![b'x'; bytes]);
    let app = Route::new().at("/", get(reply)).data(body);
    Ok(Server::new(TcpListener::bind(listen.to_string())).run(app).await?)
}
