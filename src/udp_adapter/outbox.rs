//! Answers on their way to the socket.

use std::{
    collections::VecDeque,
    io::ErrorKind,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_timer::Delay;
use futures_util::FutureExt;

use super::{DatagramSocket, address::Route, report::Report};
use crate::scope::Scope;

/// While this many answers wait, nothing is received. If the socket is stalled, the oldest make room instead.
const CAPACITY: usize = 1024;

/// A socket that has taken no answer for this long is stalled.
const STALLED_AFTER: Duration = Duration::from_secs(1);

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
    /// Set while the socket does not take the first of them.
    blocked: Option<Blocked>,
}

struct Blocked {
    since: Instant,
    /// Fires each second.
    timer: Delay,
    is_stalled: bool,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether datagrams may be received, although their answers may have to wait.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < CAPACITY || self.is_stalled()
    }

    fn is_stalled(&self) -> bool {
        self.blocked.as_ref().is_some_and(|blocked| blocked.is_stalled)
    }

    /// Sends an answer, or keeps it. Call [`flush`](Self::flush) afterwards.
    pub(super) fn send(&mut self, socket: &DatagramSocket, answer: Answer, report: &mut Report) {
        if self.is_empty() && try_send(socket, &answer, report) {
            return;
        }
        self.waiting.push_back(answer);
        if self.is_stalled() {
            for oldest in self.waiting.drain(..self.waiting.len().saturating_sub(CAPACITY)) {
                report.send_blocked(oldest.scope);
            }
        }
    }

    /// Sends what the socket takes now. If some is left, the task is woken when it may take more, and when the socket
    /// has stalled.
    pub(super) fn flush(&mut self, cx: &mut Context<'_>, socket: &DatagramSocket, report: &mut Report) {
        while let Some(answer) = self.waiting.front() {
            if !try_send(socket, answer, report) {
                match socket.poll_send_ready(cx) {
                    Poll::Pending => return self.watch(cx, report),
                    Poll::Ready(Ok(())) => continue,
                    // The runtime is gone, and the socket will never be ready.
                    Poll::Ready(Err(_)) => report.send_blocked(answer.scope),
                }
            }
            self.waiting.pop_front();
            self.blocked = None;
        }
    }

    /// Reports each second in which the socket has taken nothing.
    fn watch(&mut self, cx: &mut Context<'_>, report: &mut Report) {
        let blocked = self.blocked.get_or_insert_with(|| Blocked {
            since: Instant::now(),
            timer: Delay::new(STALLED_AFTER),
            is_stalled: false,
        });
        while blocked.timer.poll_unpin(cx).is_ready() {
            blocked.is_stalled = true;
            blocked.timer.reset(STALLED_AFTER);
            report.stalled(blocked.since.elapsed(), self.waiting.len());
        }
    }

    /// Drops the answers that the socket has not taken.
    pub(super) fn give_up(&mut self, report: &mut Report) {
        for answer in self.waiting.drain(..) {
            report.send_blocked(answer.scope);
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
