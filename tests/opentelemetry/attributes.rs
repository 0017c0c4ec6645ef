//! Which attributes a measurement has.

use dualstack_metrics::{
    ClientScopes, Protocol, Scope, ServerBinding, WithScope as _, labels::SERVER_BINDING_PROTOCOL,
};
use opentelemetry::{Array, Context, KeyValue, Value, baggage::BaggageExt as _, metrics::MeterProvider as _};
use test_support::Digit;

use crate::exported::{Sdk, each_path, inet, inet6, of, point, scopes, sorted};

#[test]
fn a_kept_counter_has_the_attributes_of_the_scope_that_it_is_incremented_in() {
    each_path(Sdk::new, |sdk, meter| {
        let kept = meter.u64_counter("requests").build();
        for round in 1..=3 {
            inet().run(|| kept.add(round, &[]));
            inet6().run(|| kept.add(10 * round, &[]));
            kept.add(100 * round, &[]);
        }
        let expected = sorted([
            point(inet(), &[], 6),
            point(inet6(), &[], 60),
            point(Scope::none(), &[], 600),
        ]);
        assert_eq!(sdk.exported().points("requests"), expected);
        assert_eq!(of(inet(), &[]).len(), 7);
    });
}

#[test]
fn a_counter_that_was_made_in_a_scope_is_like_any_other() {
    each_path(Sdk::new, |sdk, meter| {
        let made_inside = inet().run(|| meter.u64_counter("requests").build());
        made_inside.add(1, &[]);
        inet6().run(|| made_inside.add(2, &[]));
        inet6().run(|| Scope::none().run(|| made_inside.add(4, &[])));
        let expected = sorted([point(Scope::none(), &[], 5), point(inet6(), &[], 2)]);
        assert_eq!(sdk.exported().points("requests"), expected);
    });
}

#[test]
fn a_scope_may_be_newer_than_the_counter_and_a_provider_newer_than_the_scope() {
    let early = inet();
    early.run(|| {});
    each_path(Sdk::new, |sdk, meter| {
        let kept = meter.u64_counter("requests").build();
        early.run(|| kept.add(1, &[]));
        let late = inet6().with(&Digit::<0>(7));
        late.run(|| kept.add(2, &[]));
        let expected = sorted([point(early, &[], 1), point(inet6(), &["ones=7"], 2)]);
        assert_eq!(sdk.exported().points("requests"), expected);
    });
}

#[test]
fn an_increment_of_zero_makes_the_series_and_nothing_else_does() {
    each_path(Sdk::new, |sdk, meter| {
        let kept = meter.u64_counter("requests").build();
        assert_eq!(sdk.exported().names(), [""; 0]);
        for scope in scopes().expected() {
            scope.run(|| kept.add(0, &[]));
        }
        let expected = sorted([point(inet(), &[], 0), point(inet6(), &[], 0)]);
        assert_eq!(sdk.exported().points("requests"), expected);
    });
}

#[test]
fn attributes_at_the_call_are_added_and_win() {
    each_path(Sdk::new, |sdk, meter| {
        let kept = meter.u64_counter("requests").build();
        let kind = [KeyValue::new("kind", "announce")];
        let family = [
            KeyValue::new("client_address_ip_family", "mine"),
            KeyValue::new("status", 200),
        ];
        // The first use, the second, and those after it take different ways.
        for _ in 0..5 {
            inet().run(|| {
                kept.add(1, &kind);
                kept.add(10, &family);
            });
            inet6().run(|| kept.add(100, &kind));
            kept.add(1_000, &kind);
        }
        let mut won = of(inet(), &["client_address_ip_family=mine", "status=I64(200)"]);
        won.retain(|attribute| attribute != "client_address_ip_family=inet");
        let expected = sorted([
            point(inet(), &["kind=announce"], 5),
            (won, "50".into()),
            point(inet6(), &["kind=announce"], 500),
            point(Scope::none(), &["kind=announce"], 5_000),
        ]);
        assert_eq!(sdk.exported().points("requests"), expected);
    });
}

/// Two names that Prometheus writes alike are two names for OpenTelemetry.
#[test]
fn names_are_compared_as_they_are() {
    each_path(Sdk::new, |sdk, meter| {
        let kept = meter.u64_counter("requests").build();
        let others = [
            KeyValue::new("client.address.ip.family", "mine"),
            KeyValue::new("Client_address_ip_type", "mine"),
        ];
        inet().run(|| kept.add(1, &others));
        let more = ["client.address.ip.family=mine", "Client_address_ip_type=mine"];
        assert_eq!(sdk.exported().points("requests"), [point(inet(), &more, 1)]);
    });
}

#[test]
fn the_order_at_the_call_does_not_matter() {
    each_path(Sdk::new, |sdk, meter| {
        let kept = meter.u64_counter("requests").build();
        let [a, b, z] = [("a", 1), ("b", 2), ("z", 3)].map(|(key, value)| KeyValue::new(key, value));
        for _ in 0..3 {
            inet().run(|| {
                kept.add(1, &[a.clone(), b.clone(), z.clone()]);
                kept.add(1, &[z.clone(), a.clone(), b.clone()]);
                kept.add(1, &[b.clone(), z.clone(), a.clone()]);
            });
        }
        let more = ["a=I64(1)", "b=I64(2)", "z=I64(3)"];
        assert_eq!(sdk.exported().points("requests"), [point(inet(), &more, 9)]);
    });
}

/// The SDK exports the first, or both: it keeps a series under the attributes as they are and without the duplicates, and
/// shows the first in its map.
#[test]
fn a_key_that_is_twice_at_the_call_counts_as_it_does_without_a_scope() {
    each_path(Sdk::new, |sdk, meter| {
        let twice = ["first", "second"].map(|value| KeyValue::new("kind", value));
        let kept = meter.u64_counter("requests").build();
        for scope in [inet(), Scope::none()] {
            for _ in 0..3 {
                scope.run(|| kept.add(1, &twice));
            }
        }
        let points = sdk.exported().points("requests");
        let scopes = [inet(), Scope::none()].map(|scope| {
            let forms = [&["kind=first"][..], &["kind=first", "kind=second"]];
            let forms = forms.map(|kinds| point(scope, kinds, 3));
            points.iter().filter(|point| forms.contains(point)).count()
        });
        assert_eq!((points.len(), scopes), (2, [1, 1]), "{points:?}");
    });
}

#[test]
fn attributes_at_the_call_may_have_any_type() {
    each_path(Sdk::new, |sdk, meter| {
        let kept = meter.u64_counter("requests").build();
        let values = [
            Value::from(true),
            1.into(),
            1.0.into(),
            "1".into(),
            String::from("text").into(),
            Value::Array(Array::I64(vec![1, 2])),
            Value::Array(Array::Bool(vec![])),
        ];
        for round in 0..4 {
            for value in &values {
                inet().run(|| kept.add(round, &[KeyValue::new("value", value.clone())]));
            }
        }
        let written = [
            "value=Bool(true)",
            "value=I64(1)",
            "value=F64(1.0)",
            "value=1",
            "value=text",
            "value=Array(I64([1, 2]))",
            "value=Array(Bool([]))",
        ];
        let expected = sorted(written.map(|value| point(inet(), &[value], 6)));
        assert_eq!(sdk.exported().points("requests"), expected);
    });
}

/// A value that is not equal to itself is a new series for the SDK each time, with or without a scope.
#[test]
fn a_value_that_is_not_a_number_loses_no_increment() {
    each_path(Sdk::new, |sdk, meter| {
        let kept = meter.u64_counter("requests").build();
        for _ in 0..10 {
            inet().run(|| kept.add(1, &[KeyValue::new("ratio", f64::NAN)]));
        }
        let points = sdk.exported().points("requests");
        assert!(
            points
                .iter()
                .all(|(attributes, _)| *attributes == of(inet(), &["ratio=F64(NaN)"]))
        );
        let total: u64 = points
            .iter()
            .map(|(_, value)| value.parse::<u64>().unwrap())
            .sum();
        assert_eq!(total, 10);
    });
}

#[test]
fn the_vocabulary_names_the_attributes_and_the_port_is_a_number() {
    let scopes = ClientScopes::builder()
        .binding(ServerBinding::new(Protocol::Http, "[::]:7070".parse().unwrap()))
        .opentelemetry()
        .rename(SERVER_BINDING_PROTOCOL, "transport")
        .label("region", "443")
        .build()
        .unwrap();
    let unix = ClientScopes::builder()
        .binding(ServerBinding::unix(Protocol::Http))
        .opentelemetry()
        .build()
        .unwrap();
    each_path(Sdk::new, |sdk, meter| {
        let kept = meter.u64_counter("requests").build();
        let client: std::net::IpAddr = "::ffff:192.0.2.7".parse().unwrap();
        scopes.for_client(client).run(|| kept.add(1, &[]));
        scopes
            .for_client(client)
            .run(|| kept.add(1, &[KeyValue::new("network.type", "mine")]));
        unix.server().run(|| kept.add(1, &[]));
        let with_type = |name: &str| {
            [
                "network.local.address=::",
                "network.local.port=I64(7070)",
                name,
                "region=443",
                "transport=tcp",
            ]
            .map(String::from)
            .to_vec()
        };
        let of_unix = [
            "network.local.address=unknown",
            "network.local.port=unknown",
            "network.transport=unix",
        ];
        let expected = sorted([
            (with_type("network.type=ipv4"), "1".into()),
            (with_type("network.type=mine"), "1".into()),
            (of_unix.map(String::from).to_vec(), "1".into()),
        ]);
        assert_eq!(sdk.exported().points("requests"), expected);
    });
}

#[test]
fn labels_that_are_added_during_a_request_are_on_all_later_measurements() {
    each_path(Sdk::new, |sdk, meter| {
        let kept = meter.u64_counter("requests").build();
        for digit in [0, 1].map(Digit::<0>) {
            inet().run(|| {
                kept.add(1, &[]);
                Scope::add(&digit);
                kept.add(1, &[]);
            });
        }
        let expected = sorted([
            point(inet(), &[], 2),
            point(inet(), &["ones=0"], 1),
            point(inet(), &["ones=1"], 1),
        ]);
        assert_eq!(sdk.exported().points("requests"), expected);
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scope_holds_across_await_points_and_into_tasks_beside_a_context() {
    let sdk = Sdk::new();
    let kept = sdk.scoped().meter("test").u64_counter("requests").build();
    let tasks: Vec<_> = (0..64)
        .map(|at| {
            let kept = kept.clone();
            let scope = if at % 2 == 0 { inet() } else { inet6() };
            let tenant = at.to_string();
            let baggage = Context::new().with_baggage([KeyValue::new("tenant", tenant.clone())]);
            let request = async move {
                for _ in 0..10 {
                    kept.add(1, &[]);
                    // A context is attached and detached in a scope, and the other way round.
                    let attached = baggage.clone().attach();
                    kept.add(1, &[]);
                    let seen = Scope::none().run(|| Context::current().baggage().get("tenant").cloned());
                    assert_eq!(seen.unwrap().as_str(), tenant);
                    drop(attached);
                    assert_eq!(Context::current().baggage().len(), 0);
                    tokio::task::yield_now().await;
                }
                let child = async move { kept.add(1, &[]) };
                tokio::spawn(child.with_current_scope()).await.unwrap();
            };
            tokio::spawn(request.with_scope(scope))
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let expected = sorted([point(inet(), &[], 32 * 21), point(inet6(), &[], 32 * 21)]);
    assert_eq!(sdk.exported().points("requests"), expected);
}
