/// Why the address of a client, given by a proxy or by an untrusted peer, was not used. The value of the label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejection {
    Missing,
    Malformed,
    Oversized,
    Contradictory,
    Unknown,
    Obfuscated,
    Untrusted,
    TimedOut,
    Closed,
}

impl Rejection {
    pub(super) const COUNT: usize = Self::Closed as usize + 1;

    pub(super) const fn as_str(self) -> &'static str {
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
