//! Fuzzing: runs whatever reads a peer's or a disk's bytes, for the targets in `fuzz/` and for `tests/fuzzing.rs`.
//!
//! Owns      nothing: each room says itself what it reads, and what it writes.
//! Promises  all that such bytes can reach is tried, behind checksums and lengths, too; what was read is dropped.
//! Never     is called by a node.
//! Fails by  panicking, or by taking more memory than the bytes are worth: that is what is looked for.

use bytes::Bytes;

use crate::cluster::frame::{self, Head, Hello, Kind, Packer, Rest};
use crate::cluster::rules::Class;
use crate::ids::{BootId, Conversation, NodeId, Number, SessionId, ShardId, Timestamp, UserId};
use crate::packet::{Ask, Beat, Enclosed, Envelope, Packet, Regard, ShardHealth, ToHome, Typing};
use crate::shard::lane::transfer;
use crate::shard::{state, wire};
use crate::{birth, codec, mailbox, store};

/// Reads bytes as a frame of a link, as a packet, and as all that packets carry; answers whether they were any of it.
#[must_use]
pub fn peers(bytes: &[u8]) -> bool {
    let (mut packets, mut known) = frame::fuzz(bytes);
    packets.extend(codec::decode::<Packet>(bytes));
    known |= !packets.is_empty();
    for packet in packets {
        let _known = match packet {
            Packet::Raft(_, bytes) => wire::fuzz(&bytes),
            Packet::Snapshot(_, bytes) => transfer::fuzz(&bytes),
            Packet::Birth(bytes) => birth::fuzz(&bytes),
            other => codec::encode(&other).is_empty(),
        };
    }
    let carried = [wire::fuzz(bytes), transfer::fuzz(bytes), birth::fuzz(bytes)];
    known || carried.contains(&true)
}

/// Reads bytes as any file or value of a data directory; answers whether they were one.
#[must_use]
pub fn stored(bytes: &[u8]) -> bool {
    let read = [store::fuzz(bytes), state::fuzz(bytes), mailbox::image::fuzz(bytes)];
    read.contains(&true)
}

/// What nodes say to each other, as they say it.
#[must_use]
pub fn peers_seeds() -> Vec<Vec<u8>> {
    let mut carried: Vec<Bytes> = transfer::seeds().into_iter().map(Bytes::from).collect();
    let mut packets: Vec<Packet> =
        carried.iter().map(|note| Packet::Snapshot(ShardId(3), note.clone())).collect();
    let messages = wire::seeds();
    packets.extend(messages.iter().map(|message| Packet::Raft(ShardId(3), message.clone())));
    let note = Bytes::from(birth::seed());
    packets.push(Packet::Birth(note.clone()));
    packets.extend(plain());
    carried.extend(messages);
    carried.push(note);
    let mut head = Head {
        kind: Kind::Hello,
        rest: Rest::Whole,
        from: NodeId(2),
        boot: BootId(2),
        life: 1,
        echo: 0,
        clock: 1,
        clock_echo: 0,
        taken: [0; 3],
    };
    let hello = Hello { cluster: "chat".into(), to: NodeId(1) };
    let mut seeds = vec![frame::bare(&head, Some(&hello))];
    head.kind = Kind::Packets(Class::Normal);
    let mut packer = Packer::default();
    for packet in &packets {
        let _short = packer.push(packet);
    }
    for mut frame in packer.take() {
        frame::stamp(&mut frame, &head);
        seeds.push(frame);
    }
    seeds.extend(packets.iter().map(codec::encode));
    seeds.extend(carried.iter().map(|bytes| bytes.to_vec()));
    seeds
}

/// Packets that carry nothing in an encoding of its own.
fn plain() -> Vec<Packet> {
    let shard = ShardId(3);
    let beat = Beat {
        boot: BootId(2),
        wall: Timestamp(1),
        leads: vec![(shard, 4)],
        sessions: 7,
        version: "0.1.0".into(),
        draining: false,
        pid: 9,
        health: vec![ShardHealth { shard, last: 9, replicas: vec![(NodeId(1), 9)] }],
    };
    let mut packets = vec![Packet::Beat(beat)];
    if let Ok(user) = UserId::parse("bob") {
        let session = SessionId { node: NodeId(2), boot: BootId(2), count: 1 };
        let ask = Ask::Acknowledge { life: 1, n: Number(5) };
        packets.push(Packet::Home(ToHome { shard, user: user.clone(), session, ask }));
        let ask = Ask::Regard(Regard::Watch { by: user.clone(), knows: Some(true) });
        packets.push(Packet::Home(ToHome { shard, user: user.clone(), session, ask }));
        let conv = Conversation::User(user.clone());
        let typing = Typing { conv, from: user.clone(), on: true, to: vec![user.clone()] };
        packets.push(Packet::Typing(Box::new(typing)));
        let (delivered, read) = Default::default();
        let what = Enclosed::Receipt { by: user.clone(), delivered, read };
        let left = Envelope { to: user.clone(), what: Enclosed::Left { by: user.clone() } };
        let envelopes = vec![Envelope { to: user, what }, left];
        packets.push(Packet::Envelopes { from: shard, to: ShardId(4), first: 1, envelopes });
    }
    packets
}

/// What a data directory holds, as it is written.
#[must_use]
pub fn stored_seeds() -> Vec<Vec<u8>> {
    let mut seeds = store::seeds();
    for (key, value) in mailbox::image::seeds() {
        seeds.extend([key, value]);
    }
    seeds.extend(state::seeds());
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_is_understood() {
        for (at, seed) in peers_seeds().iter().enumerate() {
            assert!(peers(seed), "peers, seed {at}");
        }
        for (at, seed) in stored_seeds().iter().enumerate() {
            assert!(stored(seed), "stored, seed {at}");
        }
        assert!(peers_seeds().len() >= 18 && stored_seeds().len() >= 10);
    }
}
