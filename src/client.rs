//! Who the client is, and where its address comes from.
//!
//! A [`Client`] is made from an address, and shows only the class of the address, a [`ClientLabels`](crate::ClientLabels). A [`ClientSource`]
//! finds the client of a request:
//!
//! ```
//! use dualstack_metrics::client::{ClientSource, FromRequest, connect_info};
//! use std::net::SocketAddr;
//!
//! #[derive(Clone)]
//! struct Peer(SocketAddr);
//!
//! let mut request = http::Request::new(());
//! request.extensions_mut().insert(Peer("[::ffff:192.0.2.7]:50000".parse()?));
//!
//! // The default source does not know this type.
//! assert!(FromRequest.client(&request).is_none());
//!
//! let client = connect_info(|peer: &Peer| peer.0).client(&request).unwrap();
//! assert_eq!(client.class().pairs(), [
//!     ("client_address_ip_family", "inet"),
//!     ("client_address_ip_type", "v4_mapped_v6"),
//! ]);
//! # Ok::<(), std::net::AddrParseError>(())
//! ```
//!
//! # Sources for HTTP
//!
//! [`ClientLabelsLayer`](crate::ClientLabelsLayer) asks [`FromRequest`] by default, which looks into the extensions of the
//! request. If the address is in another type, name the type with
//! [`connect_info`](crate::ClientLabelsLayer::connect_info). For everything else,
//! [`source`](crate::ClientLabelsLayer::source) takes a closure or a fixed value. [`or`](crate::ClientLabelsLayer::or) adds
//! a source that is asked if there is no address yet.
//!
//! ```
//! use axum::{Router, extract::Request, routing::get};
//! use dualstack_metrics::{ClientLabels, ClientLabelsLayer, client::FromRequest};
//! # use dualstack_metrics::{Protocol, ServerBinding};
//! # use std::net::{IpAddr, SocketAddr};
//! # #[derive(Clone)] struct TcpConnectInfo(SocketAddr);
//! # impl TcpConnectInfo { fn remote_addr(&self) -> Option<SocketAddr> { Some(self.0) } }
//! # fn real_ip<B>(_: &Request<B>) -> Option<IpAddr> { None }
//! # let binding = ServerBinding::new(Protocol::Http, "[::]:7070".parse().unwrap());
//! # let router = || Router::<()>::new().route("/", get(async || ()));
//!
//! // The connection info of tonic.
//! let grpc = ClientLabelsLayer::new(binding).connect_info(|info: &TcpConnectInfo| info.remote_addr());
//! let app = router().layer(grpc);
//!
//! // Your own function, and the peer's address if it finds none. The body type is `_`, because the service decides it.
//! let proxied = ClientLabelsLayer::new(binding).source(|request: &Request<_>| real_ip(request)).or(FromRequest);
//! let app = router().layer(proxied);
//!
//! // A Unix socket. Clients have no address here, and that is no error.
//! let unix = ClientLabelsLayer::new(ServerBinding::unix(Protocol::Http)).source(ClientLabels::UNKNOWN);
//! let app = router().layer(unix);
//! ```
//!
//! A closure for a certain body type, such as `&http::Request<()>`, does not compile in a service with another:
//!
//! ```compile_fail
//! # use axum::{Router, routing::get};
//! # use dualstack_metrics::{ClientLabelsLayer, Protocol, ServerBinding};
//! # use std::net::SocketAddr;
//! # let binding = ServerBinding::new(Protocol::Http, "[::]:7070".parse().unwrap());
//! let layer = ClientLabelsLayer::new(binding)
//!     .source(|request: &http::Request<()>| request.extensions().get::<SocketAddr>().copied());
//! let app: Router = Router::new().route("/", get(async || ())).layer(layer);
//! ```
//!
//! Without an address, the labels are `unknown`. The layer logs one warning for each binding, with the fix.

mod connection;
mod datagram;
mod identity;
mod request;
mod source;

pub use self::{
    connection::ClientConnectInfo,
    datagram::{DatagramClient, DatagramSource},
    identity::{Client, IntoClient},
    request::{FromExtension, FromRequest, connect_info},
    source::{ClientSource, Or},
};
