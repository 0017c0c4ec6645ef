//! The fuzz targets without a fuzzer: their corpus, and some thousand inputs that are made from it. `proptest-regressions`
//! keeps the seeds of inputs that have failed.

#[allow(unreachable_pub, reason = "the fuzz targets call it")]
#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::{fs, path::Path};

use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
    test_runner::{Config, FileFailurePersistence::Direct, TestRunner},
};

/// Pieces that break parsers.
const PIECES: &[&[u8]] = &[
    b",",
    b"\n",
    b"\"",
    b"\\",
    b";",
    b"=",
    b":",
    b"[",
    b"]",
    b"%",
    b"_",
    b" ",
    b"\0",
    b"\xff",
    b"\r\n",
    b"for=",
    b"unknown",
    b"10.0.0.1",
    b"::ffff:10.0.0.1",
    b"2001:db8::1",
    b"65536",
    b"PROXY ",
    b"TCP4 ",
    b"UNKNOWN\r\n",
    b"\r\n\r\n\0\r\nQUIT\n",
    b"\x20\x00",
    b"\x21\x11",
    b"\x21\x21",
    b"\xff\xff",
];

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    files.into_iter().map(|file| fs::read(file).unwrap()).collect()
}

/// One of the inputs with up to six edits, each of which puts something in the place of a few or of many bytes.
fn changed(corpus: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let piece = || select(PIECES).prop_map(<[u8]>::to_vec);
    let tail = (select(corpus.clone()), any::<Index>());
    let part = prop_oneof![
        4 => piece(),
        4 => vec(any::<u8>(), 0..3),
        2 => tail.prop_map(|(input, from)| input[from.index(input.len() + 1)..].to_vec()),
        1 => (piece(), 1..2_000_usize).prop_map(|(piece, times)| piece.repeat(times)),
    ];
    let replaced = prop_oneof![3 => 0..3_usize, 1 => 0..300_usize];
    (select(corpus), vec((any::<Index>(), replaced, part), 0..7)).prop_map(|(mut input, edits)| {
        for (at, replaced, part) in edits {
            let at = at.index(input.len() + 1);
            let end = input.len().min(at + replaced);
            input.splice(at..end, part);
        }
        input
    })
}

fn run(target: &str, check: fn(&[u8])) {
    let corpus = corpus(target);
    assert!(corpus.len() > 10);
    for input in &corpus {
        check(input);
    }
    check(b"");
    let mut runner = TestRunner::new(Config {
        cases: 5_000,
        failure_persistence: Some(Box::new(Direct("proptest-regressions/fuzzed.txt"))),
        ..Config::default()
    });
    let run = runner.run(&changed(corpus), |input| {
        check(&input);
        Ok(())
    });
    if let Err(error) = run {
        panic!("{error}");
    }
}

#[test]
fn headers() {
    run("headers", targets::headers);
}

#[test]
fn proxy_protocol() {
    run("proxy_protocol", targets::proxy_protocol);
}
