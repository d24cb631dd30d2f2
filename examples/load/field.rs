//! Field: what all users of a measurement share, and what is counted.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use actors::clock;
use hdrhistogram::Histogram;
use rookery::client::{Connection, Credential, Event, Fault, Format, Happened, Options, Why};
use tokio::sync::Semaphore;

use crate::Arguments;
use crate::crew::Crew;
use crate::mint::Mint;
use crate::pages::Answers;
use crate::storm::Coming;

/// Connections being made at once.
pub(crate) const CONNECTING_MAX: usize = 128;
/// How long a user may take to be let in.
pub(crate) const CONNECTED_WITHIN: Duration = Duration::from_secs(15);
/// Latencies up to a minute, in microseconds, to three digits.
pub(crate) const LONGEST_US: u64 = 60_000_000;

/// One message: a bit each.
pub(crate) const ACCEPTED: u8 = 1;
pub(crate) const RECEIVED: u8 = 2;

/// What one pair has done; messages are numbered from 1.
#[derive(Default)]
pub(crate) struct Pair {
    pub(crate) fates: Vec<u8>,
    pub(crate) newest: usize,
    pub(crate) missing: usize,
}

/// What is counted over all users.
pub(crate) struct Counts {
    pub(crate) tick: Histogram<u64>,
    pub(crate) delivery: Histogram<u64>,
    pub(crate) receipt: Histogram<u64>,
    pub(crate) accepted: u64,
    pub(crate) delivered: u64,
    pub(crate) receipted: u64,
    /// Check marks that came while it was measured, whenever the message was due.
    pub(crate) ticks_in_time: u64,
    pub(crate) accepted_in_all: u64,
    pub(crate) delivered_in_all: u64,
    pub(crate) duplicated: u64,
    pub(crate) misordered: u64,
    pub(crate) unanswered: u64,
    pub(crate) repeated_entries: u64,
    pub(crate) reconnects: u64,
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) longest_stall: Duration,
    /// For each sender the longest time between two check marks.
    pub(crate) gaps: Histogram<u64>,
    /// Sends that a node put off: `retry: true`, or after a time it told.
    pub(crate) put_off: BTreeMap<String, u64>,
}

/// What all tasks share, on one thread.
pub(crate) struct Field {
    pub(crate) arguments: Arguments,
    pub(crate) run: String,
    /// Tells this run from others of the same users.
    pub(crate) salt: String,
    pub(crate) begin: Instant,
    /// When sending began, in the time of `now_us`.
    pub(crate) opened: Cell<u64>,
    pub(crate) counts: RefCell<Counts>,
    pub(crate) pairs: RefCell<Vec<Pair>>,
    /// With `--group` there is this instead of pairs.
    pub(crate) crew: RefCell<Crew>,
    /// With `--pages`: how they were answered.
    pub(crate) answers: RefCell<Answers>,
    pub(crate) mint: Option<Mint>,
    pub(crate) connecting: Semaphore,
    pub(crate) idle: Cell<usize>,
    /// With `--storm`: how they came, and came back.
    pub(crate) comings: RefCell<Vec<Coming>>,
    /// With `--offline`: how fast those who were away got what had waited.
    pub(crate) drained_per_s: Cell<Option<f64>>,
}

impl Field {
    pub(crate) fn new(arguments: Arguments) -> anyhow::Result<Self> {
        let histogram = || Histogram::new_with_max(LONGEST_US, 3);
        let counts = Counts {
            tick: histogram()?,
            delivery: histogram()?,
            receipt: histogram()?,
            accepted: 0,
            delivered: 0,
            receipted: 0,
            ticks_in_time: 0,
            accepted_in_all: 0,
            delivered_in_all: 0,
            duplicated: 0,
            misordered: 0,
            unanswered: 0,
            repeated_entries: 0,
            reconnects: 0,
            errors: BTreeMap::new(),
            longest_stall: Duration::ZERO,
            gaps: histogram()?,
            put_off: BTreeMap::new(),
        };
        let random: u32 = rand::Rng::random(&mut rand::rng());
        let salt = format!("{random:08x}");
        let run = arguments.prefix.clone().unwrap_or_else(|| format!("load-{salt}"));
        let mut pairs = Vec::new();
        if arguments.group.is_none() && arguments.storm.is_none() {
            pairs.resize_with(arguments.pairs, Pair::default);
        }
        Ok(Self {
            mint: Mint::find(&arguments)?,
            run,
            salt,
            begin: clock::monotonic(),
            opened: Cell::new(u64::MAX),
            counts: RefCell::new(counts),
            pairs: RefCell::new(pairs),
            crew: RefCell::default(),
            answers: RefCell::new(Answers::new()?),
            connecting: Semaphore::new(CONNECTING_MAX),
            idle: Cell::new(0),
            comings: RefCell::default(),
            drained_per_s: Cell::new(None),
            arguments,
        })
    }

    pub(crate) fn now_us(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Whether a message intended at this moment counts.
    pub(crate) fn is_measured(&self, intended: u64) -> bool {
        let from = self.opened.get().saturating_add((self.arguments.warmup * 1e6) as u64);
        let until = from.saturating_add((self.arguments.seconds * 1e6) as u64);
        (from..until).contains(&intended)
    }

    pub(crate) fn options(&self, user: &str, turn: usize, device: &str) -> Options {
        let credential = match &self.mint {
            Some(mint) => Credential::Token(mint.token(user)),
            None => Credential::Password { password: "rookery-load".into(), register: true },
        };
        // Each begins at its own node, and goes on to the next when that one fails.
        let mut urls = self.arguments.urls.clone();
        let first = turn % urls.len();
        urls.rotate_left(first);
        let format = if self.arguments.format == "json" { Format::Json } else { Format::Msgpack };
        let window = if self.arguments.rate.is_some() { 256 } else { self.arguments.outstanding };
        let outbox_max = 1_000_000;
        let device = device.to_owned();
        Options { device, format, window, outbox_max, ..Options::new(&urls, user, credential) }
    }

    /// A connection that is live.
    pub(crate) async fn ready(
        &self,
        user: &str,
        turn: usize,
        device: &str,
    ) -> anyhow::Result<Connection> {
        let _permit = self.connecting.acquire().await?;
        let mut connection = Connection::new(self.options(user, turn, device));
        let mut last = None;
        let connected = async {
            while let Some(happened) = connection.step().await {
                match happened {
                    Happened::Event(Event::CaughtUp { .. }) => return Ok(()),
                    Happened::Event(Event::Disconnected { why, retry_in: None }) => {
                        return Err(self.not_let_in(user, &why));
                    }
                    Happened::Event(Event::Disconnected { why, .. }) => last = Some(why),
                    _ => {}
                }
            }
            anyhow::bail!("{user} cannot connect")
        };
        match tokio::time::timeout(CONNECTED_WITHIN, connected).await {
            Ok(connected) => connected?,
            Err(_) => {
                let why = last.map_or_else(|| "no node answers".to_owned(), |why| why.to_string());
                let within = CONNECTED_WITHIN.as_secs();
                anyhow::bail!("no node has let {user} in for {within} s: {why}")
            }
        }
        Ok(connection)
    }

    /// Why a user cannot come in at all, and what to do.
    pub(crate) fn not_let_in(&self, user: &str, why: &Why) -> anyhow::Error {
        let of_the_token = match why {
            Why::Closed(Some(4_303), _) => true,
            Why::Refused(fault) => fault.code == "unauthenticated",
            _ => false,
        };
        match &self.mint {
            Some(mint) if of_the_token => anyhow::anyhow!(mint.not_taken()),
            _ => anyhow::anyhow!("{user} cannot connect: {why}"),
        }
    }

    pub(crate) fn failed(&self, fault: &Fault) {
        *self.counts.borrow_mut().errors.entry(fault.code.clone()).or_default() += 1;
    }

    pub(crate) fn put_off(&self, fault: &Fault) {
        *self.counts.borrow_mut().put_off.entry(fault.code.clone()).or_default() += 1;
    }

    pub(crate) fn note_connection(&self, happened: &Happened) {
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

    pub(crate) fn received(&self, pair: usize, body: &str) {
        let mut parts = body.split(':');
        let (salt, number, intended) = (parts.next(), parts.next(), parts.next());
        let number: Option<usize> = number.and_then(|number| number.parse().ok());
        let intended: Option<u64> = intended.and_then(|intended| intended.parse().ok());
        let (Some(number), Some(intended)) = (number, intended) else {
            return;
        };
        if salt != Some(&self.salt) {
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

    pub(crate) fn missing(&self) -> usize {
        let pairs: usize = self.pairs.borrow().iter().map(|pair| pair.missing).sum();
        let crew = self.arguments.group.map_or(0, |size| self.crew.borrow().missing(size));
        pairs + crew
    }

    /// Waits until those who come back have everything, and times it.
    pub(crate) async fn drained(&self) {
        let begin = clock::monotonic();
        let before = self.counts.borrow().delivered_in_all;
        self.all_received().await;
        let count = self.counts.borrow().delivered_in_all - before;
        let rate = count as f64 / begin.elapsed().as_secs_f64();
        eprintln!("drained {count} messages at {rate:.0}/s");
        self.drained_per_s.set(Some(rate));
    }

    /// Waits until everything acknowledged has arrived, as long as something comes.
    pub(crate) async fn all_received(&self) {
        let grace = Duration::from_secs_f64(self.arguments.grace);
        let mut last = (clock::monotonic(), self.counts.borrow().delivered_in_all);
        while self.missing() > 0 && last.0.elapsed() < grace {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let delivered = self.counts.borrow().delivered_in_all;
            if delivered > last.1 {
                last = (clock::monotonic(), delivered);
            }
        }
    }
}
