//! Starts, runs and stops the tracker's listeners.

use std::{
    convert::Infallible,
    error::Error,
    future::ready,
    io::{self, Write},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Router, http::header::CONTENT_TYPE, routing::get};
use dualstack_metrics::prometheus::PrometheusHandle;
use dualstack_metrics::{
    ClientLabelsLayer, ClientScopes, Datagram, Protocol, ServerBinding, SocketOptions, UdpServer,
    scope::ClientScopesError, socket::BindError,
};
use tokio::{
    net::{TcpListener, UdpSocket},
    runtime,
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use tower::service_fn;

use crate::{
    bans::Bans,
    cli::Args,
    connection_id::LIFETIME,
    connections::{self, Limits},
    counters::UDP_PREFIX,
    host::Host,
    http,
    swarm::Swarm,
    udp::UdpTracker,
};

const UDP_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
const SWARM_UPKEEP: Duration = Duration::from_secs(60);
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A running tracker.
pub(crate) struct Server {
    pub(crate) udp: Vec<SocketAddr>,
    pub(crate) http: Vec<SocketAddr>,
    pub(crate) metrics: SocketAddr,
    swarm: Arc<Swarm>,
    stop: watch::Sender<bool>,
    listeners: JoinSet<io::Result<()>>,
}

impl Server {
    /// Binds all sockets before it serves any of them: if one cannot be bound, nothing is served.
    pub(crate) fn start(args: &Args, metrics: PrometheusHandle) -> Result<Self, Box<dyn Error>> {
        let options = if args.v6only {
            SocketOptions::v6_only()
        } else {
            SocketOptions::dual_stack()
        };
        let udp = args.udp.iter().map(|address| bind_udp(args, &options, *address));
        let udp: Vec<Vec<UdpSocket>> = udp.collect::<Result<_, _>>()?;
        let http = args.http.iter().map(|address| options.bind_tcp(*address));
        let http: Vec<TcpListener> = http.collect::<Result<_, _>>()?;
        let metrics_listener = options.bind_tcp(args.metrics)?;

        let mut server = Self {
            udp: Vec::new(),
            http: Vec::new(),
            metrics: metrics_listener.local_addr()?,
            swarm: Arc::new(Swarm::new(
                args.max_torrents,
                args.max_peers,
                args.max_peers_per_address,
            )),
            stop: watch::Sender::new(false),
            listeners: JoinSet::new(),
        };
        let mut host = Host::new(args);
        let grace = args
            .ban_grace
            .map_or(LIFETIME, |seconds| Duration::from_secs(seconds.into()));
        let bans = Arc::new(Bans::new(args.ban_after, grace, Instant::now()));
        for sockets in udp {
            server.serve_udp(sockets, args.v6only, &bans, &mut host)?;
        }
        let limits = Limits::new(args.http_connections.get());
        for listener in http {
            server.serve_http(listener, args.v6only, limits)?;
        }
        server.serve_metrics(metrics_listener, limits, metrics, host);
        Ok(server)
    }

    fn serve_udp(
        &mut self,
        sockets: Vec<UdpSocket>,
        is_v6only: bool,
        bans: &Arc<Bans>,
        host: &mut Host,
    ) -> Result<(), Box<dyn Error>> {
        let address = sockets[0].local_addr()?;
        self.udp.push(address);
        let tracker = UdpTracker::new(Arc::clone(&self.swarm), Arc::clone(bans));
        for client in scopes(Protocol::Udp, address, is_v6only)?.expected() {
            client.run(|| tracker.start_at_zero());
        }
        for socket in sockets {
            let tracker = tracker.another_worker();
            // A runtime of several threads would wake another thread for each datagram that arrives meanwhile.
            let runtime = runtime::Builder::new_current_thread()
                .enable_io()
                .build()
                .map_err(|error| no_worker(address, &error))?;
            let entered = runtime.enter();
            let server = UdpServer::new(socket);
            drop(entered);
            let server = match server {
                Ok(server) => server,
                Err(error) => {
                    // Dropping a runtime in a task panics.
                    runtime.shutdown_background();
                    return Err(no_worker(address, &error));
                }
            };
            let server = server
                .metrics_prefix(UDP_PREFIX)
                .shutdown_timeout(UDP_SHUTDOWN_TIMEOUT)
                .serve(service_fn(move |datagram: Datagram| {
                    let client = datagram.peer().ip();
                    ready(Ok::<_, Infallible>(tracker.answer(
                        datagram.payload(),
                        client,
                        Instant::now(),
                    )))
                }));
            host.add(server.socket_drops());
            let mut stop = self.stop.subscribe();
            let server = server.with_graceful_shutdown(async move {
                // An error means that the `Server` was dropped.
                let _ = stop.wait_for(|stop| *stop).await;
            });
            self.listeners.spawn_blocking(move || runtime.block_on(server));
        }
        Ok(())
    }

    fn serve_http(
        &mut self,
        listener: TcpListener,
        is_v6only: bool,
        limits: Limits,
    ) -> Result<(), Box<dyn Error>> {
        let address = listener.local_addr()?;
        self.http.push(address);
        let scopes = scopes(Protocol::Http, address, is_v6only)?;
        for client in scopes.expected() {
            client.run(http::start_at_zero);
        }
        let app = http::router(Arc::clone(&self.swarm)).layer(ClientLabelsLayer::from_scopes(scopes));
        self.spawn(listener, app, limits);
        Ok(())
    }

    fn serve_metrics(
        &mut self,
        listener: TcpListener,
        limits: Limits,
        metrics: PrometheusHandle,
        host: Host,
    ) {
        let host = Arc::new(host);
        let render = move || async move {
            host.update();
            ([(CONTENT_TYPE, TEXT_FORMAT)], metrics.render())
        };
        let app = Router::new().route("/metrics", get(render));
        self.spawn(listener, app, limits);
    }

    fn spawn(&mut self, listener: TcpListener, app: Router, limits: Limits) {
        let stop = self.stop.subscribe();
        self.listeners
            .spawn(connections::serve(listener, app, limits, stop));
    }

    /// Prints the addresses to stdout. All of them accept requests by then.
    pub(crate) fn announce(&self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        for address in &self.udp {
            writeln!(out, "listening on udp://{address}")?;
        }
        for address in &self.http {
            writeln!(out, "listening on http://{address}")?;
        }
        writeln!(out, "listening on http://{}/metrics", self.metrics)?;
        out.flush()
    }

    /// Serves until `stop` resolves, then answers the requests that were already received.
    pub(crate) async fn serve_until(mut self, stop: impl Future<Output = ()>) -> Result<(), Box<dyn Error>> {
        let mut upkeep = interval(SWARM_UPKEEP);
        upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                Some(ended) = self.listeners.join_next() => {
                    ended??;
                    return Err("a listener stopped unexpectedly".into());
                }
                _ = upkeep.tick() => self.swarm.forget_idle(Instant::now()),
            }
        }
        self.stop.send_replace(true);
        while let Some(ended) = self.listeners.join_next().await {
            ended??;
        }
        Ok(())
    }
}

/// The scopes of the clients of a listener.
fn scopes(
    protocol: Protocol,
    address: SocketAddr,
    is_v6only: bool,
) -> Result<ClientScopes, ClientScopesError> {
    let mut scopes = ClientScopes::builder().binding(ServerBinding::new(protocol, address));
    if is_v6only {
        scopes = scopes.expected_clients([address.ip()]);
    }
    scopes.build()
}

fn no_worker(address: SocketAddr, error: &io::Error) -> Box<dyn Error> {
    format!("cannot start a worker for UDP {address}: {error}").into()
}

fn bind_udp(args: &Args, options: &SocketOptions, address: SocketAddr) -> Result<Vec<UdpSocket>, BindError> {
    let mut options = options.clone();
    if let Some(bytes) = args.recv_buffer {
        options = options.recv_buffer_size(bytes.get());
    }
    match args.workers.get() {
        // Without `SO_REUSEPORT`, so that a second tracker cannot take a part of the clients.
        1 => Ok(vec![options.bind_udp(address)?]),
        workers => options.bind_udp_many(address, workers),
    }
}
