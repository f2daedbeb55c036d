//! The gate between the socket and hyper.
//!
//! ```text
//!            octets               whole, good heads and their bodies
//!   socket ----------> [ Gate ] -------------------------------------> hyper --> service
//!          <----------          <-------------------------------------       <--
//!            sendfile             octets, and holes that stand for a file
//! ```
//!
//! Inwards, each request head is held back until it is complete and [`head`](crate::head) has found it good; hyper never
//! sees another. A head that is refused is replaced by a stand-in, `GET / HTTP/1.1`, and the service finds the
//! [`Refusal`] in the [`Link`]. So a refusal takes the same way as every answer: it waits its turn behind the requests
//! before it, has a page that explains it, is logged, and closes the connection.
//!
//! There is no hyper as long as nothing is asked that needs one: an idle client waits at the gate alone, and the
//! [shortcut] may answer from here.
//!
//! Outwards, a long file does not travel through our memory. Its body consists of *holes*: slices of one region of
//! zeros, [`HOLE`], whose address alone matters. Where the gate is asked to write a slice of that region it calls
//! sendfile(2) for the file that waits in the [`Link`] instead.
//!
//! All waiting is bounded here: for the first octet, for a whole head, for the next octet of a body, for the peer to
//! take what we send. And a peer that does not read is not read from either, so that pipelined requests cannot pile up
//! answers in memory.

use crate::{
    chunked::{self, ChunkReader},
    head::{Answer, Framing, HeadReader, Limits, Progress, Refused},
    origin::After,
    refusal::Refusal,
    shortcut::{self, Fetch, JOINED_OCTETS_MAX},
};
use bytes::Bytes;
use rustix::net::{SendAncillaryBuffer, SendFlags, send, sendmsg};
use shared::{
    counted::Counted,
    transcript::{Conversation, Kind, readable},
};
use std::{
    collections::VecDeque,
    fs::File,
    future::Future,
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};
use tokio_rustls::server::TlsStream;

/// How many octets one hole stands for at most: the step of sendfile. Larger ones gain nothing, because the listener
/// lets a socket hold no more than [`UNSENT_OCTETS_MAX`](shared::listener::UNSENT_OCTETS_MAX) unsent.
pub(crate) const HOLE_OCTETS: usize = 256 << 10;

/// The region that holes are cut from. Nobody reads its octets, so the kernel never has to provide the pages.
static HOLE: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(vec![0; HOLE_OCTETS]));

/// A slice that stands for `octets` octets of the file that is next in the [`Link`].
pub(crate) fn hole(octets: usize) -> Bytes {
    HOLE.slice(..octets)
}

/// Whether `slice` is (a part of) a hole: addresses tell, whatever the octets are.
fn is_hole(slice: &[u8]) -> bool {
    HOLE.as_ptr_range().contains(&slice.as_ptr())
}

/// How long we wait for what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waits {
    /// For the first octet of a further request on the same connection.
    pub(crate) idle: Duration,
    /// From a head's first octet (for the first request: from the connection) to its end.
    pub(crate) head: Duration,
    /// For the next octet of a request body.
    pub(crate) body: Duration,
    /// For the peer to take anything of what we send.
    pub(crate) send: Duration,
}

/// hyper keeps about 10 KiB for each connection, which is a pity where nothing happens. After this time it is sent away
/// until the next request comes: too long for a busy client to notice, too short for idle ones to gather.
const PARK_AFTER: Duration = Duration::from_millis(50);

/// After a refusal we read on for this long, so that the kernel does not answer octets still in flight with a reset,
/// which would erase our explanation before the client has read it (RFC 9112 §9.6).
const LINGER: Duration = Duration::from_secs(2);
/// How many octets we throw away while lingering before we give up on the peer's manners.
const LINGER_OCTETS_MAX: u64 = 1 << 20;

/// What the gate and the service of one connection tell each other.
#[derive(Debug, Default)]
pub(crate) struct Link {
    refused: AtomicBool,
    /// Octets written to the socket so far.
    sent: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Why a request was refused, and which one it was, counted from 0.
    refusal: Option<(u64, RefusedRequest)>,
    /// Files that holes in hyper's write buffer stand for, in the order in which they will be written.
    files: VecDeque<Span>,
}

/// A refusal and the line that it is about.
#[derive(Debug)]
pub(crate) struct RefusedRequest {
    pub(crate) refusal: Refusal,
    /// The request line as it was sent, as far as it came.
    pub(crate) line: Box<[u8]>,
}

/// A part of a file that waits to be sent.
#[derive(Debug)]
struct Span {
    file: Arc<File>,
    offset: u64,
    octets: u64,
}

impl Link {
    /// The refusal, if the `number`th request (from 0) of this connection is the stand-in for one.
    pub(crate) fn refusal(&self, number: u64) -> Option<RefusedRequest> {
        if !self.refused.load(Ordering::Acquire) {
            return None;
        }
        let mut inner = self.inner();
        inner.refusal.take_if(|(at, _)| *at == number).map(|(_, refused)| refused)
    }

    /// Why the body that was being read broke off, if it was the client's fault.
    pub(crate) fn body_fault(&self) -> Option<Refusal> {
        self.inner().refusal.take().map(|(_, refused)| refused.refusal)
    }

    /// The next `octets` octets of holes stand for this part of `file`.
    pub(crate) fn promise_file(&self, file: Arc<File>, offset: u64, octets: u64) {
        self.inner().files.push_back(Span { file, offset, octets });
    }

    /// Octets written to the socket so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn refuse(&self, number: u64, refusal: Refusal, line: &[u8]) {
        self.inner().refusal = Some((number, RefusedRequest { refusal, line: line.into() }));
        self.refused.store(true, Ordering::Release);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Plain assignments: a panic elsewhere leaves them whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The socket, in the clear or encrypted.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<Counted<TcpStream>>>),
}

/// What became of the wait for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FirstOctets {
    /// The client has said something, and it is hyper's turn.
    Came,
    /// It was answered by the [shortcut]. See to it that the answer [is sent](Gate::poll_sent), then do this.
    Answered(After),
    /// Nothing has come for a moment, and the wait may go on.
    Rest,
    /// The client has left, or the time was up.
    NeverCame,
}

/// Room on the stack for what a client says first. Nearly every first request fits.
const FIRST_OCTETS: usize = 2048;

/// Where in the stream of requests the next octet belongs.
enum Place {
    Head(HeadReader),
    /// This many octets of body are to come (RFC 9112 §6.2).
    Body(u64),
    Chunked(ChunkReader),
    /// Nothing that comes now is a request any more.
    Refused(Handover),
}

/// Remarks in the transcript.
const SILENT: &str = "nothing was asked in time: closing";
const IDLE: &str = "nothing more was asked in time: closing";

/// How hyper learns of a refusal.
enum Handover {
    /// It has yet to get the stand-in.
    Due(Answer),
    /// It has the stand-in; what follows is the end.
    Done,
    /// It has the request already, and the body broke off its grammar.
    BrokenBody,
}

/// See the module's documentation.
pub(crate) struct Gate {
    stream: Stream,
    link: Arc<Link>,
    conversation: Conversation,
    limits: Limits,
    waits: Waits,
    place: Place,
    /// An incomplete head.
    held: Vec<u8>,
    /// Found good, but for which hyper's buffer had no room.
    ready: Vec<u8>,
    /// What the shortcut has answered and the socket has not taken yet.
    outgoing: Option<shortcut::Answer>,
    /// Requests that were let through.
    passed: u64,
    /// The peer does not take what we send.
    stalled: bool,
    /// What the socket below TLS had taken when we began to wait for more.
    taken: u64,
    /// One timer for all waits. It is moved only when somebody begins to wait for an earlier time, or when it fires:
    /// in a busy connection every request would move it later, and it never fires.
    timer: Pin<Box<Sleep>>,
    /// When the present wait ends.
    deadline: Instant,
    /// When a connection between two requests has been idle for too long.
    idle_until: Instant,
    /// hyper was told that the connection ends, so that it gives its buffers back; we go on waiting without it.
    parked: bool,
    lingered: u64,
}

impl Gate {
    pub(crate) fn new(
        stream: Stream,
        link: Arc<Link>,
        conversation: Conversation,
        limits: Limits,
        waits: Waits,
    ) -> Self {
        let deadline = Instant::now() + waits.head;
        Self {
            stream,
            link,
            conversation,
            limits,
            waits,
            place: Place::Head(HeadReader::new()),
            held: Vec::new(),
            ready: Vec::new(),
            outgoing: None,
            passed: 0,
            stalled: false,
            taken: 0,
            timer: Box::pin(sleep_until(deadline)),
            deadline,
            idle_until: deadline,
            parked: false,
            lingered: 0,
        }
    }

    /// Waits for a request. What `shortcut` has an answer for is answered at once; for all else hyper is wanted. Until a
    /// client says something it costs no buffer, neither here nor in hyper.
    pub(crate) fn poll_first_octets(
        &mut self,
        cx: &mut Context<'_>,
        mut shortcut: impl FnMut(&Fetch<'_>) -> Option<shortcut::Answer>,
    ) -> Poll<FirstOctets> {
        loop {
            let Stream::Plain(tcp) = &mut self.stream else {
                // A client that has come through the handshake means it.
                return Poll::Ready(FirstOctets::Came);
            };
            let mut room = [const { MaybeUninit::uninit() }; FIRST_OCTETS];
            let mut buffer = ReadBuf::uninit(&mut room);
            let came = match Pin::new(tcp).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => buffer.filled(),
                Poll::Ready(_) => return Poll::Ready(FirstOctets::NeverCame),
                Poll::Pending => {
                    ready!(self.poll_deadline(cx));
                    if Instant::now() < self.idle_until {
                        self.deadline = self.idle_until;
                        return Poll::Ready(FirstOctets::Rest);
                    }
                    self.conversation.note(if self.passed == 0 { SILENT } else { IDLE });
                    return Poll::Ready(FirstOctets::NeverCame);
                }
            };
            let fetch = if self.held.is_empty() && !self.conversation.is_heard() {
                Fetch::read(came, &self.limits)
            } else {
                None
            };
            let Some(answer) = fetch.and_then(|fetch| shortcut(&fetch)) else {
                let mut octets = std::mem::take(&mut self.held);
                octets.extend_from_slice(came);
                self.take_in(octets);
                if matches!(self.place, Place::Body(_) | Place::Chunked(_)) {
                    self.wait(self.waits.body);
                }
                return Poll::Ready(FirstOctets::Came);
            };
            self.passed += 1;
            let after = answer.after;
            self.outgoing = Some(answer);
            match self.poll_sent(cx) {
                Poll::Ready(Ok(())) if after == After::Stay => {}
                Poll::Ready(Ok(())) | Poll::Pending => return Poll::Ready(FirstOctets::Answered(after)),
                Poll::Ready(Err(_)) => return Poll::Ready(FirstOctets::NeverCame),
            }
        }
    }

    /// Sends what is left of the shortcut's answer.
    pub(crate) fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(mut outgoing) = self.outgoing.take() {
            let slices = outgoing.unsent().map(IoSlice::new);
            let result = match &mut self.stream {
                Stream::Plain(tcp) => poll_send_slices(cx, tcp, &slices, outgoing.after),
                Stream::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, &slices),
            };
            match self.after_write(cx, result) {
                Poll::Ready(octets) => outgoing.advance(octets?),
                Poll::Pending => {
                    self.outgoing = Some(outgoing);
                    return Poll::Pending;
                }
            }
            if !outgoing.is_sent() {
                self.outgoing = Some(outgoing);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Starts a wait of this length.
    fn wait(&mut self, length: Duration) {
        self.deadline = Instant::now() + length;
    }

    /// Begins to wait for the next request: for a moment with hyper, then [parked](Gate::take_parked).
    fn wait_for_next_request(&mut self) {
        let now = Instant::now();
        self.idle_until = now + self.waits.idle;
        self.deadline = now + self.waits.idle.min(PARK_AFTER);
    }

    /// Whether hyper only ended because there was nothing to do. Then wait again for
    /// [first octets](Gate::poll_first_octets), and begin with a new one.
    pub(crate) fn take_parked(&mut self) -> bool {
        std::mem::take(&mut self.parked)
    }

    /// Whether the client has sent more than was read. It costs no system call unless the last read filled its buffer.
    fn has_unread(&self) -> bool {
        match &self.stream {
            Stream::Plain(tcp) => tcp.try_read(&mut [0]).is_ok_and(|octets| octets > 0),
            Stream::Tls(_) => false,
        }
    }

    /// Whether a request has begun. RFC 9112 §2.2: empty lines before one are no part of it.
    fn has_begun(&self) -> bool {
        self.held.iter().any(|octet| !matches!(octet, b'\r' | b'\n'))
    }

    /// Whether the present wait is over. Registers for the time when it will be.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.deadline < self.timer.deadline() {
            self.timer.as_mut().reset(self.deadline);
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if self.timer.deadline() >= self.deadline {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(self.deadline);
        }
    }

    /// Sorts `octets`, which follow what was seen before, and returns how many of them, from the front, hyper may have.
    /// The rest begins a head that is not complete, or one that is refused.
    fn admit(&mut self, octets: &[u8]) -> usize {
        let mut good = 0;
        while good < octets.len() {
            let rest = &octets[good..];
            match &mut self.place {
                Place::Head(reader) => match reader.read(rest, &self.limits) {
                    Progress::Incomplete => break,
                    Progress::Complete { octets, framing, .. } => {
                        if self.conversation.is_heard() {
                            let body = match framing {
                                Framing::None => Some(0),
                                Framing::Length(octets) => Some(octets),
                                Framing::Chunked => None,
                            };
                            report_head(&self.conversation, &rest[..octets], body);
                        }
                        good += octets;
                        self.passed += 1;
                        self.place = match framing {
                            Framing::None | Framing::Length(0) => Place::Head(HeadReader::new()),
                            Framing::Length(length) => Place::Body(length),
                            Framing::Chunked => Place::Chunked(ChunkReader::new()),
                        };
                    }
                    Progress::Refused(refused) => {
                        if self.conversation.is_heard() {
                            report_head(&self.conversation, rest, None);
                        }
                        self.refuse(refused, rest);
                        break;
                    }
                },
                Place::Body(left) => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= taken as u64;
                    good += taken;
                    if *left == 0 {
                        self.place = Place::Head(HeadReader::new());
                    }
                }
                Place::Chunked(reader) => match reader.advance(rest) {
                    Ok(advance) => {
                        good += advance.octets;
                        if advance.body == chunked::Body::Ends {
                            self.place = Place::Head(HeadReader::new());
                        }
                    }
                    Err(fault) => {
                        // hyper has this request already: its body ends in an error, and the service asks why.
                        self.link.refuse(u64::MAX, Refusal::BadChunk(fault), b"");
                        self.place = Place::Refused(Handover::BrokenBody);
                        break;
                    }
                },
                Place::Refused(_) => break,
            }
        }
        good
    }

    /// As [`Gate::admit`], for octets that are ours: what is good waits for hyper, an incomplete head for its end.
    fn take_in(&mut self, mut octets: Vec<u8>) {
        let good = self.admit(&octets);
        if matches!(self.place, Place::Head(_)) {
            self.held = octets.split_off(good);
        }
        octets.truncate(good);
        self.ready = octets;
    }

    fn refuse(&mut self, refused: Refused, head: &[u8]) {
        self.place = Place::Refused(Handover::Due(refused.answer));
        self.link.refuse(self.passed, refused.refusal, first_line(head));
    }

    /// The present wait is over: what that means.
    fn time_is_up(&mut self) -> io::Result<()> {
        match self.place {
            Place::Head(_) if !self.has_begun() => {
                if Instant::now() < self.idle_until {
                    self.parked = true;
                    self.deadline = self.idle_until;
                } else {
                    self.conversation.note(IDLE);
                }
            }
            Place::Head(_) => {
                let refusal = Refusal::HeadTimeout { after: self.waits.head };
                if self.conversation.is_heard() {
                    report_head(&self.conversation, &self.held, None);
                }
                let held = std::mem::take(&mut self.held);
                self.refuse(Refused { refusal, answer: Answer::WithBody }, &held);
            }
            Place::Body(_) | Place::Chunked(_) => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the request body stalled"));
            }
            Place::Refused(_) => {}
        }
        Ok(())
    }

    /// One look at the socket. `Ready` with nothing filled is the end of the stream.
    fn poll_socket(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Stream::Tls(tls) => Pin::new(tls).poll_read(cx, buffer),
        }
    }
}

/// What takes the place of a head that hyper must not see.
fn stand_in(answer: Answer) -> &'static [u8] {
    match answer {
        Answer::WithBody => b"GET / HTTP/1.1\r\nHost: refused\r\n\r\n",
        Answer::HeadOnly => b"HEAD / HTTP/1.1\r\nHost: refused\r\n\r\n",
    }
}

impl AsyncRead for Gate {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let gate = self.get_mut();
        loop {
            if !gate.ready.is_empty() {
                let taken = gate.ready.len().min(buffer.remaining());
                buffer.put_slice(&gate.ready[..taken]);
                gate.ready.drain(..taken);
                if gate.ready.is_empty() {
                    gate.ready = Vec::new();
                }
                return Poll::Ready(Ok(()));
            }
            match &mut gate.place {
                Place::Refused(Handover::Due(answer)) => {
                    gate.ready.extend_from_slice(stand_in(*answer));
                    gate.place = Place::Refused(Handover::Done);
                    continue;
                }
                // A chunked body that broke off must not look like one that ended.
                Place::Refused(Handover::BrokenBody) => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                Place::Refused(Handover::Done) => return Poll::Ready(Ok(())),
                Place::Head(_) | Place::Body(_) | Place::Chunked(_) => {}
            }
            if gate.stalled {
                // The socket's readiness to write wakes this task, and hyper asks again.
                return Poll::Pending;
            }
            let before = buffer.filled().len();
            match gate.poll_socket(cx, buffer) {
                Poll::Ready(result) => result?,
                Poll::Pending => {
                    ready!(gate.poll_deadline(cx));
                    gate.time_is_up()?;
                    if matches!(gate.place, Place::Refused(_)) {
                        continue;
                    }
                    return Poll::Ready(Ok(()));
                }
            }
            let arrived = buffer.filled().len() - before;
            if arrived == 0 {
                if !gate.has_begun() {
                    return Poll::Ready(Ok(()));
                }
                // Half a head and no more to come: say what is missing to a client that may still be reading.
                report_head(&gate.conversation, &gate.held, None);
                let held = std::mem::take(&mut gate.held);
                gate.refuse(Refused { refusal: Refusal::HeadCutOff, answer: Answer::WithBody }, &held);
                continue;
            }
            let was_waiting_for_head = gate.has_begun();
            if gate.held.is_empty() {
                // The usual case: whole requests, checked where they lie.
                let good = gate.admit(&buffer.filled()[before..]);
                if good < arrived && matches!(gate.place, Place::Head(_)) {
                    gate.held.extend_from_slice(&buffer.filled()[before + good..]);
                }
                buffer.set_filled(before + good);
            } else {
                let mut held = std::mem::take(&mut gate.held);
                held.extend_from_slice(&buffer.filled()[before..]);
                buffer.set_filled(before);
                gate.take_in(held);
            }
            match gate.place {
                // The time for a head runs from its first octet: dripping does not extend it.
                Place::Head(_) if gate.has_begun() && !was_waiting_for_head => gate.wait(gate.waits.head),
                Place::Body(_) | Place::Chunked(_) => gate.wait(gate.waits.body),
                // A whole request is with the service now, which takes the time it needs; the next wait begins when
                // its answer is written.
                Place::Head(_) | Place::Refused(_) => {}
            }
            if buffer.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl Gate {
    /// Keeps account of a write: how much went out, or since when nothing does.
    fn after_write(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match result {
            Poll::Ready(Ok(octets)) => {
                self.link.sent.fetch_add(octets as u64, Ordering::Relaxed);
                self.is_taken();
                Poll::Ready(Ok(octets))
            }
            Poll::Pending => self.poll_stalled(cx).map(Err),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        }
    }

    /// The same for what was written already and waits encrypted.
    fn after_flush(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<()>>) -> Poll<io::Result<()>> {
        match result {
            Poll::Ready(Ok(())) if self.stalled => self.is_taken(),
            Poll::Pending => return self.poll_stalled(cx).map(Err),
            Poll::Ready(_) => {}
        }
        result
    }

    /// The peer takes what we send; what we wait for next is its own.
    fn is_taken(&mut self) {
        self.stalled = false;
        match self.place {
            Place::Head(_) if !self.has_begun() => self.wait_for_next_request(),
            Place::Head(_) => self.wait(self.waits.head),
            Place::Body(_) | Place::Chunked(_) => self.wait(self.waits.body),
            Place::Refused(_) => {}
        }
    }

    /// The peer does not take what we send; ready when it has taken nothing for too long.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let taken = match &self.stream {
            Stream::Plain(_) => 0,
            Stream::Tls(tls) => tls.get_ref().0.gone().octets(),
        };
        if !self.stalled || taken > self.taken {
            (self.stalled, self.taken) = (true, taken);
            self.wait(self.waits.send);
        }
        ready!(self.poll_deadline(cx));
        self.conversation.note("the client did not take what we sent: closing");
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }

    /// Sends up to `octets` octets of the file that is next.
    fn poll_send_file(&mut self, cx: &mut Context<'_>, octets: usize) -> Poll<io::Result<usize>> {
        let Stream::Plain(tcp) = &self.stream else {
            // TLS bodies are made without holes.
            return Poll::Ready(Err(io::Error::other("a hole in an encrypted stream")));
        };
        let mut inner = self.link.inner();
        let Some(span) = inner.files.front_mut() else {
            return Poll::Ready(Err(io::Error::other("a hole without its file")));
        };
        let octets = octets.min(usize::try_from(span.octets).unwrap_or(usize::MAX));
        loop {
            ready!(tcp.poll_write_ready(cx))?;
            let mut offset = span.offset;
            let transfer = || rustix::fs::sendfile(tcp, &span.file, Some(&mut offset), octets).map_err(io::Error::from);
            match tcp.try_io(Interest::WRITABLE, transfer) {
                // The file is shorter than its length when we promised it: the promise cannot be kept.
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Ok(sent) => {
                    span.offset += sent as u64;
                    span.octets -= sent as u64;
                    if span.octets == 0 {
                        inner.files.pop_front();
                    }
                    return Poll::Ready(Ok(sent));
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Gate {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(octets)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let gate = self.get_mut();
        let before_hole = slices.iter().position(|slice| is_hole(slice)).unwrap_or(slices.len());
        let result = if before_hole == 0
            && let Some(hole) = slices.first()
        {
            gate.poll_send_file(cx, hole.len())
        } else if before_hole < slices.len()
            && let Stream::Plain(tcp) = &gate.stream
        {
            poll_send_more(cx, tcp, &slices[..before_hole])
        } else {
            match &mut gate.stream {
                Stream::Plain(tcp) if slices.iter().map(|slice| slice.len()).sum::<usize>() <= JOINED_OCTETS_MAX => {
                    poll_send_joined(cx, tcp, slices)
                }
                Stream::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, &slices[..before_hole]),
                Stream::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, &slices[..before_hole]),
            }
        };
        gate.after_write(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gate = self.get_mut();
        match &mut gate.stream {
            Stream::Plain(_) => Poll::Ready(Ok(())),
            Stream::Tls(tls) => {
                let result = Pin::new(tls).poll_flush(cx);
                gate.after_flush(cx, result)
            }
        }
    }

    /// Our side is finished. After a refusal, reads on for a while (see [`LINGER`]).
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gate = self.get_mut();
        if gate.parked {
            return Poll::Ready(Ok(()));
        }
        if gate.lingered == 0 {
            // What arrived whole was also read: nothing is in flight that would be answered with a reset.
            let clean = matches!(gate.place, Place::Head(_))
                && gate.held.is_empty()
                && gate.ready.is_empty()
                && !gate.has_unread();
            match &mut gate.stream {
                // hyper drops us next, and closing the socket sends the FIN as well.
                Stream::Plain(_) if clean => return Poll::Ready(Ok(())),
                Stream::Plain(tcp) => ready!(Pin::new(tcp).poll_shutdown(cx))?,
                Stream::Tls(tls) => {
                    let result = Pin::new(tls).poll_shutdown(cx);
                    ready!(gate.after_flush(cx, result))?;
                }
            }
            if clean {
                return Poll::Ready(Ok(()));
            }
            gate.lingered = 1;
            gate.wait(LINGER);
        }
        let mut scrap = [0; 4096];
        while gate.lingered < LINGER_OCTETS_MAX {
            let mut buffer = ReadBuf::new(&mut scrap);
            match gate.poll_socket(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => gate.lingered += buffer.filled().len() as u64,
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return gate.poll_deadline(cx).map(Ok),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Sends octets that a file follows: the kernel keeps a last segment that is not full for the file's first octets.
fn poll_send_more(cx: &mut Context<'_>, tcp: &TcpStream, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
    poll_send(cx, tcp, || {
        let mut nothing = SendAncillaryBuffer::default();
        Ok(sendmsg(tcp, slices, &mut nothing, SendFlags::MORE | SendFlags::NOSIGNAL)?)
    })
}

fn poll_send_joined(cx: &mut Context<'_>, tcp: &TcpStream, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
    let mut joined = [0; JOINED_OCTETS_MAX];
    let mut end = 0;
    for slice in slices {
        joined[end..end + slice.len()].copy_from_slice(slice);
        end += slice.len();
    }
    poll_send(cx, tcp, || Ok(send(tcp, &joined[..end], SendFlags::NOSIGNAL)?))
}

/// Sends octets behind which the connection stays or is closed at once. In the latter case the kernel waits for the end, so that it
/// travels in the same segment: one packet less for either side to take in.
fn poll_send_slices(
    cx: &mut Context<'_>,
    tcp: &TcpStream,
    slices: &[IoSlice<'_>; 2],
    after: After,
) -> Poll<io::Result<usize>> {
    let flags = match after {
        After::Stay => SendFlags::NOSIGNAL,
        After::Close => SendFlags::NOSIGNAL | SendFlags::MORE,
    };
    poll_send(cx, tcp, || match slices {
        [front, rest] if rest.is_empty() => Ok(send(tcp, front, flags)?),
        slices => Ok(sendmsg(tcp, slices, &mut SendAncillaryBuffer::default(), flags)?),
    })
}

fn poll_send(
    cx: &mut Context<'_>,
    tcp: &TcpStream,
    mut send: impl FnMut() -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(tcp.poll_write_ready(cx))?;
        match tcp.try_io(Interest::WRITABLE, &mut send) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            result => return Poll::Ready(result),
        }
    }
}

/// The lines of a head that are not empty.
fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = head.split(|octet| *octet == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines.filter(|line| !line.is_empty())
}

/// No log line is longer than this because of a request line that has no end.
const LINE_OCTETS_MAX: usize = 1024;

fn first_line(head: &[u8]) -> &[u8] {
    let line = lines(head).next().unwrap_or_default();
    &line[..line.len().min(LINE_OCTETS_MAX)]
}

/// Shows a head in the transcript: the request line tells it, the fields are the detail. `body` is how much follows.
fn report_head(conversation: &Conversation, head: &[u8], body: Option<u64>) {
    let mut lines = lines(head);
    let first = lines.next().unwrap_or_default();
    let fields = lines.map(|line| field(line, conversation.reveals_secrets()));
    conversation.head(Kind::Client, readable(first), fields.collect(), head.len(), body);
}

/// A field line as it may be shown: passwords and sessions are starred.
fn field(line: &[u8], reveal_secrets: bool) -> String {
    const SECRETS: [&str; 3] = ["authorization", "proxy-authorization", "cookie"];
    let text = readable(line);
    match text.split_once(':') {
        Some((name, value)) if !reveal_secrets && SECRETS.iter().any(|s| name.eq_ignore_ascii_case(s)) => {
            // The scheme of `Authorization: Basic ...` is no secret and worth seeing.
            let scheme = value.trim_start().split_once(' ').map_or("", |(scheme, _)| scheme);
            format!("{name}: {scheme} ********").replace(":  ", ": ")
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::{
        Shared,
        tls::{LabCa, Service, client_config},
        transcript::Transport,
    };
    use std::future::poll_fn;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpSocket},
    };
    use tokio_rustls::TlsConnector;

    const LIMITS: Limits = Limits { target_octets: 100, head_octets: 1000, fields: 10 };

    /// A client, and the gate between it and whoever reads and writes there.
    async fn gate() -> (TcpStream, Gate) {
        let second = Duration::from_secs(1);
        let waits = Waits { idle: 5 * second, head: second, body: second, send: second };
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, peer) = listener.accept().await.unwrap();
        let local = server.local_addr().unwrap();
        let conversation = Shared::for_tests("web").transcript.conversation(Transport::Tcp, local, peer);
        (client, Gate::new(Stream::Plain(server), Arc::default(), conversation, LIMITS, waits))
    }

    async fn first_octets(gate: &mut Gate) -> FirstOctets {
        poll_fn(|cx| gate.poll_first_octets(cx, |_| None)).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_end_before_a_rest_hides_nothing_of_what_comes_after_it() {
        let (mut client, mut gate) = gate().await;
        client.write_all(b"\r\n").await.unwrap();
        assert_eq!(first_octets(&mut gate).await, FirstOctets::Came);
        gate.write_all(b"an answer").await.unwrap();
        assert_eq!(gate.read(&mut [0; 100]).await.unwrap(), 0, "hyper is told that there is nothing more");
        assert!(gate.take_parked());
        client.write_all(b"\x01\x02GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert_eq!(first_octets(&mut gate).await, FirstOctets::Came);
        assert!(gate.link.refusal(0).is_some(), "the two octets are no part of a method");
    }

    #[tokio::test(start_paused = true)]
    async fn who_rests_is_waited_for_and_who_stays_silent_is_not() {
        let (_client, mut gate) = gate().await;
        assert_eq!(first_octets(&mut gate).await, FirstOctets::NeverCame);
        gate.write_all(b"an answer").await.unwrap();
        let began = Instant::now();
        assert_eq!(first_octets(&mut gate).await, FirstOctets::Rest);
        assert_eq!(first_octets(&mut gate).await, FirstOctets::NeverCame);
        assert_eq!(began.elapsed().as_secs(), 5);
    }

    /// More than the kernel takes of an answer that nobody reads.
    const LARGE: usize = 16 << 20;

    /// Has the gate answer a fetch with a large body.
    async fn answer_large(gate: &mut Gate, client: &mut TcpStream, after: After) {
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let answer = || shortcut::Answer::of(b"head ".to_vec(), Bytes::from(vec![b'x'; LARGE]), after);
        let first = poll_fn(|cx| gate.poll_first_octets(cx, |_| Some(answer()))).await;
        assert_eq!(first, FirstOctets::Answered(after));
    }

    #[tokio::test]
    async fn an_answer_that_the_socket_takes_in_pieces_comes_whole() {
        for after in [After::Stay, After::Close] {
            let (mut client, mut gate) = gate().await;
            answer_large(&mut gate, &mut client, after).await;
            let mut octets = vec![];
            let send = async move {
                poll_fn(|cx| gate.poll_sent(cx)).await.unwrap();
                drop(gate);
            };
            let ((), read) = tokio::join!(send, client.read_to_end(&mut octets));
            read.unwrap();
            assert_eq!(octets.len(), 5 + LARGE);
            assert!(octets.starts_with(b"head x") && octets[5..].iter().all(|octet| *octet == b'x'));
        }
    }

    /// The same gate over TLS, with little room in the kernel.
    async fn gate_over_tls() -> (tokio_rustls::client::TlsStream<TcpStream>, Gate) {
        let folder = tempfile::tempdir().unwrap();
        let authority = LabCa::open_or_create(folder.path()).unwrap();
        let mut shared = Shared::for_tests("web");
        shared.tls = authority.certificate_for(&["localhost".to_owned()]).unwrap();
        let service = Service { name: "https", alpn: &[], key: "web.listen_tls" };
        let acceptor = service.acceptor(&shared, &[]).unwrap().unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(8 << 10).unwrap();
        let near = socket.connect(listener.local_addr().unwrap());
        let (near, far) = tokio::join!(near, listener.accept());
        let (near, far) = (near.unwrap(), far.unwrap().0);
        rustix::net::sockopt::set_socket_send_buffer_size(&far, 8 << 10).unwrap();
        let connector = TlsConnector::from(client_config(&authority.certificate_file()).unwrap());
        let near = connector.connect("localhost".try_into().unwrap(), near);
        let far = acceptor.accept(Counted::new(far), Duration::from_mins(1), 1);
        let (near, far) = tokio::join!(near, far);
        let (_, mut gate) = gate().await;
        gate.stream = Stream::Tls(Box::new(far.unwrap()));
        (near.unwrap(), gate)
    }

    /// Writes until neither kernel nor rustls have room for more.
    async fn fill(gate: &mut Gate) {
        let octets = vec![b'x'; 16 << 10];
        poll_fn(|cx| {
            while Pin::new(&mut *gate).poll_write(cx, &octets).map(Result::unwrap).is_ready() {}
            Poll::Ready(())
        })
        .await;
    }

    #[tokio::test]
    async fn who_takes_a_little_of_what_waits_encrypted_is_seen_to_take_it() {
        let (mut client, mut gate) = gate_over_tls().await;
        fill(&mut gate).await;
        let deadline = gate.deadline;
        client.read_exact(&mut [0; 16 << 10]).await.unwrap();
        if let Stream::Tls(tls) = &gate.stream {
            tls.get_ref().0.stream().writable().await.unwrap();
        }
        // There is no word of it: what has gone was not all that waits.
        let flush = poll_fn(|cx| Poll::Ready(Pin::new(&mut gate).poll_flush(cx).is_pending())).await;
        assert!(flush && gate.deadline > deadline);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_encrypted_is_waited_for_no_longer_than_what_waits_in_clear() {
        for goodbye in [false, true] {
            let (_client, mut gate) = gate_over_tls().await;
            fill(&mut gate).await;
            let error = if goodbye { gate.shutdown().await } else { gate.flush().await };
            assert_eq!(error.unwrap_err().kind(), io::ErrorKind::TimedOut, "{goodbye}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_take_the_answer_is_not_waited_for() {
        let (mut client, mut gate) = gate().await;
        answer_large(&mut gate, &mut client, After::Stay).await;
        let error = poll_fn(|cx| gate.poll_sent(cx)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
