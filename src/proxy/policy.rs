//! What becomes of a client whose address the PROXY protocol did not give.

use std::{net::SocketAddr, sync::Arc};

use super::{Fallback, Reason, rejection::Rejections};

/// Which of these clients are served, and with whose labels. Clones share the limit of their warnings.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub(super) fallback: Fallback,
    /// Whether a trusted peer may leave the header out.
    pub(super) is_optional: bool,
    rejections: Arc<Rejections>,
}

impl Policy {
    pub(super) fn new() -> Self {
        Self {
            fallback: Fallback::default(),
            is_optional: false,
            rejections: Arc::new(Rejections::new("proxy-protocol".into())),
        }
    }

    /// Counts what a trusted peer sent instead of an address. Returns whose labels the client has, as an error if it must
    /// not be served.
    pub(super) fn instead(&self, reason: Reason, peer: Option<SocketAddr>) -> Result<Fallback, Fallback> {
        self.reject(reason, peer);
        match reason {
            Reason::Unknown => Ok(self.fallback),
            Reason::Missing if self.is_optional => Ok(self.fallback),
            _ => Err(self.fallback),
        }
    }

    /// Counts what a peer sent.
    #[cold]
    pub(super) fn reject(&self, reason: Reason, peer: Option<SocketAddr>) {
        let peer = peer.map(|peer| peer.ip());
        self.rejections.count(reason, peer, || {
            let advice = match reason {
                Reason::Untrusted if peer.is_none() => {
                    "the peer on a Unix socket sent a PROXY protocol header, but is not trusted; if only your proxy can connect \
                     to the socket, add \"unix:\" to `TrustedProxies`"
                }
                Reason::Untrusted => {
                    "the peer sent a PROXY protocol header, but is not a trusted proxy; if it is your proxy, add its address to \
                     `TrustedProxies`"
                }
                Reason::Unknown => {
                    "the proxy does not know it, or it is no IP address, such as that of a client on a Unix socket"
                }
                Reason::Missing => {
                    "the trusted peer sent something else than a PROXY protocol header; let the proxy send one \
                     (`proxy_protocol on` in nginx, `send-proxy-v2` in HAProxy), or take the peer out of `TrustedProxies` \
                     if it is a client, or make the header `optional`"
                }
                Reason::TimedOut | Reason::Closed => {
                    "the trusted peer sent no complete PROXY protocol header; if this is a health check, let the proxy \
                     send one there too (`check-send-proxy` in HAProxy)"
                }
                Reason::Oversized => {
                    "the trusted peer sent a PROXY protocol header that is longer than 107 bytes in version 1, or 8 KiB in \
                     version 2; let the proxy add less to it (`proxy-v2-options` in HAProxy)"
                }
                _ => {
                    "the trusted peer sent a PROXY protocol header that is neither version 1 nor 2, or is cut off; check what \
                     the proxy sends"
                }
            };
            advice.to_owned()
        });
    }
}
