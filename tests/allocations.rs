//! Heap allocations after warming up: none for an increment, a request or a datagram; and memory that stays flat.

use std::{
    convert::Infallible,
    future::ready,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    thread,
    time::Duration,
};

use allocation_counter::measure;
use dualstack_metrics::{
    ClientLabels, ClientLabelsLayer, ClientScopes, Datagram, Protocol, Scope, ScopedRecorderLayer,
    ServerBinding, SocketOptions, UdpServer, prometheus::Install, recorder::CACHED_HANDLES,
};
use futures_util::FutureExt as _;
use metrics::{Key, Level, Metadata, NoopRecorder, Recorder as _, counter, histogram, with_local_recorder};
use metrics_exporter_prometheus::PrometheusBuilder;
use metrics_util::layers::Layer as _;
use tokio::sync::oneshot;
use tower::{Layer as _, Service as _, service_fn};

fn binding() -> ServerBinding {
    ServerBinding::new(Protocol::Http, "[::]:7070".parse().unwrap())
}

/// Allocations of a thousand calls, when a hundred were made before.
fn allocations(mut f: impl FnMut()) -> u64 {
    for _ in 0..100 {
        f();
    }
    measure(|| {
        for _ in 0..1_000 {
            f();
        }
    })
    .count_total
}

#[test]
fn an_increment_allocates_nothing() {
    let recorder = Install::new(PrometheusBuilder::new())
        .recorder(ScopedRecorderLayer::new().histograms().exclude("excluded_total"))
        .build_recorder();
    let scopes = ClientScopes::new(binding());
    with_local_recorder(&recorder, || {
        let kept = counter!("kept_total");
        let (kept_histogram, inner) = (histogram!("h"), Scope::new(&ClientLabels::UNKNOWN));
        for scope in ClientLabels::ALL
            .iter()
            .map(|client| scopes.for_client(client))
            .chain([Scope::none()])
        {
            scope.run(|| {
                assert_eq!(allocations(|| counter!("macro_total").increment(1)), 0);
                assert_eq!(
                    allocations(|| counter!("macro_total", "kind" => "a").increment(1)),
                    0
                );
                assert_eq!(allocations(|| kept.increment(1)), 0);
                assert_eq!(allocations(|| _ = Scope::current().nest(inner)), 0);
                assert_eq!(allocations(|| scope.nest(inner).run(|| kept.increment(1))), 0);
            });
        }
        // The exporter itself allocates a block for so many values.
        assert!(scopes.server().run(|| allocations(|| kept_histogram.record(1.0))) < 20);
    });

    // The exporter allocates a handle at each registration, and an excluded name is its own affair.
    let bare = PrometheusBuilder::new().build_recorder();
    let excluded = || counter!("excluded_total").increment(1);
    assert_eq!(
        with_local_recorder(&recorder, || allocations(excluded)),
        with_local_recorder(&bare, || allocations(excluded))
    );
}

#[test]
fn a_request_allocates_nothing() {
    let peer: SocketAddr = "[::ffff:192.0.2.7]:1".parse().unwrap();
    let inner =
        service_fn(|_: http::Request<()>| ready(Ok::<_, Infallible>(http::Response::new(String::new()))));
    let layer = ClientLabelsLayer::new(binding()).source(peer);
    let (mut with_body, mut without_body) = (layer.layer(inner), layer.without_body().layer(inner));
    assert_eq!(
        allocations(|| drop(with_body.call(http::Request::new(())).now_or_never())),
        0
    );
    assert_eq!(
        allocations(|| drop(without_body.call(http::Request::new(())).now_or_never())),
        0
    );
}

/// Allocations of a server's thread while it answers so many datagrams.
fn allocations_for(datagrams: u32) -> u64 {
    let recorder = Install::new(PrometheusBuilder::new()).build_recorder();
    let _recorder = metrics::set_default_local_recorder(&recorder);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _entered = runtime.enter();
    let socket = SocketOptions::dual_stack()
        .bind_udp("[::]:0".parse().unwrap())
        .unwrap();
    let server = UdpServer::new(socket).unwrap();
    let port = server.local_addr().port();
    let (stop, stopped) = oneshot::channel::<()>();
    let client = thread::spawn(move || {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut buffer = [0; 256];
        for _ in 0..datagrams {
            socket.send(&[7; 98]).unwrap();
            assert_eq!(socket.recv(&mut buffer).unwrap(), 98);
        }
        stop.send(()).unwrap();
    });
    let service = service_fn(|datagram: Datagram| {
        counter!("handled_total").increment(1);
        ready(Ok::<_, Infallible>(Some(datagram.into_payload())))
    });
    let serve = server
        .serve(service)
        .with_graceful_shutdown(async { stopped.await.unwrap() });
    let info = measure(|| runtime.block_on(serve).unwrap());
    client.join().unwrap();
    info.count_total
}

#[test]
fn a_datagram_whose_handler_is_ready_allocates_nothing() {
    allocations_for(1);
    // Starting and stopping takes some, one more or less by chance; 5,000 datagrams more take none.
    let (few, many) = (allocations_for(200), allocations_for(5_200));
    assert!(many < few + 10, "{few}, then {many}");
}

#[test]
fn dynamic_names_do_not_make_the_cache_grow() {
    static METADATA: Metadata<'static> = Metadata::new("", Level::INFO, None);

    let recorder = ScopedRecorderLayer::new().layer(NoopRecorder);
    let scope = ClientScopes::new(binding()).for_client(ClientLabels::UNKNOWN);
    let use_names = |names: std::ops::Range<u32>| {
        measure(|| {
            for name in names {
                let key = Key::from_name(format!("dynamic_{name:06}_total"));
                scope.run(|| recorder.register_counter(&key, &METADATA).increment(1));
            }
        })
        .bytes_current
    };
    let filled = use_names(0..20_000);
    assert!(filled > 0);
    let more = use_names(20_000..100_000);
    // Every place is taken, and a handle is as large as any other.
    assert!(
        more.unsigned_abs() < 1_000,
        "{more} bytes more than the {filled} of {CACHED_HANDLES} handles"
    );
}
