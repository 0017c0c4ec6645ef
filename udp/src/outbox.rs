//! Answers on their way to the socket.

use std::{
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_timer::Delay;
use futures_util::FutureExt;

use crate::{
    observer::{Observer, Outcome, Trouble},
    queue::{Outgoing, Queue},
    ready::Writable,
    socket::DatagramSocket,
};

/// While this many answers wait, nothing is received. If the socket is stalled, the oldest make room instead.
const CAPACITY: usize = 1024;

/// A socket that has taken no answer for this long is stalled.
const STALLED_AFTER: Duration = Duration::from_secs(1);

/// Collects answers and sends them together. Keeps those that the socket cannot take yet.
pub(crate) struct Outbox<T> {
    waiting: Queue<T>,
    /// How many are collected.
    batch: usize,
    /// Whether the socket did not take the first of them when that was last tried.
    is_full: bool,
    /// Made anew when all are sent.
    writable: Writable,
    /// Set while the socket does not take the first of them.
    blocked: Option<Blocked>,
}

struct Blocked {
    since: Instant,
    /// Fires each second.
    timer: Delay,
    is_stalled: bool,
}

impl<T: Copy + PartialEq> Outbox<T> {
    pub(crate) fn new(batch: usize) -> Self {
        Self {
            waiting: Queue::new(batch),
            batch,
            is_full: false,
            writable: Writable::default(),
            blocked: None,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether datagrams may be received, although their answers may have to wait.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting.len() < CAPACITY || self.is_stalled()
    }

    fn is_stalled(&self) -> bool {
        self.blocked.as_ref().is_some_and(|blocked| blocked.is_stalled)
    }

    /// Keeps an answer, or sends a batch that it completes. Call [`flush`](Self::flush) afterwards.
    pub(crate) fn send(
        &mut self,
        answer: Outgoing<T>,
        socket: &DatagramSocket,
        observer: &mut impl Observer<Tag = T>,
    ) {
        self.waiting.push(answer);
        if self.waiting.len() >= self.batch && !self.is_full {
            while self.try_send(socket, observer) {}
        }
        while self.is_stalled() && self.waiting.len() > CAPACITY {
            self.fail_oldest(observer);
        }
    }

    /// Sends as many answers as the socket takes now. If some are left, the task is woken when it may take more, and when
    /// the socket has stalled.
    pub(crate) fn flush(
        &mut self,
        cx: &mut Context<'_>,
        socket: &DatagramSocket,
        observer: &mut impl Observer<Tag = T>,
    ) {
        while !self.is_empty() {
            if self.is_full {
                match socket.poll_writable(cx, &mut self.writable) {
                    Poll::Pending => return self.watch(cx, observer),
                    Poll::Ready(Ok(())) => self.is_full = false,
                    // The runtime is gone, and the socket will never be ready.
                    Poll::Ready(Err(_)) => self.fail_oldest(observer),
                }
            } else {
                self.try_send(socket, observer);
            }
        }
        self.is_full = false;
        self.writable = Writable::default();
    }

    /// Whether the socket took answers, or failed to.
    fn try_send(&mut self, socket: &DatagramSocket, observer: &mut impl Observer<Tag = T>) -> bool {
        // The outcomes of answers with one tag are handed out together.
        let mut sent: Option<(T, u64)> = None;
        let made_progress = self.waiting.try_send(socket, |answer, result| {
            let Outgoing { payload, tag, .. } = answer;
            match (result, &mut sent) {
                (Err(error), _) => {
                    let (error, length) = (&error, payload.len());
                    observer.outcome(tag, Outcome::SendFailed { error, length }, 1);
                }
                (Ok(()), Some((last, answers))) if *last == tag => *answers += 1,
                (Ok(()), sent) => {
                    if let Some((last, answers)) = sent.replace((tag, 1)) {
                        observer.outcome(last, Outcome::Answered, answers);
                    }
                }
            }
        });
        if let Some((tag, answers)) = sent {
            observer.outcome(tag, Outcome::Answered, answers);
        }
        if made_progress {
            self.blocked = None;
        } else {
            self.is_full = !self.is_empty();
        }
        made_progress
    }

    /// Reports each second in which the socket has taken nothing.
    fn watch(&mut self, cx: &mut Context<'_>, observer: &mut impl Observer<Tag = T>) {
        let blocked = self.blocked.get_or_insert_with(|| Blocked {
            since: Instant::now(),
            timer: Delay::new(STALLED_AFTER),
            is_stalled: false,
        });
        while blocked.timer.poll_unpin(cx).is_ready() {
            blocked.is_stalled = true;
            blocked.timer.reset(STALLED_AFTER);
            observer.trouble(Trouble::Stalled {
                blocked: blocked.since.elapsed(),
                waiting: self.waiting.len(),
            });
        }
    }

    /// Drops the answers that the socket has not taken.
    pub(crate) fn give_up(&mut self, observer: &mut impl Observer<Tag = T>) {
        while !self.is_empty() {
            self.fail_oldest(observer);
        }
    }

    fn fail_oldest(&mut self, observer: &mut impl Observer<Tag = T>) {
        if let Some(tag) = self.waiting.pop() {
            observer.outcome(tag, Outcome::SendBlocked, 1);
        }
    }
}
