//! What the counters mean to an operator, in the order of `docs/kernel-counters.md`.

use std::borrow::Cow;

const PACKETS: &[(&str, &str)] = &[
    (
        "Ip6InReceives",
        "Packets received, including those with errors. Rises in normal service.",
    ),
    (
        "Ip6InHdrErrors",
        "Received packets dropped because of an error in the IPv6 header or an expired hop limit. Should stay at 0.",
    ),
    (
        "Ip6InTooBigErrors",
        "Packets larger than the MTU of the outgoing interface, usually while forwarding. Should stay at 0 on a host.",
    ),
    (
        "Ip6InNoRoutes",
        "Received packets that had no route to their destination. Should stay at 0, except on a router.",
    ),
    (
        "Ip6InAddrErrors",
        "Received packets dropped because their destination is not a valid address here. Should stay at 0.",
    ),
    (
        "Ip6InUnknownProtos",
        "Received packets of a protocol that this host does not support. Should stay at 0, unless experimental \
         protocols are in use.",
    ),
    (
        "Ip6InTruncatedPkts",
        "Received packets that were shorter than their header said. Should stay at 0.",
    ),
    (
        "Ip6InDiscards",
        "Received packets without errors that were dropped, for example because of low memory or a policy. Should \
         stay at 0.",
    ),
    (
        "Ip6InDelivers",
        "Packets delivered to a transport protocol: TCP, UDP or ICMPv6. Rises in normal service.",
    ),
    (
        "Ip6OutForwDatagrams",
        "Packets forwarded. Should stay at 0 on a server: only routers forward.",
    ),
    (
        "Ip6OutRequests",
        "Packets that the protocols of this host asked to send. Rises in normal service.",
    ),
    (
        "Ip6OutDiscards",
        "Outgoing packets without errors that were dropped, for example because of low memory. Should stay at 0.",
    ),
    (
        "Ip6OutNoRoutes",
        "Packets of this host that had no route to their destination. Should stay at 0.",
    ),
    (
        "Ip6OutTransmits",
        "Packets handed to the link, including each fragment and each forwarded packet. Rises in normal service.",
    ),
    (
        "Ip6InOctets",
        "Bytes received, including headers. Rises in normal service.",
    ),
    (
        "Ip6OutOctets",
        "Bytes sent, including headers. Rises in normal service.",
    ),
];

const FRAGMENTS: &[(&str, &str)] = &[
    (
        "Ip6ReasmTimeout",
        "Fragmented packets whose other fragments did not arrive in time (net.ipv6.ip6frag_time, 60 s by default). \
         Should stay at 0.",
    ),
    (
        "Ip6ReasmReqds",
        "Fragments received. Should stay at 0 on a TCP server, where they can be an attack. UDP servers should avoid \
         them too.",
    ),
    (
        "Ip6ReasmOKs",
        "Packets reassembled from fragments. Should stay at 0 on a TCP server.",
    ),
    (
        "Ip6ReasmFails",
        "Failed reassemblies: timeouts, overlapping fragments, or more data than net.ipv6.ip6frag_high_thresh allows. \
         Should stay at 0.",
    ),
    (
        "Ip6FragOKs",
        "Packets of this host that were split into fragments. If it rises, find the program that sends such large \
         packets.",
    ),
    (
        "Ip6FragFails",
        "Packets that could not or must not be split into fragments. Should stay at 0.",
    ),
    (
        "Ip6FragCreates",
        "Fragments created. If it rises, find the program that sends such large packets.",
    ),
];

const MULTICAST: &[(&str, &str)] = &[
    (
        "Ip6InMcastPkts",
        "Multicast packets received. Rises in normal service: router advertisements and neighbour discovery.",
    ),
    (
        "Ip6OutMcastPkts",
        "Multicast packets sent. Rises in normal service: neighbour discovery and group reports.",
    ),
    (
        "Ip6InMcastOctets",
        "Bytes of the multicast packets received. Rises in normal service.",
    ),
    (
        "Ip6OutMcastOctets",
        "Bytes of the multicast packets sent. Rises in normal service.",
    ),
    ("Ip6InBcastOctets", "Always 0: IPv6 has no broadcast."),
    ("Ip6OutBcastOctets", "Always 0: IPv6 has no broadcast."),
];

const CONGESTION: &[(&str, &str)] = &[
    (
        "Ip6InNoECTPkts",
        "Packets received from senders that do not use congestion notification (ECN 00). Rises in normal service.",
    ),
    (
        "Ip6InECT1Pkts",
        "Packets received with ECT(1) (ECN 01), which L4S uses and classic TCP does not. Should stay at 0 without \
         L4S.",
    ),
    (
        "Ip6InECT0Pkts",
        "Packets received with ECT(0) (ECN 10): the sender uses congestion notification, and the packet met no \
         congestion. Rises in normal service.",
    ),
    (
        "Ip6InCEPkts",
        "Packets received with a congestion mark (ECN 11). If it rises, a link on the path to this host is full.",
    ),
];

/// The `Udp6` counters; `UdpLite6` has the same.
const UDP: &[(&str, &str)] = &[
    (
        "InDatagrams",
        "Datagrams delivered to a socket. Rises in normal service.",
    ),
    (
        "NoPorts",
        "Datagrams to a port that no socket listens on. Rises with scans, or when a server is down.",
    ),
    (
        "InErrors",
        "Datagrams that did not reach their socket: full buffers, wrong checksums and other errors. Should stay at 0.",
    ),
    ("OutDatagrams", "Datagrams sent. Rises in normal service."),
    (
        "RcvbufErrors",
        "Datagrams dropped because the receive buffer of their socket was full. Should stay at 0.",
    ),
    (
        "SndbufErrors",
        "Datagrams not sent because a send buffer was full. Should stay at 0.",
    ),
    (
        "InCsumErrors",
        "Datagrams dropped because of a wrong checksum. Should stay at 0.",
    ),
    (
        "IgnoredMulti",
        "Multicast datagrams that no socket had asked for.",
    ),
    (
        "MemErrors",
        "Datagrams dropped because UDP as a whole had no memory left (net.ipv4.udp_mem). Should stay at 0.",
    ),
];

const ICMP: &[(&str, &str)] = &[
    (
        "Icmp6InMsgs",
        "ICMPv6 messages received, including those with errors. Rises in normal service.",
    ),
    (
        "Icmp6InErrors",
        "ICMPv6 messages received that were unusable: a wrong checksum, a wrong length, or no matching request.",
    ),
    ("Icmp6OutMsgs", "ICMPv6 messages sent. Rises in normal service."),
    (
        "Icmp6OutErrors",
        "ICMPv6 messages that could not be sent. Should stay at 0.",
    ),
    (
        "Icmp6InCsumErrors",
        "ICMPv6 messages dropped because of a wrong checksum. Should stay at 0.",
    ),
    (
        "Icmp6OutRateLimitHost",
        "ICMPv6 messages not sent because of the rate limit of the whole host (net.ipv4.icmp_msgs_per_sec).",
    ),
];

/// The counters of `Icmp6In` and `Icmp6Out`.
const ICMP_MESSAGES: &[(&str, &str)] = &[
    (
        "DestUnreachs",
        "destination unreachable, usually a closed UDP port",
    ),
    (
        "PktTooBigs",
        "packet too big for a link on its path; path MTU discovery needs these messages",
    ),
    (
        "TimeExcds",
        "hop limit expired, or fragments missing for too long",
    ),
    ("ParmProblems", "header not understood"),
    ("Echos", "echo requests (ping)"),
    ("EchoReplies", "echo replies"),
    ("GroupMembQueries", "multicast routers that ask for listeners"),
    (
        "GroupMembResponses",
        "hosts that listen to a multicast group (MLDv1)",
    ),
    (
        "GroupMembReductions",
        "hosts that leave a multicast group (MLDv1)",
    ),
    ("RouterSolicits", "hosts that look for a router"),
    (
        "RouterAdvertisements",
        "routers that announce themselves and their prefixes",
    ),
    (
        "NeighborSolicits",
        "requests for a link-layer address, or checks that it is still there",
    ),
    ("NeighborAdvertisements", "announcements of a link-layer address"),
    ("Redirects", "routers that name a better first hop"),
    (
        "MLDv2Reports",
        "changes in the multicast groups of a host (MLDv2)",
    ),
];

/// The HELP text of the counter that the kernel calls `kernel`. `number` is the message type at the end of this name.
pub(super) fn text(kernel: &str, number: Option<&str>, is_of_interface: bool) -> String {
    let file = if is_of_interface {
        "/proc/net/dev_snmp6"
    } else {
        "/proc/net/snmp6"
    };
    if let Some(number) = number {
        let kernel = &kernel[..kernel.len() - number.len()];
        let direction = if kernel == "Icmp6InType" {
            "received"
        } else {
            "sent"
        };
        return format!("ICMPv6 messages {direction}, by type. ({kernel}* in {file})");
    }
    match known(kernel) {
        Some(text) => format!("{text} ({kernel} in {file})"),
        None => format!("The kernel's {kernel}. ({file})"),
    }
}

fn known(kernel: &str) -> Option<Cow<'static, str>> {
    let find = |table: &[(&str, &'static str)], name: &str| {
        let known = table.iter().find(|(other, _)| *other == name);
        known.map(|(_, text)| *text)
    };
    let whole = [PACKETS, FRAGMENTS, MULTICAST, CONGESTION, ICMP]
        .iter()
        .find_map(|table| find(table, kernel));
    if let Some(text) = whole {
        return Some(text.into());
    }
    for (start, direction) in [("Icmp6In", "received"), ("Icmp6Out", "sent")] {
        if let Some(name) = kernel.strip_prefix(start) {
            return find(ICMP_MESSAGES, name)
                .map(|text| format!("ICMPv6 messages {direction}: {text}.").into());
        }
    }
    let udp = kernel.strip_prefix("UdpLite6").or(kernel.strip_prefix("Udp6"))?;
    find(UDP, udp).map(Into::into)
}
