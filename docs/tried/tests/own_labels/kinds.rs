use axum::http::{HeaderMap, header};
use dualstack_metrics::{
    BoundedLabel, CappedLabel, FixedLabel, LabelSet, Scope,
    labels::{LabelError, LabelValue},
};

#[derive(Clone, Copy, BoundedLabel)]
#[label(name = "plan")]
enum Plan {
    Free,
    #[label(value = "pay-as-you-go")]
    PayAsYouGo,
}

#[derive(Clone, Copy, BoundedLabel)]
enum Region {
    EuWest,
    UsEast,
}

#[derive(Clone, Copy, LabelSet)]
struct Who {
    plan: Plan,
    region: Region,
}

static REFERER: CappedLabel = CappedLabel::new("referer", 20);

fn tenant(names: &str, headers: &HeaderMap) -> Result<LabelValue, LabelError> {
    let tenants = FixedLabel::new("tenant", names.lines())?; // once, at start-up

    let tenant = tenants.value(headers.get(header::HOST)); // in a request

    Ok(tenant)
}

fn referer(headers: &HeaderMap) -> (LabelValue, bool) {
    let referer = REFERER.value(headers.get(header::REFERER));

    (referer, referer == REFERER.other())
}

#[test]
fn each_kind_of_label() {
    let who = Who {
        plan: Plan::PayAsYouGo,
        region: Region::EuWest,
    };
    assert_eq!(
        Scope::new(&who).pairs(),
        [("plan", "pay-as-you-go"), ("region", "eu_west")]
    );
    let free = Scope::new(&(Plan::Free, Region::UsEast));
    assert_eq!(free.pairs(), [("plan", "free"), ("region", "us_east")]);

    let headers = HeaderMap::from_iter([
        (header::HOST, "acme".parse().unwrap()),
        (header::REFERER, "https://a.example/".parse().unwrap()),
    ]);
    assert_eq!(tenant("acme\nglobex", &headers).unwrap().as_str(), "acme");
    assert_eq!(tenant("globex", &headers).unwrap().as_str(), "other");
    let text = |(referer, is_other): (LabelValue, bool)| (referer.as_str(), is_other);
    assert_eq!(text(referer(&headers)), ("https://a.example/", false));
    assert_eq!(text(referer(&HeaderMap::new())), ("other", true));
}
