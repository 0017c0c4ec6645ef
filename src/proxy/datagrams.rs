use std::net::SocketAddr;

use bytes::Bytes;

use super::{
    fallback::Fallback,
    policy::Policy,
    protocol::{self, Header},
    reason::Rejection,
    trust::TrustedProxies,
};
use crate::client::{DatagramClient, DatagramSource};

/// Reads the header of the PROXY protocol in front of each datagram from a trusted proxy, for `UdpServer::source`.
///
/// Made by [`TrustedProxies::proxy_protocol_datagrams`]. In your own loop, call [`read_client`](DatagramSource::read_client).
#[derive(Clone, Debug)]
pub struct ProxyProtocolDatagrams {
    policy: Policy,
}

impl TrustedProxies {
    /// Reads the PROXY protocol from the datagrams of trusted peers, each of which begins with a header, as dnsdist sends
    /// them.
    ///
    /// The labels and the peer of the `Datagram` are the client's. The header is not in its payload. The answer goes to the
    /// proxy, without a header.
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
    /// # async fn answer(_: Datagram) -> Result<Option<bytes::Bytes>, Infallible> { Ok(None) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// let proxies = TrustedProxies::new(["10.0.0.0/8", "::1"])?;
    /// let socket = SocketOptions::dual_stack().bind_udp("[::]:0".parse()?)?;
    /// let server = UdpServer::new(socket)?
    ///     .source(proxies.proxy_protocol_datagrams())
    ///     .serve(service_fn(answer));
    /// # server.with_graceful_shutdown(async {}).await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn proxy_protocol_datagrams(&self) -> ProxyProtocolDatagrams {
        ProxyProtocolDatagrams {
            policy: Policy::new(self.clone()),
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
    /// [fallback](Self::fallback), and are [counted](super::REJECTED) as `missing`.
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
        if !self.policy.proxies.contains(peer.ip()) {
            if protocol::is_header(payload) == Some(true) {
                self.policy.untrusted(peer.into());
            }
            return Ok(DatagramClient::Peer);
        }
        let header = protocol::split(payload);
        if header.is_ok() && protocol::is_header(payload) == Some(true) {
            self.policy.second_header(Some(peer));
        }
        let reason = match header {
            Ok(Header::Client(client)) => return Ok(DatagramClient::Behind(client)),
            Ok(Header::Local) => return Ok(DatagramClient::Peer),
            Ok(Header::Unknown) => Rejection::Unknown,
            Err(reason) => reason,
        };
        let client = |fallback| match fallback {
            Fallback::Peer => DatagramClient::Peer,
            Fallback::Unknown => DatagramClient::Unknown,
        };
        let fallback = self.policy.fallback_for(reason, Some(peer));
        fallback.map(client).map_err(client)
    }
}
