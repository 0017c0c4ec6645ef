//! Label every counter of a dual-stack server with the address family of the client that it serves.
//!
//! A socket on `[::]` accepts IPv4 and IPv6 clients. It reports an IPv4 client as `::ffff:a.b.c.d`, so every metric of
//! the server says `inet6`, which is the family of the *socket*. This crate adds two labels with few values,
//! `client_address_ip_family` and `client_address_ip_type`, to each counter that is incremented while a client is
//! served. It works for HTTP and UDP, and the code that increments the counters does not change.
//!
//! # A tour
//!
//! An HTTP service needs four lines. They install the recorder, name the listening socket, add the layer, and let axum
//! pass on the client's address.
//!
//! ```
//! use axum::{Router, routing::get};
//! use dualstack_metrics::{ClientLabelsLayer, Protocol, ServerBinding, SocketOptions};
//! use metrics_exporter_prometheus::PrometheusBuilder;
//! use std::net::SocketAddr;
//!
//! async fn announce() {
//!     // Gets the labels of the client and of the server, like any counter in here.
//!     metrics::counter!("announces_total").increment(1);
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let metrics = dualstack_metrics::prometheus::install(PrometheusBuilder::new())?;
//!
//! let listener = SocketOptions::dual_stack().bind_tcp("[::]:0".parse()?)?;
//! let binding = ServerBinding::new(Protocol::Http, listener.local_addr()?);
//! let app = Router::new()
//!     .route("/announce", get(announce))
//!     .layer(ClientLabelsLayer::new(binding))
//!     .route("/metrics", get(async move || metrics.render()));
//! let server = axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>());
//! # server.with_graceful_shutdown(async {}).await?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```
//!
//! | client seen by the socket | `client_address_ip_family` | `client_address_ip_type` |
//! |---|---|---|
//! | `192.0.2.7` | `inet` | `plain` |
//! | `::ffff:192.0.2.7` | `inet` | `v4_mapped_v6` |
//! | `2001:db8::7`, and every other IPv6 address | `inet6` | `plain` |
//! | no known address | `unknown` | `unknown` |
//!
//! The scope also has five labels that describe the listening socket: `server_binding_address_ip_family`,
//! `server_binding_address_ip_type`, `server_binding_ip`, `server_binding_port` and `server_binding_protocol`.
//!
//! # Parts
//!
//! | part | purpose |
//! |---|---|
//! | [`ClientLabels`] | The class of a client in one byte, made from its address. Usable with any metrics system. |
//! | [`LabelSet`](trait@LabelSet) | Your own [`labels`], from an enum, a [`FixedLabel`] or a [`CappedLabel`]. |
//! | [`Scope`] | Labels that are in force on a thread, around a closure or around each poll of a future: see [`scope`]. |
//! | [`ClientScopes`] | The scopes of a listening socket's clients, for your own receive loop. |
//! | [`ScopedRecorderLayer`] | A recorder for the [`metrics`](https://docs.rs/metrics) crate that reads the scope when a counter is incremented. |
//! | [`prometheus`][mod@prometheus] | Builds, wraps and installs the Prometheus recorder in one call. |
//! | [`opentelemetry`][mod@opentelemetry] | The same scopes for the instruments of an OpenTelemetry meter provider. |
//! | [`ClientLabelsLayer`], [`LabelsLayer`], [`PropagateScopeLayer`] | Tower layers that enter the scope of a request's client, add your own labels, and carry the scope through a buffer: see [`layer`]. |
//! | [`proxy`][mod@proxy] | The client's address behind a proxy. |
//! | [`UdpServer`] | Serves a tower service from a UDP socket, each datagram in the scope of its client: see [`udp_adapter`]. |
//! | [`DatagramSocket`] | A UDP socket that answers from the address that was asked, for your own receive loop. |
//! | [`SocketOptions`] | Binds sockets that are dual-stack, or IPv6-only, on purpose: see [`socket`]. |
//! | [`KernelCounters`] | Exports the host's own IPv6 counters. |
//!
//! # Limits
//!
//! - The crate never turns the address or the port of a client into a label. A `String`, an `IpAddr` or a `u16` does not
//!   compile where a label set is expected, and the number of label sets in a process has a [limit](MAX_LABEL_SETS).
//! - It believes no header, such as `X-Forwarded-For`, and no PROXY protocol, unless you say which proxies are trusted, with
//!   the feature `proxy`. Otherwise, behind a proxy, the client is the proxy.
//!
//! # Features
//!
//! | feature | default | purpose | packages |
//! |---|---|---|---|
//! | `axum` | yes | the feature of the current axum, which is `axum08` | |
//! | `axum08` | yes | reads the client's address from the `ConnectInfo` of axum 0.8; [`socket`] | 25, which an axum program has already |
//! | `axum07` | no | the same for axum 0.7, alone or beside 0.8 | 25, which an axum program has already |
//! | `udp` | yes | [`udp_adapter`] and [`socket`] | 13; 5 beside `axum` and `prometheus` |
//! | `prometheus` | yes | [`prometheus`][mod@prometheus]: the exporter, installed in one call | 32 |
//! | `kernel` | yes | [`kernel`][mod@kernel]: the host's IPv6 counters (Linux) | none |
//! | `derive` | no | the derives of [`BoundedLabel`] and [`LabelSet`] for labels of your own | 2 beside the default; 5 without other features |
//! | `proxy` | no | [`proxy`][mod@proxy]: the client's address behind a proxy, from headers and the PROXY protocol | 2 that an axum server does not have; 5 without other features |
//! | `tonic` | no | [`proxy`][mod@proxy], and the PROXY protocol under the server of tonic 0.14 | none that tonic does not have |
//! | `opentelemetry` | no | [`opentelemetry`][mod@opentelemetry]: scopes for the instruments of OpenTelemetry 0.33 | 1: its API, not its SDK |
//! | `opentelemetry-bound` | no | the same, bound to the attributes of each scope: as fast as without attributes | none more |
//! | `http-listener` | no | the exporter's own HTTP listener | 19 more than `prometheus` |
//! | `push-gateway` | no | the exporter's own push gateway client, with TLS | 26 more than `prometheus` |
//!
//! The default features have 74 packages in all. Without features there are 18 packages, and the modules [`labels`],
//! [`client`], [`scope`], [`recorder`] and [`layer`], for any recorder and any tower service.
//! For an axum service with the Prometheus exporter, and nothing for UDP:
//!
//! ```toml
//! dualstack-metrics = { version = "0.1", default-features = false, features = ["axum", "prometheus"] }
//! ```

// Items of features that are turned off cannot be linked.
#![cfg_attr(
    not(any(feature = "axum07", feature = "axum08", feature = "udp")),
    doc = "[`SocketOptions`]: #features\n[`socket`]: #features"
)]
#![cfg_attr(
    not(feature = "udp"),
    doc = "[`UdpServer`]: #features\n[`DatagramSocket`]: #features\n[`udp_adapter`]: #features"
)]
#![cfg_attr(
    not(feature = "kernel"),
    doc = "[`KernelCounters`]: #features\n[mod@kernel]: #features"
)]
#![cfg_attr(not(feature = "opentelemetry"), doc = "[mod@opentelemetry]: #features")]
#![cfg_attr(not(feature = "prometheus"), doc = "[mod@prometheus]: #features")]
#![cfg_attr(not(feature = "proxy"), doc = "[mod@proxy]: #features")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod cache;
pub mod client;
#[cfg(feature = "kernel")]
#[cfg_attr(docsrs, doc(cfg(feature = "kernel")))]
pub mod kernel;
pub mod labels;
pub mod layer;
#[cfg(any(feature = "proxy", feature = "udp"))]
mod log;
mod name_filter;
mod once;
#[cfg(feature = "opentelemetry")]
#[cfg_attr(docsrs, doc(cfg(feature = "opentelemetry")))]
pub mod opentelemetry;
#[cfg(feature = "prometheus")]
#[cfg_attr(docsrs, doc(cfg(feature = "prometheus")))]
pub mod prometheus;
#[cfg(feature = "proxy")]
#[cfg_attr(docsrs, doc(cfg(feature = "proxy")))]
pub mod proxy;
pub mod recorder;
pub mod scope;
#[cfg(any(feature = "axum07", feature = "axum08", feature = "udp"))]
pub mod socket;
#[cfg(feature = "udp")]
#[cfg_attr(docsrs, doc(cfg(feature = "udp")))]
pub mod udp_adapter;

#[cfg(feature = "derive")]
#[cfg_attr(docsrs, doc(cfg(feature = "derive")))]
pub use dualstack_metrics_derive::{BoundedLabel, LabelSet};

#[cfg(feature = "kernel")]
#[doc(inline)]
pub use self::kernel::KernelCounters;
#[cfg(feature = "opentelemetry")]
#[doc(inline)]
pub use self::opentelemetry::ScopedMeterProvider;
#[cfg(feature = "proxy")]
#[doc(inline)]
pub use self::proxy::TrustedProxies;
#[cfg(any(feature = "axum07", feature = "axum08", feature = "udp"))]
#[doc(inline)]
pub use self::socket::SocketOptions;
#[cfg(feature = "udp")]
#[doc(inline)]
pub use self::udp_adapter::{Datagram, DatagramSocket, UdpServer};
#[doc(inline)]
pub use self::{
    labels::{
        BoundedLabel, CappedLabel, ClientLabels, FixedLabel, IpFamily, IpType, LabelList, LabelSet,
        Nat64Prefix, Protocol, ServerBinding,
    },
    layer::{ClientLabelsLayer, LabelsLayer, PropagateScopeLayer},
    recorder::{ScopedRecorder, ScopedRecorderLayer},
    scope::{ClientScopes, ClientScopesBuilder, MAX_LABEL_SETS, Scope, WithScope},
};

/// The snippets of the documentation compile.
#[cfg(all(doctest, feature = "axum08", feature = "proxy", feature = "udp"))]
#[doc = include_str!("../docs/behind-a-proxy.md")]
struct BehindAProxy;

/// The snippets of the documentation compile.
#[cfg(all(doctest, feature = "axum08", feature = "opentelemetry"))]
#[doc = include_str!("../docs/opentelemetry.md")]
struct OpenTelemetry;

/// The README's snippets compile.
#[cfg(all(doctest, feature = "axum08", feature = "udp", feature = "prometheus"))]
#[doc = include_str!("../README.md")]
struct Readme;
