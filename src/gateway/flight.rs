//! Flight: the requests of one socket that wait for their answer, and how fast they may come.

use std::time::Duration;

use actors::session::RequestRef;

use super::order::Mark;

/// The `id`s of requests in flight.
#[derive(Debug, Default)]
pub(super) struct Flight {
    newest: u32,
    waiting: Vec<(RequestRef, Option<Box<str>>, Option<Mark>)>,
}

impl Flight {
    /// An empty table keeps room for so many.
    const KEPT: usize = 8;

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn has(&self, id: &str) -> bool {
        self.waiting.iter().any(|(_, waiting, _)| waiting.as_deref() == Some(id))
    }

    /// Takes a request in, under a number that is not in flight; a send with its mark.
    pub(super) fn start(&mut self, id: Option<Box<str>>, mark: Option<Mark>) -> RequestRef {
        self.newest = self.newest.wrapping_add(1);
        let request = RequestRef(self.newest);
        self.waiting.push((request, id, mark));
        request
    }

    /// Gives back the `id` of a request that is answered now, and its mark.
    pub(super) fn finish(&mut self, request: RequestRef) -> (Option<Box<str>>, Option<Mark>) {
        let found = self.waiting.iter().position(|(waiting, ..)| *waiting == request);
        let Some(place) = found else {
            return (None, None);
        };
        let (_, id, mark) = self.waiting.swap_remove(place);
        if self.waiting.is_empty() && self.waiting.capacity() > Self::KEPT {
            self.waiting = Vec::new();
        }
        (id, mark)
    }
}

/// How fast frames may come: a leaky bucket, kept as the moment when it will be empty (GCRA).
#[derive(Debug, Default)]
pub(super) struct Bucket {
    empty_at: Duration,
}

impl Bucket {
    /// Takes a frame of some weight (10 is a whole one) in, or says how long to wait.
    pub(super) fn take(
        &mut self,
        weight: u32,
        per_second: u32,
        burst: u32,
        now: Duration,
    ) -> Result<(), Duration> {
        if per_second == 0 {
            return Ok(());
        }
        let each = Duration::from_secs(1) / per_second;
        let full = each * burst;
        let empty_at = self.empty_at.max(now) + each * weight / 10;
        if empty_at > now + full {
            return Err(empty_at - now - full);
        }
        self.empty_at = empty_at;
        Ok(())
    }
}
