//! Inbox: what is on its way to one session, from any thread; unbounded, and small while nothing is.
//!
//! Owns      a queue and who waits for it: a hundred bytes, where a channel of tokio's has room for 32 values from the
//!           beginning and takes 800. Most sockets say nothing most of the time, and there are thousands.
//! Promises  what is sent is received in its order, once; `recv` may be given up and called again.
//! Never     bounds what waits: whoever receives looks at `len`.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// An empty queue keeps room for so many values.
const KEPT: usize = 16;

#[derive(Debug)]
struct Shared<T> {
    /// `None` once nobody will receive.
    queue: Mutex<Option<VecDeque<T>>>,
    arrived: Notify,
    senders: AtomicUsize,
}

/// The sending side; clones share it.
#[derive(Debug)]
pub struct Sender<T>(Arc<Shared<T>>);

/// The receiving side.
#[derive(Debug)]
pub struct Inbox<T>(Arc<Shared<T>>);

/// Makes both sides.
#[must_use]
pub fn inbox<T>() -> (Sender<T>, Inbox<T>) {
    let shared = Arc::new(Shared {
        queue: Mutex::new(Some(VecDeque::new())),
        arrived: Notify::new(),
        senders: AtomicUsize::new(1),
    });
    (Sender(Arc::clone(&shared)), Inbox(shared))
}

impl<T> Shared<T> {
    fn queue(&self) -> MutexGuard<'_, Option<VecDeque<T>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Sender<T> {
    /// Sends a value. When nobody will receive it, it is dropped.
    pub fn send(&self, value: T) {
        if let Some(queue) = &mut *self.0.queue() {
            queue.push_back(value);
        }
        self.0.arrived.notify_one();
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.arrived.notify_one();
        }
    }
}

impl<T> Inbox<T> {
    /// The next value, when there is one; `None` when there is none and all senders are gone.
    pub async fn recv(&mut self) -> Option<T> {
        loop {
            // Looked at before the queue: what a sender sent before it went is in there.
            let is_over = self.0.senders.load(Ordering::Acquire) == 0;
            if let Some(value) = self.next() {
                return Some(value);
            }
            if is_over {
                return None;
            }
            self.0.arrived.notified().await;
        }
    }

    /// The next value, if one is there.
    #[expect(clippy::should_implement_trait, reason = "it goes on after a `None`")]
    pub fn next(&mut self) -> Option<T> {
        let mut guard = self.0.queue();
        let queue = guard.as_mut()?;
        let value = queue.pop_front();
        if queue.is_empty() && queue.capacity() > KEPT {
            queue.shrink_to(0);
        }
        value
    }

    /// How many values wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.queue().as_ref().map_or(0, VecDeque::len)
    }

    /// Whether none does.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Drop for Inbox<T> {
    fn drop(&mut self) {
        let left = self.0.queue().take();
        // Outside the lock: what is dropped may send.
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn all_that_is_sent_from_two_threads_is_received_in_its_order() {
        const COUNT: u64 = 20_000;
        let (sender, mut inbox) = inbox();
        for side in 0..2_usize {
            let sender = sender.clone();
            std::thread::spawn(move || (0..COUNT).for_each(|n| sender.send((side, n))));
        }
        drop(sender);
        let mut next: [u64; 2] = [0, 0];
        loop {
            // Given up whenever nothing is there at once: nothing is lost by it.
            match timeout(Duration::ZERO, inbox.recv()).await {
                Ok(Some((side, n))) => {
                    assert_eq!(n, next[side]);
                    next[side] += 1;
                }
                Ok(None) => break,
                Err(_) => tokio::task::yield_now().await,
            }
        }
        assert_eq!(next, [COUNT, COUNT]);
        assert!(inbox.is_empty() && inbox.0.queue().as_ref().unwrap().capacity() <= KEPT);
    }

    #[tokio::test]
    async fn a_recv_that_was_given_up_takes_nothing_away() {
        let (sender, mut inbox) = inbox();
        for n in 0..3 {
            assert!(timeout(Duration::from_millis(1), inbox.recv()).await.is_err());
            sender.send(n);
            assert_eq!(inbox.recv().await, Some(n));
        }
        drop(sender);
        assert_eq!(inbox.recv().await, None);
    }

    #[test]
    fn what_nobody_receives_is_dropped() {
        let (sender, inbox) = inbox();
        let value = Arc::new(());
        sender.send(Arc::clone(&value));
        assert_eq!((inbox.len(), Arc::strong_count(&value)), (1, 2));
        drop(inbox);
        sender.send(Arc::clone(&value));
        assert_eq!(Arc::strong_count(&value), 1);
    }
}
