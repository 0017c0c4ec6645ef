//! Puts a scope in force on a thread, and leaves it.

use std::{cell::Cell, marker::PhantomData};

use super::{Scope, Scoped};

thread_local! {
    // Has no destructor, so that it can be read while other thread-locals are destroyed.
    static CURRENT: Cell<Scope> = const { Cell::new(Scope::none()) };
}

impl Scope {
    /// The scope that is in force on this thread.
    #[must_use]
    #[inline]
    pub fn current() -> Self {
        CURRENT.get()
    }

    /// Puts this scope in force on this thread until the guard is dropped.
    ///
    /// Drop guards in the reverse order, and do not hold one across an `.await`.
    #[inline]
    pub fn enter(self) -> EnteredScope {
        EnteredScope {
            previous: CURRENT.replace(self),
            not_send: PhantomData,
        }
    }

    /// Calls `f` in this scope.
    #[inline]
    pub fn run<T>(self, f: impl FnOnce() -> T) -> T {
        let _entered = self.enter();
        f()
    }

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

/// Replaces the scope in force until the scope that was entered last is left.
pub(crate) fn replace_current(scope: Scope) {
    CURRENT.set(scope);
}

/// Keeps a [`Scope`] in force on this thread until it is dropped. See [`Scope::enter`].
#[derive(Debug)]
#[must_use = "the scope is left when the guard is dropped"]
pub struct EnteredScope {
    previous: Scope,
    not_send: PhantomData<*const ()>,
}

impl EnteredScope {
    /// Wraps a value, so that it is polled and dropped in the scope that this guard has entered.
    #[inline]
    #[expect(clippy::unused_self, reason = "the scope is in force because of the guard")]
    pub(crate) fn wrap<T>(&self, value: T) -> Scoped<T> {
        // It may have more labels than the scope that was entered.
        Scoped::new(value, CURRENT.get())
    }
}

impl Drop for EnteredScope {
    #[inline]
    fn drop(&mut self) {
        CURRENT.set(self.previous);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::RefCell,
        panic::{AssertUnwindSafe, catch_unwind},
        rc::Rc,
    };

    use super::*;
    use crate::scope::tests::Kind;

    static_assertions::assert_not_impl_any!(EnteredScope: Send);

    #[test]
    fn entering_replaces_and_leaving_restores() {
        let (a, b) = (Scope::new(&Kind::A), Scope::new(&Kind::B));
        assert_ne!(a, b);
        a.run(|| {
            assert_eq!(Scope::current(), a);
            b.run(|| assert_eq!(Scope::current().pairs(), [("kind", "b")]));
            assert_eq!(Scope::current(), a);
            Scope::none().run(|| assert_eq!(Scope::current(), Scope::none()));
            assert_eq!(Scope::current(), a);
        });
        assert_eq!(Scope::current(), Scope::none());
    }

    #[test]
    fn a_panic_restores() {
        let a = Scope::new(&Kind::A);
        a.run(|| {
            let result = catch_unwind(AssertUnwindSafe(|| {
                Scope::new(&Kind::B).run(|| panic!("on purpose"))
            }));
            assert!(result.is_err());
            assert_eq!(Scope::current(), a);
        });
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
