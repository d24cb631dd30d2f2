//! Tests of the checker: for each promise a history that breaks it, by one small change to a good one.

#[path = "checker/sample.rs"]
mod sample;

use super::*;
use sample::{
    EXPIRY_MS, History, acked, event, expired, good, invoke, is_event, is_invoke, is_ok, message,
    ok, receipt, refused, run, sent, text,
};

/// Exactly these kinds are found after a change to the good history.
#[track_caller]
fn finds(kinds: &[Kind], change: impl FnOnce(&mut History)) -> Verdict {
    let mut history = good();
    change(&mut history);
    let verdict = check(history.0);
    let found: Vec<Kind> = verdict.counts_by_kind.keys().copied().collect();
    assert_eq!(found, kinds, "{:#?}", verdict.anomalies);
    verdict
}

#[test]
fn a_good_history_is_counted_and_nothing_is_found() {
    let counts = finds(&[], |_| {}).counts;
    let expected = Counts {
        invoked: 9,
        acknowledged: 6,
        refused: 1,
        unknown: 2,
        recovered: 1,
        delivered: 4 + 2 * 2,
        repeats_at_clients: 2,
        retries: 2,
        dup_replies: 1,
        expired: 1,
        events: 2 * 10 + 2 + 6,
        connections: 4,
        ..Counts::default()
    };
    assert_eq!(counts, expected);
    assert!(counts.named().iter().any(|(name, count)| name == "sent once more" && *count == 2));
}

#[test]
fn lost_on_one_device_of_the_recipient() {
    finds(&[Kind::Lost], |h| h.drop(|what| is_event(what, "alice", Some("tablet"), 10)));
}

#[test]
fn lost_in_the_middle_leaves_gaps_too() {
    finds(&[Kind::Lost, Kind::Gap], |h| h.drop(|what| is_event(what, "bob", None, 2)));
}

#[test]
fn lost_for_the_sender() {
    finds(&[Kind::Lost], |h| h.drop(|what| is_event(what, "bob", None, 6)));
}

#[test]
fn lost_on_a_device_that_never_came() {
    let list = |devices: Option<&'static str>| {
        move |what: &mut What| {
            let What::Run { users, .. } = what else { unreachable!() };
            users.insert(text("bob"), devices.map(text).into_iter().collect());
        }
    };
    let is_run = |what: &What| matches!(what, What::Run { .. });
    finds(&[Kind::Lost], |h| h.each(is_run, list(Some("watch"))));
    finds(&[Kind::Lost], |h| h.each(is_run, list(None)));
}

#[test]
fn lost_when_it_expired_for_nobody() {
    finds(&[Kind::Lost, Kind::Gap], |h| h.replace("alice", 8, &receipt(3, 2)));
}

#[test]
fn what_is_unknown_may_be_absent() {
    finds(&[], |h| {
        h.drop(|what| is_ok(what, "p-5"));
        h.drop(|what| is_event(what, "bob", None, 5) || is_event(what, "alice", None, 9));
        h.each(
            |what| is_event(what, "alice", None, 10),
            |what| {
                let What::Event { n, .. } = what else { unreachable!() };
                *n = 9;
            },
        );
        h.each(
            |what| is_event(what, "bob", None, 6),
            |what| {
                let What::Event { n, .. } = what else { unreachable!() };
                *n = 5;
            },
        );
    });
}

#[test]
fn duplicated_under_two_numbers() {
    let again = message("m5", "alice", 5, "p-5 hello");
    finds(&[Kind::Duplicated], |h| h.tell("bob", 7, &again));
}

#[test]
fn duplicated_under_two_ids() {
    let again = message("m6", "alice", 6, "p-5 hello");
    finds(&[Kind::Duplicated, Kind::CheckMarkDiffers], |h| h.tell("bob", 7, &again));
}

#[test]
fn duplicated_place_in_a_conversation() {
    let again = message("m6", "alice", 5, "t-2 hello");
    finds(&[Kind::Duplicated], |h| h.tell("bob", 7, &again));
}

#[test]
fn duplicated_sent_or_expired() {
    finds(&[Kind::Duplicated], |h| h.tell("alice", 11, &sent("m5", "u:bob", 5, "p-5")));
    finds(&[Kind::Duplicated], |h| h.tell("alice", 11, &expired("m4", 4)));
}

#[test]
fn misordered_by_place() {
    finds(&[Kind::Misordered], |h| {
        h.replace("bob", 1, &message("m2", "alice", 2, "p-2 hello"));
        h.replace("bob", 2, &message("m1", "alice", 1, "p-1 hello"));
    });
}

#[test]
fn misordered_by_sending() {
    finds(&[Kind::Misordered], |h| h.swap_invokes("p-1", "p-2"));
}

#[test]
fn devices_of_one_sender_overtake_each_other_freely() {
    finds(&[], |h| h.swap_invokes("t-1", "p-5"));
}

#[test]
fn unexpected_without_sending() {
    finds(&[Kind::Unexpected], |h| h.drop(|what| is_invoke(what, "t-1")));
    finds(&[Kind::Unexpected], |h| h.add(ok("alice", "p-9", "m9", 6)));
    finds(&[Kind::Unexpected], |h| h.add(refused("alice", "p-9")));
    finds(&[Kind::Unexpected], |h| h.tell("alice", 11, &expired("m9", 9)));
    finds(&[Kind::Unexpected], |h| h.tell("bob", 7, &message("m6", "alice", 6, "p-9 hello")));
    finds(&[Kind::Unexpected], |h| h.tell("alice", 11, &sent("m6", "u:bob", 6, "p-9")));
}

#[test]
fn unexpected_after_a_refusal() {
    finds(&[Kind::Unexpected], |h| {
        h.add(refused("alice", "t-2"));
        h.tell("bob", 7, &message("m6", "alice", 6, "t-2 hello"));
    });
    finds(&[Kind::Unexpected], |h| h.tell("alice", 11, &sent("m6", "u:bob", 6, "p-3")));
    finds(&[Kind::Lost, Kind::Unexpected], |h| h.add(ok("alice", "p-3", "m6", 6)));
    finds(&[Kind::Unexpected], |h| h.add(refused("alice", "p-5")));
}

#[test]
fn unexpected_body() {
    let changed = message("m2", "alice", 2, "p-2 hullo");
    finds(&[Kind::Unexpected], |h| h.replace("bob", 2, &changed));
}

#[test]
fn unexpected_recipient() {
    let verdict = finds(&[Kind::Unexpected], |h| {
        h.each(
            |what| is_invoke(what, "t-1"),
            |what| {
                let What::Invoke { to, .. } = what else { unreachable!() };
                *to = text("u:carol");
            },
        );
    });
    assert_eq!(verdict.counts_by_kind[&Kind::Unexpected], 2, "bob's message and alice's `sent`");
}

#[test]
fn unexpected_lines() {
    finds(&[Kind::Unexpected], |h| h.add(invoke("alice", "tablet", "p-1", "u:bob")));
    finds(&[Kind::Unexpected], |h| h.add(run()));
    finds(&[Kind::Lost, Kind::Unexpected], |h| h.drop(|what| matches!(what, What::Run { .. })));
}

fn expiry(ms: u64) -> impl Fn(&mut History) {
    move |h| {
        h.each(
            |what| matches!(what, What::Run { .. }),
            |what| {
                let What::Run { expiry_ms, .. } = what else { unreachable!() };
                *expiry_ms = ms;
            },
        );
    }
}

#[test]
fn expired_before_its_time() {
    finds(&[], expiry(EXPIRY_MS + 1_000));
    finds(&[Kind::ExpiredEarly], expiry(EXPIRY_MS + 1_100));
    finds(&[Kind::ExpiredEarly], |h| {
        h.drop(|what| is_ok(what, "p-4"));
        expiry(EXPIRY_MS + 1_100)(h);
    });
}

#[test]
fn expired_though_a_device_had_it() {
    finds(&[Kind::ExpiredEarly], |h| h.tell("alice", 11, &expired("m2", 2)));
    finds(&[], |h| {
        h.wait(EXPIRY_MS);
        h.tell("alice", 11, &expired("m5", 5));
    });
}

#[test]
fn expired_before_the_device_that_acknowledges_it_had_it() {
    let gone = Event::Expired { conv: text("u:alice"), mid: text("w2"), seq: 2 };
    let goes = |h: &mut History, device: &str| {
        h.drop(|what| is_event(what, "alice", Some("tablet"), 10));
        h.add(acked("alice", device, 10));
        h.wait(EXPIRY_MS);
        h.tell("bob", 7, &gone);
    };
    finds(&[], |h| goes(h, "tablet"));
    finds(&[Kind::ExpiredEarly], |h| goes(h, "phone"));
}

#[test]
fn ticks_go_back_or_too_far() {
    for wrong in [receipt(1, 0), receipt(3, 4), receipt(6, 2)] {
        finds(&[Kind::TickRegressed], |h| h.replace("alice", 6, &wrong));
    }
    finds(&[Kind::TickRegressed], |h| h.tell("alice", 11, &receipt(5, 1)));
    finds(&[], |h| {
        h.add(acked("bob", "laptop", 5));
        h.tell("alice", 11, &receipt(5, 5));
    });
}

#[test]
fn ticks_come_before_the_acknowledgement() {
    finds(&[Kind::TickRegressed], |h| {
        h.drop(|what| matches!(what, What::Acked { user, n: 4, .. } if user == "bob"));
    });
}

#[test]
fn gap_on_a_device() {
    finds(&[Kind::Gap], |h| h.drop(|what| is_event(what, "alice", Some("tablet"), 3)));
}

/// Where the second socket of alice's phone goes on.
fn goes_on(after: u64, epoch: &str) -> impl FnOnce(&mut History) {
    move |h| {
        let is_second =
            |what: &What| matches!(what, What::Attached { device, n: 4, .. } if device == "phone");
        let changed = What::Attached {
            user: text("alice"),
            device: text("phone"),
            via: text("n2"),
            epoch: text(epoch),
            n: after,
            resumed: false,
        };
        h.each(is_second, |what| *what = changed.clone());
    }
}

#[test]
fn gap_between_sockets() {
    finds(&[Kind::Gap], goes_on(7, "e1"));
    finds(&[], goes_on(6, "e1"));
    finds(&[], goes_on(0, "e1"));
}

#[test]
fn gap_behind_where_a_socket_went_on() {
    let skips = |h: &mut History| {
        goes_on(4, "e1")(h);
        let second = h.0.iter().position(|line| matches!(line.what, What::Fault { .. })).unwrap();
        let mut line = 0;
        h.0.retain(|said| {
            line += 1;
            line < second || !(5..=6).any(|n| is_event(&said.what, "alice", Some("phone"), n))
        });
    };
    finds(&[Kind::Gap], skips);
}

#[test]
fn gap_in_a_conversation() {
    finds(&[Kind::Gap], |h| {
        h.drop(|what| is_ok(what, "p-5"));
        h.add(ok("alice", "p-5", "m5", 7));
        h.replace("alice", 9, &sent("m5", "u:bob", 7, "p-5"));
        h.replace("bob", 5, &message("m5", "alice", 7, "p-5 hello"));
    });
}

#[test]
fn devices_disagree() {
    finds(&[Kind::DevicesDisagree], |h| {
        let other = event("alice", "tablet", 3, receipt(2, 1));
        h.each(|what| is_event(what, "alice", Some("tablet"), 3), |what| *what = other.clone());
    });
}

#[test]
fn a_repeat_disagrees() {
    finds(&[Kind::DevicesDisagree], |h| h.add(event("alice", "phone", 6, receipt(3, 3))));
}

#[test]
fn check_marks_differ() {
    finds(&[Kind::CheckMarkDiffers], |h| h.add(ok("alice", "p-1", "m9", 1)));
    finds(&[Kind::CheckMarkDiffers], |h| h.add(ok("alice", "p-1", "m1", 2)));
    finds(&[], |h| h.add(ok("alice", "p-1", "m1", 1)));
}

#[test]
fn an_event_differs_from_the_check_mark() {
    for said in [message("m9", "alice", 5, "p-5 hello"), message("m5", "alice", 6, "p-5 hello")] {
        let mut history = good();
        history.replace("bob", 5, &said);
        assert!(check(history.0).counts_by_kind.contains_key(&Kind::CheckMarkDiffers));
    }
    finds(&[Kind::CheckMarkDiffers], |h| {
        h.replace("alice", 9, &sent("m9", "u:bob", 5, "p-5"));
    });
    finds(&[Kind::CheckMarkDiffers], |h| h.replace("alice", 8, &expired("m9", 4)));
}

#[test]
fn a_log_began_anew() {
    finds(&[Kind::LogRestarted], goes_on(4, "e2"));
}

#[test]
fn all_are_counted_and_few_are_told() {
    let verdict = finds(&[Kind::Duplicated, Kind::TickRegressed], |h| {
        for n in 7..307 {
            h.tell("bob", n, &message("m5", "alice", 5, "p-5 hello"));
        }
        h.tell("alice", 11, &receipt(2, 2));
    });
    assert_eq!(verdict.counts_by_kind[&Kind::Duplicated], 300);
    assert_eq!(verdict.anomalies.len(), 11);
    assert!(verdict.anomalies.is_sorted_by_key(|anomaly| anomaly.at));
    assert!(verdict.anomalies.iter().any(|anomaly| anomaly.kind == Kind::TickRegressed));
}

#[test]
fn every_kind_has_its_name() {
    let names: std::collections::BTreeSet<_> = Kind::ALL.map(Kind::name).into();
    assert_eq!(names.len(), Kind::ALL.len());
    assert!(Kind::ALL.is_sorted());
}

#[test]
fn every_line_is_read_as_it_was_written() {
    let mut history = good();
    history.add(What::Healed { id: 1 });
    history.add(What::Whole { id: 1 });
    history.add(What::Closed { user: text("bob"), device: text("laptop"), code: Some(4305) });
    let file: String =
        history.0.iter().map(|line| serde_json::to_string(line).unwrap() + "\n").collect();
    let tag = |line: &Line| serde_json::to_value(line).unwrap()["what"].to_string();
    let tags: std::collections::BTreeSet<_> = history.0.iter().map(tag).collect();
    assert_eq!(tags.len(), 11, "{tags:?}");
    assert_eq!(read(file.as_bytes()).unwrap(), history.0);
}

#[test]
fn a_line_that_cannot_be_read_is_named() {
    let line = |what| serde_json::to_string(&Line { at: 7, what }).unwrap();
    let (first, last) = (line(run()), line(acked("bob", "laptop", 2)));
    let error = |file: &[u8]| read(file).unwrap_err();
    assert!(error(format!("{first}\nwhat?\n{last}\n").as_bytes()).starts_with("line 2: "));
    assert!(error(format!("{first}\n\n{last}\n").as_bytes()).starts_with("line 2: "));
    let torn = &last[..last.len() - 3];
    assert!(error(format!("{first}\n{last}\n{torn}").as_bytes()).starts_with("line 3: "));
    assert!(error(b"\xff\n").starts_with("line 1: "));
    assert_eq!(read(&b""[..]).unwrap(), []);
}
