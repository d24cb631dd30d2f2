//! Run: a cluster, hundreds of clients, a nemesis, and a history of all of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::chance::{Chance, mix};
use crate::cluster::Cluster;
use crate::history::What;
use crate::nemesis::{Nemesis, SmallDisk};
use crate::person::{Company, Founding, Person, Phase, Tally, USUAL_GROUP, live};
use crate::recorder::Recorder;

/// What a run is to be like.
pub(crate) struct Plan {
    pub(crate) program: PathBuf,
    /// A directory that exists; logs and data stay there.
    pub(crate) dir: PathBuf,
    pub(crate) history: PathBuf,
    pub(crate) command: String,
    pub(crate) seed: u64,
    pub(crate) nodes: usize,
    pub(crate) users: usize,
    /// Messages a second, all users together.
    pub(crate) rate: u64,
    /// Members of the largest groups. When there are not that many users, others are in one of them who are only there at
    /// the beginning and at the end.
    pub(crate) group_size: usize,
    pub(crate) lasts: Duration,
}

/// Longest wait, after the last fault, until everybody has everything; it begins anew as long as something comes.
const DRAINED_WITHIN: Duration = Duration::from_secs(90);
/// One user in so many has a second device.
const TWO_DEVICES: usize = 5;
const FRIENDS: usize = 4;
const EXPIRY_MS: u64 = 30 * 24 * 3_600 * 1_000;

/// Runs; answers how many faults there were.
pub(crate) async fn run(plan: &Plan, mut tell: impl FnMut(String)) -> Result<u32, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", plan.history.display());
    let recorder = Recorder::create(&plan.history).map_err(failed)?;
    let mut chance = Chance::new(plan.seed);
    // Dropped after the cluster, whose node lives on it.
    let place = plan.nodes - 1;
    let small_disk = SmallDisk::mount(place, &plan.dir.join(format!("data-{place}")), plan.lasts);
    if small_disk.is_none() {
        tell("no small file system without the superuser's rights: full_disk is left out".into());
    }
    let (storm, storms) = watch::channel(0);
    let mut nemesis = Nemesis::new(recorder.clone(), storm, Chance::new(chance.next()), small_disk);
    let mut cluster = Cluster::start(&plan.program, &plan.dir, plan.nodes, chance.next()).await?;
    cluster.whole().await?;
    tell(format!("{} nodes run in {}", plan.nodes, plan.dir.display()));

    let (phase, phases) = watch::channel(Phase::Gather);
    let company = Company {
        recorder: recorder.clone(),
        phase: phases,
        storm: storms,
        tally: Arc::new(Tally::default()),
        nodes: Arc::new(cluster.nodes()),
        door: Company::door(),
    };
    let people = people(plan, &mut chance);
    let mut users: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for person in &people {
        users.entry(person.user.clone()).or_default().push(person.device.clone());
    }
    recorder.write(What::Run {
        seed: plan.seed,
        command: plan.command.clone(),
        nodes: u16::try_from(plan.nodes).unwrap_or(u16::MAX),
        users,
        expiry_ms: EXPIRY_MS,
    });
    let done: Vec<Arc<AtomicBool>> = people.iter().map(|person| person.done.clone()).collect();
    let lives: Vec<_> = people
        .into_iter()
        .map(|person| tokio::spawn(live(person, company.clone(), mix(chance.next()))))
        .collect();
    let mut ended =
        conduct(plan, &mut cluster, &mut nemesis, &phase, &done, &company, &mut tell).await;
    phase.send_replace(Phase::Over);
    for life in lives {
        // Whoever still tries to connect is let go.
        let late = tokio::time::timeout(Duration::from_secs(10), life).await;
        if let Ok(Err(error)) = late {
            ended = Err(format!("a client failed: {error}"));
        }
    }
    recorder.flush().map_err(failed)?;
    ended
}

async fn conduct(
    plan: &Plan,
    cluster: &mut Cluster,
    nemesis: &mut Nemesis,
    phase: &watch::Sender<Phase>,
    done: &[Arc<AtomicBool>],
    company: &Company,
    tell: &mut impl FnMut(String),
) -> Result<u32, String> {
    all(done, company, "connected").await?;
    tell(format!("{} devices are connected", done.len()));
    enter(phase, Phase::Form, done);
    all(done, company, "knows their groups").await?;
    let acknowledged = || company.tally.acknowledged.load(Ordering::Relaxed);
    phase.send_replace(Phase::Talk);
    sleep(Duration::from_secs(3)).await;
    let until = Instant::now() + plan.lasts;
    let raged = {
        let raging = nemesis.rage(cluster, until);
        tokio::pin!(raging);
        let mut minute = tokio::time::interval(Duration::from_secs(30));
        loop {
            tokio::select! {
                raged = &mut raging => break raged,
                _ = minute.tick() => {
                    let left = until.saturating_duration_since(Instant::now());
                    let left = left.as_secs();
                    tell(format!("{} messages acknowledged, {left} s to go", acknowledged()));
                }
            }
        }
    };
    let faults = raged?;
    enter(phase, Phase::Finish, done);
    all(done, company, "has everything").await?;
    tell(format!("{faults} faults, {} messages acknowledged", acknowledged()));
    Ok(faults)
}

/// Begins a phase at whose end everybody is to be done.
fn enter(phase: &watch::Sender<Phase>, next: Phase, done: &[Arc<AtomicBool>]) {
    done.iter().for_each(|done| done.store(false, Ordering::SeqCst));
    phase.send_replace(next);
}

/// Waits until everybody is done.
async fn all(done: &[Arc<AtomicBool>], company: &Company, what: &str) -> Result<(), String> {
    let mut until = Instant::now() + DRAINED_WITHIN;
    let mut heard = 0;
    loop {
        let now = company.tally.heard.load(Ordering::Relaxed);
        if now > heard {
            (heard, until) = (now, Instant::now() + DRAINED_WITHIN);
        }
        let late = done.iter().filter(|done| !done.load(Ordering::SeqCst)).count();
        if late == 0 {
            return Ok(());
        }
        if Instant::now() > until {
            let within = DRAINED_WITHIN.as_secs();
            return Err(format!("after {within} s not everybody {what}: {late} of {}", done.len()));
        }
        sleep(Duration::from_millis(100)).await;
    }
}

fn name(at: usize) -> String {
    format!("user-{at}")
}

fn people(plan: &Plan, chance: &mut Chance) -> Vec<Person> {
    let devices = plan.users + plan.users.div_ceil(TWO_DEVICES);
    let pause = Duration::from_secs(1).mul_f64(devices as f64 / plan.rate.max(1) as f64);
    let away: Vec<String> = (plan.users..plan.group_size).map(|at| format!("away-{at}")).collect();
    let mut founds = foundings(plan, &away, chance);
    let person = |user: String, device: &str, friends: &[String], away: bool| Person {
        token: Cluster::token(&user),
        user,
        device: device.to_owned(),
        friends: friends.to_vec(),
        founds: Vec::new(),
        away,
        pause,
        done: Arc::new(AtomicBool::new(false)),
    };
    let mut people = Vec::new();
    for at in 0..plan.users {
        let friends: Vec<String> = (0..FRIENDS)
            .map(|_| name((at + 1 + chance.below(plan.users - 1)) % plan.users))
            .map(|friend| format!("u:{friend}"))
            .collect();
        let founds = founds.remove(&at).unwrap_or_default();
        people.push(Person { founds, ..person(name(at), "phone", &friends, false) });
        if at.is_multiple_of(TWO_DEVICES) {
            people.push(person(name(at), "tablet", &friends, false));
        }
    }
    people.extend(away.into_iter().map(|user| person(user, "phone", &[], true)));
    people
}

/// The groups, by who makes them: everybody is in a usual one, every other in two, and as many as there are to be in a
/// large one.
fn foundings(plan: &Plan, away: &[String], chance: &mut Chance) -> BTreeMap<usize, Vec<Founding>> {
    let most = plan.group_size.min(USUAL_GROUP);
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for count in [plan.users, plan.users / 2] {
        let mut left = shuffled(plan.users, chance);
        left.truncate(count);
        while left.len() >= 2 {
            let least = most.div_ceil(2).max(2);
            let mut size = (least + chance.below(most - least + 1)).min(left.len());
            // Nobody is left over alone.
            size += usize::from(left.len() == size + 1);
            groups.push(left.split_off(left.len() - size));
        }
    }
    if plan.group_size > USUAL_GROUP {
        let mut large = shuffled(plan.users, chance);
        large.truncate(plan.group_size);
        groups.push(large);
    }
    let mut founds: BTreeMap<usize, Vec<Founding>> = BTreeMap::new();
    for (number, group) in groups.iter().enumerate() {
        let is_large = number + 1 == groups.len() && plan.group_size > USUAL_GROUP;
        let others = group[1..].iter().copied().map(name);
        let others = others.chain(away.iter().filter(|_| is_large).cloned());
        let founding = Founding { title: format!("club-{number}"), members: others.collect() };
        founds.entry(group[0]).or_default().push(founding);
    }
    founds
}

fn shuffled(count: usize, chance: &mut Chance) -> Vec<usize> {
    let mut all: Vec<usize> = (0..count).collect();
    for at in (1..count).rev() {
        all.swap(at, chance.below(at + 1));
    }
    all
}
