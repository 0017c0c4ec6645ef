//! The example `behind_proxy`, as a program.

use std::path::PathBuf;

use test_support::{
    INET, INET6, Program, assert_samples,
    http::{get, raw},
    samples, seven, skip_or_fail,
};

use super::{rejected, requests};

/// Where Cargo puts examples. It builds them for `cargo test`, but not for `cargo test --test proxy`.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.ancestors().nth(2).unwrap();
    profile.join("examples/behind_proxy")
}

#[test]
fn it_answers_with_the_labels_that_it_counts_with() {
    let program = program();
    if !program.exists() {
        return skip_or_fail("run `cargo build --example behind_proxy --features proxy` before");
    }
    let start = |from: &str| {
        let args = format!(
            "--listen 127.0.0.1:0 --listen 127.0.0.1:0 --trust 127.0.0.0/8 --trust ::1 --from {from} \
             --metrics 127.0.0.1:0"
        );
        let (program, urls) = Program::listening(program.to_str().unwrap(), &args);
        let address = |url: &String| {
            let address = url.strip_prefix("http://").unwrap();
            address.trim_end_matches("/metrics").parse().unwrap()
        };
        let [one, two, metrics]: [std::net::SocketAddr; 3] =
            urls.iter().map(address).collect::<Vec<_>>().try_into().unwrap();
        (program, [one, two], metrics)
    };
    for (from, in_front, header) in [
        ("x-forwarded-for", "", "X-Forwarded-For: 192.0.2.7, 2001:db8::7"),
        ("forwarded", "", "Forwarded: for=\"[2001:db8::7]\""),
        ("cf-connecting-ip", "", "CF-Connecting-IP: 2001:db8::7"),
        ("proxy-protocol", "PROXY TCP6 2001:db8::7 ::1 1 1\r\n", "A: b"),
    ] {
        let (program, [one, two], metrics) = start(from);
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
