//! Two proxies in a row.

use super::{
    caddy::{caddy, site},
    haproxy::{haproxy, listen},
    nginx::{ADD_X_FORWARDED_FOR, dual, nginx, pass},
    *,
};

fn at(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

#[test]
fn haproxy_and_then_nginx() {
    with_clients(async |metrics| {
        let [front, back] = [(); 2].map(|()| test_support::free_port());
        let server = reads("x-forwarded-for");
        let Some(_nginx) = nginx(&dual(back, &pass(server, ADD_X_FORWARDED_FOR)), "", &[back]) else {
            return;
        };
        let config = listen("front", front, "  option forwardfor", at(back), "");
        let Some(_haproxy) = haproxy(&config, &[front]) else {
            return;
        };
        ask_all(front).await;
        assert_samples(samples(&metrics.render()), twice(server, [MAPPED, INET6]));
    });
}

#[test]
fn nginx_and_then_haproxy() {
    with_clients(async |metrics| {
        let [front, back] = [(); 2].map(|()| test_support::free_port());
        let server = reads("x-forwarded-for");
        let config = listen("back", back, "  option forwardfor", server, "");
        let Some(_haproxy) = haproxy(&config, &[back]) else {
            return;
        };
        let Some(_nginx) = nginx(&dual(front, &pass(at(back), ADD_X_FORWARDED_FOR)), "", &[front]) else {
            return;
        };
        ask_all(front).await;
        assert_samples(samples(&metrics.render()), twice(server, [MAPPED, INET6]));
    });
}

#[test]
fn haproxy_and_then_caddy() {
    with_clients(async |metrics| {
        let [front, back] = [(); 2].map(|()| test_support::free_port());
        let server = reads("x-forwarded-for");
        let Some(_caddy) = caddy(&site(back, server, "trusted_proxies 127.0.0.1/32"), &[back]) else {
            return;
        };
        let config = listen("front", front, "  option forwardfor", at(back), "");
        let Some(_haproxy) = haproxy(&config, &[front]) else {
            return;
        };
        ask_all(front).await;
        assert_samples(samples(&metrics.render()), twice(server, [MAPPED, INET6]));
    });
}

/// The first passes on TCP connections, and the second adds a header.
#[test]
fn haproxy_with_the_proxy_protocol_and_then_nginx() {
    with_clients(async |metrics| {
        let [front, back] = [(); 2].map(|()| test_support::free_port());
        let server = reads("x-forwarded-for");
        let http = format!(
            "server {{ listen 127.0.0.1:{back} proxy_protocol; set_real_ip_from 127.0.0.1;\n\
             real_ip_header proxy_protocol; {} }}",
            pass(server, "proxy_set_header X-Forwarded-For $remote_addr;"),
        );
        let Some(_nginx) = nginx(&http, "", &[back]) else {
            return;
        };
        let config = listen("front", front, "  mode tcp", at(back), "send-proxy-v2");
        let Some(_haproxy) = haproxy(&config, &[front]) else {
            return;
        };
        ask_all(front).await;
        assert_samples(samples(&metrics.render()), twice(server, [MAPPED, INET6]));
    });
}

/// The first adds a header, and the second passes on TCP connections.
#[test]
fn nginx_and_then_haproxy_with_the_proxy_protocol() {
    with_clients(async |metrics| {
        let [front, back] = [(); 2].map(|()| test_support::free_port());
        let (listener, server, binding) = dual_stack();
        serve(
            proxies().proxy_protocol(listener),
            ClientLabelsLayer::new(binding).source(proxies().x_forwarded_for()),
        );
        let Some(_haproxy) = haproxy(&listen("back", back, "  mode tcp", server, "send-proxy"), &[back])
        else {
            return;
        };
        let Some(_nginx) = nginx(&dual(front, &pass(at(back), ADD_X_FORWARDED_FOR)), "", &[front]) else {
            return;
        };
        ask_all(front).await;
        assert_samples(samples(&metrics.render()), twice(server, [MAPPED, INET6]));
    });
}
