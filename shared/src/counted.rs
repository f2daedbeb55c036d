//! How much of what waits encrypted has left.
//!
//! TLS holds up to 64 KiB, for which a modem takes nine minutes, and says nothing of them until they all have gone: who takes them slowly and
//! steadily would look like who takes nothing. What he takes is seen below TLS only. To let TLS hold less makes large messages slower, by half at
//! 4 KiB.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The octets that have left, for whoever does not have the connection itself.
#[derive(Clone, Debug, Default)]
pub struct Gone(Arc<AtomicU64>);

impl Gone {
    /// How many.
    pub fn octets(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A connection below TLS that counts what leaves.
#[derive(Debug)]
pub struct Counted<S> {
    stream: S,
    gone: Gone,
}

impl<S> Counted<S> {
    /// Begins to count with 0.
    pub fn new(stream: S) -> Self {
        Self { stream, gone: Gone::default() }
    }

    /// The count, as it goes on.
    pub fn gone(&self) -> Gone {
        self.gone.clone()
    }

    /// The connection.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    fn count(&self, sent: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(octets)) = sent {
            self.gone.0.fetch_add(octets as u64, Ordering::Relaxed);
        }
        sent
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.stream).poll_write(cx, octets);
        self.count(sent)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.count(sent)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
