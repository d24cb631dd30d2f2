//! Load: measures how fast pairs of people or one group can talk through a cluster and how soon others can look at their
//! chats meanwhile, and whether anything goes wrong.
//!
//! One task per user on one thread, since it shares the machine with the cluster. With `--rate` the sends are due at
//! fixed moments and latency counts from there, so a stalled cluster cannot hide by slowing its users down.
//!
//! ```text
//! cargo run --release --example load -- --pairs 50 --outstanding 8 --seconds 10
//! cargo run --release --example load -- --rate 2000 --seconds 30 --json
//! cargo run --release --example load -- --group 100 --posters 10 --rate 50 --seconds 30
//! cargo run --release --example load -- --pairs 0 --idle 5000 --hold 60
//! cargo run --release --example load -- --rate 2000 --pages 500 --seconds 30
//! cargo run --release --example load -- --storm 10000
//! ```
//!
//! What somebody who watches the nodes meanwhile must know is said on standard error, in lines that begin with `mark`.

mod crew;
mod field;
mod mint;
mod pages;
mod report;
mod sender;
mod storm;

use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use clap::Parser;
use futures_util::future::{join_all, try_join_all};
use hyper::Method;
use rookery::client::{Connection, Event, Happened, http};
use tokio::task::{JoinSet, LocalSet};

use self::field::Field;
use self::sender::Sender;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures a cluster.
#[derive(Parser)]
struct Arguments {
    /// The nodes, with commas between; the two sides of a pair use different ones.
    #[arg(long, value_delimiter = ',', value_parser = http::address, default_values = [
        "http://127.0.0.1:8080", "http://127.0.0.1:8081", "http://127.0.0.1:8082",
    ])]
    urls: Vec<String>,
    /// Pairs of a sender and a receiver; 0 with --idle.
    #[arg(long, default_value_t = 50)]
    pairs: usize,
    /// One group of this many members instead of pairs, 2 to 1024, spread over the nodes.
    #[arg(long, conflicts_with = "pairs")]
    group: Option<usize>,
    /// How many members of the group post.
    #[arg(long, default_value_t = 1, requires = "group")]
    posters: usize,
    /// Messages each sender or poster keeps unanswered, 1 or more (without --rate).
    #[arg(long, default_value_t = 8, value_parser = at_least_one)]
    outstanding: usize,
    /// Messages per second over all pairs or posters, at fixed moments [default: as fast as --outstanding allows].
    #[arg(long, value_parser = more_than_zero)]
    rate: Option<f64>,
    /// How many seconds to measure.
    #[arg(long, default_value_t = 10.0, value_parser = some_seconds)]
    seconds: f64,
    /// How many seconds to send before measuring.
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    warmup: f64,
    /// How many seconds to wait for stragglers afterwards, from the last that came.
    #[arg(long, default_value_t = 15.0, value_parser = seconds)]
    grace: f64,
    /// Size of each body in bytes, at most 32768 (a few bytes are always needed).
    #[arg(long, default_value_t = 160, value_parser = body_bytes)]
    body_bytes: usize,
    /// Connected users who only send heartbeats.
    #[arg(long, default_value_t = 0)]
    idle: usize,
    /// Stay connected this many seconds with the idle users alone, before anybody sends.
    #[arg(long, default_value_t = 0.0, value_parser = seconds)]
    settle: f64,
    /// Instead of pairs: so many users connect, are dropped all at once, and come back at once.
    #[arg(long, conflicts_with_all = ["group", "pairs", "pages", "idle"], value_parser = at_least_one)]
    storm: Option<usize>,
    /// How many of them connect at the same time [default: 128, and all when they come back].
    #[arg(long, requires = "storm", value_parser = at_least_one)]
    parallel: Option<usize>,
    /// Stay connected this many seconds before ending.
    #[arg(long, default_value_t = 0.0, value_parser = seconds)]
    hold: f64,
    /// Store while the receivers, or all members but the posters, are away; then let them drain.
    #[arg(long)]
    offline: bool,
    /// HTTP requests per second, at fixed moments: in turn a reader's list of 200 chats, and a page of 50 messages
    /// [default: none].
    #[arg(long, conflicts_with = "group", value_parser = more_than_zero)]
    pages: Option<f64>,
    /// How many readers take turns at that.
    #[arg(long, default_value_t = 100, requires = "pages", value_parser = at_least_one)]
    readers: usize,
    /// How many readers have the same friends, 1 to 300: fewer, and more people must be named in the lists of all.
    #[arg(long, default_value_t = 100, requires = "pages")]
    friends_shared_by: usize,
    /// Ask each reader once. They are those of an earlier run with this --prefix; restart the nodes in between.
    #[arg(long, requires = "pages", requires = "prefix")]
    cold: bool,
    /// How frames are written: json or msgpack.
    #[arg(long, default_value = "json", value_parser = ["json", "msgpack"])]
    format: String,
    /// Names the users; the same name uses the same users again [default: a new one each time].
    #[arg(long)]
    prefix: Option<String>,
    /// The cluster's configuration, to take the token secret from [default: ./data/dev/cluster.toml; if that is not
    /// there, users register].
    #[arg(long)]
    config: Option<PathBuf>,
    /// The token secret itself.
    #[arg(long, conflicts_with = "config")]
    token_secret: Option<String>,
    /// The cluster's name, with --token-secret.
    #[arg(long, default_value = "dev", requires = "token_secret")]
    cluster: String,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// A day: whoever says more has mistaken the unit.
const SECONDS_MAX: f64 = 86_400.0;

fn seconds(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    let fits = (0.0..=SECONDS_MAX).contains(&value);
    fits.then_some(value).ok_or_else(|| format!("0 to {SECONDS_MAX} seconds"))
}

fn some_seconds(text: &str) -> Result<f64, String> {
    let value = seconds(text)?;
    (value > 0.0).then_some(value).ok_or_else(|| "more than 0 seconds".to_owned())
}

fn more_than_zero(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "not a number per second".to_owned())?;
    let fits = value > 0.0 && value.is_finite();
    fits.then_some(value).ok_or_else(|| "more than 0 per second".to_owned())
}

fn at_least_one(text: &str) -> Result<usize, String> {
    let value: usize = text.parse().map_err(|_| "not a whole number".to_owned())?;
    (value > 0).then_some(value).ok_or_else(|| "1 or more".to_owned())
}

fn body_bytes(text: &str) -> Result<usize, String> {
    let value: usize = text.parse().map_err(|_| "not a number of bytes".to_owned())?;
    (value <= 32_768).then_some(value).ok_or_else(|| "at most 32768 bytes".to_owned())
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(good) => ExitCode::from(u8::from(!good)),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// False if something that was acknowledged went wrong.
fn run(arguments: Arguments) -> anyhow::Result<bool> {
    check(&arguments)?;
    crew::check(&arguments)?;
    pages::check(&arguments)?;
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(reach(&arguments.urls))?;
    let field = Rc::new(Field::new(arguments)?);
    let local = LocalSet::new();
    local.block_on(&runtime, measure(Rc::clone(&field)))?;
    let good = field.report()?;
    // Thousands of sockets need no goodbye one by one.
    std::process::exit(i32::from(!good));
}

/// Refuses to measure nobody.
fn check(arguments: &Arguments) -> anyhow::Result<()> {
    let nobody = arguments.pairs == 0 && arguments.group.is_none() && arguments.idle == 0;
    anyhow::ensure!(!nobody, "--pairs 0: nobody would be there; give --idle, or 1 or more pairs");
    Ok(())
}

/// Tells at once that no node is there. Users of one that is not go to the next, so that is only said.
async fn reach(urls: &[String]) -> anyhow::Result<()> {
    let asked = urls.iter().map(|url| async move {
        let answer = http::call::<serde_json::Value>(url, Method::GET, "/healthz", None, None);
        answer.await.err().map(|why| why.to_string())
    });
    let failed: Vec<String> = join_all(asked).await.into_iter().flatten().collect();
    anyhow::ensure!(
        failed.len() < urls.len(),
        "{}; start a cluster with `cargo run --release -- dev`, or name its nodes with --urls",
        failed.join("; ")
    );
    for why in failed {
        eprintln!("note: {why}; its users go to the next");
    }
    Ok(())
}

async fn measure(field: Rc<Field>) -> anyhow::Result<()> {
    if let Some(users) = field.arguments.storm {
        return storm::measure(&field, users).await;
    }
    let mut crowd = JoinSet::new();
    for i in 0..field.arguments.idle {
        crowd.spawn_local(idle(Rc::clone(&field), i));
    }
    while field.idle.get() < field.arguments.idle {
        tokio::time::sleep(Duration::from_millis(250)).await;
        if let Some(ended) = crowd.try_join_next() {
            ended??;
        }
        eprintln!("idle users connected: {}", field.idle.get());
    }
    if field.arguments.settle > 0.0 {
        mark("settling");
        tokio::time::sleep(Duration::from_secs_f64(field.arguments.settle)).await;
        mark("settled");
    }
    let ticker = tokio::task::spawn_local(progress(Rc::clone(&field)));
    let marks = tokio::task::spawn_local(marks(Rc::clone(&field)));
    match field.arguments.group {
        Some(size) => crew::measure(&field, size).await?,
        None => pairs(&field).await?,
    }
    if field.arguments.hold > 0.0 {
        mark("holding");
        tokio::time::sleep(Duration::from_secs_f64(field.arguments.hold)).await;
        mark("held");
    }
    ticker.abort();
    marks.abort();
    Ok(())
}

/// Tells whoever watches the nodes where the measurement begins and ends.
fn mark(what: &str) {
    eprintln!("mark {what}");
}

async fn marks(field: Rc<Field>) {
    while field.opened.get() == u64::MAX {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let opened = field.begin + Duration::from_micros(field.opened.get());
    let begins = opened + Duration::from_secs_f64(field.arguments.warmup);
    let ends = begins + Duration::from_secs_f64(field.arguments.seconds);
    for (moment, what) in [(opened, "opened"), (begins, "measuring"), (ends, "measured")] {
        tokio::time::sleep_until(moment.into()).await;
        mark(what);
    }
}

/// Lets the senders write, and waits until the receivers have everything.
async fn pairs(field: &Rc<Field>) -> anyhow::Result<()> {
    let mut receivers = receivers(field).await?;
    let senders = (0..field.arguments.pairs).map(|i| {
        let field = Rc::clone(field);
        async move { field.ready(&sender_name(&field.run, i), 2 * i, "sender").await }
    });
    let senders = try_join_all(senders).await?;
    let readers = match field.arguments.pages {
        Some(_) => Some(pages::prepare(field).await?),
        None => None,
    };
    field.opened.set(field.now_us());
    let mut sending = JoinSet::new();
    if let Some(readers) = readers {
        sending.spawn_local(pages::measure(readers));
    }
    for (i, connection) in senders.into_iter().enumerate() {
        sending.spawn_local(Sender::new(Rc::clone(field), i, connection).run());
    }
    while sending.join_next().await.is_some() {}
    if field.arguments.offline {
        receivers = drainers(field);
        field.drained().await;
    } else {
        field.all_received().await;
    }
    receivers.abort_all();
    Ok(())
}

/// Connects the receivers; in offline mode they only show themselves, and leave.
async fn receivers(field: &Rc<Field>) -> anyhow::Result<JoinSet<()>> {
    let mut tasks = JoinSet::new();
    let connections = (0..field.arguments.pairs).map(|i| {
        let field = Rc::clone(field);
        async move { field.ready(&receiver_name(&field.run, i), 2 * i + 1, "receiver").await }
    });
    for (i, mut connection) in try_join_all(connections).await?.into_iter().enumerate() {
        if field.arguments.offline {
            connection.shut();
            while connection.step().await.is_some() {}
        } else {
            tasks.spawn_local(receive(Rc::clone(field), i, connection));
        }
    }
    Ok(tasks)
}

fn drainers(field: &Rc<Field>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for i in 0..field.arguments.pairs {
        let name = receiver_name(&field.run, i);
        let connection = Connection::new(field.options(&name, 2 * i + 1, "receiver"));
        tasks.spawn_local(receive(Rc::clone(field), i, connection));
    }
    tasks
}

fn sender_name(run: &str, i: usize) -> String {
    format!("{run}-s{i}")
}

fn receiver_name(run: &str, i: usize) -> String {
    format!("{run}-r{i}")
}

async fn idle(field: Rc<Field>, i: usize) -> anyhow::Result<()> {
    let name = format!("{}-i{i}", field.run);
    let mut connection = field.ready(&name, i, "idle").await?;
    field.idle.set(field.idle.get() + 1);
    while let Some(happened) = connection.step().await {
        field.note_connection(&happened);
    }
    Ok(())
}

async fn receive(field: Rc<Field>, pair: usize, mut connection: Connection) {
    while let Some(happened) = connection.step().await {
        field.note_connection(&happened);
        if let Happened::Event(Event::Message { message, .. }) = happened {
            field.received(pair, &message.body);
        }
        field.counts.borrow_mut().repeated_entries += connection.take_duplicates();
    }
}

async fn progress(field: Rc<Field>) {
    let mut last = (0, 0);
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let counts = field.counts.borrow();
        let (accepted, delivered) = (counts.accepted_in_all, counts.delivered_in_all);
        let errors: u64 = counts.errors.values().sum();
        eprintln!(
            "{:>5.0} s  sent {:>6}/s  delivered {:>6}/s  errors {errors}",
            field.begin.elapsed().as_secs_f64(),
            accepted - last.0,
            delivered - last.1,
        );
        last = (accepted, delivered);
    }
}

/// Each user is a file to the kernel.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if setrlimit(Resource::Nofile, raised).is_err() {
        eprintln!("the limit of open files stays at {:?}", limit.current);
    }
}
