//! Connection IDs (BEP 15), which are computed instead of stored.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    time::{Duration, Instant},
};

/// BEP 15 asks servers to accept an ID for two minutes after they sent it. An ID is valid in the period in which it was
/// issued and in the next one, which is two to four minutes.
const PERIOD: Duration = Duration::from_secs(120);
/// No ID is valid for longer.
pub(crate) const LIFETIME: Duration = Duration::from_secs(2 * PERIOD.as_secs());

/// Issues and checks the connection IDs of one listener.
///
/// An ID is a keyed hash of the period, the listener and the client's address. The port is left out: a NAT may change
/// it between the connect and the announce, and an ID only proves that its sender receives datagrams at that address.
pub(crate) struct ConnectionIds {
    // SipHash-1-3 with random keys. It is not guaranteed to be a MAC, but it is enough for 64 bits that expire within
    // minutes.
    keys: RandomState,
    listener: u128,
    start: Instant,
}

impl ConnectionIds {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            keys: RandomState::new(),
            listener: fastrand::u128(..),
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
            .hash_one((self.listener, period, client.to_canonical()))
            .cast_signed()
    }

    fn period(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_secs() / PERIOD.as_secs()
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
    fn an_id_belongs_to_one_address_and_one_listener() {
        let now = Instant::now();
        let (ids, others) = (ConnectionIds::new(now), ConnectionIds::new(now));
        let plain: IpAddr = "192.0.2.7".parse().unwrap();
        let mapped: IpAddr = "::ffff:192.0.2.7".parse().unwrap();
        let id = ids.issue(plain, now);
        assert!(ids.is_valid(id, mapped, now));
        assert!(!ids.is_valid(id, CLIENT, now));
        assert!(!others.is_valid(id, plain, now));
    }
}
