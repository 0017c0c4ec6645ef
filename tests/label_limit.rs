//! An operator's limit on label sets. It runs in its own process, because the limit is the process's.

use std::convert::Infallible;

use dualstack_metrics::{
    CappedLabel, ClientLabels, ClientLabelsLayer, ClientScopes, FixedLabel, LabelsLayer, MAX_LABEL_SETS,
    Protocol, Scope, ServerBinding,
    labels::LabelValue,
    prometheus::Install,
    scope::{label_set_limit, label_sets, limit_label_sets, overflows},
};
use futures_util::{FutureExt, future};
use http::{Request, Response};
use metrics::counter;
use metrics_exporter_prometheus::PrometheusBuilder;
use test_support::series;
use tower::{Service as _, ServiceBuilder, service_fn};

static REFERER: CappedLabel = CappedLabel::new("referer", 20);

const CLASSES: usize = ClientLabels::ALL.len();

fn binding(port: u16) -> ServerBinding {
    ServerBinding::new(Protocol::Http, ([0; 16], port).into())
}

/// One story, because there is one limit.
#[test]
fn the_limit_of_an_operator() {
    assert_eq!((label_set_limit(), label_sets()), (MAX_LABEL_SETS, 0));
    zero_turns_off_all_labels();
    let tenants = FixedLabel::new("tenant", (0..9).map(|n| n.to_string())).unwrap();
    let scopes = ClientScopes::new(binding(1));
    assert_eq!(label_sets(), CLASSES + 1);

    start_up_checks_what_is_needed(&scopes, tenants);
    limit_label_sets(50, 0).unwrap();
    assert_eq!(label_set_limit(), 50);
    the_product_of_the_expected_clients_may_not_fit(&scopes, tenants);
    requests_keep_to_the_limit(&scopes, tenants);

    limit_label_sets(60, 0).unwrap();
    let raised = Scope::new(&tenants.value("1"));
    assert_eq!((raised.pairs(), label_sets()), (&[("tenant", "1")][..], 51));
    the_documented_sum_is_enough();
    limit_label_sets(usize::MAX, 0).unwrap();
    assert_eq!(label_set_limit(), MAX_LABEL_SETS);
    a_product_that_cannot_fit_leaves_room_for_others();
}

fn zero_turns_off_all_labels() {
    limit_label_sets(0, 0).unwrap();
    let recorder = Install::new(PrometheusBuilder::new()).build_recorder();
    metrics::with_local_recorder(&recorder, || {
        let scopes = ClientScopes::new(binding(1));
        for client in ClientLabels::ALL {
            let scope = Scope::new(&(scopes.for_client(client), REFERER.other()));
            scope.run(|| counter!("requests_total").increment(1));
        }
    });
    assert_eq!(label_sets(), 0);
    let lines = series(&recorder.get_ref().handle().render(), "requests_total");
    assert_eq!(lines, ["requests_total 4"]);
    limit_label_sets(usize::MAX, 0).unwrap();
}

fn start_up_checks_what_is_needed(scopes: &ClientScopes, tenants: FixedLabel) {
    let needed = scopes.max_label_sets(&(tenants.other(), REFERER.other()));
    assert_eq!(needed, CLASSES * 10 * 21);
    let error = limit_label_sets(needed - 1, needed).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "the labels can make {needed} series of each counter, but the limit is {}: raise the limit, use labels with \
             fewer values, or lower the cap of a `CappedLabel`",
            needed - 1
        )
    );
    assert!(limit_label_sets(CLASSES, 0).is_err(), "there are more");
    assert!(
        limit_label_sets(usize::MAX, MAX_LABEL_SETS + 1).is_err(),
        "no limit is higher"
    );
    assert_eq!(label_set_limit(), MAX_LABEL_SETS, "an error changes nothing");
    limit_label_sets(needed, needed).unwrap();
}

fn the_product_of_the_expected_clients_may_not_fit(scopes: &ClientScopes, tenants: FixedLabel) {
    let labels = (tenants.other(), REFERER.other());
    let error = scopes.expected_with(&labels).map(drop);
    assert_eq!(error, Ok(()), "two clients, ten tenants, and no referers yet");
    assert_eq!(label_sets(), CLASSES + 1 + 2 * 10);
    for n in 0..20 {
        _ = REFERER.value(n.to_string());
    }
    let error = scopes.expected_with(&labels).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the labels can make 420 series of each counter, but the limit is 50: raise the limit, use labels with fewer \
         values, or lower the cap of a `CappedLabel`"
    );
    assert_eq!(label_sets(), CLASSES + 1 + 2 * 10, "it takes nothing");
    let regions = FixedLabel::new("region", (0..24).map(|n| n.to_string())).unwrap();
    let error = scopes.expected_with(&regions.other()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the process already has 50 different label sets, which is the limit: make scopes at start-up, from labels with \
         few values, and make a `ServerBinding` from the listener's `local_addr()`, never from a peer"
    );
    assert_eq!(label_sets(), 50);
}

/// What they count is right in sum.
fn requests_keep_to_the_limit(scopes: &ClientScopes, tenants: FixedLabel) {
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
    assert_eq!(
        counts.sum::<usize>(),
        scopes.max_label_sets(&(tenants.other(), REFERER.other()))
    );
}

/// Each layer enters a scope, and a label that is added late makes another.
fn the_documented_sum_is_enough() {
    #[derive(Clone)]
    struct Labels(ClientLabels, LabelValue, LabelValue);

    static CALLER: CappedLabel = CappedLabel::new("caller", 3);

    let (before, overflowed) = (label_sets(), overflows());
    let regions = FixedLabel::new("region", ["eu", "us"]).unwrap();
    for caller in ["a", "b", "c"] {
        _ = CALLER.value(caller);
    }
    let scopes = ClientScopes::new(binding(3));
    let needed = 1
        + scopes.max_label_sets(&())
        + scopes.max_label_sets(&regions.other())
        + scopes.max_label_sets(&(regions.other(), CALLER.other()));
    assert_eq!(needed, 1 + CLASSES * (1 + 3 + 3 * 4));
    limit_label_sets(before + needed, needed).unwrap();

    let mut service = ServiceBuilder::new()
        .layer(ClientLabelsLayer::from_scopes(scopes).source(|request: &Request<Labels>| request.body().0))
        .layer(LabelsLayer::new(|request: &Request<Labels>| request.body().1))
        .service(service_fn(|request: Request<Labels>| {
            Scope::add(&request.body().2);
            assert_eq!(
                Scope::current().value_of("caller"),
                Some(request.body().2.as_str())
            );
            future::ready(Ok::<_, Infallible>(Response::new(String::new())))
        }));
    for &client in ClientLabels::ALL {
        for region in regions.values() {
            for caller in CALLER.values() {
                let request = Request::new(Labels(client, region, caller));
                assert!(service.call(request).now_or_never().unwrap().is_ok());
            }
        }
    }
    assert_eq!(overflows(), overflowed);
    assert_eq!(label_sets(), before + needed);
}

fn a_product_that_cannot_fit_leaves_room_for_others() {
    let names = (0..FixedLabel::MAX_VALUES).map(|n| n.to_string());
    let users = FixedLabel::new("user", names).unwrap();
    let scopes = ClientScopes::new(binding(4));
    let made = label_sets();
    let labels = (users.other(), REFERER.other());
    let error = scopes.expected_with(&labels).unwrap_err().to_string();
    assert!(
        error.starts_with("the labels can make 172032 series of each counter, but the limit is 4096: "),
        "{error}"
    );
    assert_eq!(label_sets(), made);
    assert_eq!(Scope::new(&REFERER.value("1")).value_of("referer"), Some("1"));
    assert_eq!(label_sets(), made + 1);
}
