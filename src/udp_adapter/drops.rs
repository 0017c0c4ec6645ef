//! What the kernel dropped at a socket.

use std::{
    fmt, io,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use super::ready::{Ready, UdpSocket};
use crate::scope::Scope;
use metrics::{Counter, counter, describe_counter};

/// Counts the datagrams that the kernel dropped because the socket's receive buffer was full. Made by
/// [`Serve::socket_drops`](super::Serve::socket_drops) and
/// [`DatagramSocket::socket_drops`](super::DatagramSocket::socket_drops).
///
/// The counter is `…_socket_drops_total`, with the prefix of the server and the labels of its binding. It has no labels
/// of a client, because the kernel does not tell whose datagrams they were. The number is read when
/// [`update`](Self::update) is called, for example by the handler of `/metrics` before it renders. It is the last value
/// of `SO_MEMINFO` ([`socket(7)`]), which `/proc/net/udp` shows as `drops`. It includes datagrams with a wrong checksum,
/// and those for which all of UDP had no memory left. A larger receive buffer or faster handlers help.
///
/// ```
/// # use bytes::Bytes;
/// # use dualstack_metrics::{Datagram, SocketOptions, UdpServer};
/// # use std::convert::Infallible;
/// # let answer = tower::service_fn(|_: Datagram| async { Ok::<_, Infallible>(None::<Bytes>) });
/// # let metrics = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder().handle();
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let socket = SocketOptions::dual_stack().bind_udp("[::]:0".parse().unwrap())?;
/// let server = UdpServer::new(socket)?.serve(answer);
/// let drops = server.socket_drops();
/// let render = move || {
///     drops.update()?;
///     Ok::<_, std::io::Error>(metrics.render())
/// };
/// # render()?;
/// # drop(server);
/// # Ok::<(), std::io::Error>(())
/// # })?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// It does not keep the socket open, except while `update` runs. On systems other than Linux it counts nothing.
///
/// [`socket(7)`]: https://man7.org/linux/man-pages/man7/socket.7.html
#[derive(Clone)]
pub struct SocketDrops {
    socket: Weak<Ready>,
    counted: Arc<Mutex<u32>>,
    scope: Scope,
    name: String,
}

impl SocketDrops {
    /// `counted` is how many of the drops of `socket` have been counted.
    pub(super) fn new(socket: &Arc<Ready>, counted: &Arc<Mutex<u32>>, scope: Scope, prefix: &str) -> Self {
        Self {
            socket: Arc::downgrade(socket),
            counted: Arc::clone(counted),
            scope,
            name: format!("{prefix}_socket_drops_total"),
        }
    }

    /// Asks the kernel, and counts what it dropped since the last time, by this or another `SocketDrops` of the socket.
    /// Does nothing after the socket is closed.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell: `SO_MEMINFO` needs Linux 4.12.
    pub fn update(&self) -> io::Result<()> {
        let Some(socket) = self.socket.upgrade() else {
            return Ok(());
        };
        // Locked while reading, so that no number is compared with a later one. Not while counting, because a recorder
        // may call this too.
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(drops) = read(socket.socket())? else {
            return Ok(());
        };
        // The kernel counts in 32 bits.
        let new = drops.wrapping_sub(*counted);
        *counted = drops;
        drop(counted);
        self.scope.run(|| self.counter().increment(new.into()));
        Ok(())
    }

    fn counter(&self) -> Counter {
        describe_counter!(
            self.name.clone(),
            "Datagrams that the kernel dropped because the socket's receive buffer was full. Should stay at 0."
        );
        counter!(self.name.clone())
    }
}

impl fmt::Debug for SocketDrops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SocketDrops")
            .field("name", &self.name)
            .finish_non_exhaustive()
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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::cell::Cell;

    use test_support::CountersOf;
    use tokio::net::UdpSocket;

    use super::*;
    use crate::udp_adapter::DatagramSocket;

    #[tokio::test]
    async fn nothing_is_locked_while_drops_are_counted() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let socket = DatagramSocket::new(socket).unwrap();
        let drops = socket.socket_drops("s", Scope::none());
        let (again, times) = (drops.clone(), Cell::new(0));
        let recorder = CountersOf::new(|_, _| {
            times.set(times.get() + 1);
            if times.get() == 1 {
                again.update().unwrap();
            }
            Counter::noop()
        });
        metrics::with_local_recorder(&recorder, || drops.update().unwrap());
        assert_eq!(times.get(), 2);
    }
}
