//! Flight: the requests of one socket that wait for their answer, and how fast they may come.

use std::time::Duration;

use actors::session::RequestRef;

/// The `id`s of requests in flight.
#[derive(Debug, Default)]
pub(super) struct Flight {
    newest: u32,
    waiting: Vec<(RequestRef, Option<Box<str>>)>,
}

impl Flight {
    /// An empty table keeps room for so many.
    const KEPT: usize = 8;

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn has(&self, id: &str) -> bool {
        self.waiting.iter().any(|(_, waiting)| waiting.as_deref() == Some(id))
    }

    /// Takes a request in, under a number that is not in flight.
    pub(super) fn start(&mut self, id: Option<Box<str>>) -> RequestRef {
        self.newest = self.newest.wrapping_add(1);
        let request = RequestRef(self.newest);
        self.waiting.push((request, id));
        request
    }

    /// Gives back the `id` of a request that is answered now.
    pub(super) fn finish(&mut self, request: RequestRef) -> Option<Box<str>> {
        let place = self.waiting.iter().position(|(waiting, _)| *waiting == request)?;
        let (_, id) = self.waiting.swap_remove(place);
        if self.waiting.is_empty() && self.waiting.capacity() > Self::KEPT {
            self.waiting = Vec::new();
        }
        id
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
