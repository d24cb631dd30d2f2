//! Group: the groups of the model. Its replies can be lost and its refusals asked for.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Node, World};

/// One group: who has what of it.
pub(super) struct Group {
    title: Value,
    by: String,
    members: BTreeMap<String, (u64, u64)>,
    seq: u64,
}

impl World {
    /// Answers a request about groups; none if the reply is lost on its way.
    pub(super) fn group(&mut self, node: &Node, op: &str, d: &Value) -> Option<Value> {
        self.asks.push(d["cid"].as_str().unwrap_or(op).to_owned());
        if self.refuse_asks > 0 {
            self.refuse_asks -= 1;
            return Some(err("unavailable", true));
        }
        let answer = match op {
            "group.create" => self.create(node, d),
            "group.list" => self.list(node),
            _ => self.call(node, op, d),
        };
        if self.swallow_asks > 0 {
            self.swallow_asks -= 1;
            return None;
        }
        Some(answer)
    }

    fn create(&mut self, node: &Node, d: &Value) -> Value {
        let name = format!("{}-{}", node.user, d["cid"].as_str().unwrap());
        let mut users: Vec<&str> = texts(&d["members"]);
        if users.contains(&"nobody") {
            return err("not_found", false);
        }
        if !self.groups.contains_key(&name) {
            users.insert(0, &node.user);
            let members = users.iter().map(|user| ((*user).to_owned(), (0, 0))).collect();
            let (title, by) = (d["title"].clone(), node.user.clone());
            let news = json!({"change": "created", "title": title, "users": users});
            self.groups.insert(name.clone(), Group { title, by, members, seq: 0 });
            self.tell_group(&name, &node.user, news);
        }
        json!({"ok": {"group": name}})
    }

    fn list(&self, node: &Node) -> Value {
        let mine = self.groups.iter().filter(|(_, group)| group.members.contains_key(&node.user));
        let list: Vec<Value> = mine
            .map(|(name, group)| {
                let role = if group.by == node.user { "admin" } else { "member" };
                json!({"group": name, "title": group.title, "role": role, "later": 1})
            })
            .collect();
        json!({"ok": {"groups": list}})
    }

    fn call(&mut self, node: &Node, op: &str, d: &Value) -> Value {
        let conv = d["conv"].as_str().and_then(|conv| conv.strip_prefix("g:"));
        let name = d["group"].as_str().or(conv).unwrap().to_owned();
        let Some(group) = self.groups.get(&name) else {
            return err("not_found", false);
        };
        let is_admin = group.by == node.user;
        if !group.members.contains_key(&node.user) || (op == "group.add" && !is_admin) {
            return err("forbidden", false);
        }
        match op {
            "group.info" => {
                let role = |user: &String| if *user == group.by { "admin" } else { "member" };
                let members = group.members.keys();
                let members: Vec<Value> =
                    members.map(|user| json!({"user": user, "role": role(user)})).collect();
                json!({"ok": {"group": name, "title": group.title, "created_at": 1,
                    "count": members.len(), "members": members}})
            }
            "receipts" => {
                let all = group.members.iter();
                let all: Vec<Value> = all
                    .map(|(user, (delivered, read))| {
                        json!({"user": user, "delivered": delivered, "read": read})
                    })
                    .collect();
                json!({"ok": {"receipts": all}})
            }
            "group.add" => {
                let users: Vec<String> =
                    texts(&d["users"]).into_iter().map(str::to_owned).collect();
                let news = json!({"change": "added", "title": group.title, "users": users});
                let members = &mut self.groups.get_mut(&name).unwrap().members;
                members.extend(users.into_iter().map(|user| (user, (0, 0))));
                self.tell_group(&name, &node.user, news);
                json!({"ok": {}})
            }
            "group.leave" => {
                self.tell_group(&name, &node.user, json!({"change": "left"}));
                self.groups.get_mut(&name).unwrap().members.remove(&node.user);
                json!({"ok": {}})
            }
            op => err(op, false),
        }
    }

    fn tell_group(&mut self, name: &str, by: &str, news: Value) {
        let group = self.groups.get_mut(name).unwrap();
        group.seq += 1;
        let mut d = news;
        for (key, value) in
            [("conv", json!(format!("g:{name}"))), ("seq", json!(group.seq)), ("by", json!(by))]
        {
            d[key] = value;
        }
        let members: Vec<String> = group.members.keys().cloned().collect();
        for member in members {
            self.tell(&member, "group", d.clone());
        }
    }

    /// Stores a post for all members; its number.
    pub(super) fn post(&mut self, node: &Node, name: &str, message: &Value, sent: &Value) -> u64 {
        let group = self.groups.get_mut(name).unwrap();
        group.seq += 1;
        let seq = group.seq;
        let members: Vec<String> = group.members.keys().cloned().collect();
        for member in members {
            let (ev, told) =
                if member == node.user { ("sent", sent) } else { ("message", message) };
            let mut d = told.clone();
            d["seq"] = json!(seq);
            self.tell(&member, ev, d);
        }
        seq
    }

    /// A member has got so far; all whose messages now all others have hear of it.
    pub(super) fn group_receipt(&mut self, by: &str, name: &str, seq: u64, read: bool) {
        let Some(group) = self.groups.get_mut(name) else { return };
        let Some(marks) = group.members.get_mut(by) else { return };
        marks.0 = marks.0.max(seq);
        marks.1 = if read { marks.1.max(seq) } else { marks.1 };
        let all: Vec<(String, (u64, u64))> =
            group.members.iter().map(|(user, marks)| (user.clone(), *marks)).collect();
        for (user, _) in all.iter().filter(|(user, _)| user != by) {
            let others = || all.iter().filter(|(other, _)| other != user).map(|(_, marks)| marks);
            let delivered = others().map(|marks| marks.0).min();
            let read = others().map(|marks| marks.1).min();
            let d = json!({"conv": format!("g:{name}"), "delivered": delivered, "read": read,
                "at": 6});
            self.tell(user, "receipt", d);
        }
    }
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

fn err(code: &str, retry: bool) -> Value {
    let mut err = json!({"code": code, "message": code, "retry": retry});
    if retry {
        err["retry_after_ms"] = json!(30);
    }
    json!({"err": err})
}
