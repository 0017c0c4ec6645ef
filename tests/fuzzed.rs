//! The fuzz targets without a fuzzer: their corpus, and some thousand inputs that are made from it, the same in each run.

#[allow(unreachable_pub, reason = "the fuzz targets call it")]
#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::{fs, path::Path};

use test_support::Random;

const CHANGED: u64 = 5_000;

/// What breaks parsers, put in anywhere.
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

/// One of the inputs with a few changes.
fn changed(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut below = |limit: usize| usize::try_from(random.below(limit as u64)).unwrap();
    let mut input = corpus[below(corpus.len())].clone();
    for _ in 0..=below(6) {
        let at = below(input.len() + 1);
        match below(6) {
            0 => input.truncate(at),
            1 if at < input.len() => input[at] = u8::try_from(below(256)).unwrap(),
            2 if at < input.len() => input[at] ^= 1 << below(8),
            3 => {
                let other = &corpus[below(corpus.len())];
                input.splice(at.., other[below(other.len() + 1)..].iter().copied());
            }
            4 => {
                let repeated = input[at..].repeat(below(40));
                input.extend(repeated.into_iter().take(20_000));
            }
            _ => {
                input.splice(at..at, PIECES[below(PIECES.len())].iter().copied());
            }
        }
    }
    input
}

fn run(target: &str, check: fn(&[u8])) {
    let corpus = corpus(target);
    assert!(corpus.len() > 10);
    let mut random = Random(7);
    let changed = (0..CHANGED).map(|_| changed(&corpus, &mut random));
    for input in corpus.iter().cloned().chain([vec![]]).chain(changed) {
        let check = std::panic::AssertUnwindSafe(|| check(&input));
        assert!(
            std::panic::catch_unwind(check).is_ok(),
            "with {:?}",
            input.escape_ascii().to_string()
        );
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
