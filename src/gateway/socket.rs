//! Socket: moves frames between one client and its session, and does nothing else.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use actors::ids::{SessionId, ShardId, UserId};
use actors::inbox::{Inbox, inbox};
use actors::packet::ToHome;
use actors::router::Inbound;
use actors::session::{RequestRef, Session};
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{Error as WsError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Message, Utf8Bytes};

use super::goodbye::{BadFrame, Goodbye, NotAdmitted};
use super::lean::Lean;
use super::pressure::Share;
use super::rules::{Act, Connection};
use super::sessions::{Guest, Place, Pulse};
use super::wire::{Format, Greeting, Outgoing, Teller, decode};
use super::{GatewayEnv, Verified};

/// Read buffer of an idle socket.
const READ_BUFFER: usize = 512;
/// Bytes written together at the most, before the kernel has taken any.
const WRITE_BUFFER: usize = 16 * 1024;
/// Frames taken in before their answers go out.
const FRAMES_AT_ONCE: usize = 64;
/// Pushes and answers taken in at once.
const INBOUND_AT_ONCE: usize = 256;
/// Pushes and answers that may wait; homes keep to the window, so more means that one does not.
const INBOUND_MAX: usize = 8_192;
/// Bytes moved in one turn after which the buffers have grown.
const BURST: usize = 2 * 1024;
/// How long a closed socket waits for its client to hang up.
const LINGER: Duration = Duration::from_secs(1);

/// How a socket's task ends.
enum End {
    /// The node says why and waits for the client to answer.
    Said(Goodbye),
    /// As before, but what the client sends cannot be understood any more.
    SaidOnly(Goodbye),
    /// The client is gone.
    Gone,
}

/// Serves one client until either side hangs up.
pub fn serve<Io>(
    io: Io,
    format: Format,
    env: Arc<GatewayEnv>,
    place: Place,
) -> impl Future<Output = ()> + Send
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // Boxed before the future begins, or it would keep room for a copy in each of its states.
    let socket = Box::new(Socket::new(io, format, Seat::take(env, place)));
    async move {
        let (socket, end) = socket.run().await;
        let Socket { ws, seat, .. } = *socket;
        // The homes hear at once that the user is gone, however long the client takes to hang up.
        drop(seat);
        if let End::Said(why) | End::SaidOnly(why) = end {
            let understood = matches!(end, End::Said(_));
            Box::pin(say_goodbye(ws, why, understood)).await;
        }
    }
}

async fn say_goodbye<Io>(mut ws: WebSocketStream<Io>, why: Goodbye, understood: bool)
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let code = why.code();
    metrics::counter!("rookery_sockets_closed_total", "code" => code.to_string()).increment(1);
    let reason = Utf8Bytes::from_static(why.reason());
    let close = Message::Close(Some(CloseFrame { code: code.into(), reason }));
    if matches!(timeout(LINGER, ws.send(close)).await, Ok(Ok(()))) {
        let _late_clients_see_a_reset = timeout(LINGER, hang_up(&mut ws, understood)).await;
    }
}

/// Reads on until the client hangs up: closing with bytes unread would reset the connection, and the client would
/// never see why.
async fn hang_up<Io: AsyncRead + AsyncWrite + Unpin>(
    ws: &mut WebSocketStream<Io>,
    understood: bool,
) {
    if understood {
        while let Some(Ok(_)) = ws.next().await {}
        return;
    }
    let io = ws.get_mut();
    let mut unread = vec![0; 1024];
    let _gone_anyway = io.shutdown().await;
    while let Ok(1..) = io.read(&mut unread).await {}
}

/// What a socket holds of the node; given back when dropped, also by a panic.
struct Seat {
    env: Arc<GatewayEnv>,
    id: SessionId,
    connection: Connection,
    inbox: Inbox<Box<Inbound>>,
    pulse: Arc<Pulse>,
    guest: Option<Guest>,
    place: Place,
}

impl Seat {
    fn take(env: Arc<GatewayEnv>, place: Place) -> Self {
        let (sender, inbox) = inbox();
        let id = env.homes.open_session(sender);
        let session = Session::new(id, env.homes.shards(), Arc::clone(&env.limits.session));
        let share = Share::of(&env.roll.pressure);
        let connection = Connection::new(session, share, &env.limits, env.now());
        let pulse = env.roll.enter(id);
        Self { env, id, connection, inbox, pulse, guest: None, place }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        for act in self.connection.gone(self.env.now()) {
            match act {
                // A home that cannot be reached loses this attachment anyway.
                Act::Home(home) => drop(self.env.homes.home(home)),
                Act::Unwatch(shard) => self.env.homes.unwatch(self.id, shard),
                Act::Watch(_) | Act::Tell(_) | Act::LookUp(..) | Act::Name(..) | Act::Close(_) => {}
            }
        }
        self.env.homes.close_session(self.id);
        self.env.roll.leave(self.id);
    }
}

struct Socket<Io> {
    ws: WebSocketStream<Lean<Io>>,
    format: Format,
    /// When its buffers have last grown.
    burst: Option<Duration>,
    seat: Seat,
}

/// The WebSocket on a connection that is upgraded, with buffers that begin small.
fn websocket<Io>(lean: Lean<Io>, env: &GatewayEnv) -> WebSocketStream<Lean<Io>>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_message_size(Some(env.limits.frame_bytes_max))
        .max_frame_size(Some(env.limits.frame_bytes_max));
    WebSocketStream::from_raw_socket(lean, Role::Server, Some(config))
        .now_or_never()
        .expect("it reads and writes nothing, so it is ready at once")
}

/// What a socket waits for.
enum Event {
    Frame(Option<Result<Message, WsError>>),
    Inbound(Option<Box<Inbound>>),
    Nudge,
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Socket<Io> {
    fn new(io: Io, format: Format, seat: Seat) -> Self {
        let ws = websocket(Lean::new(io), &seat.env);
        Self { ws, format, burst: None, seat }
    }

    async fn run(mut self: Box<Self>) -> (Box<Self>, End) {
        if let Err(end) = self.greet().await {
            return (self, end);
        }
        loop {
            let now = self.seat.env.now();
            self.seat.pulse.set_due(self.seat.connection.due(&self.seat.env.limits, now));
            let event = tokio::select! {
                frame = self.ws.next(), if self.seat.connection.reads() => Event::Frame(frame),
                inbound = self.seat.inbox.recv() => Event::Inbound(inbound),
                () = self.seat.pulse.nudged() => Event::Nudge,
            };
            match self.turn(event).await {
                Err(end) => return (self, end),
                Ok(Read::All) if self.can_shrink(now.running) => self = self.shrunk(),
                Ok(Read::All | Read::Some) => {}
            }
        }
    }

    /// Whether the buffers have grown, some time ago, and hold nothing now.
    fn can_shrink(&mut self, now: Duration) -> bool {
        let wait = self.seat.env.limits.burst_over;
        let lean = self.ws.get_mut();
        if lean.take_moved() > BURST {
            self.burst = Some(now);
        }
        let over = self.burst.is_some_and(|burst| now.saturating_sub(burst) >= wait);
        over && lean.between_messages()
    }

    /// The same connection with new buffers.
    #[expect(clippy::boxed_local, reason = "the caller has it so, and keeps it so")]
    fn shrunk(self: Box<Self>) -> Box<Self> {
        let Self { ws, format, seat, .. } = *self;
        let ws = websocket(ws.into_inner(), &seat.env);
        Box::new(Self { ws, format, burst: None, seat })
    }

    async fn greet(&mut self) -> Result<(), End> {
        let env = &self.seat.env;
        let limits = &env.limits;
        let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let hello = Teller { format: self.format, device: None }.hello(&Greeting {
            server: &env.server,
            node: &env.node,
            heartbeat_ms: ms(limits.heartbeat),
            auth_deadline_ms: ms(limits.auth_deadline),
            frame_bytes_max: limits.frame_bytes_max as u64,
            window: u64::from(limits.window),
            server_time: env.now().wall,
        });
        let hello = message(self.format, hello);
        match timeout(limits.flush, self.ws.send(hello)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(End::Gone),
        }
    }

    /// Takes in all that is ready, then says all there is to say, once.
    async fn turn(&mut self, event: Event) -> Result<Read, End> {
        let mut acts = Vec::new();
        let mut read = Read::Some;
        let mut end = self.take(event, &mut acts).err();
        for _ in 0..FRAMES_AT_ONCE {
            if end.is_some() || !self.seat.connection.reads() {
                break;
            }
            let Some(frame) = self.ws.next().now_or_never() else {
                read = Read::All;
                break;
            };
            end = self.take(Event::Frame(frame), &mut acts).err();
        }
        for _ in 0..INBOUND_AT_ONCE {
            let Some(inbound) = self.seat.inbox.next() else { break };
            let now = self.seat.env.now();
            self.seat.connection.inbound(*inbound, now, &mut acts);
        }
        if self.seat.inbox.len() > INBOUND_MAX {
            return Err(End::SaidOnly(Goodbye::SlowConsumer));
        }
        let outgoing = self.perform(acts);
        let written = self.write(&outgoing.said).await;
        match (end, written, outgoing.goodbye) {
            (Some(end), ..) | (None, Err(end), _) => Err(end),
            (None, Ok(()), Some(why)) => Err(End::Said(why)),
            (None, Ok(()), None) => Ok(read),
        }
    }

    fn take(&mut self, event: Event, acts: &mut Vec<Act>) -> Result<(), End> {
        let seat = &mut self.seat;
        let now = seat.env.now();
        match event {
            Event::Inbound(Some(inbound)) => seat.connection.inbound(*inbound, now, acts),
            // The router is gone, and the node with it.
            Event::Inbound(None) => return Err(End::Said(Goodbye::GoAway)),
            Event::Nudge => seat.connection.sweep(&seat.env.limits, now, acts),
            Event::Frame(None) => return Err(End::Gone),
            Event::Frame(Some(Err(error))) => return Err(end_of(&error)),
            Event::Frame(Some(Ok(message))) => match (message, self.format) {
                (Message::Text(text), Format::Json) => {
                    seat.frame(self.format, text.as_bytes(), acts)
                }
                (Message::Binary(bytes), Format::Msgpack) => seat.frame(self.format, &bytes, acts),
                (Message::Text(_) | Message::Binary(_), format) => {
                    seat.connection.bad_frame(BadFrame::OtherKind(format), acts);
                }
                _ => seat.connection.heard(now),
            },
        }
        Ok(())
    }

    /// Carries acts out and returns what is to be said.
    fn perform(&mut self, acts: Vec<Act>) -> Outgoings {
        let seat = &mut self.seat;
        let mut outgoings = Outgoings::default();
        let mut queue = acts;
        while !queue.is_empty() {
            let mut failed = BTreeSet::new();
            for act in queue.drain(..) {
                match act {
                    Act::Tell(outgoing) => outgoings.said.push(outgoing),
                    Act::LookUp(request, users) => seat.look_up(request, users),
                    Act::Name(request, users) => seat.name(request, users),
                    Act::Home(home) => failed.extend(seat.home(home)),
                    Act::Watch(shard) => seat.env.homes.watch(seat.id, shard),
                    Act::Unwatch(shard) => seat.env.homes.unwatch(seat.id, shard),
                    Act::Close(why) => outgoings.goodbye = Some(why),
                }
            }
            let now = seat.env.now();
            for shard in failed {
                seat.connection.home_failed(shard, now, &mut queue);
            }
        }
        outgoings
    }

    async fn write(&mut self, said: &[Outgoing]) -> Result<(), End> {
        let session = self.seat.connection.session();
        let teller = Teller { format: self.format, device: session.device() };
        let (ws, format) = (&mut self.ws, self.format);
        let write = async {
            for outgoing in said {
                ws.feed(message(format, teller.tell(outgoing))).await?;
            }
            ws.flush().await
        };
        match timeout(self.seat.env.limits.flush, write).await {
            Ok(Ok(())) => Ok(()),
            // What is left to say is in the way of a goodbye, too; it is tried all the same.
            Err(_) => Err(End::SaidOnly(Goodbye::SlowConsumer)),
            Ok(Err(_)) => Err(End::Gone),
        }
    }
}

/// What a turn has read of what there was.
enum Read {
    All,
    Some,
}

/// What came of one turn.
#[derive(Default)]
struct Outgoings {
    said: Vec<Outgoing>,
    goodbye: Option<Goodbye>,
}

impl Seat {
    /// Sends to a home; returns the shard if there is no way to it now.
    fn home(&self, home: ToHome) -> Option<ShardId> {
        let shard = home.shard;
        self.env.homes.home(home).is_err().then_some(shard)
    }

    fn look_up(&self, request: RequestRef, users: Vec<UserId>) {
        let within = self.env.limits.session.parked;
        self.env.homes.look_up(self.id, request.0, users, within);
    }

    fn name(&self, request: RequestRef, users: Vec<UserId>) {
        if let Some(by) = self.connection.session().user() {
            self.env.homes.name(self.id, request.0, users, by.clone());
        }
    }

    fn frame(&mut self, format: Format, bytes: &[u8], acts: &mut Vec<Act>) {
        let frame = match decode(format, bytes) {
            Ok(frame) => frame,
            Err(why) => return self.connection.bad_frame(BadFrame::Unparsable(why), acts),
        };
        let (env, guest, own) = (&self.env, &mut self.guest, &mut self.place);
        let admit = |token: &str| {
            let verified: Verified = env.tokens.verify(token)?;
            let max = env.limits.sockets_per_user_max;
            let place = env.roll.take_guest(&verified.user, max).ok_or(NotAdmitted::TooMany)?;
            *guest = Some(place);
            own.is_known();
            Ok(verified)
        };
        self.connection.frame(frame, &env.limits, env.now(), admit, acts);
    }
}

fn message(format: Format, bytes: Vec<u8>) -> Message {
    match format {
        // What we write is UTF-8; if it ever were not, the client would get nothing rather than nonsense.
        Format::Json => Message::Text(Utf8Bytes::try_from(bytes).unwrap_or_default()),
        Format::Msgpack => Message::Binary(Bytes::from(bytes)),
    }
}

/// What an error of the WebSocket means for its socket.
fn end_of(error: &WsError) -> End {
    match error {
        WsError::Capacity(_) => End::SaidOnly(Goodbye::TooBig),
        WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => End::Gone,
        WsError::Protocol(_) | WsError::Utf8(_) => {
            End::SaidOnly(Goodbye::BadFrame(BadFrame::WebSocket))
        }
        _ => End::Gone,
    }
}
