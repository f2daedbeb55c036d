//! From the octets of a query to the octets of its answer: the whole server, but for its sockets.

use crate::{
    authority::{self, Identity, Place, Reason, Rotation, Zones},
    config::Config,
    cookie::{self, Cookies, Standing},
    message::{self, Edns, Malformed, Opcode, Query, Rcode, Received, UDP_OCTETS_PLAIN, Writer, written},
    rate::{Rates, Verdict},
    rdata::Class,
    record::{Message, gist},
    resolver::{self, Now, Resolver, cache::Security, iterate::Cached, own::Standpoint},
    zone::Zone,
};
use shared::{daemon::StartError, units::Network};
use std::{
    fmt::Write as _,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

/// What carries a message, which decides how long an answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// A datagram.
    Udp,
    /// A connection, with two octets of length before each message.
    Tcp,
    /// The same within TLS.
    Tls,
}

/// What a server knows.
#[derive(Debug)]
pub struct World {
    /// The zones that everybody sees who is in no view.
    pub everybody: Arc<Zones>,
    /// Those who see others; the first that a client is in counts.
    pub views: Vec<View>,
    /// Who it says that it is.
    pub identity: Arc<Identity>,
    /// How it deals with its clients.
    pub policy: Arc<Policy>,
    /// Who asks others for clients that are in no view, if anybody does.
    pub resolver: Option<Arc<Resolver>>,
    /// The largest datagram that it sends, and says that it takes.
    pub udp_octets_max: u16,
}

/// Clients that see other zones than everybody.
#[derive(Debug)]
pub struct View {
    /// Its name.
    pub name: String,
    /// Who is in it.
    pub clients: Vec<Network>,
    /// How many of the zones are its own; the others are everybody's.
    pub own: usize,
    /// What they see.
    pub zones: Arc<Zones>,
    /// Who asks others for them: not the one that does it for everybody, if they have zones of their own.
    pub resolver: Option<Arc<Resolver>>,
}

impl World {
    /// The zones that a client sees: the near server for one half of the world, another for the other (split DNS).
    pub fn zones_for(&self, client: IpAddr) -> &Arc<Zones> {
        self.view_of(client).map_or(&self.everybody, |view| &view.zones)
    }

    /// Who asks others for a client.
    fn resolver_for(&self, client: IpAddr) -> Option<&Arc<Resolver>> {
        self.view_of(client).map_or(&self.resolver, |view| &view.resolver).as_ref()
    }

    fn view_of(&self, client: IpAddr) -> Option<&View> {
        self.views.iter().find(|view| view.clients.iter().any(|network| network.contains(client)))
    }

    /// The zones of the view with this name, or of everybody if it is empty.
    pub fn own_zones(&self, view: &str) -> impl Iterator<Item = &Arc<Zone>> {
        let view = self.views.iter().find(|known| known.name == view);
        let (zones, own) = view.map_or((&self.everybody, usize::MAX), |view| (&view.zones, view.own));
        zones.iter().take(own)
    }
}

/// Who asks, and how the answer gets back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// The client's address.
    pub address: IpAddr,
    /// What carries the message.
    pub carrier: Carrier,
    /// When it came.
    pub now: SystemTime,
}

/// What to do about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// Send so many octets of the buffer.
    Send {
        /// How many.
        octets: usize,
        /// How it went, for the counters.
        rcode: Rcode,
        /// Why, for whoever watches.
        because: Because,
    },
    /// Send nothing, with the reason.
    Silence(&'static str),
    /// The zones alone do not tell: [`crate::registry::Registry::serve`] looks at the message.
    Errand,
    /// Others must be asked: [`recurse`] does.
    Recurse(Cached),
}

/// Why an answer is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// The query was well-formed.
    Answered(Reason),
    /// It was not.
    Malformed(&'static str),
    /// Others have told it, and we have kept it.
    Cached(Security),
    /// Others have told it now.
    Found(Security),
    /// Others were asked, and nobody could tell.
    NotFound,
    /// Others are not asked for this client.
    NotAllowed,
    /// The network has had too many of the same answer: this client may come over TCP.
    Slips,
}

impl std::fmt::Display for Because {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Because::Answered(reason) => reason.fmt(f),
            Because::Malformed(because) => f.write_str(because),
            Because::Cached(Security::Unchecked) => f.write_str("the cache has it"),
            Because::Cached(security) => write!(f, "the cache has it; {security}"),
            Because::Found(Security::Unchecked) => f.write_str("others have told it"),
            Because::Found(security) => write!(f, "others have told it; {security}"),
            Because::NotFound => f.write_str("nobody could tell"),
            Because::NotAllowed => f.write_str("others are not asked for this client; see `dns.allow`"),
            Because::Slips => f.write_str("too many of the same for one network; over TCP it is answered"),
        }
    }
}

/// How a server deals with its clients, whatever its zones are.
#[derive(Debug)]
pub struct Policy {
    /// Tells clients that are where they say from those that may not be.
    pub cookies: Cookies,
    /// Keeps us from flooding others.
    pub rates: Rates,
    /// How long an idle connection stays, for clients that ask (RFC 7828).
    pub idle_timeout: Duration,
}

impl Policy {
    /// What a configuration says.
    ///
    /// # Errors
    /// The cookies' secret is none.
    pub fn new(config: &Config) -> Result<Self, StartError> {
        Ok(Self {
            cookies: Cookies::new(cookie_secret(&config.cookie_secret)?),
            rates: Rates::new(config.rate, config.slip, SystemTime::now()),
            idle_timeout: config.idle_timeout.0,
        })
    }
}

/// 32 hexadecimal digits, or sixteen random octets.
fn cookie_secret(digits: &str) -> Result<[u8; 16], StartError> {
    let mut secret = [0; 16];
    if digits.is_empty() {
        rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty()).map_err(std::io::Error::from)?;
        return Ok(secret);
    }
    let unfit = || StartError::Unfit {
        key: "dns.cookie_secret".to_owned(),
        problem: "not 32 hexadecimal digits; make some with `openssl rand -hex 16`".to_owned(),
    };
    if digits.len() != 32 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(unfit());
    }
    for (octet, at) in secret.iter_mut().zip((0..32).step_by(2)) {
        *octet = u8::from_str_radix(&digits[at..at + 2], 16).map_err(|_| unfit())?;
    }
    Ok(secret)
}

/// RFC 8467 §4.1: what the size of an encrypted answer is a multiple of.
const PADDING_BLOCK: usize = 468;

/// Answers one message into `buffer`, which has room for 512 octets at least.
pub fn respond(
    world: &World,
    received: &Received<'_>,
    asker: Asker,
    rotation: &mut Rotation,
    buffer: &mut [u8],
) -> Response {
    match received {
        Received::Silence(because) => Response::Silence(because),
        Received::Malformed(malformed) => error(world, malformed, asker, buffer),
        Received::Errand(_) => Response::Errand,
        Received::Query(query) if query.is_errand() => Response::Errand,
        Received::Query(query) => plain(world, query, asker, rotation, buffer),
    }
}

/// The most that an answer may have.
pub(crate) fn octets_max(world: &World, carrier: Carrier, edns: Option<Edns<'_>>) -> usize {
    match (carrier, edns) {
        (Carrier::Tcp | Carrier::Tls, _) => usize::from(u16::MAX),
        (Carrier::Udp, None) => UDP_OCTETS_PLAIN,
        // RFC 6891 §6.2.3: less than 512 means 512.
        (Carrier::Udp, Some(edns)) => usize::from(edns.udp_octets.min(world.udp_octets_max)).max(UDP_OCTETS_PLAIN),
    }
}

/// Answers a question from the zones, into `buffer`, which has room for 512 octets at least.
pub fn plain(world: &World, query: &Query<'_>, asker: Asker, rotation: &mut Rotation, buffer: &mut [u8]) -> Response {
    let Query { header, name, qtype, class, edns, .. } = *query;
    let mut writer = Writer::new(buffer, octets_max(world, asker.carrier, edns), header);
    let mut standing = Standing::Unknown;
    if let Some(edns) = edns {
        writer.edns(edns, world.udp_octets_max);
        writer.question(name, qtype, class);
        match answer_options(world, edns, asker, &mut writer) {
            Ok(worth) => standing = worth,
            Err(because) => return refuse(Rcode::FORMERR, because, writer),
        }
    } else {
        writer.question(name, qtype, class);
    }
    let own = world.zones_for(asker.address);
    let answer = authority::answer(own, query, &world.identity);
    // RFC 1034 §4.3.2 step 4, and §5.3.3: what is in no zone of ours, others know.
    if let Some(resolver) = world.resolver_for(asker.address) {
        if answer.reason == Reason::NotOurZone && query.class == Class::IN {
            if !resolver.serves(asker.address) {
                // A refusal explains itself, which makes it longer than the question.
                writer = match within_the_rate(world, asker, standing, answer.kind(query), writer) {
                    Ok(writer) => writer,
                    Err(response) => return response,
                };
            }
            return from_cache(resolver, query, asker, own, rotation, writer);
        }
        // What our zones refer to, or lead to, is found too for those who want it.
        if answer.reason.leads_on() && header.recursion_desired() && resolver.serves(asker.address) {
            return from_cache(resolver, query, asker, own, rotation, writer);
        }
        writer.recursion_available();
    }
    let rcode = answer.rcode;
    writer = match within_the_rate(world, asker, standing, answer.kind(query), writer) {
        Ok(writer) => writer,
        Err(response) => return response,
    };
    let turn = if answer.has_choice() { rotation.turn(name, qtype) } else { 0 };
    answer.write(&mut writer, turn);
    Response::Send { octets: writer.finish(), rcode, because: Because::Answered(answer.reason) }
}

/// Gives the writer back, if the client's network may have another answer of this kind now; otherwise what it gets instead.
fn within_the_rate<'w>(
    world: &World,
    asker: Asker,
    standing: Standing,
    kind: u64,
    mut writer: Writer<'w>,
) -> Result<Writer<'w>, Response> {
    let rates = &world.policy.rates;
    if asker.carrier != Carrier::Udp || standing != Standing::Unknown || !rates.is_on() {
        return Ok(writer);
    }
    match rates.check(asker.address, kind, asker.now) {
        Verdict::Send => Ok(writer),
        Verdict::Slip => {
            writer.truncate();
            Err(Response::Send { octets: writer.finish(), rcode: Rcode::NOERROR, because: Because::Slips })
        }
        Verdict::Drop => Err(Response::Silence("too many of the same for one network")),
    }
}

/// Answers what is in none of our zones, if the cache knows.
fn from_cache(
    resolver: &Arc<Resolver>,
    query: &Query<'_>,
    asker: Asker,
    own: &Arc<Zones>,
    rotation: &mut Rotation,
    mut writer: Writer<'_>,
) -> Response {
    let (rcode, because) = match resolver.at_once(query, asker.address, own) {
        Now::Later(cached) => return Response::Recurse(cached),
        Now::Reply(reply) => {
            resolver::write(&reply, query, &mut writer, rotation.turn(query.name, query.qtype));
            (if reply.no_such_name { Rcode::NXDOMAIN } else { Rcode::NOERROR }, Because::Cached(reply.security))
        }
        Now::Refused => {
            resolver::write_refusal(&mut writer);
            (Rcode::REFUSED, Because::NotAllowed)
        }
        Now::NothingKnown => {
            writer.recursion_available();
            (Rcode::NOERROR, Because::NotFound)
        }
    };
    Response::Send { octets: writer.finish(), rcode, because }
}

/// Answers what others must be asked for. `cause` is the client's conversation.
pub async fn recurse(
    world: &World,
    message: &[u8],
    asker: Asker,
    cached: Cached,
    cause: u64,
    turn: usize,
) -> Option<(Vec<u8>, Rcode, Because)> {
    let Received::Query(query) = message::receive(message) else { return None };
    let resolver = world.resolver_for(asker.address)?;
    let own = world.zones_for(asker.address);
    // RFC 1035 §4.1.1: AA is about the first name in the answer.
    let is_ours = own.place(query.name, query.qtype) == Place::Here;
    let standpoint = Standpoint { checking: resolver::checking_of(&query), own };
    let found = resolver.find(&query.name.to_name(), query.qtype, standpoint, cached, cause).await;
    let octets_max = octets_max(world, asker.carrier, query.edns);
    let mut told = (Rcode::SERVFAIL, Because::NotFound);
    let answer = written(octets_max, |buffer| {
        let mut writer = Writer::new(buffer, octets_max, query.header);
        if let Some(edns) = query.edns {
            writer.edns(edns, world.udp_octets_max);
        }
        writer.question(query.name, query.qtype, query.class);
        if is_ours {
            writer.authoritative();
        }
        if let Some(edns) = query.edns {
            // Malformed options were told so before.
            let _ = answer_options(world, edns, asker, &mut writer);
        }
        match &found {
            Ok(reply) => {
                resolver::write(reply, &query, &mut writer, turn);
                let rcode = if reply.no_such_name { Rcode::NXDOMAIN } else { Rcode::NOERROR };
                told = (rcode, Because::Found(reply.security));
            }
            Err((code, text)) => resolver::write_failure(Rcode::SERVFAIL, *code, text, &mut writer),
        }
        writer.finish()
    });
    let (rcode, because) = told;
    Some((answer, rcode, because))
}

/// Puts what the client's options ask for into OPT, and says whether its cookie proves its address.
fn answer_options(
    world: &World,
    edns: Edns<'_>,
    asker: Asker,
    writer: &mut Writer<'_>,
) -> Result<Standing, &'static str> {
    let mut standing = Standing::Unknown;
    let mut seen = None;
    for (code, data) in edns.options() {
        match (code, asker.carrier) {
            // RFC 7873 §5.2: of several cookies the first counts.
            (cookie::OPTION, _) if seen.is_none() => {
                let (worth, fresh) = world
                    .policy
                    .cookies
                    .check(data, asker.address, asker.now)
                    .map_err(|cookie::Malformed| "a cookie of a length that no cookie has")?;
                writer.option(cookie::OPTION, &fresh);
                (standing, seen) = (worth, Some(code));
            }
            // RFC 5001 §2.3: "which of you servers am I talking to?"
            (message::NSID, _) if !world.identity.host().is_empty() => {
                writer.option(message::NSID, world.identity.host());
            }
            // RFC 7828 §3.3.2: in units of 100 ms. Over UDP it means nothing.
            (message::KEEPALIVE, Carrier::Tcp | Carrier::Tls) => {
                let tenths = (world.policy.idle_timeout.as_millis() / 100).min(u128::from(u16::MAX)) as u16;
                writer.option(message::KEEPALIVE, &tenths.to_be_bytes());
            }
            (message::PADDING, Carrier::Tls) => writer.pad_to(PADDING_BLOCK),
            _ => {}
        }
    }
    Ok(standing)
}

fn error(world: &World, malformed: &Malformed<'_>, asker: Asker, buffer: &mut [u8]) -> Response {
    let Malformed { header, rcode, question, edns, because } = *malformed;
    if asker.carrier == Carrier::Udp {
        let kind = u64::from(rcode.0);
        if world.policy.rates.check(asker.address, kind, asker.now) != Verdict::Send {
            return Response::Silence("too many errors for one network");
        }
    }
    let mut writer = Writer::new(buffer, UDP_OCTETS_PLAIN, header);
    if let Some(edns) = edns {
        writer.edns(edns, world.udp_octets_max);
    }
    if let Some((name, qtype, class)) = question {
        writer.question(name, qtype, class);
    }
    // A cookie was asked for, and nothing else.
    if let Some(edns) = edns.filter(|_| rcode == Rcode::NOERROR)
        && let Err(because) = answer_options(world, edns, asker, &mut writer)
    {
        return refuse(Rcode::FORMERR, because, writer);
    }
    refuse(rcode, because, writer)
}

/// Completes the answer to what is malformed.
fn refuse(rcode: Rcode, because: &'static str, mut writer: Writer<'_>) -> Response {
    writer.rcode(rcode);
    Response::Send { octets: writer.finish(), rcode, because: Because::Malformed(because) }
}

/// A question in one line: `www.someschool.edu. A? rd`.
pub fn question_line(received: &Received<'_>) -> String {
    match received {
        Received::Silence(because) => (*because).to_owned(),
        Received::Errand(header) if header.opcode() == Opcode::NOTIFY => "NOTIFY".to_owned(),
        Received::Errand(_) => "UPDATE".to_owned(),
        Received::Malformed(malformed) => format!("opcode {} ({})", malformed.header.opcode().0, malformed.because),
        Received::Query(Query { header, name, qtype, class, edns, .. }) => {
            let mut line = name.to_string();
            if *class != Class::IN {
                let _ = write!(line, " {class}");
            }
            let _ = write!(line, " {qtype}?");
            if header.recursion_desired() {
                line.push_str(" rd");
            }
            if let Some(edns) = edns {
                let wants_dnssec = if edns.dnssec_ok { " do" } else { "" };
                let _ = write!(line, " edns {}{wants_dnssec}", edns.udp_octets);
            }
            line
        }
    }
}

/// An answer in one line, with what it comes to: `NOERROR aa 1 answer: www.crepes.fr. A 10.77.1.80`.
pub fn answer_told(octets: &[u8], rcode: Rcode) -> String {
    let line = answer_line(octets, rcode);
    match Message::parse(octets).map(|message| gist(&message)) {
        Ok(gist) if !gist.is_empty() => format!("{line}: {gist}"),
        Ok(_) | Err(_) => line,
    }
}

/// How an answer went, and how much there is in its sections: `NOERROR aa 2 answers, 2 additional`.
pub fn answer_line(octets: &[u8], rcode: Rcode) -> String {
    let Some(head) = octets.first_chunk::<{ message::HEADER_OCTETS }>() else { return String::new() };
    let mut line = rcode.to_string();
    for (flag, text) in [(0x04, " aa"), (0x02, " tc")] {
        if head[2] & flag != 0 {
            line.push_str(text);
        }
    }
    let mut comma = "";
    for (at, what, plural) in [(6, "answer", "s"), (8, "authority", ""), (10, "additional", "")] {
        let count = u16::from_be_bytes([head[at], head[at + 1]]);
        if count > 0 {
            let plural = if count == 1 { "" } else { plural };
            let _ = write!(line, "{comma} {count} {what}{plural}");
            comma = ",";
        }
    }
    line
}
