//! Door: lets connections in, and keeps those waiting for authentication few, short-lived and small.
//!
//! Why: the node server below has no deadline before authentication and buffers up to a whole frame per connection.
//! So we accept ourselves and hand it guarded streams: until a session is ready, a stream may read only a little and
//! only for a while, and the oldest one makes room when too many wait.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use ractor_cluster::{BoxRead, BoxWrite, ClusterBidiStream, NodeServerMessage, RactorMessage};
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::Sleep;

use super::links::Shared;

/// Incoming connections that may wait for authentication at the same time.
pub(super) const WAITING_MAX: usize = 16;
/// Bytes a stream may deliver before its session is ready; the handshake takes a few hundred.
const EARLY_BYTES_MAX: usize = 16 * 1024;
/// Bytes read at once from a peer: the transport asks for each frame's length and body by themselves.
const READ_BUFFER: usize = 16 * 1024;
/// Pause after the system refused to accept, so that a lack of descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The streams whose sessions are not ready yet.
#[derive(Debug, Default)]
pub(super) struct Doorway {
    waiting: Mutex<VecDeque<Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    label: String,
    incoming: bool,
    pass: oneshot::Sender<()>,
}

/// Ends when a dialled stream's session is ready or gone.
pub(super) type Fate = oneshot::Receiver<()>;

impl Doorway {
    /// Guards a stream; `label` must be unique, and names the stream in `pass`.
    pub(super) fn guard(
        &self,
        stream: TcpStream,
        label: String,
        incoming: bool,
        ready: Duration,
    ) -> (Guarded, Fate) {
        let (pass, passed) = oneshot::channel();
        let (settle, fate) = oneshot::channel();
        let (reading, read_gone) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|stream| !stream.pass.is_closed());
        while waiting.iter().filter(|stream| stream.incoming).count() >= WAITING_MAX {
            // The oldest is the least likely to be honest: a handshake takes milliseconds.
            let oldest = waiting.iter().position(|stream| stream.incoming);
            oldest.map(|at| waiting.remove(at));
        }
        waiting.push_back(Waiting { label: label.clone(), incoming, pass });
        drop(waiting);
        let early = Early {
            passed,
            deadline: Box::pin(tokio::time::sleep(ready)),
            bytes_left: EARLY_BYTES_MAX,
            _settle: settle,
        };
        let (read, write) = stream.into_split();
        let guarded = Guarded {
            label,
            read: GuardedRead { read, early: Some(early), _reading: reading },
            write: GuardedWrite { write, read_gone: Some(read_gone) },
        };
        (guarded, fate)
    }

    /// The session of this stream is ready: the limits end.
    pub(super) fn pass(&self, label: &str) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = waiting.iter().position(|stream| stream.label == label)
            && let Some(stream) = waiting.remove(at)
        {
            // A stream that has gone meanwhile needs no pass.
            let _ = stream.pass.send(());
        }
    }

    /// How many streams wait.
    pub(super) fn waiting(&self) -> usize {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|stream| !stream.pass.is_closed());
        waiting.len()
    }
}

/// A connection as the node server gets it.
pub(super) struct Guarded {
    label: String,
    read: GuardedRead,
    write: GuardedWrite,
}

impl ClusterBidiStream for Guarded {
    fn split(self: Box<Self>) -> (BoxRead, BoxWrite) {
        (Box::new(BufReader::with_capacity(READ_BUFFER, self.read)), Box::new(self.write))
    }

    fn peer_label(&self) -> Option<String> {
        Some(self.label.clone())
    }
}

/// The limits before a session is ready. Dropping it settles the stream's fate.
struct Early {
    passed: oneshot::Receiver<()>,
    deadline: Pin<Box<Sleep>>,
    bytes_left: usize,
    _settle: oneshot::Sender<()>,
}

impl Early {
    /// Whether the limits are over; an error if they are broken.
    fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.passed).poll(context) {
            Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
            Poll::Ready(Err(_)) => {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            Poll::Pending => {}
        }
        if self.deadline.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if self.bytes_left == 0 {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        Poll::Pending
    }
}

struct GuardedRead {
    read: OwnedReadHalf,
    early: Option<Early>,
    _reading: oneshot::Sender<()>,
}

impl AsyncRead for GuardedRead {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some(early) = &mut this.early else {
            return Pin::new(&mut this.read).poll_read(context, buffer);
        };
        match early.poll_over(context) {
            Poll::Ready(Ok(())) => {
                this.early = None;
                return Pin::new(&mut this.read).poll_read(context, buffer);
            }
            Poll::Ready(Err(broken)) => return Poll::Ready(Err(broken)),
            Poll::Pending => {}
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.read).poll_read(context, buffer);
        let read = buffer.filled().len() - before;
        early.bytes_left = early.bytes_left.saturating_sub(read);
        polled
    }
}

/// Fails once the reading half is gone. Why: when a session ends, the writer task below it may be stuck in a write to
/// a peer that does not read, and would keep the socket and all it holds until the kernel gives up.
struct GuardedWrite {
    write: OwnedWriteHalf,
    read_gone: Option<oneshot::Receiver<()>>,
}

impl GuardedWrite {
    /// Whether the reading half is gone; otherwise the context is woken when it goes.
    fn is_cut(&mut self, context: &mut Context<'_>) -> bool {
        if let Some(read_gone) = &mut self.read_gone
            && Pin::new(read_gone).poll(context).is_ready()
        {
            self.read_gone = None;
        }
        self.read_gone.is_none()
    }
}

impl AsyncWrite for GuardedWrite {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_cut(context) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.write).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_shutdown(context)
    }
}

/// What the door is told.
#[derive(RactorMessage)]
pub(super) enum Msg {
    /// Let the next connection in.
    Next,
}

/// Accepts connections, one after the other.
pub(super) struct Door;

pub(super) struct State {
    listener: Arc<TcpListener>,
    shared: Arc<Shared>,
    count: u64,
}

impl Actor for Door {
    type Msg = Msg;
    type State = State;
    type Arguments = (Arc<TcpListener>, Arc<Shared>);

    async fn pre_start(
        &self,
        myself: ActorRef<Msg>,
        (listener, shared): Self::Arguments,
    ) -> Result<State, ActorProcessingErr> {
        myself.cast(Msg::Next)?;
        Ok(State { listener, shared, count: 0 })
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        Msg::Next: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match state.listener.accept().await {
            Ok((stream, from)) => state.admit(stream, from),
            Err(refused) => {
                tracing::warn!(%refused, "cannot accept a connection of another node");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        myself.cast(Msg::Next)?;
        Ok(())
    }
}

impl State {
    fn admit(&mut self, stream: TcpStream, from: SocketAddr) {
        self.count += 1;
        let label = format!("in {} {from}", self.count);
        if stream.set_nodelay(true).is_err() {
            return;
        }
        let ready = self.shared.timing.ready;
        let (stream, _) = self.shared.doorway.guard(stream, label, true, ready);
        self.shared.hand_over(stream, true);
    }
}

impl Shared {
    /// Gives a connection to the node server.
    pub(super) fn hand_over(&self, stream: Guarded, is_server: bool) {
        let stream = Box::new(stream);
        if let Some(server) = self.server() {
            // A node server that has just died drops the connection; the peer dials again.
            let _ = server.cast(NodeServerMessage::ConnectionOpenedExternal { stream, is_server });
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    /// The two ends of a connection.
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(listener.accept(), TcpStream::connect(address));
        (near.unwrap().0, far.unwrap())
    }

    fn split(stream: Guarded) -> (BoxRead, BoxWrite) {
        Box::new(stream).split()
    }

    async fn refused(read: &mut BoxRead) -> io::ErrorKind {
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(LONG / 3, read.read_to_end(&mut bytes));
        read.await.expect("it ends").unwrap_err().kind()
    }

    #[tokio::test]
    async fn a_silent_stream_is_closed_in_time() {
        let doorway = Doorway::default();
        let (near, _far) = pair().await;
        let (stream, fate) = doorway.guard(near, "a".into(), true, Duration::from_millis(50));
        let (mut read, _write) = split(stream);
        assert_eq!(refused(&mut read).await, io::ErrorKind::TimedOut);
        drop(read);
        assert!(fate.await.is_err(), "settled");
        assert_eq!(doorway.waiting(), 0);
    }

    #[tokio::test]
    async fn a_stream_may_not_say_much_before_it_is_ready() {
        let doorway = Doorway::default();
        let (near, mut far) = pair().await;
        let (stream, _fate) = doorway.guard(near, "a".into(), true, LONG);
        let (mut read, _write) = split(stream);
        far.write_all(&vec![7; 4 * EARLY_BYTES_MAX]).await.unwrap();
        assert_eq!(refused(&mut read).await, io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn a_ready_stream_has_no_limits() {
        let doorway = Doorway::default();
        let (near, mut far) = pair().await;
        let (stream, fate) = doorway.guard(near, "a".into(), false, LONG);
        let (mut read, _write) = split(stream);
        doorway.pass("a");
        far.write_all(&vec![7; 4 * EARLY_BYTES_MAX]).await.unwrap();
        let mut bytes = vec![0; 4 * EARLY_BYTES_MAX];
        read.read_exact(&mut bytes).await.unwrap();
        assert!(fate.await.is_err(), "settled");
    }

    #[tokio::test]
    async fn the_oldest_makes_room() {
        let doorway = Doorway::default();
        let mut streams = Vec::new();
        for count in 0..=WAITING_MAX {
            let (near, far) = pair().await;
            let (stream, _fate) = doorway.guard(near, count.to_string(), true, LONG);
            streams.push((split(stream), far));
        }
        assert_eq!(doorway.waiting(), WAITING_MAX);
        let ((oldest, _), _) = &mut streams[0];
        assert_eq!(refused(oldest).await, io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test]
    async fn a_stuck_write_ends_with_the_reading_half() {
        let doorway = Doorway::default();
        let (near, _far) = pair().await;
        let (stream, _fate) = doorway.guard(near, "a".into(), true, LONG);
        let (read, mut write) = split(stream);
        let bytes = vec![0; 64 * 1024 * 1024];
        let cut = async {
            // The write has filled all buffers by the time nothing else is left to do.
            tokio::time::sleep(Duration::from_millis(50)).await;
            drop(read);
        };
        let writing = tokio::time::timeout(LONG / 3, write.write_all(&bytes));
        let (written, ()) = tokio::join!(writing, cut);
        assert_eq!(written.expect("it ends").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
