//! The tracker over HTTP: announce (BEP 3, 7, 23) and scrape (BEP 48).

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    sync::Arc,
    time::Instant,
};

use axum::{
    Router,
    extract::{ConnectInfo, RawQuery, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use bendy::{
    encoding::{Encoder, Error},
    value::Value,
};
use metrics::counter;

use crate::{
    counters::{HTTP_ERRORS, HTTP_RECEIVED},
    query::{Failure, Query},
    swarm::{Announce, Event, INTERVAL, PeerId, Swarm},
};

pub(crate) fn router(swarm: Arc<Swarm>) -> Router {
    Router::new()
        .route("/announce", get(announce))
        .route("/scrape", get(scrape))
        .with_state(swarm)
}

/// `rate` misses the first increment of a series that does not start at zero.
pub(crate) fn start_at_zero() {
    for kind in ["announce", "scrape"] {
        for name in [HTTP_RECEIVED, HTTP_ERRORS] {
            counter!(name, "request_kind" => kind).increment(0);
        }
    }
}

async fn announce(
    State(swarm): State<Arc<Swarm>>,
    ConnectInfo(client): ConnectInfo<SocketAddr>,
    RawQuery(query): RawQuery,
) -> Response {
    counter!(HTTP_RECEIVED, "request_kind" => "announce").increment(1);
    let query = query.unwrap_or_default();
    respond("announce", announced(&swarm, client.ip().to_canonical(), &query))
}

async fn scrape(State(swarm): State<Arc<Swarm>>, RawQuery(query): RawQuery) -> Response {
    counter!(HTTP_RECEIVED, "request_kind" => "scrape").increment(1);
    respond("scrape", scraped(&swarm, &query.unwrap_or_default()))
}

/// A failure has status 200 as well: BEP 3 puts the reason into the body.
fn respond(kind: &'static str, result: Result<Value<'static>, Failure>) -> Response {
    let answer = result.unwrap_or_else(|Failure(reason)| {
        counter!(HTTP_ERRORS, "request_kind" => kind).increment(1);
        dict([(b"failure reason", bytes(reason))])
    });
    match encode(&answer) {
        Ok(body) => ([(CONTENT_TYPE, "text/plain")], body).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot encode an answer");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// Not `Value::to_bencode`, whose depth limit is too low for a dictionary in a dictionary.
fn encode(value: &Value<'_>) -> Result<Vec<u8>, Error> {
    let mut encoder = Encoder::new();
    encoder.emit(value)?;
    encoder.get_output()
}

fn announced(swarm: &Swarm, client: IpAddr, query: &str) -> Result<Value<'static>, Failure> {
    let query = Query::parse(query)?;
    let announce = Announce {
        info_hash: query.hash("info_hash")?,
        peer_id: query.hash("peer_id")?,
        peer: SocketAddr::new(client, query.number::<NonZeroU16>("port")?.get()),
        // Some clients leave it out.
        is_seeder: query.number_or_default::<u64>("left")? == Some(0),
        event: match query.get("event") {
            Some(b"started") => Event::Started,
            Some(b"completed") => Event::Completed,
            Some(b"stopped") => Event::Stopped,
            // BEP 3: "empty" is no event. BEP 21: "paused" comes from a partial seed.
            None | Some(b"" | b"empty" | b"paused") => Event::None,
            Some(_) => return Err(Failure("event is not a known one".into())),
        },
        peers_wanted: query.number_or_default("numwant")?,
    };
    let is_compact = flag(&query, "compact")?.unwrap_or(true);
    let with_peer_id = !flag(&query, "no_peer_id")?.unwrap_or(false);

    let (stats, peers) = swarm
        .announce(&announce, Instant::now(), |stats, others| {
            (
                stats,
                others.map(|peer| (peer.address, peer.id)).collect::<Vec<_>>(),
            )
        })
        .map_err(|full| Failure(full.message().into()))?;
    let mut answer = vec![
        (&b"complete"[..], number(stats.seeders)),
        (b"incomplete", number(stats.leechers)),
        (b"interval", number(INTERVAL.as_secs())),
    ];
    if !is_compact {
        let list = peers.iter().map(|peer| peer_dict(*peer, with_peer_id));
        answer.push((b"peers", Value::List(list.collect())));
    } else if client.is_ipv4() {
        answer.push((b"peers", bytes(compact(&peers))));
    } else {
        // BEP 7. Some clients require the "peers" key, so it is sent as well.
        answer.push((b"peers", bytes("")));
        answer.push((b"peers6", bytes(compact(&peers))));
    }
    Ok(dict(answer))
}

fn scraped(swarm: &Swarm, query: &str) -> Result<Value<'static>, Failure> {
    let info_hashes = Query::parse(query)?.info_hashes()?;
    if info_hashes.is_empty() {
        return Err(Failure("info_hash is missing: no full scrapes".into()));
    }
    let files = info_hashes.into_iter().map(|info_hash| {
        let stats = swarm.scrape(&info_hash);
        let numbers = dict([
            (&b"complete"[..], number(stats.seeders)),
            (b"downloaded", number(stats.downloads)),
            (b"incomplete", number(stats.leechers)),
        ]);
        (info_hash, numbers)
    });
    Ok(dict([(b"files", dict(files))]))
}

/// A parameter whose value is 0 or 1.
fn flag(query: &Query, name: &str) -> Result<Option<bool>, Failure> {
    match query.get(name) {
        None => Ok(None),
        Some(b"0") => Ok(Some(false)),
        Some(b"1") => Ok(Some(true)),
        Some(_) => Err(Failure(format!("{name} is neither 0 nor 1"))),
    }
}

/// Addresses and ports without separators: 6 bytes for an IPv4 peer, 18 for an IPv6 peer.
fn compact(peers: &[(SocketAddr, PeerId)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(peers.len() * 18);
    for (peer, _) in peers {
        match peer.ip() {
            IpAddr::V4(ip) => bytes.extend(ip.octets()),
            IpAddr::V6(ip) => bytes.extend(ip.octets()),
        }
        bytes.extend(peer.port().to_be_bytes());
    }
    bytes
}

fn peer_dict((peer, id): (SocketAddr, PeerId), with_id: bool) -> Value<'static> {
    let mut pairs = vec![
        (&b"ip"[..], bytes(peer.ip().to_string())),
        (b"port", number(peer.port())),
    ];
    if with_id {
        pairs.push((b"peer id", bytes(id)));
    }
    dict(pairs)
}

fn dict<K: AsRef<[u8]>>(pairs: impl IntoIterator<Item = (K, Value<'static>)>) -> Value<'static> {
    let pairs = pairs.into_iter();
    Value::Dict(
        pairs
            .map(|(key, value)| (key.as_ref().to_vec().into(), value))
            .collect(),
    )
}

fn bytes(bytes: impl AsRef<[u8]>) -> Value<'static> {
    Value::Bytes(bytes.as_ref().to_vec().into())
}

fn number(n: impl TryInto<i64>) -> Value<'static> {
    Value::Integer(n.try_into().unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IPV4: &str = "192.0.2.7";
    const IPV6: &str = "2001:db8::7";
    const ANNOUNCE: &str = "info_hash=%01aaaaaaaaaaaaaaaaaaa&peer_id=-XX0000-bbbbbbbbbbbb\
                            &uploaded=0&downloaded=0&left=1";

    fn announce(swarm: &Swarm, client: &str, more: &str) -> String {
        let query = format!("{ANNOUNCE}&{more}");
        encoded(announced(swarm, client.parse().unwrap(), &query))
    }

    fn encoded(result: Result<Value<'static>, Failure>) -> String {
        match result {
            Ok(value) => encode(&value).unwrap().escape_ascii().to_string(),
            Err(Failure(reason)) => reason,
        }
    }

    #[test]
    fn peers_are_compact_and_have_the_clients_family() {
        let swarm = Swarm::new(usize::MAX, usize::MAX, usize::MAX);
        for client in [IPV4, IPV6] {
            announce(&swarm, client, "port=258");
        }
        assert_eq!(
            announce(&swarm, IPV4, "port=9"),
            r"d8:completei0e10:incompletei3e8:intervali1800e5:peers6:\xc0\x00\x02\x07\x01\x02e"
        );
        assert_eq!(
            announce(&swarm, IPV6, "port=9"),
            r"d8:completei0e10:incompletei4e8:intervali1800e5:peers0:".to_owned()
                + r"6:peers618: \x01\r\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07\x01\x02e"
        );
    }

    #[test]
    fn peers_are_dictionaries_on_request() {
        let swarm = Swarm::new(usize::MAX, usize::MAX, usize::MAX);
        announce(&swarm, IPV6, "port=1");
        let list = announce(&swarm, IPV6, "port=2&compact=0");
        let with_id = "5:peersld2:ip11:2001:db8::77:peer id20:-XX0000-bbbbbbbbbbbb4:porti1eeee";
        assert!(list.ends_with(with_id), "{list}");
        let list = announce(&swarm, IPV6, "port=2&compact=0&no_peer_id=1");
        assert!(
            list.ends_with("5:peersld2:ip11:2001:db8::74:porti1eeee"),
            "{list}"
        );
    }

    #[test]
    fn failures_have_a_reason() {
        let swarm = Swarm::new(usize::MAX, usize::MAX, usize::MAX);
        for (more, reason) in [
            ("", "port is missing"),
            ("port=0", "port is not a number, or out of range"),
            ("port=-1", "port is not a number, or out of range"),
            ("port=1&numwant=x", "numwant is not a number, or out of range"),
            ("port=1&event=won", "event is not a known one"),
            ("port=1&compact=yes", "compact is neither 0 nor 1"),
            ("port=1&key=%", "the query is not percent-encoded"),
        ] {
            assert_eq!(announce(&swarm, IPV4, more), reason);
        }
        assert_eq!(
            swarm.scrape(b"\x01aaaaaaaaaaaaaaaaaaa"),
            crate::swarm::Stats::default()
        );
    }

    #[test]
    fn a_scrape_lists_its_files_in_order() {
        let swarm = Swarm::new(usize::MAX, usize::MAX, usize::MAX);
        announce(&swarm, IPV4, "port=1&event=completed");
        let query = "info_hash=zzzzzzzzzzzzzzzzzzzz&info_hash=%01aaaaaaaaaaaaaaaaaaa";
        assert_eq!(
            encoded(scraped(&swarm, query)),
            r"d5:filesd20:\x01aaaaaaaaaaaaaaaaaaad8:completei0e10:downloadedi1e10:incompletei1ee".to_owned()
                + "20:zzzzzzzzzzzzzzzzzzzzd8:completei0e10:downloadedi0e10:incompletei0eeee"
        );
        assert_eq!(
            encoded(scraped(&swarm, "")),
            "info_hash is missing: no full scrapes"
        );
    }
}
