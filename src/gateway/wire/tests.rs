//! Wire: frames in both formats, right and wrong.

use std::sync::{Arc, LazyLock};

use actors::ids::{
    Cid, Conversation, DeviceId, Epoch, GroupId, Kind, MessageId, Number, Seq, Timestamp, UserId,
};
use actors::message::group::{Call, Info, News, Progress};
use actors::message::{Accepted, Content, DeviceInfo, Entry, Position, Resume, Resumed, What};
use actors::packet::Presence;
use proptest::prelude::{any, prop};
use proptest::{prop_assert_eq, proptest};
use serde_json::{Value, json};

use super::people::PeopleBody;
use super::{Body, Code, Draft, Error, Format, Greeting, GroupBody, GroupRequest, Outgoing};
use super::{PresenceRequest, Request, Teller, decode};
use crate::described::Described;

fn ask(text: &str) -> Result<Request, Error> {
    decode(Format::Json, text.as_bytes()).expect("a frame").request
}

fn code(text: &str) -> (Code, String) {
    let error = ask(text).expect_err("a refusal");
    (error.code, error.message.into_owned())
}

fn pack(value: &Value) -> Vec<u8> {
    rmp_serde::to_vec(value).expect("packs")
}

fn unpack(bytes: &[u8]) -> Value {
    rmp_serde::from_slice(bytes).expect("unpacks")
}

#[test]
fn what_is_no_frame_is_told_apart() {
    for bad in
        ["", "{", "[]", "7", "\"x\"", "{\"op\":}", "{\"op\":\"ping\"} x", "{\"op\":\"p", "nul"]
    {
        assert!(decode(Format::Json, bad.as_bytes()).is_err(), "{bad}");
    }
    assert!(decode(Format::Json, b"{\"op\":\"\xff\"}").is_err());
    for bad in
        [&[][..], &[0x80, 0x80], &[0x81, 0xa1], &[0xc1], &[0xdf, 255, 255, 255, 255], &[0x93]]
    {
        assert!(decode(Format::Msgpack, bad).is_err(), "{bad:?}");
    }
}

#[test]
fn requests_are_understood() {
    assert_eq!(ask(r#"{"op":"ping"}"#), Ok(Request::Ping(None)));
    assert_eq!(ask(r#"{"op":"ping","d":{"n":7}}"#), Ok(Request::Ping(Some(Number(7)))));
    assert_eq!(ask(r#"{"op":"ack","d":{"n":7,"more":[1,{}]}}"#), Ok(Request::Ack(Number(7))));
    let pull = Request::Pull { after: Number(3), limit: 256 };
    assert_eq!(ask(r#"{"op":"pull","d":{"after":3}}"#), Ok(pull));
    let conv = Conversation::User(UserId::parse("al").unwrap());
    let read = Request::Read { conv, seq: Seq(57) };
    assert_eq!(ask(r#"{"op":"read","d":{"conv":"u:al","seq":57}}"#), Ok(read));
    assert_eq!(ask(r#"{"op":"device.list"}"#), Ok(Request::Devices));
    let auth = Request::Auth {
        token: "t".into(),
        device: DeviceId::parse("d").unwrap(),
        resume: Some(Resume { n: Number(4), epoch: Epoch::default() }),
    };
    let text = r#"{"op":"auth","d":{"token":"t","device":"d","resume":{"n":4,"epoch":"what"}}}"#;
    assert_eq!(ask(text), Ok(auth));
}

#[test]
fn a_message_comes_through_in_both_formats() {
    let value = json!({"id": "c\u{e9}17", "op": "send", "d": {
        "to": "u:bob", "cid": "c1", "kind": "text", "body": "hi \"there\"\n\u{1F600}",
        "reply_to": null, "client": {"a": [1, -2, 2.5, true, null], "b": {"c": "d\u{1}"}},
    }});
    let json = decode(Format::Json, value.to_string().as_bytes()).unwrap();
    let packed = decode(Format::Msgpack, &pack(&value)).unwrap();
    assert_eq!(json.id.as_deref(), Some("c\u{e9}17"));
    for frame in [json, packed] {
        let Ok(Request::Send(draft)) = frame.request else { panic!("a message") };
        let Draft { to, cid, content } = *draft;
        assert_eq!((to.to_string().as_str(), cid.as_str()), ("u:bob", "c1"));
        assert_eq!(&*content.body, "hi \"there\"\n\u{1F600}");
        assert_eq!(content.reply_to, None);
        let client: Value = serde_json::from_str(content.client.as_ref().unwrap()).unwrap();
        assert_eq!(client, value["d"]["client"]);
    }
}

#[test]
fn a_wrong_field_is_named() {
    let send = |change: fn(&mut Value)| {
        let mut value = json!({"op": "send", "d": {
            "to": "u:bob", "cid": "c1", "kind": "text", "body": "hi",
        }});
        change(&mut value["d"]);
        let json = code(&value.to_string());
        let packed = decode(Format::Msgpack, &pack(&value)).unwrap().request.unwrap_err();
        assert_eq!((packed.code, packed.message.as_ref()), (json.0, json.1.as_str()));
        (json.0, json.1.split(':').next().unwrap_or_default().to_owned())
    };
    let bad = |field: &str| (Code::BadRequest, field.to_owned());
    assert_eq!(send(|d| d["to"] = json!("bob")), bad("to"));
    assert_eq!(send(|d| d["to"] = json!("u:BOB")), bad("to"));
    assert_eq!(send(|d| d["cid"] = json!("")), bad("cid"));
    assert_eq!(send(|d| d["cid"] = json!("x".repeat(65))), bad("cid"));
    assert_eq!(send(|d| d["cid"] = json!(5)), bad("cid"));
    assert_eq!(send(|d| d["kind"] = json!("Text")), bad("kind"));
    assert_eq!(send(|d| drop(d.as_object_mut().unwrap().remove("body"))), bad("body"));
    assert_eq!(send(|d| d["body"] = json!({})), bad("body"));
    assert_eq!(send(|d| d["client"] = json!("text")), bad("client"));
    assert_eq!(send(|d| d["reply_to"] = json!("short")), bad("reply_to"));
    let large = |field: &str| (Code::TooLarge, field.to_owned());
    assert_eq!(send(|d| d["body"] = json!("x".repeat(32 * 1024 + 1))), large("body"));
    assert_eq!(send(|d| d["client"] = json!({"a": "x".repeat(1024)})), large("client"));
    assert_eq!(code(r#"{"op":"what"}"#).0, Code::UnknownOp);
    for (text, field) in [
        (r#"{"d":{}}"#, "op"),
        (r#"{"op":5}"#, "op"),
        (r#"{"op":"ack"}"#, "n"),
        (r#"{"op":"ack","d":[]}"#, "d"),
        (r#"{"op":"ack","d":{"n":-1}}"#, "n"),
        (r#"{"op":"ack","d":{"n":1.5}}"#, "n"),
        (r#"{"op":"ack","d":{"n":9007199254740992}}"#, "n"),
        (r#"{"op":"pull","d":{"after":1,"limit":257}}"#, "limit"),
        (r#"{"op":"auth","d":{"token":"t"}}"#, "device"),
        (r#"{"op":"auth","d":{"token":"t","device":"d","resume":{"n":1}}}"#, "resume.epoch"),
        (r#"{"id":7,"op":"ping"}"#, "id"),
        (r#"{"op":"send","d":{"to":"u:b","cid":"c","kind":"k","body":"\ud800"}}"#, "body"),
    ] {
        let (found, message) = code(text);
        assert_eq!((found, message.split(':').next()), (Code::BadRequest, Some(field)), "{text}");
    }
    for text in [
        r#"{"op":"send","d":{"to":"u:b","kind":"text","body":"hi"}}"#,
        r#"{"op":"send","d":{"to":"u:b","cid":null,"kind":"text","body":"hi"}}"#,
    ] {
        let value: Value = serde_json::from_str(text).unwrap();
        let packed = decode(Format::Msgpack, &pack(&value)).unwrap().request.unwrap_err();
        let missing = (Code::BadRequest, "cid: is missing".to_owned());
        assert_eq!((packed.code, packed.message.into_owned()), missing);
        assert_eq!(code(text), missing);
    }
    for (text, message) in [
        (r#"{"d":{}}"#, "op: is missing"),
        (r#"{"op":"ack"}"#, "n: is missing"),
        (r#"{"op":"ack","d":{"n":-1}}"#, "n: must be a whole number from 0"),
        (r#"{"op":"read","d":{"conv":"u:b"}}"#, "seq: is missing"),
        (r#"{"op":"pull"}"#, "after: is missing"),
        (r#"{"op":"device.remove","d":{"device":5}}"#, "device: must be text"),
    ] {
        assert_eq!(code(text), (Code::BadRequest, message.to_owned()), "{text}");
    }
    let long = format!(r#"{{"id":"{}","op":"ping"}}"#, "x".repeat(65));
    assert_eq!(code(&long).0, Code::BadRequest);
}

fn content(client: Option<&str>) -> Arc<Content> {
    Arc::new(Content {
        kind: Kind::parse("text").unwrap(),
        body: "a\"\u{7}\n\u{e9}".into(),
        reply_to: client.map(|_| MessageId(1)),
        client: client.map(Into::into),
    })
}

fn entries() -> Vec<(Entry, Value)> {
    let user = |name| UserId::parse(name).unwrap();
    let device = DeviceId::parse("phone").unwrap();
    let mid = MessageId(2);
    let id = "00000000000000000000000002";
    let conv = || Conversation::User(user("bob"));
    let sent = |client| What::Sent {
        mid,
        conv: conv(),
        seq: Seq(3),
        at: Timestamp(70),
        cid: Cid::parse("c1").unwrap(),
        device: device.clone(),
        content: content(client),
    };
    let message = What::Message {
        mid,
        from: user("bob"),
        device: device.clone(),
        seq: Seq(300),
        content: content(Some(r#"{"a": [1, {"b": -1}]}"#)),
    };
    let by = Some(user("bob"));
    let receipt = What::Receipt { conv: conv(), by, delivered: Seq(57), read: Seq(55) };
    let expired = What::Expired { conv: conv(), mid, seq: Seq(9) };
    let all = [
        (
            message,
            "message",
            json!({"mid": id, "conv": "u:bob", "from": "bob", "device": "phone",
            "seq": 300, "at": 1_700_000_000_000_u64, "kind": "text", "body": "a\"\u{7}\n\u{e9}",
            "reply_to": "00000000000000000000000001", "client": {"a": [1, {"b": -1}]}}),
        ),
        (
            sent(None),
            "sent",
            json!({"mid": id, "conv": "u:bob", "seq": 3, "at": 70, "cid": "c1",
            "device": "phone", "kind": "text", "body": "a\"\u{7}\n\u{e9}"}),
        ),
        (
            receipt,
            "receipt",
            json!({"conv": "u:bob", "by": "bob", "delivered": 57, "read": 55,
            "at": 1_700_000_000_000_u64}),
        ),
        (expired, "expired", json!({"conv": "u:bob", "mid": id, "seq": 9})),
    ];
    let number = |(what, ev, d)| {
        let entry = Entry { n: Number(70_000), at: Timestamp(1_700_000_000_000), what };
        (entry, json!({"n": 70_000, "ev": ev, "d": d}))
    };
    all.into_iter().map(number).collect()
}

/// What a frame says, which must be the same in both formats.
fn told(outgoing: &Outgoing, device: Option<&DeviceId>) -> Value {
    let json = Teller { format: Format::Json, device }.tell(outgoing);
    let packed = Teller { format: Format::Msgpack, device }.tell(outgoing);
    let json: Value = serde_json::from_slice(&json).expect("JSON");
    assert_eq!(unpack(&packed), json);
    static DESCRIBED: LazyLock<Described> =
        LazyLock::new(|| Described::new(crate::gateway::asyncapi()));
    DESCRIBED.wrong_with_frame(&json, op_of(outgoing)).unwrap_or_else(|wrong| panic!("{wrong}"));
    json
}

/// An op that is answered so.
fn op_of(outgoing: &Outgoing) -> Option<&'static str> {
    let Outgoing::Ok { body, .. } = outgoing else { return None };
    Some(match body {
        Body::Done => "ack",
        Body::Auth { .. } => "auth",
        Body::Sent(_) => "send",
        Body::Devices(_) => "device.list",
        Body::Group(GroupBody::Made(_)) => "group.create",
        Body::Group(GroupBody::Info(..)) => "group.info",
        Body::Group(GroupBody::List(_)) => "group.list",
        Body::Group(GroupBody::Receipts(_)) => "receipts",
        Body::Presence(_) => "watch",
        Body::People(PeopleBody::Blocked(_)) => "blocked",
        Body::People(PeopleBody::Settings(_)) => "settings",
        Body::People(PeopleBody::Profile(_)) => "profile",
    })
}

#[test]
fn events_are_as_the_protocol_says() {
    for (entry, expected) in entries() {
        assert_eq!(told(&Outgoing::Entry(entry), None), expected);
    }
    let caught_up = told(&Outgoing::CaughtUp(Number(5)), None);
    assert_eq!(caught_up, json!({"ev": "caught_up", "d": {"n": 5}}));
    let pong = Outgoing::Pong { head: Number(5), server_time: Timestamp(9) };
    assert_eq!(told(&pong, None), json!({"ev": "pong", "d": {"server_time_ms": 9, "head": 5}}));
    let goaway = told(&Outgoing::GoAway { wait_ms: 2310, url: None }, None);
    assert_eq!(goaway, json!({"ev": "goaway", "d": {"reason": "drain", "wait_ms": 2310}}));
    let goaway = told(&Outgoing::GoAway { wait_ms: 2310, url: Some("http://b".into()) }, None);
    let d = json!({"reason": "drain", "wait_ms": 2310, "url": "http://b"});
    assert_eq!(goaway, json!({"ev": "goaway", "d": d}));
}

#[test]
fn the_sending_device_is_not_told_its_own_words() {
    let phone = DeviceId::parse("phone").unwrap();
    for (entry, expected) in entries() {
        let told = told(&Outgoing::Entry(entry), Some(&phone));
        assert_eq!(told["d"].get("body").is_none(), expected["ev"] != "message");
    }
}

#[test]
fn replies_are_as_the_protocol_says() {
    let ok = |body| told(&Outgoing::Ok { re: "c\"1".into(), body }, None);
    assert_eq!(ok(Body::Done), json!({"re": "c\"1", "ok": {}}));
    let accepted = Accepted { mid: MessageId(2), seq: Seq(1), at: Timestamp(5), dup: true };
    assert_eq!(
        ok(Body::Sent(accepted))["ok"],
        json!({"mid": "00000000000000000000000002", "seq": 1, "at": 5, "dup": true})
    );
    let (user, device) = (UserId::parse("al").unwrap(), DeviceId::parse("d").unwrap());
    let auth = |resumed| {
        let position = Position { epoch: Epoch(1), from: Number(4), head: Number(9), resumed };
        ok(Body::Auth { user: user.clone(), device: device.clone(), position })["ok"].clone()
    };
    assert_eq!(
        auth(Resumed::Trimmed),
        json!({"user": "al", "device": "d", "epoch": "00000000000000000000000001", "n": 4,
            "head": 9, "resumed": false, "reason": "trimmed"})
    );
    assert_eq!(auth(Resumed::Yes)["resumed"], json!(true));
    assert_eq!(auth(Resumed::UnknownEpoch)["reason"], json!("unknown_epoch"));
    let info = DeviceInfo { device, last_seen: Timestamp(8), acked: Number(3) };
    assert_eq!(
        ok(Body::Devices(vec![info.clone(), info]))["ok"]["devices"][1],
        json!({"device": "d", "last_seen_ms": 8, "acked_n": 3})
    );
    let error = Error { retry_after_ms: Some(1200), ..Error::new(Code::RateLimited, "slow") };
    assert_eq!(
        told(&Outgoing::Err { re: None, error }, None),
        json!({"re": null, "err": {"code": "rate_limited", "message": "slow", "retry": true,
            "retry_after_ms": 1200}})
    );
    let greeting = Greeting {
        server: "rookery/0.1.0",
        node: "a",
        heartbeat_ms: 5000,
        auth_deadline_ms: 10000,
        frame_bytes_max: 65536,
        window: 256,
        server_time: Timestamp(7),
    };
    let hello = Teller { format: Format::Msgpack, device: None }.hello(&greeting);
    assert_eq!(
        unpack(&hello),
        json!({"ev": "hello", "d": {"server": "rookery/0.1.0", "node": "a", "protocol": 1,
            "heartbeat_ms": 5000, "auth_deadline_ms": 10000, "frame_bytes_max": 65536,
            "window": 256, "server_time_ms": 7}})
    );
}

fn users(names: &[&str]) -> Vec<UserId> {
    names.iter().map(|name| UserId::parse(name).unwrap()).collect()
}

#[test]
fn requests_about_groups_are_understood_in_both_formats() {
    let group = GroupId::parse("G1").unwrap();
    let call = |call| GroupRequest::Call(group.clone(), call);
    let create = GroupRequest::Create {
        cid: Cid::parse("c1").unwrap(),
        title: "Club".into(),
        members: users(&["bob", "cat"]),
    };
    let update = Call::Update { title: None, icon: Some("".into()), status: Some("s".into()) };
    let bob = UserId::parse("bob").unwrap();
    for (op, d, asked) in [
        ("group.create", json!({"title": "Club", "members": ["bob", "cat"], "cid": "c1"}), create),
        ("group.info", json!({"group": "G1"}), GroupRequest::Info(group.clone())),
        ("group.list", json!({}), GroupRequest::List),
        ("group.update", json!({"group": "G1", "icon": "", "status": "s"}), call(update)),
        ("group.add", json!({"group": "G1", "users": ["bob"]}), call(Call::Add(users(&["bob"])))),
        ("group.leave", json!({"group": "G1"}), call(Call::Leave)),
        (
            "group.role",
            json!({"group": "G1", "user": "bob", "role": "admin"}),
            call(Call::Role { user: bob, admin: true }),
        ),
        ("receipts", json!({"conv": "g:G1", "seq": 3}), GroupRequest::Receipts(group.clone())),
    ] {
        let value = json!({"op": op, "d": d});
        let asked = Ok(Request::Group(Box::new(asked)));
        assert_eq!(ask(&value.to_string()), asked);
        assert_eq!(decode(Format::Msgpack, &pack(&value)).unwrap().request, asked);
    }
    for (op, d, field) in [
        ("group.create", json!({"title": " ", "cid": "c"}), "title"),
        ("group.create", json!({"title": "t", "cid": "c", "members": ["bob", 5]}), "members"),
        ("group.add", json!({"group": "G1", "users": []}), "users"),
        ("group.add", json!({"group": "G 1", "users": ["bob"]}), "group"),
        ("group.role", json!({"group": "G1", "user": "bob", "role": "king"}), "role"),
        ("receipts", json!({"conv": "u:bob"}), "conv"),
    ] {
        let value = json!({"op": op, "d": d});
        let (code, message) = code(&value.to_string());
        assert_eq!((code, message.split(':').next()), (Code::BadRequest, Some(field)), "{op}");
        let packed = decode(Format::Msgpack, &pack(&value)).unwrap().request.unwrap_err();
        assert_eq!(packed.message, message);
    }
}

#[test]
fn what_is_said_of_groups_is_as_the_protocol_says() {
    let group = GroupId::parse("G1").unwrap();
    let (seq, at, by) = (Seq(4), Timestamp(70), UserId::parse("al").unwrap());
    let told_news = |news: News| {
        let (group, by, news) = (group.clone(), by.clone(), Arc::new(news));
        let what = What::Group { group, seq, at, by, news };
        told(&Outgoing::Entry(Entry { n: Number(9), at: Timestamp(71), what }), None)
    };
    for (news, change, more) in [
        (
            News::Created { title: "Club".into(), users: users(&["al", "bob"]) },
            "created",
            json!({"title": "Club", "users": ["al", "bob"]}),
        ),
        (
            News::Updated { title: None, icon: Some("i".into()), status: None },
            "updated",
            json!({"icon": "i"}),
        ),
        (News::Removed(users(&["bob"])), "removed", json!({"users": ["bob"]})),
        (News::Left, "left", json!({})),
        (
            News::Role { user: by.clone(), admin: false },
            "role",
            json!({"user": "al", "role": "member"}),
        ),
    ] {
        let mut d = json!({"conv": "g:G1", "seq": 4, "at": 70, "by": "al", "change": change});
        d.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_eq!(told_news(news), json!({"n": 9, "ev": "group", "d": d}));
    }
    let ok = |body| told(&Outgoing::Ok { re: "r".into(), body: Body::Group(body) }, None);
    assert_eq!(ok(GroupBody::Made(group.clone()))["ok"], json!({"group": "G1"}));
    let info = Info {
        title: "Club".into(),
        icon: None,
        status: Some("s".into()),
        members: vec![(by.clone(), true), (UserId::parse("bob").unwrap(), false)],
        created_at: at,
    };
    let names = [(by.clone(), "Al".into())].into();
    assert_eq!(
        ok(GroupBody::Info(group.clone(), Box::new(info), names))["ok"],
        json!({"group": "G1", "title": "Club", "status": "s", "created_at": 70, "count": 2,
            "members": [{"user": "al", "role": "admin", "name": "Al"},
                {"user": "bob", "role": "member"}]})
    );
    let listed = ok(GroupBody::List(vec![(group, "Club".into(), false)]));
    let entry = json!({"group": "G1", "title": "Club", "role": "member"});
    assert_eq!(listed["ok"], json!({"groups": [entry]}));
    let progress = Progress { user: by, delivered: Seq(4), read: Seq(3) };
    let receipts = ok(GroupBody::Receipts(vec![progress]));
    let entry = json!({"user": "al", "delivered": 4, "read": 3});
    assert_eq!(receipts["ok"], json!({"receipts": [entry]}));
}

#[test]
fn requests_about_presence_are_understood_in_both_formats() {
    let to = Conversation::Group(GroupId::parse("G1").unwrap());
    let many: Vec<String> = (0..100).map(|i| format!("u{i}")).collect();
    let named: Vec<&str> = many.iter().map(String::as_str).collect();
    for (op, d, asked) in [
        ("watch", json!({"users": many}), PresenceRequest::Watch(users(&named))),
        ("watch", json!({"users": []}), PresenceRequest::Watch(Vec::new())),
        ("unwatch", json!({"users": ["bob"]}), PresenceRequest::Unwatch(users(&["bob"]))),
        (
            "typing",
            json!({"to": "g:G1", "on": true}),
            PresenceRequest::Typing { to: to.clone(), on: true },
        ),
        ("typing", json!({"to": "g:G1", "on": false}), PresenceRequest::Typing { to, on: false }),
    ] {
        let value = json!({"op": op, "d": d});
        let asked = Ok(Request::Presence(asked));
        assert_eq!(ask(&value.to_string()), asked);
        assert_eq!(decode(Format::Msgpack, &pack(&value)).unwrap().request, asked);
    }
    let too_many: Vec<String> = (0..101).map(|i| format!("u{i}")).collect();
    for (op, d, field) in [
        ("watch", json!({"users": too_many}), "users"),
        ("watch", json!({"users": null}), "users"),
        ("unwatch", json!({"users": ["bob", 1]}), "users"),
        ("unwatch", json!({"users": ["g:G1"]}), "users"),
        ("typing", json!({"to": "bob", "on": true}), "to"),
        ("typing", json!({"to": "u:bob", "on": 1}), "on"),
        ("typing", json!({"to": "u:bob", "on": "true"}), "on"),
        ("typing", json!({"to": "u:bob"}), "on"),
    ] {
        let value = json!({"op": op, "d": d});
        let (code, message) = code(&value.to_string());
        assert_eq!((code, message.split(':').next()), (Code::BadRequest, Some(field)), "{op} {d}");
        let packed = decode(Format::Msgpack, &pack(&value)).unwrap().request.unwrap_err();
        assert_eq!(packed.message, message);
    }
}

#[test]
fn what_is_said_of_presence_is_as_the_protocol_says() {
    let [bob, cat] = ["bob", "cat"].map(|name| UserId::parse(name).unwrap());
    let there = Presence { online: true, last_seen: Some(Timestamp(8)) };
    let event = told(&Outgoing::Presence(bob.clone(), there), None);
    let d = json!({"user": "bob", "online": true, "last_seen_ms": 8});
    assert_eq!(event, json!({"ev": "presence", "d": d}));
    let body = Body::Presence(vec![(bob.clone(), there), (cat, Presence::default())]);
    let never = json!({"user": "cat", "online": false, "last_seen_ms": null});
    assert_eq!(
        told(&Outgoing::Ok { re: "r".into(), body }, None),
        json!({"re": "r", "ok": {"presence": [d, never]}})
    );
    let typing = Outgoing::Typing { conv: Conversation::User(bob.clone()), from: bob, on: false };
    let d = json!({"conv": "u:bob", "from": "bob", "on": false});
    assert_eq!(told(&typing, None), json!({"ev": "typing", "d": d}));
}

proptest! {
    #[test]
    fn any_body_comes_through(body in any::<String>(), size in 0_usize..70_000) {
        let body = if size < 32_000 { body } else { "\u{e9}".repeat(16_000) };
        let value = json!({"op": "send", "d": {
            "to": "u:bob", "cid": "c", "kind": "k", "body": body,
        }});
        let frames = [
            decode(Format::Json, value.to_string().as_bytes()),
            decode(Format::Msgpack, &pack(&value)),
        ];
        for frame in frames {
            let Ok(Request::Send(draft)) = frame.unwrap().request else { panic!("a message") };
            prop_assert_eq!(&*draft.content.body, &body);
            let what = What::Message {
                mid: MessageId(1),
                from: UserId::parse("bob").unwrap(),
                device: DeviceId::parse("d").unwrap(),
                seq: Seq(u64::try_from(size).unwrap()),
                content: draft.content,
            };
            let entry = Entry { n: Number(1), at: Timestamp(1), what };
            let told = told(&Outgoing::Entry(entry), None);
            prop_assert_eq!(told["d"]["body"].as_str(), Some(body.as_str()));
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(Format::Json, &bytes);
        let _ = decode(Format::Msgpack, &bytes);
    }
}
