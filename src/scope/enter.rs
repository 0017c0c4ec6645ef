//! Puts a scope in force on a thread, and leaves it.

use std::{cell::Cell, marker::PhantomData};

use super::handle::Scope;

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

impl Drop for EnteredScope {
    #[inline]
    fn drop(&mut self) {
        CURRENT.set(self.previous);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

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
}
