//! Backlog: what sessions on another node are told waits here, in order, while the link takes no more.
//!
//! Why: what a session is told is told once. Were it dropped because a link is busy for a moment, the client would wait
//! for it until something else happens to its user.

use std::collections::VecDeque;

use crate::cluster::Refused;
use crate::ids::SessionId;
use crate::packet::{Closed, Packet, Tell, ToSession};

/// Packets that wait for one node. More are dropped, and their sessions told to attach again.
const PACKETS_MAX: usize = 1024;
/// Packets that are offered to the link at once.
const AT_ONCE: usize = 32;

/// What waits for one node.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    packets: VecDeque<Packet>,
}

impl Backlog {
    /// Takes packets in behind those that wait; answers what to tell the sessions of those that found no room.
    pub(super) fn put(&mut self, packets: impl IntoIterator<Item = Packet>) -> Vec<Packet> {
        let mut lost = Vec::new();
        for packet in packets {
            if self.packets.len() < PACKETS_MAX {
                self.packets.push_back(packet);
            } else if let Packet::Session(ToSession { session, tell }) = &packet {
                lost.extend(attach_again(*session, tell));
            }
        }
        lost
    }

    /// Sends what the link takes; without a link all is dropped, since sessions attach again when there is one.
    pub(super) fn send(&mut self, mut send: impl FnMut(&[Packet]) -> Result<(), Refused>) {
        while !self.packets.is_empty() {
            let many = self.packets.len().min(AT_ONCE);
            let sent = send(&self.packets.make_contiguous()[..many]);
            // Invariant: what a session is told is bounded far below what a link carries (`page_bytes`).
            debug_assert_ne!(sent, Err(Refused::TooLong));
            match sent {
                Ok(()) | Err(Refused::TooLong) => drop(self.packets.drain(..many)),
                Err(Refused::NoCredit) => return,
                Err(Refused::Down) => self.packets.clear(),
            }
        }
        self.packets.shrink_to(AT_ONCE);
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }
}

fn attach_again(session: SessionId, tell: &Tell) -> Option<Packet> {
    let (Tell::Attached { life, .. }
    | Tell::Entries { life, .. }
    | Tell::CaughtUp { life, .. }
    | Tell::Pulled { life, .. }) = tell
    else {
        return None;
    };
    let tell = Tell::Closed { life: *life, why: Closed::Lost };
    Some(Packet::Session(ToSession { session, tell }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{BootId, NodeId, Number};

    fn told(n: u64) -> Packet {
        let session = SessionId { node: NodeId(2), boot: BootId(1), count: n };
        Packet::Session(ToSession { session, tell: Tell::CaughtUp { life: 7, head: Number(n) } })
    }

    #[test]
    fn what_a_busy_link_refuses_goes_later_and_in_order() {
        let mut backlog = Backlog::default();
        let (mut sent, mut credit) = (Vec::new(), 2);
        for n in 0..100 {
            assert_eq!(backlog.put([told(n)]), []);
        }
        for _ in 0..2 {
            backlog.send(|packets| {
                if credit == 0 {
                    return Err(Refused::NoCredit);
                }
                credit -= 1;
                sent.extend_from_slice(packets);
                Ok(())
            });
            assert!(backlog.is_empty() == (sent.len() == 100));
            credit = 2;
        }
        assert_eq!(sent, (0..100).map(told).collect::<Vec<_>>());
    }

    #[test]
    fn what_finds_no_room_is_made_good_by_attaching_again() {
        let mut backlog = Backlog::default();
        assert_eq!(backlog.put((0..PACKETS_MAX as u64).map(told)), []);
        let lost = backlog.put([told(9)]);
        let session = SessionId { node: NodeId(2), boot: BootId(1), count: 9 };
        let tell = Tell::Closed { life: 7, why: Closed::Lost };
        assert_eq!(lost, [Packet::Session(ToSession { session, tell })]);
    }

    #[test]
    fn without_a_link_nothing_waits() {
        let mut backlog = Backlog::default();
        backlog.put([told(1), told(2)]);
        backlog.send(|_| Err(Refused::Down));
        assert!(backlog.is_empty());
    }
}
