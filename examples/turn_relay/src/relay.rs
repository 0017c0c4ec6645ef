//! One listener with its relay sockets. `turn-server-proto` implements the protocol.

use std::{
    collections::{HashMap, hash_map::Entry},
    io, mem,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use dualstack_metrics::{ClientLabels, Datagram, DatagramSocket, udp_adapter::Batch};
use tokio::{
    net::UdpSocket,
    sync::mpsc,
    task::AbortHandle,
    time::{Instant as Deadline, sleep_until},
};
use turn_server_proto::{
    api::{SocketAllocateError, Transmit, TurnServerApi, TurnServerPollRet},
    server::TurnServer,
    types::{AddressFamily, Instant as ProtocolInstant, TransportType},
};

use crate::{
    cli::Args,
    counters::{Counters, Direction},
    families::Families,
    gate::{Gate, Verdict},
};

/// How many datagrams from peers can wait for the listener's task.
const QUEUE: usize = 256;

/// The type of a message, in its first two bytes.
const BINDING_REQUEST: [u8; 2] = [0, 1];

/// A relayed address, and a datagram that a peer sent to it.
type FromPeer = (SocketAddr, Datagram);

/// The time that a client who knows the password has to allocate.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client is known by its address and the address that it sends to, which is the source address of the answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct FiveTuple {
    asked: SocketAddr,
    client: SocketAddr,
}

pub(crate) struct Relay {
    listener: DatagramSocket,
    families: Families,
    counters: Counters,
    gate: Gate,
    realm: String,
    max_sessions: usize,
    sessions: HashMap<FiveTuple, Session>,
    /// Whose relayed address it is. A client that asked for both families has two on one socket.
    relayed: HashMap<SocketAddr, FiveTuple>,
    to_self: mpsc::Sender<FromPeer>,
    start: Instant,
    /// When a session has to be polled next.
    next: Instant,
    last_warning: Option<Instant>,
}

/// A client that knows the password. It has a protocol server of its own, which keeps a nonce for each of its clients and
/// never forgets one.
struct Session {
    server: TurnServer,
    relayed: Vec<SocketAddr>,
    socket: Option<RelaySocket>,
    /// When it is forgotten if it has no relayed address by then.
    patience: Instant,
    next: Instant,
}

/// A relay socket and the task that receives from it.
struct RelaySocket {
    socket: Arc<DatagramSocket>,
    receiver: AbortHandle,
}

impl Drop for RelaySocket {
    fn drop(&mut self) {
        self.receiver.abort();
    }
}

impl Relay {
    /// Serves clients and peers until the future is dropped. It never waits for a socket to take a datagram, so no client
    /// can delay another. The datagram is lost instead, as UDP allows.
    pub(crate) async fn serve(socket: UdpSocket, families: Families, args: Arc<Args>) -> io::Result<()> {
        let listener = DatagramSocket::new(socket)?;
        let (to_self, mut from_peers) = mpsc::channel(QUEUE);
        let start = Instant::now();
        let mut relay = Self {
            counters: Counters::new(listener.local_addr()),
            listener,
            families,
            gate: Gate::new(&args.user, &args.realm, start),
            realm: args.realm.clone(),
            max_sessions: args.max_allocations,
            sessions: HashMap::new(),
            relayed: HashMap::new(),
            to_self,
            start,
            next: start,
            last_warning: None,
        };
        let mut batch = Batch::new();
        loop {
            tokio::select! {
                received = relay.listener.recv(&mut batch) => match received {
                    Ok(datagram) => relay.serve_client(datagram),
                    Err(error) => relay.warn("cannot receive from clients", &error),
                },
                Some((relayed, datagram)) = from_peers.recv() => relay.serve_peer(relayed, &datagram),
                () = sleep_until(Deadline::from_std(relay.next)) => relay.poll_due(),
            }
        }
    }

    /// Logs an error, at most one in a minute.
    fn warn(&mut self, what: &str, error: &io::Error) {
        let now = Instant::now();
        let last = self.last_warning.map(|last| now.saturating_duration_since(last));
        if last.is_none_or(|last| last >= Duration::from_secs(60)) {
            self.last_warning = Some(now);
            tracing::warn!(%error, "{what}");
        }
    }

    fn now(&self) -> ProtocolInstant {
        ProtocolInstant::from_std(self.start)
    }

    /// The class of a client of this listener. An IPv6 socket sees IPv4 clients at mapped addresses.
    fn class(&self, client: SocketAddr) -> ClientLabels {
        match client.ip() {
            IpAddr::V4(ip) if self.listener.local_addr().is_ipv6() => IpAddr::V6(ip.to_ipv6_mapped()).into(),
            ip => ip.into(),
        }
    }

    fn serve_client(&mut self, datagram: Datagram) {
        let (asked, client) = (datagram.local_addr(), datagram.peer());
        if asked.ip().is_multicast() || asked.ip().is_unspecified() {
            return;
        }
        let tuple = FiveTuple { asked, client };
        if !self.sessions.contains_key(&tuple) || datagram.payload().starts_with(&BINDING_REQUEST) {
            let has_room = self.sessions.len() < self.max_sessions;
            let now = Instant::now();
            match self.gate.judge(datagram.payload(), asked, client, has_room, now) {
                Verdict::Ignore => return,
                Verdict::Answer(answer) => {
                    self.to_client(tuple, &answer);
                    return;
                }
                Verdict::Pass(user) => {
                    let mut server = TurnServer::new(TransportType::Udp, asked, self.realm.clone());
                    server.add_user(user.name, user.password);
                    let session = Session {
                        server,
                        relayed: Vec::new(),
                        socket: None,
                        patience: now + PATIENCE,
                        next: now,
                    };
                    self.sessions.insert(tuple, session);
                }
            }
        }
        self.serve_session(tuple, datagram.into_payload());
        self.poll(tuple);
    }

    fn serve_session(&mut self, tuple: FiveTuple, payload: Bytes) {
        let FiveTuple { asked, client } = tuple;
        let now = self.now();
        let Some(session) = self.sessions.get_mut(&tuple) else {
            return;
        };
        let received = Transmit::new(payload, TransportType::Udp, client, asked);
        let Some(answer) = session.server.recv(received, now) else {
            return;
        };
        let answer = answer.build();
        if answer.from == asked {
            // Without a password the answer is an error. The client's address may be forged.
            let is_error = matches!(answer.data[..], [high, low, ..] if high & 0x01 != 0 && low & 0x10 != 0);
            if !is_error || self.gate.allows(&answer.data, client, Instant::now()) {
                self.to_client(tuple, &answer.data);
            }
            return;
        }
        let Some(RelaySocket { socket, .. }) = &session.socket else {
            return;
        };
        let peer = answer.to;
        if is_mapped(peer.ip()) {
            // It would let an IPv6 allocation reach IPv4 peers.
            tracing::debug!(%client, %peer, "ignored a peer at an IPv4-mapped address");
            return;
        }
        match socket.try_send_from(answer.from.ip(), &answer.data, peer) {
            Ok(()) => {
                let class = self.class(client);
                self.counters
                    .relayed(class, peer, Direction::ToPeer, answer.data.len());
            }
            Err(error) => tracing::debug!(%client, %peer, %error, "cannot send to a peer"),
        }
    }

    fn serve_peer(&mut self, relayed: SocketAddr, datagram: &Datagram) {
        let (now, peer) = (self.now(), datagram.peer());
        let Some(&tuple) = self.relayed.get(&relayed) else {
            return;
        };
        let Some(session) = self.sessions.get_mut(&tuple) else {
            return;
        };
        let received = Transmit::new(datagram.payload().clone(), TransportType::Udp, peer, relayed);
        // Nothing is relayed from a peer without a permission.
        let Some(passed_on) = session.server.recv(received, now) else {
            return;
        };
        if self.to_client(tuple, &passed_on.build().data) {
            let class = self.class(tuple.client);
            self.counters
                .relayed(class, peer, Direction::FromPeer, datagram.payload().len());
        }
    }

    /// Sends from the address that the client sent to. Returns whether it was sent.
    fn to_client(&self, FiveTuple { asked, client }: FiveTuple, payload: &[u8]) -> bool {
        let sent = self.listener.try_send_from(asked.ip(), payload, client);
        if let Err(error) = &sent {
            tracing::debug!(%client, %error, "cannot send to a client");
        }
        sent.is_ok()
    }

    /// Polls the sessions whose time has come.
    fn poll_due(&mut self) {
        let now = Instant::now();
        let due = self.sessions.iter().filter(|(_, session)| session.next <= now);
        let due: Vec<_> = due.map(|(tuple, _)| *tuple).collect();
        for tuple in due {
            self.poll(tuple);
        }
        let next = self.sessions.values().map(|session| session.next).min();
        self.next = next.unwrap_or(now + Duration::from_secs(3600));
    }

    /// Polls the protocol of a session. Forgets a session without a relayed address.
    fn poll(&mut self, tuple: FiveTuple) {
        let now = self.now();
        let mut wanted = Vec::new();
        let until = loop {
            let Some(session) = self.sessions.get_mut(&tuple) else {
                return;
            };
            match session.server.poll(now) {
                TurnServerPollRet::AllocateSocket { family, .. } => wanted.push(family),
                TurnServerPollRet::SocketClose { listen_addr, .. } => {
                    self.relayed.remove(&listen_addr);
                    session.relayed.retain(|relayed| *relayed != listen_addr);
                    session.patience = Instant::now();
                }
                TurnServerPollRet::WaitUntil(until) if wanted.is_empty() => break until,
                TurnServerPollRet::WaitUntil(_) => self.allocate(tuple, mem::take(&mut wanted)),
                // There are no TCP clients.
                TurnServerPollRet::TcpConnect { .. } | TurnServerPollRet::TcpClose { .. } => {}
            }
        };
        while let Some(session) = self.sessions.get_mut(&tuple)
            && let Some(answer) = session.server.poll_transmit(now)
        {
            self.to_client(tuple, &answer.data);
        }
        // The protocol expires only what lies before the given time.
        let until =
            self.start + until.duration_since(ProtocolInstant::from_nanos(0)) + Duration::from_millis(1);
        let Entry::Occupied(mut session) = self.sessions.entry(tuple) else {
            return;
        };
        if !session.get().relayed.is_empty() {
            session.get_mut().next = until;
        } else if session.get().patience <= Instant::now() {
            session.remove();
            return;
        } else {
            let patience = session.get().patience;
            session.get_mut().next = until.min(patience);
        }
        self.next = self.next.min(session.get().next);
    }

    /// Allocates one socket for all families that a client asked for.
    fn allocate(&mut self, tuple: FiveTuple, families: Vec<AddressFamily>) {
        let FiveTuple { asked, client } = tuple;
        let mut addresses: Vec<_> = families
            .into_iter()
            .map(|family| (family, self.families.address(family, asked.ip())))
            .collect();
        // The protocol forgets the client if the last result is an error.
        addresses.sort_by_key(|(_, ip)| ip.is_some());

        let ips = addresses.iter().filter_map(|(_, ip)| *ip).collect::<Vec<_>>();
        let port = if ips.is_empty() {
            Err(SocketAllocateError::AddressFamilyNotSupported)
        } else {
            self.open(&ips, tuple)
        };
        if port.is_ok() {
            self.counters.allocation(self.class(client));
        }
        let now = self.now();
        let Some(session) = self.sessions.get_mut(&tuple) else {
            return;
        };
        session.patience = Instant::now();
        for (family, ip) in addresses {
            let result = match ip {
                Some(ip) => port.map(|port| SocketAddr::new(ip, port)),
                None => Err(SocketAllocateError::AddressFamilyNotSupported),
            };
            session.server.allocated_socket(
                TransportType::Udp,
                asked,
                client,
                TransportType::Udp,
                family,
                result,
                now,
            );
        }
    }

    /// Binds a relay socket for these addresses and starts to receive from it. Returns its port.
    fn open(&mut self, ips: &[IpAddr], tuple: FiveTuple) -> Result<u16, SocketAllocateError> {
        let bound = self.families.bind().map_err(io::Error::from);
        let socket = bound.and_then(DatagramSocket::new).map_err(|error| {
            self.warn("cannot open a relay socket", &error);
            SocketAllocateError::InsufficientCapacity
        })?;
        let Some(session) = self.sessions.get_mut(&tuple) else {
            return Err(SocketAllocateError::InsufficientCapacity);
        };
        let port = socket.local_addr().port();
        session.relayed = ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
        self.relayed
            .extend(session.relayed.iter().map(|relayed| (*relayed, tuple)));
        let socket = Arc::new(socket);
        let receiver = tokio::spawn(receive(
            Arc::clone(&socket),
            session.relayed.clone(),
            self.to_self.clone(),
        ));
        session.socket = Some(RelaySocket {
            socket,
            receiver: receiver.abort_handle(),
        });
        Ok(port)
    }
}

/// Forwards datagrams from peers to the listener's task.
async fn receive(socket: Arc<DatagramSocket>, relayed: Vec<SocketAddr>, relay: mpsc::Sender<FromPeer>) {
    let mut batch = Batch::with_room(1);
    loop {
        match socket.recv(&mut batch).await {
            Ok(datagram) => {
                // By family, because behind a NAT the relayed address is not the one that the datagram arrived at.
                let family = datagram.peer().is_ipv4();
                let Some(relayed) = relayed.iter().find(|relayed| relayed.is_ipv4() == family) else {
                    continue;
                };
                if relay.send((*relayed, datagram)).await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::debug!(%error, "cannot receive from peers"),
        }
    }
}

fn is_mapped(ip: IpAddr) -> bool {
    ip.is_ipv6() && ip.to_canonical().is_ipv4()
}
