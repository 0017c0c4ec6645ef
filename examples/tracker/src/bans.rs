//! Bans of addresses that keep sending wrong connection IDs.
//!
//! An address is banned for two minutes when it has sent a number of wrong IDs within two minutes. A ban saves the error
//! answers, and nothing else, because anybody can forge a source address and send wrong IDs in the name of another
//! client:
//!
//! - A datagram with a valid ID is never banned. Its sender has received the ID at that address, so it is no forger.
//! - A connect is answered. The owner of a banned address can always get a valid ID, and the answer is not longer than the
//!   connect, so it does not amplify a flood.
//! - After a restart all IDs are wrong. Until the grace is over, nobody is banned, and no wrong ID counts.
//!
//! So a ban takes one thing from the owner of the address: a client with an expired ID is not told so. It repeats its
//! request without an answer, and asks for a new ID when the old one is a minute old (BEP 15).

use std::{
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::owner::owner;

/// How long wrong IDs count together, from the first one on.
const WINDOW: Duration = Duration::from_secs(120);
/// Datagrams that arrive meanwhile do not make it longer.
const BAN: Duration = Duration::from_secs(120);

const ROWS: usize = 2_048;
const PLACES: usize = 8;

/// A table with places for 16,384 addresses, 640 KiB in size. All UDP listeners share it.
///
/// An address can have any place of one row. In a full row, the address with the fewest wrong IDs makes room, but never
/// a banned one. So a flood from many forged addresses lifts no ban, and hides no address that sends more than each of
/// them. While all places of a row are banned, its other addresses are not counted.
pub(crate) struct Bans {
    /// The number of wrong IDs that ban an address. With 0 there are no bans.
    after: u32,
    /// The end of the grace.
    from: Instant,
    /// Random keys, so that nobody can choose addresses of one row.
    rows: RandomState,
    table: Mutex<Box<[[Place; PLACES]]>>,
}

/// An address and its wrong IDs. The place is free from `until` on.
#[derive(Clone, Copy)]
struct Place {
    address: IpAddr,
    wrong_ids: u32,
    until: Instant,
}

impl Bans {
    pub(crate) fn new(after: u32, grace: Duration, now: Instant) -> Self {
        let free = Place {
            address: Ipv6Addr::UNSPECIFIED.into(),
            wrong_ids: 0,
            until: now,
        };
        Self {
            after,
            from: now + grace,
            rows: RandomState::new(),
            table: Mutex::new(vec![[free; PLACES]; ROWS].into()),
        }
    }

    /// Whether a datagram without a valid ID is banned. If it is not, it counts if it `is_request`, which means that
    /// nothing but its ID is wrong.
    pub(crate) fn refuse(&self, client: IpAddr, is_request: bool, now: Instant) -> bool {
        if self.after == 0 || now < self.from {
            return false;
        }
        let address = owner(client);
        let [low, high, ..] = self.rows.hash_one(address).to_ne_bytes();
        let row = usize::from(u16::from_ne_bytes([low, high])) % ROWS;
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        // The place of the address, or else a free one, or else the one with the fewest wrong IDs.
        let Some(place) = table[row].iter_mut().min_by_key(|place| {
            let is_free = now >= place.until;
            let wrong_ids = if is_free { 0 } else { place.wrong_ids };
            (is_free || place.address != address, wrong_ids)
        }) else {
            return false;
        };
        let is_taken = now < place.until;
        if is_taken && place.wrong_ids >= self.after {
            return place.address == address;
        }
        if !is_request {
            return false;
        }
        if !is_taken || place.address != address {
            *place = Place {
                address,
                wrong_ids: 0,
                until: now + WINDOW,
            };
        }
        place.wrong_ids += 1;
        if place.wrong_ids == self.after {
            place.until = now + BAN;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const SECOND: Duration = Duration::from_secs(1);

    /// How many wrong IDs of a client are answered until it is banned, if it is.
    fn answered(bans: &Bans, client: IpAddr, now: Instant) -> Option<usize> {
        (0..1_000).position(|_| bans.refuse(client, true, now))
    }

    #[test]
    fn a_ban_lasts_two_minutes_whatever_is_sent_meanwhile() {
        let start = Instant::now();
        let bans = Bans::new(3, Duration::ZERO, start);
        let almost = Duration::from_secs(119);
        let last = start + almost;
        assert!(!bans.refuse(CLIENT, true, start));
        assert_eq!(answered(&bans, CLIENT, last), Some(2));
        assert!(bans.refuse(CLIENT, true, last + almost));
        assert_eq!(answered(&bans, CLIENT, last + BAN), Some(3));
    }

    #[test]
    fn wrong_ids_count_together_for_two_minutes() {
        let start = Instant::now();
        let bans = Bans::new(3, Duration::ZERO, start);
        for _ in 0..2 {
            assert!(!bans.refuse(CLIENT, true, start));
        }
        assert_eq!(answered(&bans, CLIENT, start + WINDOW), Some(3));
    }

    #[test]
    fn only_requests_count_but_a_ban_refuses_every_datagram() {
        let now = Instant::now();
        let bans = Bans::new(1, Duration::ZERO, now);
        for _ in 0..1_000 {
            assert!(!bans.refuse(CLIENT, false, now));
        }
        assert!(!bans.refuse(CLIENT, true, now));
        assert!(bans.refuse(CLIENT, false, now));
    }

    #[test]
    fn no_wrong_id_counts_in_the_grace() {
        let start = Instant::now();
        let bans = Bans::new(2, SECOND, start);
        assert_eq!(answered(&bans, CLIENT, start), None);
        assert_eq!(answered(&bans, CLIENT, start + SECOND), Some(2));
    }

    #[test]
    fn with_zero_there_are_no_bans() {
        let now = Instant::now();
        assert_eq!(answered(&Bans::new(0, Duration::ZERO, now), CLIENT, now), None);
    }

    #[test]
    fn an_ipv4_address_counts_alone_and_an_ipv6_address_with_its_64() {
        let now = Instant::now();
        let bans = Bans::new(3, Duration::ZERO, now);
        let refuse = |client: &str| bans.refuse(client.parse().unwrap(), true, now);
        for client in [
            "2001:db8:0:7::1",
            "2001:db8:0:7::2",
            "2001:db8:0:7:ffff::",
            "192.0.2.7",
        ] {
            assert!(!refuse(client), "{client}");
        }
        assert!(refuse("2001:db8:0:7::3"));
        assert!(!refuse("2001:db8:0:8::1"));
        for client in ["192.0.2.7", "192.0.2.8", "192.0.2.7"] {
            assert!(!refuse(client), "{client}");
        }
        assert!(refuse("192.0.2.7"));
        assert!(!refuse("192.0.2.8"));
    }

    #[test]
    fn a_full_table_keeps_its_bans_and_finds_who_sends_most() {
        let now = Instant::now();
        let bans = Bans::new(3, Duration::ZERO, now);
        let address = |n: u32| IpAddr::from(Ipv4Addr::from(n));
        let places = u32::try_from(ROWS * PLACES).unwrap();
        assert_eq!(answered(&bans, CLIENT, now), Some(3));
        // Each row is full many times over.
        for n in 0..10 * places {
            assert!(!bans.refuse(address(n), true, now));
        }
        assert!(bans.refuse(CLIENT, true, now));
        assert_eq!(answered(&bans, address(u32::MAX), now), Some(3));
    }

    #[test]
    fn a_row_of_bans_takes_no_further_address() {
        let now = Instant::now();
        let bans = Bans::new(1, Duration::ZERO, now);
        let banned = |clients: std::ops::Range<u32>, now| {
            let clients = clients.map(|n| IpAddr::from(Ipv4Addr::from(n)));
            clients.filter(|client| bans.refuse(*client, true, now)).count()
        };
        let all = u32::try_from(10 * ROWS * PLACES).unwrap();
        assert_eq!(banned(0..all, now), 0);
        assert_eq!(banned(0..all, now), ROWS * PLACES);
        // They make room when their bans are over.
        assert_eq!(banned(all..2 * all, now), 0);
        assert_eq!(banned(all..2 * all, now), 0);
        assert_eq!(banned(all..2 * all, now + BAN), 0);
        assert_eq!(banned(all..2 * all, now + BAN), ROWS * PLACES);
    }
}
