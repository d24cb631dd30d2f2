//! Nemesis: does one thing after the other to a cluster, waits each time until it is whole again, and writes it down.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::chance::Chance;
use crate::cluster::Cluster;
use crate::history::What;
use crate::proxy::Weather;
use crate::recorder::Recorder;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// `kill -9` of one node.
    KillOne,
    /// `kill -9` of a majority at once.
    KillMajority,
    /// `kill -9` of all at once.
    KillAll,
    /// A process stands still (SIGSTOP) and goes on.
    Freeze,
    /// Each node is stopped in order (SIGTERM) and started again, one after the other.
    Roll,
    /// One node is cut off from the others.
    CutOff,
    /// Nothing passes from one node to another, everything back.
    CutOneWay,
    /// What one node says and hears is late.
    Delay,
    /// Packets of one node are lost and sent again by TCP.
    Loss,
    /// One node's disk is full.
    FullDisk,
    /// The journal of a killed node is damaged before it starts again.
    Corrupt,
    /// One node is killed and its disk emptied.
    LoseDisk,
    /// Single actors of one node fail, one after the other.
    CrashActors,
    /// All clients' connections break and come back at once.
    Storm,
}

/// All of them.
pub(crate) const FAULTS: [Fault; 14] = [
    Fault::KillOne,
    Fault::CutOff,
    Fault::Freeze,
    Fault::Storm,
    Fault::KillMajority,
    Fault::CutOneWay,
    Fault::Corrupt,
    Fault::Delay,
    Fault::FullDisk,
    Fault::KillAll,
    Fault::Loss,
    Fault::LoseDisk,
    Fault::Roll,
    Fault::CrashActors,
];

impl Fault {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::KillOne => "kill_one",
            Self::KillMajority => "kill_majority",
            Self::KillAll => "kill_all",
            Self::Freeze => "freeze",
            Self::Roll => "roll",
            Self::CutOff => "cut_off",
            Self::CutOneWay => "cut_one_way",
            Self::Delay => "delay",
            Self::Loss => "loss",
            Self::FullDisk => "full_disk",
            Self::Corrupt => "corrupt",
            Self::LoseDisk => "lose_disk",
            Self::CrashActors => "crash_actors",
            Self::Storm => "storm",
        }
    }
}

/// Does the faults of a run.
pub(crate) struct Nemesis {
    pub(crate) recorder: Recorder,
    pub(crate) storm: watch::Sender<u64>,
    pub(crate) chance: Chance,
    /// The node whose data lies on a small disk of its own, if there is one.
    pub(crate) small_disk: Option<SmallDisk>,
    done: u32,
    order: Vec<Fault>,
}

impl Nemesis {
    pub(crate) fn new(
        recorder: Recorder,
        storm: watch::Sender<u64>,
        chance: Chance,
        small_disk: Option<SmallDisk>,
    ) -> Self {
        Self { recorder, storm, chance, small_disk, done: 0, order: Vec::new() }
    }

    /// One fault after the other until the time is over. Each kind comes once before any comes again.
    pub(crate) async fn rage(
        &mut self,
        cluster: &mut Cluster,
        until: Instant,
    ) -> Result<u32, String> {
        while Instant::now() < until {
            let fault = self.next();
            if fault == Fault::FullDisk && self.small_disk.is_none() {
                continue;
            }
            self.done += 1;
            self.strike(cluster, fault).await?;
            sleep(self.span(500, 1_500)).await;
        }
        Ok(self.done)
    }

    fn next(&mut self) -> Fault {
        if self.order.is_empty() {
            self.order = FAULTS.to_vec();
            for at in (1..self.order.len()).rev() {
                let other = self.chance.below(at + 1);
                self.order.swap(at, other);
            }
        }
        self.order.pop().unwrap_or(Fault::KillOne)
    }

    fn span(&mut self, from_ms: u64, to_ms: u64) -> Duration {
        Duration::from_millis(self.chance.between(from_ms, to_ms))
    }

    async fn strike(&mut self, cluster: &mut Cluster, fault: Fault) -> Result<(), String> {
        let (id, count) = (self.done, cluster.count());
        let mut place = self.chance.below(count);
        if let (Fault::FullDisk, Some(disk)) = (fault, &self.small_disk) {
            place = disk.place;
        }
        let other = (place + 1 + self.chance.below(count - 1)) % count;
        let hit: Vec<usize> = match fault {
            Fault::KillMajority => (0..=count / 2).map(|next| (place + next) % count).collect(),
            Fault::KillAll | Fault::Roll => (0..count).collect(),
            Fault::Storm => Vec::new(),
            Fault::CutOneWay => vec![place, other],
            _ => vec![place],
        };
        let span = self.span(800, 3_000);
        let nodes: Vec<String> = hit.iter().map(|place| cluster.name(*place)).collect();
        let detail = format!("{} {} for {} ms", fault.name(), nodes.join(" "), span.as_millis());
        let kind = fault.name().to_owned();
        self.recorder.write(What::Fault { id, kind, detail: detail.clone(), nodes });
        self.act(cluster, fault, &hit, span).await?;
        self.recorder.write(What::Healed { id });
        cluster.whole().await.map_err(|why| format!("after {detail}: {why}"))?;
        self.recorder.write(What::Whole { id });
        Ok(())
    }

    /// Does a fault and undoes it.
    async fn act(
        &mut self,
        cluster: &mut Cluster,
        fault: Fault,
        hit: &[usize],
        span: Duration,
    ) -> Result<(), String> {
        let place = hit.first().copied().unwrap_or(0);
        match fault {
            Fault::KillOne | Fault::KillMajority | Fault::KillAll => {
                cluster.kill(hit);
                sleep(span).await;
                cluster.launch_missing()
            }
            Fault::Freeze => {
                cluster.freeze(place, true);
                sleep(span).await;
                cluster.freeze(place, false);
                Ok(())
            }
            Fault::Roll => self.roll(cluster).await,
            Fault::CutOff => self.weather(cluster, place, Weather::Cut, span).await,
            Fault::CutOneWay => {
                cluster.proxy.set(hit[0], hit[1], Weather::Cut);
                sleep(span).await;
                cluster.proxy.clear();
                Ok(())
            }
            Fault::Delay => {
                let late = Duration::from_millis(self.chance.between(20, 120));
                self.weather(cluster, place, Weather::Slow(late), span).await
            }
            Fault::Loss => self.weather(cluster, place, Weather::Lossy(10), span).await,
            Fault::FullDisk => self.fill(cluster, span).await,
            Fault::Corrupt => {
                cluster.kill(&[place]);
                let damaged = cluster.corrupt(place, &mut self.chance);
                cluster.launch(place)?;
                damaged.map(drop).ok_or_else(|| "there was no journal to damage".to_owned())
            }
            Fault::LoseDisk => {
                cluster.kill(&[place]);
                empty(cluster.data(place)).map_err(|error| error.to_string())?;
                cluster.launch(place)
            }
            Fault::CrashActors => {
                for _ in 0..50 {
                    cluster.crash_actors(place);
                    sleep(span / 50).await;
                }
                Ok(())
            }
            Fault::Storm => {
                self.storm.send_modify(|storms| *storms += 1);
                sleep(span).await;
                Ok(())
            }
        }
    }

    async fn weather(
        &self,
        cluster: &Cluster,
        place: usize,
        weather: Weather,
        span: Duration,
    ) -> Result<(), String> {
        cluster.proxy.set_around(place, weather);
        sleep(span).await;
        cluster.proxy.clear();
        Ok(())
    }

    async fn roll(&self, cluster: &mut Cluster) -> Result<(), String> {
        for place in 0..cluster.count() {
            let code = cluster.terminate(place).await;
            if code != Some(0) {
                return Err(format!("node {} stopped with {code:?}", cluster.name(place)));
            }
            cluster.launch(place)?;
            cluster.whole().await?;
        }
        Ok(())
    }

    /// The node may stop by itself: it is started again when there is room.
    async fn fill(&self, cluster: &mut Cluster, span: Duration) -> Result<(), String> {
        let Some(disk) = &self.small_disk else { return Ok(()) };
        // On a thread of its own: the clients go on meanwhile.
        let ballast = disk.ballast();
        let filled = tokio::task::spawn_blocking(move || fill(&ballast)).await;
        filled.map_err(|error| error.to_string())?;
        sleep(span).await;
        disk.free().map_err(|error| error.to_string())?;
        // A node that stops takes a moment to do so.
        sleep(Duration::from_millis(500)).await;
        cluster.launch_missing()
    }
}

/// Removes what is in a directory, and leaves the directory.
fn empty(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
    }
    Ok(())
}

/// A small file system in memory for one node's data; only the superuser can make one.
pub(crate) struct SmallDisk {
    pub(crate) place: usize,
    dir: PathBuf,
}

impl SmallDisk {
    /// Mounts it where the node's data will be: room for what a run of this length writes, and little more, for all of it
    /// is filled with ballast again and again.
    pub(crate) fn mount(place: usize, dir: &Path, lasts: Duration) -> Option<Self> {
        let mib = 384 + 3 * lasts.as_secs();
        fs::create_dir_all(dir).ok()?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"]).arg(dir);
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        mounted.then(|| Self { place, dir: dir.to_owned() })
    }

    fn ballast(&self) -> PathBuf {
        self.dir.join("ballast")
    }

    fn free(&self) -> std::io::Result<()> {
        fs::remove_file(self.ballast())
    }
}

/// Takes all the room there is.
fn fill(ballast: &Path) {
    let whole = vec![0; 1 << 20];
    let Ok(mut file) = fs::File::create(ballast) else { return };
    while std::io::Write::write_all(&mut file, &whole).is_ok() {}
    while std::io::Write::write_all(&mut file, &whole[..512]).is_ok() {}
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _left_to_the_system = Command::new("umount").arg("-l").arg(&self.dir).output();
    }
}
