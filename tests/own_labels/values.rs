use dualstack_metrics::{CappedLabel, ClientLabels, ClientScopes, FixedLabel, Protocol, Scope};
use metrics::counter;
use test_support::{Labels, Log, UNKNOWN, and, recorded, sample};

use super::{Plan, binding};

#[test]
fn a_value_that_is_written_as_other_is_counted_by_its_reason() {
    static REFERER: CappedLabel = CappedLabel::new("referer", 2).max_len(9);

    let log = Log::of_thread();
    let tenants = FixedLabel::new("tenant", ["acme"]).unwrap();
    recorded(async |metrics| {
        for text in ["a", "b", "c", "a", "d", "", "0123456789", "\\"] {
            Scope::new(&REFERER.value(text)).run(|| counter!("requests_total").increment(1));
        }
        _ = REFERER.value(b"\xff".as_slice());
        for text in ["acme", "globex", ""] {
            Scope::new(&tenants.value(text)).run(|| counter!("requests_total").increment(1));
        }
        Scope::new(&ClientLabels::UNKNOWN).run(|| _ = tenants.value("initech"));

        let overflow =
            |label, reason| Labels::from([("label", String::from(label)), ("reason", String::from(reason))]);
        let mut expected: Vec<_> = [
            ("referer", "full", 2),
            ("referer", "empty", 1),
            ("referer", "too_long", 1),
            ("referer", "invalid", 2),
            ("tenant", "unknown", 1),
            ("tenant", "empty", 1),
        ]
        .map(|(label, reason, count)| {
            sample("label_values_overflowed_total", &overflow(label, reason), count)
        })
        .into();
        let mut scoped = overflow("tenant", "unknown");
        scoped.insert("client_address_ip_family", UNKNOWN.0.into());
        scoped.insert("client_address_ip_type", UNKNOWN.1.into());
        expected.push(sample("label_values_overflowed_total", &scoped, 1));
        for (label, value, count) in [
            ("referer", "a", 2),
            ("referer", "b", 1),
            ("referer", "other", 5),
            ("tenant", "acme", 1),
            ("tenant", "other", 2),
        ] {
            expected.push(sample("requests_total", &and(Labels::new(), label, value), count));
        }
        metrics.assert(expected);
    });
    assert_eq!(
        log.lines(),
        [
            "WARN dualstack_metrics::labels::text: the label has no place left for further values, so they are written as \
             `other`: a query for one value can miss some of it. Raise the cap, or label with something that has fewer \
             values label=\"referer\""
        ]
    );
}

#[test]
fn known_labels_are_composed_without_an_allocation() {
    static REFERER: CappedLabel = CappedLabel::new("referer", 20);

    let tenants = FixedLabel::new("tenant", (0..200).map(|n| n.to_string())).unwrap();
    let texts: Vec<_> = (0..200).map(|n| n.to_string()).collect();
    let scopes = ClientScopes::new(binding(Protocol::Http));
    let serve = || {
        for (at, text) in texts.iter().enumerate() {
            let client = scopes.for_client(ClientLabels::ALL[at % 3]);
            let labels = (Plan::Paid, tenants.value(text), REFERER.value(&texts[at % 20]));
            let scope = client.with(&labels);
            client.run(|| Scope::add(&labels));
            assert_eq!(scope, Scope::new(&(client, labels)));
        }
    };
    serve();
    assert_eq!(allocation_counter::measure(serve).count_total, 0);
}
