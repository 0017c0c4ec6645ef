//! stub
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod labels;
pub mod layer;
#[cfg(feature = "prometheus")]
#[cfg_attr(docsrs, doc(cfg(feature = "prometheus")))]
pub mod prometheus;
pub mod recorder;
pub mod scope;
#[cfg(any(feature = "axum", feature = "udp"))]
pub mod socket;
#[cfg(feature = "udp")]
#[cfg_attr(docsrs, doc(cfg(feature = "udp")))]
pub mod udp_adapter;

#[cfg(any(feature = "axum", feature = "udp"))]
#[doc(inline)]
pub use self::socket::{BindError, Pair, SocketOptions};
#[cfg(feature = "udp")]
#[doc(inline)]
pub use self::udp_adapter::{Datagram, Overload, UdpServer};
#[doc(inline)]
pub use self::{
    labels::{BoundedLabel, ClientLabels, IpFamily, IpType, LabelList, LabelSet, Protocol, ServerBinding},
    layer::ClientLabelsLayer,
    recorder::{ScopedRecorder, ScopedRecorderLayer},
    scope::{ClientScopes, EnteredScope, InScope, MAX_LABEL_SETS, Scope, Scoped, TooManyLabelSets},
};
