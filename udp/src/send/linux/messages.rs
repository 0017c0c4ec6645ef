//! Which datagrams are one message of a call.

use std::{net::SocketAddr, ops::Range};

use nix::sys::socket::SockaddrStorage;

/// How many datagrams a call sends at most.
pub(crate) const MAX_BATCH: usize = 32;

/// Every IPv6 link takes a datagram of this size in one packet ([RFC 8200 §5]: 1,280 bytes with the headers). A larger one
/// may have to be fragmented, which excludes segmentation.
///
/// [RFC 8200 §5]: https://www.rfc-editor.org/rfc/rfc8200#section-5
const MAX_SEGMENT: usize = 1_232;

/// The messages of one call. A message is one datagram, or several of one size to one peer, which the kernel sends through
/// its stack as one and then cuts apart ([`UDP_SEGMENT`]). The last of them may be shorter.
///
/// [`UDP_SEGMENT`]: https://man7.org/linux/man-pages/man7/udp.7.html
pub(super) struct Messages {
    /// Whether a message may be several datagrams.
    may_segment: bool,
    len: usize,
    to: [Option<SockaddrStorage>; MAX_BATCH],
    /// How many datagrams there are up to the end of each message.
    ends: [usize; MAX_BATCH],
    datagrams: usize,
    /// The size of the datagrams in messages of several. It is the same for the whole call.
    segment: Option<u16>,
    /// The peer and the first datagram's size of the last message, if it can be continued.
    last: Option<(SocketAddr, usize)>,
    /// The size of the largest datagram.
    largest: usize,
}

impl Messages {
    pub(super) fn new(may_segment: bool) -> Self {
        Self {
            may_segment,
            len: 0,
            to: [None; MAX_BATCH],
            ends: [0; MAX_BATCH],
            datagrams: 0,
            segment: None,
            last: None,
            largest: 0,
        }
    }

    /// Adds a datagram, unless it cannot be sent with the others.
    pub(super) fn add(&mut self, size: usize, to: SocketAddr) -> bool {
        if let Some(segment) = self.continues(size, to) {
            self.segment = Some(segment);
            if size < segment.into() {
                self.last = None;
            }
        } else {
            // The kernel would cut it apart.
            if self.segment.is_some_and(|segment| size > segment.into()) {
                return false;
            }
            self.to[self.len] = Some(to.into());
            self.len += 1;
            self.last = self.may_segment.then_some((to, size));
            self.largest = self.largest.max(size);
        }
        self.datagrams += 1;
        self.ends[self.len - 1] = self.datagrams;
        true
    }

    /// The size of the datagrams in the last message, if this one can be added to it.
    fn continues(&self, size: usize, to: SocketAddr) -> Option<u16> {
        let (peer, first) = self.last?;
        let segment = u16::try_from(first).ok()?;
        let fits = (1..=first).contains(&size) && first <= MAX_SEGMENT && self.largest <= first;
        (peer == to && fits && self.segment.is_none_or(|other| other == segment)).then_some(segment)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn segment(&self) -> Option<u16> {
        self.segment
    }

    pub(super) fn to(&self) -> &[Option<SockaddrStorage>] {
        &self.to[..self.len]
    }

    /// How many datagrams there are in the first messages.
    pub(super) fn datagrams_before(&self, message: usize) -> usize {
        message.checked_sub(1).map_or(0, |last| self.ends[last])
    }

    /// Which datagrams are in a message.
    pub(super) fn datagrams_of(&self, message: usize) -> Range<usize> {
        if message < self.len {
            self.datagrams_before(message)..self.ends[message]
        } else {
            0..0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many datagrams each message of a call has, if they have these peers and sizes, and the size of a segment.
    fn messages(datagrams: &[(u16, usize)]) -> (Vec<usize>, Option<u16>) {
        let mut messages = Messages::new(true);
        for &(peer, size) in datagrams {
            if !messages.add(size, SocketAddr::from(([192, 0, 2, 1], peer))) {
                break;
            }
        }
        let counts: Vec<_> = (0..messages.len())
            .map(|at| messages.datagrams_of(at).len())
            .collect();
        assert_eq!(counts.iter().sum::<usize>(), messages.datagrams);
        assert_eq!(messages.datagrams_before(messages.len()), messages.datagrams);
        (counts, messages.segment())
    }

    #[test]
    fn datagrams_of_one_size_to_one_peer_are_one_message() {
        assert_eq!(messages(&[]), (vec![], None));
        assert_eq!(messages(&[(1, 5)]), (vec![1], None));
        assert_eq!(messages(&[(1, 5), (1, 5), (1, 5)]), (vec![3], Some(5)));
        assert_eq!(messages(&[(1, 5), (2, 5), (1, 5)]), (vec![1, 1, 1], None));
        // The last may be shorter, and ends the message.
        assert_eq!(messages(&[(1, 5), (1, 4), (1, 4)]), (vec![2, 1], Some(5)));
    }

    #[test]
    fn a_datagram_that_would_be_cut_apart_is_left_for_the_next_call() {
        assert_eq!(messages(&[(1, 5), (1, 5), (2, 6)]), (vec![2], Some(5)));
        assert_eq!(messages(&[(1, 5), (1, 5), (2, 4)]), (vec![2, 1], Some(5)));
        // Or the others are not one message.
        assert_eq!(messages(&[(2, 6), (1, 5), (1, 5)]), (vec![1, 1, 1], None));
    }

    #[test]
    fn empty_and_large_datagrams_are_messages_of_their_own() {
        assert_eq!(messages(&[(1, 0), (1, 0)]), (vec![1, 1], None));
        assert_eq!(messages(&[(1, 5), (1, 0)]), (vec![1, 1], None));
        let large = MAX_SEGMENT + 1;
        assert_eq!(messages(&[(1, large), (1, large)]), (vec![1, 1], None));
        assert_eq!(messages(&[(1, 70_000), (1, 70_000)]), (vec![1, 1], None));
    }

    #[test]
    fn without_segmentation_each_datagram_is_a_message() {
        let mut messages = Messages::new(false);
        for _ in 0..3 {
            assert!(messages.add(5, SocketAddr::from(([192, 0, 2, 1], 1))));
        }
        assert_eq!((messages.len(), messages.segment()), (3, None));
    }
}
