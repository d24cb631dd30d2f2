//! Tests of what pages of messages say besides the messages.

use std::sync::Arc;

use actors::ids::{DeviceId, Kind, MessageId, Number, Seq, Timestamp, UserId};
use actors::message::{Content, Entry, What};
use actors::packet::Answer;
use serde_json::json;

use super::{Played, Stage, stage_with};

fn entries(ns: &[u64]) -> Vec<Entry> {
    let kind = Kind::parse("text").unwrap();
    let content = Arc::new(Content { kind, body: "hi".into(), reply_to: None, client: None });
    let what = |n: u64| What::Message {
        mid: MessageId(n.into()),
        from: UserId::parse("bob").unwrap(),
        device: DeviceId::parse("phone").unwrap(),
        seq: Seq(n),
        content: content.clone(),
    };
    ns.iter().map(|n| Entry { n: Number(*n), at: Timestamp(1), what: what(*n) }).collect()
}

fn stage_of(answer: Answer) -> Stage {
    stage_with(Played { pages: Some(answer), ..Played::default() }, |_| {})
}

#[tokio::test]
async fn a_page_says_how_to_go_on_if_there_is_more() {
    let page = |more| Answer::History { entries: entries(&[4, 6]), head: Number(9), more };
    let paths = ["/v1/messages", "/v1/conversations/u:bob/messages", "/v1/groups/club/messages"];
    let stage = stage_of(page(true));
    for path in paths {
        let older = stage.get(path, &stage.token).await.body;
        assert_eq!((&older["more"], &older["next"]), (&json!(true), &json!(4)), "{older}");
        let newer = stage.get(&format!("{path}?after=2"), &stage.token).await.body;
        assert_eq!((&newer["more"], &newer["next"]), (&json!(true), &json!(6)), "{newer}");
    }
    let stage = stage_of(page(false));
    let all = stage.get(paths[0], &stage.token).await.body;
    assert_eq!((&all["more"], all.get("next")), (&json!(false), None), "{all}");
}

#[tokio::test]
async fn a_search_that_breaks_off_can_be_gone_on_with() {
    let (head, upto) = (Number(9), Number(5));
    let stage = stage_of(Answer::Searched { entries: Vec::new(), head, upto });
    let page = stage.get("/v1/messages?from=cat", &stage.token).await.body;
    assert_eq!(page, json!({"messages": [], "more": true, "next": 5, "n": 9}));
    let one = stage.get("/v1/messages/01ARZ3NDEKTSV4RRFFQ69G5FAV", &stage.token).await;
    one.refuses(404, "not_found", "no such message");
}
