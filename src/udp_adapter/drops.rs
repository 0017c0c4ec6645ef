use std::io;

use dualstack_udp::{DatagramSocket, Drops};
use metrics::{counter, describe_counter};

use crate::scope::Scope;

/// Counts the datagrams that the kernel dropped because the socket's receive buffer was full. See [`Drops`] for the
/// datagrams that are included.
///
/// The counter is `…_socket_drops_total`, with the prefix of the server and the labels of its binding. It has no labels
/// of a client, because the kernel does not tell whose datagrams they were. The number is read when
/// [`update`](Self::update) is called, for example by the handler of `/metrics` before it renders.
/// [`Serve::socket_drops`](super::Serve::socket_drops) makes one for a server.
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
#[derive(Clone, Debug)]
pub struct SocketDrops {
    drops: Drops,
    name: String,
    scope: Scope,
}

impl SocketDrops {
    /// Counts the drops of `socket` as `{prefix}_socket_drops_total` in `scope`. Usually that is
    /// [`ClientScopes::server`](crate::ClientScopes::server).
    #[must_use]
    pub fn new(socket: &DatagramSocket, prefix: &str, scope: Scope) -> Self {
        Self {
            drops: socket.drops(),
            name: format!("{prefix}_socket_drops_total"),
            scope,
        }
    }

    /// Asks the kernel, and counts the datagrams that it dropped since the last time, by this or another `SocketDrops` of
    /// the socket. Does nothing after the socket is closed.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell: `SO_MEMINFO` needs Linux 4.12.
    pub fn update(&self) -> io::Result<()> {
        if let Some(drops) = self.drops.take()? {
            self.scope.run(|| {
                describe_counter!(
                    self.name.clone(),
                    "Datagrams that the kernel dropped because the socket's receive buffer was full. Should stay at 0."
                );
                counter!(self.name.clone()).increment(drops.into());
            });
        }
        Ok(())
    }
}
