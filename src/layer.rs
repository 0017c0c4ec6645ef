//! Tower middleware that gives the labels of the client to every counter that is incremented in its request.
//!
//! ```
//! use axum::{Router, body::Body, extract::connect_info::MockConnectInfo, http::Request, routing::get};
//! use dualstack_metrics::{ClientLabelsLayer, Protocol, Scope, ServerBinding};
//! use std::net::SocketAddr;
//! use tower::ServiceExt as _;
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let binding = ServerBinding::new(Protocol::Http, "[::]:7070".parse()?);
//! let app = Router::new()
//!     .route("/", get(|| async { Scope::current().value_of("client_address_ip_family").unwrap_or("none") }))
//!     .layer(ClientLabelsLayer::new(binding))
//!     // A test uses this instead of `into_make_service_with_connect_info::<SocketAddr>()`.
//!     .layer(MockConnectInfo(SocketAddr::from(([192, 0, 2, 7], 50_000))));
//!
//! let response = app.oneshot(Request::new(Body::empty())).await?;
//! let body = axum::body::to_bytes(response.into_body(), 16).await?;
//! assert_eq!(body, "inet");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```
//!
//! The address comes from the request, unless [`source`](ClientLabelsLayer::source) says otherwise: see
//! [`client`](crate::client).
//!
//! # Order of layers
//!
//! In an axum `Router` the layer that is added *last* is outermost. In a `tower::ServiceBuilder` it is the layer that is
//! added *first*.
//!
//! - Code that increments counters belongs inside this layer: routes, `TraceLayer`, metrics middleware.
//! - The source of the address belongs outside: `MockConnectInfo`, or middleware that puts a
//!   [`ClientLabels`](crate::ClientLabels) into the extensions. A timeout can be outside as well. It drops the request
//!   that it cancels, and the drop is in the scope.
//! - A layer that calls its service in another task, such as tower's `BufferLayer`, belongs into a
//!   [`PropagateScopeLayer`], wherever it is.
//!
//! [`LabelsLayer`] adds your own labels, in any order with this layer. Each of the two adds its labels to the current
//! scope, so the scope inside both has all labels.
//!
//! # The extent of the scope
//!
//! The scope covers the inner `call`, each poll of its future, each poll of the response body, and the drop of both. It
//! does not cover `poll_ready`, because no request is known yet, nor a task that the service spawns, unless it is spawned
//! [`with_current_scope`](crate::WithScope::with_current_scope).

mod client;
mod labels;
mod propagate;
mod response;
mod service;
mod watch;

pub use self::{
    client::ClientLabelsLayer,
    labels::LabelsLayer,
    propagate::{CallInScope, PropagateScope, PropagateScopeLayer, PropagatedFuture},
    response::{ResponseFuture, ScopeResponse, ScopedFuture},
    service::ScopedService,
};
