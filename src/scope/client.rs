mod builder;
mod error;
mod expected;
mod nat64;

use std::{cell::Cell, net::IpAddr};

pub use self::{builder::ClientScopesBuilder, error::ClientScopesError};
use self::{expected::Classes, nat64::Nat64Prefixes};
use super::{
    Scope, TooManyLabelSets,
    pairs::{Pairs, borrowed, pairs_of_server},
};
use crate::{
    client::{Client, IntoClient},
    labels::{ClientLabels, ServerBinding},
};

thread_local! {
    // Has no destructor, so that it can be used while other thread-locals are destroyed.
    static KNOWN: [Cell<Option<(ServerBinding, ClientScopes)>>; KNOWN_BINDINGS] =
        const { [const { Cell::new(None) }; KNOWN_BINDINGS] };
}

const KNOWN_BINDINGS: usize = 16;

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
    by_class: [Scope; ClientLabels::EVERY.len()],
    server: Scope,
    expected: Classes,
    nat64: Nat64Prefixes,
}

impl ClientScopes {
    /// The scopes of the clients of a binding, with the labels of the client and of the server. To leave labels out or
    /// to add your own, use [`builder`](Self::builder).
    ///
    /// The result is cached per thread. Making the scopes of the same binding again is cheap enough for a request.
    ///
    /// If the process already has [`MAX_LABEL_SETS`](crate::MAX_LABEL_SETS) other label sets, labels are left out: see
    /// [`overflows`](super::overflows). [`try_new`](Self::try_new) returns an error instead.
    #[must_use]
    pub fn new(binding: ServerBinding) -> Self {
        let at = slot_of(&binding);
        if let Some((known, scopes)) = KNOWN.with(|cache| cache[at].get())
            && known == binding
        {
            return scopes;
        }

        let Ok(scopes) = Self::store_default(binding, Ok) else {
            let server = Scope::store(pairs_of_server(&binding), Scope::none());
            let server = Scope::overflow(server.unwrap_or_else(|_| Scope::current()));
            let expected = Classes::of_binding(Some(&binding));
            let nat64 = Nat64Prefixes::default();
            return Self::all(server, expected, nat64).map(|server, client| {
                let client = nat64.stored_class(client);
                server.store_with(&client).unwrap_or(server)
            });
        };
        KNOWN.with(|cache| cache[at].set(Some((binding, scopes))));
        scopes
    }

    /// The scopes of the clients of a binding, with the labels of the client and of the server.
    ///
    /// # Errors
    ///
    /// If the process would have more than [`MAX_LABEL_SETS`](crate::MAX_LABEL_SETS) label sets, which takes more than
    /// 800 bindings.
    pub fn try_new(binding: ServerBinding) -> Result<Self, TooManyLabelSets> {
        Self::store_default(binding, Scope::with_place)
    }

    /// Makes scopes with other labels.
    ///
    /// ```
    /// # use dualstack_metrics::{BoundedLabel, ClientLabels, ClientScopes, Scope};
    /// # #[derive(Clone, Copy)] enum Region { Eu }
    /// # impl BoundedLabel for Region {
    /// #     const NAME: &'static str = "region"; const VALUES: &'static [&'static str] = &["eu"];
    /// #     fn index(self) -> usize { self as usize }
    /// # }
    /// # let public_url = String::from("https://tracker.example");
    /// // No labels of the server. One value from the configuration, and a label with fixed values.
    /// let scopes = ClientScopes::builder()
    ///     .label("public_url", public_url)
    ///     .labels(&Region::Eu)
    ///     .build()?;
    ///
    /// assert_eq!(scopes.for_client(ClientLabels::UNKNOWN).pairs(), [
    ///     ("client_address_ip_family", "unknown"),
    ///     ("client_address_ip_type", "unknown"),
    ///     ("public_url", "https://tracker.example"),
    ///     ("region", "eu"),
    /// ]);
    /// # Ok::<(), dualstack_metrics::scope::ClientScopesError>(())
    /// ```
    pub fn builder() -> ClientScopesBuilder {
        ClientScopesBuilder::default()
    }

    /// The same scopes with the labels of `inner` added to each.
    ///
    /// If the process already has [`MAX_LABEL_SETS`](crate::MAX_LABEL_SETS) other label sets, the labels of `inner` are
    /// left out: see [`overflows`](super::overflows). [`try_nest`](Self::try_nest) returns an error instead.
    #[must_use]
    pub fn nest(mut self, inner: Scope) -> Self {
        self.server = self.server.nest(inner);
        self.map(|scope, _| scope.nest(inner))
    }

    /// The same scopes with the labels of `inner` added to each.
    ///
    /// # Errors
    ///
    /// If the process would have more than [`MAX_LABEL_SETS`](crate::MAX_LABEL_SETS) label sets.
    pub fn try_nest(mut self, inner: Scope) -> Result<Self, TooManyLabelSets> {
        self.server = self.server.try_nest(inner)?;
        self.try_map(|scope, _| scope.try_nest(inner))
    }

    fn store_default(
        binding: ServerBinding,
        finish: fn(Scope) -> Result<Scope, TooManyLabelSets>,
    ) -> Result<Self, TooManyLabelSets> {
        let server = pairs_of_server(&binding);
        let pairs = |client| server.clone().with(pairs_of_client(client));
        let expected = Classes::of_binding(Some(&binding));
        Self::store(pairs, expected, Nat64Prefixes::default(), finish)
    }

    /// `pairs` returns the labels of a client, and of the server alone.
    fn store(
        pairs: impl Fn(Option<ClientLabels>) -> Pairs,
        expected: Classes,
        nat64: Nat64Prefixes,
        finish: fn(Scope) -> Result<Scope, TooManyLabelSets>,
    ) -> Result<Self, TooManyLabelSets> {
        let server = finish(Scope::store(pairs(None), Scope::none())?)?;
        Self::all(server, expected, nat64).try_map(|server, client| {
            let client = nat64.stored_class(client);
            finish(Scope::store(pairs(Some(client)), server)?)
        })
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
    /// An address in a [NAT64 prefix](ClientScopesBuilder::nat64) is an IPv4 client. A class is used as it is; only
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

    /// The scope of the socket itself: the same labels without those of a client.
    #[must_use]
    pub fn server(&self) -> Scope {
        self.server
    }
}

fn pairs_of_client(client: Option<ClientLabels>) -> impl Iterator<Item = super::pairs::Pair> {
    borrowed(
        client
            .iter()
            .flat_map(|client| client.pairs())
            .copied()
            .collect::<Vec<_>>(),
    )
}

/// Bindings of one process usually differ in the port.
fn slot_of(binding: &ServerBinding) -> usize {
    let (ip, port) = binding.address().map_or((0, 0), |address| {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.octets()[3],
            IpAddr::V6(ip) => ip.octets()[15],
        };
        (ip, address.port())
    });
    (usize::from(port) ^ usize::from(ip) ^ (binding.protocol() as usize)) % KNOWN_BINDINGS
}

#[cfg(test)]
pub(super) mod tests {
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
    fn nesting_adds_the_labels_to_each_scope_and_to_the_server() {
        let scopes = ClientScopes::new(ServerBinding::unix(Protocol::Http));
        let eu = Scope::new(&Eu);
        for nested in [scopes.nest(eu), scopes.try_nest(eu).unwrap()] {
            assert_eq!(nested.server().pairs(), [&REGION[..], &UNIX].concat());
            assert_eq!(
                nested.for_client(inet()).pairs(),
                [&CLIENT[..], &REGION, &UNIX].concat()
            );
            for &class in ClientLabels::EVERY {
                assert_eq!(nested.for_client(class), scopes.for_client(class).nest(eu));
            }
        }
    }

    #[test]
    fn bindings_that_share_a_slot_of_the_cache_have_their_own_scopes() {
        let bindings: Vec<_> = (1..100)
            .flat_map(|port| {
                [Protocol::Http, Protocol::Udp]
                    .map(|protocol| ServerBinding::new(protocol, ([192, 0, 2, 1], port).into()))
            })
            .chain([
                ServerBinding::unix(Protocol::Http),
                ServerBinding::unix(Protocol::Grpc),
            ])
            .collect();
        for _ in 0..2 {
            for &binding in &bindings {
                for scopes in [ClientScopes::new(binding), ClientScopes::new(binding)] {
                    assert_eq!(scopes.server(), Scope::for_server(&binding));
                    let client = ClientLabels::from(inet());
                    assert_eq!(
                        scopes.for_client(client),
                        Scope::for_server(&binding).nest(Scope::new(&client))
                    );
                }
            }
        }
    }
}
