//! Ejabberd: another server, when one is installed: run privately, on ports and in a directory of its own.
//!
//! Never     touches a service of the system, its configuration or its data.
//! Fails by  being killed with all its processes when this program ends, in whatever way.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use actors::clock;
use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::Stage;
use crate::nodes::free_ports;

/// An Erlang machine needs some seconds.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Anybody may come in under any name, without limits on speed: as little as possible stands between two users.
const SETTINGS: &str = "\
hosts: [localhost]
loglevel: warning
auth_method: [anonymous]
anonymous_protocol: login_anon
allow_multiple_connections: true
acl:
  local:
    user_regexp: \"\"
shaper_rules:
  c2s_shaper: none
access_rules:
  c2s:
    allow: all
modules:
  mod_offline: {}
listen:
  - port: PORT
    ip: \"127.0.0.1\"
    module: ejabberd_http
    request_handlers:
      /ws: ejabberd_http_ws
";

/// The end of standard input is how the shell learns that nobody measures any more: it takes its whole group along.
const WATCHED: &str = "\"$@\" </dev/null & cat >/dev/null; kill -s KILL -- -$$";

/// A server that runs.
pub(crate) struct Ejabberd {
    pub(crate) port: u16,
    shell: Child,
    dir: TempDir,
}

impl Drop for Ejabberd {
    /// At once, for its directory goes next.
    fn drop(&mut self) {
        let group = self.shell.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let _gone_already = group.map(|group| kill_process_group(group, Signal::KILL));
    }
}

/// Where its command is, if it is installed.
pub(crate) fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let more = ["/usr/sbin", "/usr/local/sbin", "/opt/ejabberd/bin"].map(PathBuf::from);
    let mut places = std::env::split_paths(&path).chain(more);
    places.find_map(|place| Some(place.join("ejabberdctl")).filter(|file| file.is_file()))
}

impl Ejabberd {
    /// Starts it, and waits until it listens.
    pub(crate) async fn start(stage: &Stage, ctl: &PathBuf) -> anyhow::Result<Self> {
        let dir = TempDir::with_prefix_in("ejabberd-", &stage.out)?;
        let ports = free_ports(2)?;
        let port = ports[0];
        let at = |name: &str| dir.path().join(name);
        for name in ["config", "logs", "spool"] {
            fs::create_dir(at(name))?;
        }
        // Installed ones change to a user of their own, to whom a private directory does not belong.
        let script = fs::read_to_string(ctl)?;
        let user = |line: &str| line.starts_with("INSTALLUSER=");
        let script: String = script
            .lines()
            .map(|line| if user(line) { "INSTALLUSER=\n".into() } else { format!("{line}\n") })
            .collect();
        fs::write(at("ejabberdctl"), script)?;
        fs::set_permissions(at("ejabberdctl"), fs::Permissions::from_mode(0o700))?;
        let settings = SETTINGS.replace("PORT", &port.to_string());
        fs::write(at("config/ejabberd.yml"), settings)?;
        let inetrc = "{lookup,[\"file\",\"native\"]}.\n{host,{127,0,0,1},[\"localhost\"]}.\n";
        fs::write(at("config/inetrc"), inetrc)?;
        // With a port of its own it needs no port mapper, which would stay behind.
        let control = format!(
            "ERL_DIST_PORT={}\nINET_DIST_INTERFACE=127.0.0.1\nERLANG_NODE=rookery-bench@localhost\n",
            ports[1]
        );
        fs::write(at("config/ejabberdctl.cfg"), control)?;
        let log = fs::File::create(at("out.log"))?;
        let mut shell = Command::new("sh");
        shell.args(["-c", WATCHED, "sh"]).arg(at("ejabberdctl"));
        shell.arg("--config-dir").arg(at("config")).arg("--logs").arg(at("logs"));
        shell.arg("--spool").arg(at("spool")).arg("foreground");
        shell.env("SCRIPT", ctl).env("HOME", dir.path());
        shell.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let shell = shell.spawn().context("no shell")?;
        let started = Self { port, shell, dir };
        let begin = clock::monotonic();
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            if begin.elapsed() > READY_WITHIN {
                let said =
                    fs::read_to_string(started.dir.path().join("out.log")).unwrap_or_default();
                anyhow::bail!("ejabberd does not listen; it said: {}", said.trim());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(started)
    }
}
