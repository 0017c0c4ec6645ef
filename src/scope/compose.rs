//! Makes scopes from labels, finds those that were made before without a lock or an allocation, and leaves labels out at
//! the limit.

use std::{cell::Cell, sync::OnceLock};

use super::{
    enter,
    handle::Scope,
    intern::{self, MAX_LABEL_SETS, TooManyLabelSets},
    pairs::{Pairs, borrowed, pairs_of_parts},
    reader,
};
use crate::{
    labels::{
        LabelList, LabelSet,
        list::Part,
        set::{are, hash_of, parts_of},
    },
    once::WarnOnce,
};

impl Scope {
    /// A scope with these labels. Make it once and keep it.
    ///
    /// To combine several scopes and labels, list them in a tuple. If two have a label of the same name, the label of
    /// the later one is used.
    ///
    /// ```
    /// # use dualstack_metrics::{BoundedLabel, ClientLabels, ClientScopes, Protocol, Scope, ServerBinding};
    /// # #[derive(Clone, Copy)] enum Plan { Free }
    /// # impl BoundedLabel for Plan {
    /// #     const NAME: &'static str = "plan"; const VALUES: &'static [&'static str] = &["free"];
    /// #     fn index(self) -> usize { self as usize }
    /// # }
    /// let server = ClientScopes::new(ServerBinding::unix(Protocol::Http)).server();
    /// let scope = Scope::new(&(server, ClientLabels::UNKNOWN, Plan::Free));
    /// assert_eq!(scope.value_of("server_binding_protocol"), Some("http"));
    /// assert_eq!(scope.value_of("plan"), Some("free"));
    /// ```
    ///
    /// At the [limit of label sets](super#the-limit), labels are left out.
    #[must_use]
    #[inline]
    pub fn new<L: LabelSet>(labels: &L) -> Self {
        Self::none().with(labels)
    }

    /// This scope with more labels. If both have a label of the same name, the label of `labels` is used.
    ///
    /// A `Scope` is a label set, too: `outer.with(&inner)` has the labels of both. Composing the same labels again takes
    /// a few nanoseconds.
    ///
    /// At the [limit of label sets](super#the-limit), labels are left out.
    #[must_use]
    #[inline]
    pub fn with<L: LabelSet>(self, labels: &L) -> Self {
        find(self, labels).unwrap_or_else(|| self.compose_or_leave_out(labels))
    }

    // Not inlined, because it would make the frequent case slower.
    #[cold]
    #[inline(never)]
    fn compose_or_leave_out<L: LabelSet>(self, labels: &L) -> Self {
        let parts = parts_of(labels);
        self.compose(&parts).unwrap_or_else(|_| {
            count_overflow();
            self.with_stored_labels_of(&parts)
        })
    }

    /// This scope with more labels, which are remembered.
    pub(super) fn compose(self, parts: &[Part]) -> Result<Self, TooManyLabelSets> {
        let scope = Self::intern(self.own_pairs().with(pairs_of_parts(parts)))?;
        remember(self, parts, scope);
        Ok(scope)
    }

    pub(super) fn intern(pairs: Pairs) -> Result<Self, TooManyLabelSets> {
        if pairs.as_slice().is_empty() {
            return Ok(Self::none());
        }
        intern::intern(pairs).map(Self::of_set)
    }

    fn own_pairs(self) -> Pairs {
        borrowed(self.pairs().iter().copied()).collect()
    }

    /// The labels of this scope and of `parts`, part by part, as long as there is a set with them. Each label has the value
    /// that it would have if all fitted, or is left out.
    fn with_stored_labels_of(self, parts: &[Part]) -> Self {
        let all = self.own_pairs().with(pairs_of_parts(parts));
        let own = Part::Pairs(self.pairs());
        [&own].into_iter().chain(parts).fold(Self::none(), |scope, part| {
            let part = borrowed(part.pairs()).filter(|pair| all.as_slice().contains(pair));
            intern::stored(&scope.own_pairs().with(part)).map_or(scope, Self::of_set)
        })
    }

    /// Adds labels to the scope in force on this thread, for the rest of the request. Use it for a label that is known
    /// only late, for example after authentication.
    ///
    /// ```
    /// # use dualstack_metrics::{BoundedLabel, ClientScopes, Protocol, Scope, ServerBinding, WithScope};
    /// # #[derive(Clone, Copy)] enum Plan { Paid }
    /// # impl BoundedLabel for Plan {
    /// #     const NAME: &'static str = "plan"; const VALUES: &'static [&'static str] = &["paid"];
    /// #     fn index(self) -> usize { self as usize }
    /// # }
    /// # async fn authenticate() -> Plan { Plan::Paid }
    /// async fn handler() {
    ///     metrics::counter!("requests_total").increment(1); // without a plan
    ///     Scope::add(&authenticate().await);
    ///     metrics::counter!("purchases_total").increment(1); // with it
    /// #   tokio::task::yield_now().await;
    /// #   assert_eq!(Scope::current().value_of("plan"), Some("paid"));
    /// }
    /// # let scopes = ClientScopes::new(ServerBinding::unix(Protocol::Http));
    /// # let request = handler().with_scope(scopes.server());
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(request);
    /// # assert_eq!(Scope::current(), Scope::none());
    /// ```
    ///
    /// The labels stay until the scope is left: in a request, that is when the response body of the innermost of its
    /// layers ([`ClientLabelsLayer`](crate::ClientLabelsLayer), [`LabelsLayer`](crate::LabelsLayer)) is done. Likewise,
    /// they stay in a future, stream or body that was put into a scope with [`WithScope`](crate::WithScope) until it is
    /// dropped, and within [`run`](Self::run) until that returns. They do not reach tasks that were spawned before, other
    /// requests, and counters outside of that layer.
    ///
    /// Outside every scope there is no request to add them to. Then it does nothing, and the first time this is logged as
    /// a warning. At the [limit of label sets](super#the-limit), labels are left out.
    pub fn add<L: LabelSet>(labels: &L) {
        let current = Self::current();
        if current == Self::none() {
            return warn_nothing_in_force();
        }
        enter::replace_current(current.with_added(current.with(labels)));
    }
}

/// The scope that `outer` and `parts` make together.
struct Composed {
    outer: Scope,
    parts: Box<[Part]>,
    scope: Scope,
}

impl Composed {
    #[inline]
    fn is_of<L: LabelSet>(&'static self, outer: Scope, labels: &L) -> bool {
        self.outer == outer && are(labels, &self.parts)
    }
}

/// There are four places for each set.
const BITS: u32 = MAX_LABEL_SETS.ilog2() + 2;
const PROBES: usize = 8;

/// A scope that finds no place is composed under the lock each time. Only the pages that are used take memory.
static COMPOSED: [OnceLock<Composed>; (1 << BITS) + PROBES] =
    [const { OnceLock::new() }; (1 << BITS) + PROBES];

#[inline]
fn places<L: LabelSet>(outer: Scope, labels: &L) -> &'static [OnceLock<Composed>] {
    let hash = hash_of(labels, outer.id());
    let start = usize::try_from(hash >> (u64::BITS - BITS)).unwrap_or(0);
    &COMPOSED[start..start + PROBES]
}

#[inline]
fn find<L: LabelSet>(outer: Scope, labels: &L) -> Option<Scope> {
    // Most are in the first place.
    let (first, others) = places(outer, labels).split_first()?;
    let known = first.get()?;
    if known.is_of(outer, labels) {
        return Some(known.scope);
    }
    find_in(others, outer, labels)
}

#[inline(never)]
fn find_in<L: LabelSet>(places: &'static [OnceLock<Composed>], outer: Scope, labels: &L) -> Option<Scope> {
    let mut known = places.iter().map_while(OnceLock::get);
    known
        .find(|known| known.is_of(outer, labels))
        .map(|known| known.scope)
}

fn remember(outer: Scope, parts: &[Part], scope: Scope) {
    let mut new = Composed {
        outer,
        parts: parts.into(),
        scope,
    };
    for place in places(outer, &parts) {
        match place.set(new) {
            Ok(()) => return,
            Err(_) if place.get().is_some_and(|known| known.is_of(outer, &parts)) => return,
            Err(back) => new = back,
        }
    }
}

/// Labels that were listed before.
impl LabelSet for &[Part] {
    fn append_to(&self, list: &mut LabelList) {
        self.iter().for_each(|part| list.push_part(*part));
    }
}

#[cold]
pub(super) fn count_overflow() {
    thread_local! {
        static IS_COUNTING: Cell<bool> = const { Cell::new(false) };
    }

    struct Counted;

    impl Drop for Counted {
        fn drop(&mut self) {
            IS_COUNTING.set(false);
        }
    }

    intern::count_overflow();
    // A recorder that itself makes scopes can overflow again while it counts.
    if reader::has_reader() && !IS_COUNTING.replace(true) {
        let _counted = Counted;
        Scope::none().run(reader::count_overflow);
    }
}

#[cold]
fn warn_nothing_in_force() {
    static WARNING: WarnOnce = WarnOnce::new();

    if WARNING.first() {
        tracing::warn!(
            "`Scope::add` was called outside every scope, so its labels are left out: call it in a request below \
             `ClientLabelsLayer`, `LabelsLayer` or `UdpServer`, or in a future that was put into a scope with \
             `with_scope`"
        );
    }
}
