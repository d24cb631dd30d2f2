//! Xmpp: pairs of people who talk over another server, counted as the load example counts.
//!
//! A client that knows just enough: XMPP over WebSocket (RFC 7395), SASL PLAIN (RFC 6120 §6), binding, and messages with
//! receipts (XEP-0184). A message counts when its receipt has come back; there is no check mark of a server in between.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::Write as _;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actors::clock;
use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::{FutureExt, SinkExt, StreamExt};
use hdrhistogram::Histogram;
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderValue, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

/// Bytes of a body, as the load example has them.
const BODY: usize = 160;
/// Sent before it is measured, as by the load example.
const WARMUP: Duration = Duration::from_secs(1);
/// How long receipts are waited for afterwards.
const GRACE: Duration = Duration::from_secs(5);
/// A server must say something within this while somebody comes in.
const PATIENCE: Duration = Duration::from_secs(10);
const OPEN: &str =
    "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='localhost' version='1.0'/>";

type Socket = WebSocketStream<TcpStream>;

/// What is counted over all pairs.
struct Counts {
    measuring: Cell<bool>,
    receipts: Cell<u64>,
    sent: Cell<u64>,
    delivered: Cell<u64>,
    latency: RefCell<Histogram<u64>>,
}

/// Lets the pairs talk, and prints what was counted as the load example does.
pub(crate) fn run(port: u16, pairs: usize, outstanding: usize, seconds: f64) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = LocalSet::new().block_on(&runtime, measure(port, pairs, outstanding, seconds))?;
    writeln!(std::io::stdout(), "{report}")?;
    Ok(())
}

async fn measure(
    port: u16,
    pairs: usize,
    outstanding: usize,
    seconds: f64,
) -> anyhow::Result<serde_json::Value> {
    let counts = Rc::new(Counts {
        measuring: Cell::new(false),
        receipts: Cell::new(0),
        sent: Cell::new(0),
        delivered: Cell::new(0),
        latency: RefCell::new(Histogram::new_with_max(60_000_000, 3)?),
    });
    let mut receiving = JoinSet::new();
    let mut senders = Vec::new();
    for pair in 0..pairs {
        let receiver = enter(port, &format!("r{pair}")).await?;
        receiving.spawn_local(receive(receiver, Rc::clone(&counts)));
        senders.push(enter(port, &format!("s{pair}")).await?);
    }
    let until = clock::monotonic() + WARMUP + Duration::from_secs_f64(seconds);
    let mut sending = JoinSet::new();
    for (pair, socket) in senders.into_iter().enumerate() {
        let sender = Sender {
            socket,
            to: format!("r{pair}@localhost"),
            next: 0,
            waiting: VecDeque::new(),
            until,
            counts: Rc::clone(&counts),
        };
        sending.spawn_local(sender.run(outstanding));
    }
    tokio::time::sleep(WARMUP).await;
    counts.measuring.set(true);
    eprintln!("mark measuring");
    let begin = clock::monotonic();
    tokio::time::sleep_until(until.into()).await;
    let (receipts, lasted) = (counts.receipts.get(), begin.elapsed().as_secs_f64());
    counts.measuring.set(false);
    eprintln!("mark measured");
    while let Some(ended) = sending.join_next().await {
        ended??;
    }
    let latency = counts.latency.borrow();
    let ms = |quantile| latency.value_at_quantile(quantile) as f64 / 1_000.0;
    Ok(serde_json::json!({
        "pairs": pairs, "outstanding": outstanding, "seconds": lasted, "ok": true,
        "sent": counts.sent.get(), "delivered": counts.delivered.get(),
        "receipts_per_s": receipts as f64 / lasted,
        "send_to_receipt_ms": {"p50": ms(0.5), "p99": ms(0.99)},
    }))
}

/// Connects, logs in, binds, and says that one is there.
async fn enter(port: u16, user: &str) -> anyhow::Result<Socket> {
    let entering = async {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let mut request = format!("ws://127.0.0.1:{port}/ws").into_client_request()?;
        let protocol = HeaderValue::from_static("xmpp");
        request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        // As the client of this project has it.
        let config =
            WebSocketConfig::default().read_buffer_size(2 * 1_024).write_buffer_size(8 * 1_024);
        let (mut socket, _) = client_async_with_config(request, stream, Some(config)).await?;
        let plain = STANDARD.encode(format!("\0{user}\0bench"));
        let auth = format!(
            "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{plain}</auth>"
        );
        let bind = "<iq xmlns='jabber:client' type='set' id='bind'>\
                    <bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>b</resource></bind></iq>";
        let presence = "<presence xmlns='jabber:client'/>";
        for (said, wanted) in [
            (OPEN, "features"),
            (&auth, "<success"),
            (OPEN, "features"),
            (bind, "type='result'"),
            (presence, "<presence"),
        ] {
            socket.send(Message::text(said)).await?;
            hear(&mut socket, wanted).await?;
        }
        anyhow::Ok(socket)
    };
    let entered = tokio::time::timeout(PATIENCE, entering).await;
    entered.context("the server fell silent")?.with_context(|| format!("{user} cannot come in"))
}

async fn hear(socket: &mut Socket, wanted: &str) -> anyhow::Result<()> {
    while let Some(frame) = socket.next().await {
        let text = frame?.into_text()?;
        if text.replace('"', "'").contains(wanted) {
            return Ok(());
        }
        anyhow::ensure!(!text.contains("<failure"), "refused: {text}");
    }
    anyhow::bail!("closed before {wanted}")
}

/// The value of an attribute, or what stands behind any such words.
fn attribute<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let behind = &text[text.find(name)? + name.len()..];
    let quote = behind.chars().next().filter(|quote| matches!(quote, '\'' | '"'))?;
    behind[1..].split(quote).next()
}

/// Answers each message with its receipt.
async fn receive(mut socket: Socket, counts: Rc<Counts>) -> anyhow::Result<()> {
    while let Some(mut frame) = socket.next().await {
        loop {
            let text = frame?.into_text()?;
            if let Some(receipt) = receipt(&text) {
                counts.delivered.set(counts.delivered.get() + 1);
                socket.feed(Message::text(receipt)).await?;
            }
            // All that is there already, and then one flush.
            match socket.next().now_or_never() {
                Some(Some(next)) => frame = next,
                _ => break,
            }
        }
        socket.flush().await?;
    }
    Ok(())
}

fn receipt(text: &str) -> Option<String> {
    if !(text.starts_with("<message") && text.contains("<request")) {
        return None;
    }
    let (from, id) = (attribute(text, " from=")?, attribute(text, " id=")?);
    Some(format!(
        "<message xmlns='jabber:client' to='{from}' id='r{id}' type='chat'>\
         <received xmlns='urn:xmpp:receipts' id='{id}'/></message>"
    ))
}

/// One who writes.
struct Sender {
    socket: Socket,
    to: String,
    next: u64,
    waiting: VecDeque<(u64, Instant)>,
    until: Instant,
    counts: Rc<Counts>,
}

impl Sender {
    async fn run(mut self, outstanding: usize) -> anyhow::Result<()> {
        for _ in 0..outstanding {
            self.send().await?;
        }
        self.socket.flush().await?;
        let grace = self.until + GRACE;
        while !self.waiting.is_empty() {
            let next = tokio::time::timeout_at(grace.into(), self.socket.next()).await;
            let next = next.context("receipts are missing")?;
            let mut frame = next.context("the server closed")?;
            loop {
                let text = frame?.into_text()?;
                self.heard(&text).await?;
                match self.socket.next().now_or_never() {
                    Some(Some(next)) => frame = next,
                    _ => break,
                }
            }
            self.socket.flush().await?;
        }
        Ok(())
    }

    async fn send(&mut self) -> anyhow::Result<()> {
        self.next += 1;
        let (to, id, body) = (&self.to, self.next, "x".repeat(BODY));
        let message = format!(
            "<message xmlns='jabber:client' to='{to}' id='{id}' type='chat'><body>{body}</body>\
             <request xmlns='urn:xmpp:receipts'/></message>"
        );
        self.waiting.push_back((id, clock::monotonic()));
        self.counts.sent.set(self.counts.sent.get() + 1);
        self.socket.feed(Message::text(message)).await?;
        Ok(())
    }

    async fn heard(&mut self, text: &str) -> anyhow::Result<()> {
        let Some(at) = text.find("<received") else {
            anyhow::ensure!(!text.contains("type='error'"), "refused: {text}");
            return Ok(());
        };
        let id: u64 = attribute(&text[at..], " id=").and_then(|id| id.parse().ok()).unwrap_or(0);
        let Some((sent, moment)) = self.waiting.pop_front() else { return Ok(()) };
        anyhow::ensure!(sent == id, "the receipt of {id} came instead of that of {sent}");
        let now = clock::monotonic();
        if self.counts.measuring.get() {
            self.counts.receipts.set(self.counts.receipts.get() + 1);
            let took = u64::try_from((now - moment).as_micros()).unwrap_or(u64::MAX);
            let _ = self.counts.latency.borrow_mut().record(took);
        }
        if now < self.until {
            self.send().await?;
        }
        Ok(())
    }
}
