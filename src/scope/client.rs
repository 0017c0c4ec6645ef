use std::{
    borrow::Cow,
    cell::Cell,
    error::Error,
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use super::{Scope, TooManyLabelSets, list_of, list_of_server};
use crate::labels::{Client, ClientLabels, IntoClient, LabelList, LabelSet, Nat64Prefix, ServerBinding};

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
    nat64: [Option<Nat64Prefix>; MAX_NAT64_PREFIXES],
}

const PLAIN_INET: ClientLabels = ClientLabels::from_ip(IpAddr::V4(Ipv4Addr::UNSPECIFIED));

/// How many prefixes [`ClientScopesBuilder::nat64`] takes.
const MAX_NAT64_PREFIXES: usize = 4;

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

        let Ok(scopes) = Self::store(&list_of_server(&binding), &LabelList::default(), &[], Ok) else {
            let server = Scope::store(list_of_server(&binding), Scope::none());
            let server = Scope::overflow(server.unwrap_or_else(|_| Scope::current()));
            return Self::all(server, &[]).map(|server, client| {
                let client = if client == ClientLabels::NAT64 {
                    PLAIN_INET
                } else {
                    client
                };
                Scope::store(list_of(&(server, client)), server).unwrap_or(server)
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
        Self::store(
            &list_of_server(&binding),
            &LabelList::default(),
            &[],
            Scope::with_place,
        )
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

    fn knows_nat64(&self) -> bool {
        self.nat64[0].is_some()
    }

    /// The server's labels, then those of the client, then `own`.
    fn store(
        server: &LabelList,
        own: &LabelList,
        nat64: &[Nat64Prefix],
        finish: fn(Scope) -> Result<Scope, TooManyLabelSets>,
    ) -> Result<Self, TooManyLabelSets> {
        let mut list = server.clone();
        list.append(own);
        let without_client = finish(Scope::store(list, Scope::none())?)?;
        Self::all(without_client, nat64).try_map(|outer, client| {
            let mut list = server.clone();
            // Without a prefix no address has this class, so it takes no place.
            let client = match client {
                ClientLabels::NAT64 if nat64.is_empty() => PLAIN_INET,
                _ => client,
            };
            client.append_to(&mut list);
            list.append(own);
            finish(Scope::store(list, outer)?)
        })
    }

    /// One scope for everybody. There are at most [`MAX_NAT64_PREFIXES`].
    fn all(scope: Scope, nat64: &[Nat64Prefix]) -> Self {
        let mut prefixes = nat64.iter().copied();
        Self {
            by_class: [scope; ClientLabels::EVERY.len()],
            server: scope,
            nat64: [(); MAX_NAT64_PREFIXES].map(|()| prefixes.next()),
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
            Some(client) if self.knows_nat64() => self.with_nat64(client),
            client => client.map_or(ClientLabels::UNKNOWN, Client::labels),
        };
        self.by_class[class.index()]
    }

    fn with_nat64(&self, client: Client) -> ClientLabels {
        let is_translated = |ip| self.nat64.iter().flatten().any(|prefix| prefix.contains(ip));
        match client.ip() {
            Some(IpAddr::V6(ip)) if is_translated(ip) => ClientLabels::NAT64,
            _ => client.labels(),
        }
    }

    /// The scope of the socket itself: the same labels without those of a client.
    #[must_use]
    pub fn server(&self) -> Scope {
        self.server
    }
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

/// Makes [`ClientScopes`] with other labels than the default. See [`ClientScopes::builder`].
#[derive(Clone, Debug, Default)]
#[must_use = "nothing is made before `build` is called"]
pub struct ClientScopesBuilder {
    binding: Option<ServerBinding>,
    own: LabelList,
    nat64: Vec<Nat64Prefix>,
}

impl ClientScopesBuilder {
    /// Adds the five labels of the server. Without it there are none, which fits a service with one listener, or one
    /// whose orchestrator adds an `instance` label.
    pub fn binding(mut self, binding: ServerBinding) -> Self {
        self.binding = Some(binding);
        self
    }

    /// Adds a label whose value is known at start-up, for example from the configuration. It replaces a label of the
    /// same name.
    ///
    /// Never use a value from a request: each value is another label set.
    pub fn label(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Cow<'static, str>>) -> Self {
        self.own.insert(name.into(), value.into());
        self
    }

    /// Adds the labels of a label set, such as a [`BoundedLabel`](crate::BoundedLabel) or a [`Scope`]. They replace
    /// labels of the same name.
    pub fn labels<L: LabelSet>(mut self, labels: &L) -> Self {
        labels.append_to(&mut self.own);
        self
    }

    /// Counts clients with an address in `prefix` as IPv4 clients: family `inet`, type `nat64`. Call it once for each
    /// prefix, at most four times. By default there is none, and such a client is an IPv6 client.
    ///
    /// A server without IPv4 gets these clients from a NAT64 or SIIT-DC translator ([RFC 6146], [RFC 7755]), which makes
    /// an IPv6 address of each IPv4 address. Only the operator of the network knows whether a prefix is used for that.
    ///
    /// ```
    /// use dualstack_metrics::{ClientScopes, Nat64Prefix, Protocol, ServerBinding};
    ///
    /// # let address = "[2001:db8::1]:7070".parse().unwrap();
    /// let scopes = ClientScopes::builder()
    ///     .binding(ServerBinding::new(Protocol::Http, address))
    ///     .nat64(Nat64Prefix::WELL_KNOWN) // 64:ff9b::/96
    ///     .nat64("2001:db8:46::/96".parse()?)
    ///     .build()?;
    ///
    /// let client: std::net::IpAddr = "64:ff9b::192.0.2.7".parse()?;
    /// assert_eq!(scopes.for_client(client).value_of("client_address_ip_family"), Some("inet"));
    /// assert_eq!(scopes.for_client(client).value_of("client_address_ip_type"), Some("nat64"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// Give the scopes to [`ClientLabelsLayer::from_scopes`](crate::ClientLabelsLayer::from_scopes) for HTTP, or to
    /// `UdpServer::scopes` for UDP. `Datagram::client` knows no prefix, it returns the class of the address as such.
    ///
    /// [RFC 6146]: https://www.rfc-editor.org/rfc/rfc6146
    /// [RFC 7755]: https://www.rfc-editor.org/rfc/rfc7755
    pub fn nat64(mut self, prefix: Nat64Prefix) -> Self {
        if !self.nat64.contains(&prefix) {
            self.nat64.push(prefix);
        }
        self
    }

    /// Makes the scopes. Do this at start-up, and keep them.
    ///
    /// # Errors
    ///
    /// If a name is not a label name of Prometheus, if there are more than four NAT64 prefixes, or if the process would
    /// have more than [`MAX_LABEL_SETS`](crate::MAX_LABEL_SETS) label sets.
    pub fn build(self) -> Result<ClientScopes, ClientScopesError> {
        for (name, _) in self.own.pairs() {
            if !is_label_name(name) {
                return Err(ClientScopesError::InvalidName(name.clone().into_owned()));
            }
        }
        if self.nat64.len() > MAX_NAT64_PREFIXES {
            return Err(ClientScopesError::TooManyNat64Prefixes(self.nat64.len()));
        }
        let server = self.binding.as_ref().map(list_of_server).unwrap_or_default();
        ClientScopes::store(&server, &self.own, &self.nat64, Scope::with_place)
            .map_err(ClientScopesError::TooManyLabelSets)
    }
}

/// Prometheus keeps names that begin with two underscores to itself. The exporter writes a dot as an underscore.
fn is_label_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && !name.starts_with("__")
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'))
}

/// Why [`ClientScopesBuilder::build`] failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientScopesError {
    /// This is not the name of a label.
    InvalidName(String),
    /// The process already has [`MAX_LABEL_SETS`](crate::MAX_LABEL_SETS) label sets.
    TooManyLabelSets(TooManyLabelSets),
    /// There are so many NAT64 prefixes, which is more than four.
    TooManyNat64Prefixes(usize),
}

impl fmt::Display for ClientScopesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidName(name) => write!(
                f,
                "{name:?} is not a label name: use letters, digits, `_` and `.`, and do not begin with a digit, a dot or \
                 `__`"
            ),
            Self::TooManyLabelSets(error) => error.fmt(f),
            Self::TooManyNat64Prefixes(count) => write!(
                f,
                "{count} NAT64 prefixes, but scopes can have {MAX_NAT64_PREFIXES}: use one shorter prefix that contains \
                 several, or leave some out"
            ),
        }
    }
}

impl Error for ClientScopesError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labels::{BoundedLabel, Protocol};

    #[derive(Clone, Copy)]
    struct Eu;

    impl BoundedLabel for Eu {
        const NAME: &'static str = "region";
        const VALUES: &'static [&'static str] = &["eu"];

        fn index(self) -> usize {
            0
        }
    }

    const CLIENT: [(&str, &str); 2] = [
        ("client_address_ip_family", "inet"),
        ("client_address_ip_type", "plain"),
    ];
    const UNIX: [(&str, &str); 5] = [
        ("server_binding_address_ip_family", "unknown"),
        ("server_binding_address_ip_type", "unknown"),
        ("server_binding_ip", "unknown"),
        ("server_binding_port", "unknown"),
        ("server_binding_protocol", "http"),
    ];
    const REGION: [(&str, &str); 1] = [("region", "eu")];

    fn inet() -> IpAddr {
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

    #[test]
    fn the_builder_leaves_out_and_adds_labels() {
        let bare = ClientScopes::builder().build().unwrap();
        assert_eq!(bare.server(), Scope::none());
        assert_eq!(bare.for_client(inet()).pairs(), CLIENT);

        let binding = ServerBinding::unix(Protocol::Http);
        let default = ClientScopes::builder().binding(binding).build().unwrap();
        assert_eq!(default, ClientScopes::new(binding));

        let url = String::from("https://tracker.example/announce");
        let own = ClientScopes::builder()
            .label("public_url", "replaced")
            .label(String::from("public_url"), url.clone())
            .labels(&Scope::new(&Eu))
            .label("client.address.ip_type", "mine")
            .binding(binding)
            .build()
            .unwrap();
        let fixed = [("public_url", &*url), REGION[0]];
        assert_eq!(
            own.server().pairs(),
            [&[("client.address.ip_type", "mine")], &fixed[..], &UNIX].concat()
        );
        assert_eq!(
            own.for_client(inet()).pairs(),
            [
                &[CLIENT[0], ("client.address.ip_type", "mine")],
                &fixed[..],
                &UNIX
            ]
            .concat()
        );
    }

    #[test]
    fn addresses_in_a_nat64_prefix_are_ipv4_clients() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let binding = ServerBinding::unix(Protocol::Http);
        let without = ClientScopes::new(binding);
        let with = ClientScopes::builder()
            .binding(binding)
            .nat64(Nat64Prefix::WELL_KNOWN)
            .nat64(Nat64Prefix::WELL_KNOWN)
            .nat64("2001:db8:64::/96".parse().unwrap())
            .build()
            .unwrap();
        let nat64 = [
            ("client_address_ip_family", "inet"),
            ("client_address_ip_type", "nat64"),
        ];
        let eu = Scope::new(&Eu);
        for client in [ip("64:ff9b::192.0.2.7"), ip("2001:db8:64::192.0.2.7")] {
            assert_eq!(with.for_client(client).pairs(), [&nat64[..], &UNIX].concat());
            let socket = std::net::SocketAddr::new(client, 50_000);
            assert_eq!(with.for_client(socket), with.for_client(client));
            assert_eq!(with.for_client(Some(client)), with.for_client(client));
            for nested in [with.nest(eu), with.try_nest(eu).unwrap()] {
                assert_eq!(
                    nested.for_client(client).pairs(),
                    [&nat64[..], &REGION, &UNIX].concat()
                );
            }
            // Off by default, and a class does not know where it came from.
            assert_eq!(without.for_client(client), without.for_client(ip("2001:db8::7")));
            assert_eq!(
                with.for_client(ClientLabels::from(client)),
                with.for_client(ip("2001:db8::7"))
            );
        }
        for client in ["192.0.2.7", "::ffff:192.0.2.7", "2001:db8::7", "64:ff9b:1::7"].map(ip) {
            assert_eq!(with.for_client(client), without.for_client(client));
        }
        let class = ClientLabels::NAT64;
        assert_eq!(with.for_client(class).pairs(), [&nat64[..], &UNIX].concat());
        assert_eq!(without.for_client(class), without.for_client(inet()));
    }

    #[test]
    fn the_builder_refuses_a_fifth_nat64_prefix() {
        let prefixes = (1..=5).map(|n| format!("2001:db8:{n}::/96").parse().unwrap());
        let builder = prefixes.fold(ClientScopes::builder(), ClientScopesBuilder::nat64);
        let error = builder.build().unwrap_err();
        assert_eq!(error, ClientScopesError::TooManyNat64Prefixes(5));
        assert!(
            error
                .to_string()
                .starts_with("5 NAT64 prefixes, but scopes can have 4: ")
        );
    }

    #[test]
    fn the_builder_refuses_what_is_not_a_label_name() {
        for name in ["", "9a", ".a", "a b", "a-b", "ä", "__name__", "a\"", "a\n"] {
            let error = ClientScopes::builder().label(name, "x").build().unwrap_err();
            assert_eq!(error, ClientScopesError::InvalidName(name.into()));
            assert!(
                error
                    .to_string()
                    .starts_with(&format!("{name:?} is not a label name: "))
            );
        }
        for name in ["a", "_a9", "url.scheme", "A_b"] {
            let scopes = ClientScopes::builder().label(name, "x").build().unwrap();
            assert_eq!(scopes.server().pairs(), [(name, "x")]);
        }
    }
}
