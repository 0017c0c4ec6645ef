//! Bad requests are refused, and the next good one is served.

use aquatic_udp_protocol::{AnnounceEvent::Started, ConnectRequest, Response};
use test_support::{
    http::{get, raw, request},
    loopbacks,
};

use crate::{
    clients::{
        Bencoded as _, OTHER, TORRENT, UdpClient, announce, announce_path, announced, bytes, escaped, files,
        scraped,
    },
    running::{Tracker, at, http_counts, seen, swarm_counts, udp_counts},
};

const MALFORMED: &str = "malformed request";

/// The answer to a bad datagram.
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
            // The next answer is this one's.
            client.connect();
        }
        // No announce was taken.
        assert_eq!(client.scrape(&[TORRENT]), [scraped(0, 0, 0)], "{ip}");
        expected.extend(udp_counts(
            seen(ip, udp),
            udp,
            "received 38, sent 28, unanswered 10, connects 19, scrapes 1, errors 18",
        ));
    }
    tracker.assert_counts(expected);
    tracker.stop();
}

/// 18 datagrams with valid connection IDs. 10 of them get no answer.
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
        // Follows each, and shows that no bad announce was taken.
        let good = || {
            let nobody = files(&[(torrent, scraped(0, 0, 0))]);
            assert_eq!(get(server, &scrape).bencoded(), nobody);
        };

        let announces = bad_announces(torrent);
        assert_eq!(announces.len(), 21);
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
        // A request for something else is not counted.
        for (method, path, status) in [
            ("GET", "/", 404),
            ("GET", "/metrics", 404),
            ("GET", "/announce/", 404),
            ("GET", &format!("/a{}", announce_path(torrent, 1, "")), 404),
            ("POST", &announce_path(torrent, 1, ""), 405),
            ("DELETE", &scrape, 405),
        ] {
            assert_eq!(
                request(server, method, path).unwrap().status,
                status,
                "{method} {path}"
            );
            good();
        }
        for bad in no_requests(torrent) {
            let answer = raw(server, &bad).unwrap();
            let is_refused = answer.is_empty() || answer.starts_with(b"HTTP/1.1 4");
            assert!(is_refused, "{} {}", bad.escape_ascii(), answer.escape_ascii());
            good();
        }
        assert_eq!(announce(server, torrent, 1), announced(0, 1, ip, []));
        expected.extend(http_counts(
            seen(ip, http),
            http,
            "announces 22, announce_errors 21, scrapes 45, scrape_errors 5",
        ));
    }
    let torrents = loopbacks().len() as u64;
    expected.extend(swarm_counts(&format!("torrents {torrents}")));
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
        (
            changed("left=1", "left=x"),
            "left is not a number, or out of range",
        ),
        (format!("{good}&event=won"), "event is not a known one"),
        (
            format!("{good}&numwant=-"),
            "numwant is not a number, or out of range",
        ),
    ]
}

/// 8 messages that are not HTTP.
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
