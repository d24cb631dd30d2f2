//! Storm: thousands of users who connect, are all dropped at once, are written to, and come back at once.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actors::clock;
use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use rookery::client::{Connection, Event, Happened, Letter, Options, Resume};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::field::{CONNECTING_MAX, Field, LONGEST_US};
use crate::report::Percentiles;

/// How long nothing may happen before it is given up.
const PATIENCE: Duration = Duration::from_secs(30);
/// Those who write to them while they are away: what one may send in a second is limited.
const WRITERS: usize = 8;
/// How long they stay before they are dropped.
const STAYING: Duration = Duration::from_secs(2);

/// How all of them came in, once.
#[derive(Serialize)]
pub(crate) struct Coming {
    what: &'static str,
    users: usize,
    /// Those whose position in their log was taken up.
    resumed: usize,
    /// Until the last one was authenticated.
    authenticated_s: f64,
    /// Until the last one had all that waited.
    caught_up_s: f64,
    per_s: f64,
    /// Until each one had, in milliseconds.
    caught_up_ms: Percentiles,
}

impl fmt::Display for Coming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<12} {} users, {} resumed: authenticated after {:.2} s, caught up after {:.2} s ({:.0}/s; p50 {:.0} ms, p99 {:.0} ms)",
            self.what,
            self.users,
            self.resumed,
            self.authenticated_s,
            self.caught_up_s,
            self.per_s,
            self.caught_up_ms.p50,
            self.caught_up_ms.p99,
        )
    }
}

/// One turn: what is known of those who come.
struct Turn {
    begin: Instant,
    authenticated: Cell<Duration>,
    resumed: Cell<usize>,
    received: Cell<usize>,
    caught_up: RefCell<Histogram<u64>>,
    places: Semaphore,
}

/// Lets them come, drops them, and lets them come again.
pub(crate) async fn measure(field: &Rc<Field>, users: usize) -> anyhow::Result<()> {
    // Tokens are made before, for in life they were.
    let options: Vec<Options> =
        (0..users).map(|i| field.options(&format!("{}-u{i}", field.run), i, "storm")).collect();
    let first = field.arguments.parallel.unwrap_or(CONNECTING_MAX);
    let crowd = come(field, "first", options.clone(), first, 0).await?;
    tokio::time::sleep(STAYING).await;
    let positions: Vec<Option<Resume>> =
        crowd.iter().map(|connection| connection.rules().position()).collect();
    crate::mark("dropping");
    drop(crowd);
    write_to_all(field, users).await?;
    crate::mark("coming back");
    let back = options
        .into_iter()
        .zip(positions)
        .map(|(options, resume)| Options { resume, ..options })
        .collect();
    let parallel = field.arguments.parallel.unwrap_or(users);
    let crowd = come(field, "back again", back, parallel, 1).await?;
    crate::mark("back");
    if field.arguments.hold > 0.0 {
        crate::mark("holding");
        tokio::time::sleep(Duration::from_secs_f64(field.arguments.hold)).await;
    }
    drop(crowd);
    Ok(())
}

/// Each of them has something waiting when they come back.
async fn write_to_all(field: &Rc<Field>, users: usize) -> anyhow::Result<()> {
    let writers = (0..WRITERS).map(|writer| async move {
        let name = format!("{}-w{writer}", field.run);
        let mut connection = field.ready(&name, writer, "writer").await?;
        let mut unanswered = 0;
        for i in (writer..users).step_by(WRITERS) {
            let to = format!("u:{}", name_of(field, i));
            connection.send(Letter::text(&to, format!("{}-{i}", field.salt), "while away"))?;
            unanswered += 1;
        }
        while unanswered > 0 {
            match connection.step().await {
                Some(Happened::Answered { result, .. }) => {
                    result?;
                    unanswered -= 1;
                }
                Some(_) => {}
                None => anyhow::bail!("{name} cannot write"),
            }
        }
        Ok(())
    });
    try_join_all(writers).await.map(drop)
}

fn name_of(field: &Field, i: usize) -> String {
    format!("{}-u{i}", field.run)
}

/// Lets all come, each of whom so many messages wait for. Answers them in their order.
async fn come(
    field: &Rc<Field>,
    what: &'static str,
    options: Vec<Options>,
    parallel: usize,
    waiting: usize,
) -> anyhow::Result<Vec<Connection>> {
    let users = options.len();
    let turn = Rc::new(Turn {
        begin: clock::monotonic(),
        authenticated: Cell::default(),
        resumed: Cell::new(0),
        received: Cell::new(0),
        caught_up: RefCell::new(Histogram::new_with_max(LONGEST_US, 3)?),
        places: Semaphore::new(parallel),
    });
    let mut coming = JoinSet::new();
    for (i, options) in options.into_iter().enumerate() {
        let one = one(Rc::clone(field), Rc::clone(&turn), options);
        coming.spawn_local(async move { one.await.map(|connection| (i, connection)) });
    }
    let mut crowd = BTreeMap::new();
    while !coming.is_empty() {
        match tokio::time::timeout(PATIENCE, coming.join_next()).await {
            Ok(Some(came)) => {
                let (i, connection) = came??;
                crowd.insert(i, connection);
            }
            Ok(None) => break,
            Err(_) => {
                let errors = &field.counts.borrow().errors;
                anyhow::bail!("{what}: {} of {users} came; then nothing: {errors:?}", crowd.len());
            }
        }
    }
    let caught_up = turn.begin.elapsed().as_secs_f64();
    let comings = Coming {
        what,
        users,
        resumed: turn.resumed.get(),
        authenticated_s: turn.authenticated.get().as_secs_f64(),
        caught_up_s: caught_up,
        per_s: users as f64 / caught_up,
        caught_up_ms: Percentiles::of(&turn.caught_up.borrow()),
    };
    eprintln!("{comings}");
    field.comings.borrow_mut().push(comings);
    let (received, wanted) = (turn.received.get(), users * waiting);
    anyhow::ensure!(received == wanted, "{what}: {received} of {wanted} messages were delivered");
    Ok(crowd.into_values().collect())
}

/// One who comes, and tries again as a client does when refused.
async fn one(field: Rc<Field>, turn: Rc<Turn>, options: Options) -> anyhow::Result<Connection> {
    let _place = turn.places.acquire().await?;
    let user = options.user.clone();
    let mut connection = Connection::new(options);
    while let Some(happened) = connection.step().await {
        field.note_connection(&happened);
        match happened {
            Happened::Event(Event::Connected { resumed, .. }) => {
                turn.authenticated.set(turn.begin.elapsed());
                turn.resumed.set(turn.resumed.get() + usize::from(resumed));
            }
            Happened::Event(Event::Message { .. }) => turn.received.set(turn.received.get() + 1),
            Happened::Event(Event::CaughtUp { .. }) => {
                let after = u64::try_from(turn.begin.elapsed().as_micros()).unwrap_or(u64::MAX);
                let _ = turn.caught_up.borrow_mut().record(after);
                return Ok(connection);
            }
            Happened::Event(Event::Disconnected { why, retry_in: None }) => {
                return Err(field.not_let_in(&user, &why));
            }
            _ => {}
        }
    }
    anyhow::bail!("{user} cannot connect")
}
