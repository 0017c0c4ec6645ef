use std::{error::Error, fmt, io, net::SocketAddr};

/// The reason why a socket could not be bound, and a remedy where the cause is known.
///
/// The message has the protocol, the address, the system's error, and the hint if there is one:
///
/// ```
/// use dualstack_metrics::SocketOptions;
///
/// # if !cfg!(target_os = "linux") { return Ok(()) }
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// # let _entered = runtime.enter();
/// let holder = std::net::UdpSocket::bind("127.0.0.1:0")?;
/// let address = holder.local_addr()?;
///
/// let error = SocketOptions::dual_stack().bind_udp(address).unwrap_err();
/// assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
/// assert_eq!(
///     error.to_string(),
///     format!("cannot bind UDP {address}: Address already in use (os error 98)")
/// );
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// It converts to an [`io::Error`] with the same kind and message.
#[derive(Debug)]
pub struct BindError {
    transport: Transport,
    address: SocketAddr,
    step: Step,
    kind: io::ErrorKind,
    source: io::Error,
    hint: Option<String>,
}

impl BindError {
    pub(super) fn new(
        transport: Transport,
        address: SocketAddr,
        failure: Failure,
        hint: Option<String>,
    ) -> Self {
        Self {
            transport,
            address,
            step: failure.step,
            kind: failure.error.kind(),
            source: failure.error,
            hint,
        }
    }

    pub(super) fn with_kind(self, kind: io::ErrorKind) -> Self {
        Self { kind, ..self }
    }

    /// The kind of the system's error, or [`Unsupported`](io::ErrorKind::Unsupported) if the system does not have IPv6
    /// sockets, dual-stack sockets, or a requested option.
    #[must_use]
    pub const fn kind(&self) -> io::ErrorKind {
        self.kind
    }

    /// The system's error. The message of this error contains it, so [`source`](Error::source) returns the
    /// source of the system's error.
    #[must_use]
    pub const fn io_error(&self) -> &io::Error {
        &self.source
    }

    /// The address that could not be bound: the requested one, or the `0.0.0.0` that it fell back to.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = match self.transport {
            Transport::Tcp => "TCP",
            Transport::Udp => "UDP",
        };
        write!(f, "cannot bind {transport} {}: ", self.address)?;
        match self.step {
            Step::Create => f.write_str("cannot create a socket: ")?,
            Step::Set(option) => write!(f, "cannot set {option}: ")?,
            Step::Bind | Step::Listen => {}
            Step::Register => f.write_str("cannot register the socket with tokio: ")?,
        }
        write!(f, "{}", self.source)?;
        if let Some(hint) = &self.hint {
            write!(f, ": {hint}")?;
        }
        Ok(())
    }
}

impl Error for BindError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.source()
    }
}

impl From<BindError> for io::Error {
    fn from(error: BindError) -> Self {
        Self::new(error.kind, error)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp,
    Udp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Create,
    Set(&'static str),
    Bind,
    Listen,
    Register,
}

#[derive(Debug)]
pub(super) struct Failure {
    pub(super) step: Step,
    pub(super) error: io::Error,
}

pub(super) fn during(step: Step) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure { step, error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_is_the_source_of_the_error_in_the_message() {
        #[derive(Debug)]
        struct Outer(fmt::Error);

        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("outer")
            }
        }

        impl Error for Outer {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }

        let failure = during(Step::Bind)(io::Error::new(io::ErrorKind::AddrInUse, Outer(fmt::Error)));
        let address = SocketAddr::from(([127, 0, 0, 1], 6969));
        let error = BindError::new(Transport::Udp, address, failure, Some("a hint".into()));
        let (message, behind) = (
            "cannot bind UDP 127.0.0.1:6969: outer: a hint",
            fmt::Error.to_string(),
        );
        assert_eq!(error.to_string(), message);
        assert_eq!(error.source().map(ToString::to_string), Some(behind.clone()));

        let error = io::Error::from(error);
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(error.to_string(), message);
        assert_eq!(error.source().map(ToString::to_string), Some(behind));
    }
}
