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
//! scopes, use [`with`](Scope::with).
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
//! # Cost
//!
//! Making a scope for the first time takes a lock, and memory that is never freed. Making the same scope again takes a
//! few nanoseconds, without a lock or an allocation. Make scopes at start-up, and keep them.
//!
//! # The limit
//!
//! A process can have [`MAX_LABEL_SETS`] different label sets, or fewer if [`limit_label_sets`] says so. At start-up,
//! [`ClientScopesBuilder::build`] and [`ClientScopes::expected_with`] return an error when there would be more.
//!
//! A scope that is made in a request never fails. At the limit, it has the labels for which there is a set, in the order
//! in which they are combined. The other labels are left out, and no label ever has another value. A scope does not know
//! which labels it has lost, so combine labels in one step. The first time, this is logged as a warning. A scoped recorder
//! counts each time in `label_sets_overflowed_total`, which has no labels, and [`overflows`] returns how often it happened
//! in the process.

mod client;
mod compose;
mod enter;
mod handle;
mod intern;
mod names;
mod pairs;
mod reader;
mod scoped;
mod table;
mod vocabulary;

#[cfg(feature = "prometheus")]
pub(crate) use self::names::note_names;
pub use self::{
    client::{ClientScopes, ClientScopesBuilder, ClientScopesError},
    enter::EnteredScope,
    handle::Scope,
    intern::{MAX_LABEL_SETS, TooManyLabelSets, label_set_limit, label_sets, limit_label_sets, overflows},
    scoped::{Scoped, WithScope},
};
pub(crate) use self::{
    enter::replace_current,
    reader::{reader_made, warn_without_recorder},
    table::ScopeTable,
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labels::{BoundedLabel, ClientLabels, Protocol, ServerBinding};

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
    fn labels_are_combined_and_the_later_one_is_used() {
        let client = scopes().for_client("192.0.2.7:1".parse::<std::net::SocketAddr>().unwrap());
        for _ in 0..2 {
            let nested = client.with(&Kind::A).with(&Scope::new(&Kind::B));
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
        assert_eq!(client.with(&Scope::none()), client);
        assert_eq!(Scope::none().with(&client), client);
        assert_eq!(Scope::none().with(&Scope::none()), Scope::none());
    }

    #[test]
    fn many_scopes_with_the_same_labels_keep_their_own() {
        // So many that some are remembered in each other's places.
        let inner = Scope::new(&Kind::A);
        let outers: Vec<_> = (1..=192)
            .map(|port| {
                let address = std::net::SocketAddr::from(([192, 0, 2, 1], port.try_into().unwrap()));
                let scopes = ClientScopes::new(ServerBinding::new(Protocol::Udp, address));
                (port, scopes.server())
            })
            .collect();
        for _ in 0..2 {
            for &(port, outer) in &outers {
                let port = port.to_string();
                let nested = outer.with(&inner);
                assert_eq!(nested.value_of("server_binding_port"), Some(&*port));
                assert_eq!(nested.value_of("kind"), Some("a"));
                assert_eq!(inner.with(&outer), nested);
            }
        }
    }

    #[test]
    fn one_tuple_is_a_chain() {
        let server = scopes().server();
        assert_eq!(
            Scope::new(&(server, Kind::A, ClientLabels::UNKNOWN, Scope::new(&Kind::B))),
            server
                .with(&Kind::A)
                .with(&ClientLabels::UNKNOWN)
                .with(&Scope::new(&Kind::B))
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
        let nested = Scope::new(&ClientLabels::UNKNOWN).with(&DottedFamily);
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
