//! Ports: blocks of free ports on loopback, never given out twice by one run of the tests.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// Most nodes a block serves.
pub(crate) const NODES_MAX: u16 = 5;

/// Blocks lie below the ports that the kernel gives to outgoing connections. A block is the first port of three rows,
/// 100 apart, as `rookery dev` lays them out.
const FIRST: u32 = 10_000;
const ROWS_APART: u32 = 100;
const BLOCKS_IN_ROW: u32 = ROWS_APART / NODES_MAX as u32;
const BLOCKS: u32 = 70 * BLOCKS_IN_ROW;

static GIVEN: AtomicU32 = AtomicU32::new(0);

/// Finds a port `p` with `p`, `p + 100` and `p + 200` free, and so the four after each.
pub(crate) fn free_block() -> u16 {
    // Runs at the same time begin at different places.
    let start = std::process::id().wrapping_mul(37);
    for _ in 0..BLOCKS {
        let block = start.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % BLOCKS;
        let row = FIRST + block / BLOCKS_IN_ROW * 3 * ROWS_APART;
        let port = row + block % BLOCKS_IN_ROW * u32::from(NODES_MAX);
        let port = u16::try_from(port).expect("blocks end below 2^16");
        if [0, 100, 200].iter().all(|offset| free(port + offset)) {
            return port;
        }
    }
    panic!("no free ports between {FIRST} and 31000");
}

fn free(first: u16) -> bool {
    (first..first + NODES_MAX).all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
}
