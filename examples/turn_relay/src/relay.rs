//! One listener with its relay sockets. `turn-server-proto` implements the protocol.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

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
};

/// How many datagrams from peers can wait for the listener's task.
const QUEUE: usize = 256;

/// A relayed address, and a datagram that a peer sent to it.
type FromPeer = (SocketAddr, Datagram);

pub(crate) struct Relay {
    listener: DatagramSocket,
    families: Families,
    counters: Counters,
    users: Vec<(String, String)>,
    realm: String,
    max_sockets: usize,
    /// By the address that clients send to. It is part of a client's identity, and the source address of the answers.
    servers: HashMap<SocketAddr, TurnServer>,
    /// By relayed address. A client that asked for both families has two relayed addresses on one socket.
    legs: HashMap<SocketAddr, Leg>,
    to_self: mpsc::Sender<FromPeer>,
    start: Instant,
}

/// One relayed address of a client.
struct Leg {
    socket: Arc<RelaySocket>,
    client: SocketAddr,
    asked: SocketAddr,
}

/// A relay socket and the task that receives from it. The task ends when the last relayed address is removed.
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
    /// Serves clients and peers until the future is dropped.
    pub(crate) async fn serve(socket: UdpSocket, families: Families, args: Arc<Args>) -> io::Result<()> {
        let listener = DatagramSocket::new(socket)?;
        let (to_self, mut from_peers) = mpsc::channel(QUEUE);
        let users = args.user.iter();
        let mut relay = Self {
            counters: Counters::new(listener.local_addr()),
            listener,
            families,
            users: users
                .map(|user| (user.name.clone(), user.password.clone()))
                .collect(),
            realm: args.realm.clone(),
            max_sockets: args.max_allocations,
            servers: HashMap::new(),
            legs: HashMap::new(),
            to_self,
            start: Instant::now(),
        };
        let mut batch = Batch::new();
        let mut next = Instant::now();
        loop {
            tokio::select! {
                received = relay.listener.recv(&mut batch) => match received {
                    Ok(datagram) => relay.serve_client(datagram).await,
                    Err(error) => tracing::warn!(%error, "cannot receive from clients"),
                },
                Some((relayed, datagram)) = from_peers.recv() => relay.serve_peer(relayed, &datagram).await,
                () = sleep_until(Deadline::from_std(next)) => {}
            }
            next = relay.advance().await;
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

    async fn serve_client(&mut self, datagram: Datagram) {
        let (asked, client) = (datagram.local_addr(), datagram.peer());
        if asked.ip().is_multicast() || asked.ip().is_unspecified() {
            return;
        }
        let now = self.now();
        let server = self.servers.entry(asked).or_insert_with(|| {
            let mut server = TurnServer::new(TransportType::Udp, asked, self.realm.clone());
            for (name, password) in &self.users {
                server.add_user(name.clone(), password.clone());
            }
            server
        });
        let received = Transmit::new(datagram.into_payload(), TransportType::Udp, client, asked);
        let Some(answer) = server.recv(received, now) else {
            return;
        };
        let answer = answer.build();
        if answer.from == asked {
            // Not to `answer.to`: for a binding request, that is the listener's own address.
            self.to_client(asked, &answer.data, client).await;
            return;
        }
        let Some(leg) = self.legs.get(&answer.from) else {
            return;
        };
        let peer = answer.to;
        if is_mapped(peer.ip()) {
            // It would let an IPv6 allocation reach IPv4 peers.
            tracing::debug!(%client, %peer, "ignored a peer at an IPv4-mapped address");
            return;
        }
        match leg
            .socket
            .socket
            .send_from(answer.from.ip(), &answer.data, peer)
            .await
        {
            Ok(()) => {
                let class = self.class(client);
                self.counters
                    .relayed(class, peer, Direction::ToPeer, answer.data.len());
            }
            Err(error) => tracing::debug!(%client, %peer, %error, "cannot send to a peer"),
        }
    }

    async fn serve_peer(&mut self, relayed: SocketAddr, datagram: &Datagram) {
        let now = self.now();
        let Some(leg) = self.legs.get(&relayed) else {
            return;
        };
        let (client, asked, peer) = (leg.client, leg.asked, datagram.peer());
        let Some(server) = self.servers.get_mut(&asked) else {
            return;
        };
        let received = Transmit::new(datagram.payload().clone(), TransportType::Udp, peer, relayed);
        // Nothing is relayed from a peer without a permission.
        let Some(passed_on) = server.recv(received, now) else {
            return;
        };
        if self.to_client(asked, &passed_on.build().data, client).await {
            let class = self.class(client);
            self.counters
                .relayed(class, peer, Direction::FromPeer, datagram.payload().len());
        }
    }

    /// Sends from `asked`, the address that the client sent to. Returns whether it was sent.
    async fn to_client(&self, asked: SocketAddr, payload: &[u8], client: SocketAddr) -> bool {
        let sent = self.listener.send_from(asked.ip(), payload, client).await;
        if let Err(error) = &sent {
            tracing::debug!(%client, %error, "cannot send to a client");
        }
        sent.is_ok()
    }

    /// Runs what the protocol has to do now. Returns the time of the next call.
    async fn advance(&mut self) -> Instant {
        let now = self.now();
        let mut next = now + Duration::from_secs(3600);
        let mut answers: Vec<Transmit<Vec<u8>>> = Vec::new();
        let asked: Vec<SocketAddr> = self.servers.keys().copied().collect();
        for asked in asked {
            let mut wanted: Vec<(SocketAddr, AddressFamily)> = Vec::new();
            while let Some(server) = self.servers.get_mut(&asked) {
                match server.poll(now) {
                    TurnServerPollRet::AllocateSocket {
                        client_addr, family, ..
                    } => wanted.push((client_addr, family)),
                    TurnServerPollRet::SocketClose { listen_addr, .. } => {
                        self.legs.remove(&listen_addr);
                    }
                    TurnServerPollRet::WaitUntil(until) if wanted.is_empty() => {
                        next = next.min(until);
                        break;
                    }
                    TurnServerPollRet::WaitUntil(_) => {
                        while let Some(&(client, _)) = wanted.first() {
                            let families = wanted.extract_if(.., |(other, _)| *other == client);
                            let families = families.map(|(_, family)| family).collect();
                            self.allocate(asked, client, families);
                        }
                    }
                    // There are no TCP clients.
                    TurnServerPollRet::TcpConnect { .. } | TurnServerPollRet::TcpClose { .. } => {}
                }
            }
            if let Some(server) = self.servers.get_mut(&asked) {
                answers.extend(std::iter::from_fn(|| server.poll_transmit(now)));
            }
        }
        for answer in answers {
            self.to_client(answer.from, &answer.data, answer.to).await;
        }
        // The protocol expires only what lies before the given time.
        self.start + next.duration_since(ProtocolInstant::from_nanos(0)) + Duration::from_millis(1)
    }

    /// Allocates one socket for all families that a client asked for.
    fn allocate(&mut self, asked: SocketAddr, client: SocketAddr, families: Vec<AddressFamily>) {
        let mut addresses: Vec<_> = families
            .into_iter()
            .map(|family| (family, self.families.address(family, asked.ip())))
            .collect();
        // The protocol forgets the client if the last result is an error.
        addresses.sort_by_key(|(_, ip)| ip.is_some());

        let relayed = addresses.iter().filter_map(|(_, ip)| *ip).collect::<Vec<_>>();
        let port = if relayed.is_empty() {
            Err(SocketAllocateError::AddressFamilyNotSupported)
        } else {
            self.open(&relayed, asked, client)
        };
        let class = self.class(client);
        if port.is_ok() {
            self.counters.allocation(class);
        }
        let now = self.now();
        let Some(server) = self.servers.get_mut(&asked) else {
            return;
        };
        for (family, ip) in addresses {
            let result = match ip {
                Some(ip) => port.map(|port| SocketAddr::new(ip, port)),
                None => Err(SocketAllocateError::AddressFamilyNotSupported),
            };
            server.allocated_socket(
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
    fn open(
        &mut self,
        ips: &[IpAddr],
        asked: SocketAddr,
        client: SocketAddr,
    ) -> Result<u16, SocketAllocateError> {
        let sockets: HashSet<_> = self.legs.keys().map(SocketAddr::port).collect();
        if sockets.len() >= self.max_sockets {
            return Err(SocketAllocateError::InsufficientCapacity);
        }
        let bound = self.families.bind().map_err(io::Error::from);
        let socket = bound.and_then(DatagramSocket::new).map_err(|error| {
            tracing::warn!(%error, "cannot open a relay socket");
            SocketAllocateError::InsufficientCapacity
        })?;
        let port = socket.local_addr().port();
        let relayed: Vec<_> = ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
        let socket = Arc::new(socket);
        let receiver = tokio::spawn(receive(
            Arc::clone(&socket),
            relayed.clone(),
            self.to_self.clone(),
        ));
        let socket = Arc::new(RelaySocket {
            socket,
            receiver: receiver.abort_handle(),
        });
        for relayed in relayed {
            let socket = Arc::clone(&socket);
            self.legs.insert(
                relayed,
                Leg {
                    socket,
                    client,
                    asked,
                },
            );
        }
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
