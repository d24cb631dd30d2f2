//! Report, tested: histories by hand, whose figures are known.

use std::collections::BTreeMap;

use super::*;
use crate::history::{Event, Line, What};

const MS: u64 = 1_000;

fn run() -> Line {
    let users = BTreeMap::from([
        ("ann".to_owned(), vec!["phone".to_owned(), "tablet".to_owned()]),
        ("bob".to_owned(), vec!["phone".to_owned()]),
    ]);
    let command = "chaos --seed 7".to_owned();
    Line { at: 0, what: What::Run { seed: 7, command, nodes: 3, users, expiry_ms: 1 } }
}

fn invoke(ms: u64, cid: &str) -> Line {
    let [user, device, to, body] = ["ann", "phone", "u:bob", "hi"].map(str::to_owned);
    Line { at: ms * MS, what: What::Invoke { user, device, cid: cid.to_owned(), to, body } }
}

fn ok(ms: u64, cid: &str, via: &str) -> Line {
    let [user, cid, mid, via] = ["ann", cid, "m", via].map(str::to_owned);
    let what = What::Ok { user, cid, mid, seq: 1, dup: false, tries: 1, via };
    Line { at: ms * MS, what }
}

fn refused(ms: u64, cid: &str) -> Line {
    let [user, cid, code] = ["ann", cid, "too_large"].map(str::to_owned);
    Line { at: ms * MS, what: What::Refused { user, cid, code } }
}

fn event(ms: u64) -> Line {
    let [user, device, conv] = ["bob", "phone", "u:ann"].map(str::to_owned);
    let event = Event::Receipt { conv, delivered: 1, read: 0 };
    Line { at: ms * MS, what: What::Event { user, device, n: 1, event } }
}

fn posted(ms: u64, cid: &str) -> Line {
    let [user, device, to, body] = ["ann", "phone", "g:club", "hi"].map(str::to_owned);
    Line { at: ms * MS, what: What::Invoke { user, device, cid: cid.to_owned(), to, body } }
}

fn heard(ms: u64, event: Event) -> Line {
    let [user, device] = ["bob", "phone"].map(str::to_owned);
    Line { at: ms * MS, what: What::Event { user, device, n: 1, event } }
}

fn message(ms: u64, conv: Option<&str>) -> Line {
    let [mid, from, body] = ["m", "ann", "hi"].map(str::to_owned);
    heard(ms, Event::Message { mid, conv: conv.map(str::to_owned), from, seq: 1, body })
}

fn change(ms: u64, seq: u64) -> Line {
    let [conv, by, change, says] = ["g:club", "ann", "removed", ""].map(str::to_owned);
    heard(ms, Event::Group { conv, seq, by, change, users: Vec::new(), says })
}

fn fault(ms: u64, id: u32, kind: &str, nodes: &[&str]) -> Line {
    let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    let (kind, detail) = (kind.to_owned(), format!("{kind} {}", nodes.join(" ")));
    Line { at: ms * MS, what: What::Fault { id, kind, detail, nodes } }
}

fn healed(ms: u64, id: u32) -> Line {
    Line { at: ms * MS, what: What::Healed { id } }
}

fn whole(ms: u64, id: u32) -> Line {
    Line { at: ms * MS, what: What::Whole { id } }
}

fn told(mut lines: Vec<Line>) -> Figures {
    lines.sort_by_key(|line| line.at);
    figures(&lines)
}

fn spread(spread: Option<Spread>) -> Option<(usize, [u64; 4])> {
    spread.map(|s| (s.count, [s.p50, s.p99, s.p999, s.max].map(|time| time / MS)))
}

/// Of each fault: the stall of all and of those elsewhere.
fn stalls(figures: &Figures) -> Vec<(Option<u64>, Option<u64>)> {
    let stall = |pain: &Option<figures::Pain>| pain.as_ref().map(|pain| pain.stall / MS);
    figures.faults.iter().map(|fault| (stall(&fault.all), stall(&fault.elsewhere))).collect()
}

fn judged() -> Judged {
    Judged {
        anomalies: vec![("lost".to_owned(), 0), ("out_of_order".to_owned(), 2)],
        texts: vec!["3 before 2\nat bob".to_owned()],
        counts: vec![("reconnects".to_owned(), 12_345)],
    }
}

/// Whether every element that begins ends, in the right order.
#[track_caller]
fn assert_balanced(svg: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = svg;
    while let Some((before, after)) = rest.split_once('<') {
        assert!(!before.contains('>'), "a bare > in {before:?}");
        let (tag, after) = after.split_once('>').expect("a tag ends");
        assert_eq!(tag.matches('"').count() % 2, 0, "quotes of <{tag}>");
        assert!(!tag.contains('<'), "<{tag}>");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "</{name}>");
        } else if !tag.ends_with('/') {
            open.push(tag.split_whitespace().next().unwrap_or(""));
        }
        rest = after;
    }
    assert!(open.is_empty(), "never closed: {open:?}");
    assert!(svg.starts_with("<svg ") && svg.contains("width=\"1200\""));
    for wrong in ["NaN", "inf", "\"-", "<script"] {
        assert!(!svg.contains(wrong), "{wrong}");
    }
}

fn one_fault() -> Vec<Line> {
    vec![
        run(),
        invoke(9_900, "a"),
        ok(9_910, "a", "n2"),
        fault(10_000, 1, "kill_one", &["n1"]),
        invoke(10_100, "b"),
        invoke(10_100, "c"),
        ok(10_300, "c", "n2"),
        healed(12_000, 1),
        ok(12_500, "b", "n1"),
        event(12_600),
        event(12_700),
        whole(13_500, 1),
        invoke(20_000, "d"),
        ok(20_020, "d", "n3"),
    ]
}

#[test]
fn a_stall_is_as_long_as_nobody_gets_a_check_mark() {
    let figures = told(one_fault());
    assert_eq!(stalls(&figures), [(Some(2_200), Some(200))]);
    let kind = &figures.kinds[0];
    assert_eq!((kind.name.as_str(), kind.count, kind.broken), ("kill_one", 1, 0));
    assert_eq!(spread(kind.heal), Some((1, [1_500; 4])));
    assert_eq!(spread(kind.all.waits), Some((2, [200, 2_400, 2_400, 2_400])));
    assert_eq!(spread(kind.elsewhere.waits), Some((1, [200; 4])));
    assert_eq!(spread(figures.calm), Some((2, [10, 20, 20, 20])));
    assert_eq!(spread(figures.troubled), Some((2, [200, 2_400, 2_400, 2_400])));
    assert_eq!(figures.acknowledged, 4);
    let second = figures.seconds[&12];
    assert_eq!((second.marks, second.delivered), (1, 2));
    assert_eq!(second.longest, Some(2_400 * MS));
}

#[test]
fn a_stall_counts_from_the_fault_on_and_beyond_whole_but_not_into_the_next_fault() {
    let mut lines = vec![
        invoke(1_000, "a"),
        fault(2_000, 1, "storm", &[]),
        healed(2_000, 1),
        whole(2_100, 1),
        ok(5_000, "a", "n1"),
    ];
    let figures = told(lines.clone());
    assert_eq!(stalls(&figures), [(Some(3_000), Some(3_000))]);
    assert_eq!((spread(figures.calm), spread(figures.troubled)), (None, Some((1, [4_000; 4]))));
    lines.extend([fault(4_000, 2, "freeze", &["n1"]), whole(6_000, 2)]);
    let figures = told(lines);
    assert_eq!(stalls(&figures), [(Some(2_000), Some(2_000)), (Some(1_000), None)]);
    // It was on its way in both.
    assert_eq!(spread(figures.together.all.waits), Some((2, [4_000; 4])));
    assert_eq!(spread(figures.together.all.stalls), Some((2, [1_000, 2_000, 2_000, 2_000])));
}

#[test]
fn what_begins_after_whole_is_not_felt_of_the_fault() {
    let figures = told(vec![
        invoke(900, "a"),
        fault(1_000, 1, "storm", &[]),
        ok(1_050, "a", "n1"),
        whole(1_100, 1),
        invoke(1_200, "b"),
        ok(9_000, "b", "n1"),
    ]);
    assert_eq!(stalls(&figures), [(Some(50), Some(50))]);
    assert_eq!(spread(figures.together.heal), None);
}

#[test]
fn without_messages_nothing_is_felt() {
    let lines = vec![
        invoke(1_000, "a"),
        ok(1_010, "a", "n1"),
        fault(2_000, 1, "kill_all", &["n1", "n2"]),
        whole(4_000, 1),
        invoke(8_000, "b"),
        ok(8_010, "b", "n1"),
    ];
    assert_eq!(stalls(&told(lines)), [(None, None)]);
}

#[test]
fn time_in_which_nothing_waits_is_no_stall() {
    let figures = told(vec![
        fault(1_000, 1, "delay", &["n1"]),
        invoke(1_100, "a"),
        ok(1_200, "a", "n2"),
        invoke(3_000, "b"),
        refused(3_300, "b"),
        invoke(5_000, "c"),
        ok(5_100, "c", "n2"),
        whole(6_000, 1),
    ]);
    assert_eq!(stalls(&figures), [(Some(300), Some(100))]);
    assert_eq!((figures.refused, figures.acknowledged), (1, 2));
    assert_eq!(spread(figures.waits), Some((2, [100; 4])));
}

#[test]
fn a_refusal_is_no_check_mark() {
    let figures = told(vec![
        fault(1_000, 1, "cut_off", &["n1"]),
        invoke(1_100, "a"),
        invoke(1_100, "b"),
        refused(1_600, "b"),
        ok(2_100, "a", "n1"),
        whole(3_000, 1),
    ]);
    assert_eq!(stalls(&figures), [(Some(1_000), None)]);
}

#[test]
fn what_is_never_answered_waits_until_the_end() {
    let figures = told(vec![
        fault(1_000, 1, "freeze", &["n1"]),
        invoke(2_000, "a"),
        fault(5_000, 2, "freeze", &["n1"]),
        event(9_000),
    ]);
    assert_eq!(stalls(&figures), [(Some(3_000), None), (Some(4_000), None)]);
    assert_eq!(spread(figures.waits), Some((1, [7_000; 4])));
    assert_eq!((figures.unanswered, figures.together.broken), (1, 2));
    assert_eq!(figures.faults.iter().map(|f| f.until / MS).collect::<Vec<_>>(), [5_000, 9_000]);
    let text = markdown(&figures, &judged(), &[]);
    assert!(text.contains("1 message was never answered."), "{text}");
    assert!(text.contains("After 2 faults the cluster was not seen whole again."), "{text}");
}

#[test]
fn the_first_answer_counts_and_strangers_do_not() {
    let figures = told(vec![
        invoke(1, "a"),
        ok(3, "a", "n1"),
        ok(9, "a", "n2"),
        refused(10, "a"),
        ok(11, "stranger", "n1"),
        healed(12, 5),
        whole(13, 5),
    ]);
    assert_eq!((figures.acknowledged, figures.refused), (1, 0));
    assert_eq!(spread(figures.waits), Some((1, [2; 4])));
}

#[test]
fn percentiles_are_of_the_nearest_rank() {
    let messages = (1..=1_000).flat_map(|ms| {
        let cid = format!("c{ms}");
        [invoke(0, &cid), ok(ms, &cid, "n1")]
    });
    let figures = told(messages.collect());
    assert_eq!(spread(figures.waits), Some((1_000, [500, 990, 999, 1_000])));
    assert_eq!(spread(figures.troubled), None);
}

#[test]
fn nothing_and_a_run_without_faults_have_a_report_too() {
    let calm = vec![run(), invoke(10, "a"), ok(12, "a", "n1")];
    for lines in [vec![], vec![run()], calm] {
        let figures = told(lines);
        let none = Judged { anomalies: vec![], texts: vec![], counts: vec![] };
        for judged in [none, judged()] {
            let text = markdown(&figures, &judged, &[]);
            assert!(text.contains("There were none."), "{text}");
            assert!(!text.contains("NaN"), "{text}");
        }
        for (_, _, svg) in pictures(&figures) {
            assert_balanced(&svg);
        }
    }
}

#[test]
fn the_report_holds_what_matters() {
    let pictures = [("chaos-stalls.svg".to_owned(), "Stalls".to_owned())];
    let text = markdown(&told(one_fault()), &judged(), &pictures);
    for part in [
        "# Chaos: 2 anomalies\n",
        "1 fault of 1 kind in 20.0 s on 3 nodes, with 2 users and 3 devices.\n",
        "lost 0 of 4 acknowledged",
        "    chaos --seed 7\n",
        "Seed 7.",
        "| lost | 0 | 4 | 1 in 1 |\n",
        "| out of order | 2 | 4 | – |\n",
        "    3 before 2 at bob\n",
        "| kill_one | 1 | 2,200 | 2,200 | 2,200 | 200 | 2,400 | 2,400 | 1,500 | 1,500 | 1,500 |\n",
        "| kill_one | 1 | 200 | 200 | 200 | 200 | 200 | 200 |\n",
        "| kill_one n1 | 1 | 10.0 | 2,200 | 200 | 2,400 | 1,500 |\n",
        "| not touched by a fault | 2 | 10.0 | 20.0 | 20.0 | 20.0 |\n",
        "| reconnects | 12,345 |\n",
        "![Stalls](chaos-stalls.svg)\n",
        "## What this does not show\n",
    ] {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
    let clean = Judged { anomalies: vec![("lost".to_owned(), 0)], texts: vec![], counts: vec![] };
    let text = markdown(&told(one_fault()), &clean, &[]);
    assert!(text.starts_with("# Chaos: 0 anomalies\n"), "{text}");
}

#[test]
fn posts_and_changes_stand_beside_what_goes_to_one() {
    let mut lines = one_fault();
    lines.extend([
        posted(21_000, "p"),
        posted(21_000, "q"),
        posted(21_000, "r"),
        ok(21_100, "p", "n1"),
        ok(21_300, "q", "n1"),
        refused(21_050, "r"),
        message(21_400, None),
        message(21_400, Some("g:club")),
        message(21_400, Some("g:club")),
        change(21_500, 2),
        change(21_600, 2),
        change(21_700, 3),
        change(21_800, 4),
    ]);
    let figures = told(lines);
    assert_eq!((figures.groups, figures.changes), (1, 3));
    assert_eq!(spread(figures.posts.waits), Some((2, [100, 300, 300, 300])));
    assert_eq!(spread(figures.letters.waits), Some((4, [20, 2_400, 2_400, 2_400])));
    let text = markdown(&figures, &judged(), &[]);
    for part in [
        "lost 0 of 6 acknowledged.\n2 of them were posts to 1 group, with 3 changes of these.\n",
        "| messages sent | 4 | 3 |\n",
        "| acknowledged | 4 | 2 |\n",
        "| refused for good | 0 | 1 |\n",
        "| delivered, summed over devices | 1 | 2 |\n",
        "| groups made and changed | – | 3 |\n",
        "| posts to groups | 2 | 100 | 300 | 300 | 300 |\n",
        "| one to one | 4 | 20.0 | 2,400 | 2,400 | 2,400 |\n",
    ] {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
    assert!(!markdown(&told(one_fault()), &judged(), &[]).contains("## Groups"));
}

#[test]
fn rows_have_as_many_cells_as_their_head() {
    let mut lines = one_fault();
    lines.push(fault(14_000, 2, "a|b", &["n1"]));
    let text = markdown(&told(lines), &judged(), &[]);
    assert!(text.contains("a\\|b"), "{text}");
    let mut width = 0;
    for line in text.lines() {
        let cells = line.replace("\\|", "").matches('|').count();
        assert!(width == 0 || cells == 0 || cells == width, "{line}");
        width = cells;
    }
}

#[test]
fn pictures_show_faults_and_escape_their_names() {
    let mut lines = one_fault();
    lines.push(fault(15_000, 2, "<b> & \"c\"", &["n\u{1}'1"]));
    let pictures = pictures(&told(lines));
    let names: Vec<&str> = pictures.iter().map(|(name, _, _)| name.as_str()).collect();
    assert_eq!(names, ["throughput", "stalls"]);
    for (_, _, svg) in &pictures {
        assert_balanced(svg);
        assert!(svg.contains(">kill_one</text>"), "{svg}");
        assert!(svg.contains("&lt;b&gt; &amp; &quot;c&quot;"), "{svg}");
        assert!(svg.contains("healed at 12.0 s, whole at 13.5 s"), "{svg}");
        assert!(svg.contains("fill=\"#ffffff\""), "{svg}");
    }
}

#[test]
fn long_runs_have_strips_and_no_clock_is_too_late() {
    let hours = vec![run(), event(1_000), fault(9_000_000, 1, "roll", &[]), event(14_400_000)];
    let late = u64::MAX / 2_000;
    let far = vec![run(), invoke(5, "a"), fault(late, 1, "roll", &[]), ok(late + 5, "a", "n1")];
    for lines in [hours, far] {
        let figures = told(lines);
        for (_, _, svg) in pictures(&figures) {
            assert_balanced(&svg);
            assert!(svg.len() < 400_000, "{} bytes", svg.len());
            assert_eq!(svg.matches(">roll</text>").count(), 1);
            assert!(svg.contains("height=\"1644\""), "{}", &svg[..200]);
        }
        assert!(markdown(&figures, &judged(), &[]).contains("roll"));
    }
}

#[test]
fn numbers_are_easy_to_read() {
    assert_eq!([0, 999, 1_000, 1_234_567].map(number), ["0", "999", "1,000", "1,234,567"]);
    let times = [0, 1_449, 99_949, 99_951, 100_000, 2_500_499];
    assert_eq!(times.map(millis), ["0.0", "1.4", "99.9", "100.0", "100", "2,500"]);
    assert_eq!([0, 49_999, 50_000, 61_000_000].map(seconds), ["0.0", "0.0", "0.1", "61.0"]);
}
