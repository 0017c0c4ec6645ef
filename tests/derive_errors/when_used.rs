use dualstack_metrics::{BoundedLabel, LabelSet, Scope};

#[derive(Clone, Copy, BoundedLabel)]
enum Plan {
    Free,
}

#[derive(LabelSet)]
struct Pair<A, B> {
    a: A,
    b: B, //~ fields `a` and `b` have a label of the same name
}

fn main() {
    let _ = Scope::new(&Pair { a: Plan::Free, b: Plan::Free });
}
