//! Naming: nodes as people call them, by their names where these are their own.

const PLACES: [&str; 10] =
    ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"];

/// A node, by its place from 0: `node "b"`, or `the second [[node]]` if it has no name or shares it.
pub(super) fn node(names: &[Option<impl AsRef<str>>], at: usize) -> String {
    let name_of = |at: usize| names.get(at).and_then(Option::as_ref).map(AsRef::as_ref);
    let name = name_of(at).unwrap_or_default();
    let bearers = (0..names.len()).filter(|other| name_of(*other) == Some(name));
    if !name.is_empty() && bearers.count() == 1 {
        return format!("node {name:?}");
    }
    match PLACES.get(at) {
        Some(place) => format!("the {place} [[node]]"),
        None => format!("[[node]] number {}", at + 1),
    }
}
