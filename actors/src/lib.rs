//! The chat itself: actors, mailboxes, agreement and storage. It has never heard of HTTP, WebSocket or JSON.
//!
//! # Who watches whom
//!
//! ```text
//! Root                         tells the process to stop when one of these fails for good      (node)
//! ├─ Registrar                 agrees with other nodes which life of this node its disk is of  (birth)
//! ├─ Lane, one per thread      drives its share of the shards: Raft, journal, state, homes     (shard::lane)
//! │   ├─ Mailboxes             supervises ─► Mailbox(user): admission, merging of cursors      (mailbox)
//! │   │                          started on demand where the shard leads, passivated when idle
//! │   └─ Users                 supervises ─► User(user): sessions, windows, paging             (user)
//! │                              while somebody is connected; rests while nothing happens to them
//! └─ Links                     node server, router actor, door, and one Link per peer          (cluster)
//! ```
//! Sockets are lean tasks, watched by the `Sessions` actor of the node that has them; what a session *decides* is here
//! ([`session`]). Journal and checkpoints have threads of their own ([`store`]): nothing here waits for a disk.
//!
//! A failed `Mailbox` or `User` loses only what can be had again: state is the shard's, sessions attach again, sends are
//! repeated under their `cid`. Too many failures fail their supervisor, and too many of those the lane.
//!
//! A failed lane ends the process, as do failed links: what was acknowledged is on disk here and on a majority, the other
//! nodes elect new leaders, and whoever runs the node starts it again ([`node`]). Why not in place: journal and
//! checkpoints are read back only at a start, and what a lane's threads still have in hand would meet its successor.
//!
//! # When a disk is lost
//!
//! Every data directory has a birth, and each birth of a node an incarnation that the nodes agreed on; a replica's id in
//! Raft is node and incarnation. A directory without an incarnation takes part in nothing ([`birth`]). When a node comes
//! back with another birth, or sets a damaged journal aside ([`store`]), it gets the next incarnation, and the leader of
//! each of its shards removes the old replica, adds the new one as a learner and gives it its vote when it has caught up
//! ([`shard::replica::members`]). So nobody ever votes for what a lost disk had promised.
//!
//! # When a group is large
//!
//! A group has a mailbox, whose log is the one order of its posts. Members' mailboxes have copies while it is small; of a
//! large one they only have the places, and the posts are put in when somebody is told ([`group`], [`shard::posts`]).
//!
//! # Rooms, upper before lower
//!
//! | room | job |
//! |---|---|
//! | [`node`] | starts the parts in order and stops them in reverse |
//! | [`router`] | knows who leads each shard and how to reach them; hands sessions what is for them |
//! | [`session`] | one client's side: order across failures, gapless numbers, parking (pure) |
//! | [`shard`] | one Raft group: log, state machine, outbox, and the leader's side, the home |
//! | [`mailbox`] | what a user has not fetched yet: log, ledger, own `cid`s, devices, whom they block, expiry; a group has one, too |
//! | [`group`] | who is in a group, who may do what, and how far everyone has got (pure) |
//! | [`user`] | hands a connected user's log to their sessions; who watches whom (pure) |
//! | [`birth`] | which birth of each node counts, so that a lost disk is never taken for the one that was |
//! | [`store`] | raft-engine journal, checkpoints in sled and a value log, identity and births of a data directory |
//! | [`cluster`] | links between nodes over ractor_cluster |
//! | [`placement`], [`restart`] | which nodes keep a shard; how often a child may die |
//! | `fuzzing` | runs all that reads a peer's or a disk's bytes, for `fuzz/` and its twin among the tests |
//! | [`mutant`] | rules broken on purpose, to show that the simulation notices; not in a release |
//! | [`packet`], [`message`], [`codec`], [`clock`], [`ids`], [`inbox`] | leaves: what nodes and users say, bytes, time, names, what is on its way to a session |
//!
//! # What is deliberately absent
//!
//! - No file called `rules.rs`, nor `replica`, `state`, `home`, `outbox` or `post`, reads a clock, draws chance or waits: the
//!   same code runs in the simulation, whole clusters in one thread from one seed.
//! - No key per message: entries lie in runs of about 16 KiB.
//! - No consensus of our own: Raft is the `raft` crate's.
//! - No remote actor but one router per node: users and mailboxes are local types.

pub mod birth;
pub mod clock;
pub mod cluster;
pub mod codec;
#[doc(hidden)]
pub mod fuzzing;
pub mod group;
pub mod ids;
pub mod inbox;
pub mod mailbox;
pub mod message;
pub mod mutant;
pub mod node;
pub mod packet;
pub mod placement;
pub mod restart;
pub mod router;
pub mod session;
pub mod shard;
pub mod store;
pub mod user;
