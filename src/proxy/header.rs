use std::{net::IpAddr, sync::Arc};

use http::{HeaderMap, HeaderName, Request};

use super::{
    forwarded, list::FromRight, node, policy::Fallback, reason::Rejection, rejection::Rejections,
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

/// The form of a header's value.
#[derive(Clone, Copy, Debug)]
enum Form {
    /// Addresses with commas between them. Each proxy adds one at the right end.
    List,
    /// A list of RFC 7239.
    Forwarded,
    /// One address.
    Single,
    /// One address and always a port, without brackets.
    SingleWithPort,
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
        self.source(X_FORWARDED_FOR, Form::List)
    }

    /// Reads the parameter `for` of `Forwarded` ([RFC 7239]), in the same way as
    /// [`x_forwarded_for`](Self::x_forwarded_for).
    ///
    /// [RFC 7239]: https://www.rfc-editor.org/rfc/rfc7239
    #[must_use]
    pub fn forwarded(&self) -> HeaderSource {
        self.source(FORWARDED, Form::Forwarded)
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
        let form = match &name {
            name if *name == X_FORWARDED_FOR => Form::List,
            name if *name == FORWARDED => Form::Forwarded,
            name if *name == CLOUDFRONT_VIEWER_ADDRESS => Form::SingleWithPort,
            _ => Form::Single,
        };
        self.source(name, form)
    }

    fn source(&self, name: HeaderName, form: Form) -> HeaderSource {
        let rejections = Rejections::new(name.as_str().to_owned().into());
        HeaderSource {
            shared: Arc::new(Shared {
                proxies: self.clone(),
                name,
                form,
                rejections,
            }),
            fallback: Fallback::default(),
            peer: FromRequest,
        }
    }
}

impl<Peer> HeaderSource<Peer> {
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
            fallback: self.fallback,
            peer,
        }
    }
}

impl Shared {
    /// The address that the proxies give for the client.
    fn read(&self, headers: &HeaderMap) -> Result<IpAddr, Rejection> {
        match self.form {
            Form::List => self.first_untrusted(headers, node::parse),
            Form::Forwarded => self.first_untrusted(headers, forwarded::node_of),
            Form::Single => self.only(headers, node::parse),
            Form::SingleWithPort => self.only(headers, node::parse_with_port),
        }
    }

    fn first_untrusted(
        &self,
        headers: &HeaderMap,
        parse: fn(&[u8]) -> Result<IpAddr, Rejection>,
    ) -> Result<IpAddr, Rejection> {
        let mut farthest = Err(Rejection::Missing);
        for element in FromRight::new(headers, &self.name) {
            let hop = parse(element?)?;
            if !self.proxies.contains(hop) {
                return Ok(hop);
            }
            farthest = Ok(hop);
        }
        farthest
    }

    fn only(
        &self,
        headers: &HeaderMap,
        parse: fn(&[u8]) -> Result<IpAddr, Rejection>,
    ) -> Result<IpAddr, Rejection> {
        let mut lines = headers.get_all(&self.name).into_iter();
        let line = lines.next().ok_or(Rejection::Missing)?.as_bytes();
        if lines.next().is_some() {
            return Err(Rejection::Contradictory);
        }
        parse(line).map_err(|reason| match reason {
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
    fn advice(&self, reason: Rejection) -> String {
        let Self { name, form, .. } = self;
        let is_list = matches!(form, Form::List | Form::Forwarded);
        match reason {
            Rejection::Missing => format!(
                "no address in `{name}`; let the proxy set it, or read the header that the proxy sets"
            ),
            Rejection::Contradictory if is_list => {
                format!("two `for` in one element of `{name}`; let the proxy write one")
            }
            Rejection::Contradictory => format!(
                "several addresses in `{name}`; let the proxy replace the value of the client, and not add to it"
            ),
            Rejection::Oversized if is_list => format!(
                "an element that is longer than an address, or more than 8 KiB of trusted hops, in `{name}`; let the proxy \
                 write addresses, and trust no network with clients in it"
            ),
            Rejection::Oversized => {
                format!("more than an address in `{name}`; let the proxy replace the value of the client")
            }
            Rejection::Unknown | Rejection::Obfuscated => format!(
                "`{name}` without the address, because it hides it or does not know it; let the proxy write the address, or \
                 read another header"
            ),
            _ => {
                let address = match form {
                    Form::SingleWithPort => "address with a port",
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
        if !shared.proxies.trusts(peer) {
            if headers.contains_key(&shared.name) {
                let rejections = &shared.rejections;
                rejections.untrusted(peer, format_args!("`{}`", shared.name));
            }
            return (peer != Client::UNIX).then_some(peer);
        }
        Some(match shared.read(headers) {
            Ok(address) => address.into(),
            Err(reason) => {
                let advice = || format!("the trusted proxy sent {}", shared.advice(reason));
                shared.rejections.count(reason, peer.ip(), advice);
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
