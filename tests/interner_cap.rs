//! The limit on label sets. It runs in its own process, because label sets are never freed.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
};

use dualstack_metrics::{
    ClientLabels, ClientLabelsLayer, ClientScopes, FixedLabel, MAX_LABEL_SETS, Protocol, Scope,
    ServerBinding,
    labels::LabelValue,
    prometheus::Install,
    scope::{ClientScopesError, label_sets, overflows},
};
use futures_util::FutureExt;
use http::{Request, Response};
use metrics::counter;
use metrics_exporter_prometheus::PrometheusBuilder;
use test_support::{INET, Labels, Log, UNKNOWN, assert_samples, sample, samples, seven};
use tower::{Layer, Service, service_fn};

/// A binding that is made from a peer: the mistake that the limit protects from.
fn binding(port: u16) -> ServerBinding {
    ServerBinding::new(Protocol::Http, (Ipv4Addr::LOCALHOST, port).into())
}

/// A binding that does not fit.
fn fresh() -> ServerBinding {
    binding(60_000)
}

/// How often `overflows` grew during `work`.
fn overflows_of<T>(work: impl FnOnce() -> T) -> (u64, T) {
    let before = overflows();
    let result = work();
    (overflows() - before, result)
}

/// What the steps of the test leave to each other.
struct Process {
    /// The scopes of the binding with port 1.
    first: ClientScopes,
    /// The clients without a binding.
    alone: Vec<Scope>,
    steps: FixedLabel,
    /// All sets.
    sets: Vec<Scope>,
}

/// One story, because there is one limit for the process: what is before it, and what is at it.
#[test]
fn the_limit() {
    let log = Log::of_process();
    assert_eq!(MAX_LABEL_SETS, 4096);
    let mut process = Process::new();
    process.making_the_same_sets_again_stores_nothing();
    process.the_steps_to_a_set_store_nothing();
    process.fill();
    assert_eq!(overflows(), 0);
    assert_eq!(log.lines(), [""; 0]);

    let message = process.new_sets_fail_at_start_up();
    process.a_request_leaves_labels_out();
    process.no_label_gets_another_value();
    let [line] = &log.lines()[..] else {
        panic!("one warning, not {:#?}", log.lines())
    };
    assert!(line.starts_with("WARN ") && line.contains(&message), "{line}");

    process.each_thread_finds_the_sets_that_there_are();
    process.all_sets_count();
    assert_eq!(label_sets(), MAX_LABEL_SETS);
}

impl Process {
    /// A binding takes five sets, as documented. The clients alone take four.
    fn new() -> Self {
        let first = ClientScopes::new(binding(1));
        let alone: Vec<_> = ClientLabels::ALL.iter().map(Scope::new).collect();
        let mut sets = vec![first.server()];
        sets.extend(ClientLabels::ALL.iter().map(|client| first.for_client(client)));
        sets.extend(&alone);
        assert!(sets.iter().enumerate().all(|(at, set)| !sets[..at].contains(set)));
        assert_eq!(label_sets(), sets.len());
        Self {
            first,
            alone,
            steps: FixedLabel::new("step", (0..FixedLabel::MAX_VALUES).map(|n| n.to_string())).unwrap(),
            sets,
        }
    }

    fn step(&self, n: usize) -> LabelValue {
        self.steps.value(n.to_string())
    }

    fn making_the_same_sets_again_stores_nothing(&self) {
        for _ in 0..MAX_LABEL_SETS {
            assert_eq!(ClientScopes::new(binding(1)), self.first);
            assert_eq!(
                self.first.server().with(&self.alone[0]),
                self.first.for_client(ClientLabels::ALL[0])
            );
        }
        assert_eq!(label_sets(), self.sets.len());
    }

    /// A tuple is one set, whatever it is made of.
    fn the_steps_to_a_set_store_nothing(&mut self) {
        let server = self.first.server();
        let other = FixedLabel::new("other_step", (0..99).map(|n| n.to_string())).unwrap();
        for (n, other) in other.values().take(99).enumerate() {
            self.sets
                .push(Scope::new(&(server, self.step(n), other, self.alone[n % 4])));
            assert_eq!(label_sets(), self.sets.len());
        }
    }

    /// Whole bindings, then single sets until the limit.
    fn fill(&mut self) {
        let mut port = 2;
        while self.sets.len() + 5 <= 2_000 {
            let scopes = ClientScopes::builder().binding(binding(port)).build().unwrap();
            self.sets.push(scopes.server());
            let clients = ClientLabels::ALL.iter().map(|client| scopes.for_client(client));
            self.sets.extend(clients);
            port += 1;
        }
        let free = MAX_LABEL_SETS - self.sets.len();
        self.sets
            .extend((0..free).map(|n| Scope::new(&self.steps.value(n.to_string()))));
        assert_eq!(label_sets(), MAX_LABEL_SETS);
        let distinct: BTreeSet<_> = self.sets.iter().map(|set| set.pairs()).collect();
        assert_eq!(distinct.len(), MAX_LABEL_SETS);
    }

    fn new_sets_fail_at_start_up(&self) -> String {
        let built = ClientScopes::builder().binding(fresh()).build();
        let Err(ClientScopesError::TooManyLabelSets(error)) = built else {
            panic!("{built:?}")
        };
        let message = error.to_string();
        for words in ["4096", "start-up", "`local_addr()`", "never from a peer"] {
            assert!(message.contains(words), "{words}: {message}");
        }
        assert_eq!(built.unwrap_err().to_string(), message);
        assert_eq!(self.first.expected_with(&self.step(7)), Err(error));
        assert_eq!(
            ClientScopes::builder().binding(binding(1)).build(),
            Ok(self.first)
        );
        message
    }

    fn a_request_leaves_labels_out(&self) {
        let (first, alone) = (self.first, &self.alone);
        // There is a set for the client, and one for the step.
        assert_eq!(overflows_of(|| alone[0].with(&self.step(7))), (1, alone[0]));
        let tuple = (alone[0], self.step(7), first.server());
        assert_eq!(
            overflows_of(|| Scope::new(&tuple)),
            (1, first.for_client(ClientLabels::ALL[0])),
            "the labels after the one that is left out stay"
        );
        let unknown = self.steps.value("none");
        assert_eq!(overflows_of(|| Scope::new(&unknown)), (1, Scope::none()));
        let add = || {
            alone[1].run(|| {
                Scope::add(&unknown);
                Scope::current()
            })
        };
        assert_eq!(overflows_of(add), (1, alone[1]));
        let (count, scopes) = overflows_of(|| ClientScopes::new(fresh()));
        assert_eq!((count, scopes.server()), (1, Scope::none()));
        assert_eq!(scopes.for_client(ClientLabels::UNKNOWN), alone[3]);
        assert_eq!(first.with(&unknown), first);
    }

    /// A label of the outer scope that should be replaced is left out.
    fn no_label_gets_another_value(&self) {
        let (one, client) = (self.step(1), self.alone[1]);
        let outer = self.sets[10];
        assert_eq!(outer.value_of("step"), Some("1"));
        let both = outer.with(&(self.step(7), client));
        assert_eq!(both.pairs(), [("step", "7")]);
        let replaced = Scope::new(&one).with(&(self.steps.value("none"), client));
        assert_eq!(replaced, client);
    }

    fn each_thread_finds_the_sets_that_there_are(&self) {
        let find = || {
            for client in ClientLabels::ALL {
                assert_eq!(self.first.server().with(client), self.first.for_client(client));
            }
            assert_eq!(ClientScopes::new(binding(1)), self.first);
        };
        let before = overflows();
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(find);
            }
        });
        assert_eq!(overflows(), before);
    }

    fn all_sets_count(&self) {
        let first = self.first;
        let recorder = Install::new(PrometheusBuilder::new()).build_recorder();
        let before = overflows();
        metrics::with_local_recorder(&recorder, || {
            let kept = counter!("kept_total");
            for scope in &self.sets {
                scope.run(|| kept.increment(1));
            }
            for _ in 0..3 {
                let client = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 7);
                first.for_client(client).run(|| {
                    kept.increment(1);
                    counter!("macro_total").increment(1);
                });
            }
            // A layer for a binding that does not fit serves, with the labels that are in force.
            let mut service = ClientLabelsLayer::new(fresh()).layer(service_fn(|_: Request<()>| async {
                counter!("served_total").increment(1);
                Ok::<_, std::convert::Infallible>(Response::new(()))
            }));
            let call = || drop(service.call(Request::new(())).now_or_never().unwrap().unwrap());
            first.for_client(ClientLabels::UNKNOWN).run(call);
        });
        let lines = samples(&recorder.get_ref().handle().render());
        assert_eq!(lines.len(), MAX_LABEL_SETS + 3);
        let overflowed = overflows() - before;
        assert!(overflowed > 0);
        let of = |seen| seven("http", SocketAddr::from((Ipv4Addr::LOCALHOST, 1)), seen);
        let (some, rest): (Vec<_>, Vec<_>) = lines
            .into_iter()
            .partition(|line| !line.starts_with("kept_total") || !line.ends_with(" 1"));
        assert_samples(
            some,
            [
                sample("kept_total", &of(INET), 4),
                sample("label_sets_overflowed_total", &Labels::new(), overflowed),
                sample("macro_total", &of(INET), 3),
                sample("served_total", &of(UNKNOWN), 1),
            ],
        );
        assert!(rest.iter().all(|line| line.starts_with("kept_total{")));
    }
}
