//! Answers on their way to the socket.

use std::{
    collections::VecDeque,
    io::ErrorKind,
    task::{Context, Poll},
};

use bytes::Bytes;

use super::{DatagramSocket, address::Route, report::Report};
use crate::scope::Scope;

/// An answer, and the scope that its outcome is counted in.
pub(super) struct Answer {
    pub(super) payload: Bytes,
    pub(super) route: Route,
    pub(super) scope: Scope,
}

/// Sends answers in their order, and keeps those that the socket cannot take yet.
#[derive(Default)]
pub(super) struct Outbox {
    waiting: VecDeque<Answer>,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn send(&mut self, socket: &DatagramSocket, answer: Answer, report: &mut Report) {
        if !self.is_empty() || !try_send(socket, &answer, report) {
            self.waiting.push_back(answer);
        }
    }

    /// Ready when the socket has taken every answer.
    pub(super) fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        socket: &DatagramSocket,
        report: &mut Report,
    ) -> Poll<()> {
        while let Some(answer) = self.waiting.front() {
            match socket.poll_send_ready(cx) {
                Poll::Pending => return Poll::Pending,
                // The runtime is gone, and the socket will never be ready.
                Poll::Ready(Err(_)) => report.not_sent(answer.scope),
                Poll::Ready(Ok(())) => {
                    if !try_send(socket, answer, report) {
                        continue;
                    }
                }
            }
            self.waiting.pop_front();
        }
        Poll::Ready(())
    }

    /// Drops the answers that the socket has not taken.
    pub(super) fn give_up(&mut self, report: &mut Report) {
        for answer in self.waiting.drain(..) {
            report.not_sent(answer.scope);
        }
    }
}

/// Whether the answer has its outcome. If not, the socket cannot take it yet.
fn try_send(socket: &DatagramSocket, answer: &Answer, report: &mut Report) -> bool {
    match socket.try_send(&answer.payload, &answer.route) {
        Ok(()) => report.sent(answer.scope),
        Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
        Err(error) => report.send_error(answer.scope, &error, answer.payload.len()),
    }
    true
}
