//! Promise: who watches somebody knows whether they are there, through failures, and who is typing is seen.

use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::harness::{Cluster, User, eventually, shared};
use crate::socket::{MSGPACK, Over, Socket};
use crate::web;

/// Longest time a client may be quiet, with room to spare.
const BEAT: Duration = Duration::from_secs(3);

fn wall_ms() -> u64 {
    actors::clock::wall().0
}

/// Watches one user; what is told of them at once.
async fn watch(socket: &mut Socket, user: &User) -> Value {
    let ok = socket.request("watch", json!({"users": [user.name]})).await.expect("an answer");
    let rows = ok["presence"].as_array().expect("rows");
    assert_eq!(rows.len(), 1, "{ok}");
    assert_eq!(rows[0]["user"], user.name);
    rows[0].clone()
}

/// The next presence event, which must be of this user.
async fn presence(socket: &mut Socket, user: &User) -> Value {
    let event = socket.event("presence").await;
    assert!(event.get("n").is_none(), "ephemeral: {event}");
    assert_eq!(event["d"]["user"], user.name);
    event["d"].clone()
}

/// The events called `ev` that come within this time, while all sockets go on saying that they live.
async fn heard(sockets: &mut [&mut Socket], ev: &str, within: Duration) -> Vec<Value> {
    let (until, mut events) = (Instant::now() + within, Vec::new());
    while Instant::now() < until {
        for socket in &mut *sockets {
            socket.tell("ping", json!({})).await;
        }
        let beat = (Instant::now() + BEAT).min(until);
        while let Some(left) = beat.checked_duration_since(Instant::now()) {
            match sockets[0].try_event(left).await {
                Ok(event) if event["ev"] == ev => events.push(event["d"].clone()),
                Ok(_) => {}
                Err(Over::Silent) => break,
                Err(over) => panic!("the socket is gone: {over:?}"),
            }
        }
    }
    events
}

/// The answer over HTTP.
async fn asked(cluster: &Cluster, node: &str, by: &User, user: &str) -> web::Answer {
    let url = format!("{}/v1/users/{user}/presence", cluster.url(node));
    web::call(Method::GET, &url, Some(&by.token), None).await.expect("an answer")
}

#[tokio::test]
async fn a_watcher_hears_who_comes_and_goes_and_when_they_were_last_there() {
    let cluster = shared().await;
    let (ann, bob) = (cluster.user("ann").await, cluster.user("bob").await);
    let mut a = Socket::login(&cluster.url("a"), &ann.token, "phone").await;
    let row = watch(&mut a, &bob).await;
    assert_eq!(row, json!({"user": bob.name, "online": false, "last_seen_ms": null}));

    let came = wall_ms();
    let phone = Socket::login(&cluster.url("b"), &bob.token, "phone").await;
    let online = presence(&mut a, &bob).await;
    assert_eq!(online["online"], true);
    assert!(online["last_seen_ms"].as_u64().is_some_and(|seen| seen + 5_000 > came), "{online}");
    assert_eq!(asked(&cluster, "c", &ann, &bob.name).await.body["online"], true);
    // A second device is no news, nor is that one of two goes.
    let laptop = Socket::login(&cluster.url("c"), &bob.token, "laptop").await;
    phone.leave().await;
    assert_eq!(heard(&mut [&mut a], "presence", BEAT).await, Vec::<Value>::new());

    let went = wall_ms();
    laptop.leave().await;
    let offline = presence(&mut a, &bob).await;
    assert_eq!(offline["online"], false);
    let seen = offline["last_seen_ms"].as_u64().expect("a time");
    assert!(seen.abs_diff(went) < 5_000, "{seen}, not {went}");
    let over_http = asked(&cluster, "b", &ann, &bob.name).await;
    assert_eq!(over_http.status, 200);
    assert_eq!(over_http.body, offline);
    let mut late = Socket::login(&cluster.url("c"), &ann.token, "laptop").await;
    assert_eq!(watch(&mut late, &bob).await, offline, "whoever asks later hears the same");
}

#[tokio::test]
async fn rows_come_as_asked_and_a_watch_ends_when_it_is_not_wanted() {
    let cluster = shared().await;
    let (ann, bob, cat) =
        (cluster.user("ann").await, cluster.user("bob").await, cluster.user("cat").await);
    let mut a = Socket::open(&cluster.url("a"), Some(MSGPACK)).await.unwrap();
    a.expect_hello().await;
    a.auth(&ann.token, "phone", None).await;
    let names = [&cat.name, &ann.name, &bob.name, &cat.name];
    let ok = a.request("watch", json!({"users": names})).await.unwrap();
    let rows = ok["presence"].as_array().unwrap();
    let told: Vec<_> = rows.iter().map(|row| row["user"].as_str().unwrap()).collect();
    assert_eq!(told, names);
    assert_eq!(rows[1]["online"], true, "one may watch oneself");
    a.request("unwatch", json!({"users": [bob.name]})).await.unwrap();
    let b = Socket::login(&cluster.url("b"), &bob.token, "phone").await;
    let c = Socket::login(&cluster.url("c"), &cat.token, "phone").await;
    let events = heard(&mut [&mut a], "presence", BEAT).await;
    let users: Vec<&Value> = events.iter().map(|event| &event["user"]).collect();
    assert_eq!(users, [&json!(cat.name)], "bob is not watched any more");
    b.leave().await;
    c.leave().await;
    assert_eq!(presence(&mut a, &cat).await["online"], false);
}

#[tokio::test]
async fn an_online_user_does_not_flicker_when_their_home_dies() {
    let cluster = Cluster::start(3).await;
    let bob = cluster.user_led_by("bob", "c").await;
    let (ann, dan) = (cluster.user_led_by("ann", "a").await, cluster.user_led_by("dan", "c").await);
    let mut b = Socket::login(&cluster.url("b"), &bob.token, "phone").await;
    let mut a = Socket::login(&cluster.url("a"), &ann.token, "phone").await;
    assert_eq!(watch(&mut a, &bob).await["online"], true);
    assert_eq!(watch(&mut a, &dan).await["online"], false);
    cluster.kill9("c");
    // Asked anew during the stall and after it: it is never said that bob is gone.
    let events = heard(&mut [&mut a, &mut b], "presence", Duration::from_secs(9)).await;
    assert_eq!(events, Vec::<Value>::new(), "no news of either");
    assert_eq!(asked(&cluster, "a", &ann, &bob.name).await.body["online"], true);
    assert_ne!(cluster.leader_of(&bob.name, "a").await, "c");
    // And the new home knows who watches.
    let d = Socket::login(&cluster.url("b"), &dan.token, "phone").await;
    assert_eq!(presence(&mut a, &dan).await["online"], true);
    b.leave().await;
    assert_eq!(presence(&mut a, &bob).await["online"], false);
    d.leave().await;
    assert_eq!(presence(&mut a, &dan).await["online"], false);
}

#[tokio::test]
async fn who_is_asked_about_in_the_stall_is_there_until_they_had_their_chance() {
    let cluster = Cluster::start(3).await;
    let bob = cluster.user_led_by("bob", "c").await;
    let ann = cluster.user_led_by("ann", "a").await;
    let mut b = Socket::login(&cluster.url("b"), &bob.token, "phone").await;
    cluster.kill9("c");
    let until = Instant::now() + Duration::from_secs(6);
    while Instant::now() < until {
        let answer = asked(&cluster, "a", &ann, &bob.name).await;
        assert_eq!((answer.status, &answer.body["online"]), (200, &json!(true)), "{answer:?}");
        b.tell("ping", json!({})).await;
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn who_dies_with_their_node_is_gone_soon() {
    let cluster = Cluster::start(3).await;
    let bob = cluster.user_led_by("bob", "a").await;
    let ann = cluster.user_led_by("ann", "a").await;
    let b = Socket::login(&cluster.url("c"), &bob.token, "phone").await;
    let mut a = Socket::login(&cluster.url("a"), &ann.token, "phone").await;
    assert_eq!(watch(&mut a, &bob).await["online"], true);
    cluster.kill9("c");
    let events = heard(&mut [&mut a], "presence", Duration::from_secs(14)).await;
    let told: Vec<&Value> = events.iter().map(|event| &event["online"]).collect();
    assert_eq!(told, [&json!(false)]);
    drop(b);
    // Through another node they are back at once.
    let _b = Socket::login(&cluster.url("b"), &bob.token, "phone").await;
    assert_eq!(presence(&mut a, &bob).await["online"], true);
}

#[tokio::test]
async fn last_seen_is_true_to_within_half_a_minute_whatever_dies() {
    let cluster = Cluster::start(3).await;
    let (ann, bob, cat) =
        (cluster.user("ann").await, cluster.user("bob").await, cluster.user("cat").await);
    let mut b = Socket::login(&cluster.url("b"), &bob.token, "phone").await;
    let c = Socket::login(&cluster.url("c"), &cat.token, "phone").await;
    heard(&mut [&mut b], "presence", Duration::from_secs(5)).await;
    c.leave().await;
    let went = wall_ms();
    heard(&mut [&mut b], "presence", Duration::from_secs(28)).await;
    let died = wall_ms();
    cluster.kill9_all();
    cluster.start_all();
    cluster.ready().await;
    let seen = async |user: &User| {
        let answer = asked(&cluster, "a", &ann, &user.name).await;
        answer.body["last_seen_ms"].as_u64().unwrap_or_else(|| panic!("{answer:?}"))
    };
    let (of_bob, of_cat) = (seen(&bob).await, seen(&cat).await);
    assert!(of_bob <= died && died - of_bob < 30_000, "{}", died - of_bob);
    assert!(of_cat.abs_diff(went) < 3_000, "{of_cat}, not {went}");
    eventually("bob should be known to be gone", || async {
        let answer = asked(&cluster, "b", &ann, &bob.name).await;
        (answer.body["online"] == false).then_some(())
    })
    .await;
}

#[tokio::test]
async fn typing_is_seen_by_the_other_side_and_by_nobody_else() {
    let cluster = shared().await;
    let (ann, bob) = (cluster.user("ann").await, cluster.user("bob").await);
    let mut a = Socket::login(&cluster.url("a"), &ann.token, "phone").await;
    let mut other = Socket::login(&cluster.url("b"), &ann.token, "laptop").await;
    a.request("typing", json!({"to": bob.conv(), "on": true})).await.unwrap();
    let mut phone = Socket::login(&cluster.url("b"), &bob.token, "phone").await;
    let mut laptop = Socket::login(&cluster.url("c"), &bob.token, "laptop").await;
    for on in [true, false] {
        a.tell("typing", json!({"to": bob.conv(), "on": on})).await;
        for socket in [&mut phone, &mut laptop] {
            let event = socket.event("typing").await;
            let d = json!({"conv": ann.conv(), "from": ann.name, "on": on});
            assert_eq!(event, json!({"ev": "typing", "d": d}));
        }
    }
    let nothing = heard(&mut [&mut other, &mut phone], "typing", Duration::from_secs(1)).await;
    assert_eq!(nothing, Vec::<Value>::new());
    assert_eq!(heard(&mut [&mut phone], "typing", BEAT).await, Vec::<Value>::new(), "not stored");
    // To nobody who exists: lost, like anything that is typed to those who are not there.
    a.request("typing", json!({"to": "u:nobody-here", "on": true})).await.unwrap();
}

#[tokio::test]
async fn typing_in_a_group_is_seen_by_its_members_on_all_nodes() {
    let cluster = shared().await;
    let mut users = Vec::new();
    for name in ["ann", "bob", "cat", "dan", "eve", "stranger"] {
        users.push(cluster.user(name).await);
    }
    let mut sockets = Vec::new();
    for (user, node) in users.iter().zip(["a", "b", "c", "a", "b", "c"]) {
        sockets.push(Socket::login(&cluster.url(node), &user.token, "phone").await);
    }
    let members: Vec<&str> = users[1..5].iter().map(|user| user.name.as_str()).collect();
    let d = json!({"title": "typing", "members": members, "cid": "make"});
    let group = sockets[0].request("group.create", d).await.unwrap()["group"].clone();
    let conv = format!("g:{}", group.as_str().unwrap());
    sockets[5].tell("typing", json!({"to": conv, "on": true})).await;
    sockets[1].tell("typing", json!({"to": conv, "on": true})).await;
    for place in [0, 2, 3, 4] {
        let event = sockets[place].event("typing").await;
        let d = json!({"conv": conv, "from": users[1].name, "on": true});
        assert_eq!(event["d"], d, "not from a stranger");
    }
    for place in [1, 5] {
        let heard = heard(&mut [&mut sockets[place]], "typing", Duration::from_secs(1)).await;
        assert_eq!(heard, Vec::<Value>::new());
    }
}

#[tokio::test]
async fn what_is_asked_wrongly_is_refused_in_words() {
    let cluster = shared().await;
    let (ann, bob) = (cluster.user("ann").await, cluster.user("bob").await);
    let mut a = Socket::login(&cluster.url("a"), &ann.token, "phone").await;
    let err = a.request("watch", json!({"users": [bob.name, "nobody-here"]})).await.unwrap_err();
    assert_eq!(err["code"], "not_found");
    assert!(err["message"].as_str().unwrap().contains("nobody-here"), "{err}");
    // Nothing is watched by it.
    let b = Socket::login(&cluster.url("b"), &bob.token, "phone").await;
    assert_eq!(heard(&mut [&mut a], "presence", BEAT).await, Vec::<Value>::new());
    b.leave().await;
    let names: Vec<String> = (0..101).map(|i| format!("u{i}")).collect();
    for (op, d, field) in [
        ("watch", json!({"users": names}), "users"),
        ("watch", json!({"users": "bob"}), "users"),
        ("watch", json!({"users": ["No Name"]}), "users"),
        ("watch", json!({}), "users"),
        ("unwatch", json!({"users": [1]}), "users"),
        ("typing", json!({"to": "bob", "on": true}), "to"),
        ("typing", json!({"to": bob.conv()}), "on"),
        ("typing", json!({"to": bob.conv(), "on": "yes"}), "on"),
    ] {
        let err = a.request(op, d.clone()).await.unwrap_err();
        assert_eq!(err["code"], "bad_request", "{op} {d}");
        assert!(err["message"].as_str().unwrap().starts_with(field), "{op} {d}: {err}");
    }
    assert_eq!(a.request("watch", json!({"users": []})).await.unwrap(), json!({"presence": []}));
    let mut refused = None;
    for _ in 0..30 {
        let answer = a.request("typing", json!({"to": bob.conv(), "on": true})).await;
        refused = answer.err().or(refused);
    }
    let refused = refused.expect("typing is said too often");
    assert_eq!((&refused["code"], &refused["retry"]), (&json!("rate_limited"), &json!(true)));
    assert!(refused["retry_after_ms"].is_u64());

    assert_eq!(asked(&cluster, "a", &ann, "nobody-here").await.status, 404);
    let nobody = User { token: "nonsense".to_owned(), ..ann };
    assert_eq!(asked(&cluster, "a", &nobody, &bob.name).await.status, 401);
}
