//! Answers on their way to the socket.

use std::{
    io,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_timer::Delay;
use futures_util::FutureExt;

use super::{
    DatagramSocket,
    address::Route,
    queue::{Outgoing, Queue},
    ready::Writable,
    report::Report,
};
use crate::scope::Scope;

/// While this many answers wait, nothing is received. If the socket is stalled, the oldest make room instead.
const CAPACITY: usize = 1024;

/// A socket that has taken no answer for this long is stalled.
const STALLED_AFTER: Duration = Duration::from_secs(1);

/// Collects answers and sends them together. Keeps those that the socket cannot take yet.
pub(super) struct Outbox {
    /// Answers, each with the scope that its outcome is counted in.
    waiting: Queue<Scope>,
    /// How many are collected.
    batch: usize,
    /// Whether the socket did not take the first of them when that was last tried.
    is_full: bool,
    /// Made when the socket is full, and dropped when all are sent.
    writable: Option<Writable>,
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
    pub(super) fn new(batch: usize) -> Self {
        Self {
            waiting: Queue::default(),
            batch,
            is_full: false,
            writable: None,
            blocked: None,
        }
    }

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

    /// Keeps an answer, or sends a batch that it completes. Call [`flush`](Self::flush) afterwards.
    pub(super) fn send(
        &mut self,
        socket: &DatagramSocket,
        payload: Bytes,
        route: Route,
        scope: Scope,
        report: &mut Report,
    ) {
        self.waiting.push(Outgoing {
            payload,
            route,
            of: scope,
        });
        if self.waiting.len() >= self.batch && !self.is_full {
            while self.try_send(socket, report) {}
        }
        while self.is_stalled() && self.waiting.len() > CAPACITY {
            self.fail_oldest(report);
        }
    }

    /// Sends what the socket takes now. If some is left, the task is woken when it may take more, and when the socket
    /// has stalled.
    pub(super) fn flush(&mut self, cx: &mut Context<'_>, socket: &DatagramSocket, report: &mut Report) {
        while !self.is_empty() {
            if self.is_full {
                match self.poll_writable(cx, socket) {
                    Poll::Pending => return self.watch(cx, report),
                    Poll::Ready(Ok(())) => self.is_full = false,
                    // The runtime is gone, and the socket will never be ready.
                    Poll::Ready(Err(_)) => self.fail_oldest(report),
                }
            } else {
                self.try_send(socket, report);
            }
        }
        self.is_full = false;
        self.writable = None;
    }

    /// Ready when a send may be tried again. If the system has no descriptor left to watch the socket with, the timer of
    /// [`watch`](Self::watch) is what wakes the task.
    fn poll_writable(&mut self, cx: &mut Context<'_>, socket: &DatagramSocket) -> Poll<io::Result<()>> {
        if self.writable.is_none() {
            self.writable = socket.writable().ok();
        }
        let Some(writable) = &mut self.writable else {
            self.is_full = false;
            return Poll::Pending;
        };
        writable.poll_ready(cx)
    }

    /// Whether the socket took answers, or failed to.
    fn try_send(&mut self, socket: &DatagramSocket, report: &mut Report) -> bool {
        // Answers in one scope are counted together.
        let mut sent: Option<(Scope, u64)> = None;
        let made_progress = self
            .waiting
            .try_send(socket, |answer, result| match (result, &mut sent) {
                (Err(error), _) => report.send_error(answer.of, &error, answer.payload.len()),
                (Ok(()), Some((scope, answers))) if *scope == answer.of => *answers += 1,
                (Ok(()), sent) => {
                    if let Some((scope, answers)) = sent.replace((answer.of, 1)) {
                        report.sent(scope, answers);
                    }
                }
            });
        if let Some((scope, answers)) = sent {
            report.sent(scope, answers);
        }
        if made_progress {
            self.blocked = None;
        } else {
            self.is_full = !self.is_empty();
        }
        made_progress
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
        while !self.is_empty() {
            self.fail_oldest(report);
        }
    }

    fn fail_oldest(&mut self, report: &mut Report) {
        if let Some(scope) = self.waiting.pop() {
            report.send_blocked(scope);
        }
    }
}
