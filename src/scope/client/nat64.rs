//! Clients that come through a NAT64 translator.

use std::net::{IpAddr, Ipv4Addr};

use super::error::{ClientScopesError, MAX_NAT64_PREFIXES};
use crate::{
    client::Client,
    labels::{ClientLabels, Nat64Prefix},
};

const PLAIN_INET: ClientLabels = ClientLabels::from_ip(IpAddr::V4(Ipv4Addr::UNSPECIFIED));

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Nat64Prefixes([Option<Nat64Prefix>; MAX_NAT64_PREFIXES]);

impl Nat64Prefixes {
    pub(super) fn new(prefixes: &[Nat64Prefix]) -> Result<Self, ClientScopesError> {
        if prefixes.len() > MAX_NAT64_PREFIXES {
            return Err(ClientScopesError::TooManyNat64Prefixes(prefixes.len()));
        }
        let mut places = Self::default();
        for (place, prefix) in places.0.iter_mut().zip(prefixes) {
            *place = Some(*prefix);
        }
        Ok(places)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0[0].is_none()
    }

    pub(super) fn class_of(&self, client: Client) -> ClientLabels {
        let is_translated = |ip| self.0.iter().flatten().any(|prefix| prefix.contains(ip));
        match client.ip() {
            Some(IpAddr::V6(ip)) if is_translated(ip) => ClientLabels::NAT64,
            _ => client.class(),
        }
    }

    /// Without a prefix, no address has the class `NAT64`, so it takes no label set.
    pub(super) fn effective_class(&self, client: ClientLabels) -> ClientLabels {
        if client == ClientLabels::NAT64 && self.is_empty() {
            PLAIN_INET
        } else {
            client
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        labels::{Protocol, ServerBinding},
        scope::{
            ClientScopes, ClientScopesBuilder,
            client::tests::{Eu, REGION, UNIX, inet},
        },
    };

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
        for client in [ip("64:ff9b::192.0.2.7"), ip("2001:db8:64::192.0.2.7")] {
            assert_eq!(with.for_client(client).pairs(), [&nat64[..], &UNIX].concat());
            let socket = std::net::SocketAddr::new(client, 50_000);
            assert_eq!(with.for_client(socket), with.for_client(client));
            assert_eq!(with.for_client(Some(client)), with.for_client(client));
            assert_eq!(
                with.with(&Eu).for_client(client).pairs(),
                [&nat64[..], &REGION, &UNIX].concat()
            );
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
}
