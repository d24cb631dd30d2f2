//! Links between real processes: order, crashes, freezes, strangers and floods.
//!
//! A node is a process, since the transport's registries are: each test runs its own binary again, once per node, and
//! speaks with it in lines over its standard input and output.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actors::clock::monotonic;
use actors::cluster::{Class, Inbound, Links, LinksConfig, Refused, Timing};
use actors::ids::{BootId, NodeId, ShardId, Timestamp};
use actors::packet::{Beat, Packet};
use bytes::Bytes;

const PATIENCE: Duration = Duration::from_secs(20);
const ROLE: &str = "ROOKERY_LINKS_TEST";
/// A packet for this shard makes whoever gets it panic.
const PANIC: ShardId = ShardId(666);

// ---------------------------------------------------------------------------------------------------- the child

/// Runs a node when this binary was started by `Node::start`; otherwise there is nothing to test here.
#[test]
fn child() {
    if let Ok(role) = std::env::var(ROLE) {
        node(&role);
    }
}

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
        }
    }
}

/// `me;boot;cluster;cookie;listen;2=host:port,3=host:port`
fn node(role: &str) {
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
            format!("sent {sent} {refused}")
        }
        "flood" => flood(links, node(1), Duration::from_millis(number(2))),
        "panic" => {
            let sent = links.send(node(1), Class::Normal, [Packet::Raft(PANIC, Bytes::new())]);
            format!("panic {sent:?}")
        }
        "report" => {
            let seen = recorder.seen();
            let class = ShardId(words[2].parse().unwrap());
            let (count, bad) =
                seen.get(&(node(1), class)).map_or((0, 0), |seen| (seen.count, seen.out_of_order));
            format!("report {count} {bad}")
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
        "usage" => format!("usage {} {}", resident_kib(), cpu_ms()),
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

fn cpu_ms() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().map(|at| fields[*at].parse::<u64>().unwrap()).sum();
    ticks * 10
}

// --------------------------------------------------------------------------------------------------- the parent

/// One test at a time: they measure time, and the machine is small.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A node as its own process; killed when dropped.
struct Node {
    me: u16,
    process: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    events: Vec<String>,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Node {
    fn start(cluster: &Cluster, me: u16, boot: u64) -> Self {
        Self::start_as(cluster, me, boot, "rookery", "cookie")
    }

    fn start_as(ports: &Cluster, me: u16, boot: u64, cluster: &str, cookie: &str) -> Self {
        let peers = ports.0.iter().filter(|(node, _)| **node != me);
        let peers: Vec<_> = peers.map(|(node, port)| format!("{node}=127.0.0.1:{port}")).collect();
        let listen = ports.0[&me];
        let peers = peers.join(",");
        let role = format!("{me};{boot};{cluster};{cookie};127.0.0.1:{listen};{peers}");
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = process.stdin.take();
        let output = process.stdout.take().unwrap();
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let told = line.strip_prefix('@').map(|line| send.send(line.to_owned()));
                if matches!(told, Some(Err(_))) {
                    return;
                }
            }
        });
        let mut node = Self { me, process, input, lines, events: Vec::new() };
        node.wait("started", PATIENCE);
        node
    }

    fn tell(&mut self, command: &str) {
        writeln!(self.input.as_mut().unwrap(), "{command}").unwrap();
    }

    /// Gives a command and waits for its answer, which begins with `word`.
    fn ask(&mut self, command: &str, word: &str) -> Vec<u64> {
        self.tell(command);
        let answer = self.wait(word, PATIENCE);
        let numbers = answer.split(' ').skip(1);
        numbers.filter_map(|number| number.parse().ok()).collect()
    }

    /// Waits for a line that begins with `start`, among those heard and not yet waited for.
    fn wait(&mut self, start: &str, patience: Duration) -> String {
        let until = monotonic() + patience;
        loop {
            if let Some(at) = self.events.iter().position(|line| line.starts_with(start)) {
                return self.events.remove(at);
            }
            let left = until.saturating_duration_since(monotonic());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.events.push(line),
                Err(why) => panic!("node {}: no `{start}`: {why}; {:?}", self.me, self.events),
            }
        }
    }

    /// Takes in what comes for a while, so that a loop of questions is not a busy one.
    fn breathe(&mut self) {
        match self.lines.recv_timeout(Duration::from_millis(20)) {
            Ok(line) => self.events.push(line),
            Err(RecvTimeoutError::Timeout) => {}
            Err(gone) => panic!("node {}: {gone}", self.me),
        }
    }

    /// Waits until this node has got `count` packets of a class in order.
    fn wait_received(&mut self, from: u16, class: u16, count: u64) {
        let until = monotonic() + PATIENCE;
        loop {
            let report = self.ask(&format!("report {from} {class}"), "report");
            assert_eq!(report[1], 0, "out of order at node {}", self.me);
            if report[0] == count {
                return;
            }
            assert!(monotonic() < until, "{} of {count} packets", report[0]);
            self.breathe();
        }
    }

    /// Waits until a field of the status has the wanted value.
    fn wait_status(&mut self, field: usize, wanted: impl Fn(u64) -> bool) -> u64 {
        let until = monotonic() + PATIENCE;
        loop {
            let status = self.ask("status", "status");
            if wanted(status[field]) {
                return status[field];
            }
            assert!(monotonic() < until, "status {status:?}");
            self.breathe();
        }
    }

    fn signal(&self, signal: &str) {
        let pid = self.process.id().to_string();
        let done = Command::new("kill").args([signal, &pid]).status().unwrap();
        assert!(done.success());
    }

    fn forget(&mut self) {
        while let Ok(line) = self.lines.try_recv() {
            self.events.push(line);
        }
        self.events.clear();
    }
}

const UPS: usize = 0;
const REAPED: usize = 1;
const QUEUED: usize = 2;
const REFUSED: usize = 3;
const UNREADY: usize = 4;

/// The ports of the nodes.
struct Cluster(BTreeMap<u16, u16>);

impl Cluster {
    fn of(nodes: u16) -> Self {
        let listeners: Vec<_> =
            (0..nodes).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports = listeners.iter().map(|l| l.local_addr().unwrap().port());
        Self((1..=nodes).zip(ports).collect())
    }

    fn started(&self) -> Vec<Node> {
        let boots = self.0.keys().map(|node| (*node, u64::from(*node) * 1_000));
        let mut nodes: Vec<_> = boots.map(|(node, boot)| Node::start(self, node, boot)).collect();
        let others = nodes.len() as u64 - 1;
        for node in &mut nodes {
            node.wait_status(UPS, |up| up == others);
        }
        nodes
    }
}

fn since(then: Instant) -> Duration {
    monotonic().saturating_duration_since(then)
}

#[test]
fn packets_flow_both_ways_in_order() {
    let _alone = alone();
    let cluster = Cluster::of(3);
    let mut nodes = cluster.started();
    for node in &mut nodes {
        node.wait_status(UNREADY, |unready| unready == 0);
    }
    for (from, to) in [(0, 2_u16), (1, 1), (2, 1), (0, 3)] {
        nodes[from].tell(&format!("send {to} 20000 250 1"));
        nodes[from].tell(&format!("send {to} 200 20 0"));
        nodes[from].tell(&format!("send {to} 30 1000000 2"));
    }
    for (from, to) in [(1_u16, 2_usize), (2, 1), (3, 1), (1, 3)] {
        nodes[to - 1].wait_received(from, 1, 20_000);
        nodes[to - 1].wait_received(from, 0, 200);
        nodes[to - 1].wait_received(from, 2, 30);
    }
    for node in &mut nodes {
        node.wait_status(QUEUED, |queued| queued == 0);
        assert_eq!(node.ask("status", "status")[REAPED], 0);
    }
}

#[test]
fn a_killed_peer_is_noticed_at_once_and_back_soon_after_its_restart() {
    let _alone = alone();
    let cluster = Cluster::of(2);
    let mut nodes = cluster.started();
    for round in 0..5_u64 {
        nodes[0].forget();
        let killed = monotonic();
        drop(nodes.pop());
        nodes[0].wait("down 2", PATIENCE);
        assert!(since(killed) < Duration::from_secs(2), "{:?}", since(killed));
        let started = monotonic();
        nodes.push(Node::start(&cluster, 2, 77 + round));
        nodes[0].wait(&format!("up 2 {}", 77 + round), PATIENCE);
        assert!(since(started) < Duration::from_secs(3), "{:?}", since(started));
        nodes[1].wait_status(UPS, |up| up == 1);
        nodes[0].tell("send 2 100 250 1");
        nodes[1].tell("send 1 100 250 1");
        nodes[0].wait_received(2, 1, 100);
        nodes[1].wait_received(1, 1, 100);
    }
}

#[test]
fn a_frozen_peer_is_given_up_in_a_second_and_costs_no_memory() {
    let _alone = alone();
    let cluster = Cluster::of(2);
    let mut nodes = cluster.started();
    for _ in 0..3 {
        nodes[0].forget();
        let before = nodes[0].ask("usage", "usage")[0];
        let frozen = monotonic();
        nodes[1].signal("-STOP");
        nodes[0].tell("flood 2 3000");
        nodes[0].wait("down 2", PATIENCE);
        assert!(since(frozen) < Duration::from_millis(2_500), "{:?}", since(frozen));
        let flooded = nodes[0].wait("flooded", PATIENCE);
        let counts: Vec<u64> = flooded.split(' ').skip(1).map(|n| n.parse().unwrap()).collect();
        assert!(counts[1] > 0, "refused for want of credit: {flooded}");
        assert!(counts[2] > 0, "refused for want of a link: {flooded}");
        let after = nodes[0].ask("usage", "usage")[0];
        assert!(after < before + 64 * 1024, "{before} KiB grew to {after} KiB");
        let thawed = monotonic();
        nodes[1].signal("-CONT");
        nodes[0].wait("up 2", PATIENCE);
        assert!(since(thawed) < Duration::from_secs(3), "{:?}", since(thawed));
        nodes[1].wait_status(UPS, |up| up == 1);
        nodes[0].wait_status(UPS, |up| up == 1);
        nodes[0].tell("send 2 100 250 1");
        nodes[1].wait_received(1, 1, 100);
    }
}

#[test]
fn garbage_and_silence_on_the_port_hurt_nobody() {
    let _alone = alone();
    let cluster = Cluster::of(2);
    let mut nodes = cluster.started();
    let before = nodes[0].ask("usage", "usage")[0];
    let port = cluster.0[&1];
    let mut strangers = Vec::new();
    for round in 0..300_u32 {
        let mut stranger = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let bytes: Vec<u8> = match round % 4 {
            // Silence, noise, the start of a frame far too long, the start of one just short enough.
            0 => Vec::new(),
            1 => (0..5_000_u32).map(|n| (n * (round + 7) % 251) as u8).collect(),
            2 => u64::MAX.to_be_bytes().to_vec(),
            _ => [&(250_000_u64).to_be_bytes()[..], &[1; 100_000]].concat(),
        };
        // It may have been closed already.
        let _ = stranger.write_all(&bytes);
        strangers.push(stranger);
    }
    nodes[0].wait_status(UNREADY, |unready| unready == 0);
    let after = nodes[0].ask("usage", "usage")[0];
    assert!(after < before + 16 * 1024, "{before} KiB grew to {after} KiB");
    nodes[0].tell("send 2 1000 250 1");
    nodes[1].tell("send 1 1000 250 1");
    nodes[0].wait_received(2, 1, 1_000);
    nodes[1].wait_received(1, 1, 1_000);
    assert_eq!(nodes[0].ask("status", "status")[REAPED], 0);
    drop(strangers);
}

#[test]
fn a_wrong_cookie_or_cluster_is_refused() {
    let _alone = alone();
    let cluster = Cluster::of(3);
    let mut first = Node::start(&cluster, 1, 5);
    let mut wrong = Node::start_as(&cluster, 2, 6, "rookery", "wrong");
    let mut other = Node::start_as(&cluster, 3, 7, "another", "cookie");
    first.wait_status(REFUSED, |refused| refused > 3);
    for node in [&mut first, &mut wrong, &mut other] {
        assert_eq!(node.ask("status", "status")[UPS], 0);
        assert!(!node.events.iter().any(|event| event.starts_with("up")));
    }
    drop(wrong);
    let mut right = Node::start(&cluster, 2, 8);
    first.wait("up 2 8", PATIENCE);
    right.wait("up 1 5", PATIENCE);
}

#[test]
fn a_panic_in_a_link_is_contained_and_healed() {
    let _alone = alone();
    let cluster = Cluster::of(3);
    let mut nodes = cluster.started();
    for node in &mut nodes {
        node.forget();
    }
    for _ in 0..3 {
        nodes[0].tell("panic 2");
        nodes[1].wait("down 1", PATIENCE);
        nodes[1].wait("up 1", PATIENCE);
        nodes[0].wait("down 2", PATIENCE);
        nodes[0].wait("up 2", PATIENCE);
        nodes[0].wait_status(UPS, |up| up == 2);
        nodes[0].tell("send 2 100 250 1");
        nodes[1].wait_received(1, 1, 100);
    }
    assert!(!nodes[2].events.iter().any(|event| event.starts_with("down")));
}

/// Prints what a packet costs; only when `ROOKERY_FIGURES` is set, since it takes a while and asserts nothing.
#[test]
fn figures() {
    if std::env::var_os("ROOKERY_FIGURES").is_none() {
        return;
    }
    let _alone = alone();
    let cluster = Cluster::of(3);
    let mut nodes = cluster.started();
    let count = 2_000_000_u64;
    let usage = |nodes: &mut Vec<Node>| -> Vec<u64> {
        nodes.iter_mut().map(|n| n.ask("usage", "usage")[1]).collect()
    };
    let frames = nodes[0].ask("status", "status")[6];
    let (then, before) = (monotonic(), usage(&mut nodes));
    nodes[0].tell(&format!("send 2 {count} 250 1"));
    nodes[1].wait_received(1, 1, count);
    let (took, after) = (since(then), usage(&mut nodes));
    let frames = nodes[0].ask("status", "status")[6] - frames;
    let each = |node: usize| (after[node] - before[node]) as f64 * 1_000.0 / count as f64;
    let rate = count as f64 / took.as_secs_f64();
    let mut out = std::io::stdout().lock();
    let packed = count / frames.max(1);
    writeln!(out, "250 B: {rate:.0}/s, {packed} a frame").unwrap();
    writeln!(out, "CPU each: {:.2} us to send, {:.2} us to receive", each(0), each(1)).unwrap();
    nodes[0].wait_status(QUEUED, |queued| queued == 0);
    let (then, before) = (monotonic(), usage(&mut nodes));
    while since(then) < Duration::from_secs(10) {
        nodes[0].breathe();
    }
    let (took, after) = (since(then), usage(&mut nodes));
    let rtt = nodes[0].ask("status", "status")[5];
    for node in 0..nodes.len() {
        let share = (after[node] - before[node]) as f64 / took.as_secs_f64() / 10.0;
        writeln!(out, "idle node {}: {share:.2} % of a core", node + 1).unwrap();
    }
    writeln!(out, "round trip {rtt} us").unwrap();
}
