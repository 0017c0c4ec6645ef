//! A socket for each family on one port, in one tracker.

use std::net::SocketAddr;

use aquatic_udp_protocol::AnnounceEvent::Started;
use test_support::{INET, INET6, MAPPED, V4, free_port, http::get, ipv6_or_say, loopbacks};

use crate::{
    BAD_ID,
    clients::{Bencoded as _, OTHER, TORRENT, UdpClient, announce, announced, escaped, files, scraped},
    running::{Tracker, at, http_counts, seen, swarm_counts, udp_counts},
};

#[test]
fn separate_bindings_separate_the_families_in_the_metrics() {
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
    let mut expected = Vec::new();
    if let [v4, v6] = &mut clients[..] {
        // A connection ID of one socket is a bad ID to the other.
        std::mem::swap(&mut v4.connection_id, &mut v6.connection_id);
        assert_eq!(v4.refusal(v4.announcement(TORRENT, 1, Started)), BAD_ID);
        assert_eq!(v6.refusal(v6.announcement(TORRENT, 1, Started)), BAD_ID);
        let of_v4 = "received 4, sent 4, connects 1, announces 1, scrapes 1, errors 1";
        let of_v6 = "received 5, sent 5, connects 1, announces 2, scrapes 1, errors 1";
        expected.extend(udp_counts(INET, listeners[0], of_v4));
        expected.extend(udp_counts(INET6, listeners[1], of_v6));
    } else {
        let of_v4 = "received 3, sent 3, connects 1, announces 1, scrapes 1";
        expected.extend(udp_counts(INET, listeners[0], of_v4));
    }

    for ((ip, listener), scrapes) in ips.iter().zip(&listeners).zip(2..) {
        let http = at(*ip, *listener);
        announce(http, TORRENT, 2);
        for _ in 0..scrapes {
            let answer = get(http, &format!("/scrape?info_hash={}", escaped(&OTHER)));
            assert_eq!(answer.bencoded(), files(&[(OTHER, scraped(0, 0, 0))]));
        }
        expected.extend(http_counts(
            seen(*ip, *listener),
            *listener,
            &format!("announces 1, scrapes {scrapes}"),
        ));
    }
    expected.extend(swarm_counts("torrents 1"));
    tracker.assert_counts(expected);
    assert!(!get(tracker.metrics, "/metrics").text().contains("v4_mapped_v6"));
    tracker.stop();
}

#[test]
fn a_mapped_client_is_the_client_of_its_ipv4_address() {
    if !ipv6_or_say() {
        return;
    }
    // The first socket sees 127.0.0.1 as mapped, the second as plain.
    let tracker = Tracker::start("--udp [::]:0 --udp 127.0.0.1:0 --http [::]:0");
    let [mapped_socket, plain_socket] = tracker.udp[..] else {
        panic!("two sockets: {:?}", tracker.udp);
    };
    let http = tracker.http[0];
    let mapped = UdpClient::connected((V4, mapped_socket.port()).into());
    let plain = UdpClient::connected((V4, plain_socket.port()).into());

    // They are one peer, at an address that IPv4 clients can use.
    assert_eq!(mapped.announce(TORRENT, 1, Started), announced(0, 1, V4, []));
    assert_eq!(plain.announce(TORRENT, 1, Started), announced(0, 1, V4, []));
    assert_eq!(
        announce((V4, http.port()).into(), TORRENT, 1),
        announced(0, 1, V4, [])
    );
    assert_eq!(plain.announce(TORRENT, 2, Started), announced(0, 2, V4, [1]));

    let mut expected = udp_counts(
        MAPPED,
        mapped_socket,
        "received 2, sent 2, connects 1, announces 1",
    );
    expected.extend(udp_counts(
        INET,
        plain_socket,
        "received 3, sent 3, connects 1, announces 2",
    ));
    expected.extend(http_counts(MAPPED, http, "announces 1"));
    expected.extend(swarm_counts("torrents 1"));
    tracker.assert_counts(expected);
    tracker.stop();
}
