//! `--demo`: sends requests over both families and prints the counters.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fmt::Write as _,
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use aquatic_udp_protocol::{
    AnnounceActionPlaceholder, AnnounceEvent, AnnounceRequest, ConnectRequest, ConnectionId, InfoHash,
    Ipv4AddrBytes, NumberOfBytes, NumberOfPeers, PeerId, PeerKey, Port, Request, Response, ScrapeRequest,
    TransactionId,
};
use dualstack_metrics::prometheus::PrometheusHandle;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    sync::oneshot,
    time::{sleep, timeout},
};

use crate::{cli::Args, counters, server::Server};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

const PATIENCE: Duration = Duration::from_secs(5);
const TORRENT: [u8; 20] = *b"the-demo-torrent-001";
const PEER: [u8; 20] = *b"-DS0100-demo-peer-01";

const GLOBAL: &str = "no client labels";
const COLUMNS: [&str; 4] = ["inet/plain", "inet/v4_mapped_v6", "inet6/plain", GLOBAL];

/// Values by row (the counter and its own label) and column (the client's class).
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts(BTreeMap<(String, String), u64>);

struct Client {
    ip: IpAddr,
    column: &'static str,
    /// At least two: the second announces that the download is completed, and further ones repeat it.
    udp_announces: u64,
    http_announces: u64,
}

pub(crate) async fn run(metrics: PrometheusHandle) -> Result<()> {
    let server = Server::start(&Args::for_demo(), metrics)?;
    server.announce()?;
    let (&[udp], &[http]) = (&server.udp[..], &server.http[..]) else {
        return Err("the demo has one listener for each protocol".into());
    };
    let metrics = server.metrics;
    let (stop, stopped) = oneshot::channel::<()>();
    let show = async move {
        let _stop = stop;
        show(udp, http, metrics).await
    };
    let serve = server.serve_until(async {
        // The sender is dropped without sending.
        let _ = stopped.await;
    });
    let (shown, stopped) = tokio::join!(show, serve);
    shown.and(stopped)
}

async fn show(udp: SocketAddr, http: SocketAddr, metrics: SocketAddr) -> Result<()> {
    let mut expected = Counts::default();
    let classes = if udp.is_ipv6() {
        &COLUMNS[1..3]
    } else {
        &COLUMNS[..1]
    };
    for class in classes {
        expected.add(counters::UDP_ABORTED, class, 0);
    }
    let clients = clients(udp);
    for client in &clients {
        over_udp(client, udp.port(), &mut expected).await?;
        over_http(client, http.port(), &mut expected).await?;
        expected.add(counters::DOWNLOADS, GLOBAL, 1);
    }
    expected.add(counters::TORRENTS_ADDED, GLOBAL, 1);

    let found = scrape_metrics(metrics, &expected).await?;
    let mut out = io::stdout().lock();
    writeln!(out, "\n{}", found.table())?;
    for client in &clients {
        writeln!(
            out,
            "{} is {}: {} announces over UDP, {} over HTTP and one more that was malformed.",
            client.ip, client.column, client.udp_announces, client.http_announces
        )?;
    }
    if clients.len() == 1 {
        writeln!(out, "Left out, because this host has no IPv6: a client at ::1.")?;
    } else {
        writeln!(
            out,
            "Both came to the same two sockets, udp://{udp} and http://{http}."
        )?;
    }
    if found == expected {
        return Ok(());
    }
    Err(format!(
        "the counters differ from the requests that were sent, which are\n\n{}",
        expected.table()
    )
    .into())
}

fn clients(server: SocketAddr) -> Vec<Client> {
    let mut clients = vec![Client {
        ip: Ipv4Addr::LOCALHOST.into(),
        // Without IPv6, the tracker fell back to an IPv4 socket, where addresses are not mapped.
        column: if server.is_ipv6() { COLUMNS[1] } else { COLUMNS[0] },
        udp_announces: 3,
        http_announces: 2,
    }];
    if server.is_ipv6() && std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
        clients.push(Client {
            ip: Ipv6Addr::LOCALHOST.into(),
            column: COLUMNS[2],
            udp_announces: 5,
            http_announces: 4,
        });
    }
    clients
}

/// Sends junk, a connect, the announces, a scrape, and two announces with a bad connection ID. The first gets the client
/// banned.
async fn over_udp(client: &Client, port: u16, expected: &mut Counts) -> Result<()> {
    let socket = UdpSocket::bind((client.ip, 0)).await?;
    socket.connect((client.ip, port)).await?;
    let is_ipv4 = client.ip.is_ipv4();
    let transaction_id = TransactionId::new(1);

    socket.send(b"no request").await?;
    let connect = ConnectRequest { transaction_id };
    let Response::Connect(connected) = ask(&socket, is_ipv4, connect.into()).await? else {
        return Err("a connect was not answered with a connection ID".into());
    };

    let mut announce = AnnounceRequest {
        connection_id: connected.connection_id,
        action_placeholder: AnnounceActionPlaceholder::default(),
        transaction_id,
        info_hash: InfoHash(TORRENT),
        peer_id: PeerId(PEER),
        bytes_downloaded: NumberOfBytes::new(0),
        bytes_left: NumberOfBytes::new(1),
        bytes_uploaded: NumberOfBytes::new(0),
        event: AnnounceEvent::Started.into(),
        ip_address: Ipv4AddrBytes([0; 4]),
        key: PeerKey::new(0),
        peers_wanted: NumberOfPeers::new(-1),
        port: Port(6881.into()),
    };
    for _ in 0..client.udp_announces {
        let response = ask(&socket, is_ipv4, announce.into()).await?;
        if !matches!(response, Response::AnnounceIpv4(_) | Response::AnnounceIpv6(_)) {
            return Err(format!("an announce was answered with {response:?}").into());
        }
        announce.event = AnnounceEvent::Completed.into();
        announce.bytes_left = NumberOfBytes::new(0);
    }

    let scrape = ScrapeRequest {
        connection_id: connected.connection_id,
        transaction_id,
        info_hashes: vec![InfoHash(TORRENT)],
    };
    let response = ask(&socket, is_ipv4, scrape.into()).await?;
    if !matches!(response, Response::Scrape(_)) {
        return Err(format!("a scrape was answered with {response:?}").into());
    }

    announce.connection_id = ConnectionId::new(!connected.connection_id.0.get());
    let response = ask(&socket, is_ipv4, announce.into()).await?;
    if !matches!(response, Response::Error(_)) {
        return Err(format!("a bad connection ID was answered with {response:?}").into());
    }
    socket.send(&bytes(&announce.into())?).await?;

    let accepted = 1 + client.udp_announces + 1;
    for (name, count) in [
        ("requests_received_total", 1 + accepted + 2),
        ("requests_accepted_total connect", 1),
        ("requests_accepted_total announce", client.udp_announces),
        ("requests_accepted_total scrape", 1),
        ("errors_total", 2),
        ("requests_banned_total", 1),
        ("requests_unanswered_total", 2),
        ("responses_sent_total", accepted + 1),
    ] {
        let row = format!("{}_{name}", counters::UDP_PREFIX);
        expected.add(&row, client.column, count);
    }
    Ok(())
}

fn bytes(request: &Request) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    request.write_bytes(&mut bytes)?;
    Ok(bytes)
}

async fn ask(socket: &UdpSocket, is_ipv4: bool, request: Request) -> Result<Response> {
    socket.send(&bytes(&request)?).await?;
    let mut buffer = [0; 4096];
    let len = timeout(PATIENCE, socket.recv(&mut buffer)).await??;
    Ok(Response::parse_bytes(&buffer[..len], is_ipv4)?)
}

/// Sends the announces, a scrape, and an announce with an info hash that is too short.
async fn over_http(client: &Client, port: u16, expected: &mut Counts) -> Result<()> {
    let server = SocketAddr::new(client.ip, port);
    let (torrent, peer) = (TORRENT.escape_ascii(), PEER.escape_ascii());
    for n in 1..=client.http_announces {
        let path = format!(
            "/announce?info_hash={torrent}&peer_id={peer}&port={}&uploaded=0&downloaded=0&left=1",
            7000 + n
        );
        // The peer that announced over UDP, and those that announced over HTTP before.
        let peers = if client.ip.is_ipv4() {
            format!("5:peers{}:", 6 * n)
        } else {
            format!("6:peers6{}:", 18 * n)
        };
        expect(&get(server, &path).await?, &peers)?;
    }
    let scrape = format!("/scrape?info_hash={torrent}");
    expect(&get(server, &scrape).await?, "5:files")?;
    expect(
        &get(server, "/announce?info_hash=short").await?,
        "14:failure reason",
    )?;

    let row = |kind| format!("{} {kind}", counters::HTTP_RECEIVED);
    expected.add(&row("announce"), client.column, client.http_announces + 1);
    expected.add(&row("scrape"), client.column, 1);
    expected.add(&format!("{} announce", counters::HTTP_ERRORS), client.column, 1);
    Ok(())
}

fn expect(body: &str, part: &str) -> Result<()> {
    if body.contains(part) {
        return Ok(());
    }
    Err(format!("no {part:?} in the answer {body:?}").into())
}

async fn get(server: SocketAddr, path: &str) -> Result<String> {
    let answer = timeout(PATIENCE, async {
        let mut stream = TcpStream::connect(server).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        io::Result::Ok(String::from_utf8_lossy(&answer).into_owned())
    });
    let answer = answer.await??;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.to_owned()),
        _ => Err(format!("{path} was answered with {answer:?}").into()),
    }
}

/// Reads `/metrics` until it shows the expected counts, because a response is counted after it was sent.
async fn scrape_metrics(metrics: SocketAddr, expected: &Counts) -> Result<Counts> {
    let mut found = Counts::default();
    for _ in 0..100 {
        found = Counts::parse(&get(metrics, "/metrics").await?);
        if found == *expected {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(found)
}

impl Counts {
    fn add(&mut self, row: &str, column: &str, count: u64) {
        *self.0.entry((row.into(), column.into())).or_default() += count;
    }

    /// Parses the exporter's text. The label values of this tracker contain no comma and no escape.
    fn parse(text: &str) -> Self {
        let mut counts = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let (mut row, mut class) = (name.to_owned(), Vec::new());
            for label in labels.trim_end_matches('}').split(',') {
                let Some((name, value)) = label.split_once('=') else {
                    continue;
                };
                let value = value.trim_matches('"');
                if name.starts_with("client_address_") {
                    class.push(value);
                } else if !name.starts_with("server_binding_") {
                    row = format!("{row} {value}");
                }
            }
            let column = if class.is_empty() {
                GLOBAL.into()
            } else {
                class.join("/")
            };
            // Of the counters that are at zero, one is shown.
            if let Ok(count) = value.parse()
                && (count > 0 || row == counters::UDP_ABORTED)
            {
                counts.add(&row, &column, count);
            }
        }
        counts
    }

    fn table(&self) -> String {
        let rows: BTreeSet<_> = self.0.keys().map(|(row, _)| row).collect();
        let first = rows.iter().map(|row| row.len()).max().unwrap_or_default();
        let mut table = format!("{:first$}", "");
        for column in COLUMNS {
            let _ = write!(table, "  {column}");
        }
        for row in rows {
            let _ = write!(table, "\n{row:first$}");
            for column in COLUMNS {
                let count = self.0.get(&(row.clone(), column.into()));
                let count = count.map_or("-".into(), u64::to_string);
                let _ = write!(table, "  {count:>width$}", width = column.len());
            }
        }
        table.push('\n');
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exporters_text_is_parsed() {
        let text = "# TYPE a_total counter\n\
                    a_total{client_address_ip_family=\"inet\",client_address_ip_type=\"plain\",\
                    request_kind=\"scrape\",server_binding_ip=\"::\"} 7\n\
                    b_total 2\n\
                    c_total 0\n\
                    udp_tracker_server_requests_aborted_total{client_address_ip_family=\"inet6\",\
                    client_address_ip_type=\"plain\"} 0\n";
        let mut expected = Counts::default();
        expected.add("a_total scrape", COLUMNS[0], 7);
        expected.add("b_total", GLOBAL, 2);
        expected.add(counters::UDP_ABORTED, COLUMNS[2], 0);
        assert_eq!(Counts::parse(text), expected);
    }
}
