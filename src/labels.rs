//! The labels and their values.
//!
//! [`ClientLabels`] turns a client's address into a class of one byte. The address is gone afterwards, so nothing can
//! leak it into a time series. Your own labels have a fixed number of values as well. The values of a [`BoundedLabel`] are
//! known when the program is compiled, the values of a [`FixedLabel`] at start-up, and a [`CappedLabel`] keeps the first
//! few that clients send.
//!
//! ```
//! use dualstack_metrics::ClientLabels;
//! use std::net::SocketAddr;
//!
//! // A socket on `[::]` reports a client at 192.0.2.7 as:
//! let peer: SocketAddr = "[::ffff:192.0.2.7]:50000".parse()?;
//!
//! let client = ClientLabels::from(peer);
//! assert_eq!(client.pairs(), [
//!     ("client_address_ip_family", "inet"),
//!     ("client_address_ip_type", "v4_mapped_v6"),
//! ]);
//! # Ok::<(), std::net::AddrParseError>(())
//! ```

mod binding;
mod bounded;
mod capped;
mod class;
mod error;
mod fixed;
pub(crate) mod grammar;
pub(crate) mod list;
mod nat64;
pub(crate) mod set;
mod text;
mod value;

pub(crate) use self::grammar::{written, written_metric};
pub use self::{
    binding::{Protocol, ServerBinding},
    bounded::BoundedLabel,
    capped::CappedLabel,
    class::{ClientLabels, IpFamily, IpType},
    error::LabelError,
    fixed::FixedLabel,
    list::LabelList,
    nat64::{InvalidNat64Prefix, Nat64Prefix},
    set::{LabelSet, max_label_sets},
    text::{LABEL_VALUES_OVERFLOWED_TOTAL, LabelText},
    value::LabelValue,
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
