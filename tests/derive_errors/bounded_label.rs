use dualstack_metrics::BoundedLabel;

#[derive(Clone, Copy, BoundedLabel)]
enum WithData {
    Free,
    Tenant(u32), //~ a variant of a label cannot have data, because each value would be a time series
    Region { name: &'static str }, //~ a variant of a label cannot have data, because each value would be a time series
}

#[derive(Clone, Copy, BoundedLabel)]
struct Tenant(u32); //~ `BoundedLabel` can be derived for an enum only; for a struct of labels, derive `LabelSet`

#[derive(Clone, Copy, BoundedLabel)]
enum Empty {} //~ a label needs at least one value: add a variant

#[derive(Clone, Copy, BoundedLabel)]
enum DuplicateValue {
    Free,
    #[label(value = "free")] //~ another variant has the value "free" already
    Gratis,
    #[label(value = "pay_as_you_go")]
    Paid,
    PayAsYouGo, //~ another variant has the value "pay_as_you_go" already
}

#[derive(Clone, Copy, BoundedLabel)]
#[label(name = "not-a-name")] //~ "not-a-name" is not a label name: use letters, digits, `_` and `.`, and do not begin with a digit, a dot or `__`
enum InvalidName {
    A,
}

#[derive(Clone, Copy, BoundedLabel)]
#[label(name = "le")] //~ "le" is the name of a label that Prometheus gives to histograms and summaries: use another
enum ReservedName {
    A,
}

#[derive(Clone, Copy, BoundedLabel)]
enum Größe { //~ "größe" is not a label name: use letters, digits, `_` and `.`, and do not begin with a digit, a dot or `__`; give the enum a label name with `#[label(name = "…")]`
    A,
}

#[derive(Clone, Copy, BoundedLabel)]
enum Quantile { //~ "quantile" is the name of a label that Prometheus gives to histograms and summaries: use another; give the enum a label name with `#[label(name = "…")]`
    A,
}

#[derive(Clone, Copy, BoundedLabel)]
union Bits { //~ `BoundedLabel` can be derived for an enum only; for a struct of labels, derive `LabelSet`
    a: u8,
}

#[derive(Clone, Copy, BoundedLabel)]
enum InvalidValue {
    #[label(value = "")] //~ a label without a value is no label to Prometheus: give it a value
    A,
    #[label(value = "b\\")] //~ a value cannot have control characters or backslashes, because not every exporter writes them correctly
    B,
}

#[derive(Clone, Copy, BoundedLabel)]
#[label(name = "a", name = "b")] //~ `name` is given twice
enum TwoNames {
    A,
}

#[derive(Clone, Copy, BoundedLabel)]
#[label(value = "a")] //~ unknown attribute: only `#[label(name = "…")]` or `#[label(crate = path)]` is known here
enum ValueOfEnum {
    #[label(name = "a")] //~ unknown attribute: only `#[label(value = "…")]` is known here
    A,
    #[label(value = 1)] //~ expected string literal
    B,
}

#[derive(Clone, Copy, BoundedLabel)]
#[label()] //~ the attribute is empty: write `#[label(name = "…")]` or `#[label(crate = path)]`
enum EmptyAttributes {
    #[label()] //~ the attribute is empty: write `#[label(value = "…")]`
    A,
}

#[derive(Clone, BoundedLabel)]
enum NotCopy { //~ the trait bound `NotCopy: 
    A,
}

fn main() {}
