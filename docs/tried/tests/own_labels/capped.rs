use std::process::Command;

use dualstack_metrics::CappedLabel;
use test_support::skip_or_fail;

static REFERER: CappedLabel = CappedLabel::new("referer", 3);

#[test]
fn values_before_the_first_client_have_their_place() {
    let known = ["https://a.example/", "https://b.example/"];

    for referer in known {
        _ = REFERER.value(referer);
    }

    for text in ["https://c.example/", "https://d.example/"] {
        _ = REFERER.value(text);
    }
    let kept: Vec<_> = known.map(|text| REFERER.value(text).as_str()).into();
    assert_eq!(kept, known);
    assert_eq!(REFERER.value("https://c.example/").as_str(), "https://c.example/");
    assert_eq!(REFERER.value("https://d.example/").as_str(), "other");
}

/// The queries of the page, on two instances of which one has no place for a value.
#[test]
fn the_queries_of_the_page_give_its_results() {
    let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/own_labels.yml");
    match Command::new("promtool").args(["test", "rules", tests]).output() {
        Ok(output) => assert!(output.status.success(), "{output:?}"),
        Err(error) => skip_or_fail(&format!("promtool: {error}")),
    }
}
