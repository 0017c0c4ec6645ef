use std::net::IpAddr;

use dualstack_metrics::{BoundedLabel, LabelSet};

#[derive(Clone, Copy, BoundedLabel)]
enum Plan {
    Free,
}

#[derive(LabelSet)]
struct NoLabels {
    plan: Plan,
    tenant: String, //~ `String` has no fixed set of values, so it cannot label a scope
    address: IpAddr, //~ `IpAddr` has no fixed set of values, so it cannot label a scope
}

#[derive(LabelSet)]
enum Choice { //~ `LabelSet` can be derived for a struct only; for an enum, derive `BoundedLabel`
    A(Plan),
}

#[derive(LabelSet)]
struct WithAttribute {
    #[label(name = "tariff")] //~ a field of a `LabelSet` has no attributes: names and values belong to its label
    plan: Plan,
}

#[derive(LabelSet)]
#[label(name = "tariff")] //~ unknown attribute: only `#[label(crate = path)]` is known here
struct WithName {
    plan: Plan,
}

fn main() {}
