//! The example shows its own output. It runs in its own process, because it installs a recorder.

#[allow(dead_code, reason = "`main` is not called")]
#[path = "../examples/own_labels.rs"]
mod own_labels;

use std::net::SocketAddr;

use dualstack_metrics::SocketOptions;
use test_support::{V4, V6, http, ipv6_or_say, samples};

const SOURCE: &str = include_str!("../examples/own_labels.rs");

/// The blocks in the comment at the top, without their marks.
fn blocks() -> Vec<String> {
    let comment: Vec<_> = SOURCE
        .lines()
        .map_while(|line| line.strip_prefix("//!"))
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .collect();
    let comment = comment.join("\n");
    comment
        .split("```")
        .skip(1)
        .step_by(2)
        .map(|block| block.trim_start_matches("text\n").to_owned())
        .collect()
}

/// Sends the request of a line with `curl`.
fn curl(line: &str, port: u16) -> String {
    let mut words = line.split('\'');
    let url = words.next().unwrap().split(' ').nth(1).unwrap();
    let url = url.strip_prefix("http://").unwrap();
    let (host, path) = url.split_once(":7070").unwrap();
    let ip = match host {
        "127.0.0.1" => V4,
        "[::1]" => V6,
        _ => panic!("{line}"),
    };
    let mut request = format!("GET {path} HTTP/1.1\r\nConnection: close\r\n");
    let headers: Vec<_> = words.step_by(2).map(|header| format!("{header}\r\n")).collect();
    if headers.is_empty() {
        request += "Host: any\r\n";
    }
    request += &headers.concat();
    request += "\r\n";
    let answer = http::raw(SocketAddr::new(ip, port), request.as_bytes()).unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{line}: {answer}");
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_comment_shows_the_output() {
    if !ipv6_or_say() {
        return;
    }
    let listener = SocketOptions::dual_stack()
        .bind_tcp("[::]:0".parse().unwrap())
        .unwrap();
    let port = listener.local_addr().unwrap().port();
    let tenants = include_str!("../examples/own_labels.tenants");
    let server = tokio::spawn(own_labels::serve(listener, tenants));

    let [commands, output] = &blocks()[..] else {
        panic!("two blocks")
    };
    let commands = commands.clone();
    let metrics = tokio::task::spawn_blocking(move || {
        let lines = commands.lines().filter(|line| line.starts_with("curl"));
        lines.fold(String::new(), |_, line| curl(line, port))
    });
    let metrics = metrics.await.unwrap();
    server.abort();

    assert_eq!(samples(&metrics), samples(output));
    let types = |text: &str| {
        let mut types: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with('#'))
            .map(String::from)
            .collect();
        types.sort();
        types
    };
    assert_eq!(types(&metrics), types(output));
}
