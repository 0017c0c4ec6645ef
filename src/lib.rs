//! Labels every counter of a dual-stack server with the address family of the client it is serving.
//!
//! A socket on `[::]` accepts IPv4 and IPv6 clients, and shows the former as `::ffff:a.b.c.d`. Every metric of such a
//! server says `inet6`, because that is what the *socket* is. This crate adds two labels with few values,
//! `client_address_ip_family` and `client_address_ip_type`, to whatever is counted while a client is served: in HTTP
//! and in UDP, in one's own code and in that of libraries, without touching it.
//!
//! ```
//! use axum::{Router, routing::get};
//! use dualstack_metrics::{ClientLabelsLayer, Protocol, ServerBinding, SocketOptions};
//! use metrics_exporter_prometheus::PrometheusBuilder;
//! use std::net::SocketAddr;
//!
//! # async fn announce() {}
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
//! | no address known | `unknown` | `unknown` |
//!
//! Beside them stand the five labels of the listening socket: `server_binding_address_ip_family`,
//! `server_binding_address_ip_type`, `server_binding_ip`, `server_binding_port` and `server_binding_protocol`.
//!
//! # The parts
//!
//! - [`ClientLabels`]: a class of client in one byte, made from an address; usable with any metrics system.
//! - [`Scope`]: labels that are in force on a thread, around a closure or around each poll of a future.
//! - [`ScopedRecorderLayer`]: a recorder for the [`metrics`](https://docs.rs/metrics) crate that reads the scope when a
//!   counter is incremented.
//! - [`ClientLabelsLayer`]: a tower layer that enters the scope of a request's client.
//! - [`UdpServer`]: the same for datagrams, and the loop that serves them.
//! - [`DatagramSocket`]: what it receives and answers with, from the address that was asked, for a loop of one's own.
//! - [`SocketOptions`]: sockets that are dual-stack, or IPv6-only, on purpose.
//! - [`KernelCounters`]: the host's own IPv6 counters, beside those of the program.
//! - [`prometheus`](mod@prometheus): one call that installs it all.
//!
//! # Start-up, with choices
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
//!             .exclude_prefix("swarm_coordination_registry_") // global counters that are touched inside a request
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
//! # A loop of one's own
//!
//! ```no_run
//! use dualstack_metrics::{ClientScopes, WithScope, Protocol, ServerBinding};
//!
//! # async fn handle(_: &[u8], _: std::net::SocketAddr) {}
//! # async fn serve(socket: tokio::net::UdpSocket) -> std::io::Result<()> {
//! # let mut buf = [0; 65_535];
//! let scopes = ClientScopes::new(ServerBinding::new(Protocol::Udp, socket.local_addr()?));
//! loop {
//!     let (len, peer) = socket.recv_from(&mut buf).await?;
//!     handle(&buf[..len], peer).with_scope(scopes.for_client(peer)).await; // or scope.run(|| ...)
//! }
//! # }
//! ```
//!
//! and anywhere below:
//!
//! ```
//! # use dualstack_metrics::WithScope as _;
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! # async fn work() {}
//! metrics::counter!("udp_tracker_server_requests_accepted_total", "request_kind" => "announce").increment(1);
//! tokio::spawn(work().with_current_scope());
//! # });
//! ```
//!
//! # What it does not do
//!
//! It turns no address and no port of a client into a label, whatever is asked of it: a `String`, an `IpAddr` or a
//! `u16` where a label set is expected does not compile, and the number of label sets in a process has a
//! [limit](MAX_LABEL_SETS). It does not look into `X-Forwarded-For`: behind a proxy the client is the proxy, unless a
//! [source](ClientLabelsLayer::source) says otherwise. It does not choose labels for what runs in a task that was
//! spawned without [`with_current_scope`](WithScope::with_current_scope).
//!
//! # Features
//!
//! All on by default: `axum` (the client's address from `ConnectInfo`), `udp` ([`udp_adapter`]), `prometheus`
//! ([`prometheus`]), `kernel` ([`kernel`](mod@kernel)). Off: `http-listener` and `push-gateway`,
//! which pass the exporter's own through. The [`socket`] module is there with `axum` or `udp`.

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "kernel")]
#[cfg_attr(docsrs, doc(cfg(feature = "kernel")))]
pub mod kernel;
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

#[cfg(feature = "kernel")]
#[doc(inline)]
pub use self::kernel::{KernelCounters, KernelCountersError};
#[cfg(any(feature = "axum", feature = "udp"))]
#[doc(inline)]
pub use self::socket::{BindError, Pair, SocketOptions};
#[cfg(feature = "udp")]
#[doc(inline)]
pub use self::udp_adapter::{Datagram, DatagramSocket, Overload, UdpServer};
#[doc(inline)]
pub use self::{
    labels::{BoundedLabel, ClientLabels, IpFamily, IpType, LabelList, LabelSet, Protocol, ServerBinding},
    layer::{ClientLabelsLayer, ClientLabelsService},
    recorder::{ScopedRecorder, ScopedRecorderLayer},
    scope::{ClientScopes, EnteredScope, MAX_LABEL_SETS, Scope, Scoped, TooManyLabelSets, WithScope},
};

/// The README's snippets compile.
#[cfg(all(doctest, feature = "axum", feature = "udp", feature = "prometheus"))]
#[doc = include_str!("../README.md")]
struct Readme;
