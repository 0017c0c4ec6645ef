use super::{Scope, TooManyLabelSets};
use crate::labels::{ClientLabels, LabelList, LabelSet, ServerBinding};

/// The scopes of one listening socket: one for each class of client.
///
/// ```
/// use dualstack_metrics::{ClientScopes, Protocol, ServerBinding};
///
/// let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
/// let scopes = ClientScopes::new(ServerBinding::new(Protocol::Udp, socket.local_addr()?));
/// # socket.send_to(b"x", socket.local_addr()?)?;
/// # let mut buf = [0; 16];
///
/// let (len, peer) = socket.recv_from(&mut buf)?;
/// scopes.for_client(peer).run(|| {
///     metrics::counter!("requests_total").increment(1); // with the seven labels
/// });
/// # assert_eq!(len, 1);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientScopes {
    by_class: [Scope; ClientLabels::ALL.len()],
    server: Scope,
}

impl ClientScopes {
    /// The scopes of the clients of a binding.
    ///
    /// # Panics
    ///
    /// If the process would have more than [`MAX_LABEL_SETS`](crate::MAX_LABEL_SETS) label sets, which takes more than
    /// 800 bindings. [`try_new`](Self::try_new) returns an error instead.
    #[must_use]
    pub fn new(binding: ServerBinding) -> Self {
        Self::try_new(binding).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The scopes of the clients of a binding.
    ///
    /// # Errors
    ///
    /// If the process would have more than [`MAX_LABEL_SETS`](crate::MAX_LABEL_SETS) label sets.
    pub fn try_new(binding: ServerBinding) -> Result<Self, TooManyLabelSets> {
        let server = Scope::try_for_server(&binding)?;
        Self {
            by_class: [server; ClientLabels::ALL.len()],
            server,
        }
        .try_map(|server, client| {
            let mut list = LabelList::from_pairs(server.pairs());
            client.append_to(&mut list);
            Scope::from_list(list)
        })
    }

    /// The same scopes with the labels of `inner` added to each.
    ///
    /// # Panics
    ///
    /// If the process would have more than [`MAX_LABEL_SETS`](crate::MAX_LABEL_SETS) label sets.
    /// [`try_nest`](Self::try_nest) returns an error instead.
    #[must_use]
    pub fn nest(self, inner: Scope) -> Self {
        self.try_nest(inner).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The same scopes with the labels of `inner` added to each.
    ///
    /// # Errors
    ///
    /// If the process would have more than [`MAX_LABEL_SETS`](crate::MAX_LABEL_SETS) label sets.
    pub fn try_nest(mut self, inner: Scope) -> Result<Self, TooManyLabelSets> {
        self.server = self.server.try_nest(inner)?;
        self.try_map(|scope, _| scope.try_nest(inner))
    }

    fn try_map(
        mut self,
        map: impl Fn(Scope, ClientLabels) -> Result<Scope, TooManyLabelSets>,
    ) -> Result<Self, TooManyLabelSets> {
        for client in ClientLabels::ALL {
            let scope = &mut self.by_class[client.index()];
            *scope = map(*scope, client)?;
        }
        Ok(self)
    }

    /// The scope of a client. Pass its `SocketAddr` or `IpAddr` as the socket reports it, an `Option` of one, or its class.
    #[must_use]
    #[inline]
    pub fn for_client(&self, client: impl Into<ClientLabels>) -> Scope {
        self.by_class[client.into().index()]
    }

    /// The scope of the socket itself: the labels of the binding, and none of a client.
    #[must_use]
    pub fn server(&self) -> Scope {
        self.server
    }
}
