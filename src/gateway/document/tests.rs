//! Tests of the socket's document: it has the ops and events that there are, and examples that can be sent.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use super::asyncapi;
use crate::codes::Code;
use crate::described::Described;
use crate::gateway::wire::{EVENTS, Format, OPS, decode};

/// Whether a node knows an op of this name.
fn is_op(name: &str) -> bool {
    let frame = json!({"op": name, "d": {}}).to_string();
    let frame = decode(Format::Json, frame.as_bytes()).expect("a frame");
    !matches!(frame.request, Err(error) if error.code == Code::UnknownOp)
}

/// All texts in the sources below a folder that could be the name of an op.
fn words(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            words(&entry, found);
            continue;
        }
        let text = std::fs::read_to_string(&entry).unwrap();
        let word = |part: &&str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b"._".contains(&b))
        };
        found.extend(text.split('"').filter(word).map(str::to_owned));
    }
}

#[test]
fn every_op_is_described_and_there_is_no_other() {
    let mut found = BTreeSet::new();
    words(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gateway"), &mut found);
    let known: BTreeSet<&str> =
        found.iter().map(String::as_str).filter(|word| is_op(word)).collect();
    let described: BTreeSet<&str> = OPS.iter().map(|op| op.name).collect();
    assert!(known.len() > 10, "the ops were not found: {known:?}");
    assert!(
        known.is_subset(&described),
        "add a row to OPS of src/gateway/wire/described.rs for {:?}",
        known.difference(&described).collect::<Vec<_>>()
    );
    let gone: Vec<&&str> = described.iter().filter(|name| !is_op(name)).collect();
    assert!(gone.is_empty(), "no node knows these ops any more: {gone:?}");
}

#[test]
fn the_protocol_page_has_the_same_ops_and_events() {
    let page = include_str!("../PROTOCOL.md");
    let missing: Vec<&str> = (OPS.iter().map(|op| op.name))
        .chain(EVENTS.iter().map(|event| event.name))
        .filter(|name| {
            !page.contains(&format!("`{name}")) && !page.contains(&format!("\"{name}\""))
        })
        .collect();
    assert!(missing.is_empty(), "src/gateway/PROTOCOL.md lacks {missing:?}");
}

#[test]
fn every_example_is_what_its_schema_says_and_what_a_node_understands() {
    let described = Described::new(asyncapi());
    for op in OPS {
        let message = &described.document()["components"]["messages"][op.name];
        let example = &message["examples"][0]["payload"];
        described
            .fits(&message["payload"], example)
            .unwrap_or_else(|why| panic!("{}: {why}", op.name));
        let frame = decode(Format::Json, example.to_string().as_bytes()).expect("a frame");
        assert!(frame.request.is_ok(), "{}: {:?}", op.name, frame.request);
    }
}

#[test]
fn every_reference_leads_somewhere() {
    fn follow(part: &Value, document: &Value) {
        if let Some(place) = part.get("$ref").and_then(Value::as_str) {
            let found = place.strip_prefix('#').and_then(|place| document.pointer(place));
            assert!(found.is_some(), "{place} is not there");
        }
        match part {
            Value::Object(fields) => fields.values().for_each(|part| follow(part, document)),
            Value::Array(parts) => parts.iter().for_each(|part| follow(part, document)),
            _ => {}
        }
    }
    let document = asyncapi();
    follow(&document, &document);
}
