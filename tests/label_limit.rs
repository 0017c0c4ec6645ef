//! An operator's limit on label sets. It runs in its own process, because the limit is the process's.

#![cfg(feature = "prometheus")]

use dualstack_metrics::{
    CappedLabel, ClientLabels, ClientScopes, FixedLabel, MAX_LABEL_SETS, Protocol, Scope, ServerBinding,
    prometheus::Install,
    scope::{label_set_limit, label_sets, limit_label_sets, overflows},
};
use metrics::counter;
use metrics_exporter_prometheus::PrometheusBuilder;
use test_support::series;

#[test]
fn the_limit_of_an_operator() {
    static REFERER: CappedLabel = CappedLabel::new("referer", 20);

    let classes = ClientLabels::ALL.len();
    let binding = |port| ServerBinding::new(Protocol::Http, ([0; 16], port).into());
    assert_eq!((label_set_limit(), label_sets()), (MAX_LABEL_SETS, 0));

    // Start-up checks it: what the labels can be, and what there is.
    let tenants = FixedLabel::new("tenant", (0..9).map(|n| n.to_string())).unwrap();
    let scopes = ClientScopes::try_new(binding(1)).unwrap();
    assert_eq!(label_sets(), classes + 1);
    let needed = scopes.max_label_sets(&(tenants.other(), REFERER.other()));
    assert_eq!(needed, classes * 10 * 21);
    let error = limit_label_sets(needed - 1, needed).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "the labels can make {needed} series of each counter, but the limit is {}: raise the limit, use labels with \
             fewer values, or lower the cap of a `CappedLabel`",
            needed - 1
        )
    );
    assert!(limit_label_sets(classes, 0).is_err(), "there are more");
    assert!(
        limit_label_sets(usize::MAX, MAX_LABEL_SETS + 1).is_err(),
        "no limit is higher"
    );
    assert_eq!(label_set_limit(), MAX_LABEL_SETS, "an error changes nothing");
    limit_label_sets(needed, needed).unwrap();
    limit_label_sets(50, 0).unwrap();
    assert_eq!(label_set_limit(), 50);

    // The product of the expected clients does not fit.
    let error = scopes
        .expected_with(&(tenants.other(), REFERER.other()))
        .map(drop);
    assert_eq!(error, Ok(()), "two clients, ten tenants, and no referers yet");
    let made = label_sets();
    assert_eq!(made, classes + 1 + 2 * 10);
    for n in 0..20 {
        _ = REFERER.value(n.to_string());
    }
    let error = scopes
        .expected_with(&(tenants.other(), REFERER.other()))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the process already has 50 different label sets, which is the limit: make scopes at start-up, from labels with \
         few values, and make a `ServerBinding` from the listener's `local_addr()`, never from a peer"
    );
    assert_eq!(label_sets(), 50);

    // Requests keep to it, and what they count is right in sum.
    let recorder = Install::new(PrometheusBuilder::new()).build_recorder();
    let before = overflows();
    metrics::with_local_recorder(&recorder, || {
        for tenant in tenants.values() {
            for referer in REFERER.values() {
                for client in ClientLabels::ALL {
                    let scope = Scope::new(&(scopes.for_client(client), tenant, referer));
                    scope.run(|| counter!("requests_total").increment(1));
                }
            }
        }
    });
    assert_eq!(label_sets(), 50);
    assert!(overflows() > before);
    let lines = series(&recorder.get_ref().handle().render(), "requests_total");
    assert!(lines.len() <= 51, "{}", lines.len());
    let counts = lines
        .iter()
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<usize>().unwrap());
    assert_eq!(counts.sum::<usize>(), needed);

    // It can be raised again, and turned off labels altogether when there are none.
    limit_label_sets(60, 0).unwrap();
    assert!(Scope::try_for_server(&binding(2)).is_ok());
    assert_eq!(label_sets(), 51);
    limit_label_sets(usize::MAX, 0).unwrap();
    assert_eq!(label_set_limit(), MAX_LABEL_SETS);
}
