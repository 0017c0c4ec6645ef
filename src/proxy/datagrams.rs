use std::net::SocketAddr;

use bytes::Bytes;

use super::{
    Fallback, Reason, TrustedProxies,
    policy::Policy,
    protocol::{self, Said},
};
use crate::client::{DatagramClient, DatagramSource};

/// Reads the header of the PROXY protocol in front of each datagram from a trusted proxy, for `UdpServer::source`.
///
/// Made by [`TrustedProxies::proxy_protocol_datagrams`]. In your own loop, call [`read_client`](DatagramSource::read_client).
#[derive(Clone, Debug)]
pub struct ProxyProtocolDatagrams {
    proxies: TrustedProxies,
    policy: Policy,
}

impl TrustedProxies {
    /// Reads the PROXY protocol from the datagrams of trusted peers, each of which begins with a header, as dnsdist sends
    /// them.
    ///
    /// The client in the header is the one whose labels are used, and the peer of the `Datagram` that the service gets.
    /// The header is not in its payload. The answer goes to the proxy, without a header.
    ///
    /// Anybody can write the address of your proxy into a datagram. Trust only peers whose addresses nobody else can use,
    /// such as those on a private network or on this host.
    ///
    #[cfg_attr(feature = "udp", doc = "```")]
    #[cfg_attr(not(feature = "udp"), doc = "```ignore")]
    /// use dualstack_metrics::{Datagram, SocketOptions, TrustedProxies, UdpServer};
    /// use std::convert::Infallible;
    /// use tower::service_fn;
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// let proxies = TrustedProxies::new(["10.0.0.0/8", "::1"])?;
    /// let socket = SocketOptions::dual_stack().bind_udp("[::]:0".parse()?)?;
    /// let server = UdpServer::new(socket)?
    ///     .source(proxies.proxy_protocol_datagrams())
    ///     .serve(service_fn(|datagram: Datagram| async { Ok::<_, Infallible>(Some(datagram.into_payload())) }));
    /// # server.with_graceful_shutdown(async {}).await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn proxy_protocol_datagrams(&self) -> ProxyProtocolDatagrams {
        ProxyProtocolDatagrams {
            proxies: self.clone(),
            policy: Policy::new(),
        }
    }
}

impl ProxyProtocolDatagrams {
    /// Whose labels a datagram has if a trusted proxy did not give the address of its client;
    /// [`Fallback::Unknown`] by default.
    #[must_use]
    pub fn fallback(mut self, fallback: Fallback) -> Self {
        self.policy.fallback = fallback;
        self
    }

    /// Also serves datagrams of trusted peers that begin with something else than a header. They have the labels of the
    /// [fallback](Self::fallback), and are counted as [missing](Reason::Missing).
    ///
    /// By default they are not served. Datagrams whose header cannot be used never are.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.policy.is_optional = true;
        self
    }
}

impl DatagramSource for ProxyProtocolDatagrams {
    fn read_client(&self, payload: &mut Bytes, peer: SocketAddr) -> Result<DatagramClient, DatagramClient> {
        if !self.proxies.contains(peer.ip()) {
            if protocol::is_header(payload) == Some(true) {
                self.policy.reject(Reason::Untrusted, Some(peer));
            }
            return Ok(DatagramClient::Peer);
        }
        let reason = match protocol::split(payload) {
            Ok(Said::Client(client)) => return Ok(DatagramClient::Behind(client)),
            Ok(Said::Local) => return Ok(DatagramClient::Peer),
            Ok(Said::Unknown) => Reason::Unknown,
            Err(reason) => reason,
        };
        let instead = |fallback| match fallback {
            Fallback::Peer => DatagramClient::Peer,
            Fallback::Unknown => DatagramClient::Unknown,
        };
        let served = self.policy.instead(reason, Some(peer));
        served.map(instead).map_err(instead)
    }
}
