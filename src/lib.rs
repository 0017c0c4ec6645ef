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
//! The crate consists of these parts:
//!
//! - [`ClientLabels`]: the class of a client in one byte, made from its address. Usable with any metrics system.
//! - [`Scope`]: labels that are in force on a thread, around a closure or around each poll of a future.
//! - [`ScopedRecorderLayer`]: a recorder for the [`metrics`](https://docs.rs/metrics) crate that reads the scope when a
//!   counter is incremented.
//! - [`ClientLabelsLayer`]: a tower layer that enters the scope of a request's client.
//! - [`LabelsLayer`]: a tower layer that adds your own labels, from an enum, a [`FixedLabel`] or a [`CappedLabel`].
//! - [`UdpServer`]: serves a tower service from a UDP socket, each datagram in the scope of its client.
//! - [`DatagramSocket`]: a UDP socket that answers from the address that was asked, for your own receive loop.
//! - [`SocketOptions`]: binds sockets that are dual-stack, or IPv6-only, on purpose.
//! - [`KernelCounters`]: exports the host's own IPv6 counters.
//! - [`prometheus`][mod@prometheus]: builds, wraps and installs the Prometheus recorder in one call.
//! - [`opentelemetry`][mod@opentelemetry]: the same scopes for the instruments of an OpenTelemetry meter provider.
//!
//! # Choosing what is labelled
//!
//! All counters are labelled unless you choose otherwise. Exclude global counters that are touched during a request:
//!
//! ```
//! use dualstack_metrics::ScopedRecorderLayer;
//! use metrics_exporter_prometheus::PrometheusBuilder;
//! use metrics_util::MetricKindMask;
//! use std::time::Duration;
//!
//! # let builder = PrometheusBuilder::new();
//! let metrics = dualstack_metrics::prometheus::Install::new(builder)
//!     .recorder(
//!         ScopedRecorderLayer::new()
//!             .exclude_prefix("swarm_coordination_registry_")
//!             .exclude("tracker_core_persistent_torrents_downloads_total"),
//!     )
//!     .idle_timeout(MetricKindMask::ALL, Some(Duration::from_secs(600)))
//!     .install()?;
//! # metrics.render();
//! # Ok::<(), dualstack_metrics::prometheus::InstallError>(())
//! ```
//!
//! # UDP
//!
//! [`UdpServer`] runs the receive loop and enters the scope of each client:
//!
//! ```
//! use bytes::Bytes;
//! use dualstack_metrics::{Datagram, SocketOptions, UdpServer};
//! use std::{convert::Infallible, time::Duration};
//! use tower::service_fn;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! # let (reply, shutdown) = (Bytes::new(), async {});
//! let socket = SocketOptions::dual_stack().bind_udp("[::]:0".parse().unwrap())?;
//! UdpServer::new(socket)?
//!     .metrics_prefix("udp_tracker_server")
//!     .shutdown_timeout(Duration::from_secs(5))
//!     .serve(service_fn(|datagram: Datagram| {
//!         # let reply = reply.clone();
//!         async move {
//!             metrics::counter!("requests_total", "is_empty" => datagram.payload().is_empty().to_string()).increment(1);
//!             Ok::<_, Infallible>(Some(reply))
//!         }
//!     }))
//!     .with_graceful_shutdown(shutdown)
//!     .await?;
//! # Ok::<(), std::io::Error>(())
//! # })?;
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! If you already have a receive loop, make the scopes at start-up and enter one for each datagram:
//!
//! ```no_run
//! use dualstack_metrics::{ClientScopes, Protocol, ServerBinding, WithScope};
//!
//! # async fn handle(_: &[u8], _: std::net::SocketAddr) {}
//! # async fn serve(socket: tokio::net::UdpSocket) -> std::io::Result<()> {
//! # let mut buf = [0; 65_535];
//! let scopes = ClientScopes::new(ServerBinding::new(Protocol::Udp, socket.local_addr()?));
//! loop {
//!     let (len, peer) = socket.recv_from(&mut buf).await?;
//!     handle(&buf[..len], peer).with_scope(scopes.for_client(peer)).await;
//! }
//! # }
//! ```
//!
//! # Your own labels
//!
//! The tenant, the plan, the caller: [`LabelsLayer`] adds labels of your own to everything that is counted in a request,
//! in any order with [`ClientLabelsLayer`]. A label has a fixed number of values. An enum has those of its variants (with
//! `#[derive(BoundedLabel)]`, feature `derive`), a [`FixedLabel`] those that are known at start-up, and a [`CappedLabel`]
//! the first few that clients send. Every other value becomes `other`.
//!
//! ```
//! use axum::{Router, extract::Request, http::header, routing::get};
//! use dualstack_metrics::{CappedLabel, ClientLabelsLayer, FixedLabel, LabelsLayer};
//! # use dualstack_metrics::{Protocol, ServerBinding};
//!
//! static REFERER: CappedLabel = CappedLabel::new("referer", 20);
//!
//! # async fn announce() {}
//! # let binding = ServerBinding::unix(Protocol::Http);
//! let tenants = FixedLabel::new("tenant", ["acme", "globex"])?;
//! let app = Router::new()
//!     .route("/announce", get(announce))
//!     .layer(LabelsLayer::new(move |request: &Request| {
//!         let headers = request.headers();
//!         (tenants.value(headers.get(header::HOST)), REFERER.value(headers.get(header::REFERER)))
//!     }))
//!     .layer(ClientLabelsLayer::new(binding));
//! # let _: Router = app;
//! # Ok::<(), dualstack_metrics::labels::LabelError>(())
//! ```
//!
//! A label that is known later in the request, for example after authentication, is added with [`Scope::add`], as in
//! `Scope::add(&plan)`. [`ClientScopes::max_label_sets`] says how many series that makes, and
//! [`limit_label_sets`](scope::limit_label_sets) sets a limit for the process. [`ClientScopes::expected`] starts series at
//! zero, and [`ClientScopes::builder`] gives the labels of clients and servers other names.
//!
//! # Spawned tasks
//!
//! A spawned task does not belong to the request that spawned it. Carry the scope along with
//! [`with_current_scope`](WithScope::with_current_scope):
//!
//! ```
//! # use dualstack_metrics::WithScope as _;
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! # async fn work() {}
//! tokio::spawn(work().with_current_scope());
//! # });
//! ```
//!
//! # What the crate does not do
//!
//! - It never turns the address or the port of a client into a label. A `String`, an `IpAddr` or a `u16` does not
//!   compile where a label set is expected, and the number of label sets in a process has a [limit](MAX_LABEL_SETS).
//! - It believes no header, such as `X-Forwarded-For`, and no PROXY protocol, unless you say which proxies are trusted: see
//!   the feature `proxy`. Without it, behind a proxy the client is the proxy.
//!
//! # Features
//!
//! | feature | default | what it adds | packages |
//! |---|---|---|---|
//! | `axum` | yes | reads the client's address from the `ConnectInfo` of axum 0.8 or 0.7; [`socket`] | 25, which an axum program has already |
//! | `udp` | yes | [`udp_adapter`] and [`socket`] | 12; 5 beside `axum` and `prometheus` |
//! | `prometheus` | yes | [`prometheus`][mod@prometheus]: the exporter, installed in one call | 28 |
//! | `kernel` | yes | [`kernel`][mod@kernel]: the host's IPv6 counters (Linux) | none |
//! | `derive` | no | the derives of [`BoundedLabel`] and [`LabelSet`] for labels of your own | 2 beside the default; 5 without other features |
//! | `proxy` | no | [`proxy`][mod@proxy]: the client's address behind a proxy, from headers and the PROXY protocol | 2 that an axum server does not have; 5 without other features |
//! | `opentelemetry` | no | [`opentelemetry`][mod@opentelemetry]: scopes for the instruments of OpenTelemetry 0.33 | 1: its API, not its SDK |
//! | `opentelemetry-bound` | no | the same, bound to the attributes of each scope: as fast as without attributes | none more |
//! | `http-listener` | no | the exporter's own HTTP listener | 19 more than `prometheus` |
//! | `push-gateway` | no | the exporter's own push gateway client, with TLS | 26 more than `prometheus` |
//!
//! The default is everything that the examples on this page use: 73 packages in all. Without features there are 21
//! packages, and the modules [`labels`], [`scope`], [`recorder`] and [`layer`], for any recorder and any tower service.
//! For an axum service with the Prometheus exporter, and nothing for UDP:
//!
//! ```toml
//! dualstack-metrics = { version = "0.1", default-features = false, features = ["axum", "prometheus"] }
//! ```

// What is turned off cannot be linked.
#![cfg_attr(
    not(any(feature = "axum", feature = "udp")),
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

#[cfg(feature = "kernel")]
#[cfg_attr(docsrs, doc(cfg(feature = "kernel")))]
pub mod kernel;
pub mod labels;
pub mod layer;
#[cfg(any(feature = "proxy", feature = "udp"))]
mod log;
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
#[cfg(any(feature = "axum", feature = "udp"))]
pub mod socket;
#[cfg(feature = "udp")]
#[cfg_attr(docsrs, doc(cfg(feature = "udp")))]
pub mod udp_adapter;

#[cfg(feature = "derive")]
#[cfg_attr(docsrs, doc(cfg(feature = "derive")))]
pub use dualstack_metrics_derive::{BoundedLabel, LabelSet};

#[cfg(feature = "kernel")]
#[doc(inline)]
pub use self::kernel::{KernelCounters, KernelCountersError};
#[cfg(feature = "opentelemetry")]
#[doc(inline)]
pub use self::opentelemetry::ScopedMeterProvider;
#[cfg(feature = "proxy")]
#[doc(inline)]
pub use self::proxy::TrustedProxies;
#[cfg(any(feature = "axum", feature = "udp"))]
#[doc(inline)]
pub use self::socket::{BindError, Pair, SocketOptions};
#[cfg(feature = "udp")]
#[doc(inline)]
pub use self::udp_adapter::{Datagram, DatagramSocket, SocketDrops, UdpServer};
#[doc(inline)]
pub use self::{
    labels::{
        BoundedLabel, CappedLabel, ClientLabels, FixedLabel, IpFamily, IpType, LabelList, LabelSet,
        Nat64Prefix, Protocol, ServerBinding,
    },
    layer::{ClientLabelsLayer, ClientLabelsService, LabelsLayer},
    recorder::{ScopedRecorder, ScopedRecorderLayer},
    scope::{
        ClientScopes, ClientScopesBuilder, EnteredScope, MAX_LABEL_SETS, Scope, Scoped, TooManyLabelSets,
        WithScope,
    },
};

/// The snippets of the documentation compile.
#[cfg(all(doctest, feature = "axum", feature = "proxy", feature = "udp"))]
#[doc = include_str!("../docs/behind-a-proxy.md")]
struct BehindAProxy;

/// The snippets of the documentation compile.
#[cfg(all(doctest, feature = "axum", feature = "opentelemetry"))]
#[doc = include_str!("../docs/opentelemetry.md")]
struct OpenTelemetry;

/// The README's snippets compile.
#[cfg(all(doctest, feature = "axum", feature = "udp", feature = "prometheus"))]
#[doc = include_str!("../README.md")]
struct Readme;
