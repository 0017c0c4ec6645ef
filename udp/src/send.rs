//! Sends datagrams along their routes.

#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod one_by_one;

use std::io::{self, ErrorKind};

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) use self::linux::{MAX_BATCH, Segmentation, probe, send_from, send_run};
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) use self::one_by_one::{MAX_BATCH, Segmentation, send_from, send_run};

/// Whether the error may be about the source. It may also be about the destination.
pub(crate) fn is_about_the_source(error: &io::Error) -> bool {
    use ErrorKind::{AddrNotAvailable, HostUnreachable, InvalidInput, NetworkUnreachable};

    matches!(
        error.kind(),
        AddrNotAvailable | HostUnreachable | InvalidInput | NetworkUnreachable
    )
}
