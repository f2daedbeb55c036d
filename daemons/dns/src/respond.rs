//! From the octets of a query to the octets of its answer: the whole server, but for its sockets.

use crate::{
    authority::{self, Identity, Rotation, Zones},
    message::{self, Malformed, Opcode, Query, Rcode, Received, UDP_OCTETS_PLAIN, Writer},
    zone::Zone,
};
use shared::units::Network;
use std::{fmt::Write as _, net::IpAddr, sync::Arc, time::SystemTime};

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
    pub everybody: Zones,
    /// Those who see others; the first that a client is in counts.
    pub views: Vec<View>,
    /// Who it says that it is.
    pub identity: Arc<Identity>,
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
    pub zones: Zones,
}

impl World {
    /// The zones that a client sees: the near server for one half of the world, another for the other (split DNS).
    pub fn zones_for(&self, client: IpAddr) -> &Zones {
        let is_in = |view: &&View| view.clients.iter().any(|network| network.contains(client));
        self.views.iter().find(is_in).map_or(&self.everybody, |view| &view.zones)
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
}

/// Why an answer is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// The query was well-formed.
    Answered(authority::Reason),
    /// It was not.
    Malformed(&'static str),
}

impl std::fmt::Display for Because {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Because::Answered(reason) => reason.fmt(f),
            Because::Malformed(because) => f.write_str(because),
        }
    }
}

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
        Received::Malformed(malformed) => error(world, malformed, buffer),
        Received::Errand(_) => Response::Errand,
        Received::Query(query) if query.is_errand() => Response::Errand,
        Received::Query(query) => {
            let answer = authority::answer(world.zones_for(asker.address), query, &world.identity);
            let octets_max = match (asker.carrier, query.edns) {
                (Carrier::Tcp | Carrier::Tls, _) => usize::from(u16::MAX),
                (Carrier::Udp, None) => UDP_OCTETS_PLAIN,
                // RFC 6891 §6.2.3: less than 512 means 512.
                (Carrier::Udp, Some(edns)) => {
                    usize::from(edns.udp_octets.min(world.udp_octets_max)).max(UDP_OCTETS_PLAIN)
                }
            };
            let mut writer = Writer::new(buffer, octets_max, query.header);
            if let Some(edns) = query.edns {
                writer.edns(edns, world.udp_octets_max);
            }
            writer.question(query.name, query.qtype, query.class);
            let turn = if answer.has_choice() { rotation.turn(query.name, query.qtype) } else { 0 };
            answer.write(&mut writer, turn);
            Response::Send { octets: writer.finish(), rcode: answer.rcode, because: Because::Answered(answer.reason) }
        }
    }
}

fn error(world: &World, malformed: &Malformed<'_>, buffer: &mut [u8]) -> Response {
    let Malformed { header, rcode, question, edns, because } = *malformed;
    let mut writer = Writer::new(buffer, UDP_OCTETS_PLAIN, header);
    if let Some(edns) = edns {
        writer.edns(edns, world.udp_octets_max);
    }
    if let Some((name, qtype, class)) = question {
        writer.question(name, qtype, class);
    }
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
            if *class != crate::rdata::Class::IN {
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

/// An answer of ours in one line: `NOERROR aa 1 answer, 2 additional`.
pub fn answer_line(octets: &[u8], rcode: Rcode) -> String {
    let Some(head) = octets.first_chunk::<{ message::HEADER_OCTETS }>() else { return String::new() };
    let mut line = rcode.to_string();
    for (flag, text) in [(0x04, " aa"), (0x02, " tc")] {
        if head[2] & flag != 0 {
            line.push_str(text);
        }
    }
    let mut comma = "";
    for (at, what) in [(6, "answer"), (8, "authority"), (10, "additional")] {
        let count = u16::from_be_bytes([head[at], head[at + 1]]);
        if count > 0 {
            let _ = write!(line, "{comma} {count} {what}");
            comma = ",";
        }
    }
    line
}
