//! Two proxies in a row.

use crate::{
    caddy::{caddy, site},
    haproxy::{haproxy, listen},
    nginx::{ADD_X_FORWARDED_FOR, dual, nginx, pass},
    *,
};

/// A server behind two proxies, each of which gets its port and where it passes on to.
fn in_a_row(
    front: impl FnOnce(u16, SocketAddr) -> Option<Proxy> + Send,
    back: impl FnOnce(u16, SocketAddr) -> Option<Proxy> + Send,
    server: impl FnOnce() -> SocketAddr + Send,
) {
    with_clients(async move |metrics| {
        let [front_port, back_port] = [(); 2].map(|()| free_port());
        let server = server();
        let Some(_back) = back(back_port, server) else {
            return;
        };
        let Some(_front) = front(front_port, ([127, 0, 0, 1], back_port).into()) else {
            return;
        };
        ask_all(front_port).await;
        metrics.assert(twice(server, [MAPPED, INET6]));
    });
}

fn reads_x_forwarded_for() -> SocketAddr {
    reads("x-forwarded-for")
}

/// `HAProxy` that adds a header.
fn haproxy_adds(port: u16, to: SocketAddr) -> Option<Proxy> {
    haproxy(&listen("adds", port, "  option forwardfor", to, ""), &[port])
}

/// nginx that adds a header.
fn nginx_adds(port: u16, to: SocketAddr) -> Option<Proxy> {
    nginx(&dual(port, &pass(to, ADD_X_FORWARDED_FOR)), "", &[port])
}

#[test]
fn haproxy_and_then_nginx() {
    in_a_row(haproxy_adds, nginx_adds, reads_x_forwarded_for);
}

#[test]
fn nginx_and_then_haproxy() {
    in_a_row(nginx_adds, haproxy_adds, reads_x_forwarded_for);
}

#[test]
fn haproxy_and_then_caddy() {
    let caddy_adds = |port, to| caddy(&site(port, to, "trusted_proxies 127.0.0.1/32"), &[port]);
    in_a_row(haproxy_adds, caddy_adds, reads_x_forwarded_for);
}

/// The first passes on TCP connections, and the second adds a header.
#[test]
fn haproxy_with_the_proxy_protocol_and_then_nginx() {
    let front = |port, to| haproxy(&listen("front", port, "  mode tcp", to, "send-proxy-v2"), &[port]);
    let back = |port, to| {
        let http = format!(
            "server {{ listen 127.0.0.1:{port} proxy_protocol; set_real_ip_from 127.0.0.1;\n\
             real_ip_header proxy_protocol; {} }}",
            pass(to, "proxy_set_header X-Forwarded-For $remote_addr;"),
        );
        nginx(&http, "", &[port])
    };
    in_a_row(front, back, reads_x_forwarded_for);
}

/// The first adds a header, and the second passes on TCP connections.
#[test]
fn nginx_and_then_haproxy_with_the_proxy_protocol() {
    let back = |port, to| haproxy(&listen("back", port, "  mode tcp", to, "send-proxy"), &[port]);
    in_a_row(nginx_adds, back, || {
        let (listener, server, binding) = dual_stack();
        serve(
            proxies().proxy_protocol(listener),
            ClientLabelsLayer::new(binding).source(proxies().x_forwarded_for()),
        );
        server
    });
}
