use std::{net::SocketAddr, sync::Arc};

use super::{fallback::Fallback, reason::Rejection, rejection::Rejections, trust::TrustedProxies};
use crate::client::Client;

/// Which clients of the PROXY protocol are served although their address is missing, and with whose labels. Clones share
/// the limit of their warnings.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub(super) proxies: TrustedProxies,
    pub(super) fallback: Fallback,
    /// Whether a trusted peer may leave the header out.
    pub(super) is_optional: bool,
    rejections: Arc<Rejections>,
}

impl Policy {
    pub(super) fn new(proxies: TrustedProxies) -> Self {
        Self {
            proxies,
            fallback: Fallback::default(),
            is_optional: false,
            rejections: Arc::new(Rejections::new("proxy-protocol".into())),
        }
    }

    pub(super) fn untrusted(&self, peer: Client) {
        self.rejections.untrusted(peer, "a PROXY protocol header");
    }

    /// Counts a header behind the header of a trusted peer. It is not read, because the client may have sent it.
    #[cold]
    pub(super) fn second_header(&self, peer: Option<SocketAddr>) {
        self.count(Rejection::Contradictory, peer);
    }

    fn count(&self, reason: Rejection, peer: Option<SocketAddr>) {
        let peer = peer.map(|peer| peer.ip());
        let advice = || advice(reason).to_owned();
        self.rejections.count(reason, self.fallback, peer, advice);
    }

    /// Counts a header of a trusted peer that has no address of a client. Returns the fallback, as an error if the client
    /// must not be served.
    #[cold]
    pub(super) fn fallback_for(
        &self,
        reason: Rejection,
        peer: Option<SocketAddr>,
    ) -> Result<Fallback, Fallback> {
        if (reason, self.fallback) != (Rejection::Unknown, Fallback::Peer) {
            self.count(reason, peer);
        }
        match reason {
            Rejection::Unknown => Ok(self.fallback),
            Rejection::Missing if self.is_optional => Ok(self.fallback),
            _ => Err(self.fallback),
        }
    }
}

fn advice(reason: Rejection) -> &'static str {
    match reason {
        Rejection::Unknown => {
            "the proxy does not know it, or the client has no IP address, such as a client on a Unix socket; if these are \
             health checks of the proxy, choose `Fallback::Peer`"
        }
        Rejection::Missing => {
            "the trusted peer sent something else than a PROXY protocol header; let the proxy send one \
             (`proxy_protocol on` in nginx, `send-proxy-v2` in HAProxy), or take the peer out of `TrustedProxies` if it \
             is a client, or make the header `optional`"
        }
        Rejection::Contradictory => {
            "the trusted peer sent two PROXY protocol headers, of which the first counts; if a proxy in front of the peer \
             sends one as well, let the peer read it (`accept-proxy` in HAProxy, `listen … proxy_protocol` in nginx), or \
             else the client has made it up"
        }
        Rejection::TimedOut | Rejection::Closed => {
            "the trusted peer sent no complete PROXY protocol header; if this is a health check, let the proxy send one \
             there too (`check-send-proxy` in HAProxy)"
        }
        Rejection::Oversized => {
            "the trusted peer sent a PROXY protocol header that is longer than 107 bytes in version 1, or 8 KiB in \
             version 2; let the proxy add less to it (`proxy-v2-options` in HAProxy)"
        }
        _ => {
            "the trusted peer sent a PROXY protocol header that is neither version 1 nor 2, or is cut off; check the \
             version that the proxy sends"
        }
    }
}
