//! Promise: the operator's push service is told of each device that sleeps through a message, once, whatever fails.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::hmac;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep};

use crate::harness::{Cluster, User, eventually};
use crate::socket::Socket;
use crate::web;

/// How long a device has: long enough to acknowledge in, on a busy machine.
const AFTER: Duration = Duration::from_secs(4);
/// After this, whatever was to be told has been.
const SURELY: Duration = Duration::from_secs(9);
const SECRET: &str = "a-secret-of-the-push-service";

/// A request as it came.
#[derive(Debug, Clone)]
struct Heard {
    body: Value,
    text: String,
    at: Instant,
}

/// How a request is answered.
#[derive(Debug, Clone, Copy)]
enum Reply {
    Status(u16),
    RetryAfter(u16, u32),
    Never,
}

/// A push service, on a thread of its own. What is not said otherwise is answered with 204.
#[derive(Clone, Default)]
struct Service {
    heard: Arc<Mutex<Vec<Heard>>>,
    replies: Arc<Mutex<BTreeMap<String, VecDeque<Reply>>>>,
}

impl Service {
    /// Starts it; also answers the settings of a cluster that tells it.
    fn start(after: Duration) -> (Self, String) {
        let (service, listener) = (Self::default(), TcpListener::bind("127.0.0.1:0").unwrap());
        let url = format!("http://{}/wake", listener.local_addr().unwrap());
        let serving = service.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(serving.serve(listener));
        });
        let settings = format!(
            "[push]\nurl = \"{url}\"\nsecret = \"{SECRET}\"\npush_after = \"{}ms\"\ntimeout = \"700ms\"",
            after.as_millis()
        );
        (service, settings)
    }

    async fn serve(self, listener: TcpListener) {
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = self.clone();
            let answer = service_fn(move |request| {
                let service = service.clone();
                async move { Ok::<_, Infallible>(service.answer(request).await) }
            });
            let http = hyper::server::conn::http1::Builder::new();
            tokio::spawn(http.serve_connection(TokioIo::new(stream), answer));
        }
    }

    /// Checks what every request must be, and answers as it was told to.
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let header = |name: &str| parts.headers[name].to_str().unwrap().to_owned();
        assert_eq!((&parts.method, parts.uri.path()), (&Method::POST, "/wake"));
        let (at, signature) = (header("x-rookery-timestamp"), header("x-rookery-signature"));
        let off = actors::clock::wall().0.abs_diff(at.parse().unwrap());
        assert!(off < 30_000, "{off} ms off");
        let signed = [at.as_bytes(), b".", &bytes].concat();
        let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
        let tag = hmac::sign(&key, &signed);
        let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(signature, format!("sha256={hex}"));
        let body: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(header("x-rookery-id"), body["id"]);
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let user = body["user"].as_str().unwrap().to_owned();
        self.heard.lock().unwrap().push(Heard { body, text, at: Instant::now() });
        let reply = self.replies.lock().unwrap().get_mut(&user).and_then(VecDeque::pop_front);
        let response = Response::builder();
        match reply.unwrap_or(Reply::Status(204)) {
            Reply::Never => std::future::pending().await,
            Reply::Status(status) => response.status(status),
            Reply::RetryAfter(status, seconds) => {
                response.status(status).header("retry-after", seconds)
            }
        }
        .body(Full::default())
        .unwrap()
    }

    /// How the next requests about a user are answered.
    fn answers(&self, user: &User, replies: &[Reply]) {
        let replies = replies.iter().copied().collect();
        self.replies.lock().unwrap().insert(user.name.clone(), replies);
    }

    /// What was told of a user.
    fn of(&self, user: &User) -> Vec<Heard> {
        let heard = self.heard.lock().unwrap();
        heard.iter().filter(|heard| heard.body["user"] == user.name).cloned().collect()
    }

    /// Waits until so much was told of a user.
    async fn wait(&self, user: &User, count: usize) -> Vec<Heard> {
        eventually(&format!("{count} requests about {}", user.name), || async {
            Some(self.of(user)).filter(|heard| heard.len() >= count)
        })
        .await
    }
}

/// A cluster that tells a service, shared by those that only talk.
async fn shared() -> &'static (Cluster, Service) {
    static SHARED: OnceCell<(Cluster, Service)> = OnceCell::const_new();
    SHARED
        .get_or_init(|| async {
            let (service, settings) = Service::start(AFTER);
            (Cluster::with(3, &settings).await, service)
        })
        .await
}

/// A device that was there once.
async fn asleep(cluster: &Cluster, user: &User, device: &str) {
    Socket::login(&cluster.url("a"), &user.token, device).await.leave().await;
}

fn ids(heard: &[Heard]) -> BTreeSet<&str> {
    heard.iter().map(|heard| heard.body["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_sleeping_device_is_told_of_once_for_each_conversation() {
    let (cluster, service) = shared().await;
    let (ann, bob, cat) =
        (cluster.user("ann").await, cluster.user("bob").await, cluster.user("cat").await);
    asleep(cluster, &bob, "phone").await;
    // Her own copies are no news to her other device.
    asleep(cluster, &ann, "laptop").await;
    let mut a = Socket::login(&cluster.url("b"), &ann.token, "phone").await;
    let mut c = Socket::login(&cluster.url("c"), &cat.token, "phone").await;
    let began = Instant::now();
    for number in 0..3 {
        a.send(&bob.conv(), &format!("a{number}"), "words for bob alone").await;
        c.send(&bob.conv(), &format!("c{number}"), "words for bob alone").await;
    }
    let heard = service.wait(&bob, 2).await;
    assert!(heard.iter().all(|heard| heard.at >= began + AFTER), "not before its time");
    sleep(SURELY).await;
    let heard = service.of(&bob);
    assert_eq!(heard.len(), 2, "{heard:?}");
    assert_eq!(ids(&heard).len(), 2);
    let of = |user: &User| {
        let conv = user.conv();
        heard.iter().find(|heard| heard.body["conv"] == conv).unwrap_or_else(|| panic!("{conv}"))
    };
    let now = actors::clock::wall().0;
    for from in [&ann, &cat] {
        let Heard { body, text, .. } = of(from);
        assert_eq!((&body["device"], &body["kind"]), (&json!("phone"), &json!("message")));
        assert!(body["n"].as_u64().is_some_and(|n| n == 1 || n == 2), "the first: {body}");
        assert!(body["unread"].as_u64().is_some_and(|unread| (1..=3).contains(&unread)), "{body}");
        assert!(body["since_ms"].as_u64().is_some_and(|at| now.abs_diff(at) < 60_000), "{body}");
        assert!(!text.contains("words"), "nothing of what was said: {text}");
        assert_eq!(body.as_object().unwrap().len(), 8, "and nothing else: {body}");
    }
    assert_eq!(service.of(&ann).len() + service.of(&cat).len(), 0);

    // When it has been there, the next message is news again.
    let mut b = Socket::login(&cluster.url("a"), &bob.token, "phone").await;
    let all = b.backlog().await;
    b.ack(all.last().unwrap()["n"].as_u64().unwrap()).await;
    a.receipt("delivered", 3).await;
    b.leave().await;
    a.send(&bob.conv(), "a9", "more words").await;
    let heard = service.wait(&bob, 3).await;
    assert_eq!((ids(&heard).len(), &heard[2].body["n"]), (3, &json!(7)));

    let metrics = async |node: &str| {
        let page = web::get(&format!("{}/metrics", cluster.admin_url(node))).await.unwrap().text;
        page.lines().any(|line| line.starts_with("rookery_push_total{result=\"done\"} "))
    };
    let leader = cluster.leader_of(&bob.name, "a").await;
    assert!(metrics(&leader).await);
}

#[tokio::test]
async fn who_acknowledges_is_left_in_peace() {
    let (cluster, service) = shared().await;
    let (ann, bob) = (cluster.user("ann").await, cluster.user("bob").await);
    asleep(cluster, &bob, "laptop").await;
    let mut b = Socket::login(&cluster.url("c"), &bob.token, "phone").await;
    let mut a = Socket::login(&cluster.url("b"), &ann.token, "phone").await;
    for number in 0..3 {
        a.send(&bob.conv(), &format!("a{number}"), "hi").await;
        let event = b.event("message").await;
        b.ack(event["n"].as_u64().unwrap()).await;
        a.receipt("delivered", number + 1).await;
        b.tell("read", json!({"conv": ann.conv(), "seq": number + 1})).await;
        a.receipt("read", number + 1).await;
    }
    let heard = service.wait(&bob, 1).await;
    sleep(SURELY).await;
    assert_eq!(service.of(&bob).len(), 1, "the phone has everything");
    let told = (&heard[0].body["device"], &heard[0].body["unread"]);
    assert_eq!(told, (&json!("laptop"), &json!(0)), "read on the phone");
    assert_eq!(service.of(&ann).len(), 0, "receipts wake nobody");
}

#[tokio::test]
async fn a_post_wakes_the_other_members_and_a_change_nobody() {
    let (cluster, service) = shared().await;
    let (ann, bob, cat) =
        (cluster.user("ann").await, cluster.user("bob").await, cluster.user("cat").await);
    for user in [&ann, &bob, &cat] {
        asleep(cluster, user, "laptop").await;
    }
    let mut a = Socket::login(&cluster.url("a"), &ann.token, "phone").await;
    let d = json!({"title": "push", "members": [bob.name, cat.name], "cid": "make"});
    let group = a.request("group.create", d).await.unwrap()["group"].clone();
    let conv = format!("g:{}", group.as_str().unwrap());
    sleep(SURELY).await;
    assert_eq!(service.of(&bob).len() + service.of(&cat).len(), 0, "a change is no message");
    a.send(&conv, "p1", "words for all").await;
    a.send(&conv, "p2", "words for all").await;
    for user in [&bob, &cat] {
        let heard = service.wait(user, 1).await;
        let body = &heard[0].body;
        assert_eq!((&body["conv"], &body["n"]), (&json!(conv), &json!(2)));
        assert!(!heard[0].text.contains("words"));
    }
    sleep(SURELY).await;
    let counts = [&ann, &bob, &cat].map(|user| service.of(user).len());
    assert_eq!(counts, [0, 1, 1]);
}

#[tokio::test]
async fn what_fails_is_told_again_and_what_is_refused_is_not() {
    let (cluster, service) = shared().await;
    let (ann, bob, cat, dan) = (
        cluster.user("ann").await,
        cluster.user("bob").await,
        cluster.user("cat").await,
        cluster.user("dan").await,
    );
    let again = [Reply::Status(500), Reply::Never, Reply::RetryAfter(429, 3)];
    service.answers(&bob, &again);
    service.answers(&cat, &[Reply::Status(400)]);
    service.answers(&dan, &[Reply::Status(410)]);
    let mut a = Socket::login(&cluster.url("a"), &ann.token, "phone").await;
    for user in [&bob, &cat, &dan] {
        asleep(cluster, user, "phone").await;
        a.send(&user.conv(), &format!("to-{}", user.name), "hi").await;
    }
    let heard = service.wait(&bob, 4).await;
    assert_eq!(ids(&heard).len(), 1, "one and the same: {heard:?}");
    let waits: Vec<Duration> = heard.windows(2).map(|two| two[1].at - two[0].at).collect();
    assert!(waits[0] >= Duration::from_millis(450) && waits[1] >= Duration::from_millis(1_600));
    assert!(waits[2] >= Duration::from_millis(2_900), "as it was asked to: {waits:?}");
    sleep(SURELY).await;
    assert_eq!([&bob, &cat, &dan].map(|user| service.of(user).len()), [4, 1, 1]);
    let leader = cluster.leader_of(&cat.name, "a").await;
    let log = cluster.log(&leader);
    assert!(log.contains("refused a notice") && log.contains(&cat.name), "{log}");

    // Another conversation, and dan's device has not been there since.
    let mut c = Socket::login(&cluster.url("b"), &cat.token, "other").await;
    c.send(&dan.conv(), "c1", "hi").await;
    sleep(AFTER + SURELY).await;
    assert_eq!(service.of(&dan).len(), 1, "it is gone");
    let mut d = Socket::login(&cluster.url("a"), &dan.token, "phone").await;
    let all = d.backlog().await;
    d.ack(all.last().unwrap()["n"].as_u64().unwrap()).await;
    c.receipt("delivered", 1).await;
    d.leave().await;
    c.send(&dan.conv(), "c2", "hi").await;
    service.wait(&dan, 2).await;
}

#[tokio::test]
async fn a_home_that_dies_before_it_was_time_is_followed_by_one_that_tells() {
    let (service, settings) = Service::start(Duration::from_secs(8));
    let cluster = Cluster::with(3, &settings).await;
    let bob = cluster.user_led_by("bob", "c").await;
    let ann = cluster.user_led_by("ann", "a").await;
    asleep(&cluster, &bob, "phone").await;
    let mut a = Socket::login(&cluster.url("a"), &ann.token, "phone").await;
    a.send(&bob.conv(), "a1", "hi").await;
    cluster.kill9("c");
    assert_eq!(service.of(&bob).len(), 0, "it was not yet time");
    let heard = service.wait(&bob, 1).await;
    assert_eq!((&heard[0].body["n"], &heard[0].body["conv"]), (&json!(1), &json!(ann.conv())));
    // All at once, and mailboxes come from disk; who was told may be told once more, by the same name.
    let cat = cluster.user_led_by("cat", "a").await;
    asleep(&cluster, &cat, "phone").await;
    a.send(&cat.conv(), "a2", "hi").await;
    cluster.kill9_all();
    cluster.start_all();
    cluster.ready().await;
    service.wait(&cat, 1).await;
    assert_eq!(ids(&service.wait(&bob, 1).await).len(), 1);
}
