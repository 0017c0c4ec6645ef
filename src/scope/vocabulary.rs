//! The names of the labels of clients and servers.

use std::borrow::Cow;

use super::pairs::{Pair, Pairs};
use crate::labels::{
    CLIENT_ADDRESS_IP_FAMILY, CLIENT_ADDRESS_IP_TYPE, Protocol, SERVER_BINDING_ADDRESS_IP_FAMILY,
    SERVER_BINDING_ADDRESS_IP_TYPE, SERVER_BINDING_IP, SERVER_BINDING_PORT, SERVER_BINDING_PROTOCOL,
    ServerBinding, binding::ip,
};

/// The names of the label contract.
const CONTRACT: [&str; 7] = [
    CLIENT_ADDRESS_IP_FAMILY,
    CLIENT_ADDRESS_IP_TYPE,
    SERVER_BINDING_ADDRESS_IP_FAMILY,
    SERVER_BINDING_ADDRESS_IP_TYPE,
    SERVER_BINDING_IP,
    SERVER_BINDING_PORT,
    SERVER_BINDING_PROTOCOL,
];

/// Other names and values for the labels of the contract.
#[derive(Clone, Debug, Default)]
pub(super) struct Vocabulary {
    rules: Vec<Rule>,
    /// A mapped address is of the family of the socket.
    is_socket_view: bool,
    is_opentelemetry: bool,
}

#[derive(Clone, Debug)]
struct Rule {
    label: Cow<'static, str>,
    change: Change,
}

#[derive(Clone, Debug)]
enum Change {
    Name(Cow<'static, str>),
    LeftOut,
    Value(Cow<'static, str>, Cow<'static, str>),
}

impl Vocabulary {
    pub(super) fn socket_view(&mut self) {
        self.is_socket_view = true;
    }

    pub(super) fn opentelemetry(&mut self) {
        self.is_opentelemetry = true;
        self.rename(CLIENT_ADDRESS_IP_FAMILY, "network.type");
        for (value, other) in [("inet", "ipv4"), ("inet6", "ipv6")] {
            self.rename_value(CLIENT_ADDRESS_IP_FAMILY, value, other);
        }
        for label in [
            CLIENT_ADDRESS_IP_TYPE,
            SERVER_BINDING_ADDRESS_IP_FAMILY,
            SERVER_BINDING_ADDRESS_IP_TYPE,
        ] {
            self.leave_out(label);
        }
        self.rename(SERVER_BINDING_IP, "network.local.address");
        self.rename(SERVER_BINDING_PORT, "network.local.port");
        self.rename(SERVER_BINDING_PROTOCOL, "network.transport");
        for protocol in ["grpc", "http", "https"] {
            self.rename_value(SERVER_BINDING_PROTOCOL, protocol, "tcp");
        }
        self.rename_value(SERVER_BINDING_PROTOCOL, "http3", "quic");
    }

    pub(super) fn rename(&mut self, label: impl Into<Cow<'static, str>>, name: impl Into<Cow<'static, str>>) {
        self.add(label, Change::Name(name.into()));
    }

    pub(super) fn rename_value(
        &mut self,
        label: impl Into<Cow<'static, str>>,
        value: impl Into<Cow<'static, str>>,
        other: impl Into<Cow<'static, str>>,
    ) {
        self.add(label, Change::Value(value.into(), other.into()));
    }

    pub(super) fn leave_out(&mut self, label: impl Into<Cow<'static, str>>) {
        self.add(label, Change::LeftOut);
    }

    fn add(&mut self, label: impl Into<Cow<'static, str>>, change: Change) {
        self.rules.push(Rule {
            label: label.into(),
            change,
        });
    }

    /// A label that has a rule and is not one of the contract.
    pub(super) fn unknown_label(&self) -> Option<&str> {
        let mut labels = self.rules.iter().map(|rule| &*rule.label);
        labels.find(|label| !CONTRACT.contains(label))
    }

    /// A value that has a rule, and that its label never has.
    pub(super) fn unknown_value(&self) -> Option<(&str, &str)> {
        let has = |label: &str, value: &str| match label {
            CLIENT_ADDRESS_IP_FAMILY | SERVER_BINDING_ADDRESS_IP_FAMILY => matches!(value, "inet" | "inet6"),
            CLIENT_ADDRESS_IP_TYPE => matches!(value, "plain" | "v4_mapped_v6" | "nat64"),
            SERVER_BINDING_ADDRESS_IP_TYPE => matches!(value, "plain" | "v4_mapped_v6"),
            // The form with brackets may have the number of an interface.
            SERVER_BINDING_IP => [format!("{value}:0"), format!("[{value}]:0")]
                .iter()
                .filter_map(|text| text.parse().ok())
                .any(|address| ip(address) == value),
            SERVER_BINDING_PORT => value.parse::<u16>().is_ok_and(|port| port.to_string() == value),
            _ => value == "unix" || Protocol::ALL.iter().any(|protocol| protocol.as_str() == value),
        };
        let is_known =
            |label, value| has(label, value) || (value == "unknown" && label != SERVER_BINDING_PROTOCOL);
        self.rules.iter().find_map(|rule| match &rule.change {
            Change::Value(value, _) if !is_known(&rule.label, value) => Some((&*rule.label, &**value)),
            _ => None,
        })
    }

    /// The first name that two labels would have.
    pub(super) fn duplicate_name(&self) -> Option<String> {
        let mut pairs = Pairs::default();
        let names = CONTRACT.iter().filter_map(|label| self.name(label));
        names
            .enumerate()
            .find(|(at, name)| {
                pairs.insert(name.clone(), Cow::Borrowed(""));
                pairs.as_slice().len() == *at
            })
            .map(|(_, name)| name.into_owned())
    }

    /// The name that is written for a label of the contract, or `None` if it is left out.
    fn name(&self, label: &'static str) -> Option<Cow<'static, str>> {
        let mut name = Some(Cow::Borrowed(label));
        for rule in self.rules.iter().filter(|rule| rule.label == label) {
            match &rule.change {
                Change::Name(other) => name = Some(other.clone()),
                Change::LeftOut => name = None,
                Change::Value(..) => {}
            }
        }
        name
    }

    fn value(&self, label: &str, value: Cow<'static, str>) -> Cow<'static, str> {
        let other = self.rules.iter().rev().find_map(|rule| match &rule.change {
            Change::Value(from, to) if rule.label == label && *from == value => Some(to.clone()),
            _ => None,
        });
        other.unwrap_or(value)
    }

    /// The labels to write for the labels of the contract.
    pub(super) fn translate(&self, binding: Option<&ServerBinding>, contract: &Pairs) -> Vec<Pair> {
        let pairs = contract.as_slice();
        let is_not_plain = |label: &str| {
            pairs
                .iter()
                .any(|(name, value)| name == label && !matches!(&**value, "plain" | "unknown"))
        };
        let is_unix = binding.is_some_and(|binding| binding.address().is_none());
        CONTRACT
            .into_iter()
            .filter_map(|label| {
                let (_, value) = pairs.iter().find(|(name, _)| name == label)?;
                let value = match label {
                    CLIENT_ADDRESS_IP_FAMILY
                        if self.is_socket_view && is_not_plain(CLIENT_ADDRESS_IP_TYPE) =>
                    {
                        Cow::Borrowed("inet6")
                    }
                    SERVER_BINDING_ADDRESS_IP_FAMILY
                        if self.is_socket_view && is_not_plain(SERVER_BINDING_ADDRESS_IP_TYPE) =>
                    {
                        Cow::Borrowed("inet6")
                    }
                    SERVER_BINDING_PROTOCOL if self.is_opentelemetry && is_unix => Cow::Borrowed("unix"),
                    _ => value.clone(),
                };
                Some((self.name(label)?, self.value(label, value)))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv6Addr};

    use super::*;
    use crate::{
        labels::Protocol,
        scope::{ClientScopes, ClientScopesBuilder, client::tests::inet},
    };

    fn mapped() -> IpAddr {
        "::ffff:192.0.2.7".parse().unwrap()
    }

    fn builder() -> ClientScopesBuilder {
        let address = "[::ffff:192.0.2.1]:443".parse().unwrap();
        ClientScopes::builder().binding(ServerBinding::new(Protocol::Https, address))
    }

    /// The labels of the server that [`builder`] makes.
    const OTEL: [(&str, &str); 3] = [
        ("network.local.address", "::ffff:192.0.2.1"),
        ("network.local.port", "443"),
        ("network.transport", "tcp"),
    ];

    #[test]
    fn the_view_of_the_socket() {
        let socket = builder().socket_view().build().unwrap();
        let families = |client: Option<IpAddr>| {
            let scope = socket.for_client(client);
            [CLIENT_ADDRESS_IP_FAMILY, CLIENT_ADDRESS_IP_TYPE].map(|label| scope.value_of(label).unwrap())
        };
        assert_eq!(families(Some(mapped())), ["inet6", "v4_mapped_v6"]);
        assert_eq!(families(Some(inet())), ["inet", "plain"]);
        assert_eq!(families(Some(Ipv6Addr::LOCALHOST.into())), ["inet6", "plain"]);
        assert_eq!(families(None), ["unknown", "unknown"]);
        let server = socket.server();
        assert_eq!(server.value_of("server_binding_address_ip_family"), Some("inet6"));
        assert_eq!(
            server.value_of("server_binding_address_ip_type"),
            Some("v4_mapped_v6")
        );
    }

    #[test]
    fn the_names_of_opentelemetry() {
        let otel = builder().opentelemetry().build().unwrap();
        assert_eq!(otel.server().pairs(), OTEL);
        for (client, family) in [
            (Some(mapped()), "ipv4"),
            (Some(inet()), "ipv4"),
            (Some(Ipv6Addr::LOCALHOST.into()), "ipv6"),
            (None, "unknown"),
        ] {
            assert_eq!(
                otel.for_client(client).pairs(),
                [&OTEL[..], &[("network.type", family)]].concat()
            );
        }
        for (protocol, transport) in [
            (Protocol::Http, "tcp"),
            (Protocol::Grpc, "tcp"),
            (Protocol::Tcp, "tcp"),
            (Protocol::Udp, "udp"),
            (Protocol::Http3, "quic"),
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
    }

    #[test]
    fn own_names_and_values() {
        let own = builder()
            .opentelemetry()
            .rename(CLIENT_ADDRESS_IP_TYPE, "via")
            .rename_value(CLIENT_ADDRESS_IP_TYPE, "v4_mapped_v6", "mapped")
            .rename_value(CLIENT_ADDRESS_IP_FAMILY, "inet", "v4")
            .omit(SERVER_BINDING_IP)
            .build()
            .unwrap();
        assert_eq!(
            own.for_client(mapped()).pairs(),
            [OTEL[1], OTEL[2], ("network.type", "v4"), ("via", "mapped")]
        );
    }
}
