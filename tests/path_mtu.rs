//! Large answers to a client behind a router whose other link has a smaller MTU.

#![cfg(target_os = "linux")]

use std::{
    convert::Infallible,
    fs,
    future::ready,
    net::{self, SocketAddr},
    sync::mpsc,
    thread,
    time::Duration,
};

use bytes::Bytes;
use dualstack_metrics::Datagram;
use nix::{
    sched::{CloneFlags, unshare},
    unistd::{Pid, gettid},
};
use test_support::{
    eventually, in_namespace, ip, ipv6_or_say, recorded,
    udp::{Running, server},
};
use tokio::{net::UdpSocket, time::timeout};
use tower::service_fn;

/// Near the MTU of the server's link, and the answer of a tracker with 200 IPv6 peers.
const SIZES: [u16; 2] = [1_450, 3_620];

const CLIENTS: [(&str, &str); 2] = [
    ("10.2.0.99:0", "10.1.0.1"),
    ("[2001:db8:2::99]:0", "2001:db8:1::1"),
];

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own.
struct Host {
    thread: Pid,
    jobs: mpsc::Sender<Job>,
}

impl Host {
    fn new() -> Self {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (says_thread, thread) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            says_thread.send(gettid()).unwrap();
            for job in inbox {
                job();
            }
        });
        let thread = thread.recv().unwrap();
        Self { thread, jobs }
    }

    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        let job = move || done.send(job()).unwrap();
        self.jobs.send(Box::new(job)).unwrap();
        result.recv().unwrap()
    }
}

fn configure(link: &str, addresses: [&str; 2]) {
    ip(&format!("link set {link} up"));
    ip(&format!("addr add {} dev {link}", addresses[0]));
    ip(&format!("addr add {} dev {link} nodad", addresses[1]));
    eventually("the link is up", || {
        ip(&format!("-oneline link show dev {link}")).contains("state UP")
    });
}

fn route(routers: [&str; 2]) {
    for router in routers {
        ip(&format!("route add default via {router}"));
    }
}

/// Joins this host, a router and a client. The router sends no ICMP messages to this host.
fn join() -> [Host; 2] {
    let [router, client] = [Host::new(), Host::new()];
    let (router_thread, client_thread) = (router.thread, client.thread);
    ip(&format!(
        "link add server mtu 1500 type veth peer name near mtu 1500 netns {router_thread}"
    ));
    router.run(move || {
        ip(&format!(
            "link add far mtu 1280 type veth peer name client mtu 1280 netns {client_thread}"
        ));
        ip("link set near up");
        ip("link set far up");
        for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            fs::write(format!("/proc/sys/net/{switch}"), "1").unwrap();
        }
        ip("rule add iif lo to 10.1.0.1 blackhole");
        ip("-6 rule add iif lo to 2001:db8:1::1 blackhole");
    });
    configure("server", ["10.1.0.1/24", "2001:db8:1::1/64"]);
    client.run(|| configure("client", ["10.2.0.99/24", "2001:db8:2::99/64"]));
    router.run(|| {
        configure("near", ["10.1.0.2/24", "2001:db8:1::2/64"]);
        configure("far", ["10.2.0.2/24", "2001:db8:2::2/64"]);
    });
    route(["10.1.0.2", "2001:db8:1::2"]);
    client.run(|| route(["10.2.0.2", "2001:db8:2::2"]));
    [router, client]
}

/// Which of the answers arrive.
fn arrive(ignores_path_mtu: bool) -> Vec<(&'static str, u16)> {
    let mut arrived = Vec::new();
    in_namespace("", || {
        let hosts = join();
        recorded(async |_| {
            let mut server = server("[::]:0");
            if ignores_path_mtu {
                server = server.ignore_path_mtu().unwrap();
            }
            let answer = |datagram: Datagram| {
                let size = datagram
                    .payload()
                    .first_chunk()
                    .map(|size| u16::from_be_bytes(*size));
                ready(Ok::<_, Infallible>(
                    size.map(|size| Bytes::from(vec![7; size.into()])),
                ))
            };
            let running = Running::start(server, service_fn(answer));
            for (own, asked) in CLIENTS {
                for size in [&[1_u16][..], &SIZES].concat() {
                    let asked = SocketAddr::new(asked.parse().unwrap(), running.address.port());
                    let socket = hosts[1].run(move || {
                        let socket = net::UdpSocket::bind(own).unwrap();
                        socket.connect(asked).unwrap();
                        socket.set_nonblocking(true).unwrap();
                        socket
                    });
                    let socket = UdpSocket::from_std(socket).unwrap();
                    let mut buffer = [0; 4_096];
                    // The first small one may be lost while neighbours are found.
                    for _ in 0..if size == 1 { 20 } else { 1 } {
                        socket.send(&size.to_be_bytes()).await.unwrap();
                        let received = timeout(Duration::from_millis(500), socket.recv(&mut buffer)).await;
                        if let Ok(received) = received {
                            assert_eq!(received.unwrap(), usize::from(size));
                            arrived.push((own, size));
                            break;
                        }
                    }
                }
            }
            running.stop().await;
        });
    });
    arrived
}

#[test]
fn large_answers_arrive_whatever_the_path_mtu() {
    if !ipv6_or_say() {
        return;
    }
    let [(inet, _), (inet6, _)] = CLIENTS;
    let [medium, large] = SIZES;
    // Linux fragments an IPv6 answer only if its own link cannot take it.
    assert_eq!(
        arrive(true),
        [
            (inet, 1),
            (inet, medium),
            (inet, large),
            (inet6, 1),
            (inet6, large)
        ]
    );
    // Shows that the test can fail. An IPv4 fragment may be fragmented once more.
    assert_eq!(arrive(false), [(inet, 1), (inet, large), (inet6, 1)]);
}
