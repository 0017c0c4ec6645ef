//! The rules, alerts and dashboards, against Debian's Prometheus and the tracker, in network namespaces where the ports
//! of their configuration are free.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    net::{IpAddr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use aquatic_udp_protocol::AnnounceEvent;
use serde_json::Value;
use test_support::{
    Program, Signal, V4, V6, eventually,
    http::{get, request},
    in_namespace, raw, skip_or_fail, spawning,
};

use crate::{
    clients::{TORRENT, UdpClient, announce, escaped},
    running::{Tracker, at},
};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const DASHBOARDS: [&str; 4] = ["families", "http-tracker", "kernel", "udp-tracker"];
const RULES: [&str; 2] = ["recording", "alerts"];

fn file(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap()
}

fn dashboard(name: &str) -> Value {
    serde_json::from_str(&file(&format!("dashboards/{name}.json"))).unwrap()
}

fn array<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key]
        .as_array()
        .unwrap_or_else(|| panic!("no {key} in {value}"))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key]
        .as_str()
        .unwrap_or_else(|| panic!("no {key} in {value}"))
}

/// All panels but the headings.
fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    array(dashboard, "panels")
        .iter()
        .filter(|panel| panel["type"] != "row")
}

fn variables(dashboard: &Value) -> &[Value] {
    array(&dashboard["templating"], "list")
}

/// The expressions of a rules file, each an indented block.
fn expressions(rules: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = rules.lines().peekable();
    while let Some(line) = lines.next() {
        if line.trim() != "expr: |" {
            continue;
        }
        let margin = line.len() - line.trim_start().len() + 2;
        let mut block = String::new();
        while let Some(line) = lines.next_if(|line| line.starts_with(&" ".repeat(margin))) {
            block += &line[margin..];
            block += "\n";
        }
        found.push(block);
    }
    found
}

/// The operands of an alert's expression, between the lines that start with an operator. While nothing is wrong, an alert
/// returns nothing, but its operands return data.
fn operands(alert: &str) -> Vec<String> {
    let is_operator = |line: &str| {
        ["and", "unless", "> ", "< "]
            .iter()
            .any(|start| line.starts_with(start))
    };
    let mut operands = vec![String::new()];
    for line in alert.lines() {
        if is_operator(line) {
            operands.push(String::new());
        } else {
            let last = operands.last_mut().unwrap();
            *last += line;
            *last += "\n";
        }
    }
    operands.retain(|operand| !operand.is_empty());
    operands
}

#[test]
fn dashboards_have_their_variables_and_units() {
    let mut seen = BTreeSet::new();
    for name in DASHBOARDS {
        let dashboard = dashboard(name);
        assert!(seen.insert(text(&dashboard, "uid").to_owned()), "{name}");
        let names: BTreeSet<_> = variables(&dashboard)
            .iter()
            .map(|variable| text(variable, "name"))
            .collect();
        let expected: &[&str] = match name {
            "families" => &["datasource", "family", "instance", "job", "metric", "port"],
            "kernel" => &["datasource", "instance", "interface", "job"],
            _ => &["datasource", "family", "instance", "job", "port"],
        };
        assert!(names.iter().eq(expected), "{name}: {names:?}");
        let mut ids = BTreeSet::new();
        for panel in panels(&dashboard) {
            let title = text(panel, "title");
            let unit = text(&panel["fieldConfig"]["defaults"], "unit");
            let known = ["Bps", "cps", "ops", "percentunit", "pps", "reqps", "short"];
            assert!(known.contains(&unit), "{name}, {title}: {unit}");
            assert!(!text(panel, "description").is_empty(), "{name}, {title}");
            assert_eq!(text(&panel["datasource"], "uid"), "${datasource}");
            assert!(ids.insert(panel["id"].as_u64()), "{name}, {title}");
            for target in array(panel, "targets") {
                let used = text(target, "expr").split('$').skip(1).map(|rest| {
                    let end = rest.find(|c: char| c != '_' && !c.is_ascii_alphabetic());
                    &rest[..end.unwrap_or(rest.len())]
                });
                for variable in used {
                    assert!(
                        variable == "__rate_interval" || names.contains(variable),
                        "{title}: {variable}"
                    );
                }
            }
        }
    }
    let files = fs::read_dir(Path::new(ROOT).join("dashboards")).unwrap();
    assert_eq!(files.count(), DASHBOARDS.len());
}

/// Runs promtool. Returns whether it succeeded and what it printed, or `None` where it is not installed.
fn promtool(args: &[&str], input: &str) -> Option<(bool, String)> {
    let mut command = Command::new("promtool");
    command
        .current_dir(ROOT)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = match spawning(|| command.spawn()) {
        Ok(child) => child,
        Err(error) => {
            skip_or_fail(&format!("promtool: {error}"));
            return None;
        }
    };
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8(said).unwrap()))
}

#[test]
fn promtool_finds_the_configurations_right() {
    for args in [
        &["check", "config", "prometheus/prometheus.yml"][..],
        &["check", "config", "prometheus/federation/leaf-a.yml"],
        &["check", "config", "prometheus/federation/leaf-b.yml"],
        &["check", "config", "prometheus/federation/top.yml"],
        &[
            "check",
            "rules",
            "prometheus/rules/recording.yml",
            "prometheus/rules/alerts.yml",
        ],
        &["check", "rules", "prometheus/federation/top-rules.yml"],
    ] {
        let Some((succeeded, said)) = promtool(args, "") else {
            return;
        };
        assert!(succeeded && !said.contains("lint error"), "{args:?}: {said}");
    }
}

#[test]
fn each_alert_fires_and_stays_quiet() {
    let tests = "prometheus/tests/alerts_test.yml";
    let args = ["test", "rules", "prometheus/tests/recording_test.yml", tests];
    let Some((succeeded, said)) = promtool(&args, "") else {
        return;
    };
    assert!(succeeded, "{said}");

    let tests = file(tests);
    for line in file("prometheus/rules/alerts.yml").lines() {
        let Some(alert) = line.trim().strip_prefix("- alert: ") else {
            continue;
        };
        let expectations: BTreeSet<_> = tests
            .split("alertname: ")
            .filter_map(|rest| rest.split_once('\n'))
            .filter(|(name, _)| *name == alert)
            .map(|(_, rest)| rest.trim_start().starts_with("exp_alerts: []"))
            .collect();
        assert_eq!(expectations, [false, true].into(), "{alert}");
    }
}

/// A Prometheus with one of our configurations, which scrapes every second.
struct Prometheus {
    _program: Program,
    address: SocketAddr,
    directory: PathBuf,
}

impl Prometheus {
    /// `None`, with a line that says so, where Prometheus is not installed.
    fn start(config: &str, port: u16) -> Option<Self> {
        let name = config.replace('/', "-");
        let directory = std::env::temp_dir().join(format!("dualstack-{}-{name}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = Path::new(ROOT).join("prometheus").join(config);
        let folder = path.parent().unwrap().display();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.matches("15s").count(), 2);
        let mut text = text.replace("15s", "1s");
        for rules in ["../rules/*.yml", "rules/*.yml", "top-rules.yml"] {
            text = text.replace(&format!("  - {rules}\n"), &format!("  - {folder}/{rules}\n"));
        }
        fs::write(directory.join("config.yml"), text).unwrap();

        let address = SocketAddr::new(V4, port);
        let mut command = Command::new("prometheus");
        command
            .current_dir(&directory)
            .args([
                "--config.file=config.yml",
                "--storage.tsdb.path=data",
                "--log.level=warn",
            ])
            .arg(format!("--web.listen-address={address}"));
        let is_ready = || request(address, "GET", "/-/ready").is_ok_and(|answer| answer.status == 200);
        Some(Self {
            _program: Program::start(&mut command, is_ready)?,
            address,
            directory,
        })
    }

    fn api(&self, path: &str) -> Value {
        let answer = get(self.address, &format!("/api/v1/{path}"));
        let json: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(json["status"], "success", "{path}: {json}");
        json["data"].clone()
    }

    /// What an instant query returns, with its labels.
    fn query(&self, expression: &str) -> Vec<Value> {
        let data = self.api(&format!("query?query={}", escaped(expression.as_bytes())));
        array(&data, "result").to_vec()
    }

    /// The values that it returns, by one label.
    fn query_by(&self, label: &str, expression: &str) -> BTreeMap<String, f64> {
        let result = self.query(expression);
        let pairs = result.iter().map(|sample| {
            let value = sample["value"][1].as_str().unwrap();
            (text(&sample["metric"], label).to_owned(), value.parse().unwrap())
        });
        pairs.collect()
    }

    fn alerts(&self) -> BTreeSet<(String, String)> {
        let data = self.api("alerts");
        let alerts = array(&data, "alerts").iter();
        alerts
            .map(|alert| {
                (
                    text(&alert["labels"], "alertname").to_owned(),
                    text(alert, "state").to_owned(),
                )
            })
            .collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Every kind of request, of both families and over both protocols.
fn load_once(tracker: &Tracker, clients: &[UdpClient; 2]) {
    for (ip, client) in [V4, V6].into_iter().zip(clients) {
        client.announce(TORRENT, 6881, AnnounceEvent::Started);
        client.announce(TORRENT, 6881, AnnounceEvent::Completed);
        client.scrape(&[TORRENT]);
        client.send(b"no request");
        announce(at(ip, tracker.http[0]), TORRENT, 6882);
        get(
            at(ip, tracker.http[0]),
            &format!("/scrape?info_hash={}", escaped(&TORRENT)),
        );
    }
}

fn udp_clients(tracker: &Tracker) -> [UdpClient; 2] {
    [V4, V6].map(|ip| UdpClient::connected(at(ip, tracker.udp[0])))
}

/// A namespace with the links that the kernel's counters need.
fn in_linked_namespace(test: fn()) {
    in_namespace(&format!("ip link set lo mtu 1500\n{}", raw::LINK), test);
}

#[test]
fn every_expression_returns_data() {
    in_linked_namespace(|| {
        let tracker = Tracker::start_as("--kernel-interface lo");
        let Some(prometheus) = Prometheus::start("prometheus.yml", 9090) else {
            return;
        };
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let clients = udp_clients(&tracker);
                while !is_over.load(Ordering::Relaxed) {
                    load_once(&tracker, &clients);
                    thread::sleep(Duration::from_millis(100));
                }
            });
            let _stop = OnDrop(|| is_over.store(true, Ordering::Relaxed));
            assert_rules_return_data(&prometheus);
            assert_dashboards_return_data(&prometheus);
            // No alert fires, but one can be pending, because the families differ at the very start.
            assert!(!prometheus.alerts().iter().any(|(_, state)| state == "firing"));
            eventually("no alert is pending", || prometheus.alerts().is_empty());
        });

        let metrics = get(tracker.metrics, "/metrics");
        if let Some((succeeded, said)) = promtool(&["check", "metrics"], &metrics.text()) {
            assert!(succeeded && said.is_empty(), "{said}");
        }
        assert_the_kernels_alerts_fire(&prometheus, &tracker);
    });
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        self.0();
    }
}

#[track_caller]
fn assert_returns_data(prometheus: &Prometheus, what: &str, expression: &str) {
    eventually(&format!("data for {what}: {expression}"), || {
        !prometheus.query(expression).is_empty()
    });
}

fn assert_rules_return_data(prometheus: &Prometheus) {
    let [recording, alerts] = RULES.map(|name| expressions(&file(&format!("prometheus/rules/{name}.yml"))));
    for expression in &recording {
        assert_returns_data(prometheus, "a rule", expression);
    }
    for operand in alerts.iter().flat_map(|alert| operands(alert)) {
        assert_returns_data(prometheus, "an alert", &operand);
    }

    // Prometheus has as many, finds nothing wrong with them, and returns what they record.
    let data = prometheus.api("rules");
    let rules = || {
        array(&data, "groups")
            .iter()
            .flat_map(|group| array(group, "rules"))
    };
    assert_eq!(rules().count(), recording.len() + alerts.len());
    for rule in rules() {
        assert_eq!(text(rule, "health"), "ok", "{rule}");
        if rule["type"] == "recording" {
            assert_returns_data(prometheus, "what is recorded", text(rule, "name"));
        }
    }
}

fn assert_dashboards_return_data(prometheus: &Prometheus) {
    // Grafana's `label_values`, as the query that it sends.
    let label_values = |query: &str| {
        let inner = query.strip_prefix("label_values(")?.strip_suffix(')')?;
        let (selector, label) = inner.rsplit_once(", ")?;
        Some((format!("count by ({label}) ({selector})"), label.to_owned()))
    };
    let with_variables = |expression: &str, metric: &str| {
        let mut expression = expression
            .replace("$__rate_interval", "1m")
            .replace("$metric", metric);
        for variable in ["job", "instance", "port", "family", "interface"] {
            expression = expression.replace(&format!("\"${variable}\""), "\".*\"");
        }
        assert!(!expression.contains('$'), "{expression}");
        expression
    };
    for name in DASHBOARDS {
        let dashboard = dashboard(name);
        let mut metrics = BTreeSet::from([String::new()]);
        for variable in variables(&dashboard)
            .iter()
            .filter(|variable| variable["type"] == "query")
        {
            let (query, label) = label_values(text(&variable["query"], "query")).unwrap();
            let query = with_variables(&query, "");
            assert_returns_data(prometheus, name, &query);
            if text(variable, "name") == "metric" {
                assert_eq!(text(variable, "regex"), "/_total$/");
                metrics = prometheus.query_by(&label, &query).into_keys().collect();
                metrics.retain(|metric| metric.ends_with("_total"));
                assert!(
                    metrics.contains("http_tracker_core_requests_received_total"),
                    "{metrics:?}"
                );
                assert!(
                    metrics.contains("udp_tracker_server_requests_received_total"),
                    "{metrics:?}"
                );
            }
        }
        for panel in panels(&dashboard) {
            for target in array(panel, "targets") {
                for metric in &metrics {
                    let expression = with_variables(text(target, "expr"), metric);
                    let what = format!("{name}, {}", text(panel, "title"));
                    assert_returns_data(prometheus, &what, &expression);
                }
            }
        }
    }
}

/// Causes what the alerts of the kernel's counters are about. The one on fragments only fires after five minutes.
fn assert_the_kernels_alerts_fire(prometheus: &Prometheus, tracker: &Tracker) {
    raw::send_broken_headers(1);
    raw::send_to_no_address(1);
    let sender = UdpSocket::bind((V6, 0)).unwrap();
    // In three fragments.
    sender.send_to(&[0; 3_000], at(V6, tracker.udp[0])).unwrap();

    // A tracker that does not receive for a while.
    tracker.signal(Signal::SIGSTOP);
    for _ in 0..5_000 {
        sender.send_to(b"no request", at(V6, tracker.udp[0])).unwrap();
    }
    tracker.signal(Signal::SIGCONT);

    let alert = |name: &str, state: &str| (name.to_owned(), state.to_owned());
    let expected = BTreeSet::from([
        alert("Ip6AddressErrors", "firing"),
        alert("Ip6FragmentsReceived", "pending"),
        alert("Ip6HeaderErrors", "firing"),
        alert("Udp6ReceiveBufferErrors", "firing"),
        alert("UdpSocketDrops", "firing"),
    ]);
    eventually("the alerts fire", || prometheus.alerts().is_superset(&expected));
    let drops = prometheus.query_by("server_binding_port", "udp_tracker_server_socket_drops_total");
    let errors = prometheus.query_by("instance", "udp6_rcvbuf_errors_total");
    assert!(drops["6969"] > 0.0);
    assert_eq!(drops.get("6969"), errors.get("127.0.0.1:1212"));
}

#[test]
fn the_sums_above_two_are_what_was_sent() {
    in_linked_namespace(|| {
        let trackers = [
            Tracker::start_as("--no-kernel --metrics 127.0.0.1:1212 --udp [::]:6969 --http [::]:7070"),
            Tracker::start_as(
                "--no-kernel --metrics 127.0.0.1:1213 --udp [::]:6979 --udp 0.0.0.0:6980 --http [::]:7080",
            ),
        ];
        let started = [
            ("federation/leaf-a.yml", 9091),
            ("federation/leaf-b.yml", 9092),
            ("federation/top.yml", 9090),
        ]
        .map(|(config, port)| Prometheus::start(config, port));
        let [Some(_a), Some(_b), Some(top)] = started else {
            return;
        };

        let udp = |server: SocketAddr, ip: IpAddr, count: usize| {
            let mut client = UdpClient::new(at(ip, server));
            for _ in 0..count {
                client.connect();
            }
        };
        let http = |server: SocketAddr, ip: IpAddr, count: usize| {
            for _ in 0..count {
                announce(at(ip, server), TORRENT, 6881);
            }
        };
        let [a, b] = &trackers;
        assert!(!get(a.metrics, "/metrics").text().contains("ip6_"));
        udp(a.udp[0], V4, 3);
        udp(a.udp[0], V6, 5);
        udp(b.udp[0], V4, 7);
        udp(b.udp[0], V6, 11);
        udp(b.udp[1], V4, 13);
        http(a.http[0], V4, 2);
        http(a.http[0], V6, 4);
        http(b.http[0], V6, 6);

        let sums = |protocol: &str| {
            let total = format!("top_client:requests_received:sum{{server_binding_protocol={protocol:?}}}");
            top.query_by(
                "client_address_ip_family",
                &format!("sum by (client_address_ip_family) ({total})"),
            )
        };
        let families =
            |inet: f64, inet6: f64| BTreeMap::from([("inet".to_owned(), inet), ("inet6".to_owned(), inet6)]);
        eventually("all of it is above", || {
            sums("udp") == families(23.0, 16.0) && sums("http") == families(2.0, 10.0)
        });
        let by_type = top.query_by(
        "client_address_ip_type",
        r#"top_client:requests_received:sum{server_binding_protocol="udp",client_address_ip_family="inet"}"#,
    );
        assert_eq!(
            by_type,
            BTreeMap::from([("plain".to_owned(), 13.0), ("v4_mapped_v6".to_owned(), 10.0)])
        );

        // The rates have data.
        for rule in expressions(&file("prometheus/federation/top-rules.yml")) {
            eventually(&format!("data above for {rule}"), || {
                udp(a.udp[0], V4, 1);
                udp(b.udp[0], V6, 1);
                !top.query(&rule).is_empty()
            });
        }
        // No series of an instance reaches the top.
        assert_eq!(
            top.query("udp_tracker_server_requests_received_total"),
            [] as [Value; 0]
        );
    });
}
