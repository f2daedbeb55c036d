//! Asking a name server by hand: one question, the answer taken apart. It shares no code with the daemon, so that a mistake
//! there is not made here a second time.

use std::fmt;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::net::{self, AddressFamily, SocketType};

/// How long a server on this machine may think. Ours gives up asking others after ten seconds, and says so.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// RFC 1035 §4.1.1.
const HEADER_OCTETS: usize = 12;

/// An OPT record without options.
const OPT_OCTETS: usize = 11;

/// The id of every question here. Who else would answer on a socket that asks once?
const ID: u16 = 0x746f;

/// The types that are asked for here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are the RFC's own names")]
pub enum Type {
    A = 1,
    Ns = 2,
    Cname = 5,
    Soa = 6,
    Mx = 15,
    Txt = 16,
    Aaaa = 28,
    Dname = 39,
    Ds = 43,
    Dnskey = 48,
}

/// RFC 6891 §6.1.1.
const OPT: u16 = 41;

/// RFC 8914 §2.
const EXTENDED_ERROR: u16 = 15;

/// RD and CD, of the flags of a query.
const RECURSION_DESIRED: u16 = 0x0100;
const CHECKING_DISABLED: u16 = 0x0010;

/// One question, and what it is asked with: without more, neither RD nor EDNS.
#[derive(Debug, Clone, Copy)]
pub struct Question<'q> {
    name: &'q str,
    rtype: Type,
    flags: u16,
    edns: Option<Edns>,
}

/// The flags of the OPT record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edns {
    Plain = 0,
    DnssecOk = 0x80,
}

impl<'q> Question<'q> {
    /// The name and the type.
    pub fn new(name: &'q str, rtype: Type) -> Self {
        Self { name, rtype, flags: 0, edns: None }
    }

    /// With RD: whoever is asked shall find out.
    #[must_use]
    pub fn recursive(self) -> Self {
        Self { flags: self.flags | RECURSION_DESIRED, ..self }
    }

    /// With EDNS, so that an error can be explained.
    #[must_use]
    pub fn with_edns(self) -> Self {
        Self { edns: Some(Edns::Plain), ..self }
    }

    /// With EDNS and DO: signatures are wanted, and the word about them.
    #[must_use]
    pub fn with_dnssec(self) -> Self {
        Self { edns: Some(Edns::DnssecOk), ..self }
    }

    /// With CD: what is not to be believed is wanted too.
    #[must_use]
    pub fn unchecked(self) -> Self {
        Self { flags: self.flags | CHECKING_DISABLED, ..self }
    }

    /// Asks once. No answer within fifteen seconds is an error, and so is one to something else.
    pub fn ask(self, server: SocketAddr, over: Over) -> Result<Answer> {
        self.ask_from(Ipv4Addr::LOCALHOST, server, over)
    }

    /// The same from an address of ours that the server shall see.
    pub fn ask_from(self, client: Ipv4Addr, server: SocketAddr, over: Over) -> Result<Answer> {
        let query = self.to_wire();
        let question = HEADER_OCTETS..query.len() - if self.edns.is_some() { OPT_OCTETS } else { 0 };
        let answer = match over {
            Over::Udp => {
                let socket = UdpSocket::bind((client, 0))?;
                socket.set_read_timeout(Some(SILENCE_MAX))?;
                socket.connect(server)?;
                socket.send(&query)?;
                let mut buffer = vec![0; usize::from(u16::MAX)];
                let octets = socket.recv(&mut buffer).with_context(|| format!("{server} does not answer"))?;
                buffer.truncate(octets);
                buffer
            }
            Over::Tcp => {
                let socket = net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
                net::bind(&socket, &SocketAddr::from((client, 0)))?;
                net::connect(&socket, &server)?;
                let mut stream = TcpStream::from(socket);
                stream.set_read_timeout(Some(SILENCE_MAX))?;
                // RFC 7766 §8: the length and the message in one write.
                stream.write_all(&[&(query.len() as u16).to_be_bytes(), &query[..]].concat())?;
                let mut length = [0; 2];
                stream.read_exact(&mut length).with_context(|| format!("{server} does not answer over TCP"))?;
                let mut buffer = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut buffer)?;
                buffer
            }
        };
        ensure!(answer.get(question.clone()) == Some(&query[question]), "the question is not repeated");
        read(&answer)
    }

    fn to_wire(self) -> Vec<u8> {
        let mut octets = ID.to_be_bytes().to_vec();
        octets.extend(self.flags.to_be_bytes());
        octets.extend([0, 1, 0, 0, 0, 0, 0, u8::from(self.edns.is_some())]);
        octets.extend(name_to_wire(self.name));
        octets.extend([0, self.rtype as u8, 0, 1]);
        if let Some(edns) = self.edns {
            // RFC 6891 §6.1.2: OPT, 4096 octets, version 0, the flags, no options.
            octets.extend([0, 0, OPT as u8, 16, 0, 0, 0, edns as u8, 0, 0, 0]);
        }
        octets
    }
}

/// A name as it travels: each label behind its length.
pub fn name_to_wire(name: &str) -> Vec<u8> {
    let labels = name.split('.').filter(|label| !label.is_empty());
    let mut octets: Vec<u8> = labels.flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
    octets.push(0);
    octets
}

/// AA, TC and the RCODEs of an answer that [`reply`] makes.
pub mod flags {
    #![expect(missing_docs, reason = "they are the RFC's own names")]
    pub const AUTHORITATIVE: u16 = 0x0400;
    pub const TRUNCATED: u16 = 0x0200;
    pub const NXDOMAIN: u16 = 3;
    pub const REFUSED: u16 = 5;
}

/// What a server could say to a query: its id and its question again, these flags, and records in the three sections (owner, type,
/// data), each good for an hour.
pub fn reply(query: &[u8], flags: u16, sections: [&[(&str, Type, Vec<u8>)]; 3]) -> Vec<u8> {
    let labels = query.get(HEADER_OCTETS..).unwrap_or_default();
    let question = HEADER_OCTETS + labels.iter().position(|octet| *octet == 0).unwrap_or(0) + 5;
    let mut octets = query.get(..question).unwrap_or(query).to_vec();
    let flags = (0x8000 | flags).to_be_bytes();
    let counts = sections.iter().flat_map(|section| (section.len() as u16).to_be_bytes());
    let head = flags.into_iter().chain([0, 1]).chain(counts);
    octets.splice(2..HEADER_OCTETS, head);
    for (owner, rtype, data) in sections.into_iter().flatten() {
        octets.extend(name_to_wire(owner));
        octets.extend([0, *rtype as u8, 0, 1, 0, 0, 14, 16]);
        octets.extend((data.len() as u16).to_be_bytes());
        octets.extend(data);
    }
    octets
}

/// How a question travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are the protocols' own names")]
pub enum Over {
    Udp,
    Tcp,
}

/// An answer, as far as it is looked at here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The RCODE: 0 NOERROR, 3 NXDOMAIN.
    pub rcode: u8,
    /// AA.
    pub authoritative: bool,
    /// TC.
    pub truncated: bool,
    /// AD: the server has validated it.
    pub authentic: bool,
    /// The code and the text of an extended error (RFC 8914).
    pub explanation: Option<(u16, String)>,
    /// How long the message was.
    pub octets: usize,
    /// The answer section.
    pub answers: Vec<Record>,
    /// The authority section.
    pub authorities: Vec<Record>,
    /// The additional section, without OPT.
    pub additional: Vec<Record>,
}

/// A record.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// Its name, in small letters and with the last dot.
    pub owner: String,
    /// The number of its type.
    pub rtype: u16,
    /// Its time to live, in seconds.
    pub ttl: u32,
    /// Its data; names in them are written out, in small letters.
    pub data: Vec<u8>,
    /// Where NS, CNAME and MX lead to, written as `owner` is.
    pub target: Option<String>,
}

impl Record {
    /// The address of an A record.
    pub fn address(&self) -> Option<Ipv4Addr> {
        let octets: [u8; 4] = self.data.as_slice().try_into().ok()?;
        (self.rtype == Type::A as u16).then(|| octets.into())
    }

    /// The preference of an MX record.
    pub fn preference(&self) -> Option<u16> {
        (self.rtype == Type::Mx as u16).then(|| u16_at(&self.data, 0).ok()).flatten()
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} type {} {:02x?}", self.owner, self.ttl, self.rtype, self.data)
    }
}

/// Asks once, without RD and EDNS.
pub fn ask(server: SocketAddr, over: Over, name: &str, rtype: Type) -> Result<Answer> {
    ask_from(Ipv4Addr::LOCALHOST, server, over, name, rtype)
}

/// The same from an address of ours that the server shall see.
pub fn ask_from(client: Ipv4Addr, server: SocketAddr, over: Over, name: &str, rtype: Type) -> Result<Answer> {
    Question::new(name, rtype).ask_from(client, server, over)
}

fn read(message: &[u8]) -> Result<Answer> {
    ensure!(u16_at(message, 0)? == ID && u16_at(message, 2)? & 0x8000 != 0, "this is no answer to us");
    let flags = u16_at(message, 2)?;
    let mut at = HEADER_OCTETS;
    for _ in 0..u16_at(message, 4)? {
        at = name(message, at)?.1 + 4;
    }
    let mut section = |count| -> Result<Vec<Record>> {
        (0..count)
            .map(|_| {
                let (owner, end) = name(message, at)?;
                let ttl = u32::from(u16_at(message, end + 4)?) << 16 | u32::from(u16_at(message, end + 6)?);
                let begin = end + 10;
                at = begin + usize::from(u16_at(message, end + 8)?);
                let rtype = u16_at(message, end)?;
                let (data, target) = data(message, rtype, begin, at)?;
                Ok(Record { owner, rtype, ttl, data, target })
            })
            .collect()
    };
    let answers = section(u16_at(message, 6)?)?;
    let authorities = section(u16_at(message, 8)?)?;
    let mut additional = section(u16_at(message, 10)?)?;
    ensure!(at == message.len(), "octets behind the end of the message");
    let opt = additional.iter().position(|record| record.rtype == OPT).map(|at| additional.remove(at));
    Ok(Answer {
        rcode: flags as u8 & 0xf,
        authoritative: flags & 0x0400 != 0,
        truncated: flags & 0x0200 != 0,
        authentic: flags & 0x0020 != 0,
        explanation: opt.map(|opt| explanation(&opt.data)).transpose()?.flatten(),
        octets: message.len(),
        answers,
        authorities,
        additional,
    })
}

/// The extended error among the options of an OPT record.
fn explanation(options: &[u8]) -> Result<Option<(u16, String)>> {
    let mut at = 0;
    while at < options.len() {
        let (code, octets) = (u16_at(options, at)?, usize::from(u16_at(options, at + 2)?));
        let option = options.get(at + 4..at + 4 + octets).context("an option is cut off")?;
        if code == EXTENDED_ERROR {
            let text = option.get(2..).context("an extended error without a code")?;
            return Ok(Some((u16_at(option, 0)?, String::from_utf8_lossy(text).into_owned())));
        }
        at += 4 + octets;
    }
    Ok(None)
}

/// The data of a record with its names written out, and the name that it leads to.
fn data(message: &[u8], rtype: u16, begin: usize, end: usize) -> Result<(Vec<u8>, Option<String>)> {
    // How many octets stand before the names, and how many names there are.
    let (before, names) = match rtype {
        2 | 5 | 12 | 39 => (0, 1),
        6 => (0, 2),
        15 => (2, 1),
        _ => (0, 0),
    };
    let mut data = message.get(begin..begin + before).context("a record is cut off")?.to_vec();
    let (mut at, mut target) = (begin + before, None);
    for _ in 0..names {
        let (text, behind) = name(message, at)?;
        data.extend(text.as_bytes());
        (at, target) = (behind, Some(text));
    }
    data.extend(message.get(at..end).context("a record is cut off")?);
    Ok((data, target.filter(|_| names == 1)))
}

fn u16_at(message: &[u8], at: usize) -> Result<u16> {
    let pair = message.get(at..at + 2).context("the message is cut off")?;
    Ok(u16::from_be_bytes([pair[0], pair[1]]))
}

/// A name that may be compressed, and where it ends.
fn name(message: &[u8], mut at: usize) -> Result<(String, usize)> {
    let (mut text, mut end) = (String::new(), None);
    // A name has at most 127 labels; with as many pointers that is more steps than any honest one takes.
    for _ in 0..256 {
        let length = usize::from(*message.get(at).context("a name is cut off")?);
        match length {
            0 => return Ok((if text.is_empty() { ".".to_owned() } else { text }, end.unwrap_or(at + 1))),
            1..64 => {
                let label = message.get(at + 1..=at + length).context("a label is cut off")?;
                text += &String::from_utf8_lossy(label).to_ascii_lowercase();
                text.push('.');
                at += 1 + length;
            }
            _ => {
                end = end.or(Some(at + 2));
                at = usize::from(u16_at(message, at)? & 0x3fff);
            }
        }
    }
    bail!("a name that does not end")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_apart() {
        let mut message = Question::new("www.example", Type::A).to_wire();
        (message[2], message[7]) = (0x84, 1);
        message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 14, 16, 0, 4, 10, 0, 0, 1]);
        let answer = read(&message).unwrap();
        assert!(answer.authoritative && !answer.truncated && answer.authorities.is_empty());
        let [record] = &answer.answers[..] else { panic!("{answer:?}") };
        assert_eq!((record.owner.as_str(), record.ttl), ("www.example.", 3600));
        assert_eq!(record.address(), Some(Ipv4Addr::new(10, 0, 0, 1)));
        for cut in 0..message.len() {
            assert!(read(&message[..cut]).is_err(), "{cut}");
        }
        message.push(0);
        assert!(read(&message).is_err(), "something is left over");
        message.truncate(message.len() - 1);
        message[11] = 1;
        message.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 10, 0, 15, 0, 6, 0, 22, b'l', b'a', b'm', b'e']);
        let answer = read(&message).unwrap();
        assert_eq!((answer.explanation, answer.additional.len()), (Some((22, "lame".to_owned())), 0));
    }

    #[test]
    fn a_name_that_points_at_itself_ends() {
        assert!(name(&[0xc0, 0], 0).is_err());
    }
}
