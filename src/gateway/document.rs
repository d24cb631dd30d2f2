//! Document: what is said on a socket, as AsyncAPI 3.0 has it, from the rows of `wire::described`.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::wire::{EVENTS, Event, Format, OPS, Op, REFUSED, Shape};

/// The AsyncAPI document of the socket.
#[must_use]
pub fn asyncapi() -> Value {
    let mut parts = Parts::default();
    OPS.iter().for_each(|op| parts.op(op));
    EVENTS.iter().for_each(|event| parts.event(event));
    let error = parts.shape(REFUSED);
    let payload = object(json!({"re": {"type": ["string", "null"]}, "err": error}), &["re", "err"]);
    parts.message(
        "error",
        "A request was refused; `re` is null if it had no `id`.",
        &payload,
        None,
    );
    let [json, msgpack] = [Format::Json, Format::Msgpack].map(Format::protocol);
    let (names, schemas): (Map<String, Value>, Map<String, Value>) =
        (parts.names(), parts.schemas.into_iter().collect());
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "rookery: the socket",
            "version": env!("CARGO_PKG_VERSION"),
            "description": format!(
                "One frame of JSON per text message (subprotocol `{json}`, the default), or the same fields as maps of \
                 msgpack per binary message (`{msgpack}`). A request without `id` gets no `ok`. Fields and events that a \
                 client does not know are to be ignored. Numbers stay below 2^53, times are milliseconds since the Unix \
                 epoch. The HTTP API is described by `/v1/openapi.json`."
            ),
        },
        "defaultContentType": "application/json",
        "servers": {"node": {
            "host": "localhost:8080", "protocol": "ws", "description": "Any node of the cluster.",
        }},
        "channels": {"socket": {
            "address": "/v1/socket",
            "title": "One WebSocket of one device",
            "messages": names,
            "bindings": {"ws": {"method": "GET"}},
        }},
        "operations": parts.operations,
        "components": {"messages": parts.messages, "schemas": schemas},
    })
}

/// What has been put together so far.
#[derive(Default)]
struct Parts {
    messages: Map<String, Value>,
    operations: Map<String, Value>,
    schemas: BTreeMap<String, Value>,
}

impl Parts {
    fn op(&mut self, op: &Op) {
        let (d, ok) = (self.shape(op.d), self.shape(op.ok));
        let id = json!({"type": ["string", "null"], "maxLength": 64});
        let asked = json!({"id": id, "op": {"const": op.name}, "d": d});
        let example = json!({"id": "c17", "op": op.name, "d": (op.example)()});
        self.message(op.name, op.says, &object(asked, &["op", "d"]), Some(example));
        let reply = format!("{}.ok", op.name);
        let answered = object(json!({"re": {"type": "string"}, "ok": ok}), &["re", "ok"]);
        self.message(&reply, &format!("Answers `{}`.", op.name), &answered, None);
        let operation = json!({
            "action": "receive",
            "summary": op.says,
            "channel": {"$ref": "#/channels/socket"},
            "messages": [in_channel(op.name)],
            "reply": {
                "channel": {"$ref": "#/channels/socket"},
                "messages": [in_channel(&reply), in_channel("error")],
            },
        });
        self.operations.insert(op.name.to_owned(), operation);
    }

    fn event(&mut self, event: &Event) {
        let d = self.shape(event.d);
        let mut fields = json!({"ev": {"const": event.name}, "d": d});
        let payload = if event.numbered {
            fields["n"] = json!({"type": "integer", "minimum": 1});
            object(fields, &["n", "ev", "d"])
        } else {
            object(fields, &["ev", "d"])
        };
        let name = format!("ev.{}", event.name);
        self.message(&name, event.says, &payload, None);
        let operation = json!({
            "action": "send",
            "summary": event.says,
            "channel": {"$ref": "#/channels/socket"},
            "messages": [in_channel(&name)],
        });
        self.operations.insert(name, operation);
    }

    fn message(&mut self, name: &str, says: &str, payload: &Value, example: Option<Value>) {
        let mut message = json!({"name": name, "summary": says, "payload": payload});
        if let Some(example) = example {
            message["examples"] = json!([{"payload": example}]);
        }
        self.messages.insert(name.to_owned(), message);
    }

    /// Puts a type among the schemas, and names it.
    fn shape(&mut self, shape: Shape) -> Value {
        let mut all = Vec::new();
        (shape.collect)(&mut all);
        for (name, schema) in all {
            self.schemas.insert(name, serde_json::to_value(schema).unwrap_or_default());
        }
        json!({"$ref": format!("#/components/schemas/{}", (shape.name)())})
    }

    /// All messages, as the channel has them.
    fn names(&self) -> Map<String, Value> {
        let named = |name: &String| {
            (name.clone(), json!({"$ref": format!("#/components/messages/{name}")}))
        };
        self.messages.keys().map(named).collect()
    }
}

fn object(properties: Value, required: &[&str]) -> Value {
    json!({"type": "object", "properties": properties, "required": required})
}

fn in_channel(message: &str) -> Value {
    json!({"$ref": format!("#/channels/socket/messages/{message}")})
}
