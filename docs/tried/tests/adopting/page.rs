use std::{fs, path::Path};

/// Lines without their indentation, and without what the page leaves out. Two versions of axum cannot have one name here.
fn bare(text: &str) -> String {
    let mut bare = String::new();
    for line in text.lines().map(str::trim) {
        bare.push_str(if line.starts_with("// …") { "" } else { line });
        bare.push('\n');
    }
    bare.replace("axum_06", "axum").replace("axum_07", "axum")
}

/// Whether the parts of `block`, between its empty lines, stand in `source` in this order.
fn shows(source: &str, block: &str) -> bool {
    let mut rest = source;
    block.split("\n\n").all(|part| {
        let found = rest.split_once(part.trim());
        rest = found.map_or("", |(_, after)| after);
        found.is_some()
    })
}

/// A block may leave something out at its empty lines, and where it says `// …`.
#[test]
fn each_block_of_the_pages_is_code_that_runs_here() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources: Vec<String> = ["tests/adopting", "tests/own_labels", "tests", "."]
        .iter()
        .map(|folder| here.join(folder))
        .flat_map(|folder| fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "rs" || ext == "yml"))
        .map(|path| bare(&fs::read_to_string(path).unwrap()))
        .collect();

    for page in ["adopting.md", "your-own-labels.md"] {
        let text = fs::read_to_string(here.join("..").join(page)).unwrap();
        let mut blocks = 0;
        for block in text.split("```").skip(1).step_by(2) {
            let Some((language @ ("rust" | "promql"), block)) = block.split_once('\n') else {
                continue;
            };
            let block = bare(block);
            assert!(
                sources.iter().any(|source| shows(source, &block)),
                "{page}: no file here has this {language}:\n{block}"
            );
            blocks += 1;
        }
        assert!(blocks > 20, "only {blocks} blocks in {page}");
    }
}

#[test]
fn a_block_that_differs_is_noticed() {
    let source = bare("fn a() {\n    one();\n\n    two();\n    three();\n}");
    assert!(shows(&source, &bare("one();\n\ntwo();")));
    assert!(shows(
        &source,
        &bare("fn a() {\n    // … something else\n    three();\n}")
    ));
    assert!(!shows(&source, &bare("two();\n\none();")));
    assert!(!shows(&source, &bare("one();\ntwo();")));
    assert!(!shows(&source, &bare("four();")));
}
