//! How the tracker is started and stopped, and its output.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
};

use aquatic_udp_protocol::{ConnectRequest, Response};
use test_support::{
    INET, INET6, MAPPED, Program, Seen, Signal, V4, assert_samples, free_port, http::get, ipv6_or_say,
    samples,
};
#[cfg(target_os = "linux")]
use test_support::{in_namespace, link_number, raw};

use crate::{
    clients::{UdpClient, bytes},
    running::{BINARY, Tracker, at, http_counts, run, seen, udp_counts},
};

const STILL_OPEN: &str = "connections were still open at the end of the shutdown";

#[test]
fn its_own_metrics_are_in_no_clients_scope() {
    let tracker = Tracker::dual_stack();
    for _ in 0..3 {
        let metrics = get(tracker.metrics, "/metrics");
        assert_eq!(metrics.status, 200);
        let content_type = "\r\ncontent-type: text/plain; version=0.0.4";
        assert!(metrics.head.contains(content_type), "{}", metrics.head);
    }
    assert_eq!(get(tracker.metrics, "/announce").status, 404);
    tracker.assert_counts([]);
    tracker.stop();
}

#[test]
fn failures_start_at_zero_for_the_clients_that_each_socket_can_see() {
    let both: &[Seen] = &[MAPPED, INET6];
    let hosts = if ipv6_or_say() {
        vec![
            ("", "[::]:0", both),
            ("--v6only", "[::]:0", &[INET6]),
            ("", "0.0.0.0:0", &[INET]),
        ]
    } else {
        vec![("", "0.0.0.0:0", &[INET][..])]
    };
    for (option, listener, classes) in hosts {
        let tracker = Tracker::start(&format!("--udp {listener} --http {listener} {option}"));
        let mut zeros = samples(&get(tracker.metrics, "/metrics").text());
        let failures = ["_requests_aborted_", "_requests_banned_", "_errors_total{client"];
        zeros.retain(|sample| failures.iter().any(|name| sample.contains(name)));
        let expected = classes.iter().flat_map(|class| {
            let udp = udp_counts(*class, tracker.udp[0], "aborted 0, banned 0, errors 0");
            let http = http_counts(*class, tracker.http[0], "announce_errors 0, scrape_errors 0");
            [udp, http].concat()
        });
        assert_samples(zeros, expected);
        tracker.stop();
    }
}

#[test]
fn signals_shut_it_down_gracefully() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let tracker = Tracker::dual_stack();
        // An idle connection that is kept alive.
        let mut connection = TcpStream::connect(at(V4, tracker.http[0])).unwrap();
        connection
            .write_all(b"GET /scrape HTTP/1.1\r\nHost: tracker\r\n\r\n")
            .unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"no full scrapese") {
            let mut byte = [0];
            connection.read_exact(&mut byte).unwrap();
            answer.extend(byte);
        }

        // Datagrams that the tracker has not read yet are answered.
        let client = UdpClient::connected(at(V4, tracker.udp[0]));
        tracker.signal(Signal::SIGSTOP);
        let transactions: Vec<_> = (0..50).map(|_| client.next_transaction()).collect();
        for &transaction_id in &transactions {
            client.send(&bytes(ConnectRequest { transaction_id }));
        }
        let said = tracker.stop_with(signal);
        for transaction_id in transactions {
            let reply = Response::parse_bytes(&client.receive(), true).unwrap();
            let is_its_answer =
                matches!(&reply, Response::Connect(reply) if reply.transaction_id == transaction_id);
            assert!(is_its_answer, "{reply:?}");
        }
        assert!(!said.contains(STILL_OPEN), "{said}");
        assert_eq!(connection.read(&mut [0]).unwrap(), 0);
    }
}

#[test]
fn half_a_request_does_not_delay_the_shutdown_for_ever() {
    let tracker = Tracker::dual_stack();
    let http = at(V4, tracker.http[0]);
    // Several, because the tracker just closes those that it has not read from.
    let _connections: Vec<_> = (0..16)
        .map(|_| {
            let mut connection = TcpStream::connect(http).unwrap();
            connection.write_all(b"GET /scr").unwrap();
            connection
        })
        .collect();
    assert_eq!(get(http, "/").status, 404);
    let said = tracker.stop();
    assert!(said.contains(STILL_OPEN), "{said}");
}

#[test]
fn the_help_names_every_option() {
    let output = run("--help");
    let help = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    let options = [
        ("--udp <ADDR>", "[default: [::]:6969]"),
        ("--http <ADDR>", "[default: [::]:7070]"),
        ("--metrics <ADDR>", "[default: 127.0.0.1:1212]"),
        ("--v6only", "IPv6"),
        ("--workers <NUMBER>", "[default: 1]"),
        ("--recv-buffer <BYTES>", "SO_RCVBUF"),
        ("--http-connections <NUMBER>", "[default: 500]"),
        ("--max-torrents <NUMBER>", "[default: 100000]"),
        ("--max-peers <NUMBER>", "[default: 500000]"),
        ("--max-peers-per-address <NUMBER>", "[default: 10000]"),
        ("--ban-after <NUMBER>", "[default: 100]"),
        ("--ban-grace <SECONDS>", "[default: 240, the lifetime of an ID]"),
        ("--demo", "counters"),
    ];
    for (option, says) in options {
        let mut lines = help.lines().filter(|line| line.trim_start().starts_with(option));
        let line = lines.next().expect(&help);
        assert!(line.contains(says) && lines.next().is_none(), "{help}");
    }
    for bad in [
        "--udp localhost",
        "--udp [::]",
        "--demo --v6only",
        "--demo --workers 2",
        "--ban-after -1",
        "--ban-grace 1m",
        "--workers 0",
        "--recv-buffer 0",
        "--http-connections 0",
        "--tcp [::]:1",
        "6969",
    ] {
        let output = run(bad);
        assert_eq!(output.status.code(), Some(2), "{bad}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{bad}");
    }
}

#[test]
fn a_port_in_use_ends_it_with_the_reason() {
    let fails = |args: &str, message: &str| {
        let output = run(args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(output.stdout.is_empty(), "nothing listened");
        assert!(
            stderr.starts_with(&format!("error: {message}")),
            "{message}\n{stderr}"
        );
        stderr
    };
    let (udp_holder, tcp_holder) = (
        UdpSocket::bind("127.0.0.1:0").unwrap(),
        TcpListener::bind("127.0.0.1:0").unwrap(),
    );
    let (udp, tcp) = (udp_holder.local_addr().unwrap(), tcp_holder.local_addr().unwrap());
    let free = "127.0.0.1:0";
    fails(
        &format!("--udp {udp} --http {free} --metrics {free}"),
        &format!("cannot bind UDP {udp}: "),
    );
    for args in [
        format!("--udp {free} --http {tcp} --metrics {free}"),
        format!("--udp {free} --http {free} --metrics {tcp}"),
    ] {
        fails(&args, &format!("cannot bind TCP {tcp}: "));
    }

    // Both families without --v6only.
    if ipv6_or_say() {
        let port = free_port();
        let said = fails(
            &format!("--udp 0.0.0.0:{port} --udp [::]:{port} --http {free} --metrics {free}"),
            &format!("cannot bind UDP [::]:{port}: "),
        );
        assert!(
            said.contains(&format!("an IPv4 socket holds port {port}")),
            "{said}"
        );
    }
}

#[test]
fn the_demo_shows_both_families() {
    demo_shows(ipv6_or_say());
}

/// Runs the demo, and returns how it saw its IPv4 client.
pub(crate) fn demo_shows(has_ipv6: bool) -> Seen {
    let output = run("--demo");
    let (stdout, stderr) = (String::from_utf8(output.stdout), String::from_utf8(output.stderr));
    let (stdout, stderr) = (stdout.unwrap(), stderr.unwrap());
    assert_eq!(output.status.code(), Some(0), "{stdout}\n{stderr}");
    let parts: Vec<Vec<_>> = stdout.split("\n\n").map(|part| part.lines().collect()).collect();
    let [listeners, table, said] = &parts[..] else {
        panic!("listeners, a table and its explanation: {stdout}");
    };

    let urls = ["udp://", "http://", "http://"].map(|scheme| format!("listening on {scheme}"));
    let addresses = listeners
        .iter()
        .zip(&urls)
        .map(|(line, url)| line.strip_prefix(url).expect(line));
    let [udp, http, _metrics] = addresses.collect::<Vec<_>>()[..] else {
        panic!("three listeners: {stdout}");
    };
    let client = seen(V4, udp.parse().unwrap());
    assert_eq!(client, seen(V4, http.parse().unwrap()));

    assert!(
        table.windows(2).all(|lines| lines[0].len() == lines[1].len()),
        "aligned: {stdout}"
    );
    let words = |line: &&str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let table: Vec<_> = table.iter().map(words).collect();
    let head = "inet/plain inet/v4_mapped_v6 inet6/plain no client labels";
    assert_eq!(table[0].join(" "), head);
    let rows: Vec<_> = table[1..].iter().map(|row| row.join(" ")).collect();
    assert_eq!(rows, demo_rows(client, has_ipv6), "{stdout}");

    let mut expected = vec![format!(
        "127.0.0.1 is {}/{}: 3 announces over UDP, 2 over HTTP and one more that was malformed.",
        client.0, client.1
    )];
    if has_ipv6 {
        let line = "::1 is inet6/plain: 5 announces over UDP, 4 over HTTP and one more that was malformed.";
        expected.push(line.into());
        expected.push(format!(
            "Both came to the same two sockets, udp://{udp} and http://{http}."
        ));
    } else {
        expected.push("Left out, because this host has no IPv6: a client at ::1.".into());
    }
    assert_eq!(*said, expected);
    let fell_back = stderr.contains("this host has no IPv6: a dual-stack socket is bound for IPv4 only");
    assert_eq!(fell_back, client == INET, "{stderr}");
    client
}

/// The rows of the demo's table, their words one space apart.
fn demo_rows(client: Seen, has_ipv6: bool) -> Vec<String> {
    let by_class = [
        ("http_tracker_core_errors_total announce", 1, 1),
        ("http_tracker_core_requests_received_total announce", 3, 5),
        ("http_tracker_core_requests_received_total scrape", 1, 1),
        ("udp_tracker_server_errors_total", 2, 2),
        ("udp_tracker_server_requests_aborted_total", 0, 0),
        ("udp_tracker_server_requests_banned_total", 1, 1),
        ("udp_tracker_server_requests_accepted_total announce", 3, 5),
        ("udp_tracker_server_requests_accepted_total connect", 1, 1),
        ("udp_tracker_server_requests_accepted_total scrape", 1, 1),
        ("udp_tracker_server_requests_received_total", 8, 10),
        ("udp_tracker_server_requests_unanswered_total", 2, 2),
        ("udp_tracker_server_responses_sent_total", 6, 8),
    ];
    let mut rows: Vec<_> = by_class
        .iter()
        .map(|(name, v4, v6)| {
            let v4 = if client == INET {
                format!("{v4} -")
            } else {
                format!("- {v4}")
            };
            let v6 = if has_ipv6 {
                v6.to_string()
            } else if client == MAPPED && *v6 == 0 {
                // The dual-stack socket could see IPv6 clients.
                "0".into()
            } else {
                "-".into()
            };
            format!("{name} {v4} {v6} -")
        })
        .collect();
    let downloads = if has_ipv6 { 2 } else { 1 };
    rows.push("swarm_coordination_registry_torrents_added_total - - - 1".into());
    rows.push(format!(
        "tracker_core_persistent_torrents_downloads_total - - - {downloads}"
    ));
    rows.sort();
    rows
}

#[cfg(target_os = "linux")]
#[test]
fn workers_that_cannot_start_end_it_with_the_reason() {
    // Each limit on the number of descriptors stops it at another step. Eight workers need about fifty.
    for descriptors in 16..40 {
        let limited = format!(
            "--nofile={descriptors} {BINARY} --udp 127.0.0.1:0 --workers 8 --http 127.0.0.1:0 --metrics 127.0.0.1:0"
        );
        let output = Program::run("prlimit", &limited);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{descriptors}: {stderr}");
        let lines: Vec<_> = stderr.lines().collect();
        assert!(
            matches!(lines[..], [line] if line.starts_with("error: ") && line.contains("Too many open files")),
            "{descriptors}: {stderr}"
        );
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_listener_is_given_with_the_name_of_its_interface() {
    in_namespace(raw::LINK, || {
        let tracker =
            Tracker::start_as("--udp [fe80::a%v0]:0 --http [fe80::a%v0]:0 --v6only --metrics 127.0.0.1:0");
        for listener in [tracker.udp[0], tracker.http[0]] {
            assert!(
                listener
                    .to_string()
                    .starts_with(&format!("[fe80::a%{}]:", link_number("v0")))
            );
        }
        tracker.assert_counts([]);
        tracker.stop();
    });
}
