use crate::{once::WarnOnce, scope::Scope};

/// Watches a request from the call of the service to the end of its future.
pub trait Watch {
    /// Made in the scope in which the service is called.
    fn of_call() -> Self;

    /// Called in the scope in which the future is polled.
    fn polled(&self);
}

/// Watches nothing.
impl Watch for () {
    #[inline]
    fn of_call() -> Self {}

    #[inline]
    fn polled(&self) {}
}

/// Logs a request that is called outside every scope, and polled inside one.
#[derive(Debug)]
pub struct CallOutside {
    is_outside: bool,
}

impl Watch for CallOutside {
    fn of_call() -> Self {
        Self {
            is_outside: Scope::current() == Scope::none(),
        }
    }

    #[inline]
    fn polled(&self) {
        if self.is_outside && Scope::current() != Scope::none() {
            warn_called_elsewhere();
        }
    }
}

#[cold]
fn warn_called_elsewhere() {
    static WARNING: WarnOnce = WarnOnce::new();

    if WARNING.first() {
        tracing::warn!(
            "`LabelsLayer` does not have the labels of the layers above, because a layer between them, such as tower's \
             `BufferLayer`, calls its service in another task: wrap that layer, as in \
             `PropagateScopeLayer::new(BufferLayer::new(1024))`"
        );
    }
}
