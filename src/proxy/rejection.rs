use std::{fmt, net::IpAddr, time::Duration};

use metrics::{SharedString, counter};

use crate::{log::LogLimit, scope::Scope};

/// Why the address that a proxy, or somebody who is not one, gave for a client was not used.
///
/// The value of the label `reason` of the counter [`REJECTED`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// `missing`: a trusted proxy gave no address.
    Missing,
    /// `malformed`: what a trusted proxy gave is no address.
    Malformed,
    /// `oversized`: longer than any address, or a list or header of which only a part is read.
    Oversized,
    /// `contradictory`: two addresses where there can be one.
    Contradictory,
    /// `unknown`: the proxy says that it does not know the address.
    Unknown,
    /// `obfuscated`: the proxy hides the address ([RFC 7239 §6.3]).
    ///
    /// [RFC 7239 §6.3]: https://www.rfc-editor.org/rfc/rfc7239#section-6.3
    Obfuscated,
    /// `untrusted`: a peer that is not a trusted proxy gave an address. The peer itself is the client.
    Untrusted,
    /// `timed_out`: the header of the PROXY protocol was not complete in time.
    TimedOut,
    /// `closed`: the connection ended, or failed, before the header of the PROXY protocol was complete.
    Closed,
}

/// The name of the counter of addresses that were not used. Its labels are `source` and `reason`.
///
/// `source` is the name of the header in lower case, or `proxy-protocol`. `reason` is the name of a [`Reason`].
pub const REJECTED: &str = "client_address_rejected_total";

const REASONS: usize = Reason::Closed as usize + 1;

impl Reason {
    /// The value of the label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Oversized => "oversized",
            Self::Contradictory => "contradictory",
            Self::Unknown => "unknown",
            Self::Obfuscated => "obfuscated",
            Self::Untrusted => "untrusted",
            Self::TimedOut => "timed_out",
            Self::Closed => "closed",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How often one reason is logged.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Counts what one source rejects, and logs it at most once a minute for each reason.
#[derive(Debug)]
pub(super) struct Rejections {
    source: SharedString,
    /// By reason.
    limits: [LogLimit; REASONS],
}

impl Rejections {
    pub(super) fn new(source: SharedString) -> Self {
        metrics::describe_counter!(
            REJECTED,
            "Addresses of clients, given by proxies, that were not used."
        );
        Self {
            source,
            limits: [const { LogLimit::new(WARN_EVERY) }; REASONS],
        }
    }

    /// `advice` says what the operator can do about it. It is only called if it is logged.
    #[cold]
    pub(super) fn count(&self, reason: Reason, peer: Option<IpAddr>, advice: impl FnOnce() -> String) {
        // What is read in the scope of a client is counted with the same labels.
        Scope::none().run(|| {
            counter!(REJECTED, "source" => self.source.clone(), "reason" => reason.as_str()).increment(1);
        });
        if let Some(unlogged) = self.limits[reason as usize].should_log() {
            let peer = peer.map(|peer| tracing::field::display(peer.to_canonical()));
            tracing::warn!(
                source = %self.source,
                %reason,
                peer,
                unlogged,
                "the address of a client was not used: {}",
                advice()
            );
        }
    }
}
