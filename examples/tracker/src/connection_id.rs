//! Connection IDs that are computed instead of stored, and bans for clients that keep sending bad ones.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// BEP 15 asks servers to accept an ID for two minutes after they sent it. An ID is valid in the period in which it was
/// issued and in the next one, which is two to four minutes.
const PERIOD: Duration = Duration::from_secs(120);

/// Issues and checks the connection IDs of one socket.
///
/// An ID is a keyed hash of the period, the socket and the client's address. The port is left out: a NAT may change
/// it between the connect and the announce, and an ID only proves that its sender receives datagrams at that address.
pub(crate) struct ConnectionIds {
    // SipHash-1-3 with random keys. It is not guaranteed to be a MAC, but it is enough for 64 bits that expire within
    // minutes.
    keys: RandomState,
    socket: u128,
    start: Instant,
}

impl ConnectionIds {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            keys: RandomState::new(),
            socket: fastrand::u128(..),
            start: now,
        }
    }

    pub(crate) fn issue(&self, client: IpAddr, now: Instant) -> i64 {
        self.id(client, self.period(now))
    }

    pub(crate) fn is_valid(&self, id: i64, client: IpAddr, now: Instant) -> bool {
        let period = self.period(now);
        id == self.id(client, period) || (period > 0 && id == self.id(client, period.saturating_sub(1)))
    }

    fn id(&self, client: IpAddr, period: u64) -> i64 {
        self.keys
            .hash_one((self.socket, period, client.to_canonical()))
            .cast_signed()
    }

    fn period(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_secs() / PERIOD.as_secs()
    }
}

/// How many bad connection IDs a client may send within [`WINDOW`].
const MAX_BAD_IDS: u32 = 10;
const WINDOW: Duration = Duration::from_secs(120);
/// Short, because source addresses can be forged to get another client banned.
const BAN: Duration = Duration::from_secs(120);
const MAX_CLIENTS: usize = 10_000;
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// The clients that recently sent bad connection IDs, by address. All UDP sockets share one table.
#[derive(Default)]
pub(crate) struct Bans {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    clients: HashMap<IpAddr, BadIds>,
    swept: Option<Instant>,
}

struct BadIds {
    count: u32,
    forgotten_at: Instant,
}

impl Bans {
    pub(crate) fn is_banned(&self, client: IpAddr, now: Instant) -> bool {
        self.lock()
            .clients
            .get(&client)
            .is_some_and(|bad| bad.count > MAX_BAD_IDS && now < bad.forgotten_at)
    }

    /// Records a bad connection ID. A client with more than [`MAX_BAD_IDS`] is banned from its next datagram on.
    pub(crate) fn bad_id(&self, client: IpAddr, now: Instant) {
        let mut table = self.lock();
        if let Some(bad) = table.clients.get_mut(&client)
            && now < bad.forgotten_at
        {
            bad.count += 1;
            if bad.count == MAX_BAD_IDS + 1 {
                bad.forgotten_at = now + BAN;
                tracing::debug!(%client, "banned for bad connection IDs");
            }
            return;
        }
        if table.clients.len() >= MAX_CLIENTS {
            table.sweep(now);
        }
        // A full table bans no further clients. Evicting entries would let forged addresses lift bans.
        if table.clients.len() < MAX_CLIENTS || table.clients.contains_key(&client) {
            let bad = BadIds {
                count: 1,
                forgotten_at: now + WINDOW,
            };
            table.clients.insert(client, bad);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// A sweep reads the whole table, so it runs at most once a second and not for every datagram of a flood.
    fn sweep(&mut self, now: Instant) {
        if self.swept.is_none_or(|swept| now >= swept + SWEEP_EVERY) {
            self.clients.retain(|_, bad| now < bad.forgotten_at);
            self.swept = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    const CLIENT: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

    #[test]
    fn an_id_is_valid_in_its_period_and_the_next() {
        let start = Instant::now();
        let ids = ConnectionIds::new(start);
        let late = start + Duration::from_secs(119);
        let id = ids.issue(CLIENT, late);
        assert!(ids.is_valid(id, CLIENT, start));
        assert!(ids.is_valid(id, CLIENT, late + PERIOD));
        assert!(!ids.is_valid(id, CLIENT, start + 2 * PERIOD));
    }

    #[test]
    fn an_id_belongs_to_one_address_and_one_socket() {
        let now = Instant::now();
        let (ids, others) = (ConnectionIds::new(now), ConnectionIds::new(now));
        let plain: IpAddr = "192.0.2.7".parse().unwrap();
        let mapped: IpAddr = "::ffff:192.0.2.7".parse().unwrap();
        let id = ids.issue(plain, now);
        assert!(ids.is_valid(id, mapped, now));
        assert!(!ids.is_valid(id, CLIENT, now));
        assert!(!others.is_valid(id, plain, now));
    }

    #[test]
    fn a_ban_begins_after_too_many_bad_ids_and_ends() {
        let (bans, now) = (Bans::default(), Instant::now());
        for _ in 0..MAX_BAD_IDS {
            bans.bad_id(CLIENT, now);
        }
        assert!(!bans.is_banned(CLIENT, now));
        bans.bad_id(CLIENT, now);
        assert!(bans.is_banned(CLIENT, now));
        assert!(!bans.is_banned(CLIENT, now + BAN));
        bans.bad_id(CLIENT, now + BAN);
        assert!(!bans.is_banned(CLIENT, now + BAN));
    }

    #[test]
    fn the_table_is_bounded() {
        let (bans, now) = (Bans::default(), Instant::now());
        for n in 0..=MAX_CLIENTS as u128 {
            bans.bad_id(Ipv6Addr::from(n).into(), now);
        }
        assert_eq!(bans.lock().clients.len(), MAX_CLIENTS);
        bans.bad_id(Ipv6Addr::from(u128::MAX).into(), now + WINDOW);
        assert_eq!(bans.lock().clients.len(), 1);
    }
}
