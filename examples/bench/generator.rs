//! Generator: one run of the load example, in a process of its own, which says on its way how far it is.

use std::collections::VecDeque;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use crate::Stage;
use crate::nodes::{NAME, Nodes, SECRET};

/// Lines kept, to say what went wrong.
const LINES: usize = 8;
/// Silence for so long is an error: a generator says something every second.
const SILENCE_MAX: Duration = Duration::from_secs(90);

/// A load generator that runs.
pub(crate) struct Generator {
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
    last: VecDeque<String>,
}

impl Generator {
    /// Starts the load example against these nodes, with arguments of its own separated by blanks.
    pub(crate) fn start(stage: &Stage, nodes: &Nodes, arguments: &str) -> anyhow::Result<Self> {
        let mut command = Command::new(&stage.load);
        command.args(["--json", "--urls", &nodes.urls(), "--cluster", NAME]);
        command.args(["--token-secret", SECRET]).args(arguments.split_whitespace());
        Self::spawn(command)
    }

    /// Starts any program that says `mark …` on standard error, and a JSON object in the end.
    pub(crate) fn spawn(mut command: Command) -> anyhow::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        let mut child = command.spawn().context("the load generator cannot be started")?;
        let errors = child.stderr.take().context("standard error is piped")?;
        Ok(Self { child, lines: BufReader::new(errors).lines(), last: VecDeque::new() })
    }

    /// Waits until it says that it is so far.
    pub(crate) async fn until(&mut self, mark: &str) -> anyhow::Result<()> {
        while let Some(line) = self.line().await? {
            if line.strip_prefix("mark ") == Some(mark) {
                return Ok(());
            }
        }
        anyhow::bail!("the load generator ended before `{mark}`: {}", self.said())
    }

    async fn line(&mut self) -> anyhow::Result<Option<String>> {
        let line = tokio::time::timeout(SILENCE_MAX, self.lines.next_line()).await;
        let line =
            line.with_context(|| format!("the generator fell silent: {}", self.said()))??;
        if let Some(line) = &line {
            if self.last.len() == LINES {
                self.last.pop_front();
            }
            self.last.push_back(line.clone());
        }
        Ok(line)
    }

    fn said(&self) -> String {
        self.last.iter().map(|line| format!("\n  {line}")).collect()
    }

    /// Waits until it ends, and reads what it measured.
    pub(crate) async fn finish(mut self) -> anyhow::Result<Value> {
        while self.line().await?.is_some() {}
        let mut text = String::new();
        if let Some(mut out) = self.child.stdout.take() {
            out.read_to_string(&mut text).await?;
        }
        let status = self.child.wait().await?;
        let report: Option<Value> = serde_json::from_str(&text).ok();
        let report =
            report.with_context(|| format!("no report from the generator: {}", self.said()))?;
        anyhow::ensure!(
            status.success() && report["ok"] == true,
            "something acknowledged went wrong: {report}"
        );
        Ok(report)
    }
}

/// A run of which only the end is of interest.
pub(crate) async fn report(stage: &Stage, nodes: &Nodes, arguments: &str) -> anyhow::Result<Value> {
    Generator::start(stage, nodes, arguments)?.finish().await
}

/// A run while it is measured.
pub(crate) struct Measured {
    pub(crate) report: Value,
    /// Microseconds of the nodes' processors for each message that got its check mark meanwhile.
    pub(crate) cpu_us: f64,
}

/// A run with the nodes' processor time.
pub(crate) async fn measured(
    stage: &Stage,
    nodes: &Nodes,
    arguments: &str,
) -> anyhow::Result<Measured> {
    let mut generator = Generator::start(stage, nodes, arguments)?;
    generator.until("measuring").await?;
    let before = nodes.cpu()?;
    generator.until("measured").await?;
    let spent = nodes.cpu()? - before;
    let report = generator.finish().await?;
    let messages = number(&report, "/ticks_in_time_per_s") * number(&report, "/seconds");
    Ok(Measured { report, cpu_us: spent * 1e6 / messages.max(1.0) })
}

/// A number of a report, by its JSON pointer.
pub(crate) fn number(report: &Value, pointer: &str) -> f64 {
    report.pointer(pointer).and_then(Value::as_f64).unwrap_or(0.0)
}

/// All numbers of an object, added.
pub(crate) fn sum(report: &Value, pointer: &str) -> f64 {
    let object = report.pointer(pointer).and_then(Value::as_object);
    object.map_or(0.0, |object| object.values().filter_map(Value::as_f64).sum())
}
