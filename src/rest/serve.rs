//! Serve: takes connections in, reads HTTP/1 from them within bounds, and lets them go in order at the end.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
#[cfg(target_os = "linux")]
use socket2::SockRef;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tower::Service;

/// Connections the kernel holds until they are accepted: a storm of reconnects fits in.
const BACKLOG: i32 = 4_096;
/// Kernel buffer for what was not yet read by a client: a slow one is noticed early.
const SEND_BUFFER: usize = 32 << 10;
/// Longest packet, in bytes, where the network would take longer ones, as loopback does to a proxy: of a buffer that is full of
/// one or two, the receiver acknowledges nothing for 40 ms.
const SEGMENT_MAX: u32 = 8 << 10;
/// Longest head of a request that is read at all, in bytes; from half of it on it is refused in words (`manners`).
const HEAD_BYTES_MAX: usize = 32 << 10;
/// Most headers that are read at all.
const HEADERS_MAX: usize = 128;
/// A head must have arrived after this time, also counted from the answer before it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// After the stop, so long for requests under way.
const GRACE: Duration = Duration::from_secs(6);
/// Pause when the system has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// A client that takes nothing for this long of what it is sent is let go of, with what was meant for it: hyper would wait
/// for ever, a megabyte of answer in its hand.
const STALLED: Duration = Duration::from_secs(30);
/// What a connection past the limit is told.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\n\
    Content-Type: application/problem+json\r\nContent-Length: 153\r\n\r\n\
    {\"type\":\"about:blank\",\"title\":\"Service Unavailable\",\"status\":503,\
    \"detail\":\"too many connections\",\"code\":\"unavailable\",\"retry\":true,\"retry_after_ms\":5000}";

/// The transport under an upgraded connection; `Upgraded::downcast` gives it back.
pub type Io = TokioIo<TcpStream>;

/// Extension of a request: where its connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// Extension of a request: the connection's place among `connections_max`. A WebSocket keeps it as long as it lives.
#[derive(Debug, Clone)]
pub struct Seat(#[expect(dead_code, reason = "held, not read")] Arc<OwnedSemaphorePermit>);

/// The places for connections; shared by all listeners of one kind.
#[derive(Debug, Clone)]
pub struct Seats(Arc<Semaphore>);

impl Seats {
    /// So many connections at once.
    #[must_use]
    pub fn new(connections_max: u32) -> Self {
        Self(Arc::new(Semaphore::new(connections_max as usize)))
    }
}

/// Listens on an address, with a backlog for storms. Use `try_clone` to accept on several threads.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // Connections inherit it.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.set_tcp_mss(SEGMENT_MAX)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Serves until `stop` turns true (or its sender is gone), then finishes the requests under way.
/// Upgraded connections are not waited for: they are the gateway's.
pub async fn serve(
    listener: std::net::TcpListener,
    router: Router,
    seats: Seats,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    // Every connection holds a sender; the receiver ends when the last is gone.
    let (alive, mut all_gone) = mpsc::channel::<Infallible>(1);
    loop {
        let accepted = tokio::select! {
            biased;
            () = stopped(&mut stop) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => admit(stream, peer, &router, &seats, &alive, &stop),
            Err(error) if is_passing(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop((listener, alive));
    // A request that takes longer than this is lost to its client, who repeats it.
    let _ = tokio::time::timeout(GRACE, all_gone.recv()).await;
    Ok(())
}

/// Waits until `stop` turns true or its sender is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// The client was gone before it was taken in.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn admit(
    stream: TcpStream,
    peer: SocketAddr,
    router: &Router,
    seats: &Seats,
    alive: &mpsc::Sender<Infallible>,
    stop: &watch::Receiver<bool>,
) {
    let Ok(seat) = seats.0.clone().try_acquire_owned() else {
        metrics::counter!("rookery_connections_refused_total").increment(1);
        // A fresh connection has room for these bytes; if not, it is closed without them.
        let _ = stream.try_write(FULL);
        return;
    };
    // Without it a tick would wait for the acknowledgement of the packet before.
    let _ = stream.set_nodelay(true);
    give_up_after(&stream, STALLED);
    let seat = Seat(Arc::new(seat));
    let connection = connection(stream, peer, router.clone(), seat, stop.clone());
    let alive = alive.clone();
    tokio::spawn(async move {
        connection.await;
        drop(alive);
    });
}

/// Has the kernel end a connection whose other side takes nothing for so long (RFC 5482). Where there is no such option, the
/// connection lasts as long as the other side answers at all.
fn give_up_after(stream: &TcpStream, time: Duration) {
    #[cfg(target_os = "linux")]
    let _ = SockRef::from(stream).set_tcp_user_timeout(Some(time));
    #[cfg(not(target_os = "linux"))]
    let _ = (stream, time);
}

/// One connection, until it ends or is upgraded.
async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    seat: Seat,
    mut stop: watch::Receiver<bool>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Peer(peer));
        request.extensions_mut().insert(seat.clone());
        answer(router.clone(), request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_header_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX + 4_096)
        .serve_connection(Io::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "a connection ended badly");
    }
}

async fn answer(mut router: Router, request: Request<Body>) -> Result<Response, Infallible> {
    // A router is always ready.
    router.call(request).await
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn who_takes_nothing_is_let_go_of() {
        let listener =
            TcpListener::from_std(bind("127.0.0.1:0".parse().unwrap()).unwrap()).unwrap();
        let _silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        give_up_after(&stream, Duration::from_millis(500));
        let endless = async { while stream.write_all(&[0; 64 << 10]).await.is_ok() {} };
        let ended = tokio::time::timeout(Duration::from_secs(30), endless).await;
        assert!(ended.is_ok(), "it ends");
    }
}
