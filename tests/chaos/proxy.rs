//! Proxy: stands between every two nodes, and stops, slows and stutters what goes from one to the other.
//!
//! In user space, so that it works for anybody: bytes that are held back go on in their order when the fault is over, as
//! those of a cut cable do that TCP sends again.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::chance::Chance;

/// What happens to bytes on their way from one node to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weather {
    /// They pass.
    Clear,
    /// None passes.
    Cut,
    /// Each waits so long.
    Slow(Duration),
    /// One packet in so many is late by the time that TCP takes to send it again.
    Lossy(u64),
}

/// What TCP waits before it sends a lost packet again, at least.
const SENT_AGAIN: Duration = Duration::from_millis(200);

/// All ways between nodes, by their places.
pub(crate) struct Proxy {
    ways: BTreeMap<(usize, usize), watch::Sender<Weather>>,
    /// Where a node dials another.
    dials: BTreeMap<(usize, usize), SocketAddr>,
}

impl Proxy {
    /// Listens for each node on behalf of each other; `targets` are where they really are.
    pub(crate) async fn start(targets: &[SocketAddr], seed: u64) -> std::io::Result<Self> {
        let (mut ways, mut dials) = (BTreeMap::new(), BTreeMap::new());
        let places = 0..targets.len();
        let pairs = places.clone().flat_map(|from| places.clone().map(move |to| (from, to)));
        for pair in pairs.filter(|(from, to)| from != to) {
            ways.insert(pair, watch::Sender::new(Weather::Clear));
        }
        for &(from, to) in ways.keys() {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            dials.insert((from, to), listener.local_addr()?);
            let there = ways[&(from, to)].subscribe();
            let back = ways[&(to, from)].subscribe();
            tokio::spawn(accept(listener, targets[to], there, back, seed));
        }
        Ok(Self { ways, dials })
    }

    /// Where `from` dials `to`.
    pub(crate) fn dial(&self, from: usize, to: usize) -> SocketAddr {
        self.dials[&(from, to)]
    }

    /// Sets what happens from one node to another.
    pub(crate) fn set(&self, from: usize, to: usize, weather: Weather) {
        self.ways[&(from, to)].send_replace(weather);
    }

    /// Sets what happens between a node and all others, both ways.
    pub(crate) fn set_around(&self, place: usize, weather: Weather) {
        for (from, to) in self.ways.keys() {
            if *from == place || *to == place {
                self.set(*from, *to, weather);
            }
        }
    }

    /// All passes again.
    pub(crate) fn clear(&self) {
        for way in self.ways.values() {
            way.send_replace(Weather::Clear);
        }
    }
}

async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    there: watch::Receiver<Weather>,
    back: watch::Receiver<Weather>,
    seed: u64,
) {
    let mut count = seed;
    while let Ok((near, _)) = listener.accept().await {
        let (there, back) = (there.clone(), back.clone());
        count += 2;
        tokio::spawn(async move {
            // Whoever cannot be reached is shown by a connection that ends.
            let Ok(far) = TcpStream::connect(target).await else { return };
            let _both = (near.set_nodelay(true), far.set_nodelay(true));
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            tokio::select! {
                () = carry(near_in, far_out, there, Chance::new(count)) => {}
                () = carry(far_in, near_out, back, Chance::new(count + 1)) => {}
            }
        });
    }
}

/// Carries bytes one way until the connection ends.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
    mut chance: Chance,
) {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let Ok(count @ 1..) = from.read(&mut bytes).await else { return };
        if weather.wait_for(|weather| *weather != Weather::Cut).await.is_err() {
            return;
        }
        let now = *weather.borrow();
        match now {
            Weather::Slow(delay) => tokio::time::sleep(delay).await,
            Weather::Lossy(one_in) if chance.one_in(one_in) => {
                tokio::time::sleep(SENT_AGAIN).await;
            }
            Weather::Clear | Weather::Cut | Weather::Lossy(_) => {}
        }
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
