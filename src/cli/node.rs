//! `rookery node`: one node in the foreground.

use std::io::IsTerminal;
use std::path::Path;

use tracing_subscriber::EnvFilter;

use super::{Failure, Outcome, check, signals};

/// What is logged unless `RUST_LOG` says otherwise. The actor libraries print payloads at their debug level, and each
/// link that comes and goes at info.
const LOG_DEFAULT: &str = "info,ractor=warn,ractor_cluster=warn";

/// Runs the node until it is asked to stop; 2 and 3 say that it could not start.
pub(crate) fn run(config: &Path, name: &str, exit_with_stdin: bool) -> Outcome {
    // Before any thread is born: it changes what the whole process may ask of the kernel.
    let fsync = actors::store::install_real_fsync();
    start_logging();
    let config = check::load(config)?;
    config.node(name).map_err(|error| Failure::configuration(error.to_string()))?;
    if let Err(error) = fsync {
        tracing::warn!(%error, "sled's flush could not be made to reach the disk");
    }
    raise_file_limit(config.limits.connections_max);
    let stop = signals::stop_wish(exit_with_stdin)
        .map_err(|error| Failure::new(format!("cannot listen for signals: {error}")))?;
    rookery::node::run(config, name, stop)
        .map_err(|error| Failure::with_code(error.exit_code(), error.to_string()))
}

fn start_logging() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG_DEFAULT));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}

/// Sockets and the disk's files besides them must all fit: takes what the system lets a process have.
fn raise_file_limit(sockets: u32) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const OTHERS: u64 = 1_024;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let limit = if raised.is_ok() { maximum } else { current };
    let wanted = u64::from(sockets) + OTHERS;
    if let Some(limit) = limit.filter(|limit| *limit < wanted) {
        tracing::warn!(
            limit,
            wanted,
            "too few open files for limits.connections_max; raise `ulimit -n` or lower it"
        );
    }
}
