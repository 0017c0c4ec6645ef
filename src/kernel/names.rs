//! Makes the name of a metric from the kernel's name of a counter.

/// The name of a metric, without the prefix of an interface, and the value of its label `type`.
pub(super) type Metric<'a> = (String, Option<&'a str>);

const PROTOCOLS: [&str; 4] = ["UdpLite6", "Icmp6", "Udp6", "Ip6"];

/// `None` for a counter of another protocol.
pub(super) fn metric(kernel: &str) -> Option<Metric<'_>> {
    let (protocol, rest) = PROTOCOLS
        .iter()
        .find_map(|protocol| Some((protocol, kernel.strip_prefix(protocol)?)))?;
    let protocol = protocol.to_ascii_lowercase();
    for (start, name) in [("InType", "in_type"), ("OutType", "out_type")] {
        if let Some(number) = rest.strip_prefix(start)
            && protocol == "icmp6"
            && !number.is_empty()
            && number.bytes().all(|digit| digit.is_ascii_digit())
        {
            return Some((format!("icmp6_{name}_total"), Some(number)));
        }
    }
    let mut name = protocol;
    for word in words(rest) {
        name.push('_');
        name.push_str(&word.to_ascii_lowercase());
    }
    name.push_str("_total");
    Some((name, None))
}

/// Splits `InNoECTPkts` into `In`, `No`, `ECT` and `Pkts`.
fn words(name: &str) -> impl Iterator<Item = &str> {
    let mut rest = name.trim_matches('_');
    std::iter::from_fn(move || {
        let (word, after) = rest.split_at(word_len(rest));
        rest = after.trim_start_matches('_');
        (!word.is_empty()).then_some(word)
    })
}

/// The length of the first word in a name of letters, digits and `_`.
fn word_len(name: &str) -> usize {
    let run = |from: usize, is_in: fn(char) -> bool| {
        let rest = &name[from..];
        from + rest.find(|c| !is_in(c)).unwrap_or(rest.len())
    };
    let is_tail = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();

    let capitals = run(0, |c| c.is_ascii_uppercase());
    let end = run(capitals, is_tail);
    let tail = &name[capitals..end];
    let is_version = tail
        .strip_prefix('v')
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit()));
    let belongs_to_all_capitals =
        tail == "s" || is_version || !tail.starts_with(|c: char| c.is_ascii_lowercase());
    if capitals < 2 || belongs_to_all_capitals {
        end
    } else {
        capitals - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_kernels_in_snake_case() {
        for (kernel, expected) in [
            ("Ip6InReceives", "ip6_in_receives_total"),
            ("Udp6RcvbufErrors", "udp6_rcvbuf_errors_total"),
            ("UdpLite6InDatagrams", "udplite6_in_datagrams_total"),
            ("Ip6InNoECTPkts", "ip6_in_no_ect_pkts_total"),
            ("Ip6InECT1Pkts", "ip6_in_ect1_pkts_total"),
            ("Ip6InECT0Pkts", "ip6_in_ect0_pkts_total"),
            ("Ip6InCEPkts", "ip6_in_ce_pkts_total"),
            ("Ip6ReasmOKs", "ip6_reasm_oks_total"),
            ("Ip6FragOKs", "ip6_frag_oks_total"),
            ("Icmp6OutMLDv2Reports", "icmp6_out_mldv2_reports_total"),
            ("Icmp6OutRateLimitHost", "icmp6_out_rate_limit_host_total"),
            // Names that no kernel has yet.
            ("Ip6OKsAfterMLDv10", "ip6_oks_after_mldv10_total"),
            ("Ip6InL4SPkts", "ip6_in_l4_s_pkts_total"),
            ("Ip6X", "ip6_x_total"),
            ("Ip6", "ip6_total"),
            ("Udp6_In__odd_", "udp6_in_odd_total"),
            ("Icmp6InTypes", "icmp6_in_types_total"),
            ("Icmp6InType", "icmp6_in_type_total"),
            ("Ip6InType3", "ip6_in_type3_total"),
        ] {
            assert_eq!(metric(kernel), Some((expected.into(), None)), "{kernel}");
        }
        assert_eq!(
            metric("Icmp6InType135"),
            Some(("icmp6_in_type_total".into(), Some("135")))
        );
        assert_eq!(
            metric("Icmp6OutType1"),
            Some(("icmp6_out_type_total".into(), Some("1")))
        );
        for other in ["Tcp6InSegs", "ifIndex", "Ip", "IpExtInOctets", ""] {
            assert_eq!(metric(other), None, "{other}");
        }
    }
}
