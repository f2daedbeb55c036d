//! Questions of ours to other servers: one socket for each, so that a forger has to guess its port too (RFC 5452 §9).
//!
//! What must fit before an answer is looked at: it comes from the address and port that was asked, to the port that asked, with the
//! id, and with the question in the very case in which it was asked (draft-vixie-dnsext-dns0x20): sixteen bits, about fifteen more, and
//! one for each letter. What does not fit is counted and passed over; the true answer may still come.
//!
//! Servers that know cookies (RFC 7873) repeat ours, which is 64 bits more:
//!
//! ```text
//!   C: our cookie                        the first question
//!   S: our cookie, the server's          it is remembered beside the server's round-trip time
//!   C: our cookie, the server's          so the server knows us, and need not protect others from our questions
//!   S: our cookie, the server's          without ours this is no answer
//! ```

use super::servers::Servers;
use crate::{
    config::Config,
    cookie::{self, CLIENT_OCTETS, OwnCookies},
    message::{HEADER_OCTETS, Header, Rcode},
    name::NameRef,
    rdata::{Class, Type},
    record::Message,
    respond,
};
use prometheus_client::metrics::counter::Counter;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use shared::{
    metrics::Metrics,
    transcript::{Conversation, Transcript, Transport},
};
use std::{
    cell::RefCell,
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    num::NonZeroU16,
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest, unix::AsyncFd},
    net::TcpSocket,
    sync::MutexGuard,
    time::{Instant, timeout_at},
};

/// What we take over UDP without fragments (RFC 9715).
const UDP_OCTETS: u16 = 1232;
/// Datagrams that do not fit, until the question is taken back: somebody is guessing, and will guess on.
const FORGERIES_MAX: usize = 64;
/// What a question waits for: an answer, or the word that nobody is there (ICMP), which is no data and makes nothing readable.
const HEARD: Interest = Interest::READABLE.add(Interest::ERROR);

/// How others are asked.
#[derive(Debug)]
pub struct Upstream {
    /// The address that questions come from.
    pub source: IpAddr,
    /// Who listens.
    pub transcript: Transcript,
    weakness: Weakness,
    /// `None` shows none.
    cookies: Option<OwnCookies>,
    started: Instant,
    counters: Counters,
}

#[derive(Debug)]
struct Counters {
    udp: Counter,
    tcp: Counter,
    timeouts: Counter,
    malformed: Counter,
    wrong_id: Counter,
    wrong_question: Counter,
    not_an_answer: Counter,
    wrong_cookie: Counter,
    no_cookie: Counter,
    floods: Counter,
    /// Answers with our cookie.
    cookies: Counter,
}

/// What makes it easy to answer in another's place: for lessons (CLAIMS C127), and nowhere else.
#[derive(Debug, Default)]
pub struct Weakness {
    /// All questions come from this port.
    fixed_port: Option<NonZeroU16>,
    /// Ids count up, and names keep their case.
    next_id: Option<AtomicU16>,
    /// With one port only one question at a time can be told from the others.
    turn: tokio::sync::Mutex<()>,
}

impl Weakness {
    /// What a configuration wants.
    pub fn of(config: &Config) -> Self {
        let next_id = config.sequential_ids.then(|| AtomicU16::new(1));
        Self { fixed_port: NonZeroU16::new(config.fixed_source_port), next_id, turn: tokio::sync::Mutex::default() }
    }
}

/// One question.
#[derive(Clone, Copy, Debug)]
pub struct Question<'q> {
    /// The name.
    pub name: NameRef<'q>,
    /// The type.
    pub rtype: Type,
    /// Whether the server shall do the work (it is a forwarder), or say what it knows.
    pub recursion: Recursion,
    /// For whose sake: the client's conversation.
    pub cause: u64,
}

/// The bit RD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recursion {
    /// It is set.
    Desired,
    /// It is set, and so is CD: whoever validates himself wants to see all (RFC 6840 §5.9).
    DesiredUnchecked,
    /// It is not: we go the way ourselves.
    NotDesired,
}

/// How much of EDNS a question has. All others of ours go with DO: what is validated later must come with its signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// A cookie too.
    Cookie,
    /// Without options.
    Edns,
    /// Nothing: as before there was EDNS.
    Plain,
}

impl Manner {
    /// What to leave out for a server that says FORMERR: the option that it does not know, or all that it does not know (RFC 6891 §7).
    /// It is not remembered: such servers have become rare, and who forges an error must not spoil more than one question.
    fn simpler(self, answer: &Message) -> Option<Manner> {
        match (self, answer.opt()) {
            (Manner::Cookie, _) => Some(Manner::Edns),
            (Manner::Edns, None) => Some(Manner::Plain),
            (Manner::Edns, Some(_)) | (Manner::Plain, _) => None,
        }
    }
}

/// The cookies that went with a question.
#[derive(Debug)]
struct Shown {
    client: [u8; CLIENT_OCTETS],
    /// The server's own, if it gave us one.
    server: Option<Box<[u8]>>,
}

/// Whom we ask what, and how.
#[derive(Clone, Copy)]
struct Inquiry<'q> {
    /// Who remembers its cookie.
    servers: &'q Servers,
    server: SocketAddr,
    question: Question<'q>,
    manner: Manner,
}

/// A question that is out, and all that its answer must fit.
struct Pending<'q> {
    inquiry: Inquiry<'q>,
    query: Vec<u8>,
    shown: Option<Shown>,
    talk: Conversation,
}

/// Why octets are not the answer that we wait for.
enum Unfit {
    /// Nobody asked for them.
    Forged(&'static str),
    /// They may be the answer, but lack the cookie that this server gave before.
    NoCookie(Message),
    /// They are no message.
    Malformed(&'static str),
}

/// What the cookies in an answer say about it.
#[derive(Debug, PartialEq, Eq)]
enum Proof<'m> {
    /// It comes from the server, which gives us this cookie; an empty one is none.
    Right(&'m [u8]),
    /// The server knows nothing of cookies: there is no proof.
    None,
    /// Another cookie than ours.
    Wrong,
    /// None, from a server that gave one before.
    Missing,
}

impl Shown {
    /// The option, with its code and length.
    fn option(&self) -> Vec<u8> {
        let server = self.server.as_deref().unwrap_or_default();
        let octets = (CLIENT_OCTETS + server.len()) as u16;
        [&cookie::OPTION.to_be_bytes()[..], &octets.to_be_bytes(), &self.client, server].concat()
    }

    /// Whether an answer comes from whom it was shown to (RFC 7873 §5.3).
    fn judge<'m>(&self, answer: &'m Message) -> Proof<'m> {
        match answer.option(cookie::OPTION).map(|option| cookie::read_answer(option, &self.client)) {
            Some(Ok(server)) => Proof::Right(server),
            Some(Err(cookie::Malformed)) => Proof::Wrong,
            None if self.server.is_some() => Proof::Missing,
            None => Proof::None,
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// Nothing came in time.
    #[error("no answer in {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The system could not send, or the other side has nobody there.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// What came is no message, or not the answer.
    #[error("the answer is malformed: {0}")]
    Malformed(&'static str),
    /// Wrong answers came, and no right one.
    #[error("{0} answers that nobody asked for: somebody guesses")]
    Forged(usize),
    /// One came without a cookie, from a server that gave cookies before.
    #[error("an answer without the cookie")]
    NoCookie,
}

impl Trouble {
    /// Whether there is no way to the server from here.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Trouble::Io(error) if [
            io::ErrorKind::NetworkUnreachable,
            io::ErrorKind::HostUnreachable,
            io::ErrorKind::AddrNotAvailable,
            // From a loopback address to any other (EINVAL).
            io::ErrorKind::InvalidInput,
        ]
        .contains(&error.kind()))
    }
}

impl Upstream {
    /// Asks from `source`, which may be unspecified, and shows `cookies`, if there are some.
    pub fn new(
        source: IpAddr,
        weakness: Weakness,
        cookies: Option<OwnCookies>,
        transcript: Transcript,
        metrics: &Metrics,
    ) -> Self {
        let asked = |over| metrics.labelled("upstream_queries", "Questions to other servers", &[("transport", over)]);
        let forged = |wrong| {
            metrics.labelled(
                "upstream_forged",
                "Answers that do not fit the question, by what is wrong",
                &[("wrong", wrong)],
            )
        };
        let counters = Counters {
            udp: asked("udp"),
            tcp: asked("tcp"),
            timeouts: metrics.counter("upstream_timeouts", "Questions to other servers without an answer in time"),
            malformed: metrics.counter("upstream_malformed", "Answers of other servers that are no messages"),
            wrong_id: forged("id"),
            wrong_question: forged("question"),
            not_an_answer: forged("no answer"),
            wrong_cookie: forged("cookie"),
            no_cookie: forged("no cookie"),
            floods: forged("flood"),
            cookies: metrics.counter("upstream_cookies", "Answers of other servers that have our cookie"),
        };
        Self { source, transcript, weakness, cookies, started: Instant::now(), counters }
    }

    /// Asks `server`, and waits for so long each time that it is asked; an answer that is cut off is fetched over TCP (RFC 7766 §5).
    /// Cookies are kept with `servers`.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn ask(
        &self,
        servers: &Servers,
        server: SocketAddr,
        question: Question<'_>,
        wait: Duration,
    ) -> Result<Message, Trouble> {
        let manner = if self.cookies.is_some() { Manner::Cookie } else { Manner::Edns };
        let mut inquiry = Inquiry { servers, server, question, manner };
        let mut has_renewed = false;
        let message = loop {
            let message = match self.ask_udp(inquiry, wait).await {
                Ok(message) => message,
                // Over TCP nobody can guess.
                Err(Trouble::Forged(_) | Trouble::NoCookie) => break Box::pin(self.ask_tcp(inquiry, wait * 2)).await,
                Err(trouble) => break Err(trouble),
            };
            match (message.rcode(), inquiry.manner.simpler(&message)) {
                // RFC 7873 §5.3: once more with the cookie that came with the refusal; then over TCP, where none is needed.
                (Rcode::BADCOOKIE, _) if !has_renewed => has_renewed = true,
                (Rcode::FORMERR, Some(simpler)) => inquiry.manner = simpler,
                (rcode, _) if rcode == Rcode::BADCOOKIE || message.header.is_truncated() => {
                    break Box::pin(self.ask_tcp(inquiry, wait * 2)).await;
                }
                _ => return Ok(message),
            }
        };
        match message {
            Err(Trouble::Timeout(_)) => self.counters.timeouts.inc(),
            Err(Trouble::Malformed(_)) => self.counters.malformed.inc(),
            _ => 0,
        };
        message
    }

    fn source_for(&self, server: SocketAddr) -> SocketAddr {
        let any = if server.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
        SocketAddr::new(if self.source.is_ipv4() == server.is_ipv4() { self.source } else { any }, 0)
    }

    /// A socket for one question; on a fixed port, with the turn to ask. The kernel chooses a port that nobody else can know, and lets in
    /// what comes from this server only.
    async fn socket_to(&self, server: SocketAddr) -> io::Result<(UdpSocket, Option<MutexGuard<'_, ()>>)> {
        let mut source = self.source_for(server);
        let mut turn = None;
        if let Some(port) = self.weakness.fixed_port {
            turn = Some(self.weakness.turn.lock().await);
            source.set_port(port.get());
        }
        let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
        // Without an address of its own the socket gets one, and a random port, when it is connected: a system call less.
        if !source.ip().is_unspecified() || source.port() != 0 {
            rustix::net::bind(&socket, &source)?;
        }
        rustix::net::connect(&socket, &server)?;
        Ok((socket.into(), turn))
    }

    /// What goes out to answer an inquiry from our address `local`, and what must come back.
    fn pending<'q>(&self, inquiry: Inquiry<'q>, over: Transport, local: SocketAddr) -> io::Result<Pending<'q>> {
        let Inquiry { servers, server, question, manner } = inquiry;
        let shown = self.cookies.as_ref().filter(|_| manner == Manner::Cookie).map(|cookies| {
            let client = cookies.client(local.ip(), server, self.started.elapsed().as_secs());
            Shown { client, server: servers.cookie(server, client) }
        });
        let query = query(question, &self.weakness, manner, shown.as_ref())?;
        let talk = self.transcript.conversation(over, local, server).outgoing().because_of(question.cause);
        Ok(Pending { inquiry, query, shown, talk })
    }

    /// The answer, if these octets are it. What nobody asked for is counted.
    fn judge(&self, pending: &Pending<'_>, answer: &mut [u8]) -> Result<Message, Unfit> {
        let Pending { inquiry: Inquiry { servers, server, question, .. }, query, shown, .. } = pending;
        let forged = |counter: &Counter, what| {
            counter.inc();
            Err(Unfit::Forged(what))
        };
        if !Header::parse(answer).is_some_and(Header::is_response) {
            return forged(&self.counters.not_an_answer, "no answer");
        } else if !answer.starts_with(&query[..2]) {
            return forged(&self.counters.wrong_id, "an answer with another id");
        } else if !has_question(answer, &query[HEADER_OCTETS..], question.name) {
            return forged(&self.counters.wrong_question, "an answer to another question");
        }
        restore_case(answer, question.name);
        let message = Message::parse(answer).map_err(Unfit::Malformed)?;
        let Some(shown) = shown else { return Ok(message) };
        match shown.judge(&message) {
            Proof::None => Ok(message),
            Proof::Right(given) => {
                self.counters.cookies.inc();
                // It seldom is another one.
                if !given.is_empty() && shown.server.as_deref() != Some(given) {
                    servers.keep_cookie(*server, shown.client, Some(given));
                }
                Ok(message)
            }
            Proof::Wrong => forged(&self.counters.wrong_cookie, "an answer with another cookie than ours"),
            Proof::Missing => {
                servers.keep_cookie(*server, shown.client, None);
                Err(Unfit::NoCookie(message))
            }
        }
    }

    async fn ask_udp(&self, inquiry: Inquiry<'_>, wait: Duration) -> Result<Message, Trouble> {
        let Inquiry { server, question, manner, .. } = inquiry;
        self.counters.udp.inc();
        let (socket, _turn) = self.socket_to(server).await?;
        // Nobody looks at the address if nobody listens, but our cookie depends on it.
        let mut local = self.source_for(server);
        if self.transcript.is_heard() || manner == Manner::Cookie && local.ip().is_unspecified() {
            local = socket.local_addr()?;
        }
        let pending = self.pending(inquiry, Transport::Udp, local)?;
        tell_question(&pending.talk, question, pending.query.len());
        let deadline = Instant::now() + wait;
        socket.send(&pending.query)?;
        // The question is out before epoll knows of the socket, which never waits for room to write: one wake-up for each question.
        #[expect(
            deprecated,
            reason = "its successor is unsafe, for descriptors that are closed too early; this one owns its socket"
        )]
        let socket = AsyncFd::with_interest(socket, HEARD)?;
        for _ in 0..FORGERIES_MAX {
            let taken = receive(&socket, |socket| self.take(&pending, socket));
            let Ok(taken) = timeout_at(deadline, taken).await else {
                pending.talk.note(&Trouble::Timeout(wait).to_string());
                return Err(Trouble::Timeout(wait));
            };
            if let Some(message) = taken.inspect_err(|error| pending.talk.note(&format!("nobody is there: {error}")))? {
                return message;
            }
        }
        self.counters.floods.inc();
        pending.talk.note("so many wrong answers: somebody guesses, and over TCP nobody can");
        Err(Trouble::Forged(FORGERIES_MAX))
    }

    /// Takes a datagram from the socket: the answer, or `None` if it is something else.
    fn take(&self, pending: &Pending<'_>, socket: &UdpSocket) -> io::Result<Option<Result<Message, Trouble>>> {
        let mut buffer = [0; UDP_OCTETS as usize + 1];
        let octets = socket.recv(&mut buffer)?;
        let answer = &mut buffer[..octets];
        let message = match self.judge(pending, answer) {
            Ok(message) => Ok(message),
            Err(Unfit::Malformed(why)) => Err(Trouble::Malformed(why)),
            Err(Unfit::Forged(what)) => {
                pending.talk.note(&format!("{what} is passed over"));
                return Ok(None);
            }
            // RFC 7873 §5.3: "the response MUST be discarded". But a server may have stopped giving cookies, or be one of several
            // behind one address, and must not be lost for that. So its cookie is forgotten, and it is asked over TCP: if it still
            // gives cookies, that answer has one, which is remembered; if not, the next question over UDP is one to a stranger.
            // Whoever has guessed all else gains a question over TCP by it, and no answer of his is believed.
            Err(Unfit::NoCookie(_)) => {
                self.counters.no_cookie.inc();
                pending.talk.note("an answer without the cookie is passed over: over TCP nobody can guess");
                return Ok(Some(Err(Trouble::NoCookie)));
            }
        };
        tell_answer(&pending.talk, answer, &message);
        Ok(Some(message))
    }

    async fn ask_tcp(&self, inquiry: Inquiry<'_>, wait: Duration) -> Result<Message, Trouble> {
        let Inquiry { server, question, .. } = inquiry;
        self.counters.tcp.inc();
        let exchange = async {
            let socket = if server.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            socket.bind(self.source_for(server))?;
            let mut stream = socket.connect(server).await?;
            let pending = self.pending(inquiry, Transport::Tcp, stream.local_addr()?)?;
            let Pending { query, talk, .. } = &pending;
            talk.opened();
            tell_question(talk, question, query.len());
            stream.write_all(&[&(query.len() as u16).to_be_bytes()[..], query].concat()).await?;
            let mut answer = vec![0; usize::from(stream.read_u16().await?)];
            stream.read_exact(&mut answer).await?;
            let message = match self.judge(&pending, &mut answer) {
                // Nobody can answer in the server's place here.
                Ok(message) | Err(Unfit::NoCookie(message)) => Ok(message),
                Err(Unfit::Forged(why) | Unfit::Malformed(why)) => Err(Trouble::Malformed(why)),
            };
            tell_answer(talk, &answer, &message);
            talk.closed();
            message
        };
        timeout_at(Instant::now() + wait, exchange).await.unwrap_or(Err(Trouble::Timeout(wait)))
    }
}

/// Waits until the system has something for us, and takes it.
async fn receive<T>(socket: &AsyncFd<UdpSocket>, take: impl Fn(&UdpSocket) -> io::Result<T>) -> io::Result<T> {
    loop {
        let mut ready = socket.ready(HEARD).await?;
        if let Ok(taken) = ready.try_io(|socket| take(socket.get_ref())) {
            return taken;
        }
    }
}

/// A query with a random id, the letters of its name in random case, and EDNS as `manner` wants it.
fn query(question: Question<'_>, weakness: &Weakness, manner: Manner, cookies: Option<&Shown>) -> io::Result<Vec<u8>> {
    let Question { name, rtype, recursion, .. } = question;
    let mut random = random()?;
    if let Some(next) = &weakness.next_id {
        random = [0; 2 + 32];
        random[..2].copy_from_slice(&next.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    }
    let mut query = random[..2].to_vec();
    let flags = match recursion {
        Recursion::NotDesired => [0, 0],
        Recursion::Desired => [1, 0],
        Recursion::DesiredUnchecked => [1, 0x10],
    };
    query.extend(flags);
    query.extend([0, 1, 0, 0, 0, 0, 0, u8::from(manner != Manner::Plain)]);
    let bits = random[2..].iter().flat_map(|octet| (0..8).map(move |bit| octet >> bit & 1));
    // Length octets are below 64, letters are above.
    query.extend(name.as_wire().iter().zip(bits).map(|(octet, bit)| {
        if octet.is_ascii_alphabetic() && weakness.next_id.is_none() { octet & !0x20 | bit << 5 } else { *octet }
    }));
    query.extend(rtype.0.to_be_bytes());
    query.extend(Class::IN.0.to_be_bytes());
    if manner != Manner::Plain {
        let options = cookies.map(Shown::option).unwrap_or_default();
        query.extend([0, 0, 41]);
        query.extend(UDP_OCTETS.to_be_bytes());
        query.extend([0, 0, 0x80, 0]);
        query.extend((options.len() as u16).to_be_bytes());
        query.extend(options);
    }
    Ok(query)
}

/// For the id, and for each letter of a name one bit.
type Chance = [u8; 2 + 32];

/// As many for a thread as come from the system by one call: 256 octets are given whole (getrandom(2)).
const CHANCES: usize = 256 / size_of::<Chance>();

/// Takes from the system what nobody can guess, for a few questions at once.
fn random() -> io::Result<Chance> {
    thread_local! {
        static STORE: RefCell<Vec<Chance>> = const { RefCell::new(vec![]) };
    }
    STORE.with_borrow_mut(|store| {
        if store.is_empty() {
            let mut octets = [0; CHANCES * size_of::<Chance>()];
            rustix::rand::getrandom(&mut octets, rustix::rand::GetRandomFlags::empty())?;
            store.extend(octets.as_chunks().0);
        }
        store.pop().ok_or_else(|| io::ErrorKind::Other.into())
    })
}

/// Whether the answer repeats the question, case included. Who did not understand it, or does not want to, may leave it out; a denial
/// without it could be guessed by id and port alone.
fn has_question(answer: &[u8], asked: &[u8], name: NameRef<'_>) -> bool {
    let octets = name.as_wire().len() + 4;
    match answer.get(4..6) {
        Some([0, 1]) => answer.get(HEADER_OCTETS..HEADER_OCTETS + octets) == asked.get(..octets),
        Some([0, 0]) => Header::parse(answer).is_some_and(|header| {
            [Rcode::FORMERR, Rcode::SERVFAIL, Rcode::NOTIMP, Rcode::REFUSED].contains(&header.rcode())
        }),
        _ => false,
    }
}

/// Takes the random case out of the question: the names in the answer point to it, and people will read them.
fn restore_case(answer: &mut [u8], name: NameRef<'_>) {
    let wire = name.as_wire();
    if let Some(asked) = answer.get_mut(HEADER_OCTETS..HEADER_OCTETS + wire.len())
        && asked.eq_ignore_ascii_case(wire)
    {
        asked.copy_from_slice(wire);
    }
}

fn tell_answer(talk: &Conversation, answer: &[u8], message: &Result<Message, Trouble>) {
    if talk.is_heard() {
        match message {
            Ok(message) => {
                talk.server(respond::answer_told(answer, message.rcode()).as_bytes(), answer.len());
            }
            Err(trouble) => talk.note(&trouble.to_string()),
        }
    }
}

fn tell_question(talk: &Conversation, question: Question<'_>, octets: usize) {
    if talk.is_heard() {
        let desired = match question.recursion {
            Recursion::NotDesired => "",
            Recursion::Desired => " rd",
            Recursion::DesiredUnchecked => " rd cd",
        };
        talk.client(format!("{} {}?{desired}", question.name, question.rtype).as_bytes(), octets);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Name;

    fn question(name: NameRef<'_>) -> Question<'_> {
        Question { name, rtype: Type::A, recursion: Recursion::NotDesired, cause: 0 }
    }

    #[test]
    fn questions_have_random_ids_and_random_case() {
        let name: Name = "www.someschool.edu".parse().unwrap();
        let queries: Vec<Vec<u8>> = (0..100)
            .map(|_| query(question(name.borrow()), &Weakness::default(), Manner::Edns, None).unwrap())
            .collect();
        let mut names: Vec<&[u8]> = queries.iter().map(|query| &query[12..32]).collect();
        assert!(names.iter().all(|wire| NameRef::parse(wire).unwrap() == name.borrow()));
        names.sort_unstable();
        names.dedup();
        // Sixteen letters: two of a hundred are the same in one of fourteen runs.
        assert!(names.len() > 90, "{}", names.len());
        // C118: ids of a good spread; each octet's bits are set in about half.
        let set: u32 = queries.iter().map(|query| query[0].count_ones() + query[1].count_ones()).sum();
        assert!((650..950).contains(&set), "{set} of 1600 bits");
    }

    /// RFC 1122 §4.1.3.3: ICMP errors reach the application, so a server that is not there costs no patience.
    #[tokio::test]
    async fn a_server_that_is_not_there_is_noticed_at_once() {
        let shared = shared::Shared::for_tests("dns");
        let (source, weakness) = (IpAddr::from([127, 0, 0, 1]), Weakness::default());
        let upstream = Upstream::new(source, weakness, None, shared.transcript.clone(), &shared.metrics);
        let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (name, wait): (Name, _) = ("www.fr".parse().unwrap(), Duration::from_secs(5));
        let trouble = upstream.ask(&Servers::default(), closed, question(name.borrow()), wait).await.unwrap_err();
        assert!(
            matches!(&trouble, Trouble::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused),
            "{trouble}"
        );
    }

    #[test]
    fn an_answer_repeats_the_question_in_its_case() {
        let name: Name = "www.fr".parse().unwrap();
        let query = query(question(name.borrow()), &Weakness::default(), Manner::Edns, None).unwrap();
        let asked = &query[HEADER_OCTETS..];
        let mut answer = query.clone();
        answer[2] = 0x80;
        assert!(has_question(&answer, asked, name.borrow()));
        let mut other = answer.clone();
        other[13] ^= 0x20;
        assert!(!has_question(&other, asked, name.borrow()));
        // Without a question there may be an error, and neither data nor a denial.
        for (rcode, is_taken) in [(0, false), (1, true), (2, true), (3, false), (4, true), (5, true), (9, false)] {
            let bare = [1, 1, 0x80, rcode, 0, 0, 0, 0, 0, 0, 0, 0];
            assert_eq!(has_question(&bare, asked, name.borrow()), is_taken, "{rcode}");
        }
        assert!(!has_question(&[1, 1, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0], asked, name.borrow()));
    }
}
