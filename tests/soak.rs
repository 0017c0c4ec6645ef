//! Thousands of concurrent requests on several threads, which end in every possible way. Each count is exact: atomics
//! count the same events at the same places.

use std::{
    any::Any,
    convert::Infallible,
    future::{pending, poll_fn},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    panic,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request},
    routing::get,
};
use bytes::Bytes;
use dualstack_metrics::{
    ClientLabels, ClientLabelsLayer, ClientScopes, Protocol, Scope, ScopedRecorder, ScopedRecorderLayer,
    ServerBinding, WithScope, prometheus::Install,
};
use futures_util::stream;
use http::header;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use metrics::{Counter, counter, with_local_recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use test_support::{
    INET, INET6, Labels, MAPPED, Metrics, Random, UNKNOWN, dual_stack, loopbacks, sample, seven, soon,
};
use tokio::{net::TcpStream, sync::oneshot, task::JoinSet};
use tower::ServiceExt;

const IN_PROCESS: u64 = 4_000;
const CONNECTIONS: u64 = 60;
const REQUESTS_EACH: u64 = 10;
const ON_PURPOSE: &str = "on purpose";

/// The index of events outside every scope.
const OUTSIDE: usize = 4;

/// The counts of an event: for each class of client in the order of `ClientLabels::ALL`, then outside every scope.
struct Tally {
    name: &'static str,
    counts: [AtomicU64; 5],
}

impl Tally {
    const fn new(name: &'static str) -> Self {
        Self {
            name,
            counts: [const { AtomicU64::new(0) }; 5],
        }
    }

    fn add(&self, client: usize) {
        self.counts[client].fetch_add(1, Ordering::Relaxed);
        let scope = STAGE.get().unwrap().scopes[client];
        if Scope::current() != scope {
            WRONG_SCOPES.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn expected(&self, server: SocketAddr) -> Vec<String> {
        let labels = |client: usize| match [INET, MAPPED, INET6, UNKNOWN].get(client) {
            Some(&seen) => seven("http", server, seen),
            None => Labels::new(),
        };
        (0..)
            .zip(&self.counts)
            .map(|(client, count)| (client, count.load(Ordering::Relaxed)))
            .filter(|&(_, count)| count > 0)
            .map(|(client, count)| sample(self.name, &labels(client), count))
            .collect()
    }
}

/// Shared by the requests.
struct Stage {
    scopes: [Scope; 5],
    kept: Counter,
    /// A recorder whose cached handles expire almost at once.
    renewing: ScopedRecorder<PrometheusRecorder>,
    renewing_kept: Counter,
}

static STAGE: OnceLock<Stage> = OnceLock::new();
static WRONG_SCOPES: AtomicU64 = AtomicU64::new(0);
/// The number of handlers, bodies and children that are not finished.
static LIVE: AtomicI64 = AtomicI64::new(0);

macro_rules! tallies {
    ($($tally:ident $count:ident $name:literal)+) => {
        $(
            static $tally: Tally = Tally::new($name);

            fn $count(client: usize) {
                $tally.add(client);
                counter!($name).increment(1);
            }
        )+

        static BY_MACRO: &[&Tally] = &[$(&$tally),+];
    };
}

tallies! {
    BEGUN begun "begun_total"
    STEPS step "steps_total"
    DROPPED dropped "dropped_total"
    ENDED ended "ended_total"
    CHILD child_step "child_steps_total"
    CHILD_DROPPED child_dropped "child_dropped_total"
    CHUNKS chunk "chunks_total"
    BODY_DROPPED body_dropped "body_dropped_total"
    BLOCKING blocking "blocking_total"
    BLOCKING_DROPPED blocking_dropped "blocking_dropped_total"
}

static KEPT: Tally = Tally::new("kept_total");
static RENEWING: Tally = Tally::new("renewing_total");
static RENEWING_KEPT: Tally = Tally::new("renewing_kept_total");

/// Counts in one of five ways.
fn count(random: &mut Random, client: usize) {
    let stage = STAGE.get().unwrap();
    match random.below(5) {
        0 => {
            KEPT.add(client);
            stage.kept.increment(1);
        }
        1 => {
            RENEWING_KEPT.add(client);
            stage.renewing_kept.increment(1);
        }
        2 => {
            RENEWING.add(client);
            with_local_recorder(&stage.renewing, || counter!("renewing_total").increment(1));
        }
        3 => Scope::none().run(|| step(OUTSIDE)),
        _ => step(client),
    }
}

/// Counts when it is dropped.
struct Guard {
    client: usize,
    count: fn(usize),
}

impl Guard {
    fn new(client: usize, count: fn(usize)) -> Self {
        LIVE.fetch_add(1, Ordering::SeqCst);
        Self { client, count }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        (self.count)(self.client);
        LIVE.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The class of a client, determined independently of the crate.
fn class_of(request: &Request) -> usize {
    let Some(ConnectInfo(address)) = request.extensions().get::<ConnectInfo<SocketAddr>>() else {
        return 3;
    };
    match address.ip() {
        IpAddr::V4(_) => 0,
        IpAddr::V6(ip) => match ip.segments() {
            [0, 0, 0, 0, 0, 0xffff, _, _] => 1,
            _ => 2,
        },
    }
}

async fn child(mut random: Random, client: usize, guard: Guard) {
    let _guard = guard;
    for _ in 0..random.below(5) {
        child_step(client);
        count(&mut random, client);
        tokio::task::yield_now().await;
    }
}

fn body(random: Random, client: usize) -> Body {
    let guard = Guard::new(client, body_dropped);
    let chunks = stream::unfold((random, guard, 0), move |(mut random, guard, n)| async move {
        if n == 4 {
            return None;
        }
        chunk(client);
        for _ in 0..random.below(3) {
            count(&mut random, client);
            tokio::task::yield_now().await;
        }
        assert!(random.below(40) > 0, "{ON_PURPOSE}");
        Some((
            Ok::<_, Infallible>(Bytes::from_static(b"chunk")),
            (random, guard, n + 1),
        ))
    });
    Body::from_stream(chunks)
}

fn header_of(request: &Request, name: &str) -> u64 {
    request.headers()[name].to_str().unwrap().parse().unwrap()
}

/// Behaves as the seed in the request says.
async fn handler(request: Request) -> Body {
    let client = class_of(&request);
    let mut random = Random(header_of(&request, "x-seed"));
    let may_hang = header_of(&request, "x-may-hang") == 1;
    drop(request);

    let _guard = Guard::new(client, dropped);
    begun(client);
    for _ in 0..random.below(6) {
        count(&mut random, client);
        if random.below(2) == 0 {
            tokio::task::yield_now().await;
        }
    }
    if random.below(3) == 0 {
        let guard = Guard::new(client, child_dropped);
        tokio::spawn(child(random.clone(), client, guard).with_current_scope());
    }
    if random.below(3) == 0 {
        let guard = Guard::new(OUTSIDE, child_dropped);
        tokio::spawn(child(random.clone(), OUTSIDE, guard));
    }
    if random.below(16) == 0 {
        let guard = Guard::new(client, blocking_dropped);
        let mut random = random.clone();
        let work = Scope::current().bind(move || {
            let _guard = guard;
            blocking(client);
            count(&mut random, client);
        });
        tokio::task::spawn_blocking(work).await.unwrap();
    }
    match random.below(12) {
        0 => panic!("{ON_PURPOSE}"),
        1..=4 if may_hang => pending().await,
        _ => {}
    }
    count(&mut random, client);
    ended(client);
    if random.below(3) == 0 {
        body(random, client)
    } else {
        Body::from("whole")
    }
}

/// Drops a future that is not ready after `polls`, and wakes the task so that there are so many.
fn cancel_after<F: Future>(mut polls: Option<u64>, future: F) -> impl Future<Output = Option<F::Output>> {
    let mut future = Some(Box::pin(future));
    poll_fn(move |cx| {
        if polls == Some(0) {
            future = None;
            return Poll::Ready(None);
        }
        if let Some(polls) = &mut polls {
            *polls -= 1;
            cx.waker().wake_by_ref();
        }
        let future = future.as_mut().expect("it is not cancelled yet");
        future.as_mut().poll(cx).map(Some)
    })
}

/// Reads a body to its end, or only some frames of it.
async fn read<B>(body: B, random: &mut Random)
where
    B: http_body::Body + Unpin,
{
    let mut body = body;
    let mut frames = if random.below(3) == 0 {
        random.below(4)
    } else {
        u64::MAX
    };
    while frames > 0
        && let Some(Ok(_)) = body.frame().await
    {
        frames -= 1;
    }
}

async fn in_process(app: Router, n: u64) {
    let mut random = Random(n);
    let mut request = Request::new(Body::empty());
    let v4 = Ipv4Addr::from_bits(u32::try_from(n).unwrap() | 0xc000_0000);
    let ip: Option<IpAddr> = match n % 4 {
        0 => Some(v4.into()),
        1 => Some(v4.to_ipv6_mapped().into()),
        2 => Some(Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(n)).into()),
        _ => None,
    };
    if let Some(ip) = ip {
        request
            .extensions_mut()
            .insert(ConnectInfo(SocketAddr::new(ip, 50_000)));
    }
    let way = random.below(4);
    let headers = request.headers_mut();
    headers.insert("x-seed", random.next().into());
    headers.insert("x-may-hang", u64::from(way < 2).into());

    let reading = async move {
        let response = app.oneshot(request).await.unwrap();
        read(response.into_body(), &mut random).await;
    };
    match way {
        0 => {
            let polls = n / 4 % 24;
            cancel_after(Some(polls), reading).await;
        }
        1 => {
            let turns = n / 4 % 12;
            let task = tokio::spawn(reading);
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
            task.abort();
            let _ = task.await;
        }
        _ => reading.await,
    }
}

/// Some requests over one connection, until one panics or is left unanswered.
async fn over_a_connection(server: SocketAddr, host: IpAddr, n: u64) {
    let mut random = Random(n);
    let request = |random: &mut Random, may_hang: bool| {
        hyper::Request::get(format!("http://{server}/"))
            .header(header::HOST, "test")
            .header("x-seed", random.next())
            .header("x-may-hang", u64::from(may_hang))
            .body(Full::<Bytes>::default())
            .unwrap()
    };
    let stream = TokioIo::new(TcpStream::connect((host, server.port())).await.unwrap());
    if n.is_multiple_of(2) {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        let connection = tokio::spawn(connection);
        let mut streams = JoinSet::new();
        for at in 0..REQUESTS_EACH {
            let mut sender = sender.clone();
            let may_hang = random.below(3) == 0;
            let request = request(&mut random, may_hang);
            let mut random = Random(n * REQUESTS_EACH + at);
            let polls = may_hang.then(|| random.below(400));
            streams.spawn(cancel_after(polls, async move {
                if let Ok(response) = sender.send_request(request).await {
                    read(response.into_body(), &mut random).await;
                }
            }));
        }
        streams.join_all().await;
        connection.abort();
    } else {
        let (mut sender, connection) = http1::handshake(stream).await.unwrap();
        let connection = tokio::spawn(connection);
        for at in 0..REQUESTS_EACH {
            // The last one is left unanswered.
            let may_hang = at + 1 == REQUESTS_EACH;
            let request = request(&mut random, may_hang);
            let polls = may_hang.then(|| random.below(400));
            let answer = cancel_after(polls, async {
                sender.ready().await.ok()?;
                let response = sender.send_request(request).await.ok()?;
                response.into_body().collect().await.ok()
            });
            if answer.await.flatten().is_none() {
                break;
            }
        }
        connection.abort();
    }
}

fn message_of(panic: &(dyn Any + Send)) -> Option<&str> {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned.or(panic.downcast_ref::<&str>().copied())
}

fn quiet_panics() {
    let default_hook = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if message_of(info.payload()) != Some(ON_PURPOSE) {
            default_hook(info);
        }
    }));
}

fn scrape_meanwhile(outputs: [Metrics; 2]) -> impl FnOnce() {
    move || {
        let mut times = 0;
        while LIVE.load(Ordering::SeqCst) > 0 || times < 3 {
            let series: usize = outputs.iter().map(|output| output.samples().len()).sum();
            assert!(series <= 5 * (BY_MACRO.len() + 3));
            times += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_count_is_exact() {
    quiet_panics();
    let metrics = Metrics::from(Install::new(PrometheusBuilder::new()).install().unwrap());
    let renewing = ScopedRecorderLayer::new()
        .revalidate_after(Duration::from_millis(100))
        .wrap(PrometheusBuilder::new().build_recorder());
    let renewing_metrics = Metrics::from(&renewing);

    let (listener, server, binding) = dual_stack();
    let scopes = ClientScopes::new(binding);
    let [inet, mapped, inet6, unknown] =
        [0, 1, 2, 3].map(|class| scopes.for_client(ClientLabels::ALL[class]));
    let stage = Stage {
        scopes: [inet, mapped, inet6, unknown, Scope::none()],
        kept: counter!("kept_total"),
        renewing_kept: with_local_recorder(&renewing, || counter!("renewing_kept_total")),
        renewing,
    };
    assert!(STAGE.set(stage).is_ok());

    let app = Router::new()
        .route("/", get(handler))
        .layer(ClientLabelsLayer::new(binding));
    let (shut_down, shutting_down) = oneshot::channel::<()>();
    let serving = app.clone().into_make_service_with_connect_info::<SocketAddr>();
    let serving = tokio::spawn(async move {
        axum::serve(listener, serving)
            .with_graceful_shutdown(async { drop(shutting_down.await) })
            .await
    });

    let hosts = loopbacks();
    let mut clients = JoinSet::new();
    for n in 0..CONNECTIONS {
        let host = hosts[usize::try_from(n / 2).unwrap() % hosts.len()];
        clients.spawn(over_a_connection(server, host, n));
    }
    for n in 0..IN_PROCESS {
        clients.spawn(in_process(app.clone(), n));
    }
    let scraper = tokio::task::spawn_blocking(scrape_meanwhile([metrics.clone(), renewing_metrics.clone()]));

    let mut panicked = 0;
    while let Some(client) = clients.join_next().await {
        if let Err(error) = client {
            let panic = error.into_panic();
            assert_eq!(message_of(&*panic), Some(ON_PURPOSE));
            panicked += 1;
        }
    }
    drop(shut_down);
    serving.await.unwrap().unwrap();
    soon("handlers, bodies and children are finished", || {
        LIVE.load(Ordering::SeqCst) == 0
    })
    .await;
    scraper.await.unwrap();

    assert_eq!(WRONG_SCOPES.load(Ordering::SeqCst), 0);
    assert!(panicked > 100, "{panicked}");
    let of = |tally: &Tally| tally.counts.each_ref().map(|count| count.load(Ordering::Relaxed));
    let tallies = || BY_MACRO.iter().copied().chain([&KEPT]);
    for tally in tallies() {
        let counts = of(tally);
        assert!(
            counts[..4].iter().all(|&count| count > 10),
            "{} {counts:?}",
            tally.name
        );
    }
    metrics.assert(tallies().flat_map(|tally| tally.expected(server)));
    renewing_metrics.assert([RENEWING.expected(server), RENEWING_KEPT.expected(server)].concat());
    // Each handler that began was dropped, and some did not finish.
    assert_eq!(of(&BEGUN), of(&DROPPED));
    assert!(of(&ENDED).iter().sum::<u64>() + 500 < of(&BEGUN).iter().sum());
}

/// Many scopes, and handles that expire all the time, on several threads.
#[test]
fn kept_handles_in_many_scopes() {
    const THREADS: u64 = 4;
    const INCREMENTS: u64 = 40_000;

    let all: Vec<_> = (1..=30)
        .flat_map(|port| {
            let server = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
            let scopes = ClientScopes::new(ServerBinding::new(Protocol::Http, server));
            [INET, MAPPED, INET6, UNKNOWN]
                .into_iter()
                .zip(ClientLabels::ALL)
                .map(move |(seen, client)| (scopes.for_client(client), seven("http", server, seen)))
        })
        .chain([(Scope::none(), Labels::new())])
        .collect();

    for layer in [
        ScopedRecorderLayer::new(),
        ScopedRecorderLayer::new().never_revalidate(),
        ScopedRecorderLayer::new().revalidate_after(Duration::from_nanos(1)),
        ScopedRecorderLayer::new().revalidate_after(Duration::from_millis(30)),
        ScopedRecorderLayer::new().revalidate_after(Duration::from_millis(100)),
        ScopedRecorderLayer::new().without_cache(),
    ] {
        let shown = format!("{layer:?}");
        let recorder = layer.wrap(PrometheusBuilder::new().build_recorder());
        let metrics = Metrics::from(&recorder);
        let kept = with_local_recorder(&recorder, || counter!("kept_total"));
        let expected: Arc<Vec<_>> = Arc::new(all.iter().map(|_| AtomicU64::new(0)).collect());
        std::thread::scope(|threads| {
            for thread in 0..THREADS {
                let (kept, recorder, all, expected) = (kept.clone(), &recorder, &all, Arc::clone(&expected));
                threads.spawn(move || {
                    let mut random = Random(thread);
                    for n in 0..INCREMENTS {
                        // A few are used much more than the others.
                        let many = if n % 16 == 0 { all.len() } else { 6 };
                        let at = usize::try_from(random.below(many as u64)).unwrap();
                        expected[at].fetch_add(1, Ordering::Relaxed);
                        all[at].0.run(|| {
                            if n % 3 == 0 {
                                with_local_recorder(recorder, || counter!("kept_total").increment(1));
                            } else {
                                kept.increment(1);
                            }
                        });
                    }
                });
            }
        });
        let expected = all
            .iter()
            .zip(&*expected)
            .map(|((_, labels), count)| sample("kept_total", labels, count.load(Ordering::Relaxed)));
        let result = panic::catch_unwind(|| metrics.assert(expected));
        assert!(result.is_ok(), "{shown}");
    }
}
