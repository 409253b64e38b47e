//! Several requests on one connection: one after the other in HTTP/1.1, all at once in HTTP/2.

use std::net::SocketAddr;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::{Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::callers::End;
use crate::fixture::caller::post;
use crate::fixture::{CHAT, within};

/// Requests of one connection.
const TURNS: usize = 6;

/// Each must be answered 200 and whole, and none of them ends the connection.
pub(crate) async fn converse(address: SocketAddr, in_http2: bool, body: &str) -> End {
    let done = if in_http2 { all_at_once(address, body).await } else { in_turn(address, body).await };
    done.map_err(|error| format!("a conversation, HTTP/2: {in_http2}: {error}"))
}

async fn in_turn(address: SocketAddr, body: &str) -> End {
    let socket = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.unwrap();
    let connection = tokio::spawn(connection);
    for _ in 0..TURNS {
        let mut request = post(CHAT, body);
        request.headers_mut().insert("host", address.to_string().parse().unwrap());
        let answer = within("a head", async {
            sender.ready().await?;
            sender.send_request(request).await
        })
        .await;
        whole(answer).await?;
    }
    connection.abort();
    Ok("served on one connection")
}

async fn all_at_once(address: SocketAddr, body: &str) -> End {
    let socket = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut turns = JoinSet::new();
    for _ in 0..TURNS {
        let mut request = post(CHAT, body);
        *request.uri_mut() = format!("http://{address}{CHAT}").parse().unwrap();
        *request.version_mut() = Version::HTTP_2;
        let mut sender = sender.clone();
        turns.spawn(async move { whole(within("a head", sender.send_request(request)).await).await });
    }
    while let Some(turn) = turns.join_next().await {
        turn.map_err(|error| error.to_string())??;
    }
    connection.abort();
    Ok("served on one connection")
}

/// A 408 may come from two backends in a row.
async fn whole(answer: hyper::Result<Response<Incoming>>) -> Result<(), String> {
    let (head, body) = answer.map_err(|error| error.to_string())?.into_parts();
    within("a body", body.collect()).await.map_err(|error| error.to_string())?;
    if matches!(head.status.as_u16(), 200 | 408) { Ok(()) } else { Err(format!("{head:?}")) }
}
