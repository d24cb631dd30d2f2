//! Tests of the configuration: what is refused, and that the refusal names file, line, key and what is allowed.

use std::path::Path;
use std::time::Duration;

use actors::ids::NodeId;

use super::{Config, ConfigError};

const EXAMPLE: &str = include_str!("../../cluster.toml");

/// The example with one text replaced, which must be there.
fn example(from: &str, to: &str) -> String {
    assert!(EXAMPLE.contains(from), "{from} is not in cluster.toml");
    EXAMPLE.replacen(from, to, 1)
}

/// Where a text stands in another, as a line from 1.
fn line_of(text: &str, part: &str) -> usize {
    let offset = text.find(part).unwrap();
    1 + text[..offset].matches('\n').count()
}

/// Replaces `from` by `to` in the example and expects a refusal at its line that names the key and says `says`.
fn check(from: &str, to: &str, key: &str, says: &str) {
    let text = example(from, to);
    let error = Config::parse("my.toml", &text).expect_err(to);
    let ConfigError::Refused { problems } = &error else { panic!("{error}") };
    let problem = problems.iter().find(|p| p.key == key);
    let problem = problem.unwrap_or_else(|| panic!("no problem with {key} in: {error}"));
    assert_eq!(problem.line, line_of(&text, to), "{error}");
    assert!(problem.what.contains(says), "{error}");
    let shown = format!("my.toml:{}: {key}: ", problem.line);
    assert!(error.to_string().contains(&shown), "{error}");
}

#[test]
fn the_committed_example_shows_exactly_the_defaults() {
    let config = Config::parse("cluster.toml", EXAMPLE).unwrap();
    let short = "[cluster]\nname='example'\ncookie='0123456789abcdef'\n[[node]]\nname='a'\n\
        listen='127.0.0.1:8080'\ncluster_listen='127.0.0.1:8280'\ndata='data/a'\n\
        [auth]\ntoken_secret='0123456789abcdef0123456789abcdef'\n";
    let bare = Config::parse("short.toml", short).unwrap();
    assert_eq!(config.mailbox, bare.mailbox);
    assert_eq!(config.limits, bare.limits);
    assert_eq!(config.storage, bare.storage);
    assert_eq!(config.raft, bare.raft);
    assert_eq!(config.link, bare.link);
    assert_eq!(config.process, bare.process);
    assert_eq!(config.http, bare.http);
    assert_eq!(config.auth.token_life, bare.auth.token_life);
    assert_eq!(config.auth.session, bare.auth.session);
    assert_eq!(config.auth.login, bare.auth.login);
    assert_eq!(config.auth.own_tokens, bare.auth.own_tokens);
    assert_eq!(config.auth.old_secrets, bare.auth.old_secrets);
    assert_eq!(config.auth.issuer, bare.auth.issuer);
    assert_eq!(config.cluster.shards, bare.cluster.shards);
    assert_eq!(config.cluster.replicas, bare.cluster.replicas);
    assert_eq!(config.nodes[0], bare.nodes[0]);
    assert!(!bare.auth.open_registration);
    let copies: Vec<_> = bare.warnings.iter().map(|w| (w.key.as_str(), w.what.as_str())).collect();
    let one = "there is 1 node, so there will be 1 copy of each part, not 3";
    assert_eq!(copies, [("cluster.replicas", one)]);
    assert_eq!(config.nodes.len(), 3);
    assert_eq!(config.mailbox.history, Duration::from_secs(30 * 86_400));
    assert_eq!(config.nodes[1].url, "http://127.0.0.1:8081");
}

#[test]
fn the_examples_secrets_are_warned_about() {
    let config = Config::parse("cluster.toml", EXAMPLE).unwrap();
    let keys: Vec<_> = config.warnings.iter().map(|w| w.key.as_str()).collect();
    assert_eq!(keys, ["cluster.cookie", "auth.token_secret"]);
    assert_eq!(config.warnings[0].line, line_of(EXAMPLE, "cookie = "));
    assert_eq!(config.warnings[1].line, line_of(EXAMPLE, "token_secret = "));
}

#[test]
fn secrets_are_not_shown_in_logs() {
    let config = Config::parse("cluster.toml", EXAMPLE).unwrap();
    assert!(!format!("{config:?}").contains("change-me"));
}

#[test]
fn unknown_keys_are_refused_and_the_known_ones_told() {
    check("window = 256", "windoww = 256", "limits.windoww", "expected one of");
    check("window = 256", "windoww = 256", "limits.windoww", "`window`");
    check("[storage]", "[storag]", "storag", "`storage`");
    check("url = \"http", "uri = \"http", "uri of node \"a\"", "`url`");
}

#[test]
fn wrong_types_are_refused() {
    let must = "must be a whole number from 1 to 4096, not ";
    check("window = 256", "window = \"256\"", "limits.window", &format!("{must}\"256\""));
    check("window = 256", "window = -1", "limits.window", &format!("{must}-1"));
    check("shards = 64 ", "shards = 70000 ", "cluster.shards", &format!("{must}70000"));
    check("tick_ms = 100", "tick_ms = 1.5", "raft.tick_ms", "from 5 to 1000, not 1.5");
    check("expiry_days = 30 ", "expiry_days = -1 ", "mailbox.expiry_days", "1 to 3650, not -1");
    check("\"disk\" ", "\"tape\" ", "storage.durability", "`disk` or `memory`");
    let must = "must be an IP address and a port, such as \"127.0.0.1:8080\", not ";
    let says = format!("{must}\"localhost:8082\"");
    check("127.0.0.1:8082\"", "localhost:8082\"", "listen of node \"c\"", &says);
    let says = format!("{must}\"127.0.0.1:99999\"");
    check("127.0.0.1:8281\"", "127.0.0.1:99999\"", "cluster_listen of node \"b\"", &says);
    check("open_registration = true", "open_registration = 1", "auth.open_registration", "`1`");
}

#[test]
fn what_is_no_toml_is_refused_with_its_line() {
    let text = example("window = 256", "window = = 256");
    let error = Config::parse("my.toml", &text).unwrap_err().to_string();
    let line = line_of(&text, "window = =");
    assert!(error.starts_with(&format!("my.toml:{line}: (syntax): ")), "{error}");
    let text = example("window = 256", "window = 255\nwindow = 256");
    let error = Config::parse("my.toml", &text).unwrap_err().to_string();
    let line = line_of(&text, "window = 256");
    assert!(error.starts_with(&format!("my.toml:{line}: (syntax): ")), "{error}");
}

#[test]
fn a_missing_key_is_named() {
    let text = example("token_secret = ", "# ");
    let error = Config::parse("my.toml", &text).unwrap_err().to_string();
    let line = line_of(&text, "[auth]");
    assert!(error.starts_with(&format!("my.toml:{line}: auth: ")), "{error}");
    assert!(error.contains("token_secret"), "{error}");
    let error = Config::parse("my.toml", "").unwrap_err().to_string();
    assert!(error.contains("my.toml:1: ") && error.contains("cluster"), "{error}");
}

#[test]
fn short_secrets_are_refused() {
    let cookie = "\"change-me-cookie-of-the-example\"";
    check(cookie, "\"short\"", "cluster.cookie", "16 to 256 bytes, not 5");
    let secret = "\"change-me-token-secret-of-the-example\"";
    check(secret, "\"0123456789012345678901234567890\"", "auth.token_secret", "not 31");
}

#[test]
fn values_out_of_their_range_are_refused() {
    check("window = 256", "window = 0", "limits.window", "must be 1 to 4096, not 0");
    check("shards = 64 ", "shards = 0 ", "cluster.shards", "1 to 4096");
    check("replicas = 3", "replicas = 0", "cluster.replicas", "1 to 7");
    check("history_days = 30 ", "history_days = 9999 ", "mailbox.history_days", "0 to 3650");
    check("expiry_days = 30 ", "expiry_days = 0 ", "mailbox.expiry_days", "1 to 3650");
    check("body_bytes_max = 32768", "body_bytes_max = 32769", "limits.body_bytes_max", "32768");
    check("checkpoint_seconds = 5", "checkpoint_seconds = 0", "storage.checkpoint_seconds", "1 to");
    check("lanes = 1", "lanes = 0", "process.lanes", "1 to 256");
    check("tick_ms = 100", "tick_ms = 1", "raft.tick_ms", "5 to 1000");
}

#[test]
fn values_that_contradict_each_other_are_refused() {
    let frame = "frame_bytes_max = 65536";
    check(frame, "frame_bytes_max = 33000", "limits.frame_bytes_max", "34816, not 33000");
    check(
        "election_ticks = 15",
        "election_ticks = 9",
        "raft.election_ticks",
        "10, or leaders are voted out in vain; not 9",
    );
    check(
        "suspect_ms = 600",
        "suspect_ms = 200",
        "link.suspect_ms",
        "300, or good links are given up; not 200",
    );
}

#[test]
fn names_twice_and_bad_names_are_refused() {
    check(
        "name = \"c\"",
        "name = \"a\"  # again",
        "name of the third [[node]]",
        "the first [[node]]",
    );
    check("name = \"b\"", "name = \"B\"", "name of node \"B\"", "a letter, not \"B\"");
    check("name = \"b\"", "name = \"\"", "name of the second [[node]]", "a letter, not \"\"");
    check("name = \"example\"", "name = \"my cluster\"", "cluster.name", "not \"my cluster\"");
}

#[test]
fn addresses_and_directories_twice_are_refused() {
    let taken = "taken by listen of node \"a\"";
    check("\"127.0.0.1:8081\"", "\"127.0.0.1:8080\"\t", "listen of node \"b\"", taken);
    let all = example("cluster_listen = \"127.0.0.1:8280\"", "cluster_listen = \"0.0.0.0:8081\"");
    let error = Config::parse("my.toml", &all).unwrap_err().to_string();
    assert!(
        error.contains(
            "listen of node \"b\": 127.0.0.1:8081 is taken by cluster_listen of node \"a\""
        ),
        "{error}"
    );
    check(
        "\"127.0.0.1:8181\"",
        "\"127.0.0.1:8081\"\t",
        "admin_listen of node \"b\"",
        "listen of node \"b\"",
    );
    check("data = \"data/b\"", "data = \"data/a\"\t", "data of node \"b\"", "of node \"a\"");
    check(
        "\"127.0.0.1:8081\"",
        "\"127.0.0.1:0\"",
        "listen of node \"b\"",
        "1 to 65535, not 127.0.0.1:0",
    );
}

#[test]
fn a_node_that_listens_everywhere_must_say_how_it_is_reached() {
    let text = example("\"127.0.0.1:8282\"", "\"0.0.0.0:8282\"");
    let error = Config::parse("my.toml", &text).unwrap_err().to_string();
    assert!(error.contains("cluster_dial of node \"c\""), "{error}");
    let text = example("\"127.0.0.1:8082\"", "\"0.0.0.0:8082\"");
    let error = Config::parse("my.toml", &text).unwrap_err().to_string();
    assert!(error.contains("url of node \"c\""), "{error}");
    check("\"http://127.0.0.1:8080\"", "\"127.0.0.1:8080 \"", "url of node \"a\"", "http://");
}

#[test]
fn nodes_on_machines_of_their_own_may_use_the_same_ports() {
    let node = |name: &str| {
        format!(
            "[[node]]\nname='{name}'\nlisten='0.0.0.0:8080'\ncluster_listen='0.0.0.0:8280'\n\
             cluster_dial='{name}.example.org:8280'\nurl='https://{name}.example.org/'\n\
             data='/var/lib/rookery'\n"
        )
    };
    let text = format!(
        "[cluster]\nname='x'\ncookie='0123456789abcdef'\n{}{}{}\
         [auth]\ntoken_secret='0123456789abcdef0123456789abcdef'\n",
        node("a"),
        node("b"),
        node("c")
    );
    let config = Config::parse("x.toml", &text).unwrap();
    assert_eq!(config.nodes[2].cluster_dial, "c.example.org:8280");
    assert_eq!(config.nodes[2].url, "https://c.example.org");
    assert_eq!(config.nodes[2].admin_listen.to_string(), "127.0.0.1:8180");
}

#[test]
fn all_problems_are_told_at_once() {
    let text = example("window = 256", "window = 0").replace("lanes = 1", "lanes = 0");
    let error = Config::parse("my.toml", &text).unwrap_err().to_string();
    assert_eq!(error.lines().count(), 2, "{error}");
}

/// All that is wrong with a text, as `key: what begins so`, in the order of its lines.
fn wrongs(text: &str, wanted: &[&str]) {
    let error = Config::parse("my.toml", text).unwrap_err();
    let ConfigError::Refused { problems } = &error else { panic!("{error}") };
    let told: Vec<_> = problems.iter().map(|p| format!("{}: {}", p.key, p.what)).collect();
    assert_eq!(told.len(), wanted.len(), "{error}");
    for (told, wanted) in told.iter().zip(wanted) {
        assert!(told.starts_with(wanted), "{told} and not {wanted}");
    }
    assert!(problems.is_sorted_by_key(|problem| problem.line), "{error}");
}

#[test]
fn what_cannot_be_read_hides_nothing_else() {
    let text = example("shards = 64 ", "shards = \"many\" ")
        .replace("replicas = 3 ", "replicas = 0 ")
        .replace("name = \"b\"", "nome = \"b\"")
        .replace("listen = \"127.0.0.1:8082\"", "listen = 8082")
        .replace("old_secrets = [] ", "old_secrets = [1, 2] ")
        .replace("[mailbox]", "[mailbocks]")
        .replace("window = 256 ", "windoww = 256 ")
        .replace("election_ticks = 15 ", "election_ticks = 9 ");
    let wanted = [
        "cluster.shards: must be a whole number from 1 to 4096, not \"many\"",
        "cluster.replicas: must be 1 to 7, not 0",
        "the second [[node]]: missing field `name`",
        "nome of the second [[node]]: unknown field `nome`",
        "listen of node \"c\": must be an IP address and a port",
        "auth.old_secrets[1]: must be text in quotes",
        "mailbocks: unknown field `mailbocks`",
        "limits.windoww: unknown field `windoww`",
        "raft.election_ticks: must be at least twice raft.heartbeat_ticks",
    ];
    wrongs(&text, &wanted);
}

#[test]
fn what_stands_in_for_what_cannot_be_read_is_not_complained_of() {
    wrongs(
        "",
        &[
            "(top level): missing field `cluster`",
            "(top level): missing field `auth`",
            "node: there must be",
        ],
    );
    let text =
        "auth = 1\nnode = [2, {}]\npush = {}\nraft = 3\nlink = { probe_ms = 'x' }\n[cluster]\n";
    let wanted = [
        "auth: invalid type",
        "the first [[node]]: invalid type",
        "the second [[node]]: missing field `name`",
        "the second [[node]]: missing field `listen`",
        "the second [[node]]: missing field `cluster_listen`",
        "the second [[node]]: missing field `data`",
        "push: missing field `url`",
        "push: missing field `secret`",
        "raft: invalid type",
        "link.probe_ms: must be a whole number",
        "cluster: missing field `name`",
        "cluster: missing field `cookie`",
    ];
    wrongs(text, &wanted);
    // What cannot be put right ends it, and is told.
    wrongs(
        "\"cluster.shards\" = 5\n[cluster]\nname = 'x'\ncookie = '0123456789abcdef'\n",
        &["cluster.shards: unknown field"],
    );
}

#[test]
fn an_address_without_a_port_is_told_once() {
    let text = example("\"127.0.0.1:8081\"", "\"127.0.0.1:0\"");
    wrongs(&text, &["listen of node \"b\": must have a port"]);
    let text = example("\"127.0.0.1:8281\"", "\"127.0.0.1:0\"");
    wrongs(&text, &["cluster_listen of node \"b\": must have a port"]);
}

#[test]
fn nodes_are_called_by_their_names() {
    let unnamed = example("name = \"b\"", "");
    wrongs(&unnamed, &["the second [[node]]: missing field `name`"]);
    let many = "[[node]]\n".repeat(11);
    let error = Config::parse("my.toml", &many).unwrap_err().to_string();
    assert!(error.contains("my.toml:11: [[node]] number 11: missing field"), "{error}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Config::load(Path::new("/nowhere/cluster.toml")).unwrap_err();
    assert!(error.to_string().starts_with("/nowhere/cluster.toml: "), "{error}");
}

#[test]
fn the_report_underlines_the_line() {
    let error = Config::parse("my.toml", &example("window = 256", "window = 0")).unwrap_err();
    let mut report = String::new();
    miette::NarratableReportHandler::new().render_report(&mut report, &error).unwrap();
    assert!(report.contains("limits.window"), "{report}");
    assert!(report.contains("window = 0"), "{report}");
}

#[test]
fn the_issuer_that_is_shown_is_understood() {
    let (_, shown) = EXAMPLE.split_once("# [auth.issuer]").unwrap();
    let (shown, _) = shown.split_once("\n\n").unwrap();
    let shown: String =
        shown.lines().map(|line| format!("{}\n", &line[line.len().min(2)..])).collect();
    let one_key = shown.lines().filter(|line| !line.starts_with("public_key")).collect::<Vec<_>>();
    let issuer = |lines: &str| format!("[auth.issuer]\n{lines}\n\n[mailbox]");
    let text = example("[mailbox]", &issuer(&one_key.join("\n")));
    let config = Config::parse("my.toml", &text).unwrap();
    let full = config.auth.issuer.unwrap();
    assert_eq!(full.issuer.as_deref(), Some("https://id.example.org"));
    let text = example("[mailbox]", &issuer("jwks = 'issuer/jwks.json'"));
    let bare = Config::parse("my.toml", &text).unwrap();
    let warned: Vec<_> = bare.warnings.iter().map(|warning| warning.key.as_str()).collect();
    assert_eq!(warned, ["cluster.cookie", "auth.token_secret", "auth.issuer"]);
    let bare = bare.auth.issuer.unwrap();
    assert_eq!((full.leeway, full.reload), (bare.leeway, bare.reload));
    assert_eq!((full.user_claim, full.jwks), (bare.user_claim, bare.jwks));
    let both = Config::parse("my.toml", &example("[mailbox]", &issuer(&shown))).unwrap_err();
    assert!(both.to_string().contains("auth.issuer.jwks: is there beside public_key"), "{both}");
}

#[test]
fn an_issuer_that_cannot_be_is_refused() {
    let check = |lines: &str, key: &str, says: &str| {
        check("[mailbox]", &format!("[auth.issuer]\n{lines}\n[mailbox]"), key, says);
    };
    // A key that is not there is told at the table around it.
    check("audience = 'chat'", "auth.issuer", "public_key");
    let text = example("[mailbox]", "[auth.issuer]\njwks='a'\nleeway_s = 601\n[mailbox]");
    let error = Config::parse("my.toml", &text).unwrap_err().to_string();
    assert!(error.contains("auth.issuer.leeway_s: must be 0 to 600, not 601"), "{error}");
    let text = example("[mailbox]", "[auth.issuer]\njwks='a'\nuser_claim = ''\n[mailbox]");
    let error = Config::parse("my.toml", &text).unwrap_err().to_string();
    assert!(error.contains("auth.issuer.user_claim: must not be empty"), "{error}");
}

#[test]
fn a_cluster_that_nobody_could_enter_is_refused() {
    let own = "own_tokens = true ";
    check(own, "own_tokens = false ", "auth.own_tokens", "nobody could come in");
    let text = example(own, "own_tokens = false ");
    let text = text.replace("[mailbox]", "[auth.issuer]\njwks = 'a'\naudience = 'b'\n[mailbox]");
    let error = Config::parse("my.toml", &text).unwrap_err().to_string();
    assert!(error.contains("auth.login: must be false with"), "{error}");
    assert!(error.contains("auth.open_registration: must be false with"), "{error}");
    let text = text.replace("login = true ", "login = false ");
    let text = text.replace("open_registration = true", "open_registration = false");
    Config::parse("my.toml", &text).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn old_secrets_are_as_good_as_the_one_that_signs() {
    let old = "old_secrets = [] ";
    let to = "old_secrets = [\"0123456789\"] ";
    check(old, to, "auth.old_secrets[1]", "32 to 1024 bytes, not 10");
    let to = "old_secrets = [\"change-me-token-secret-of-the-example\"] ";
    check(old, to, "auth.old_secrets[1]", "is there already");
    let many: Vec<_> = (0..9).map(|i| format!("\"{i:032}\"")).collect();
    let to = format!("old_secrets = [{}] ", many.join(", "));
    check(old, &to, "auth.old_secrets", "at most 8 secrets, not 9");
    check(old, "old_secrets = \"x\" ", "auth.old_secrets", "a list of texts in quotes");
}

#[test]
fn origins_are_as_browsers_send_them() {
    let none = "cors_origins = [] ";
    for good in ["*", "https://chat.example.org", "http://localhost:3000"] {
        let text = example(none, &format!("cors_origins = [\"{good}\"] "));
        Config::parse("my.toml", &text).unwrap_or_else(|error| panic!("{error}"));
    }
    for bad in ["https://chat.example.org/", "chat.example.org", "https://a/b", ""] {
        let to = format!("cors_origins = [\"{bad}\"] ");
        check(none, &to, "http.cors_origins[1]", "as browsers send it");
    }
}

#[test]
fn the_report_shows_no_secret_of_a_list_of_lines() {
    let list = "old_secrets = [ # ]\n  \"hush]hush-1\",\n  \"hush-hush-2\"\n]\nlogin = 5 #";
    let text = example("old_secrets = [] ", list).replacen("login = true ", "# ", 1);
    let error = Config::parse("my.toml", &text).unwrap_err();
    let short =
        Config::parse("my.toml", &text.replacen("login = 5", "login = true", 1)).unwrap_err();
    for error in [error, short] {
        let mut report = String::new();
        miette::NarratableReportHandler::new().render_report(&mut report, &error).unwrap();
        assert!(!format!("{report}{error}").contains("hush"), "{report}{error}");
        let last = report.contains("auth.login: ");
        assert_eq!(report.contains("login = 5"), last, "what is no secret is shown: {report}");
    }
}

#[test]
fn the_report_shows_no_secret() {
    let error = Config::parse("my.toml", &example("shards = 64", "shards = 0")).unwrap_err();
    let text = example("\"change-me-token-secret-of-the-example\"", "\"hush-hush\"");
    let other = Config::parse("my.toml", &text).unwrap_err();
    let text = example("\"change-me-cookie-of-the-example\"", "[\"hush\"]");
    let third = Config::parse("my.toml", &text).unwrap_err();
    assert!(third.to_string().contains("cluster.cookie: must be text in quotes"), "{third}");
    for error in [error, other, third] {
        let mut report = String::new();
        miette::NarratableReportHandler::new().render_report(&mut report, &error).unwrap();
        assert!(!report.contains("change-me") && !report.contains("hush"), "{report}");
        assert!(report.contains("***"), "{report}");
    }
}

#[test]
fn development_clusters_of_all_sizes_are_valid() {
    for nodes in [1, 2, 3, 5, 30] {
        let secret = "0123456789abcdef0123456789abcdef";
        let cookie = "a \"quoted\"\\cookie";
        let text = Config::dev(nodes, 8080, Path::new("./my \"data\"/dev"), secret, cookie);
        let config = Config::parse("dev.toml", &text).unwrap();
        assert_eq!(config.nodes.len(), usize::from(nodes));
        assert_eq!(config.cluster.cookie.reveal(), cookie);
        assert!(config.auth.open_registration);
        let last = &config.nodes[usize::from(nodes) - 1];
        assert_eq!(last.listen.port(), 8079 + nodes);
        assert_eq!(last.admin_listen.port(), 8179 + nodes);
        assert_eq!(last.cluster_listen.port(), 8279 + nodes);
        assert_eq!(config.replicas(), usize::from(nodes.min(3)));
    }
    let text = Config::dev(3, 65_400, Path::new("data"), "s", "c");
    assert!(Config::parse("dev.toml", &text).is_err());
}

#[test]
fn nodes_are_numbered_from_one_in_their_order() {
    let config = Config::parse("cluster.toml", EXAMPLE).unwrap();
    assert_eq!(config.node("b").unwrap().0, NodeId(2));
    let error = config.node("z").unwrap_err().to_string();
    assert_eq!(error, "no [[node]] is named \"z\"; there are a, b, c");
}

const PUSH: &str = "[push]\nurl = \"http://127.0.0.1:9000/push\"\nsecret = \"0123456789abcdef\"\n";

#[test]
fn a_push_service_has_an_address_a_secret_and_spans() {
    let with = |more: &str| format!("{EXAMPLE}\n{PUSH}{more}");
    let config = Config::parse("my.toml", &with("")).unwrap();
    let push = config.push.clone().unwrap();
    assert_eq!((push.after, push.timeout), (Duration::from_secs(20), Duration::from_secs(5)));
    assert!(config.warnings.iter().all(|warning| !warning.key.starts_with("push")));
    assert!(!format!("{config:?}").contains("0123456789abcdef"));
    let parsed = Config::parse("my.toml", &with("push_after = \"2m\"\ntimeout = \"1500ms\"\n"));
    let push = parsed.unwrap().push.unwrap();
    assert_eq!((push.after, push.timeout), (Duration::from_secs(120), Duration::from_millis(1500)));
    assert_eq!(Config::parse("my.toml", EXAMPLE).unwrap().push, None, "off unless it is there");

    let refused = |text: &str, key: &str, says: &str| {
        let error = Config::parse("my.toml", text).expect_err(text).to_string();
        assert!(error.contains(&format!(": {key}: ")) && error.contains(says), "{error}");
        assert!(!error.contains("0123456789abcdef"), "{error}");
    };
    let span = "must be a whole number and its unit in quotes, such as \"20s\"";
    for wrong in ["\"20\"", "\"s\"", "\"-1s\"", "\"1.5s\"", "\"20 s\"", "20"] {
        refused(&with(&format!("push_after = {wrong}\n")), "push.push_after", span);
    }
    refused(&with("push_after = \"99ms\"\n"), "push.push_after", "100ms to 3600s, not 99ms");
    refused(&with("timeout = \"61s\"\n"), "push.timeout", "100ms to 60s, not 61s");
    for wrong in ["https://push.example", "127.0.0.1:9000", "http://0.0.0.0:1/", ""] {
        let text = with("").replace("http://127.0.0.1:9000/push", wrong);
        refused(&text, "push.url", "https is not spoken: put a proxy in between");
    }
    let short = with("").replace("0123456789abcdef", "short");
    refused(&short, "push.secret", "16 to 1024 bytes, not 5");
    refused(&with("").replace("secret = \"0123456789abcdef\"", ""), "push", "secret");
    let far = with("").replace("127.0.0.1:9000", "push.example:9000");
    let far = Config::parse("my.toml", &far).unwrap();
    assert!(far.warnings.iter().any(|warning| warning.key == "push.url"));
}
