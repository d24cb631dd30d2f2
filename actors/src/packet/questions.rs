//! Questions: what is asked of a home once, and what it answers.

use serde::{Deserialize, Serialize};

use super::Presence;
use crate::ids::{DeviceId, GroupId, NodeId, Number, UserId};
use crate::message::history::{Talk, Wanted};
use crate::message::{CidUse, DeviceInfo, Entry, group, people};

/// A question with one answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// Which devices are there?
    Devices,
    /// Remove this device.
    RemoveDevice(DeviceId),
    /// Make an account with this password hash (PHC string).
    Register(Box<str>),
    /// What is the account's password hash?
    Credentials,
    /// Which sockets does the user have, and where? For operators.
    Sessions,
    /// Which of these `cid`s has the user used for something else?
    Cids {
        /// They, and what they are to be used for.
        uses: Vec<CidUse>,
        /// Whether all that are in use should be told, too.
        all: bool,
    },
    /// Which groups is the user in?
    Groups,
    /// Of a group: do this.
    Group {
        /// Who wants it.
        by: UserId,
        /// What.
        call: Box<group::Call>,
    },
    /// Of a group: what is it, and who is in it?
    GroupInfo {
        /// Who asks.
        by: UserId,
    },
    /// Of a group: how far has each member got?
    Progress {
        /// Who asks.
        by: UserId,
    },
    /// Which conversations are there, newest first?
    Talks {
        /// Only those whose newest entry is before this one.
        before: Option<Number>,
        /// At most so many.
        limit: u16,
    },
    /// What was written?
    History(Box<Wanted>),
    /// Of a group: what was written since a member came in? Entries are numbered by `seq`.
    GroupLog {
        /// Who asks.
        by: UserId,
        /// What is wanted.
        wanted: Box<Wanted>,
    },
    /// Is the user there?
    Presence {
        /// Who asks.
        by: UserId,
    },
    /// Make the mailbox, unless there is one: another issuer let its user in.
    Open,
    /// Put this password hash (PHC string) in the place of that one; `Conflict` when it is another by now.
    Password {
        /// The one that was verified.
        old: Box<str>,
        /// The one from now on.
        new: Box<str>,
    },
    /// Forget the user for good.
    Erase,
    /// Do what the user wants for themselves; answered with their settings or their profile where that is what changes.
    People(people::Call),
    /// Whom does the user block?
    Blocked,
    /// What has the user set?
    Settings,
    /// What does the user say of themselves?
    Profile {
        /// Who asks.
        by: UserId,
    },
}

/// The answer to a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The user's devices.
    Devices(Vec<DeviceInfo>),
    /// It is done.
    Done,
    /// The password hash (PHC string); absent for a user without a password.
    Credentials(Option<Box<str>>),
    /// The user's sockets: gateway and device.
    Sessions(Vec<(NodeId, DeviceId)>),
    /// Of each `cid` whether it is used for something else.
    Cids {
        /// In the order they were asked.
        taken: Vec<bool>,
        /// All that are in use, in their short form; none if that was not asked, or they are very many.
        all: Option<Vec<u32>>,
    },
    /// The user's groups, with their titles, and whether the user is an admin.
    Groups(Vec<(GroupId, Box<str>, bool)>),
    /// The group.
    Group(GroupId, Box<group::Info>),
    /// How far each member has got.
    Progress(Vec<group::Progress>),
    /// Conversations, newest first.
    Talks {
        /// They.
        talks: Vec<Talk>,
        /// The newest entry of the log at that moment.
        head: Number,
        /// Whether there are older ones: those before this number.
        more: Option<Number>,
    },
    /// Messages, oldest first.
    History {
        /// They.
        entries: Vec<Entry>,
        /// The newest entry of the log at that moment.
        head: Number,
        /// Whether there are more where the search ended.
        more: bool,
    },
    /// Who is there.
    Presence(Vec<(UserId, Presence)>),
    /// Whom the user blocks, in order.
    Blocked(Vec<UserId>),
    /// What the user has set.
    Settings(people::Settings),
    /// What the user says of themselves to whoever asked.
    Profile(Box<people::Profile>),
    /// Messages, as in `History`, of a search that took so long that it ended before it had found enough.
    Searched {
        /// They.
        entries: Vec<Entry>,
        /// The newest entry of the log at that moment.
        head: Number,
        /// The last entry it looked at: more may be found behind it.
        upto: Number,
    },
}
