//! Which clients a socket can see, and which scopes that makes.

use super::scopes::ClientScopes;
use crate::{
    labels::{ClientLabels, LabelSet, max_label_sets, set::alternatives},
    scope::{
        handle::Scope,
        intern::{self, TooManyLabelSets},
    },
};

impl ClientScopes {
    /// The scopes of the clients that the socket can see if nothing is wrong, to start their series at zero: see
    /// [`ScopedRecorderLayer::zeros`](crate::ScopedRecorderLayer::zeros).
    ///
    /// | the socket is bound to | clients |
    /// |---|---|
    /// | `::` | `inet`/`v4_mapped_v6` and `inet6`/`plain` |
    /// | an IPv4 address, or `0.0.0.0` | `inet`/`plain` |
    /// | an IPv4-mapped address | `inet`/`v4_mapped_v6` |
    /// | any other IPv6 address | `inet6`/`plain` |
    /// | a Unix socket | `unknown`/`unknown` |
    ///
    /// With a [NAT64 prefix](super::ClientScopesBuilder::nat64), `inet`/`nat64` is expected beside `inet6`.
    ///
    /// Whether a socket on `::` is IPv6-only cannot be told from its address. Then, and if the client's address does not
    /// come from the socket but from a proxy, say so with [`expected_clients`](super::ClientScopesBuilder::expected_clients). Without a
    /// binding, all three classes with an address are expected.
    ///
    /// ```
    /// # use dualstack_metrics::{ClientScopes, Protocol, ServerBinding};
    /// use metrics::counter;
    ///
    /// # let scopes = ClientScopes::new(ServerBinding::new(Protocol::Udp, "[::]:6969".parse()?));
    /// for scope in scopes.expected() {
    ///     scope.run(|| counter!("requests_total").increment(0));
    /// }
    /// # assert_eq!(scopes.expected().count(), 2);
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    pub fn expected(&self) -> impl Iterator<Item = Scope> + use<> {
        let (by_class, expected) = (self.by_class, self.expected);
        let mut classes = ClientLabels::EVERY
            .iter()
            .filter(move |client| expected.has(**client));
        let mut seen = Vec::new();
        std::iter::from_fn(move || {
            // Without the labels of the client, all classes have one scope.
            let scope = classes
                .by_ref()
                .map(|client| by_class[client.index()])
                .find(|scope| !seen.contains(scope))?;
            seen.push(scope);
            Some(scope)
        })
    }

    /// The scopes of the [expected](Self::expected) clients, each with all values that your own labels can have, to start
    /// their series at zero.
    ///
    /// `labels` is any value of your labels: see [`max_label_sets`]. The value `other` of a
    /// [`FixedLabel`](crate::FixedLabel) is one of its values. Of a [`CappedLabel`](crate::CappedLabel), these are the
    /// values that have come until now.
    ///
    /// ```
    /// # use dualstack_metrics::{ClientScopes, FixedLabel, Protocol, ServerBinding};
    /// # use metrics::counter;
    /// # let scopes = ClientScopes::new(ServerBinding::new(Protocol::Http, "[::]:7070".parse()?));
    /// let tenants = FixedLabel::new("tenant", ["acme", "globex"])?;
    ///
    /// for scope in scopes.expected_with(&tenants.other())? {
    ///     scope.run(|| counter!("requests_total").increment(0));
    /// }
    /// # assert_eq!(scopes.expected_with(&tenants.other())?.len(), 2 * 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the process would have more label sets than its [limit](crate::scope::label_set_limit). If the product alone is
    /// above the limit, nothing is made.
    pub fn expected_with<L: LabelSet>(&self, labels: &L) -> Result<Vec<Scope>, TooManyLabelSets> {
        let scopes: Vec<Scope> = self.expected().collect();
        let alternatives = alternatives(labels);
        let product = alternatives.iter().map(|one| one.known.len());
        // Before anything is stored: a stored set stays, and would leave no room for others.
        intern::check_limit(product.fold(scopes.len(), usize::saturating_mul))?;
        let mut lists = vec![Vec::new()];
        for one in alternatives {
            let product = lists
                .iter()
                .flat_map(|list| one.known.iter().map(|part| [&list[..], &[*part]].concat()));
            lists = product.collect();
        }
        let product = scopes
            .iter()
            .flat_map(|scope| lists.iter().map(|parts| scope.compose(parts)));
        product.collect()
    }

    /// How many label sets the scopes of the clients can be with your own labels: the classes of clients, times all values
    /// of the labels. A counter that is incremented for clients has at most this many series. For scopes without labels
    /// of your own, pass `&()`.
    ///
    /// `labels` is any value of your labels: see [`max_label_sets`]. To check the number at start-up, use
    /// [`limit_label_sets`](crate::scope::limit_label_sets), which says what to add up.
    #[must_use]
    pub fn max_label_sets<L: LabelSet>(&self, labels: &L) -> usize {
        let distinct =
            (0..self.by_class.len()).filter(|&at| !self.by_class[..at].contains(&self.by_class[at]));
        distinct.count().saturating_mul(max_label_sets(labels))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv6Addr};

    use super::*;
    use crate::{
        labels::{CLIENT_ADDRESS_IP_FAMILY, CLIENT_ADDRESS_IP_TYPE, FixedLabel, Protocol, ServerBinding},
        scope::client::tests::{Eu, REGION},
    };

    #[test]
    fn expected_clients_are_those_that_the_binding_can_see() {
        let classes = |scopes: ClientScopes| -> Vec<_> {
            let both = |scope: Scope| {
                [CLIENT_ADDRESS_IP_FAMILY, CLIENT_ADDRESS_IP_TYPE].map(|label| scope.value_of(label).unwrap())
            };
            scopes.expected().map(both).collect()
        };
        let plain = ["inet", "plain"];
        let mapped = ["inet", "v4_mapped_v6"];
        let v6 = ["inet6", "plain"];
        for (address, expected) in [
            ("[::]:1", &[mapped, v6][..]),
            ("0.0.0.0:1", &[plain]),
            ("192.0.2.1:1", &[plain]),
            ("[2001:db8::1]:1", &[v6]),
            ("[::1]:1", &[v6]),
            ("[::ffff:192.0.2.1]:1", &[mapped]),
        ] {
            let binding = ServerBinding::new(Protocol::Udp, address.parse().unwrap());
            let scopes = ClientScopes::new(binding);
            assert_eq!(classes(scopes), expected, "{address}");
            assert_eq!(classes(scopes.with(&Eu)), expected, "{address}");
        }
        let unix = ClientScopes::new(ServerBinding::unix(Protocol::Http));
        assert_eq!(classes(unix), [["unknown"; 2]]);

        let all = ClientScopes::builder().build().unwrap();
        assert_eq!(classes(all), [plain, mapped, v6]);
        let dual_stack = ServerBinding::new(Protocol::Udp, "[::]:1".parse().unwrap());
        let v6_only = ClientScopes::builder()
            .binding(dual_stack)
            .expected_clients([IpAddr::from(Ipv6Addr::UNSPECIFIED)]);
        assert_eq!(classes(v6_only.build().unwrap()), [v6]);
        let none = ClientScopes::builder()
            .omit(CLIENT_ADDRESS_IP_FAMILY)
            .omit(CLIENT_ADDRESS_IP_TYPE);
        let none = none.label("region", "eu").build().unwrap();
        assert_eq!(none.expected().map(Scope::pairs).collect::<Vec<_>>(), [REGION]);
        assert_eq!(none.max_label_sets(&()), 1);
    }

    #[test]
    fn expected_clients_with_labels_are_the_product() {
        let scopes = ClientScopes::new(ServerBinding::new(Protocol::Udp, "[::]:1".parse().unwrap()));
        assert_eq!(
            scopes.expected_with(&()).unwrap(),
            scopes.expected().collect::<Vec<_>>()
        );

        let tenants = FixedLabel::new("tenant", ["a", "b"]).unwrap();
        let product = scopes.expected_with(&(Eu, tenants.other())).unwrap();
        let expected: Vec<_> = scopes
            .expected()
            .flat_map(|scope| {
                tenants
                    .values()
                    .map(move |tenant| Scope::new(&(scope, Eu, tenant)))
            })
            .collect();
        assert_eq!(product, expected);
        assert_eq!(product.len(), 6);
        assert_eq!(
            scopes.max_label_sets(&(Eu, tenants.other())),
            3 * ClientLabels::ALL.len()
        );
    }
}
