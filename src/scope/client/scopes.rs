use super::{classes::Classes, nat64::Nat64Prefixes};
use crate::{
    client::{Client, IntoClient},
    labels::{ClientLabels, LabelSet, ServerBinding},
    scope::{
        compose::count_overflow,
        handle::Scope,
        intern::TooManyLabelSets,
        pairs::{Pair, Pairs, borrowed, pairs_of_server},
    },
};

/// The scopes of one listening socket: one for each class of client.
///
/// ```
/// use dualstack_metrics::{ClientScopes, Protocol, ServerBinding};
///
/// let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
/// let scopes = ClientScopes::new(ServerBinding::new(Protocol::Udp, socket.local_addr()?));
/// # socket.send_to(b"x", socket.local_addr()?)?;
/// # let mut buf = [0; 16];
///
/// let (len, peer) = socket.recv_from(&mut buf)?;
/// scopes.for_client(peer).run(|| {
///     metrics::counter!("requests_total").increment(1); // with the seven labels
/// });
/// # assert_eq!(len, 1);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientScopes {
    pub(super) by_class: [Scope; ClientLabels::EVERY.len()],
    server: Scope,
    pub(super) expected: Classes,
    nat64: Nat64Prefixes,
}

impl ClientScopes {
    /// The scopes of the clients of a binding, with the labels of the client and of the server. Make them at start-up, and
    /// keep them. To leave labels out or to add your own, use [`builder`](Self::builder).
    ///
    /// At the [limit of label sets](crate::scope#the-limit), labels are left out. [`ClientScopesBuilder::build`](crate::ClientScopesBuilder::build) returns an error
    /// instead.
    #[must_use]
    pub fn new(binding: ServerBinding) -> Self {
        let server = pairs_of_server(&binding);
        let pairs = |client| server.clone().with(pairs_of_client(client));
        let expected = Classes::of_binding(Some(&binding));
        let nat64 = Nat64Prefixes::default();
        Self::intern(pairs, expected, nat64).unwrap_or_else(|_| {
            count_overflow();
            let server = Scope::intern(pairs(None)).unwrap_or_default();
            Self::all(server, expected, nat64)
                .map(|server, client| server.with(&nat64.effective_class(client)))
        })
    }

    /// The same scopes with more labels in each.
    ///
    /// At the [limit of label sets](crate::scope#the-limit), labels are left out. [`ClientScopesBuilder::build`](crate::ClientScopesBuilder::build) with
    /// [`labels`](crate::ClientScopesBuilder::labels) returns an error instead.
    #[must_use]
    pub fn with<L: LabelSet>(mut self, labels: &L) -> Self {
        self.server = self.server.with(labels);
        self.map(|scope, _| scope.with(labels))
    }

    /// `pairs` returns the labels of a client, or of the server alone.
    pub(super) fn intern(
        pairs: impl Fn(Option<ClientLabels>) -> Pairs,
        expected: Classes,
        nat64: Nat64Prefixes,
    ) -> Result<Self, TooManyLabelSets> {
        let server = Scope::intern(pairs(None))?;
        Self::all(server, expected, nat64)
            .try_map(|_, client| Scope::intern(pairs(Some(nat64.effective_class(client)))))
    }

    fn all(scope: Scope, expected: Classes, nat64: Nat64Prefixes) -> Self {
        Self {
            by_class: [scope; ClientLabels::EVERY.len()],
            server: scope,
            expected,
            nat64,
        }
    }

    fn map(self, map: impl Fn(Scope, ClientLabels) -> Scope) -> Self {
        match self.try_map(|scope, client| Ok::<_, std::convert::Infallible>(map(scope, client))) {
            Ok(scopes) => scopes,
        }
    }

    fn try_map<E>(mut self, map: impl Fn(Scope, ClientLabels) -> Result<Scope, E>) -> Result<Self, E> {
        for &client in ClientLabels::EVERY {
            let scope = &mut self.by_class[client.index()];
            *scope = map(*scope, client)?;
        }
        Ok(self)
    }

    /// The scope of a client. Pass its `SocketAddr` or `IpAddr` as the socket reports it, an `Option` of one, or its
    /// class.
    ///
    /// An address in a [NAT64 prefix](crate::ClientScopesBuilder::nat64) is an IPv4 client. A class is used as it is; only
    /// [`ClientLabels::NAT64`] is labelled as a plain IPv4 client if the scopes have no prefix.
    #[must_use]
    #[inline]
    pub fn for_client(&self, client: impl IntoClient) -> Scope {
        let class = match client.into_client() {
            Some(client) if !self.nat64.is_empty() => self.nat64.class_of(client),
            client => client.map_or(ClientLabels::UNKNOWN, Client::class),
        };
        self.by_class[class.index()]
    }

    /// The scope of the socket itself: the labels of the server alone.
    #[must_use]
    pub fn server(&self) -> Scope {
        self.server
    }
}

pub(super) fn pairs_of_client(client: Option<ClientLabels>) -> impl Iterator<Item = Pair> {
    borrowed(
        client
            .iter()
            .flat_map(|client| client.pairs())
            .copied()
            .collect::<Vec<_>>(),
    )
}

#[cfg(test)]
pub(in crate::scope) mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::labels::{BoundedLabel, Protocol};

    #[derive(Clone, Copy)]
    pub(in crate::scope) struct Eu;

    impl BoundedLabel for Eu {
        const NAME: &'static str = "region";
        const VALUES: &'static [&'static str] = &["eu"];

        fn index(self) -> usize {
            0
        }
    }

    pub(in crate::scope) const CLIENT: [(&str, &str); 2] = [
        ("client_address_ip_family", "inet"),
        ("client_address_ip_type", "plain"),
    ];
    pub(in crate::scope) const UNIX: [(&str, &str); 5] = [
        ("server_binding_address_ip_family", "unknown"),
        ("server_binding_address_ip_type", "unknown"),
        ("server_binding_ip", "unknown"),
        ("server_binding_port", "unknown"),
        ("server_binding_protocol", "http"),
    ];
    pub(in crate::scope) const REGION: [(&str, &str); 1] = [("region", "eu")];

    pub(in crate::scope) fn inet() -> IpAddr {
        IpAddr::from([192, 0, 2, 7])
    }

    #[test]
    fn labels_are_added_to_each_scope_and_to_the_server() {
        let scopes = ClientScopes::new(ServerBinding::unix(Protocol::Http));
        let with = scopes.with(&Eu);
        assert_eq!(with.server().pairs(), [&REGION[..], &UNIX].concat());
        assert_eq!(
            with.for_client(inet()).pairs(),
            [&CLIENT[..], &REGION, &UNIX].concat()
        );
        for &class in ClientLabels::EVERY {
            assert_eq!(with.for_client(class), scopes.for_client(class).with(&Eu));
        }
    }
}
