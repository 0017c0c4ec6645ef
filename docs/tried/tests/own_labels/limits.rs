use dualstack_metrics::{
    CappedLabel, ClientLabels, ClientScopes, FixedLabel, labels::max_label_sets, scope::limit_label_sets,
};

static REFERER: CappedLabel = CappedLabel::new("referer", 20);

#[test]
fn the_number_of_series() -> Result<(), Box<dyn std::error::Error>> {
    let tenants = FixedLabel::new("tenant", ["acme", "globex"])?;
    let scopes = ClientScopes::builder().build()?;
    let max_series = 4_000;

    let labels = (tenants.other(), REFERER.other()); // any value of each label
    assert_eq!(max_label_sets(&labels), 3 * 21); // two tenants and `other`, 20 referers and `other`
    assert_eq!(scopes.max_label_sets(&labels), 4 * 3 * 21); // four classes of clients

    let needed = scopes.max_label_sets(&()) + scopes.max_label_sets(&labels);
    limit_label_sets(max_series, needed)?; // an error if `needed` is more

    assert_eq!(ClientLabels::ALL.len(), 4);
    let error = limit_label_sets(200, needed).unwrap_err().to_string();
    assert!(
        error.starts_with("the labels can make 256 series of each counter, but the limit is 200: "),
        "{error}"
    );
    Ok(())
}
