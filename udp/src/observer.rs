use std::{io, time::Duration};

use crate::datagram::Datagram;

/// Follows each datagram of a server from its arrival to its outcome.
///
/// Each datagram that [`received`](Self::received) is given has exactly one outcome.
pub trait Observer {
    /// A value that accompanies a datagram until its outcome.
    type Tag: Copy + PartialEq;

    /// A datagram was received. Returns its tag, and may change the datagram that the service gets. The answer goes to the
    /// peer that it came from. A panic here ends the server.
    ///
    /// # Errors
    ///
    /// If the service must not get the datagram. Its outcome is [`Outcome::Unanswered`] then.
    fn received(&mut self, datagram: &mut Datagram) -> Result<Self::Tag, Self::Tag>;

    /// Several datagrams with equal tags have the same outcome. More than one only if they are
    /// [answered](Outcome::Answered).
    fn outcome(&mut self, tag: Self::Tag, outcome: Outcome<'_>, datagrams: u64);

    /// The server has a problem that is not about one datagram.
    fn trouble(&mut self, trouble: Trouble<'_>);
}

/// The outcome of a datagram.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// The socket took the answer. It may be lost after that, for example by a full queueing discipline or if a neighbour
    /// cannot be resolved.
    Answered,
    /// The service chose not to answer, the [observer](Observer::received) kept the datagram from it, or the
    /// datagram [cannot be answered](crate#addresses).
    Unanswered,
    /// The handler was dropped before it was done, or the datagram was left when the server ended.
    Aborted,
    /// The handler failed with this message, or the service did.
    HandlerFailed(&'a str),
    /// The handler panicked.
    HandlerPanicked,
    /// The socket did not take the answer.
    SendFailed {
        /// The error of the system.
        error: &'a io::Error,
        /// The length of the answer in bytes.
        length: usize,
    },
    /// The answer was dropped, because the socket [took none](crate#a-socket-that-takes-no-answers).
    SendBlocked,
}

/// A problem that is not about one datagram.
#[derive(Clone, Copy, Debug)]
pub enum Trouble<'a> {
    /// The socket could not receive. The server tries again.
    ReceiveFailed(&'a io::Error),
    /// The socket has taken no answer for one more second.
    Stalled {
        /// How long it has taken none.
        blocked: Duration,
        /// How many answers wait.
        waiting: usize,
    },
    /// More than [this many](crate::Server::max_in_flight) handlers wait. The oldest is aborted.
    Overload {
        /// The limit.
        limit: usize,
    },
}
