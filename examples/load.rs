//! Load: measures how fast pairs of people can talk through a cluster, and whether anything goes wrong meanwhile.
//!
//! One task per user on one thread, since it shares the machine with the cluster. With `--rate` the sends are due at
//! fixed moments and latency counts from there, so a stalled cluster cannot hide by slowing its users down.
//!
//! ```text
//! cargo run --release --example load -- --pairs 50 --outstanding 8 --seconds 10
//! cargo run --release --example load -- --rate 2000 --seconds 30 --json
//! cargo run --release --example load -- --pairs 0 --idle 5000 --hold 60
//! ```

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actors::clock;
use anyhow::Context;
use clap::Parser;
use hdrhistogram::Histogram;
use rookery::client::{
    Connection, Credential, Event, Fault, Format, Happened, Letter, Options, Why,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures a cluster.
#[derive(Parser)]
struct Arguments {
    /// The nodes; the two sides of a pair use different ones.
    #[arg(long, value_delimiter = ',', default_values = [
        "http://127.0.0.1:8080", "http://127.0.0.1:8081", "http://127.0.0.1:8082",
    ])]
    urls: Vec<String>,
    /// Pairs of a sender and a receiver.
    #[arg(long, default_value_t = 50)]
    pairs: usize,
    /// Messages each sender keeps unanswered (without --rate).
    #[arg(long, default_value_t = 8)]
    outstanding: usize,
    /// Messages per second over all pairs, at fixed moments.
    #[arg(long)]
    rate: Option<f64>,
    /// How long to measure.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// How long to send before measuring.
    #[arg(long, default_value_t = 2.0)]
    warmup: f64,
    /// How long to wait for stragglers afterwards.
    #[arg(long, default_value_t = 15.0)]
    grace: f64,
    /// Size of each body.
    #[arg(long, default_value_t = 160)]
    body_bytes: usize,
    /// Connected users who only send heartbeats.
    #[arg(long, default_value_t = 0)]
    idle: usize,
    /// Stay connected this many seconds before ending.
    #[arg(long, default_value_t = 0.0)]
    hold: f64,
    /// Store while the receivers are away, then let them drain.
    #[arg(long)]
    offline: bool,
    /// How frames are written: json or msgpack.
    #[arg(long, default_value = "json", value_parser = ["json", "msgpack"])]
    format: String,
    /// Names the users; the same name uses the same users again.
    #[arg(long)]
    prefix: Option<String>,
    /// The configuration to take the token secret from; without one, users register.
    #[arg(long, default_value = "./data/dev/cluster.toml")]
    config: std::path::PathBuf,
    /// The token secret itself.
    #[arg(long)]
    token_secret: Option<String>,
    /// The cluster's name, with --token-secret.
    #[arg(long, default_value = "dev")]
    cluster: String,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Connections being made at once.
const CONNECTING_MAX: usize = 128;
/// Latencies up to a minute, in microseconds, to three digits.
const LONGEST_US: u64 = 60_000_000;

/// One message: a bit each.
const ACCEPTED: u8 = 1;
const RECEIVED: u8 = 2;

/// What one pair has done; messages are numbered from 1.
#[derive(Default)]
struct Pair {
    fates: Vec<u8>,
    newest: usize,
    missing: usize,
}

/// What is counted over all users.
struct Counts {
    tick: Histogram<u64>,
    delivery: Histogram<u64>,
    receipt: Histogram<u64>,
    accepted: u64,
    delivered: u64,
    receipted: u64,
    accepted_in_all: u64,
    delivered_in_all: u64,
    duplicated: u64,
    misordered: u64,
    unanswered: u64,
    repeated_entries: u64,
    reconnects: u64,
    errors: BTreeMap<String, u64>,
    longest_stall: Duration,
}

/// What all tasks share, on one thread.
struct Field {
    arguments: Arguments,
    run: String,
    begin: Instant,
    /// When sending began, in the time of `now_us`.
    opened: Cell<u64>,
    counts: RefCell<Counts>,
    pairs: RefCell<Vec<Pair>>,
    mint: Option<Mint>,
    connecting: Semaphore,
    idle: Cell<usize>,
    sending: Cell<usize>,
}

/// Makes tokens as the cluster would.
struct Mint {
    secret: String,
    cluster: String,
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    iss: &'a str,
    iat: u64,
    exp: u64,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    anyhow::ensure!(!arguments.urls.is_empty(), "at least one url is needed");
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let field = Rc::new(Field::new(arguments)?);
    let local = LocalSet::new();
    local.block_on(&runtime, measure(Rc::clone(&field)))?;
    let good = field.report()?;
    // Thousands of sockets need no goodbye one by one.
    std::process::exit(i32::from(!good));
}

async fn measure(field: Rc<Field>) -> anyhow::Result<()> {
    let mut crowd = JoinSet::new();
    for i in 0..field.arguments.idle {
        crowd.spawn_local(idle(Rc::clone(&field), i));
    }
    while field.idle.get() < field.arguments.idle {
        tokio::time::sleep(Duration::from_millis(250)).await;
        eprintln!("idle users connected: {}", field.idle.get());
    }
    let ticker = tokio::task::spawn_local(progress(Rc::clone(&field)));
    let mut receivers = receivers(&field).await?;
    let mut senders = Vec::new();
    for i in 0..field.arguments.pairs {
        senders.push(
            field
                .ready(&sender_name(&field.run, i), 2 * i, "sender")
                .await?,
        );
    }
    field.opened.set(field.now_us());
    let mut sending = JoinSet::new();
    field.sending.set(senders.len());
    for (i, connection) in senders.into_iter().enumerate() {
        sending.spawn_local(Sender::new(Rc::clone(&field), i, connection).run());
    }
    while sending.join_next().await.is_some() {}
    if field.arguments.offline {
        let begin = clock::monotonic();
        receivers = drainers(&field);
        field.all_received().await;
        let count = field.counts.borrow().delivered_in_all;
        let rate = count as f64 / begin.elapsed().as_secs_f64();
        eprintln!("drained {count} messages at {rate:.0}/s");
    }
    field.all_received().await;
    receivers.abort_all();
    if field.arguments.hold > 0.0 {
        eprintln!("holding for {} s", field.arguments.hold);
        tokio::time::sleep(Duration::from_secs_f64(field.arguments.hold)).await;
    }
    ticker.abort();
    Ok(())
}

/// Connects the receivers; in offline mode they only show themselves, and leave.
async fn receivers(field: &Rc<Field>) -> anyhow::Result<JoinSet<()>> {
    let mut tasks = JoinSet::new();
    for i in 0..field.arguments.pairs {
        let name = receiver_name(&field.run, i);
        let mut connection = field.ready(&name, 2 * i + 1, "receiver").await?;
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

async fn idle(field: Rc<Field>, i: usize) {
    let name = format!("{}-i{i}", field.run);
    let Ok(mut connection) = field.ready(&name, i, "idle").await else {
        return;
    };
    field.idle.set(field.idle.get() + 1);
    while let Some(happened) = connection.step().await {
        field.note_connection(&happened);
    }
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

/// One sending user.
struct Sender {
    field: Rc<Field>,
    pair: usize,
    connection: Connection,
    to: String,
    /// Intended moments, by number - 1, in the time of `now_us`.
    intended: Vec<u64>,
    in_flight: usize,
    /// Accepted, and waiting for the receipt: seq and number.
    waiting: VecDeque<(u64, usize)>,
    delivered: u64,
    until: u64,
    interval_us: Option<f64>,
    due: f64,
    answered_at: u64,
}

impl Sender {
    fn new(field: Rc<Field>, pair: usize, connection: Connection) -> Self {
        let arguments = &field.arguments;
        let length = (arguments.warmup + arguments.seconds) * 1e6;
        let opened = field.opened.get();
        let interval_us = arguments
            .rate
            .map(|rate| 1e6 * arguments.pairs as f64 / rate.max(0.001));
        // The pairs take turns, so that the rate is even.
        let turn = pair as f64 / arguments.pairs as f64 * interval_us.unwrap_or(0.0);
        Self {
            to: format!("u:{}", receiver_name(&field.run, pair)),
            until: opened + length as u64,
            due: opened as f64 + turn,
            interval_us,
            field,
            pair,
            connection,
            intended: Vec::new(),
            in_flight: 0,
            waiting: VecDeque::new(),
            delivered: 0,
            answered_at: opened,
        }
    }

    async fn run(mut self) {
        let grace = self.until + (self.field.arguments.grace * 1e6) as u64;
        loop {
            let now = self.field.now_us();
            let open = now < self.until;
            if open {
                self.fill(now);
            }
            let receipts = self.field.arguments.offline || self.waiting.is_empty();
            if !open && ((self.in_flight == 0 && receipts) || now >= grace) {
                break;
            }
            let wake = match (open, self.interval_us) {
                (true, Some(_)) => (self.due as u64).min(self.until),
                (true, None) => self.until,
                (false, _) => grace,
            };
            let wake = self.field.begin + Duration::from_micros(wake);
            tokio::select! {
                biased;
                happened = self.connection.step() => match happened {
                    Some(happened) => self.took(happened),
                    None => break,
                },
                () = tokio::time::sleep_until(wake.into()) => {}
            }
            while let Some(happened) = self.connection.take(true) {
                self.took(happened);
            }
        }
        let mut counts = self.field.counts.borrow_mut();
        counts.unanswered += self.in_flight as u64;
        drop(counts);
        self.field.sending.set(self.field.sending.get() - 1);
        // The socket stays open while the other side drains: nothing more is asked of it.
        while self.connection.step().await.is_some() && self.field.sending.get() > 0 {}
    }

    fn fill(&mut self, now: u64) {
        let Some(interval) = self.interval_us else {
            while self.in_flight < self.field.arguments.outstanding {
                self.send(now);
            }
            return;
        };
        while self.due <= now as f64 {
            self.send(self.due as u64);
            self.due += interval;
        }
    }

    fn send(&mut self, intended: u64) {
        let field = &self.field;
        self.intended.push(intended);
        let number = self.intended.len();
        let mut body = format!("{}:{number}:{intended}:", field.run);
        let padding = field.arguments.body_bytes.saturating_sub(body.len());
        body.extend(std::iter::repeat_n('x', padding));
        let cid = format!("{}-{number}", field.run);
        let letter = Letter::text(&self.to, cid, &body);
        self.in_flight += 1;
        field.pairs.borrow_mut()[self.pair].fates.push(0);
        if let Err(fault) = self.connection.send(letter) {
            self.in_flight -= 1;
            field.failed(&fault);
        }
    }

    fn took(&mut self, happened: Happened) {
        self.field.note_connection(&happened);
        match happened {
            Happened::Answered { number, result } => {
                self.in_flight = self.in_flight.saturating_sub(1);
                match result {
                    Ok(accepted) => self.accepted(number as usize, accepted.seq),
                    Err(fault) => self.field.failed(&fault),
                }
            }
            Happened::Event(Event::Receipt { receipt, .. }) => {
                self.delivered = self.delivered.max(receipt.delivered);
                self.receipted();
            }
            Happened::Event(_) | Happened::Replied { .. } => {}
        }
    }

    fn accepted(&mut self, number: usize, seq: u64) {
        let now = self.field.now_us();
        let intended = self.intended[number - 1];
        let mut counts = self.field.counts.borrow_mut();
        counts.accepted_in_all += 1;
        if self.field.is_measured(intended) {
            counts.accepted += 1;
            let _ = counts.tick.record(now - intended);
            let stall = Duration::from_micros(now - self.answered_at);
            if self.interval_us.is_none() {
                counts.longest_stall = counts.longest_stall.max(stall);
            }
        }
        self.answered_at = now;
        drop(counts);
        let mut pairs = self.field.pairs.borrow_mut();
        let pair = &mut pairs[self.pair];
        let fate = &mut pair.fates[number - 1];
        *fate |= ACCEPTED;
        if *fate & RECEIVED == 0 {
            pair.missing += 1;
        }
        drop(pairs);
        self.waiting.push_back((seq, number));
        self.receipted();
    }

    fn receipted(&mut self) {
        let now = self.field.now_us();
        while let Some((seq, number)) = self.waiting.front().copied() {
            if seq > self.delivered {
                return;
            }
            self.waiting.pop_front();
            let intended = self.intended[number - 1];
            if self.field.is_measured(intended) {
                let mut counts = self.field.counts.borrow_mut();
                counts.receipted += 1;
                let _ = counts.receipt.record(now - intended);
            }
        }
    }
}

impl Field {
    fn new(arguments: Arguments) -> anyhow::Result<Self> {
        let histogram = || Histogram::new_with_max(LONGEST_US, 3);
        let counts = Counts {
            tick: histogram()?,
            delivery: histogram()?,
            receipt: histogram()?,
            accepted: 0,
            delivered: 0,
            receipted: 0,
            accepted_in_all: 0,
            delivered_in_all: 0,
            duplicated: 0,
            misordered: 0,
            unanswered: 0,
            repeated_entries: 0,
            reconnects: 0,
            errors: BTreeMap::new(),
            longest_stall: Duration::ZERO,
        };
        let run = arguments.prefix.clone().unwrap_or_else(|| {
            let random: u32 = rand::Rng::random(&mut rand::rng());
            format!("load-{random:08x}")
        });
        let mut pairs = Vec::new();
        pairs.resize_with(arguments.pairs, Pair::default);
        Ok(Self {
            mint: Mint::find(&arguments)?,
            run,
            begin: clock::monotonic(),
            opened: Cell::new(u64::MAX),
            counts: RefCell::new(counts),
            pairs: RefCell::new(pairs),
            connecting: Semaphore::new(CONNECTING_MAX),
            idle: Cell::new(0),
            sending: Cell::new(0),
            arguments,
        })
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Whether a message intended at this moment counts.
    fn is_measured(&self, intended: u64) -> bool {
        let from = self
            .opened
            .get()
            .saturating_add((self.arguments.warmup * 1e6) as u64);
        let until = from.saturating_add((self.arguments.seconds * 1e6) as u64);
        (from..until).contains(&intended)
    }

    fn options(&self, user: &str, turn: usize, device: &str) -> Options {
        let credential = match &self.mint {
            Some(mint) => Credential::Token(mint.token(user)),
            None => Credential::Password {
                password: "rookery-load".into(),
                register: true,
            },
        };
        // Each begins at its own node, and goes on to the next when that one fails.
        let mut urls = self.arguments.urls.clone();
        let first = turn % urls.len();
        urls.rotate_left(first);
        let format = if self.arguments.format == "json" {
            Format::Json
        } else {
            Format::Msgpack
        };
        let window = if self.arguments.rate.is_some() {
            256
        } else {
            self.arguments.outstanding
        };
        let outbox_max = 1_000_000;
        let device = device.to_owned();
        Options {
            device,
            format,
            window,
            outbox_max,
            ..Options::new(&urls, user, credential)
        }
    }

    /// A connection that is live.
    async fn ready(&self, user: &str, turn: usize, device: &str) -> anyhow::Result<Connection> {
        let _permit = self.connecting.acquire().await?;
        let mut connection = Connection::new(self.options(user, turn, device));
        let connected = async {
            while let Some(happened) = connection.step().await {
                match happened {
                    Happened::Event(Event::CaughtUp { .. }) => return Ok(()),
                    Happened::Event(Event::Disconnected {
                        why,
                        retry_in: None,
                    }) => {
                        anyhow::bail!("{user} cannot connect: {why:?}")
                    }
                    _ => {}
                }
            }
            anyhow::bail!("{user} cannot connect")
        };
        let patience = Duration::from_secs(60);
        tokio::time::timeout(patience, connected)
            .await
            .context("no node lets us in")??;
        Ok(connection)
    }

    fn failed(&self, fault: &Fault) {
        *self
            .counts
            .borrow_mut()
            .errors
            .entry(fault.code.clone())
            .or_default() += 1;
    }

    fn note_connection(&self, happened: &Happened) {
        let Happened::Event(Event::Disconnected { why, .. }) = happened else {
            return;
        };
        let mut counts = self.counts.borrow_mut();
        counts.reconnects += 1;
        let code = match why {
            Why::Closed(Some(code), _) => format!("closed_{code}"),
            Why::Closed(None, _) => "connection_lost".to_owned(),
            Why::Unreachable(_) => "unreachable".to_owned(),
            Why::Silent => "silent".to_owned(),
            Why::GoAway => "goaway".to_owned(),
            Why::Refused(fault) => fault.code.clone(),
            Why::Asked => return,
        };
        *counts.errors.entry(code).or_default() += 1;
    }

    fn received(&self, pair: usize, body: &str) {
        let mut parts = body.split(':');
        let (run, number, intended) = (parts.next(), parts.next(), parts.next());
        let number: Option<usize> = number.and_then(|number| number.parse().ok());
        let intended: Option<u64> = intended.and_then(|intended| intended.parse().ok());
        let (Some(number), Some(intended)) = (number, intended) else {
            return;
        };
        if run != Some(&self.run) {
            return;
        }
        let now = self.now_us();
        let mut pairs = self.pairs.borrow_mut();
        let pair = &mut pairs[pair];
        let Some(fate) = pair.fates.get_mut(number.wrapping_sub(1)) else {
            return;
        };
        let mut counts = self.counts.borrow_mut();
        if *fate & RECEIVED != 0 {
            counts.duplicated += 1;
            return;
        }
        if *fate & ACCEPTED != 0 {
            pair.missing -= 1;
        }
        *fate |= RECEIVED;
        if number < pair.newest {
            counts.misordered += 1;
        }
        pair.newest = pair.newest.max(number);
        counts.delivered_in_all += 1;
        if self.is_measured(intended) {
            counts.delivered += 1;
            let _ = counts.delivery.record(now - intended);
        }
    }

    fn missing(&self) -> usize {
        self.pairs.borrow().iter().map(|pair| pair.missing).sum()
    }

    /// Waits until everything acknowledged has arrived, but not for ever.
    async fn all_received(&self) {
        let begin = clock::monotonic();
        let grace = Duration::from_secs_f64(self.arguments.grace);
        while self.missing() > 0 && begin.elapsed() < grace {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Prints what was measured. False if something acknowledged went wrong.
    fn report(&self) -> anyhow::Result<bool> {
        let counts = self.counts.borrow();
        let lost = self.missing();
        let seconds = self.arguments.seconds;
        let good = lost == 0 && counts.duplicated == 0 && counts.misordered == 0;
        let latencies = [
            ("send_to_tick", &counts.tick),
            ("send_to_delivered", &counts.delivery),
            ("send_to_receipt", &counts.receipt),
        ];
        let rate = |count: u64| (count as f64 / seconds * 10.0).round() / 10.0;
        let mut text = String::new();
        if self.arguments.json {
            let mut report = serde_json::json!({
                "pairs": self.arguments.pairs, "outstanding": self.arguments.outstanding,
                "rate": self.arguments.rate, "seconds": seconds, "idle": self.idle.get(),
                "format": self.arguments.format, "body_bytes": self.arguments.body_bytes,
                "sends_per_s": rate(counts.accepted), "delivered_per_s": rate(counts.delivered),
                "receipts_per_s": rate(counts.receipted),
                "sent": counts.accepted_in_all, "delivered": counts.delivered_in_all,
                "lost": lost, "duplicated": counts.duplicated, "misordered": counts.misordered,
                "unanswered": counts.unanswered, "repeated_entries": counts.repeated_entries,
                "disconnects": counts.reconnects, "errors": counts.errors,
                "longest_stall_ms": counts.longest_stall.as_millis() as u64, "ok": good,
            });
            for (name, histogram) in latencies {
                report[format!("{name}_ms")] = serde_json::json!(Percentiles::of(histogram));
            }
            writeln!(text, "{report}")?;
        } else {
            writeln!(text, "sends/s      {:>10.1}", rate(counts.accepted))?;
            writeln!(text, "delivered/s  {:>10.1}", rate(counts.delivered))?;
            writeln!(
                text,
                "                        p50 ms    p99 ms   p999 ms    max ms"
            )?;
            for (name, histogram) in latencies {
                let Percentiles {
                    p50,
                    p99,
                    p999,
                    max,
                } = Percentiles::of(histogram);
                writeln!(
                    text,
                    "{name:<18} {p50:>10.2}{p99:>10.2}{p999:>10.2}{max:>10.2}"
                )?;
            }
            writeln!(text, "errors       {:?}", counts.errors)?;
            writeln!(
                text,
                "lost {lost}  duplicated {}  misordered {}  unanswered {}  repeated entries {}",
                counts.duplicated, counts.misordered, counts.unanswered, counts.repeated_entries
            )?;
        }
        use std::io::Write as _;
        std::io::stdout().write_all(text.as_bytes())?;
        Ok(good)
    }
}

/// Latencies in milliseconds.
#[derive(Serialize)]
struct Percentiles {
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl Percentiles {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1_000.0;
        Self {
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max() as f64 / 1_000.0,
        }
    }
}

impl Mint {
    /// Takes the secret from the command line, or from the cluster's configuration if there is one.
    fn find(arguments: &Arguments) -> anyhow::Result<Option<Self>> {
        #[derive(Deserialize)]
        struct Config {
            cluster: Cluster,
            auth: Auth,
        }
        #[derive(Deserialize)]
        struct Cluster {
            name: String,
        }
        #[derive(Deserialize)]
        struct Auth {
            token_secret: String,
        }
        if let Some(secret) = &arguments.token_secret {
            let (secret, cluster) = (secret.clone(), arguments.cluster.clone());
            return Ok(Some(Self { secret, cluster }));
        }
        let Ok(text) = std::fs::read_to_string(&arguments.config) else {
            eprintln!(
                "no {}: users register one by one",
                arguments.config.display()
            );
            return Ok(None);
        };
        let config: Config = toml::from_str(&text).context("unexpected configuration")?;
        let (secret, cluster) = (config.auth.token_secret, config.cluster.name);
        Ok(Some(Self { secret, cluster }))
    }

    fn token(&self, user: &str) -> String {
        let now = clock::wall().0 / 1_000;
        let claims = Claims {
            sub: user,
            iss: &self.cluster,
            iat: now,
            exp: now + 24 * 3_600,
        };
        let key = jsonwebtoken::EncodingKey::from_secret(self.secret.as_bytes());
        jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key)
            .expect("HS256 signs anything")
    }
}

/// Each user is a file to the kernel.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if setrlimit(Resource::Nofile, raised).is_err() {
        eprintln!("the limit of open files stays at {:?}", limit.current);
    }
}
