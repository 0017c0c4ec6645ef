//! With `quinn-udp`, one datagram in each call.

use std::io;

use quinn_udp::{Transmit, UdpSocketState};

use crate::{address::Route, ready::UdpSocket};

/// How many datagrams a call sends at most.
pub(crate) const MAX_BATCH: usize = 1;

/// No message has several datagrams.
pub(crate) struct Segmentation;

impl Segmentation {
    pub(crate) fn new(_: &UdpSocketState) -> Self {
        Self
    }
}

/// Sends one datagram.
pub(crate) fn send_from(
    socket: &UdpSocket,
    state: &UdpSocketState,
    payload: &[u8],
    route: &Route,
) -> io::Result<()> {
    let transmit = Transmit {
        destination: route.to,
        ecn: None,
        contents: payload,
        segment_size: None,
        src_ip: route.from,
    };
    state.try_send(socket.into(), &transmit)
}

/// Sends none, because it cannot send several at once.
#[expect(clippy::unnecessary_wraps, reason = "on Linux it can fail")]
pub(crate) fn send_run<'a>(
    _: &UdpSocket,
    _: &Segmentation,
    _: &Route,
    _: &impl Iterator<Item = (&'a [u8], &'a Route)>,
) -> io::Result<usize> {
    Ok(0)
}
