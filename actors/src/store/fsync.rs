//! Fsync: makes sled's flush reach the disk.
//!
//! Why: on Linux sled 0.34 flushes with `sync_file_range`, which leaves the file's length and the
//! disk's order behind: of 2,000 "flushed" records none survived a power cut. It falls back to
//! `fsync` when the kernel does not know that call, so a system-call filter of this process answers
//! just that (`ENOSYS`). Nothing else in the program uses the call. The filter is inherited by
//! child processes and cannot be taken off again.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use super::StoreError;

const ENOSYS: u32 = 38;

/// Number of `sync_file_range` in the kernel's table for this processor.
const SYNC_FILE_RANGE: i64 = if cfg!(target_arch = "x86_64") { 277 } else { 84 };

static INSTALLED: AtomicBool = AtomicBool::new(false);
static INSTALLING: Mutex<()> = Mutex::new(());

/// Installs the filter in all threads of this process; first thing in `main`. A second call does
/// nothing.
pub fn install_real_fsync() -> Result<(), StoreError> {
    let _one = INSTALLING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if INSTALLED.load(Ordering::Acquire) {
        return Ok(());
    }
    let before = filters();
    let refuse = |why: String| StoreError::NoFilter { why };
    let program = program().map_err(|error| refuse(error.to_string()))?;
    seccompiler::apply_filter_all_threads(&program).map_err(|error| refuse(error.to_string()))?;
    // Kernels before 5.10 do not count filters; then the library's word must do.
    if let (Some(before), Some(after)) = (before, filters())
        && after <= before
    {
        return Err(refuse(format!("the kernel still counts {after} filters")));
    }
    INSTALLED.store(true, Ordering::Release);
    Ok(())
}

/// Tells whether the filter is in place, so that sled's flush is a real `fsync`.
#[must_use]
pub fn real_fsync_installed() -> bool {
    INSTALLED.load(Ordering::Acquire) && filters() != Some(0)
}

fn program() -> Result<BpfProgram, seccompiler::BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let always = BTreeMap::from([(SYNC_FILE_RANGE, vec![])]);
    SeccompFilter::new(always, SeccompAction::Allow, SeccompAction::Errno(ENOSYS), arch)?.try_into()
}

/// How many filters the kernel counts for this thread.
fn filters() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/thread-self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:"))?;
    line.trim().parse().ok()
}
