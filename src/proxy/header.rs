use std::{net::IpAddr, sync::Arc};

use http::{HeaderMap, HeaderName, Request};

use super::{
    fallback::Fallback, forwarded, list::FromRight, node, reason::Rejection, rejection::Rejections,
    trust::TrustedProxies,
};
use crate::{
    client::{Client, ClientSource, FromRequest},
    labels::ClientLabels,
};

/// Reads the client's address from a header that trusted proxies set, for
/// [`ClientLabelsLayer::source`](crate::ClientLabelsLayer::source).
///
/// Made by [`TrustedProxies::x_forwarded_for`], [`forwarded`](TrustedProxies::forwarded) and
/// [`header`](TrustedProxies::header). Clones share the limit of their warnings, so clone one source if you need one for
/// each connection.
///
/// `Peer` is the source of the address at the other end of the connection, by default [the request](FromRequest).
#[derive(Clone, Debug)]
pub struct HeaderSource<Peer = FromRequest> {
    shared: Arc<Shared>,
    pick: Pick,
    fallback: Fallback,
    peer: Peer,
}

#[derive(Debug)]
struct Shared {
    proxies: TrustedProxies,
    name: HeaderName,
    form: Form,
    rejections: Rejections,
}

/// How an address is written.
#[derive(Clone, Copy, Debug)]
enum Form {
    Address,
    /// With a port that is never left out, and without brackets.
    AddressWithPort,
    /// As an element of RFC 7239.
    Forwarded,
}

/// Which address is the client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pick {
    /// The only one.
    Only,
    /// The first from the right that is no proxy. Each proxy adds one at the right end.
    FirstUntrusted,
    /// This one, counted from the right. The peer is 0.
    Hop(usize),
}

const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const CLOUDFRONT_VIEWER_ADDRESS: HeaderName = HeaderName::from_static("cloudfront-viewer-address");

impl TrustedProxies {
    /// Reads `X-Forwarded-For`, to which each proxy adds the address of its peer.
    ///
    /// All lines of the header are one list. The client is the first address from the right that is not a trusted proxy,
    /// or the leftmost address if all are. The text left of it was written by the client, and is not read.
    #[must_use]
    pub fn x_forwarded_for(&self) -> HeaderSource {
        self.source(X_FORWARDED_FOR, Form::Address, Pick::FirstUntrusted)
    }

    /// Reads the parameter `for` of `Forwarded` ([RFC 7239]), in the same way as
    /// [`x_forwarded_for`](Self::x_forwarded_for).
    ///
    /// [RFC 7239]: https://www.rfc-editor.org/rfc/rfc7239
    #[must_use]
    pub fn forwarded(&self) -> HeaderSource {
        self.source(FORWARDED, Form::Forwarded, Pick::FirstUntrusted)
    }

    /// Reads a header whose value is one address, such as `X-Real-IP`, `CF-Connecting-IP`, `True-Client-IP`,
    /// `Fly-Client-IP`, `X-Envoy-External-Address` or `CloudFront-Viewer-Address`.
    ///
    /// The proxy must replace a value that the client sent. Two lines of it are
    /// [contradictory](super::REJECTED). For `X-Forwarded-For` and `Forwarded` this is the same as the method of
    /// that name.
    ///
    /// # Panics
    ///
    /// If `name` is not the name of a header. To check a name that is not in the source code, make a [`HeaderName`].
    #[must_use]
    #[track_caller]
    pub fn header<N: TryInto<HeaderName>>(&self, name: N) -> HeaderSource {
        let Ok(name) = name.try_into() else {
            panic!("the argument of `TrustedProxies::header` is not the name of a header");
        };
        let (form, pick) = match &name {
            name if *name == X_FORWARDED_FOR => (Form::Address, Pick::FirstUntrusted),
            name if *name == FORWARDED => (Form::Forwarded, Pick::FirstUntrusted),
            name if *name == CLOUDFRONT_VIEWER_ADDRESS => (Form::AddressWithPort, Pick::Only),
            _ => (Form::Address, Pick::Only),
        };
        self.source(name, form, pick)
    }

    fn source(&self, name: HeaderName, form: Form, pick: Pick) -> HeaderSource {
        let rejections = Rejections::new(name.as_str().to_owned().into());
        HeaderSource {
            shared: Arc::new(Shared {
                proxies: self.clone(),
                name,
                form,
                rejections,
            }),
            pick,
            fallback: Fallback::default(),
            peer: FromRequest,
        }
    }
}

impl<Peer> HeaderSource<Peer> {
    /// Takes the address number `hops` from the right, whoever it belongs to.
    ///
    /// For proxies whose addresses cannot be listed, because the platform changes them. `hops` is how many addresses these
    /// proxies add to the header of each request, so that the client's is the leftmost of them. 1 is the address that the
    /// peer has written, and 0 is the peer itself. A header with one address is read as a list as well.
    ///
    /// The peer must be a trusted proxy as before. The number must be right for every request that reaches the socket: a
    /// client that can go around one of the proxies chooses its labels. A header with fewer addresses is
    /// [counted](super::REJECTED) as `missing`.
    ///
    /// ```
    /// use dualstack_metrics::{ClientLabels, TrustedProxies, client::ClientSource};
    /// use std::net::IpAddr;
    ///
    /// // Google's load balancer adds the client's address and its own.
    /// let proxies = TrustedProxies::new(["35.191.0.0/16", "130.211.0.0/22"])?;
    /// let peer: IpAddr = "35.191.0.1".parse()?;
    /// let source = proxies.x_forwarded_for().hops(2).peer(peer);
    ///
    /// let request = http::Request::get("/").header("x-forwarded-for", "192.0.2.1, 2001:db8::7, 203.0.113.9");
    /// let client = source.client(&request.body(())?).unwrap();
    /// assert_eq!(client.class(), ClientLabels::from_ip("2001:db8::7".parse()?));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn hops(mut self, hops: usize) -> Self {
        self.pick = Pick::Hop(hops);
        self
    }

    /// Whose labels a request has if a trusted proxy did not give the address of its client;
    /// [`Fallback::Unknown`] by default.
    #[must_use]
    pub fn fallback(mut self, fallback: Fallback) -> Self {
        self.fallback = fallback;
        self
    }

    /// Takes the address at the other end of the connection from `peer` instead of the request. Any
    /// [source](ClientSource) fits.
    ///
    /// [`Client::UNIX`] says that all peers are on a Unix socket.
    ///
    /// ```
    /// # use dualstack_metrics::{ClientLabelsLayer, Protocol, ServerBinding, TrustedProxies, client::Client};
    /// let proxies = TrustedProxies::new(["unix:"])?;
    /// let source = proxies.x_forwarded_for().peer(Client::UNIX);
    /// let layer = ClientLabelsLayer::new(ServerBinding::unix(Protocol::Http)).source(source);
    /// # let _ = layer;
    /// # Ok::<(), dualstack_metrics::proxy::TrustedProxiesError>(())
    /// ```
    pub fn peer<NewPeer>(self, peer: NewPeer) -> HeaderSource<NewPeer> {
        HeaderSource {
            shared: self.shared,
            pick: self.pick,
            fallback: self.fallback,
            peer,
        }
    }
}

impl Shared {
    fn parse(&self, text: &[u8]) -> Result<IpAddr, Rejection> {
        match self.form {
            Form::Address => node::parse(text, &self.proxies),
            Form::AddressWithPort => node::parse_with_port(text),
            Form::Forwarded => forwarded::node_of(text, &self.proxies),
        }
    }

    fn first_untrusted(&self, headers: &HeaderMap) -> Result<IpAddr, Rejection> {
        let mut farthest = Err(Rejection::Missing);
        for element in FromRight::new(headers, &self.name) {
            let hop = self.parse(element?)?;
            if !self.proxies.contains(hop) {
                return Ok(hop);
            }
            farthest = Ok(hop);
        }
        farthest
    }

    fn hop(&self, headers: &HeaderMap, hops: usize) -> Result<IpAddr, Rejection> {
        let mut elements = FromRight::new(headers, &self.name);
        for _ in 1..hops {
            elements.next().ok_or(Rejection::Missing)??;
        }
        self.parse(elements.next().ok_or(Rejection::Missing)??)
    }

    fn only(&self, headers: &HeaderMap) -> Result<IpAddr, Rejection> {
        let mut lines = headers.get_all(&self.name).into_iter();
        let line = lines.next().ok_or(Rejection::Missing)?.as_bytes();
        if lines.next().is_some() {
            return Err(Rejection::Contradictory);
        }
        self.parse(line).map_err(|reason| match reason {
            // A proxy on the way has joined two lines.
            Rejection::Malformed | Rejection::Oversized
                if line.iter().take(node::MAX_LENGTH).any(|&byte| byte == b',') =>
            {
                Rejection::Contradictory
            }
            _ => reason,
        })
    }

    /// The mistake of a trusted proxy, and its fix.
    fn advice(&self, reason: Rejection, pick: Pick) -> String {
        let Self { name, form, .. } = self;
        let is_list = pick != Pick::Only;
        match (reason, pick) {
            (Rejection::Missing, Pick::Hop(hops)) => format!(
                "fewer than {hops} addresses in `{name}`; let `hops` be how many addresses your proxies add to each request"
            ),
            (Rejection::Missing, _) => format!(
                "no address in `{name}`; let the proxy set it, or read the header that the proxy sets"
            ),
            (Rejection::Contradictory, _) if is_list => {
                format!("two `for` in one element of `{name}`; let the proxy write one")
            }
            (Rejection::Contradictory, _) => format!(
                "several addresses in `{name}`; let the proxy replace the value of the client, and not add to it"
            ),
            (Rejection::Oversized, _) if is_list => format!(
                "an element that is longer than an address, or more than 8 KiB of trusted hops, in `{name}`; let the proxy \
                 write addresses, and trust no network with clients in it"
            ),
            (Rejection::Oversized, _) => {
                format!("more than an address in `{name}`; let the proxy replace the value of the client")
            }
            (Rejection::Unknown | Rejection::Obfuscated, _) => format!(
                "`{name}` without the address, because it hides it or does not know it; let the proxy write the address, or \
                 read another header"
            ),
            _ => {
                let address = match form {
                    Form::AddressWithPort => "address with a port",
                    _ => "address",
                };
                format!(
                    "a `{name}` that is no {address}; let the proxy write the address of its peer there, or read another \
                     header"
                )
            }
        }
    }
}

impl<B, Peer> ClientSource<Request<B>> for HeaderSource<Peer>
where
    Peer: ClientSource<Request<B>>,
{
    fn client(&self, request: &Request<B>) -> Option<Client> {
        let peer = self.peer.client(request)?;
        let (shared, headers) = (&*self.shared, request.headers());
        if self.pick == Pick::Hop(0) {
            return Some(peer);
        }
        if !shared.proxies.trusts(peer) {
            if headers.contains_key(&shared.name) {
                let rejections = &shared.rejections;
                rejections.untrusted(peer, format_args!("`{}`", shared.name));
            }
            return (peer != Client::UNIX).then_some(peer);
        }
        let read = match self.pick {
            Pick::Only => shared.only(headers),
            Pick::FirstUntrusted => shared.first_untrusted(headers),
            Pick::Hop(hops) => shared.hop(headers, hops),
        };
        Some(match read {
            Ok(address) => address.into(),
            Err(reason) => {
                let advice = || format!("the trusted proxy sent {}", shared.advice(reason, self.pick));
                shared.rejections.count(reason, self.fallback, peer.ip(), advice);
                match self.fallback {
                    Fallback::Peer => peer,
                    Fallback::Unknown => ClientLabels::UNKNOWN.into(),
                }
            }
        })
    }

    fn help(&self, request: &Request<B>) -> String {
        if self.peer.client(request).is_some() {
            "the peer is on a Unix socket, which is not trusted: add \"unix:\" to `TrustedProxies` if only your proxy can \
             connect to it"
                .to_owned()
        } else {
            let help = self.peer.help(request);
            format!("`{}` is only read if the peer is known: {help}", self.shared.name)
        }
    }
}
