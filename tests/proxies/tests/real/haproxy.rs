use test_support::UNKNOWN;
use tokio::net::UnixStream;

use crate::*;

pub(crate) fn haproxy(config: &str, ports: &[u16]) -> Option<Proxy> {
    let folder = Folder::new();
    let config = folder.write(
        "haproxy.cfg",
        &format!(
            "global\n  maxconn 100\n\
             defaults\n  mode http\n  timeout connect 10s\n  timeout client 30s\n  timeout server 30s\n\
             {config}\n"
        ),
    );
    // In the foreground, and quiet.
    let mut command = Command::new("haproxy");
    command.args(["-db", "-q", "-f"]).arg(config);
    start(&mut command, folder, ports)
}

pub(crate) fn listen(name: &str, port: u16, rest: &str, server: SocketAddr, options: &str) -> String {
    let server = format!("server app 127.0.0.1:{} {options}", server.port());
    format!("listen {name}\n  bind :::{port} v4v6\n{rest}\n  {server}\n")
}

#[test]
fn each_header_and_both_versions_of_the_proxy_protocol() {
    with_clients(async |metrics| {
        let [list, forwarded, real_ip, v1, v2] = [(); 5].map(|()| free_port());
        let apps = [
            reads("x-forwarded-for"),
            reads("forwarded"),
            reads("x-real-ip"),
            reads_proxy_protocol(),
            reads_proxy_protocol(),
        ];
        let config = [
            listen("list", list, "  option forwardfor", apps[0], ""),
            listen(
                "forwarded",
                forwarded,
                r#"  http-request add-header Forwarded "for=\"[%[src]]\"""#,
                apps[1],
                "",
            ),
            listen(
                "real_ip",
                real_ip,
                "  http-request set-header X-Real-IP %[src]",
                apps[2],
                "",
            ),
            listen("v1", v1, "  mode tcp", apps[3], "send-proxy"),
            listen("v2", v2, "  mode tcp", apps[4], "send-proxy-v2"),
        ];
        let Some(_haproxy) = haproxy(&config.concat(), &[list, v2]) else {
            return;
        };
        let mut expected = Vec::new();
        for (port, server) in [list, forwarded, real_ip, v1, v2].into_iter().zip(apps) {
            ask_all(port).await;
            expected.extend(twice(server, [MAPPED, INET6]));
        }
        metrics.assert(expected);
    });
}

#[test]
fn its_health_checks_are_its_own() {
    with_clients(async |metrics| {
        let port = free_port();
        let server = reads_proxy_protocol();
        // One check at once, and no other before the test has ended. HAProxy accepts clients before it is done.
        let check = "send-proxy-v2 check check-send-proxy inter 1h";
        let config = listen("checked", port, "  option httpchk GET /", server, check);
        let Some(_haproxy) = haproxy(&config, &[port]) else {
            return;
        };
        soon("the check has been counted", || !metrics.render().is_empty()).await;
        metrics.assert([requests(server, MAPPED, 1)]);
    });
}

#[test]
fn its_client_on_a_unix_socket_is_unknown_except_with_version_2() {
    for (option, seen, rejection) in [
        ("", UNKNOWN, Some(("x-forwarded-for", "missing", 2))),
        ("send-proxy", UNKNOWN, Some(("proxy-protocol", "unknown", 1))),
        // HAProxy sends `LOCAL`, as for its health checks.
        ("send-proxy-v2", MAPPED, None),
    ] {
        with_clients(async |metrics| {
            let sockets = Folder::new();
            let path = sockets.path("client.sock");
            let port = free_port();
            let server = if option.is_empty() {
                reads("x-forwarded-for")
            } else {
                reads_proxy_protocol()
            };
            let bind = format!("  option forwardfor\n  bind unix@{}", path.display());
            let Some(_haproxy) = haproxy(&listen("unix", port, &bind, server, option), &[port]) else {
                return;
            };
            request(UnixStream::connect(&path).await.unwrap(), "A: b\r\n").await;
            let mut expected = vec![requests(server, seen, 2)];
            expected.extend(rejection.map(|(source, reason, value)| rejected(source, reason, value)));
            metrics.assert(expected);
        });
    }
}

#[test]
fn over_a_unix_socket() {
    with_clients(async |metrics| {
        let sockets = Folder::new();
        let path = sockets.path("server.sock");
        let listener = UnixListener::bind(&path).unwrap();
        serve(
            trusting(&["unix:"]).proxy_protocol(listener),
            ClientLabelsLayer::new(ServerBinding::unix(Protocol::Http)),
        );
        let port = free_port();
        let config = format!(
            "listen unix\n  mode tcp\n  bind :::{port} v4v6\n  server app unix@{} send-proxy-v2\n",
            path.display()
        );
        let Some(_haproxy) = haproxy(&config, &[port]) else {
            return;
        };
        ask_all(port).await;
        let expected = [MAPPED, INET6].map(|seen| sample("requests_total", &on_unix(seen), 2));
        metrics.assert(expected);
    });
}
