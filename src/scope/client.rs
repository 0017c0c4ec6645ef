use std::{
    borrow::Cow,
    cell::Cell,
    error::Error,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{
    Scope, TooManyLabelSets,
    pairs::{Pairs, borrowed, pairs_of_list, pairs_of_server},
    vocabulary::Vocabulary,
};
use crate::labels::{
    Client, ClientLabels, Exporter, IntoClient, LabelError, LabelSet, Nat64Prefix, ServerBinding, grammar,
    max_label_sets,
    set::{alternatives, list_of},
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

const PLAIN_INET: ClientLabels = ClientLabels::from_ip(IpAddr::V4(Ipv4Addr::UNSPECIFIED));

/// How many prefixes [`ClientScopesBuilder::nat64`] takes.
const MAX_NAT64_PREFIXES: usize = 4;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Nat64Prefixes([Option<Nat64Prefix>; MAX_NAT64_PREFIXES]);

impl Nat64Prefixes {
    fn is_empty(&self) -> bool {
        self.0[0].is_none()
    }

    fn class_of(&self, client: Client) -> ClientLabels {
        let is_translated = |ip| self.0.iter().flatten().any(|prefix| prefix.contains(ip));
        match client.ip() {
            Some(IpAddr::V6(ip)) if is_translated(ip) => ClientLabels::NAT64,
            _ => client.labels(),
        }
    }

    /// Without a prefix, no address has the class `NAT64`, so it takes no label set.
    fn stored_class(&self, client: ClientLabels) -> ClientLabels {
        if client == ClientLabels::NAT64 && self.is_empty() {
            PLAIN_INET
        } else {
            client
        }
    }
}

/// A set of classes, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Classes(u8);

impl Classes {
    /// What the socket can see; every address, if there is no socket.
    fn of_binding(binding: Option<&ServerBinding>) -> Self {
        let v4 = ClientLabels::from(IpAddr::from(Ipv4Addr::UNSPECIFIED));
        let mapped = ClientLabels::from(IpAddr::from(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped()));
        let v6 = ClientLabels::from(IpAddr::from(Ipv6Addr::UNSPECIFIED));
        let Some(binding) = binding else {
            return [v4, mapped, v6].into_iter().collect();
        };
        match binding.address().map(|address| address.ip()) {
            None => [ClientLabels::UNKNOWN].into_iter().collect(),
            Some(IpAddr::V4(_)) => [v4].into_iter().collect(),
            Some(IpAddr::V6(ip)) if ip.is_unspecified() => [mapped, v6].into_iter().collect(),
            Some(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => [mapped].into_iter().collect(),
            Some(IpAddr::V6(_)) => [v6].into_iter().collect(),
        }
    }

    /// Translated clients come over IPv6.
    fn with_nat64(self, nat64: Nat64Prefixes) -> Self {
        let v6 = ClientLabels::from(IpAddr::from(Ipv6Addr::UNSPECIFIED));
        if self.has(v6) && !nat64.is_empty() {
            Self(self.0 | 1 << ClientLabels::NAT64.index())
        } else {
            self
        }
    }

    fn has(self, client: ClientLabels) -> bool {
        self.0 & (1 << client.index()) != 0
    }
}

impl FromIterator<ClientLabels> for Classes {
    fn from_iter<T: IntoIterator<Item = ClientLabels>>(classes: T) -> Self {
        const { assert!(ClientLabels::EVERY.len() <= u8::BITS as usize) };
        Self(
            classes
                .into_iter()
                .fold(0, |bits, client| bits | 1 << client.index()),
        )
    }
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
            client => client.map_or(ClientLabels::UNKNOWN, Client::labels),
        };
        self.by_class[class.index()]
    }

    /// The scope of the socket itself: the same labels without those of a client.
    #[must_use]
    pub fn server(&self) -> Scope {
        self.server
    }

    /// The scopes of the clients that the socket can see if nothing is wrong, to start their series at zero.
    ///
    /// | the socket is bound to | clients |
    /// |---|---|
    /// | `::` | `inet`/`v4_mapped_v6` and `inet6`/`plain` |
    /// | an IPv4 address, or `0.0.0.0` | `inet`/`plain` |
    /// | an IPv4-mapped address | `inet`/`v4_mapped_v6` |
    /// | any other IPv6 address | `inet6`/`plain` |
    /// | a Unix socket | `unknown`/`unknown` |
    ///
    /// With a [NAT64 prefix](ClientScopesBuilder::nat64), `inet`/`nat64` is expected beside `inet6`.
    ///
    /// Whether a socket on `::` is IPv6-only cannot be told from its address. Then, and if the client's address does not
    /// come from the socket but from a proxy, say so with [`ClientScopesBuilder::expect`]. Without a binding, all three
    /// classes with an address are expected.
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
    /// If the process would have more label sets than its [limit](super::label_set_limit).
    pub fn expected_with<L: LabelSet>(&self, labels: &L) -> Result<Vec<Scope>, TooManyLabelSets> {
        let mut scopes: Vec<Scope> = self.expected().collect();
        for one in alternatives(labels) {
            let inner = one.known.into_iter().map(Scope::of_part);
            let inner: Vec<Scope> = inner.collect::<Result<_, _>>()?;
            let product = scopes
                .iter()
                .flat_map(|outer| inner.iter().map(|inner| outer.store_nested(*inner)));
            scopes = product.collect::<Result<_, _>>()?;
        }
        scopes.into_iter().map(Scope::with_place).collect()
    }

    /// How many label sets the scopes of the clients can be with your own labels: the classes of clients, times all values
    /// of the labels. A counter that is incremented for clients has at most this many series. For scopes without labels
    /// of your own, pass `&()`.
    ///
    /// `labels` is any value of your labels: see [`max_label_sets`]. To check the number at start-up, use
    /// [`limit_label_sets`](super::limit_label_sets).
    #[must_use]
    pub fn max_label_sets<L: LabelSet>(&self, labels: &L) -> usize {
        let distinct =
            (0..self.by_class.len()).filter(|&at| !self.by_class[..at].contains(&self.by_class[at]));
        distinct.count().saturating_mul(max_label_sets(labels))
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

/// Makes [`ClientScopes`] with other labels than the default. See [`ClientScopes::builder`].
///
/// # Other vocabularies
///
/// The labels have the names and values of the [contract](crate::labels), unless one of these methods changes them:
///
/// - [`socket_view`](Self::socket_view): a mapped client is `inet6`, as its socket is.
/// - [`opentelemetry`](Self::opentelemetry): `network.type` is `ipv4` or `ipv6`, and so on.
/// - [`rename`](Self::rename), [`rename_value`](Self::rename_value) and [`without`](Self::without): your own names and
///   values.
///
/// They can be combined. For one label, the last call counts. They name a label by its constant in
/// [`labels`](crate::labels), and do not change your own labels.
///
/// ```
/// use dualstack_metrics::{
///     ClientScopes, Protocol, ServerBinding,
///     labels::{CLIENT_ADDRESS_IP_TYPE, SERVER_BINDING_PORT},
/// };
/// use std::net::IpAddr;
///
/// let scopes = ClientScopes::builder()
///     .binding(ServerBinding::new(Protocol::Udp, "[::]:6969".parse()?))
///     .opentelemetry()
///     .rename(SERVER_BINDING_PORT, "port")
///     .build()?;
/// let client: IpAddr = "::ffff:192.0.2.7".parse()?;
/// assert_eq!(scopes.for_client(client).pairs(), [
///     ("network.local.address", "::"),
///     ("network.transport", "udp"),
///     ("network.type", "ipv4"),
///     ("port", "6969"),
/// ]);
///
/// let scopes = ClientScopes::builder().socket_view().without(CLIENT_ADDRESS_IP_TYPE).build()?;
/// assert_eq!(scopes.for_client(client).pairs(), [("client_address_ip_family", "inet6")]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "nothing is made before `build` is called"]
pub struct ClientScopesBuilder {
    binding: Option<ServerBinding>,
    own: Pairs,
    vocabulary: Vocabulary,
    expected: Option<Classes>,
    nat64: Vec<Nat64Prefix>,
}

impl ClientScopesBuilder {
    /// Adds the five labels of the server. Without it there are none, which fits a service with one listener, or one
    /// whose orchestrator adds an `instance` label.
    pub fn binding(mut self, binding: ServerBinding) -> Self {
        self.binding = Some(binding);
        self
    }

    /// Sets which clients are [expected](ClientScopes::expected), instead of those that the binding can see.
    ///
    /// For a socket that is IPv6-only, these are `[ClientLabels::from(IpAddr::from(Ipv6Addr::UNSPECIFIED))]`.
    pub fn expect(mut self, clients: impl IntoIterator<Item = impl Into<ClientLabels>>) -> Self {
        self.expected = Some(clients.into_iter().map(Into::into).collect());
        self
    }

    /// Uses the socket's own view, as some dashboards have it: the family of an IPv4-mapped address is `inet6`. Its type
    /// is `v4_mapped_v6` still.
    pub fn socket_view(mut self) -> Self {
        self.vocabulary.socket_view();
        self
    }

    /// Uses the names and values of OpenTelemetry's [semantic conventions for networks].
    ///
    /// | contract | OpenTelemetry | values |
    /// |---|---|---|
    /// | `client_address_ip_family` | `network.type` | `ipv4`, `ipv6`, `unknown` |
    /// | `server_binding_ip` | `network.local.address` | such as `::` |
    /// | `server_binding_port` | `network.local.port` | such as `6969` |
    /// | `server_binding_protocol` | `network.transport` | `tcp`, `udp`, `unix` |
    ///
    /// The conventions have no names for the other labels, so these are left out.
    ///
    /// [semantic conventions for networks]: https://opentelemetry.io/docs/specs/semconv/registry/attributes/network/
    pub fn opentelemetry(mut self) -> Self {
        self.vocabulary.opentelemetry();
        self
    }

    /// Gives a label of the contract another name.
    pub fn rename(mut self, label: impl Into<Cow<'static, str>>, name: impl Into<Cow<'static, str>>) -> Self {
        self.vocabulary.rename(label, name);
        self
    }

    /// Writes `other` instead of a value of a label of the contract.
    pub fn rename_value(
        mut self,
        label: impl Into<Cow<'static, str>>,
        value: impl Into<Cow<'static, str>>,
        other: impl Into<Cow<'static, str>>,
    ) -> Self {
        self.vocabulary.rename_value(label, value, other);
        self
    }

    /// Leaves a label of the contract out.
    pub fn without(mut self, label: impl Into<Cow<'static, str>>) -> Self {
        self.vocabulary.leave_out(label);
        self
    }

    /// Makes values that this exporter takes, and checks all others. The default is [`Exporter::Prometheus`].
    ///
    /// A tag of DogStatsD must not end with a colon, as `server_binding_ip:::` does. With [`Exporter::DogStatsD`], `::`
    /// is written as `::0`, which is the same address.
    pub fn exporter(mut self, exporter: Exporter) -> Self {
        self.vocabulary.exporter = exporter;
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
        self.own.extend(pairs_of_list(&list_of(labels)));
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
    /// `UdpServer::scopes` for UDP. `Datagram::client` knows no prefix: it returns the class that the address has by
    /// itself.
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
    /// If a name is not a label name of Prometheus, two labels of the contract would have the same name, or the
    /// [exporter](Self::exporter) does not take a value. If a label is renamed or left out that is not one of the
    /// contract. If there are more than four NAT64 prefixes. If the process would have more than [`MAX_LABEL_SETS`](crate::MAX_LABEL_SETS) label sets.
    pub fn build(self) -> Result<ClientScopes, ClientScopesError> {
        if let Some(label) = self.vocabulary.unknown_label() {
            return Err(ClientScopesError::UnknownLabel(label.to_owned()));
        }
        if let Some(name) = self.vocabulary.duplicate_name() {
            return Err(ClientScopesError::DuplicateName(name));
        }
        let binding = self.binding.as_ref();
        let server = binding.map(pairs_of_server).unwrap_or_default();
        let pairs = |client| {
            let contract = server.clone().with(pairs_of_client(client));
            let pairs: Pairs = self
                .vocabulary
                .translate(binding, &contract)
                .into_iter()
                .collect();
            pairs.with(self.own.as_slice().iter().cloned())
        };
        for client in ClientLabels::EVERY {
            for (name, value) in pairs(Some(*client)).as_slice() {
                grammar::check(self.vocabulary.exporter, name, value).map_err(ClientScopesError::Label)?;
            }
        }
        if self.nat64.len() > MAX_NAT64_PREFIXES {
            return Err(ClientScopesError::TooManyNat64Prefixes(self.nat64.len()));
        }
        let mut nat64 = Nat64Prefixes::default();
        for (place, prefix) in nat64.0.iter_mut().zip(&self.nat64) {
            *place = Some(*prefix);
        }
        let expected = self
            .expected
            .unwrap_or_else(|| Classes::of_binding(binding).with_nat64(nat64));
        ClientScopes::store(pairs, expected, nat64, Scope::with_place)
            .map_err(ClientScopesError::TooManyLabelSets)
    }
}

/// Why [`ClientScopesBuilder::build`] failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientScopesError {
    /// A label has a name or a value that it cannot have.
    Label(LabelError),
    /// The label that was renamed or left out is not one of the contract.
    UnknownLabel(String),
    /// Two labels of the contract would have this name.
    DuplicateName(String),
    /// The process already has [`MAX_LABEL_SETS`](crate::MAX_LABEL_SETS) label sets.
    TooManyLabelSets(TooManyLabelSets),
    /// There are so many NAT64 prefixes, which is more than four.
    TooManyNat64Prefixes(usize),
}

impl fmt::Display for ClientScopesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label(error) => error.fmt(f),
            Self::UnknownLabel(name) => write!(
                f,
                "{name:?} cannot be renamed or left out, because it is not a label of a client or a server: use a constant \
                 of `dualstack_metrics::labels`, such as `CLIENT_ADDRESS_IP_FAMILY`"
            ),
            Self::DuplicateName(name) => write!(
                f,
                "two labels of a client or a server would have the name {name:?}: give one another name with `rename`, or \
                 leave it out with `without`"
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
    use crate::labels::{
        BoundedLabel, CLIENT_ADDRESS_IP_FAMILY, CLIENT_ADDRESS_IP_TYPE, FixedLabel, Protocol,
        SERVER_BINDING_IP,
    };

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
        assert_eq!(
            with.expected().collect::<Vec<_>>(),
            without.expected().collect::<Vec<_>>()
        );
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
    fn translated_clients_are_expected_over_ipv6() {
        let expected = |address: &str| {
            let binding = ServerBinding::new(Protocol::Udp, address.parse().unwrap());
            let scopes = ClientScopes::builder()
                .binding(binding)
                .nat64(Nat64Prefix::WELL_KNOWN);
            let scopes = scopes.build().unwrap();
            let is_expected = scopes
                .expected()
                .any(|scope| scope == scopes.for_client(ClientLabels::NAT64));
            (scopes.expected().count(), is_expected, scopes.max_label_sets(&()))
        };
        assert_eq!(expected("[::]:6969"), (3, true, 5));
        assert_eq!(expected("[2001:db8::1]:6969"), (2, true, 5));
        assert_eq!(expected("0.0.0.0:6969"), (1, false, 5));
    }

    #[test]
    fn the_builder_refuses_what_an_exporter_does_not_take() {
        let error = |builder: ClientScopesBuilder| builder.build().unwrap_err();
        for name in ["", "9a", ".a", "a b", "a-b", "ä", "__name__", "a\"", "a\n", "le"] {
            let expected = ClientScopesError::Label(LabelError::InvalidName(name.into()));
            assert_eq!(error(ClientScopes::builder().label(name, "x")), expected);
            let renamed = ClientScopes::builder().rename(CLIENT_ADDRESS_IP_TYPE, name);
            assert_eq!(error(renamed), expected);
        }
        for name in ["a", "_a9", "url.scheme", "A_b"] {
            let scopes = ClientScopes::builder().label(name, "x").build().unwrap();
            assert_eq!(scopes.server().pairs(), [(name, "x")]);
        }
        assert_eq!(
            error(ClientScopes::builder().label("url", "")).to_string(),
            r#"the label "url" cannot have the value "": an empty value is no label to Prometheus"#
        );

        let tags = || ClientScopes::builder().exporter(Exporter::DogStatsD);
        assert!(ClientScopes::builder().label("url", "a:").build().is_ok());
        assert_eq!(
            error(tags().label("url", "a:")),
            ClientScopesError::Label(LabelError::InvalidValue {
                label: "url".into(),
                value: "a:".into(),
                exporter: Exporter::DogStatsD,
            })
        );
        for (address, ip) in [
            ("[::]:1", "::0"),
            ("[2001:db8::]:1", "2001:db8::0"),
            ("[::1]:1", "::1"),
        ] {
            let binding = ServerBinding::new(Protocol::Udp, address.parse().unwrap());
            let scopes = tags().binding(binding).build().unwrap();
            assert_eq!(scopes.server().value_of("server_binding_ip"), Some(ip));
        }
    }

    #[test]
    fn the_builder_refuses_rules_that_do_nothing_or_clash() {
        let error = |builder: ClientScopesBuilder| builder.build().unwrap_err();
        for rule in [
            ClientScopes::builder().rename("client_family", "x"),
            ClientScopes::builder().without("client_family"),
            ClientScopes::builder().rename_value("client_family", "inet", "4"),
        ] {
            assert_eq!(
                error(rule),
                ClientScopesError::UnknownLabel("client_family".into())
            );
        }
        let clash = ClientScopes::builder().rename(CLIENT_ADDRESS_IP_TYPE, "client.address.ip.family");
        assert_eq!(
            error(clash.clone()).to_string(),
            "two labels of a client or a server would have the name \"client.address.ip.family\": give one another name \
             with `rename`, or leave it out with `without`"
        );
        let mended = clash.without(CLIENT_ADDRESS_IP_FAMILY).build().unwrap();
        assert_eq!(
            mended.for_client(inet()).pairs(),
            [("client.address.ip.family", "plain")]
        );
    }

    #[test]
    fn vocabularies() {
        let mapped: IpAddr = "::ffff:192.0.2.7".parse().unwrap();
        let binding = ServerBinding::new(Protocol::Https, "[::ffff:192.0.2.1]:443".parse().unwrap());
        let builder = || ClientScopes::builder().binding(binding);

        let socket = builder().socket_view().build().unwrap();
        let families = |client: Option<IpAddr>| {
            let scope = socket.for_client(client);
            [CLIENT_ADDRESS_IP_FAMILY, CLIENT_ADDRESS_IP_TYPE].map(|label| scope.value_of(label).unwrap())
        };
        assert_eq!(families(Some(mapped)), ["inet6", "v4_mapped_v6"]);
        assert_eq!(families(Some(inet())), ["inet", "plain"]);
        assert_eq!(families(Some(Ipv6Addr::LOCALHOST.into())), ["inet6", "plain"]);
        assert_eq!(families(None), ["unknown", "unknown"]);
        let server = socket.server();
        assert_eq!(server.value_of("server_binding_address_ip_family"), Some("inet6"));
        assert_eq!(
            server.value_of("server_binding_address_ip_type"),
            Some("v4_mapped_v6")
        );

        let otel = builder().opentelemetry().build().unwrap();
        let server = [
            ("network.local.address", "::ffff:192.0.2.1"),
            ("network.local.port", "443"),
            ("network.transport", "tcp"),
        ];
        assert_eq!(otel.server().pairs(), server);
        for (client, family) in [
            (Some(mapped), "ipv4"),
            (Some(inet()), "ipv4"),
            (Some(Ipv6Addr::LOCALHOST.into()), "ipv6"),
            (None, "unknown"),
        ] {
            assert_eq!(
                otel.for_client(client).pairs(),
                [&server[..], &[("network.type", family)]].concat()
            );
        }
        for (protocol, transport) in [
            (Protocol::Http, "tcp"),
            (Protocol::Grpc, "tcp"),
            (Protocol::Tcp, "tcp"),
            (Protocol::Udp, "udp"),
        ] {
            let binding = ServerBinding::new(protocol, "[::]:1".parse().unwrap());
            let scopes = ClientScopes::builder()
                .binding(binding)
                .opentelemetry()
                .build()
                .unwrap();
            assert_eq!(scopes.server().value_of("network.transport"), Some(transport));
        }
        let unix = ClientScopes::builder()
            .binding(ServerBinding::unix(Protocol::Http))
            .opentelemetry();
        assert_eq!(
            unix.build().unwrap().server().value_of("network.transport"),
            Some("unix")
        );

        let own = builder()
            .opentelemetry()
            .rename(CLIENT_ADDRESS_IP_TYPE, "via")
            .rename_value(CLIENT_ADDRESS_IP_TYPE, "v4_mapped_v6", "mapped")
            .rename_value(CLIENT_ADDRESS_IP_FAMILY, "inet", "v4")
            .without(SERVER_BINDING_IP)
            .build()
            .unwrap();
        assert_eq!(
            own.for_client(mapped).pairs(),
            [server[1], server[2], ("network.type", "v4"), ("via", "mapped")]
        );
    }

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
            for scopes in [
                ClientScopes::new(binding),
                ClientScopes::try_new(binding).unwrap(),
            ] {
                assert_eq!(classes(scopes), expected, "{address}");
                assert_eq!(classes(scopes.nest(Scope::new(&Eu))), expected, "{address}");
            }
        }
        let unix = ClientScopes::new(ServerBinding::unix(Protocol::Http));
        assert_eq!(classes(unix), [["unknown"; 2]]);

        let all = ClientScopes::builder().build().unwrap();
        assert_eq!(classes(all), [plain, mapped, v6]);
        let dual_stack = ServerBinding::new(Protocol::Udp, "[::]:1".parse().unwrap());
        let v6_only = ClientScopes::builder()
            .binding(dual_stack)
            .expect([IpAddr::from(Ipv6Addr::UNSPECIFIED)]);
        assert_eq!(classes(v6_only.build().unwrap()), [v6]);
        let none = ClientScopes::builder()
            .without(CLIENT_ADDRESS_IP_FAMILY)
            .without(CLIENT_ADDRESS_IP_TYPE);
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
