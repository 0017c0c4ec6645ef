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
mod enter;
mod intern;
mod make;
mod pairs;
mod reader;
mod scoped;
mod table;
mod vocabulary;

use std::fmt;

pub use self::{
    client::{ClientScopes, ClientScopesBuilder, ClientScopesError},
    enter::EnteredScope,
    intern::{MAX_LABEL_SETS, TooManyLabelSets, label_set_limit, label_sets, limit_label_sets, overflows},
    scoped::{Scoped, WithScope},
};
use self::{intern::LabelSetData, pairs::pairs_of_server};
pub(crate) use self::{
    reader::{reader_made, warn_without_recorder},
    table::ScopeTable,
};
use crate::labels::{LabelList, LabelSet, ServerBinding, list::Part, written};

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
    /// The result is cached. Nesting the same pair again takes a few nanoseconds; otherwise this takes a lock. In a chain
    /// such as `a.nest(b).nest(c)`, only the scope that is entered takes a place under [`MAX_LABEL_SETS`].
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labels::{BoundedLabel, ClientLabels, Protocol};

    #[derive(Clone, Copy)]
    pub(super) enum Kind {
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

    static_assertions::assert_impl_all!(Scope: Copy, Send, Sync, std::panic::UnwindSafe);

    fn scopes() -> ClientScopes {
        ClientScopes::new(ServerBinding::new(Protocol::Http, "[::]:7070".parse().unwrap()))
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
    fn debug_shows_the_labels() {
        assert_eq!(format!("{:?}", Scope::new(&Kind::A)), r#"Scope {"kind": "a"}"#);
    }
}
