//! The samples of an exporter, and the expected ones.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use crate::PATIENCE;

/// The labels of a series. The exporter's order does not matter.
pub type Labels = BTreeMap<&'static str, String>;

/// A client's family and type, as they are in its labels.
pub type Seen = (&'static str, &'static str);

pub const INET: Seen = ("inet", "plain");
pub const MAPPED: Seen = ("inet", "v4_mapped_v6");
pub const INET6: Seen = ("inet6", "plain");
pub const UNKNOWN: Seen = ("unknown", "unknown");

/// How a socket sees a client of this host.
pub fn seen(client: IpAddr, server: SocketAddr) -> Seen {
    match (client, server) {
        (IpAddr::V4(_), SocketAddr::V4(_)) => INET,
        (IpAddr::V4(_), SocketAddr::V6(_)) => MAPPED,
        (IpAddr::V6(_), _) => INET6,
    }
}

/// The seven labels of the contract, spelled out a second time on purpose.
pub fn seven(protocol: &str, server: SocketAddr, (family, ip_type): Seen) -> Labels {
    let server_family = if server.is_ipv4() { "inet" } else { "inet6" };
    let server_ip = match server {
        SocketAddr::V6(server) if server.scope_id() != 0 => format!("{}%{}", server.ip(), server.scope_id()),
        _ => server.ip().to_string(),
    };
    Labels::from([
        ("client_address_ip_family", family.into()),
        ("client_address_ip_type", ip_type.into()),
        ("server_binding_address_ip_family", server_family.into()),
        ("server_binding_address_ip_type", "plain".into()),
        ("server_binding_ip", server_ip),
        ("server_binding_port", server.port().to_string()),
        ("server_binding_protocol", protocol.into()),
    ])
}

/// The five of them that a server has without a client.
pub fn of_server(protocol: &str, server: SocketAddr) -> Labels {
    let mut labels = seven(protocol, server, UNKNOWN);
    labels.retain(|name, _| name.starts_with("server"));
    labels
}

/// `labels` and one more.
pub fn and(mut labels: Labels, name: &'static str, value: &str) -> Labels {
    labels.insert(name, value.into());
    labels
}

/// A sample, in the form of [`samples`].
pub fn sample(name: &str, labels: &Labels, value: u64) -> String {
    let labels = labels.iter().map(|(name, value)| format!("{name}={value:?}"));
    format!("{} {value}", series_of(name, &labels.collect::<Vec<_>>()))
}

fn series_of(name: &str, labels: &[String]) -> String {
    if labels.is_empty() {
        name.to_owned()
    } else {
        format!("{name}{{{}}}", labels.join(","))
    }
}

/// A sample of each of several metrics.
pub fn each<const N: usize>(labels: &Labels, values: [(&str, u64); N]) -> [String; N] {
    values.map(|(name, value)| sample(name, labels, value))
}

/// The labels of a server on a Unix socket.
pub fn on_unix((family, ip_type): Seen) -> Labels {
    let mut labels = seven("http", "[::]:1".parse().unwrap(), (family, ip_type));
    for name in ["address_ip_family", "address_ip_type", "ip", "port"] {
        let label = labels
            .iter_mut()
            .find(|(label, _)| **label == format!("server_binding_{name}"));
        "unknown".clone_into(label.unwrap().1);
    }
    labels
}

/// A sample of `requests_total`.
pub fn requests(server: SocketAddr, seen: Seen, value: u64) -> String {
    sample("requests_total", &seven("http", server, seen), value)
}

/// A sample of `client_address_rejected_total`.
pub fn rejected(source: &str, reason: &str, value: u64) -> String {
    let labels = Labels::from([("source", source.into()), ("reason", reason.into())]);
    sample("client_address_rejected_total", &labels, value)
}

/// The samples of a Prometheus exposition, sorted: its lines without comments, each with its labels ordered by name.
/// Fails if a series is there twice, or a label is twice in one series.
pub fn samples(output: &str) -> Vec<String> {
    let mut all = BTreeMap::new();
    for line in output
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let (series, value) = line.rsplit_once(' ').expect(line);
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        // No label value in the tests has a quote that is followed by a comma.
        let labels = labels.strip_suffix('}').expect(line).split_inclusive("\",");
        let mut labels: Vec<_> = labels
            .map(|label| label.trim_end_matches(',').to_owned())
            .collect();
        labels.sort_unstable();
        let name_of = |label: &str| label.split_once('=').expect(line).0.to_owned();
        assert!(
            labels
                .windows(2)
                .all(|pair| name_of(&pair[0]) != name_of(&pair[1])),
            "a label twice: {line}"
        );
        let series = series_of(name, &labels);
        assert!(all.insert(series, value).is_none(), "a series twice: {line}");
    }
    all.into_iter()
        .map(|(series, value)| format!("{series} {value}"))
        .collect()
}

/// The samples of one metric.
pub fn series(output: &str, name: &str) -> Vec<String> {
    let mut lines = samples(output);
    lines.retain(|line| line.split(['{', ' ']).next() == Some(name));
    lines
}

/// Fails unless `lines` are the `expected` samples, all of them and no others.
#[track_caller]
pub fn assert_samples(mut lines: Vec<String>, expected: impl IntoIterator<Item: Into<String>>) {
    let mut expected: Vec<String> = expected.into_iter().map(Into::into).collect();
    expected.sort();
    lines.sort();
    assert!(
        lines == expected,
        "expected:\n  {}\nis:\n  {}",
        expected.join("\n  "),
        lines.join("\n  ")
    );
}

/// [`assert_samples`], of lines that may take some time to become the expected ones.
#[track_caller]
pub fn assert_soon(lines: impl Fn() -> Vec<String>, expected: impl IntoIterator<Item: Into<String>>) {
    let mut expected: Vec<String> = expected.into_iter().map(Into::into).collect();
    expected.sort();
    let sorted = || {
        let mut lines = lines();
        lines.sort();
        lines
    };
    let deadline = Instant::now() + PATIENCE;
    let mut now = sorted();
    while now != expected && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
        now = sorted();
    }
    assert_samples(now, expected);
}
