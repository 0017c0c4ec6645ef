//! What the counters mean to an operator, in the order of `docs/kernel-counters.md`.

use std::borrow::Cow;

const PACKETS: &[(&str, &str)] = &[
    (
        "Ip6InReceives",
        "Packets that came in from the interfaces, those with errors included. Rises in normal service.",
    ),
    (
        "Ip6InHdrErrors",
        "Received packets dropped for an error in the IPv6 header, or a hop limit that ran out. Should stay at 0.",
    ),
    (
        "Ip6InTooBigErrors",
        "Packets larger than the MTU of the interface they were to leave by, mostly ones to be forwarded. Should stay at \
         0 on a host.",
    ),
    (
        "Ip6InNoRoutes",
        "Received packets that no route led on from here. Should stay at 0, but on a router that is asked for the unknown.",
    ),
    (
        "Ip6InAddrErrors",
        "Received packets dropped because their destination is no valid address here. Should stay at 0.",
    ),
    (
        "Ip6InUnknownProtos",
        "Received packets of a protocol that nothing here takes. Should stay at 0, but for experimental protocols.",
    ),
    (
        "Ip6InTruncatedPkts",
        "Received packets that were shorter than their header said. Should stay at 0.",
    ),
    (
        "Ip6InDiscards",
        "Received packets dropped without an error of theirs, for want of memory or by a policy, say. Should stay at 0.",
    ),
    (
        "Ip6InDelivers",
        "Packets handed to a transport protocol: TCP, UDP, ICMPv6. Rises in normal service.",
    ),
    (
        "Ip6OutForwDatagrams",
        "Packets forwarded. Rises on routers only: should stay at 0 on a server.",
    ),
    (
        "Ip6OutRequests",
        "Packets that the protocols of this host wished to send. Rises in normal service.",
    ),
    (
        "Ip6OutDiscards",
        "Packets to be sent that were dropped without an error of theirs, for want of memory, say. Should stay at 0.",
    ),
    (
        "Ip6OutNoRoutes",
        "Packets of this host that no route led to the destination of. Should stay at 0.",
    ),
    (
        "Ip6OutTransmits",
        "Packets handed to the link, each fragment and each forwarded one counted. Rises in normal service.",
    ),
    (
        "Ip6InOctets",
        "Bytes of the packets that came in, headers included. Rises in normal service.",
    ),
    (
        "Ip6OutOctets",
        "Bytes of the packets that went out, headers included. Rises in normal service.",
    ),
];

const FRAGMENTS: &[(&str, &str)] = &[
    (
        "Ip6ReasmTimeout",
        "Times that the rest of a fragmented packet did not come (within net.ipv6.ip6frag_time, 60 s). Should stay at 0.",
    ),
    (
        "Ip6ReasmReqds",
        "Fragments received. Should stay at 0 on a TCP server, where they may be an attack, and is best kept there by UDP.",
    ),
    (
        "Ip6ReasmOKs",
        "Packets put together from fragments. Should stay at 0 on a TCP server.",
    ),
    (
        "Ip6ReasmFails",
        "Failed reassemblies: timeouts, overlaps, and no room within net.ipv6.ip6frag_high_thresh. Should stay at 0.",
    ),
    (
        "Ip6FragOKs",
        "Packets of this host that were split into fragments. If it rises, find the program that sends so large.",
    ),
    (
        "Ip6FragFails",
        "Packets that could not be, or must not be, split into fragments. Should stay at 0.",
    ),
    (
        "Ip6FragCreates",
        "Fragments made. If it rises, find the program that sends so large.",
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
        "Packets received with ECT(1) (ECN 01), which L4S uses. Should stay at 0 where nothing does; not TCP's.",
    ),
    (
        "Ip6InECT0Pkts",
        "Packets received with ECT(0) (ECN 10): the sender uses congestion notification, and none was met. Rises in \
         normal service.",
    ),
    (
        "Ip6InCEPkts",
        "Packets received with the mark of congestion on their way (ECN 11). If it rises, a link towards here is full.",
    ),
];

/// Those of `Udp6`; `UdpLite6` has the same.
const UDP: &[(&str, &str)] = &[
    (
        "InDatagrams",
        "Datagrams handed to a socket. Rises in normal service.",
    ),
    (
        "NoPorts",
        "Datagrams to a port that no socket listens on. Scans; or a server that is down.",
    ),
    (
        "InErrors",
        "Datagrams that did not reach their socket: full buffers, bad checksums, and others. Should stay at 0.",
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
        "Datagrams dropped for a wrong checksum. Should stay at 0.",
    ),
    ("IgnoredMulti", "Multicast datagrams that no socket wanted."),
    (
        "MemErrors",
        "Datagrams dropped because all of UDP had no memory left (net.ipv4.udp_mem). Should stay at 0.",
    ),
];

const ICMP: &[(&str, &str)] = &[
    (
        "Icmp6InMsgs",
        "ICMPv6 messages received, those with errors included. Rises in normal service.",
    ),
    (
        "Icmp6InErrors",
        "ICMPv6 messages received that were of no use: checksum, length, nobody asked.",
    ),
    ("Icmp6OutMsgs", "ICMPv6 messages sent. Rises in normal service."),
    (
        "Icmp6OutErrors",
        "ICMPv6 messages that could not be sent. Should stay at 0.",
    ),
    (
        "Icmp6InCsumErrors",
        "ICMPv6 messages dropped for a wrong checksum. Should stay at 0.",
    ),
    (
        "Icmp6OutRateLimitHost",
        "ICMPv6 messages not sent because of the limit of the whole host (net.ipv4.icmp_msgs_per_sec).",
    ),
];

/// Those of `Icmp6In` and `Icmp6Out`.
const ICMP_MESSAGES: &[(&str, &str)] = &[
    (
        "DestUnreachs",
        "something cannot be reached: closed UDP ports, mostly",
    ),
    (
        "PktTooBigs",
        "a packet is too big for a link on its way; the path MTU cannot be found without",
    ),
    (
        "TimeExcds",
        "a hop limit ran out, or the rest of a fragmented packet did not come",
    ),
    ("ParmProblems", "a header was not understood"),
    ("Echos", "echo requests (ping)"),
    ("EchoReplies", "answers to echo requests"),
    ("GroupMembQueries", "multicast routers ask who listens"),
    (
        "GroupMembResponses",
        "somebody listens to a multicast group (MLDv1)",
    ),
    (
        "GroupMembReductions",
        "somebody does not listen to a multicast group any more",
    ),
    ("RouterSolicits", "hosts ask for a router"),
    (
        "RouterAdvertisements",
        "routers say that they are there, and what prefixes are",
    ),
    (
        "NeighborSolicits",
        "a link-layer address is asked for, or whether it is still there",
    ),
    ("NeighborAdvertisements", "a link-layer address is given"),
    ("Redirects", "a router says that another is nearer"),
    (
        "MLDv2Reports",
        "somebody listens, or no longer, to multicast groups (MLDv2)",
    ),
];

/// The HELP text of the counter that the kernel calls `kernel`; `number` is the message type that its name ends with, if any.
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
        return format!("ICMPv6 messages {direction}, by their type. ({kernel}* in {file})");
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
