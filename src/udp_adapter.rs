//! Serves a tower [`Service`](tower_service::Service) from a UDP socket, each datagram in the scope of its client.
//!
//! ```
//! use bytes::Bytes;
//! use dualstack_metrics::{Datagram, SocketOptions, UdpServer};
//! use std::{convert::Infallible, time::Duration};
//! use tower::service_fn;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let socket = SocketOptions::dual_stack().bind_udp("[::]:0".parse().unwrap())?;
//! # let shutdown = async {};
//! UdpServer::new(socket)?
//!     .metrics_prefix("example_server")
//!     .shutdown_timeout(Duration::from_secs(5))
//!     .serve(service_fn(|datagram: Datagram| async move {
//!         metrics::counter!("example_bytes_total").increment(datagram.payload().len() as u64);
//!         // It is shorter than the question, so two servers never answer each other without end.
//!         Ok::<_, Infallible>((datagram.payload().len() > 2).then_some(Bytes::from_static(b"ok")))
//!     }))
//!     .with_graceful_shutdown(shutdown)
//!     .await
//! # })?;
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # One outcome for each datagram
//!
//! These counters have the labels of the client, and a [prefix](UdpServer::metrics_prefix) that you choose:
//!
//! | counter | counts |
//! |---|---|
//! | `…_requests_received_total` | datagrams taken from the socket |
//! | `…_responses_sent_total` | answers that the socket took |
//! | `…_requests_unanswered_total` | datagrams that the service chose not to answer (`None`), that [cannot be answered](dualstack_udp#addresses), or that a [source](UdpServer::source) refused |
//! | `…_requests_aborted_total` | handlers that were dropped before they were done, and datagrams that were left when the server ended |
//! | `…_requests_failed_total{reason}` | `handler_error`, `handler_panic` (also of a source), `send` (an error of the socket), or `send_blocked` ([no room](dualstack_udp#a-socket-that-takes-no-answers)) |
//!
//! For each class of client, at any time, the first is the sum of the others and of the datagrams in flight.
//!
//! `…_responses_sent_total` includes answers that are lost after the socket took them, for example by a full queueing
//! discipline (`tc -s qdisc`) or by a neighbour that cannot be resolved.
//!
//! Two counters have the labels of the binding, and none of a client. `…_socket_errors_total{operation}` counts errors
//! of the socket itself: `receive`, or `send` for each second in which it took no answer. `…_socket_drops_total` counts the
//! datagrams that the kernel dropped because the receive buffer was full; it is read on demand, see
//! [`Serve::socket_drops`].
//!
//! These are counters of the [`metrics`] crate, and do not reach OpenTelemetry. If your handler counts already, turn them
//! off [`without_counters`](UdpServer::without_counters).
//!
//! All counters but the last start at zero when [`serve`](UdpServer::serve) is called, the counters of clients for each
//! class that [the socket can see](crate::ClientScopes::expected). Install a recorder before that.
//!
//! # How it serves
//!
//! The server itself is the crate [`dualstack_udp`], which knows no labels. Its page tells how handlers run, how answers
//! leave together and from which address, and how a [socket that takes no
//! answers](dualstack_udp#a-socket-that-takes-no-answers) is served. Such a socket is logged, and may need a larger
//! [`send_buffer_size`](crate::SocketOptions::send_buffer_size).
//!
//! # A loop of your own
//!
//! [`DatagramSocket`] has the batches, and answers from the address that was asked:
//!
//! ```
//! use dualstack_metrics::{
//!     ClientScopes, DatagramSocket, Protocol, ServerBinding, SocketOptions,
//!     udp_adapter::{Batch, Replies},
//! };
//! use metrics::counter;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let socket = SocketOptions::dual_stack().bind_udp("[::]:0".parse().unwrap())?;
//! let socket = DatagramSocket::new(socket)?;
//! let scopes = ClientScopes::new(ServerBinding::new(Protocol::Udp, socket.local_addr()));
//! # let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await?;
//! # client.connect(("127.0.0.1", socket.local_addr().port())).await?;
//! # client.send(b"ping").await?;
//!
//! let (mut batch, mut replies) = (Batch::new(), Replies::new());
//! loop {
//!     let datagram = socket.recv(&mut batch).await?;
//!     if *datagram.payload() == "ping" {
//!         replies.push(datagram, &b"pong"[..]);
//!     }
//!     if batch.is_empty() {
//!         let count = |datagram: &_, result: Result<_, _>| {
//!             let name = if result.is_ok() { "sent_total" } else { "failed_total" };
//!             scopes.for_client(datagram).run(|| counter!(name).increment(1));
//!         };
//!         socket.reply_all(&mut replies, count).await?;
//! #       assert_eq!(client.recv(&mut [0; 8]).await?, 4);
//! #       break;
//!     }
//! }
//! # Ok::<(), std::io::Error>(())
//! # })?;
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # Many cores
//!
//! A server is one task. To use several cores, bind one socket for each worker on the same port. The system spreads the
//! clients over them, a client always to the same worker. The counters of all workers are the same series.
//!
//! ```
//! # use dualstack_metrics::{Datagram, SocketOptions, UdpServer};
//! # use std::convert::Infallible;
//! # use tower::service_fn;
//! # async fn answer(_: Datagram) -> Result<Option<bytes::Bytes>, Infallible> { Ok(None) }
//! # tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(async {
//! # let (stop, stopped) = tokio::sync::watch::channel(());
//! # drop(stop);
//! let mut workers = tokio::task::JoinSet::new();
//! for socket in SocketOptions::dual_stack().bind_udp_many("[::]:0".parse().unwrap(), 4)? {
//!     let mut stopped = stopped.clone();
//!     let server = UdpServer::new(socket)?
//!         .serve(service_fn(answer))
//!         .with_graceful_shutdown(async move { _ = stopped.changed().await });
//!     workers.spawn(server);
//! }
//! while let Some(worker) = workers.join_next().await {
//!     worker??;
//! }
//! # Ok::<(), std::io::Error>(())
//! # })?;
//! # Ok::<(), std::io::Error>(())
//! ```

mod datagram;
mod drops;
mod report;
mod serve;
mod server;

pub use dualstack_udp::{Batch, Datagram, DatagramSocket, Outcome, Replies};

pub use self::{drops::SocketDrops, serve::Serve, server::UdpServer};
