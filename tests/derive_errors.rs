//! Each mistake in a derive, or in a source of clients, is an error at its place, with a text that says what to do.
//!
//! A line of a file in `derive_errors/` that has an error ends in `//~` and a text. The compiler's words around the text
//! can change with its version, so an error only has to contain it. There must be no other errors.

use std::{collections::BTreeSet, fmt::Write as _, fs, iter, path::Path, process::Command};

use serde_json::Value;

/// The line that a span is in, or the macro that it comes from.
fn line_in(file: &str, span: &Value) -> Option<u64> {
    let spans = iter::successors(Some(span), |span| span.pointer("/expansion/span"));
    let mut here = spans.filter(|span| {
        let name = span["file_name"].as_str();
        name.is_some_and(|name| Path::new(name).ends_with(file))
    });
    here.next()?["line_start"].as_u64()
}

/// The compiler's words about an error, without the line of the source, which has the expected text.
fn texts(message: &Value) -> String {
    let labels = message["spans"]
        .as_array()
        .unwrap()
        .iter()
        .map(|span| &span["label"]);
    let texts = [&message["message"]].into_iter().chain(labels);
    texts.filter_map(Value::as_str).collect::<Vec<_>>().join("\n")
}

/// The lines of errors in a file, with the compiler's words about each.
fn errors<'a>(output: &'a [Value], file: &'a str) -> impl Iterator<Item = (u64, String)> {
    let messages = output.iter().map(|line| &line["message"]);
    messages
        .filter(|message| message["level"] == "error")
        .filter_map(move |message| {
            let mut spans = message["spans"].as_array()?.iter();
            let primary = spans.find(|span| span["is_primary"] == true)?;
            Some((line_in(file, primary)?, texts(message)))
        })
}

fn check(cases: &[String]) -> Vec<Value> {
    let root = env!("CARGO_MANIFEST_DIR");
    let project = Path::new(env!("CARGO_TARGET_TMPDIR")).join("derive_errors");
    fs::create_dir_all(&project).unwrap();
    let mut manifest = format!(
        "[package]\nname = 'cases'\nedition = '2024'\n[workspace]\n[dependencies.dualstack-metrics]\npath = '{root}'\n\
         default-features = false\nfeatures = ['derive']\n"
    );
    for case in cases {
        let name = case.trim_end_matches(".rs");
        write!(
            manifest,
            "[[bin]]\nname = '{name}'\npath = '{root}/tests/derive_errors/{case}'\n"
        )
        .unwrap();
    }
    fs::write(project.join("Cargo.toml"), manifest).unwrap();
    fs::copy(Path::new(root).join("Cargo.lock"), project.join("Cargo.lock")).unwrap();

    // `build`, because some errors come when code is generated.
    let output = Command::new(env!("CARGO"))
        .args(["build", "--offline", "--keep-going", "--message-format=json"])
        .current_dir(&project)
        .env("CARGO_TARGET_DIR", project.join("target"))
        .env_remove("RUSTFLAGS")
        .output()
        .unwrap();
    assert!(!output.status.success(), "the cases compile");
    let stdout = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(!lines.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    lines
}

#[test]
fn each_mistake_is_an_error_at_its_place() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/derive_errors");
    let mut cases: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    cases.sort();
    assert_eq!(cases, ["bounded_label.rs", "client_source.rs", "label_set.rs"]);

    let output = check(&cases);
    let mut problems = String::new();
    for case in &cases {
        let source = fs::read_to_string(folder.join(case)).unwrap();
        let mut expected: BTreeSet<(u64, &str)> = (1..)
            .zip(source.lines())
            .filter_map(|(number, line)| Some((number, line.split_once("//~ ")?.1)))
            .collect();
        let mut seen = BTreeSet::new();
        for (line, texts) in errors(&output, case) {
            match expected
                .iter()
                .find(|(number, text)| *number == line && texts.contains(text))
            {
                Some(&found) => _ = seen.insert(found),
                None => writeln!(problems, "{case}:{line}: not expected: {texts}").unwrap(),
            }
        }
        expected.retain(|error| !seen.contains(error));
        for (line, text) in expected {
            writeln!(problems, "{case}:{line}: no error with: {text}").unwrap();
        }
    }
    assert!(problems.is_empty(), "{problems}");
}
