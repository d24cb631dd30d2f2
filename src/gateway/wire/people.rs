//! People: requests about whom a user blocks, who may see them, and what they say of themselves.

use actors::ids::UserId;
use actors::message::people::{BadText, Call, LastSeen, Profile, Settings};

use super::raw::Raw;
use super::request::{Request, fields, parsed, text, wrong};
use super::writer::Writer;
use super::{Code, Error};

/// What a client asks about its own user and others.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PeopleRequest {
    /// `block`, `unblock`, and `settings` and `profile` with something to change.
    Call(Call),
    /// `blocked`
    Blocked,
    /// `settings`
    Settings,
    /// `profile`
    Profile,
}

impl PeopleRequest {
    /// How many users it names that must be looked up.
    pub(crate) fn names(&self) -> u32 {
        u32::from(matches!(self, Self::Call(Call::Block(_))))
    }
}

/// Reads a request about people; none if the op is another.
pub(super) fn request(op: &str, d: Raw<'_>) -> Option<Result<Request, Error>> {
    let asked = match op {
        "block" => user(d, Call::Block),
        "unblock" => user(d, Call::Unblock),
        "blocked" => fields(d, &[]).map(|[]| PeopleRequest::Blocked),
        "settings" => settings(d),
        "profile" => profile(d),
        _ => return None,
    };
    Some(asked.map(|asked| Request::People(Box::new(asked))))
}

fn user(d: Raw<'_>, call: fn(UserId) -> Call) -> Result<PeopleRequest, Error> {
    let [user] = fields(d, &["user"])?;
    Ok(PeopleRequest::Call(call(parsed("user", user, UserId::parse)?)))
}

fn settings(d: Raw<'_>) -> Result<PeopleRequest, Error> {
    let [last_seen] = fields(d, &["last_seen"])?;
    let Some(last_seen) = last_seen.filter(|raw| !raw.is_null()) else {
        return Ok(PeopleRequest::Settings);
    };
    let word = LastSeen::parse(&text("last_seen", Some(last_seen))?);
    let last_seen = word.ok_or_else(|| wrong("last_seen", "everyone, contacts or nobody"))?;
    Ok(PeopleRequest::Call(Call::LastSeen(last_seen)))
}

fn profile(d: Raw<'_>) -> Result<PeopleRequest, Error> {
    let [name, about, avatar] = fields(d, &["name", "about", "avatar"])?;
    let optional = |field: &str, raw: Option<Raw<'_>>| {
        let raw = raw.filter(|raw| !raw.is_null());
        raw.map(|raw| text(field, Some(raw)).map(Box::from)).transpose()
    };
    let profile = Profile {
        name: optional("name", name)?,
        about: optional("about", about)?,
        avatar: optional("avatar", avatar)?,
    };
    profile.check()?;
    match profile.is_empty() {
        true => Ok(PeopleRequest::Profile),
        false => Ok(PeopleRequest::Call(Call::Describe(profile))),
    }
}

impl From<BadText> for Error {
    fn from(bad: BadText) -> Self {
        let code = match bad {
            BadText::TooLong { .. } => Code::TooLarge,
            BadText::Control { .. } | BadText::Blank => Code::BadRequest,
        };
        Self::new(code, bad.to_string())
    }
}

/// What such a request is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PeopleBody {
    /// To `blocked`.
    Blocked(Vec<UserId>),
    /// To `settings`.
    Settings(Settings),
    /// To `profile`.
    Profile(Box<Profile>),
}

pub(super) fn write_body(frame: &mut Writer, body: &PeopleBody) {
    match body {
        PeopleBody::Blocked(users) => {
            frame.map(1);
            frame.key("users").list(users.len());
            for user in users {
                frame.item();
                frame.text(user.as_str());
            }
            frame.end_list();
        }
        PeopleBody::Settings(settings) => {
            frame.map(1);
            frame.key("last_seen").text(settings.last_seen.as_str());
        }
        PeopleBody::Profile(profile) => {
            let Profile { name, about, avatar } = &**profile;
            let all = [("name", name), ("about", about), ("avatar", avatar)];
            frame.map(all.iter().filter(|(_, text)| text.is_some()).count());
            for (key, text) in all {
                if let Some(text) = text {
                    frame.key(key).text(text);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{Body, Format, Outgoing, Teller, decode};
    use super::*;

    /// What a request is read as, the same in both formats.
    fn ask(op: &str, d: &Value) -> Result<PeopleRequest, (Code, String)> {
        let frame = json!({"id": "1", "op": op, "d": d});
        let packed = rmp_serde::to_vec(&frame).unwrap();
        let json = decode(Format::Json, frame.to_string().as_bytes()).unwrap().request;
        assert_eq!(json, decode(Format::Msgpack, &packed).unwrap().request, "{frame}");
        match json {
            Ok(Request::People(asked)) => Ok(*asked),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err((error.code, error.message.into_owned())),
        }
    }

    #[test]
    fn requests_about_people_are_understood_in_both_formats() {
        let ann = || UserId::parse("ann").unwrap();
        let named = Profile { name: Some("Zoë 🦜".into()), ..Profile::default() };
        let gone = Profile { about: Some("".into()), avatar: Some("b".into()), ..named.clone() };
        for (op, d, asked) in [
            ("block", json!({"user": "ann"}), PeopleRequest::Call(Call::Block(ann()))),
            ("unblock", json!({"user": "ann"}), PeopleRequest::Call(Call::Unblock(ann()))),
            ("blocked", json!({}), PeopleRequest::Blocked),
            ("settings", json!({"last_seen": null, "later": 1}), PeopleRequest::Settings),
            (
                "settings",
                json!({"last_seen": "contacts"}),
                PeopleRequest::Call(Call::LastSeen(LastSeen::Contacts)),
            ),
            ("profile", json!({}), PeopleRequest::Profile),
            ("profile", json!({"name": null}), PeopleRequest::Profile),
            (
                "profile",
                json!({"name": "Zoë 🦜"}),
                PeopleRequest::Call(Call::Describe(named.clone())),
            ),
            (
                "profile",
                json!({"name": "Zoë 🦜", "about": "", "avatar": "b"}),
                PeopleRequest::Call(Call::Describe(gone)),
            ),
        ] {
            assert_eq!(ask(op, &d), Ok(asked), "{op} {d}");
        }
    }

    #[test]
    fn a_wrong_field_is_named_and_a_long_text_is_too_large() {
        let bad = Code::BadRequest;
        for (op, d, code, field) in [
            ("block", json!({}), bad, "user"),
            ("block", json!({"user": "No Name"}), bad, "user"),
            ("unblock", json!({"user": 7}), bad, "user"),
            ("blocked", json!([]), bad, "d"),
            ("settings", json!({"last_seen": "sometimes"}), bad, "last_seen"),
            ("settings", json!({"last_seen": true}), bad, "last_seen"),
            ("profile", json!({"name": 7}), bad, "name"),
            ("profile", json!({"name": "  "}), bad, "name"),
            ("profile", json!({"about": "a\nb"}), bad, "about"),
            ("profile", json!({"name": "é".repeat(65)}), Code::TooLarge, "name"),
            ("profile", json!({"about": "x".repeat(513)}), Code::TooLarge, "about"),
            ("profile", json!({"avatar": "x".repeat(1025)}), Code::TooLarge, "avatar"),
        ] {
            let (found, message) = ask(op, &d).unwrap_err();
            assert_eq!((found, message.split(':').next()), (code, Some(field)), "{op} {d}");
        }
    }

    #[test]
    fn answers_are_the_same_in_both_formats() {
        let told = |body: PeopleBody| -> Value {
            let ok = Outgoing::Ok { re: "1".into(), body: Body::People(body) };
            let tell = |format| Teller { format, device: None }.tell(&ok);
            let json: Value = serde_json::from_slice(&tell(Format::Json)).unwrap();
            let packed: Value = rmp_serde::from_slice(&tell(Format::Msgpack)).unwrap();
            assert_eq!(json, packed);
            json["ok"].clone()
        };
        let users = ["ann", "cat"].map(|name| UserId::parse(name).unwrap()).into();
        assert_eq!(told(PeopleBody::Blocked(users)), json!({"users": ["ann", "cat"]}));
        let settings = Settings { last_seen: LastSeen::Nobody };
        assert_eq!(told(PeopleBody::Settings(settings)), json!({"last_seen": "nobody"}));
        let profile =
            Profile { name: Some("Ann".into()), about: Some("\"hi\"".into()), avatar: None };
        let shown = json!({"name": "Ann", "about": "\"hi\""});
        assert_eq!(told(PeopleBody::Profile(Box::new(profile))), shown);
        assert_eq!(told(PeopleBody::Profile(Box::default())), json!({}));
    }
}
