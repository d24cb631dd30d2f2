//! Calls: what users may do to a group, and what changes by it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::ticks::Index;
use super::{Group, Member, Watermarks};
use crate::ids::{Seq, Timestamp, UserId};
use crate::message::Refusal;
use crate::message::group::{Call, MEMBERS_MAX, News};

impl Group {
    /// Makes a group without members; they come in with the news of its creation.
    pub fn create(
        by: &UserId,
        title: &str,
        members: &[UserId],
        at: Timestamp,
        shards: u16,
    ) -> Result<(Self, News), Refusal> {
        let others = members.iter().filter(|user| *user != by).collect::<BTreeSet<_>>();
        let users: Vec<UserId> = [by].into_iter().chain(others).cloned().collect();
        if users.len() > MEMBERS_MAX {
            return Err(Refusal::GroupFull);
        }
        let group = Self {
            title: title.into(),
            icon: None,
            status: None,
            created_at: at,
            meaning: meaning(by, title, members),
            shards,
            members: BTreeMap::new(),
            places: 0,
            told: Watermarks::default(),
            refused: VecDeque::new(),
            joined: BTreeMap::new(),
            referred: Seq(0),
            index: Index::default(),
        };
        Ok((group, News::Created { title: title.into(), users }))
    }

    /// A creation that comes again.
    pub fn created_again(
        &self,
        by: &UserId,
        title: &str,
        members: &[UserId],
    ) -> Result<(), Refusal> {
        let same = self.meaning == meaning(by, title, members);
        if same { Ok(()) } else { Err(Refusal::Conflict) }
    }

    /// What a call changes, in this order; nothing when it is so already.
    pub fn plan(&self, by: &UserId, call: &Call) -> Result<Vec<(UserId, News)>, Refusal> {
        let me = self.members.get(by).ok_or(Refusal::NotAMember)?;
        let mine = |news| vec![(by.clone(), news)];
        let admin = || if me.admin { Ok(()) } else { Err(Refusal::NotAnAdmin) };
        Ok(match call {
            Call::Create { title, members } => {
                self.created_again(by, title, members)?;
                Vec::new()
            }
            Call::Update { title, icon, status } => {
                admin()?;
                let known = |known: &Option<Box<str>>, new: &Option<Box<str>>| {
                    let known = known.as_deref().unwrap_or_default();
                    new.as_deref().is_none_or(|new| new == known)
                };
                let titled = title.as_ref().is_none_or(|title| *title == self.title);
                if titled && known(&self.icon, icon) && known(&self.status, status) {
                    return Ok(Vec::new());
                }
                let (title, icon, status) = (title.clone(), icon.clone(), status.clone());
                mine(News::Updated { title, icon, status })
            }
            Call::Add(users) => {
                admin()?;
                let new: Vec<UserId> = self.those(users, |user| !self.has(user));
                if self.members.len() + new.len() > MEMBERS_MAX {
                    return Err(Refusal::GroupFull);
                }
                let title = self.title.clone();
                if new.is_empty() { Vec::new() } else { mine(News::Added { title, users: new }) }
            }
            Call::Remove(users) if users.iter().all(|user| user == by) => self.leaving(by),
            Call::Remove(users) => {
                admin()?;
                let gone = self.those(users, |user| self.has(user));
                if gone.is_empty() {
                    return Ok(Vec::new());
                }
                let heir = self.heir(&gone);
                let mut plan = mine(News::Removed(gone));
                plan.extend(heir);
                plan
            }
            Call::Leave => self.leaving(by),
            Call::Role { user, admin: to } => {
                admin()?;
                let known = self.members.get(user).ok_or(Refusal::NoSuchMember)?;
                let admins = self.members.values().filter(|member| member.admin).count();
                if known.admin == *to {
                    return Ok(Vec::new());
                }
                if !to && admins == 1 {
                    return Err(Refusal::LastAdmin);
                }
                mine(News::Role { user: user.clone(), admin: *to })
            }
        })
    }

    fn those(&self, users: &[UserId], which: impl Fn(&UserId) -> bool) -> Vec<UserId> {
        let chosen: BTreeSet<&UserId> = users.iter().filter(|user| which(user)).collect();
        chosen.into_iter().cloned().collect()
    }

    fn leaving(&self, by: &UserId) -> Vec<(UserId, News)> {
        let heir = self.heir(std::slice::from_ref(by));
        [(by.clone(), News::Left)].into_iter().chain(heir).collect()
    }

    /// When the last admins go, the oldest who stays becomes one.
    fn heir(&self, gone: &[UserId]) -> Option<(UserId, News)> {
        let stays = || self.members.iter().filter(|(user, _)| !gone.contains(user));
        if stays().any(|(_, member)| member.admin) {
            return None;
        }
        let (user, _) = stays().min_by_key(|(_, member)| member.place)?;
        Some((user.clone(), News::Role { user: user.clone(), admin: true }))
    }

    /// Before a change, the entry `seq`, is told: who comes in by it hears of it.
    pub fn before(&mut self, news: &News, seq: Seq) {
        let (users, first_is_admin) = match news {
            News::Created { users, .. } => (users, true),
            News::Added { users, .. } => (users, false),
            _ => return,
        };
        for (at, user) in users.iter().enumerate() {
            let from = Watermarks { delivered: seq, read: seq };
            let admin = first_is_admin && at == 0;
            let member = Member { admin, place: self.places, at: from, ahead: from };
            self.places += 1;
            self.index.enter(user, from);
            self.members.insert(user.clone(), member);
            self.joined.insert(user.clone(), seq);
        }
    }

    /// After a change was told.
    pub fn after(&mut self, by: &UserId, news: &News) {
        match news {
            News::Created { .. } | News::Added { .. } => {}
            News::Updated { title, icon, status } => {
                if let Some(title) = title {
                    self.title = title.clone();
                }
                for (known, new) in [(&mut self.icon, icon), (&mut self.status, status)] {
                    if let Some(new) = new {
                        *known = Some(new.clone()).filter(|text| !text.is_empty());
                    }
                }
            }
            News::Removed(users) => users.iter().for_each(|user| self.dismiss(user)),
            News::Left => self.dismiss(by),
            News::Role { user, admin } => {
                if let Some(member) = self.members.get_mut(user) {
                    member.admin = *admin;
                }
            }
        }
    }

    fn dismiss(&mut self, user: &UserId) {
        self.joined.remove(user);
        if let Some(gone) = self.members.remove(user) {
            self.index.leave(user, gone.at);
        }
    }
}

/// A hash of what a creation says (XXH3, 64 bit).
fn meaning(by: &UserId, title: &str, members: &[UserId]) -> u64 {
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    for part in [by.as_str(), title].into_iter().chain(members.iter().map(UserId::as_str)) {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hash.digest()
}
