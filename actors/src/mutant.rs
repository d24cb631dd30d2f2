//! Mutant: rules broken on purpose, so that a simulation can show that it would notice.
//!
//! Never     there in a release: without debug assertions the question is the constant `false`, and nothing can plant one.
//!           Each thread has its own, so that runs beside each other stay whole.

/// A rule that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// A mailbox forgets after 0.3 s that it took a message.
    ForgetsMessages,
    /// A shard forgets which envelopes of another it has applied.
    LosesWatermark,
    /// A session repeats what is unanswered in the wrong order.
    RepeatsBackwards,
    /// Each fifth acknowledgement takes a device's cursor back.
    CursorGoesBack,
    /// Who led a shard goes on answering for it after another was elected.
    StaleLeaderServes,
    /// A session is sent twice its window.
    WindowOverrun,
    /// A device's older socket stays beside the newer.
    TwoSockets,
    /// What is old is decided by the clock of whoever leads, however far it jumps.
    ExpiresByLocalClock,
    /// A group takes posts from whoever writes.
    TakesFromAnybody,
    /// Who wrote to a group is told what the fastest member has.
    TicksOfTheFastest,
    /// A sender is told of the first delivery only.
    TicksStop,
    /// Posts to a large group that travel in one count as one.
    CountsPostsOnce,
    /// A post that was fetched is taken for the one after it.
    FetchesNext,
}

#[cfg(debug_assertions)]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Breaks a rule on this thread from now on, or mends it with `None`.
#[cfg(debug_assertions)]
pub fn plant(mutant: Option<Mutant>) {
    PLANTED.set(mutant);
}

/// Whether this rule is broken here.
#[cfg(debug_assertions)]
#[must_use]
pub(crate) fn is_planted(mutant: Mutant) -> bool {
    PLANTED.get() == Some(mutant)
}

/// No rule is broken in a release.
#[cfg(not(debug_assertions))]
#[must_use]
pub(crate) const fn is_planted(_: Mutant) -> bool {
    false
}
