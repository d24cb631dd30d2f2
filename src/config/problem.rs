//! Problem: what is wrong with a configuration, where it stands, and what is allowed there.

use std::ops::Range;

use miette::{Diagnostic, NamedSource, SourceSpan};
use toml::Spanned;
use toml::de::{DeTable, DeValue, Error};

use super::reading::{Misfit, Reading};
use super::{naming, ranges};

/// Keys whose values are told to nobody.
const SECRETS: [&str; 4] = ["cookie", "token_secret", "old_secrets", "secret"];

/// What `check` has to say about one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    /// The key, as a path: `limits.window`, `node[2].listen`.
    pub(super) key: String,
    /// What is wrong, and what is allowed.
    pub(super) what: String,
}

/// Everything `check` has to say about a configuration.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// Refused.
    pub(super) wrong: Vec<Finding>,
    /// Allowed but unwise.
    pub(super) unwise: Vec<Finding>,
}

/// Something allowed but unwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {key}: {what}")]
pub struct Warning {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The key.
    pub key: String,
    /// What is unwise about it.
    pub what: String,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Diagnostic)]
#[error("{file}:{line}: {key}: {what}")]
pub struct Problem {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The key, `limits.window`, `listen of node "b"`; of a text that is no TOML, `(syntax)`.
    pub key: String,
    /// What is wrong with it, and what is allowed.
    pub what: String,
    #[source_code]
    source_code: NamedSource<String>,
    #[label("here")]
    span: SourceSpan,
}

/// Why a configuration was refused: correct it and start again.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{file}: {source}")]
    #[diagnostic(help("name a readable file, such as the cluster.toml of the project"))]
    Unreadable {
        /// The file.
        file: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The file says something that cannot be.
    #[error("{}", lines(.problems))]
    Refused {
        /// What is wrong, in the order of the lines; never empty.
        #[related]
        problems: Vec<Problem>,
    },
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// A text on whose lines problems are shown.
pub(super) struct Page<'a> {
    file: &'a str,
    text: &'a str,
    document: Result<Spanned<DeTable<'a>>, Error>,
}

/// Where something stands in a text.
pub(super) struct Place {
    /// The path of the innermost key there.
    pub(super) key: String,
    span: Range<usize>,
}

impl Place {
    /// The key of what is in no table.
    pub(super) const TOP: &'static str = "(top level)";

    /// The place that a span of a document is; what the whole lacks is nowhere in it.
    pub(super) fn of(document: &Spanned<DeTable<'_>>, span: Option<Range<usize>>) -> Self {
        match span.filter(|span| *span != document.span()) {
            Some(span) => Self { key: key_at(document.get_ref(), &span), span },
            None => Self { key: Self::TOP.to_owned(), span: 0..0 },
        }
    }
}

impl<'a> Page<'a> {
    /// Takes a text; `file` is what it is called.
    pub(super) fn new(file: &'a str, text: &'a str) -> Self {
        Self { file, text, document: DeTable::parse(text) }
    }

    /// Reads the text; the error is that it is no TOML.
    pub(super) fn read(&self) -> Result<Reading, ConfigError> {
        let error = match &self.document {
            Ok(document) => return Ok(Reading::of(document)),
            Err(error) => error,
        };
        let span = error.span().unwrap_or_default();
        let problem = self.problem("(syntax)".to_owned(), in_a_line(error), span);
        Err(ConfigError::Refused { problems: vec![problem] })
    }

    /// A configuration that could not be read in full, or whose values cannot be.
    pub(super) fn refused(&self, misfits: &[Misfit], wrong: Vec<Finding>) -> ConfigError {
        let unread = misfits.iter().map(|misfit| self.misfit(misfit));
        let wrong = wrong.into_iter().map(|finding| {
            let span = self.place(&finding.key);
            self.problem(self.said(&finding.key), finding.what, span)
        });
        let mut problems: Vec<Problem> = unread.chain(wrong).collect();
        problems.sort_by_key(|problem| problem.line);
        ConfigError::Refused { problems }
    }

    fn misfit(&self, Misfit { error, place, .. }: &Misfit) -> Problem {
        let Place { key, span } = place;
        let mut what = in_a_line(error);
        // A value that its key cannot take; a key that is unknown or missing says enough.
        if what.starts_with("invalid")
            && let Some(allowed) = allowed(key)
        {
            what = format!("must be {allowed}, not {}", self.shown(key, span));
        }
        self.problem(self.said(key), what, span.clone())
    }

    /// What is allowed but unwise.
    pub(super) fn warnings(&self, unwise: Vec<Finding>) -> Vec<Warning> {
        let warnings = unwise.into_iter().map(|Finding { key, what }| {
            let line = self.line(self.place(&key).start);
            Warning { file: self.file.to_owned(), line, key: self.said(&key), what }
        });
        warnings.collect()
    }

    fn problem(&self, key: String, what: String, span: Range<usize>) -> Problem {
        Problem {
            file: self.file.to_owned(),
            line: self.line(span.start),
            key,
            what,
            source_code: NamedSource::new(self.file, masked(self.text)).with_language("TOML"),
            span: span.into(),
        }
    }

    /// A value as it stands in the text, unless it is long or not to be told.
    fn shown(&self, key: &str, span: &Range<usize>) -> String {
        const SHOWN_MAX: usize = 60;
        let text = self.text.get(span.clone()).unwrap_or_default();
        if is_secret(key) || text.len() > SHOWN_MAX || text.contains('\n') {
            return "what it is".to_owned();
        }
        text.to_owned()
    }

    /// A key as people say it: `limits.window`, `listen of node "b"`.
    fn said(&self, key: &str) -> String {
        let (node, rest) =
            key.split_once('.').map_or((key, None), |(node, rest)| (node, Some(rest)));
        let ("node", Some(at)) = split_index(node) else {
            return key.to_owned();
        };
        let nodes = self.document.as_ref().ok().and_then(|document| document.get_ref().get("node"));
        let nodes = nodes.and_then(|nodes| nodes.get_ref().as_array());
        let name = |node: &'_ Spanned<DeValue<'a>>| match node.get_ref() {
            DeValue::Table(node) => node.get("name")?.get_ref().as_str().map(str::to_owned),
            _ => None,
        };
        let names: Vec<_> = nodes.into_iter().flat_map(|all| all.iter()).map(name).collect();
        let node = naming::node(&names, at);
        rest.map_or_else(|| node.clone(), |rest| format!("{rest} of {node}"))
    }

    fn line(&self, offset: usize) -> usize {
        1 + self.text.bytes().take(offset).filter(|b| *b == b'\n').count()
    }

    /// Where a key's value stands; of a key left out, the nearest table around it.
    fn place(&self, key: &str) -> Range<usize> {
        let Ok(document) = &self.document else {
            return 0..0;
        };
        let mut span = 0..0;
        let mut table = document.get_ref();
        for part in key.split('.') {
            let (name, index) = split_index(part);
            let Some(mut value) = table.get(name) else {
                return span;
            };
            if let (Some(i), DeValue::Array(all)) = (index, value.get_ref()) {
                let Some(one) = all.get(i) else { return span };
                value = one;
            }
            span = value.span();
            let DeValue::Table(inner) = value.get_ref() else {
                return span;
            };
            table = inner;
        }
        span
    }
}

/// What the library says, without its line breaks.
fn in_a_line(error: &Error) -> String {
    error.message().trim().replace('\n', ", ")
}

/// What the value of a key may be, where the type alone does not say it.
fn allowed(key: &str) -> Option<String> {
    if let Some(range) = ranges::of(key) {
        let (low, high) = range.into_inner();
        return Some(format!("a whole number from {low} to {high}"));
    }
    let name = key.rsplit('.').next().unwrap_or_default();
    match name {
        "listen" | "admin_listen" | "cluster_listen" => {
            Some("an IP address and a port, such as \"127.0.0.1:8080\"".to_owned())
        }
        "old_secrets" => Some("a list of texts in quotes".to_owned()),
        "push_after" | "timeout" => {
            Some("a whole number and its unit in quotes, such as \"20s\" or \"500ms\"".to_owned())
        }
        _ if is_secret(key) => Some("text in quotes".to_owned()),
        _ => None,
    }
}

/// Whether what stands behind a key is told to nobody: `auth.token_secret`, `auth.old_secrets[2]`.
fn is_secret(key: &str) -> bool {
    SECRETS.contains(&split_index(key.rsplit('.').next().unwrap_or_default()).0)
}

/// The text with its secrets starred out, byte for byte: reports end up in logs.
fn masked(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    // A list may go over several lines, and a report shows those around the one that is wrong.
    let mut inside = false;
    for line in text.split_inclusive('\n') {
        let value = match line.split_once('=') {
            _ if inside => line,
            Some((key, value)) if SECRETS.contains(&key.trim()) => {
                shown.push_str(key);
                shown.push('=');
                inside = value.trim_start().starts_with('[');
                value
            }
            _ => {
                shown.push_str(line);
                continue;
            }
        };
        shown.extend(value.bytes().map(|b| if b"\r\n".contains(&b) { char::from(b) } else { '*' }));
        inside = inside && !closes(value);
    }
    shown
}

/// Whether a line ends a list of texts: a bracket inside a text or a comment does not. When in doubt it does not, either.
fn closes(line: &str) -> bool {
    let behind = line.rfind(['"', '\'']).map_or(line, |at| &line[at..]);
    behind.split('#').next().is_some_and(|behind| behind.contains(']'))
}

/// `node[2]` → `node` and the second, counted from 0.
pub(super) fn split_index(part: &str) -> (&str, Option<usize>) {
    let Some((name, rest)) = part.split_once('[') else {
        return (part, None);
    };
    let index = rest.trim_end_matches(']').parse::<usize>().ok();
    (name, index.and_then(|i| i.checked_sub(1)))
}

/// The path of the innermost key that a span lies in.
fn key_at(table: &DeTable<'_>, span: &Range<usize>) -> String {
    let inside = |whole: Range<usize>| whole.start <= span.start && span.end <= whole.end;
    for (name, value) in table {
        if inside(name.span()) {
            return name.get_ref().to_string();
        }
        if let Some(path) = key_in(name.get_ref(), value, &inside, span) {
            return path;
        }
    }
    Place::TOP.to_owned()
}

fn key_in(
    name: &str,
    value: &Spanned<DeValue<'_>>,
    inside: &dyn Fn(Range<usize>) -> bool,
    span: &Range<usize>,
) -> Option<String> {
    match value.get_ref() {
        // A table's span is only its header, so its keys are asked, too.
        DeValue::Table(inner) => match key_at(inner, span).as_str() {
            Place::TOP => inside(value.span()).then(|| name.to_owned()),
            key => Some(format!("{name}.{key}")),
        },
        DeValue::Array(all) => (1..)
            .zip(all.iter())
            .find_map(|(i, one)| key_in(&format!("{name}[{i}]"), one, inside, span))
            .or_else(|| inside(value.span()).then(|| name.to_owned())),
        _ => inside(value.span()).then(|| name.to_owned()),
    }
}
