//! `rookery status`: nodes, shards, leaders, replicas behind and sessions, as the nodes see them.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use rookery::admin::{ClusterView, NodeState, NodeView, ReplicaView, ShardView};

use super::check::plural;
use super::{Failure, Outcome, http, say};

/// Where the nodes of `rookery dev` answer operators.
const DEV_URLS: [&str; 3] =
    ["http://127.0.0.1:8180", "http://127.0.0.1:8181", "http://127.0.0.1:8182"];

/// How long a node may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// What a node answered, and where.
struct Answer {
    url: String,
    body: Bytes,
    view: ClusterView,
}

/// Asks the first node that answers, prints, and fails while something is missing.
pub(crate) fn run(urls: &[String], json: bool) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start: {error}")))?;
    let urls: Vec<&str> = match urls {
        [] => DEV_URLS.to_vec(),
        given => given.iter().map(String::as_str).collect(),
    };
    let answer = runtime.block_on(first_answer(&urls))?;
    if json {
        say(String::from_utf8_lossy(&answer.body).trim_end());
    } else {
        let mut view = answer.view.clone();
        runtime.block_on(ask_leaders(&mut view, &answer.url));
        table(&view, &answer.url).into_iter().for_each(say);
    }
    match complaints(&answer.view).as_slice() {
        [] => Ok(()),
        complaints => Err(Failure::new(complaints.join("\n"))),
    }
}

/// Asks one node how the cluster is.
pub(crate) async fn ask(url: &str, within: Duration) -> Result<(Bytes, ClusterView), String> {
    let (status, body) =
        http::get(url, "/admin/cluster", within).await.map_err(|error| error.to_string())?;
    if !status.is_success() {
        return Err(format!("it answers {status}; is it an operator's address?"));
    }
    match serde_json::from_slice(&body) {
        Ok(view) => Ok((body, view)),
        Err(error) => Err(format!("the answer is not that of a rookery node ({error})")),
    }
}

async fn first_answer(urls: &[&str]) -> Result<Answer, Failure> {
    let mut tried = Vec::new();
    for &url in urls {
        match ask(url, ANSWER_WITHIN).await {
            Ok((body, view)) => {
                return Ok(Answer { url: url.to_owned(), body, view });
            }
            Err(why) => tried.push(format!("\n  {url}: {why}")),
        }
    }
    let tried = tried.concat();
    Err(Failure::new(format!(
        "no node answers; start a cluster with `rookery dev`, or name a node's admin address with --url{tried}"
    )))
}

/// Only its leader knows how far a shard's replicas are: fills in what the leaders say.
async fn ask_leaders(view: &mut ClusterView, asked: &str) {
    let others = view
        .nodes
        .iter()
        .filter(|node| node.leads > 0 && node.state != NodeState::Down && node.admin_url != asked);
    let others: Vec<NodeView> = others.cloned().collect();
    for node in others {
        if let Ok((_, theirs)) = ask(&node.admin_url, ANSWER_WITHIN).await {
            take_own_shards(view, &node.name, theirs);
        }
    }
}

fn take_own_shards(view: &mut ClusterView, leader: &str, theirs: ClusterView) {
    let led = |shard: &ShardView| shard.leader.as_deref() == Some(leader);
    let mut theirs: BTreeMap<u16, Vec<ReplicaView>> =
        theirs.shards.into_iter().filter(led).map(|shard| (shard.shard, shard.replicas)).collect();
    for shard in view.shards.iter_mut().filter(|shard| led(shard)) {
        if let Some(replicas) = theirs.remove(&shard.shard) {
            shard.replicas = replicas;
        }
    }
}

/// How many shards have no leader, as far as the asked node knows.
pub(crate) fn leaderless(view: &ClusterView) -> usize {
    view.shards.iter().filter(|shard| shard.leader.is_none()).count()
}

/// What is not as it should be, one sentence each.
fn complaints(view: &ClusterView) -> Vec<String> {
    let mut complaints = Vec::new();
    if view.shards.is_empty() {
        complaints.push("the node knows of no shards yet".to_owned());
    }
    if leaderless(view) > 0 {
        complaints.push(format!(
            "{} without a leader: too few of their replicas reach each other",
            plural(leaderless(view), "shard")
        ));
    }
    let (filled, on) = joining(view);
    if filled > 0 {
        complaints.push(format!(
            "{} with too few replicas: being filled: {}",
            plural(filled, "shard"),
            on.join(", ")
        ));
    }
    let (short, down) = short_of_replicas(view);
    if short > 0 {
        complaints.push(format!(
            "{} with too few replicas: down: {}",
            plural(short, "shard"),
            down.join(", ")
        ));
    }
    complaints
}

/// Shards with a replica on a node that is down, and those nodes. A replica that is merely behind is catching up.
fn short_of_replicas(view: &ClusterView) -> (usize, Vec<&str>) {
    let down: Vec<&str> = view
        .nodes
        .iter()
        .filter(|node| node.state == NodeState::Down)
        .map(|node| node.name.as_str())
        .collect();
    let short = view.shards.iter().filter(|shard| {
        shard.replicas.is_empty()
            || shard.replicas.iter().any(|replica| down.contains(&replica.node.as_str()))
    });
    (short.count(), down)
}

/// Shards with a replica that is being filled after a disk was lost and does not count yet, and the nodes it is on.
fn joining(view: &ClusterView) -> (usize, Vec<&str>) {
    let up = |name: &str| {
        view.nodes.iter().any(|node| node.name == name && node.state != NodeState::Down)
    };
    let of = |shard: &ShardView| {
        let replicas = shard.replicas.iter().filter(|replica| replica.joining && up(&replica.node));
        replicas.map(|replica| replica.node.clone()).collect::<Vec<_>>()
    };
    let filled: Vec<Vec<String>> =
        view.shards.iter().map(of).filter(|replicas| !replicas.is_empty()).collect();
    let on = |node: &&NodeView| filled.iter().flatten().any(|name| *name == node.name);
    let names = view.nodes.iter().filter(on).map(|node| node.name.as_str());
    (filled.len(), names.collect())
}

/// For each node, how many entries its replicas are behind, as far as their leaders say.
fn behind(view: &ClusterView) -> BTreeMap<&str, u64> {
    let mut behind: BTreeMap<&str, u64> = BTreeMap::new();
    for replica in view.shards.iter().flat_map(|shard| &shard.replicas) {
        *behind.entry(&replica.node).or_default() += replica.behind.unwrap_or_default();
    }
    behind
}

fn table(view: &ClusterView, url: &str) -> Vec<String> {
    let behind = behind(view);
    let (_, filling) = joining(view);
    let mut rows = vec![
        ["node", "state", "leads", "replicas", "behind", "sessions", "pid", "version", "url"]
            .map(str::to_owned),
    ];
    let on = |name: &str| {
        let here = |shard: &&ShardView| shard.replicas.iter().any(|replica| replica.node == name);
        view.shards.iter().filter(here).count()
    };
    for node in &view.nodes {
        rows.push([
            node.name.clone(),
            format!("{:?}", node.state).to_lowercase(),
            node.leads.to_string(),
            on(&node.name).to_string(),
            match node.state {
                NodeState::Down => "-".to_owned(),
                // How far one is that the leaders do not know yet, nobody can say.
                _ if filling.contains(&node.name.as_str()) => "filling".to_owned(),
                _ => behind.get(node.name.as_str()).copied().unwrap_or_default().to_string(),
            },
            node.sessions.to_string(),
            node.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            node.version.clone().unwrap_or_else(|| "-".to_owned()),
            node.url.clone(),
        ]);
    }
    let mut lines = vec![format!("cluster {} as seen at {url}", view.cluster)];
    lines.extend(align(&rows));
    // A node that has heard of no leader yet knows of no term.
    let terms = || view.shards.iter().map(|shard| shard.term).filter(|term| *term > 0);
    let terms = terms().min().zip(terms().max());
    let terms = terms.map_or_else(
        || ", terms not known".to_owned(),
        |(from, to)| format!(", terms {from} to {to}"),
    );
    lines.push(format!(
        "{}, {} with a leader{terms}",
        plural(view.shards.len(), "shard"),
        view.shards.len() - leaderless(view),
    ));
    let lost = view.shards.iter().filter(|shard| shard.leader.is_none());
    let lost: Vec<String> = lost.map(|shard| shard.shard.to_string()).collect();
    if !lost.is_empty() && lost.len() < view.shards.len() {
        lines.push(format!("without a leader: {}", lost.join(" ")));
    }
    lines
}

fn align<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> Vec<String> {
    let mut widths = [0; COLUMNS];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    let line = |row: &[String; COLUMNS]| {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{ClusterView, ShardView, behind, complaints, leaderless, table, take_own_shards};

    fn cluster(state_of_c: &str, leader: Value, behind_of_c: Value) -> ClusterView {
        let node = |name: &str, state: &str| {
            json!({"name": name, "state": state, "leads": 1, "sessions": 0, "url": "", "admin_url": "",
                   "pid": 7, "version": null})
        };
        let view = json!({
            "cluster": "dev",
            "nodes": [node("a", "up"), node("b", "up"), node("c", state_of_c)],
            "shards": [{"shard": 7, "leader": leader, "term": 4, "replicas": [
                {"node": "a", "applied": 9, "behind": 0},
                {"node": "b", "applied": null, "behind": null},
                {"node": "c", "applied": 2, "behind": behind_of_c},
            ]}],
        });
        serde_json::from_value(view).unwrap()
    }

    #[test]
    fn a_whole_cluster_has_no_complaints_even_when_a_replica_is_behind() {
        let view = cluster("up", json!("a"), json!(7));
        assert_eq!(leaderless(&view), 0);
        assert_eq!(complaints(&view), Vec::<String>::new());
        assert_eq!(behind(&view)["c"], 7);
    }

    #[test]
    fn a_shard_without_a_leader_is_named() {
        let view = cluster("up", Value::Null, json!(0));
        assert_eq!(leaderless(&view), 1);
        assert!(complaints(&view)[0].starts_with("1 shard without a leader"));
        assert!(!table(&view, "here").contains(&"without a leader: 7".to_owned()), "it is all");
        let mut view = view;
        let led = cluster("up", json!("a"), json!(0)).shards.remove(0);
        view.shards.push(ShardView { shard: 8, ..led });
        assert!(table(&view, "here").contains(&"without a leader: 7".to_owned()));
    }

    #[test]
    fn a_node_that_is_down_leaves_too_few_replicas() {
        let view = cluster("down", json!("a"), json!(7));
        assert_eq!(complaints(&view), ["1 shard with too few replicas: down: c"]);
        let row = table(&view, "here").into_iter().find(|row| row.starts_with("c ")).unwrap();
        assert!(row.split_whitespace().nth(4) == Some("-"), "nobody knows how far it is: {row}");
    }

    #[test]
    fn a_replica_that_is_being_filled_does_not_count() {
        let mut view = cluster("up", json!("a"), json!(null));
        view.shards[0].replicas[2].joining = true;
        assert_eq!(complaints(&view), ["1 shard with too few replicas: being filled: c"]);
        let row = table(&view, "here").into_iter().find(|row| row.starts_with("c ")).unwrap();
        assert_eq!(row.split_whitespace().nth(4), Some("filling"), "{row}");
    }

    #[test]
    fn terms_that_nobody_knows_are_not_numbers() {
        let mut view = cluster("up", Value::Null, json!(null));
        assert!(
            table(&view, "here").contains(&"1 shard, 0 with a leader, terms 4 to 4".to_owned())
        );
        view.shards[0].term = 0;
        let unknown = "1 shard, 0 with a leader, terms not known".to_owned();
        assert!(table(&view, "here").contains(&unknown));
    }

    #[test]
    fn the_leader_knows_how_far_its_replicas_are() {
        let mut view = cluster("up", json!("a"), Value::Null);
        take_own_shards(&mut view, "b", cluster("up", json!("b"), json!(3)));
        assert_eq!(behind(&view)["c"], 0, "b does not lead this shard");
        take_own_shards(&mut view, "a", cluster("up", json!("a"), json!(3)));
        assert_eq!(behind(&view)["c"], 3);
    }
}
