use std::process::Command;

use test_support::skip_or_fail;

/// The queries of the page, on series as they are before and after.
#[test]
fn the_queries_of_the_page_give_its_results() {
    let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/queries.yml");
    match Command::new("promtool").args(["test", "rules", tests]).output() {
        Ok(output) => assert!(output.status.success(), "{output:?}"),
        Err(error) => skip_or_fail(&format!("promtool: {error}")),
    }
}
