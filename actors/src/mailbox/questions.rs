//! Questions: what a mailbox can be asked; nothing here changes it.

use super::rules::{Device, Mailbox, Peer};
use crate::ids::{DeviceId, Epoch, Number, Timestamp, UserId};
use crate::mailbox::cids::Cids;
use crate::mailbox::groups::Membership;
use crate::mailbox::log::Log;
use crate::mailbox::marks::Mark;
use crate::mailbox::people::People;
use crate::message::{DeviceInfo, Position, Resume, Resumed, Send};
use crate::packet::Start;

impl Mailbox {
    /// Whether a device's having everything up to `n` is news to a sender.
    #[must_use]
    pub fn delivers(&self, n: Number) -> bool {
        n > self.delivered
            && (self.ledger.between(self.delivered, n).next().is_some() || self.delivers_groups(n))
    }

    /// Whether this message (or another with its `cid`) was taken in before.
    #[must_use]
    pub fn remembers(&self, send: &Send) -> bool {
        self.ledger.find(&send.from, &send.cid).is_some()
    }

    /// The ids of the owner's own messages.
    #[must_use]
    pub const fn cids(&self) -> &Cids {
        &self.cids
    }

    /// Where delivery to a device goes on from.
    #[must_use]
    pub fn position(&self, device: &DeviceId, start: Start) -> Position {
        let (low, head) = (self.log.low(), self.log.head());
        let acked = self.device(device).map_or(low, |d| d.acked);
        let (from, resumed) = match start {
            Start::Device => (acked.max(low), Resumed::NotAsked),
            Start::Resume(Resume { epoch, n }) | Start::Continue(Resume { epoch, n }) => {
                if epoch != self.epoch || n > head {
                    (low, Resumed::UnknownEpoch)
                } else if n < low {
                    (low, Resumed::Trimmed)
                } else {
                    (n, Resumed::Yes)
                }
            }
        };
        Position { epoch: self.epoch, from, head, resumed }
    }

    /// One device.
    #[must_use]
    pub fn device(&self, device: &DeviceId) -> Option<&Device> {
        self.devices.iter().find(|d| d.id == *device)
    }

    /// All devices, as clients see them.
    #[must_use]
    pub fn devices(&self) -> Vec<DeviceInfo> {
        let info =
            |d: &Device| DeviceInfo { device: d.id.clone(), last_seen: d.seen, acked: d.acked };
        self.devices.iter().map(info).collect()
    }

    /// The last sign of life of any device; none if there never was one.
    #[must_use]
    pub fn last_seen(&self) -> Option<Timestamp> {
        self.devices.iter().map(|device| device.seen).max()
    }

    /// Which life of the log its numbers count.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The password hash, for users who have one.
    #[must_use]
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// The log.
    #[must_use]
    pub const fn log(&self) -> &Log {
        &self.log
    }

    /// What is between the owner and another user.
    #[must_use]
    pub fn peer(&self, user: &UserId) -> Peer {
        self.peers.get(user).copied().unwrap_or_default()
    }

    /// Bytes in memory besides the log and the fixed part, about.
    #[must_use]
    pub fn weight_of_memory(&self) -> usize {
        const PEER: usize = 96;
        const MARK: usize = size_of::<Mark>();
        self.ledger.weight()
            + self.cids.weight()
            + self.talks.weight()
            + self.peers.len() * PEER
            + (self.arrived.len() + self.settled.len()) * MARK
            + self.waiting.weight()
            + self.groups.values().map(Membership::weight).sum::<usize>()
            + self.group.as_ref().map_or(0, |group| group.weight())
            + self.people.as_deref().map_or(0, People::weight)
    }

    /// Entries that no device has acknowledged.
    #[must_use]
    pub fn undelivered(&self) -> u64 {
        self.log.head().0 - self.delivered.max(self.log.low()).0
    }

    /// Whether so many of them wait without those of groups: who is in a busy group and away can be written to all the same.
    #[must_use]
    pub fn holds(&self, most: u64) -> bool {
        let all = self.undelivered();
        all >= most && all.saturating_sub(self.posts_undelivered()) >= most
    }

    /// Bytes of these entries, about: not less, and at most 16 KiB more.
    #[must_use]
    pub const fn undelivered_bytes(&self) -> u64 {
        self.waiting.bytes()
    }
}
