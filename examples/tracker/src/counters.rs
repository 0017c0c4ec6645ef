//! The names and descriptions of the tracker's counters.

use metrics::describe_counter;

/// The prefix of all UDP counters, also of `UdpServer`'s own.
pub(crate) const UDP_PREFIX: &str = "udp_tracker_server";
pub(crate) const UDP_ACCEPTED: &str = "udp_tracker_server_requests_accepted_total";
/// Counted by `UdpServer`.
pub(crate) const UDP_ABORTED: &str = "udp_tracker_server_requests_aborted_total";
pub(crate) const UDP_BANNED: &str = "udp_tracker_server_requests_banned_total";
pub(crate) const UDP_ERRORS: &str = "udp_tracker_server_errors_total";
pub(crate) const HTTP_RECEIVED: &str = "http_tracker_core_requests_received_total";
pub(crate) const HTTP_ERRORS: &str = "http_tracker_core_errors_total";

/// The swarm's counters get no client labels: `main.rs` excludes them from the scopes.
pub(crate) const SWARM_PREFIX: &str = "swarm_coordination_registry_";
pub(crate) const TORRENTS_ADDED: &str = "swarm_coordination_registry_torrents_added_total";
pub(crate) const ANNOUNCES_REFUSED: &str = "swarm_coordination_registry_announces_refused_total";
pub(crate) const DOWNLOADS: &str = "tracker_core_persistent_torrents_downloads_total";

pub(crate) fn describe() {
    describe_counter!(
        UDP_ACCEPTED,
        "Valid UDP requests: a connect, or an announce or scrape with a valid connection ID."
    );
    describe_counter!(
        UDP_BANNED,
        "Announces and scrapes without a valid connection ID from banned addresses, which are not answered."
    );
    describe_counter!(
        UDP_ERRORS,
        "Datagrams that were not valid requests, whether they were answered with an error or ignored."
    );
    describe_counter!(
        HTTP_RECEIVED,
        "Requests to an HTTP endpoint of the tracker, valid or not."
    );
    describe_counter!(
        HTTP_ERRORS,
        "Requests to an HTTP endpoint of the tracker that were answered with a failure reason."
    );
    describe_counter!(TORRENTS_ADDED, "Torrents that were added to the swarm.");
    describe_counter!(
        ANNOUNCES_REFUSED,
        "Announces that were refused because the swarm, or its share for one address, had no room for another torrent or \
         peer."
    );
    describe_counter!(
        DOWNLOADS,
        "Downloads that peers completed, each counted once for each address and port of the peer: \
         a client that announces over IPv4 and over IPv6 counts twice."
    );
}
