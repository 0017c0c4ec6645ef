/// Whose labels a request has if a trusted proxy did not give the address of its client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fallback {
    /// The labels of an unknown client, so that no client is counted in the family of a proxy.
    #[default]
    Unknown,
    /// The labels of the peer, which is the proxy. Fits if the proxy also sends requests of its own, such as health
    /// checks. `PROXY UNKNOWN`, which some send then, is not [counted](super::REJECTED) as rejected, and a missing address
    /// is logged once.
    Peer,
}
