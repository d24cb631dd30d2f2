//! Promise: a group has one order for all its members, from their coming to their going, whatever fails.

use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};

use crate::harness::{Cluster, User, shared};
use crate::socket::Socket;
use crate::web;

/// Makes a group; returns its conversation and its name.
async fn create(socket: &mut Socket, title: &str, members: &[&User]) -> (String, String) {
    let members: Vec<&str> = members.iter().map(|user| user.name.as_str()).collect();
    let d = json!({"title": title, "members": members, "cid": format!("make-{title}")});
    let made = socket.request("group.create", d).await.expect("a group");
    let group = made["group"].as_str().expect("its name").to_owned();
    (format!("g:{group}"), group)
}

/// The next entry of a group, acknowledged: a change, a post, or the own copy of one.
async fn next(socket: &mut Socket, conv: &str) -> Value {
    loop {
        let event = socket.next_event().await;
        if let Some(n) = event["n"].as_u64() {
            socket.ack(n).await;
        }
        let entry = ["message", "sent", "group"].iter().any(|ev| event["ev"] == *ev);
        if entry && event["d"]["conv"] == conv {
            return event;
        }
    }
}

#[tokio::test]
async fn members_see_one_order_wherever_they_are() {
    let cluster = shared().await;
    let (ann, bob, cat) =
        (cluster.user("ann").await, cluster.user("bob").await, cluster.user("cat").await);
    let mut a = Socket::login(&cluster.url("a"), &ann.token, "phone").await;
    let mut b = Socket::login(&cluster.url("b"), &bob.token, "phone").await;
    let mut c = Socket::login(&cluster.url("c"), &cat.token, "phone").await;
    let (conv, group) = create(&mut a, "one-order", &[&bob, &cat]).await;
    for socket in [&mut a, &mut b, &mut c] {
        let created = next(socket, &conv).await;
        assert_eq!(created["ev"], "group");
        let d = &created["d"];
        assert_eq!(
            (&d["seq"], &d["change"], &d["by"]),
            (&json!(1), &json!("created"), &json!(ann.name))
        );
        assert_eq!(d["title"], "one-order");
        assert!(d["at"].is_u64() && d["users"].as_array().is_some_and(|users| users.len() == 3));
    }
    // All at once, from three nodes.
    const EACH: usize = 20;
    for number in 0..EACH {
        for (who, socket) in [("a", &mut a), ("b", &mut b), ("c", &mut c)] {
            let (cid, body) = (format!("{who}{number}"), format!("{who} {number}"));
            let d = json!({"to": conv, "cid": cid, "kind": "text", "body": body});
            socket.ask("send", d).await.expect("the socket is open");
        }
    }
    let mut orders = Vec::new();
    for socket in [&mut a, &mut b, &mut c] {
        let mut order = Vec::new();
        for at in 0..3 * EACH {
            let event = next(socket, &conv).await;
            assert_eq!(event["d"]["seq"], at + 2, "without gaps: {event}");
            order.push((event["d"]["mid"].clone(), event["d"]["at"].clone()));
        }
        orders.push(order);
    }
    assert!(orders.iter().all(|order| *order == orders[0]), "one order for all");
    let list = b.request("group.list", json!({})).await.unwrap();
    let listed = json!({"group": group, "title": "one-order", "role": "member"});
    assert_eq!(list["groups"], json!([listed]));
    let info = c.request("group.info", json!({"group": group})).await.unwrap();
    assert_eq!((&info["count"], &info["title"]), (&json!(3), &json!("one-order")));
    assert_eq!(info["members"][0], json!({"user": ann.name, "role": "admin"}));
    assert!(info["created_at"].is_u64() && info.get("icon").is_none());
}

#[tokio::test]
async fn ticks_say_what_all_others_have() {
    let cluster = shared().await;
    let (ann, bob, cat) =
        (cluster.user("ann").await, cluster.user("bob").await, cluster.user("cat").await);
    let mut a = Socket::login(&cluster.url("a"), &ann.token, "phone").await;
    let mut b = Socket::login(&cluster.url("b"), &bob.token, "phone").await;
    let (conv, _) = create(&mut a, "ticks", &[&bob, &cat]).await;
    let sent = a.send(&conv, "c1", "hello").await;
    assert_eq!((&sent["seq"], &sent["dup"]), (&json!(2), &json!(false)));
    let again = a.send(&conv, "c1", "hello").await;
    assert_eq!((&again["mid"], &again["dup"]), (&sent["mid"], &json!(true)));
    assert_eq!(next(&mut b, &conv).await["ev"], "group");
    let message = next(&mut b, &conv).await;
    assert_eq!((&message["d"]["from"], &message["d"]["body"]), (&json!(ann.name), &json!("hello")));
    // Bob's acknowledgement is on its way.
    loop {
        let told = a.request("receipts", json!({"conv": conv, "seq": 2})).await.unwrap();
        let of = |user: &User, mark: &str| {
            let all = told["receipts"].as_array().unwrap();
            all.iter().find(|one| one["user"] == user.name).unwrap()[mark].as_u64().unwrap()
        };
        assert_eq!((of(&cat, "delivered"), of(&bob, "read")), (1, 1));
        if of(&bob, "delivered") == 2 {
            break;
        }
    }
    let mut c = Socket::login(&cluster.url("c"), &cat.token, "phone").await;
    next(&mut c, &conv).await;
    next(&mut c, &conv).await;
    let receipt = a.receipt("delivered", 2).await;
    assert_eq!((&receipt["conv"], receipt.get("by")), (&json!(conv), None));
    b.tell("read", json!({"conv": conv, "seq": 2})).await;
    c.tell("read", json!({"conv": conv, "seq": 2})).await;
    a.receipt("read", 2).await;
}

#[tokio::test]
async fn who_comes_sees_nothing_before_and_who_goes_nothing_after() {
    let cluster = shared().await;
    let (ann, bob, cat) =
        (cluster.user("ann").await, cluster.user("bob").await, cluster.user("cat").await);
    let mut a = Socket::login(&cluster.url("a"), &ann.token, "phone").await;
    let mut b = Socket::login(&cluster.url("b"), &bob.token, "phone").await;
    let mut c = Socket::login(&cluster.url("c"), &cat.token, "phone").await;
    let (conv, group) = create(&mut a, "coming", &[&bob]).await;
    a.send(&conv, "c1", "before").await;
    let call = |users: &User| json!({"group": group, "users": [users.name]});
    assert_eq!(b.refused("group.add", call(&cat)).await, "forbidden", "only admins");
    a.request("group.add", call(&cat)).await.unwrap();
    a.request("group.add", call(&cat)).await.expect("who is in stays in");
    a.send(&conv, "c2", "between").await;
    a.request("group.remove", call(&bob)).await.unwrap();
    a.send(&conv, "c3", "after").await;
    let send = json!({"to": conv, "cid": "x", "kind": "text", "body": "let me in"});
    assert_eq!(b.refused("send", send).await, "forbidden");
    assert_eq!(b.refused("group.info", json!({"group": group})).await, "forbidden");
    let added = next(&mut c, &conv).await;
    assert_eq!(
        (&added["d"]["change"], &added["d"]["users"]),
        (&json!("added"), &json!([cat.name]))
    );
    assert_eq!(next(&mut c, &conv).await["d"]["body"], "between");
    assert_eq!(next(&mut c, &conv).await["d"]["change"], "removed");
    assert_eq!(next(&mut c, &conv).await["d"]["body"], "after");
    let mut changes = Vec::new();
    for _ in 0..5 {
        changes.push(next(&mut b, &conv).await["d"]["seq"].clone());
    }
    assert_eq!(changes, [1, 2, 3, 4, 5]);
    // What is answered after it would come after it.
    b.request("device.list", json!({})).await.unwrap();
    b.tell("ping", json!({})).await;
    assert_eq!(b.next_event().await["ev"], "pong", "nothing after the removal");
    // The last admin's leaving promotes.
    a.request("group.leave", json!({"group": group})).await.unwrap();
    assert_eq!(next(&mut c, &conv).await["d"]["change"], "left");
    let role = next(&mut c, &conv).await;
    assert_eq!((&role["d"]["change"], &role["d"]["role"]), (&json!("role"), &json!("admin")));
    let title = json!({"group": group, "title": "mine", "icon": "i1", "status": "s"});
    c.request("group.update", title).await.unwrap();
    let updated = next(&mut c, &conv).await;
    assert_eq!((&updated["d"]["title"], &updated["d"]["icon"]), (&json!("mine"), &json!("i1")));
}

#[tokio::test]
async fn bad_requests_about_groups_are_refused_by_name() {
    let cluster = shared().await;
    let (ann, bob) = (cluster.user("ann").await, cluster.user("bob").await);
    let mut a = Socket::login(&cluster.url("a"), &ann.token, "phone").await;
    let (conv, group) = create(&mut a, "refusals", &[&bob]).await;
    let nobody = json!(["nobody-of-this-name"]);
    let many: Vec<String> = (0..1_025).map(|at| format!("u{at}")).collect();
    for (op, d, code) in [
        ("group.info", json!({"group": "no-such-group"}), "not_found"),
        ("group.leave", json!({"group": "no-such-group"}), "not_found"),
        ("send", json!({"to": "g:none", "cid": "c", "kind": "text", "body": ""}), "not_found"),
        ("group.create", json!({"title": "t", "members": nobody, "cid": "c1"}), "not_found"),
        ("group.add", json!({"group": group, "users": nobody}), "not_found"),
        ("group.create", json!({"title": "", "members": [], "cid": "c2"}), "bad_request"),
        (
            "group.create",
            json!({"title": "t", "members": ["NOT A NAME"], "cid": "c3"}),
            "bad_request",
        ),
        ("group.create", json!({"title": "t", "members": "bob", "cid": "c4"}), "bad_request"),
        ("group.create", json!({"title": "t", "members": []}), "bad_request"),
        (
            "group.create",
            json!({"title": "x".repeat(257), "members": [], "cid": "c5"}),
            "too_large",
        ),
        ("group.create", json!({"title": "t", "members": many, "cid": "c6"}), "too_large"),
        (
            "group.create",
            json!({"title": "other", "members": [], "cid": "make-refusals"}),
            "conflict",
        ),
        ("group.role", json!({"group": group, "user": bob.name, "role": "king"}), "bad_request"),
        ("group.role", json!({"group": group, "user": "nobody", "role": "admin"}), "not_found"),
        ("group.role", json!({"group": group, "user": ann.name, "role": "member"}), "conflict"),
        ("group.update", json!({"group": group}), "bad_request"),
        ("receipts", json!({"conv": "u:bob"}), "bad_request"),
    ] {
        assert_eq!(a.refused(op, d.clone()).await, code, "{op} {d}");
    }
    let again = create(&mut a, "refusals", &[&bob]).await;
    assert_eq!(again, (conv.clone(), group), "the same again is answered again");
    let draft = json!({"to": conv, "cid": "over-http", "kind": "text", "body": "hi"});
    let url = format!("{}/v1/messages", cluster.url("b"));
    let posted = web::call(Method::POST, &url, Some(&ann.token), Some(&draft)).await.unwrap();
    assert_eq!((posted.status, &posted.body["seq"]), (201, &json!(2)));
    let mut too_many = None;
    for number in 0..1_000 {
        let d = json!({"title": "t", "members": [], "cid": format!("many-{number}")});
        if let Err(err) = a.request("group.create", d).await {
            too_many = Some(err);
            break;
        }
    }
    let err = too_many.expect("not a thousand groups at once");
    assert_eq!((&err["code"], err["retry_after_ms"].is_u64()), (&json!("rate_limited"), true));
}

/// Over HTTP: a request is repeated elsewhere until it is answered.
async fn post(user: &User, urls: &[String], conv: &str, cid: &str) {
    let d = json!({"to": conv, "cid": cid, "kind": "text", "body": cid});
    for url in urls.iter().cycle() {
        let url = format!("{url}/v1/messages");
        let reply = web::call(Method::POST, &url, Some(&user.token), Some(&d)).await;
        if reply.is_ok_and(|reply| reply.status < 300) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_group_loses_nothing_when_nodes_are_killed() {
    const EACH: u64 = 150;
    let cluster = Cluster::start(3).await;
    let users = [cluster.user("ann").await, cluster.user("bob").await, cluster.user("cat").await];
    let mut a = Socket::login(&cluster.url("a"), &users[0].token, "phone").await;
    let (conv, _) = create(&mut a, "chaos", &[&users[1], &users[2]]).await;
    drop(a);
    let urls: Vec<String> = ["a", "b", "c"].iter().map(|name| cluster.url(name)).collect();
    let posts = users.iter().enumerate().map(|(at, user)| {
        let (conv, user, mut urls) = (conv.clone(), user.clone(), urls.clone());
        urls.rotate_left(at);
        tokio::spawn(async move {
            for number in 0..EACH {
                post(&user, &urls, &conv, &format!("{at}-{number}")).await;
            }
        })
    });
    let posts: Vec<_> = posts.collect();
    for name in ["b", "a", "c"] {
        cluster.kill9(name);
        cluster.start_node(name);
        cluster.node_ready(name).await;
    }
    for post in posts {
        post.await.expect("all are answered in the end");
    }
    let mut orders = Vec::new();
    for (user, url) in users.iter().zip(&urls) {
        let mut socket = Socket::login(url, &user.token, "reader").await;
        let mut order = Vec::new();
        while order.len() < 3 * EACH as usize + 1 {
            let event = next(&mut socket, &conv).await;
            assert_eq!(event["d"]["seq"], order.len() as u64 + 1, "without gaps");
            order.push(event["d"]["mid"].clone());
        }
        orders.push(order);
    }
    assert!(orders.iter().all(|order| *order == orders[0]), "one order for all");
    let mut mids: Vec<String> = orders[0].iter().skip(1).map(Value::to_string).collect();
    mids.sort();
    mids.dedup();
    assert_eq!(mids.len(), 3 * EACH as usize, "each once");
}

#[tokio::test]
async fn all_that_a_socket_does_with_groups_http_does_too() {
    let cluster = shared().await;
    let (ann, bob, cat) =
        (cluster.user("ann").await, cluster.user("bob").await, cluster.user("cat").await);
    let url = cluster.url("c");
    let ask = |method: Method, path: String, user: &User, body: Option<Value>| {
        let (url, token) = (format!("{url}{path}"), user.token.clone());
        async move {
            let answer = web::call(method, &url, Some(&token), body.as_ref()).await.unwrap();
            (answer.status, answer.body)
        }
    };
    let mut b = Socket::login(&cluster.url("a"), &bob.token, "phone").await;
    let make = json!({"title": "Rest", "members": [bob.name], "cid": "make"});
    let (status, made) = ask(Method::POST, "/v1/groups".into(), &ann, Some(make.clone())).await;
    assert_eq!(status, 201, "{made}");
    assert_eq!(ask(Method::POST, "/v1/groups".into(), &ann, Some(make)).await.1, made, "once");
    let group = made["group"].as_str().unwrap();
    let (conv, path) = (format!("g:{group}"), format!("/v1/groups/{group}"));
    assert_eq!(next(&mut b, &conv).await["d"]["change"], "created");
    // Who may what is as on the socket.
    let members = format!("{path}/members");
    let users = json!({"users": [cat.name]});
    let (status, refused) = ask(Method::POST, members.clone(), &bob, Some(users.clone())).await;
    assert_eq!((status, &refused["code"]), (403, &json!("forbidden")));
    assert_eq!(ask(Method::POST, members.clone(), &ann, Some(users)).await, (200, json!({})));
    let nobody = json!({"users": ["nobody-at-all"]});
    let (status, refused) = ask(Method::POST, members.clone(), &ann, Some(nobody)).await;
    assert_eq!((status, &refused["code"]), (404, &json!("not_found")));
    assert!(refused["detail"].as_str().unwrap().contains("nobody-at-all"), "{refused}");
    let bobs = format!("{members}/{}", bob.name);
    let admin = json!({"role": "admin"});
    assert_eq!(ask(Method::PUT, bobs.clone(), &ann, Some(admin)).await.0, 200);
    let title = json!({"title": "Rested", "status": "zzz"});
    assert_eq!(ask(Method::PATCH, path.clone(), &bob, Some(title)).await.0, 200);
    let (_, info) = ask(Method::GET, path.clone(), &cat, None).await;
    assert_eq!(
        (&info["title"], &info["status"], &info["count"]),
        (&json!("Rested"), &json!("zzz"), &json!(3))
    );
    assert_eq!(info["members"][1], json!({"user": bob.name, "role": "admin"}));
    let (_, receipts) = ask(Method::GET, format!("{path}/receipts"), &cat, None).await;
    assert_eq!(receipts["receipts"].as_array().map(Vec::len), Some(3));
    assert_eq!(ask(Method::DELETE, bobs, &ann, None).await.0, 200);
    for change in ["added", "role", "updated", "removed"] {
        assert_eq!(next(&mut b, &conv).await["d"]["change"], change);
    }
    assert_eq!(ask(Method::POST, format!("{path}/leave"), &cat, None).await.0, 200);
    assert_eq!(ask(Method::GET, path.clone(), &cat, None).await.0, 403);
    let (_, groups) = ask(Method::GET, "/v1/groups".into(), &ann, None).await;
    assert_eq!(groups["groups"][0]["group"], json!(group));
    // Bad input.
    for (method, path, body) in [
        (Method::POST, "/v1/groups".to_owned(), json!({"title": "", "cid": "x"})),
        (Method::POST, "/v1/groups".to_owned(), json!({"title": "t"})),
        (Method::POST, members.clone(), json!({"users": []})),
        (Method::PUT, format!("{members}/{}", ann.name), json!({"role": "king"})),
        (Method::PATCH, path.clone(), json!({})),
    ] {
        let (status, refused) = ask(method, path, &ann, Some(body)).await;
        assert_eq!((status, &refused["code"]), (400, &json!("bad_request")), "{refused}");
    }
    let long = json!({"title": "x".repeat(257), "cid": "x"});
    assert_eq!(ask(Method::POST, "/v1/groups".into(), &ann, Some(long)).await.0, 413);
}
