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

pub(crate) mod binding;
mod bounded;
mod capped;
mod class;
mod error;
mod fixed;
pub(crate) mod grammar;
pub(crate) mod list;
mod names;
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
    names::*,
    nat64::{InvalidNat64Prefix, Nat64Prefix},
    set::{LabelSet, max_label_sets},
    text::{LABEL_VALUES_OVERFLOWED_TOTAL, LabelText},
    value::LabelValue,
};
