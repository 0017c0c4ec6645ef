//! The tracker example as its users have it: the real binary, asked over real sockets.

#[path = "common/clients.rs"]
mod clients;
#[path = "common/running.rs"]
mod running;

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
};

use aquatic_udp_protocol::{
    AnnounceEvent::{Completed, None as NoEvent, Started, Stopped},
    ConnectRequest, NumberOfPeers, Response,
};
use clients::{
    Bencoded as _, OTHER, Scraped, TORRENT, UdpClient, announce, announce_path, announced, bytes, escaped,
    files,
};
use running::{Http, Swarm, Tracker, Udp, at, http_errors, run};
use test_support::{
    INET, INET6, MAPPED, Seen, V4, V6, free_port,
    http::{get, raw, request},
    in_namespace, inside, ipv6_available, ipv6_or_say, loopbacks, under_seccomp,
};

const BAD_ID: &str = "connection ID mismatch";
const MALFORMED: &str = "malformed request";
const STILL_OPEN: &str = "connections were still open at the end of the shutdown";

/// How a client at `ip` is seen by a listener: IPv4 ones are plain where the host has no IPv6 sockets.
fn seen(ip: IpAddr, listener: SocketAddr) -> Seen {
    match (ip.is_ipv4(), listener.is_ipv4()) {
        (true, true) => INET,
        (true, false) => MAPPED,
        _ => INET6,
    }
}

fn scraped(seeders: i32, downloads: i32, leechers: i32) -> Scraped {
    Scraped {
        seeders,
        downloads,
        leechers,
    }
}

// Who came, and what they were given.

#[test]
fn every_counter_is_exact_on_dual_stack_sockets() {
    every_counter_is_exact(Tracker::dual_stack());
}

fn every_counter_is_exact(tracker: Tracker) {
    let (udp, http) = (tracker.udp[0], tracker.http[0]);

    ipv4_client(&tracker);
    let mut expected = Udp {
        received: 11,
        sent: 10,
        unanswered: 1,
        connects: 1,
        announces: 6,
        scrapes: 2,
        errors: 2,
    }
    .of(seen(V4, udp), udp);
    expected.extend(
        Http {
            announces: 3,
            scrapes: 1,
        }
        .of(seen(V4, http), http),
    );
    expected.push(http_errors(seen(V4, http), http, "announce", 1));
    let mut swarm = Swarm {
        torrents: 1,
        downloads: 1,
    };

    if ipv6_or_say() {
        ipv6_client(&tracker);
        let udp_counts = Udp {
            received: 12,
            sent: 10,
            unanswered: 2,
            connects: 2,
            announces: 5,
            scrapes: 1,
            errors: 4,
        };
        let http_counts = Http {
            announces: 2,
            scrapes: 2,
        };
        expected.extend(udp_counts.of(INET6, udp));
        expected.extend(http_counts.of(INET6, http));
        expected.push(http_errors(INET6, http, "scrape", 1));
        swarm.torrents += 1;
        swarm.downloads += 2;
    }
    expected.extend(swarm.samples());
    tracker.assert_counts(expected);
    tracker.stop();
}

/// The first client. The ports tell its peers apart.
fn ipv4_client(tracker: &Tracker) {
    let (udp, http) = (at(V4, tracker.udp[0]), at(V4, tracker.http[0]));
    let client = UdpClient::connected(udp);
    assert_eq!(client.announce(TORRENT, 1, Started), announced(0, 1, V4, []));
    assert_eq!(client.announce(TORRENT, 2, Started), announced(0, 2, V4, [1]));
    assert_eq!(client.announce(TORRENT, 1, Completed), announced(1, 1, V4, [2]));
    // The same download.
    assert_eq!(client.announce(TORRENT, 1, Completed), announced(1, 1, V4, [2]));
    assert_eq!(client.announce(TORRENT, 2, Stopped), announced(1, 0, V4, []));

    // A peer of one protocol is a peer of the other.
    assert_eq!(announce(http, TORRENT, 3), announced(1, 1, V4, [1]));
    let list = get(http, &announce_path(TORRENT, 3, "&compact=0&no_peer_id=1"));
    let expected = "d8:completei1e10:incompletei1e8:intervali1800e5:peersld2:ip9:127.0.0.14:porti1eeee";
    assert_eq!(list.text(), expected);
    let scrape = get(http, &format!("/scrape?info_hash={}", escaped(&TORRENT)));
    assert_eq!(scrape.bencoded(), files(&[(TORRENT, scraped(1, 1, 1))]));
    assert_eq!(
        get(http, "/announce?info_hash=short").failure(),
        "info_hash is not 20 bytes long"
    );
    assert_eq!(client.announce(TORRENT, 4, NoEvent), announced(1, 2, V4, [1, 3]));

    assert_eq!(
        client.scrape(&[TORRENT, OTHER]),
        [scraped(1, 1, 2), scraped(0, 0, 0)]
    );
    assert_eq!(client.refusal(client.with_bad_id()), BAD_ID);
    client.send(b"junk");
    // Its answer is the next, so the junk had none.
    assert_eq!(client.scrape(&[OTHER]), [scraped(0, 0, 0)]);
}

/// The second: the numbers are those of both families, the peers are not.
fn ipv6_client(tracker: &Tracker) {
    let (udp, http) = (at(V6, tracker.udp[0]), at(V6, tracker.http[0]));
    let mut client = UdpClient::connected(udp);
    assert_eq!(client.announce(TORRENT, 1, Started), announced(1, 3, V6, []));
    assert_eq!(client.announce(TORRENT, 6, Completed), announced(2, 3, V6, [1]));
    client.connect();
    assert_eq!(client.refusal(client.with_bad_id()), BAD_ID);
    assert_eq!(client.refusal(client.with_bad_id()), BAD_ID);
    client.send(b"");
    client.send(&[0xff; 15]);

    assert_eq!(announce(http, TORRENT, 7), announced(2, 4, V6, [1, 6]));
    let seeder = announce_path(OTHER, 8, "&event=completed").replace("left=1", "left=0");
    assert_eq!(get(http, &seeder).announced(V6), announced(1, 0, V6, []));
    assert_eq!(client.announce(OTHER, 9, Started), announced(1, 1, V6, [8]));
    assert_eq!(client.announce(OTHER, 9, Stopped), announced(1, 0, V6, []));
    assert_eq!(client.announce(TORRENT, 1, NoEvent), announced(2, 4, V6, [6, 7]));

    let both = [(TORRENT, scraped(2, 2, 4)), (OTHER, scraped(1, 1, 0))];
    let path = format!(
        "/scrape?info_hash={}&info_hash={}",
        escaped(&TORRENT),
        escaped(&OTHER)
    );
    assert_eq!(get(http, &path).bencoded(), files(&both));
    assert_eq!(
        get(http, "/scrape").failure(),
        "info_hash is missing: no full scrapes"
    );
    assert_eq!(client.scrape(&[TORRENT, OTHER]), both.map(|(_, numbers)| numbers));
}

#[test]
fn a_pair_of_sockets_on_one_port_has_labels_of_its_own() {
    let port = free_port();
    let ips = loopbacks();
    let hosts = &["0.0.0.0", "[::]"][..ips.len()];
    let listeners: Vec<_> = hosts.iter().map(|host| format!("{host}:{port}")).collect();
    let args = listeners.iter().map(|on| format!(" --udp {on} --http {on}"));
    let tracker = Tracker::start(&format!("--v6only{}", args.collect::<String>()));
    let listeners: Vec<SocketAddr> = listeners.iter().map(|on| on.parse().unwrap()).collect();
    assert_eq!(tracker.udp, listeners);
    assert_eq!(tracker.http, listeners);

    let mut clients: Vec<_> = ips
        .iter()
        .map(|ip| UdpClient::connected((*ip, port).into()))
        .collect();
    for (client, n) in clients.iter().zip(1_i64..) {
        for _ in 0..n {
            client.announce(TORRENT, 1, Started);
        }
        assert_eq!(client.scrape(&[TORRENT]).len(), 1);
    }
    let (v4_counts, v6_counts) = (
        Udp {
            received: 3,
            sent: 3,
            connects: 1,
            announces: 1,
            scrapes: 1,
            ..Udp::default()
        },
        Udp {
            received: 5,
            sent: 5,
            connects: 1,
            announces: 2,
            scrapes: 1,
            errors: 1,
            ..Udp::default()
        },
    );
    let mut expected = Vec::new();
    if let [v4, v6] = &mut clients[..] {
        // What one socket issued is a bad ID to the other.
        std::mem::swap(&mut v4.connection_id, &mut v6.connection_id);
        assert_eq!(v6.refusal(v6.announcement(TORRENT, 1, Started)), BAD_ID);
        expected.extend(v6_counts.of(INET6, listeners[1]));
    }
    expected.extend(v4_counts.of(INET, listeners[0]));

    for ((ip, listener), scrapes) in ips.iter().zip(&listeners).zip(2..) {
        let http = at(*ip, *listener);
        announce(http, TORRENT, 2);
        for _ in 0..scrapes {
            let answer = get(http, &format!("/scrape?info_hash={}", escaped(&OTHER)));
            assert_eq!(answer.bencoded(), files(&[(OTHER, scraped(0, 0, 0))]));
        }
        let counts = Http {
            announces: 1,
            scrapes,
        };
        expected.extend(counts.of(seen(*ip, *listener), *listener));
    }
    expected.extend(
        Swarm {
            torrents: 1,
            downloads: 0,
        }
        .samples(),
    );
    tracker.assert_counts(expected);
    assert!(!get(tracker.metrics, "/metrics").text().contains("v4_mapped_v6"));
    tracker.stop();
}

#[test]
fn a_connection_id_is_good_at_the_socket_that_issued_it() {
    let tracker = Tracker::start("--udp 127.0.0.1:0 --udp 127.0.0.1:0 --http 127.0.0.1:0");
    let [first, second] = tracker.udp[..] else {
        panic!("two sockets: {:?}", tracker.udp);
    };
    let (mut one, mut two) = (UdpClient::connected(first), UdpClient::connected(second));
    // From another port of the same client, as behind a NAT.
    let mut moved = UdpClient::new(first);
    moved.connection_id = one.connection_id;
    assert_eq!(moved.announce(TORRENT, 1, Started), announced(0, 1, V4, []));

    std::mem::swap(&mut one.connection_id, &mut two.connection_id);
    assert_eq!(one.refusal(one.announcement(TORRENT, 2, Started)), BAD_ID);
    assert_eq!(two.refusal(two.announcement(TORRENT, 2, Started)), BAD_ID);
    assert_eq!(two.refusal(two.scraping(&[TORRENT])), BAD_ID);

    let of_first = Udp {
        received: 3,
        sent: 3,
        connects: 1,
        announces: 1,
        errors: 1,
        ..Udp::default()
    };
    let of_second = Udp {
        received: 3,
        sent: 3,
        connects: 1,
        errors: 2,
        ..Udp::default()
    };
    let mut expected = of_first.of(INET, first);
    expected.extend(of_second.of(INET, second));
    expected.extend(
        Swarm {
            torrents: 1,
            downloads: 0,
        }
        .samples(),
    );
    tracker.assert_counts(expected);
    tracker.stop();
}

#[test]
fn a_connection_id_is_good_for_the_address_that_asked_for_it() {
    if !ipv6_or_say() {
        return;
    }
    let tracker = Tracker::dual_stack();
    let udp = tracker.udp[0];
    let (mut v4, mut v6) = (
        UdpClient::connected(at(V4, udp)),
        UdpClient::connected(at(V6, udp)),
    );
    assert_eq!(v4.scrape(&[TORRENT]), [scraped(0, 0, 0)]);
    std::mem::swap(&mut v4.connection_id, &mut v6.connection_id);
    assert_eq!(v4.refusal(v4.scraping(&[TORRENT])), BAD_ID);
    assert_eq!(v6.refusal(v6.announcement(TORRENT, 1, Started)), BAD_ID);

    let of_v4 = Udp {
        received: 3,
        sent: 3,
        connects: 1,
        scrapes: 1,
        errors: 1,
        ..Udp::default()
    };
    let of_v6 = Udp {
        received: 2,
        sent: 2,
        connects: 1,
        errors: 1,
        ..Udp::default()
    };
    let mut expected = of_v4.of(MAPPED, udp);
    expected.extend(of_v6.of(INET6, udp));
    tracker.assert_counts(expected);
    tracker.stop();
}

#[test]
fn two_hundred_peers_arrive_in_one_datagram() {
    let tracker = Tracker::dual_stack();
    let mut expected = Vec::new();
    let mut torrents = 0;
    for (ip, torrent) in loopbacks().into_iter().zip([TORRENT, OTHER]) {
        let (udp, http) = (tracker.udp[0], tracker.http[0]);
        let client = UdpClient::connected(at(ip, udp));
        for (port, known) in (1..=200).zip(0_u16..) {
            let mut request = client.announcement(torrent, port, Started);
            request.peers_wanted = NumberOfPeers::new(200);
            let others = announced(0, i64::from(port), ip, 1..=known);
            assert_eq!(client.announce_as(request), others);
        }
        let ask_for = |peers| {
            let mut request = client.announcement(torrent, 201, Started);
            request.peers_wanted = NumberOfPeers::new(peers);
            client.send(&bytes(request));
            client.receive().len()
        };
        // 20 bytes and 6 or 18 for each peer.
        let (all, fifty, none) = if ip.is_ipv4() {
            (1_220, 320, 20)
        } else {
            (3_620, 920, 20)
        };
        assert_eq!(ask_for(200), all);
        assert_eq!(ask_for(i32::MAX), all);
        assert_eq!(ask_for(-1), fifty);
        assert_eq!(ask_for(0), none);
        let path = announce_path(torrent, 201, "&numwant=200");
        assert_eq!(
            get(at(ip, http), &path).announced(ip),
            announced(0, 201, ip, 1..=200)
        );

        let udp_counts = Udp {
            received: 205,
            sent: 205,
            connects: 1,
            announces: 204,
            ..Udp::default()
        };
        let http_counts = Http {
            announces: 1,
            scrapes: 0,
        };
        expected.extend(udp_counts.of(seen(ip, udp), udp));
        expected.extend(http_counts.of(seen(ip, http), http));
        torrents += 1;
    }
    expected.extend(
        Swarm {
            torrents,
            downloads: 0,
        }
        .samples(),
    );
    tracker.assert_counts(expected);
    tracker.stop();
}

// Bad input.

/// What a bad datagram is answered with.
enum Refused {
    With(&'static str),
    Silently,
}
use Refused::{Silently, With};

#[test]
fn bad_datagrams_are_refused_and_the_next_good_one_is_served() {
    let tracker = Tracker::dual_stack();
    let udp = tracker.udp[0];
    let mut expected = Vec::new();
    for ip in loopbacks() {
        let mut client = UdpClient::connected(at(ip, udp));
        for (what, datagram, refused) in bad_datagrams(&client) {
            client.send(&datagram);
            if let With(message) = refused {
                let reply = client.receive();
                let reply = Response::parse_bytes(&reply, ip.is_ipv4()).unwrap();
                let Response::Error(error) = reply else {
                    panic!("{what}: {reply:?}");
                };
                assert_eq!(error.message, message, "{what}");
                assert_eq!(
                    error.transaction_id.0.get().to_be_bytes(),
                    datagram[12..16],
                    "{what}"
                );
            }
            // Its answer is the next.
            client.connect();
        }
        // None of the announces was heard.
        assert_eq!(client.scrape(&[TORRENT]), [scraped(0, 0, 0)], "{ip}");
        let counts = Udp {
            received: 38,
            sent: 28,
            unanswered: 10,
            connects: 19,
            scrapes: 1,
            errors: 18,
            ..Udp::default()
        };
        expected.extend(counts.of(seen(ip, udp), udp));
    }
    tracker.assert_counts(expected);
    tracker.stop();
}

/// 18 of them, 10 of which get no answer. The connection IDs are valid.
fn bad_datagrams(client: &UdpClient) -> Vec<(&'static str, Vec<u8>, Refused)> {
    let good = bytes(client.announcement(TORRENT, 1, Started));
    assert_eq!(good.len(), 98);
    let with = |at: usize, new: &[u8]| {
        let mut changed = good.clone();
        changed[at..at + new.len()].copy_from_slice(new);
        changed
    };
    let scrape_of = |info_hashes: &[u8]| {
        let header = &with(8, &[0, 0, 0, 2])[..16];
        [header, info_hashes].concat()
    };
    let connect = bytes(ConnectRequest {
        transaction_id: client.next_transaction(),
    });
    let mut wrong_protocol = connect.clone();
    wrong_protocol[7] ^= 1;
    vec![
        ("empty", vec![], Silently),
        ("one byte", vec![0], Silently),
        ("one byte short of a header", good[..15].to_vec(), Silently),
        ("a connect without its end", connect[..12].to_vec(), Silently),
        (
            "another tracker's error response",
            [&[0, 0, 0, 3, 1, 2, 3, 4][..], b"connection ID mismatch"].concat(),
            Silently,
        ),
        ("nothing but a header", good[..16].to_vec(), With(MALFORMED)),
        (
            "an announce without its end",
            good[..97].to_vec(),
            With(MALFORMED),
        ),
        ("half an announce", good[..50].to_vec(), With(MALFORMED)),
        ("a wrong protocol ID", wrong_protocol, Silently),
        (
            "no action of a request",
            with(8, &[0, 0, 0, 3])[..16].to_vec(),
            Silently,
        ),
        ("an action far out of range", with(8, &[0x80, 0, 0, 0]), Silently),
        ("64 KiB of junk", vec![0xff; 65_507], Silently),
        ("64 KiB of zeros", vec![0; 65_507], Silently),
        ("port 0", with(96, &[0, 0]), With("Port can't be 0")),
        (
            "an unknown event",
            with(80, &[0, 0, 0, 4]),
            With("Invalid announce event"),
        ),
        (
            "a scrape of nothing",
            scrape_of(b""),
            With("Full scrapes are not allowed"),
        ),
        (
            "a scrape of a part",
            scrape_of(&[1; 19]),
            With("Invalid info hash list"),
        ),
        (
            "a scrape of two and a part",
            scrape_of(&[1; 41]),
            With("Invalid info hash list"),
        ),
    ]
}

#[test]
fn bad_http_requests_are_refused_and_the_next_good_one_is_served() {
    let tracker = Tracker::dual_stack();
    let http = tracker.http[0];
    let mut expected = Vec::new();
    for (ip, torrent) in loopbacks().into_iter().zip([TORRENT, OTHER]) {
        let server = at(ip, http);
        let scrape = format!("/scrape?info_hash={}", escaped(&torrent));
        // Each is followed by a good one, which shows that no bad announce was heard.
        let good = || {
            let nobody = files(&[(torrent, scraped(0, 0, 0))]);
            assert_eq!(get(server, &scrape).bencoded(), nobody);
        };

        let announces = bad_announces(torrent);
        assert_eq!(announces.len(), 23);
        for (path, reason) in announces {
            assert_eq!(get(server, &path).failure(), reason, "{path}");
            good();
        }
        for (path, reason) in [
            ("/scrape", "info_hash is missing: no full scrapes"),
            ("/scrape?", "info_hash is missing: no full scrapes"),
            ("/scrape?info_hash=short", "info_hash is not 20 bytes long"),
            ("/scrape?info_hash=%f", "the query is not percent-encoded"),
            (&format!("{scrape}&info_hash="), "info_hash is not 20 bytes long"),
        ] {
            assert_eq!(get(server, path).failure(), reason, "{path}");
            good();
        }
        // What is no request to the tracker is not counted.
        for (method, path, status) in [
            ("GET", "/", 404),
            ("GET", "/metrics", 404),
            ("GET", "/announce/", 404),
            ("GET", &format!("/a{}", announce_path(torrent, 1, "")), 404),
            ("POST", &announce_path(torrent, 1, ""), 405),
            ("DELETE", &scrape, 405),
        ] {
            assert_eq!(request(server, method, path).status, status, "{method} {path}");
            good();
        }
        for bad in no_requests(torrent) {
            let answer = raw(server, &bad);
            let is_refused = answer.is_empty() || answer.starts_with(b"HTTP/1.1 4");
            assert!(is_refused, "{} {}", bad.escape_ascii(), answer.escape_ascii());
            good();
        }
        assert_eq!(announce(server, torrent, 1), announced(0, 1, ip, []));
        let counts = Http {
            announces: 23 + 1,
            scrapes: 5 + (23 + 5 + 6 + 8),
        };
        expected.extend(counts.of(seen(ip, http), http));
        expected.push(http_errors(seen(ip, http), http, "announce", 23));
        expected.push(http_errors(seen(ip, http), http, "scrape", 5));
    }
    let torrents = loopbacks().len() as u64;
    expected.extend(
        Swarm {
            torrents,
            downloads: 0,
        }
        .samples(),
    );
    tracker.assert_counts(expected);
    tracker.stop();
}

fn bad_announces(torrent: [u8; 20]) -> Vec<(String, &'static str)> {
    const NO_HASH: &str = "info_hash is not 20 bytes long";
    const NO_PORT: &str = "port is not a number, or out of range";
    const NOT_ENCODED: &str = "the query is not percent-encoded";

    let (good, hash) = (announce_path(torrent, 7, ""), escaped(&torrent));
    let changed = |from: &str, to: &str| {
        assert_eq!(good.matches(from).count(), 1, "{from}");
        good.replace(from, to)
    };
    vec![
        ("/announce".into(), "info_hash is missing"),
        ("/announce?".into(), "info_hash is missing"),
        ("/announce?&&=&".into(), "info_hash is missing"),
        (changed("info_hash", "info_hsah"), "info_hash is missing"),
        (changed(&hash, ""), NO_HASH),
        (changed(&hash, &hash[3..]), NO_HASH),
        (changed(&hash, &format!("{hash}a")), NO_HASH),
        (changed(&hash, &"a".repeat(40)), NO_HASH),
        (changed(&hash, "%zz"), NOT_ENCODED),
        (format!("{good}&key=%"), NOT_ENCODED),
        (format!("{good}&%4=1"), NOT_ENCODED),
        (changed("&peer_id", "&peer"), "peer_id is missing"),
        (changed("&peer_id=", "&peer_id=a"), "peer_id is not 20 bytes long"),
        (changed("&port=7", ""), "port is missing"),
        (changed("port=7", "port="), NO_PORT),
        (changed("port=7", "port=0"), NO_PORT),
        (changed("port=7", "port=65536"), NO_PORT),
        (changed("port=7", "port=abc"), NO_PORT),
        (changed("&left=1", ""), "left is missing"),
        (
            changed("left=1", "left=-1"),
            "left is not a number, or out of range",
        ),
        (
            changed("downloaded=0", "downloaded=%30x"),
            "downloaded is not a number, or out of range",
        ),
        (format!("{good}&event=won"), "event is not a known one"),
        (
            format!("{good}&numwant=-"),
            "numwant is not a number, or out of range",
        ),
    ]
}

/// What is no HTTP: 8 of them.
fn no_requests(torrent: [u8; 20]) -> [Vec<u8>; 8] {
    let path = announce_path(torrent, 7, "");
    [
        b"GET\r\n\r\n".into(),
        b"announce\r\n\r\n".into(),
        // The beginning of TLS.
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".into(),
        format!("GET {path} HTTP/9.9\r\n\r\n").into(),
        format!("GET {path} and more HTTP/1.1\r\nHost: tracker\r\n\r\n").into(),
        format!("GET {path} HTTP/1.1\r\nno colon\r\n\r\n").into(),
        format!(
            "GET {path}&key={} HTTP/1.1\r\nHost: tracker\r\n\r\n",
            "a".repeat(100_000)
        )
        .into(),
        [
            &b"GET /announce?info_hash=\xff\xfe"[..],
            b" HTTP/1.1\r\nHost: tracker\r\nConnection: close\r\n\r\n",
        ]
        .concat(),
    ]
}

// How it is run.

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
fn signals_shut_it_down_gracefully() {
    for signal in ["TERM", "INT"] {
        let tracker = Tracker::dual_stack();
        // Kept alive, and idle.
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

        // What the system has received is answered, although the tracker has not seen it yet.
        let client = UdpClient::connected(at(V4, tracker.udp[0]));
        tracker.pause();
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
fn half_a_request_does_not_hold_up_the_shutdown_for_ever() {
    let tracker = Tracker::dual_stack();
    let http = at(V4, tracker.http[0]);
    // Several, because nothing tells when the tracker has read one: those that it has not, it just closes.
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

/// Runs the demo. Returns how it saw its IPv4 client.
fn demo_shows(has_ipv6: bool) -> Seen {
    let output = run("--demo");
    let (stdout, stderr) = (String::from_utf8(output.stdout), String::from_utf8(output.stderr));
    let (stdout, stderr) = (stdout.unwrap(), stderr.unwrap());
    assert_eq!(output.status.code(), Some(0), "{stdout}\n{stderr}");
    let parts: Vec<Vec<_>> = stdout.split("\n\n").map(|part| part.lines().collect()).collect();
    let [listeners, table, said] = &parts[..] else {
        panic!("listeners, a table and what it means: {stdout}");
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
        ("udp_tracker_server_requests_accepted_total announce", 3, 5),
        ("udp_tracker_server_requests_accepted_total connect", 1, 1),
        ("udp_tracker_server_requests_accepted_total scrape", 1, 1),
        ("udp_tracker_server_requests_received_total", 7, 9),
        ("udp_tracker_server_requests_unanswered_total", 1, 1),
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
            let v6 = if has_ipv6 { v6.to_string() } else { "-".into() };
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
fn a_host_with_ipv6_switched_off_is_served_over_ipv4() {
    in_namespace(
        test_support::WITHOUT_IPV6_ADDRESSES,
        "inside_a_host_with_ipv6_switched_off",
    );
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "is run by a_host_with_ipv6_switched_off_is_served_over_ipv4"]
fn inside_a_host_with_ipv6_switched_off() {
    if inside() {
        assert!(!ipv6_available());
        // The kernel still has IPv6 sockets, so nothing falls back.
        assert_eq!(demo_shows(false), MAPPED);
        every_counter_is_exact(Tracker::dual_stack());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_kernel_without_ipv6_is_served_over_ipv4() {
    under_seccomp(test_support::WITHOUT_IPV6_SOCKETS, "under_a_kernel_without_ipv6");
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "is run by a_kernel_without_ipv6_is_served_over_ipv4"]
fn under_a_kernel_without_ipv6() {
    if inside() {
        assert!(!ipv6_available());
        assert_eq!(demo_shows(false), INET);
        every_counter_is_exact(Tracker::dual_stack());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn without_arguments_it_serves_on_the_default_ports() {
    in_namespace("", "inside_a_host_with_all_ports_free");
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "is run by without_arguments_it_serves_on_the_default_ports"]
fn inside_a_host_with_all_ports_free() {
    if inside() {
        let tracker = Tracker::start_as("");
        let ports =
            [&tracker.udp, &tracker.http].map(|all| all.iter().map(SocketAddr::port).collect::<Vec<_>>());
        assert_eq!(ports, [[6969], [7070]]);
        assert_eq!(tracker.metrics, "127.0.0.1:1212".parse().unwrap());
        every_counter_is_exact(tracker);
    }
}
