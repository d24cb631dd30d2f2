//! Own: what a mailbox remembers of its owner's own messages, tested.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{BIRTH, Bench, DAY, message, user};
use crate::ids::{Conversation, MessageId, Seq};
use crate::mailbox::image::{self, Opening, Stored};
use crate::message::{CidUse, Send};
use crate::packet::Enclosed;

/// The copy of a message of the owner's own.
pub(super) fn copied(to: &str, cid: &str) -> Enclosed {
    let Send { device, cid, content, .. } = message("bob", cid, "hi");
    let conv = Conversation::User(user(to));
    Enclosed::Sent { mid: MessageId(1), conv, seq: Seq(1), at: BIRTH, cid, device, content }
}

pub(super) fn used(to: &str, cid: &str) -> CidUse {
    Send { to: Conversation::User(user(to)), ..message("bob", cid, "hi") }.cid_use()
}

/// Three runs of ids, of which the first expires in part, then whole: with a history of 0 days nothing else has them.
#[test]
fn own_ids_outlive_the_log_and_checkpoints() {
    let mut bench = Bench::new(0);
    bench.connect("phone").unwrap();
    let (mut stored, mut disk) = (Stored::default(), BTreeMap::new());
    let copy = |bench: &mut Bench, to, n: u32| {
        let what = copied(to, &format!("c{n}"));
        bench.mailbox.receive(what, bench.now(), &mut Vec::new());
    };
    for n in 0..2_500 {
        copy(&mut bench, "alice", n);
        bench.pass(Duration::from_secs(60));
    }
    bench.ack("phone", 2_500);
    bench.expire();
    assert_eq!(bench.low(), 2_500, "no history");
    let mut checkpoint = |bench: &mut Bench| {
        let changes = image::save(&mut bench.mailbox, &mut stored);
        changes.deletes.iter().for_each(|key| drop(disk.remove(key).unwrap()));
        disk.extend(changes.puts);
        let at = |keys: Vec<Vec<u8>>| keys.iter().map(|key| disk[key].clone()).collect::<Vec<_>>();
        let chunks = at(image::head_keys(&user("bob"), stored.chunks()));
        let opening = Opening::new(user("bob"), &chunks).unwrap();
        let runs = at(opening.keys());
        assert_eq!(chunks.len() + runs.len(), disk.len(), "nothing else is left");
        let (mailbox, read) = opening.finish(&runs).unwrap();
        assert_eq!((&mailbox, &read), (&bench.mailbox, &stored));
        (bench.mailbox, stored) = (mailbox, read);
        runs.len()
    };
    assert!(checkpoint(&mut bench) >= 3);
    // Of one id that two messages got at the same time, the first counts.
    copy(&mut bench, "carol", 2_000);
    for n in [0, 2_000, 2_499] {
        let [alice, carol] = ["alice", "carol"].map(|to| used(to, &format!("c{n}")));
        let cids = bench.mailbox.cids();
        let clash = |cid| cids.clash(cid, bench.now());
        assert_eq!((clash(alice), clash(carol)), (false, true), "c{n}");
    }
    let clash = |bench: &Bench, n: u32| {
        bench.mailbox.cids().clash(used("carol", &format!("c{n}")), bench.now())
    };
    assert!(!clash(&bench, 2_500));
    assert_eq!(bench.mailbox.cids().short(2_499), None, "too many to tell");
    bench.clock = BIRTH.after(30 * DAY).after(Duration::from_secs(60 * 100));
    for _ in 0..2 {
        assert_eq!((clash(&bench, 100), clash(&bench, 101)), (false, true), "free after 30 days");
        bench.expire();
        checkpoint(&mut bench);
    }
    // Who took a message with one of these ids again had forgotten the first; now the second counts.
    copy(&mut bench, "carol", 50);
    copy(&mut bench, "alice", 101);
    bench.pass(Duration::from_secs(60 * 10));
    bench.expire();
    assert_eq!((clash(&bench, 50), clash(&bench, 101), clash(&bench, 105)), (false, true, false));
    bench.pass(40 * DAY);
    bench.expire();
    assert_eq!((checkpoint(&mut bench), bench.mailbox.cids().short(0)), (0, Some(Vec::new())));
}
