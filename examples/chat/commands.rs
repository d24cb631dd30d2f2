//! Commands: what begins with a slash, as a value, and carried out.

use rookery::client::{Client, Group, GroupRefused, Listed, Profile, Progress, Role, Update};
use tokio::sync::mpsc;

use super::{Chat, Moment, one_line};

/// What `/help` says.
const HELP: &[&str] = &[
    "/to NAME · /to g:GROUP · /to #2    go to a person, a group, the second one of /groups",
    "/groups                            the groups you are in",
    "/create TITLE with NAME NAME …     make a group",
    "/who                               who is in this group, and how far they have got",
    "/add NAME … · /remove NAME …       take people in, put them out (admins)",
    "/admin NAME · /member NAME         say who is an admin (admins)",
    "/title TEXT                        call the group so (admins)",
    "/leave                             go",
    "/block NAME · /unblock NAME        take no messages from somebody; take them again",
    "/blocked                           whom you block",
    "/name TEXT                         what others are to call you",
    "//text                             sends /text",
];

/// What a line typed is.
pub(super) enum Typed {
    Message(String),
    Command(Command),
    /// Something with a slash that is no command; what to say of it.
    Wrong(String),
}

pub(super) enum Command {
    Help,
    To(String),
    Groups,
    Create { title: String, members: Vec<String> },
    Who,
    Add(Vec<String>),
    Remove(Vec<String>),
    Role(String, Role),
    Title(String),
    Leave,
    Block(String),
    Unblock(String),
    Blocked,
    Name(String),
}

/// What came of a command that a node was asked about.
pub(super) enum Outcome {
    Made {
        conv: String,
        title: String,
    },
    Groups {
        list: Vec<Listed>,
        shown: bool,
    },
    Who(Group, Vec<Progress>),
    /// Something to say of it.
    Told(String),
    Done,
    Refused(GroupRefused),
}

impl From<GroupRefused> for Outcome {
    fn from(refused: GroupRefused) -> Self {
        Self::Refused(refused)
    }
}

/// Reads a line. A path such as `/etc/hosts` is no command.
pub(super) fn read(line: &str) -> Typed {
    if let Some(rest) = line.strip_prefix("//") {
        return Typed::Message(format!("/{rest}"));
    }
    let word = line.split_whitespace().next().unwrap_or_default();
    let letters = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase());
    let Some(name) = word.strip_prefix('/').filter(|name| letters(name)) else {
        return Typed::Message(line.to_owned());
    };
    let rest = line[word.len()..].trim();
    match command(name, rest) {
        Some(command) => Typed::Command(command),
        None => {
            let known = HELP.iter().find(|help| help.split_whitespace().any(|part| part == word));
            let help = known.copied().unwrap_or("/help tells what there is; // sends a slash");
            Typed::Wrong(format!("{word} is not understood so: {help}"))
        }
    }
}

fn command(name: &str, rest: &str) -> Option<Command> {
    let names = || -> Vec<String> { rest.split_whitespace().map(str::to_owned).collect() };
    let some = || Some(names()).filter(|names| !names.is_empty());
    let one = || match &names()[..] {
        [name] => Some(name.clone()),
        _ => None,
    };
    Some(match name {
        "help" => Command::Help,
        "groups" => Command::Groups,
        "who" => Command::Who,
        "leave" => Command::Leave,
        "blocked" => Command::Blocked,
        "block" => Command::Block(one()?),
        "unblock" => Command::Unblock(one()?),
        "name" if !rest.is_empty() => Command::Name(rest.to_owned()),
        "to" => Command::To(one()?),
        "add" => Command::Add(some()?),
        "remove" => Command::Remove(some()?),
        "admin" => Command::Role(one()?, Role::Admin),
        "member" => Command::Role(one()?, Role::Member),
        "title" if !rest.is_empty() => Command::Title(rest.to_owned()),
        "create" if !rest.is_empty() => {
            let (title, members) = rest.rsplit_once(" with ").unwrap_or((rest, ""));
            let members = members.split_whitespace().map(str::to_owned).collect();
            Command::Create { title: title.trim().to_owned(), members }
        }
        _ => return None,
    })
}

/// Learns what one's groups are called, if a node says it, and says nothing.
pub(super) fn learn_titles(client: &Client, moments: &mpsc::Sender<Moment>) {
    let (client, moments) = (client.clone(), moments.clone());
    tokio::spawn(async move {
        if let Ok(list) = client.groups().await {
            let _ = moments.send(Moment::Done(Outcome::Groups { list, shown: false })).await;
        }
    });
}

fn ask<F>(client: &Client, moments: &mpsc::Sender<Moment>, what: impl FnOnce(Client) -> F)
where
    F: Future<Output = Result<Outcome, GroupRefused>> + Send + 'static,
{
    let (moments, asked) = (moments.clone(), what(client.clone()));
    tokio::spawn(async move {
        let outcome = asked.await.unwrap_or_else(Outcome::from);
        let _ = moments.send(Moment::Done(outcome)).await;
    });
}

impl Chat {
    /// Carries a command out, or asks a node to; the lines to show now. What the node says will be a `Moment::Done`.
    pub(super) fn obey(
        &mut self,
        command: Command,
        client: &Client,
        moments: &mpsc::Sender<Moment>,
    ) -> Result<Vec<String>, String> {
        match command {
            Command::Help => Ok(self.notes(HELP.iter().map(|line| (*line).to_owned()))),
            Command::To(name) => {
                let conv = self.conv_of(&name)?;
                Ok(self.go_to(&conv, client, moments))
            }
            Command::Groups => self.ask(client, moments, async |client: Client| {
                let list = client.groups().await?;
                Ok(Outcome::Groups { list, shown: true })
            }),
            Command::Create { title, members } => {
                self.ask(client, moments, async move |client: Client| {
                    let members: Vec<&str> = members.iter().map(String::as_str).collect();
                    let group = client.create_group(&title, &members).await?;
                    Ok(Outcome::Made { conv: format!("g:{group}"), title })
                })
            }
            Command::Block(_) | Command::Unblock(_) | Command::Blocked | Command::Name(_) => self
                .ask(client, moments, async move |client: Client| {
                    of_people(&client, command).await
                }),
            command => {
                let group = self.talk.group().ok_or("this is no group: /to goes to one")?;
                let group = group.to_owned();
                self.ask(client, moments, async move |client: Client| {
                    in_group(&client, &group, command).await
                })
            }
        }
    }

    fn ask<F>(
        &mut self,
        client: &Client,
        moments: &mpsc::Sender<Moment>,
        what: impl FnOnce(Client) -> F,
    ) -> Result<Vec<String>, String>
    where
        F: Future<Output = Result<Outcome, GroupRefused>> + Send + 'static,
    {
        self.asking += 1;
        ask(client, moments, what);
        Ok(Vec::new())
    }

    fn conv_of(&self, name: &str) -> Result<String, String> {
        if name.starts_with("g:") || name.starts_with("u:") {
            return Ok(name.to_owned());
        }
        let Some(number) = name.strip_prefix('#') else {
            return Ok(format!("u:{name}"));
        };
        let at = number.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
        let listed = at.and_then(|at| self.listed.get(at));
        listed.cloned().ok_or_else(|| format!("{name} is not in the list of /groups"))
    }

    /// Goes to a conversation; the lines that were missed there.
    fn go_to(
        &mut self,
        conv: &str,
        client: &Client,
        moments: &mpsc::Sender<Moment>,
    ) -> Vec<String> {
        self.open(conv);
        self.watch.renew(client, self.talk.peer(), moments);
        let mut lines = vec![format!("* this is {}", self.talk.name())];
        lines.append(&mut self.talk.missed);
        lines
    }

    /// What a node said to a command; the lines to show, or why it was refused.
    pub(super) fn done(
        &mut self,
        outcome: Outcome,
        client: &Client,
        moments: &mpsc::Sender<Moment>,
    ) -> Result<Vec<String>, String> {
        let unasked = matches!(outcome, Outcome::Groups { shown: false, .. });
        self.asking = self.asking.saturating_sub(usize::from(!unasked));
        match outcome {
            Outcome::Made { conv, title } => {
                if self.of(&conv).title.replace(one_line(&title)).is_none() {
                    self.coming.insert(conv.clone());
                }
                Ok(self.go_to(&conv, client, moments))
            }
            Outcome::Groups { list, shown } => Ok(self.list(list, shown)),
            Outcome::Who(group, progress) => {
                self.of(&format!("g:{}", group.group)).title = Some(one_line(&group.title));
                Ok(self.notes(who(&group, &progress)))
            }
            Outcome::Told(line) => Ok(self.notes([line])),
            Outcome::Done => Ok(Vec::new()),
            Outcome::Refused(refused) => Err(refused.to_string()),
        }
    }

    fn list(&mut self, list: Vec<Listed>, shown: bool) -> Vec<String> {
        let mut lines = Vec::new();
        self.listed.clear();
        for Listed { group, title, role } in list {
            let (conv, title) = (format!("g:{group}"), one_line(&title));
            let admin = if role == Role::Admin { ", you are an admin" } else { "" };
            lines.push(format!("#{} “{title}” ({conv}{admin})", self.listed.len() + 1));
            self.of(&conv).title = Some(title);
            self.listed.push(conv);
        }
        if !shown {
            return Vec::new();
        }
        if lines.is_empty() {
            lines.push("you are in no group".to_owned());
        }
        self.notes(lines)
    }

    pub(super) fn notes(&mut self, lines: impl IntoIterator<Item = String>) -> Vec<String> {
        lines.into_iter().map(|line| self.talk.note(line)).collect()
    }
}

async fn in_group(client: &Client, group: &str, command: Command) -> Result<Outcome, GroupRefused> {
    match command {
        Command::Who => {
            let conv = format!("g:{group}");
            let (info, progress) = tokio::try_join!(client.group(group), client.receipts(&conv))?;
            return Ok(Outcome::Who(info, progress));
        }
        Command::Add(users) => client.add_to_group(group, &borrow(&users)).await?,
        Command::Remove(users) => client.remove_from_group(group, &borrow(&users)).await?,
        Command::Role(user, role) => client.set_role(group, &user, role).await?,
        Command::Title(title) => {
            let update = Update { title: Some(title), ..Update::default() };
            client.update_group(group, &update).await?;
        }
        Command::Leave => client.leave_group(group).await?,
        // Not about the group one is in.
        Command::Help | Command::To(_) | Command::Groups | Command::Create { .. } => {}
        Command::Block(_) | Command::Unblock(_) | Command::Blocked | Command::Name(_) => {}
    }
    Ok(Outcome::Done)
}

async fn of_people(client: &Client, command: Command) -> Result<Outcome, GroupRefused> {
    Ok(Outcome::Told(match command {
        Command::Block(name) => {
            client.block(&name).await?;
            format!("{name} is blocked")
        }
        Command::Unblock(name) => {
            client.unblock(&name).await?;
            format!("{name} is not blocked")
        }
        Command::Blocked => match client.blocked().await?.as_slice() {
            [] => "you block nobody".to_owned(),
            names => format!("you block {}", names.join(", ")),
        },
        Command::Name(name) => {
            let profile = Profile { name: Some(name), ..Profile::default() };
            let name = client.describe(&profile).await?.name.unwrap_or_default();
            format!("others are told that you are called {}", one_line(&name))
        }
        _ => return Ok(Outcome::Done),
    }))
}

fn borrow(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

fn who(group: &Group, progress: &[Progress]) -> Vec<String> {
    let mut lines = vec![format!("“{}”, {} in it:", one_line(&group.title), group.members.len())];
    for member in &group.members {
        let admin = if member.role == Role::Admin { ", admin" } else { "" };
        let far = progress.iter().find(|far| far.user == member.user);
        let far = far.map(|far| format!(": has up to {}, read up to {}", far.delivered, far.read));
        let name = member.name.as_deref().map(|name| format!(" ({})", one_line(name)));
        let (user, name) = (&member.user, name.unwrap_or_default());
        lines.push(format!("{user}{name}{admin}{}", far.unwrap_or_default()));
    }
    lines
}
