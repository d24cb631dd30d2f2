//! Promise: the members of a large group, who only have the place of each post, get all of it when they come, and no more.

use hyper::Method;
use serde_json::{Value, json};

use crate::harness::{Cluster, User};
use crate::socket::Socket;
use crate::web;

/// Members besides those who act: with them a group is large.
const SILENT: usize = 30;
const POSTS: u64 = 400;

async fn guest(cluster: &Cluster, name: &str) -> User {
    let user = cluster.guest(name);
    // Their mailbox is there from the first socket on.
    Socket::login(&cluster.first_url(), &user.token, "phone").await.leave().await;
    user
}

async fn ask(cluster: &Cluster, user: &User, path: &str) -> Value {
    let url = format!("{}/v1/{path}", cluster.first_url());
    let answer = web::call(Method::GET, &url, Some(&user.token), None).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

/// Posts of `from` numbered like their place in the group, all at once.
async fn post(socket: &mut Socket, conv: &str, numbers: std::ops::Range<u64>) {
    let mut asked = Vec::new();
    for number in numbers {
        let (cid, body) = (format!("p-{number}"), format!("post {number}"));
        let d = json!({"to": conv, "cid": cid, "kind": "text", "body": body});
        asked.push((number, socket.ask("send", d).await.unwrap()));
    }
    for (number, id) in asked {
        assert_eq!(socket.reply(&id).await.unwrap()["seq"], number);
    }
}

/// The next entries of the group's order, each acknowledged: posts up to `last`.
async fn posts(socket: &mut Socket, conv: &str, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let event = socket.event("message").await;
        let d = &event["d"];
        assert_eq!((&d["conv"], &d["seq"]), (&json!(conv), &json!(number)), "{event}");
        assert_eq!(d["body"], format!("post {number}"));
        socket.ack(event["n"].as_u64().unwrap()).await;
    }
}

#[tokio::test]
async fn who_was_away_gets_every_post_of_a_large_group_whoever_died_meanwhile() {
    let cluster = Cluster::with(3, "[storage]\ncheckpoint_seconds = 1").await;
    let (ann, bob) = (cluster.user("ann").await, cluster.user("bob").await);
    let (cat, dan) = (guest(&cluster, "cat").await, guest(&cluster, "dan").await);
    let mut members = vec![bob.name.clone(), cat.name.clone(), dan.name.clone()];
    for _ in 0..SILENT {
        members.push(guest(&cluster, "silent").await.name);
    }
    let mut a = Socket::login(&cluster.url("a"), &ann.token, "phone").await;
    let d = json!({"title": "large", "members": members, "cid": "make"});
    let made = a.request("group.create", d).await.expect("a group");
    let group = made["group"].as_str().unwrap().to_owned();
    let conv = format!("g:{group}");
    post(&mut a, &conv, 2..POSTS / 2).await;
    a.leave().await;
    // Nothing is left but what is on the disks.
    cluster.kill9_all();
    cluster.start_all();
    cluster.ready().await;
    let mut a = Socket::login(&cluster.url("a"), &ann.token, "phone").await;
    post(&mut a, &conv, POSTS / 2..POSTS).await;
    a.request("group.remove", json!({"group": group, "users": [dan.name]})).await.unwrap();
    post(&mut a, &conv, POSTS + 1..POSTS + 3).await;
    // Half of it is fetched from one leader of the group's shard, the rest from the next.
    let url = format!("{}/admin/where?group={group}", cluster.admin_url("a"));
    let told = web::get(&url).await.unwrap().body;
    let home = told["leader"].as_str().expect("the group has a home").to_owned();
    let other = cluster.others(&home).remove(0);
    let mut b = Socket::login(&cluster.url(&other), &bob.token, "phone").await;
    posts(&mut b, &conv, 2..POSTS / 3).await;
    cluster.kill9(&home);
    let (rest, removed, newest) = (POSTS / 3..POSTS, POSTS, POSTS + 1..POSTS + 3);
    posts(&mut b, &conv, rest).await;
    assert_eq!(b.event("group").await["d"]["seq"], removed);
    posts(&mut b, &conv, newest).await;
    cluster.start_node(&home);
    cluster.ready().await;
    // Who was put out gets what came before, and nothing after.
    let mut d = Socket::login(&cluster.url(&home), &dan.token, "phone").await;
    posts(&mut d, &conv, 2..POSTS).await;
    let last = d.event("group").await;
    assert_eq!((&last["d"]["seq"], &last["d"]["change"]), (&json!(removed), &json!("removed")));
    d.ack(last["n"].as_u64().unwrap()).await;
    assert!(d.backlog().await.is_empty(), "nothing after it");
    reads_pages(&cluster, &cat, &conv).await;
}

/// The same over HTTP: the list, pages, a single message, and those of one author.
async fn reads_pages(cluster: &Cluster, cat: &User, conv: &str) {
    let list = ask(cluster, cat, "conversations").await;
    let last = &list["conversations"][0]["last"];
    assert_eq!(last["body"], format!("post {}", POSTS + 2), "{list}");
    let (mut before, mut seen) = (u64::MAX >> 12, Vec::new());
    loop {
        let path = format!("conversations/{conv}/messages?limit=150&before={before}");
        let page = ask(cluster, cat, &path).await;
        let messages = page["messages"].as_array().unwrap();
        let bodies = messages.iter().map(|m| (m["n"].as_u64().unwrap(), m["body"].clone()));
        seen.splice(0..0, bodies);
        before = seen.first().map_or(0, |(n, _)| *n);
        if page["more"] == false {
            break;
        }
    }
    let wanted = (2..POSTS).chain(POSTS + 1..POSTS + 3).map(|number| format!("post {number}"));
    assert_eq!(
        seen.iter().map(|(_, body)| body.clone()).collect::<Vec<_>>(),
        wanted.collect::<Vec<_>>()
    );
    let one = ask(cluster, cat, &format!("messages/{}", last["mid"].as_str().unwrap())).await;
    assert_eq!(one["body"], last["body"]);
    let from = last["from"].as_str().unwrap();
    let those = ask(cluster, cat, &format!("messages?from={from}&limit=3")).await;
    assert_eq!(those["messages"].as_array().map(Vec::len), Some(3), "{those}");
}
