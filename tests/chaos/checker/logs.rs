//! Logs: what each user's devices saw under which number, and how far each device has got.

use std::collections::BTreeMap;

use super::messages::Place;

/// An event without its texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    Message {
        from: usize,
        place: Place,
        cid: u64,
        body: u64,
    },
    /// To a group.
    Post {
        group: usize,
        from: usize,
        place: Place,
        cid: u64,
        body: u64,
    },
    /// Of a group; known by the hash of what it says.
    Change {
        group: usize,
        seq: u64,
        change: u64,
    },
    Sent {
        to: usize,
        place: Place,
        cid: u64,
    },
    Receipt {
        to: usize,
        delivered: u64,
        read: u64,
    },
    Expired {
        to: usize,
        place: Place,
    },
}

/// What stands under a number.
pub(super) struct Entry {
    /// When the first device saw it.
    pub(super) at: u64,
    pub(super) seen: Seen,
}

/// The log of one user, as all devices together saw it.
#[derive(Default)]
pub(super) struct Log {
    epoch: Option<String>,
    pub(super) devices: BTreeMap<String, Device>,
    pub(super) entries: BTreeMap<u64, Entry>,
}

/// One device.
#[derive(Default)]
pub(super) struct Device {
    /// Whether the run lists it: then it must get everything.
    pub(super) listed: bool,
    attached: bool,
    /// What it was sent last, or where its socket went on from.
    last: u64,
    /// The highest it was ever sent.
    highest: u64,
    pub(super) seen: Ranges,
    /// What it acknowledged, and when; both only go up.
    acks: Vec<(u64, u64)>,
}

/// What an event was to the device that got it.
pub(super) struct Took {
    /// The device did not have this number.
    pub(super) fresh: bool,
    /// The device had passed this number.
    pub(super) repeated: bool,
    /// Numbers are left out after this one.
    pub(super) gap_after: Option<u64>,
    /// Another event was seen under this number before.
    pub(super) disagrees: bool,
}

impl Log {
    pub(super) fn device(&mut self, name: &str) -> &mut Device {
        self.devices.entry(name.to_owned()).or_default()
    }

    /// A socket goes on after `n`: whether the log began anew, and what the device had if that leaves something out.
    pub(super) fn attach(&mut self, device: &str, epoch: &str, n: u64) -> (bool, Option<u64>) {
        let restarted = self.epoch.as_deref().is_some_and(|known| known != epoch);
        if restarted || self.epoch.is_none() {
            self.epoch = Some(epoch.to_owned());
        }
        let device = self.device(device);
        let had = device.highest;
        let gap = device.attached && !restarted && n > had;
        (device.attached, device.last) = (true, n);
        device.highest = n.max(had);
        (restarted, gap.then_some(had))
    }

    /// A device got an event.
    pub(super) fn take(&mut self, device: &str, n: u64, at: u64, seen: Seen) -> Took {
        let device = self.device(device);
        let repeated = n <= device.highest;
        let gap = !repeated && n > device.last.saturating_add(1);
        let gap_after = gap.then_some(device.last);
        device.last = n.max(device.last);
        device.highest = n.max(device.highest);
        let fresh = device.seen.insert(n);
        let disagrees = self.entries.entry(n).or_insert(Entry { at, seen }).seen != seen;
        Took { fresh, repeated, gap_after, disagrees }
    }
}

impl Device {
    pub(super) fn ack(&mut self, n: u64, at: u64) {
        if self.acks.last().is_none_or(|(last, _)| n > *last) {
            self.acks.push((n, at));
        }
    }

    /// When the device acknowledged `n`, if it got it.
    pub(super) fn acked_at(&self, n: u64) -> Option<u64> {
        let first = self.acks.partition_point(|(acked, _)| *acked < n);
        self.acks.get(first).filter(|_| self.seen.contains(n)).map(|(_, at)| *at)
    }
}

/// A set of numbers that are mostly next to each other: first and last of each run.
#[derive(Default)]
pub(super) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    pub(super) fn contains(&self, n: u64) -> bool {
        self.0.range(..=n).next_back().is_some_and(|(_, last)| n <= *last)
    }

    /// Whether it was not there before.
    pub(super) fn insert(&mut self, n: u64) -> bool {
        if self.contains(n) {
            return false;
        }
        let next = n.checked_add(1).and_then(|next| self.0.remove(&next));
        let last = next.unwrap_or(n);
        match self.0.range_mut(..n).next_back() {
            Some((_, before)) if *before + 1 == n => *before = last,
            _ => {
                self.0.insert(n, last);
            }
        }
        true
    }

    /// First and last of each run that is left out, from 1 up to the highest.
    pub(super) fn holes(&self) -> impl Iterator<Item = (u64, u64)> {
        let before = std::iter::once(0).chain(self.0.values().copied());
        let between = before.zip(self.0.keys());
        let between =
            between.map(|(before, first)| (before.saturating_add(1), first.saturating_sub(1)));
        between.filter(|(first, last)| first <= last)
    }
}
