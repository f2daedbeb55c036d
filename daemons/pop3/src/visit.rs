//! One client: carries out what the [session](crate::session) decides.
//!
//! Files are opened and read at once when the kernel has them in memory, and on the pool for blocking work when it has not, so
//! that a slow disk holds up nobody else. Who asks for one message after the other finds the next one read already, and us
//! [looking out](shared::lookout) for the command:
//!
//! ```text
//!   client   RETR 1 ------.         .-> takes the answer ---- RETR 2 -.         .-> ...
//!   we                    '-> send -'   open and read 2               '-> send -'   open and read 3
//! ```

use crate::{
    body::{Cut, header},
    md5::md5,
    reply::Reply,
    server::Office,
    session::{
        AUTH_LINE_OCTETS_MAX, Channel, Credentials, Effect, Extent, Header, LINE_OCTETS_MAX, Lines, Outcome, Session,
        Step,
    },
};
use bytes::BufMut;
use shared::{
    login::Answer,
    lookout::{Glance, Lookout},
    maildir::{Listing, LockError, Locked, Maildir, Removal, Source},
    message::{CHUNK_OCTETS, Patience, Shown, Stuffing, read, read_at},
    sasl::prepare,
    transcript::Kind,
    wire::{Line, Wire, WireError},
};
use std::{io, net::IpAddr, path::Path, sync::Arc, time::Instant};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::spawn_blocking,
};
use tokio_util::sync::CancellationToken;

/// A message that is read before it is asked for is no larger: a client that then falls silent keeps this much of our memory.
const AHEAD_OCTETS_MAX: u64 = 16 << 10;

/// How a conversation ended.
enum End {
    /// With words, that are still to be sent.
    Goodbye,
    /// Without: the client is gone, or RFC 1939 §3 wants it so.
    Silence,
    /// It goes on over TLS.
    StartTls,
}

/// A client's visit.
pub(crate) struct Visit {
    office: Arc<Office>,
    session: Session,
    peer: IpAddr,
    maildrop: Option<(Arc<Locked>, Arc<Listing>)>,
    opened: Option<(Opened, Extent)>,
    /// The message that comes next for whoever reads the mailbox in its order.
    next: usize,
    ahead: Option<Ahead>,
    lookout: Lookout,
}

/// A message that is about to be sent.
struct Opened {
    /// Its beginning, which was read to look at the header.
    first: Vec<u8>,
    /// The file, if there is more in it.
    rest: Option<Arc<Source>>,
}

impl Opened {
    fn new(source: Arc<Source>, first: Vec<u8>) -> Self {
        let rest = ((first.len() as u64) < source.length()).then_some(source);
        Self { first, rest }
    }
}

/// A message that will probably be asked for, because those before it were.
enum Ahead {
    Wanted(usize),
    Opened(usize, Opened),
}

/// Serves a client until it leaves, falls silent, or we stop.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Glance + Unpin + Send>(
    office: Arc<Office>,
    mut wire: Wire<S>,
    channel: Channel,
    shutdown: &CancellationToken,
) {
    let (connection, peer) = (wire.conversation().id(), wire.conversation().remote().ip());
    let (session, greeting) = Session::new(Arc::clone(&office.offer), channel, office.stamp(connection));
    let mut visit = Visit {
        session,
        peer,
        maildrop: None,
        opened: None,
        next: 0,
        ahead: None,
        lookout: Lookout::default(),
        office,
    };
    wire.say(greeting.to_string());
    match visit.converse(&mut wire, shutdown).await {
        End::Silence => {}
        // The client may be gone, which is how sessions end: there is nobody left to tell.
        End::Goodbye => drop(wire.close().await),
        // Boxed, so that those who need no TLS do not carry its size.
        End::StartTls => Box::pin(visit.go_on_encrypted(wire, shutdown)).await,
    }
}

impl Visit {
    async fn go_on_encrypted<S: AsyncRead + AsyncWrite + Glance + Unpin + Send>(
        &mut self,
        wire: Wire<S>,
        shutdown: &CancellationToken,
    ) {
        let Some(acceptor) = self.office.acceptor.clone() else { return };
        // RFC 2595 §4 and CVE-2011-0411: what came behind STLS in clear is dropped here.
        let Some(mut wire) = wire.over_tls(&acceptor).await else { return };
        self.session.encrypted();
        if let End::Goodbye = self.converse(&mut wire, shutdown).await {
            drop(wire.close().await);
        }
    }

    async fn converse<S: AsyncRead + AsyncWrite + Glance + Unpin + Send>(
        &mut self,
        wire: &mut Wire<S>,
        shutdown: &CancellationToken,
    ) -> End {
        loop {
            // A stop is noticed between two commands, never within one.
            let line = match shutdown.run_until_cancelled(self.next_line(wire)).await {
                Some(Ok(line)) => line,
                // RFC 1939 §3: "the server should close the TCP connection without removing any messages or sending any
                // response to the client".
                Some(Err(reason)) => return gone(wire, &reason),
                None => {
                    self.maildrop = None;
                    wire.say(Reply::stopping().to_string());
                    return End::Goodbye;
                }
            };
            let mut step = self.session.on_line(&line);
            loop {
                step = match step {
                    Step::Perform(effect) => {
                        let outcome = self.perform(effect, wire, shutdown).await;
                        self.session.on_outcome(outcome)
                    }
                    Step::Reply(reply) => {
                        wire.say(reply.to_string());
                        break;
                    }
                    Step::Challenge(reply) => {
                        wire.say(reply.to_string());
                        wire.next_line_is_secret();
                        break;
                    }
                    Step::Lines(reply, lines) => match self.send_lines(wire, &reply, &lines).await {
                        Ok(()) => break,
                        Err(reason) => return gone(wire, &reason),
                    },
                    Step::Message(reply) => match self.send_message(wire, &reply).await {
                        Ok(()) => break,
                        // A message that cannot be finished must not look finished: no dot.
                        Err(reason) => return gone(wire, &reason),
                    },
                    Step::StartTls(reply) => {
                        wire.say(reply.to_string());
                        return End::StartTls;
                    }
                    Step::Close(reply) => {
                        // RFC 1939 §6: the lock goes before the goodbye, so that whoever hears it can come back at once.
                        self.maildrop = None;
                        wire.say(reply.to_string());
                        return End::Goodbye;
                    }
                };
            }
            let long = self.session.is_authenticating();
            wire.set_line_octets_max(if long { AUTH_LINE_OCTETS_MAX } else { LINE_OCTETS_MAX });
        }
    }

    async fn next_line<S: AsyncRead + AsyncWrite + Glance + Unpin>(
        &mut self,
        wire: &mut Wire<S>,
    ) -> Result<Line, WireError> {
        if let Some(Ahead::Wanted(index)) = self.ahead
            && wire.buffered_input() == 0
        {
            // The answer leaves first: it is while the client takes it that we have time.
            wire.flush().await?;
            self.ahead = self.open_ahead(index).map(|opened| Ahead::Opened(index, opened));
            if self.ahead.is_some() {
                self.lookout.expect_line(wire, &self.office.lasting.lookouts).await;
            }
        }
        wire.line().await
    }

    async fn perform<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        effect: Effect,
        wire: &mut Wire<S>,
        shutdown: &CancellationToken,
    ) -> Outcome {
        match effect {
            Effect::Verify(credentials) => {
                // It takes its time, and answers to what was said before need not wait with it.
                let _ = wire.flush().await;
                Outcome::Login(self.verify(&credentials, shutdown).await)
            }
            Effect::FetchKeys(user) => {
                Outcome::Login(self.office.lasting.logins.keys(self.office.config.account(&user), self.peer))
            }
            Effect::OpenMaildrop(user) => self.open_maildrop(&user).await,
            Effect::Open { index, extent } => match self.open(index, extent).await {
                Ok(header) => Outcome::Ready(header),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Outcome::Vanished,
                Err(error) => {
                    tracing::error!(connection = wire.conversation().id(), %error, "cannot read a message");
                    Outcome::Unreadable
                }
            },
            Effect::Remove(indexes) => self.remove(indexes).await,
        }
    }

    async fn verify(&self, credentials: &Credentials, shutdown: &CancellationToken) -> Answer {
        let Office { lasting, config, .. } = &*self.office;
        let user = config.account(credentials.user());
        match credentials {
            Credentials::Sasl(credentials) => lasting.logins.check(user, credentials, self.peer, shutdown).await,
            Credentials::Digest { stamp, digest, .. } => {
                let proof = |clear: Option<&str>| clear.is_some_and(|clear| proves(digest, stamp, clear));
                lasting.logins.judge(user, proof, self.peer, shutdown).await
            }
        }
    }

    async fn open_maildrop(&mut self, user: &str) -> Outcome {
        let account = self.office.config.account(user);
        let Some(path) = self.office.config.mailbox(account) else { return Outcome::CannotOpen };
        let now = Instant::now();
        if !self.office.is_late_enough(account, now) {
            return Outcome::TooEarly;
        }
        let opening = spawn_blocking(move || lock_and_scan(&path).map_err(|error| (error, path)));
        match opening.await {
            Ok(Ok((locked, listing))) => {
                self.office.has_logged_in(account, now);
                let listing = Arc::new(listing);
                self.maildrop = Some((Arc::new(locked), Arc::clone(&listing)));
                Outcome::Opened(listing)
            }
            Ok(Err((LockError::Busy, _))) => Outcome::Busy,
            Ok(Err((LockError::Io(error), path))) => {
                tracing::error!(mailbox = %path.display(), %error, "cannot open a mailbox");
                Outcome::CannotOpen
            }
            // It panicked, which the log tells.
            Err(_) => Outcome::CannotOpen,
        }
    }

    /// Opens a message and reads its beginning.
    async fn open(&mut self, index: usize, extent: Extent) -> io::Result<Header> {
        let opened = match self.ahead.take() {
            Some(Ahead::Opened(ahead, opened)) if ahead == index => opened,
            _ => self.open_now(index).await?,
        };
        if index == self.next {
            self.ahead = Some(Ahead::Wanted(index + 1));
        }
        self.next = index + 1;
        let header = header(&opened.first);
        self.opened = Some((opened, extent));
        Ok(header)
    }

    async fn open_now(&self, index: usize) -> io::Result<Opened> {
        let Some((locked, listing)) = &self.maildrop else { return Err(io::ErrorKind::NotFound.into()) };
        let source = match locked.open(listing, index, Patience::Cached) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let (locked, listing) = (Arc::clone(locked), Arc::clone(listing));
                spawn_blocking(move || locked.open(&listing, index, Patience::Disk)).await??
            }
            opened => opened?,
        };
        let source = Arc::new(source);
        let first = read(&source, vec![], 0, source.length()).await?;
        Ok(Opened::new(source, first))
    }

    /// As [`Visit::open_now`], if the message is there, small and in memory. Whatever stands in the way is met again, and told, when
    /// the message is asked for.
    fn open_ahead(&self, index: usize) -> Option<Opened> {
        let (locked, listing) = self.maildrop.as_ref()?;
        if index >= listing.len() {
            return None;
        }
        let source = locked.open(listing, index, Patience::Cached).ok()?;
        if source.length() > AHEAD_OCTETS_MAX {
            return None;
        }
        let mut first = vec![0; usize::try_from(source.length()).ok()?];
        let read = read_at(&source, &mut first, 0, Patience::Cached).ok()?;
        first.truncate(read);
        Some(Opened::new(Arc::new(source), first))
    }

    async fn remove(&mut self, indexes: Vec<usize>) -> Outcome {
        let Some((locked, listing)) = self.maildrop.take() else { return Outcome::Removed { failed: indexes.len() } };
        let all = indexes.len();
        let removing = spawn_blocking(move || {
            let mut failed = 0;
            for index in indexes {
                if let Removal::Failed(error) = locked.remove(&listing, index) {
                    tracing::error!(%error, "cannot remove a message");
                    failed += 1;
                }
            }
            if let Err(error) = locked.sync() {
                // They are gone for everybody who looks; only a power cut could bring them back.
                tracing::error!(%error, "cannot make removals durable");
            }
            failed
        });
        let failed = removing.await.unwrap_or(all);
        self.office.lasting.counters.removed.inc_by((all - failed) as u64);
        Outcome::Removed { failed }
    }

    async fn send_lines<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        wire: &mut Wire<S>,
        reply: &Reply,
        lines: &Lines,
    ) -> Result<(), WireError> {
        let mut shown = say_first(wire, reply);
        for line in self.session.lines(lines) {
            // None of these lines begins with a dot: numbers and capabilities do not.
            let out = wire.output_mut();
            out.put_slice(line.as_bytes());
            out.put_slice(b"\r\n");
            shown.push(line.as_bytes());
            shown.push(b"\r\n");
            if wire.buffered_output() >= CHUNK_OCTETS {
                wire.flush().await?;
            }
        }
        wire.output_mut().put_slice(b".\r\n");
        shown.push(b".\r\n");
        shown.tell(wire.conversation());
        Ok(())
    }

    async fn send_message<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        wire: &mut Wire<S>,
        reply: &Reply,
    ) -> Result<(), WireError> {
        let Some((Opened { first, rest }, extent)) = self.opened.take() else { return Err(WireError::Closed) };
        let mut shown = say_first(wire, reply);
        let (mut cut, mut stuffing, mut chunk, mut at) = (Cut::new(extent), Stuffing::default(), first, 0);
        // Nothing is read behind the end, so there is nothing only in an empty message, or in one that has become shorter.
        while !chunk.is_empty() || rest.is_some() {
            if chunk.is_empty() {
                tracing::error!(connection = wire.conversation().id(), "a message became shorter while it was sent");
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            let wanted = cut.take(&chunk);
            let out = wire.output_mut();
            let from = out.len();
            stuffing.push(&chunk[..wanted], out);
            shown.push(&out[from..]);
            at += chunk.len() as u64;
            let Some(source) = &rest else { break };
            if wanted < chunk.len() || at >= source.length() {
                break;
            }
            if wire.buffered_output() >= CHUNK_OCTETS {
                wire.flush().await?;
            }
            chunk = read(source, chunk, at, source.length()).await?;
        }
        let out = wire.output_mut();
        let from = out.len();
        stuffing.finish(out);
        shown.push(&out[from..]);
        shown.tell(wire.conversation());
        self.office.lasting.counters.sent.inc();
        Ok(())
    }
}

/// Locks a mailbox, which is made if it is not there, and lists it.
fn lock_and_scan(path: &Path) -> Result<(Locked, Listing), LockError> {
    let locked = match Maildir::open(path).map_err(LockError::from).and_then(Maildir::lock) {
        Err(LockError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
            Maildir::open_or_create(path)?.lock()?
        }
        locked => locked?,
    };
    let listing = locked.scan()?;
    Ok((locked, listing))
}

/// Whether who sends this digest knows the secret. RFC 1939 §7: it is of the timestamp, then the shared secret.
fn proves(digest: &[u8; 16], stamp: &str, secret: &str) -> bool {
    let is_of = |secret: &str| md5(format!("{stamp}{secret}").as_bytes()) == *digest;
    // RFC 6856 §2.2: both sides prepare the secret by RFC 4013 before they compute. Hardly a client does, and where that makes a difference,
    // it knows the secret all the same; so one is good as it stands in our file, too.
    is_of(&prepare(secret)) || is_of(secret)
}

fn gone<S: AsyncRead + AsyncWrite + Unpin>(wire: &Wire<S>, reason: &WireError) -> End {
    wire.ended_abruptly(reason);
    End::Silence
}

/// Says the first line of an answer of many.
fn say_first<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>, reply: &Reply) -> Shown {
    let mut shown = Shown::new(wire.conversation(), Kind::Server);
    let out = wire.output_mut();
    let from = out.len();
    out.put_slice(reply.to_string().as_bytes());
    out.put_slice(b"\r\n");
    shown.push(&out[from..]);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apop_takes_a_secret_as_the_rfc_prepares_it_and_as_clients_send_it() {
        let digest = |text: &str| md5(format!("<1@h>{text}").as_bytes());
        for (stored, said) in [
            ("hungry", "hungry"),
            // RFC 6856 §2.2, RFC 4013.
            ("ha\u{30a}ll", "h\u{e5}ll"),
            ("I\u{ad}X", "IX"),
            ("ha\u{30a}ll", "ha\u{30a}ll"),
            ("I\u{ad}X", "I\u{ad}X"),
        ] {
            assert!(proves(&digest(said), "<1@h>", stored), "{stored:?} {said:?}");
        }
        assert!(!proves(&digest("hungry"), "<2@h>", "hungry"));
        assert!(!proves(&digest("hungry "), "<1@h>", "hungry"));
    }
}
