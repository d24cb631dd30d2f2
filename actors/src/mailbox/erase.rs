//! Erase: what becomes of a mailbox whose owner wants to be forgotten.
//!
//! The name stays taken: were somebody else given it, they would be taken for whom others know by it. All else goes, from
//! memory at once (what was just read of the log, within two minutes) and from the disk with the next checkpoint. Entries
//! keep their numbers, so that nothing that is on its way to this mailbox can be taken for something new.

use std::collections::{BTreeMap, VecDeque};

use super::groups::left;
use super::rules::{Effect, Mailbox};

impl Mailbox {
    /// Forgets all there is; whoever wrote what was never fetched is told that it is gone.
    pub fn erase(&mut self, effects: &mut Vec<Effect>) {
        if self.erased {
            return;
        }
        self.erased = true;
        let gone = self.devices.drain(..).map(|device| Effect::DeviceGone(device.id));
        effects.extend(gone);
        self.expire_to(self.log.head(), effects);
        self.password = None;
        self.peers = BTreeMap::new();
        // Whoever has taken them in since they left: no group is to wait for somebody who reads no more.
        let groups = std::mem::take(&mut self.groups).into_keys();
        effects.extend(groups.map(|group| left(&group, &self.owner)));
        self.people = None;
        (self.settled, self.arrived) = (VecDeque::new(), VecDeque::new());
        self.ledger.forget(|_| true, self.log.head());
        self.cids.forget(|_| true);
        self.talks.forget_names();
    }

    /// Whether the owner wanted to be forgotten.
    #[must_use]
    pub const fn is_erased(&self) -> bool {
        self.erased
    }
}
