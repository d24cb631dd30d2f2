//! What the checker says of hand-made histories: of a good one nothing, of each bad one what is wrong.

use super::*;

const EXPIRY_MS: u64 = 10_000;

fn line(at_ms: u64, what: What) -> Line {
    Line { at: at_ms * 1_000, what }
}

fn text(text: &str) -> String {
    text.to_owned()
}

fn invoke(at: u64, device: &str, cid: &str) -> Line {
    let (user, to, body) = (text("alice"), text("u:bob"), format!("{cid} hello"));
    line(at, What::Invoke { user, device: text(device), cid: text(cid), to, body })
}

fn ok(at: u64, cid: &str, seq: u64) -> Line {
    let (user, mid, via) = (text("alice"), format!("mid-{cid}"), text("a"));
    line(at, What::Ok { user, cid: text(cid), mid, seq, dup: false, tries: 1, via })
}

fn refused(at: u64, cid: &str) -> Line {
    line(at, What::Refused { user: text("alice"), cid: text(cid), code: text("not_found") })
}

fn attached(at: u64, user: &str, device: &str, n: u64) -> Line {
    let (user, device, via, epoch) = (text(user), text(device), text("a"), text("first"));
    line(at, What::Attached { user, device, via, epoch, n, resumed: true })
}

fn event(at: u64, who: (&str, &str), n: u64, event: Event) -> Line {
    line(at, What::Event { user: text(who.0), device: text(who.1), n, event })
}

const PHONE: (&str, &str) = ("alice", "phone");
const TABLET: (&str, &str) = ("alice", "tablet");
const LAPTOP: (&str, &str) = ("bob", "laptop");

fn message(cid: &str, seq: u64) -> Event {
    let (mid, from, body) = (format!("mid-{cid}"), text("alice"), format!("{cid} hello"));
    Event::Message { mid, from, seq, body }
}

fn sent(cid: &str, seq: u64) -> Event {
    Event::Sent { mid: format!("mid-{cid}"), conv: text("u:bob"), seq, cid: text(cid) }
}

fn receipt(delivered: u64, read: u64) -> Event {
    Event::Receipt { conv: text("u:bob"), delivered, read }
}

/// Alice writes c1, c2 and c3 from her phone; c4, whose answer is lost, from her tablet; c5 is refused.
fn good() -> Vec<Line> {
    let users = [(text("alice"), vec![text("phone"), text("tablet")])];
    let users = users.into_iter().chain([(text("bob"), vec![text("laptop")])]).collect();
    let run = What::Run { seed: 1, command: text("-"), nodes: 3, users, expiry_ms: EXPIRY_MS };
    let mut lines = vec![
        line(0, run),
        attached(1, "alice", "phone", 0),
        attached(1, "alice", "tablet", 0),
        attached(1, "bob", "laptop", 0),
    ];
    for (at, cid, seq) in [(10, "c1", 1), (20, "c2", 2), (30, "c3", 3)] {
        lines.push(invoke(at, "phone", cid));
        lines.push(ok(at + 5, cid, seq));
        lines.push(event(at + 5, LAPTOP, seq, message(cid, seq)));
        lines.push(event(at + 6, PHONE, seq, sent(cid, seq)));
        lines.push(event(at + 7, TABLET, seq, sent(cid, seq)));
    }
    lines.extend([
        // Bob comes back and is told again what he did not acknowledge.
        line(50, What::Closed { user: text("bob"), device: text("laptop"), code: None }),
        attached(51, "bob", "laptop", 3),
        event(52, LAPTOP, 3, message("c3", 3)),
        event(60, PHONE, 4, receipt(2, 1)),
        event(60, TABLET, 4, receipt(2, 1)),
        invoke(70, "tablet", "c4"),
        event(71, LAPTOP, 4, message("c4", 4)),
        event(72, PHONE, 5, sent("c4", 4)),
        event(72, TABLET, 5, sent("c4", 4)),
        event(73, PHONE, 6, receipt(4, 4)),
        event(73, TABLET, 6, receipt(4, 4)),
        invoke(80, "phone", "c5"),
        refused(81, "c5"),
    ]);
    lines
}

/// What is said of the good history after one change.
fn after(change: impl FnOnce(&mut Vec<Line>)) -> Vec<Kind> {
    let mut lines = good();
    change(&mut lines);
    check(lines).counts_by_kind.into_keys().collect()
}

/// Without the lines that are such.
fn without(such: impl Fn(&What) -> bool) -> Vec<Kind> {
    after(|lines| lines.retain(|line| !such(&line.what)))
}

/// With each event changed.
fn with_events(change: impl Fn(&str, &str, &mut u64, &mut Event)) -> Vec<Kind> {
    after(|lines| {
        for line in lines {
            if let What::Event { user, device, n, event } = &mut line.what {
                change(user, device, n, event);
            }
        }
    })
}

#[test]
fn nothing_is_wrong_with_a_good_history() {
    let verdict = check(good());
    assert_eq!(verdict.anomalies, []);
    assert_eq!(
        verdict.counts,
        Counts {
            invoked: 5,
            acknowledged: 3,
            refused: 1,
            unknown: 1,
            recovered: 1,
            delivered: 4,
            events: 17,
            repeats_at_clients: 1,
            retries: 0,
            dup_replies: 0,
            expired: 0,
            connections: 4,
        }
    );
    assert_eq!(check([]).anomalies, []);
}

#[test]
fn what_never_came_is_lost() {
    let is_c3 = |event: &Event| matches!(event, Event::Message { seq: 3.., .. });
    assert_eq!(
        without(|what| matches!(what, What::Event { event, .. } if is_c3(event))),
        [Kind::Lost, Kind::TickRegressed, Kind::Gap],
        "and bob goes on after what he has not"
    );
    let on_tablet =
        |what: &What| matches!(what, What::Event { device, n: 5.., .. } if device == "tablet");
    assert_eq!(without(on_tablet), [], "what was never acknowledged need not come");
    let for_bob = |what: &What| matches!(what, What::Event { user, n: 3.., .. } if user == "bob");
    assert!(without(for_bob).contains(&Kind::Lost));
}

#[test]
fn what_came_on_one_device_only_is_lost_on_the_other() {
    let mut lines = good();
    lines.insert(4, attached(2, "bob", "phone", 0));
    let What::Run { users, .. } = &mut lines[0].what else { panic!("it begins so") };
    users.insert(text("bob"), vec![text("laptop"), text("phone")]);
    let found = check(lines);
    assert_eq!(found.counts_by_kind[&Kind::Lost], 3);
}

#[test]
fn an_own_message_that_is_missing_is_lost() {
    assert_eq!(
        with_events(|_, _, n, event| {
            if *n == 3 && matches!(event, Event::Sent { .. }) {
                *event = receipt(0, 0);
            }
        }),
        [Kind::Lost]
    );
}

#[test]
fn what_comes_twice_is_duplicated() {
    let again = |lines: &mut Vec<Line>| lines.push(event(90, LAPTOP, 5, message("c1", 5)));
    assert!(after(again).contains(&Kind::Duplicated));
    let same = |lines: &mut Vec<Line>| lines.push(event(90, LAPTOP, 5, message("c1", 1)));
    assert!(after(same).contains(&Kind::Duplicated));
    let own = |lines: &mut Vec<Line>| lines.push(event(90, PHONE, 7, sent("c2", 2)));
    assert_eq!(after(own), [Kind::Duplicated]);
}

#[test]
fn another_order_than_that_of_sending_is_misordered() {
    let swapped = with_events(|_, _, _, event| {
        if let Event::Message { body, mid, .. } = event
            && let Some(other) =
                [("c1", "c2"), ("c2", "c1")].iter().find(|(c, _)| cid_of(body) == *c)
        {
            *body = format!("{} hello", other.1);
            *mid = format!("mid-{}", other.1);
        }
    });
    assert_eq!(swapped, [Kind::Misordered, Kind::CheckMarkDiffers]);
    let back = |lines: &mut Vec<Line>| {
        lines.push(invoke(85, "tablet", "c6"));
        lines.push(event(90, LAPTOP, 5, message("c6", 2)));
    };
    assert_eq!(after(back), [Kind::Misordered]);
}

#[test]
fn what_was_not_sent_so_is_unexpected() {
    let never = |lines: &mut Vec<Line>| lines.push(event(90, LAPTOP, 5, message("c9", 5)));
    assert_eq!(after(never), [Kind::Unexpected]);
    let refused = |lines: &mut Vec<Line>| lines.push(event(90, LAPTOP, 5, message("c5", 5)));
    assert_eq!(after(refused), [Kind::Unexpected]);
    let other_body = with_events(|_, _, _, event| {
        if let Event::Message { body, seq: 3, .. } = event {
            body.push('!');
        }
    });
    assert_eq!(other_body, [Kind::Unexpected]);
    let elsewhere = |lines: &mut Vec<Line>| {
        lines.push(event(90, PHONE, 7, message("c4", 1)));
    };
    assert!(after(elsewhere).contains(&Kind::Unexpected));
    let marked = |lines: &mut Vec<Line>| lines.push(ok(90, "c9", 5));
    assert_eq!(after(marked), [Kind::Unexpected]);
}

#[test]
fn a_message_may_expire_in_its_time_and_not_before() {
    let expired = || Event::Expired { conv: text("u:bob"), mid: text("mid-c3"), seq: 3 };
    let at = |at: u64| {
        without_and(
            |what| matches!(what, What::Event { user, n: 3.., .. } if user == "bob"),
            event(at, PHONE, 7, expired()),
        )
    };
    assert_eq!(at(EXPIRY_MS + 30), [Kind::TickRegressed, Kind::Gap], "the ticks say otherwise");
    assert_eq!(at(EXPIRY_MS / 2), [Kind::ExpiredEarly, Kind::TickRegressed, Kind::Gap]);
}

fn without_and(such: impl Fn(&What) -> bool, more: Line) -> Vec<Kind> {
    after(|lines| {
        lines.retain(|line| !such(&line.what));
        lines.push(more);
    })
}

#[test]
fn a_tick_that_goes_back_or_says_too_much_is_told() {
    let tick =
        |delivered, read| after(|lines| lines.push(event(90, PHONE, 7, receipt(delivered, read))));
    assert_eq!(tick(4, 4), []);
    assert_eq!(tick(3, 3), [Kind::TickRegressed]);
    assert_eq!(tick(4, 3), [Kind::TickRegressed]);
    assert_eq!(tick(5, 4), [Kind::TickRegressed], "nobody has a fifth");
    assert_eq!(tick(4, 5), [Kind::TickRegressed], "read before it was delivered");
}

#[test]
fn a_missing_number_is_a_gap() {
    let skipped = |lines: &mut Vec<Line>| lines.push(event(90, PHONE, 8, receipt(4, 4)));
    assert_eq!(after(skipped), [Kind::Gap]);
    let jumped = |lines: &mut Vec<Line>| lines.push(attached(90, "bob", "laptop", 9));
    assert_eq!(after(jumped), [Kind::Gap]);
    let seq = with_events(|_, _, _, event| {
        if let Event::Message { seq: seq @ 4, .. } | Event::Sent { seq: seq @ 4, .. } = event {
            *seq = 5;
        }
    });
    assert_eq!(seq, [Kind::Gap]);
}

#[test]
fn two_things_under_one_number_are_told() {
    let differs = with_events(|_, device, n, event| {
        if device == "tablet" && *n == 4 {
            *event = receipt(2, 0);
        }
    });
    assert_eq!(differs, [Kind::DevicesDisagree]);
    let repeated = |lines: &mut Vec<Line>| lines.push(event(90, LAPTOP, 4, message("c1", 1)));
    assert_eq!(after(repeated), [Kind::DevicesDisagree]);
}

#[test]
fn a_check_mark_that_is_not_true_is_told() {
    let twice = |lines: &mut Vec<Line>| lines.push(ok(90, "c1", 2));
    assert_eq!(after(twice), [Kind::CheckMarkDiffers]);
    let wrong = |lines: &mut Vec<Line>| lines.push(ok(90, "c4", 9));
    assert_eq!(after(wrong), [Kind::CheckMarkDiffers]);
}

#[test]
fn a_log_that_begins_anew_is_told() {
    let anew = |lines: &mut Vec<Line>| {
        let (user, device, via) = (text("bob"), text("laptop"), text("b"));
        let epoch = text("second");
        let what = What::Attached { user, device, via, epoch, n: 0, resumed: false };
        lines.push(line(90, what));
    };
    assert_eq!(after(anew), [Kind::LogRestarted]);
    let back = |lines: &mut Vec<Line>| lines.push(attached(90, "bob", "laptop", 2));
    assert_eq!(after(back), [Kind::Unexpected], "it resumed from something else");
}

#[test]
fn a_history_is_read_as_it_was_written_and_a_torn_line_is_named() {
    let mut lines = good();
    lines.push(line(
        95,
        What::Fault { id: 1, kind: text("roll"), detail: text("-"), nodes: vec![text("a")] },
    ));
    lines.extend([line(96, What::Healed { id: 1 }), line(97, What::Whole { id: 1 })]);
    let mut text: String =
        lines.iter().map(|line| serde_json::to_string(line).unwrap() + "\n").collect();
    assert_eq!(read(text.as_bytes()).unwrap(), lines);
    text.truncate(text.len() - 5);
    let error = read(text.as_bytes()).unwrap_err();
    assert!(error.starts_with(&format!("line {}: ", lines.len())), "{error}");
}
