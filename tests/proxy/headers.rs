//! Requests as a proxy might pass them on, without a proxy.

use axum::{Router, body::Body, extract::ConnectInfo, routing::get};
use dualstack_metrics::{
    ClientLabels, ClientLabelsLayer, ClientScopes, Nat64Prefix, Protocol, Scope, ServerBinding,
    TrustedProxies,
    client::{Client, ClientConnectInfo},
    proxy::{Fallback, HeaderSource},
};
use futures_util::FutureExt as _;
use http::{HeaderName, Request};
use std::net::SocketAddr;
use test_support::{INET, INET6, Log, MAPPED, Seen, UNKNOWN, recorded, rejected};
use tower::ServiceExt as _;

use super::trusting;

const PROXY: &str = "[::ffff:10.0.0.1]:50000";

fn layer(source: HeaderSource) -> ClientLabelsLayer<HeaderSource> {
    let binding = ServerBinding::new(Protocol::Http, "[::]:7070".parse().unwrap());
    ClientLabelsLayer::new(binding).source(source)
}

/// The labels of the client of a request.
fn ask<Src>(layer: ClientLabelsLayer<Src>, request: Request<Body>) -> Seen
where
    Src: dualstack_metrics::client::ClientSource<Request<Body>> + Clone + Send + Sync + 'static,
{
    let seen = || {
        let value = |name| Scope::current().value_of(name).unwrap();
        let seen = [value("client_address_ip_family"), value("client_address_ip_type")];
        std::future::ready(seen.join(" "))
    };
    let app = Router::new().route("/", get(seen)).layer(layer);
    let response = app.oneshot(request).now_or_never().unwrap().unwrap();
    let body = axum::body::to_bytes(response.into_body(), 100);
    let body = body.now_or_never().unwrap().unwrap();
    let all = [INET, MAPPED, INET6, UNKNOWN, ("inet", "nat64")];
    let is_body = |&(family, ip_type): &Seen| body == format!("{family} {ip_type}").as_bytes();
    all.into_iter().find(is_body).unwrap()
}

fn request(peer: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let peer: SocketAddr = peer.parse().unwrap();
    let request = headers.iter().fold(Request::get("/"), |request, &(name, value)| {
        request.header(name.parse::<HeaderName>().unwrap(), value)
    });
    request.extension(ConnectInfo(peer)).body(Body::empty()).unwrap()
}

pub(super) fn seen(source: HeaderSource, peer: &str, headers: &[(&str, &str)]) -> Seen {
    ask(layer(source), request(peer, headers))
}

fn proxies() -> TrustedProxies {
    trusting(&["10.0.0.0/8", "::1"])
}

#[test]
fn the_client_is_the_first_hop_from_the_right_that_is_not_trusted() {
    recorded(async |metrics| {
        for (lines, expected) in [
            (&["192.0.2.7"][..], INET),
            (&["2001:db8::7"], INET6),
            (&["::ffff:192.0.2.7"], MAPPED),
            (&["[2001:db8::7]:50000"], INET6),
            (&["\"192.0.2.7:50000\""], INET),
            (&["2001:db8::1, 192.0.2.7"], INET),
            (&["192.0.2.1, 2001:db8::7"], INET6),
            // Elements to the left of the client are not read.
            (&["nonsense, 192.0.2.7"], INET),
            (&["2001:db8::1,, \", 192.0.2.7 ,"], INET),
            // Proxies in a row, in each form of their addresses.
            (
                &["2001:db8::1, 192.0.2.7, 10.0.0.2, ::ffff:10.0.0.3, [::1]:80"],
                INET,
            ),
            // HAProxy adds a line, and the client has written the first.
            (&["2001:db8::1", "192.0.2.7"], INET),
            (
                &["2001:db8::1, 192.0.2.1", "192.0.2.7, 10.0.0.2", "10.0.0.3"],
                INET,
            ),
            (&["192.0.2.7", ""], INET),
            // Everybody is trusted: the client is inside.
            (&["10.0.0.9, ::1"], INET),
            (&["::1", "10.0.0.9"], INET6),
        ] {
            let headers: Vec<_> = lines.iter().map(|&line| ("x-forwarded-for", line)).collect();
            assert_eq!(
                seen(proxies().x_forwarded_for(), PROXY, &headers),
                expected,
                "{lines:?}"
            );
            assert_eq!(
                seen(proxies().header("X-Forwarded-For"), PROXY, &headers),
                expected
            );
        }
        metrics.assert([""; 0]);
    });
}

#[test]
fn forwarded_is_read_in_the_same_way() {
    recorded(async |metrics| {
        for (lines, expected) in [
            (&["for=192.0.2.7"][..], INET),
            (&["for=\"[2001:db8::7]:50000\";proto=https;by=_x"], INET6),
            (&["For=\"[::ffff:192.0.2.7]\""], MAPPED),
            (&["for=2001:db8::1, for=192.0.2.7;host=\"a, b\""], INET),
            (&["for=\"2001:db8::1, for=192.0.2.7"], INET),
            (
                &[
                    "for=\"[2001:db8::1]\"",
                    "for=192.0.2.7, for=10.0.0.2",
                    "for=\"[::1]\";by=10.0.0.1",
                ],
                INET,
            ),
            (&["for=_hidden, for=192.0.2.7"], INET),
        ] {
            let headers: Vec<_> = lines.iter().map(|&line| ("forwarded", line)).collect();
            assert_eq!(
                seen(proxies().forwarded(), PROXY, &headers),
                expected,
                "{lines:?}"
            );
            assert_eq!(seen(proxies().header("forwarded"), PROXY, &headers), expected);
        }
        metrics.assert([""; 0]);
    });
}

#[test]
fn with_hops_the_client_is_counted_from_the_right() {
    recorded(async |metrics| {
        // Proxies are not skipped, and the other hops are not read.
        let lines = [
            "nonsense, 2001:db8::1",
            "::ffff:192.0.2.7,, 10.0.0.2",
            "2001:db8::7, nonsense",
        ];
        let headers = lines.map(|line| ("x-forwarded-for", line));
        let source = proxies().x_forwarded_for();
        for (hops, expected) in [(0, MAPPED), (2, INET6), (3, INET), (4, MAPPED), (5, INET6)] {
            assert_eq!(
                seen(source.clone().hops(hops), PROXY, &headers),
                expected,
                "{hops}"
            );
        }
        let forwarded = [(
            "forwarded",
            "for=192.0.2.1, for=\"[2001:db8::7]\";by=\"a, b\", for=_hidden",
        )];
        assert_eq!(seen(proxies().forwarded().hops(2), PROXY, &forwarded), INET6);
        let real_ip = [
            ("x-real-ip", "192.0.2.1"),
            ("x-real-ip", "192.0.2.1, 2001:db8::7"),
        ];
        assert_eq!(
            seen(proxies().header("x-real-ip").hops(1), PROXY, &real_ip),
            INET6
        );
        metrics.assert([""; 0]);
    });
}

#[test]
fn with_hops_nobody_else_is_believed_and_no_hop_is_invented() {
    let commas = ",".repeat(20_000);
    let log = Log::of_thread();
    recorded(async |metrics| {
        let source = proxies().x_forwarded_for().hops(2);
        let of = |peer, line| seen(source.clone(), peer, &[("x-forwarded-for", line)]);
        assert_eq!(of("[2001:db8::7]:1", "192.0.2.7, 192.0.2.7"), INET6);
        assert_eq!(of(PROXY, "2001:db8::7"), UNKNOWN);
        assert_eq!(of(PROXY, "localhost, 2001:db8::7"), UNKNOWN);
        assert_eq!(of(PROXY, &format!("2001:db8::7, {commas}")), UNKNOWN);
        let most = proxies().x_forwarded_for().hops(usize::MAX);
        assert_eq!(seen(most, PROXY, &[("x-forwarded-for", "2001:db8::7")]), UNKNOWN);
        metrics.assert([
            rejected("x-forwarded-for", "malformed", 1),
            rejected("x-forwarded-for", "missing", 2),
            rejected("x-forwarded-for", "oversized", 1),
            rejected("x-forwarded-for", "untrusted", 1),
        ]);
    });
    let advice = "the trusted proxy sent fewer than 2 addresses in `x-forwarded-for`; let `hops` be how many addresses your \
                  proxies add to each request source=x-forwarded-for reason=missing peer=10.0.0.1 unlogged=0";
    assert!(warnings(&log).iter().any(|warning| warning == advice), "{log:?}");
}

#[test]
fn one_address_is_read_from_each_header_that_has_one() {
    recorded(async |metrics| {
        for name in [
            "x-real-ip",
            "cf-connecting-ip",
            "true-client-ip",
            "fly-client-ip",
            "x-envoy-external-address",
        ] {
            for (value, expected) in [
                ("192.0.2.7", INET),
                ("2001:db8::7", INET6),
                ("::ffff:192.0.2.7", MAPPED),
                // The proxy says so, although it is trusted.
                ("10.0.0.9", INET),
            ] {
                assert_eq!(seen(proxies().header(name), PROXY, &[(name, value)]), expected);
            }
        }
        let name = "cloudfront-viewer-address";
        for (value, expected) in [
            ("192.0.2.7:50000", INET),
            ("2001:db8::7:50000", INET6),
            ("2001:db8:0:0:0:0:0:7:443", INET6),
        ] {
            assert_eq!(seen(proxies().header(name), PROXY, &[(name, value)]), expected);
        }
        metrics.assert([""; 0]);
    });
}

#[test]
fn a_peer_that_is_not_trusted_is_itself_the_client() {
    const FORGED: [(&str, &str); 4] = [
        ("x-forwarded-for", "10.0.0.1, 127.0.0.1"),
        ("forwarded", "for=127.0.0.1"),
        ("x-real-ip", "127.0.0.1"),
        ("cf-connecting-ip", "127.0.0.1"),
    ];
    recorded(async |metrics| {
        let mut expected = Vec::new();
        for (source, name) in [
            (proxies().x_forwarded_for(), "x-forwarded-for"),
            (proxies().forwarded(), "forwarded"),
            (proxies().header("x-real-ip"), "x-real-ip"),
            (
                TrustedProxies::default().header("cf-connecting-ip"),
                "cf-connecting-ip",
            ),
        ] {
            for (peer, class) in [
                ("192.0.2.7:1", INET),
                ("[::ffff:192.0.2.7]:1", MAPPED),
                ("[2001:db8::7]:1", INET6),
                ("[::ffff:127.0.0.1]:1", MAPPED),
            ] {
                for fallback in [Fallback::Peer, Fallback::Unknown] {
                    assert_eq!(seen(source.clone().fallback(fallback), peer, &FORGED), class);
                    assert_eq!(seen(source.clone(), peer, &[]), class);
                }
            }
            // Without the header there is nothing to reject.
            expected.push(rejected(name, "untrusted", 8));
        }
        metrics.assert(expected);
    });
}

#[test]
fn an_unusable_header_is_counted_and_answered_by_the_fallback() {
    let long = ",".repeat(20_000);
    let long_hop = "x".repeat(5_000);
    let long_node = format!("for=\"_{long_hop}\"");
    let x_forwarded_for: &[(&[&str], &str)] = &[
        (&[], "missing"),
        (&["", ","], "missing"),
        (&["\"\""], "missing"),
        (&["localhost"], "malformed"),
        (&["192.0.2.7, localhost"], "malformed"),
        (&["192.0.2.7, localhost, 10.0.0.2"], "malformed"),
        (&["192.0.2.7", &long], "oversized"),
        (&["192.0.2.7", &long_hop], "oversized"),
        (&["192.0.2.7, unknown"], "unknown"),
        (&["_hidden"], "obfuscated"),
    ];
    let forwarded: &[(&[&str], &str)] = &[
        (&[], "missing"),
        (&["proto=https"], "missing"),
        (&["192.0.2.7"], "malformed"),
        (&["for=192.0.2.7, for=\"192.0.2.8"], "malformed"),
        (&["for=192.0.2.7", &long], "oversized"),
        (&["for=192.0.2.7", &long_node], "oversized"),
        (&["for=192.0.2.7;for=192.0.2.7"], "contradictory"),
        (&["for=unknown"], "unknown"),
        (&["for=\"_hidden\""], "obfuscated"),
    ];
    let x_real_ip: &[(&[&str], &str)] = &[
        (&[], "missing"),
        (&[""], "missing"),
        (&["localhost"], "malformed"),
        (&["192.0.2.7", "192.0.2.7"], "contradictory"),
        (&["192.0.2.7, 192.0.2.7"], "contradictory"),
        (
            &[
                "[2001:db8:1234:1234:1234:1234:1234:1234]:50000, [2001:db8:1234:1234:1234:1234:1234:1234]:50000",
            ],
            "contradictory",
        ),
        (&[&long_hop], "oversized"),
        (&["unknown"], "unknown"),
    ];
    for (name, cases) in [
        ("x-forwarded-for", x_forwarded_for),
        ("forwarded", forwarded),
        ("x-real-ip", x_real_ip),
    ] {
        for &(lines, reason) in cases {
            recorded(async |metrics| {
                let headers: Vec<_> = lines.iter().map(|&line| (name, line)).collect();
                let source = proxies().header(name);
                let (unknown, peer) = (source.clone(), source.fallback(Fallback::Peer));
                assert_eq!(seen(unknown, PROXY, &headers), UNKNOWN, "{name} {reason}");
                assert_eq!(seen(peer, PROXY, &headers), MAPPED, "{name} {reason}");
                metrics.assert([rejected(name, reason, 2)]);
            });
        }
    }
}

/// The warnings about rejected addresses, without their common start.
fn warnings(log: &Log) -> Vec<String> {
    const START: &str = "WARN dualstack_metrics::proxy::rejection: the address of a client was not used: ";

    let lines = log.lines();
    let warnings = lines.iter().filter_map(|line| line.strip_prefix(START));
    warnings.map(str::to_owned).collect()
}

#[test]
fn the_warning_is_not_repeated() {
    let log = Log::of_thread();
    recorded(async |_| {
        let source = proxies().header("x-real-ip");
        for _ in 0..100 {
            seen(source.clone(), PROXY, &[]);
            seen(source.clone(), "[2001:db8::7]:1", &[("x-real-ip", "192.0.2.7")]);
        }
    });
    assert_eq!(
        warnings(&log),
        [
            "the trusted proxy sent no address in `x-real-ip`; let the proxy set it, or read the header that the proxy sets \
             source=x-real-ip reason=missing peer=10.0.0.1 unlogged=0",
            "the peer sent `x-real-ip`, but is not a trusted proxy; if it is your proxy, add its address to \
             `TrustedProxies` source=x-real-ip reason=untrusted peer=2001:db8::7 unlogged=0",
        ]
    );
}

/// A health check has no header. With `Fallback::Peer` that has a limit of its own, which is never over.
#[test]
fn a_health_check_is_counted_and_logged_once() {
    let log = Log::of_thread();
    recorded(async |metrics| {
        let source = proxies().x_forwarded_for();
        for _ in 0..3 {
            assert_eq!(seen(source.clone(), PROXY, &[]), UNKNOWN);
            assert_eq!(seen(source.clone().fallback(Fallback::Peer), PROXY, &[]), MAPPED);
        }
        metrics.assert([rejected("x-forwarded-for", "missing", 6)]);
    });
    let advice = "the trusted proxy sent no address in `x-forwarded-for`; let the proxy set it";
    assert_eq!(
        warnings(&log)
            .iter()
            .filter(|warning| warning.starts_with(advice))
            .count(),
        2
    );
}

#[test]
fn the_warning_fits_the_configuration() {
    let overlong = "x".repeat(100);
    for (name, value, expected) in [
        (
            "forwarded",
            "for=::1;for=::1",
            "two `for` in one element of `forwarded`; let the proxy write one",
        ),
        (
            "x-real-ip",
            "::1, ::1",
            "several addresses in `x-real-ip`; let the proxy replace the value of the client, and not add to it",
        ),
        (
            "x-forwarded-for",
            &overlong,
            "an element that is longer than an address, or more than 8 KiB of trusted hops, in `x-forwarded-for`; let \
             the proxy write addresses, and trust no network with clients in it",
        ),
        (
            "x-real-ip",
            &overlong,
            "more than an address in `x-real-ip`; let the proxy replace the value of the client",
        ),
        (
            "x-forwarded-for",
            "unknown",
            "`x-forwarded-for` without the address, because it hides it or does not know it; let the proxy write the \
             address, or read another header",
        ),
        (
            "forwarded",
            "for=_hidden",
            "`forwarded` without the address, because it hides it or does not know it; let the proxy write the address, \
             or read another header",
        ),
        (
            "true-client-ip",
            "localhost",
            "a `true-client-ip` that is no address; let the proxy write the address of its peer there, or read another \
             header",
        ),
        (
            "cloudfront-viewer-address",
            "192.0.2.7",
            "a `cloudfront-viewer-address` that is no address with a port; let the proxy write the address of its peer \
             there, or read another header",
        ),
    ] {
        let log = Log::of_thread();
        recorded(async |_| assert_eq!(seen(proxies().header(name), PROXY, &[(name, value)]), UNKNOWN));
        let warnings = warnings(&log);
        let (advice, _) = warnings[0].split_once(" source=").unwrap();
        assert_eq!(advice, format!("the trusted proxy sent {expected}"));
        assert_eq!(warnings.len(), 1);
    }
}

#[test]
fn a_peer_of_whom_only_the_class_is_known_is_not_trusted() {
    let log = Log::of_thread();
    recorded(async |metrics| {
        let mut request = request(PROXY, &[("x-forwarded-for", "2001:db8::7")]);
        request
            .extensions_mut()
            .insert(ClientLabels::from_ip("192.0.2.7".parse().unwrap()));
        let everybody = trusting(&["0.0.0.0/0", "::/0", "unix:"]);
        assert_eq!(ask(layer(everybody.x_forwarded_for()), request), INET);
        metrics.assert([rejected("x-forwarded-for", "untrusted", 1)]);
    });
    assert_eq!(
        warnings(&log),
        [
            "the peer sent `x-forwarded-for`, but only its class is known, so it cannot be a trusted proxy \
             source=x-forwarded-for reason=untrusted unlogged=0"
        ]
    );
}

#[test]
fn a_peer_on_a_unix_socket_is_trusted_if_the_list_says_so() {
    let request = |headers: &[(&str, &str)]| {
        let mut request = request(PROXY, headers);
        request.extensions_mut().clear();
        let info = ClientConnectInfo::direct(None);
        request.extensions_mut().insert(ConnectInfo(info));
        request
    };
    let headers = [("x-forwarded-for", "2001:db8::7")];
    let log = Log::of_thread();
    recorded(async |metrics| {
        let trusted = trusting(&["unix:"]).x_forwarded_for();
        assert_eq!(ask(layer(trusted.clone()), request(&headers)), INET6);
        assert_eq!(ask(layer(trusted.clone()), request(&[])), UNKNOWN);
        let named = trusted.peer(Client::UNIX);
        let binding = ServerBinding::unix(Protocol::Http);
        let named = ClientLabelsLayer::new(binding).source(named);
        assert_eq!(
            ask(
                named,
                Request::get("/")
                    .header("x-forwarded-for", "192.0.2.7")
                    .body(Body::empty())
                    .unwrap()
            ),
            INET
        );

        let untrusted = trusting(&["0.0.0.0/0", "::/0"]).x_forwarded_for();
        let binding = ServerBinding::unix(Protocol::Https);
        let untrusted = ClientLabelsLayer::new(binding).source(untrusted);
        assert_eq!(ask(untrusted, request(&headers)), UNKNOWN);
        metrics.assert([
            rejected("x-forwarded-for", "missing", 1),
            rejected("x-forwarded-for", "untrusted", 1),
        ]);
    });
    let advice = "the peer is on a Unix socket, which is not trusted: add \"unix:\" to `TrustedProxies` if only your \
                  proxy can connect to it";
    assert_eq!(log.count(advice), 1, "{log:?}");
    assert_eq!(
        warnings(&log).pop().unwrap(),
        "the peer on a Unix socket sent `x-forwarded-for`, but is not trusted; if only your proxy can connect to the \
         socket, add \"unix:\" to `TrustedProxies` source=x-forwarded-for reason=untrusted unlogged=0"
    );
}

#[test]
fn without_connect_info_the_warning_says_which_line_is_missing() {
    let log = Log::of_thread();
    recorded(async |_| {
        let binding = ServerBinding::new(Protocol::Https, "[::]:7071".parse().unwrap());
        let layer = ClientLabelsLayer::new(binding).source(proxies().forwarded());
        let request = Request::get("/").header("forwarded", "for=192.0.2.7");
        assert_eq!(ask(layer, request.body(Body::empty()).unwrap()), UNKNOWN);
    });
    let advice = "`forwarded` is only read if the peer is known: serve an axum router with \
                  `into_make_service_with_connect_info::<SocketAddr>()`; for axum 0.7";
    assert_eq!(log.count(advice), 1, "{log:?}");
}

#[test]
fn another_version_of_axum_names_the_peer() {
    recorded(async |_| {
        #[derive(Clone)]
        struct Other(SocketAddr);

        let peer = |request: &Request<Body>| request.extensions().get::<Other>().map(|other| other.0);
        let layer = ClientLabelsLayer::new(ServerBinding::new(Protocol::Http, "[::]:7070".parse().unwrap()))
            .source(proxies().x_forwarded_for().peer(peer));
        let request = Request::get("/")
            .header("x-forwarded-for", "2001:db8::7")
            .extension(Other(PROXY.parse().unwrap()));
        assert_eq!(ask(layer, request.body(Body::empty()).unwrap()), INET6);
    });
}

#[test]
fn a_translated_client_is_an_ipv4_client_also_in_a_header() {
    recorded(async |_| {
        let scopes = ClientScopes::builder()
            .nat64(Nat64Prefix::WELL_KNOWN)
            .build()
            .unwrap();
        let header = ClientLabelsLayer::from_scopes(scopes).source(proxies().x_forwarded_for());
        let translated = ("x-forwarded-for", "64:ff9b::192.0.2.7");
        assert_eq!(
            ask(header.clone(), request(PROXY, &[translated])),
            ("inet", "nat64")
        );
        assert_eq!(
            ask(header, request("[64:ff9b::192.0.2.7]:1", &[])),
            ("inet", "nat64")
        );
        let direct = ClientLabelsLayer::from_scopes(scopes);
        assert_eq!(
            ask(direct, request("[64:ff9b::192.0.2.7]:1", &[])),
            ("inet", "nat64")
        );
        assert_eq!(ask(direct, request("[2001:db8::7]:1", &[])), INET6);
        assert_eq!(seen(proxies().x_forwarded_for(), PROXY, &[translated]), INET6);
    });
}

#[test]
#[should_panic = "the argument of `TrustedProxies::header` is not the name of a header"]
fn what_is_not_the_name_of_a_header_is_refused_at_once() {
    let _ = proxies().header("x real ip");
}
