//! Promise: who is blocked is refused and sees nothing, who hides is not seen, and what people say of themselves is shown.

use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::harness::{Cluster, User, eventually, shared};
use crate::socket::{MSGPACK, Over, Socket};
use crate::web::{self, Answer};

/// What is told of those who never came, and of those who are not shown.
fn unseen(user: &User) -> Value {
    json!({"user": user.name, "online": false, "last_seen_ms": null})
}

fn text(to: &str, cid: &str) -> Value {
    json!({"to": to, "cid": cid, "kind": "text", "body": "hi"})
}

async fn http(
    cluster: &Cluster,
    node: &str,
    by: &User,
    (method, path): (Method, &str),
    body: Option<&Value>,
) -> Answer {
    let url = format!("{}{path}", cluster.url(node));
    web::call(method, &url, Some(&by.token), body).await.expect("an answer")
}

async fn get(cluster: &Cluster, node: &str, by: &User, path: &str) -> Answer {
    http(cluster, node, by, (Method::GET, path), None).await
}

async fn seen(cluster: &Cluster, node: &str, by: &User, user: &User) -> Value {
    let answer = get(cluster, node, by, &format!("/v1/users/{}/presence", user.name)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

async fn watch(socket: &mut Socket, user: &User) -> Value {
    let ok = socket.request("watch", json!({"users": [user.name]})).await.expect("an answer");
    ok["presence"][0].clone()
}

async fn presence(socket: &mut Socket) -> Value {
    socket.event("presence").await["d"].clone()
}

/// The events called `ev` that have come until what a socket says now is answered, and for a while after.
async fn heard(socket: &mut Socket, ev: &str) -> Vec<Value> {
    let (until, mut events) = (Instant::now() + Duration::from_secs(3), Vec::new());
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        match socket.try_event(left).await {
            Ok(event) if event["ev"] == ev => events.push(event["d"].clone()),
            Ok(_) => {}
            Err(Over::Silent) => break,
            Err(over) => panic!("the socket is gone: {over:?}"),
        }
    }
    events
}

#[tokio::test]
async fn who_is_blocked_stays_so_whatever_dies_and_what_was_accepted_before_is_answered_again() {
    let cluster = Cluster::start(3).await;
    let (ann, bob) = (cluster.user("ann").await, cluster.user_led_by("bob", "c").await);
    let mut a = Socket::login(&cluster.url("a"), &ann.token, "phone").await;
    let mut b = Socket::login(&cluster.url("b"), &bob.token, "phone").await;
    let before = a.send(&bob.conv(), "before", "hi").await;
    let d = json!({"title": "Club", "members": [bob.name], "cid": "make"});
    let group = a.request("group.create", d).await.unwrap()["group"].clone();
    let club = format!("g:{}", group.as_str().unwrap());
    b.event("group").await;

    for _ in 0..2 {
        assert_eq!(b.request("block", json!({"user": ann.name})).await.unwrap(), json!({}));
    }
    // At once, and after the node that decides, and then all of them, died.
    for round in 0..3 {
        match round {
            1 => {
                cluster.kill9("c");
                a = Socket::login(&cluster.url("a"), &ann.token, "phone").await;
                b = Socket::login(&cluster.url("b"), &bob.token, "phone").await;
            }
            2 => {
                cluster.kill9_all();
                cluster.start_all();
                cluster.ready().await;
                a = Socket::login(&cluster.url("a"), &ann.token, "phone").await;
                b = Socket::login(&cluster.url("b"), &bob.token, "phone").await;
            }
            _ => {}
        }
        let cid = format!("blocked-{round}");
        let letter = text(&bob.conv(), &format!("http-{round}"));
        let post = || (Method::POST, "/v1/messages");
        let refused = eventually("somebody should decide", || async {
            let answer = http(&cluster, "a", &ann, post(), Some(&letter)).await;
            (answer.status != 503).then_some(answer)
        })
        .await;
        assert_eq!(
            (refused.status, &refused.body["code"]),
            (403, &json!("blocked")),
            "{refused:?}"
        );
        assert_eq!(refused.body["retry"], false);
        let err = a.request("send", text(&bob.conv(), &cid)).await.unwrap_err();
        assert_eq!((&err["code"], &err["retry"]), (&json!("blocked"), &json!(false)), "{err}");
        let again = a.send(&bob.conv(), "before", "hi").await;
        assert_eq!((&again["mid"], &again["dup"]), (&before["mid"], &json!(true)));
        let list = b.request("blocked", json!({})).await.unwrap();
        assert_eq!(list, json!({"users": [ann.name]}));
        // A group is another matter.
        a.send(&club, &format!("club-{round}"), "all").await;
        b.event_about(&club).await;
        b.send(&ann.conv(), &format!("back-{round}"), "the blocker may write").await;
    }
    assert_eq!(b.request("unblock", json!({"user": ann.name})).await.unwrap(), json!({}));
    // What was refused may be sent again under its name; nothing is missing between.
    let first = a.send(&bob.conv(), "blocked-0", "hi").await;
    assert_eq!((&first["seq"], &first["dup"]), (&json!(2), &json!(false)));
    let mid = first["mid"].as_str().unwrap();
    let kept =
        get(&cluster, "a", &bob, &format!("/v1/conversations/{}/messages", ann.conv())).await;
    let from_ann = kept.body["messages"].as_array().unwrap().iter();
    let mids: Vec<&Value> = from_ann.filter(|m| m["from"] == ann.name).map(|m| &m["mid"]).collect();
    assert_eq!(mids, [&before["mid"], &json!(mid)]);
}

#[tokio::test]
async fn a_watch_that_stands_ends_in_the_dark_for_who_is_blocked_or_hidden_from() {
    let cluster = shared().await;
    let (ann, bob, cat) =
        (cluster.user("ann").await, cluster.user("bob").await, cluster.user("cat").await);
    let mut a = Socket::login(&cluster.url("a"), &ann.token, "phone").await;
    let mut c = Socket::login(&cluster.url("c"), &cat.token, "phone").await;
    let mut b = Socket::login(&cluster.url("b"), &bob.token, "phone").await;
    for socket in [&mut a, &mut c] {
        assert_eq!(watch(socket, &bob).await["online"], true);
    }
    // Blocking: for ann alone.
    b.request("block", json!({"user": ann.name})).await.unwrap();
    assert_eq!(presence(&mut a).await, unseen(&bob));
    assert_eq!(seen(&cluster, "c", &ann, &bob).await, unseen(&bob));
    assert_eq!(watch(&mut a, &bob).await, unseen(&bob), "asked anew");
    b.leave().await;
    let gone = presence(&mut c).await;
    assert!(gone["online"] == false && gone["last_seen_ms"].is_u64(), "{gone}");
    assert_eq!(heard(&mut a, "presence").await, Vec::<Value>::new());
    let mut b = Socket::login(&cluster.url("b"), &bob.token, "phone").await;
    assert_eq!(presence(&mut c).await["online"], true);
    b.request("unblock", json!({"user": ann.name})).await.unwrap();
    assert_eq!(presence(&mut a).await["online"], true, "she did not hear of the time between");

    // Contacts: those to whom bob wrote.
    b.send(&cat.conv(), "first", "hi").await;
    b.event("sent").await;
    let set = b.request("settings", json!({"last_seen": "contacts"})).await.unwrap();
    assert_eq!(set, json!({"last_seen": "contacts"}));
    assert_eq!(presence(&mut a).await, unseen(&bob));
    assert_eq!(seen(&cluster, "a", &cat, &bob).await["online"], true);
    b.send(&ann.conv(), "first-a", "hi").await;
    assert_eq!(presence(&mut a).await["online"], true, "a contact now");

    // Nobody: and bob sees nobody but himself.
    assert_eq!(watch(&mut b, &ann).await["online"], true);
    b.request("settings", json!({"last_seen": "nobody"})).await.unwrap();
    for socket in [&mut a, &mut c] {
        assert_eq!(presence(socket).await, unseen(&bob));
    }
    assert_eq!(presence(&mut b).await, unseen(&ann), "hide yours, lose theirs");
    assert_eq!(watch(&mut b, &cat).await, unseen(&cat));
    assert_eq!(watch(&mut b, &bob).await["online"], true, "oneself");
    assert_eq!(seen(&cluster, "c", &bob, &ann).await, unseen(&ann));
    let mut late = Socket::login(&cluster.url("c"), &bob.token, "laptop").await;
    assert_eq!(watch(&mut late, &ann).await, unseen(&ann), "a new socket knows it, too");
    assert_eq!(late.request("settings", json!({})).await.unwrap(), json!({"last_seen": "nobody"}));
    let patch = (Method::PATCH, "/v1/settings");
    let everyone = json!({"last_seen": "everyone"});
    let set = http(&cluster, "c", &bob, patch, Some(&everyone)).await;
    assert_eq!((set.status, &set.body), (200, &everyone));
    for socket in [&mut a, &mut c] {
        assert_eq!(presence(socket).await["online"], true);
    }
    let mut back = [presence(&mut b).await, presence(&mut b).await];
    back.sort_by_key(|row| row["user"].to_string());
    for (row, user) in back.iter().zip([&ann, &cat]) {
        assert_eq!((&row["user"], &row["online"]), (&json!(user.name), &json!(true)), "{row}");
    }
}

#[tokio::test]
async fn who_hides_stays_hidden_and_blind_when_their_home_dies() {
    let cluster = Cluster::start(3).await;
    let bob = cluster.user_led_by("bob", "c").await;
    let ann = cluster.user_led_by("ann", "c").await;
    let mut a = Socket::login(&cluster.url("a"), &ann.token, "phone").await;
    let mut b = Socket::login(&cluster.url("b"), &bob.token, "phone").await;
    b.request("settings", json!({"last_seen": "nobody"})).await.unwrap();
    assert_eq!(watch(&mut a, &bob).await, unseen(&bob));
    assert_eq!(watch(&mut b, &ann).await, unseen(&ann));
    cluster.kill9("c");
    // While homes move, and after, neither is told anything of the other.
    let until = Instant::now() + Duration::from_secs(9);
    while Instant::now() < until {
        for (socket, other) in [(&mut a, &bob), (&mut b, &ann)] {
            match socket.request("watch", json!({"users": [other.name]})).await {
                Ok(ok) => assert_eq!(ok["presence"][0], unseen(other)),
                Err(err) => assert_eq!(err["code"], "unavailable", "{err}"),
            }
            while let Some(event) = socket.take_event() {
                assert_ne!(event["ev"], "presence", "{event}");
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    b.request("settings", json!({"last_seen": "everyone"})).await.unwrap();
    assert_eq!(presence(&mut a).await["online"], true);
    assert_eq!(presence(&mut b).await["online"], true);
}

#[tokio::test]
async fn typing_passes_in_neither_direction_between_a_blocker_and_the_blocked() {
    let cluster = shared().await;
    let (ann, bob) = (cluster.user("ann").await, cluster.user("bob").await);
    let mut a = Socket::login(&cluster.url("a"), &ann.token, "phone").await;
    let mut b = Socket::login(&cluster.url("b"), &bob.token, "phone").await;
    let types = |on: bool, to: &User| json!({"to": to.conv(), "on": on});
    b.request("block", json!({"user": ann.name})).await.unwrap();
    a.request("typing", types(true, &bob)).await.unwrap();
    b.request("typing", types(true, &ann)).await.unwrap();
    for socket in [&mut a, &mut b] {
        assert_eq!(heard(socket, "typing").await, Vec::<Value>::new());
    }
    b.request("unblock", json!({"user": ann.name})).await.unwrap();
    a.request("typing", types(true, &bob)).await.unwrap();
    b.request("typing", types(true, &ann)).await.unwrap();
    assert_eq!(a.event("typing").await["d"]["from"], bob.name);
    assert_eq!(b.event("typing").await["d"]["from"], ann.name);
}

#[tokio::test]
async fn what_people_say_of_themselves_is_shown_in_lists_and_groups() {
    let cluster = shared().await;
    let (ann, bob, cat) =
        (cluster.user("ann").await, cluster.user("bob").await, cluster.user("cat").await);
    let mut b = Socket::open(&cluster.url("b"), Some(MSGPACK)).await.unwrap();
    b.expect_hello().await;
    b.auth(&bob.token, "phone", None).await;
    assert_eq!(b.request("profile", json!({})).await.unwrap(), json!({}));
    let said = json!({"name": "Bob 🦜", "about": "fishing", "avatar": "blob:7"});
    assert_eq!(b.request("profile", said.clone()).await.unwrap(), said);
    let mut whole = said.clone();
    whole["user"] = json!(bob.name);
    let path = format!("/v1/users/{}/profile", bob.name);
    assert_eq!(get(&cluster, "c", &ann, &path).await.body, whole);
    let patch = (Method::PATCH, "/v1/profile");
    let own = http(&cluster, "a", &ann, patch, Some(&json!({"name": "Ann"}))).await;
    assert_eq!((own.status, own.body), (200, json!({"user": ann.name, "name": "Ann"})));

    let mut a = Socket::login(&cluster.url("a"), &ann.token, "phone").await;
    a.send(&bob.conv(), "c1", "hi").await;
    a.event("sent").await;
    a.send(&cat.conv(), "c2", "hi").await;
    a.event("sent").await;
    let rows = get(&cluster, "a", &ann, "/v1/conversations").await.body["conversations"].clone();
    assert_eq!((&rows[0]["conv"], &rows[1]["conv"]), (&json!(cat.conv()), &json!(bob.conv())));
    assert!(rows[0].get("name").is_none() && rows[0].get("avatar").is_none(), "{rows}");
    assert_eq!((&rows[1]["name"], &rows[1]["avatar"]), (&said["name"], &said["avatar"]));

    let d = json!({"title": "Club", "members": [bob.name, cat.name], "cid": "make"});
    let group = a.request("group.create", d).await.unwrap()["group"].clone();
    let members = json!([
        {"user": ann.name, "role": "admin", "name": "Ann"},
        {"user": bob.name, "role": "member", "name": "Bob 🦜"},
        {"user": cat.name, "role": "member"},
    ]);
    let info = b.request("group.info", json!({"group": group})).await.unwrap();
    assert_eq!(info["members"], members);
    let path = format!("/v1/groups/{}", group.as_str().unwrap());
    assert_eq!(get(&cluster, "c", &ann, &path).await.body["members"], members);

    // Who is blocked is told no more than a name.
    b.request("block", json!({"user": ann.name})).await.unwrap();
    let path = format!("/v1/users/{}/profile", bob.name);
    let shown = json!({"user": bob.name, "name": "Bob 🦜"});
    assert_eq!(get(&cluster, "b", &ann, &path).await.body, shown);
    let rows = get(&cluster, "b", &ann, "/v1/conversations").await.body["conversations"].clone();
    let row = rows.as_array().unwrap().iter().find(|row| row["conv"] == bob.conv()).unwrap();
    assert!(row["name"] == "Bob 🦜" && row.get("avatar").is_none(), "{row}");

    let copy = get(&cluster, "c", &bob, "/v1/export").await.text;
    let rows: Vec<Value> = copy.lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    let of = |kind: &str| rows.iter().find(|row| row["type"] == kind).cloned().unwrap();
    assert_eq!(of("profile")["about"], "fishing");
    assert_eq!(of("settings"), json!({"type": "settings", "last_seen": "everyone"}));
    assert_eq!(of("blocked"), json!({"type": "blocked", "user": ann.name}));
    let account = format!("/v1/account?confirm={}", bob.name);
    let erased = http(&cluster, "a", &bob, (Method::DELETE, &account), None).await;
    assert_eq!(erased.status, 200, "{erased:?}");
    let path = format!("/v1/users/{}/profile", bob.name);
    let gone = get(&cluster, "a", &cat, &path).await;
    assert_eq!((gone.status, &gone.body["code"]), (410, &json!("gone")));
}

#[tokio::test]
async fn a_list_is_told_without_a_name_whose_home_is_away() {
    let cluster = Cluster::start(3).await;
    let (ann, bob) = (cluster.user_led_by("ann", "a").await, cluster.user_led_by("bob", "c").await);
    let patch = (Method::PATCH, "/v1/profile");
    let said = http(&cluster, "b", &bob, patch, Some(&json!({"name": "Bob"}))).await;
    assert_eq!(said.status, 200, "{said:?}");
    let mut a = Socket::login(&cluster.url("a"), &ann.token, "phone").await;
    a.send(&bob.conv(), "c1", "hi").await;
    a.event("sent").await;
    cluster.stop("c");
    let list = get(&cluster, "a", &ann, "/v1/conversations").await;
    assert_eq!(list.status, 200, "{list:?}");
    assert_eq!(list.body["conversations"][0]["conv"], bob.conv());
    assert!(list.body["conversations"][0].get("name").is_none(), "{list:?}");
    eventually("the name should come back with its home", || async {
        let list = get(&cluster, "a", &ann, "/v1/conversations").await;
        (list.body["conversations"][0]["name"] == "Bob").then_some(())
    })
    .await;
}

#[tokio::test]
async fn people_of_whom_nothing_is_in_memory_are_named_in_lists_as_each_reader_may_see_them() {
    let cluster = Cluster::start(3).await;
    let (ann, eve) = (cluster.user("ann").await, cluster.user("eve").await);
    let mut a = Socket::login(&cluster.url("a"), &ann.token, "phone").await;
    let mut e = Socket::login(&cluster.url("b"), &eve.token, "phone").await;
    let mut named = Vec::new();
    for (at, leader) in ["a", "b", "c", "a", "b", "c"].into_iter().enumerate() {
        let friend = cluster.user_led_by(&format!("friend{at}"), leader).await;
        let said = json!({"name": format!("Friend {at}"), "avatar": format!("blob:{at}")});
        let patch = (Method::PATCH, "/v1/profile");
        assert_eq!(http(&cluster, leader, &friend, patch, Some(&said)).await.status, 200);
        let block = format!("/v1/blocked/{}", eve.name);
        let put = || (Method::PUT, block.as_str());
        assert_eq!(http(&cluster, leader, &friend, put(), None).await.status, 204);
        a.send(&friend.conv(), &format!("c{at}"), "hi").await;
        named.push((json!(friend.conv()), said));
        // Who is blocked has the chat from before.
        let delete = (Method::DELETE, block.as_str());
        assert_eq!(http(&cluster, leader, &friend, delete, None).await.status, 204);
        e.send(&friend.conv(), &format!("c{at}"), "hi").await;
        assert_eq!(http(&cluster, leader, &friend, put(), None).await.status, 204);
    }
    named.sort_by_key(|(conv, _)| conv.to_string());
    // What is written when a node ends is not in memory when it comes back.
    for name in cluster.names() {
        cluster.terminate(&name).await;
    }
    cluster.start_all();
    cluster.ready().await;
    for (reader, pictures) in [(&ann, true), (&eve, false), (&ann, true)] {
        for node in ["a", "b", "c"] {
            let mut rows = listed(&cluster, node, reader, named.len()).await;
            rows.sort_by_key(|row| row["conv"].to_string());
            let told = rows.iter().map(|row| (&row["conv"], &row["name"], &row["avatar"]));
            let nothing = Value::Null;
            let shown = |avatar| if pictures { avatar } else { &nothing };
            let said = named.iter().map(|(conv, d)| (conv, &d["name"], shown(&d["avatar"])));
            assert_eq!(told.collect::<Vec<_>>(), said.collect::<Vec<_>>(), "{node}");
        }
    }
}

/// The chats of somebody who has so many.
async fn listed(cluster: &Cluster, node: &str, by: &User, count: usize) -> Vec<Value> {
    eventually("all chats should be there", || async {
        let list = get(cluster, node, by, "/v1/conversations").await.body;
        let rows = list["conversations"].as_array()?.clone();
        (rows.len() == count).then_some(rows)
    })
    .await
}

#[tokio::test]
async fn what_is_asked_wrongly_of_people_is_refused_in_words() {
    let cluster = shared().await;
    let ann = cluster.user("ann").await;
    let mut a = Socket::login(&cluster.url("a"), &ann.token, "phone").await;
    for (op, d, code, field) in [
        ("block", json!({"user": "nobody-here"}), "not_found", "nobody-here"),
        ("block", json!({"user": ann.name}), "bad_request", "user"),
        ("block", json!({}), "bad_request", "user"),
        ("unblock", json!({"user": "No Name"}), "bad_request", "user"),
        ("settings", json!({"last_seen": "sometimes"}), "bad_request", "last_seen"),
        ("profile", json!({"name": "a\u{7}"}), "bad_request", "name"),
        ("profile", json!({"about": "x".repeat(513)}), "too_large", "about"),
    ] {
        let err = a.request(op, d.clone()).await.unwrap_err();
        assert_eq!(err["code"], code, "{op} {d}");
        assert!(err["message"].as_str().unwrap().contains(field), "{op} {d}: {err}");
    }
    let unblocked = a.request("unblock", json!({"user": "nobody-here"})).await;
    assert_eq!(unblocked.unwrap(), json!({}), "nobody is blocked afterwards");
    let mut refused = None;
    for _ in 0..15 {
        let answer = a.request("settings", json!({"last_seen": "everyone"})).await;
        refused = answer.err().or(refused);
    }
    let refused = refused.expect("settings are changed too often");
    assert_eq!((&refused["code"], &refused["retry"]), (&json!("rate_limited"), &json!(true)));
}

#[tokio::test]
async fn nobody_flickers_for_others_because_some_are_blocked_when_a_home_dies() {
    let cluster = Cluster::start(3).await;
    let bob = cluster.user_led_by("bob", "c").await;
    let (ann, cat) = (cluster.user_led_by("ann", "a").await, cluster.user_led_by("cat", "a").await);
    let mut b = Socket::login(&cluster.url("b"), &bob.token, "phone").await;
    b.request("block", json!({"user": ann.name})).await.unwrap();
    // They know nothing of bob, and may be the first to tell the new home what they know.
    let mut blocked = Vec::new();
    for device in 0..8 {
        let url = cluster.url("a");
        let mut socket = Socket::login(&url, &ann.token, &format!("d{device}")).await;
        assert_eq!(watch(&mut socket, &bob).await, unseen(&bob));
        blocked.push(socket);
    }
    let mut c = Socket::login(&cluster.url("a"), &cat.token, "phone").await;
    assert_eq!(watch(&mut c, &bob).await["online"], true);
    cluster.kill9("c");
    let until = Instant::now() + Duration::from_secs(9);
    while Instant::now() < until {
        for socket in blocked.iter_mut().chain([&mut b, &mut c]) {
            socket.tell("ping", json!({})).await;
        }
        // Each is silent again when its pong has come.
        for socket in blocked.iter_mut().chain([&mut b]) {
            while let Ok(event) = socket.try_event(Duration::from_millis(10)).await {
                assert_ne!(event["ev"], "presence", "{event}");
            }
        }
        loop {
            match c.try_event(Duration::from_secs(1)).await {
                Ok(event) => assert_ne!(event["ev"], "presence", "{event}"),
                Err(over) => break assert_eq!(over, Over::Silent),
            }
        }
    }
    assert_eq!(seen(&cluster, "b", &cat, &bob).await["online"], true);
    for socket in &mut blocked {
        while let Ok(event) = socket.try_event(Duration::from_millis(10)).await {
            assert_ne!(event["ev"], "presence", "{event}");
        }
    }
}
