//! The labels that are in force on a thread.
//!
//! A [`Scope`] is a `Copy` handle to a list of labels, usually made at start-up. Entering it is one thread-local write.
//! The recorder reads it when a counter is incremented: see [`ScopedRecorderLayer`](crate::ScopedRecorderLayer).
//!
//! ```
//! use dualstack_metrics::{ClientScopes, Protocol, Scope, ServerBinding};
//!
//! let scopes = ClientScopes::new(ServerBinding::new(Protocol::Udp, "[::]:6969".parse()?));
//! let peer: std::net::SocketAddr = "[::ffff:192.0.2.7]:50000".parse()?;
//!
//! let family = scopes.for_client(peer).run(|| Scope::current().value_of("client_address_ip_family"));
//! assert_eq!(family, Some("inet"));
//! assert_eq!(Scope::current(), Scope::none());
//! # Ok::<(), std::net::AddrParseError>(())
//! ```
//!
//! # When a scope is in force
//!
//! A scope is in force on one thread, from [`enter`](Scope::enter) until the guard is dropped, also by a panic.
//! Entering *replaces* the scope that was in force, and leaving restores it, so labels do not accumulate. To combine
//! scopes, use [`nest`](Scope::nest).
//!
//! Do not hold a guard across an `.await`: other tasks would be polled in its scope. [`WithScope::with_scope`] enters
//! the scope around each poll and around the drop instead.
//!
//! # Spawned tasks
//!
//! A spawned task does not inherit the scope of the task that spawned it. [`WithScope::with_current_scope`] and
//! [`Scope::bind`] carry the scope along.
//!
//! A task without a scope of its own runs in the scope of the thread that polls it. On the worker threads of a runtime
//! that is no scope. But inside `scope.run(|| runtime.block_on(..))`, a current-thread runtime polls its spawned tasks
//! on this thread, so they all run in `scope`. The same holds for the tasks of a `LocalSet` that is polled inside a
//! scope:
//!
//! ```
//! use dualstack_metrics::{ClientLabels, Scope, WithScope};
//!
//! let scope = Scope::new(&ClientLabels::UNKNOWN);
//! let runtime = tokio::runtime::Builder::new_current_thread().build()?;
//! let spawned = async { tokio::spawn(async { Scope::current() }).await.unwrap() };
//! assert_eq!(scope.run(|| runtime.block_on(spawned)), scope);
//!
//! // `Scope::none()` leaves every scope.
//! let spawned = async { tokio::spawn(async { Scope::current() }.with_scope(Scope::none())).await.unwrap() };
//! assert_eq!(scope.run(|| runtime.block_on(spawned)), Scope::none());
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # Cost and limit
//!
//! Making a scope for the first time takes a lock, and memory that is never freed. Making the same scope again takes a
//! few nanoseconds, without a lock or an allocation. A process can have [`MAX_LABEL_SETS`] different label sets, or fewer
//! if [`limit_label_sets`] says so. At start-up, the functions whose names begin with `try_` return an
//! error when there would be more. The others never fail, because they are also called in requests. They use another
//! scope instead: [`nest`](Scope::nest) returns the outer scope, and the rest the scope that is in force. The first time
//! this is logged as a warning. A scoped recorder counts them in `label_sets_overflowed_total`, which has no labels, and
//! [`overflows`] returns how often it happened in the process.

mod client;
mod compose;
mod intern;
mod names;
mod pairs;
mod scoped;
mod table;
mod vocabulary;

use std::{
    cell::Cell,
    fmt,
    marker::PhantomData,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

pub use self::{
    client::{ClientScopes, ClientScopesBuilder, ClientScopesError},
    intern::{MAX_LABEL_SETS, TooManyLabelSets, label_set_limit, label_sets, limit_label_sets, overflows},
    scoped::{Scoped, WithScope},
};
use self::{
    intern::LabelSetData,
    pairs::{Pairs, pairs_of_list, pairs_of_server},
};
pub(crate) use self::{
    names::{NameFilter, Spelling},
    table::ScopeTable,
};
use crate::labels::{
    LabelList, LabelSet, ServerBinding,
    set::{Part, list_of},
    written,
};

thread_local! {
    // Has no destructor, so that it can be read while other thread-locals are destroyed.
    static CURRENT: Cell<Scope> = const { Cell::new(Scope::none()) };
}

/// What each kind of reader, such as a recorder, counts overflows with.
static COUNT_OVERFLOW: [OnceLock<fn()>; 2] = [const { OnceLock::new() }; 2];

/// Notes that something that reads scopes was made in this process. It counts overflows by `count_overflow`. Call it once
/// for each kind of reader.
pub(crate) fn reader_made(count_overflow: fn()) {
    _ = COUNT_OVERFLOW
        .iter()
        .find(|place| place.set(count_overflow).is_ok());
}

/// Whether something that reads scopes was ever made in this process.
pub(crate) fn has_reader() -> bool {
    COUNT_OVERFLOW[0].get().is_some()
}

/// A handle to a list of labels that can be put in force. It is `Copy`, and as small as a pointer.
///
/// Scopes with the same labels are equal.
#[derive(Clone, Copy)]
pub struct Scope {
    set: Option<&'static LabelSetData>,
}

impl Scope {
    /// No labels. Entering it leaves every scope.
    #[must_use]
    pub const fn none() -> Self {
        Self { set: None }
    }

    /// The scope that is in force on this thread.
    #[must_use]
    #[inline]
    pub fn current() -> Self {
        CURRENT.get()
    }

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
    /// let server = Scope::for_server(&ServerBinding::unix(Protocol::Http));
    /// let scope = Scope::new(&(server, ClientLabels::UNKNOWN, Plan::Free));
    /// assert_eq!(scope.value_of("server_binding_protocol"), Some("http"));
    /// assert_eq!(scope.value_of("plan"), Some("free"));
    /// ```
    ///
    /// If the process already has [`MAX_LABEL_SETS`] other label sets, it returns the scope that is in force: see
    /// [`overflows`]. [`try_new`](Self::try_new) returns an error instead.
    #[must_use]
    pub fn new<L: LabelSet>(labels: &L) -> Self {
        Self::none()
            .store_with(labels)
            .unwrap_or_else(|_| Self::overflow(Self::current()))
    }

    /// A scope with these labels. Make it once and keep it.
    ///
    /// # Errors
    ///
    /// If the process already has [`MAX_LABEL_SETS`] other label sets.
    pub fn try_new<L: LabelSet>(labels: &L) -> Result<Self, TooManyLabelSets> {
        Self::none().store_with(labels)?.with_place()
    }

    /// A scope with the five labels of a server binding, for counters that belong to the socket and not to a client.
    ///
    /// If the process already has [`MAX_LABEL_SETS`] other label sets, it returns the scope that is in force: see
    /// [`overflows`]. [`try_for_server`](Self::try_for_server) returns an error instead.
    #[must_use]
    pub fn for_server(binding: &ServerBinding) -> Self {
        Self::store(pairs_of_server(binding), Self::none())
            .unwrap_or_else(|_| Self::overflow(Self::current()))
    }

    /// A scope with the five labels of a server binding, for counters that belong to the socket and not to a client.
    ///
    /// # Errors
    ///
    /// If the process already has [`MAX_LABEL_SETS`] other label sets.
    pub fn try_for_server(binding: &ServerBinding) -> Result<Self, TooManyLabelSets> {
        Self::store(pairs_of_server(binding), Self::none())?.with_place()
    }

    /// This scope with the labels of `inner` added. If both have a label of the same name, the label of `inner` is used.
    ///
    /// The result is cached. Nesting the same pair again takes a few nanoseconds; otherwise this takes a lock. In a chain such as `a.nest(b).nest(c)`, only the scope that is entered takes a place under
    /// [`MAX_LABEL_SETS`].
    ///
    /// If the process already has [`MAX_LABEL_SETS`] other label sets, it returns this scope, without the labels of
    /// `inner`: see [`overflows`]. [`try_nest`](Self::try_nest) returns an error instead.
    #[must_use]
    pub fn nest(self, inner: Self) -> Self {
        self.store_nested(inner).unwrap_or_else(|_| Self::overflow(self))
    }

    /// This scope with the labels of `inner` added. If both have a label of the same name, the label of `inner` is used.
    ///
    /// # Errors
    ///
    /// If the process already has [`MAX_LABEL_SETS`] other label sets.
    pub fn try_nest(self, inner: Self) -> Result<Self, TooManyLabelSets> {
        self.store_nested(inner)?.with_place()
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
    /// they stay in a future, stream or body that was put into a scope with [`WithScope`] until it is dropped, and within
    /// [`run`](Self::run) until that returns. They do not reach tasks that were spawned before, other requests, and
    /// counters outside of that layer.
    ///
    /// Outside every scope there is no request to add them to. Then it does nothing, and the first time this is logged as
    /// a warning. If the process already has its limit of label sets, the scope stays as it is: see [`overflows`].
    pub fn add<L: LabelSet>(labels: &L) {
        let current = Self::current();
        if current == Self::none() {
            return warn_nothing_in_force();
        }
        CURRENT.set(current.with(labels).enterable());
    }

    /// This scope's labels, added to those of the scope in force.
    #[inline]
    pub(crate) fn within_current(self) -> Self {
        match Self::current() {
            Self { set: None } => self,
            outer => outer.nest_inner(self),
        }
    }

    /// Usually no scope is in force, so this stays out of the way.
    #[inline(never)]
    fn nest_inner(self, inner: Self) -> Self {
        self.nest(inner)
    }

    /// This scope with more labels, or this scope alone if the process has too many label sets.
    #[inline]
    pub(crate) fn with<L: LabelSet>(self, labels: &L) -> Self {
        self.store_with(labels).unwrap_or_else(|_| Self::overflow(self))
    }

    /// Finds in a few nanoseconds what was composed before.
    #[inline]
    fn store_with<L: LabelSet>(self, labels: &L) -> Result<Self, TooManyLabelSets> {
        let list = list_of(labels);
        match compose::composed(self.set, &list) {
            Some(set) => Ok(Self { set: Some(set) }),
            None => self.store_composed(&list),
        }
    }

    #[cold]
    fn store_composed(self, list: &LabelList) -> Result<Self, TooManyLabelSets> {
        list.parts()
            .try_fold(self, |scope, part| scope.store_nested(Self::of_part(*part)?))
            .or_else(|_| self.store_at_once(list))
    }

    /// At the limit, the steps on the way to a set may be missing although the set is there.
    #[cold]
    fn store_at_once(self, list: &LabelList) -> Result<Self, TooManyLabelSets> {
        let pairs: Pairs = pairs::borrowed(self.pairs().iter().copied()).collect();
        Self::store(pairs.with(pairs_of_list(list)), self)
    }

    #[inline]
    fn of_part(part: Part) -> Result<Self, TooManyLabelSets> {
        match compose::of_part(&part) {
            Some(set) => Ok(Self { set: Some(set) }),
            None => Self::store_part(part),
        }
    }

    #[cold]
    fn store_part(part: Part) -> Result<Self, TooManyLabelSets> {
        let scope = Self::store(pairs::borrowed(part.pairs()).collect(), Self::none())?;
        if let Some(set) = scope.set {
            compose::remember_part(part, set);
        }
        Ok(scope)
    }

    #[inline]
    fn store_nested(self, inner: Self) -> Result<Self, TooManyLabelSets> {
        let (Some(outer_set), Some(inner_set)) = (self.set, inner.set) else {
            return Ok(if self.set.is_some() { self } else { inner });
        };
        match compose::nested(outer_set, inner_set) {
            Some(set) => Ok(Self { set: Some(set) }),
            None => self.store_new_nested(inner),
        }
    }

    #[cold]
    fn store_new_nested(self, inner: Self) -> Result<Self, TooManyLabelSets> {
        let both = [self, inner]
            .into_iter()
            .flat_map(|scope| scope.pairs().iter().copied());
        let nested = Self::store(pairs::borrowed(both).collect(), self)?;
        if let (Some(outer), Some(inner), Some(both)) = (self.set, inner.set, nested.set) {
            compose::remember_nested(outer, inner, both);
        }
        Ok(nested)
    }

    /// A scope that has no place yet, and is replaced by `outer` if it cannot have one when it is entered.
    fn store(pairs: Pairs, outer: Self) -> Result<Self, TooManyLabelSets> {
        if pairs.as_slice().is_empty() {
            return Ok(Self::none());
        }
        intern::intern(pairs, outer.set).map(|set| Self { set: Some(set) })
    }

    fn with_place(self) -> Result<Self, TooManyLabelSets> {
        self.set.map_or(Ok(()), LabelSetData::take_place)?;
        Ok(self)
    }

    /// This scope, or what is used instead if it has no place and cannot have one.
    #[inline]
    fn enterable(self) -> Self {
        match self.set {
            Some(set) if set.place() == 0 => self.with_place_or_outer(),
            _ => self,
        }
    }

    #[cold]
    fn with_place_or_outer(self) -> Self {
        if self.with_place().is_ok() {
            return self;
        }
        let mut outers = std::iter::successors(self.set, |set| set.outer());
        let set = outers.find(|set| set.take_place().is_ok());
        Self::overflow(set.map_or_else(Self::current, |set| Self { set: Some(set) }))
    }

    #[cold]
    fn overflow(instead: Self) -> Self {
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
        if has_reader() && !IS_COUNTING.replace(true) {
            let _counted = Counted;
            let counts = COUNT_OVERFLOW.iter().map_while(OnceLock::get);
            Self::none().run(|| counts.for_each(|count| count()));
        }
        instead
    }

    /// Puts this scope in force on this thread until the guard is dropped.
    ///
    /// Drop guards in the reverse order, and do not hold one across an `.await`.
    #[inline]
    pub fn enter(self) -> EnteredScope {
        self.enterable().enter_unchecked()
    }

    /// Enters a scope that [`enterable`](Self::enterable) returned.
    #[inline]
    fn enter_unchecked(self) -> EnteredScope {
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
    /// Does the same as [`value.with_scope(scope)`](WithScope::with_scope), but the scope is evaluated first. It can
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

    /// The labels, as name and value, ordered by name. Empty for [`none`](Self::none).
    #[must_use]
    pub fn pairs(self) -> &'static [(&'static str, &'static str)] {
        self.set.map_or(&[], LabelSetData::pairs)
    }

    /// The value of the label `name`, or `None` if the scope has no such label.
    #[must_use]
    pub fn value_of(self, name: &str) -> Option<&'static str> {
        self.pairs()
            .iter()
            .find(|(other, _)| written(other).eq(written(name)))
            .map(|&(_, value)| value)
    }

    /// A number up to [`MAX_LABEL_SETS`] that identifies a scope that was entered. It is 0 for [`none`](Self::none), and
    /// for a scope that was never entered.
    #[inline]
    pub(crate) fn id(self) -> usize {
        self.set.map_or(0, LabelSetData::place)
    }

    /// Returns true at the first call for this scope.
    pub(crate) fn warn_once(self) -> bool {
        self.set.is_some_and(LabelSetData::warn_once)
    }
}

impl PartialEq for Scope {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        match (self.set, other.set) {
            // Sets are interned by content.
            (Some(a), Some(b)) => std::ptr::eq(a, b),
            (None, None) => true,
            _ => false,
        }
    }
}

impl Eq for Scope {}

impl std::hash::Hash for Scope {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.set.map(LabelSetData::index).hash(state);
    }
}

impl Default for Scope {
    fn default() -> Self {
        Self::none()
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scope ")?;
        f.debug_map().entries(self.pairs().iter().copied()).finish()
    }
}

/// The labels of the scope. They are bounded, because the number of scopes is.
impl LabelSet for Scope {
    fn append_to(&self, list: &mut LabelList) {
        list.push_part(Part::Pairs(self.pairs()));
    }
}

#[cold]
fn warn_nothing_in_force() {
    static HAS_WARNED: AtomicBool = AtomicBool::new(false);

    if !HAS_WARNED.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            "`Scope::add` was called outside every scope, so its labels are left out: call it in a request below \
             `ClientLabelsLayer`, `LabelsLayer` or `UdpServer`, or in a future that was put into a scope with \
             `with_scope`"
        );
    }
}

/// Logs a warning if the first client of the process is served and nothing was made that reads scopes.
#[inline]
pub(crate) fn warn_without_recorder() {
    static IS_CHECKED: AtomicBool = AtomicBool::new(false);

    #[cold]
    fn check() {
        if !IS_CHECKED.swap(true, Ordering::Relaxed) && !has_reader() {
            tracing::warn!(
                "a client is served, but its labels are not added to any counter, because this process has no scoped \
                 recorder: call `dualstack_metrics::prometheus::install(PrometheusBuilder::new())` at start-up, or \
                 install your own recorder as `ScopedRecorderLayer::new().layer(recorder)`; for OpenTelemetry, wrap the \
                 provider as `ScopedMeterProvider::new(provider)`"
            );
        }
    }

    if !IS_CHECKED.load(Ordering::Relaxed) {
        check();
    }
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
        // What was entered, and what was added to it since.
        Scoped::new_unchecked(value, CURRENT.get())
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
    use crate::labels::{BoundedLabel, ClientLabels, Protocol};

    #[derive(Clone, Copy)]
    enum Kind {
        A,
        B,
    }

    impl BoundedLabel for Kind {
        const NAME: &'static str = "kind";
        const VALUES: &'static [&'static str] = &["a", "b"];

        fn index(self) -> usize {
            self as usize
        }
    }

    #[derive(Clone, Copy)]
    struct DottedFamily;

    impl BoundedLabel for DottedFamily {
        const NAME: &'static str = "client.address.ip.family";
        const VALUES: &'static [&'static str] = &["mine"];

        fn index(self) -> usize {
            0
        }
    }

    static_assertions::assert_not_impl_any!(EnteredScope: Send);
    static_assertions::assert_impl_all!(Scope: Copy, Send, Sync, std::panic::UnwindSafe);

    fn scopes() -> ClientScopes {
        ClientScopes::new(ServerBinding::new(Protocol::Http, "[::]:7070".parse().unwrap()))
    }

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
    fn equal_labels_are_one_scope() {
        assert_eq!(Scope::new(&Kind::A), Scope::new(&(Kind::A,)));
        assert_eq!(
            scopes().for_client(ClientLabels::UNKNOWN),
            scopes().for_client(ClientLabels::UNKNOWN)
        );
        assert_eq!(
            Scope::new(&(Kind::A, ClientLabels::UNKNOWN)),
            Scope::new(&(ClientLabels::UNKNOWN, Kind::A))
        );
    }

    #[test]
    fn nesting_combines_and_the_inner_label_is_used() {
        let client = scopes().for_client("192.0.2.7:1".parse::<std::net::SocketAddr>().unwrap());
        for _ in 0..2 {
            let nested = client.nest(Scope::new(&Kind::A)).nest(Scope::new(&Kind::B));
            assert_eq!(
                nested.pairs(),
                [
                    ("client_address_ip_family", "inet"),
                    ("client_address_ip_type", "plain"),
                    ("kind", "b"),
                    ("server_binding_address_ip_family", "inet6"),
                    ("server_binding_address_ip_type", "plain"),
                    ("server_binding_ip", "::"),
                    ("server_binding_port", "7070"),
                    ("server_binding_protocol", "http"),
                ]
            );
        }
        assert_eq!(client.nest(Scope::none()), client);
        assert_eq!(Scope::none().nest(client), client);
        assert_eq!(Scope::none().nest(Scope::none()), Scope::none());
    }

    #[test]
    fn nesting_into_many_scopes_keeps_the_labels_of_each() {
        // Enough that some share a bucket of the cache.
        let inner = Scope::new(&Kind::A);
        let outers: Vec<_> = (1..=192)
            .map(|port| {
                let address = std::net::SocketAddr::from(([192, 0, 2, 1], port.try_into().unwrap()));
                (
                    port,
                    Scope::for_server(&ServerBinding::new(Protocol::Udp, address)),
                )
            })
            .collect();
        for _ in 0..2 {
            for &(port, outer) in &outers {
                let port = port.to_string();
                let nested = outer.nest(inner);
                assert_eq!(nested.value_of("server_binding_port"), Some(&*port));
                assert_eq!(nested.value_of("kind"), Some("a"));
                assert_eq!(inner.nest(outer), nested);
            }
        }
    }

    #[test]
    fn one_tuple_is_a_chain_of_nested_scopes() {
        let server = scopes().server();
        assert_eq!(
            Scope::new(&(server, Kind::A, ClientLabels::UNKNOWN, Scope::new(&Kind::B))),
            server
                .nest(Scope::new(&Kind::A))
                .nest(Scope::new(&ClientLabels::UNKNOWN))
                .nest(Scope::new(&Kind::B))
        );
        assert_eq!(Scope::new(&server), server);
        assert_eq!(Scope::new(&Scope::none()), Scope::none());
    }

    #[test]
    fn scopes_are_keys_of_a_map() {
        let map = std::collections::HashMap::from([(Scope::new(&Kind::A), 1), (Scope::none(), 2)]);
        assert_eq!(map.get(&Scope::new(&Kind::A)), Some(&1));
        assert_eq!(map.get(&Scope::new(&Kind::B)), None);
    }

    #[test]
    fn names_that_prometheus_writes_the_same_are_one_name() {
        let nested = Scope::new(&ClientLabels::UNKNOWN).nest(Scope::new(&DottedFamily));
        assert_eq!(
            nested.pairs(),
            [
                ("client.address.ip.family", "mine"),
                ("client_address_ip_type", "unknown")
            ]
        );
        assert_eq!(nested.value_of("client_address_ip_family"), Some("mine"));
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

    #[test]
    fn debug_shows_the_labels() {
        assert_eq!(format!("{:?}", Scope::new(&Kind::A)), r#"Scope {"kind": "a"}"#);
    }
}
