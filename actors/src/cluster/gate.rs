//! Gate: where the rest of the node leaves packets for one peer; shared by all threads, never blocks for long.
//!
//! Packets are encoded by whoever sends them, straight into the frame that will carry them. The first packet since
//! the last departure wakes the link; what is left until the link gets to it departs in the same frames, so a busy
//! link packs and an idle one does not wait.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ractor::ActorRef;

use super::frame::Packer;
use super::link;
use super::rules::{Class, Credit};
use super::{PeerStatus, Refused};
use crate::ids::{BootId, NodeId};
use crate::packet::Packet;

/// One peer's gate.
#[derive(Debug)]
pub(super) struct Gate {
    /// The peer.
    pub(super) node: NodeId,
    up: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    packers: [Packer; 3],
    credit: Credit,
    waking: bool,
    boot: Option<BootId>,
    life: u32,
    link: Option<ActorRef<link::Msg>>,
    counts: Counts,
}

/// What has happened on a link since the start.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Counts {
    pub(super) rtt: Option<Duration>,
    pub(super) frames_in: u64,
    pub(super) frames_out: u64,
    pub(super) packets_in: u64,
    pub(super) undecodable: u64,
    pub(super) stale: u64,
    pub(super) reaped: u64,
    pub(super) no_credit: u64,
    pub(super) too_long: u64,
}

impl Gate {
    pub(super) fn new(node: NodeId, first_life: u32) -> Self {
        let inner = Inner { life: first_life, ..Inner::default() };
        Self { node, up: AtomicBool::new(false), inner: Mutex::new(inner) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // What a panicking holder leaves behind is at worst a cut frame, which the peer counts and drops.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves packets for the peer.
    pub(super) fn send(&self, class: Class, packets: &[Packet]) -> Result<(), Refused> {
        if !self.is_up() {
            return Err(Refused::Down);
        }
        let mut inner = self.lock();
        if inner.boot.is_none() {
            return Err(Refused::Down);
        }
        if !inner.credit.admits(class) {
            inner.counts.no_credit += 1;
            return Err(Refused::NoCredit);
        }
        let mut too_long = false;
        for packet in packets {
            match inner.packers[class.index()].push(packet) {
                Ok(bytes) => inner.credit.sent(class, bytes),
                Err(refused) => {
                    tracing::error!(%refused, node = %self.node, "packet dropped");
                    inner.counts.too_long += 1;
                    too_long = true;
                }
            }
        }
        let wake = (!inner.waking).then(|| inner.link.clone()).flatten();
        inner.waking = true;
        drop(inner);
        if let Some(link) = wake {
            // A dead link is being replaced, and the new one starts with an empty gate.
            let _ = link.cast(link::Msg::Flush);
        }
        if too_long {
            return Err(Refused::TooLong);
        }
        Ok(())
    }

    /// Takes all that was left, most urgent first. Later packets wake the link again.
    pub(super) fn take(&self) -> Vec<(Class, Vec<u8>)> {
        let mut inner = self.lock();
        inner.waking = false;
        let mut frames = Vec::new();
        for class in Class::ALL {
            let taken = inner.packers[class.index()].take();
            frames.extend(taken.into_iter().map(|frame| (class, frame)));
        }
        inner.counts.frames_out += frames.len() as u64;
        frames
    }

    /// A new link actor serves the gate from now on.
    pub(super) fn serve(&self, link: ActorRef<link::Msg>) {
        self.lock().link = Some(link);
    }

    /// Casts to the link actor, if there is one.
    pub(super) fn tell(&self, message: link::Msg) {
        let link = self.lock().link.clone();
        if let Some(link) = link {
            // A dead one is being replaced.
            let _ = link.cast(message);
        }
    }

    /// A new number for a session; never repeated within a boot, not even by a restarted link.
    pub(super) fn next_life(&self) -> u32 {
        let mut inner = self.lock();
        inner.life = inner.life.wrapping_add(1).max(1);
        inner.life
    }

    /// Forgets what was left and lets packets in from now on.
    pub(super) fn open(&self, boot: BootId) {
        let mut inner = self.lock();
        inner.clear();
        inner.boot = Some(boot);
        self.up.store(true, Ordering::Release);
    }

    /// Forgets what was left and lets nothing in; answers whether it was open.
    pub(super) fn close(&self) -> bool {
        let mut inner = self.lock();
        inner.clear();
        inner.boot = None;
        self.up.swap(false, Ordering::AcqRel)
    }

    /// The peer's receipts.
    pub(super) fn taken(&self, totals: [u64; 3]) {
        self.lock().credit.taken(totals);
    }

    /// Lets the credit measure the peer's pace.
    pub(super) fn sample(&self, now: Duration) {
        self.lock().credit.sample(now);
    }

    /// Changes the counts.
    pub(super) fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.lock().counts);
    }

    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// What there is to know about the peer.
    pub(super) fn status(&self) -> PeerStatus {
        let inner = self.lock();
        let counts = inner.counts;
        PeerStatus {
            node: self.node,
            up: inner.boot.is_some(),
            boot: inner.boot,
            rtt: counts.rtt,
            bytes_queued: inner.credit.under_way_in_all(),
            frames_in: counts.frames_in,
            frames_out: counts.frames_out,
            packets_in: counts.packets_in,
            undecodable: counts.undecodable,
            stale: counts.stale,
            reaped: counts.reaped,
            no_credit: counts.no_credit,
            too_long: counts.too_long,
        }
    }
}

impl Inner {
    fn clear(&mut self) {
        self.packers.iter_mut().for_each(Packer::clear);
        self.credit = Credit::default();
        self.waking = false;
    }
}
