//! The datagrams that the kernel dropped at a socket.

use std::{
    fmt, io,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use crate::ready::{Ready, UdpSocket};

/// Reads how many datagrams the kernel dropped because the socket's receive buffer was full. Made by
/// [`DatagramSocket::drops`](crate::DatagramSocket::drops).
///
/// The number is the last value of `SO_MEMINFO` ([`socket(7)`]), which `/proc/net/udp` shows as `drops`. It includes
/// datagrams with a wrong checksum, and those for which all of UDP had no memory left. A larger receive buffer or faster
/// handlers help.
///
/// It does not keep the socket open, except while [`take`](Self::take) runs.
///
/// [`socket(7)`]: https://man7.org/linux/man-pages/man7/socket.7.html
#[derive(Clone)]
pub struct Drops {
    socket: Weak<Ready>,
    counted: Arc<Mutex<u32>>,
}

impl Drops {
    pub(crate) fn new(socket: &Arc<Ready>, counted: &Arc<Mutex<u32>>) -> Self {
        Self {
            socket: Arc::downgrade(socket),
            counted: Arc::clone(counted),
        }
    }

    /// How many datagrams were dropped since the last call of this or another `Drops` of the socket. `None` after the
    /// socket is closed, and on systems other than Linux.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell: `SO_MEMINFO` needs Linux 4.12.
    pub fn take(&self) -> io::Result<Option<u32>> {
        let Some(socket) = self.socket.upgrade() else {
            return Ok(None);
        };
        // Locked while reading, so that no number is compared with a later one.
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(read(socket.socket())?.map(|drops| {
            // The kernel counts in 32 bits.
            let new = drops.wrapping_sub(*counted);
            *counted = drops;
            new
        }))
    }
}

impl fmt::Debug for Drops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drops").finish_non_exhaustive()
    }
}

#[cfg(target_os = "linux")]
fn read(socket: &UdpSocket) -> io::Result<Option<u32>> {
    use nix::{
        libc,
        sys::socket::{getsockopt, sockopt::GetStruct},
    };

    // `SK_MEMINFO_VARS` and `SK_MEMINFO_DROPS` of <linux/sock_diag.h>. A later kernel returns as many as are asked for.
    const VALUES: usize = 9;
    const DROPS: usize = 8;

    #[derive(Clone, Copy)]
    struct MemInfo;

    nix::getsockopt_impl!(
        MemInfo,
        libc::SOL_SOCKET,
        libc::SO_MEMINFO,
        [u32; VALUES],
        GetStruct<[u32; VALUES]>
    );

    Ok(Some(getsockopt(socket, MemInfo)?[DROPS]))
}

#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "on Linux it can fail")]
fn read(_: &UdpSocket) -> io::Result<Option<u32>> {
    Ok(None)
}
