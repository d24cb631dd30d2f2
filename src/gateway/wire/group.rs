//! Group: requests about groups, and what they are answered with.

use std::collections::BTreeMap;
use std::sync::Arc;

use actors::ids::{Cid, Conversation, GroupId, Seq, UserId};
use actors::message::group::{
    Call, Info, MEMBERS_MAX, News, Progress, TEXT_BYTES_MAX, TITLE_BYTES_MAX,
};

use super::raw::Raw;
use super::request::{Request, fields, parsed, text, whole, wrong};
use super::writer::Writer;
use super::{Code, Error};

/// What a client asks about groups.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum GroupRequest {
    /// `group.create`
    Create {
        /// The sender's id for it.
        cid: Cid,
        /// Its title.
        title: Box<str>,
        /// Who else is in it.
        members: Vec<UserId>,
    },
    /// `group.update`, `group.add`, `group.remove`, `group.leave`, `group.role`
    Call(GroupId, Call),
    /// `group.info`
    Info(GroupId),
    /// `group.list`
    List,
    /// `receipts`
    Receipts(GroupId),
}

impl GroupRequest {
    /// How many users it names that must be looked up.
    pub(crate) fn names(&self) -> u32 {
        let names = match self {
            Self::Create { members: users, .. } | Self::Call(_, Call::Add(users)) => users.len(),
            _ => 0,
        };
        u32::try_from(names).unwrap_or(u32::MAX)
    }
}

/// Reads a request about groups; none if the op is another.
pub(super) fn request(op: &str, d: Raw<'_>) -> Option<Result<Request, Error>> {
    let asked = match op {
        "group.create" => create(d),
        "group.info" => of(d, &["group"]).map(|(group, [_])| GroupRequest::Info(group)),
        "group.list" => fields(d, &[]).map(|[]| GroupRequest::List),
        "group.update" => update(d),
        "group.add" => users(d, Call::Add),
        "group.remove" => users(d, Call::Remove),
        "group.leave" => {
            of(d, &["group"]).map(|(group, [_])| GroupRequest::Call(group, Call::Leave))
        }
        "group.role" => role(d),
        "receipts" => receipts(d),
        _ => return None,
    };
    Some(asked.map(|asked| Request::Group(Box::new(asked))))
}

/// The fields of a request whose first one names the group.
fn of<'a, const N: usize>(
    d: Raw<'a>,
    names: &[&str; N],
) -> Result<(GroupId, [Option<Raw<'a>>; N]), Error> {
    let found = fields(d, names)?;
    Ok((parsed("group", found[0], GroupId::parse)?, found))
}

fn create(d: Raw<'_>) -> Result<GroupRequest, Error> {
    let [given, members, cid] = fields(d, &["title", "members", "cid"])?;
    let title = title(&text("title", given)?)?;
    let members = match members.filter(|members| !members.is_null()) {
        None => Vec::new(),
        some => names("members", some)?,
    };
    Ok(GroupRequest::Create { cid: parsed("cid", cid, Cid::parse)?, title, members })
}

fn update(d: Raw<'_>) -> Result<GroupRequest, Error> {
    let (group, [_, given, icon, status]) = of(d, &["group", "title", "icon", "status"])?;
    let there = |raw: Option<Raw<'_>>| raw.is_some_and(|raw| !raw.is_null());
    if ![given, icon, status].into_iter().any(there) {
        return Err(wrong("d", "an object with title, icon or status"));
    }
    let optional = |name: &'static str, raw: Option<Raw<'_>>| {
        let raw = raw.filter(|raw| !raw.is_null());
        raw.map(|raw| bounded(name, &text(name, Some(raw))?, TEXT_BYTES_MAX)).transpose()
    };
    let given = given.filter(|raw| !raw.is_null());
    let title = given.map(|raw| title(&text("title", Some(raw))?)).transpose()?;
    let (icon, status) = (optional("icon", icon)?, optional("status", status)?);
    Ok(GroupRequest::Call(group, Call::Update { title, icon, status }))
}

fn title(title: &str) -> Result<Box<str>, Error> {
    if title.trim().is_empty() {
        return Err(wrong("title", "a text that is not empty"));
    }
    bounded("title", title, TITLE_BYTES_MAX)
}

fn bounded(name: &str, text: &str, max: usize) -> Result<Box<str>, Error> {
    if text.len() > max {
        return Err(Error::new(Code::TooLarge, format!("{name}: at most {max} bytes")));
    }
    Ok(text.into())
}

fn users(d: Raw<'_>, call: fn(Vec<UserId>) -> Call) -> Result<GroupRequest, Error> {
    let (group, [_, users]) = of(d, &["group", "users"])?;
    let users = names("users", users)?;
    if users.is_empty() {
        return Err(wrong("users", "a list of at least one user"));
    }
    Ok(GroupRequest::Call(group, call(users)))
}

fn names(name: &str, raw: Option<Raw<'_>>) -> Result<Vec<UserId>, Error> {
    let raw = raw.filter(|raw| !raw.is_null());
    let raw = raw.ok_or_else(|| Error::new(Code::BadRequest, format!("{name}: is missing")))?;
    let users = raw.texts().ok_or_else(|| wrong(name, "a list of users"))?;
    if users.len() > MEMBERS_MAX {
        let message = format!("{name}: at most {MEMBERS_MAX}");
        return Err(Error::new(Code::TooLarge, message));
    }
    let user = |user: &String| UserId::parse(user).map_err(|bad| wrong(name, bad.shape));
    users.iter().map(user).collect()
}

fn role(d: Raw<'_>) -> Result<GroupRequest, Error> {
    let (group, [_, user, role]) = of(d, &["group", "user", "role"])?;
    let user = parsed("user", user, UserId::parse)?;
    let admin = match &*text("role", role)? {
        "admin" => true,
        "member" => false,
        _ => return Err(wrong("role", "admin or member")),
    };
    Ok(GroupRequest::Call(group, Call::Role { user, admin }))
}

fn receipts(d: Raw<'_>) -> Result<GroupRequest, Error> {
    let [conv, seq] = fields(d, &["conv", "seq"])?;
    if let Some(seq) = seq.filter(|seq| !seq.is_null()) {
        // Everyone's numbers say it for each message.
        let _any = Seq(whole("seq", Some(seq))?);
    }
    match parsed("conv", conv, str::parse)? {
        Conversation::Group(group) => Ok(GroupRequest::Receipts(group)),
        Conversation::User(_) => Err(wrong("conv", "g:<group>")),
    }
}

/// What a request about groups is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GroupBody {
    /// To `group.create`.
    Made(GroupId),
    /// To `group.info`, with what members are called, as far as it is known.
    Info(GroupId, Box<Info>, BTreeMap<UserId, Arc<str>>),
    /// To `group.list`.
    List(Vec<(GroupId, Box<str>, bool)>),
    /// To `receipts`.
    Receipts(Vec<Progress>),
}

const fn role_of(admin: bool) -> &'static str {
    if admin { "admin" } else { "member" }
}

pub(super) fn write_body(frame: &mut Writer, body: &GroupBody) {
    match body {
        GroupBody::Made(group) => {
            frame.map(1);
            frame.key("group").text(group.as_str());
        }
        GroupBody::Info(group, info, names) => {
            let more = [("icon", &info.icon), ("status", &info.status)];
            let there = more.iter().filter(|(_, text)| text.is_some()).count();
            frame.map(5 + there);
            frame.key("group").text(group.as_str());
            frame.key("title").text(&info.title);
            for (key, text) in more {
                if let Some(text) = text {
                    frame.key(key).text(text);
                }
            }
            frame.key("members").list(info.members.len());
            for (user, admin) in &info.members {
                let name = names.get(user);
                frame.item();
                frame.map(2 + usize::from(name.is_some()));
                frame.key("user").text(user.as_str());
                frame.key("role").text(role_of(*admin));
                if let Some(name) = name {
                    frame.key("name").text(name);
                }
                frame.end_map();
            }
            frame.end_list();
            frame.key("created_at").number(info.created_at.0);
            frame.key("count").number(info.members.len() as u64);
        }
        GroupBody::List(groups) => {
            frame.map(1);
            frame.key("groups").list(groups.len());
            for (group, title, admin) in groups {
                frame.item();
                frame.map(3);
                frame.key("group").text(group.as_str());
                frame.key("title").text(title);
                frame.key("role").text(role_of(*admin));
                frame.end_map();
            }
            frame.end_list();
        }
        GroupBody::Receipts(members) => {
            frame.map(1);
            frame.key("receipts").list(members.len());
            for Progress { user, delivered, read } in members {
                frame.item();
                frame.map(3);
                frame.key("user").text(user.as_str());
                frame.key("delivered").number(delivered.0);
                frame.key("read").number(read.0);
                frame.end_map();
            }
            frame.end_list();
        }
    }
}

/// How many fields the news has besides those that every change has.
pub(super) fn fields_of(news: &News) -> usize {
    match news {
        News::Created { .. } | News::Added { .. } | News::Role { .. } => 2,
        News::Updated { title, icon, status } => {
            [title, icon, status].into_iter().flatten().count()
        }
        News::Removed(_) => 1,
        News::Left => 0,
    }
}

pub(super) const fn name_of(news: &News) -> &'static str {
    match news {
        News::Created { .. } => "created",
        News::Updated { .. } => "updated",
        News::Added { .. } => "added",
        News::Removed(_) => "removed",
        News::Left => "left",
        News::Role { .. } => "role",
    }
}

pub(super) fn write_news(frame: &mut Writer, news: &News) {
    match news {
        News::Created { title, users } | News::Added { title, users } => {
            frame.key("title").text(title);
            write_users(frame, users);
        }
        News::Updated { title, icon, status } => {
            for (key, text) in [("title", title), ("icon", icon), ("status", status)] {
                if let Some(text) = text {
                    frame.key(key).text(text);
                }
            }
        }
        News::Removed(users) => write_users(frame, users),
        News::Left => {}
        News::Role { user, admin } => {
            frame.key("user").text(user.as_str());
            frame.key("role").text(role_of(*admin));
        }
    }
}

fn write_users(frame: &mut Writer, users: &[UserId]) {
    frame.key("users").list(users.len());
    for user in users {
        frame.item();
        frame.text(user.as_str());
    }
    frame.end_list();
}
