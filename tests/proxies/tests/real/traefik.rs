use std::time::Duration;

use tokio::net::TcpStream;

use crate::*;

fn traefik(entry_points: &[(&str, u16)], dynamic: &serde_json::Value) -> Option<Proxy> {
    let folder = Folder::new();
    // JSON is YAML too.
    folder.write("dynamic.yml", &dynamic.to_string());
    let addresses = entry_points.iter().map(|&(name, port)| {
        // On all addresses, with one socket for both families.
        (name.to_owned(), json!({ "address": format!(":{port}") }))
    });
    let config = json!({
        "global": { "checkNewVersion": false, "sendAnonymousUsage": false },
        "entryPoints": addresses.collect::<serde_json::Map<_, _>>(),
        "providers": { "file": { "filename": "dynamic.yml", "watch": false } },
    });
    let config = folder.write("traefik.yml", &config.to_string());
    let ports: Vec<_> = entry_points.iter().map(|&(_, port)| port).collect();
    let mut command = Command::new("traefik");
    command.arg("--configFile").arg(config);
    start(&mut command, folder, &ports)
}

/// Traefik listens before it has read its routes. The server has no such path, and counts nothing there.
async fn has_routes(port: u16) {
    loop {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let mut answer = String::new();
        // Without routes, a connection is closed.
        if stream.write_all(b"GET /other HTTP/1.0\r\n\r\n").await.is_ok()
            && stream.read_to_string(&mut answer).await.is_ok()
            && answer.to_lowercase().contains("\r\ncontent-length: 0\r\n")
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn each_header_and_both_versions_of_the_proxy_protocol() {
    with_clients(async |metrics| {
        let entry_points = ["list", "real_ip", "v1", "v2"].map(|name| (name, free_port()));
        let apps = [
            reads("x-forwarded-for"),
            reads("x-real-ip"),
            reads_proxy_protocol(),
            reads_proxy_protocol(),
        ];
        let router = |at: usize, rule: &str| {
            let (name, _) = entry_points[at];
            json!({ "entryPoints": [name], "rule": rule, "service": name })
        };
        let [list, real_ip, v1, v2] = apps.map(|app| format!("127.0.0.1:{}", app.port()));
        let http =
            |server: &str| json!({ "loadBalancer": { "servers": [{ "url": format!("http://{server}") }] } });
        let tcp = |server: &str, version: u8| {
            let server = json!({ "address": server });
            json!({ "loadBalancer": { "servers": [server], "proxyProtocol": { "version": version } } })
        };
        let dynamic = json!({
            "http": {
                "routers": { "list": router(0, "PathPrefix(`/`)"), "real_ip": router(1, "PathPrefix(`/`)") },
                "services": { "list": http(&list), "real_ip": http(&real_ip) },
            },
            "tcp": {
                "routers": { "v1": router(2, "HostSNI(`*`)"), "v2": router(3, "HostSNI(`*`)") },
                "services": { "v1": tcp(&v1, 1), "v2": tcp(&v2, 2) },
            },
        });
        let Some(_traefik) = traefik(&entry_points, &dynamic) else {
            return;
        };
        let mut expected = Vec::new();
        for ((_, port), server) in entry_points.into_iter().zip(apps) {
            has_routes(port).await;
            ask_all(port).await;
            // Its sockets are dual-stack, but it writes IPv4 addresses as such.
            expected.extend(twice(server, [INET, INET6]));
        }
        metrics.assert(expected);
    });
}
