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
    /// Made by [`WithScope::with_scope`] and [`Scope::wrap`].
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
    pub(crate) fn new(inner: T, scope: Scope) -> Self {
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
/// The scope is in force during each poll and during the drop, and at no other time. It is not in force for another
/// task that is polled on the same thread in between. A task that this one spawns inherits nothing: spawn it with
/// [`with_current_scope`](Self::with_current_scope).
///
/// ```
/// use dualstack_metrics::{ClientLabels, Scope, WithScope};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// async fn work() -> Scope {
///     tokio::task::yield_now().await;
///     Scope::current()
/// }
///
/// let scope = Scope::new(&ClientLabels::UNKNOWN);
/// assert_eq!(work().with_scope(scope).await, scope);
///
/// let child = async { tokio::spawn(work().with_current_scope()).await }.with_scope(scope);
/// assert_eq!(child.await.unwrap(), scope);
/// # });
/// ```
///
/// For a closure, use [`Scope::run`] or [`Scope::bind`].
pub trait WithScope: Sized {
    /// Polls and drops `self` in `scope`, instead of the scope that is in force there.
    fn with_scope(self, scope: Scope) -> Scoped<Self> {
        Scoped::new(self, scope)
    }

    /// Polls and drops `self` in the scope that is in force at this call. Use it for what is handed to another task.
    fn with_current_scope(self) -> Scoped<Self> {
        Scoped::new(self, Scope::current())
    }
}

impl<T> WithScope for T {}
