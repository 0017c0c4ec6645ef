//! A million clients make three series. It runs in its own process, because it counts label sets.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use axum::extract::ConnectInfo;
use dualstack_metrics::{ClientLabels, ClientLabelsLayer, Protocol, ServerBinding, scope::label_sets};
use http::{Request, Response};
use http_body_util::Empty;
use metrics::counter;
use test_support::{INET, INET6, MAPPED, Random, and, recorded, sample, seven};
use tower::{Layer, Service, service_fn};

const CLIENTS: usize = 1_000_000;

/// A random address and its class: 0 for IPv4, 1 for mapped, 2 for IPv6.
fn address(random: &mut Random) -> (IpAddr, usize) {
    let bits = (u128::from(random.next()) << 64) | u128::from(random.next());
    let v4 = Ipv4Addr::from_bits(u32::try_from(bits >> 96).unwrap());
    let low = |prefix: u128| Ipv6Addr::from_bits(prefix | u128::from(v4.to_bits()));
    match random.below(12) {
        0..=2 => (v4.into(), 0),
        // Written out, because the crate may use the function of std.
        3..=5 => (low(0xffff << 32).into(), 1),
        6 => (Ipv6Addr::from_bits(0x2001_0db8 << 96 | bits >> 32).into(), 2),
        // Link-local, unique local, multicast
        7 => {
            let prefix = [0xfe80_u128, 0xfd00, 0xff02][usize::try_from(random.below(3)).unwrap()];
            (Ipv6Addr::from_bits(prefix << 112 | bits >> 64).into(), 2)
        }
        // IPv4-compatible, deprecated; `::` and `::1` are two of them
        8 if v4.to_bits().is_multiple_of(4) => (low(0).into(), 2),
        8 => (Ipv6Addr::from_bits(u128::from(v4.to_bits()) % 2).into(), 2),
        // 6to4, and the prefix of NAT64
        9 => (
            Ipv6Addr::from_bits(0x2002 << 112 | u128::from(v4.to_bits()) << 80 | 1).into(),
            2,
        ),
        10 => (low(0x0064_ff9b << 96).into(), 2),
        // One bit away from mapped, and IPv4-translated
        _ => {
            let beside = 0xffff_u128 << 32 | 1 << (32 + random.below(96));
            let near = [
                beside ^ (1 << (32 + random.below(16))),
                0xffff << 48,
                0xfffe << 32,
            ];
            let near = low(near[usize::try_from(random.below(3)).unwrap()]);
            (near.into(), usize::from(near.to_bits() >> 32 != 0xffff) + 1)
        }
    }
}

#[test]
fn a_million_clients() {
    let server: SocketAddr = "[::]:7070".parse().unwrap();
    recorded(async |metrics| {
        let kept = counter!("kept_total");
        let mut service = ClientLabelsLayer::new(ServerBinding::new(Protocol::Http, server)).layer(
            service_fn(|request: Request<Empty<&'static [u8]>>| {
                counter!("requests_total", "request_kind" => "announce").increment(1);
                kept.increment(2);
                let response = Response::new(request.into_body());
                std::future::ready(Ok::<_, Infallible>(response))
            }),
        );

        let mut random = Random(0x00d0_a157);
        let mut counts = [0; 3];
        for _ in 0..CLIENTS {
            let (ip, class) = address(&mut random);
            counts[class] += 1;
            let mut request = Request::new(Empty::new());
            let port = u16::try_from(random.below(0x1_0000)).unwrap();
            request
                .extensions_mut()
                .insert(ConnectInfo(SocketAddr::new(ip, port)));
            let response = service.call(request).await.unwrap();
            assert!(response.status().is_success());
        }

        assert_eq!(counts.iter().sum::<u64>(), CLIENTS as u64);
        assert!(counts.iter().all(|&count| count > 200_000), "{counts:?}");
        let expected = [INET, MAPPED, INET6]
            .into_iter()
            .zip(counts)
            .flat_map(|(seen, count)| {
                let labels = seven("http", server, seen);
                [
                    sample("kept_total", &labels, 2 * count),
                    sample("requests_total", &and(labels, "request_kind", "announce"), count),
                ]
            });
        metrics.assert(expected);

        // The scopes of the binding, and none for a client.
        assert_eq!(label_sets(), ClientLabels::ALL.len() + 1);
    });
}
