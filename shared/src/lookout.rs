//! To look out for a client's next line, instead of going to sleep until it comes.
//!
//! When client and server share a machine, most of a round trip is two processors that wake each other up: about 20 us each way, while
//! what either does takes less. So who has asked for one message after the other is looked out for:
//!
//! ```text
//!   asleep     client  RETR 2 --wakes us--.                .--------- RETR 3 --wakes us-- ...
//!              we      zzzzzzzzzzzzzzzzzzz '--wakes client-'  zzzzzzzzzzzzzzzzzzzzzzzzzz
//!
//!   looking    client  RETR 2 -.                .------- RETR 3 -.
//!   out        we      ? ? ? ? '--wakes client--' ? ? ? ? ? ? ? ? '-- ...
//! ```
//!
//! That takes less of the processor than to be put to sleep and woken up again, as long as the client is quick. Who is not is found out
//! and waited for as anybody else; and all others come first, in each of the ways in which we could be in theirs:
//! programs that want the processor (`sched_yield(2)`, before each look), sessions that wait on our thread ([`TURN`]), and sessions
//! that want to look out as well (one at a time).

use crate::wire::Wire;
use rustix::net::{RecvFlags, recv};
use std::{
    io,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream},
    net::TcpStream,
    task,
};
use tokio_rustls::server::TlsStream;

/// How long we look out: a client on the same machine takes about 30 us to wake up, to take the answer and to say its next line.
const PATIENCE: Duration = Duration::from_micros(50);
/// After so many lines in a row that did not come in time, none is expected to: a client behind a network never is that quick.
const LATE_MAX: u8 = 4;
/// After so many lines that did, whoever waits for our thread has a turn, as everybody has whenever a session goes to sleep.
const TURN: u8 = 32;
/// Lines that are said in a hurry are short; what is longer is read by [`Wire::line`].
const LINE_OCTETS: usize = 512;

/// A stream that can be asked for what has come, without the runtime.
pub trait Glance {
    /// What has come, or `WouldBlock`. Streams that have no such shortcut never have anything.
    ///
    /// # Errors
    /// Nothing has come, or the connection broke.
    fn glance(&mut self, _input: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Glance for TcpStream {
    fn glance(&mut self, input: &mut [u8]) -> io::Result<usize> {
        let (octets, _) = recv(&*self, input, RecvFlags::DONTWAIT)?;
        Ok(octets)
    }
}

/// What comes is no line before it is decrypted, which takes longer than to wake up.
impl<S> Glance for TlsStream<S> {}

impl Glance for DuplexStream {}

/// What all sessions of a server share.
#[derive(Debug)]
pub struct Lookouts {
    /// Held by whoever looks out. Where two wait, a processor has better things to do.
    alone: Mutex<()>,
    /// With one processor, whoever we wait for needs it.
    has_processor_to_spare: bool,
}

impl Lookouts {
    /// For the processors that this process may use now.
    pub fn new() -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Self { alone: Mutex::new(()), has_processor_to_spare: processors > 1 }
    }
}

impl Default for Lookouts {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether a client is quick enough to be looked out for.
#[derive(Debug, Default)]
pub struct Lookout {
    late: u8,
    in_time: u8,
}

impl Lookout {
    /// Looks out for the next line, if that is worthwhile. Whether it has come or not, [`Wire::line`] is to be called next. What was said
    /// must have left ([`Wire::flush`]).
    pub async fn expect_line<S>(&mut self, wire: &mut Wire<S>, lookouts: &Lookouts)
    where
        S: AsyncRead + AsyncWrite + Unpin + Glance,
    {
        if !lookouts.has_processor_to_spare || self.late >= LATE_MAX || wire.buffered_input() > 0 {
            return;
        }
        if self.in_time >= TURN {
            self.in_time = 0;
            task::yield_now().await;
        }
        match look(wire, lookouts) {
            Some(Seen::InTime) => (self.late, self.in_time) = (0, self.in_time + 1),
            Some(Seen::Late) => self.late += 1,
            None => {}
        }
    }
}

enum Seen {
    InTime,
    Late,
}

/// What is seen, if nobody else looks out.
fn look<S: AsyncRead + AsyncWrite + Unpin + Glance>(wire: &mut Wire<S>, lookouts: &Lookouts) -> Option<Seen> {
    let _alone = lookouts.alone.try_lock().ok()?;
    let (stream, input) = wire.parts_mut();
    let mut line = [0; LINE_OCTETS];
    let until = Instant::now() + PATIENCE;
    loop {
        thread::yield_now();
        match stream.glance(&mut line) {
            Ok(octets @ 1..) => {
                input.extend_from_slice(&line[..octets]);
                return Some(Seen::InTime);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {}
            // Late, or at its end, which whoever reads next learns too.
            _ => return Some(Seen::Late),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        transcript::{Hub, Transport},
        wire::{Limits, Line, LineEnd, Role, WireError, nothing_is_secret},
    };
    use tokio::io::AsyncWriteExt;

    fn lookouts() -> Lookouts {
        Lookouts { alone: Mutex::new(()), has_processor_to_spare: true }
    }

    /// A client, and the server's side of its connection.
    async fn connection() -> (TcpStream, Wire<TcpStream>) {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (client, (server, peer)) = (client.unwrap(), accepted.unwrap());
        let transcript = Hub::quiet().transcript("pop3", "mail");
        let talk = transcript.conversation(Transport::Tcp, server.local_addr().unwrap(), peer);
        let minute = Duration::from_mins(1);
        let limits = Limits { line_end: LineEnd::CrLf, line_octets_max: 512, idle: minute, write: minute };
        (client, Wire::new(server, Role::Server, limits, nothing_is_secret, talk))
    }

    #[tokio::test]
    async fn a_line_that_is_there_is_taken_in_without_the_runtime() {
        let ((mut client, mut wire), mut lookout) = (connection().await, Lookout::default());
        let lookouts = lookouts();
        for _ in 0..3 * usize::from(TURN) {
            client.write_all(b"RETR 1\r\n").await.unwrap();
            lookout.expect_line(&mut wire, &lookouts).await;
            assert_eq!(wire.buffered_input(), 8);
            assert_eq!(wire.line().await.unwrap(), Line::Text("RETR 1".into()));
        }
    }

    #[tokio::test]
    async fn who_is_late_too_often_is_waited_for_as_anybody_else() {
        let ((mut client, mut wire), mut lookout) = (connection().await, Lookout::default());
        let lookouts = lookouts();
        for late in 1..=LATE_MAX {
            lookout.expect_line(&mut wire, &lookouts).await;
            assert_eq!(lookout.late, late);
        }
        client.write_all(b"RETR 1\r\n").await.unwrap();
        lookout.expect_line(&mut wire, &lookouts).await;
        assert_eq!(wire.buffered_input(), 0, "nobody looked");
        assert_eq!(wire.line().await.unwrap(), Line::Text("RETR 1".into()));
    }

    #[tokio::test]
    async fn one_looks_out_at_a_time_and_none_without_a_processor_to_spare() {
        let ((mut client, mut wire), mut lookout) = (connection().await, Lookout::default());
        client.write_all(b"RETR 1\r\n").await.unwrap();
        let busy = lookouts();
        let somebody = busy.alone.lock().unwrap();
        assert!(look(&mut wire, &busy).is_none());
        drop(somebody);
        lookout.expect_line(&mut wire, &Lookouts { has_processor_to_spare: false, ..lookouts() }).await;
        assert_eq!(wire.buffered_input(), 0);
        lookout.expect_line(&mut wire, &busy).await;
        assert_eq!(wire.buffered_input(), 8);
    }

    #[tokio::test]
    async fn the_end_of_a_connection_is_left_to_who_reads_next() {
        let ((client, mut wire), mut lookout) = (connection().await, Lookout::default());
        drop(client);
        lookout.expect_line(&mut wire, &lookouts()).await;
        assert!(matches!(wire.line().await, Err(WireError::Closed)));
    }
}
