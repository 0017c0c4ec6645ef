use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures_core::{FusedFuture, FusedStream, Stream};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::Scope;

const TAKEN: &str = "the value leaves the wrapper only with `into_inner`, which consumes it";

pin_project! {
    /// A future, stream or body that is polled, and dropped, with a [`Scope`] in force.
    ///
    /// Made by [`InScope::in_scope`].
    #[derive(Clone, Debug)]
    #[must_use = "futures, streams and bodies do nothing unless polled"]
    pub struct Scoped<T> {
        // Emptied inside the scope, so that what the value counts when it is dropped has the labels.
        #[pin]
        inner: Option<T>,
        scope: Scope,
    }

    impl<T> PinnedDrop for Scoped<T> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            let _entered = this.scope.enter();
            this.inner.set(None);
        }
    }
}

impl<T> Scoped<T> {
    /// Wraps `inner`, which is polled and dropped in `scope` from here on.
    pub fn new(inner: T, scope: Scope) -> Self {
        Self {
            inner: Some(inner),
            scope,
        }
    }

    /// The scope that is put in force.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// The wrapped value.
    ///
    /// # Panics
    ///
    /// Never: the value is there until the wrapper is dropped.
    pub fn get_ref(&self) -> &T {
        self.inner.as_ref().expect(TAKEN)
    }

    /// The wrapped value. What is done with it is done in the scope that is in force at the call.
    ///
    /// # Panics
    ///
    /// Never: the value is there until the wrapper is dropped.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.as_mut().expect(TAKEN)
    }

    /// The wrapped value, pinned.
    ///
    /// # Panics
    ///
    /// Never: the value is there until the wrapper is dropped.
    #[must_use]
    pub fn get_pin_mut(self: Pin<&mut Self>) -> Pin<&mut T> {
        self.project().inner.as_pin_mut().expect(TAKEN)
    }

    /// Unwraps the value; from here on it is polled and dropped in whatever scope is in force.
    ///
    /// # Panics
    ///
    /// Never: the value is there until the wrapper is dropped.
    pub fn into_inner(mut self) -> T {
        self.inner.take().expect(TAKEN)
    }
}

impl<F: Future> Future for Scoped<F> {
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let _entered = self.scope.enter();
        self.get_pin_mut().poll(cx)
    }
}

impl<F: FusedFuture> FusedFuture for Scoped<F> {
    fn is_terminated(&self) -> bool {
        self.get_ref().is_terminated()
    }
}

impl<S: Stream> Stream for Scoped<S> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let _entered = self.scope.enter();
        self.get_pin_mut().poll_next(cx)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.get_ref().size_hint()
    }
}

impl<S: FusedStream> FusedStream for Scoped<S> {
    fn is_terminated(&self) -> bool {
        self.get_ref().is_terminated()
    }
}

impl<B: Body> Body for Scoped<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let _entered = self.scope.enter();
        self.get_pin_mut().poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.get_ref().is_end_stream()
    }

    // Passed on, or a response loses its content-length.
    fn size_hint(&self) -> SizeHint {
        self.get_ref().size_hint()
    }
}

impl<B: Default> Default for Scoped<B> {
    /// An empty body, say, outside every scope.
    fn default() -> Self {
        Self::new(B::default(), Scope::none())
    }
}

/// Puts a future, a stream or a body into a scope.
///
/// The scope is in force in each `poll` and in the drop, and at no other time: not for another task that is polled
/// on the same thread in between, and not for a task that this one spawns (spawn it with
/// [`in_current_scope`](Self::in_current_scope)).
///
/// ```
/// use dualstack_metrics::{ClientLabels, InScope, Scope};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// async fn work() -> Scope {
///     tokio::task::yield_now().await;
///     Scope::current()
/// }
///
/// let scope = Scope::new(&ClientLabels::UNKNOWN);
/// assert_eq!(work().in_scope(scope).await, scope);
///
/// let child = async { tokio::spawn(work().in_current_scope()).await }.in_scope(scope);
/// assert_eq!(child.await.unwrap(), scope);
/// # });
/// ```
///
/// `Kind` says which of the three a type is, and is found by the compiler. What is none of them has no such methods: a
/// `tracing::Span` keeps its own `in_scope`. For a type that is more than one, there is [`Scoped::new`].
///
/// ```
/// use dualstack_metrics::{InScope, Scope, Scoped};
///
/// let body: Scoped<String> = String::from("a body").in_scope(Scope::none());
/// let stream = futures_util::stream::empty::<()>().in_scope(Scope::none());
/// tracing::info_span!("request").in_scope(|| drop((body, stream)));
/// ```
pub trait InScope<Kind>: Sized {
    /// Polls and drops `self` in `scope`, instead of the scope that is in force where that happens.
    fn in_scope(self, scope: Scope) -> Scoped<Self> {
        Scoped::new(self, scope)
    }

    /// Polls and drops `self` in the scope that is in force at this call. For what is handed to another task.
    fn in_current_scope(self) -> Scoped<Self> {
        Scoped::new(self, Scope::current())
    }
}

/// A [`Future`], for [`InScope`].
#[derive(Clone, Copy, Debug)]
pub enum FutureKind {}

/// A [`Stream`], for [`InScope`].
#[derive(Clone, Copy, Debug)]
pub enum StreamKind {}

/// A [`Body`], for [`InScope`].
#[derive(Clone, Copy, Debug)]
pub enum BodyKind {}

impl<F: Future> InScope<FutureKind> for F {}
impl<S: Stream> InScope<StreamKind> for S {}
impl<B: Body> InScope<BodyKind> for B {}
