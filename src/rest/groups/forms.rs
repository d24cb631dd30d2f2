//! Forms: what calls about groups take, and what they answer.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{AllOfBuilder, AnyOfBuilder, ObjectBuilder, Ref, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::shapes::{self, Group, Role, User};

/// A group that is to be, as sent.
#[derive(Deserialize, ToSchema)]
#[schema(as = NewGroup)]
pub(super) struct Draft<'a> {
    #[serde(borrow)]
    #[schema(value_type = shapes::Title)]
    pub(super) title: Option<&'a RawValue>,
    /// Who else is in it.
    #[serde(borrow)]
    #[schema(value_type = Option<Vec<User>>, max_items = 1024)]
    pub(super) members: Option<&'a RawValue>,
    /// May be left out when there is an `Idempotency-Key`.
    #[serde(borrow)]
    #[schema(value_type = Option<shapes::Cid>)]
    pub(super) cid: Option<&'a RawValue>,
}

/// What shall be different, as sent.
#[derive(Deserialize, ToSchema)]
#[schema(as = GroupFields)]
pub(super) struct Changes<'a> {
    #[serde(borrow)]
    #[schema(value_type = Option<shapes::Title>)]
    pub(super) title: Option<&'a RawValue>,
    /// At most 1,024 bytes; empty removes it.
    #[serde(borrow)]
    #[schema(value_type = Option<String>, max_length = 1024)]
    pub(super) icon: Option<&'a RawValue>,
    /// At most 1,024 bytes; empty removes it.
    #[serde(borrow)]
    #[schema(value_type = Option<String>, max_length = 1024)]
    pub(super) status: Option<&'a RawValue>,
}

/// The body of an update: fields of which one is there, which no derive can say.
pub(super) struct GroupChanges;

impl PartialSchema for GroupChanges {
    fn schema() -> RefOr<Schema> {
        let text = || ObjectBuilder::new().schema_type(Type::String);
        let with = |field: &str| ObjectBuilder::new().property(field, text()).required(field);
        let any = ["title", "icon", "status"].into_iter().map(with);
        let any = any.fold(AnyOfBuilder::new(), AnyOfBuilder::item);
        let fields = Ref::from_schema_name(Changes::name());
        AllOfBuilder::new().item(fields).item(any).into()
    }
}

impl ToSchema for GroupChanges {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((Changes::name().into(), Changes::schema()));
        Changes::schemas(schemas);
    }
}

/// Users, as sent.
#[derive(Deserialize, ToSchema)]
#[schema(as = Users)]
pub(super) struct Users<'a> {
    #[serde(borrow)]
    #[schema(value_type = Vec<User>, min_items = 1, max_items = 1024)]
    pub(super) users: Option<&'a RawValue>,
}

/// A role, as sent.
#[derive(Deserialize, ToSchema)]
#[schema(as = RoleDraft)]
pub(super) struct RoleDraft<'a> {
    #[serde(borrow)]
    #[schema(value_type = Role)]
    pub(super) role: Option<&'a RawValue>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = GroupMade)]
pub(super) struct Made {
    #[schema(value_type = Group)]
    pub(super) group: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Groups)]
pub(super) struct List {
    pub(super) groups: Vec<Listed>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = GroupListed)]
pub(super) struct Listed {
    #[schema(value_type = Group)]
    pub(super) group: String,
    pub(super) title: Box<str>,
    /// The user's own.
    #[schema(value_type = Role)]
    pub(super) role: &'static str,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Member {
    #[schema(value_type = User)]
    pub(super) user: String,
    #[schema(value_type = Role)]
    pub(super) role: &'static str,
    /// What they call themselves, if they do, and it could be found out in time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    pub(super) name: Option<Arc<str>>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = GroupInfo)]
pub(super) struct Shown {
    #[schema(value_type = Group)]
    pub(super) group: String,
    pub(super) title: Box<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) icon: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) status: Option<Box<str>>,
    /// The oldest first.
    pub(super) members: Vec<Member>,
    /// In milliseconds since the Unix epoch.
    pub(super) created_at: u64,
    /// How many members there are.
    pub(super) count: usize,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Receipts {
    pub(super) receipts: Vec<Mark>,
}

/// How far a member has got in what others wrote.
#[derive(Serialize, ToSchema)]
#[schema(as = Receipt)]
pub(super) struct Mark {
    #[schema(value_type = User)]
    pub(super) user: String,
    /// Up to this `seq` it is on one of their devices.
    pub(super) delivered: u64,
    /// Up to this `seq` they have read it.
    pub(super) read: u64,
}

/// Nothing to tell but that it is done.
#[derive(Serialize, ToSchema)]
pub(super) struct Done {}
