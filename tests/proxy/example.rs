//! The example `behind_proxy`, as a program.

use std::{net::SocketAddr, path::PathBuf};

use test_support::{
    INET, INET6, Program, assert_samples,
    http::{get, raw},
    on_unix, rejected, requests, sample, samples, seven, skip_or_fail,
};

/// Where Cargo puts examples. It builds them for `cargo test`, but not for `cargo test --test proxy`.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.ancestors().nth(2).unwrap();
    profile.join("examples/behind_proxy")
}

fn program_or_skip() -> Option<String> {
    let program = program();
    if !program.exists() {
        skip_or_fail("run `cargo build --example behind_proxy --features proxy` before");
        return None;
    }
    Some(program.to_str().unwrap().to_owned())
}

fn address(url: &str) -> SocketAddr {
    let address = url.strip_prefix("http://").unwrap();
    address.trim_end_matches("/metrics").parse().unwrap()
}

#[test]
fn it_answers_with_the_labels_that_it_counts_with() {
    let Some(program) = program_or_skip() else { return };
    let start = |from: &str| {
        let args = format!(
            "--listen 127.0.0.1:0 --listen 127.0.0.1:0 --trust 127.0.0.0/8 --trust ::1 --from {from} \
             --metrics 127.0.0.1:0"
        );
        let (program, urls) = Program::listening(&program, &args);
        let [one, two, metrics]: [SocketAddr; 3] = urls
            .iter()
            .map(|url| address(url))
            .collect::<Vec<_>>()
            .try_into()
            .unwrap();
        (program, [one, two], metrics)
    };
    for (from, in_front, header) in [
        ("x-forwarded-for", "", "X-Forwarded-For: 192.0.2.7, 2001:db8::7"),
        ("forwarded", "", "Forwarded: for=\"[2001:db8::7]\""),
        ("cf-connecting-ip", "", "CF-Connecting-IP: 2001:db8::7"),
        ("proxy-protocol", "PROXY TCP6 2001:db8::7 ::1 1 1\r\n", "A: b"),
    ] {
        let (program, [one, two], metrics) = start(&in_mixed_case(from));
        let request = |header: &str| {
            format!("{in_front}GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{header}\r\n\r\n")
        };
        let answer = raw(one, request(header).as_bytes()).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let labels = seven("http", one, INET6);
        let lines: Vec<_> = labels
            .iter()
            .map(|(name, value)| format!("{name}={value}\n"))
            .collect();
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        assert_eq!(body, lines.concat());

        let mut expected = vec![requests(one, INET6, 1)];
        if from == "proxy-protocol" {
            raw(
                two,
                b"PROXY TCP4 192.0.2.7 192.0.2.1 1 1\r\nGET / HTTP/1.0\r\n\r\n",
            )
            .unwrap();
            expected.push(requests(two, INET, 1));
        } else {
            assert!(
                raw(two, request("A: b").as_bytes())
                    .unwrap()
                    .starts_with(b"HTTP/1.1 200")
            );
            expected.extend([
                requests(two, test_support::UNKNOWN, 1),
                rejected(from, "missing", 1),
            ]);
        }
        assert_samples(samples(&get(metrics, "/metrics").text()), expected);
        drop(program);
    }
}

fn in_mixed_case(name: &str) -> String {
    name.char_indices()
        .map(|(at, letter)| {
            if at % 2 == 0 {
                letter.to_ascii_uppercase()
            } else {
                letter
            }
        })
        .collect()
}

#[test]
fn both_wildcard_addresses_can_have_one_port() {
    let Some(program) = program_or_skip() else { return };
    if !test_support::ipv6_or_say() {
        return;
    }
    let port = test_support::free_port();
    let args = format!("--listen [::]:{port} --listen 0.0.0.0:{port} --metrics 127.0.0.1:0");
    let (_program, urls) = Program::listening(&program, &args);
    let addresses: Vec<_> = urls.iter().map(|url| address(url)).collect();
    let mut expected = Vec::new();
    for (asked, server, seen) in [
        (format!("127.0.0.1:{port}"), addresses[1], INET),
        (format!("[::1]:{port}"), addresses[0], INET6),
    ] {
        assert!(!get(asked.parse().unwrap(), "/").text().is_empty());
        expected.push(requests(server, seen, 1));
    }
    assert_samples(samples(&get(addresses[2], "/metrics").text()), expected);
}

#[test]
fn an_error_names_the_right_arguments() {
    let Some(program) = program_or_skip() else { return };
    for (args, expected) in [
        (
            "--trust 10.0.0.1/8",
            "error: the trusted proxy \"10.0.0.1/8\" has bits that are not part of its network: write \"10.0.0.0/8\" for \
             the network, or leave out the slash for one address",
        ),
        (
            "--trust ::1 --trust nginx",
            "error: \"nginx\" is not a trusted proxy: write a network such as \"10.0.0.0/8\", an address such as \"::1\", \
             or \"unix:\" for Unix sockets",
        ),
        (
            "--listen 8080",
            "error: invalid value '8080' for '--listen <ADDR>': write an IP address and a port, such as `[::]:8080`, or \
             `unix:` and a path",
        ),
        (
            "--listen unix:",
            "error: invalid value 'unix:' for '--listen <ADDR>': write the path of the socket behind `unix:`",
        ),
        (
            "--listen unix:/dev/null/socket",
            "error: cannot listen on unix:/dev/null/socket: Not a directory (os error 20)",
        ),
        (
            "--from x/real/ip",
            "error: invalid value 'x/real/ip' for '--from <SOURCE>': invalid HTTP header name",
        ),
    ] {
        let output = Program::run(&program, args);
        assert!(!output.status.success());
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(error.lines().next(), Some(expected), "{args}");
    }
}

#[cfg(unix)]
#[test]
fn it_serves_a_proxy_on_a_unix_socket() {
    use std::{
        io::{Read as _, Write as _},
        os::unix::net::UnixStream,
    };

    let Some(program) = program_or_skip() else { return };
    for (from, in_front, header) in [
        ("x-forwarded-for", "", "X-Forwarded-For: 2001:db8::7"),
        ("proxy-protocol", "PROXY TCP6 2001:db8::7 ::1 1 1\r\n", "A: b"),
    ] {
        let path = format!("dualstack-example-{}-{from}", std::process::id());
        let path = std::env::temp_dir().join(path);
        let listen = format!("unix:{}", path.display());
        let args = format!("--listen {listen} --trust unix: --from {from} --metrics 127.0.0.1:0");
        let (_program, urls) = Program::listening(&program, &args);
        assert_eq!(urls[0], format!("http+{listen}"));
        let mut stream = UnixStream::connect(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        write!(stream, "{in_front}GET / HTTP/1.0\r\n{header}\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("\nclient_address_ip_family=inet6\n"), "{answer}");
        assert_samples(
            samples(&get(address(&urls[1]), "/metrics").text()),
            [sample("requests_total", &on_unix(INET6), 1)],
        );
    }
}
