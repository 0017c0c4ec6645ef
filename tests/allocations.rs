//! Heap allocations after warming up: none for an increment, a request or a datagram; and memory that stays flat.

use std::{
    convert::Infallible,
    future::ready,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use allocation_counter::measure;
#[cfg(feature = "proxy")]
use dualstack_metrics::client::ClientSource as _;
use dualstack_metrics::{
    ClientLabels, ClientLabelsLayer, ClientScopes, Datagram, PropagateScopeLayer, Protocol, Scope,
    ScopedRecorderLayer, ServerBinding, SocketOptions, UdpServer, prometheus::Install,
};
use futures_util::FutureExt as _;
use metrics::{Key, Level, Metadata, NoopRecorder, Recorder as _, counter, histogram, with_local_recorder};
use metrics_exporter_prometheus::PrometheusBuilder;
use test_support::numbered;
use tokio::sync::oneshot;
use tower::{Layer as _, Service as _, layer::util::Identity, service_fn};

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
        let all: Vec<_> = ClientLabels::ALL
            .iter()
            .map(|client| scopes.for_client(*client))
            .chain([Scope::none()])
            .collect();
        // A metric is registered again once, 250 ms after its first use.
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(300) {
            for scope in &all {
                scope.run(|| {
                    counter!("macro_total").increment(1);
                    counter!("macro_total", "kind" => "a").increment(1);
                    kept.increment(1);
                });
                scope.with(&inner).run(|| kept.increment(1));
            }
            scopes.server().run(|| kept_histogram.record(1.0));
        }
        for scope in all {
            scope.run(|| {
                assert_eq!(allocations(|| counter!("macro_total").increment(1)), 0);
                assert_eq!(
                    allocations(|| counter!("macro_total", "kind" => "a").increment(1)),
                    0
                );
                assert_eq!(allocations(|| kept.increment(1)), 0);
                assert_eq!(allocations(|| _ = Scope::current().with(&inner)), 0);
                assert_eq!(allocations(|| scope.with(&inner).run(|| kept.increment(1))), 0);
            });
        }
        // The exporter itself allocates a block for so many values.
        assert!(scopes.server().run(|| allocations(|| kept_histogram.record(1.0))) < 20);
    });

    // The exporter allocates at each registration. An excluded name allocates nothing on top.
    let bare = PrometheusBuilder::new().build_recorder();
    let excluded = || counter!("excluded_total").increment(1);
    assert_eq!(
        with_local_recorder(&recorder, || allocations(excluded)),
        with_local_recorder(&bare, || allocations(excluded))
    );
}

#[cfg(feature = "proxy")]
#[test]
fn an_address_from_a_header_allocates_nothing() {
    let proxies = dualstack_metrics::TrustedProxies::new(["10.0.0.0/8", "::1"]).unwrap();
    let peer: SocketAddr = "[::ffff:10.0.0.1]:1".parse().unwrap();
    for (name, value) in [
        ("x-forwarded-for", "203.0.113.9, [2001:db8::7]:50000, 10.0.0.2"),
        (
            "forwarded",
            "for=203.0.113.9, for=\"[2001:db8::7]:50000\";proto=https",
        ),
        ("x-real-ip", "2001:db8::7"),
    ] {
        let source = proxies.header(name).peer(peer);
        let request = http::Request::get("/").header(name, value).body(()).unwrap();
        assert_eq!(allocations(|| _ = source.clone().client(&request)), 0, "{name}");
        assert_eq!(source.client(&request).unwrap().class().pairs()[0].1, "inet6");
    }
}

#[test]
fn a_request_allocates_nothing() {
    let peer: SocketAddr = "[::ffff:192.0.2.7]:1".parse().unwrap();
    let inner =
        service_fn(|_: http::Request<()>| ready(Ok::<_, Infallible>(http::Response::new(String::new()))));
    let layer = ClientLabelsLayer::new(binding()).source(peer);
    let (mut with_body, mut without_body) = (layer.layer(inner), layer.without_body().layer(inner));
    let mut propagated = layer.layer(PropagateScopeLayer::new(Identity::new()).layer(inner));
    assert_eq!(
        allocations(|| drop(with_body.call(http::Request::new(())).now_or_never())),
        0
    );
    assert_eq!(
        allocations(|| drop(without_body.call(http::Request::new(())).now_or_never())),
        0
    );
    assert_eq!(
        allocations(|| drop(propagated.call(http::Request::new(())).now_or_never())),
        0
    );
}

/// Allocations of a server's thread while it answers so many datagrams of a size, `window` at a time.
fn allocations_for(datagrams: usize, size: usize, window: usize) -> u64 {
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
        let mut buffer = [0; 2_000];
        for _ in 0..datagrams / window {
            for _ in 0..window {
                socket.send(&vec![7; size]).unwrap();
            }
            for _ in 0..window {
                assert_eq!(socket.recv(&mut buffer).unwrap(), size);
            }
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
    allocations_for(1, 98, 1);
    // Starting and stopping takes some, a few more or less by chance; 5,000 datagrams more take none.
    for (size, window) in [(98, 1), (98, 40), (1_000, 40)] {
        let (few, many) = (
            allocations_for(200, size, window),
            allocations_for(5_200, size, window),
        );
        assert!(many < few + 50, "{few}, then {many}: {window} of {size} bytes");
    }
}

/// Bytes that are allocated during `f` and not freed.
fn bytes(f: impl FnOnce()) -> u64 {
    measure(f).bytes_current.try_into().unwrap_or(0)
}

#[test]
fn dynamic_names_and_modules_do_not_make_the_cache_grow() {
    let recorder = ScopedRecorderLayer::new().wrap(NoopRecorder);
    let scope = ClientScopes::new(binding()).for_client(ClientLabels::UNKNOWN);
    let use_names = |names: std::ops::Range<u32>| {
        bytes(|| {
            for name in names {
                let key = Key::from_name(format!("dynamic_{name:06}_total"));
                let module = format!("module_{name:06}");
                let metadata = Metadata::new(&module, Level::INFO, None);
                scope.run(|| recorder.register_counter(&key, &metadata).increment(1));
            }
        })
    };
    let filled = use_names(0..20_000);
    assert!(filled > 0);
    // Every place is taken, and each handle has the same size.
    let more = use_names(20_000..100_000);
    assert!(more < 1_000, "{more} bytes more than {filled}");
}

#[test]
fn the_memory_of_a_handle_is_proportional_to_the_scopes_it_is_used_in() {
    static METADATA: Metadata<'static> = Metadata::new("", Level::INFO, None);

    let scopes: Vec<_> = (0..1_000).map(numbered).collect();
    let recorder = ScopedRecorderLayer::new().never_revalidate().wrap(NoopRecorder);
    // The cache itself.
    let _ = recorder.register_counter(&Key::from_static_name("first_total"), &METADATA);
    let of = |name, scopes: &[Scope]| {
        bytes(|| {
            let kept = recorder.register_counter(&Key::from_static_name(name), &METADATA);
            for scope in scopes {
                scope.run(|| kept.increment(1));
            }
        })
    };
    for (name, count, limit) in [
        ("one_total", 1, 1_200),
        ("five_total", 5, 1_600),
        ("hundred_total", 100, 8_000),
        ("thousand_total", 1_000, 60_000),
    ] {
        let bytes = of(name, &scopes[..count]);
        assert!((1..limit).contains(&bytes), "{bytes} bytes for {count} scopes");
    }
}
