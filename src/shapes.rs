//! Shapes: what names and numbers look like, as the documents of the API and of the socket say it.
//!
//! Owns      nothing: what is written here is described, and never made. The names themselves are in `actors::ids`.
//! Promises  one shape for each kind of name, whichever way it comes; what a shape refuses, `ids` refuses.
//! Never     is asked while a request is served.
//! Fails by  nothing.

#![expect(dead_code, reason = "shapes are described and never made")]

use utoipa::ToSchema;

/// A user.
#[derive(ToSchema)]
#[schema(pattern = "^[a-z0-9._-]{1,64}$")]
pub(crate) struct User(String);

/// One of a user's devices.
#[derive(ToSchema)]
#[schema(pattern = "^[A-Za-z0-9._-]{1,32}$")]
pub(crate) struct Device(String);

/// A group.
#[derive(ToSchema)]
#[schema(pattern = "^[A-Za-z0-9._-]{1,64}$")]
pub(crate) struct Group(String);

/// A conversation: `u:<user>`, the other side's name, or `g:<group>`.
#[derive(ToSchema)]
#[schema(pattern = "^(u:[a-z0-9._-]{1,64}|g:[A-Za-z0-9._-]{1,64})$")]
pub(crate) struct Conv(String);

/// The sender's own id for a message or a group, unique per user: it makes a retry safe.
#[derive(ToSchema)]
#[schema(pattern = "^[A-Za-z0-9_-]{1,64}$")]
pub(crate) struct Cid(String);

/// The node's id for a message: a ULID, which sorts by time.
#[derive(ToSchema)]
#[schema(pattern = "^[0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{26}$")]
pub(crate) struct Mid(String);

/// What a body is, such as `text`; nodes do not interpret it.
#[derive(ToSchema)]
#[schema(pattern = "^[a-z0-9./+-]{1,64}$")]
pub(crate) struct Kind(String);

/// Names one life of a user's log; another one means that the client begins afresh.
#[derive(ToSchema)]
#[schema(pattern = "^[0-9A-HJKMNP-TV-Z]{26}$")]
pub(crate) struct Epoch(String);

/// What a message says: at most 32 KiB that nodes do not look into.
#[derive(ToSchema)]
#[schema(max_length = 32768)]
pub(crate) struct MessageBody(String);

/// A group's title: at most 256 bytes, and not blank.
#[derive(ToSchema)]
#[schema(max_length = 256, pattern = "\\S")]
pub(crate) struct Title(String);

/// What one's role in a group allows.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum Role {
    /// May change the group and who is in it.
    Admin,
    /// May read and write.
    Member,
}

/// Who may see when somebody was last there.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum SeenBy {
    /// Everybody who is not blocked.
    Everyone,
    /// Those to whom they have written.
    Contacts,
    /// Nobody; and they see nobody's.
    Nobody,
}

#[cfg(test)]
mod tests {
    use actors::ids::{self, Conversation, MessageId, UserId};
    use utoipa::PartialSchema;

    use super::*;

    /// Whether a shape and the name it is of take the same texts.
    #[track_caller]
    fn check<S: PartialSchema, T>(parse: fn(&str) -> Result<T, ids::BadName>, good: &[&str]) {
        let shape = serde_json::to_value(S::schema()).unwrap();
        let shape = jsonschema::validator_for(&shape).unwrap();
        let long = "x".repeat(65);
        let bad = ["", " ", "a b", "\u{e9}", "a\n", "u:", "x:a", "g:a b", &long];
        for text in good.iter().copied().chain(bad) {
            assert_eq!(shape.is_valid(&text.into()), parse(text).is_ok(), "{text:?}");
        }
        assert!(good.iter().all(|text| parse(text).is_ok()));
    }

    #[test]
    fn shapes_take_what_names_take() {
        let long = "x".repeat(64);
        check::<User, _>(UserId::parse, &["bob", "a.b_c-1", &long]);
        check::<Device, _>(ids::DeviceId::parse, &["Phone-1._", &long[..32]]);
        check::<Group, _>(ids::GroupId::parse, &["G.r_-1", &long]);
        check::<Conv, _>(str::parse::<Conversation>, &["u:bob", "g:Group"]);
        check::<Cid, _>(ids::Cid::parse, &["C_-1", &long]);
        check::<Kind, _>(ids::Kind::parse, &["text", "a/b+c.d-1", &long]);
        let ulid = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
        check::<Mid, _>(MessageId::parse, &[ulid, &ulid.to_lowercase()]);
        check::<Epoch, _>(ids::Epoch::parse, &[ulid]);
    }
}
