use std::borrow::Cow;

use super::{
    classes::Classes,
    error::ClientScopesError,
    nat64::Nat64Prefixes,
    scopes::{ClientScopes, pairs_of_client},
};
use crate::{
    labels::{ClientLabels, LabelSet, Nat64Prefix, ServerBinding, grammar, set::parts_of},
    scope::{
        pairs::{Pairs, pairs_of_parts, pairs_of_server},
        vocabulary::Vocabulary,
    },
};

/// Makes [`ClientScopes`] with other labels than the default. See [`ClientScopes::builder`].
///
/// # Other vocabularies
///
/// The labels have the names and values of the [contract](crate::labels), unless one of these methods changes them:
///
/// - [`socket_view`](Self::socket_view): a mapped client is `inet6`, as its socket is.
/// - [`opentelemetry`](Self::opentelemetry): `network.type` is `ipv4` or `ipv6`, and so on.
/// - [`rename`](Self::rename), [`rename_value`](Self::rename_value) and [`omit`](Self::omit): your own names and
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
/// let scopes = ClientScopes::builder().socket_view().omit(CLIENT_ADDRESS_IP_TYPE).build()?;
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

impl ClientScopes {
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
    pub fn expected_clients(mut self, clients: impl IntoIterator<Item = impl Into<ClientLabels>>) -> Self {
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
    /// | `server_binding_protocol` | `network.transport` | `tcp`, `udp`, `quic`, `unix` |
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

    /// Writes `other` instead of a value of a label of the contract. A value that this binding does not have may be
    /// renamed, but not one that no binding has.
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
    pub fn omit(mut self, label: impl Into<Cow<'static, str>>) -> Self {
        self.vocabulary.leave_out(label);
        self
    }

    /// Adds a label whose value is known at start-up, for example from the configuration. It replaces a label of the
    /// same name.
    ///
    /// It takes any text, so never pass a value from a request, such as the address of a client: each value is another
    /// label set, and the scopes are the same for all clients.
    pub fn label(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Cow<'static, str>>) -> Self {
        self.own.insert(name.into(), value.into());
        self
    }

    /// Adds the labels of a label set, such as a [`BoundedLabel`](crate::BoundedLabel) or a [`Scope`](crate::Scope). They replace
    /// labels of the same name.
    pub fn labels<L: LabelSet>(mut self, labels: &L) -> Self {
        self.own.extend(pairs_of_parts(&parts_of(labels)));
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
    /// `UdpServer::scopes` for UDP. `Datagram::client_class` knows no prefix: it returns the class that the address has by
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
    /// If a name is not a label name of Prometheus, two labels of the contract would have the same name, or a value is empty
    /// or has a control character or a backslash. If a label is renamed or left out that is not one of the
    /// contract, or a value that the label never has. If there are more than four NAT64 prefixes. If the process would have more than
    /// [`MAX_LABEL_SETS`](crate::MAX_LABEL_SETS) label sets.
    pub fn build(self) -> Result<ClientScopes, ClientScopesError> {
        if let Some(label) = self.vocabulary.unknown_label() {
            return Err(ClientScopesError::UnknownLabel(label.to_owned()));
        }
        if let Some((label, value)) = self.vocabulary.unknown_value() {
            return Err(ClientScopesError::UnknownValue {
                label: label.to_owned(),
                value: value.to_owned(),
            });
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
                grammar::check(name, value).map_err(ClientScopesError::Label)?;
            }
        }
        let nat64 = Nat64Prefixes::new(&self.nat64)?;
        let expected = self
            .expected
            .unwrap_or_else(|| Classes::of_binding(binding).with_nat64(nat64));
        ClientScopes::intern(pairs, expected, nat64).map_err(ClientScopesError::TooManyLabelSets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        labels::{
            CLIENT_ADDRESS_IP_FAMILY, CLIENT_ADDRESS_IP_TYPE, LabelError, Protocol,
            SERVER_BINDING_ADDRESS_IP_TYPE, SERVER_BINDING_IP, SERVER_BINDING_PORT, SERVER_BINDING_PROTOCOL,
        },
        scope::{
            Scope,
            client::tests::{CLIENT, Eu, REGION, UNIX, inet},
        },
    };

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
            .labels(&Eu)
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
    }

    #[test]
    fn the_builder_refuses_rules_that_do_nothing_or_clash() {
        let error = |builder: ClientScopesBuilder| builder.build().unwrap_err();
        for rule in [
            ClientScopes::builder().rename("client_family", "x"),
            ClientScopes::builder().omit("client_family"),
            ClientScopes::builder().rename_value("client_family", "inet", "4"),
        ] {
            assert_eq!(
                error(rule),
                ClientScopesError::UnknownLabel("client_family".into())
            );
        }
        for (label, value) in [
            (CLIENT_ADDRESS_IP_FAMILY, "ipv4"),
            (CLIENT_ADDRESS_IP_TYPE, "mapped"),
            (SERVER_BINDING_ADDRESS_IP_TYPE, "nat64"),
            (SERVER_BINDING_IP, "0::0"),
            (SERVER_BINDING_PORT, "65536"),
            (SERVER_BINDING_PROTOCOL, "unknown"),
        ] {
            assert_eq!(
                error(ClientScopes::builder().rename_value(label, value, "x")).to_string(),
                format!(
                    "{value:?} cannot be renamed, because the label {label:?} never has this value: its documentation in \
                     `dualstack_metrics::labels` lists its values"
                )
            );
        }
        for (label, value) in [
            (CLIENT_ADDRESS_IP_FAMILY, "unknown"),
            (SERVER_BINDING_IP, "::"),
            (SERVER_BINDING_IP, "192.0.2.1"),
            (SERVER_BINDING_IP, "fe80::1%2"),
            (SERVER_BINDING_PORT, "443"),
            (SERVER_BINDING_PROTOCOL, "http3"),
        ] {
            assert!(
                ClientScopes::builder()
                    .rename_value(label, value, "x")
                    .build()
                    .is_ok(),
                "{label} {value}"
            );
        }
        let clash = ClientScopes::builder().rename(CLIENT_ADDRESS_IP_TYPE, "client.address.ip.family");
        assert_eq!(
            error(clash.clone()).to_string(),
            "two labels of a client or a server would have the name \"client.address.ip.family\": give one another name \
             with `rename`, or leave it out with `omit`"
        );
        let mended = clash.omit(CLIENT_ADDRESS_IP_FAMILY).build().unwrap();
        assert_eq!(
            mended.for_client(inet()).pairs(),
            [("client.address.ip.family", "plain")]
        );
    }
}
