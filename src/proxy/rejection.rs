use std::{fmt::Display, net::IpAddr, time::Duration};

use metrics::{SharedString, counter};

use super::{fallback::Fallback, reason::Rejection};
use crate::{client::Client, log::LogLimit, scope::Scope};

/// The name of the counter of addresses that were not used. Its labels are `source` and `reason`.
///
/// `source` is the name of the header in lower case, or `proxy-protocol`.
///
/// | `reason` | meaning |
/// |---|---|
/// | `missing` | a trusted proxy gave no address |
/// | `malformed` | the text or the header of a trusted proxy has no address in it, or two readings of different families |
/// | `oversized` | longer than any address, or a list or header of which only a part is read |
/// | `contradictory` | two addresses where there can be one, or two headers of the PROXY protocol |
/// | `unknown` | the proxy does not know the address |
/// | `obfuscated` | the proxy hides the address ([RFC 7239 §6.3]) |
/// | `untrusted` | a peer that is not a trusted proxy gave an address; the peer itself is the client |
/// | `timed_out` | the header of the PROXY protocol was not complete in time |
/// | `closed` | the connection ended, or failed, in the header of the PROXY protocol. A probe that only connects is not counted |
///
/// It is a counter of the [`metrics`] crate only, and does not reach OpenTelemetry.
///
/// [RFC 7239 §6.3]: https://www.rfc-editor.org/rfc/rfc7239#section-6.3
pub const REJECTED: &str = "client_address_rejected_total";

/// How often one reason is logged.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Counts the addresses that one source rejects, and logs them at most once a minute for each reason.
#[derive(Debug)]
pub(super) struct Rejections {
    source: SharedString,
    /// By reason.
    limits: [LogLimit; Rejection::COUNT],
    of_own_requests: LogLimit,
}

impl Rejections {
    pub(super) fn new(source: SharedString) -> Self {
        metrics::describe_counter!(
            REJECTED,
            "Addresses of clients, given by proxies, that were not used."
        );
        Self {
            source,
            limits: [const { LogLimit::new(WARN_EVERY) }; Rejection::COUNT],
            of_own_requests: LogLimit::new(Duration::MAX),
        }
    }

    /// Counts an address in `sent` of an untrusted peer.
    #[cold]
    pub(super) fn untrusted(&self, peer: Client, sent: impl Display) {
        let ip = peer.ip();
        self.count(Rejection::Untrusted, Fallback::Unknown, ip, || {
            if peer == Client::UNIX {
                format!(
                    "the peer on a Unix socket sent {sent}, but is not trusted; if only your proxy can connect to the \
                     socket, add \"unix:\" to `TrustedProxies`"
                )
            } else if ip.is_none() {
                format!("the peer sent {sent}, but only its class is known, so it cannot be a trusted proxy")
            } else {
                format!(
                    "the peer sent {sent}, but is not a trusted proxy; if it is your proxy, add its address to \
                     `TrustedProxies`"
                )
            }
        });
    }

    /// `advice` names the fix. It is only called for a warning.
    #[cold]
    pub(super) fn count(
        &self,
        reason: Rejection,
        fallback: Fallback,
        peer: Option<IpAddr>,
        advice: impl FnOnce() -> String,
    ) {
        // Outside of scopes, so that the labels do not depend on the scope in which the address is read.
        Scope::none().run(|| {
            counter!(REJECTED, "source" => self.source.clone(), "reason" => reason.as_str()).increment(1);
        });
        let limit = match (reason, fallback) {
            // Health checks go on for ever.
            (Rejection::Missing, Fallback::Peer) => &self.of_own_requests,
            _ => &self.limits[reason as usize],
        };
        if let Some(unlogged) = limit.should_log() {
            let peer = peer.map(|peer| tracing::field::display(peer.to_canonical()));
            tracing::warn!(
                source = %self.source,
                reason = %reason.as_str(),
                peer,
                unlogged,
                "the address of a client was not used: {}",
                advice()
            );
        }
    }
}
