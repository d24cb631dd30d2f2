//! Ahead: zeros are on disk ahead of the journal's end, so that a flush has data to write and nothing else.
//!
//! Where blocks were only reserved, each flush must also note that they are written to now: on ext4 that made it wait
//! for the disk about twice as often, and took half as much processor time again.

use std::io::{Result, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use raft_engine::env::{DefaultFileSystem, FileSystem, Permission, WriteExt};

/// How far ahead of a write zeros go; bounds what the one flush writes that comes upon them.
const STEP: usize = 256 * 1024;

type File = <DefaultFileSystem as FileSystem>::Handle;
type Inner = <DefaultFileSystem as FileSystem>::Writer;

/// The file system the journal is kept in.
pub(super) struct Ahead;

/// Writes to a file of the journal.
pub(super) struct Writer {
    file: Arc<File>,
    inner: Inner,
    /// Where the next byte goes.
    at: usize,
    /// The end of what was reserved.
    reserved: usize,
    /// The end of what was written to.
    written: usize,
}

impl FileSystem for Ahead {
    type Handle = File;
    type Reader = <DefaultFileSystem as FileSystem>::Reader;
    type Writer = Writer;

    fn create<P: AsRef<Path>>(&self, path: P) -> Result<File> {
        DefaultFileSystem.create(path)
    }

    fn open<P: AsRef<Path>>(&self, path: P, permission: Permission) -> Result<File> {
        DefaultFileSystem.open(path, permission)
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> Result<()> {
        DefaultFileSystem.delete(path)
    }

    fn rename<P: AsRef<Path>>(&self, from: P, to: P) -> Result<()> {
        DefaultFileSystem.rename(from, to)
    }

    fn new_reader(&self, file: Arc<File>) -> Result<Self::Reader> {
        DefaultFileSystem.new_reader(file)
    }

    fn new_writer(&self, file: Arc<File>) -> Result<Writer> {
        let inner = DefaultFileSystem.new_writer(Arc::clone(&file))?;
        Ok(Writer { file, inner, at: 0, reserved: 0, written: 0 })
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let count = self.inner.write(bytes)?;
        self.at += count;
        let ahead = self.reserved.min(self.at + STEP);
        if self.at > self.written && ahead > self.at {
            self.written = ahead;
            // Without room for zeros the next flushes only take longer.
            let _ = self.file.write(self.at, &vec![0; ahead - self.at]);
        }
        Ok(count)
    }

    fn flush(&mut self) -> Result<()> {
        self.inner.flush()
    }
}

impl Seek for Writer {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        let at = self.inner.seek(to)?;
        self.at = usize::try_from(at).map_err(std::io::Error::other)?;
        Ok(at)
    }
}

impl WriteExt for Writer {
    fn truncate(&mut self, offset: usize) -> Result<()> {
        self.inner.truncate(offset)?;
        (self.at, self.reserved, self.written) = (offset, offset, offset);
        Ok(())
    }

    fn allocate(&mut self, offset: usize, size: usize) -> Result<()> {
        self.inner.allocate(offset, size)?;
        self.reserved = offset + size;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_ahead_of_a_write_was_written_to_before() {
        const RESERVED: usize = 3 * STEP;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut writer = Ahead.new_writer(Arc::new(Ahead.create(&path).unwrap())).unwrap();
        writer.allocate(0, RESERVED).unwrap();
        let mut expected = Vec::new();
        while expected.len() < RESERVED {
            let bytes = vec![1; 100_000.min(RESERVED - expected.len())];
            writer.write_all(&bytes).unwrap();
            expected.extend(bytes);
            let file = std::fs::File::open(&path).unwrap();
            let hole = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(0)).unwrap();
            assert!(hole > expected.len() as u64 || hole == RESERVED as u64, "a hole at {hole}");
            let read = std::fs::read(&path).unwrap();
            assert_eq!(read.len(), RESERVED);
            assert_eq!(read[..expected.len()], expected);
            assert!(read[expected.len()..].iter().all(|byte| *byte == 0));
        }
        writer.truncate(10).unwrap();
        writer.write_all(b"end").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [&expected[..10], b"end"].concat());
    }
}
