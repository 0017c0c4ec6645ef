//! The handles that a thread registered last.

use std::sync::Arc;

use metrics::{Key, Metadata};

use super::handle::{Handle, Metric, Target};

/// The handle that this thread has for `key`, or a new one if the name `is_scoped`. `None` for a name that is not.
///
/// While the thread's locals are being destroyed there is no cache, and a handle is made at each call.
#[inline]
pub(super) fn find_or_insert<M: Metric>(
    target: &Arc<Target>,
    key: &Key,
    metadata: &Metadata<'_>,
    is_scoped: impl FnOnce() -> bool,
) -> Option<Arc<Handle<M>>> {
    // Two recorders that use the same key get different hashes.
    let hash = key.get_hash() ^ (Arc::as_ptr(target) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let known = M::with_cache(|cache| {
        cache.find(hash, |handle| {
            (handle.is_for(target, key, metadata) && !handle.is_stale()).then(|| Arc::clone(handle))
        })
    });
    known
        .flatten()
        .or_else(|| is_scoped().then(|| insert(hash, target, key, metadata)))
}

#[cold]
fn insert<M: Metric>(hash: u64, target: &Arc<Target>, key: &Key, metadata: &Metadata<'_>) -> Arc<Handle<M>> {
    let handle = Arc::new(Handle::new(target, key, metadata));
    M::with_cache(|cache| cache.insert(hash, Arc::clone(&handle)));
    handle
}
