//! What clients of both families get, and what is counted.

use aquatic_udp_protocol::{
    AnnounceEvent::{Completed, None as NoEvent, Started, Stopped},
    NumberOfPeers,
};
use test_support::{INET, INET6, MAPPED, V4, V6, http::get, ipv6_available, ipv6_or_say, loopbacks};

use crate::{
    BAD_ID,
    clients::{
        Bencoded as _, OTHER, TORRENT, UdpClient, announce, announce_path, announced, bytes, escaped, files,
        scraped,
    },
    running::{Tracker, at, http_counts, seen, swarm_counts, udp_counts},
};

#[test]
fn every_counter_is_exact_on_dual_stack_sockets() {
    ipv6_or_say();
    every_counter_is_exact(Tracker::dual_stack());
}

pub(crate) fn every_counter_is_exact(tracker: Tracker) {
    let (udp, http) = (tracker.udp[0], tracker.http[0]);

    ipv4_client(&tracker);
    let mut expected = udp_counts(
        seen(V4, udp),
        udp,
        "received 11, sent 10, unanswered 1, connects 1, announces 6, scrapes 2, errors 2",
    );
    expected.extend(http_counts(
        seen(V4, http),
        http,
        "announces 3, announce_errors 1, scrapes 1",
    ));
    let mut swarm = swarm_counts("torrents 1, downloads 1");
    if ipv6_available() {
        ipv6_client(&tracker);
        expected.extend(udp_counts(
            INET6,
            udp,
            "received 12, sent 10, unanswered 2, connects 2, announces 5, scrapes 1, errors 4",
        ));
        expected.extend(http_counts(
            INET6,
            http,
            "announces 2, scrapes 2, scrape_errors 1",
        ));
        swarm = swarm_counts("torrents 2, downloads 3");
    }
    expected.extend(swarm);
    tracker.assert_counts(expected);
    tracker.stop();
}

/// The first client. Its peers differ in their ports.
fn ipv4_client(tracker: &Tracker) {
    let (udp, http) = (at(V4, tracker.udp[0]), at(V4, tracker.http[0]));
    let client = UdpClient::connected(udp);
    assert_eq!(client.announce(TORRENT, 1, Started), announced(0, 1, V4, []));
    assert_eq!(client.announce(TORRENT, 2, Started), announced(0, 2, V4, [1]));
    assert_eq!(client.announce(TORRENT, 1, Completed), announced(1, 1, V4, [2]));
    // Not a second download.
    assert_eq!(client.announce(TORRENT, 1, Completed), announced(1, 1, V4, [2]));
    assert_eq!(client.announce(TORRENT, 2, Stopped), announced(1, 0, V4, []));

    // UDP and HTTP share the swarm.
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
    // The next answer is this one's, so the junk had none.
    assert_eq!(client.scrape(&[OTHER]), [scraped(0, 0, 0)]);
}

/// The second. It gets the numbers of both families, but the peers of its own.
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
    let mut expected = udp_counts(
        INET,
        first,
        "received 3, sent 3, connects 1, announces 1, errors 1",
    );
    expected.extend(udp_counts(
        INET,
        second,
        "received 3, sent 3, connects 1, errors 2",
    ));
    expected.extend(swarm_counts("torrents 1"));
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
    let mut expected = udp_counts(MAPPED, udp, "received 3, sent 3, connects 1, scrapes 1, errors 1");
    expected.extend(udp_counts(INET6, udp, "received 2, sent 2, connects 1, errors 1"));
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
        expected.extend(udp_counts(
            seen(ip, udp),
            udp,
            "received 205, sent 205, connects 1, announces 204",
        ));
        expected.extend(http_counts(seen(ip, http), http, "announces 1"));
        torrents += 1;
    }
    expected.extend(swarm_counts(&format!("torrents {torrents}")));
    tracker.assert_counts(expected);
    tracker.stop();
}

#[test]
fn an_empty_event_and_missing_numbers_are_accepted() {
    let tracker = Tracker::start("--udp 127.0.0.1:0 --http 127.0.0.1:0");
    let http = tracker.http[0];
    let path = announce_path(TORRENT, 1, "&event=empty");
    for left_out in ["&uploaded=0", "&downloaded=0", "&left=1"] {
        assert!(path.contains(left_out));
        let answer = get(http, &path.replace(left_out, ""));
        assert_eq!(answer.announced(V4), announced(0, 1, V4, []), "{left_out}");
    }
    tracker.stop();
}
