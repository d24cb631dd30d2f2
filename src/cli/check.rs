//! `rookery check`: reads a configuration and says what is wrong.

use std::path::Path;

use rookery::auth::Tokens;
use rookery::config::Config;

use super::{Failure, Outcome, say};

/// Reads a configuration as a node would; an error names file, line and key.
pub(crate) fn load(path: &Path) -> Result<Config, Failure> {
    Config::load(path).map_err(|error| Failure::configuration(error.to_string()))
}

/// Says that the configuration is good, or what is wrong with it.
pub(crate) fn run(path: &Path) -> Outcome {
    let config = load(path)?;
    // What only a look at its files can tell: the keys of the issuer.
    if let Err(refused) = Tokens::of(&config) {
        return Err(Failure::configuration(format!("{}: {refused}", path.display())));
    }
    for warning in &config.warnings {
        eprintln!("warning: {warning}");
    }
    let names: Vec<&str> = config.nodes.iter().map(|node| node.name.as_str()).collect();
    say(format_args!(
        "{}: good; cluster `{}` of {} ({})",
        path.display(),
        config.cluster.name,
        plural(names.len(), "node"),
        names.join(", "),
    ));
    Ok(())
}

/// `1 node`, `3 nodes`.
pub(crate) fn plural(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}
