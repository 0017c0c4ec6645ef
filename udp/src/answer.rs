//! Sends answers from the addresses that were asked, or not at all.

use std::io::{self, ErrorKind};

use quinn_udp::UdpSocketState;

use crate::{
    address::Route,
    ready::UdpSocket,
    send::{Segmentation, is_about_the_source, send_from, send_run},
    sources::{Owner, Sources},
};

/// Sends the first of `messages`, and those behind it that leave from the same address, [`MAX_BATCH`](crate::send::MAX_BATCH) at most. Returns how
/// many were sent. An error is about the first: none was sent.
pub(crate) fn send_first<'a>(
    socket: &UdpSocket,
    state: &UdpSocketState,
    segmentation: &Segmentation,
    sources: &Sources,
    messages: impl Iterator<Item = (&'a [u8], &'a Route)> + Clone,
) -> io::Result<usize> {
    let Some((payload, first)) = messages.clone().next() else {
        return Ok(0);
    };
    if sources.may_try(socket, first) {
        let run = messages.take_while(|(_, route)| route.has_source_of(first));
        match send_run(socket, segmentation, first, &run) {
            // The first may be the only one that fails, or another source may help it.
            Err(error) if error.kind() != ErrorKind::WouldBlock => {}
            Ok(0) => {}
            result => return result,
        }
    }
    send(socket, state, sources, payload, first).map(|()| 1)
}

/// Sends along `route`. If its source is not an address of this host, the system chooses one.
pub(crate) fn send(
    socket: &UdpSocket,
    state: &UdpSocketState,
    sources: &Sources,
    payload: &[u8],
    route: &Route,
) -> io::Result<()> {
    let send_from = |route| send_from(socket, state, payload, route);
    if sources.may_try(socket, route) {
        let Err(error) = send_from(route) else {
            return Ok(());
        };
        if !is_about_the_source(&error) {
            return Err(error);
        }
        match sources.owner(socket, route) {
            Some(Owner::Other) => {}
            Some(Owner::Prefix) if sources.send_from_routed(socket) => return send_from(route),
            _ => return Err(error),
        }
    }
    send_from(&route.without_source())
}
