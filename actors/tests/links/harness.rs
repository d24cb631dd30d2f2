//! The tests' side of a node: a process of its own, killed when dropped, and a network that can be cut.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actors::clock::monotonic;

/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// The variable that makes this binary a node.
pub(crate) const ROLE: &str = "ROOKERY_LINKS_TEST";

/// One test at a time: they measure time, and the machine is small.
static ALONE: Mutex<()> = Mutex::new(());

pub(crate) fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A node as its own process; killed when dropped.
pub(crate) struct Node {
    me: u16,
    pub(crate) process: Child,
    pub(crate) input: Option<ChildStdin>,
    lines: Receiver<String>,
    pub(crate) events: Vec<String>,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Node {
    pub(crate) fn start(cluster: &Cluster, me: u16, boot: u64) -> Self {
        Self::start_as(cluster, me, boot, "rookery", "cookie")
    }

    /// Starts a node that reaches the others through a wire.
    pub(crate) fn start_wired(cluster: &Cluster, me: u16, boot: u64, wire: &Wire) -> Self {
        let mut seen = cluster.0.clone();
        for (node, port) in &mut seen {
            if *node != me {
                *port = wire.to(*port);
            }
        }
        Self::start(&Cluster(seen), me, boot)
    }

    pub(crate) fn start_as(
        ports: &Cluster,
        me: u16,
        boot: u64,
        cluster: &str,
        cookie: &str,
    ) -> Self {
        let peers = ports.0.iter().filter(|(node, _)| **node != me);
        let peers: Vec<_> = peers.map(|(node, port)| format!("{node}=127.0.0.1:{port}")).collect();
        let listen = ports.0[&me];
        let peers = peers.join(",");
        let role = format!("{me};{boot};{cluster};{cookie};127.0.0.1:{listen};{peers}");
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = process.stdin.take();
        let output = process.stdout.take().unwrap();
        let (send, lines) = channel();
        std::thread::spawn(move || {
            let told = BufReader::new(output).lines().map_while(Result::ok);
            let told = told.filter_map(|line| line.strip_prefix('@').map(str::to_owned));
            // Ends when the node does, or nobody listens any more.
            let _ = told.map(|line| send.send(line)).find(Result::is_err);
        });
        let mut node = Self { me, process, input, lines, events: Vec::new() };
        node.wait("started", PATIENCE);
        node
    }

    pub(crate) fn tell(&mut self, command: &str) {
        writeln!(self.input.as_mut().unwrap(), "{command}").unwrap();
    }

    /// Gives a command and waits for its answer, which begins with `word`.
    pub(crate) fn ask(&mut self, command: &str, word: &str) -> Vec<u64> {
        self.tell(command);
        let answer = self.wait(word, PATIENCE);
        let numbers = answer.split(' ').skip(1);
        numbers.filter_map(|number| number.parse().ok()).collect()
    }

    /// Waits for a line that begins with `start`, among those heard and not yet waited for.
    pub(crate) fn wait(&mut self, start: &str, patience: Duration) -> String {
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
    pub(crate) fn breathe(&mut self) {
        match self.lines.recv_timeout(Duration::from_millis(20)) {
            Ok(line) => self.events.push(line),
            Err(RecvTimeoutError::Timeout) => {}
            Err(gone) => panic!("node {}: {gone}", self.me),
        }
    }

    /// Waits until this node has got `count` packets of a class in order.
    pub(crate) fn wait_received(&mut self, from: u16, class: u16, count: u64) {
        assert!(self.receives(from, class, count, |_| false));
    }

    /// The same; answers `false` if it hears something that ends the wait.
    pub(crate) fn receives(
        &mut self,
        from: u16,
        class: u16,
        count: u64,
        ends: impl Fn(&str) -> bool,
    ) -> bool {
        let until = monotonic() + PATIENCE;
        loop {
            let report = self.ask(&format!("report {from} {class}"), "report");
            assert_eq!(report[1], 0, "out of order at node {}", self.me);
            if report[0] == count {
                return true;
            }
            if self.events.iter().any(|event| ends(event)) {
                return false;
            }
            assert!(monotonic() < until, "{} of {count} packets", report[0]);
            self.breathe();
        }
    }

    /// Waits until a field of the status has the wanted value.
    pub(crate) fn wait_status(&mut self, field: usize, wanted: impl Fn(u64) -> bool) -> u64 {
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

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.process.id().to_string();
        let done = Command::new("kill").args([signal, &pid]).status().unwrap();
        assert!(done.success());
    }

    pub(crate) fn forget(&mut self) {
        while let Ok(line) = self.lines.try_recv() {
            self.events.push(line);
        }
        self.events.clear();
    }
}

pub(crate) const UPS: usize = 0;
pub(crate) const REAPED: usize = 1;
pub(crate) const QUEUED: usize = 2;
pub(crate) const REFUSED: usize = 3;
pub(crate) const UNREADY: usize = 4;

/// The ports of the nodes.
pub(crate) struct Cluster(pub(crate) BTreeMap<u16, u16>);

impl Cluster {
    pub(crate) fn of(nodes: u16) -> Self {
        let listeners: Vec<_> =
            (0..nodes).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports = listeners.iter().map(|l| l.local_addr().unwrap().port());
        Self((1..=nodes).zip(ports).collect())
    }

    pub(crate) fn started(&self) -> Vec<Node> {
        let boots = self.0.keys().map(|node| (*node, u64::from(*node) * 1_000));
        let mut nodes: Vec<_> = boots.map(|(node, boot)| Node::start(self, node, boot)).collect();
        let others = nodes.len() as u64 - 1;
        for node in &mut nodes {
            node.wait_status(UPS, |up| up == others);
        }
        nodes
    }
}

/// A network in user space: what comes to a port goes to another, unless it is cut, and then it waits.
#[derive(Clone, Default)]
pub(crate) struct Wire(Arc<(Mutex<bool>, Condvar)>);

impl Wire {
    pub(crate) fn cut(&self, cut: bool) {
        let (state, changed) = &*self.0;
        *state.lock().unwrap_or_else(PoisonError::into_inner) = cut;
        changed.notify_all();
    }

    fn wait_whole(&self) {
        let (state, changed) = &*self.0;
        let mut cut = state.lock().unwrap_or_else(PoisonError::into_inner);
        while *cut {
            cut = changed.wait(cut).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A new port from which everything goes to `port`.
    fn to(&self, port: u16) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let entry = listener.local_addr().unwrap().port();
        let wire = self.clone();
        std::thread::spawn(move || {
            let arrivals = listener.incoming().map_while(Result::ok);
            arrivals.for_each(|near| wire.join(near, port));
        });
        entry
    }

    fn join(&self, near: TcpStream, port: u16) {
        if let Ok(far) = TcpStream::connect(("127.0.0.1", port)) {
            self.copy(near.try_clone().unwrap(), far.try_clone().unwrap());
            self.copy(far, near);
        }
    }

    fn copy(&self, mut from: TcpStream, mut to: TcpStream) {
        let wire = self.clone();
        std::thread::spawn(move || {
            let mut bytes = vec![0; 64 * 1024];
            while wire.carry(&mut from, &mut to, &mut bytes) {}
            // Both may be closed already.
            let _ = to.shutdown(Shutdown::Both);
            let _ = from.shutdown(Shutdown::Both);
        });
    }

    /// Carries what is there, once the wire is whole; answers whether there may be more.
    fn carry(&self, from: &mut TcpStream, to: &mut TcpStream, bytes: &mut [u8]) -> bool {
        let read = from.read(bytes).unwrap_or(0);
        self.wait_whole();
        read > 0 && to.write_all(&bytes[..read]).is_ok()
    }
}
