//! Talk: one conversation, with a person or a group: what was said in it, and how far that has got.

use rookery::client::{Accepted, Change, Fault, Marks, News, Role};

use super::one_line;

/// Lines kept to scroll back through.
const LINES_MAX: usize = 5_000;
/// Typing is over when it was not said again for so long.
const TYPING_MS: u64 = 10_000;

/// Where a message of one's own stands.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Fate {
    Waiting,
    Sent(u64),
    Refused(String),
}

/// One line of the conversation.
pub(super) enum Said {
    Mine { body: String, fate: Fate, at: u64 },
    Theirs { from: String, body: String, seq: u64, at: u64 },
    Note(String),
}

/// See the plaque.
pub(super) struct Talk {
    /// `u:<user>` or `g:<group>`.
    pub(super) conv: String,
    /// What the group is called, once that is known.
    pub(super) title: Option<String>,
    pub(super) said: Vec<Said>,
    pub(super) marks: Marks,
    pub(super) online: Option<bool>,
    pub(super) last_seen: Option<u64>,
    /// Who is writing, and when that was said.
    pub(super) typing: Option<(String, u64)>,
    pub(super) read: u64,
    /// Lines scrolled back.
    pub(super) back: usize,
    pub(super) unanswered: usize,
    /// Why messages are not accepted now, as long as that lasts.
    pub(super) delayed: Option<Fault>,
    /// Lines that came while another conversation was open.
    pub(super) missed: Vec<String>,
}

impl Talk {
    pub(super) fn new(conv: &str) -> Self {
        Self {
            conv: conv.to_owned(),
            title: None,
            said: Vec::new(),
            marks: Marks::default(),
            online: None,
            last_seen: None,
            typing: None,
            read: 0,
            back: 0,
            unanswered: 0,
            delayed: None,
            missed: Vec::new(),
        }
    }

    /// The group's name, if it is one.
    pub(super) fn group(&self) -> Option<&str> {
        self.conv.strip_prefix("g:")
    }

    /// The other person's name, if there is only one.
    pub(super) fn peer(&self) -> Option<&str> {
        self.conv.strip_prefix("u:")
    }

    /// What people call it.
    pub(super) fn name(&self) -> &str {
        self.title.as_deref().or(self.peer()).unwrap_or(&self.conv)
    }

    pub(super) fn say(&mut self, said: Said) -> usize {
        if self.said.len() >= LINES_MAX {
            // Indexes are promised to tickets under way: the oldest text goes, its place stays.
            let oldest = self.said.len() - LINES_MAX;
            self.said[oldest] = Said::Note(String::new());
        }
        self.said.push(said);
        if self.back > 0 {
            self.back += 1;
        }
        self.said.len() - 1
    }

    /// Says something that nobody wrote; the line for those who read lines.
    pub(super) fn note(&mut self, text: String) -> String {
        let line = format!("* {text}");
        self.say(Said::Note(text));
        line
    }

    pub(super) fn miss(&mut self, line: String) {
        if self.missed.len() < LINES_MAX {
            self.missed.push(line);
        }
    }

    pub(super) fn answered(&mut self, index: usize, result: Result<Accepted, Fault>) {
        self.unanswered = self.unanswered.saturating_sub(1);
        if result.is_ok() || self.unanswered == 0 {
            self.delayed = None;
        }
        let Some(Said::Mine { fate, .. }) = self.said.get_mut(index) else {
            return;
        };
        *fate = match result {
            Ok(accepted) => Fate::Sent(accepted.seq),
            Err(fault) => Fate::Refused(fault.to_string()),
        };
    }

    pub(super) fn ticked(&mut self, marks: Marks) -> Option<String> {
        let old = std::mem::replace(&mut self.marks, marks);
        let all = if self.group().is_some() { " by all" } else { "" };
        if marks.read > old.read {
            return Some(format!("✓✓ read{all} up to {}", marks.read));
        }
        let all = if self.group().is_some() { " to all" } else { "" };
        let delivered = marks.delivered > old.delivered;
        delivered.then(|| format!("✓✓ delivered{all} up to {}", marks.delivered))
    }

    /// The group has changed; a line about it.
    pub(super) fn changed(&mut self, change: &Change) -> Option<String> {
        let Change { by, news, .. } = change;
        let text = match news {
            News::Created { title, users } => {
                self.title = Some(one_line(title));
                let others: Vec<&str> =
                    users.iter().filter(|user| *user != by).map(String::as_str).collect();
                let with =
                    if others.is_empty() { "nobody else".to_owned() } else { others.join(", ") };
                format!("{by} made “{}” with {with}", self.name())
            }
            News::Updated { title, icon, status } => {
                let mut parts = Vec::new();
                if let Some(title) = title {
                    self.title = Some(one_line(title));
                    parts.push(format!("the title to “{}”", self.name()));
                }
                if let Some(status) = status {
                    parts.push(format!("the status to “{}”", one_line(status)));
                }
                if icon.is_some() {
                    parts.push("the icon".to_owned());
                }
                format!("{by} changed {}", parts.join(" and "))
            }
            News::Added { title, users } => {
                self.title = Some(one_line(title));
                format!("{by} added {}", users.join(", "))
            }
            News::Removed { users } => format!("{by} removed {}", users.join(", ")),
            News::Left => format!("{by} left"),
            News::Role { user, role: Role::Admin } if user == by => {
                format!("{user} is an admin now")
            }
            News::Role { user, role: Role::Admin } => format!("{by} made {user} an admin"),
            News::Role { user, role: Role::Member } => format!("{user} is no admin any more"),
            News::Other => return None,
        };
        Some(self.note(text))
    }

    pub(super) fn seen(&mut self, online: bool, last_seen_ms: Option<u64>) {
        self.online = Some(online);
        if !online {
            self.typing = None;
        }
        // None to those who are not to know, from now on.
        self.last_seen = last_seen_ms.map(|ms| ms.max(self.last_seen.unwrap_or(0)));
    }

    pub(super) fn types(&mut self, who: String, on: bool, now: u64) {
        self.typing = on.then_some((who, now));
    }

    /// Who is writing now: who has not said so for a while is not.
    pub(super) fn typing_at(&self, now: u64) -> Option<&str> {
        let (who, since) = self.typing.as_ref()?;
        (now < since + TYPING_MS).then_some(who)
    }

    pub(super) fn newest_theirs(&self) -> u64 {
        let mut seqs = self.said.iter().rev().filter_map(|said| match said {
            Said::Theirs { seq, .. } => Some(*seq),
            Said::Mine { .. } | Said::Note(_) => None,
        });
        seqs.next().unwrap_or(0)
    }
}
