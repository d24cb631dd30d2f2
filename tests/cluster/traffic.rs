//! Traffic: two users who chat through every failure, and a judge who saw all of it.
//!
//! The sender keeps up to [`WINDOW`] messages unanswered and repeats them, oldest first and with the same `cid`, on
//! whichever node takes it next. The listener resumes from what it has stored. The judge demands that everything with
//! a check mark arrived once, in order, under the number the check mark told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::harness::{PATIENCE, User, eventually};
use crate::socket::{Over, Socket};

const WINDOW: usize = 8;

/// What both sides have seen so far.
#[derive(Default)]
struct Progress {
    stop: AtomicBool,
    all_sent: AtomicBool,
    accepted: AtomicU64,
    heard: AtomicU64,
}

/// What the sender knows in the end.
#[derive(Default)]
struct Sent {
    /// Message → the `seq` its check mark told.
    accepted: BTreeMap<u64, u64>,
    /// Messages that were refused at least once.
    refused: BTreeSet<u64>,
    /// How long each waited for its check mark, from its first sending.
    waited: Vec<Duration>,
}

/// A conversation that goes on until it is finished.
pub(crate) struct Traffic {
    progress: Arc<Progress>,
    sender: JoinHandle<Sent>,
    listener: JoinHandle<BTreeMap<u64, u64>>,
}

impl Traffic {
    /// Begins to send from `from` to `to`; each uses the nodes in the order given, from the first again when at the end.
    pub(crate) fn start(from: &User, from_via: &[String], to: &User, to_via: &[String]) -> Self {
        let progress = Arc::new(Progress::default());
        let sender = Sender {
            user: from.clone(),
            to: to.conv(),
            roads: Roads::new(from_via),
            progress: progress.clone(),
            unanswered: VecDeque::new(),
            next: 1,
            sent: Sent::default(),
        };
        let listener = Listener {
            user: to.clone(),
            from: from.name.clone(),
            roads: Roads::new(to_via),
            progress: progress.clone(),
            resume: None,
            heard: BTreeMap::new(),
        };
        Self {
            progress,
            sender: tokio::spawn(sender.run()),
            listener: tokio::spawn(listener.run()),
        }
    }

    /// Messages with a check mark so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.progress.accepted.load(Ordering::SeqCst)
    }

    /// Waits until `more` messages beyond those of now have their check mark and were heard.
    pub(crate) async fn goes_on(&self, more: u64) {
        let goal = self.accepted() + more;
        eventually(&format!("traffic should reach {goal} messages"), || async {
            let heard = self.progress.heard.load(Ordering::SeqCst);
            assert!(!self.sender.is_finished() && !self.listener.is_finished(), "a side gave up");
            (self.accepted() >= goal && heard >= goal).then_some(())
        })
        .await;
    }

    /// Stops sending, waits until everything is answered and heard, and judges. Returns how many messages there were.
    pub(crate) async fn finish(self) -> usize {
        self.finish_timed().await.len()
    }

    /// The same; returns how long each message waited for its check mark.
    pub(crate) async fn finish_timed(self) -> Vec<Duration> {
        self.progress.stop.store(true, Ordering::SeqCst);
        let sent = self.sender.await.expect("the sender saw nothing wrong");
        self.progress.all_sent.store(true, Ordering::SeqCst);
        let heard = tokio::time::timeout(PATIENCE, self.listener).await;
        let heard = heard
            .unwrap_or_else(|_| panic!("of {} messages not all were heard", sent.accepted.len()))
            .expect("the listener saw nothing wrong");
        judge(&sent, &heard);
        sent.waited
    }
}

fn judge(sent: &Sent, heard: &BTreeMap<u64, u64>) {
    let told: BTreeMap<u64, u64> =
        sent.accepted.iter().map(|(number, seq)| (*seq, *number)).collect();
    assert_eq!(told.len(), sent.accepted.len(), "one seq for two messages");
    let differ = told.iter().zip(heard).find(|(told, heard)| told != heard);
    assert_eq!((heard.len(), differ), (told.len(), None), "lost, invented or under another seq");
    for (i, seq) in (1..).zip(heard.keys()) {
        assert_eq!(i, *seq, "a gap in the conversation");
    }
    // A message that was refused was repeated later than those after it; all others keep their order.
    let kept = sent.accepted.iter().filter(|(number, _)| !sent.refused.contains(number));
    let seqs: Vec<u64> = kept.map(|(_, seq)| *seq).collect();
    assert!(seqs.is_sorted(), "a later message overtook an earlier one");
}

/// The nodes a client knows, tried in turn.
struct Roads {
    urls: Vec<String>,
    next: usize,
}

impl Roads {
    fn new(urls: &[String]) -> Self {
        Self { urls: urls.to_vec(), next: 0 }
    }

    /// Connects to the next node that lets the user in.
    async fn take(&mut self, user: &User, resume: Option<&Value>) -> (Socket, Value) {
        let mut pause = tokio::time::interval(Duration::from_millis(100));
        loop {
            pause.tick().await;
            let url = &self.urls[self.next % self.urls.len()];
            self.next += 1;
            let attempt = enter(url, user, resume);
            // A frozen node takes connections and says nothing.
            if let Ok(Ok(entered)) = tokio::time::timeout(Duration::from_secs(4), attempt).await {
                return entered;
            }
        }
    }
}

/// Connects and authenticates, or says why not.
pub(crate) async fn enter(
    url: &str,
    user: &User,
    resume: Option<&Value>,
) -> Result<(Socket, Value), Over> {
    let refused = |status: u16| Over::Broken(format!("HTTP {status}"));
    let mut socket = Socket::open(url, None).await.map_err(refused)?;
    let mut d = json!({"token": user.token, "device": "traffic"});
    if let Some(resume) = resume {
        d["resume"] = resume.clone();
    }
    let id = socket.ask("auth", d).await?;
    loop {
        match socket.take_reply() {
            Some((re, reply)) if re == id && reply.get("ok").is_some() => {
                return Ok((socket, reply["ok"].clone()));
            }
            Some((_, reply)) => return Err(Over::Broken(reply.to_string())),
            None => socket.read().await?,
        }
    }
}

struct Unanswered {
    number: u64,
    /// What it went out with on this socket.
    request: Option<String>,
    first_sent: Instant,
}

struct Sender {
    user: User,
    to: String,
    roads: Roads,
    progress: Arc<Progress>,
    /// Messages without an answer, oldest first.
    unanswered: VecDeque<Unanswered>,
    next: u64,
    sent: Sent,
}

impl Sender {
    async fn run(mut self) -> Sent {
        loop {
            let (mut socket, _) = self.roads.take(&self.user, None).await;
            self.unanswered.iter_mut().for_each(|message| message.request = None);
            match self.talk(&mut socket).await {
                Ok(()) => {
                    socket.leave().await;
                    return self.sent;
                }
                Err(over) => println!("sender: {over:?} after {}", self.sent.accepted.len()),
            }
        }
    }

    async fn talk(&mut self, socket: &mut Socket) -> Result<(), Over> {
        loop {
            self.fill(socket).await?;
            if self.unanswered.is_empty() {
                return Ok(());
            }
            self.read(socket).await?;
            self.acknowledge_own(socket).await?;
            while let Some((request, reply)) = socket.take_reply() {
                self.answered(&request, &reply);
            }
        }
    }

    /// Sends what has not gone out on this socket, oldest first.
    async fn fill(&mut self, socket: &mut Socket) -> Result<(), Over> {
        let stop = self.progress.stop.load(Ordering::SeqCst);
        while !stop && self.unanswered.len() < WINDOW {
            let (number, first_sent) = (self.next, Instant::now());
            self.unanswered.push_back(Unanswered { number, request: None, first_sent });
            self.next += 1;
        }
        for Unanswered { number, request, .. } in &mut self.unanswered {
            if request.is_none() {
                let (cid, body) = (format!("t{number}"), number.to_string());
                let d = json!({"to": self.to, "cid": cid, "kind": "text", "body": body});
                *request = Some(socket.ask("send", d).await?);
            }
        }
        Ok(())
    }

    /// Reads one frame; a node that is silent for long while something is unanswered is left.
    async fn read(&self, socket: &mut Socket) -> Result<(), Over> {
        let read = tokio::time::timeout(Duration::from_secs(8), socket.read()).await;
        read.unwrap_or(Err(Over::Silent))
    }

    async fn acknowledge_own(&self, socket: &mut Socket) -> Result<(), Over> {
        let mut newest = None;
        while let Some(event) = socket.take_event() {
            newest = event["n"].as_u64().or(newest);
        }
        match newest {
            Some(n) => socket.frame(&json!({"op": "ack", "d": {"n": n}})).await,
            None => Ok(()),
        }
    }

    fn answered(&mut self, request: &str, reply: &Value) {
        let mut unanswered = self.unanswered.iter();
        let Some(at) = unanswered.position(|m| m.request.as_deref() == Some(request)) else {
            return;
        };
        let Some(ok) = reply.get("ok") else {
            assert_eq!(reply["err"]["retry"], true, "refused for good: {reply}");
            self.unanswered[at].request = None;
            self.sent.refused.insert(self.unanswered[at].number);
            return;
        };
        let Unanswered { number, first_sent, .. } =
            self.unanswered.remove(at).expect("it was just found");
        self.sent.waited.push(first_sent.elapsed());
        let seq = ok["seq"].as_u64().expect("a seq");
        self.sent.accepted.insert(number, seq);
        self.progress.accepted.fetch_add(1, Ordering::SeqCst);
    }
}

struct Listener {
    user: User,
    from: String,
    roads: Roads,
    progress: Arc<Progress>,
    /// What is stored: the last `n`, and the epoch it belongs to.
    resume: Option<(u64, Value)>,
    /// `seq` → body.
    heard: BTreeMap<u64, u64>,
}

impl Listener {
    async fn run(mut self) -> BTreeMap<u64, u64> {
        loop {
            match self.listen().await {
                Ok(()) => return self.heard,
                Err(over) => println!("listener: {over:?} after {}", self.heard.len()),
            }
        }
    }

    async fn listen(&mut self) -> Result<(), Over> {
        let resume = self.resume.as_ref().map(|(n, epoch)| json!({"n": n, "epoch": epoch}));
        let (mut socket, ok) = self.roads.take(&self.user, resume.as_ref()).await;
        let epoch = ok["epoch"].clone();
        if resume.is_some() {
            assert_eq!(ok["resumed"], true, "{ok}");
        }
        let mut last = self.resume.as_ref().map_or(0, |(n, _)| *n);
        loop {
            while let Some(event) = socket.take_event() {
                let Some(n) = event["n"].as_u64() else {
                    continue;
                };
                if n <= last {
                    continue;
                }
                assert_eq!(n, last + 1, "a gap in the log: {event}");
                last = n;
                self.hear(&event);
                self.resume = Some((last, epoch.clone()));
                socket.frame(&json!({"op": "ack", "d": {"n": n}})).await?;
            }
            if self.done() {
                return Ok(());
            }
            match tokio::time::timeout(Duration::from_millis(500), socket.read()).await {
                Ok(read) => read?,
                Err(_) => socket.frame(&json!({"op": "ping", "d": {}})).await?,
            }
        }
    }

    fn hear(&mut self, event: &Value) {
        let d = &event["d"];
        if event["ev"] != "message" || d["from"] != self.from.as_str() {
            return;
        }
        let body = d["body"].as_str().and_then(|body| body.parse().ok()).expect("a number");
        let twice = self.heard.insert(d["seq"].as_u64().expect("a seq"), body);
        assert_eq!(twice, None, "heard twice: {event}");
        self.progress.heard.fetch_add(1, Ordering::SeqCst);
    }

    /// Nothing more will be sent, and all that has a check mark was heard.
    fn done(&self) -> bool {
        self.progress.all_sent.load(Ordering::SeqCst)
            && self.heard.len() as u64 >= self.progress.accepted.load(Ordering::SeqCst)
    }
}
