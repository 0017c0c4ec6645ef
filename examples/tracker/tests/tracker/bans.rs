//! Bans: whom they refuse, and whom they must not.

use aquatic_udp_protocol::AnnounceEvent::Started;
use test_support::{and, assert_soon, http::get, loopbacks, sample, samples, seven};

use crate::{
    BAD_ID,
    clients::{TORRENT, UdpClient, announce, announced, bytes},
    running::{Tracker, at, seen, swarm_counts, udp_counts},
};

const NO_GRACE: &str = "--udp [::]:0 --http [::]:0 --ban-grace 0";

#[test]
fn the_seven_counters_of_requests_tell_the_families_apart() {
    let tracker = Tracker::start(&format!("{NO_GRACE} --ban-after 1"));
    let (udp, http) = (tracker.udp[0], tracker.http[0]);
    let mut expected = Vec::new();
    for (n, ip) in (1..).zip(loopbacks()) {
        let client = UdpClient::connected(at(ip, udp));
        assert_eq!(client.refusal(client.with_bad_id()), BAD_ID);
        for _ in 0..n {
            client.send(&bytes(client.with_bad_id()));
            announce(at(ip, http), TORRENT, 1);
        }
        let (udp, http) = (
            seven("udp", udp, seen(ip, udp)),
            seven("http", http, seen(ip, http)),
        );
        let accepted = and(udp.clone(), "request_kind", "connect");
        let received = and(http, "request_kind", "announce");
        for (name, labels, value) in [
            ("udp_tracker_server_requests_accepted_total", &accepted, 1),
            ("udp_tracker_server_requests_received_total", &udp, 2 + n),
            ("udp_tracker_server_requests_aborted_total", &udp, 0),
            ("udp_tracker_server_requests_banned_total", &udp, n),
            ("udp_tracker_server_responses_sent_total", &udp, 2),
            ("udp_tracker_server_errors_total", &udp, 1),
            ("http_tracker_core_requests_received_total", &received, n),
            // The server's own count of banned datagrams.
            ("udp_tracker_server_requests_unanswered_total", &udp, n),
        ] {
            expected.push(sample(name, labels, value));
        }
    }
    let classes: Vec<_> = loopbacks().into_iter().map(|ip| seen(ip, udp).0).collect();
    let counts = || {
        let mut samples = samples(&get(tracker.metrics, "/metrics").text());
        samples.retain(|sample| {
            let of = |family: &&str| sample.contains(&format!("client_address_ip_family={family:?}"));
            classes.iter().any(of) && (!sample.ends_with(" 0") || sample.contains("_aborted_"))
        });
        samples
    };
    assert_soon(counts, expected);
    tracker.stop();
}

#[test]
fn a_forger_takes_no_answer_from_a_client_with_a_valid_id() {
    let tracker = Tracker::start(NO_GRACE);
    let udp = tracker.udp[0];
    let mut expected = swarm_counts("torrents 1");
    for (leechers, ip) in (1..).zip(loopbacks()) {
        let client = UdpClient::connected(at(ip, udp));
        let forger = UdpClient::new(at(ip, udp));
        for n in 0..1_000 {
            if n < 100 {
                assert_eq!(forger.refusal(forger.with_bad_id()), BAD_ID);
            } else if n % 2 == 0 {
                forger.send(&bytes(forger.with_bad_id()));
            } else {
                forger.send(&bytes(forger.scraping(&[TORRENT])));
            }
            let answer = client.announce(TORRENT, 1, Started);
            assert_eq!(answer, announced(0, leechers, ip, []));
        }
        // The owner of a banned address can still get a valid ID.
        let new = UdpClient::connected(at(ip, udp));
        assert_eq!(new.announce(TORRENT, 1, Started), announced(0, leechers, ip, []));
        expected.extend(udp_counts(
            seen(ip, udp),
            udp,
            "received 2003, sent 1103, unanswered 900, connects 2, announces 1001, errors 100, banned 900",
        ));
    }
    tracker.assert_counts(expected);
    tracker.stop();
}

#[test]
fn only_well_formed_requests_count() {
    let tracker = Tracker::start(&format!("{NO_GRACE} --ban-after 1"));
    let udp = tracker.udp[0];
    let mut expected = Vec::new();
    for ip in loopbacks() {
        let client = UdpClient::connected(at(ip, udp));
        let bad = bytes(client.with_bad_id());
        for _ in 0..10 {
            client.send(b"no request");
            client.send(&bad[..16]);
            client.send(&bad[..97]);
            // The answer to the last one.
            assert_eq!(client.receive().len(), 30);
        }
        assert_eq!(client.refusal(client.with_bad_id()), BAD_ID);
        // Now the address is banned. Without a ban, the first of these is not answered either.
        client.send(b"no request");
        client.send(&bad[..16]);
        client.send(&bad[..97]);
        expected.extend(udp_counts(
            seen(ip, udp),
            udp,
            "received 35, sent 12, unanswered 23, connects 1, errors 32, banned 2",
        ));
    }
    tracker.assert_counts(expected);
    tracker.stop();
}

#[test]
fn bans_can_be_turned_off() {
    let tracker = Tracker::start(&format!("{NO_GRACE} --ban-after 0"));
    let udp = tracker.udp[0];
    let mut expected = Vec::new();
    for ip in loopbacks() {
        let client = UdpClient::new(at(ip, udp));
        for _ in 0..1_000 {
            assert_eq!(client.refusal(client.with_bad_id()), BAD_ID);
        }
        expected.extend(udp_counts(
            seen(ip, udp),
            udp,
            "received 1000, sent 1000, errors 1000",
        ));
    }
    tracker.assert_counts(expected);
    tracker.stop();
}

/// Clients at any address of `127.0.0.0/8` and `2001:db8::/32`.
#[cfg(target_os = "linux")]
mod from_other_addresses {
    use std::{
        iter::zip,
        net::{IpAddr, Ipv4Addr, Ipv6Addr},
    };

    use test_support::{INET6, MAPPED, V4, V6, in_namespace, ipv6_or_say};

    use super::*;

    const ANY_ADDRESS: &str = "echo 1 > /proc/sys/net/ipv6/ip_nonlocal_bind
ip -6 route add local 2001:db8::/32 dev lo";

    /// The `n`th addresses, the second in a /64 of its own.
    fn addresses(n: u32) -> [IpAddr; 2] {
        [
            Ipv4Addr::from_bits(0x7f01_0000 + n).into(),
            Ipv6Addr::from_bits((0x2001_0db8 << 96) | (u128::from(n) << 64) | 7).into(),
        ]
    }

    fn with_a_tracker(args: &str, test: impl FnOnce(&Tracker) + Send) {
        if !ipv6_or_say() {
            return;
        }
        in_namespace(ANY_ADDRESS, || {
            let tracker = Tracker::start(&format!("{NO_GRACE} {args}"));
            test(&tracker);
            tracker.stop();
        });
    }

    #[test]
    fn a_flood_from_more_addresses_than_are_counted_lifts_no_ban() {
        with_a_tracker("--ban-after 2", |tracker| {
            let udp = tracker.udp[0];
            let clients = |n| zip(addresses(n), [V4, V6]).map(|(ip, to)| UdpClient::at(ip, at(to, udp)));
            let refused = |client: &UdpClient| assert_eq!(client.refusal(client.with_bad_id()), BAD_ID);

            let banned: Vec<_> = clients(0).collect();
            banned.iter().chain(&banned).for_each(refused);
            // The table has 16,384 places.
            for n in 1..=10_000 {
                clients(n).for_each(|client| refused(&client));
            }
            let last: Vec<_> = clients(20_000).collect();
            last.iter().chain(&last).for_each(refused);
            for client in banned.iter().chain(&last) {
                client.send(&bytes(client.with_bad_id()));
            }
            tracker.assert_counts([MAPPED, INET6].into_iter().flat_map(|client| {
                let counts = "received 10006, sent 10004, unanswered 2, errors 10004, banned 2";
                udp_counts(client, udp, counts)
            }));
        });
    }

    #[test]
    fn an_ipv4_address_is_banned_alone_and_an_ipv6_address_with_its_64() {
        with_a_tracker("--ban-after 1", |tracker| {
            let udp = tracker.udp[0];
            let mut expected = Vec::new();
            for (to, seen, [one, near, far], counts) in [
                (
                    V4,
                    MAPPED,
                    ["127.1.0.1", "127.1.0.2", "127.2.0.1"],
                    "received 4, sent 3, unanswered 1, errors 3, banned 1",
                ),
                (
                    V6,
                    INET6,
                    ["2001:db8:0:1::1", "2001:db8:0:1::2", "2001:db8:0:2::1"],
                    "received 4, sent 2, unanswered 2, errors 2, banned 2",
                ),
            ] {
                let [one, near, far] =
                    [one, near, far].map(|ip| UdpClient::at(ip.parse().unwrap(), at(to, udp)));
                assert_eq!(one.refusal(one.with_bad_id()), BAD_ID);
                one.send(&bytes(one.with_bad_id()));
                near.send(&bytes(near.with_bad_id()));
                assert_eq!(far.refusal(far.with_bad_id()), BAD_ID);
                expected.extend(udp_counts(seen, udp, counts));
            }
            tracker.assert_counts(expected);
        });
    }
}
