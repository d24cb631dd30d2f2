//! Machine: on what it was measured, for figures of different machines are not to be compared.

use std::fs;
use std::process::Command;

/// Name and value, in the order in which they are told.
pub(crate) fn describe() -> Vec<(&'static str, String)> {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    vec![
        ("processor", format!("{} × {}", cores, first("/proc/cpuinfo", "model name"))),
        ("memory", memory()),
        ("kernel", read("/proc/sys/kernel/osrelease")),
        ("rustc", said("rustc", &["--version"])),
        ("commit", commit()),
        ("load average at the start", load_average()),
        ("other work", "the generator shares the processors with the nodes".to_owned()),
    ]
}

/// Of 1, 5 and 15 minutes.
pub(crate) fn load_average() -> String {
    let text = read("/proc/loadavg");
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

fn first(path: &str, key: &str) -> String {
    let text = read(path);
    let line = text.lines().find(|line| line.starts_with(key));
    let value = line.and_then(|line| line.split_once(':'));
    value.map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
}

fn memory() -> String {
    let total = first("/proc/meminfo", "MemTotal");
    let kib: Option<f64> = total.split_whitespace().next().and_then(|kib| kib.parse().ok());
    kib.map_or(total, |kib| format!("{:.1} GiB", kib / 1_048_576.0))
}

fn commit() -> String {
    let commit = said("git", &["describe", "--always", "--dirty", "--abbrev=10"]);
    if cfg!(debug_assertions) { format!("{commit}, not a release build") } else { commit }
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.ok().filter(|output| output.status.success());
    output.map_or_else(
        || "unknown".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}
