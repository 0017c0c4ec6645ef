//! The kernel's counters: from prepared files, and compared with the kernel itself and the node exporter.

#![cfg(target_os = "linux")]

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    fs,
    io::{ErrorKind, Read},
    net::{Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket},
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use dualstack_metrics::{
    ClientScopes, KernelCounters, Protocol, ScopedRecorder, ServerBinding, UdpServer,
    kernel::{KernelCountersError, MAX_INTERFACES},
    prometheus::Install,
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use socket2::{Domain, SockRef, Socket, Type};
use test_support::{
    Metrics, Program, V4, V6, assert_samples, eventually, http, in_namespace, ip, link_number, of_server,
    raw, recorded, sample, samples, skip_or_fail, snmp, soon, spawning,
};
use tower::service_fn;

const DOCS: &str = include_str!("../docs/kernel-counters.md");

/// As Linux 6.18 writes it.
const SNMP6: &str = include_str!("kernel/snmp6");

/// Counters, and a recorder of their own.
struct Followed {
    counters: KernelCounters,
    recorder: ScopedRecorder<PrometheusRecorder>,
}

impl Followed {
    fn new(counters: KernelCounters) -> Self {
        let recorder = Install::new(PrometheusBuilder::new()).build_recorder();
        Self { counters, recorder }
    }

    /// Updates as the handler of a client's request would.
    fn try_update(&self) -> Result<(), KernelCountersError> {
        let binding = ServerBinding::new(Protocol::Http, "[::]:7070".parse().unwrap());
        let client = ClientScopes::new(binding).for_client(V6);
        metrics::with_local_recorder(&self.recorder, || client.run(|| self.counters.update()))
    }

    fn metrics(&self) -> Metrics {
        Metrics::from(&self.recorder)
    }

    fn update(&self) -> Metrics {
        self.try_update().unwrap();
        self.metrics()
    }
}

/// A directory in the form of `/proc/net`.
struct ProcNet(PathBuf);

impl ProcNet {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);

        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("dualstack-kernel-{}-{number}", std::process::id()));
        fs::create_dir_all(path.join("dev_snmp6")).unwrap();
        Self(path)
    }

    fn host(&self, text: &str) {
        fs::write(self.0.join("snmp6"), text).unwrap();
    }

    fn interface(&self, name: &str, text: &str) {
        fs::write(self.0.join("dev_snmp6").join(name), text).unwrap();
    }

    fn remove_interface(&self, name: &str) {
        fs::remove_file(self.0.join("dev_snmp6").join(name)).unwrap();
    }

    fn counters(&self) -> KernelCounters {
        KernelCounters::new().proc_net(&self.0)
    }
}

impl Drop for ProcNet {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The rows of the tables in the docs: the kernel's name, the metric's, and the meaning.
fn documented() -> Vec<(&'static str, &'static str, &'static str)> {
    let row = |line: &'static str| {
        let mut cells = line.strip_prefix("| `")?.strip_suffix(" |")?.split(" | ");
        let kernel = cells.next()?.strip_suffix('`')?;
        let metric = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
        Some((kernel, metric, cells.next()?))
    };
    DOCS.lines().filter_map(row).collect()
}

/// The kernel's names and values.
fn parsed(snmp6: &str) -> Vec<(&str, u64)> {
    let words = snmp6
        .lines()
        .map(|line| line.split_once(char::is_whitespace).unwrap());
    words
        .map(|(name, value)| (name, value.trim().parse().unwrap()))
        .collect()
}

/// The series of a counter, by the docs; `None` where they do not have it.
fn series_of(kernel: &str) -> Option<String> {
    for (start, name) in [
        ("Icmp6InType", "icmp6_in_type_total"),
        ("Icmp6OutType", "icmp6_out_type_total"),
    ] {
        if let Some(number) = kernel.strip_prefix(start) {
            return Some(format!("{name}{{type={number:?}}}"));
        }
    }
    let documented = documented();
    let row = documented.iter().find(|(name, _, _)| *name == kernel);
    row.map(|(_, metric, _)| (*metric).to_owned())
}

// From prepared files.

#[test]
fn every_counter_of_a_file_is_set_and_documented() {
    let proc_net = ProcNet::new();
    // Each value is different, so that no two counters can be confused.
    let file: Vec<_> = parsed(SNMP6)
        .iter()
        .zip(1..)
        .map(|(&(name, _), value)| (name, value))
        .collect();
    let lines = file.iter().map(|(name, value)| format!("{name:<32}\t{value}\n"));
    proc_net.host(&lines.collect::<Vec<_>>().concat());

    let metrics = Followed::new(proc_net.counters()).update();
    let expected = file.iter().map(|(name, value)| {
        format!(
            "{} {value}",
            series_of(name).unwrap_or_else(|| panic!("no {name} in the docs"))
        )
    });
    metrics.assert(expected);

    let output = metrics.render();
    let help: BTreeSet<_> = output
        .lines()
        .filter(|line| line.starts_with("# HELP "))
        .collect();
    for (kernel, metric, meaning) in documented() {
        // The text tells an operator which values are normal.
        let expectation = [
            "hould stay at 0",
            "ises in normal service",
            "f it rises",
            "lways 0",
        ];
        assert!(
            !kernel.starts_with("Ip6") || expectation.iter().any(|words| meaning.contains(words)),
            "{kernel}: {meaning}"
        );
        let line = format!("# HELP {metric} {meaning} ({kernel} in /proc/net/snmp6)");
        assert!(help.contains(&*line), "{line}");
    }
    for (metric, kernel, direction) in [
        ("icmp6_in_type_total", "Icmp6InType", "received"),
        ("icmp6_out_type_total", "Icmp6OutType", "sent"),
    ] {
        let line =
            format!("# HELP {metric} ICMPv6 messages {direction}, by type. ({kernel}* in /proc/net/snmp6)");
        assert!(help.contains(&*line), "{line}");
    }
    assert_eq!(help.len(), documented().len() + 2);
}

#[test]
fn unknown_counters_are_named_by_the_rule_and_other_protocols_skipped() {
    let proc_net = ProcNet::new();
    proc_net.host("Ip6InL4SMarks 1\nUdp6GROs\t2\nIcmp6OutFooV9 3\nQuic6InPkts 4\nifIndex 5\n");
    let metrics = Followed::new(proc_net.counters()).update();
    let expected = [
        "ip6_in_l4_s_marks_total 1",
        "udp6_gros_total 2",
        "icmp6_out_foo_v9_total 3",
    ];
    metrics.assert(expected);
    let output = metrics.render();
    assert!(
        output.contains("# HELP udp6_gros_total The kernel's Udp6GROs. (/proc/net/snmp6)\n"),
        "{output}"
    );
}

#[test]
fn without_ipv6_nothing_is_set_and_nothing_fails() {
    let proc_net = ProcNet::new();
    let kernel = Followed::new(proc_net.counters().all_interfaces().interface("eth0"));
    assert_eq!(kernel.update().render(), "");
    fs::remove_dir(proc_net.0.join("dev_snmp6")).unwrap();
    assert_eq!(kernel.update().render(), "");

    // IPv6 is enabled later. There are no interfaces yet.
    proc_net.host("Ip6InReceives 1\n");
    kernel.update().assert(["ip6_in_receives_total 1"]);
}

#[test]
fn a_file_that_is_cut_off_anywhere_sets_nothing() {
    let proc_net = ProcNet::new();
    proc_net.host(SNMP6);
    let kernel = Followed::new(proc_net.counters());
    let before = kernel.update().samples();

    let lines = parsed(SNMP6).into_iter();
    let larger = lines.map(|(name, value)| format!("{name}\t{}\n", value + 1_000));
    let larger = larger.collect::<Vec<_>>().concat();
    for end in 0..larger.len() {
        proc_net.host(&larger[..end]);
        let error = kernel.try_update().expect_err(&larger[..end]).to_string();
        assert!(
            error.starts_with(&*proc_net.0.join("snmp6").to_string_lossy()),
            "{error}"
        );
        assert_eq!(kernel.metrics().samples(), before);
    }
    proc_net.host(&larger);
    assert_ne!(kernel.update().samples(), before);
}

#[test]
fn one_malformed_file_sets_nothing_of_the_others() {
    let proc_net = ProcNet::new();
    proc_net.host("Ip6InReceives 5\n");
    proc_net.interface("eth0", "ifIndex 2\nIp6InReceives 3\n");
    proc_net.interface("eth1", "ifIndex 3\nIp6InReceives two\n");
    let kernel = Followed::new(proc_net.counters().all_interfaces());
    let error = kernel.try_update().unwrap_err();
    let path = proc_net.0.join("dev_snmp6/eth1");
    assert_eq!(error.path(), path);
    assert_eq!(
        error.to_string(),
        format!("{}, line 2: expected a number, found \"two\"", path.display())
    );
    assert_eq!(kernel.metrics().render(), "");

    // Not UTF-8.
    fs::write(&path, b"Ip6\xff 1\n").unwrap();
    let error = kernel.try_update().unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with(&format!("cannot read {}: ", path.display())),
        "{error}"
    );
    assert_eq!(kernel.metrics().render(), "");
}

#[test]
fn a_report_of_an_error_has_its_cause_once() {
    let proc_net = ProcNet::new();
    let path = proc_net.0.join("snmp6");
    fs::create_dir(&path).unwrap();
    let error: KernelCountersError = proc_net.counters().update().unwrap_err();
    let message = format!("cannot read {}: Is a directory (os error 21)", path.display());
    assert_eq!(test_support::report(&error), [message]);
    assert_eq!(error.io_error().unwrap().kind(), ErrorKind::IsADirectory);
}

#[test]
fn the_series_of_an_interface_that_comes_back_continues() {
    let proc_net = ProcNet::new();
    proc_net.host("Ip6InReceives 100\n");
    let counters = proc_net.counters().interface("eth0").interface("eth0");
    let kernel = Followed::new(counters.interface("../snmp6"));
    let file = |index, received, delivered, msgs| {
        format!("ifIndex {index}\nIp6InReceives {received}\nIp6InDelivers {delivered}\nIcmp6InMsgs {msgs}\n")
    };
    let assert = |received: u64, delivered: u64, msgs: u64, of_type: u64| {
        let named = |name, value| format!("interface_{name}_total{{interface=\"eth0\"}} {value}");
        kernel.update().assert([
            "ip6_in_receives_total 100".into(),
            named("ip6_in_receives", received),
            named("ip6_in_delivers", delivered),
            named("icmp6_in_msgs", msgs),
            format!("interface_icmp6_in_type_total{{interface=\"eth0\",type=\"1\"}} {of_type}"),
        ]);
    };

    proc_net.interface("eth0", &(file(7, 10, 2, 4) + "Icmp6InType1 1\n"));
    assert(10, 2, 4, 1);
    proc_net.remove_interface("eth0");
    assert(10, 2, 4, 1);
    // Another interface with this name, which already has more of some counters.
    proc_net.interface("eth0", &file(8, 11, 0, 5));
    assert(21, 2, 9, 1);
    proc_net.interface("eth0", &(file(8, 12, 1, 6) + "Icmp6InType1 2\n"));
    assert(22, 3, 10, 3);
    // The same interface, after IPv6 was disabled and enabled: counters that did not fall started again, too.
    proc_net.interface("eth0", &(file(8, 0, 1, 7) + "Icmp6InType1 2\n"));
    assert(22, 4, 17, 5);
    // On a 32-bit machine this counter wraps alone.
    proc_net.interface("eth0", &(file(8, 0, 1, 2) + "Icmp6InType1 2\n"));
    assert(22, 4, 19, 5);
}

#[test]
fn the_number_of_interfaces_has_a_limit() {
    let proc_net = ProcNet::new();
    proc_net.host("Ip6InReceives 1\n");
    let kernel = Followed::new(proc_net.counters().all_interfaces());
    for round in 0..3 {
        for number in 0..200 {
            proc_net.interface(&format!("veth{round}x{number}"), "ifIndex 1\nIp6InReceives 1\n");
        }
        kernel.update();
        for number in 0..200 {
            proc_net.remove_interface(&format!("veth{round}x{number}"));
        }
    }
    let followed = kernel.update().series("interface_ip6_in_receives_total");
    assert_eq!(followed.len(), MAX_INTERFACES);
}

/// How many times this thread has called `read`. `None` where the kernel does not count it.
fn read_calls() -> Option<u64> {
    // One call, whatever the length of the text.
    let mut text = [0; 1_024];
    let len = fs::File::open("/proc/thread-self/io")
        .ok()?
        .read(&mut text)
        .ok()?;
    let text = std::str::from_utf8(&text[..len]).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("syscr: "))?;
    Some(line.parse().unwrap())
}

#[test]
fn files_of_interfaces_beyond_the_limit_are_not_read() {
    let proc_net = ProcNet::new();
    proc_net.host("Ip6InReceives 1\n");
    for number in 0..MAX_INTERFACES {
        proc_net.interface(&format!("eth{number:03}"), "ifIndex 1\nIp6InReceives 1\n");
    }
    let kernel = Followed::new(proc_net.counters().all_interfaces());
    let followed = kernel.update().samples();
    assert_eq!(followed.len(), 1 + MAX_INTERFACES);
    let reads_of_an_update = || {
        let before = read_calls();
        kernel.try_update().unwrap();
        Some(read_calls()? - before?)
    };
    let reads = reads_of_an_update();

    // Neither is a file that can be read as counters.
    proc_net.interface("malformed", "Ip6InReceives two\n");
    fs::create_dir(proc_net.0.join("dev_snmp6/unreadable")).unwrap();
    for number in 0..100 {
        proc_net.interface(&format!("veth{number}"), "ifIndex 1\nIp6InReceives 1\n");
    }
    match reads {
        Some(_) => assert_eq!(reads_of_an_update(), reads),
        None => skip_or_fail("no /proc/thread-self/io"),
    }
    assert_eq!(kernel.update().samples(), followed);

    // A followed interface is still checked.
    proc_net.interface("eth000", "Ip6InReceives two\n");
    let error = kernel.try_update().unwrap_err();
    assert_eq!(error.path(), proc_net.0.join("dev_snmp6/eth000"));
}

// From the kernel's own files, in a network namespace with nothing but loopback.

/// Runs a program to its end. False if it is not installed; prints that the test is skipped.
fn run(program: &str, args: &str) -> bool {
    let mut command = Command::new(program);
    command.args(args.split_whitespace()).stdout(Stdio::null());
    match spawning(|| command.status()) {
        Ok(status) => {
            assert!(status.success(), "{program} {args}: {status}");
            true
        }
        Err(error) => {
            skip_or_fail(&format!("{program}: {error}"));
            false
        }
    }
}

/// The host's counters now.
fn now() -> BTreeMap<String, u64> {
    Followed::new(KernelCounters::new()).update().values()
}

/// Asserts by how much `traffic` moves the counters. All others must not move.
#[track_caller]
fn assert_moves(traffic: impl FnOnce(), expected: &[(&str, u64)]) {
    let before = now();
    traffic();
    let after = now();
    let moved = after.into_iter().filter_map(|(series, value)| {
        let by = value - before.get(&series).copied().unwrap_or(0);
        (by > 0).then(|| format!("{series} {by}"))
    });
    let expected = expected.iter().map(|(series, by)| format!("{series} {by}"));
    assert_samples(moved.collect(), expected);
}

fn loopback_socket() -> UdpSocket {
    UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap()
}

const LOOPBACK_OF_1500: &str = "ip link set lo mtu 1500";

#[test]
fn they_equal_the_node_exporters() {
    in_namespace(LOOPBACK_OF_1500, || {
        let address: SocketAddr = "127.0.0.1:9100".parse().unwrap();
        let args = [
            "--collector.disable-defaults",
            "--collector.netstat",
            "--collector.netstat.fields=.*",
            "--web.listen-address=127.0.0.1:9100",
        ];
        let metrics = || http::request(address, "GET", "/metrics");
        let mut exporter = Command::new("prometheus-node-exporter");
        let Some(_exporter) = Program::start(exporter.args(args), || metrics().is_ok()) else {
            return;
        };
        if !run("ping", "-6 -q -c 3 -i 0.01 -s 3000 ::1") {
            return;
        }
        loopback_socket().send_to(b"to nobody", "[::1]:9").unwrap();

        // The exporter is queried over IPv4, which moves none of these counters.
        let before = now();
        let theirs: BTreeMap<_, f64> = samples(&metrics().unwrap().text())
            .into_iter()
            .filter_map(|line| {
                let (name, value) = line.split_once(' ')?;
                Some((name.to_owned(), value.parse().ok()?))
            })
            .collect();
        assert_eq!(before, now(), "nothing else happens in this namespace");
        assert!(before["ip6_reasm_oks_total"] > 0 && before["udp6_no_ports_total"] > 0);
        let file = fs::read_to_string("/proc/thread-self/net/snmp6").unwrap();
        let mut compared = 0;
        for (kernel, value) in parsed(&file) {
            let (protocol, name) = kernel.split_at(kernel.find('6').unwrap() + 1);
            assert_eq!(
                theirs.get(&format!("node_netstat_{protocol}_{name}")),
                value.to_string().parse().ok().as_ref(),
                "{kernel}"
            );
            match series_of(kernel) {
                Some(series) => assert_eq!(before[&series], value, "{kernel}"),
                // Of a kernel that is newer than the docs.
                None => eprintln!("not in the docs: {kernel}"),
            }
            compared += 1;
        }
        assert_eq!(before.len(), compared);
    });
}

#[test]
fn traffic_moves_the_right_counters() {
    in_namespace(LOOPBACK_OF_1500, || {
        let sender = loopback_socket();
        // Five datagrams of 100 bytes to a closed port, and the ICMPv6 errors, which quote them.
        let to_nobody = || {
            for _ in 0..5 {
                sender.send_to(&[0; 100], "[::1]:9").unwrap();
            }
        };
        let bytes = 5 * (40 + 8 + 100) + 5 * (40 + 8 + 148);
        assert_moves(
            to_nobody,
            &[
                ("ip6_in_receives_total", 10),
                ("ip6_in_delivers_total", 10),
                ("ip6_in_no_ect_pkts_total", 10),
                ("ip6_in_octets_total", bytes),
                ("ip6_out_requests_total", 10),
                ("ip6_out_transmits_total", 10),
                ("ip6_out_octets_total", bytes),
                ("icmp6_in_msgs_total", 5),
                ("icmp6_in_dest_unreachs_total", 5),
                ("icmp6_in_type_total{type=\"1\"}", 5),
                ("icmp6_out_msgs_total", 5),
                ("icmp6_out_dest_unreachs_total", 5),
                ("icmp6_out_type_total{type=\"1\"}", 5),
                ("udp6_no_ports_total", 5),
                ("udp6_out_datagrams_total", 5),
            ],
        );

        // No route: this namespace has nothing but loopback.
        let nowhere = || {
            let error = sender.send_to(&[0; 100], "[2001:db8::1]:9").unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::NetworkUnreachable);
        };
        assert_moves(nowhere, &[("ip6_out_no_routes_total", 1)]);

        // Received, and not delivered.
        assert_moves(
            || raw::send_broken_headers(3),
            &[
                ("ip6_in_receives_total", 3),
                ("ip6_in_hdr_errors_total", 3),
                ("ip6_in_octets_total", 3 * 40),
                ("ip6_out_requests_total", 3),
                ("ip6_out_transmits_total", 3),
                ("ip6_out_octets_total", 3 * 40),
            ],
        );

        let marks = || {
            let receiver = loopback_socket();
            let to = receiver.local_addr().unwrap();
            for (mark, count) in [(0, 2), (1, 3), (2, 4), (3, 5)] {
                SockRef::from(&sender).set_tclass_v6(mark).unwrap();
                for _ in 0..count {
                    sender.send_to(&[0; 10], to).unwrap();
                    receiver.recv(&mut [0; 16]).unwrap();
                }
            }
        };
        assert_moves(
            marks,
            &[
                ("ip6_in_receives_total", 14),
                ("ip6_in_delivers_total", 14),
                ("ip6_in_no_ect_pkts_total", 2),
                ("ip6_in_ect1_pkts_total", 3),
                ("ip6_in_ect0_pkts_total", 4),
                ("ip6_in_ce_pkts_total", 5),
                ("ip6_in_octets_total", 14 * 58),
                ("ip6_out_requests_total", 14),
                ("ip6_out_transmits_total", 14),
                ("ip6_out_octets_total", 14 * 58),
                ("udp6_in_datagrams_total", 14),
                ("udp6_out_datagrams_total", 14),
            ],
        );
    });
}

#[test]
fn a_large_ping_moves_fragmentation_and_reassembly() {
    in_namespace(LOOPBACK_OF_1500, || {
        // Three requests and their answers, each in three fragments: 1,448 + 1,448 + 112 of 3,008 bytes.
        if !run("ping", "-6 -q -c 1 ::1") {
            return;
        }
        let ping = || assert!(run("ping", "-6 -q -c 3 -i 0.01 -s 3000 ::1"));
        let bytes = 6 * (3 * (40 + 8) + 3_008);
        assert_moves(
            ping,
            &[
                ("ip6_in_receives_total", 18),
                ("ip6_in_delivers_total", 6),
                ("ip6_in_no_ect_pkts_total", 18),
                ("ip6_in_octets_total", bytes),
                ("ip6_out_requests_total", 6),
                ("ip6_out_transmits_total", 18),
                ("ip6_out_octets_total", bytes),
                ("ip6_frag_creates_total", 18),
                ("ip6_frag_oks_total", 6),
                ("ip6_reasm_reqds_total", 18),
                ("ip6_reasm_oks_total", 6),
                ("icmp6_in_msgs_total", 6),
                ("icmp6_in_echos_total", 3),
                ("icmp6_in_echo_replies_total", 3),
                ("icmp6_in_type_total{type=\"128\"}", 3),
                ("icmp6_in_type_total{type=\"129\"}", 3),
                ("icmp6_out_msgs_total", 6),
                ("icmp6_out_echos_total", 3),
                ("icmp6_out_echo_replies_total", 3),
                ("icmp6_out_type_total{type=\"128\"}", 3),
                ("icmp6_out_type_total{type=\"129\"}", 3),
            ],
        );
    });
}

#[test]
fn a_thread_with_its_own_network_namespace_has_its_own_counters() {
    in_namespace("", || {
        let sender = loopback_socket();
        for _ in 0..5 {
            sender.send_to(b"to nobody", "[::1]:9").unwrap();
        }
        let now = now();
        assert_eq!(
            (now["udp6_out_datagrams_total"], now["udp6_no_ports_total"]),
            (5, 5)
        );
    });
}

#[test]
fn packets_to_no_address_are_address_errors() {
    in_namespace(raw::LINK, || {
        let errors = || now()["ip6_in_addr_errors_total"];
        assert_eq!(errors(), 0);
        raw::send_to_no_address(2);
        // The first waits for the neighbour's address.
        eventually("both are received", || errors() == 2);
        let series = r#"interface_ip6_in_addr_errors_total{interface="v1"}"#;
        let kernel = Followed::new(KernelCounters::new().interface("v1"));
        assert_eq!(kernel.update().values()[series], 2);
    });
}

#[test]
fn drops_at_a_socket_are_the_kernels() {
    in_namespace("", || {
        for address in ["[::]:6969", "0.0.0.0:6970"] {
            drops_at(address.parse().unwrap());
        }
    });
}

/// Floods a socket before its server receives, then runs the server.
fn drops_at(address: SocketAddr) {
    const FROM_EACH: u64 = 500;

    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None).unwrap();
    socket.set_recv_buffer_size(16_384).unwrap();
    if address.is_ipv6() {
        socket.set_only_v6(false).unwrap();
    }
    socket.bind(&address.into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let labels = of_server("udp", address);

    recorded(async |metrics| {
        let shown = |drops: u64| {
            let expected = sample("s_socket_drops_total", &labels, drops);
            assert_samples(metrics.series("s_socket_drops_total"), [expected]);
        };
        let socket = tokio::net::UdpSocket::from_std(socket.into()).unwrap();
        let server = UdpServer::new(socket).unwrap().metrics_prefix("s");
        let server = server.serve(service_fn(async |_| Ok::<_, Infallible>(None)));
        let drops = server.socket_drops();
        let again = server.socket_drops();
        drops.update().unwrap();
        shown(0);

        let (before, before_v4) = (now(), snmp("Udp", "RcvbufErrors"));
        let mut sent = 0;
        for ip in [V4, V6] {
            if ip.is_ipv6() && address.is_ipv4() {
                continue;
            }
            let sender = UdpSocket::bind((ip, 0)).unwrap();
            for _ in 0..FROM_EACH {
                sender.send_to(&[0; 100], (ip, address.port())).unwrap();
            }
            sent += FROM_EACH;
        }
        let dropped = kernel_drops(address);
        assert!(0 < dropped && dropped < sent, "{dropped}");
        drops.update().unwrap();
        shown(dropped);
        // No drop is counted twice, not even by another handle.
        drops.update().unwrap();
        again.update().unwrap();
        shown(dropped);

        let moved = now()["udp6_rcvbuf_errors_total"] - before["udp6_rcvbuf_errors_total"];
        assert_eq!(moved + snmp("Udp", "RcvbufErrors") - before_v4, dropped);
        assert_eq!(moved > 0, address.is_ipv6());

        // The other datagrams are served.
        let all_are_received = || metrics.total("s_requests_received_total") == sent - dropped;
        tokio::select! {
            _ = server => unreachable!("it serves until it is dropped"),
            () = soon("all are received", all_are_received) => {}
        }
        drops.update().unwrap();
        shown(dropped);
    });
}

/// The last column of the kernel's table.
fn kernel_drops(address: SocketAddr) -> u64 {
    let path = if address.is_ipv6() {
        "/proc/thread-self/net/udp6"
    } else {
        "/proc/thread-self/net/udp"
    };
    let table = fs::read_to_string(path).unwrap();
    let port = format!(":{:04X}", address.port());
    let mut lines = table.lines().filter(|line| {
        let local = line.split_whitespace().nth(1);
        local.is_some_and(|local| local.ends_with(&port))
    });
    let line = lines.next().expect(&table);
    assert_eq!(lines.next(), None);
    line.split_whitespace().next_back().unwrap().parse().unwrap()
}

#[test]
fn interfaces_come_and_go() {
    in_namespace("", || {
        const SENT: &str = "interface_ip6_out_requests_total{interface=\"v0\"}";

        let add = || {
            ip("link add v0 type veth peer name v1");
            ip("addr add fe80::1/64 dev v0 nodad");
            ip("link set v1 up");
            ip("link set v0 up");
        };
        let kernel = Followed::new(KernelCounters::new().interface("v0").all_interfaces());
        let update = || kernel.update().values();
        let file = || fs::read_to_string("/proc/thread-self/net/dev_snmp6/v0").unwrap();
        let sends = |more_than: u64| {
            // The kernel checks whether the link-local address is free, and looks for routers.
            eventually("packets leave v0", || {
                update().get(SENT).is_some_and(|sent| *sent > more_than)
            });
        };

        assert!(!update().contains_key(SENT));
        add();
        sends(0);
        for lost_by in ["link del v0", "link set v0 mtu 1000"] {
            // Many more than it sends by itself: counters that start again are below these.
            let all_nodes = SocketAddrV6::new("ff02::1".parse().unwrap(), 9, 0, link_number("v0"));
            let sender = UdpSocket::bind("[::]:0").unwrap();
            for _ in 0..100 {
                sender.send_to(b"x", all_nodes).unwrap();
            }
            let mut before = update();
            ip(lost_by);
            eventually("the file is gone", || {
                !fs::exists("/proc/thread-self/net/dev_snmp6/v0").unwrap()
            });
            let gone = update();
            assert!(before.iter().all(|(series, value)| gone[series] >= *value));
            before = gone;

            if lost_by == "link del v0" {
                add();
            } else {
                ip("link set v0 mtu 1500");
                ip("link set v0 down");
                ip("link set v0 up");
            }
            sends(before[SENT]);
            // The values are those from before plus the kernel's, once nothing is sent in between.
            eventually("the old and the new are the sum", || {
                let (old, shown, new) = (file(), update(), file());
                old == new
                    && parsed(&new)
                        .iter()
                        .filter(|(name, _)| *name != "ifIndex")
                        .all(|(kernel, value)| {
                            let Some(series) = series_of(kernel) else {
                                return true;
                            };
                            let series = match series.split_once('{') {
                                Some((name, label)) => format!("interface_{name}{{interface=\"v0\",{label}"),
                                None => format!("interface_{series}{{interface=\"v0\"}}"),
                            };
                            shown[&series] == before.get(&series).copied().unwrap_or(0) + value
                        })
            });
        }
        let labelled: BTreeSet<_> = update()
            .into_keys()
            .filter(|series| series.starts_with("interface_"))
            .collect();
        for interface in ["lo", "v0", "v1"] {
            let label = format!("interface=\"{interface}\"");
            assert!(
                labelled.iter().any(|series| series.contains(&label)),
                "{interface}"
            );
        }
    });
}
