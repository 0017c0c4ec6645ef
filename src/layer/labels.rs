use std::{any::type_name, fmt};

use tower_layer::Layer;

use super::{
    service::{RequestScope, ScopedService},
    watch::CallOutside,
};
use crate::{
    labels::{LabelSet, LabelText},
    scope::Scope,
};

impl LabelText for http::HeaderValue {
    fn label_text(&self) -> Option<&[u8]> {
        Some(self.as_bytes())
    }
}

/// A [`Layer`] that adds your own labels to everything that is counted while a request is served.
///
/// The labels come from a closure `|request: &Request<_>|`, or `|datagram: &Datagram|`, that returns a [`LabelSet`]. The
/// layer adds them to the current scope, so it can be inside or outside of a
/// [`ClientLabelsLayer`](super::ClientLabelsLayer). Labels that were made before are found in a few nanoseconds, without a
/// lock or an allocation.
///
/// ```
/// use axum::{Router, body::Body, http::{Request, header::REFERER}, routing::get};
/// use dualstack_metrics::{CappedLabel, ClientLabelsLayer, FixedLabel, LabelsLayer, Protocol, Scope, ServerBinding};
/// use tower::ServiceExt as _;
///
/// static REFERRERS: CappedLabel = CappedLabel::new("referer", 20);
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let tenants = FixedLabel::new("tenant", ["acme", "globex"])?;
/// let binding = ServerBinding::new(Protocol::Http, "[::]:7070".parse()?);
/// let app = Router::new()
///     .route("/", get(async || format!("{:?}", Scope::current().value_of("tenant"))))
///     .layer(LabelsLayer::new(move |request: &Request<_>| {
///         (tenants.value(request.uri().host()), REFERRERS.value(request.headers().get(REFERER)))
///     }))
///     .layer(ClientLabelsLayer::new(binding));
///
/// let response = app.oneshot(Request::get("http://acme/").body(Body::empty())?).await?;
/// let body = axum::body::to_bytes(response.into_body(), 99).await?;
/// assert_eq!(body, r#"Some("acme")"#);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
///
/// # A label that is known later
///
/// If middleware learns the label and puts it into the extensions of the request, place the layer inside that
/// middleware. If a handler learns it, it calls [`Scope::add`], and the label holds for the rest of the request. In both
/// cases, earlier increments do not have the label.
#[derive(Clone, Copy)]
pub struct LabelsLayer<F, const BODY: bool = true> {
    labels: F,
}

impl<F> LabelsLayer<F> {
    /// A layer for the labels that `labels` returns for a request.
    pub const fn new(labels: F) -> Self {
        Self { labels }
    }

    /// Does not change the response. Its body is polled outside the scope. See
    /// [`ClientLabelsLayer::without_body`](super::ClientLabelsLayer::without_body).
    pub fn without_body(self) -> LabelsLayer<F, false> {
        LabelsLayer { labels: self.labels }
    }
}

impl<S, F: Clone, const BODY: bool> Layer<S> for LabelsLayer<F, BODY> {
    type Service = ScopedService<S, Self, BODY>;

    fn layer(&self, inner: S) -> Self::Service {
        ScopedService::new(inner, self.clone())
    }
}

impl<Request, F, L, const BODY: bool> RequestScope<Request> for LabelsLayer<F, BODY>
where
    F: Fn(&Request) -> L,
    L: LabelSet,
{
    type Watch = CallOutside;

    fn scope(&self, request: &Request) -> Scope {
        Scope::current().with(&(self.labels)(request))
    }
}

impl<F, const BODY: bool> fmt::Debug for LabelsLayer<F, BODY> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LabelsLayer<{}>", type_name::<F>())
    }
}
