//! Tests of the checker: for each promise a history that breaks it, by one small change to a good one.

#[path = "checker/club.rs"]
mod club;
#[path = "checker/sample.rs"]
mod sample;

use super::*;
use club::{CLUB, change, club, marks, own, post, read as has_read};
use sample::{
    EXPIRY_MS, History, acked, event, expired, good, invoke, is_event, is_invoke, is_ok, message,
    ok, receipt, refused, run, sent, text,
};

/// Exactly these kinds are found after a change to the good history.
#[track_caller]
fn finds(kinds: &[Kind], change: impl FnOnce(&mut History)) -> Verdict {
    finds_in(good(), kinds, change)
}

/// The same after a change to the good history of a group.
#[track_caller]
fn club_finds(kinds: &[Kind], change: impl FnOnce(&mut History)) -> Verdict {
    finds_in(club(), kinds, change)
}

#[track_caller]
fn finds_in(mut history: History, kinds: &[Kind], change: impl FnOnce(&mut History)) -> Verdict {
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
    history.0.extend(club().0);
    history.add(What::Healed { id: 1 });
    history.add(What::Whole { id: 1 });
    history.add(What::Closed { user: text("bob"), device: text("laptop"), code: Some(4305) });
    let file: String =
        history.0.iter().map(|line| serde_json::to_string(line).unwrap() + "\n").collect();
    let tag = |line: &Line| serde_json::to_value(line).unwrap()["what"].to_string();
    let tags: std::collections::BTreeSet<_> = history.0.iter().map(tag).collect();
    assert_eq!(tags.len(), 12, "{tags:?}");
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

#[test]
fn a_good_group_is_counted_and_nothing_is_found() {
    let counts = club_finds(&[], |_| {}).counts;
    let expected = Counts {
        invoked: 11,
        acknowledged: 6,
        refused: 1,
        unknown: 4,
        recovered: 4,
        delivered: 2 * 4 + 4 + 7,
        events: 2 * 17 + 10 + 13,
        connections: 4,
        groups: 1,
        posts: 11,
        posts_acknowledged: 6,
        posts_refused: 1,
        posts_delivered: 2 * 4 + 4 + 7,
        changes: 4,
        ..Counts::default()
    };
    assert_eq!(counts, expected);
}

#[test]
fn members_see_different_orders() {
    club_finds(&[Kind::DifferentGroupOrder], |h| {
        h.replace("carol", 11, &own("m13", 12, "c-3"));
        h.replace("carol", 12, &post("m12", "alice", 13, "p-5 hello"));
    });
    club_finds(&[Kind::DifferentGroupOrder], |h| {
        h.add(invoke("alice", "tablet", "t-1", CLUB));
        h.replace("carol", 11, &post("m99", "alice", 12, "t-1 hello"));
    });
    let other = change(10, "bob", "left", &["bob"]);
    club_finds(&[Kind::DifferentGroupOrder], |h| h.replace("carol", 9, &other));
    let whole = change(8, "alice", "role", &["carol"]);
    club_finds(&[Kind::DifferentGroupOrder], |h| h.replace("bob", 8, &whole));
}

#[test]
fn gap_of_a_member() {
    club_finds(&[Kind::GroupGap], |h| h.omit("carol", 11));
    club_finds(&[Kind::GroupGap], |h| h.omit("bob", 8));
    club_finds(&[Kind::GroupGap], |h| h.omit("carol", 1));
    club_finds(&[Kind::GroupGap], |h| h.omit("carol", 6));
    club_finds(&[Kind::Lost, Kind::GroupGap], |h| h.omit("carol", 10));
}

#[test]
fn gap_at_the_end_of_what_a_member_has() {
    club_finds(&[], |h| {
        h.add(invoke("alice", "phone", "p-7", CLUB));
        h.tell("alice", 18, &own("m15", 15, "p-7"));
        h.tell("carol", 14, &post("m15", "alice", 15, "p-7 hello"));
    });
    club_finds(&[Kind::GroupGap], |h| {
        h.add(invoke("alice", "phone", "p-7", CLUB));
        h.tell("alice", 18, &own("m15", 15, "p-7"));
    });
    let updated = change(15, "alice", "updated", &[]);
    club_finds(&[Kind::GroupGap], |h| h.tell("carol", 14, &updated));
    club_finds(&[Kind::GroupGap], |h| h.omit("bob", 10));
}

#[test]
fn leak_to_who_went_or_never_came() {
    let last = post("m14", "alice", 14, "p-6 hello");
    club_finds(&[Kind::GroupLeak], |h| h.tell("bob", 11, &last));
    club_finds(&[Kind::GroupLeak], |h| h.tell("dave", 1, &last));
    club_finds(&[Kind::GroupLeak], |h| {
        for (user, n) in [("alice", 18), ("bob", 11), ("carol", 14)] {
            h.tell(user, n, &change(15, "alice", "updated", &[]));
        }
    });
}

#[test]
fn leak_of_what_was_posted_before() {
    let missed = post("m7", "alice", 7, "p-3 hello");
    club_finds(&[Kind::GroupLeak], |h| h.insert("carol", 7, &missed));
}

#[test]
fn lost_by_a_member() {
    club_finds(&[Kind::Lost], |h| h.omit("carol", 13));
    let on_one = |what: &What| is_event(what, "alice", Some("tablet"), 17);
    club_finds(&[Kind::Lost], |h| h.drop(on_one));
    club_finds(&[Kind::Lost, Kind::GroupGap], |h| {
        let added = change(15, "alice", "added", &["dave"]);
        h.tell("alice", 18, &added);
        h.tell("carol", 14, &added);
        h.add(invoke("alice", "phone", "p-7", CLUB));
        h.add(ok("alice", "p-7", "m16", 16));
        h.tell("alice", 19, &own("m16", 16, "p-7"));
        h.tell("carol", 15, &post("m16", "alice", 16, "p-7 hello"));
    });
}

#[test]
fn posts_are_duplicated() {
    let again = post("m14", "alice", 14, "p-6 hello");
    club_finds(&[Kind::Duplicated], |h| h.tell("carol", 14, &again));
    let elsewhere = post("m12", "alice", 15, "p-5 hello");
    club_finds(&[Kind::Duplicated, Kind::GroupGap], |h| h.tell("carol", 14, &elsewhere));
    club_finds(&[Kind::Duplicated], |h| h.tell("alice", 18, &own("m14", 14, "p-6")));
    let left = change(10, "bob", "left", &[]);
    club_finds(&[Kind::Duplicated], |h| h.tell("carol", 14, &left));
}

#[test]
fn posts_are_misordered() {
    club_finds(&[Kind::Misordered], |h| h.swap_invokes("p-1", "p-2"));
    club_finds(&[Kind::Misordered], |h| h.swap_invokes("p-5", "p-6"));
    club_finds(&[], |h| h.swap_invokes("b-1", "p-2"));
    club_finds(&[Kind::Misordered], |h| {
        h.replace("carol", 10, &post("m12", "alice", 12, "p-5 hello"));
        h.replace("carol", 11, &post("m11", "alice", 11, "p-4 hello"));
    });
}

#[test]
fn a_post_is_not_where_its_check_mark_says() {
    let said = |mid: &str, seq| ok("alice", "p-6", mid, seq);
    club_finds(&[Kind::CheckMarkDiffers], |h| h.add(said("m14", 15)));
    club_finds(&[Kind::Lost, Kind::CheckMarkDiffers], |h| {
        h.each(|what| is_ok(what, "p-6"), |what| *what = said("m14", 15));
    });
    club_finds(&[Kind::Lost, Kind::CheckMarkDiffers], |h| {
        h.each(|what| is_ok(what, "p-6"), |what| *what = said("m15", 14));
    });
}

#[test]
fn unexpected_posts() {
    let seen = |h: &mut History, cid: &str, from: &str| {
        let said = post("m15", from, 15, &format!("{cid} hello"));
        h.tell("alice", 18, &said);
        h.tell("carol", 14, &said);
    };
    club_finds(&[Kind::Unexpected], |h| seen(h, "b-9", "bob"));
    club_finds(&[Kind::Unexpected], |h| {
        h.add(invoke("bob", "laptop", "b-9", CLUB));
        seen(h, "b-9", "bob");
    });
    club_finds(&[Kind::Unexpected], |h| h.add(refused("alice", "p-5")));
    club_finds(&[Kind::Unexpected], |h| {
        h.replace("carol", 11, &post("m12", "alice", 12, "p-5 hullo"));
    });
    club_finds(&[Kind::Unexpected], |h| {
        h.add(invoke("carol", "laptop", "c-9", "g:other"));
        h.tell("alice", 18, &post("m15", "carol", 15, "c-9 hello"));
        h.tell("carol", 14, &own("m15", 15, "c-9"));
    });
}

#[test]
fn ticks_of_a_group_go_back_or_too_far() {
    for wrong in [marks(4, 4), marks(7, 4), marks(5, 7), marks(99, 5)] {
        club_finds(&[Kind::TickRegressed], |h| h.replace("alice", 10, &wrong));
    }
    club_finds(&[], |h| h.replace("alice", 10, &marks(6, 5)));
}

#[test]
fn ticks_of_a_group_come_before_somebody_has_it() {
    let is_acked = |what: &What, by: &str, to: u64| matches!(what, What::Acked { user, n, .. } if user == by && *n == to);
    for by in ["bob", "carol"] {
        club_finds(&[Kind::TickRegressed], |h| h.drop(|what| is_acked(what, by, 5)));
        let is_read = |what: &What| matches!(what, What::Read { user, .. } if user == by);
        club_finds(&[Kind::TickRegressed], |h| h.drop(is_read));
    }
    club_finds(&[Kind::TickRegressed], |h| h.drop(|what| is_acked(what, "bob", 7)));
    // What is read is delivered.
    club_finds(&[], |h| {
        h.each(|what| is_acked(what, "bob", 7), |what| *what = has_read("bob", 7));
    });
}

#[test]
fn ticks_of_a_group_wait_until_who_lacks_it_is_seen_to_go() {
    let told_at = |n: u64| {
        move |h: &mut History| {
            h.drop(|what| matches!(what, What::Acked { user, n: 7, .. } if user == "bob"));
            h.omit("alice", 10);
            h.insert("alice", n, &marks(7, 5));
        }
    };
    club_finds(&[Kind::TickRegressed], told_at(12));
    club_finds(&[], told_at(13));
}
