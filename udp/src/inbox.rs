//! Datagrams on their way from the socket.

use std::{
    io::ErrorKind,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_timer::Delay;
use futures_util::FutureExt;

use crate::{
    batch::Batch,
    datagram::Datagram,
    observer::{Observer, Trouble},
    socket::DatagramSocket,
};

/// From this number of errors in a row on, receiving pauses after each.
const ERRORS_IN_A_ROW: u32 = 16;
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// Receives batches, and slows down while the socket fails.
pub(crate) struct Inbox {
    batch: Batch,
    errors_in_a_row: u32,
    pause: Option<Delay>,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self {
            batch: Batch::new(),
            errors_in_a_row: 0,
            pause: None,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    pub(crate) fn next(&mut self, socket: &DatagramSocket) -> Option<Datagram> {
        self.batch.next(socket.local_addr())
    }

    /// Ready when there is a batch, or after an error: it may be called again then.
    pub(crate) fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        socket: &DatagramSocket,
        observer: &mut impl Observer,
    ) -> Poll<()> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.poll_unpin(cx));
            self.pause = None;
        }
        match ready!(socket.poll_recv(cx, &mut self.batch)) {
            Ok(()) => self.errors_in_a_row = 0,
            Err(error) => {
                observer.trouble(Trouble::ReceiveFailed(&error));
                self.errors_in_a_row += 1;
                if self.errors_in_a_row >= ERRORS_IN_A_ROW {
                    self.pause = Some(Delay::new(ERROR_PAUSE));
                }
            }
        }
        Poll::Ready(())
    }

    /// Takes a batch that the system has queued. Returns whether there was one.
    pub(crate) fn try_recv(&mut self, socket: &DatagramSocket, observer: &mut impl Observer) -> bool {
        let result = socket.try_recv(&mut self.batch);
        if let Err(error) = &result
            && error.kind() != ErrorKind::WouldBlock
        {
            observer.trouble(Trouble::ReceiveFailed(error));
        }
        result.is_ok()
    }
}
