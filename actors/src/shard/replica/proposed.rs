//! Proposed: the batches this replica has proposed and not yet applied, and who waits for their outcomes.

use std::collections::VecDeque;

use super::Origin;
use crate::shard::raft_log::Place;
use crate::shard::state::{Batch, Outcome};

struct Proposed {
    place: Place,
    origins: Vec<Origin>,
    /// Kept, so that whoever encoded it need not decode it again.
    batch: Option<Batch>,
}

/// In the order of the log.
#[derive(Default)]
pub(super) struct Proposals(VecDeque<Proposed>);

impl Proposals {
    pub(super) fn push(&mut self, place: Place, batch: Batch, origins: Vec<Origin>) {
        self.0.push_back(Proposed { place, origins, batch: Some(batch) });
    }

    /// The batch that was proposed as this entry; the term tells it from what another leader put in its place.
    pub(super) fn take_batch(&mut self, place: Place) -> Option<Batch> {
        self.find(place)?.batch.take()
    }

    /// It could not be applied yet.
    pub(super) fn put_back(&mut self, place: Place, batch: Batch) {
        if let Some(proposed) = self.find(place) {
            proposed.batch = Some(batch);
        }
    }

    fn find(&mut self, place: Place) -> Option<&mut Proposed> {
        self.0.iter_mut().find(|proposed| proposed.place == place)
    }

    /// An entry was applied: who waits for what of it. What was proposed before it and did not get there is lost.
    pub(super) fn answer(
        &mut self,
        place: Place,
        outcomes: Vec<Outcome>,
        (answers, lost): (&mut Vec<(Origin, Outcome)>, &mut Vec<Origin>),
    ) {
        while let Some(proposed) = self.0.pop_front_if(|first| first.place.index <= place.index) {
            if proposed.place == place {
                return answers.extend(proposed.origins.into_iter().zip(outcomes));
            }
            lost.extend(proposed.origins);
        }
    }

    /// Leadership is gone: nobody's outcome will be known here.
    pub(super) fn give_up(&mut self) -> impl Iterator<Item = Origin> {
        self.0.drain(..).flat_map(|proposed| proposed.origins)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ShardId, Timestamp};
    use crate::shard::state::Command;

    fn batch(upto: u64) -> Batch {
        Batch { wall: Timestamp(1), commands: vec![Command::Taken { by: ShardId(1), upto }] }
    }

    const fn at(index: u64, term: u64) -> Place {
        Place { index, term }
    }

    #[test]
    fn a_batch_is_only_taken_for_the_entry_that_it_became() {
        let mut proposals = Proposals::default();
        for index in 5..=7 {
            proposals.push(at(index, 2), batch(index), vec![Origin::Home(index)]);
        }
        assert_eq!(proposals.take_batch(at(5, 3)), None, "another leader's");
        let own = proposals.take_batch(at(6, 2));
        assert_eq!(own, Some(batch(6)));
        proposals.put_back(at(6, 2), batch(6));
        assert_eq!(proposals.take_batch(at(6, 2)), own, "not in memory the first time");
        let (mut answers, mut lost) = (Vec::new(), Vec::new());
        proposals.answer(at(4, 1), vec![Outcome::Done], (&mut answers, &mut lost));
        assert!(answers.is_empty() && lost.is_empty(), "somebody else's, before all of these");
        proposals.answer(at(6, 2), vec![Outcome::Done], (&mut answers, &mut lost));
        assert_eq!(answers, [(Origin::Home(6), Outcome::Done)]);
        assert_eq!(lost, [Origin::Home(5)], "another entry came in its place");
        assert_eq!(proposals.give_up().collect::<Vec<_>>(), [Origin::Home(7)]);
    }
}
