//! Tells whether an address is this host's.
//!
//! An answer leaves from the address that was asked, or fails. If a send fails, the error does not tell whether the system
//! refuses the source: a route that is forbidden for it has the same. So the system is asked about the address alone.

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod bind;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError, atomic::AtomicBool, atomic::Ordering},
    time::{Duration, Instant},
};

#[cfg(not(any(target_os = "linux", target_os = "android")))]
use self::bind::{ask, send_from_routed};
#[cfg(any(target_os = "linux", target_os = "android"))]
use self::linux::{ask, send_from_routed};
use crate::{address::Route, ready::UdpSocket};

/// How long an answer of the system is remembered.
const MEMORY: Duration = Duration::from_millis(100);

/// How many answers are remembered. A client can choose the address that it asks, in a prefix that is routed to this host.
const CAPACITY: usize = 1024;

/// Whose an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// It is an address of this host.
    Host,
    /// It is in an IPv6 prefix that is routed to this host (`AnyIP`). Sockets send from there only if they may send from
    /// every address.
    #[cfg_attr(
        not(any(target_os = "linux", target_os = "android")),
        expect(dead_code, reason = "other systems have no such prefixes")
    )]
    Prefix,
    /// It is another host's, or belongs to several: a broadcast address.
    Other,
}

/// The addresses about which the system was asked.
#[derive(Default)]
pub(crate) struct Sources {
    remembered: Mutex<HashMap<(IpAddr, u32), (Instant, Owner)>>,
    /// Whether the socket may send from every IPv6 address. From then on each source is looked up before it is used.
    is_free: AtomicBool,
}

impl Sources {
    /// Whether the socket may try to send from the address of `route`.
    #[inline]
    pub(crate) fn may_try(&self, socket: &UdpSocket, route: &Route) -> bool {
        !self.is_free.load(Ordering::Relaxed) || self.owner(socket, route) != Some(Owner::Other)
    }

    /// Whose the source of `route` is. `None` if there is no source, or if the system does not tell.
    #[cold]
    pub(crate) fn owner(&self, socket: &UdpSocket, route: &Route) -> Option<Owner> {
        let key = (route.from?, route.interface);
        if let Some((asked, owner)) = self.remembered().get(&key)
            && asked.elapsed() < MEMORY
        {
            return Some(*owner);
        }
        let owner = ask(socket, route, self.is_free.load(Ordering::Relaxed))?;
        let mut remembered = self.remembered();
        if remembered.len() >= CAPACITY {
            remembered.clear();
        }
        remembered.insert(key, (Instant::now(), owner));
        Some(owner)
    }

    /// Lets the socket send from the prefixes that are routed to this host. Returns whether it could not before.
    pub(crate) fn send_from_routed(&self, socket: &UdpSocket) -> bool {
        !self.is_free.load(Ordering::Relaxed) && send_from_routed(socket) && {
            self.is_free.store(true, Ordering::Relaxed);
            true
        }
    }

    fn remembered(&self) -> MutexGuard<'_, HashMap<(IpAddr, u32), (Instant, Owner)>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
