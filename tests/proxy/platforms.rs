//! Headers as platforms write them, according to the pages that `docs/behind-a-proxy.md` names: for each row of its
//! table, a client that sends no header, and one that forges each header.

use dualstack_metrics::proxy::HeaderSource;
use test_support::{INET, INET6, recorded};

use super::{headers::seen, trusting};

const CLIENTS: [(&str, (&str, &str)); 2] = [("192.0.2.7", INET), ("2001:db8::7", INET6)];
/// Of the other family.
const FORGED: [&str; 2] = ["2001:db8::66", "192.0.2.66"];

/// Asserts that the client is found. `headers` gets its address, and the address that it forges, if any.
#[track_caller]
fn check<const N: usize>(
    source: &HeaderSource,
    peer: &str,
    headers: impl Fn(&str, Option<&str>) -> [(&'static str, String); N],
) {
    recorded(async |metrics| {
        for ((client, expected), forged) in CLIENTS.into_iter().zip(FORGED) {
            for forged in [None, Some(forged)] {
                let headers = headers(client, forged);
                let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, &**value)).collect();
                assert_eq!(seen(source.clone(), peer, &headers), expected, "{headers:?}");
            }
        }
        metrics.assert([""; 0]);
    });
}

fn list(separator: &str, forged: Option<&str>, added: &[&str]) -> String {
    let forged = forged.map(|forged| format!("{forged}, {forged}, unknown"));
    let hops: Vec<_> = forged
        .as_deref()
        .into_iter()
        .chain(added.iter().copied())
        .collect();
    hops.join(separator)
}

fn with_port(ip: &str) -> String {
    let brackets = if ip.contains(':') { ["[", "]"] } else { [""; 2] };
    format!("{}{ip}{}:50000", brackets[0], brackets[1])
}

#[test]
fn google_cloud() {
    let proxies = trusting(&["35.191.0.0/16", "130.211.0.0/22"]);
    check(
        &proxies.x_forwarded_for().hops(2),
        "35.191.9.1:1",
        |client, forged| [("x-forwarded-for", list(",", forged, &[client, "34.117.59.81"]))],
    );
}

/// The address of the balancer is reserved, so it can be listed.
#[test]
fn cloudflare_before_google_cloud() {
    let proxies = trusting(&[
        "35.191.0.0/16",
        "130.211.0.0/22",
        "34.117.59.81",
        "173.245.48.0/20",
    ]);
    check(&proxies.x_forwarded_for(), "35.191.9.1:1", |client, forged| {
        let line = list(",", forged, &[client, "173.245.48.5", "34.117.59.81"]);
        [("x-forwarded-for", line), ("cf-connecting-ip", client.to_owned())]
    });
    // Around Cloudflare.
    check(&proxies.x_forwarded_for(), "35.191.9.1:1", |client, forged| {
        let line = list(",", forged, &[client, "34.117.59.81"]);
        [
            ("x-forwarded-for", line),
            ("cf-connecting-ip", forged.unwrap_or(client).to_owned()),
        ]
    });
    let google = trusting(&["35.191.0.0/16", "130.211.0.0/22"]);
    check(
        &google.x_forwarded_for().hops(3),
        "35.191.9.1:1",
        |client, forged| {
            let line = list(",", forged, &[client, "173.245.48.5", "34.117.59.81"]);
            [("x-forwarded-for", line)]
        },
    );
}

#[test]
fn cloudflare() {
    let proxies = trusting(&["173.245.48.0/20"]);
    check(
        &proxies.header("cf-connecting-ip"),
        "173.245.48.5:1",
        |client, forged| {
            let line = list(",", forged, &[client]);
            [("cf-connecting-ip", client.to_owned()), ("x-forwarded-for", line)]
        },
    );
}

#[test]
fn azure_application_gateway() {
    let proxies = trusting(&["10.0.1.0/24"]);
    check(&proxies.x_forwarded_for(), "10.0.1.4:1", |client, forged| {
        [("x-forwarded-for", list(", ", forged, &[&with_port(client)]))]
    });
}

/// The client chooses `X-Azure-ClientIP`.
#[test]
fn azure_front_door() {
    let proxies = trusting(&["147.243.0.0/16", "2a01:111:2050::/44"]);
    check(
        &proxies.header("x-azure-socketip"),
        "147.243.0.9:1",
        |client, forged| {
            [
                ("x-azure-socketip", client.to_owned()),
                ("x-azure-clientip", forged.unwrap_or(client).to_owned()),
                ("x-forwarded-for", list(", ", forged, &[client])),
            ]
        },
    );
}

#[test]
fn railway() {
    let everybody = trusting(&["0.0.0.0/0", "::/0"]);
    check(
        &everybody.header("x-real-ip"),
        "100.64.0.4:1",
        |client, forged| {
            let line = list(", ", forged, &[client, "152.233.1.9"]);
            [("x-real-ip", client.to_owned()), ("x-forwarded-for", line)]
        },
    );
}

#[test]
fn fly() {
    let everybody = trusting(&["0.0.0.0/0", "::/0"]);
    for source in [
        everybody.header("fly-client-ip"),
        everybody.x_forwarded_for().hops(2),
    ] {
        check(&source, "172.16.5.2:1", |client, forged| {
            let line = list(", ", forged, &[client, "66.241.125.1"]);
            [("fly-client-ip", client.to_owned()), ("x-forwarded-for", line)]
        });
    }
}

#[test]
fn heroku() {
    let everybody = trusting(&["0.0.0.0/0", "::/0"]);
    check(
        &everybody.x_forwarded_for().hops(1),
        "10.1.23.4:1",
        |client, forged| [("x-forwarded-for", list(", ", forged, &[client]))],
    );
}

/// With and without `xff_client_port`.
#[test]
fn aws_application_load_balancer() {
    let proxies = trusting(&["10.0.0.0/16"]);
    for port in [false, true] {
        check(&proxies.x_forwarded_for(), "10.0.7.1:1", |client, forged| {
            let added = if port {
                with_port(client)
            } else {
                client.to_owned()
            };
            [("x-forwarded-for", list(", ", forged, &[&added]))]
        });
    }
}

#[test]
fn amazon_cloudfront() {
    let proxies = trusting(&["13.32.0.0/15"]);
    let source = proxies.header("cloudfront-viewer-address");
    check(&source, "13.32.0.1:1", |client, forged| {
        [
            ("cloudfront-viewer-address", format!("{client}:50000")),
            ("x-forwarded-for", list(", ", forged, &[client])),
        ]
    });
}
