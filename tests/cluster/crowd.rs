//! Promise: many who come at once are let in or told when to come back, and disturb nobody.

use std::time::Duration;

use futures_util::future::join_all;
use rookery::client::{Client, Credential, Event, Options, Why};
use serde_json::json;
use tokio::sync::watch;

use crate::harness::{Cluster, PATIENCE, User, raise_file_limit};
use crate::socket::Socket;
use crate::traffic::{Traffic, enter};

/// Connects and authenticates, as often as it takes.
async fn come_in(url: &str, user: &User) -> Socket {
    let come = async {
        let mut pause = tokio::time::interval(Duration::from_millis(500));
        loop {
            pause.tick().await;
            match enter(url, user, None).await {
                Ok((socket, _)) => return socket,
                Err(over) => println!("{} comes again: {over:?}", user.name),
            }
        }
    };
    tokio::time::timeout(PATIENCE, come).await.expect("there is room for all")
}

#[tokio::test]
async fn a_thousand_sockets_at_once_all_chat_and_disturb_nobody() {
    const MANY: usize = 1_000;
    raise_file_limit(4 * MANY as u64);
    let cluster = Cluster::start(3).await;
    let (carol, dave) = (cluster.user("carol").await, cluster.user("dave").await);
    let traffic = Traffic::start(&carol, &[cluster.url("a")], &dave, &[cluster.url("b")]);
    traffic.goes_on(20).await;
    let users: Vec<User> = (0..MANY).map(|_| cluster.guest("crowd")).collect();
    let urls = cluster.urls();
    let (all_here, here) = watch::channel(0);
    let come = users.iter().zip(urls.iter().cycle()).map(|(user, url)| {
        let mut here = here.clone();
        let all_here = &all_here;
        async move {
            let mut socket = come_in(url, user).await;
            all_here.send_modify(|here| *here += 1);
            let mut pause = tokio::time::interval(Duration::from_secs(3));
            while *here.borrow_and_update() < MANY {
                tokio::select! {
                    _ = here.wait_for(|here| *here == MANY) => {}
                    _ = pause.tick() => socket.tell("ping", json!({})).await,
                }
            }
            socket
        }
    });
    let mut sockets: Vec<Socket> = join_all(come).await;
    traffic.goes_on(20).await;
    // Each writes to the next, on another node, and hears from the one before.
    let chat = sockets.iter_mut().enumerate().map(|(at, socket)| {
        let (to, from) = (&users[(at + 1) % MANY], &users[(at + MANY - 1) % MANY]);
        async move {
            let d = json!({"to": to.conv(), "cid": "hi", "kind": "text", "body": from.name});
            let id = socket.ask("send", d).await.expect("the socket is open");
            let message = socket.event("message").await;
            assert_eq!(
                (&message["d"]["from"], &message["d"]["seq"]),
                (&json!(from.name), &json!(1))
            );
            socket.reply(&id).await.expect("it was taken")
        }
    });
    assert!(join_all(chat).await.iter().all(|ok| ok["seq"] == 1));
    traffic.goes_on(20).await;
    traffic.finish().await;
}

#[tokio::test]
async fn a_node_over_its_login_budget_says_when_to_come_back() {
    let settings = "[limits]\nsockets_per_second = 1\nsockets_burst = 3";
    let cluster = Cluster::with(1, settings).await;
    let alice = cluster.user("alice").await;
    let url = cluster.first_url();
    let mut taken = Vec::new();
    let status = loop {
        match Socket::open(&url, None).await {
            Ok(socket) => taken.push(socket),
            Err(status) => break status,
        }
        assert!(taken.len() < 100, "the budget was never reached");
    };
    assert_eq!(status, 503);
    assert!(taken.len() >= 3, "the burst is let in");
    // The project's own client waits as it is told, and comes in then.
    let credential = Credential::Token(alice.token.clone());
    let (client, mut events) = Client::connect(Options::new(&[url], &alice.name, credential));
    loop {
        match events.recv().await.expect("the client goes on") {
            Event::Connected { .. } => break,
            Event::Disconnected { why: Why::Unreachable(why), retry_in } if why.contains("503") => {
                assert!(retry_in >= Some(Duration::from_secs(1)), "{why}: {retry_in:?}");
            }
            other => panic!("connected or told to wait, not {other:?}"),
        }
    }
    drop(client);
}
