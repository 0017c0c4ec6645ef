use crate::*;

fn envoy(listeners: &[serde_json::Value], clusters: &[serde_json::Value], ports: &[u16]) -> Option<Proxy> {
    let folder = Folder::new();
    let resources = json!({ "static_resources": { "listeners": listeners, "clusters": clusters } });
    let config = folder.write("envoy.json", &resources.to_string());
    let mut command = Command::new("envoy");
    command
        .args([
            "--disable-hot-restart",
            "--concurrency",
            "1",
            "--log-level",
            "error",
            "-c",
        ])
        .arg(config);
    start(&mut command, folder, ports)
}

/// One listener for both families, with one filter.
fn listener(port: u16, filter: &str, config: &serde_json::Value) -> serde_json::Value {
    json!({
        "address": { "socket_address": { "address": "::", "port_value": port, "ipv4_compat": true } },
        "filter_chains": [{ "filters": [{ "name": filter, "typed_config": config }] }],
    })
}

fn http(port: u16, cluster: &str) -> serde_json::Value {
    const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters";

    let router = json!({
        "name": "envoy.filters.http.router",
        "typed_config": { "@type": format!("{FILTERS}.http.router.v3.Router") },
    });
    let route = json!({ "match": { "prefix": "/" }, "route": { "cluster": cluster } });
    let config = json!({
        "@type": format!("{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "http",
        "use_remote_address": true,
        "http_filters": [router],
        "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [route] }] },
    });
    listener(port, "envoy.filters.network.http_connection_manager", &config)
}

fn tcp(port: u16, cluster: &str) -> serde_json::Value {
    let config = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "tcp",
        "cluster": cluster,
    });
    listener(port, "envoy.filters.network.tcp_proxy", &config)
}

fn cluster(name: &str, server: SocketAddr) -> serde_json::Value {
    let address = json!({ "socket_address": { "address": "127.0.0.1", "port_value": server.port() } });
    json!({
        "name": name,
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address } }] }],
        },
    })
}

/// A cluster to which the PROXY protocol is spoken.
fn with_proxy_protocol(mut cluster: serde_json::Value, version: &str) -> serde_json::Value {
    const SOCKETS: &str = "type.googleapis.com/envoy.extensions.transport_sockets";

    let raw = json!({ "@type": format!("{SOCKETS}.raw_buffer.v3.RawBuffer") });
    cluster["transport_socket"] = json!({
        "name": "envoy.transport_sockets.upstream_proxy_protocol",
        "typed_config": {
            "@type": format!("{SOCKETS}.proxy_protocol.v3.ProxyProtocolUpstreamTransport"),
            "config": { "version": version },
            "transport_socket": { "name": "envoy.transport_sockets.raw_buffer", "typed_config": raw },
        },
    });
    cluster
}

#[test]
fn each_header_and_both_versions_of_the_proxy_protocol() {
    with_clients(async |metrics| {
        let ports = [(); 4].map(|()| free_port());
        let [list, external, v1, v2] = ports;
        let apps = [
            reads("x-forwarded-for"),
            reads("x-envoy-external-address"),
            reads_proxy_protocol(),
            reads_proxy_protocol(),
        ];
        let listeners = [
            http(list, "list"),
            http(external, "external"),
            tcp(v1, "v1"),
            tcp(v2, "v2"),
        ];
        let clusters = [
            cluster("list", apps[0]),
            cluster("external", apps[1]),
            with_proxy_protocol(cluster("v1", apps[2]), "V1"),
            with_proxy_protocol(cluster("v2", apps[3]), "V2"),
        ];
        let Some(_envoy) = envoy(&listeners, &clusters, &ports) else {
            return;
        };
        let mut expected = Vec::new();
        for (port, server) in ports.into_iter().zip(apps) {
            ask_all(port).await;
            // Its sockets are dual-stack, but it writes IPv4 addresses as such.
            expected.extend(twice(server, [INET, INET6]));
        }
        metrics.assert(expected);
    });
}
