//! Sender: one user who writes, and times what comes back.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use rookery::client::{Connection, Event, Happened, Letter};

use crate::field::{ACCEPTED, Field, RECEIVED};
use crate::receiver_name;

/// One sending user.
pub(crate) struct Sender {
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
    /// The longest time between two check marks, in microseconds.
    longest: u64,
}

impl Sender {
    pub(crate) fn new(field: Rc<Field>, pair: usize, connection: Connection) -> Self {
        let arguments = &field.arguments;
        let length = (arguments.warmup + arguments.seconds) * 1e6;
        let opened = field.opened.get();
        let interval_us = arguments.rate.map(|rate| 1e6 * arguments.pairs as f64 / rate.max(0.001));
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
            longest: 0,
        }
    }

    pub(crate) async fn run(mut self) {
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
        let _ = counts.gaps.record(self.longest);
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
        let mut body = format!("{}:{number}:{intended}:", field.salt);
        let padding = field.arguments.body_bytes.saturating_sub(body.len());
        body.extend(std::iter::repeat_n('x', padding));
        let cid = format!("{}-{number}", field.salt);
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
            Happened::Event(Event::Delayed { fault, .. }) => self.field.put_off(&fault),
            Happened::Event(_) | Happened::Replied { .. } => {}
        }
    }

    fn accepted(&mut self, number: usize, seq: u64) {
        let now = self.field.now_us();
        let intended = self.intended[number - 1];
        let mut counts = self.field.counts.borrow_mut();
        counts.accepted_in_all += 1;
        counts.ticks_in_time += u64::from(self.field.is_measured(now));
        if self.field.is_measured(intended) {
            counts.accepted += 1;
            let _ = counts.tick.record(now - intended);
            let stall = Duration::from_micros(now - self.answered_at);
            self.longest = self.longest.max(now - self.answered_at);
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
