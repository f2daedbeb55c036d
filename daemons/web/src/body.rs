//! What goes out after a response head: one concrete type for all bodies.

use crate::{
    gate::{self, HOLE_OCTETS, Link},
    log::Ticket,
};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::unix::fs::FileExt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

/// How many octets are read from a file at once where sendfile cannot be used (TLS): large enough that the system call
/// does not count, small enough to stay in the processor's cache until it is encrypted.
const READ_OCTETS: usize = 64 << 10;
/// A response body.
#[derive(Debug)]
pub(crate) enum Body {
    /// Nothing (HEAD, 304 ...).
    Empty,
    /// All of it, in memory.
    Whole(Bytes),
    /// Pieces of a file, with text between them where they are several (multipart/byteranges).
    Pieces(Box<Pieces>),
}

/// How the octets of a file reach the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transfer {
    /// From the page cache by sendfile(2).
    SendFile,
    /// Through our memory, where they are encrypted.
    Read,
}

/// One piece of a [`Body::Pieces`].
#[derive(Debug)]
pub(crate) enum Piece {
    /// These octets.
    Text(Bytes),
    /// A part of the file.
    File { offset: u64, octets: u64 },
}

/// See [`Body::Pieces`].
#[derive(Debug)]
pub(crate) struct Pieces {
    file: Arc<File>,
    transfer: Transfer,
    link: Arc<Link>,
    queue: VecDeque<Piece>,
    /// Octets of all pieces that are left.
    left: u64,
    /// Octets handed to hyper.
    given: u64,
    /// What had been written to the socket when this body began.
    sent_before: Option<u64>,
    /// Holes of the piece in hand for which the gate knows the file already.
    promised: u64,
    /// Its drop writes the log entry, with the octets that were really sent.
    ticket: Option<Ticket>,
}

impl Body {
    pub(crate) fn pieces(file: Arc<File>, transfer: Transfer, link: Arc<Link>, queue: VecDeque<Piece>) -> Self {
        let left = queue.iter().map(Piece::octets).sum();
        let pieces =
            Pieces { file, transfer, link, queue, left, given: 0, sent_before: None, promised: 0, ticket: None };
        Body::Pieces(Box::new(pieces))
    }

    /// The number of octets.
    pub(crate) fn octets(&self) -> u64 {
        match self {
            Body::Empty => 0,
            Body::Whole(octets) => octets.len() as u64,
            Body::Pieces(pieces) => pieces.left,
        }
    }

    /// Has `ticket` written when a long body has been sent or given up.
    pub(crate) fn log_when_sent(&mut self, ticket: Ticket) {
        if let Body::Pieces(pieces) = self {
            pieces.ticket = Some(ticket);
        }
    }
}

impl Piece {
    fn octets(&self) -> u64 {
        match self {
            Piece::Text(text) => text.len() as u64,
            Piece::File { octets, .. } => *octets,
        }
    }
}

impl Pieces {
    /// The next octets; `None` at the end.
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        let octets = match self.queue.front_mut() {
            None => return Ok(None),
            Some(Piece::Text(text)) => std::mem::take(text),
            Some(Piece::File { offset, octets }) => match self.transfer {
                Transfer::SendFile => {
                    if self.promised == 0 {
                        self.link.promise_file(Arc::clone(&self.file), *offset, *octets);
                        self.promised = *octets;
                    }
                    let length = self.promised.min(HOLE_OCTETS as u64);
                    self.promised -= length;
                    *offset += length;
                    *octets -= length;
                    gate::hole(length as usize)
                }
                Transfer::Read => {
                    let length = (*octets).min(READ_OCTETS as u64) as usize;
                    let mut buffer = vec![0; length];
                    // Blocking, on purpose: the octets are in the page cache nearly always, and a trip to another
                    // thread costs more than the copy.
                    self.file.read_exact_at(&mut buffer, *offset)?;
                    *offset += length as u64;
                    *octets -= length as u64;
                    buffer.into()
                }
            },
        };
        if self.queue.front().is_some_and(|piece| piece.octets() == 0) {
            self.queue.pop_front();
        }
        self.left -= octets.len() as u64;
        self.given += octets.len() as u64;
        Ok(Some(octets))
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            // A body that came to its end is on its way; of one that was given up, what the socket took counts.
            let sent = self.sent_before.map_or(0, |before| self.link.sent() - before);
            ticket.write(if self.left == 0 { self.given } else { sent.min(self.given) });
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let body = self.get_mut();
        match body {
            Body::Empty => Poll::Ready(None),
            Body::Whole(octets) => {
                let octets = std::mem::take(octets);
                *body = Body::Empty;
                Poll::Ready(Some(Ok(Frame::data(octets))))
            }
            Body::Pieces(pieces) => {
                pieces.sent_before.get_or_insert(pieces.link.sent());
                // hyper asks again only when the socket has taken most of what it has, so a slow client costs no memory.
                Poll::Ready(pieces.next().transpose().map(|octets| octets.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.octets() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.octets())
    }
}
