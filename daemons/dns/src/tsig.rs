//! Messages that are signed with a secret which both sides know (TSIG, RFC 8945).
//!
//! The last record of a signed message says which key, at what time, and holds a code (MAC) over everything before it:
//!
//! ```text
//!   +--------+----------+---------+- - - - - -+----------------------------------------------+
//!   | header | question | records |           | TSIG: key name, algorithm, time, fudge, MAC  |
//!   +--------+----------+---------+- - - - - -+----------------------------------------------+
//!   |<-------- what the MAC is over -------->|      and its name, algorithm, time, fudge
//! ```
//!
//! An answer's MAC is over the request's MAC too, so that an answer to another question cannot be put in its place; in
//! a transfer each message's is over that of the message before it (§5.3.1).
//!
//! [`verify`] is for servers and gives an [`Answerer`], [`sign`] is for clients and gives an [`Asked`]. Time is an
//! argument.

use crate::{
    message::{Rcode, read_name},
    name::{Name, NameRef},
    rdata::{Class, Type},
    record::Message,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use ring::hmac;
use std::{fmt, sync::Arc};

/// How far two clocks may be apart, in seconds (§10: 300 is recommended).
pub const FUDGE: u16 = 300;
/// A key's name has so many octets at most, so that the largest question and TSIG fit into 512 together with OPT and a
/// cookie.
pub const KEY_NAME_OCTETS_MAX: usize = 80;
/// §5.3.1: at most so many messages of a stream may be unsigned in a row.
const UNSIGNED_MAX: usize = 99;

/// A way to make the MAC (§6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are the RFC's own names")]
pub enum Algorithm {
    HmacSha1,
    HmacSha256,
    HmacSha384,
    HmacSha512,
}

impl Algorithm {
    /// All that are known here. Not MD5 (§6: MUST NOT be used).
    pub const ALL: [Algorithm; 4] =
        [Algorithm::HmacSha1, Algorithm::HmacSha256, Algorithm::HmacSha384, Algorithm::HmacSha512];

    /// As a configuration has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::HmacSha1 => "hmac-sha1",
            Algorithm::HmacSha256 => "hmac-sha256",
            Algorithm::HmacSha384 => "hmac-sha384",
            Algorithm::HmacSha512 => "hmac-sha512",
        }
    }

    /// On the wire it is a domain name.
    fn wire(self) -> &'static [u8] {
        match self {
            Algorithm::HmacSha1 => b"\x09hmac-sha1\0",
            Algorithm::HmacSha256 => b"\x0bhmac-sha256\0",
            Algorithm::HmacSha384 => b"\x0bhmac-sha384\0",
            Algorithm::HmacSha512 => b"\x0bhmac-sha512\0",
        }
    }

    fn hmac(self) -> hmac::Algorithm {
        match self {
            Algorithm::HmacSha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Algorithm::HmacSha256 => hmac::HMAC_SHA256,
            Algorithm::HmacSha384 => hmac::HMAC_SHA384,
            Algorithm::HmacSha512 => hmac::HMAC_SHA512,
        }
    }

    fn mac_octets(self) -> usize {
        self.hmac().digest_algorithm().output_len()
    }
}

/// A secret with its name.
#[derive(Clone)]
pub struct Key {
    name: Name,
    algorithm: Algorithm,
    hmac: hmac::Key,
}

impl fmt::Debug for Key {
    // The secret is nobody's business.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.algorithm.as_str(), self.name)
    }
}

/// Why a key of the configuration is none. The text says what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key `{name}`: {problem}")]
pub struct KeyError {
    name: String,
    problem: String,
}

impl Key {
    /// Reads a key as a configuration has it.
    ///
    /// # Errors
    /// Name, algorithm or secret is not one.
    pub fn new(name: &str, algorithm: &str, secret: &str) -> Result<Self, KeyError> {
        let wrong = |problem: String| KeyError { name: name.to_owned(), problem };
        let parsed: Name = name.parse().map_err(|error| wrong(format!("{error}")))?;
        let octets = parsed.borrow().as_wire().len();
        if octets > KEY_NAME_OCTETS_MAX {
            return Err(wrong(format!("the name has {octets} octets; {KEY_NAME_OCTETS_MAX} are the most")));
        }
        let known = Algorithm::ALL.into_iter().find(|known| known.as_str().eq_ignore_ascii_case(algorithm));
        let algorithm = known.ok_or_else(|| {
            let all = Algorithm::ALL.map(Algorithm::as_str).join(", ");
            wrong(format!("`{algorithm}` is no algorithm that is known here; they are {all}"))
        })?;
        let secret = STANDARD.decode(secret).ok().filter(|secret| !secret.is_empty());
        let secret = secret.ok_or_else(|| wrong("the secret is not base64; `tsig-keygen` prints one".to_owned()))?;
        Ok(Self { name: parsed, algorithm, hmac: hmac::Key::new(algorithm.hmac(), &secret) })
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// How many octets a TSIG record of this key has at most: what an answer must leave free.
    pub fn record_octets(&self) -> usize {
        // The owner and the record's head; algorithm, time, fudge, MAC with its length, id, error; six octets of other
        // data.
        self.name.borrow().as_wire().len()
            + 10
            + self.algorithm.wire().len()
            + 6
            + 2
            + 2
            + self.algorithm.mac_octets()
            + 2
            + 2
            + 2
            + 6
    }
}

/// All keys that a server knows.
#[derive(Clone, Debug, Default)]
pub struct Keyring(Vec<Arc<Key>>);

impl Keyring {
    /// These keys.
    pub fn new(keys: Vec<Key>) -> Self {
        Self(keys.into_iter().map(Arc::new).collect())
    }

    /// The key of this name.
    pub fn find(&self, name: &Name) -> Option<&Arc<Key>> {
        self.0.iter().find(|key| key.name == *name)
    }

    /// The names.
    pub fn names(&self) -> Vec<Name> {
        self.0.iter().map(|key| key.name.clone()).collect()
    }
}

/// What can be wrong with a signature (§3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The MAC is not what the key makes of the message.
    BadSig,
    /// We do not know the key, or know it with another algorithm.
    BadKey,
    /// The clocks are too far apart, or somebody repeats an old message.
    BadTime,
    /// The MAC is shorter than we accept.
    BadTrunc,
}

impl Fault {
    /// The number in the TSIG record (RFC 8945 §3, RFC 6895 §2.3).
    pub fn code(self) -> u16 {
        match self {
            Fault::BadSig => 16,
            Fault::BadKey => 17,
            Fault::BadTime => 18,
            Fault::BadTrunc => 22,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::BadSig => "BADSIG: the signature is not what this key makes of the message",
            Fault::BadKey => "BADKEY: the key is not known here by this name and algorithm",
            Fault::BadTime => "BADTIME: the clocks are too far apart",
            Fault::BadTrunc => "BADTRUNC: the signature is shorter than it has to be",
        })
    }
}

/// A TSIG record, taken off its message.
#[derive(Clone, Debug)]
struct Signature {
    key: Name,
    algorithm: Name,
    time: u64,
    fudge: u16,
    mac: Vec<u8>,
    original_id: u16,
    error: u16,
    other: Vec<u8>,
}

impl Signature {
    /// Reads the record at `at` (§4.2).
    fn read(message: &[u8], at: usize) -> Option<Self> {
        let (key, end) = read_name(message, at).ok()?;
        let head = message.get(end..end + 10)?;
        // §4.2: CLASS is ANY, TTL is 0.
        if head[..8] != [0, 250, 0, 255, 0, 0, 0, 0]
            || message.len() != end + 10 + usize::from(u16::from_be_bytes([head[8], head[9]]))
        {
            return None;
        }
        let (algorithm, end) = read_name(message, end + 10).ok()?;
        let (fixed, rest) = message.get(end..)?.split_first_chunk::<10>()?;
        let (mac, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([fixed[8], fixed[9]])))?;
        let (fixed_behind, other) = rest.split_first_chunk::<6>()?;
        if other.len() != usize::from(u16::from_be_bytes([fixed_behind[4], fixed_behind[5]])) {
            return None;
        }
        let time = fixed[..6].iter().fold(0, |time, octet| time << 8 | u64::from(*octet));
        Some(Self {
            key,
            algorithm,
            time,
            fudge: u16::from_be_bytes([fixed[6], fixed[7]]),
            mac: mac.to_vec(),
            original_id: u16::from_be_bytes([fixed_behind[0], fixed_behind[1]]),
            error: u16::from_be_bytes([fixed_behind[2], fixed_behind[3]]),
            other: other.to_vec(),
        })
    }

    /// Whether `now` is within the fudge of the time that was signed (§5.2.3).
    fn is_timely(&self, now: u64) -> bool {
        self.time.abs_diff(now) <= u64::from(self.fudge)
    }

    /// §4.3.3: the parts of the record that are signed with the message.
    fn variables(&self, key: &Key) -> Vec<u8> {
        let mut octets = key.name.borrow().as_wire().to_ascii_lowercase();
        octets.extend([0, 255, 0, 0, 0, 0]);
        octets.extend(key.algorithm.wire());
        octets.extend(self.timers());
        octets.extend(self.error.to_be_bytes());
        octets.extend((self.other.len() as u16).to_be_bytes());
        octets.extend(&self.other);
        octets
    }

    /// §5.3.1: all that is signed of the record in the later messages of a stream.
    fn timers(&self) -> [u8; 8] {
        let [_, _, time @ ..] = self.time.to_be_bytes();
        let mut octets = [0; 8];
        octets[..6].copy_from_slice(&time);
        octets[6..].copy_from_slice(&self.fudge.to_be_bytes());
        octets
    }

    /// Puts the record at the end of a message.
    fn append(&self, message: &mut Vec<u8>) {
        message.extend(self.key.borrow().as_wire());
        message.extend(Type::TSIG.0.to_be_bytes());
        message.extend(Class::ANY.0.to_be_bytes());
        message.extend([0; 4]);
        let algorithm = self.algorithm.borrow().as_wire();
        let octets = algorithm.len() + 10 + self.mac.len() + 6 + self.other.len();
        message.extend((octets as u16).to_be_bytes());
        message.extend(algorithm);
        message.extend(self.timers());
        message.extend((self.mac.len() as u16).to_be_bytes());
        message.extend(&self.mac);
        message.extend(self.original_id.to_be_bytes());
        message.extend(self.error.to_be_bytes());
        message.extend((self.other.len() as u16).to_be_bytes());
        message.extend(&self.other);
        let count = u16::from_be_bytes([message[10], message[11]]) + 1;
        message[10..12].copy_from_slice(&count.to_be_bytes());
    }
}

/// A message as it was before it was signed: without the record, and with its own id (§4.3.2).
fn unsigned(message: &[u8], at: usize, original_id: u16) -> Vec<u8> {
    let mut octets = message[..at].to_vec();
    octets[..2].copy_from_slice(&original_id.to_be_bytes());
    let count = u16::from_be_bytes([octets[10], octets[11]]).saturating_sub(1);
    octets[10..12].copy_from_slice(&count.to_be_bytes());
    octets
}

/// A MAC as it goes into the next one (§4.3.1).
fn framed(mac: &[u8]) -> Vec<u8> {
    [&(mac.len() as u16).to_be_bytes(), mac].concat()
}

/// In a time that does not tell how much agrees.
fn is_equal(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |unlike, (one, other)| unlike | (one ^ other)) == 0
}

/// A signed request that cannot be believed, and how it is answered.
#[derive(Clone, Debug)]
pub enum Refusal {
    /// The record is malformed: FORMERR.
    Malformed(&'static str),
    /// NOTAUTH, with the reason in a TSIG record.
    Faulty {
        /// What is wrong.
        fault: Fault,
        /// The TSIG record of the request.
        request: Box<Request>,
    },
}

/// What of a faulty request is needed for its answer.
#[derive(Clone, Debug)]
pub struct Request {
    signature: Signature,
    key: Option<Arc<Key>>,
    now: u64,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Malformed(because) => f.write_str(because),
            Refusal::Faulty { fault, request } => write!(f, "key {}: {fault}", request.signature.key),
        }
    }
}

impl Refusal {
    /// The RCODE of the answer (§5.2).
    pub fn rcode(&self) -> Rcode {
        match self {
            Refusal::Malformed(_) => Rcode::FORMERR,
            Refusal::Faulty { .. } => Rcode::NOTAUTH,
        }
    }

    /// Puts the TSIG record of the answer at its end.
    pub fn append(&self, answer: &mut Vec<u8>) {
        let Refusal::Faulty { fault, request } = self else { return };
        let Request { signature: asked, key, now } = &**request;
        let mut signature = Signature { mac: vec![], error: fault.code(), other: vec![], ..asked.clone() };
        match (fault, key) {
            // §5.2.3: signed, with the client's time, and ours in the other data, so that it learns which clock is
            // wrong.
            (Fault::BadTime, Some(key)) => {
                signature.other = now.to_be_bytes()[2..].to_vec();
                let signed = [&framed(&asked.mac), &answer[..], &signature.variables(key)].concat();
                signature.mac = hmac::sign(&key.hmac, &signed).as_ref().to_vec();
            }
            // §5.3.2: whoever could not be believed, or has no key that we know, gets no MAC: an empty one.
            (Fault::BadSig | Fault::BadKey | Fault::BadTrunc | Fault::BadTime, _) => {}
        }
        signature.append(answer);
    }
}

/// Looks at the signature of a request. `Ok(None)` is for one that has none.
///
/// `now` is in seconds since 1970.
///
/// # Errors
/// It is signed, and cannot be believed.
pub fn verify(message: &[u8], at: Option<usize>, keys: &Keyring, now: u64) -> Result<Option<Answerer>, Refusal> {
    let Some(at) = at else { return Ok(None) };
    let signature = Signature::read(message, at).ok_or(Refusal::Malformed("the TSIG record is malformed"))?;
    let key = keys
        .find(&signature.key)
        .filter(|key| key.algorithm.wire().eq_ignore_ascii_case(signature.algorithm.borrow().as_wire()));
    let refuse = |fault, signature: Signature, key: Option<&Arc<Key>>| {
        let request = Request { signature, key: key.cloned(), now };
        Err(Refusal::Faulty { fault, request: Box::new(request) })
    };
    // §5.2, in its order: the key, then the MAC, then the time, then how much of the MAC there is.
    let Some(key) = key else { return refuse(Fault::BadKey, signature, None) };
    let octets = key.algorithm.mac_octets();
    // §5.2.2.1: neither longer than the hash, nor shorter than half of it and ten octets.
    if signature.mac.len() > octets || signature.mac.len() < (octets / 2).max(10) {
        return Err(Refusal::Malformed("the MAC is longer than its hash, or shorter than any that could be accepted"));
    }
    let signed = [&unsigned(message, at, signature.original_id)[..], &signature.variables(key)].concat();
    let mac = hmac::sign(&key.hmac, &signed);
    if !is_equal(&mac.as_ref()[..signature.mac.len()], &signature.mac) {
        return refuse(Fault::BadSig, signature, Some(key));
    }
    if !signature.is_timely(now) {
        return refuse(Fault::BadTime, signature, Some(key));
    }
    // §5.2.4: our keys are for whole MACs.
    if signature.mac.len() < octets {
        return refuse(Fault::BadTrunc, signature, Some(key));
    }
    Ok(Some(Answerer { key: Arc::clone(key), mac: signature.mac, answers: Answers::None }))
}

/// Whether answers have been signed already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answers {
    None,
    Some,
}

/// Signs the answers to a request that was signed.
#[derive(Clone, Debug)]
pub struct Answerer {
    key: Arc<Key>,
    /// Of the request, then of the last answer.
    mac: Vec<u8>,
    answers: Answers,
}

impl Answerer {
    /// The key that signed the request.
    pub fn key(&self) -> &Arc<Key> {
        &self.key
    }

    /// Signs an answer: the first one as §5.3 says, those after it as §5.3.1 says.
    pub fn sign(&mut self, answer: &mut Vec<u8>, now: u64) {
        let mut signature = Signature {
            key: self.key.name.clone(),
            algorithm: algorithm_name(self.key.algorithm),
            time: now,
            fudge: FUDGE,
            mac: vec![],
            original_id: u16::from_be_bytes([answer[0], answer[1]]),
            error: 0,
            other: vec![],
        };
        let behind = match self.answers {
            Answers::None => signature.variables(&self.key),
            Answers::Some => signature.timers().to_vec(),
        };
        let signed = [&framed(&self.mac), &answer[..], &behind].concat();
        self.mac = hmac::sign(&self.key.hmac, &signed).as_ref().to_vec();
        self.answers = Answers::Some;
        signature.mac.clone_from(&self.mac);
        signature.append(answer);
    }
}

fn algorithm_name(algorithm: Algorithm) -> Name {
    NameRef::parse(algorithm.wire()).expect("they are names").to_name()
}

/// Signs a request.
pub fn sign(request: &mut Vec<u8>, key: &Arc<Key>, now: u64) -> Asked {
    let mut signature = Signature {
        key: key.name.clone(),
        algorithm: algorithm_name(key.algorithm),
        time: now,
        fudge: FUDGE,
        mac: vec![],
        original_id: u16::from_be_bytes([request[0], request[1]]),
        error: 0,
        other: vec![],
    };
    let signed = [&request[..], &signature.variables(key)].concat();
    signature.mac = hmac::sign(&key.hmac, &signed).as_ref().to_vec();
    let mac = signature.mac.clone();
    signature.append(request);
    Asked { key: Arc::clone(key), mac, pending: vec![], unsigned: 0, answers: Answers::None }
}

/// Why an answer cannot be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerFault {
    /// §5.4: an answer to a signed request is signed; without a signature anybody could have sent it.
    #[error("the answer is not signed")]
    Unsigned,
    /// The record is malformed, or the message is.
    #[error("the answer's TSIG record is malformed")]
    Malformed,
    /// Signed with another key.
    #[error("the answer is signed with another key or algorithm")]
    OtherKey,
    /// The MAC is wrong.
    #[error("the answer's signature is wrong")]
    Wrong,
    /// The clocks are too far apart.
    #[error("the answer was signed at another time: the clocks are too far apart")]
    Untimely,
    /// They say what they did not like about our signature.
    #[error("the other side refuses our signature: {}", fault_name(*.0))]
    Refused(u16),
}

fn fault_name(code: u16) -> String {
    let all = [Fault::BadSig, Fault::BadKey, Fault::BadTime, Fault::BadTrunc];
    let known = all.into_iter().find(|fault| fault.code() == code);
    known.map_or_else(|| format!("error {code}"), |fault| fault.to_string())
}

/// Checks the answers to a request of ours.
#[derive(Clone, Debug)]
pub struct Asked {
    key: Arc<Key>,
    /// Of the request, then of the last signed answer.
    mac: Vec<u8>,
    /// Unsigned messages since then, which the next MAC is over too.
    pending: Vec<u8>,
    unsigned: usize,
    answers: Answers,
}

impl Asked {
    /// Checks the next message of an answer. In a stream messages after the first may be unsigned (§5.3.1); they may be
    /// believed when [`Asked::is_complete`] says so.
    ///
    /// # Errors
    /// It cannot be believed.
    pub fn check(&mut self, answer: &[u8], now: u64) -> Result<(), AnswerFault> {
        let parsed = Message::parse(answer).map_err(|_| AnswerFault::Malformed)?;
        let Some(at) = parsed.tsig_at else {
            self.unsigned += 1;
            if self.answers == Answers::None || self.unsigned > UNSIGNED_MAX {
                return Err(AnswerFault::Unsigned);
            }
            self.pending.extend_from_slice(answer);
            return Ok(());
        };
        let signature = Signature::read(answer, at).ok_or(AnswerFault::Malformed)?;
        // §5.3.2 and §5.4.1: an error that comes without a MAC can be anybody's; it ends this attempt and nothing else.
        if signature.error != 0 && signature.mac.is_empty() {
            return Err(AnswerFault::Refused(signature.error));
        }
        if signature.key != self.key.name || algorithm_name(self.key.algorithm) != signature.algorithm {
            return Err(AnswerFault::OtherKey);
        }
        let behind = match self.answers {
            Answers::None => signature.variables(&self.key),
            Answers::Some => signature.timers().to_vec(),
        };
        let this = unsigned(answer, at, signature.original_id);
        let signed = [&framed(&self.mac)[..], &self.pending, &this, &behind].concat();
        if !is_equal(hmac::sign(&self.key.hmac, &signed).as_ref(), &signature.mac) {
            return Err(AnswerFault::Wrong);
        }
        // The MAC of a BADTIME answer is right, and tells that theirs is the other clock.
        if signature.error != 0 {
            return Err(AnswerFault::Refused(signature.error));
        }
        if !signature.is_timely(now) {
            return Err(AnswerFault::Untimely);
        }
        self.mac = signature.mac;
        self.pending.clear();
        self.unsigned = 0;
        self.answers = Answers::Some;
        Ok(())
    }

    /// Whether every message so far is vouched for: §5.3.1, the last message of a stream is signed.
    pub fn is_complete(&self) -> bool {
        self.answers == Answers::Some && self.unsigned == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_766_000_000;
    /// `secretsecretsecret`
    const SECRET: &str = "c2VjcmV0c2VjcmV0c2VjcmV0";
    /// Where the time stands in the TSIG record of a message that [`signed`] has made: behind the names, type, class,
    /// TTL, length.
    const TIME_AT: usize = 25 + 11 + 10 + 13;

    fn key(name: &str, algorithm: &str, secret: &str) -> Arc<Key> {
        Arc::new(Key::new(name, algorithm, secret).unwrap())
    }

    /// An UPDATE with its zone section and nothing else: 25 octets.
    fn request() -> Vec<u8> {
        [&[0x12, 0x34, 0x28, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"\x07example\0\0\x06\0\x01"].concat()
    }

    fn answer() -> Vec<u8> {
        let mut answer = request();
        answer[2] |= 0x80;
        answer
    }

    fn signed(key: &Arc<Key>) -> (Vec<u8>, Asked) {
        let mut message = request();
        let asked = sign(&mut message, key, NOW);
        (message, asked)
    }

    fn look(message: &[u8], keys: &[&Arc<Key>], now: u64) -> Result<Answerer, Refusal> {
        let at = Message::parse(message).unwrap().tsig_at;
        verify(message, at, &Keyring(keys.iter().map(|key| Arc::clone(key)).collect()), now).map(Option::unwrap)
    }

    fn mac_of(message: &[u8]) -> String {
        let at = Message::parse(message).unwrap().tsig_at.unwrap();
        let octets = Signature::read(message, at).unwrap().mac;
        octets.iter().map(|octet| format!("{octet:02x}")).collect::<Vec<_>>().concat()
    }

    /// Made with dnspython: the MAC of a request, of its answer, and of the message behind that in a stream, a second
    /// later.
    const VECTORS: [(&str, &str, &str, &str); 4] = [
        (
            "hmac-sha1",
            "c1a80a163b99d466e81ae897f87b6b4cfe1713ea",
            "fb795b099ff2ff98119b19fed742d9cfe178571c",
            "c5428264d79b73a398b0db29b2652099b741444e",
        ),
        (
            "hmac-sha256",
            "fab0dd6c9d391e02401d37c8026c3f57f9c642867f59f62aec2f57823dc2f334",
            "3a7418c1ebead0de0f991fadde7528b42a67e7c9346786c5b6dbd9b21bfb3484",
            "a67557b2da5f4c9fcb93e9eb7a917fc4e3b530995f183980a6fed315f80449c7",
        ),
        (
            "hmac-sha384",
            "49529edc21d9bd112103238ae091e380a1347e98729f606780ad36e42a9c4dc9f0f98a0c8542a92c4b63845523cb467f",
            "7ff31df1989789ada8a11b87473ded28b5bc849cf1e354d97a7ad7f985bd65558d02bee7119661025166fb823f7a1105",
            "7ab7ec66dbbe54cdea3ee0a91b92947e9adfe029a2f21905551470365246d1597dfb72b7c40b415e449e4d6cdf93819c",
        ),
        (
            "hmac-sha512",
            "6f5445ac8ae55b64f42b8eb17588fd98e7942867df43616201b5d63c597caa04ab216f1143ece128de8e3a0364ad6cbbd99f0d8c3c9153f2dc09da5906caa6b9",
            "a4597c125ec670de80b66c2f6b9785940e40de27e776fbbd6fc55164da99c01583a20b911ebc0b0e9bcd28a2e0ff60c6d9b71ef8bbbcae4155c3cc91fd15de20",
            "9b6255a8803e2d234b670f6345f4e74c4aee6a8d6a948ce4b2cd36eb04ab3a4ab993d3e67a46fbcea1af37e52bee1278be4c0b5f640f52438e9d3ea25b0dcc84",
        ),
    ];

    #[test]
    fn macs_are_those_that_others_make() {
        for (algorithm, of_request, of_answer, of_next) in VECTORS {
            let key = key("K.example", algorithm, SECRET);
            let (message, mut asked) = signed(&key);
            assert_eq!(mac_of(&message), of_request, "{algorithm}");
            let mut answerer = look(&message, &[&key], NOW).unwrap();
            let (mut first, mut next) = (answer(), answer());
            answerer.sign(&mut first, NOW);
            answerer.sign(&mut next, NOW + 1);
            assert_eq!((mac_of(&first).as_str(), mac_of(&next).as_str()), (of_answer, of_next), "{algorithm}");
            asked.check(&first, NOW).unwrap();
            asked.check(&next, NOW).unwrap();
            assert!(asked.is_complete());
        }
    }

    #[test]
    fn a_record_has_no_more_octets_than_were_kept_free_for_it() {
        for algorithm in Algorithm::ALL {
            let key = key("K.example", algorithm.as_str(), SECRET);
            let (message, _) = signed(&key);
            let refusal = look(&message, &[&key], NOW + 1000).unwrap_err();
            let mut refused = answer();
            refusal.append(&mut refused);
            assert_eq!(refused.len() - answer().len(), key.record_octets(), "{algorithm:?}");
            assert!(message.len() - request().len() <= key.record_octets());
        }
    }

    #[test]
    fn names_and_ids_may_change_on_the_way() {
        let key = key("K.example", "hmac-sha256", SECRET);
        let (mut message, _) = signed(&key);
        // A forwarder has its own id, and keeps ours in the record (§4.3.2).
        message[..2].copy_from_slice(&[0xab, 0xcd]);
        let at = request().len();
        message[at..at + 11].make_ascii_uppercase();
        look(&message, &[&key], NOW).unwrap();
    }

    #[test]
    fn a_signature_that_cannot_be_believed_is_told_why() {
        let ours = key("k.example", "hmac-sha256", SECRET);
        let with = |name: &str, algorithm: &str, secret: &str| signed(&key(name, algorithm, secret)).0;
        let changed = |at: usize| {
            let (mut message, _) = signed(&ours);
            message[at] ^= 1;
            message
        };
        let cut = |octets: u8| {
            let (mut message, _) = signed(&ours);
            let mac_at = TIME_AT + 10;
            message.drain(mac_at + usize::from(octets)..mac_at + 32);
            message[mac_at - 1] = octets;
            message[25 + 11 + 9] -= 32 - octets;
            message
        };
        for (name, message, now, want) in [
            ("another name", with("l.example", "hmac-sha256", SECRET), NOW, Some(Fault::BadKey)),
            ("another algorithm", with("k.example", "hmac-sha512", SECRET), NOW, Some(Fault::BadKey)),
            ("another secret", with("k.example", "hmac-sha256", "b3RoZXI="), NOW, Some(Fault::BadSig)),
            ("another question", changed(14), NOW, Some(Fault::BadSig)),
            ("another time", changed(TIME_AT + 5), NOW, Some(Fault::BadSig)),
            ("another fudge", changed(TIME_AT + 7), NOW, Some(Fault::BadSig)),
            ("too late", signed(&ours).0, NOW + 301, Some(Fault::BadTime)),
            ("too early", signed(&ours).0, NOW - 301, Some(Fault::BadTime)),
            ("cut to half", cut(16), NOW, Some(Fault::BadTrunc)),
            // §5.2.3 comes before §5.2.4.
            ("cut to half, too late", cut(16), NOW + 301, Some(Fault::BadTime)),
            ("cut to less than half", cut(15), NOW, None),
        ] {
            let refusal = look(&message, &[&ours], now).unwrap_err();
            match (&refusal, want) {
                (Refusal::Malformed(_), None) => assert_eq!(refusal.rcode(), Rcode::FORMERR),
                (Refusal::Faulty { fault, .. }, want) => {
                    assert_eq!((Some(*fault), refusal.rcode()), (want, Rcode::NOTAUTH), "{name}");
                    // §5.3.2: only BADTIME is signed, and tells our time.
                    let mut refused = answer();
                    refusal.append(&mut refused);
                    let at = Message::parse(&refused).unwrap().tsig_at.unwrap();
                    let told = Signature::read(&refused, at).unwrap();
                    assert_eq!(told.error, fault.code(), "{name}");
                    assert_eq!(told.mac.is_empty(), *fault != Fault::BadTime, "{name}");
                    let other = if *fault == Fault::BadTime { now.to_be_bytes()[2..].to_vec() } else { vec![] };
                    assert_eq!(
                        (told.time, told.other),
                        (if name == "another time" { NOW ^ 1 } else { NOW }, other),
                        "{name}"
                    );
                }
                other => panic!("{name}: {other:?}"),
            }
        }
    }

    #[test]
    fn clocks_may_be_a_fudge_apart() {
        let key = key("k", "hmac-sha256", SECRET);
        for now in [NOW - 300, NOW, NOW + 300] {
            look(&signed(&key).0, &[&key], now).unwrap();
        }
    }

    #[test]
    fn a_record_that_is_cut_off_or_has_a_class_or_ttl_is_malformed() {
        let key = key("k.example", "hmac-sha256", SECRET);
        let (message, _) = signed(&key);
        for at in [25 + 11 + 3, 25 + 11 + 7] {
            let mut message = message.clone();
            message[at] ^= 1;
            assert_eq!(look(&message, &[&key], NOW).unwrap_err().rcode(), Rcode::FORMERR);
        }
        for octets in 26..message.len() {
            assert!(Signature::read(&message[..octets], 25).is_none(), "{octets}");
        }
    }

    #[test]
    fn answers_that_anybody_could_have_sent_are_not_believed() {
        let (ours, other) = (key("k.example", "hmac-sha256", SECRET), key("k.example", "hmac-sha256", "b3RoZXI="));
        let answered = |key: &Arc<Key>| {
            let (message, _) = signed(key);
            let mut answer = answer();
            look(&message, &[key], NOW).unwrap().sign(&mut answer, NOW);
            answer
        };
        let refused = |now| {
            let (message, _) = signed(&other);
            let mut answer = answer();
            look(&message, &[&ours], now).unwrap_err().append(&mut answer);
            answer
        };
        let untimely = {
            let (message, _) = signed(&ours);
            let mut answer = answer();
            look(&message, &[&ours], NOW + 1000).unwrap_err().append(&mut answer);
            answer
        };
        for (name, answer, now, want) in [
            ("not signed", answer(), NOW, AnswerFault::Unsigned),
            ("another secret", answered(&other), NOW, AnswerFault::Wrong),
            ("an old answer", answered(&ours), NOW + 1000, AnswerFault::Untimely),
            ("they do not believe us", refused(NOW), NOW, AnswerFault::Refused(16)),
            ("their clock is another", untimely, NOW, AnswerFault::Refused(18)),
            ("no message", vec![0; 5], NOW, AnswerFault::Malformed),
        ] {
            let (_, mut asked) = signed(&ours);
            assert_eq!(asked.check(&answer, now), Err(want), "{name}");
        }
    }

    #[test]
    fn in_a_stream_up_to_99_messages_may_be_unsigned_and_the_last_may_not() {
        let key = key("k.example", "hmac-sha256", SECRET);
        let (message, asked) = signed(&key);
        for between in [1_usize, 99, 100] {
            let (mut asked, mut answerer) = (asked.clone(), look(&message, &[&key], NOW).unwrap());
            let mut first = answer();
            answerer.sign(&mut first, NOW);
            asked.check(&first, NOW).unwrap();
            let mut result = Ok(());
            for _ in 0..between {
                result = result.and(asked.check(&answer(), NOW));
                assert!(!asked.is_complete());
            }
            assert_eq!(result, if between == 100 { Err(AnswerFault::Unsigned) } else { Ok(()) });
            // The MAC of the next signed one is over all of them.
            let mut last = answer();
            let mut signature = Signature { mac: vec![], ..Signature::read(&first, 25).unwrap() };
            let signed = [&framed(&answerer.mac)[..], &answer().repeat(between), &last, &signature.timers()].concat();
            signature.mac = hmac::sign(&key.hmac, &signed).as_ref().to_vec();
            signature.append(&mut last);
            if between < 100 {
                asked.check(&last, NOW).unwrap();
                assert!(asked.is_complete());
            }
        }
    }

    #[test]
    fn a_wrong_key_is_told_with_what_would_be_right() {
        for (name, algorithm, secret, want) in [
            ("a..b", "hmac-sha256", SECRET, "a label is empty"),
            (&"a.".repeat(40), "hmac-sha256", SECRET, "80 are the most"),
            ("k", "hmac-md5", SECRET, "they are hmac-sha1, hmac-sha256"),
            ("k", "hmac-sha256", "???", "not base64"),
            ("k", "hmac-sha256", "", "not base64"),
        ] {
            let error = Key::new(name, algorithm, secret).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }
}
