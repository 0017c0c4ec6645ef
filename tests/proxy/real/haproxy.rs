use test_support::UNKNOWN;
use tokio::net::UnixStream;

use super::*;

fn haproxy(config: &str, last_port: u16) -> Option<Proxy> {
    let folder = Folder::new();
    let config = folder.write(
        "haproxy.cfg",
        &format!(
            "global\n  maxconn 100\n  no-reuseport\n\
             defaults\n  mode http\n  timeout connect 10s\n  timeout client 30s\n  timeout server 30s\n\
             {config}\n"
        ),
    );
    // In the foreground, and quiet.
    let mut command = Command::new("haproxy");
    command.args(["-db", "-q", "-f"]).arg(config);
    start(&mut command, folder, last_port)
}

fn listen(name: &str, port: u16, rest: &str, server: SocketAddr, options: &str) -> String {
    let server = format!("server app 127.0.0.1:{} {options}", server.port());
    format!("listen {name}\n  bind :::{port} v4v6\n{rest}\n  {server}\n")
}

#[test]
fn each_header_and_both_versions_of_the_proxy_protocol() {
    with_clients(async |metrics| {
        let [list, forwarded, real_ip, v1, v2] = [(); 5].map(|()| test_support::free_port());
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
                "  http-request add-header Forwarded for=\"\\\"[%[src]]\\\"\" if { src -m found ::/0 }\n",
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
        let Some(_haproxy) = haproxy(&config.concat(), v2) else {
            return;
        };
        let mut expected = Vec::new();
        for (port, server) in [list, forwarded, real_ip, v1, v2].into_iter().zip(apps) {
            ask_all(port).await;
            expected.extend(twice(server, [MAPPED, INET6]));
        }
        assert_samples(samples(&metrics.render()), expected);
    });
}
