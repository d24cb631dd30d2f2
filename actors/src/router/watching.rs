//! Watching: which sessions hear when a shard has another home.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Inbound, Router, read, write};
use crate::ids::{SessionId, ShardId};
use crate::shard::lane;

/// Who begins to watch hears of a move this long ago, too: what they asked before it may have been lost by it.
const LATELY: Duration = Duration::from_secs(1);

impl Router {
    /// From now on `HomeMoved` for this shard is put into the session's inbox, until `unwatch` or `close_session`; also if
    /// it moved a moment ago, unless it is the first that the session watches, of which it has asked nothing yet.
    pub fn watch(&self, session: SessionId, shard: ShardId) {
        let Some(watchers) = self.0.watchers.get(usize::from(shard.0)) else { return };
        // One lock after the other: `moved` holds the second's kind while it takes the first's.
        let asked = match write(&self.0.sessions).get_mut(&session.count) {
            Some(present) if !present.watches.contains(&shard) => {
                present.watches.push(shard);
                present.watches.len() > 1
            }
            Some(_) => false,
            None => return,
        };
        write(watchers).insert(session.count);
        if asked && self.moved_lately(shard) {
            self.put(session.count, Inbound::HomeMoved(shard));
        }
    }

    fn moved_lately(&self, shard: ShardId) -> bool {
        let moved = self.0.moved[usize::from(shard.0)].load(Ordering::Acquire);
        moved != 0 && u128::from(self.running_ms().saturating_sub(moved)) < LATELY.as_millis()
    }

    /// Since this router was made.
    fn running_ms(&self) -> u64 {
        u64::try_from(self.0.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Ends `watch`.
    pub fn unwatch(&self, session: SessionId, shard: ShardId) {
        if let Some(present) = write(&self.0.sessions).get_mut(&session.count) {
            present.watches.retain(|watched| *watched != shard);
        }
        if let Some(watchers) = self.0.watchers.get(usize::from(shard.0)) {
            write(watchers).remove(&session.count);
        }
    }

    /// A shard has another home, or the way to it is back: all who watch hear so.
    pub(super) fn moved(&self, shard: ShardId) {
        self.0.moved[usize::from(shard.0)].store(self.running_ms().max(1), Ordering::Release);
        for session in read(&self.0.watchers[usize::from(shard.0)]).iter() {
            self.put(*session, Inbound::HomeMoved(shard));
        }
        for lane in self.lanes() {
            let _stopping = lane.cast(lane::Msg::HomeMoved(shard));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{BootId, NodeId};

    #[test]
    fn a_session_that_ends_without_a_word_watches_nothing_any_more() {
        let router = Router::new(NodeId(1), BootId(1), 4, std::iter::empty());
        let (sender, mut inbox) = crate::inbox::inbox();
        let (stays, goes) = (router.open_session(sender.clone()), router.open_session(sender));
        for session in [stays, goes] {
            router.watch(session, ShardId(1));
            router.watch(session, ShardId(2));
        }
        router.unwatch(stays, ShardId(2));
        router.close_session(goes);
        router.watch(goes, ShardId(3));
        let watchers = |shard: usize| read(&router.0.watchers[shard]).clone();
        let counts = [1, 2, 3].map(|shard| watchers(shard).into_iter().collect::<Vec<_>>());
        assert_eq!(counts, [vec![stays.count], vec![], vec![]]);
        router.serves(ShardId(1), 5, true);
        assert_eq!(inbox.next().unwrap(), Box::new(Inbound::HomeMoved(ShardId(1))));
        assert!(inbox.next().is_none());
    }

    #[test]
    fn who_watches_late_hears_of_a_move_a_moment_ago() {
        let router = Router::new(NodeId(1), BootId(1), 4, std::iter::empty());
        let (sender, mut inbox) = crate::inbox::inbox();
        let session = router.open_session(sender);
        router.serves(ShardId(1), 5, true);
        router.serves(ShardId(2), 5, true);
        router.watch(session, ShardId(1));
        assert!(inbox.next().is_none(), "of its own home it has asked nothing yet");
        router.watch(session, ShardId(2));
        assert_eq!(inbox.next().unwrap(), Box::new(Inbound::HomeMoved(ShardId(2))));
        router.watch(session, ShardId(2));
        router.watch(session, ShardId(3));
        assert!(inbox.next().is_none(), "told once, and only what moved");
    }
}
