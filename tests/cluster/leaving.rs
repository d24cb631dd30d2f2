//! Promise: who wants to go takes a copy of everything along, and is forgotten on all nodes.

use hyper::Method;
use serde_json::{Value, json};

use crate::harness::{Cluster, User};
use crate::socket::Socket;
use crate::web::call;

/// Nobody reaches them, and they do not come in again.
async fn is_gone(cluster: &Cluster, gone: &User, other: &mut Socket, cid: &str) {
    let url = |path: &str| format!("{}{path}", cluster.url("c"));
    let d = json!({"to": gone.conv(), "cid": cid, "kind": "text", "body": "?"});
    assert_eq!(other.refused("send", d).await, "gone");
    let list = call(Method::GET, &url("/v1/conversations"), Some(&gone.token), None).await.unwrap();
    assert_eq!((list.status, &list.body["code"]), (410, &json!("gone")), "{list:?}");
    let password = json!({"user": gone.name, "password": "correct horse battery"});
    let login = call(Method::POST, &url("/v1/login"), None, Some(&password)).await.unwrap();
    assert_eq!(login.status, 401);
    let taken = call(Method::POST, &url("/v1/register"), None, Some(&password)).await.unwrap();
    assert_eq!((taken.status, &taken.body["code"]), (409, &json!("conflict")));
    let mut again = Socket::connect(&cluster.url("a")).await;
    let d = json!({"token": gone.token, "device": "phone"});
    let refused = again.request("auth", d).await.expect_err("nobody comes in");
    assert_eq!(refused["code"], "gone");
}

#[tokio::test]
async fn a_copy_holds_everything_and_an_erased_user_is_gone_for_good() {
    let cluster = Cluster::start(3).await;
    cluster.ready().await;
    let (ann, bob) = (cluster.user("ann").await, cluster.user("bob").await);
    let mut a = Socket::login(&cluster.url("a"), &ann.token, "phone").await;
    let mut b = Socket::login(&cluster.url("b"), &bob.token, "phone").await;
    let made = json!({"title": "Club", "members": [bob.name], "cid": "make"});
    let group = a.request("group.create", made).await.unwrap()["group"].clone();
    for i in 0..230 {
        a.send(&bob.conv(), &format!("c{i}"), &format!("letter {i}")).await;
        if i % 100 == 99 {
            b.tell("ping", json!({"n": i})).await;
        }
    }
    b.send(&ann.conv(), "answer", "thanks").await;
    a.event_about(&bob.conv()).await;

    let url = |path: &str| format!("{}{path}", cluster.url("c"));
    let copy = call(Method::GET, &url("/v1/export"), Some(&ann.token), None).await.unwrap();
    assert_eq!(
        (copy.status, &copy.headers["content-type"]),
        (200, &"application/jsonl".parse().unwrap())
    );
    let rows: Vec<Value> =
        copy.text.lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    assert_eq!(rows[0], json!({"type": "account", "user": ann.name}));
    let of = |kind: &str| rows.iter().filter(|row| row["type"] == kind).collect::<Vec<_>>();
    assert_eq!((of("device").len(), of("group").len()), (1, 1));
    let messages = of("message");
    let own = messages.iter().filter(|row| row["from"] == ann.name).count();
    assert_eq!((own, messages.len()), (230, 231), "the own ones and the answer");
    assert!(messages.is_sorted_by_key(|row| row["n"].as_u64()), "in order");

    // Not by accident.
    let account = |confirm: &str| url(&format!("/v1/account?confirm={confirm}"));
    let refused = call(Method::DELETE, &account("bob"), Some(&ann.token), None).await.unwrap();
    assert_eq!((refused.status, &refused.body["field"]), (400, &json!("confirm")));
    let erased = call(Method::DELETE, &account(&ann.name), Some(&ann.token), None).await.unwrap();
    assert_eq!((erased.status, &erased.body["groups_left"]), (200, &json!(1)), "{erased:?}");
    assert!(erased.body["remains"].as_array().is_some_and(|remains| !remains.is_empty()));
    assert_eq!(a.expect_close().await, 4304);
    let left = loop {
        let event = b.next_event().await;
        if let Some(n) = event["n"].as_u64() {
            b.ack(n).await;
        }
        if event["ev"] == "group" && event["d"]["change"] == "left" {
            break event;
        }
    };
    assert_eq!(
        (&left["d"]["by"], &left["d"]["conv"]),
        (&json!(ann.name), &json!(format!("g:{}", group.as_str().unwrap())))
    );

    // On all disks.
    for round in 0..2 {
        if round == 1 {
            cluster.kill9_all();
            cluster.start_all();
            cluster.ready().await;
            b = Socket::login(&cluster.url("b"), &bob.token, "phone").await;
        }
        is_gone(&cluster, &ann, &mut b, &format!("after{round}")).await;
    }
    // What was written stays with those it was written to.
    let path = url(&format!("/v1/conversations/{}/messages?limit=200", ann.conv()));
    let page = call(Method::GET, &path, Some(&bob.token), None).await.unwrap();
    assert_eq!(
        (page.body["messages"].as_array().map(Vec::len), &page.body["more"]),
        (Some(200), &json!(true))
    );
}
