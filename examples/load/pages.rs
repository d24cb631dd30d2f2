//! Pages: people who open their list of chats and one of the chats, by HTTP, at fixed moments beside all other traffic.
//!
//! Every reader has 200 chats: a few long ones, of which pages are asked, and many short ones that came between, so that the
//! newest messages of the list lie all over the reader's log, as those of real people do. Some readers have them with the
//! same people.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use rookery::client::{Connection, Happened, Letter, http};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::field::{Field, LONGEST_US};

/// Chats of each reader.
const CHATS: usize = 200;
/// The first of them are long.
const LONG: usize = 4;
/// Messages of a long one; of the others there is one each.
const LONG_MESSAGES: usize = 60;
/// Messages on a page.
const PAGE: usize = 50;
/// Readers who are prepared at once.
const PREPARING_MAX: usize = 24;
/// How long an answer may take.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    List,
    Page,
}

/// How long the answers took, from the moment when they were to be asked for.
pub(crate) struct Answers {
    pub(crate) lists: Histogram<u64>,
    pub(crate) pages: Histogram<u64>,
}

impl Answers {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let histogram = || Histogram::new_with_max(LONGEST_US, 3);
        Ok(Self { lists: histogram()?, pages: histogram()? })
    }
}

type Idle = Vec<SendRequest<Empty<Bytes>>>;

/// All readers, and the connections they share.
pub(crate) struct Readers {
    field: Rc<Field>,
    tokens: Vec<String>,
    /// For each node those that nobody uses now.
    idle: Vec<RefCell<Idle>>,
}

fn reader(field: &Field, i: usize) -> String {
    format!("{}-p{i}", field.run)
}

/// With whom a reader has a chat. Some readers have the same friends, so that nobody's mailbox is full.
fn other(field: &Field, i: usize, chat: usize) -> String {
    match i / field.arguments.friends_shared_by {
        0 => format!("{}-o{chat}", field.run),
        circle => format!("{}-o{chat}-{circle}", field.run),
    }
}

/// Refuses what cannot be measured.
pub(crate) fn check(arguments: &crate::Arguments) -> anyhow::Result<()> {
    let Some(rate) = arguments.pages else { return Ok(()) };
    let shared_by = arguments.friends_shared_by;
    anyhow::ensure!((1..=300).contains(&shared_by), "--friends-shared-by: 1 to 300");
    let asked = (rate * arguments.seconds).ceil();
    anyhow::ensure!(
        !arguments.cold || asked <= arguments.readers as f64,
        "--cold: each reader is asked once; give --readers {asked} or more"
    );
    Ok(())
}

/// Makes readers who have what they will ask for; cold ones have it from an earlier run.
pub(crate) async fn prepare(field: &Rc<Field>) -> anyhow::Result<Rc<Readers>> {
    let arguments = &field.arguments;
    let mint = field.mint.as_ref();
    let mint = mint.ok_or_else(|| anyhow::anyhow!("--pages makes tokens: give --config"))?;
    let tokens = (0..arguments.readers).map(|i| mint.token(&reader(field, i))).collect();
    let idle = arguments.urls.iter().map(|_| RefCell::default()).collect();
    let readers = Rc::new(Readers { field: Rc::clone(field), tokens, idle });
    if arguments.cold {
        return Ok(readers);
    }
    // Whoever has connected once can be written to.
    let circles = (0..arguments.readers).step_by(arguments.friends_shared_by);
    let others = circles.flat_map(|i| (0..CHATS).map(move |chat| (i, chat)));
    try_join_all(others.map(|(i, chat)| async move {
        leave(field.ready(&other(field, i, chat), chat, "other").await?).await;
        anyhow::Ok(())
    }))
    .await?;
    let places = Semaphore::new(PREPARING_MAX);
    try_join_all((0..arguments.readers).map(|i| {
        let (readers, places) = (&readers, &places);
        async move {
            let _place = places.acquire().await?;
            write(field, i).await?;
            readers.settle(i, Asked::List).await?;
            readers.settle(i, Asked::Page).await
        }
    }))
    .await?;
    eprintln!("{} readers have their chats", arguments.readers);
    Ok(readers)
}

/// Writes all of a reader's messages. Who has written them in an earlier run is answered, and nothing is stored again.
async fn write(field: &Field, i: usize) -> anyhow::Result<()> {
    let mut connection = field.ready(&reader(field, i), i, "reader").await?;
    let body = "x".repeat(field.arguments.body_bytes);
    let mut written = 0;
    let short = CHATS - LONG;
    for round in 0..LONG_MESSAGES {
        let from = LONG + short * round / LONG_MESSAGES;
        let until = LONG + short * (round + 1) / LONG_MESSAGES;
        for chat in (0..LONG).chain(from..until) {
            let to = format!("u:{}", other(field, i, chat));
            let cid = format!("{i}-{chat}-{round}");
            connection.send(Letter::text(&to, cid, &body))?;
            written += 1;
        }
    }
    while written > 0 {
        match connection.step().await {
            Some(Happened::Answered { result, .. }) => {
                result?;
                written -= 1;
            }
            Some(_) => {}
            None => anyhow::bail!("{} cannot write", reader(field, i)),
        }
    }
    leave(connection).await;
    Ok(())
}

async fn leave(mut connection: Connection) {
    connection.shut();
    while connection.step().await.is_some() {}
}

/// Asks at fixed moments, in turn for lists and for pages, until the time is over and all is answered.
pub(crate) async fn measure(readers: Rc<Readers>) {
    let field = Rc::clone(&readers.field);
    let arguments = &field.arguments;
    let Some(rate) = arguments.pages else { return };
    let (count, cold) = (arguments.readers, arguments.cold);
    let opened = field.opened.get() as f64;
    let until = opened + (arguments.warmup + arguments.seconds) * 1e6;
    // Nobody is asked twice in the cold.
    let mut due = if cold { opened + arguments.warmup * 1e6 } else { opened };
    let (mut asking, mut turn) = (JoinSet::new(), 0);
    while due < until {
        let intended = due as u64;
        tokio::time::sleep_until((field.begin + Duration::from_micros(intended)).into()).await;
        let i = if cold { turn } else { turn / 2 } % count;
        let asked = if turn.is_multiple_of(2) { Asked::List } else { Asked::Page };
        asking.spawn_local(Rc::clone(&readers).time(i, asked, intended));
        while asking.try_join_next().is_some() {}
        turn += 1;
        due += 1e6 / rate;
    }
    while asking.join_next().await.is_some() {}
}

impl Readers {
    async fn time(self: Rc<Self>, i: usize, asked: Asked, intended: u64) {
        let answer = tokio::time::timeout(ANSWERED_WITHIN, self.ask(i, asked)).await;
        let answer = answer.unwrap_or_else(|_| Err("unanswered".to_owned()));
        let field = &self.field;
        if let Err(code) = answer {
            *field.counts.borrow_mut().errors.entry(format!("http_{code}")).or_default() += 1;
        } else if field.is_measured(intended) {
            let mut answers = field.answers.borrow_mut();
            let histogram = match asked {
                Asked::List => &mut answers.lists,
                Asked::Page => &mut answers.pages,
            };
            let _ = histogram.record(field.now_us() - intended);
        }
    }

    /// Asks until all is there: what one has written oneself is in the own log a moment later.
    async fn settle(&self, i: usize, asked: Asked) -> anyhow::Result<()> {
        let settled = async {
            while let Err(code) = self.ask(i, asked).await {
                anyhow::ensure!(code == "incomplete", "a reader cannot read: {code}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Ok(())
        };
        tokio::time::timeout(ANSWERED_WITHIN, settled).await?
    }

    /// Asks once, and looks whether all is there; else says what is wrong in a word.
    async fn ask(&self, i: usize, asked: Asked) -> Result<(), String> {
        let node = i % self.idle.len();
        let idle = self.idle[node].borrow_mut().pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => self.connect(node).await.map_err(|_| "unreachable".to_owned())?,
        };
        let (path, wanted) = match asked {
            Asked::List => (format!("/v1/conversations?limit={CHATS}"), CHATS),
            Asked::Page => {
                let with = other(&self.field, i, i % LONG);
                (format!("/v1/conversations/u:{with}/messages?limit={PAGE}"), PAGE)
            }
        };
        let request = Request::get(path)
            .header(header::HOST, "load")
            .header(header::AUTHORIZATION, format!("Bearer {}", self.tokens[i]))
            .body(Empty::new());
        let request = request.map_err(|_| "bad_request".to_owned())?;
        let broken = |_| "connection_lost".to_owned();
        let response = connection.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(broken)?.to_bytes();
        if connection.ready().await.is_ok() {
            self.idle[node].borrow_mut().push(connection);
        }
        if status != StatusCode::OK {
            let problem: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
            let code = problem.as_ref().and_then(|problem| problem["code"].as_str());
            return Err(code.map_or_else(|| status.as_str().to_owned(), str::to_owned));
        }
        let messages = body.windows(7).filter(|part| *part == b"\"mid\":\"").count();
        if messages == wanted { Ok(()) } else { Err("incomplete".to_owned()) }
    }

    async fn connect(&self, node: usize) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
        let url = &self.field.arguments.urls[node];
        let host = http::host_of(url).ok_or_else(|| anyhow::anyhow!("no address: {url}"))?;
        let stream = TcpStream::connect(host).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::task::spawn_local(connection);
        Ok(sender)
    }
}
