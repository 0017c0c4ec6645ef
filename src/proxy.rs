//! The client's own address behind a proxy, from a header or from the PROXY protocol.
//!
//! Behind a proxy, the peer of each connection is the proxy. [`TrustedProxies`] lists the proxies, and makes a source for
//! [`ClientLabelsLayer`](crate::ClientLabelsLayer) or `UdpServer`, or a listener, that reads the address of the client.
//!
//! ```
//! use axum::{Router, body::Body, extract::connect_info::MockConnectInfo, http::Request, routing::get};
//! use dualstack_metrics::{ClientLabelsLayer, Protocol, Scope, ServerBinding, TrustedProxies};
//! use std::net::SocketAddr;
//! use tower::ServiceExt as _;
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let proxies = TrustedProxies::new(["10.0.0.0/8", "::1/128"])?;
//! let binding = ServerBinding::new(Protocol::Http, "[::]:7070".parse()?);
//! let app = Router::new()
//!     .route("/", get(|| async { Scope::current().value_of("client_address_ip_family").unwrap_or("none") }))
//!     .layer(ClientLabelsLayer::new(binding).source(proxies.x_forwarded_for()))
//!     // The proxy at 10.0.0.1, as a socket on `[::]` reports it.
//!     .layer(MockConnectInfo(SocketAddr::new("::ffff:10.0.0.1".parse()?, 50_000)));
//!
//! let request = Request::get("/").header("x-forwarded-for", "203.0.113.9, 2001:db8::7").body(Body::empty())?;
//! let body = axum::body::to_bytes(app.oneshot(request).await?.into_body(), 16).await?;
//! assert_eq!(body, "inet6");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```
//!
//! # Who is believed
//!
//! Nobody, unless listed. A peer that is not in the list is itself the client, whatever it sends. In a list of hops, such
//! as `X-Forwarded-For`, each proxy adds its peer at the right end, so the addresses are read from right to left. The
//! first one that is not a trusted proxy is the client. The text left of it came from the client, and is not read.
//! Addresses are compared in canonical form.
//!
//! # Which source
//!
//! - [`TrustedProxies::x_forwarded_for`] and [`forwarded`](TrustedProxies::forwarded): lists to which each proxy adds. If
//!   a platform changes the addresses of its proxies, [`hops`](HeaderSource::hops) counts them.
//! - [`TrustedProxies::header`]: one address, which the proxy sets and a client cannot extend.
//! - [`TrustedProxies::proxy_protocol`]: a proxy that passes on TCP connections and knows no HTTP.
//! - [`TrustedProxies::proxy_protocol_datagrams`]: a proxy that passes on datagrams.
//!
//! `docs/behind-a-proxy.md` has a table with the settings of common proxies and clouds.
//!
//! # What the labels mean
//!
//! The family is the client's own. The type depends on the proxy. A proxy on a dual-stack socket sees its IPv4 clients as
//! `::ffff:a.b.c.d`. If it writes them like that, as nginx and HAProxy do, the type is `v4_mapped_v6`. If it writes
//! `a.b.c.d`, as Caddy, Envoy and Traefik do, or listens on a socket for each family, the type is `plain`. So the type
//! describes the socket of the proxy, not the socket of this process.
//!
//! # When there is no address
//!
//! A trusted proxy may send no address, or a malformed one. Then the [`Fallback`] decides the labels, the counter
//! [`REJECTED`] grows by 1 with the reason, and a warning names the fix. It is logged at most once a minute for each
//! reason. The counter also has the addresses that untrusted peers sent, with the reason `untrusted`.
//!
//! The work for one request has a bound: of a list, at most 8 KiB are read. The header of the PROXY protocol must be
//! complete within 5 s and 8 KiB.

mod datagrams;
mod fallback;
mod forwarded;
mod header;
mod list;
mod listener;
mod node;
mod policy;
mod protocol;
mod reason;
mod rejection;
#[cfg(feature = "axum08")]
mod serve;
mod stream;
mod trust;

pub use self::{
    datagrams::ProxyProtocolDatagrams,
    fallback::Fallback,
    header::HeaderSource,
    listener::{Accept, ProxyProtocolListener},
    rejection::REJECTED,
    stream::ProxyStream,
    trust::{TrustedProxies, TrustedProxiesError, TrustedProxy},
};
