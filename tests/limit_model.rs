//! Random programs at the limit of label sets, beside a model. They run in their own process, because the limit is the
//! process's.

use std::collections::BTreeMap;

use dualstack_metrics::{
    CappedLabel, ClientLabels, ClientScopes, FixedLabel, LabelSet, Protocol, Scope, ServerBinding,
    labels::LabelValue,
    scope::{label_set_limit, label_sets, limit_label_sets, overflows},
};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config as ProptestConfig, FileFailurePersistence::Direct},
};

type Pairs = BTreeMap<&'static str, &'static str>;

static REFERER: CappedLabel = CappedLabel::new("referer", 4);

/// A step of a program, from one scope to the next.
#[derive(Clone, Debug)]
enum Step {
    Client(usize),
    Tenant(usize),
    Plan(usize),
    Referer(usize),
    /// Several labels at once; the tenant occurs twice.
    Tuple(usize, usize, usize),
    /// The scope of an earlier step.
    Earlier(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..4_usize).prop_map(Step::Client),
        (0..5_usize).prop_map(Step::Tenant),
        (0..3_usize).prop_map(Step::Plan),
        (0..6_usize).prop_map(Step::Referer),
        (0..5_usize, 0..3_usize, 0..5_usize).prop_map(|(a, b, c)| Step::Tuple(a, b, c)),
        (0..8_usize).prop_map(Step::Earlier),
    ]
}

struct World {
    tenants: FixedLabel,
    plans: FixedLabel,
    scopes: ClientScopes,
}

impl World {
    fn tenant(&self, n: usize) -> LabelValue {
        self.tenants.value(n.to_string())
    }

    fn plan(&self, n: usize) -> LabelValue {
        self.plans.value(n.to_string())
    }

    fn run(&self, steps: &[Step]) -> Vec<(Scope, Pairs)> {
        let mut made = vec![(Scope::none(), Pairs::new())];
        for step in steps {
            let (scope, asked) = made.last().cloned().unwrap();
            let now = (scope, &asked);
            made.push(match *step {
                Step::Client(n) => {
                    let client = self.scopes.for_client(ClientLabels::ALL[n]);
                    add(now, &client, client.pairs())
                }
                Step::Tenant(n) => add(now, &self.tenant(n), &[("tenant", self.tenant(n).as_str())]),
                Step::Plan(n) => add(now, &self.plan(n), &[("plan", self.plan(n).as_str())]),
                Step::Referer(n) => {
                    let referer = REFERER.value(n.to_string());
                    add(now, &referer, &[("referer", referer.as_str())])
                }
                Step::Tuple(a, b, c) => {
                    let labels = (self.tenant(a), self.plan(b), self.tenant(c));
                    let pairs = [
                        ("plan", self.plan(b).as_str()),
                        ("tenant", self.tenant(c).as_str()),
                    ];
                    add(now, &labels, &pairs)
                }
                Step::Earlier(n) => {
                    // A scope does not know which labels it has lost.
                    let inner = made[n % made.len()].0;
                    add(now, &inner, inner.pairs())
                }
            });
        }
        made
    }
}

/// Adds labels to a scope, and to the labels that it would have without a limit.
fn add<L: LabelSet>(
    (scope, asked): (Scope, &Pairs),
    labels: &L,
    pairs: &[(&'static str, &'static str)],
) -> (Scope, Pairs) {
    let mut asked = asked.clone();
    asked.extend(pairs.iter().copied());
    (scope.with(labels), asked)
}

#[test]
fn labels_are_left_out_at_the_limit_and_never_changed() {
    let names = |count: usize| (0..count).map(|n| n.to_string());
    let world = World {
        tenants: FixedLabel::new("tenant", names(4)).unwrap(),
        plans: FixedLabel::new("plan", names(2)).unwrap(),
        scopes: ClientScopes::new(ServerBinding::new(Protocol::Http, "[::]:7070".parse().unwrap())),
    };
    // Without a limit in the way, every label is there.
    let before = overflows();
    for at in 0..4 {
        let steps = [
            Step::Client(at),
            Step::Tenant(at),
            Step::Tuple(at, 1, 0),
            Step::Earlier(1),
        ];
        for (scope, asked) in world.run(&steps) {
            assert!(
                asked
                    .iter()
                    .eq(scope.pairs().iter().map(|(name, value)| (name, value))),
                "{scope:?}"
            );
        }
    }
    assert_eq!(overflows(), before);

    // Some of the sets that the programs ask for are there, and others are not. A few more places are left.
    limit_label_sets(label_sets() + 40, 0).unwrap();
    let config = ProptestConfig {
        cases: 2_000,
        failure_persistence: Some(Box::new(Direct("proptest-regressions/limit_model.txt"))),
        ..ProptestConfig::default()
    };
    proptest!(config, |(steps in vec(step(), 1..12))| {
        let before = overflows();
        let made = world.run(&steps);
        let is_complete = |(scope, asked): &(Scope, Pairs)| scope.pairs().len() == asked.len();
        for (scope, asked) in &made {
            for (name, value) in scope.pairs() {
                prop_assert_eq!(asked.get(name), Some(value), "{:?} for {:?}", scope, asked);
            }
        }
        prop_assert!(made.iter().all(is_complete) || overflows() > before);
        prop_assert!(label_sets() <= label_set_limit());
    });
    assert_eq!(label_sets(), label_set_limit());
}
