use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures_core::{FusedFuture, FusedStream, Stream};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::{enter::EnteredScope, handle::Scope};

const TAKEN: &str = "only `into_inner` takes the value, and it consumes the wrapper";

pin_project! {
    /// A future, stream or body that is polled and dropped in a [`Scope`].
    ///
    /// Made by [`WithScope::with_scope`] and [`Scope::wrap`].
    #[derive(Clone, Debug)]
    #[must_use = "futures, streams and bodies do nothing unless polled"]
    pub struct Scoped<T> {
        // Emptied in the scope, so that counters in the value's `Drop` get the labels.
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

#[expect(
    clippy::missing_panics_doc,
    reason = "the value stays until the wrapper is dropped"
)]
impl<T> Scoped<T> {
    pub(crate) fn new(inner: T, scope: Scope) -> Self {
        Self {
            inner: Some(inner),
            scope,
        }
    }

    #[inline]
    pub(super) fn enter(&self) -> EnteredScope {
        self.scope.enter()
    }

    /// Calls `poll` in the scope, and keeps labels that it adds to the scope.
    #[inline]
    fn in_scope<R>(self: Pin<&mut Self>, poll: impl FnOnce(Pin<&mut T>) -> R) -> R {
        let this = self.project();
        let entered = this.scope.enter();
        let result = poll(this.inner.as_pin_mut().expect(TAKEN));
        *this.scope = Scope::current();
        drop(entered);
        result
    }

    /// The scope. If labels were [added](Scope::add) to it, they are in it.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// The wrapped value.
    pub fn get_ref(&self) -> &T {
        self.inner.as_ref().expect(TAKEN)
    }

    /// The wrapped value. Using it does not enter the scope.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.as_mut().expect(TAKEN)
    }

    /// Unwraps the value. It no longer enters the scope when it is polled or dropped.
    pub fn into_inner(mut self) -> T {
        self.inner.take().expect(TAKEN)
    }
}

impl Scope {
    /// Wraps a future, stream or body, so that it is polled and dropped in this scope.
    ///
    /// Does the same as [`value.with_scope(scope)`](crate::WithScope::with_scope), but the scope is evaluated first. It can
    /// therefore borrow from what `value` moves:
    ///
    /// ```
    /// # use dualstack_metrics::{ClientScopes, Protocol, ServerBinding};
    /// # use std::net::SocketAddr;
    /// # struct Request { from: SocketAddr }
    /// # async fn process(request: Request) { drop(request) }
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// # let scopes = ClientScopes::new(ServerBinding::new(Protocol::Udp, "[::]:6969".parse().unwrap()));
    /// # let request = Request { from: "192.0.2.7:50000".parse().unwrap() };
    /// tokio::spawn(scopes.for_client(request.from).wrap(process(request)));
    /// # });
    /// ```
    #[inline]
    pub fn wrap<T>(self, value: T) -> Scoped<T> {
        Scoped::new(value, self)
    }

    /// Wraps a closure, so that it is called in this scope, or dropped in it if it is never called.
    ///
    /// ```
    /// # use dualstack_metrics::{ClientLabels, Scope};
    /// # let scope = Scope::new(&ClientLabels::UNKNOWN);
    /// # scope.run(|| {
    /// let thread = std::thread::spawn(Scope::current().bind(Scope::current));
    /// assert_eq!(thread.join().unwrap(), Scope::current());
    /// # });
    /// ```
    pub fn bind<F, T>(self, f: F) -> impl FnOnce() -> T + use<F, T>
    where
        F: FnOnce() -> T,
    {
        let scoped = Scoped::new(f, self);
        move || {
            let _entered = scoped.enter();
            scoped.into_inner()()
        }
    }
}

impl EnteredScope {
    /// Wraps a value, so that it is polled and dropped in the scope that this guard has entered.
    #[inline]
    #[expect(clippy::unused_self, reason = "the scope is in force because of the guard")]
    pub(crate) fn wrap<T>(&self, value: T) -> Scoped<T> {
        // It may have more labels than the scope that was entered.
        Scoped::new(value, Scope::current())
    }
}

impl<F: Future> Future for Scoped<F> {
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.in_scope(|inner| inner.poll(cx))
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
        self.in_scope(|inner| inner.poll_next(cx))
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
        self.in_scope(|inner| inner.poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.get_ref().is_end_stream()
    }

    // Without it a response would lose its content-length.
    fn size_hint(&self) -> SizeHint {
        self.get_ref().size_hint()
    }
}

impl<B: Default> Default for Scoped<B> {
    /// A default value, such as an empty body, outside every scope.
    fn default() -> Self {
        Self::new(B::default(), Scope::none())
    }
}

/// Puts a future, a stream or a body into a scope.
///
/// The scope is in force during each poll and during the drop, and at no other time, so other tasks on the same thread
/// do not see it. A task that the future spawns does not inherit the scope: spawn it with
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
    /// Polls and drops `self` in `scope`.
    fn with_scope(self, scope: Scope) -> Scoped<Self> {
        Scoped::new(self, scope)
    }

    /// Polls and drops `self` in the scope that is in force now. Use it for a future that another task polls.
    fn with_current_scope(self) -> Scoped<Self> {
        Scoped::new(self, Scope::current())
    }
}

impl<T> WithScope for T {}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use futures_util::{
        FutureExt,
        future::{self, FusedFuture},
        stream::{self, FusedStream, StreamExt},
    };

    use super::*;
    use crate::scope::tests::Kind;

    #[test]
    fn a_fused_future_is_terminated_when_it_is_done() {
        let mut future = Scope::none().wrap(future::ready(7).fuse());
        assert!(!future.is_terminated());
        assert_eq!((&mut future).now_or_never(), Some(7));
        assert!(future.is_terminated());
    }

    #[test]
    fn a_fused_stream_is_terminated_when_it_is_done() {
        let mut stream = Scope::none().wrap(stream::iter([7]).fuse());
        assert_eq!(stream.next().now_or_never(), Some(Some(7)));
        assert!(!stream.is_terminated());
        assert_eq!(stream.next().now_or_never(), Some(None));
        assert!(stream.is_terminated());
    }

    #[test]
    fn a_bound_closure_runs_and_is_dropped_in_its_scope() {
        struct Witness(Rc<RefCell<Vec<Scope>>>);
        impl Drop for Witness {
            fn drop(&mut self) {
                self.0.borrow_mut().push(Scope::current());
            }
        }

        let a = Scope::new(&Kind::A);
        let seen = Rc::default();
        let (called, dropped) = (Witness(Rc::clone(&seen)), Witness(Rc::clone(&seen)));
        let call = a.bind(move || {
            let _called = called;
            Scope::current()
        });
        let never = a.bind(move || drop(dropped));
        assert_eq!(call(), a);
        drop(never);
        assert_eq!(*seen.borrow(), [a, a]);
        assert_eq!(Scope::current(), Scope::none());
    }
}
