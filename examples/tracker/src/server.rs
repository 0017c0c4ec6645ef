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
use dualstack_metrics::{ClientLabelsLayer, Datagram, Protocol, ServerBinding, SocketOptions, UdpServer};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};
use tower::service_fn;

use crate::{cli::Args, counters::UDP_PREFIX, host::Host, http, swarm::Swarm, udp::UdpTracker};

const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
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
        let udp = args.udp.iter().map(|address| options.bind_udp(*address));
        let udp: Vec<UdpSocket> = udp.collect::<Result<_, _>>()?;
        let http = args.http.iter().map(|address| options.bind_tcp(*address));
        let http: Vec<TcpListener> = http.collect::<Result<_, _>>()?;
        let metrics_listener = options.bind_tcp(args.metrics)?;

        let mut server = Self {
            udp: Vec::new(),
            http: Vec::new(),
            metrics: metrics_listener.local_addr()?,
            swarm: Arc::new(Swarm::new()),
            stop: watch::Sender::new(false),
            listeners: JoinSet::new(),
        };
        let mut host = Host::new(args);
        for socket in udp {
            server.serve_udp(socket, &mut host)?;
        }
        for listener in http {
            server.serve_http(listener)?;
        }
        server.serve_metrics(metrics_listener, metrics, host);
        Ok(server)
    }

    fn serve_udp(&mut self, socket: UdpSocket, host: &mut Host) -> io::Result<()> {
        self.udp.push(socket.local_addr()?);
        let tracker = UdpTracker::new(Arc::clone(&self.swarm));
        let server = UdpServer::new(socket)?
            .metrics_prefix(UDP_PREFIX)
            .shutdown_timeout(SHUTDOWN_TIMEOUT)
            .serve(service_fn(move |datagram: Datagram| {
                let client = datagram.peer().ip();
                ready(Ok::<_, Infallible>(tracker.answer(
                    datagram.payload(),
                    client,
                    Instant::now(),
                )))
            }));
        host.add(server.socket_drops());
        self.listeners
            .spawn(server.with_graceful_shutdown(self.stopped()));
        Ok(())
    }

    fn serve_http(&mut self, listener: TcpListener) -> io::Result<()> {
        let address = listener.local_addr()?;
        self.http.push(address);
        let app = http::router(Arc::clone(&self.swarm))
            .layer(ClientLabelsLayer::new(ServerBinding::new(
                Protocol::Http,
                address,
            )))
            .into_make_service_with_connect_info::<SocketAddr>();
        let server = axum::serve(listener, app).with_graceful_shutdown(self.stopped());
        self.listeners.spawn(server.into_future());
        Ok(())
    }

    fn serve_metrics(&mut self, listener: TcpListener, metrics: PrometheusHandle, host: Host) {
        let host = Arc::new(host);
        let render = move || async move {
            host.update();
            ([(CONTENT_TYPE, TEXT_FORMAT)], metrics.render())
        };
        let app = Router::new().route("/metrics", get(render));
        let server = axum::serve(listener, app).with_graceful_shutdown(self.stopped());
        self.listeners.spawn(server.into_future());
    }

    fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stop = self.stop.subscribe();
        async move {
            // An error means that the `Server` was dropped.
            let _ = stop.wait_for(|stop| *stop).await;
        }
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
        // HTTP connections have no deadline.
        let all = async {
            while let Some(ended) = self.listeners.join_next().await {
                ended??;
            }
            Ok(())
        };
        let Ok(ended) = timeout(SHUTDOWN_TIMEOUT + Duration::from_secs(1), all).await else {
            tracing::warn!("connections were still open at the end of the shutdown");
            return Ok(());
        };
        ended
    }
}
