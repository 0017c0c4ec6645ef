//! Whatever names and values labels are given, Prometheus can parse the output.

use std::{
    cell::Cell,
    collections::HashSet,
    io::Write as _,
    process::{Command, Stdio},
};

use dualstack_metrics::{
    CappedLabel, ClientLabels, ClientScopes, FixedLabel, Scope, labels::CLIENT_ADDRESS_IP_TYPE,
    prometheus::Install,
};
use metrics::counter;
use metrics_exporter_prometheus::PrometheusBuilder;
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, FileFailurePersistence::Direct, TestRunner},
};
use test_support::skip_or_fail;

/// `promtool check metrics` prints advice about names as well, which is no error of the output.
fn parse(output: &str) -> Result<(), String> {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(output.as_bytes())
        .unwrap();
    let result = promtool.wait_with_output().unwrap();
    let report = String::from_utf8_lossy(&result.stderr);
    match result.status.code() {
        // It has advice with status 3.
        Some(0 | 3) if !report.contains("error") => Ok(()),
        _ => Err(format!("{report}\n{output}")),
    }
}

#[derive(Clone, Debug)]
struct Case {
    name: String,
    values: Vec<String>,
    bytes: Vec<Vec<u8>>,
    renamed: String,
    metric: String,
}

fn cases() -> impl Strategy<Value = Case> {
    // Names that are valid, names that are nearly so, and any.
    let name = || {
        prop_oneof![
            "[a-zA-Z_][a-zA-Z0-9_.]{0,9}",
            "[a-z_]{0,3}[ -~]{0,3}[a-z]",
            any::<String>()
        ]
    };
    let value = || {
        prop_oneof![
            1 => any::<String>(),
            1 => r#"[ -~\n\t"\\]{0,12}"#,
            // Characters that are written with backslashes.
            4 => r#"[\\"]{1,2}"#,
            // Text that looks like syntax.
            1 => Just("\"} 1\nx{a=\"".to_owned()),
            1 => Just("\u{feff}\u{2028}\u{85}".to_owned()),
        ]
    };
    let bytes = prop_oneof![vec(any::<u8>(), 0..12), value().prop_map(String::into_bytes)];
    let metric = "[a-zA-Z_:][a-zA-Z0-9_:.-]{0,9}";
    (name(), vec(value(), 0..9), vec(bytes, 0..9), name(), metric).prop_map(
        |(name, values, bytes, renamed, metric)| Case {
            name,
            values,
            bytes,
            renamed,
            metric,
        },
    )
}

#[test]
fn promtool_parses_whatever_labels_are_given() {
    static CAPPED: CappedLabel = CappedLabel::new("capped", 500);

    if Command::new("promtool").arg("--version").output().is_err() {
        return skip_or_fail("promtool is not installed");
    }
    assert!(parse("a{b=\"c} 1\n").is_err(), "an error is seen");

    let mut runner = TestRunner::new(Config {
        cases: 100,
        failure_persistence: Some(Box::new(Direct("proptest-regressions/exposition.txt"))),
        ..Config::default()
    });
    let run = runner.run(&cases(), |case| {
        let recorder = Install::new(PrometheusBuilder::new()).build_recorder();
        let counted = Cell::new(0);
        let count = |scope: Scope| {
            counted.set(counted.get() + 1);
            let metric = case.metric.clone();
            scope.run(|| counter!(metric, "at_the_call" => "x").increment(1));
        };
        metrics::with_local_recorder(&recorder, || {
            // An invalid label is an error at start-up.
            let valid = case
                .values
                .iter()
                .filter(|value| FixedLabel::new("a", [value]).is_ok());
            if let Ok(label) = FixedLabel::new(&case.name, valid) {
                for value in label.values() {
                    count(Scope::new(&value));
                }
                for text in &case.bytes {
                    count(Scope::new(&label.value(text.as_slice())));
                }
            }
            for text in &case.bytes {
                count(Scope::new(&CAPPED.value(text.as_slice())));
            }
            let value = case.values.first().cloned().unwrap_or_default();
            let scopes = ClientScopes::builder()
                .rename(CLIENT_ADDRESS_IP_TYPE, case.renamed.clone())
                .rename_value(CLIENT_ADDRESS_IP_TYPE, "plain", value.clone())
                .label(case.name.clone(), value)
                .build();
            if let Ok(scopes) = scopes {
                for client in ClientLabels::ALL {
                    count(scopes.for_client(client));
                }
            }
        });
        let output = recorder.get_ref().handle().render();
        parse(&output).map_err(TestCaseError::fail)?;

        // It does not look for series that are there twice.
        let lines = output
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples: Vec<_> = lines.map(|line| line.rsplit_once(' ').unwrap()).collect();
        let series: HashSet<_> = samples.iter().map(|(series, _)| series).collect();
        prop_assert_eq!(series.len(), samples.len(), "a series twice: {}", &output);
        let own = samples
            .iter()
            .filter(|(series, _)| series.contains("at_the_call=\"x\""));
        let sum: u32 = own.map(|(_, value)| value.parse::<u32>().unwrap()).sum();
        prop_assert_eq!(sum, counted.get(), "{}", output);
        Ok(())
    });
    if let Err(error) = run {
        panic!("{error}");
    }
}
