//! The meaning of each counter, for operators.

/// A line for each counter, in the order of `docs/kernel-counters.md`: the kernel's name, and the meaning. `Udp6` also means
/// `UdpLite6`, and `Icmp6*` means `Icmp6In` and `Icmp6Out`.
const MEANINGS: &str = include_str!("help.txt");

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

fn known(kernel: &str) -> Option<String> {
    let find = |name: &str| {
        MEANINGS
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
    };
    if let Some(text) = find(&kernel.replace("UdpLite6", "Udp6")) {
        return Some(text.to_owned());
    }
    let (name, direction) = match kernel.strip_prefix("Icmp6In") {
        Some(name) => (name, "received"),
        None => (kernel.strip_prefix("Icmp6Out")?, "sent"),
    };
    find(&format!("Icmp6*{name}")).map(|text| format!("ICMPv6 messages {direction}: {text}."))
}
