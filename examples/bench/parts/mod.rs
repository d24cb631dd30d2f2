//! Parts: what can be measured, each by itself.

mod compare;
mod crowd;
mod failures;
mod floors;
mod talk;

use clap::ValueEnum;

use crate::Stage;
use crate::figures::{Found, short};
pub(crate) use compare::talk;

/// So many connected users are measured, and each is a file.
pub(crate) const FILES_WANTED: u64 = 15_000 + 512;

/// One part.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Messages a second against messages outstanding, on three nodes and on one.
    Throughput,
    /// Latency against the rate of an open loop, up to saturation and beyond.
    Latency,
    /// Store for those who are away, then let them drain.
    Offline,
    /// Groups of 10, 100 and 1,000 members.
    Groups,
    /// Processor time per message with 100 and with 15,000 connected users.
    Cpu,
    /// Memory and processor time of idle users, and of a cluster without any.
    Idle,
    /// Logins, and 10,000 clients that are dropped at once and come back.
    Storm,
    /// A node is killed under load.
    Failover,
    /// The same talk over an installed ejabberd, side by side.
    Compare,
    /// What the machine can do at best: echoes and flushes.
    Floors,
}

impl Part {
    /// In the order in which they are measured.
    pub(crate) const ALL: [Self; 10] = [
        Self::Throughput,
        Self::Latency,
        Self::Offline,
        Self::Groups,
        Self::Cpu,
        Self::Idle,
        Self::Storm,
        Self::Failover,
        Self::Compare,
        Self::Floors,
    ];

    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Throughput => "Throughput",
            Self::Latency => "Latency and overload",
            Self::Offline => "Store and drain",
            Self::Groups => "Groups",
            Self::Cpu => "Processor time per message",
            Self::Idle => "Idle users",
            Self::Storm => "Logins and reconnect storm",
            Self::Failover => "A node dies",
            Self::Compare => "Beside ejabberd",
            Self::Floors => "Floors",
        }
    }

    /// What exactly is counted.
    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::Throughput => {
                "50 pairs; each sender keeps so many messages of 160 bytes unanswered. A message counts when it has its\n\
                 check mark (three flushed copies, or one), was delivered, acknowledged, and its receipt has come back."
            }
            Self::Latency => {
                "50 pairs, sends due at fixed moments; latency counts from there until delivered, so a cluster that falls\n\
                 behind cannot hide it. *Check marks* are those that came in the measured time; *put off* are refusals\n\
                 with `retry: true`, which the clients repeat. Everything sent must arrive once and in order all the same."
            }
            Self::Offline => {
                "50 receivers are away while 50 senders keep 64 messages unanswered each; then all receivers come back at once."
            }
            Self::Groups => {
                "*Busy*: eight members post, eight messages unanswered each, all others listen. *Calm*: one posts ten times a\n\
                 second. Each member must see each post once and in the one order."
            }
            Self::Cpu => {
                "User and system time of all nodes for each message at a fixed rate, 50 pairs; first nobody else is connected,\n\
                 then so many that there are 15,000 users. What those cost who are idle is measured just before, and taken off in\n\
                 the second figure."
            }
            Self::Idle => {
                "Resident memory of all three nodes together, some seconds after so many users have come who only send heartbeats\n\
                 (each five seconds), above that of the empty cluster; PSS counts once what processes share. *Away*: those who\n\
                 came, and have gone. Processor time is user and system time of all three nodes, in per cent of one core."
            }
            Self::Storm => {
                "*Logins*: users whose tokens are known connect, 128 at a time, authenticate, resume, and are caught up. *Storm*:\n\
                 all are dropped at once and all dial at once."
            }
            Self::Failover => {
                "`kill -9` of the node that leads most shards, under a fixed rate of 50 pairs on three nodes. A gap is the longest\n\
                 time that a sender was without a check mark."
            }
            Self::Compare => {
                "The same 50 pairs × 8 over XMPP by WebSocket (RFC 7395) with receipts (XEP-0184), to a user's name and not to\n\
                 one of their resources. One ejabberd with one volatile copy of each message, no accounts and no archive, against\n\
                 three nodes with three flushed copies, and one with one. Each has the machine for itself, by turns."
            }
            Self::Floors => {
                "What no design can beat here: messages of 256 bytes over loopback, sent back as they come, client and server on\n\
                 one thread; and flushes of the disk that has the nodes' data."
            }
        }
    }

    pub(crate) async fn measure(self, stage: &Stage) -> anyhow::Result<Found> {
        match self {
            Self::Throughput => talk::throughput(stage).await,
            Self::Latency => talk::latency(stage).await,
            Self::Offline => talk::offline(stage).await,
            Self::Groups => talk::groups(stage).await,
            Self::Cpu => crowd::cpu(stage).await,
            Self::Idle => crowd::idle(stage).await,
            Self::Storm => failures::storm(stage).await,
            Self::Failover => failures::failover(stage).await,
            Self::Compare => compare::compare(stage).await,
            Self::Floors => floors::floors(stage).await,
        }
    }
}

/// Tells the figures as they come.
pub(crate) fn tell(found: &Found) {
    for figure in &found.figures {
        let met = match figure.goal {
            Some(goal) if goal.is_met(figure.median()) => " (goal met)",
            Some(_) => " (goal missed)",
            None => "",
        };
        eprintln!("    {}: {} {}{met}", figure.what, short(figure.median()), figure.unit);
    }
    for note in &found.notes {
        eprintln!("    {note}");
    }
}
