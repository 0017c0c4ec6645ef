//! The labels and their values.
//!
//! [`ClientLabels`] turns a client's address into a class of one byte. The address is gone afterwards, so nothing can
//! leak it into a time series. Your own labels are [`BoundedLabel`]s: types whose values are known when the program is
//! compiled.
//!
//! ```
//! use dualstack_metrics::ClientLabels;
//! use std::net::SocketAddr;
//!
//! // What a socket on `[::]` reports for a client at 192.0.2.7:
//! let peer: SocketAddr = "[::ffff:192.0.2.7]:50000".parse()?;
//!
//! let client = ClientLabels::from(peer);
//! assert_eq!(client.pairs(), [
//!     ("client_address_ip_family", "inet"),
//!     ("client_address_ip_type", "v4_mapped_v6"),
//! ]);
//! # Ok::<(), std::net::AddrParseError>(())
//! ```

mod capped;
mod client;
mod fixed;
pub(crate) mod grammar;
mod nat64;
pub(crate) mod set;
mod text;

use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, SocketAddr},
};

#[doc(hidden)]
pub use self::set::LabelNames;
pub use self::{
    capped::{CappedLabel, CappedValue},
    client::{Client, IntoClient},
    fixed::{FixedLabel, FixedValue},
    grammar::{Exporter, LabelError},
    nat64::{InvalidNat64Prefix, Nat64Prefix},
    set::{BoundedLabel, LabelList, LabelSet, max_label_sets},
    text::{LABEL_VALUES_OVERFLOWED_TOTAL, LabelText},
};

/// The name of the label for the client's own address family: `inet`, `inet6` or `unknown`.
pub const CLIENT_ADDRESS_IP_FAMILY: &str = "client_address_ip_family";
/// The name of the label for how the client's address reached the socket: `plain`, `v4_mapped_v6`, `nat64` or
/// `unknown`.
pub const CLIENT_ADDRESS_IP_TYPE: &str = "client_address_ip_type";
/// The name of the label for the family of the listening socket's address: `inet`, `inet6` or `unknown`.
pub const SERVER_BINDING_ADDRESS_IP_FAMILY: &str = "server_binding_address_ip_family";
/// The name of the label for the type of the listening socket's address: `plain`, `v4_mapped_v6` or `unknown`.
pub const SERVER_BINDING_ADDRESS_IP_TYPE: &str = "server_binding_address_ip_type";
/// The name of the label for the listening socket's address, such as `::`, or `unknown`.
pub const SERVER_BINDING_IP: &str = "server_binding_ip";
/// The name of the label for the listening socket's port, such as `6969`, or `unknown`.
pub const SERVER_BINDING_PORT: &str = "server_binding_port";
/// The name of the label for the listening socket's protocol: `grpc`, `http`, `https`, `tcp` or `udp`.
pub const SERVER_BINDING_PROTOCOL: &str = "server_binding_protocol";

const UNKNOWN: &str = "unknown";
const OTHER: &str = "other";

/// An address family, named as in `socket(2)` and `ip(8)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IpFamily {
    /// IPv4, written `inet`. An IPv4-mapped IPv6 address belongs to this family.
    Inet,
    /// IPv6, written `inet6`.
    Inet6,
}

impl IpFamily {
    /// The label value: `inet` or `inet6`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Inet6 => "inet6",
        }
    }
}

impl fmt::Display for IpFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How an address is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IpType {
    /// An address of its own family, written `plain`.
    Plain,
    /// An IPv4-mapped IPv6 address, `::ffff:a.b.c.d` ([RFC 4291 §2.5.5.2]), written `v4_mapped_v6`.
    ///
    /// [RFC 4291 §2.5.5.2]: https://www.rfc-editor.org/rfc/rfc4291#section-2.5.5.2
    V4MappedV6,
    /// An IPv6 address that a translator made from the IPv4 address of the client ([RFC 6052]), written `nat64`.
    ///
    /// Only for scopes that know the prefix of the translator: see
    /// [`ClientScopesBuilder::nat64`](crate::ClientScopesBuilder::nat64).
    ///
    /// [RFC 6052]: https://www.rfc-editor.org/rfc/rfc6052
    Nat64,
}

impl IpType {
    /// The label value: `plain`, `v4_mapped_v6` or `nat64`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::V4MappedV6 => "v4_mapped_v6",
            Self::Nat64 => "nat64",
        }
    }
}

impl fmt::Display for IpType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
enum Class {
    InetPlain,
    InetMapped,
    Inet6Plain,
    Unknown,
    InetNat64,
}

/// The class of a client's address: one byte that does not contain the address.
///
/// | client seen by the socket | family | type |
/// |---|---|---|
/// | `192.0.2.7` | `inet` | `plain` |
/// | `::ffff:192.0.2.7` | `inet` | `v4_mapped_v6` |
/// | `2001:db8::7`, and every other IPv6 address | `inet6` | `plain` |
/// | no known address | `unknown` | `unknown` |
/// | an address in a NAT64 prefix that the scopes know | `inet` | `nat64` |
///
/// "Every other" includes `::1`, link-local, 6to4 (`2002::/16`) and the deprecated IPv4-compatible `::a.b.c.d`, because
/// these clients use IPv6 to reach this host. It includes `64:ff9b::/96` unless the scopes were made with
/// [`nat64`](crate::ClientScopesBuilder::nat64).
///
/// Made from a [`SocketAddr`], an [`IpAddr`] or an `Option` of one (`None` is [`UNKNOWN`](Self::UNKNOWN)).
/// [`pairs`](Self::pairs) returns the two labels, for any metrics system.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientLabels(Class);

impl ClientLabels {
    /// The client's address is not known: the server is misconfigured, or listens on a Unix socket.
    pub const UNKNOWN: Self = Self(Class::Unknown);

    /// An IPv4 client that came through a translator, for your own check with [`Nat64Prefix::contains`]. Scopes do the
    /// check if they were made with [`nat64`](crate::ClientScopesBuilder::nat64).
    pub const NAT64: Self = Self(Class::InetNat64);

    /// All values but [`NAT64`](Self::NAT64), which only scopes with a NAT64 prefix use. A counter of a server has at
    /// most this many series, one for each, and one more with such a prefix.
    pub const ALL: &'static [Self] = Self::EVERY.split_at(Self::NAT64.index()).0;

    pub(crate) const EVERY: &'static [Self] = &[
        Self(Class::InetPlain),
        Self(Class::InetMapped),
        Self(Class::Inet6Plain),
        Self(Class::Unknown),
        Self(Class::InetNat64),
    ];

    /// The class of an address. Pass the address as the socket reports it, not its canonical form.
    #[must_use]
    pub const fn from_ip(ip: IpAddr) -> Self {
        match class(ip) {
            (IpFamily::Inet, IpType::V4MappedV6) => Self(Class::InetMapped),
            (IpFamily::Inet, _) => Self(Class::InetPlain),
            (IpFamily::Inet6, _) => Self(Class::Inet6Plain),
        }
    }

    /// The client's own family, or `None` if no address is known.
    #[must_use]
    pub const fn family(self) -> Option<IpFamily> {
        match self.0 {
            Class::InetPlain | Class::InetMapped | Class::InetNat64 => Some(IpFamily::Inet),
            Class::Inet6Plain => Some(IpFamily::Inet6),
            Class::Unknown => None,
        }
    }

    /// How the client's address reached the socket, or `None` if no address is known.
    #[must_use]
    pub const fn ip_type(self) -> Option<IpType> {
        match self.0 {
            Class::InetPlain | Class::Inet6Plain => Some(IpType::Plain),
            Class::InetMapped => Some(IpType::V4MappedV6),
            Class::InetNat64 => Some(IpType::Nat64),
            Class::Unknown => None,
        }
    }

    /// The two labels, as name and value, for any metrics system.
    #[must_use]
    pub const fn pairs(self) -> &'static [(&'static str, &'static str)] {
        const fn pairs(family: &'static str, ip_type: &'static str) -> [(&'static str, &'static str); 2] {
            [
                (CLIENT_ADDRESS_IP_FAMILY, family),
                (CLIENT_ADDRESS_IP_TYPE, ip_type),
            ]
        }

        match self.0 {
            Class::InetPlain => const { &pairs(IpFamily::Inet.as_str(), IpType::Plain.as_str()) },
            Class::InetMapped => const { &pairs(IpFamily::Inet.as_str(), IpType::V4MappedV6.as_str()) },
            Class::Inet6Plain => const { &pairs(IpFamily::Inet6.as_str(), IpType::Plain.as_str()) },
            Class::Unknown => const { &pairs(UNKNOWN, UNKNOWN) },
            Class::InetNat64 => const { &pairs(IpFamily::Inet.as_str(), IpType::Nat64.as_str()) },
        }
    }

    /// The position in [`EVERY`](Self::EVERY).
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Debug for ClientLabels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientLabels")
            .field(
                "family",
                &format_args!("{}", value_of(self.family(), IpFamily::as_str)),
            )
            .field(
                "ip_type",
                &format_args!("{}", value_of(self.ip_type(), IpType::as_str)),
            )
            .finish()
    }
}

impl From<IpAddr> for ClientLabels {
    fn from(ip: IpAddr) -> Self {
        Self::from_ip(ip)
    }
}

impl From<SocketAddr> for ClientLabels {
    fn from(address: SocketAddr) -> Self {
        Self::from_ip(address.ip())
    }
}

/// For [`ALL`](ClientLabels::ALL), which is a slice.
impl From<&ClientLabels> for ClientLabels {
    fn from(client: &ClientLabels) -> Self {
        *client
    }
}

impl<T: Into<ClientLabels>> From<Option<T>> for ClientLabels {
    fn from(address: Option<T>) -> Self {
        address.map_or(Self::UNKNOWN, Into::into)
    }
}

fn value_of<T>(known: Option<T>, as_str: impl FnOnce(T) -> &'static str) -> &'static str {
    known.map_or(UNKNOWN, as_str)
}

const fn class(ip: IpAddr) -> (IpFamily, IpType) {
    match ip {
        IpAddr::V4(_) => (IpFamily::Inet, IpType::Plain),
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(_) => (IpFamily::Inet, IpType::V4MappedV6),
            None => (IpFamily::Inet6, IpType::Plain),
        },
    }
}

/// The protocol of a listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// gRPC, written `grpc`.
    Grpc,
    /// HTTP over TCP, written `http`.
    Http,
    /// HTTP over TLS, written `https`.
    Https,
    /// Any other protocol over TCP, written `tcp`.
    Tcp,
    /// A protocol over UDP, written `udp`.
    Udp,
}

impl Protocol {
    /// The label value: `grpc`, `http`, `https`, `tcp` or `udp`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http",
            Self::Https => "https",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A listening socket: its protocol and the address it is bound to, if it has one. It has five labels.
///
/// Make it from the listener, not from the configuration: with port 0 in the configuration, the system chooses the
/// port.
///
/// ```
/// use dualstack_metrics::{Protocol, ServerBinding};
///
/// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let binding = ServerBinding::new(Protocol::Http, listener.local_addr()?);
///
/// assert_eq!(binding.to_string(), format!("http://{}", listener.local_addr()?));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServerBinding {
    protocol: Protocol,
    address: Option<SocketAddr>,
}

impl ServerBinding {
    /// A binding of `protocol` at the *bound* `address`, which the listener's `local_addr` returns.
    ///
    /// A port of 0 is accepted, but logged as a warning, because the port of a bound socket is never 0.
    #[must_use]
    pub fn new(protocol: Protocol, address: SocketAddr) -> Self {
        if address.port() == 0 {
            tracing::warn!(
                %protocol,
                %address,
                "the address of a server binding has port 0: make the binding from the listener's `local_addr()`"
            );
        }
        Self {
            protocol,
            address: Some(address),
        }
    }

    /// A binding of `protocol` on a Unix socket. It has no IP address, so its four address labels are `unknown`.
    ///
    /// ```
    /// use dualstack_metrics::{Protocol, ServerBinding};
    ///
    /// let binding = ServerBinding::unix(Protocol::Http);
    /// assert_eq!(binding.address(), None);
    /// assert_eq!(binding.to_string(), "http+unix");
    /// ```
    #[must_use]
    pub const fn unix(protocol: Protocol) -> Self {
        Self {
            protocol,
            address: None,
        }
    }

    /// The protocol.
    #[must_use]
    pub const fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The address the socket is bound to, or `None` for a Unix socket.
    #[must_use]
    pub const fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The family of the address the socket is bound to, or `None` for a Unix socket.
    #[must_use]
    pub fn family(&self) -> Option<IpFamily> {
        self.address.map(|address| class(address.ip()).0)
    }

    /// The type of the address the socket is bound to, or `None` for a Unix socket.
    #[must_use]
    pub fn ip_type(&self) -> Option<IpType> {
        self.address.map(|address| class(address.ip()).1)
    }

    /// The labels, as name and value, for any metrics system.
    #[must_use]
    pub fn pairs(&self) -> Vec<(&'static str, Cow<'static, str>)> {
        let of_address = |value: fn(SocketAddr) -> String| {
            self.address
                .map_or(Cow::Borrowed(UNKNOWN), |address| value(address).into())
        };
        vec![
            (
                SERVER_BINDING_ADDRESS_IP_FAMILY,
                value_of(self.family(), IpFamily::as_str).into(),
            ),
            (
                SERVER_BINDING_ADDRESS_IP_TYPE,
                value_of(self.ip_type(), IpType::as_str).into(),
            ),
            (SERVER_BINDING_IP, of_address(|address| address.ip().to_string())),
            (
                SERVER_BINDING_PORT,
                of_address(|address| address.port().to_string()),
            ),
            (SERVER_BINDING_PROTOCOL, self.protocol.as_str().into()),
        ]
    }
}

impl fmt::Display for ServerBinding {
    /// Writes the binding as a URL, such as `udp://[::]:6969`, or as `http+unix`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => write!(f, "{}://{address}", self.protocol),
            None => write!(f, "{}+unix", self.protocol),
        }
    }
}

/// The characters of a label name as the Prometheus exporter writes them. `client.address` and `client_address` are
/// the same name.
pub(crate) fn written(name: &str) -> impl Iterator<Item = char> {
    written_with(name, |_| false)
}

/// A metric name as the Prometheus exporter writes it: unlike a label's, it may contain colons.
pub(crate) fn written_metric(name: &str) -> impl Iterator<Item = char> {
    written_with(name, |c| c == ':')
}

fn written_with(name: &str, also_valid: fn(char) -> bool) -> impl Iterator<Item = char> {
    name.chars().enumerate().map(move |(at, c)| match c {
        'a'..='z' | 'A'..='Z' | '_' => c,
        '0'..='9' if at > 0 => c,
        c if also_valid(c) => c,
        _ => '_',
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    static_assertions::assert_eq_size!(ClientLabels, u8);
    static_assertions::assert_impl_all!(ClientLabels: Copy, Send, Sync, LabelSet);
    static_assertions::assert_impl_all!((ClientLabels, (ClientLabels,)): LabelSet);
    static_assertions::assert_not_impl_any!(String: LabelSet);
    static_assertions::assert_not_impl_any!(&'static str: LabelSet);
    static_assertions::assert_not_impl_any!(IpAddr: LabelSet);
    static_assertions::assert_not_impl_any!(SocketAddr: LabelSet);
    static_assertions::assert_not_impl_any!(u16: LabelSet);
    static_assertions::assert_not_impl_any!(ServerBinding: LabelSet);
    static_assertions::assert_not_impl_any!((ClientLabels, u16): LabelSet);

    fn pairs(ip: &str) -> (&'static str, &'static str) {
        let ip: IpAddr = ip.parse().unwrap();
        let labels = ClientLabels::from(ip);
        assert_eq!(labels, ClientLabels::from(SocketAddr::new(ip, 50_000)));
        assert_eq!(labels, ClientLabels::from(Some(ip)));
        let &[(family_name, family), (type_name, ip_type)] = labels.pairs() else {
            panic!("two labels")
        };
        assert_eq!(family_name, "client_address_ip_family");
        assert_eq!(type_name, "client_address_ip_type");
        assert_eq!(family, labels.family().unwrap().as_str());
        assert_eq!(ip_type, labels.ip_type().unwrap().as_str());
        (family, ip_type)
    }

    #[test]
    fn the_table_of_the_label_contract() {
        for ip in [
            "192.0.2.7",
            "0.0.0.0",
            "127.0.0.1",
            "255.255.255.255",
            "169.254.1.1",
        ] {
            assert_eq!(pairs(ip), ("inet", "plain"), "{ip}");
        }
        for ip in [
            "::ffff:192.0.2.7",
            "::ffff:0:0",
            "::ffff:127.0.0.1",
            "::ffff:255.255.255.255",
        ] {
            assert_eq!(pairs(ip), ("inet", "v4_mapped_v6"), "{ip}");
        }
        for ip in [
            "2001:db8::7",
            "::",
            "::1",
            "fe80::1",
            "2002:c000:207::",
            "64:ff9b::192.0.2.7",
            "::192.0.2.7",
            "::fffe:192.0.2.7",
            "0:0:0:0:ffff:0:192.0.2.7",
            "1::ffff:192.0.2.7",
            "ff02::1",
        ] {
            assert_eq!(pairs(ip), ("inet6", "plain"), "{ip}");
        }
        assert_eq!(
            ClientLabels::NAT64.pairs(),
            [
                ("client_address_ip_family", "inet"),
                ("client_address_ip_type", "nat64")
            ]
        );
        assert_eq!(
            ClientLabels::from(None::<SocketAddr>).pairs(),
            [
                ("client_address_ip_family", "unknown"),
                ("client_address_ip_type", "unknown")
            ]
        );
    }

    #[test]
    fn each_class_is_at_its_index() {
        for (at, class) in ClientLabels::EVERY.iter().enumerate() {
            assert_eq!(class.index(), at);
        }
        assert_eq!(
            [ClientLabels::ALL, &[ClientLabels::NAT64]].concat(),
            ClientLabels::EVERY
        );
    }

    #[test]
    fn debug_shows_no_address() {
        let labels = ClientLabels::from("::ffff:192.0.2.7".parse::<IpAddr>().unwrap());
        assert_eq!(
            format!("{labels:?}"),
            "ClientLabels { family: inet, ip_type: v4_mapped_v6 }"
        );
    }

    #[test]
    fn a_binding_has_five_labels() {
        let written = |binding: ServerBinding| -> Vec<_> {
            binding
                .pairs()
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect()
        };
        let of = |address: &str| written(ServerBinding::new(Protocol::Udp, address.parse().unwrap()));
        assert_eq!(
            of("[::]:6969"),
            [
                "server_binding_address_ip_family=inet6",
                "server_binding_address_ip_type=plain",
                "server_binding_ip=::",
                "server_binding_port=6969",
                "server_binding_protocol=udp",
            ]
        );
        assert_eq!(of("0.0.0.0:1")[0], "server_binding_address_ip_family=inet");
        assert_eq!(
            of("[::ffff:192.0.2.1]:1")[..3],
            [
                "server_binding_address_ip_family=inet",
                "server_binding_address_ip_type=v4_mapped_v6",
                "server_binding_ip=::ffff:192.0.2.1",
            ]
        );

        let unix = ServerBinding::unix(Protocol::Grpc);
        assert_eq!(
            written(unix),
            [
                "server_binding_address_ip_family=unknown",
                "server_binding_address_ip_type=unknown",
                "server_binding_ip=unknown",
                "server_binding_port=unknown",
                "server_binding_protocol=grpc",
            ]
        );
        assert_eq!((unix.family(), unix.ip_type()), (None, None));
    }

    #[test]
    fn names_are_written_as_the_exporter_writes_them() {
        let written = |name| written(name).collect::<String>();
        assert_eq!(written("a.b:c-d9"), "a_b_c_d9");
        assert_eq!(written("9a"), "_a");
        assert_eq!(written("øl"), "_l");
        assert_eq!(written_metric("9a.b:c-d9").collect::<String>(), "_a_b:c_d9");
    }
}
