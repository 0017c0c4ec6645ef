//! The scopes of the clients of one listening socket.

mod builder;
mod classes;
mod error;
mod expected;
mod nat64;
mod scopes;

#[cfg(test)]
pub(in crate::scope) use self::scopes::tests;
pub use self::{builder::ClientScopesBuilder, error::ClientScopesError, scopes::ClientScopes};
