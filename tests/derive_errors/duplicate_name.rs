use dualstack_metrics::{BoundedLabel, ClientLabels, LabelSet};

#[derive(Clone, Copy, BoundedLabel)]
enum Plan {
    Free,
}

#[derive(Clone, Copy, BoundedLabel)]
#[label(name = "plan")]
enum Tariff {
    Night,
}

#[derive(Clone, Copy, BoundedLabel)]
#[label(name = "client.address.ip.type")]
enum Mine {
    A,
}

#[derive(LabelSet)]
struct DuplicateName {
    plan: Plan,
    client: ClientLabels,
    tariff: Tariff, //~ fields `plan` and `tariff` have a label of the same name
}

#[derive(LabelSet)]
struct WrittenAlike(
    ClientLabels,
    Plan,
    Mine, //~ fields `0` and `2` have a label of the same name
);

fn main() {}
