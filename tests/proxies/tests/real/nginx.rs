use crate::*;

/// Starts nginx with these servers in `http`, and these in `stream`.
pub(crate) fn nginx(http: &str, stream: &str, ports: &[u16]) -> Option<Proxy> {
    const STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

    if !Path::new(STREAM).exists() {
        test_support::skip_or_fail("nginx: no stream module (libnginx-mod-stream)");
        return None;
    }
    let folder = Folder::new();
    let config = folder.write(
        "nginx.conf",
        &format!(
            "daemon off; master_process off; pid nginx.pid; error_log stderr; load_module {STREAM};\n\
             events {{}}\n\
             http {{\n\
             access_log off;\n\
             client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;\n\
             uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n\
             {http}\n}}\n\
             stream {{\n{stream}\n}}\n"
        ),
    );
    let mut command = Command::new("nginx");
    command.arg("-p").arg(&folder.0).arg("-c").arg(config);
    start(&mut command, folder, ports)
}

/// One server for both families, as on a `[::]` socket.
pub(crate) fn dual(port: u16, rest: &str) -> String {
    format!("server {{ listen [::]:{port} ipv6only=off; {rest} }}\n")
}

pub(crate) fn pass(server: SocketAddr, headers: &str) -> String {
    format!(
        "location / {{ proxy_pass http://127.0.0.1:{}; {headers} }}",
        server.port()
    )
}

/// From nginx's documentation on `Forwarded`.
const FORWARDED: &str = r#"
    map $remote_addr $proxy_forwarded_elem {
        ~^[0-9.]+$        "for=$remote_addr";
        ~^[0-9A-Fa-f:.]+$ "for=\"[$remote_addr]\"";
        default           "for=unknown";
    }
    map $http_forwarded $proxy_add_forwarded {
        "~^(,[ \\t]*)*([!#$%&'*+.^_`|~0-9A-Za-z-]+=([!#$%&'*+.^_`|~0-9A-Za-z-]+|\"([\\t \\x21\\x23-\\x5B\\x5D-\\x7E\\x80-\\xFF]|\\\\[\\t \\x21-\\x7E\\x80-\\xFF])*\"))?(;([!#$%&'*+.^_`|~0-9A-Za-z-]+=([!#$%&'*+.^_`|~0-9A-Za-z-]+|\"([\\t \\x21\\x23-\\x5B\\x5D-\\x7E\\x80-\\xFF]|\\\\[\\t \\x21-\\x7E\\x80-\\xFF])*\"))?)*([ \\t]*,([ \\t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+=([!#$%&'*+.^_`|~0-9A-Za-z-]+|\"([\\t \\x21\\x23-\\x5B\\x5D-\\x7E\\x80-\\xFF]|\\\\[\\t \\x21-\\x7E\\x80-\\xFF])*\"))?(;([!#$%&'*+.^_`|~0-9A-Za-z-]+=([!#$%&'*+.^_`|~0-9A-Za-z-]+|\"([\\t \\x21\\x23-\\x5B\\x5D-\\x7E\\x80-\\xFF]|\\\\[\\t \\x21-\\x7E\\x80-\\xFF])*\"))?)*)?)*$" "$http_forwarded, $proxy_forwarded_elem";
        default "$proxy_forwarded_elem";
    }
"#;

pub(crate) const ADD_X_FORWARDED_FOR: &str = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;";

#[test]
fn each_header_and_the_proxy_protocol() {
    with_clients(async |metrics| {
        let [list, separate, forwarded, real_ip, protocol] = [(); 5].map(|()| free_port());
        let apps = [
            reads("x-forwarded-for"),
            reads("x-forwarded-for"),
            reads("forwarded"),
            reads("x-real-ip"),
            reads_proxy_protocol(),
        ];
        let http = [
            FORWARDED.to_owned(),
            dual(list, &pass(apps[0], ADD_X_FORWARDED_FOR)),
            format!(
                "server {{ listen 0.0.0.0:{separate}; listen [::]:{separate} ipv6only=on; {} }}",
                pass(apps[1], ADD_X_FORWARDED_FOR)
            ),
            dual(
                forwarded,
                &pass(apps[2], "proxy_set_header Forwarded $proxy_add_forwarded;"),
            ),
            dual(
                real_ip,
                &pass(apps[3], "proxy_set_header X-Real-IP $remote_addr;"),
            ),
        ];
        let stream = dual(
            protocol,
            &format!("proxy_pass 127.0.0.1:{}; proxy_protocol on;", apps[4].port()),
        );
        let Some(_nginx) = nginx(&http.concat(), &stream, &[list, protocol]) else {
            return;
        };
        let mut expected = Vec::new();
        for (port, server, ipv4) in [
            (list, apps[0], MAPPED),
            (separate, apps[1], INET),
            (forwarded, apps[2], MAPPED),
            (real_ip, apps[3], MAPPED),
            (protocol, apps[4], MAPPED),
        ] {
            ask_all(port).await;
            expected.extend(twice(server, [ipv4, INET6]));
        }
        metrics.assert(expected);
    });
}

#[test]
fn a_header_that_the_proxy_does_not_set_is_missing_or_forged() {
    // Why the documentation asks for a proxy that sets the header: nginx passes on each header that it is not told to replace.
    with_clients(async |metrics| {
        let port = free_port();
        let server = reads("cf-connecting-ip");
        let Some(_nginx) = nginx(&dual(port, &pass(server, "")), "", &[port]) else {
            return;
        };
        ask_all(port).await;
        metrics.assert([
            requests(server, test_support::UNKNOWN, 2),
            requests(server, INET, 1),
            requests(server, INET6, 1),
            rejected("cf-connecting-ip", "missing", 2),
        ]);
    });
}

#[test]
fn over_a_unix_socket() {
    with_clients(async |metrics| {
        let sockets = Folder::new();
        let path = sockets.path("header.sock");
        let trusted = trusting(&["unix:"]).x_forwarded_for();
        let binding = ServerBinding::unix(Protocol::Http);
        serve(
            UnixListener::bind(&path).unwrap(),
            ClientLabelsLayer::new(binding).source(trusted),
        );
        let port = free_port();
        let location = format!(
            "location / {{ proxy_pass http://unix:{}:; {ADD_X_FORWARDED_FOR} }}",
            path.display()
        );
        let Some(_nginx) = nginx(&dual(port, &location), "", &[port]) else {
            return;
        };
        ask_all(port).await;
        let expected = [MAPPED, INET6].map(|seen| sample("requests_total", &on_unix(seen), 2));
        metrics.assert(expected);
    });
}
