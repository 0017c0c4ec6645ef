//! Each datagram has one outcome.

use std::{cell::RefCell, collections::BTreeMap, io, rc::Rc, time::Duration};

use bytes::Bytes;
use dualstack_udp::{Datagram, Observer, Outcome, Server, Trouble};
use tokio::{net::UdpSocket, task::yield_now, time::timeout};
use tower::service_fn;

/// How many datagrams with each payload had each outcome.
#[derive(Clone, Default)]
struct Outcomes(Rc<RefCell<BTreeMap<(&'static str, String), u64>>>);

/// The payloads, and their outcomes.
const EXPECTED: [(&str, &str, u64); 7] = [
    ("answer", "Answered", 3),
    ("fail", "HandlerFailed", 1),
    ("none", "Unanswered", 1),
    ("panic", "HandlerPanicked", 1),
    ("refuse", "Unanswered", 1),
    ("too large", "SendFailed", 1),
    ("wait", "Aborted", 1),
];

impl Observer for Outcomes {
    type Tag = &'static str;

    fn received(&mut self, datagram: &mut Datagram) -> Result<&'static str, &'static str> {
        let is_tag = |tag: &&str| datagram.payload() == *tag;
        let tag = EXPECTED.map(|(tag, ..)| tag).into_iter().find(is_tag).unwrap();
        if tag == "refuse" { Err(tag) } else { Ok(tag) }
    }

    fn outcome(&mut self, tag: &'static str, outcome: Outcome<'_>, datagrams: u64) {
        let outcome = format!("{outcome:?}");
        let name = outcome.split(['(', ' ']).next().unwrap().to_owned();
        *self.0.borrow_mut().entry((tag, name)).or_default() += datagrams;
    }

    fn trouble(&mut self, trouble: Trouble<'_>) {
        panic!("{trouble:?}");
    }
}

async fn handle(datagram: Datagram) -> io::Result<Option<Bytes>> {
    match &datagram.payload()[..] {
        b"answer" => Ok(Some(datagram.into_payload())),
        b"none" => Ok(None),
        b"panic" => panic!("as it should"),
        b"too large" => Ok(Some(vec![0; 70_000].into())),
        b"wait" => std::future::pending().await,
        _ => Err(io::Error::other("as it should")),
    }
}

#[tokio::test]
async fn each_datagram_has_one_outcome() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(socket.local_addr().unwrap()).await.unwrap();
    let outcomes = Outcomes::default();
    let server = Server::new(socket)
        .unwrap()
        .serve(service_fn(handle), outcomes.clone());
    for (payload, _, datagrams) in EXPECTED {
        for _ in 0..datagrams {
            client.send(payload.as_bytes()).await.unwrap();
        }
    }
    let all_but_one = EXPECTED.iter().map(|(.., datagrams)| datagrams).sum::<u64>() - 1;
    let done = async {
        while outcomes.0.borrow().values().sum::<u64>() < all_but_one {
            yield_now().await;
        }
    };
    tokio::select! {
        ended = server => panic!("{ended:?}"),
        done = timeout(Duration::from_secs(10), done) => done.unwrap(),
    }
    // The handler that waited was dropped together with the server.
    let expected = EXPECTED.map(|(payload, outcome, datagrams)| ((payload, outcome.to_owned()), datagrams));
    assert_eq!(*outcomes.0.borrow(), expected.into());
}
