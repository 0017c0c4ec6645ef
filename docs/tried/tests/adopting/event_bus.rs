use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc};

use dualstack_metrics::{ClientScopes, Protocol, Scope, ServerBinding, SocketOptions};
use metrics::counter;
use test_support::{and, assert_samples, sample, series, seven};
use tokio::{
    net::UdpSocket,
    sync::broadcast::{self, error::RecvError},
};

use super::{clients, recorder};

/// The connection of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ConnectionContext {
    client: SocketAddr,
    server: ServerBinding,
    labels: Scope,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    RequestReceived {
        context: ConnectionContext,
    },
    ResponseSent {
        context: ConnectionContext,
        kind: &'static str,
    },
    RequestAborted {
        context: ConnectionContext,
    },
}

impl Event {
    fn context(&self) -> &ConnectionContext {
        match self {
            Self::RequestReceived { context }
            | Self::ResponseSent { context, .. }
            | Self::RequestAborted { context } => context,
        }
    }
}

async fn serve(socket: Arc<UdpSocket>, events: broadcast::Sender<Event>) -> io::Result<()> {
    let server = ServerBinding::new(Protocol::Udp, socket.local_addr()?);
    let scopes = ClientScopes::new(server);
    let mut buffer = [0; 1500];
    loop {
        let (length, client) = socket.recv_from(&mut buffer).await?;
        let context = ConnectionContext {
            client,
            server,
            labels: scopes.for_client(client),
        };
        _ = events.send(Event::RequestReceived { context });

        let event = match &buffer[..length] {
            b"connect" | b"announce" => {
                socket.send_to(b"ok", context.client).await?;
                let kind = if length == 7 { "connect" } else { "announce" };
                Event::ResponseSent { context, kind }
            }
            _ => Event::RequestAborted { context },
        };
        _ = events.send(event);
    }
}

/// In another task, which never sees the client.
async fn count(mut events: broadcast::Receiver<Event>) {
    loop {
        match events.recv().await {
            Ok(event) => event.context().labels.run(|| count_event(&event)),
            Err(RecvError::Lagged(events)) => counter!("events_missed_total").increment(events),
            Err(RecvError::Closed) => return,
        }
    }
}

fn count_event(event: &Event) {
    match event {
        Event::RequestReceived { .. } => counter!("requests_received_total").increment(1),
        Event::ResponseSent { kind, .. } => counter!("responses_sent_total", "kind" => *kind).increment(1),
        Event::RequestAborted { .. } => counter!("requests_aborted_total").increment(1),
    }
}

type Labels = Vec<(&'static str, &'static str)>;

/// A metrics package that does not use the `metrics` crate.
#[derive(Default)]
struct Repository(BTreeMap<(&'static str, Labels), u64>);

impl Repository {
    fn increase_counter(&mut self, name: &'static str, labels: &[(&'static str, &'static str)]) {
        *self.0.entry((name, labels.to_vec())).or_default() += 1;
    }
}

fn handle(event: &Event, repository: &mut Repository) {
    let labels = event.context().labels.pairs();
    match event {
        Event::RequestReceived { .. } => repository.increase_counter("requests_received_total", labels),
        Event::ResponseSent { .. } => repository.increase_counter("responses_sent_total", labels),
        Event::RequestAborted { .. } => repository.increase_counter("requests_aborted_total", labels),
    }
}

/// The scope of an event that has only addresses.
fn scope_of(server: ServerBinding, client: SocketAddr) -> Scope {
    ClientScopes::new(server).for_client(client)
}

#[tokio::test]
async fn events_carry_their_labels_to_the_tasks_that_count() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let socket = SocketOptions::dual_stack()
        .bind_udp("[::]:0".parse().unwrap())
        .unwrap();
    let server = socket.local_addr().unwrap();

    let (events, receiver) = broadcast::channel(1024);
    let mut others = events.subscribe();
    let counting = tokio::spawn(count(receiver));
    let serving = tokio::spawn(serve(Arc::new(socket), events));
    let mut expected = Vec::new();
    for (to, seen) in clients(server) {
        let client = UdpSocket::bind((if to.is_ipv4() { "127.0.0.1" } else { "::1" }, 0))
            .await
            .unwrap();
        client.connect(to).await.unwrap();
        for request in ["connect", "announce", "announce"] {
            client.send(request.as_bytes()).await.unwrap();
            client.recv(&mut [0; 2]).await.unwrap();
        }
        client.send(b"nonsense").await.unwrap();
        let labels = seven("udp", server, seen);
        expected.extend([
            sample("requests_received_total", &labels, 4),
            sample("responses_sent_total", &and(labels.clone(), "kind", "connect"), 1),
            sample(
                "responses_sent_total",
                &and(labels.clone(), "kind", "announce"),
                2,
            ),
            sample("requests_aborted_total", &labels, 1),
        ]);
    }

    let mut repository = Repository::default();
    for _ in 0..clients(server).count() * 8 {
        let event = others.recv().await.unwrap();
        handle(&event, &mut repository);
        let ConnectionContext {
            client,
            server,
            labels,
        } = *event.context();
        assert_eq!(scope_of(server, client), labels);
    }
    serving.abort();
    assert!(serving.await.is_err());
    counting.await.unwrap();
    let rendered = recorder.get_ref().handle().render();
    assert_samples(test_support::samples(&rendered), expected);
    assert_eq!(series(&rendered, "events_missed_total"), [""; 0]);

    for (_, seen) in clients(server) {
        let labels = seven("udp", server, seen);
        for (name, value) in [
            ("requests_received_total", 4),
            ("responses_sent_total", 3),
            ("requests_aborted_total", 1),
        ] {
            let (_, counted) = repository
                .0
                .iter()
                .find(|((other, pairs), _)| {
                    *other == name
                        && pairs
                            .iter()
                            .map(|&(name, value)| (name, value.to_owned()))
                            .eq(labels.clone())
                })
                .unwrap();
            assert_eq!(*counted, value, "{name}");
        }
    }
    assert_eq!(repository.0.len(), 3 * clients(server).count());
}

#[tokio::test]
async fn events_that_were_missed_are_counted() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let server = ServerBinding::new(Protocol::Udp, "[::]:6969".parse().unwrap());
    let client = "[2001:db8::7]:1".parse().unwrap();
    let context = ConnectionContext {
        client,
        server,
        labels: ClientScopes::new(server).for_client(client),
    };
    let (events, receiver) = broadcast::channel(2);
    for _ in 0..5 {
        events.send(Event::RequestAborted { context }).unwrap();
    }
    drop(events);
    count(receiver).await;
    let labels = seven("udp", server_address(), test_support::INET6);
    assert_samples(
        test_support::samples(&recorder.get_ref().handle().render()),
        [
            "events_missed_total 3".to_owned(),
            sample("requests_aborted_total", &labels, 2),
        ],
    );
}

fn server_address() -> SocketAddr {
    "[::]:6969".parse().unwrap()
}
