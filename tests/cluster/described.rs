//! Described: whether what a node says is what its documents say. The unit tests of `rest` and `gateway` use it, too.
//!
//! A client must bear fields it does not know, so the documents allow them; a test must not, or nobody would notice a field
//! that was never described. So schemas are made strict first.

#![allow(dead_code, reason = "each test program needs a part of it")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use jsonschema::Validator;
use serde_json::{Map, Value, json};

/// A document, with its schemas made strict.
pub(crate) struct Described {
    document: Value,
    strict: Value,
    compiled: Mutex<BTreeMap<String, Arc<Validator>>>,
}

/// An answer over HTTP.
pub(crate) struct Said<'a> {
    pub(crate) method: &'a str,
    /// Path and query.
    pub(crate) target: &'a str,
    pub(crate) status: u16,
    pub(crate) kind: Option<&'a str>,
    pub(crate) body: &'a [u8],
}

impl Described {
    /// Takes an OpenAPI or an AsyncAPI document.
    pub(crate) fn new(document: Value) -> Self {
        let mut strict = document["components"]["schemas"].clone();
        let names: Vec<String> =
            strict.as_object().into_iter().flatten().map(|(n, _)| n.clone()).collect();
        for name in names {
            let schema = tightened(&document["components"]["schemas"][&name], &document);
            strict[&name] = schema;
        }
        Self { document, strict, compiled: Mutex::default() }
    }

    /// The document.
    pub(crate) fn document(&self) -> &Value {
        &self.document
    }

    /// The path of the document that a request's path is of, and what it may do there.
    pub(crate) fn operation(&self, method: &str, target: &str) -> Option<(&str, &Value)> {
        let path = target.split('?').next().unwrap_or_default();
        let paths = self.document["paths"].as_object()?;
        // `/v1/docs/{file}` must not hide `/v1/docs`, nor a parameter a word.
        let exact = paths.get_key_value(path);
        let found = exact.or_else(|| paths.iter().find(|(template, _)| fits(template, path)));
        let (template, item) = found?;
        Some((template, item.get(method.to_ascii_lowercase())?))
    }

    /// What is wrong with an answer, and what to write to mend it.
    pub(crate) fn wrong_with(&self, said: &Said<'_>) -> Result<(), String> {
        let Said { method, target, status, kind, body } = said;
        let Some((template, operation)) = self.operation(method, target) else {
            let told =
                ["HEAD", "OPTIONS"].contains(method) || matches!(status, 404 | 405 | 414 | 431);
            return if told {
                Ok(())
            } else {
                Err(format!(
                    "{method} {target} answered {status}, but the document has no such call"
                ))
            };
        };
        let call = format!("{method} {template}");
        let response = self.resolved(&operation["responses"][status.to_string()]);
        if response.is_null() {
            return Err(format!(
                "{call} answered {status}, which its document lacks: add it to `responses` or `x-codes` of its \
                 `#[utoipa::path]`: {}",
                String::from_utf8_lossy(body),
            ));
        }
        let Some(content) = response.get("content").and_then(Value::as_object) else {
            return if body.is_empty() {
                Ok(())
            } else {
                Err(format!("{call} answered {status} with a body, which its document lacks"))
            };
        };
        let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default();
        let Some(media) = content.get(kind) else {
            return Err(format!("{call} answered {status} in `{kind}`, which its document lacks"));
        };
        let lines =
            |body: &[u8]| body.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>();
        let (schema, parts) = match kind {
            "application/json" | "application/problem+json" => {
                (media["schema"].clone(), vec![body.to_vec()])
            }
            "application/jsonl" => {
                (json!({"$ref": "#/components/schemas/ExportLine"}), lines(body))
            }
            _ => return Ok(()),
        };
        for part in parts.iter().filter(|part| !part.is_empty()) {
            let value: Value =
                serde_json::from_slice(part).map_err(|error| format!("{call}: {error}"))?;
            self.fits(&schema, &value).map_err(|why| {
                format!("{call} answered {status} with what its schema does not describe: {why}\n{value}")
            })?;
            let code = &value["code"];
            let listed = operation["x-codes"][status.to_string()].as_array();
            if kind == "application/problem+json"
                && !listed.is_some_and(|codes| codes.contains(code))
            {
                return Err(format!(
                    "{call} answered {status} {code}: add it to `x-codes` of its handler"
                ));
            }
        }
        Ok(())
    }

    /// Whether a value is as a schema of this document says.
    pub(crate) fn fits(&self, schema: &Value, value: &Value) -> Result<(), String> {
        let key = schema.to_string();
        let mut compiled = self.compiled.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let validator = compiled.entry(key).or_insert_with(|| {
            let schema = tightened(schema, &self.document);
            let whole = json!({"allOf": [schema], "components": {"schemas": self.strict}});
            Arc::new(jsonschema::draft202012::new(&whole).expect("the document has schemas"))
        });
        let validator = Arc::clone(validator);
        drop(compiled);
        let wrong: Vec<String> = validator
            .iter_errors(value)
            .map(|error| format!("{error} at `{}`", error.instance_path()))
            .collect();
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
    }

    /// What a reference stands for.
    pub(crate) fn resolved<'a>(&'a self, value: &'a Value) -> &'a Value {
        let place = value.get("$ref").and_then(Value::as_str).and_then(|at| at.strip_prefix('#'));
        place.and_then(|place| self.document.pointer(place)).unwrap_or(value)
    }

    /// What is wrong with a frame of a node, and what to write to mend it. `op` is what a reply answers.
    pub(crate) fn wrong_with_frame(&self, frame: &Value, op: Option<&str>) -> Result<(), String> {
        let name = match (frame["ev"].as_str(), frame.get("err"), op) {
            (Some(ev), ..) => format!("ev.{ev}"),
            (None, Some(_), _) => "error".to_owned(),
            (None, None, Some(op)) => format!("{op}.ok"),
            (None, None, None) => return Ok(()),
        };
        let Some(message) = self.document["components"]["messages"].get(&name) else {
            return Err(format!(
                "the AsyncAPI document has no message `{name}`: add a row to OPS or EVENTS of \
                 src/gateway/wire/described.rs for {frame}"
            ));
        };
        self.fits(&message["payload"], frame).map_err(|why| {
            format!("`{name}` is not as src/gateway/wire/described.rs says: {why}\n{frame}")
        })
    }
}

/// Whether a path is one that a template stands for.
fn fits(template: &str, path: &str) -> bool {
    let (parts, given): (Vec<&str>, Vec<&str>) =
        (template.split('/').collect(), path.split('/').collect());
    let same =
        |(part, given): (&&str, &&str)| part.starts_with('{') && !given.is_empty() || part == given;
    parts.len() == given.len() && parts.iter().zip(&given).all(same)
}

/// The schema, taking no fields but those it names. What `allOf` puts together is strict only as a whole.
fn tightened(schema: &Value, document: &Value) -> Value {
    match schema {
        Value::Object(fields) => {
            let mut tight: Map<String, Value> = Map::new();
            for (name, part) in fields {
                let part = match name.as_str() {
                    "allOf" => loosened(part, document),
                    "enum" | "const" | "example" | "examples" | "default" => part.clone(),
                    _ => tightened(part, document),
                };
                tight.insert(name.clone(), part);
            }
            let whole = fields.contains_key("allOf");
            let object = fields.get("properties").is_some_and(|fields| !names_a_schema(fields));
            if (whole || object) && fields.get("additionalProperties").is_none() {
                tight.insert("unevaluatedProperties".to_owned(), json!(false));
            }
            tight.into()
        }
        Value::Array(parts) => parts.iter().map(|part| tightened(part, document)).collect(),
        other => other.clone(),
    }
}

/// A field that is itself called `properties` makes no schema.
fn names_a_schema(fields: &Value) -> bool {
    fields.get("type").is_some_and(Value::is_string)
}

/// Parts of an `allOf`, with what they refer to put in their place and not made strict.
fn loosened(parts: &Value, document: &Value) -> Value {
    match parts {
        Value::Object(fields) => {
            let place =
                fields.get("$ref").and_then(Value::as_str).and_then(|at| at.strip_prefix('#'));
            if let Some(found) = place.and_then(|place| document.pointer(place)) {
                return loosened(found, document);
            }
            let part = |(name, part): (&String, &Value)| {
                let part = match name.as_str() {
                    "properties" => tightened(part, document),
                    _ => loosened(part, document),
                };
                (name.clone(), part)
            };
            Value::Object(fields.iter().map(part).collect())
        }
        Value::Array(parts) => parts.iter().map(|part| loosened(part, document)).collect(),
        other => other.clone(),
    }
}

/// All example bodies of an operation; one that has none is asked once without a body.
pub(crate) fn examples_of(operation: &Value) -> Vec<Option<Value>> {
    let content = &operation["requestBody"]["content"]["application/json"];
    let many = content["examples"].as_object().into_iter().flatten();
    let all: Vec<Option<Value>> = many
        .map(|(_, example)| Some(example["value"].clone()))
        .chain(content.get("example").map(|example| Some(example.clone())))
        .collect();
    if all.is_empty() { vec![None] } else { all }
}
