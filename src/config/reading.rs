//! Reading: from a text to a `Config`, as far as it goes: what cannot be read is told and put right for the moment, so that
//! the next thing is found as well.

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer, Error};

use super::Config;
use super::problem::{Finding, Findings, Place, split_index};

/// More than anybody repairs in one go.
const MISFITS_MAX: usize = 64;

/// What stands in for what must be there and is not, or is not what it must be. None of it is taken by anything real, and
/// what is found wrong with it is not told.
const STAND_INS: &str = r#"
cluster = { name = "", cookie = "" }
auth = { token_secret = "" }
push = { url = "", secret = "" }
node = [{ name = "", listen = "192.0.2.1:1", cluster_listen = "192.0.2.1:2", data = "" }]
"#;

/// What came of a text that is TOML.
pub(super) struct Reading {
    /// With stand-ins where something could not be read; absent where not even those helped.
    pub(super) config: Option<Config>,
    /// What could not be read.
    pub(super) misfits: Vec<Misfit>,
}

/// Something of the wrong type, unknown or missing.
pub(super) struct Misfit {
    /// The library's word for it.
    pub(super) error: Error,
    /// Where it is.
    pub(super) place: Place,
    /// What was put right: the key itself, or that of the list it is in, or the one that is missing.
    mended: String,
}

impl Reading {
    /// Reads a document.
    pub(super) fn of(document: &Spanned<DeTable<'_>>) -> Self {
        let mut mended = document.clone();
        let mut misfits: Vec<Misfit> = Vec::new();
        loop {
            let error = match Config::deserialize(Deserializer::from(mended.clone())) {
                Ok(config) => return Self { config: Some(config), misfits },
                Err(error) => error,
            };
            let place = Place::of(document, error.span());
            let key = to_mend(&place.key, error.message());
            let again = misfits.iter().any(|misfit| misfit.mended == key);
            let goes_on = !again && misfits.len() < MISFITS_MAX;
            if goes_on {
                misfits.push(Misfit { error, place, mended: key.clone() });
            }
            let stand_ins = DeTable::parse(STAND_INS).ok().map(Spanned::into_inner);
            if !goes_on || mend(mended.get_mut(), stand_ins, &key).is_none() {
                return Self { config: None, misfits };
            }
        }
    }

    /// Leaves out what was found wrong with stand-ins, with what follows from them, or by comparing with them.
    pub(super) fn without_stand_ins(&self, findings: &mut Findings) {
        let of_it = |finding: &Finding, mended: &str| {
            let rest = finding.key.strip_prefix(mended);
            let within = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
            within || follows(mended, &finding.key) || finding.what.contains(mended)
        };
        let stand_in =
            |finding: &Finding| self.misfits.iter().any(|misfit| of_it(finding, &misfit.mended));
        findings.wrong.retain(|finding| !stand_in(finding));
    }
}

/// Whether a key of a node is filled in from another when it is left out.
fn follows(from: &str, key: &str) -> bool {
    const FILLED: [(&str, &str); 3] =
        [("listen", "admin_listen"), ("listen", "url"), ("cluster_listen", "cluster_dial")];
    match (from.rsplit_once('.'), key.rsplit_once('.')) {
        (Some((node, from)), Some((same, key))) => node == same && FILLED.contains(&(from, key)),
        _ => false,
    }
}

/// The key that has to change: a missing one is below the table that was complained of, and a list is one value.
fn to_mend(key: &str, message: &str) -> String {
    let missing = message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
    let key = match missing {
        Some(name) if key == Place::TOP => name.to_owned(),
        Some(name) => format!("{key}.{name}"),
        None => key.to_owned(),
    };
    match key.find('[') {
        Some(at) if !key.starts_with("node[") => key[..at].to_owned(),
        _ => key,
    }
}

/// Puts the stand-in at a key, or takes away what is there where none is needed. `None`: there is no such place.
fn mend<'a>(table: &mut DeTable<'a>, mut stand_ins: Option<DeTable<'a>>, key: &str) -> Option<()> {
    let (first, rest) =
        key.split_once('.').map_or((key, None), |(first, rest)| (first, Some(rest)));
    let (name, index) = split_index(first);
    let stand_in = stand_ins.as_mut().and_then(|table| table.remove(name));
    let mut stand_in = stand_in.map(Spanned::into_inner);
    if rest.is_none() && index.is_none() {
        let Some(value) = stand_in else { return table.remove(name).map(drop) };
        let name = Spanned::new(0..0, name.to_owned().into());
        table.insert(name, Spanned::new(0..0, value));
        return Some(());
    }
    let mut value = table.get_mut(name)?.get_mut();
    if let Some(i) = index {
        let DeValue::Array(all) = value else { return None };
        value = all.get_mut(i)?.get_mut();
        stand_in = stand_in.and_then(only);
    }
    match (rest, value) {
        (None, value) => *value = stand_in?,
        (Some(rest), DeValue::Table(inner)) => {
            let stand_ins = stand_in.and_then(|value| match value {
                DeValue::Table(table) => Some(table),
                _ => None,
            });
            mend(inner, stand_ins, rest)?;
        }
        (Some(_), _) => return None,
    }
    Some(())
}

/// The element of a list that has one.
fn only(list: DeValue<'_>) -> Option<DeValue<'_>> {
    let DeValue::Array(all) = list else { return None };
    all.first().map(|one| one.get_ref().clone())
}
