//! Datagrams that wait for the socket.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind},
};

use bytes::Bytes;

use crate::{address::Route, socket::DatagramSocket};

/// A datagram to send, and the tag of its outcome.
pub(crate) struct Outgoing<T> {
    pub(crate) payload: Bytes,
    pub(crate) route: Route,
    pub(crate) tag: T,
}

/// Sends datagrams in as few calls as possible. Those from one address to one peer keep their order.
pub(crate) struct Queue<T> {
    waiting: VecDeque<Outgoing<T>>,
    /// How many of the first are grouped by the address that they leave from.
    grouped: usize,
    /// How many leave together at most.
    batch: usize,
}

impl<T> Queue<T> {
    pub(crate) fn new(batch: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            grouped: 0,
            batch,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn push(&mut self, datagram: Outgoing<T>) {
        self.waiting.push_back(datagram);
    }

    /// Removes the one that has waited longest.
    pub(crate) fn pop(&mut self) -> Option<T> {
        self.grouped = self.grouped.saturating_sub(1);
        self.waiting.pop_front().map(|datagram| datagram.tag)
    }

    /// Sends the first one or more with one call, unless the socket would block or there is none. Removes those that have
    /// an outcome, and hands it to `outcome`. Returns whether there were some.
    pub(crate) fn try_send(
        &mut self,
        socket: &DatagramSocket,
        mut outcome: impl FnMut(Outgoing<T>, io::Result<()>),
    ) -> bool {
        if self.grouped == 0 {
            self.group();
        }
        let messages = self.waiting.range(..self.grouped);
        let messages = messages.map(|datagram| (&datagram.payload[..], &datagram.route));
        let (count, mut result) = match socket.try_send_first(messages) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => (1, Err(error)),
            Ok(count) => (count, Ok(())),
        };
        self.grouped -= count;
        for datagram in self.waiting.drain(..count) {
            outcome(datagram, std::mem::replace(&mut result, Ok(())));
        }
        count > 0
    }

    /// Brings those together that leave from one address, because a call sends from one address; and among these, those to
    /// one peer, because they may be one message.
    fn group(&mut self) {
        self.grouped = self.waiting.len().min(self.batch);
        let waiting = &mut self.waiting.make_contiguous()[..self.grouped];
        for at in 1..self.grouped {
            let (before, rest) = waiting.split_at_mut(at);
            let last = &before[at - 1].route;
            let same = rest.iter().position(|next| next.route.is(last));
            let next = same.or_else(|| rest.iter().position(|next| next.route.has_source_of(last)));
            // Usually it is in its place already.
            if let Some(next @ 1..) = next {
                rest[..=next].rotate_right(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outgoing(from: &str, number: u32) -> Outgoing<u32> {
        Outgoing {
            payload: Bytes::new(),
            route: Route {
                from: Some(from.parse().unwrap()),
                interface: 0,
                to: "[::1]:1".parse().unwrap(),
            },
            tag: number,
        }
    }

    #[test]
    fn one_source_follows_the_other_and_each_keeps_its_order() {
        let mut queue = Queue::new(6);
        for (number, from) in ["::2", "::1", "::2", "::3", "::1", "::2"].into_iter().enumerate() {
            queue.push(outgoing(from, u32::try_from(number).unwrap()));
        }
        queue.group();
        let numbers = |queue: &Queue<u32>| {
            queue
                .waiting
                .iter()
                .map(|datagram| datagram.tag)
                .collect::<Vec<_>>()
        };
        assert_eq!(numbers(&queue), [0, 2, 5, 1, 4, 3]);
    }

    #[test]
    fn only_as_many_are_grouped_as_leave_together() {
        const BATCH: usize = 7;

        let mut queue = Queue::new(BATCH);
        for number in 0..40 {
            queue.push(outgoing(["::1", "::2"][number as usize % 2], number));
        }
        queue.group();
        assert_eq!(queue.grouped, BATCH);
        // The others keep their places, and the one that is removed was grouped.
        assert_eq!(queue.waiting[BATCH].tag, 7);
        queue.pop();
        assert_eq!(queue.grouped, BATCH - 1);
    }
}
