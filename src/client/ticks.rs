//! Ticks: how far one's own messages have got, and how far one has read, per conversation.
//!
//! Promises  no mark ever goes back; read ≤ delivered ≤ sent.

use std::collections::BTreeMap;

/// The marks of one conversation: each stands for every `seq` up to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marks {
    /// One check mark: on a majority of disks.
    pub sent: u64,
    /// Two check marks: on a device of the recipient's.
    pub delivered: u64,
    /// Blue: read.
    pub read: u64,
}

/// The marks of all conversations.
#[derive(Debug, Default)]
pub(super) struct Ticks {
    marks: BTreeMap<String, Marks>,
}

impl Ticks {
    /// The marks of a conversation.
    #[must_use]
    pub(super) fn of(&self, conv: &str) -> Marks {
        self.marks.get(conv).copied().unwrap_or_default()
    }

    /// Raises marks; the new ones if anything changed.
    pub(super) fn raise(
        &mut self,
        conv: &str,
        sent: u64,
        delivered: u64,
        read: u64,
    ) -> Option<Marks> {
        let old = self.of(conv);
        // What was read was delivered, and what was delivered was sent.
        let read = old.read.max(read);
        let delivered = old.delivered.max(delivered).max(read);
        let new = Marks { sent: old.sent.max(sent).max(delivered), delivered, read };
        if new == old {
            return None;
        }
        match self.marks.get_mut(conv) {
            Some(marks) => *marks = new,
            None => {
                self.marks.insert(conv.to_owned(), new);
            }
        }
        Some(new)
    }
}

/// One conversation's reading, as told to the node.
#[derive(Debug, Default)]
struct Reading {
    wanted: u64,
    confirmed: u64,
    asked: Option<u64>,
}

/// How far one has read: one report at a time per conversation, the newest wins.
#[derive(Debug, Default)]
pub(super) struct Readings {
    readings: BTreeMap<String, Reading>,
}

impl Readings {
    /// The user has read up to `seq`. True if a report should go out.
    pub(super) fn want(&mut self, conv: &str, seq: u64) -> bool {
        let reading = self.readings.entry(conv.to_owned()).or_default();
        reading.wanted = reading.wanted.max(seq);
        reading.wanted > reading.confirmed && reading.asked.is_none()
    }

    /// Takes the report to send for a conversation.
    pub(super) fn take(&mut self, conv: &str) -> Option<u64> {
        let reading = self.readings.get_mut(conv)?;
        if reading.asked.is_some() || reading.wanted <= reading.confirmed {
            return None;
        }
        reading.asked = Some(reading.wanted);
        reading.asked
    }

    /// The node answered a report. True if another should go out.
    pub(super) fn answered(&mut self, conv: &str, seq: u64) -> bool {
        let Some(reading) = self.readings.get_mut(conv) else {
            return false;
        };
        reading.asked = None;
        reading.confirmed = reading.confirmed.max(seq);
        reading.wanted > reading.confirmed
    }

    /// The socket is gone: conversations whose report may be lost.
    pub(super) fn detach(&mut self) {
        for reading in self.readings.values_mut() {
            reading.asked = None;
        }
    }

    /// Conversations with something to report.
    #[must_use]
    pub(super) fn open(&self) -> Vec<String> {
        let open = self.readings.iter().filter(|(_, reading)| reading.wanted > reading.confirmed);
        open.map(|(conv, _)| conv.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn readings_are_merged_while_one_is_under_way() {
        let mut readings = Readings::default();
        assert!(readings.want("u:a", 3));
        assert_eq!(readings.take("u:a"), Some(3));
        assert!(!readings.want("u:a", 4));
        assert!(!readings.want("u:a", 7));
        assert!(readings.answered("u:a", 3));
        assert_eq!(readings.take("u:a"), Some(7));
        readings.detach();
        assert_eq!(readings.open(), ["u:a"]);
        assert_eq!(readings.take("u:a"), Some(7));
        assert!(!readings.answered("u:a", 7));
        assert!(!readings.want("u:a", 2));
    }

    proptest! {
        #[test]
        fn marks_never_go_back(
            raises in proptest::collection::vec((0..50_u64, 0..50_u64, 0..50_u64), 0..40),
        ) {
            let mut ticks = Ticks::default();
            let mut old = Marks::default();
            for (sent, delivered, read) in raises {
                let changed = ticks.raise("u:a", sent, delivered, read);
                let new = ticks.of("u:a");
                prop_assert_eq!(changed.is_some(), new != old);
                prop_assert!(new.sent >= old.sent && new.delivered >= old.delivered);
                prop_assert!(new.read >= old.read);
                prop_assert!(new.read <= new.delivered && new.delivered <= new.sent);
                old = new;
            }
        }
    }
}
