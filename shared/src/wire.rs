//! A control connection as lines.
//!
//! ```text
//!               octets                 lines                       a command
//!   stream ---> input  ---> Crlf ---> Wire::line  ---------------> the daemon
//!                                       | masked                      |
//!                                       +------> Conversation         |
//!                                       | masked                      |
//!   stream <--- output <------------- Wire::say   <----- a reply -----+
//!                         one write, when no further command waits
//! ```
//!
//! SMTP, POP3 and FTP are read and written through here and nowhere else. So there is one place that knows where a line
//! ends, how long it may be, how long we wait for it, who may see it, and when a reply leaves.
//!
//! Lines are octets. Whether they are UTF-8, and what a bare CR or LF among them means, is for the protocol's grammar to say.

use crate::{
    counted::{Counted, Gone},
    tls::{Acceptor, HANDSHAKE, NoTls},
    transcript::{Conversation, readable},
};
use bytes::{Buf, Bytes, BytesMut};
use memchr::{memchr, memchr2};
use std::{
    borrow::Cow,
    collections::VecDeque,
    future::poll_fn,
    io,
    mem::{MaybeUninit, replace},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::{Instant, Sleep, sleep_until, timeout},
};
use tokio_rustls::server::TlsStream;
use tokio_util::codec::Decoder;

// --- Where a line ends -----------------------------------------------------------------------------------------------

/// What ends a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineEnd {
    /// CR LF and nothing else. Mail needs this: who takes a bare LF for a line end and hands the message to somebody
    /// who does not (or the other way round) lets a stranger smuggle commands into the gap. Still a bare LF is told at once
    /// ([`Line::BareLf`]): who types into `nc` without `-C` would wait for an answer for ever.
    CrLf,
    /// A bare LF too, for protocols that people type: `nc` sends LF unless told otherwise (`nc -C`).
    CrLfOrLf,
}

/// One line, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// The line without its end.
    Text(Bytes),
    /// The line was longer than allowed. It has been read to its end and thrown away.
    TooLong,
    /// A piece of a line that has a bare LF, with its end: what stands before the LF, or what comes behind it, up to the next CR LF. Nothing
    /// of it counts.
    BareLf(Bytes),
}

/// A CR or LF that stands alone in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stray {
    /// A CR without an LF after it.
    Cr,
    /// An LF without a CR before it.
    Lf,
}

impl Stray {
    /// The first CR or LF in `text`, which is a line without its end: each one in there stands alone.
    pub fn first_in(text: &[u8]) -> Option<Self> {
        memchr2(b'\r', b'\n', text).map(|at| if text[at] == b'\r' { Self::Cr } else { Self::Lf })
    }
}

/// Cuts octets into lines, however they arrive.
///
/// An over-long line costs no memory: what is beyond the limit is dropped as it comes, and reported as one
/// [`Line::TooLong`] when its end has come, so that the conversation stays in step.
#[derive(Clone, Debug)]
pub struct Crlf {
    end: LineEnd,
    octets_max: usize,
    /// The octets at the front of the buffer that hold no line end, so that nothing is looked at twice.
    scanned: usize,
    state: Reading,
    /// Whether a bare LF stands before what is being read, in the same line.
    spoiled: bool,
    /// What the last line took on the wire, its end and its excess included.
    last_line_octets: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Line,
    /// The rest of a line that is already too long, and of which this much is gone.
    Excess {
        dropped: usize,
    },
}

impl Crlf {
    /// Lines of at most `octets_max` octets. As RFC 5321 §4.5.3.1 counts them, that includes the line end.
    pub fn new(end: LineEnd, octets_max: usize) -> Self {
        Self { end, octets_max, scanned: 0, state: Reading::Line, spoiled: false, last_line_octets: 0 }
    }

    /// Takes the next whole line off the front of `buffer`, if there is one.
    pub fn next_line(&mut self, buffer: &mut BytesMut) -> Option<Line> {
        if let Some((text_octets, line_octets)) = self.find_end(buffer) {
            self.scanned = 0;
            let is_bare = self.end == LineEnd::CrLf && line_octets - text_octets == 1;
            let spoiled = is_bare | replace(&mut self.spoiled, is_bare);
            let dropped = match replace(&mut self.state, Reading::Line) {
                Reading::Line => 0,
                Reading::Excess { dropped } => dropped,
            };
            self.last_line_octets = dropped + line_octets;
            if self.last_line_octets > self.octets_max {
                buffer.advance(line_octets);
                return Some(Line::TooLong);
            }
            let mut line = buffer.split_to(line_octets).freeze();
            if spoiled {
                return Some(Line::BareLf(line));
            }
            line.truncate(text_octets);
            return Some(Line::Text(line));
        }
        self.scanned = buffer.len();
        // The end, wherever it is, lies beyond the limit. Keep a CR at the end: its LF may be the next octet to come.
        let dropped = match self.state {
            Reading::Excess { dropped } => dropped,
            Reading::Line if buffer.len() >= self.octets_max => 0,
            Reading::Line => return None,
        };
        let keep = usize::from(buffer.last() == Some(&b'\r'));
        let drop = buffer.len() - keep;
        buffer.advance(drop);
        self.state = Reading::Excess { dropped: dropped + drop };
        self.scanned = keep;
        None
    }

    /// The octets of the first line in `buffer`, without and with its end.
    fn find_end(&self, buffer: &[u8]) -> Option<(usize, usize)> {
        let unseen = buffer.get(self.scanned..)?;
        let lf = self.scanned + memchr(b'\n', unseen)?;
        let after_cr = lf > 0 && buffer[lf - 1] == b'\r';
        Some((lf - usize::from(after_cr), lf + 1))
    }

    /// Somebody else took octets off the front of the buffer: look at what is left from its start.
    fn rescan(&mut self) {
        self.scanned = 0;
    }
}

impl Decoder for Crlf {
    type Item = Line;
    type Error = io::Error;

    fn decode(&mut self, buffer: &mut BytesMut) -> io::Result<Option<Line>> {
        Ok(self.next_line(buffer))
    }

    /// A line that lost its end with the connection is no line: `DELE 12` cut short must not become `DELE 1`.
    fn decode_eof(&mut self, buffer: &mut BytesMut) -> io::Result<Option<Line>> {
        let line = self.next_line(buffer);
        if line.is_none() {
            buffer.clear();
        }
        Ok(line)
    }
}

// --- The connection --------------------------------------------------------------------------------------------------

/// Which end of the conversation we are. A mail server is both in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We heard `C:` and say `S:`.
    Server,
    /// We say `C:` and hear `S:`.
    Client,
}

/// The bounds of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// What ends a line that we hear. What we say always ends with CR LF.
    pub line_end: LineEnd,
    /// The longest line that we hear, with its end.
    pub line_octets_max: usize,
    /// How long we wait for a whole line. Octets that drip do not extend it.
    pub idle: Duration,
    /// How long the peer may take to accept 4 KiB of what we said, or the rest of it. A whole message takes as long as it takes.
    pub write: Duration,
}

/// Why there is no line.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The peer has said all it wanted. An unfinished line is not a line.
    #[error("the peer closed the connection")]
    Closed,
    /// No whole line came within [`Limits::idle`]. The connection still works: a goodbye can be said.
    #[error("the peer was silent for too long")]
    TimedOut,
    /// The peer took too little of our words within [`Limits::write`]. They are given up; there is no use in a goodbye.
    #[error("the peer does not read what we say")]
    Stuck,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
}

/// Stars what is secret in a line that the client says: `PASS ********`. The daemon's command module knows.
pub type Mask = fn(&[u8]) -> Cow<'_, [u8]>;

/// For protocols without secrets.
pub fn nothing_is_secret(line: &[u8]) -> Cow<'_, [u8]> {
    Cow::Borrowed(line)
}

/// What stands for a line that is secret as a whole. Its length tells nothing about the secret's.
const STARS: &[u8] = b"********";

/// For a [`Mask`]: stars what stands behind the first words of a line, of which `open` tells how many may be seen, by the very first; none
/// where there is no secret. A line that is no command, for a blank too many or a tab, has been meant as one.
pub fn star_behind(line: &[u8], open: impl FnOnce(&[u8]) -> Option<usize>) -> Cow<'_, [u8]> {
    let is_blank = |octet: &u8| matches!(octet, b' ' | b'\t');
    let from = line.iter().position(|octet| !is_blank(octet)).unwrap_or(0);
    let first = line[from..].split(is_blank).next().unwrap_or_default();
    let Some(words) = open(first) else { return line.into() };
    let mut blanks = (from..line.len()).filter(|at| is_blank(&line[*at]));
    match words.checked_sub(1).and_then(|last| blanks.nth(last)) {
        Some(blank) => [&line[..blank], b" ", STARS].concat().into(),
        None => line.into(),
    }
}

/// A connection that is read and written as lines, each of which passes the transcript.
///
/// Replies are buffered and leave in one write when no further command waits in the input. A waiting `Wire` holds no
/// buffer: a thousand idle sessions cost their state and nothing else.
#[derive(Debug)]
pub struct Wire<S> {
    stream: S,
    input: BytesMut,
    output: BytesMut,
    crlf: Crlf,
    limits: Limits,
    /// How much has left, where the stream holds what we say before it sends it.
    gone: Option<Gone>,
    alarm: Alarm,
    record: Record,
}

/// At most this much is read at once, so that input is bounded by this and one line.
const READ_OCTETS: usize = 4096;
/// Replies to pipelined commands are held back up to this size; then they leave, whatever else waits.
const OUTPUT_OCTETS: usize = 16 * 1024;
/// How much a peer must take within [`Limits::write`]. Who reads slowly reads more: a modem of 1200 bit/s takes it in half a minute. Who
/// takes an octet now and then only wants to hold us; so 64 KiB can hold us for sixteen times the limit, and no longer.
const PROGRESS_OCTETS: u64 = 4096;
/// How long [`Wire::close`] waits for the peer to hang up first.
const LINGER: Duration = Duration::from_millis(500);

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// A new connection; the transcript hears that it is open, and will hear when it is closed.
    pub fn new(stream: S, role: Role, limits: Limits, mask: Mask, conversation: Conversation) -> Self {
        let conversation = if role == Role::Client { conversation.outgoing() } else { conversation };
        conversation.opened();
        let record = Record { conversation, role, mask, next: Privacy::AsMasked, last: VecDeque::new() };
        Self::with(stream, limits, record)
    }

    fn with(stream: S, limits: Limits, record: Record) -> Self {
        let crlf = Crlf::new(limits.line_end, limits.line_octets_max);
        let (input, output, alarm) = (BytesMut::new(), BytesMut::new(), Alarm::default());
        Self { stream, input, output, crlf, limits, gone: None, alarm, record }
    }

    /// The next line. Before it waits for one, what was said leaves.
    ///
    /// May be dropped and called again (in a `select!`): no octet is lost, only the time starts anew.
    ///
    /// # Errors
    /// See [`WireError`].
    pub async fn line(&mut self) -> Result<Line, WireError> {
        // RFC 2920 §3.2: replies to pipelined commands may leave together, but none may wait for a command that has
        // not come yet.
        if self.output.len() >= OUTPUT_OCTETS {
            self.flush().await?;
        }
        if let Some(line) = self.crlf.next_line(&mut self.input) {
            return Ok(self.heard(line));
        }
        self.flush().await?;
        let until = Instant::now() + self.limits.idle;
        let line = self.read_line(until).await?;
        Ok(self.heard(line))
    }

    async fn read_line(&mut self, until: Instant) -> Result<Line, WireError> {
        loop {
            if self.input.is_empty() {
                // Waiting may take minutes; give the memory back until something comes.
                self.input = BytesMut::new();
            }
            let read = poll_fn(|cx| match poll_read_some(&mut self.stream, &mut self.input, cx) {
                Poll::Pending => self.alarm.poll(until, cx).map(|()| Err(WireError::TimedOut)),
                Poll::Ready(read) => Poll::Ready(read.map_err(WireError::from)),
            });
            if read.await? == 0 {
                return Err(WireError::Closed);
            }
            if let Some(line) = self.crlf.next_line(&mut self.input) {
                return Ok(line);
            }
        }
    }

    fn heard(&mut self, line: Line) -> Line {
        let privacy = match &line {
            Line::Text(text) => self.record.heard(text, self.crlf.last_line_octets),
            Line::BareLf(piece) => self.record.heard(piece.trim_ascii_end(), self.crlf.last_line_octets),
            Line::TooLong => self.record.too_long(self.crlf.last_line_octets, self.crlf.octets_max),
        };
        // The next piece is of the same line, and so of the same secret.
        if self.crlf.spoiled {
            self.record.next = privacy;
        }
        line
    }

    /// Says one line; CR LF is added. It leaves with the next [`Wire::line`] or [`Wire::flush`].
    ///
    /// A CR or LF inside becomes a space: text of the peer that found its way into a reply must not become a reply of
    /// its own.
    pub fn say(&mut self, line: impl AsRef<[u8]>) {
        let line = line.as_ref();
        let from = self.output.len();
        self.output.extend_from_slice(line);
        if Stray::first_in(line).is_some() {
            for octet in &mut self.output[from..] {
                if matches!(octet, b'\r' | b'\n') {
                    *octet = b' ';
                }
            }
        }
        self.record.said(&self.output[from..]);
        self.output.extend_from_slice(b"\r\n");
    }

    /// Sends what was said. May be dropped and called again.
    ///
    /// # Errors
    /// `Stuck` when the peer does not take it in time, `Io` when the connection broke.
    pub async fn flush(&mut self) -> Result<(), WireError> {
        if self.output.is_empty() {
            return Ok(());
        }
        let limit = self.limits.write;
        let Self { stream, output, gone, alarm, .. } = self;
        let all = output.len();
        // Until when the peer must have taken more than it had when we began to wait. Nobody looks at the clock before that.
        let mut wait: Option<(Instant, u64)> = None;
        let sent = poll_fn(|cx| {
            if let Poll::Ready(sent) = poll_write_all(stream, output, cx) {
                return Poll::Ready(sent.map_err(WireError::from));
            }
            let taken = gone.as_ref().map_or((all - output.len()) as u64, Gone::octets);
            let (until, before) = wait.get_or_insert_with(|| (Instant::now() + limit, taken));
            if taken - *before >= PROGRESS_OCTETS {
                (*until, *before) = (Instant::now() + limit, taken);
            }
            alarm.poll(*until, cx).map(|()| Err(WireError::Stuck))
        })
        .await;
        // Sent or given up: half a reply cannot be taken up again later. Give the memory back.
        self.output = BytesMut::new();
        sent
    }

    /// Sends what was said and closes.
    ///
    /// A socket that is closed while input waits unread is reset, and a reset can overtake our last words. So we
    /// close our half, then read on for a moment until the peer closes its own.
    ///
    /// # Errors
    /// As [`Wire::flush`].
    pub async fn close(mut self) -> Result<(), WireError> {
        self.flush().await?;
        timeout(self.limits.write, self.stream.shutdown()).await.map_err(|_| WireError::Stuck)??;
        let drain = async {
            let mut waste = BytesMut::new();
            while let Ok(1..) = poll_fn(|cx| poll_read_some(&mut self.stream, &mut waste, cx)).await {
                waste.clear();
            }
        };
        // Whether the peer closed or was too slow, this was the end.
        let _ = timeout(LINGER, drain).await;
        Ok(())
    }

    /// The octets that the peer sent ahead: pipelined commands, or what follows one that ends a line's reign (DATA).
    pub fn buffered_input(&self) -> usize {
        self.input.len()
    }

    /// What was said and has not left. Who says many lines in a row calls [`Wire::flush`] now and then.
    pub fn buffered_output(&self) -> usize {
        self.output.len()
    }

    /// The next line of the client is a secret as a whole: the answer to an AUTH challenge.
    pub fn next_line_is_secret(&mut self) {
        self.record.next = Privacy::Secret;
    }

    /// How long [`Wire::line`] waits.
    pub fn idle(&self) -> Duration {
        self.limits.idle
    }

    /// Changes how long [`Wire::line`] waits.
    pub fn set_idle(&mut self, idle: Duration) {
        self.limits.idle = idle;
    }

    /// Changes how long a line may be: RFC 4954 §4 gives AUTH 12,288 octets where other commands have 512.
    pub fn set_line_octets_max(&mut self, octets: usize) {
        self.limits.line_octets_max = octets;
        self.crlf.octets_max = octets;
    }

    /// Whom we talk with, for remarks and log lines.
    pub fn conversation(&self) -> &Conversation {
        &self.record.conversation
    }

    /// The last lines of the conversation, oldest first, for the log when it failed. Secrets stay starred here
    /// even when the transcript reveals them: a log is kept longer than a lesson.
    pub fn last_lines(&self) -> String {
        let lines = self.record.last.iter().map(|(mark, text)| format!("{mark} {}", readable(text)));
        lines.collect::<Vec<_>>().join(" | ")
    }

    /// The stream, to look at.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// Stream and input, for whoever reads what is not lines: the body after DATA or BDAT. Octets taken from the
    /// buffer are gone, those left there are lines again.
    pub fn parts_mut(&mut self) -> (&mut S, &mut BytesMut) {
        self.crlf.rescan();
        (&mut self.stream, &mut self.input)
    }

    /// What was said and has not left, for whoever says what is not lines: a message, a long list. The transcript does not see
    /// it; who adds it here tells it by [`Conversation::message`], and calls [`Wire::flush`] now and then.
    pub fn output_mut(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Begins TLS as the server; nothing, if that cannot be done. What the client sent in clear after its last command is dropped:
    /// see [`Wire::into_stream_for_tls`].
    pub async fn over_tls(self, acceptor: &Acceptor) -> Option<Wire<TlsStream<Counted<S>>>> {
        let Unwired { stream, rest, .. } = self.into_stream_for_tls().await.ok()?;
        let talk = &rest.record.conversation;
        let encrypted = begin_tls(stream, acceptor, talk).await;
        let Encrypted { stream, gone } = encrypted.inspect_err(|failed| talk.note(&failed.to_string())).ok()?;
        Some(Wire { gone: Some(gone), ..rest.over(stream) })
    }

    /// The peer left without its protocol's goodbye, and this is how: for the log.
    pub fn ended_abruptly(&self, reason: &WireError) {
        let connection = self.record.conversation.id();
        tracing::debug!(connection, %reason, last = self.last_lines(), "session ends without QUIT");
    }

    /// Sends what was said, then gives the stream away for a TLS handshake.
    ///
    /// RFC 3207 §4.2: what was learnt before TLS must be forgotten. That holds above all for commands which an attacker
    /// in the middle put behind STARTTLS in the same packet (CVE-2011-0411): they are dropped here and never run.
    ///
    /// # Errors
    /// As [`Wire::flush`].
    pub async fn into_stream_for_tls(mut self) -> Result<Unwired<S>, WireError> {
        self.flush().await?;
        let octets_dropped = self.input.len();
        if octets_dropped > 0 {
            let remark = format!("{octets_dropped} octets sent in clear before the TLS handshake are dropped");
            self.record.conversation.note(&remark);
        }
        let rest = Rest { limits: self.limits, record: self.record };
        Ok(Unwired { stream: self.stream, octets_dropped, rest })
    }
}

/// What is left of a [`Wire`] while TLS is being negotiated.
#[derive(Debug)]
pub struct Unwired<S> {
    /// The bare connection.
    pub stream: S,
    /// How many octets the peer had sent in clear after its last command. A daemon may well refuse to go on if there are any.
    pub octets_dropped: usize,
    /// The rest, without stream and buffers.
    pub rest: Rest,
}

/// A [`Wire`] without its stream.
#[derive(Debug)]
pub struct Rest {
    limits: Limits,
    record: Record,
}

impl Rest {
    /// The same conversation over the encrypted stream.
    pub fn over<T: AsyncRead + AsyncWrite + Unpin>(mut self, encrypted: T) -> Wire<T> {
        self.record.conversation.now_encrypted();
        Wire::with(encrypted, self.limits, self.record)
    }
}

/// Begins TLS as the server, on a connection that will be a [`Wire`].
///
/// # Errors
/// See [`Acceptor::accept`].
pub async fn begin_tls<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    acceptor: &Acceptor,
    talk: &Conversation,
) -> Result<Encrypted<S>, NoTls> {
    let stream = Counted::new(stream);
    let gone = stream.gone();
    Ok(Encrypted { stream: acceptor.accept(stream, HANDSHAKE, talk.id()).await?, gone })
}

/// A connection over TLS, before it is a [`Wire`].
#[derive(Debug)]
pub struct Encrypted<S> {
    stream: TlsStream<Counted<S>>,
    gone: Gone,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Encrypted<S> {
    /// As [`Wire::new`], for a server.
    pub fn wire(self, limits: Limits, mask: Mask, conversation: Conversation) -> Wire<TlsStream<Counted<S>>> {
        Wire { gone: Some(self.gone), ..Wire::new(self.stream, Role::Server, limits, mask, conversation) }
    }
}

/// Reads once into a buffer on the stack and appends what came, so that waiting needs no memory of its own.
fn poll_read_some<S: AsyncRead + Unpin>(
    stream: &mut S,
    input: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let mut chunk = [MaybeUninit::uninit(); READ_OCTETS];
    let mut chunk = ReadBuf::uninit(&mut chunk);
    ready!(Pin::new(stream).poll_read(cx, &mut chunk))?;
    input.extend_from_slice(chunk.filled());
    Ok(chunk.filled().len()).into()
}

/// Writes all of `output`, and sees it on its way.
fn poll_write_all<S: AsyncWrite + Unpin>(
    stream: &mut S,
    output: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while !output.is_empty() {
        match ready!(Pin::new(&mut *stream).poll_write(cx, output))? {
            0 => return Err(io::ErrorKind::WriteZero.into()).into(),
            octets => output.advance(octets),
        }
    }
    Pin::new(stream).poll_flush(cx)
}

/// Ends waits that take too long, one after the other.
///
/// Its timer may ring for a wait that is over, and is set again only then: to set one for each line costs more than to read the line, and
/// wakes up whichever thread watches the timers.
#[derive(Debug, Default)]
struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready when it is `until`.
    fn poll(&mut self, until: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.0.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if timer.deadline() > until {
            timer.as_mut().reset(until);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= until {
                return Poll::Ready(());
            }
            timer.as_mut().reset(until);
        }
    }
}

// --- What others get to see ------------------------------------------------------------------------------------------

/// The transcript's side of a connection.
#[derive(Debug)]
struct Record {
    conversation: Conversation,
    role: Role,
    mask: Mask,
    next: Privacy,
    /// Speaker's mark and line, masked, cut short.
    last: VecDeque<(&'static str, Vec<u8>)>,
}

/// Whether the client's next line may be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Privacy {
    /// But for what the mask stars.
    AsMasked,
    Secret,
}

/// How much is kept for [`Wire::last_lines`]: enough to see what led to a failure, little enough to keep it always.
const LAST_LINES: usize = 8;
const LAST_LINE_OCTETS: usize = 120;

impl Record {
    /// Tells whether there was a secret in it.
    fn heard(&mut self, line: &[u8], octets: usize) -> Privacy {
        match self.role {
            Role::Server => self.client(line, octets),
            Role::Client => {
                self.server(line, octets);
                Privacy::AsMasked
            }
        }
    }

    /// What we say ends with CR LF.
    fn said(&mut self, line: &[u8]) {
        let octets = line.len() + b"\r\n".len();
        match self.role {
            Role::Server => self.server(line, octets),
            Role::Client => {
                self.client(line, octets);
            }
        }
    }

    fn client(&mut self, line: &[u8], octets: usize) -> Privacy {
        let masked = match replace(&mut self.next, Privacy::AsMasked) {
            Privacy::AsMasked => (self.mask)(line),
            Privacy::Secret => Cow::Borrowed(STARS),
        };
        let shown = if self.conversation.reveals_secrets() { line } else { &masked };
        self.conversation.client(shown, octets);
        self.remember("C:", &masked);
        if *masked == *line { Privacy::AsMasked } else { Privacy::Secret }
    }

    fn server(&mut self, line: &[u8], octets: usize) {
        self.conversation.server(line, octets);
        self.remember("S:", line);
    }

    /// Nobody knows what was in it.
    fn too_long(&mut self, octets: usize, octets_max: usize) -> Privacy {
        self.next = Privacy::AsMasked;
        let remark = format!("a line of {octets} octets was thrown away; at most {octets_max} are allowed");
        self.conversation.note(&remark);
        self.remember("#", remark.as_bytes());
        Privacy::Secret
    }

    fn remember(&mut self, mark: &'static str, line: &[u8]) {
        // The oldest line's memory serves the newest.
        let mut kept = if self.last.len() == LAST_LINES { self.last.pop_front() } else { None }.unwrap_or_default();
        kept.0 = mark;
        kept.1.clear();
        kept.1.extend_from_slice(&line[..line.len().min(LAST_LINE_OCTETS)]);
        self.last.push_back(kept);
    }
}

impl Drop for Record {
    /// However a session ends, its transcript has an end.
    fn drop(&mut self) {
        self.conversation.closed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Shared,
        tls::{LabCa, Service, client_config},
        transcript::{Config, Heard, Hub, Subscription, Transport},
    };
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt, DuplexStream, copy, duplex, split};
    use tokio_rustls::TlsConnector;

    fn text(line: &[u8]) -> Line {
        Line::Text(Bytes::copy_from_slice(line))
    }

    fn bare(line: &[u8]) -> Line {
        Line::BareLf(Bytes::copy_from_slice(line))
    }

    /// All lines of `input` when it arrives in `chunks`.
    fn decode<'a>(mut crlf: Crlf, chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<Line> {
        let (mut buffer, mut lines) = (BytesMut::new(), vec![]);
        for chunk in chunks {
            buffer.extend_from_slice(chunk);
            while let Some(line) = crlf.next_line(&mut buffer) {
                lines.push(line);
            }
            assert!(buffer.len() < crlf.octets_max.max(2), "{buffer:?} is more than an unfinished line");
        }
        lines
    }

    #[test]
    fn a_line_ends_at_cr_lf_and_nowhere_else_in_every_chunk_size() {
        let input = b"HELO a\r\nbare\nlf\n\r\nbare\rcr\r\n\r\n.\r\n\xff\r\r\nrest";
        let [first, rest @ ..] = [&b"HELO a"[..], b"bare\rcr", b"", b".", b"\xff\r"].map(text);
        let want: Vec<Line> = [first, bare(b"bare\n"), bare(b"lf\n"), bare(b"\r\n")].into_iter().chain(rest).collect();
        for size in 1..=input.len() {
            assert_eq!(decode(Crlf::new(LineEnd::CrLf, 512), input.chunks(size)), want, "chunks of {size}");
        }
    }

    #[test]
    fn for_people_who_type_a_bare_lf_ends_a_line_too() {
        let input = b"CAT\nDOG\r\n\n\r\na\rb\n";
        let want = [&b"CAT"[..], b"DOG", b"", b"", b"a\rb"].map(text);
        for size in 1..=input.len() {
            assert_eq!(decode(Crlf::new(LineEnd::CrLfOrLf, 512), input.chunks(size)), want, "chunks of {size}");
        }
    }

    #[test]
    fn the_limit_counts_the_line_end_and_the_excess_is_one_line() {
        let table: [(&[u8], &[Line]); 7] = [
            (b"123456\r\nQUIT\r\n", &[text(b"123456"), text(b"QUIT")]),
            (b"1234567\r\nQUIT\r\n", &[Line::TooLong, text(b"QUIT")]),
            (b"12345678\r\nQUIT\r\n", &[Line::TooLong, text(b"QUIT")]),
            (b"123456789\n\r\r\r\nQUIT\r\n", &[Line::TooLong, bare(b"\r\r\r\n"), text(b"QUIT")]),
            (b"1234567890123456789012345678901234567890\r\n\r\n", &[Line::TooLong, text(b"")]),
            (b"12345678901234567890\r\n12345678901234567890\r\n", &[Line::TooLong, Line::TooLong]),
            (b"12345678901234567890", &[]),
        ];
        for (input, want) in table {
            for size in 1..=input.len() {
                let lines = decode(Crlf::new(LineEnd::CrLf, 8), input.chunks(size));
                assert_eq!(lines, want, "{input:?} in chunks of {size}");
            }
        }
    }

    /// The definition, without chunks, buffers or state.
    fn lines_by_the_book(input: &[u8], end: LineEnd, octets_max: usize) -> Vec<Line> {
        let (mut lines, mut from, mut spoiled) = (vec![], 0, false);
        for at in (0..input.len()).filter(|at| input[*at] == b'\n') {
            let after_cr = at > from && input[at - 1] == b'\r';
            spoiled |= !after_cr && end == LineEnd::CrLf;
            let line = &input[from..at - usize::from(after_cr)];
            lines.push(match at + 1 - from <= octets_max {
                true if spoiled => bare(&input[from..=at]),
                true => text(line),
                false => Line::TooLong,
            });
            spoiled &= !after_cr;
            from = at + 1;
        }
        lines
    }

    #[test]
    fn every_short_input_in_every_division_gives_the_lines_of_the_book() {
        const LENGTH: u32 = 6;
        for number in 0..3_usize.pow(LENGTH) {
            let input: Vec<u8> = (0..LENGTH).map(|digit| b"a\r\n"[number / 3_usize.pow(digit) % 3]).collect();
            for end in [LineEnd::CrLf, LineEnd::CrLfOrLf] {
                for octets_max in [2, 4, 9] {
                    let want = lines_by_the_book(&input, end, octets_max);
                    // Each bit says whether the input is cut behind the octet of that number.
                    for cuts in 0..1_u32 << (LENGTH - 1) {
                        let mut chunks = vec![];
                        let mut from = 0;
                        for at in 1..=input.len() {
                            if at == input.len() || cuts & 1 << (at - 1) != 0 {
                                chunks.push(&input[from..at]);
                                from = at;
                            }
                        }
                        let lines = decode(Crlf::new(end, octets_max), chunks.iter().copied());
                        assert_eq!(lines, want, "{chunks:?} {end:?} {octets_max}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_line_without_its_end_is_no_line() {
        let mut buffer = BytesMut::from(&b"NOOP\r\nDELE 1"[..]);
        let mut crlf = Crlf::new(LineEnd::CrLf, 512);
        assert_eq!(crlf.decode_eof(&mut buffer).unwrap(), Some(text(b"NOOP")));
        assert_eq!(crlf.decode_eof(&mut buffer).unwrap(), None);
    }

    #[test]
    fn a_stray_cr_or_lf_is_told() {
        assert_eq!(Stray::first_in(b"MAIL FROM:<>"), None);
        assert_eq!(Stray::first_in(b"a\nb\r"), Some(Stray::Lf));
        assert_eq!(Stray::first_in(b"a\rb\n"), Some(Stray::Cr));
    }

    const LIMITS: Limits = Limits {
        line_end: LineEnd::CrLf,
        line_octets_max: 512,
        idle: Duration::from_mins(5),
        write: Duration::from_secs(30),
    };

    fn address(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    fn mask_pass(line: &[u8]) -> Cow<'_, [u8]> {
        if line.starts_with(b"PASS ") { Cow::Borrowed(b"PASS ********") } else { Cow::Borrowed(line) }
    }

    fn wire_in<S: AsyncRead + AsyncWrite + Unpin>(hub: &Hub, stream: S, role: Role) -> Wire<S> {
        let talk = hub.transcript("pop3", "mail").conversation(Transport::Tcp, address(110), address(4000));
        Wire::new(stream, role, LIMITS, mask_pass, talk)
    }

    fn server<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> Wire<S> {
        wire_in(&Hub::quiet(), stream, Role::Server)
    }

    async fn told(listener: &mut Subscription, events: usize) -> Vec<String> {
        let mut told = vec![];
        for _ in 0..events {
            match listener.next().await {
                Some(Heard::Event(event)) => told.push(event.to_string()),
                other => panic!("{other:?}"),
            }
        }
        told
    }

    /// A stream that remembers each write.
    struct Recorder {
        stream: DuplexStream,
        writes: Vec<Vec<u8>>,
    }

    impl AsyncRead for Recorder {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Recorder {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
            self.writes.push(octets.to_vec());
            Ok(octets.len()).into()
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Ok(()).into()
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Ok(()).into()
        }
    }

    #[tokio::test]
    async fn replies_to_pipelined_commands_leave_in_one_write() {
        let (mut client, stream) = duplex(4096);
        let mut wire = server(Recorder { stream, writes: vec![] });
        client.write_all(b"NOOP\r\nSTAT\r\nLI").await.unwrap();
        wire.say("+OK ready");
        for reply in ["+OK", "+OK 0 0"] {
            wire.line().await.unwrap();
            wire.say(reply);
        }
        client.write_all(b"ST\r\n").await.unwrap();
        assert_eq!(wire.line().await.unwrap(), text(b"LIST"));
        assert_eq!(wire.stream.writes, [&b"+OK ready\r\n"[..], b"+OK\r\n+OK 0 0\r\n"]);
    }

    #[tokio::test]
    async fn a_client_that_pipelines_without_end_cannot_grow_our_output() {
        let (mut client, stream) = duplex(1 << 20);
        let mut wire = server(Recorder { stream, writes: vec![] });
        client.write_all(&b"HELP\r\n".repeat(600)).await.unwrap();
        for _ in 0..600 {
            wire.line().await.unwrap();
            wire.say([b'h'; 510]);
            assert!(wire.buffered_output() <= OUTPUT_OCTETS + 512);
        }
        assert!(wire.stream.writes.len() < 40, "{} writes", wire.stream.writes.len());
    }

    #[tokio::test(start_paused = true)]
    async fn octets_that_drip_do_not_extend_the_idle_time() {
        let (mut client, stream) = duplex(64);
        let mut wire = server(stream);
        wire.set_idle(Duration::from_secs(10));
        let drip = async {
            for _ in 0..100 {
                client.write_all(b"x").await.unwrap();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let began = Instant::now();
        tokio::select! {
            line = wire.line() => assert!(matches!(line, Err(WireError::TimedOut)), "{line:?}"),
            () = drip => panic!("waited for all the drops"),
        }
        assert_eq!(began.elapsed(), Duration::from_secs(10));
        // A goodbye can still be said.
        wire.say("-ERR too slow");
        wire.flush().await.unwrap();
        let mut heard = [0; 15];
        client.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"-ERR too slow\r\n");
    }

    #[tokio::test(start_paused = true)]
    async fn every_wait_has_its_own_idle_time() {
        let (mut client, stream) = duplex(64);
        let mut wire = server(stream);
        // Longer, shorter than what is left of the wait before, and once more as long.
        for (idle, line_after) in [(10, Some(9)), (20, Some(19)), (5, Some(4)), (5, Some(4)), (20, Some(19)), (3, None)]
        {
            wire.set_idle(Duration::from_secs(idle));
            let began = Instant::now();
            let speak = async {
                if let Some(seconds) = line_after {
                    tokio::time::sleep(Duration::from_secs(seconds)).await;
                    client.write_all(b"NOOP\r\n").await.unwrap();
                }
            };
            let (line, ()) = tokio::join!(wire.line(), speak);
            if line_after.is_some() {
                assert_eq!(line.unwrap(), text(b"NOOP"));
            } else {
                assert!(matches!(line, Err(WireError::TimedOut)), "{line:?}");
                assert_eq!(began.elapsed(), Duration::from_secs(idle));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_read_is_given_up() {
        let (_client, stream) = duplex(16);
        let mut wire = server(stream);
        wire.say([b'x'; 100]);
        assert!(matches!(wire.flush().await, Err(WireError::Stuck)));
        // Closing does not try once more.
        let began = Instant::now();
        wire.close().await.unwrap();
        assert!(began.elapsed() <= LINGER, "{:?}", began.elapsed());
    }

    /// What comes of 64 KiB, and after how many seconds, when the peer takes so many octets each second.
    async fn told_to_a_reader_of(octets: usize) -> (Result<(), WireError>, u64) {
        let (mut client, stream) = duplex(1024);
        let mut wire = server(stream);
        wire.output_mut().resize(64 << 10, b'x');
        let read = async {
            let mut chunk = vec![0; octets];
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                for octet in &mut chunk {
                    *octet = client.read_u8().await.unwrap();
                }
            }
        };
        let began = Instant::now();
        tokio::select! {
            sent = wire.flush() => (sent, began.elapsed().as_secs()),
            () = read => unreachable!("it does not end"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_slowly_and_steadily_gets_it_all_and_who_sips_is_given_up() {
        // 64 KiB, less what fits on the way; the limit is 30 s.
        for (rate, seconds) in [(8000, 9), (1000, 65), (200, 323)] {
            let (sent, took) = told_to_a_reader_of(rate).await;
            assert!(sent.is_ok() && took == seconds, "{rate}: {sent:?} after {took} s");
        }
        for rate in [1, 100] {
            let (sent, took) = told_to_a_reader_of(rate).await;
            assert!(matches!(sent, Err(WireError::Stuck)) && took == 30, "{rate}: {sent:?} after {took} s");
        }
    }

    /// Carries what the server says at 1200 bit/s, and what the client says at once.
    async fn modem(near: DuplexStream, far: DuplexStream) {
        let ((mut near, mut ear), (mut far, mut mouth)) = (split(near), split(far));
        let down = async {
            let mut second = [0; 120];
            while let Ok(octets @ 1..) = far.read(&mut second).await
                && ear.write_all(&second[..octets]).await.is_ok()
            {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            // Whoever has hung up hears no end.
            let _ = ear.shutdown().await;
        };
        let _ = tokio::join!(down, copy(&mut near, &mut mouth));
    }

    /// What comes of 100,000 octets over TLS to a client behind a modem that does this with its connection, and after how many seconds.
    async fn told_over_tls<F: Future<Output = ()>>(
        client: impl FnOnce(tokio_rustls::client::TlsStream<DuplexStream>) -> F,
    ) -> (Result<(), WireError>, u64) {
        let folder = tempfile::tempdir().unwrap();
        let authority = LabCa::open_or_create(folder.path()).unwrap();
        let mut shared = Shared::for_tests("pop3");
        shared.tls = authority.certificate_for(&["localhost".to_owned()]).unwrap();
        let service = Service { name: "POP3 over TLS", alpn: &[], key: "pop3.listen_tls" };
        let acceptor = service.acceptor(&shared, &[]).unwrap().unwrap();
        let ((near, near_modem), (far_modem, far)) = (duplex(1024), duplex(1024));
        let serve = async {
            let talk = shared.transcript.conversation(Transport::Tls, address(995), address(4000));
            let encrypted = begin_tls(far, &acceptor, &talk).await.unwrap();
            let limits = Limits { write: Duration::from_mins(1), ..LIMITS };
            let mut wire = encrypted.wire(limits, nothing_is_secret, talk);
            wire.output_mut().resize(100_000, b'x');
            let began = Instant::now();
            let sent = wire.flush().await;
            let took = began.elapsed().as_secs();
            let _ = wire.close().await;
            (sent, took)
        };
        let read = async {
            let config = client_config(&authority.certificate_file()).unwrap();
            client(TlsConnector::from(config).connect("localhost".try_into().unwrap(), near).await.unwrap()).await;
        };
        let others = async { tokio::join!(read, modem(near_modem, far_modem)) };
        let (told, _) = tokio::join!(serve, others);
        told
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_slowly_and_steadily_gets_it_all_over_tls_too() {
        let mut heard = vec![];
        let (sent, _) = told_over_tls(async |mut stream| {
            stream.read_to_end(&mut heard).await.unwrap();
        })
        .await;
        assert!(sent.is_ok() && heard.len() == 100_000, "{sent:?} after {} octets", heard.len());
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_nothing_is_given_up_as_soon_over_tls() {
        let (sent, took) = told_over_tls(async |stream| {
            // Long enough for anybody, then gone.
            tokio::time::sleep(Duration::from_hours(1)).await;
            drop(stream);
        })
        .await;
        // What fits on the way goes; then nothing does for a minute.
        assert!(matches!(sent, Err(WireError::Stuck)) && (60..90).contains(&took), "{sent:?} after {took} s");
    }

    #[tokio::test]
    async fn an_unfinished_line_before_the_end_is_not_heard() {
        let (mut client, stream) = duplex(64);
        let mut wire = server(stream);
        client.write_all(b"NOOP\r\nDELE 1").await.unwrap();
        drop(client);
        assert_eq!(wire.line().await.unwrap(), text(b"NOOP"));
        assert!(matches!(wire.line().await, Err(WireError::Closed)));
    }

    #[tokio::test]
    async fn a_dropped_wait_loses_no_octet() {
        let (mut client, stream) = duplex(64);
        let mut wire = server(stream);
        client.write_all(b"NO").await.unwrap();
        tokio::select! {
            biased;
            _ = wire.line() => panic!("half a line"),
            () = tokio::task::yield_now() => {}
        }
        client.write_all(b"OP\r\n").await.unwrap();
        assert_eq!(wire.line().await.unwrap(), text(b"NOOP"));
    }

    #[tokio::test]
    async fn a_waiting_session_holds_no_buffers() {
        let (mut client, stream) = duplex(1 << 16);
        let mut wire = server(stream);
        client.write_all(&vec![b'x'; 40_000]).await.unwrap();
        client.write_all(b"\r\nNOOP\r\n").await.unwrap();
        assert_eq!(wire.line().await.unwrap(), Line::TooLong);
        assert_eq!(wire.last_lines(), "# a line of 40002 octets was thrown away; at most 512 are allowed");
        wire.say("-ERR line too long");
        assert_eq!(wire.line().await.unwrap(), text(b"NOOP"));
        wire.say("+OK");
        tokio::select! {
            biased;
            _ = wire.line() => panic!("nothing more was said"),
            () = tokio::task::yield_now() => {}
        }
        assert_eq!((wire.input.capacity(), wire.output.capacity()), (0, 0));
        let line = wire.line();
        let waiting = size_of_val(&line) + size_of::<Wire<DuplexStream>>() + LAST_LINES * LAST_LINE_OCTETS;
        assert!(waiting < 4096, "{waiting} octets");
    }

    #[tokio::test]
    async fn the_transcript_sees_both_sides_but_no_secret() {
        let hub = Hub::quiet();
        let mut listener = hub.subscribe();
        let (mut client, stream) = duplex(1024);
        let mut wire = wire_in(&hub, stream, Role::Server);
        client.write_all(b"USER bob\r\nPASS hungry\r\nAUTH PLAIN\r\nAGh1bmdyeQ==\r\nQUIT\r\n").await.unwrap();
        for reply in ["+OK", "+OK", "+ ", "+OK", "+OK bye"] {
            wire.line().await.unwrap();
            wire.say(reply);
            if reply == "+ " {
                wire.next_line_is_secret();
            }
        }
        let log = wire.last_lines();
        drop(wire);
        let want = [
            "@ open",
            "C: USER bob",
            "S: +OK",
            "C: PASS ********",
            "S: +OK",
            "C: AUTH PLAIN",
            "S: + ",
            "C: ********",
            "S: +OK",
            "C: QUIT",
            "S: +OK bye",
            "@ close",
        ];
        assert_eq!(told(&mut listener, want.len()).await, want);
        let tail = "C: PASS ******** | S: +OK | C: AUTH PLAIN | S: +  | C: ******** | S: +OK | C: QUIT | S: +OK bye";
        assert_eq!(log, tail);
    }

    #[tokio::test]
    async fn a_secret_that_a_bare_lf_or_its_length_cuts_in_pieces_is_starred_in_all_of_them() {
        let hub = Hub::quiet();
        let mut listener = hub.subscribe();
        let (mut client, stream) = duplex(4096);
        let mut wire = wire_in(&hub, stream, Role::Server);
        let much = "x".repeat(600);
        let said = format!("PASS hun\ngr\ny\r\nUSER b\nob\r\nPASS {much}\nhungry\r\nAGh1\nbmdyeQ==\r\nQUIT\r\n");
        client.write_all(said.as_bytes()).await.unwrap();
        for number in 0..10 {
            if number == 7 {
                wire.next_line_is_secret();
            }
            wire.line().await.unwrap();
        }
        let log = wire.last_lines();
        drop(wire);
        let want = [
            "@ open",
            "C: PASS ********",
            "C: ********",
            "C: ********",
            "C: USER b",
            "C: ob",
            "# a line of 606 octets was thrown away; at most 512 are allowed",
            "C: ********",
            "C: ********",
            "C: ********",
            "C: QUIT",
        ];
        assert_eq!(told(&mut listener, want.len()).await, want);
        assert_eq!(log, want[3..].join(" | "));
    }

    #[tokio::test]
    async fn as_a_client_our_own_secrets_are_starred_too() {
        let hub = Hub::quiet();
        let mut listener = hub.subscribe();
        let (mut peer, stream) = duplex(1024);
        let mut wire = wire_in(&hub, stream, Role::Client);
        peer.write_all(b"+OK ready\r\n").await.unwrap();
        wire.line().await.unwrap();
        wire.say("PASS hungry");
        assert_eq!(told(&mut listener, 3).await, ["@ open", "S: +OK ready", "C: PASS ********"]);
    }

    #[tokio::test]
    async fn a_lesson_may_reveal_secrets_but_the_log_does_not() {
        let hub = Hub::new(&Config { reveal_secrets: true, ..Config::default() }).unwrap();
        let mut listener = hub.subscribe();
        let (mut client, stream) = duplex(1024);
        let mut wire = wire_in(&hub, stream, Role::Server);
        client.write_all(b"PASS hungry\r\n").await.unwrap();
        assert_eq!(wire.line().await.unwrap(), text(b"PASS hungry"));
        assert_eq!(told(&mut listener, 2).await, ["@ open", "C: PASS hungry"]);
        assert_eq!(wire.last_lines(), "C: PASS ********");
    }

    #[tokio::test]
    async fn text_of_the_peer_cannot_become_a_reply_of_its_own() {
        let (mut client, stream) = duplex(1024);
        let mut wire = server(stream);
        wire.say("250 x\r\n250 y\rz\n");
        wire.flush().await.unwrap();
        drop(wire);
        let mut heard = String::new();
        client.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "250 x  250 y z \r\n");
    }

    #[tokio::test]
    async fn commands_behind_starttls_are_never_run() {
        let hub = Hub::quiet();
        let mut listener = hub.subscribe();
        let (mut client, stream) = duplex(1024);
        let mut wire = wire_in(&hub, stream, Role::Server);
        client.write_all(b"STARTTLS\r\nMAIL FROM:<mallory@evil>\r\n").await.unwrap();
        wire.line().await.unwrap();
        wire.say("220 go ahead");
        assert_eq!(wire.buffered_input(), 26);
        let unwired = wire.into_stream_for_tls().await.unwrap();
        assert_eq!(unwired.octets_dropped, 26);
        let mut heard = [0; 14];
        client.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"220 go ahead\r\n");
        // Here the handshake would take place.
        client.write_all(b"EHLO again\r\n").await.unwrap();
        let mut wire = unwired.rest.over(unwired.stream);
        assert_eq!(wire.line().await.unwrap(), text(b"EHLO again"));
        drop(wire);
        let want = [
            "@ open",
            "C: STARTTLS",
            "S: 220 go ahead",
            "# 26 octets sent in clear before the TLS handshake are dropped",
            "# TLS from here on",
            "C: EHLO again",
            "@ close",
        ];
        assert_eq!(told(&mut listener, want.len()).await, want);
    }

    #[tokio::test]
    async fn a_body_is_read_from_the_same_buffer_and_lines_follow() {
        let (mut client, stream) = duplex(1024);
        let mut wire = server(stream);
        client.write_all(b"BDAT 4\r\n\r\nabNOOP\r\n").await.unwrap();
        wire.line().await.unwrap();
        let (_stream, input) = wire.parts_mut();
        assert_eq!(input.split_to(4), b"\r\nab"[..]);
        assert_eq!(wire.line().await.unwrap(), text(b"NOOP"));
    }

    #[tokio::test]
    async fn close_sends_the_last_words_and_waits_for_the_peer() {
        let (mut client, stream) = duplex(1024);
        let mut wire = server(stream);
        wire.say("221 bye");
        let client = async {
            client.write_all(b"NOOP\r\n").await.unwrap();
            let mut heard = String::new();
            client.read_to_string(&mut heard).await.unwrap();
            heard
        };
        let (closed, heard) = tokio::join!(wire.close(), client);
        closed.unwrap();
        assert_eq!(heard, "221 bye\r\n");
    }
}
