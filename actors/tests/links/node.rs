//! A node as the tests run it: obeys commands on its standard input, and says what happens on its output.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actors::clock::monotonic;
use actors::cluster::{Class, Inbound, Links, LinksConfig, Refused, Timing};
use actors::ids::{BootId, NodeId, ShardId, Timestamp};
use actors::packet::{Beat, Packet};
use bytes::Bytes;

/// A packet for this shard makes whoever gets it panic.
const PANIC: ShardId = ShardId(666);

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "\n@{line}");
    let _ = out.flush();
}

#[derive(Default)]
struct Seen {
    next: u64,
    count: u64,
    out_of_order: u64,
}

struct Recorder {
    me: NodeId,
    boot: BootId,
    seen: Mutex<BTreeMap<(NodeId, ShardId), Seen>>,
}

impl Recorder {
    fn seen(&self) -> MutexGuard<'_, BTreeMap<(NodeId, ShardId), Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inbound for Recorder {
    fn packets(&self, from: NodeId, packets: Vec<Packet>) {
        let mut seen = self.seen();
        for packet in packets {
            match packet {
                Packet::Raft(PANIC, _) => panic!("asked to"),
                Packet::Raft(class, bytes) => {
                    let number = u64::from_le_bytes(bytes[..8].try_into().unwrap());
                    let seen = seen.entry((from, class)).or_default();
                    seen.out_of_order += u64::from(seen.count > 0 && number != seen.next);
                    seen.next = number + 1;
                    seen.count += 1;
                }
                Packet::Beat(beat) => assert_eq!(beat.wall, Timestamp(u64::from(from.0))),
                other => panic!("not sent here: {other:?}"),
            }
        }
    }

    fn up(&self, peer: NodeId, boot: BootId) {
        self.seen().retain(|(from, _), _| *from != peer);
        say(&format!("up {peer} {boot}"));
    }

    fn down(&self, peer: NodeId) {
        say(&format!("down {peer}"));
    }

    fn beat(&self) -> Beat {
        Beat {
            boot: self.boot,
            wall: Timestamp(u64::from(self.me.0)),
            leads: Vec::new(),
            sessions: 0,
            version: "test".into(),
            draining: false,
            pid: 0,
            health: Vec::new(),
        }
    }
}

/// `me;boot;cluster;cookie;listen;2=host:port,3=host:port`
pub(crate) fn run(role: &str) {
    let parts: Vec<&str> = role.split(';').collect();
    let me = NodeId(parts[0].parse().unwrap());
    let boot = BootId(parts[1].parse().unwrap());
    let peer = |text: &str| {
        let (node, address) = text.split_once('=').unwrap();
        (NodeId(node.parse().unwrap()), address.to_owned())
    };
    let config = LinksConfig {
        me,
        boot,
        cluster: parts[2].to_owned(),
        cookie: parts[3].to_owned(),
        listener: TcpListener::bind(parts[4]).unwrap(),
        peers: parts[5].split(',').filter(|p| !p.is_empty()).map(peer).collect(),
        timing: Timing::default(),
    };
    let recorder = Arc::new(Recorder { me, boot, seen: Mutex::default() });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let links = runtime.block_on(Links::start(config, recorder.clone(), None)).unwrap();
    say("started");
    let mut numbers = BTreeMap::new();
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let answer = obey(&words, &links, &recorder, &mut numbers, &runtime);
        say(&answer);
    }
    runtime.block_on(links.stop());
}

type Numbers = BTreeMap<(NodeId, usize), u64>;

fn obey(
    words: &[&str],
    links: &Links,
    recorder: &Recorder,
    numbers: &mut Numbers,
    runtime: &tokio::runtime::Runtime,
) -> String {
    let number = |at: usize| words[at].parse::<u64>().unwrap();
    let node = |at: usize| NodeId(words[at].parse().unwrap());
    match words[0] {
        "send" => {
            let (count, bytes) = (number(2), usize::try_from(number(3)).unwrap());
            let class = usize::try_from(number(4)).unwrap();
            let pump = pump(links, numbers, node(1), (count, bytes, class));
            let (sent, refused) = runtime.block_on(pump);
            let next = numbers[&(node(1), class)];
            format!("sent {sent} {refused} {next}")
        }
        "flood" => flood(links, node(1), Duration::from_millis(number(2))),
        "panic" => {
            let sent = links.send(node(1), Class::Normal, [Packet::Raft(PANIC, Bytes::new())]);
            format!("panic {sent:?}")
        }
        "report" => {
            let seen = recorder.seen();
            let class = ShardId(words[2].parse().unwrap());
            let seen = seen.get(&(node(1), class));
            let (count, bad, next) =
                seen.map_or((0, 0, 0), |seen| (seen.count, seen.out_of_order, seen.next));
            format!("report {count} {bad} {next}")
        }
        "kill" => {
            let mut actors = ractor::registry::pid_registry::get_all_pids();
            // Whoever has no supervisor is the root, whose death would be the node's.
            actors.retain(|actor| actor.try_get_supervisor().is_some());
            actors.sort_by_key(|actor| actor.get_id().pid());
            actors[0].kill();
            format!("killed {}", actors.len())
        }
        "status" => {
            let peers = links.status();
            let ups = peers.iter().filter(|peer| peer.up).count();
            let reaped: u64 = peers.iter().map(|peer| peer.reaped).sum();
            let queued: u64 = peers.iter().map(|peer| peer.bytes_queued).sum();
            let rtt = peers.iter().filter_map(|peer| peer.rtt).max();
            let frames: u64 = peers.iter().map(|peer| peer.frames_out).sum();
            let rtt = rtt.unwrap_or_default().as_micros();
            let (refused, unready) = (links.refused(), links.unready());
            format!("status {ups} {reaped} {queued} {refused} {unready} {rtt} {frames}")
        }
        "usage" => format!("usage {} {} {}", resident_kib(), cpu_ms(), descriptors()),
        other => panic!("{other}?"),
    }
}

async fn pump(
    links: &Links,
    numbers: &mut Numbers,
    to: NodeId,
    (count, bytes, class): (u64, usize, usize),
) -> (u64, u64) {
    let number = numbers.entry((to, class)).or_default();
    let mut refused = 0;
    for sent in 0..count {
        let mut body = number.to_le_bytes().to_vec();
        body.resize(bytes.max(8), 0x5a);
        let shard = ShardId(u16::try_from(class).unwrap());
        let packet = [Packet::Raft(shard, Bytes::from(body))];
        loop {
            match links.send(to, Class::ALL[class], &packet) {
                Ok(()) => break,
                Err(Refused::NoCredit) => {
                    refused += 1;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Err(_) => return (sent, refused),
            }
        }
        *number += 1;
    }
    (count, refused)
}

fn flood(links: &Links, to: NodeId, time: Duration) -> String {
    let until = monotonic() + time;
    let body = Bytes::from(vec![0; 1_000]);
    let (mut sent, mut no_credit, mut down) = (0, 0, 0);
    while monotonic() < until {
        match links.send(to, Class::Normal, [Packet::Raft(ShardId(9), body.clone())]) {
            Ok(()) => sent += 1,
            Err(Refused::NoCredit) => no_credit += 1,
            Err(_) => down += 1,
        }
    }
    format!("flooded {sent} {no_credit} {down}")
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.unwrap().parse().unwrap()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn cpu_ms() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().map(|at| fields[*at].parse::<u64>().unwrap()).sum();
    ticks * 10
}
