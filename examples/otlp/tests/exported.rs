//! What a collector receives, compared with what clients of both families have sent.

#![cfg(unix)]

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io::Read as _,
    net::{IpAddr, SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use dualstack_metrics::{
    ClientScopes, Datagram, Protocol, ScopedMeterProvider, ServerBinding, SocketOptions, UdpServer,
};
use opentelemetry::{KeyValue, metrics::MeterProvider as _};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_proto::tonic::{
    collector::metrics::v1::{
        ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    },
    common::v1::{KeyValue as Attribute, any_value::Value},
    metrics::v1::{metric::Data, number_data_point},
};
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider, Temporality};
use test_support::{PATIENCE, Program, Signal, V4, eventually, free_port, http, loopbacks, spawning};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::oneshot,
    time::timeout,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use tower::service_fn;

const HTTP: u16 = 7;
const UDP: u64 = 200;

/// An OTLP receiver.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportMetricsServiceRequest>>>);

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

/// The attributes as `key=value`, in the order of their keys.
type Series = Vec<String>;

fn text(attribute: &Attribute) -> String {
    let value = attribute.value.as_ref().and_then(|value| value.value.as_ref());
    match value {
        Some(Value::StringValue(text)) => format!("{}={text}", attribute.key),
        other => format!("{}={other:?}", attribute.key),
    }
}

fn series<T: AsRef<str>>(attributes: impl IntoIterator<Item = T>) -> Series {
    let mut series: Vec<_> = attributes
        .into_iter()
        .map(|text| text.as_ref().to_owned())
        .collect();
    series.sort();
    series
}

impl Collector {
    /// Listens on a port of the loopback interface.
    async fn start() -> (Self, SocketAddr) {
        let collector = Self::default();
        let listener = TcpListener::bind((V4, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = MetricsServiceServer::new(collector.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (collector, address)
    }

    /// The sums that it has received: the last value of each series if they are cumulative, and the total of all if not.
    fn sums(&self, name: &str) -> BTreeMap<Series, i64> {
        let mut sums = BTreeMap::new();
        let requests = self.0.lock().unwrap();
        let metrics = requests
            .iter()
            .flat_map(|request| &request.resource_metrics)
            .flat_map(|resource| &resource.scope_metrics)
            .flat_map(|scope| &scope.metrics);
        for metric in metrics.filter(|metric| metric.name == name) {
            let Some(Data::Sum(sum)) = &metric.data else {
                panic!("{metric:?}");
            };
            assert!(sum.is_monotonic);
            for point in &sum.data_points {
                let Some(number_data_point::Value::AsInt(value)) = point.value else {
                    panic!("{point:?}");
                };
                let total = sums.entry(series(point.attributes.iter().map(text))).or_default();
                // 2 is cumulative.
                *total = if sum.aggregation_temporality == 2 {
                    value
                } else {
                    *total + value
                };
            }
        }
        sums
    }
}

/// A program that is killed when this is dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

fn version(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "ipv4" } else { "ipv6" }
}

/// What the example counts for a client at `ip`.
fn of_example(ip: IpAddr, port: u16) -> Series {
    series([
        "language=en",
        "network.local.address=::",
        &format!("network.local.port={:?}", Some(Value::IntValue(port.into()))),
        "network.transport=tcp",
        &format!("network.type={}", version(ip)),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_exports_what_clients_have_sent() {
    let (collector, address) = Collector::start().await;
    let port = free_port();
    let example = tokio::task::spawn_blocking(move || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_opentelemetry"));
        command
            .arg(format!("[::]:{port}"))
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}"));
        let program = Program::start(&mut command, || TcpStream::connect((V4, port)).is_ok());
        for (ip, times) in loopbacks().into_iter().zip([HTTP, HTTP + 4]) {
            for _ in 0..times {
                assert_eq!(http::get((ip, port).into(), "/").text(), "hello\n");
            }
        }
        program.unwrap().stop(Signal::SIGINT);
    });
    example.await.unwrap();
    let expected = loopbacks()
        .into_iter()
        .zip([i64::from(HTTP), i64::from(HTTP) + 4]);
    let expected = expected.map(|(ip, times)| (of_example(ip, port), times));
    assert_eq!(collector.sums("hellos"), expected.collect());
}

#[test]
fn the_example_prints_what_it_exports_when_there_is_no_collector() {
    let port = free_port();
    let mut example = Killed(spawning(|| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_opentelemetry"));
        command
            .arg(format!("[::]:{port}"))
            .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
            .stdout(Stdio::piped());
        let child = command.spawn().unwrap();
        eventually("it listens", || TcpStream::connect((V4, port)).is_ok());
        child
    }));
    for ip in loopbacks() {
        assert_eq!(http::get((ip, port).into(), "/").text(), "hello\n");
    }
    // It exports what there is before it ends.
    let interrupt = format!("kill -INT {}", example.0.id());
    assert!(
        Command::new("sh")
            .args(["-c", &interrupt])
            .status()
            .unwrap()
            .success()
    );
    let mut output = String::new();
    example
        .0
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut output)
        .unwrap();
    assert!(example.0.wait().unwrap().success());
    assert!(
        output.starts_with(&format!("listening on http://[::]:{port}\n")),
        "{output}"
    );
    assert!(output.contains(": hellos\n"), "{output}");
    for ip in loopbacks() {
        let line = |line: &str| line.contains("network.type") && line.contains(version(ip));
        assert!(output.lines().any(line), "{output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_of_both_families_are_exported_with_each_temporality() {
    for temporality in [Temporality::Cumulative, Temporality::Delta] {
        let (collector, address) = Collector::start().await;
        let exporter = opentelemetry_otlp::MetricExporter::builder()
            .with_temporality(temporality)
            .with_tonic()
            .with_endpoint(format!("http://{address}"))
            .build()
            .unwrap();
        let sdk = SdkMeterProvider::builder()
            .with_reader(PeriodicReader::builder(exporter).build())
            .build();
        let requests = ScopedMeterProvider::new(sdk.clone())
            .meter("udp")
            .u64_counter("requests")
            .build();

        let socket = SocketOptions::dual_stack()
            .bind_udp("[::]:0".parse().unwrap())
            .unwrap();
        let server = socket.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let service = service_fn(move |datagram: Datagram| {
            // Without attributes at the call, and with one.
            requests.add(1, &[]);
            requests.add(1, &[KeyValue::new("kind", i64::from(datagram.payload()[0]))]);
            async move { Ok::<_, Infallible>(Some(Bytes::from_static(b"pong"))) }
        });
        let serve = UdpServer::new(socket).unwrap().serve(service);
        let serve = tokio::spawn(async move {
            serve
                .with_graceful_shutdown(async { _ = stopped.await })
                .await
                .unwrap();
        });
        for ip in loopbacks() {
            let client = UdpSocket::bind((ip, 0)).await.unwrap();
            client.connect((ip, server.port())).await.unwrap();
            for sent in 0..UDP {
                client.send(&[u8::try_from(sent % 3).unwrap()]).await.unwrap();
                let mut answer = [0; 8];
                timeout(PATIENCE, client.recv(&mut answer))
                    .await
                    .unwrap()
                    .unwrap();
                if sent % 50 == 0 {
                    let sdk = sdk.clone();
                    tokio::task::spawn_blocking(move || sdk.force_flush().unwrap())
                        .await
                        .unwrap();
                }
            }
        }
        stop.send(()).unwrap();
        serve.await.unwrap();
        tokio::task::spawn_blocking(move || sdk.shutdown().unwrap())
            .await
            .unwrap();

        let scopes = ClientScopes::new(ServerBinding::new(Protocol::Udp, server));
        let expected = loopbacks().into_iter().flat_map(|ip| {
            let seen = if let IpAddr::V4(ip) = ip {
                ip.to_ipv6_mapped().into()
            } else {
                ip
            };
            let labels = scopes.for_client(seen).pairs().iter();
            let labels: Vec<_> = labels.map(|(name, value)| format!("{name}={value}")).collect();
            assert_eq!(labels.len(), 7);
            let kinds = (0..3).map(|kind| {
                let sent = (0..UDP).filter(|sent| sent % 3 == kind).count();
                let kind = format!("kind={:?}", Some(Value::IntValue(kind.try_into().unwrap())));
                (
                    series([&labels[..], &[kind]].concat()),
                    i64::try_from(sent).unwrap(),
                )
            });
            let all = (series(&labels), i64::try_from(UDP).unwrap());
            kinds.chain([all]).collect::<Vec<_>>()
        });
        assert_eq!(collector.sums("requests"), expected.collect(), "{temporality:?}");
    }
}
