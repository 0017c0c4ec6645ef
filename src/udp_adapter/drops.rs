//! What the kernel dropped at a socket.

use std::{
    fmt,
    io::{self, ErrorKind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use metrics::{Counter, counter, describe_counter};
use tokio::net::UdpSocket;

use crate::scope::Scope;

/// Counts the datagrams that the kernel dropped because the socket's receive buffer was full. See
/// [`Serve::socket_drops`](super::Serve::socket_drops).
///
/// The counter is `…_socket_drops_total`, with the server's prefix and the labels of its binding. It has no labels of a
/// client, because the kernel does not tell whose datagrams they were. The number is that of `/proc/net/udp` and `udp6`,
/// read when [`update`](Self::update) is called, for example by the handler of `/metrics` before it renders. It includes
/// datagrams with a wrong checksum, and those for which all of UDP had no memory left. A larger receive buffer or faster
/// handlers help.
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
/// On systems other than Linux nothing is counted.
#[derive(Clone)]
pub struct SocketDrops {
    socket: Arc<Socket>,
    scope: Scope,
    name: String,
}

impl SocketDrops {
    pub(super) fn new(socket: &SocketId, scope: Scope, prefix: &str) -> Self {
        Self {
            socket: Arc::clone(&socket.0),
            scope,
            name: format!("{prefix}_socket_drops_total"),
        }
    }

    /// Asks the kernel, and counts what it dropped since the last time. Does nothing after the server is gone.
    ///
    /// # Errors
    ///
    /// If `/proc/net` cannot be read or does not have the socket, because the process has changed its network namespace.
    pub fn update(&self) -> io::Result<()> {
        // Held while reading, so that no reading is counted after a later one.
        let mut last = self.socket.last.lock().unwrap_or_else(PoisonError::into_inner);
        let found = self.socket.read();
        // Checked after reading: while the socket is open, its inode is not another's.
        if !self.socket.is_open.load(Ordering::Acquire) {
            return Ok(());
        }
        let Some(drops) = found? else {
            return Ok(());
        };
        // The kernel counts in 32 bits.
        let new = drops.wrapping_sub(*last);
        *last = drops;
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
            .field("inode", &self.socket.inode)
            .finish_non_exhaustive()
    }
}

/// Held by the owner of the socket, which drops it before the socket.
pub(super) struct SocketId(Arc<Socket>);

struct Socket {
    inode: Option<u64>,
    is_ipv6: bool,
    is_open: AtomicBool,
    /// What the kernel had at the last reading.
    last: Mutex<u32>,
}

impl SocketId {
    pub(super) fn of(socket: &UdpSocket) -> io::Result<Self> {
        Ok(Self(Arc::new(Socket {
            inode: inode(socket)?,
            is_ipv6: socket.local_addr()?.is_ipv6(),
            is_open: AtomicBool::new(true),
            last: Mutex::new(0),
        })))
    }
}

impl Drop for SocketId {
    fn drop(&mut self) {
        self.0.is_open.store(false, Ordering::Release);
    }
}

impl Socket {
    fn read(&self) -> io::Result<Option<u32>> {
        let Some(inode) = self.inode else {
            return Ok(None);
        };
        let path = if self.is_ipv6 {
            "/proc/thread-self/net/udp6"
        } else {
            "/proc/thread-self/net/udp"
        };
        let table = std::fs::read_to_string(path)?;
        match find(&table, inode) {
            Some(drops) => Ok(Some(drops)),
            None => Err(io::Error::new(
                ErrorKind::NotFound,
                format!("{path} has no socket with the inode {inode}"),
            )),
        }
    }
}

/// The drops of a socket, in the kernel's table.
fn find(table: &str, inode: u64) -> Option<u32> {
    const INODE: usize = 9;
    const DROPS: usize = 12;

    let is_it = |line: &&str| {
        let mut columns = line.split_ascii_whitespace();
        columns.nth(INODE).and_then(|column| column.parse().ok()) == Some(inode)
    };
    // Some kernels print the column with a sign.
    let line = table.lines().skip(1).find(is_it)?;
    let drops: i64 = line.split_ascii_whitespace().nth(DROPS)?.parse().ok()?;
    u32::try_from(drops)
        .ok()
        .or_else(|| i32::try_from(drops).ok().map(i32::cast_unsigned))
}

#[cfg(target_os = "linux")]
fn inode(socket: &UdpSocket) -> io::Result<Option<u64>> {
    use std::{
        fs::File,
        os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    };

    let file = File::from(socket.as_fd().try_clone_to_owned()?);
    Ok(Some(file.metadata()?.ino()))
}

#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "on Linux it can fail")]
fn inode(_: &UdpSocket) -> io::Result<Option<u64>> {
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_found_by_its_inode() {
        let table = "\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
 1155: 00000000000000000000000000000000:1B39 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 36342 2 0000000000000000 0
 2884: 00000000000000000000000000000000:2202 00000000000000000000000000000000:0000 07 00000000:00000300 00:00000000 00000000     0        0 136342 2 0000000000000000 4294967295
 2885: 00000000000000000000000000000000:2203 00000000000000000000000000000000:0000 07 00000000:00000300 00:00000000 00000000     0        0 136343 2 0000000000000000 -1
";
        assert_eq!(find(table, 36342), Some(0));
        assert_eq!(find(table, 136_342), Some(u32::MAX));
        assert_eq!(find(table, 136_343), Some(u32::MAX));
        assert_eq!(find(table, 6342), None);
        assert_eq!(find("", 1), None);
    }
}
