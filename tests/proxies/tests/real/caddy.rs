use crate::*;

pub(crate) fn caddy(sites: &str, ports: &[u16]) -> Option<Proxy> {
    let folder = Folder::new();
    let config = folder.write(
        "Caddyfile",
        &format!("{{\n\tadmin off\n\tauto_https off\n}}\n{sites}"),
    );
    let mut command = Command::new("caddy");
    command
        .args(["run", "--adapter", "caddyfile", "--config"])
        .arg(config)
        .env("HOME", &folder.0)
        .env("XDG_CONFIG_HOME", &folder.0)
        .env("XDG_DATA_HOME", &folder.0);
    start(&mut command, folder, ports)
}

pub(crate) fn site(port: u16, server: SocketAddr, options: &str) -> String {
    format!(
        "http://:{port} {{\n\treverse_proxy 127.0.0.1:{} {{\n{options}\n\t}}\n}}\n",
        server.port()
    )
}

#[test]
fn each_header() {
    with_clients(async |metrics| {
        let [list, real_ip, forwarded] = [(); 3].map(|()| free_port());
        let apps = [reads("x-forwarded-for"), reads("x-real-ip"), reads("forwarded")];
        let config = [
            site(list, apps[0], ""),
            site(real_ip, apps[1], "header_up X-Real-IP {remote_host}"),
            // `remote` is the address with its port, and has brackets.
            site(forwarded, apps[2], "header_up Forwarded `for=\"{remote}\"`"),
        ];
        let Some(_caddy) = caddy(&config.concat(), &[list, real_ip, forwarded]) else {
            return;
        };
        let mut expected = Vec::new();
        for (port, server) in [list, real_ip, forwarded].into_iter().zip(apps) {
            ask_all(port).await;
            // Its socket is dual-stack, but it writes IPv4 addresses as such.
            expected.extend(twice(server, [INET, INET6]));
        }
        metrics.assert(expected);
    });
}
