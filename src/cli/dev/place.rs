//! Place: where a development cluster lives, on disk and on the loopback interface.

use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rand::RngCore;
use rookery::config::Config;

use super::super::check;
use super::{Failure, Outcome};

/// Nodes of a cluster that is born without `--nodes`.
const NODES: u16 = 3;

/// How a configuration that `dev` wrote begins; only a directory that has one is ever cleared.
const MARK: &str = "# Written by `rookery dev`";

/// A data directory and the first of the clients' ports.
pub(crate) struct Place {
    port: u16,
    data: PathBuf,
}

impl Place {
    /// A place; nothing is looked at yet.
    pub(crate) fn new(port: u16, data: &Path) -> Self {
        Self { port, data: data.to_owned() }
    }

    /// The configuration all nodes share.
    pub(crate) fn config_file(&self) -> PathBuf {
        self.data.join("cluster.toml")
    }

    /// Where a node's output goes.
    pub(crate) fn log_file(&self, name: &str) -> PathBuf {
        self.data.join(format!("{name}.log"))
    }

    /// What to type to start a node again.
    pub(crate) fn start_command(&self, name: &str) -> String {
        let program = std::env::args().next().unwrap_or_else(|| "rookery".to_owned());
        let data = self.data.display();
        format!("{program} dev start {name} --port {} --data {data}", self.port)
    }

    /// Makes the directory and keeps other `dev`s out of it for as long as the file is held.
    pub(crate) fn lock(&self) -> Result<File, Failure> {
        let cannot = |error: std::io::Error| {
            Failure::new(format!(
                "cannot use {} as data directory: {error}; choose another with --data",
                self.data.display()
            ))
        };
        std::fs::create_dir_all(&self.data).map_err(cannot)?;
        let lock = File::create(self.data.join("dev.lock")).map_err(cannot)?;
        match lock.try_lock() {
            Ok(()) => Ok(lock),
            Err(TryLockError::WouldBlock) => Err(Failure::new(format!(
                "another `rookery dev` runs with {}; stop it, or choose another directory with --data (and --port)",
                self.data.display()
            ))),
            Err(TryLockError::Error(error)) => Err(cannot(error)),
        }
    }

    /// Removes what earlier runs left, if the directory is one of ours.
    pub(crate) fn clear(&self) -> Outcome {
        let left: Vec<PathBuf> = std::fs::read_dir(&self.data)
            .and_then(|entries| entries.map(|entry| entry.map(|e| e.path())).collect())
            .map_err(|error| self.unreadable(&error))?;
        let left: Vec<&PathBuf> = left.iter().filter(|path| !path.ends_with("dev.lock")).collect();
        if left.is_empty() {
            return Ok(());
        }
        let ours =
            std::fs::read_to_string(self.config_file()).is_ok_and(|text| text.starts_with(MARK));
        if !ours {
            return Err(Failure::new(format!(
                "--fresh refuses to clear {}: it is not empty and `rookery dev` did not make it",
                self.data.display()
            )));
        }
        // The configuration goes last: it is what makes the directory ours, should this be interrupted.
        let (config, others): (Vec<&PathBuf>, Vec<&PathBuf>) =
            left.into_iter().partition(|path| **path == self.config_file());
        for path in others.into_iter().chain(config) {
            remove(path).map_err(|error| {
                Failure::new(format!("cannot remove {}: {error}", path.display()))
            })?;
        }
        Ok(())
    }

    /// Reads the configuration; the first time, or when the ports or the directory changed, writes it before.
    pub(crate) fn configuration(&self, nodes: Option<u16>) -> Result<Config, Failure> {
        let file = self.config_file();
        if !file.exists() {
            self.write(nodes.unwrap_or(NODES), &secret(), &secret())?;
            return check::load(&file);
        }
        let config = check::load(&file)?;
        let there = u16::try_from(config.nodes.len()).unwrap_or(u16::MAX);
        if nodes.is_some_and(|nodes| nodes != there) {
            return Err(Failure::configuration(format!(
                "{} holds a cluster of {there}; leave --nodes out, start over with --fresh, or choose another --data",
                self.data.display()
            )));
        }
        if self.matches(&config)? {
            return Ok(config);
        }
        self.write(there, config.auth.token_secret.reveal(), config.cluster.cookie.reveal())?;
        check::load(&file)
    }

    /// Refuses to start a node where `dev` has not run, or with other ports than it had.
    pub(crate) fn check_started_before(&self) -> Outcome {
        let file = self.config_file();
        if !file.exists() {
            return Err(Failure::configuration(format!(
                "there is no {}; start the cluster with `rookery dev` first, with the same --data",
                file.display()
            )));
        }
        let config = check::load(&file)?;
        if self.matches(&config)? {
            return Ok(());
        }
        let port = config.nodes.first().map_or(0, |node| node.listen.port());
        Err(Failure::configuration(format!(
            "the cluster in {} has --port {port}; give the same",
            self.data.display()
        )))
    }

    /// Refuses ports that are taken, before anything is started.
    pub(crate) fn check_ports(&self, config: &Config) -> Outcome {
        for node in &config.nodes {
            free(node.listen, &format!("clients of node {}", node.name))?;
            free(node.admin_listen, &format!("operator of node {}", node.name))?;
            free(node.cluster_listen, &format!("the other nodes' links to node {}", node.name))?;
        }
        Ok(())
    }

    /// Whether the configuration is for these ports and this directory.
    fn matches(&self, config: &Config) -> Result<bool, Failure> {
        let data = self.absolute()?;
        Ok(config
            .nodes
            .first()
            .is_some_and(|node| node.listen.port() == self.port && node.data.starts_with(&data)))
    }

    fn write(&self, nodes: u16, secret: &str, cookie: &str) -> Outcome {
        let text = Config::dev(nodes, self.port, &self.absolute()?, secret, cookie);
        debug_assert!(text.starts_with(MARK));
        let file = self.config_file();
        let new = file.with_extension("toml.new");
        // Whoever reads it can be any user of the cluster: for this account's eyes only.
        let written = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| std::fs::rename(&new, &file));
        written.map_err(|error| Failure::new(format!("cannot write {}: {error}", file.display())))
    }

    /// The nodes' own directories must be found from wherever `dev start` is typed.
    fn absolute(&self) -> Result<PathBuf, Failure> {
        self.data.canonicalize().map_err(|error| self.unreadable(&error))
    }

    fn unreadable(&self, error: &std::io::Error) -> Failure {
        Failure::new(format!("cannot read {}: {error}", self.data.display()))
    }
}

/// 32 random bytes, in hexadecimal.
fn secret() -> String {
    let mut bytes = [0_u8; 32];
    rand::rng().fill_bytes(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn remove(path: &Path) -> std::io::Result<()> {
    if path.symlink_metadata()?.is_dir() {
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    }
}

fn free(address: SocketAddr, whose: &str) -> Outcome {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Err(Failure::new(format!(
            "port {} ({whose}) is in use; stop what listens there, or choose other ports with --port",
            address.port()
        ))),
        Err(error) => Err(Failure::new(format!(
            "cannot listen on {address} ({whose}): {error}; choose other ports with --port"
        ))),
    }
}

/// The last lines of a log.
pub(crate) fn tail(log: &Path) -> String {
    const BYTES: u64 = 2_000;
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::Place;

    fn place() -> (tempfile::TempDir, Place) {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new(9000, &dir.path().join("dev"));
        std::fs::create_dir(dir.path().join("dev")).unwrap();
        (dir, place)
    }

    #[test]
    fn the_configuration_is_kept_between_runs_and_for_the_owner_only() {
        let (_dir, place) = place();
        let first = place.configuration(None).unwrap();
        let second = place.configuration(Some(3)).unwrap();
        assert_eq!(first, second);
        let mode = place.config_file().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn other_ports_keep_the_secrets() {
        let (_dir, place) = place();
        let first = place.configuration(Some(2)).unwrap();
        let moved = Place::new(9500, &place.data).configuration(None).unwrap();
        assert_eq!(moved.nodes.len(), 2);
        assert_eq!(moved.nodes[1].listen.port(), 9501);
        assert_eq!(moved.cluster.cookie, first.cluster.cookie);
        assert_eq!(moved.auth.token_secret, first.auth.token_secret);
    }

    #[test]
    fn another_number_of_nodes_is_refused() {
        let (_dir, place) = place();
        place.configuration(Some(3)).unwrap();
        let refused = place.configuration(Some(5)).unwrap_err();
        assert!(refused.message.contains("--fresh"), "{}", refused.message);
    }

    #[test]
    fn fresh_clears_only_what_dev_has_made() {
        let (_dir, place) = place();
        let precious = place.data.join("thesis.txt");
        std::fs::write(&precious, "years of work").unwrap();
        assert!(place.clear().is_err());
        assert!(precious.exists());
        place.configuration(None).unwrap();
        place.clear().unwrap();
        assert!(!place.config_file().exists());
    }

    #[test]
    fn a_second_dev_is_kept_out() {
        let (_dir, place) = place();
        let held = place.lock().unwrap();
        assert!(place.lock().is_err());
        drop(held);
        place.lock().unwrap();
    }

    #[test]
    fn a_port_in_use_is_named() {
        let (_dir, place) = place();
        let mut config = place.configuration(None).unwrap();
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        config.nodes[1].admin_listen = taken.local_addr().unwrap();
        config.nodes[0].listen.set_port(0);
        config.nodes[0].admin_listen.set_port(0);
        config.nodes[0].cluster_listen.set_port(0);
        config.nodes[1].listen.set_port(0);
        let refused = place.check_ports(&config).unwrap_err();
        let port = taken.local_addr().unwrap().port().to_string();
        assert!(refused.message.contains(&port), "{}", refused.message);
        assert!(refused.message.contains("operator of node b"), "{}", refused.message);
    }
}
