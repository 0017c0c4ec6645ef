//! The swarm: which peers share which torrent. It is kept in memory.

use std::{
    collections::{HashMap, hash_map::Entry},
    mem,
    net::{IpAddr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use metrics::counter;

use crate::{counters, owner::owner};

pub(crate) type InfoHash = [u8; 20];
pub(crate) type PeerId = [u8; 20];

/// How long peers are asked to wait between two announces.
pub(crate) const INTERVAL: Duration = Duration::from_secs(30 * 60);
const FORGOTTEN_AFTER: Duration = Duration::from_secs(2 * 30 * 60);
const PEERS_WANTED: usize = 50;
const MAX_PEERS_WANTED: usize = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    None,
    Started,
    Completed,
    Stopped,
}

#[derive(Clone, Debug)]
pub(crate) struct Announce {
    pub(crate) info_hash: InfoHash,
    /// The canonical address that the request came from, and the announced port. An address in the request itself is
    /// ignored, because it could direct the swarm to a host that never announced.
    pub(crate) peer: SocketAddr,
    pub(crate) peer_id: PeerId,
    pub(crate) is_seeder: bool,
    pub(crate) event: Event,
    /// `None` means the tracker's default.
    pub(crate) peers_wanted: Option<usize>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stats {
    pub(crate) seeders: usize,
    pub(crate) leechers: usize,
    pub(crate) downloads: usize,
}

/// There is no room for another torrent or peer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Full {
    Swarm,
    Address,
}

impl Full {
    pub(crate) const fn message(&self) -> &'static str {
        match self {
            Self::Swarm => "the tracker is full, try again later",
            Self::Address => "too many peers at this address",
        }
    }
}

pub(crate) struct Swarm {
    state: Mutex<State>,
    max_torrents: usize,
    max_peers: usize,
    max_peers_per_address: usize,
}

#[derive(Default)]
struct State {
    torrents: HashMap<InfoHash, Torrent>,
    peers: Count,
    /// Whether an announce was refused since the swarm last had room.
    was_full: bool,
}

/// The number of peers, and how many each address has.
#[derive(Default)]
struct Count {
    all: usize,
    by_owner: HashMap<IpAddr, usize>,
}

/// Each family has its own list, because an IPv4 client cannot use IPv6 peers.
#[derive(Default)]
struct Torrent {
    inet: Peers,
    inet6: Peers,
    downloads: usize,
}

/// A list with an index by address, so that a random part can be taken without reading the whole list.
#[derive(Default)]
struct Peers {
    places: HashMap<SocketAddr, usize>,
    list: Vec<Peer>,
    seeders: usize,
}

pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    pub(crate) id: PeerId,
    is_seeder: bool,
    has_completed: bool,
    seen: Instant,
}

impl Swarm {
    pub(crate) fn new(max_torrents: usize, max_peers: usize, max_peers_per_address: usize) -> Self {
        Self {
            state: Mutex::default(),
            max_torrents,
            max_peers,
            max_peers_per_address,
        }
    }

    /// Updates the swarm. Hands the numbers of the torrent to `answer`, and other peers of the client's family.
    pub(crate) fn announce<T>(
        &self,
        announce: &Announce,
        now: Instant,
        answer: impl FnOnce(Stats, &mut dyn Iterator<Item = &Peer>) -> T,
    ) -> Result<T, Full> {
        let mut state = self.lock();
        let State { torrents, peers, .. } = &mut *state;
        let address = announce.peer;

        if announce.event == Event::Stopped {
            let Some(torrent) = torrents.get_mut(&announce.info_hash) else {
                return Ok(answer(Stats::default(), &mut [].iter()));
            };
            if torrent.family_of(address).remove(address) {
                peers.remove(address);
            }
            return Ok(answer(torrent.stats(), &mut [].iter()));
        }

        let room = || {
            if peers.all >= self.max_peers {
                Err(Full::Swarm)
            } else if peers.of_owner(address) >= self.max_peers_per_address {
                Err(Full::Address)
            } else {
                Ok(())
            }
        };
        let is_full = torrents.len() >= self.max_torrents;
        let updated = match torrents.entry(announce.info_hash) {
            Entry::Occupied(torrent) => Ok((torrent.into_mut(), false)),
            Entry::Vacant(_) if is_full => Err(Full::Swarm),
            Entry::Vacant(place) => room().map(|()| (place.insert(Torrent::default()), true)),
        }
        .and_then(|(torrent, is_new)| {
            let update = torrent.family_of(address).update(announce, now, room)?;
            Ok((torrent, is_new, update))
        });
        let (torrent, is_new, update) = match updated {
            Ok(updated) => updated,
            Err(full) => {
                counter!(counters::ANNOUNCES_REFUSED).increment(1);
                if full == Full::Swarm {
                    warn_once(state);
                }
                return Err(full);
            }
        };
        if update.is_new {
            peers.add(address);
        }
        if is_new {
            counter!(counters::TORRENTS_ADDED).increment(1);
        }
        if update.completes {
            torrent.downloads += 1;
            counter!(counters::DOWNLOADS).increment(1);
        }
        let wanted = announce.peers_wanted.unwrap_or(PEERS_WANTED);
        let numbers = torrent.stats();
        let mut others = torrent.family_of(address).pick(wanted, address, now);
        Ok(answer(numbers, &mut others))
    }

    /// The numbers of a torrent, over both families. They are 0 for an unknown torrent.
    pub(crate) fn scrape(&self, info_hash: &InfoHash) -> Stats {
        self.lock()
            .torrents
            .get(info_hash)
            .map_or_else(Stats::default, Torrent::stats)
    }

    /// Forgets peers that have not announced for two intervals, and torrents without peers.
    pub(crate) fn forget_idle(&self, now: Instant) {
        let mut state = self.lock();
        let State { torrents, peers, .. } = &mut *state;
        torrents.retain(|_, torrent| {
            for family in [&mut torrent.inet, &mut torrent.inet6] {
                family.forget_idle(now, peers);
            }
            !(torrent.inet.list.is_empty() && torrent.inet6.list.is_empty())
        });
        let has_room = torrents.len() < self.max_torrents && peers.all < self.max_peers;
        if has_room && mem::take(&mut state.was_full) {
            drop(state);
            tracing::info!("the swarm has room again");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Logs the first announce that is refused since the swarm last had room.
fn warn_once(mut state: MutexGuard<'_, State>) {
    let was_full = mem::replace(&mut state.was_full, true);
    let (torrents, peers) = (state.torrents.len(), state.peers.all);
    drop(state);
    if !was_full {
        tracing::warn!(
            torrents,
            peers,
            "the swarm is full: new torrents or peers are refused until idle ones are forgotten; --max-torrents \
             and --max-peers set its size"
        );
    }
}

impl Count {
    fn of_owner(&self, address: SocketAddr) -> usize {
        self.by_owner
            .get(&owner(address.ip()))
            .copied()
            .unwrap_or_default()
    }

    fn add(&mut self, address: SocketAddr) {
        self.all += 1;
        *self.by_owner.entry(owner(address.ip())).or_default() += 1;
    }

    fn remove(&mut self, address: SocketAddr) {
        self.all -= 1;
        if let Entry::Occupied(mut count) = self.by_owner.entry(owner(address.ip())) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

impl Torrent {
    fn family_of(&mut self, address: SocketAddr) -> &mut Peers {
        if address.is_ipv4() {
            &mut self.inet
        } else {
            &mut self.inet6
        }
    }

    fn stats(&self) -> Stats {
        let seeders = self.inet.seeders + self.inet6.seeders;
        Stats {
            seeders,
            leechers: self.inet.list.len() + self.inet6.list.len() - seeders,
            downloads: self.downloads,
        }
    }
}

/// What an announce changed.
struct Update {
    is_new: bool,
    completes: bool,
}

impl Peers {
    /// Fails if the peer is new, and there is no `room`.
    fn update(
        &mut self,
        announce: &Announce,
        now: Instant,
        room: impl FnOnce() -> Result<(), Full>,
    ) -> Result<Update, Full> {
        let Announce { is_seeder, .. } = *announce;
        let is_completed = announce.event == Event::Completed;
        let new = Peer {
            address: announce.peer,
            id: announce.peer_id,
            is_seeder,
            has_completed: is_completed,
            seen: now,
        };
        let update = match self.places.entry(announce.peer) {
            Entry::Occupied(place) => {
                let known = &mut self.list[*place.get()];
                let had_completed = known.has_completed;
                self.seeders -= usize::from(known.is_seeder);
                *known = new;
                known.has_completed |= had_completed;
                Update {
                    is_new: false,
                    completes: is_completed && !had_completed,
                }
            }
            Entry::Vacant(place) => {
                room()?;
                place.insert(self.list.len());
                self.list.push(new);
                Update {
                    is_new: true,
                    completes: is_completed,
                }
            }
        };
        self.seeders += usize::from(is_seeder);
        Ok(update)
    }

    /// Whether the peer was known.
    fn remove(&mut self, address: SocketAddr) -> bool {
        let Some(place) = self.places.remove(&address) else {
            return false;
        };
        let peer = self.list.swap_remove(place);
        if let Some(moved) = self.list.get(place) {
            self.places.insert(moved.address, place);
        }
        self.seeders -= usize::from(peer.is_seeder);
        true
    }

    /// Peers from a random one on.
    fn pick(&self, wanted: usize, except: SocketAddr, now: Instant) -> impl Iterator<Item = &Peer> {
        let start = fastrand::usize(..self.list.len().max(1));
        let (end, front) = self.list.split_at(start);
        let long_ago = now.checked_sub(FORGOTTEN_AFTER);
        front
            .iter()
            .chain(end)
            .filter(move |peer| {
                peer.address != except && long_ago.is_none_or(|long_ago| peer.seen > long_ago)
            })
            .take(wanted.min(MAX_PEERS_WANTED))
    }

    fn forget_idle(&mut self, now: Instant, peers: &mut Count) {
        let idle = self.list.iter().filter(|peer| peer.is_idle(now));
        let idle: Vec<_> = idle.map(|peer| peer.address).collect();
        for address in idle {
            self.remove(address);
            peers.remove(address);
        }
    }
}

impl Peer {
    fn is_idle(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.seen) >= FORGOTTEN_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announce(peer: &str, event: Event) -> Announce {
        Announce {
            info_hash: [1; 20],
            peer: peer.parse().unwrap(),
            peer_id: [2; 20],
            is_seeder: event == Event::Completed,
            event,
            peers_wanted: None,
        }
    }

    /// The numbers of the torrent, and the addresses of the other peers.
    fn announced(swarm: &Swarm, announce: &Announce, now: Instant) -> Result<(Stats, Vec<SocketAddr>), Full> {
        swarm.announce(announce, now, |stats, others| {
            (stats, others.map(|peer| peer.address).collect())
        })
    }

    fn stats(seeders: usize, leechers: usize, downloads: usize) -> Stats {
        Stats {
            seeders,
            leechers,
            downloads,
        }
    }

    #[test]
    fn a_client_gets_the_other_peers_of_its_family() {
        let (swarm, now) = (Swarm::new(usize::MAX, usize::MAX, usize::MAX), Instant::now());
        for peer in ["192.0.2.7:1", "192.0.2.7:2", "[2001:db8::7]:1"] {
            announced(&swarm, &announce(peer, Event::Started), now).unwrap();
        }
        let (numbers, others) = announced(&swarm, &announce("192.0.2.7:1", Event::None), now).unwrap();
        assert_eq!(numbers, stats(0, 3, 0));
        assert_eq!(others, ["192.0.2.7:2".parse().unwrap()]);
    }

    #[test]
    fn a_completion_counts_once_and_stopped_removes_the_peer() {
        let (swarm, now) = (Swarm::new(usize::MAX, usize::MAX, usize::MAX), Instant::now());
        for event in [Event::Completed, Event::None, Event::Completed] {
            announced(&swarm, &announce("192.0.2.7:1", event), now).unwrap();
        }
        assert_eq!(swarm.scrape(&[1; 20]), stats(1, 0, 1));
        let stopped = announce("192.0.2.7:1", Event::Stopped);
        for _ in 0..2 {
            let answer = announced(&swarm, &stopped, now);
            assert_eq!(answer, Ok((stats(0, 0, 1), Vec::new())));
        }
        assert_eq!(swarm.lock().peers.all, 0);
    }

    #[test]
    fn the_number_of_returned_peers_is_bounded() {
        let (swarm, now) = (Swarm::new(usize::MAX, usize::MAX, usize::MAX), Instant::now());
        let mut last = Vec::new();
        for port in 1..=300 {
            let mut request = announce("[2001:db8::7]:0", Event::Started);
            request.peer.set_port(port);
            request.peers_wanted = Some(usize::MAX);
            last = announced(&swarm, &request, now).unwrap().1;
        }
        assert_eq!(last.len(), MAX_PEERS_WANTED);
    }

    #[test]
    fn idle_peers_are_not_returned_and_then_forgotten() {
        let (swarm, now) = (Swarm::new(usize::MAX, usize::MAX, usize::MAX), Instant::now());
        let later = now + FORGOTTEN_AFTER;
        announced(&swarm, &announce("192.0.2.7:1", Event::None), now).unwrap();
        let (_, others) = announced(&swarm, &announce("192.0.2.7:2", Event::None), later).unwrap();
        assert!(others.is_empty());
        swarm.forget_idle(later);
        assert_eq!(swarm.scrape(&[1; 20]), stats(0, 1, 0));
        swarm.forget_idle(later + FORGOTTEN_AFTER);
        assert!(swarm.lock().torrents.is_empty());
        assert_eq!(swarm.lock().peers.all, 0);
    }

    #[test]
    fn a_full_swarm_still_serves_known_peers() {
        let (swarm, now) = (Swarm::new(1, 1, usize::MAX), Instant::now());
        let known = announce("192.0.2.7:1", Event::None);
        let mut other_torrent = known.clone();
        other_torrent.info_hash = [3; 20];
        announced(&swarm, &known, now).unwrap();
        assert_eq!(
            announced(&swarm, &announce("192.0.2.7:2", Event::None), now),
            Err(Full::Swarm)
        );
        assert_eq!(announced(&swarm, &other_torrent, now), Err(Full::Swarm));
        assert!(announced(&swarm, &known, now).is_ok());
    }
    #[test]
    fn an_address_or_a_64_has_a_number_of_peers() {
        let (swarm, now) = (Swarm::new(usize::MAX, usize::MAX, 2), Instant::now());
        let announced_by = |peer: &str, event, torrent| {
            let mut request = announce(peer, event);
            request.info_hash = [torrent; 20];
            announced(&swarm, &request, now).map(|_| ())
        };
        let addresses = [
            ["192.0.2.7:1", "192.0.2.7:2", "192.0.2.7:3", "192.0.2.8:1"],
            [
                "[2001:db8::1]:1",
                "[2001:db8::2]:1",
                "[2001:db8::ffff:0:0:1]:1",
                "[2001:db8:0:1::1]:1",
            ],
        ];
        for [first, second, third, other] in addresses {
            assert_eq!(announced_by(first, Event::Started, 1), Ok(()));
            assert_eq!(announced_by(second, Event::Started, 2), Ok(()));
            // In torrents that are known, and in new ones.
            for torrent in [1, 2, 3] {
                assert_eq!(
                    announced_by(third, Event::Started, torrent),
                    Err(Full::Address),
                    "{third}"
                );
            }
            assert_eq!(announced_by(first, Event::None, 1), Ok(()));
            assert_eq!(announced_by(other, Event::Started, 1), Ok(()));
            // A peer that has left makes room.
            assert_eq!(announced_by(second, Event::Stopped, 2), Ok(()));
            assert_eq!(announced_by(third, Event::Started, 1), Ok(()));
        }
        assert!(!swarm.lock().was_full);
        assert_eq!(swarm.lock().torrents.len(), 2);
        swarm.forget_idle(now + FORGOTTEN_AFTER);
        let count = &swarm.lock().peers;
        assert_eq!((count.all, count.by_owner.len()), (0, 0));
    }
}
