//! The tracker under abuse, at its limits, and across restarts: nobody is locked out, and everything is counted.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
};

use aquatic_udp_protocol::{
    AnnounceEvent::{Completed, Started},
    ConnectRequest, Response,
};
use test_support::{INET, PATIENCE, Signal, V4, free_port, http::get, loopbacks, samples};

use crate::{
    BAD_ID,
    clients::{Bencoded as _, OTHER, TORRENT, UdpClient, announce, announce_path, announced, bytes, escaped},
    running::{Tracker, at, http_counts, seen, swarm_counts, udp_counts},
};

const FULL: &str = "the tracker is full, try again later";
const THIRD: [u8; 20] = [3; 20];

/// The tracker's metrics, as text.
fn metrics(tracker: &Tracker) -> String {
    get(tracker.metrics, "/metrics").text().into_owned()
}

#[track_caller]
fn assert_help(tracker: &Tracker, name: &str, help: &str) {
    let (text, prefix) = (metrics(tracker), format!("# HELP {name} "));
    let found = text.lines().find_map(|line| line.strip_prefix(&prefix));
    assert_eq!(found, Some(help), "{name}");
}

/// A client that waits for data when it reads.
fn connect(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn read_to_end(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("a closed connection");
    String::from_utf8_lossy(&bytes).into_owned()
}

// UDP.

#[test]
fn connection_ids_from_before_a_restart_lock_nobody_out() {
    let port = free_port();
    // In the grace nobody is banned, although all of these clients have one address.
    let args = format!("--udp [::]:{port} --http [::]:0 --ban-after 1");
    let before = Tracker::start(&args);
    let clients = loopbacks().into_iter().map(|ip| {
        let server = at(ip, before.udp[0]);
        (ip, (0..100).map(|_| UdpClient::connected(server)).collect())
    });
    let clients: Vec<(IpAddr, Vec<UdpClient>)> = clients.collect();
    before.stop();

    let after = Tracker::start(&args);
    let udp = after.udp[0];
    let mut expected = swarm_counts("torrents 1");
    for (leechers, (ip, clients)) in (1..).zip(clients) {
        for client in &clients {
            assert_eq!(client.refusal(client.announcement(TORRENT, 1, Started)), BAD_ID);
        }
        for mut client in clients {
            client.connect();
            let answer = client.announce(TORRENT, 1, Started);
            assert_eq!(answer, announced(0, leechers, ip, []));
        }
        expected.extend(udp_counts(
            seen(ip, udp),
            udp,
            "received 300, sent 300, connects 100, announces 100, errors 100",
        ));
    }
    after.assert_counts(expected);
    after.stop();
}

#[test]
fn answers_without_a_valid_connection_id_are_not_longer_than_the_request() {
    let tracker = Tracker::dual_stack();
    let udp = tracker.udp[0];
    let mut expected = Vec::new();
    for ip in loopbacks() {
        let client = UdpClient::connected(at(ip, udp));
        let (mut connects, mut errors, mut sent) = (1, 0, 1);
        let announce = bytes(client.with_bad_id());
        for action in [0, 1, 2, 3, 4, i32::MAX, i32::MIN] {
            for len in [12, 15, 16, 17, 29, 30, 36, 97, 98] {
                let mut datagram = announce[..len].to_vec();
                let head = len.min(12);
                datagram[8..head].copy_from_slice(&action.to_be_bytes()[..head - 8]);
                client.send(&datagram);
                errors += 1;
                // The tracker answers in order, so the answer to a connect ends the wait for one to the datagram.
                let transaction_id = client.next_transaction();
                client.send(&bytes(ConnectRequest { transaction_id }));
                connects += 1;
                loop {
                    let reply = client.receive();
                    sent += 1;
                    match Response::parse_bytes(&reply, ip.is_ipv4()).unwrap() {
                        Response::Connect(reply) if reply.transaction_id == transaction_id => break,
                        other => assert!(
                            matches!(action, 1 | 2) && reply.len() <= len,
                            "{len} bytes with action {action} were answered with {} bytes: {other:?}",
                            reply.len()
                        ),
                    }
                }
            }
        }
        // Announces and scrapes with a bad ID, if the error is not longer than they are.
        assert_eq!(sent, connects + 2 * 4);
        let (received, unanswered) = (connects + errors, connects + errors - sent);
        let counts = format!(
            "received {received}, sent {sent}, unanswered {unanswered}, connects {connects}, errors {errors}"
        );
        expected.extend(udp_counts(seen(ip, udp), udp, &counts));
    }
    tracker.assert_counts(expected);
    tracker.stop();
}

#[cfg(target_os = "linux")]
#[test]
fn the_receive_buffer_has_the_size_that_was_asked_for() {
    use test_support::eventually;

    const SENT: u64 = 200;
    // The received datagrams, and those that the socket had no room for.
    let counts = |more: &str| {
        let tracker = Tracker::start(&format!("--udp 127.0.0.1:0 --http 127.0.0.1:0{more}"));
        let client = UdpClient::new(tracker.udp[0]);
        tracker.signal(Signal::SIGSTOP);
        for _ in 0..SENT {
            client.send(&[0; 98]);
        }
        tracker.signal(Signal::SIGCONT);
        let value = |name: &str| {
            let samples = samples(&metrics(&tracker));
            let sample = samples.iter().find(|sample| sample.starts_with(name));
            sample.map_or(0, |sample| {
                sample.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()
            })
        };
        let (mut received, mut dropped) = (0, 0);
        eventually("all datagrams are counted", || {
            received = value("udp_tracker_server_requests_received_total");
            dropped = value("udp_tracker_server_socket_drops_total");
            received + dropped == SENT
        });
        tracker.stop();
        (received, dropped)
    };
    let (received, dropped) = counts(" --recv-buffer 8192");
    assert!(received > 0 && dropped > 0, "{received} {dropped}");
    let default = std::fs::read_to_string("/proc/sys/net/core/rmem_default").unwrap();
    if default.trim().parse::<u64>().unwrap() >= 212_992 {
        assert_eq!(counts(""), (SENT, 0));
    }
}

#[test]
fn workers_share_a_port_and_its_connection_ids() {
    let tracker = Tracker::start("--udp [::]:0 --http [::]:0 --workers 2");
    let [udp] = tracker.udp[..] else {
        panic!("one line for both workers: {:?}", tracker.udp);
    };
    let mut expected = swarm_counts("torrents 1");
    for (leechers, ip) in (1..).zip(loopbacks()) {
        let first = UdpClient::connected(at(ip, udp));
        // From 32 ports, which the system spreads over the workers.
        for _ in 0..32 {
            let mut client = UdpClient::new(at(ip, udp));
            client.connection_id = first.connection_id;
            let answer = client.announce(TORRENT, 1, Started);
            assert_eq!(answer, announced(0, leechers, ip, []));
        }
        expected.extend(udp_counts(
            seen(ip, udp),
            udp,
            "received 33, sent 33, connects 1, announces 32",
        ));
    }
    tracker.assert_counts(expected);
    tracker.stop();
}

// HTTP.

#[test]
fn http_failures_are_counted() {
    let tracker = Tracker::dual_stack();
    let http = tracker.http[0];
    let mut expected = Vec::new();
    for ip in loopbacks() {
        for path in ["/announce", "/announce?info_hash=short", "/scrape"] {
            get(at(ip, http), path).failure();
        }
        assert_eq!(get(at(ip, http), "/").status, 404);
        expected.extend(http_counts(
            seen(ip, http),
            http,
            "announces 2, announce_errors 2, scrapes 1, scrape_errors 1",
        ));
    }
    tracker.assert_counts(expected);
    assert_help(
        &tracker,
        "http_tracker_core_errors_total",
        "Requests to an HTTP endpoint of the tracker that were answered with a failure reason.",
    );
    tracker.stop();
}

#[test]
fn a_negative_numwant_is_the_default_over_both_protocols() {
    let tracker = Tracker::dual_stack();
    for (ip, torrent) in loopbacks().into_iter().zip([TORRENT, OTHER]) {
        let (udp, http) = (at(ip, tracker.udp[0]), at(ip, tracker.http[0]));
        let client = UdpClient::connected(udp);
        for port in 1..=60 {
            client.announce(torrent, port, Started);
        }
        for numwant in ["-1", "-2147483648"] {
            let path = announce_path(torrent, 1, &format!("&numwant={numwant}&compact=0&no_peer_id=1"));
            let answer = get(http, &path);
            assert_eq!(answer.text().matches("4:port").count(), 50, "{}", answer.text());
        }
        for bad in ["-", "--1", "-x", "+1", "1-"] {
            let path = announce_path(torrent, 1, &format!("&numwant={bad}"));
            assert_eq!(
                get(http, &path).failure(),
                "numwant is not a number, or out of range"
            );
        }
    }
    tracker.stop();
}

#[test]
fn connections_without_a_request_are_closed() {
    let tracker = Tracker::dual_stack();
    let server = at(V4, tracker.http[0]);
    let silent = connect(server);
    let mut slow = connect(server);
    slow.write_all(b"GET /scrape HTTP/1.1\r\nHost:").unwrap();
    let mut idle = connect(server);
    idle.write_all(b"GET /scrape HTTP/1.1\r\nHost: tracker\r\n\r\n")
        .unwrap();
    assert_eq!(read_to_end(silent), "");
    assert_eq!(read_to_end(slow), "");
    assert!(read_to_end(idle).ends_with("no full scrapese"));
    tracker.stop();
}

#[test]
fn the_number_of_http_connections_is_bounded() {
    let tracker = Tracker::start("--udp [::]:0 --http [::]:0 --http-connections 2");
    let server = at(V4, tracker.http[0]);
    let mut idle: Vec<_> = (0..2).map(|_| connect(server)).collect();
    // Both are served: they get an answer.
    for idle in &mut idle {
        idle.write_all(b"GET / HTTP/1.1\r\nHost: tracker\r\n\r\n")
            .unwrap();
        assert_eq!(idle.read(&mut [0]).unwrap(), 1);
    }
    let mut waiting = connect(server);
    waiting
        .write_all(b"GET /scrape HTTP/1.1\r\nHost: tracker\r\nConnection: close\r\n\r\n")
        .unwrap();
    // The metrics are not affected.
    for _ in 0..10 {
        tracker.assert_counts([]);
    }
    drop(idle);
    assert!(read_to_end(waiting).ends_with("no full scrapese"));
    let said = tracker.stop();
    assert!(said.contains("--http-connections"), "{said}");
}

#[test]
fn requests_that_wait_to_be_accepted_are_answered_at_shutdown() {
    // Several rounds, because a tracker that loses requests does not lose them always.
    for ip in (0..4).flat_map(|_| loopbacks()) {
        let tracker = Tracker::dual_stack();
        let server = at(ip, tracker.http[0]);
        let request = format!(
            "GET /scrape?info_hash={} HTTP/1.1\r\nHost: tracker\r\n\r\n",
            escaped(&TORRENT)
        );
        // A connection that was accepted before, and has had an answer.
        let mut kept = connect(server);
        kept.write_all(b"GET / HTTP/1.1\r\nHost: tracker\r\n\r\n")
            .unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            kept.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        tracker.signal(Signal::SIGSTOP);
        let mut connections = vec![kept];
        connections.extend((0..100).map(|_| connect(server)));
        for connection in &mut connections {
            connection.write_all(request.as_bytes()).unwrap();
        }
        tracker.stop();
        for (number, connection) in connections.into_iter().enumerate() {
            let answer = read_to_end(connection);
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{number}: {answer}");
            assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
        }
    }
}

// The swarm.

#[test]
fn a_full_swarm_is_counted_and_logged() {
    let tracker = Tracker::start("--udp 127.0.0.1:0 --http 127.0.0.1:0 --max-torrents 2 --max-peers 3");
    let (udp, http) = (tracker.udp[0], tracker.http[0]);
    let client = UdpClient::connected(udp);
    client.announce(TORRENT, 1, Started);
    client.announce(OTHER, 1, Started);
    // No room for another torrent.
    assert_eq!(client.refusal(client.announcement(THIRD, 1, Started)), FULL);
    assert_eq!(get(http, &announce_path(THIRD, 1, "")).failure(), FULL);
    // No room for another peer.
    client.announce(OTHER, 2, Started);
    assert_eq!(client.refusal(client.announcement(OTHER, 3, Started)), FULL);
    // Known peers are served.
    assert_eq!(client.announce(OTHER, 2, Started), announced(0, 2, V4, [1]));
    assert_eq!(announce(http, TORRENT, 1), announced(0, 1, V4, []));

    let mut expected = swarm_counts("torrents 2, refused 3");
    expected.extend(udp_counts(
        INET,
        udp,
        "received 7, sent 7, connects 1, announces 4, errors 2",
    ));
    expected.extend(http_counts(INET, http, "announces 2, announce_errors 1"));
    tracker.assert_counts(expected);
    assert_help(
        &tracker,
        "swarm_coordination_registry_announces_refused_total",
        "Announces that were refused because the swarm, or its share for one address, had no room for another torrent or \
         peer.",
    );
    let said = tracker.stop();
    assert_eq!(said.matches("the swarm is full").count(), 1, "{said}");
    assert!(
        said.contains("--max-torrents") && said.contains("--max-peers"),
        "{said}"
    );
}

#[test]
fn a_download_counts_once_for_each_address_and_port() {
    let tracker = Tracker::dual_stack();
    let ips = loopbacks();
    for ip in &ips {
        let client = UdpClient::connected(at(*ip, tracker.udp[0]));
        for _ in 0..2 {
            client.announce(TORRENT, 1, Completed);
        }
        let path = announce_path(TORRENT, 1, "&event=completed");
        get(at(*ip, tracker.http[0]), &path).announced(*ip);
    }
    let expected = swarm_counts(&format!("downloads {}", ips.len())).remove(0);
    assert!(samples(&metrics(&tracker)).contains(&expected));
    assert_help(
        &tracker,
        "tracker_core_persistent_torrents_downloads_total",
        "Downloads that peers completed, each counted once for each address and port of the peer: \
         a client that announces over IPv4 and over IPv6 counts twice.",
    );
    tracker.stop();
}
