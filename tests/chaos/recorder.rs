//! Recorder: writes a history down as it happens.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use actors::clock;

use crate::history::{Line, What};

/// Writes lines; clones write to the same history.
#[derive(Clone)]
pub(crate) struct Recorder(Arc<Inner>);

struct Inner {
    began: Instant,
    file: Mutex<BufWriter<File>>,
}

impl Recorder {
    /// Begins a history in a new file.
    pub(crate) fn create(file: &Path) -> std::io::Result<Self> {
        let file = Mutex::new(BufWriter::new(File::create(file)?));
        let began = clock::monotonic();
        Ok(Self(Arc::new(Inner { began, file })))
    }

    /// Writes one line. Its time is taken in the order of the lines.
    pub(crate) fn write(&self, what: What) {
        let mut file = self.0.file.lock().unwrap_or_else(PoisonError::into_inner);
        let at = u64::try_from(self.0.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let line = serde_json::to_string(&Line { at, what }).expect("plain data");
        writeln!(file, "{line}").expect("the history can be written");
    }

    /// All that was written is in the file.
    pub(crate) fn flush(&self) -> std::io::Result<()> {
        self.0.file.lock().unwrap_or_else(PoisonError::into_inner).flush()
    }
}
