//! Explicit binding: dual-stack, IPv6-only, or a pair of sockets on one port.
//!
//! The option `IPV6_V6ONLY` makes an IPv6 socket dual-stack or IPv6-only ([RFC 3493 §5.3]). Its default depends on the
//! system; on Linux it is the sysctl `net.ipv6.bindv6only`. [`SocketOptions`] sets the option before it binds, so the
//! same code does the same on every host.
//!
//! ```
//! use dualstack_metrics::SocketOptions;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! // One socket for both families. The address of an IPv4 client is ::ffff:a.b.c.d.
//! let listener = SocketOptions::dual_stack().bind_tcp("[::]:0".parse()?)?;
//! let socket = SocketOptions::dual_stack()
//!     .recv_buffer_size(128 * 1024)
//!     .bind_udp("[::]:0".parse()?)?;
//!
//! let port = listener.local_addr()?.port();
//! tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
//! # let _ = socket;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # Sockets by system
//!
//! | | Linux | OpenBSD | Windows |
//! |---|---|---|---|
//! | [`dual_stack`](SocketOptions::dual_stack), `[::]` | both families | an error that suggests a pair | both families |
//! | [`dual_stack`](SocketOptions::dual_stack), `[::]`, on a host without IPv6 | `0.0.0.0`, and a warning | `0.0.0.0`, and a warning | `0.0.0.0`, and a warning |
//! | [`v6_only`](SocketOptions::v6_only), `[::]` | IPv6 | IPv6 | IPv6 |
//! | [`system_default`](SocketOptions::system_default), `[::]` | both, or IPv6 where `net.ipv6.bindv6only` is 1 | IPv6 | IPv6 |
//! | any of the three, an IPv4 address | IPv4 | IPv4 | IPv4 |
//! | [`bind_tcp_pair`](SocketOptions::bind_tcp_pair), [`bind_udp_pair`](SocketOptions::bind_udp_pair) | one socket per family | one socket per family | one socket per family |
//!
//! `DragonFly` BSD behaves like OpenBSD. [`bind_udp_many`](SocketOptions::bind_udp_many) binds several sockets on one
//! port, one for each worker.
//!
//! On a dual-stack socket an IPv4 client has an IPv4-mapped address, `::ffff:a.b.c.d` ([RFC 4291 §2.5.5.2]).
//! [`ClientLabels`](crate::ClientLabels) counts it as the IPv4 client that it is. On the IPv4 socket of a [`Pair`] the
//! same client has its plain IPv4 address.
//!
//! # When a port is in use
//!
//! On Linux a dual-stack socket on `[::]` and an IPv4 socket cannot share a port, whichever is bound first. The system
//! only reports "address in use". If a socket of the other family is the cause, the message of [`BindError`] tells.
//!
//! [RFC 3493 §5.3]: https://www.rfc-editor.org/rfc/rfc3493#section-5.3
//! [RFC 4291 §2.5.5.2]: https://www.rfc-editor.org/rfc/rfc4291#section-2.5.5.2

mod error;
mod explain;
mod open;
mod parse;

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use socket2::Socket;
use tokio::net::{TcpListener, UdpSocket};

pub use self::{error::BindError, parse::parse_address};
use self::{
    error::{Failure, Step, Transport, during},
    explain::{explain, lacks_ipv6},
    open::{new_socket, set_freebind, set_reuse_port},
};

// A port that is free for one family is rarely taken for the other.
const PAIR_TRIES: usize = 32;

/// The connections that may wait to be accepted, as in tokio's own `bind`.
const BACKLOG: i32 = 1024;

/// How a socket is bound: for which families, and with which options.
///
/// The [module](self) compares the constructors on each system.
#[derive(Clone, Debug)]
#[must_use = "nothing is bound before one of the `bind` methods is called"]
pub struct SocketOptions {
    v6_only: Option<bool>,
    reuse_port: bool,
    freebind: bool,
    recv_buffer_size: Option<usize>,
    send_buffer_size: Option<usize>,
}

impl SocketOptions {
    const fn new(v6_only: Option<bool>) -> Self {
        Self {
            v6_only,
            reuse_port: false,
            freebind: false,
            recv_buffer_size: None,
            send_buffer_size: None,
        }
    }

    /// IPv6 sockets that also accept IPv4, regardless of the system's default.
    ///
    /// On a host without IPv6, `[::]` falls back to `0.0.0.0` and a warning is logged. Any other IPv6 address is an
    /// error there.
    pub const fn dual_stack() -> Self {
        Self::new(Some(false))
    }

    /// IPv6 sockets that do not accept IPv4, regardless of the system's default.
    pub const fn v6_only() -> Self {
        Self::new(Some(true))
    }

    /// IPv6 sockets with the system's default: on Linux, `net.ipv6.bindv6only`.
    pub const fn system_default() -> Self {
        Self::new(None)
    }

    /// Whether several sockets of one user may share the port (`SO_REUSEPORT`); false by default. All of them must set
    /// it. Linux and `DragonFly` BSD distribute the clients over the sockets.
    ///
    /// On systems without the option (Windows, Solaris, illumos, Cygwin), binding fails.
    pub const fn reuse_port(mut self, reuse: bool) -> Self {
        self.reuse_port = reuse;
        self
    }

    /// Whether an address can be bound that this host does not have yet (`IP_FREEBIND`, `IPV6_FREEBIND`); false by default.
    /// For servers that start before their network is up. Linux checks for about a second whether another host has a new
    /// IPv6 address, and until then it cannot be bound otherwise.
    ///
    /// On systems other than Linux and Android, binding fails.
    pub const fn freebind(mut self, freebind: bool) -> Self {
        self.freebind = freebind;
        self
    }

    /// The size of the receive buffer in bytes (`SO_RCVBUF`). Sockets accepted from a listener inherit it.
    ///
    /// Linux grants at most `net.core.rmem_max`, and doubles that size to make room for its own bookkeeping. A
    /// warning is logged if the system grants less than `bytes`.
    pub const fn recv_buffer_size(mut self, bytes: usize) -> Self {
        self.recv_buffer_size = Some(bytes);
        self
    }

    /// The size of the send buffer in bytes (`SO_SNDBUF`). Sockets accepted from a listener inherit it.
    ///
    /// Linux grants at most `net.core.wmem_max`, and doubles that size to make room for its own bookkeeping. A
    /// warning is logged if the system grants less than `bytes`.
    pub const fn send_buffer_size(mut self, bytes: usize) -> Self {
        self.send_buffer_size = Some(bytes);
        self
    }

    /// Binds a TCP listener to `address`. With port 0 the system chooses the port.
    ///
    /// As in tokio's own `bind`, `SO_REUSEADDR` is set on Unix, so that a server can restart immediately.
    ///
    /// # Errors
    ///
    /// If the address cannot be bound. The error names a remedy where the cause is known.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, or if its I/O driver is not enabled.
    pub fn bind_tcp(&self, address: SocketAddr) -> Result<TcpListener, BindError> {
        self.bind(Transport::Tcp, address)
            .and_then(|bound| self.listen(bound))
    }

    /// Binds a UDP socket to `address`. With port 0 the system chooses the port.
    ///
    /// # Errors
    ///
    /// If the address cannot be bound. The error names a remedy where the cause is known.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, or if its I/O driver is not enabled.
    pub fn bind_udp(&self, address: SocketAddr) -> Result<UdpSocket, BindError> {
        self.bind(Transport::Udp, address)
            .and_then(|bound| self.register_udp(bound))
    }

    /// Binds several UDP sockets to one address, usually one for each worker. Always sets
    /// [`reuse_port`](Self::reuse_port). Linux distributes the clients over the sockets by address and port.
    ///
    /// # Errors
    ///
    /// If one of them cannot be bound. None is bound then.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, or if its I/O driver is not enabled.
    pub fn bind_udp_many(&self, address: SocketAddr, sockets: usize) -> Result<Vec<UdpSocket>, BindError> {
        let options = self.clone().reuse_port(true);
        let mut address = address;
        (0..sockets)
            .map(|_| {
                let bound = options.bind(Transport::Udp, address)?;
                // The port that the system chose for the first socket, and `0.0.0.0` if that one fell back to IPv4.
                address = bound.local_addr()?;
                options.register_udp(bound)
            })
            .collect()
    }

    /// Binds one TCP listener per family to the same port: `0.0.0.0` and `[::]`. The latter is always IPv6-only,
    /// whichever constructor the options came from. With port 0 the system chooses a port that is free for both.
    ///
    /// # Errors
    ///
    /// If one of the two cannot be bound. Neither is bound then.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, or if its I/O driver is not enabled.
    pub fn bind_tcp_pair(&self, port: u16) -> Result<Pair<TcpListener>, BindError> {
        // Neither listens before both are bound, so no client connects to a listener that is closed again.
        self.bind_pair(Transport::Tcp, port, Self::listen)
    }

    /// Binds one UDP socket per family to the same port: `0.0.0.0` and `[::]`. The latter is always IPv6-only,
    /// whichever constructor the options came from. With port 0 the system chooses a port that is free for both.
    ///
    /// # Errors
    ///
    /// If one of the two cannot be bound. Neither is bound then.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, or if its I/O driver is not enabled.
    pub fn bind_udp_pair(&self, port: u16) -> Result<Pair<UdpSocket>, BindError> {
        self.bind_pair(Transport::Udp, port, Self::register_udp)
    }

    fn bind_pair<T>(
        &self,
        transport: Transport,
        port: u16,
        finish: impl Fn(&Self, Bound) -> Result<T, BindError>,
    ) -> Result<Pair<T>, BindError> {
        let options = Self {
            v6_only: Some(true),
            ..self.clone()
        };
        let bind_both = || {
            // IPv4 first: to explain a failure the port is probed for IPv6, and must not find our own socket.
            let v4 = options.bind(transport, (Ipv4Addr::UNSPECIFIED, port).into())?;
            let port = v4.port()?;
            let v6 = options.bind(transport, (Ipv6Addr::UNSPECIFIED, port).into())?;
            Ok(Pair {
                v4: finish(&options, v4)?,
                v6: finish(&options, v6)?,
            })
        };
        let is_taken = |error: &BindError| error.kind() == io::ErrorKind::AddrInUse;

        let mut tries = 1;
        loop {
            match bind_both() {
                Err(error) if port == 0 && is_taken(&error) && tries < PAIR_TRIES => tries += 1,
                result => return result,
            }
        }
    }

    fn bind(&self, transport: Transport, address: SocketAddr) -> Result<Bound, BindError> {
        match self.try_bind(transport, address) {
            Ok(socket) => Ok(Bound {
                socket,
                transport,
                address,
            }),
            Err(failure) if self.falls_back(address) && lacks_ipv6(&failure) => {
                let fallback = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
                tracing::warn!(
                    %address,
                    %fallback,
                    error = %failure.error,
                    "this host has no IPv6: a dual-stack socket is bound for IPv4 only"
                );
                self.bind(transport, fallback)
            }
            Err(failure) => Err(explain(self.v6_only, transport, address, failure)),
        }
    }

    fn falls_back(&self, address: SocketAddr) -> bool {
        self.v6_only == Some(false) && address.ip() == Ipv6Addr::UNSPECIFIED
    }

    fn try_bind(&self, transport: Transport, address: SocketAddr) -> Result<Socket, Failure> {
        let socket = new_socket(transport, address)?;
        if address.is_ipv6()
            && let Some(only) = self.v6_only
        {
            socket
                .set_only_v6(only)
                .and_then(|()| socket.only_v6())
                .and_then(|is_only| {
                    let ignored =
                        || io::Error::new(io::ErrorKind::Unsupported, "the system ignored the option");
                    (is_only == only).then_some(()).ok_or_else(ignored)
                })
                .map_err(during(Step::Set("IPV6_V6ONLY")))?;
        }
        if self.freebind {
            let option = if address.is_ipv4() {
                "IP_FREEBIND"
            } else {
                "IPV6_FREEBIND"
            };
            set_freebind(&socket, address).map_err(during(Step::Set(option)))?;
        }
        // With port 0 and SO_REUSEPORT, Linux may choose a port that other UDP sockets already share. Setting the
        // option after the bind avoids that, and the sockets that are bound next can still share the port.
        let shares_later = cfg!(target_os = "linux") && transport == Transport::Udp && address.port() == 0;
        if self.reuse_port && !shares_later {
            set_reuse_port(&socket).map_err(during(Step::Set("SO_REUSEPORT")))?;
        }
        if let Some(bytes) = self.recv_buffer_size {
            socket
                .set_recv_buffer_size(clamp(bytes))
                .and_then(|()| socket.recv_buffer_size())
                .map(|reported| warn_if_less("SO_RCVBUF", address, bytes, reported))
                .map_err(during(Step::Set("SO_RCVBUF")))?;
        }
        if let Some(bytes) = self.send_buffer_size {
            socket
                .set_send_buffer_size(clamp(bytes))
                .and_then(|()| socket.send_buffer_size())
                .map(|reported| warn_if_less("SO_SNDBUF", address, bytes, reported))
                .map_err(during(Step::Set("SO_SNDBUF")))?;
        }
        socket.bind(&address.into()).map_err(during(Step::Bind))?;
        if self.reuse_port && shares_later {
            set_reuse_port(&socket).map_err(during(Step::Set("SO_REUSEPORT")))?;
        }
        Ok(socket)
    }

    fn listen(&self, bound: Bound) -> Result<TcpListener, BindError> {
        bound
            .socket
            .listen(BACKLOG)
            .map_err(during(Step::Listen))
            .and_then(|()| TcpListener::from_std(bound.socket.into()).map_err(during(Step::Register)))
            .map_err(|failure| explain(self.v6_only, bound.transport, bound.address, failure))
    }

    fn register_udp(&self, bound: Bound) -> Result<UdpSocket, BindError> {
        UdpSocket::from_std(bound.socket.into())
            .map_err(during(Step::Register))
            .map_err(|failure| explain(self.v6_only, bound.transport, bound.address, failure))
    }
}

/// Two sockets on one port, one per family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair<T> {
    /// The socket on `0.0.0.0`.
    pub v4: T,
    /// The socket on `[::]`, IPv6-only.
    pub v6: T,
}

struct Bound {
    socket: Socket,
    transport: Transport,
    address: SocketAddr,
}

impl Bound {
    fn port(&self) -> Result<u16, BindError> {
        self.local_addr().map(|address| address.port())
    }

    fn local_addr(&self) -> Result<SocketAddr, BindError> {
        self.socket
            .local_addr()
            .map(|address| address.as_socket().unwrap_or(self.address))
            .map_err(|error| BindError::new(self.transport, self.address, during(Step::Bind)(error), None))
    }
}

// The kernel takes an `int`. A larger number would become negative.
fn clamp(bytes: usize) -> usize {
    bytes.min(i32::MAX as usize)
}

fn warn_if_less(option: &'static str, address: SocketAddr, requested: usize, reported: usize) {
    let granted = if cfg!(any(target_os = "linux", target_os = "android")) {
        reported / 2
    } else {
        reported
    };
    if granted < requested {
        tracing::warn!(
            option,
            %address,
            requested,
            granted,
            "the system granted a smaller socket buffer than requested"
        );
    }
}
