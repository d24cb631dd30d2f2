//! Transfer rules: what both ends of a checkpoint under way make of its pieces, and of each other's word about them.
//!
//! The receiver says how many pieces its disk has; the sender keeps only a few more under way, so the slower of disk and
//! link sets the pace. A sender that has given up begins again with the first piece: what the receiver has of the same
//! checkpoint it keeps, and says so.

use std::cmp::Ordering;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::NodeId;

/// Pieces sent that are not known to be on the other's disk: what one shard may let wait in the memory there.
pub(super) const PIECES_UNDER_WAY_MAX: u32 = 4;
/// A transfer without progress for this long is given up, and Raft asks again. Long, because only a disk can be so slow:
/// a node that is gone or silent loses its link within a second, and with it the transfer.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Which checkpoint is under way, and under whose leadership. A leader sends the same checkpoint always in the same
/// pieces, and never an older one after a newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Which {
    /// The term of the leader that sends it.
    pub(super) leadership: u64,
    /// The newest entry in it.
    pub(super) index: u64,
    /// The term of that entry.
    pub(super) term: u64,
}

/// What the sender knows of a checkpoint on its way.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) which: Which,
    sent: u32,
    taken: u32,
    complete: bool,
    progress: Duration,
}

impl Sending {
    pub(super) const fn new(which: Which, now: Duration) -> Self {
        Self { which, sent: 0, taken: 0, complete: false, progress: now }
    }

    /// The number of the next piece, if there is one and it may be sent.
    pub(super) fn next(&self) -> Option<u32> {
        let room = self.sent < self.taken.saturating_add(PIECES_UNDER_WAY_MAX);
        (room && !self.complete).then_some(self.sent)
    }

    /// The next piece was given to the link.
    pub(super) const fn sent(&mut self, complete: bool, now: Duration) {
        self.sent += 1;
        self.complete = complete;
        self.progress = now;
    }

    /// The receiver has so many pieces on its disk.
    pub(super) fn taken(&mut self, pieces: u32, now: Duration) {
        if pieces > self.taken {
            (self.taken, self.progress) = (pieces, now);
        }
    }

    /// Whether nothing has moved for too long.
    pub(super) fn is_stuck(&self, now: Duration) -> bool {
        now.saturating_sub(self.progress) > PATIENCE
    }
}

/// Where a checkpoint that comes in stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Coming,
    /// All of it is on disk, and Raft decides whether it still wants it.
    Handed,
    /// It becomes the shard's own.
    Finishing,
}

/// What the receiver knows of a checkpoint that comes in.
#[derive(Debug)]
pub(super) struct Coming {
    pub(super) from: NodeId,
    pub(super) which: Which,
    /// Tells it from all others there were of this shard; answers of the disk carry it.
    number: u64,
    next: u32,
    taken: u32,
    complete: bool,
    stage: Stage,
}

/// What to do with a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    /// It begins another checkpoint, which replaces what there is.
    Begins,
    /// It goes on.
    GoesOn,
    /// It was here before: the sender began again and should hear how far this one is.
    Repeats,
    /// It is of nothing that is wanted.
    Strays,
}

/// What an answer of the disk means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is about one that was replaced.
    Stale,
    /// So many pieces are on disk now, and there are more to come.
    Taken(u32),
    /// All of it is on disk: Raft should be told.
    Whole(u32),
    /// It has become the shard's own.
    Finished,
}

/// Judges a piece by what is coming in already.
pub(super) fn judge(coming: Option<&Coming>, from: NodeId, which: Which, piece: u32) -> Piece {
    let fresh = if piece == 0 { Piece::Begins } else { Piece::Strays };
    let Some(coming) = coming else { return fresh };
    if (coming.from, coming.which) == (from, which) {
        return match piece.cmp(&coming.next) {
            Ordering::Less => Piece::Repeats,
            Ordering::Equal if !coming.complete => Piece::GoesOn,
            _ => Piece::Strays,
        };
    }
    // One that Raft has been told of is its to keep or to drop.
    if which > coming.which && coming.stage == Stage::Coming { fresh } else { Piece::Strays }
}

impl Coming {
    pub(super) const fn new(from: NodeId, which: Which, number: u64) -> Self {
        let stage = Stage::Coming;
        Self { from, which, number, next: 0, taken: 0, complete: false, stage }
    }

    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    /// Pieces on disk.
    pub(super) const fn taken(&self) -> u32 {
        self.taken
    }

    /// A piece that goes on was given to the disk.
    pub(super) const fn goes_on(&mut self, last: bool) {
        self.next += 1;
        self.complete = last;
    }

    /// The disk has done a step of the checkpoint with this number.
    pub(super) fn done(&mut self, number: u64) -> Answer {
        if number != self.number {
            return Answer::Stale;
        }
        if self.stage == Stage::Finishing {
            return Answer::Finished;
        }
        self.taken += 1;
        // Invariant: the disk answers once for each piece.
        debug_assert!(self.taken <= self.next);
        if self.complete && self.taken == self.next {
            self.stage = Stage::Handed;
            return Answer::Whole(self.taken);
        }
        Answer::Taken(self.taken)
    }

    /// Raft wants it.
    pub(super) const fn finish(&mut self) {
        self.stage = Stage::Finishing;
    }

    /// Whether Raft was told and has not taken it.
    pub(super) fn is_handed(&self) -> bool {
        self.stage == Stage::Handed
    }

    pub(super) fn is_finishing(&self) -> bool {
        self.stage == Stage::Finishing
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const FROM: NodeId = NodeId(1);

    fn which(leadership: u64, index: u64) -> Which {
        Which { leadership, index, term: 1 }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// So many pieces came in, and so many of them are on disk.
    fn coming(came: u32, on_disk: u32) -> Coming {
        let mut coming = Coming::new(FROM, which(3, 70), 1);
        (0..came).for_each(|_| coming.goes_on(false));
        for taken in 1..=on_disk {
            assert_eq!(coming.done(1), Answer::Taken(taken));
        }
        coming
    }

    #[test]
    fn a_sender_waits_for_the_disk_of_the_receiver() {
        let mut sending = Sending::new(which(3, 70), at(0));
        for piece in 0..PIECES_UNDER_WAY_MAX {
            assert_eq!(sending.next(), Some(piece));
            sending.sent(false, at(0));
        }
        assert_eq!(sending.next(), None);
        sending.taken(1, at(1));
        assert_eq!(sending.next(), Some(PIECES_UNDER_WAY_MAX));
        sending.sent(true, at(1));
        sending.taken(PIECES_UNDER_WAY_MAX + 1, at(2));
        assert_eq!(sending.next(), None, "that was the last one");
    }

    #[test]
    fn only_a_transfer_in_which_nothing_moves_is_given_up() {
        let mut sending = Sending::new(which(3, 70), at(0));
        sending.sent(false, at(20));
        sending.taken(1, at(40));
        assert!(!sending.is_stuck(at(60)));
        sending.taken(1, at(60));
        assert!(sending.is_stuck(at(71)), "the same word twice is no progress");
    }

    #[test]
    fn what_is_here_of_the_same_checkpoint_is_kept_when_the_sender_begins_again() {
        let coming = coming(3, 2);
        let judge = |piece| judge(Some(&coming), FROM, which(3, 70), piece);
        let all: Vec<Piece> = (0..5).map(judge).collect();
        let (old, next, late) = (Piece::Repeats, Piece::GoesOn, Piece::Strays);
        assert_eq!(all, [old, old, old, next, late]);
    }

    #[test]
    fn only_the_first_piece_of_a_newer_checkpoint_replaces_what_is_here() {
        let mut coming = coming(3, 3);
        for newer in [which(3, 71), which(4, 50)] {
            assert_eq!(judge(Some(&coming), FROM, newer, 0), Piece::Begins);
            assert_eq!(judge(Some(&coming), FROM, newer, 1), Piece::Strays);
        }
        // A leader that was deposed, and does not know.
        assert_eq!(judge(Some(&coming), NodeId(2), which(2, 99), 0), Piece::Strays);
        assert_eq!(judge(None, FROM, which(2, 99), 1), Piece::Strays);
        coming.goes_on(true);
        assert_eq!(coming.done(1), Answer::Whole(4));
        assert_eq!(
            judge(Some(&coming), FROM, which(4, 50), 0),
            Piece::Strays,
            "Raft decides first"
        );
    }

    #[test]
    fn answers_about_a_checkpoint_that_was_replaced_count_for_nothing() {
        let mut coming = Coming::new(FROM, which(4, 80), 2);
        coming.goes_on(true);
        assert_eq!(coming.done(1), Answer::Stale);
        assert_eq!(coming.taken(), 0);
        assert_eq!(coming.done(2), Answer::Whole(1));
        coming.finish();
        assert_eq!(coming.done(1), Answer::Stale);
        assert_eq!(coming.done(2), Answer::Finished);
    }

    /// Both ends, the link between them and the disk of one.
    struct Way {
        sending: Sending,
        coming: Option<Coming>,
        pieces: VecDeque<u32>,
        words: VecDeque<u32>,
        disk: VecDeque<u32>,
        written: Vec<u32>,
    }

    /// Pieces of the checkpoint.
    const ALL: u32 = 9;

    impl Way {
        fn send(&mut self) {
            if let Some(piece) = self.sending.next() {
                self.pieces.push_back(piece);
                self.sending.sent(piece + 1 == ALL, at(0));
            }
        }

        fn receive(&mut self) {
            let Some(piece) = self.pieces.pop_front() else { return };
            match judge(self.coming.as_ref(), FROM, which(3, 70), piece) {
                Piece::Begins => self.coming = Some(Coming::new(FROM, which(3, 70), 1)),
                Piece::GoesOn => {}
                Piece::Repeats => {
                    self.words.extend(self.coming.as_ref().map(Coming::taken));
                    return;
                }
                Piece::Strays => return,
            }
            let Some(coming) = self.coming.as_mut() else { return };
            coming.goes_on(piece + 1 == ALL);
            self.disk.push_back(piece);
        }

        fn write(&mut self) {
            let (Some(piece), Some(coming)) = (self.disk.pop_front(), self.coming.as_mut()) else {
                return;
            };
            self.written.push(piece);
            if let Answer::Taken(pieces) | Answer::Whole(pieces) = coming.done(1) {
                self.words.push_back(pieces);
            }
        }
    }

    proptest! {
        #[test]
        fn a_slow_disk_gets_every_piece_once_however_often_the_sender_begins_again(
            steps in prop::collection::vec(0_u8..12, 0..300),
        ) {
            let mut way = Way {
                sending: Sending::new(which(3, 70), at(0)),
                coming: None,
                pieces: VecDeque::new(),
                words: VecDeque::new(),
                disk: VecDeque::new(),
                written: Vec::new(),
            };
            let to_the_end = (0..200_u8).flat_map(|_| [0, 4, 7, 9]);
            for step in steps.into_iter().chain([10]).chain(to_the_end) {
                match step {
                    0..4 => way.send(),
                    4..7 => way.receive(),
                    7..9 => if let Some(word) = way.words.pop_front() {
                        way.sending.taken(word, at(0));
                    },
                    9 => way.write(),
                    // Given up and asked for again; what was under way arrives, or is lost with its link.
                    10 => way.sending = Sending::new(which(3, 70), at(0)),
                    _ => {
                        way.pieces.clear();
                        way.words.clear();
                        way.sending = Sending::new(which(3, 70), at(0));
                    }
                }
                prop_assert!(way.disk.len() <= PIECES_UNDER_WAY_MAX as usize);
            }
            prop_assert_eq!(way.written, (0..ALL).collect::<Vec<_>>());
            prop_assert!(way.coming.is_some_and(|coming| coming.is_handed()));
        }
    }
}
