//! Groups: what a client is told of them, and what it asks of them until it is answered.

use super::*;

/// Everyone's client, connected.
async fn people<const N: usize>(model: &Model, names: [&str; N]) -> [(Client, Receiver<Event>); N] {
    let urls = [model.node("a").await];
    let mut people = names.map(|name| Client::connect(options(&urls, name)));
    for (_, events) in &mut people {
        until(events, connected).await;
    }
    people
}

async fn change(events: &mut Receiver<Event>) -> Change {
    let change = |event: &Event| match event {
        Event::Group { change, .. } => Some(change.clone()),
        _ => None,
    };
    until(events, change).await
}

/// Waits until the model has seen something.
async fn seen(model: &Model, what: impl Fn(&model::World) -> bool) {
    let seen = async {
        while !what(&model.world()) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, seen).await.expect("not seen in time");
}

#[tokio::test]
async fn a_message_to_a_group_reaches_all_members_and_is_acknowledged() {
    let model = Model::new();
    let [(alice, mut hers), (_bob, mut his), (cat, mut cats)] =
        people(&model, ["alice", "bob", "cat"]).await;
    let group = alice.create_group("plan", &["bob", "cat"]).await.unwrap();
    let conv = format!("g:{group}");
    for events in [&mut hers, &mut his, &mut cats] {
        let made = change(events).await;
        assert_eq!((made.conv.as_str(), made.seq, made.by.as_str()), (&*conv, 1, "alice"));
        let News::Created { title, users } = made.news else { panic!("not made") };
        assert_eq!((title.as_str(), users.len()), ("plan", 3));
    }
    let accepted = alice.send(&conv, "hi").await.unwrap();
    assert_eq!(accepted.seq, 2, "a change and a message have one order");
    for events in [&mut his, &mut cats] {
        let message = |event: &Event| match event {
            Event::Message { message, .. } => Some(message.clone()),
            _ => None,
        };
        let message = until(events, message).await;
        assert_eq!((message.conv, message.from, message.seq), (conv.clone(), "alice".into(), 2));
    }
    let acked = |user: &str| (user.to_owned(), "main".to_owned());
    seen(&model, |world| {
        ["bob", "cat"].iter().all(|user| world.acked.get(&acked(user)) == Some(&2))
    })
    .await;
    assert_eq!(cat.groups().await.unwrap()[0].role, Role::Member);
    let info = cat.group(&group).await.unwrap();
    let admin = Member { user: "alice".into(), role: Role::Admin, name: None };
    assert_eq!((info.title.as_str(), &info.members[0]), ("plan", &admin));
}

#[tokio::test]
async fn ticks_of_a_group_rise_when_all_have_it_and_never_go_back() {
    let model = Model::new();
    let [(alice, mut hers), (bob, _his), (cat, _cats)] =
        people(&model, ["alice", "bob", "cat"]).await;
    let conv = format!("g:{}", alice.create_group("ticks", &["bob", "cat"]).await.unwrap());
    alice.send(&conv, "hi").await.unwrap();
    bob.read(&conv, 2);
    let behind = || async {
        let all = alice.receipts(&conv).await.unwrap();
        all.iter().filter(|one| one.user != "alice" && one.read < 2).count()
    };
    timeout(PATIENCE, async { while behind().await == 2 {} }).await.unwrap();
    let (mut heard, mut newest) = (Vec::new(), Marks::default());
    let mut stale_told = false;
    while newest.sent < 9 {
        let ticks = |event: &Event| match event {
            Event::Ticks { conv: of, marks } if *of == conv => Some(*marks),
            Event::Receipt { receipt, .. } => {
                assert_eq!(receipt.by, None, "all others are meant");
                None
            }
            _ => None,
        };
        newest = until(&mut hers, ticks).await;
        heard.push(newest);
        if newest.delivered == 2 && newest.read == 0 {
            // One of two others has read it.
            cat.read(&conv, 2);
        }
        if newest.read == 2 && !stale_told {
            stale_told = true;
            let stale = json!({"conv": conv, "delivered": 1, "read": 1, "at": 7});
            model.world().tell("alice", "receipt", stale);
            model.world().tell(
                "alice",
                "sent",
                json!({"mid": "m", "conv": conv, "seq": 9,
                "at": 8, "cid": "other", "device": "phone"}),
            );
            model.grow();
        }
    }
    assert_eq!(newest, Marks { sent: 9, delivered: 2, read: 2 });
    let rising = |pair: &[Marks]| {
        pair[0].sent <= pair[1].sent
            && pair[0].delivered <= pair[1].delivered
            && pair[0].read <= pair[1].read
    };
    assert!(heard.windows(2).all(rising), "{heard:?}");
}

#[tokio::test]
async fn making_a_group_is_repeated_with_its_cid_after_a_cut() {
    let model = Model::new();
    let [(alice, mut hers), (_bob, mut his)] = people(&model, ["alice", "bob"]).await;
    model.world().swallow_asks = 1;
    let maker = alice.clone();
    let made = tokio::spawn(async move { maker.create_group("once", &["bob"]).await });
    seen(&model, |world| world.asks.len() == 1).await;
    alice.cut();
    let group = timeout(PATIENCE, made).await.unwrap().unwrap().unwrap();
    let asks = model.world().asks.clone();
    assert!(asks.len() == 2 && asks[0] == asks[1], "one cid: {asks:?}");
    alice.add_to_group(&group, &["cat"]).await.unwrap();
    for events in [&mut hers, &mut his] {
        let seqs = [change(events).await.seq, change(events).await.seq];
        assert_eq!(seqs, [1, 2], "made once");
    }
}

#[tokio::test]
async fn leaving_twice_because_the_answer_was_lost_is_leaving() {
    let model = Model::new();
    let [(alice, _hers), (bob, _his)] = people(&model, ["alice", "bob"]).await;
    let group = alice.create_group("short", &["bob"]).await.unwrap();
    model.world().swallow_asks = 1;
    let (leaver, from) = (bob.clone(), group.clone());
    let left = tokio::spawn(async move { leaver.leave_group(&from).await });
    seen(&model, |world| world.asks.len() == 2).await;
    bob.cut();
    assert_eq!(timeout(PATIENCE, left).await.unwrap().unwrap(), Ok(()));
    assert_eq!(model.world().asks[1..], ["group.leave", "group.leave"]);
}

#[tokio::test]
async fn a_refusal_is_told_and_one_that_may_pass_is_waited_out() {
    let model = Model::new();
    let [(alice, _hers), (bob, _his)] = people(&model, ["alice", "bob"]).await;
    model.world().refuse_asks = 2;
    let group = alice.create_group("late", &["bob"]).await.unwrap();
    assert_eq!(model.world().asks.len(), 3);
    let unknown = alice.create_group("none", &["nobody"]).await;
    assert!(matches!(unknown, Err(GroupRefused::NotFound(_))), "{unknown:?}");
    let not_admin = bob.add_to_group(&group, &["cat"]).await;
    assert!(matches!(not_admin, Err(GroupRefused::NotAllowed(_))), "{not_admin:?}");
    let elsewhere = bob.group("no-such-group").await;
    assert!(matches!(elsewhere, Err(GroupRefused::NotFound(_))), "{elsewhere:?}");
    bob.close();
    let late = bob.groups().await;
    assert!(matches!(late, Err(GroupRefused::Impossible(_))), "{late:?}");
}
