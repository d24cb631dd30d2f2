//! Promise: the list of chats, their pages and the socket tell the same story, wherever and whenever it is asked for.

use hyper::Method;
use serde_json::{Value, json};

use crate::harness::{Cluster, User, eventually, shared};
use crate::socket::Socket;
use crate::web::call;

async fn get(url: &str, path: &str, user: &User) -> Value {
    let answer = call(Method::GET, &format!("{url}{path}"), Some(&user.token), None).await.unwrap();
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.body
}

async fn refused(url: &str, path: &str, user: &User) -> (u16, String) {
    let answer = call(Method::GET, &format!("{url}{path}"), Some(&user.token), None).await.unwrap();
    assert!(answer.body["detail"].is_string(), "{answer:?}");
    (answer.status, answer.body["code"].as_str().expect("a code").to_owned())
}

fn texts(page: &Value) -> Vec<&str> {
    let messages = page["messages"].as_array().expect("messages");
    messages.iter().map(|message| message["body"].as_str().expect("a body")).collect()
}

fn chats(list: &Value) -> Vec<&str> {
    let chats = list["conversations"].as_array().expect("conversations");
    chats.iter().map(|chat| chat["conv"].as_str().expect("its name")).collect()
}

/// Waits until a user's own log has got so far.
async fn reaches(url: &str, user: &User, n: u64) {
    let path = "/v1/conversations";
    eventually(&format!("the log of {} should reach {n}", user.name), || async {
        (get(url, path, user).await["n"].as_u64() >= Some(n)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn chats_are_listed_with_what_is_new_in_them() {
    let cluster = shared().await;
    let (ann, bob, cat) =
        (cluster.user("ann").await, cluster.user("bob").await, cluster.user("cat").await);
    let (url, other) = (cluster.url("a"), cluster.url("c"));
    let empty = get(&url, "/v1/conversations", &bob).await;
    assert_eq!(empty, json!({"conversations": [], "n": 0}));
    let mut a = Socket::login(&url, &ann.token, "phone").await;
    let mut b = Socket::login(&cluster.url("b"), &bob.token, "phone").await;
    let mut c = Socket::login(&other, &cat.token, "phone").await;
    let made = json!({"title": "Club", "members": [bob.name, cat.name], "cid": "make"});
    let group =
        a.request("group.create", made).await.unwrap()["group"].as_str().unwrap().to_owned();
    let club = format!("g:{group}");
    b.event("group").await;
    for cid in ["c1", "c2", "c3"] {
        a.send(&bob.conv(), cid, cid).await;
    }
    c.send(&club, "p1", "to the club").await;
    let posted = b.event_about(&club).await;
    let list = get(&other, "/v1/conversations", &bob).await;
    assert_eq!(list["n"], posted["n"], "as far as the socket has told");
    assert_eq!(chats(&list), [club.as_str(), &ann.conv()]);
    let [first, second] = [&list["conversations"][0], &list["conversations"][1]];
    assert_eq!((&first["title"], &first["unread"]), (&json!("Club"), &json!(1)));
    let mut last = posted["d"].clone();
    last["n"] = posted["n"].clone();
    assert_eq!(first["last"], last, "the event, and its number");
    assert_eq!((&second["unread"], &second["received"]), (&json!(3), &json!(3)));
    assert_eq!((&second["last"]["body"], &second["last"]["seq"]), (&json!("c3"), &json!(3)));
    // In parts.
    let one = get(&url, "/v1/conversations?limit=1", &bob).await;
    assert_eq!(chats(&one), [club.as_str()]);
    let cursor = one["cursor"].as_str().expect("there is more");
    let two = get(&url, &format!("/v1/conversations?limit=1&cursor={cursor}"), &bob).await;
    assert_eq!((chats(&two), two.get("cursor")), (vec![ann.conv().as_str()], None));
    // What is read is not new, and its sender sees the ticks.
    b.tell("read", json!({"conv": ann.conv(), "seq": 2})).await;
    a.receipt("read", 2).await;
    let list = get(&url, "/v1/conversations", &bob).await;
    let chat = &list["conversations"][1];
    assert_eq!((&chat["unread"], &chat["read_up_to"]), (&json!(1), &json!(2)));
    let list = get(&url, "/v1/conversations", &ann).await;
    let chats = list["conversations"].as_array().unwrap();
    let chat = chats.iter().find(|chat| chat["conv"] == bob.conv()).expect("ann wrote to bob");
    assert_eq!(
        (&chat["read"], &chat["unread"], &chat["last"]["cid"]),
        (&json!(2), &json!(0), &json!("c3"))
    );
    assert_eq!(chat["last"]["from"], ann.name);
}

#[tokio::test]
async fn pages_are_cut_where_they_are_asked_to_be() {
    let cluster = shared().await;
    let (ann, bob, cat) =
        (cluster.user("ann").await, cluster.user("bob").await, cluster.user("cat").await);
    let url = cluster.url("b");
    let mut a = Socket::login(&cluster.url("a"), &ann.token, "phone").await;
    let mut c = Socket::login(&cluster.url("c"), &cat.token, "phone").await;
    let mut mids = Vec::new();
    let mut middle = 0;
    for i in 0..10 {
        let sent = a.send(&bob.conv(), &format!("a{i}"), &format!("a{i}")).await;
        c.send(&bob.conv(), &format!("c{i}"), &format!("c{i}")).await;
        if i == 5 {
            middle = sent["at"].as_u64().unwrap();
        }
        mids.push(sent["mid"].as_str().unwrap().to_owned());
    }
    let path = format!("/v1/conversations/{}/messages", ann.conv());
    let page = |params: &'static str| {
        let (url, path, bob) = (url.clone(), format!("{path}?{params}"), &bob);
        async move { get(&url, &path, bob).await }
    };
    let all = page("").await;
    assert_eq!(texts(&all), ["a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "a9"]);
    assert_eq!((&all["more"], &all["n"]), (&json!(false), &json!(20)));
    let ns: Vec<u64> = (0..10).map(|i| all["messages"][i]["n"].as_u64().unwrap()).collect();
    let newest = page("limit=3").await;
    assert_eq!((texts(&newest), &newest["more"]), (vec!["a7", "a8", "a9"], &json!(true)));
    assert_eq!(texts(&page("limit=3&offset=2").await), ["a5", "a6", "a7"]);
    let get = |params: String| {
        let (url, path, bob) = (url.clone(), format!("{path}?{params}"), &bob);
        async move { get(&url, &path, bob).await }
    };
    let before = get(format!("limit=2&before={}", ns[4])).await;
    assert_eq!((texts(&before), &before["more"]), (vec!["a2", "a3"], &json!(true)));
    let after = get(format!("limit=4&after={}", ns[6])).await;
    assert_eq!((texts(&after), &after["more"]), (vec!["a7", "a8", "a9"], &json!(false)));
    let since = get(format!("since_ms={middle}")).await;
    assert_eq!(texts(&since).last(), Some(&"a9"));
    assert!(texts(&since).contains(&"a5") && texts(&since).len() <= 6, "{since}");
    // One message, and what somebody wrote.
    let one = self::get(&url, &format!("/v1/messages/{}", mids[3]), &bob).await;
    assert_eq!((&one["body"], &one["conv"]), (&json!("a3"), &json!(ann.conv())));
    reaches(&url, &ann, 10).await;
    let own = self::get(&url, &format!("/v1/messages/{}", mids[3]), &ann).await;
    assert_eq!(own["cid"], "a3");
    let from = format!("/v1/messages?from={}&limit=5", cat.name);
    assert_eq!(texts(&self::get(&url, &from, &bob).await), ["c5", "c6", "c7", "c8", "c9"]);
    // Not theirs, not there, not so.
    let foreign = format!("/v1/messages/{}", mids[3]);
    assert_eq!(refused(&url, &foreign, &cat).await, (404, "not_found".to_owned()));
    for wrong in ["?limit=0", "?limit=201", "?before=x", "?since_ms=-1", "?offset=99999999999"] {
        assert_eq!(
            refused(&url, &format!("{path}{wrong}"), &bob).await.1,
            "bad_request",
            "{wrong}"
        );
    }
    let odd = "/v1/conversations/bob/messages";
    assert_eq!(refused(&url, odd, &bob).await, (400, "bad_request".to_owned()));
    let nobody = call(Method::GET, &format!("{url}/v1/conversations"), None, None).await.unwrap();
    assert_eq!(nobody.status, 401);
}

#[tokio::test]
async fn a_groups_order_is_read_from_where_one_came_in() {
    let cluster = shared().await;
    let (ann, bob, cat) =
        (cluster.user("ann").await, cluster.user("bob").await, cluster.user("cat").await);
    let url = cluster.url("c");
    let mut a = Socket::login(&cluster.url("a"), &ann.token, "phone").await;
    let made = json!({"title": "Log", "members": [bob.name], "cid": "make"});
    let group =
        a.request("group.create", made).await.unwrap()["group"].as_str().unwrap().to_owned();
    let club = format!("g:{group}");
    for i in 2..=6 {
        a.send(&club, &format!("p{i}"), &format!("p{i}")).await;
    }
    a.request("group.add", json!({"group": group, "users": [cat.name]})).await.unwrap();
    a.send(&club, "p8", "p8").await;
    let path = format!("/v1/groups/{group}/messages");
    let whole = get(&url, &path, &bob).await;
    assert_eq!(texts(&whole), ["p2", "p3", "p4", "p5", "p6", "p8"]);
    assert_eq!((&whole["messages"][5]["seq"], &whole["n"]), (&json!(8), &json!(8)));
    let part = get(&url, &format!("{path}?after=3&limit=2"), &bob).await;
    assert_eq!((texts(&part), &part["more"]), (vec!["p4", "p5"], &json!(true)));
    assert_eq!(texts(&get(&url, &path, &cat).await), ["p8"], "from the joining on");
    a.request("group.remove", json!({"group": group, "users": [bob.name]})).await.unwrap();
    assert_eq!(refused(&url, &path, &bob).await, (403, "forbidden".to_owned()));
    let none = "/v1/groups/nosuchgroup/messages";
    assert_eq!(refused(&url, none, &bob).await, (404, "not_found".to_owned()));
}

/// Walks back through a whole conversation, page by page.
async fn walk(url: &str, path: &str, user: &User) -> Vec<u64> {
    let (mut all, mut before) = (Vec::new(), String::new());
    loop {
        let page = get(url, &format!("{path}?limit=70{before}"), user).await;
        let messages = page["messages"].as_array().unwrap();
        let ns: Vec<u64> = messages.iter().map(|m| m["seq"].as_u64().unwrap()).collect();
        all.splice(0..0, ns);
        if page["more"] == false {
            return all;
        }
        before = format!("&before={}", messages[0]["n"]);
    }
}

#[tokio::test]
async fn what_lies_on_disk_is_read_while_more_comes_in() {
    const STORED: u64 = 150;
    let cluster = Cluster::start(3).await;
    cluster.ready().await;
    let (ann, bob, cat) =
        (cluster.user("ann").await, cluster.user("bob").await, cluster.user("cat").await);
    let mut mids = Vec::new();
    for (from, via) in [(&ann, "a"), (&cat, "c")] {
        let mut socket = Socket::login(&cluster.url(via), &from.token, "phone").await;
        for i in 1..=STORED {
            let sent = socket.send(&bob.conv(), &format!("{via}{i}"), &"x".repeat(3_000)).await;
            mids.push(sent["mid"].as_str().unwrap().to_owned());
        }
    }
    let mut b = Socket::login(&cluster.url("b"), &bob.token, "phone").await;
    while b.next_event().await["n"].as_u64() < Some(200) {}
    b.ack(200).await;
    while b.next_event().await["n"].as_u64() != Some(2 * STORED) {}
    b.ack(2 * STORED).await;
    // Stopped in order, all is in the checkpoints; nothing of it is in memory afterwards.
    for name in cluster.names() {
        assert!(cluster.terminate(&name).await.success());
    }
    cluster.start_all();
    cluster.ready().await;
    let url = cluster.url("a");
    let list = get(&url, "/v1/conversations", &bob).await;
    assert_eq!(chats(&list), [cat.conv(), ann.conv()]);
    assert_eq!(list["conversations"][1]["last"]["seq"], STORED);
    // While ann goes on writing.
    let writing = tokio::spawn({
        let (url, token, to) = (cluster.url("c"), ann.token.clone(), bob.conv());
        async move {
            let mut socket = Socket::login(&url, &token, "laptop").await;
            for i in 1..=60 {
                socket.send(&to, &format!("more{i}"), "more").await;
            }
        }
    });
    let path = format!("/v1/conversations/{}/messages", ann.conv());
    for _ in 0..3 {
        let seen = walk(&url, &path, &bob).await;
        let all: Vec<u64> = (1..=*seen.last().unwrap()).collect();
        assert_eq!(seen, all, "none missing and none twice");
        assert!(seen.len() as u64 >= STORED);
    }
    writing.await.unwrap();
    for mid in [&mids[0], &mids[149], &mids[299]] {
        let one = get(&url, &format!("/v1/messages/{mid}"), &bob).await;
        assert_eq!(&one["mid"], mid.as_str());
    }
}
