//! Promise: an operator types little, and is told plainly what happened.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};

use crate::harness::{Cluster, PATIENCE, ROOKERY, eventually, scratch, shared};
use crate::socket::Socket;
use crate::{ports, web};

/// A running `rookery dev`, killed when the test ends; its nodes then stop by themselves.
struct Dev {
    child: Child,
    said: mpsc::Receiver<String>,
    port: u16,
}

impl Dev {
    fn start(data: &Path, port: u16, more: &[&str]) -> Self {
        let mut child = dev_command(data, port, more)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (say, said) = mpsc::channel();
        listen(child.stdout.take().unwrap(), say.clone());
        listen(child.stderr.take().unwrap(), say);
        Self { child, said, port }
    }

    /// Waits for a line that has `word`, and returns it.
    fn says(&self, word: &str) -> String {
        let mut before = Vec::new();
        loop {
            match self.said.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(word) => return line,
                Ok(line) => before.push(line),
                Err(_) => panic!("`{word}` was not said, but:\n{}", before.join("\n")),
            }
        }
    }

    async fn view(&self) -> Value {
        let url = format!("http://127.0.0.1:{}/admin/cluster", self.port + 100);
        web::get(&url).await.expect("node a answers").body
    }

    async fn pids(&self) -> Vec<Pid> {
        let view = eventually("all nodes should be up", || async {
            let view = self.view().await;
            let nodes = view["nodes"].as_array().unwrap().clone();
            nodes.iter().all(|node| node["pid"].is_u64()).then_some(nodes)
        });
        view.await.iter().map(|node| pid(node["pid"].as_u64().unwrap())).collect()
    }

    async fn exit(&mut self) -> ExitStatus {
        eventually("dev should end", || {
            let ended = self.child.try_wait().unwrap();
            async move { ended }
        })
        .await
    }

    fn signal(&self, signal: Signal) {
        kill_process(pid(self.child.id().into()), signal).unwrap();
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn dev_command(data: &Path, port: u16, more: &[&str]) -> Command {
    let mut command = Command::new(ROOKERY);
    command.arg("dev").args(more).args(["--port", &port.to_string(), "--data"]).arg(data);
    command.stdin(Stdio::null());
    command
}

fn listen(from: impl Read + Send + 'static, say: mpsc::Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if say.send(line).is_err() {
                return;
            }
        }
    });
}

fn pid(number: u64) -> Pid {
    Pid::from_raw(i32::try_from(number).unwrap()).unwrap()
}

async fn gone(pids: &[Pid]) {
    eventually("all nodes should have stopped", || async {
        pids.iter().all(|pid| test_kill_process(*pid).is_err()).then_some(())
    })
    .await;
}

fn run(arguments: &[&str]) -> Output {
    Command::new(ROOKERY).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn dev_is_ready_keeps_its_data_and_stops_when_asked() {
    let dir = scratch();
    let data = dir.path().join("dev");
    let port = ports::free_block();
    let mut dev = Dev::start(&data, port, &[]);
    let url = |i: u16| format!("http://127.0.0.1:{}", port + i);
    assert_eq!(dev.says("ready "), format!("ready {} {} {}", url(0), url(1), url(2)));
    let pids = dev.pids().await;
    let token = web::register(&url(0), "alice").await;
    let mut alice = Socket::login(&url(2), &token, "phone").await;
    alice.send("u:alice", "note", "to myself").await;
    dev.signal(Signal::TERM);
    assert_eq!(alice.event("goaway").await["d"]["reason"], "drain");
    alice.leave().await;
    assert_eq!(dev.exit().await.code(), Some(0));
    gone(&pids).await;

    let mut again = Dev::start(&data, port, &[]);
    again.says("ready ");
    let mut alice = Socket::login(&url(1), &token, "phone").await;
    assert_eq!(alice.event("message").await["d"]["body"], "to myself");
    alice.leave().await;
    again.signal(Signal::INT);
    assert_eq!(again.exit().await.code(), Some(0));
    for name in ["a", "b", "c"] {
        let log = std::fs::read_to_string(data.join(format!("{name}.log"))).unwrap();
        assert!(!log.contains("could not be handed over"), "nobody was left to wait for: {log}");
    }
}

#[tokio::test]
async fn dev_tells_of_a_dead_node_which_can_be_started_again() {
    let dir = scratch();
    let port = ports::free_block();
    let dev = Dev::start(dir.path(), port, &[]);
    dev.says("ready ");
    let pids = dev.pids().await;
    kill_process(pids[1], Signal::KILL).unwrap();
    let line = dev.says("node b");
    assert!(line.contains("signal 9"), "{line}");
    let hint = dev.says("dev start b");
    assert!(hint.contains(&format!("--port {port}")) && hint.contains("--data "), "{hint}");

    let mut started = Command::new(ROOKERY)
        .args(["dev", "start", "b", "--port", &port.to_string(), "--data"])
        .arg(dir.path())
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let ready = format!("http://127.0.0.1:{}/readyz", port + 1);
    eventually("node b should be ready again", || async {
        web::get(&ready).await.is_ok_and(|answer| answer.status == 200).then_some(())
    })
    .await;
    kill_process(pid(started.id().into()), Signal::TERM).unwrap();
    assert_eq!(started.wait().unwrap().code(), Some(0));
}

#[tokio::test]
async fn nodes_do_not_outlive_a_killed_dev() {
    let dir = scratch();
    let dev = Dev::start(dir.path(), ports::free_block(), &["--nodes", "1"]);
    dev.says("ready ");
    let pids = dev.pids().await;
    dev.signal(Signal::KILL);
    gone(&pids).await;
}

#[tokio::test]
async fn dev_refuses_taken_ports_and_foreign_directories() {
    let dir = scratch();
    let port = ports::free_block();
    let taken = std::net::TcpListener::bind(("127.0.0.1", port + 101)).unwrap();
    let refused = dev_command(dir.path(), port, &[]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let why = text(&refused.stderr);
    assert!(why.contains(&(port + 101).to_string()) && why.contains("--port"), "{why}");
    drop(taken);

    let precious = scratch();
    std::fs::write(precious.path().join("thesis.txt"), "years of work").unwrap();
    let refused = dev_command(precious.path(), port, &["--fresh"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused.stderr));
    assert!(precious.path().join("thesis.txt").exists());
}

#[tokio::test]
async fn dev_start_needs_a_cluster_and_one_of_its_nodes() {
    let dir = scratch();
    let data = dir.path().to_str().unwrap();
    let nothing = run(&["dev", "start", "a", "--data", data]);
    assert_eq!(nothing.status.code(), Some(2));
    assert!(text(&nothing.stderr).contains("rookery dev"), "{}", text(&nothing.stderr));
}

#[tokio::test]
async fn a_bad_configuration_is_refused_naming_file_line_and_key() {
    let cluster = Cluster::prepared(1, "");
    let good = std::fs::read_to_string(cluster.config_file()).unwrap();
    let file = cluster.config_file();
    let path = file.to_str().unwrap();
    let check = run(&["check", path]);
    assert_eq!(check.status.code(), Some(0), "{}", text(&check.stderr));
    std::fs::write(&file, good.replace("[cluster]", "[cluster]\nshardz = 12")).unwrap();
    for arguments in [&["check", path][..], &["node", "--config", path, "--name", "a"][..]] {
        let refused = run(arguments);
        let why = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{why}");
        for word in ["cluster.toml", "shardz", "3"] {
            assert!(why.contains(word), "`{word}` is missing: {why}");
        }
    }
    let several = good.replace("[cluster]", "[cluster]\nshardz = 12\nreplicaz = 3");
    std::fs::write(&file, several).unwrap();
    let why = text(&run(&["check", path]).stderr);
    assert_eq!(why.lines().filter(|line| line.starts_with("error: ")).count(), 2, "{why}");
    assert_eq!(why.lines().count(), 2, "{why}");
    std::fs::write(&file, good).unwrap();
    let unknown = run(&["node", "--config", path, "--name", "zed"]);
    assert_eq!(unknown.status.code(), Some(2));
    let missing = run(&["check", "no-such-file.toml"]);
    assert_eq!(missing.status.code(), Some(2));
}

#[tokio::test]
async fn status_shows_the_cluster_and_fails_while_something_is_missing() {
    let cluster = Cluster::start(3).await;
    let url = cluster.admin_url("a");
    let well = run(&["status", "--url", "http://127.0.0.1:9", "--url", &url]);
    assert_eq!(well.status.code(), Some(0), "{}", text(&well.stderr));
    let table = text(&well.stdout);
    assert!(table.contains("64 shards, 64 with a leader"), "{table}");
    let json_out = run(&["status", "--json", "--url", &url]);
    let view: Value = serde_json::from_slice(&json_out.stdout).unwrap();
    assert_eq!(view["nodes"].as_array().map(Vec::len), Some(3));
    cluster.kill9("c");
    eventually("status should miss node c", || async {
        let ill = run(&["status", "--url", &url]);
        (ill.status.code() == Some(1) && text(&ill.stderr).contains("too few replicas"))
            .then_some(())
    })
    .await;
    let unreachable = run(&["status", "--url", "http://127.0.0.1:9"]);
    assert_eq!(unreachable.status.code(), Some(1));
    assert!(text(&unreachable.stderr).contains("no node answers"));
}

#[tokio::test]
async fn token_prints_a_token_that_lets_its_user_in() {
    let cluster = shared().await;
    let config = cluster.config_file();
    let token = run(&["token", "--config", config.to_str().unwrap(), "--user", "token-user"]);
    assert_eq!(token.status.code(), Some(0), "{}", text(&token.stderr));
    let mut socket = Socket::connect(&cluster.first_url()).await;
    let ok = socket.auth(text(&token.stdout).trim(), "phone", None).await;
    assert_eq!(ok["user"], json!("token-user"));
    let bad = run(&["token", "--config", config.to_str().unwrap(), "--user", "No Such Name"]);
    assert_eq!(bad.status.code(), Some(2));
}
