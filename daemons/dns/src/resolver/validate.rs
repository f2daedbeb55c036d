//! Whether data is what the owner of its zone has signed (RFC 4035 §5, RFC 5155 §8, RFC 6840, RFC 9276).
//!
//! ```text
//!   DS, from the parent  ──digest──>  DNSKEY  ──signature──>  the DNSKEY set       `keys`
//!                                     DNSKEY  ──signature──>  any other set        `set`
//!                                                             NSEC, NSEC3 ──> what is not there: `denial`, `cut`
//! ```
//!
//! Everything here is pure. What others have signed costs time to check, and whoever signs may want to make it cost more: so
//! every check is counted ([`Work`]), and who needs more than anybody of good will does is not believed.
//!
//! *Algorithms.* RSA with SHA-256 and SHA-512 (RFC 5702), ECDSA (RFC 6605), Ed25519 (RFC 8080). RSA with SHA-1 (5 and 7) counts as
//! unknown, which leaves its zones insecure: RFC 9905 §2 wants that of every resolver that runs.
//! `Deviates:` the same section wants implementations to be still able to check it; a switch that must stay off is left out.

use super::cache::{Denial, Set};
use crate::{
    denial::{Hash, ITERATIONS_MAX, Nsec3Hash, hash_in_label},
    name::{Name, NameRef, Suffixes},
    rdata::Type,
    sign::{key_tag, seconds, signed_data},
};
use ring::{digest, signature};
use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

/// Signatures that are checked for one question. Ten zones on the way down cost two each, twenty names between them three each (those
/// of IPv6 addresses are long), sixteen aliases one each, the proofs at the end four. A check takes about 0.1 ms (`KeyTrap`,
/// CVE-2023-50387, made a resolver do millions).
pub const CHECKS_MAX: u32 = 128;
/// Of them, those that may fail: two keys seldom have the same tag, and a zone's own signatures are right. Also digests of keys.
pub const FAILURES_MAX: u32 = 8;
/// Rounds of SHA-1 for one question: the names of a usual question six times over with the most iterations that are accepted, or any
/// name at all with none, as RFC 9276 §3.1 wants it (CVE-2023-50868).
pub const HASHES_MAX: u32 = 4096;

/// DNSKEY's flags (RFC 4034 §2.1.1, RFC 5011 §7).
const ZONE_KEY: u16 = 0x0100;
/// See [`ZONE_KEY`].
const REVOKED: u16 = 0x0080;
/// DNSKEY's protocol (RFC 4034 §2.1.2).
const PROTOCOL: u8 = 3;
/// Digests of DS (RFC 4034 §5.1.3, RFC 4509, RFC 6605 §2).
const SHA1: u8 = 1;
/// See [`SHA1`].
const SHA256: u8 = 2;
/// See [`SHA1`].
const SHA384: u8 = 4;
/// NSEC3's flag for gaps that may hold delegations without signatures (RFC 5155 §3.1.2.1).
const OPT_OUT: u8 = 1;

/// Signatures that were found right, as digests of key, data and signature. Each name that does not exist comes with the same SOA and
/// with one of few gaps: what was right is right, and looking it up costs a hundredth of a check. When they expire is looked at each time.
#[derive(Debug, Default)]
pub struct Known {
    /// Those of late, and those before: when the first is full, the second is forgotten.
    generations: Mutex<[HashSet<[u8; 32]>; 2]>,
}

/// Digests in a generation: with the table's own octets, half a megabyte for both.
const KNOWN_MAX: usize = 4096;

impl Known {
    fn digest(key: &Key, data: &[u8], signature: &[u8]) -> [u8; 32] {
        let mut context = digest::Context::new(&digest::SHA256);
        // The lengths keep the three apart.
        for part in [&[key.algorithm], &*key.public, data, signature] {
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        let mut octets = [0; 32];
        octets.copy_from_slice(context.finish().as_ref());
        octets
    }

    fn has(&self, digest: &[u8; 32]) -> bool {
        let generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.iter().any(|known| known.contains(digest))
    }

    fn add(&self, digest: [u8; 32]) {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        if generations[0].len() == KNOWN_MAX {
            generations[1] = std::mem::take(&mut generations[0]);
        }
        generations[0].insert(digest);
    }
}

/// What has been done for a question so far.
#[derive(Clone, Debug, Default)]
pub struct Work {
    checks: u32,
    failures: u32,
    hashes: u32,
    known: Option<Arc<Known>>,
}

impl Work {
    /// None so far, by somebody who remembers which signatures are right.
    pub fn of(known: Arc<Known>) -> Self {
        Self { known: Some(known), ..Self::default() }
    }

    /// Whether a key has signed data: looked up, or found out.
    fn is_signed(&self, key: &Key, data: &[u8], signature: &[u8]) -> bool {
        let Some(known) = &self.known else { return key.has_signed(data, signature) };
        let digest = Known::digest(key, data, signature);
        if known.has(&digest) {
            return true;
        }
        let is_signed = key.has_signed(data, signature);
        if is_signed {
            known.add(digest);
        }
        is_signed
    }

    /// Signatures that were checked.
    pub fn checks(&self) -> u32 {
        self.checks
    }

    /// Rounds of SHA-1 for NSEC3.
    pub fn hashes(&self) -> u32 {
        self.hashes
    }

    /// Takes the permit for one check of a signature.
    fn check(&mut self) -> Result<(), Bogus> {
        self.checks += 1;
        if self.checks > CHECKS_MAX || self.failures >= FAILURES_MAX { Err(Bogus::TooMuchWork) } else { Ok(()) }
    }

    /// Takes the permit for hashing a name.
    fn hash(&mut self, hash: &Nsec3Hash) -> Result<(), Bogus> {
        self.hashes = self.hashes.saturating_add(1 + u32::from(hash.iterations));
        if self.hashes > HASHES_MAX { Err(Bogus::TooMuchWork) } else { Ok(()) }
    }
}

/// Why data is not believed. Of several reasons, the last of this list counts: that signature was the nearest to being right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bogus {
    /// The zone is signed, and this is not.
    NoSignature,
    /// RRSIG or DNSKEY or a proof makes no sense.
    Malformed,
    /// The signer is another zone than the one that the data is from.
    OtherSigner,
    /// All signatures have algorithms that we do not know, though the zone has others too.
    UnknownAlgorithm,
    /// A signature is of the future.
    NotYetValid,
    /// A signature is of the past.
    Expired,
    /// A signature ends before it begins.
    ExpiredBeforeValid,
    /// The zone has no key that such a signature could have been made with.
    NoKey,
    /// No key of the zone is one that its parent speaks of.
    NoTrustedKey,
    /// The key that the parent speaks of is not for zones (RFC 4034 §2.1.1).
    NotAZoneKey,
    /// The key that the parent speaks of has been revoked (RFC 5011 §2.1).
    RevokedKey,
    /// A signature is wrong.
    WrongSignature,
    /// Nothing proves that something is not there.
    NoProof,
    /// What should prove that something is not there shows that it is.
    Contradicted,
    /// It takes more work than data of good will does.
    TooMuchWork,
}

impl Bogus {
    /// Code and text for the client (RFC 8914 §4).
    pub fn ede(self) -> (u16, &'static str) {
        match self {
            Bogus::NoSignature => (10, "the zone is signed, and this is not"),
            Bogus::Malformed => (6, "a malformed signature, key or proof"),
            Bogus::OtherSigner => (6, "signed by another zone"),
            Bogus::UnknownAlgorithm => (1, "no signature with a known algorithm"),
            Bogus::NotYetValid => (8, "the signature is of the future"),
            Bogus::Expired => (7, "the signature has expired"),
            Bogus::ExpiredBeforeValid => (25, "the signature ends before it begins"),
            Bogus::NoKey => (9, "the zone has no key for the signature"),
            Bogus::NoTrustedKey => (9, "no key of the zone is the one that its parent has"),
            Bogus::NotAZoneKey => (11, "the key that the parent has is not for zones"),
            Bogus::RevokedKey => (9, "the key that the parent has is revoked"),
            Bogus::WrongSignature => (6, "the signature is wrong"),
            Bogus::NoProof => (12, "nothing proves that it is not there"),
            Bogus::Contradicted => (6, "the proof that it is not there shows that it is"),
            Bogus::TooMuchWork => (6, "more signatures or hashes than anybody needs"),
        }
    }
}

impl fmt::Display for Bogus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.ede().1)
    }
}

/// Why data need not be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insecurity {
    /// We trust no key on the way to the zone.
    NoAnchor,
    /// The operator wants it so (RFC 7646).
    NegativeAnchor,
    /// The parent has proved that it has no DS.
    Unsigned,
    /// The parent leaves it out of its proofs (RFC 5155 §6).
    OptedOut,
    /// DS has algorithms that we do not know (RFC 4035 §5.2).
    UnknownAlgorithm,
    /// DS has digests that we do not know (RFC 6840 §5.2).
    UnknownDigest,
    /// NSEC3 has more iterations than we compute (RFC 9276 §3.2).
    TooManyIterations,
    /// It is a signature: nobody signs those (RFC 4035 §2.2).
    Signature,
}

impl Insecurity {
    /// Code and text for the client (RFC 8914 §4), where there is something that somebody may want to mend.
    pub fn ede(self) -> Option<(u16, &'static str)> {
        match self {
            Insecurity::UnknownAlgorithm => Some((1, "the zone's keys have unknown algorithms")),
            Insecurity::UnknownDigest => Some((2, "the parent has unknown digests of the zone's keys")),
            Insecurity::TooManyIterations => Some((27, "more NSEC3 iterations than are accepted")),
            Insecurity::NoAnchor
            | Insecurity::NegativeAnchor
            | Insecurity::Unsigned
            | Insecurity::OptedOut
            | Insecurity::Signature => None,
        }
    }
}

impl fmt::Display for Insecurity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Insecurity::NoAnchor => "there is no trust anchor for it",
            Insecurity::NegativeAnchor => "there is a negative trust anchor for it",
            Insecurity::Unsigned => "its parent has proved that it is not signed",
            Insecurity::OptedOut => "its parent leaves it out of its proofs",
            Insecurity::UnknownAlgorithm => "its keys have unknown algorithms",
            Insecurity::UnknownDigest => "its parent has unknown digests of its keys",
            Insecurity::TooManyIterations => "its proofs have more NSEC3 iterations than are accepted",
            Insecurity::Signature => "signatures are not signed",
        })
    }
}

/// The keys of a zone, as its parent or a trust anchor vouches for them.
#[derive(Clone, Debug)]
pub struct Keys {
    zone: Name,
    all: Vec<Key>,
    ttl: u32,
}

impl Keys {
    /// Whose they are.
    pub fn zone(&self) -> NameRef<'_> {
        self.zone.borrow()
    }

    /// Seconds that they may be kept.
    pub fn ttl(&self) -> u32 {
        self.ttl
    }

    /// What they take to keep.
    pub fn octets(&self) -> usize {
        self.all.iter().map(|key| size_of::<Key>() + key.public.len()).sum()
    }
}

/// What is known of a zone's keys.
#[derive(Clone, Debug)]
pub enum Trusted {
    /// They are right.
    Keys(Keys),
    /// They cannot be checked, and need not be.
    Insecure(Insecurity),
}

/// The keys of `zone`, if `dnskeys` is signed with one of them that is in `trusted`: the data of DS records (RFC 4035 §5.2).
///
/// # Errors
/// The zone is signed, and these are not its keys.
pub fn keys(
    zone: NameRef<'_>,
    dnskeys: &Set,
    trusted: &[impl AsRef<[u8]>],
    now: SystemTime,
    work: &mut Work,
) -> Result<Trusted, Bogus> {
    let trusted = match usable(trusted) {
        Ok(trusted) => trusted,
        Err(insecurity) => return Ok(Trusted::Insecure(insecurity)),
    };
    if dnskeys.rtype != Type::DNSKEY || dnskeys.owner.borrow() != zone {
        return Err(Bogus::Malformed);
    }
    let (mut entry, mut nearest) = (vec![], Bogus::NoTrustedKey);
    for dnskey in dnskeys.rdata() {
        let Some(key) = Key::of(dnskey) else { continue };
        for ds in trusted.iter().filter(|ds| ds.tag == key.tag && ds.algorithm == key.algorithm) {
            if !ds.is_of(zone, dnskey, work)? {
                continue;
            }
            match key.usability {
                Usability::Zone => {
                    entry.push(key);
                    break;
                }
                Usability::NotForZones => nearest = nearest.max(Bogus::NotAZoneKey),
                Usability::Revoked => nearest = nearest.max(Bogus::RevokedKey),
            }
        }
    }
    if entry.is_empty() {
        return Err(nearest);
    }
    let entry = Keys { zone: zone.to_name(), all: entry, ttl: 0 };
    let Signed { ttl, .. } = set(dnskeys, &entry, now, work)?;
    let all = dnskeys.rdata().filter_map(Key::of).filter(|key| key.usability == Usability::Zone);
    Ok(Trusted::Keys(Keys { zone: entry.zone, all: all.collect(), ttl }))
}

/// A set that its zone has signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signed {
    /// If a wildcard stands for the name, the labels of what is before the asterisk. Then it must be proved that nothing nearer exists:
    /// [`Claim::Expanded`].
    pub wildcard: Option<u8>,
    /// Seconds that it may be kept (RFC 4035 §5.3.3).
    pub ttl: u32,
}

/// Whether a set is signed with one of `keys`.
///
/// # Errors
/// It is not: of its signatures, why the one that was nearest to being right is not.
pub fn set(set: &Set, keys: &Keys, now: SystemTime, work: &mut Work) -> Result<Signed, Bogus> {
    let mut nearest = Bogus::NoSignature;
    for rrsig in &set.signatures {
        // One that is right is enough (RFC 6840 §5.4), whatever the others are.
        match check(set, rrsig, keys, now, work) {
            Err(Bogus::TooMuchWork) => return Err(Bogus::TooMuchWork),
            Err(reason) => nearest = nearest.max(reason),
            signed => return signed,
        }
    }
    Err(nearest)
}

/// The keys that DS records speak of, as far as we can tell.
///
/// # Errors
/// We know the algorithms of none: then the zone is as if it were not signed.
pub(super) fn usable(records: &[impl AsRef<[u8]>]) -> Result<Vec<Ds<'_>>, Insecurity> {
    let all: Vec<Ds<'_>> = records.iter().filter_map(|rdata| Ds::parse(rdata.as_ref())).collect();
    let mut usable: Vec<Ds<'_>> = all.iter().copied().filter(|ds| Algorithm::of(ds.algorithm).is_some()).collect();
    if usable.is_empty() {
        return Err(Insecurity::UnknownAlgorithm);
    }
    usable.retain(|ds| [SHA1, SHA256, SHA384].contains(&ds.digest_type));
    // RFC 4509 §3: SHA-1 does not count beside something better.
    if usable.iter().any(|ds| ds.digest_type != SHA1) {
        usable.retain(|ds| ds.digest_type != SHA1);
    }
    if usable.is_empty() { Err(Insecurity::UnknownDigest) } else { Ok(usable) }
}

/// What DS says about a key (RFC 4034 §5.1).
#[derive(Clone, Copy, Debug)]
pub(super) struct Ds<'d> {
    tag: u16,
    algorithm: u8,
    digest_type: u8,
    digest: &'d [u8],
}

impl<'d> Ds<'d> {
    fn parse(rdata: &'d [u8]) -> Option<Self> {
        let ([high, low, algorithm, digest_type], digest) = rdata.split_first_chunk()?;
        let tag = u16::from_be_bytes([*high, *low]);
        Some(Self { tag, algorithm: *algorithm, digest_type: *digest_type, digest })
    }

    /// Whether it is the digest of this key.
    fn is_of(&self, zone: NameRef<'_>, dnskey: &[u8], work: &mut Work) -> Result<bool, Bogus> {
        work.check()?;
        let algorithm = match self.digest_type {
            SHA1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            SHA256 => &digest::SHA256,
            SHA384 => &digest::SHA384,
            _ => return Ok(false),
        };
        let owner = zone.as_wire().to_ascii_lowercase();
        let is_of = digest::digest(algorithm, &[&owner[..], dnskey].concat()).as_ref() == self.digest;
        work.failures += u32::from(!is_of);
        Ok(is_of)
    }
}

/// Algorithms of signatures that we know (RFC 8624 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    RsaSha256,
    RsaSha512,
    EcdsaP256,
    EcdsaP384,
    Ed25519,
}

impl Algorithm {
    fn of(number: u8) -> Option<Self> {
        match number {
            8 => Some(Self::RsaSha256),
            10 => Some(Self::RsaSha512),
            13 => Some(Self::EcdsaP256),
            14 => Some(Self::EcdsaP384),
            15 => Some(Self::Ed25519),
            _ => None,
        }
    }
}

/// What a key may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Usability {
    Zone,
    NotForZones,
    Revoked,
}

/// A DNSKEY record with an algorithm that we know.
#[derive(Clone, Debug)]
struct Key {
    tag: u16,
    algorithm: u8,
    usability: Usability,
    public: Box<[u8]>,
}

impl Key {
    fn of(dnskey: &[u8]) -> Option<Self> {
        let ([high, low, protocol, algorithm], public) = dnskey.split_first_chunk()?;
        Algorithm::of(*algorithm)?;
        let flags = u16::from_be_bytes([*high, *low]);
        let usability = if flags & ZONE_KEY == 0 || *protocol != PROTOCOL {
            Usability::NotForZones
        } else if flags & REVOKED != 0 {
            Usability::Revoked
        } else {
            Usability::Zone
        };
        Some(Self { tag: key_tag(dnskey), algorithm: *algorithm, usability, public: public.into() })
    }

    fn has_signed(&self, data: &[u8], signature: &[u8]) -> bool {
        let rsa = |parameters| {
            let Some((e, n)) = rsa_numbers(&self.public) else { return false };
            signature::RsaPublicKeyComponents { n, e }.verify(parameters, data, signature).is_ok()
        };
        // RFC 6605 §4: the point comes without the octet that says that it is not compressed.
        let ecdsa = |algorithm| {
            let point = [&[4], &*self.public].concat();
            signature::UnparsedPublicKey::new(algorithm, point).verify(data, signature).is_ok()
        };
        match Algorithm::of(self.algorithm) {
            Some(Algorithm::RsaSha256) => rsa(&signature::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY),
            Some(Algorithm::RsaSha512) => rsa(&signature::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY),
            Some(Algorithm::EcdsaP256) => ecdsa(&signature::ECDSA_P256_SHA256_FIXED),
            Some(Algorithm::EcdsaP384) => ecdsa(&signature::ECDSA_P384_SHA384_FIXED),
            Some(Algorithm::Ed25519) => {
                signature::UnparsedPublicKey::new(&signature::ED25519, &self.public).verify(data, signature).is_ok()
            }
            None => false,
        }
    }
}

/// Exponent and modulus (RFC 3110 §2). `Deviates:` an exponent of more than 33 bits makes checks slow, and is taken for no key.
fn rsa_numbers(public: &[u8]) -> Option<(&[u8], &[u8])> {
    let (octets, rest) = match public.split_first()? {
        (0, rest) => {
            let (octets, rest) = rest.split_first_chunk()?;
            (u16::from_be_bytes(*octets), rest)
        }
        (octets, rest) => (u16::from(*octets), rest),
    };
    rest.split_at_checked(usize::from(octets))
}

/// RRSIG (RFC 4034 §3.1).
struct Rrsig<'r> {
    covers: Type,
    algorithm: u8,
    labels: u8,
    ttl: u32,
    expires: u32,
    begins: u32,
    tag: u16,
    signer: NameRef<'r>,
    signature: &'r [u8],
    /// What comes before the signer.
    fixed: &'r [u8; 18],
}

impl<'r> Rrsig<'r> {
    fn parse(rdata: &'r [u8]) -> Option<Self> {
        let (fixed, rest) = rdata.split_first_chunk::<18>()?;
        let signer = NameRef::parse(rest).ok()?;
        let short = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
        let long = |at: usize| u32::from(short(at)) << 16 | u32::from(short(at + 2));
        Some(Self {
            covers: Type(short(0)),
            algorithm: fixed[2],
            labels: fixed[3],
            ttl: long(4),
            expires: long(8),
            begins: long(12),
            tag: short(16),
            signer,
            signature: &rest[signer.as_wire().len()..],
            fixed,
        })
    }
}

/// Whether one signature is right (RFC 4035 §5.3).
fn check(set: &Set, rrsig: &[u8], keys: &Keys, now: SystemTime, work: &mut Work) -> Result<Signed, Bogus> {
    let rrsig = Rrsig::parse(rrsig).ok_or(Bogus::Malformed)?;
    let (zone, owner) = (keys.zone(), set.owner.borrow());
    // §5.3.1, in its order but for the times, which say more than a missing key.
    if rrsig.signer != zone || !owner.is_within(zone) {
        return Err(Bogus::OtherSigner);
    }
    // RFC 4034 §3.1.3: neither the root nor an asterisk at the beginning counts.
    let own_labels = owner.label_count() - usize::from(is_wildcard(owner));
    let labels = usize::from(rrsig.labels);
    // A wildcard of another zone cannot stand for names of this one.
    if rrsig.covers != set.rtype || labels > own_labels || labels < zone.label_count() {
        return Err(Bogus::Malformed);
    }
    Algorithm::of(rrsig.algorithm).ok_or(Bogus::UnknownAlgorithm)?;
    // RFC 4034 §3.1.5: times are serial numbers of 32 bits.
    let now = seconds(now);
    let since = |from: u32, to: u32| to.wrapping_sub(from).cast_signed();
    if since(rrsig.begins, rrsig.expires) < 0 {
        return Err(Bogus::ExpiredBeforeValid);
    }
    if since(rrsig.begins, now) < 0 {
        return Err(Bogus::NotYetValid);
    }
    let left = since(now, rrsig.expires);
    if left < 0 {
        return Err(Bogus::Expired);
    }
    // §5.3.2: as it stands in the zone.
    let data = || {
        let wildcard = || Suffixes::of(owner).suffix(labels).wildcard().ok();
        let made_by = if labels < own_labels { wildcard() } else { None };
        let owner = made_by.as_ref().map_or(owner, Name::borrow);
        let head = [&rrsig.fixed[..], &rrsig.signer.as_wire().to_ascii_lowercase()].concat();
        signed_data(&head, owner, set.rtype, rrsig.ttl, set.rdata())
    };
    let (mut signed, mut reason) = (None, Bogus::NoKey);
    // Keys can have the same tag by chance (RFC 4034 §5.1.1), and by intent.
    for key in keys.all.iter().filter(|key| key.tag == rrsig.tag && key.algorithm == rrsig.algorithm) {
        work.check()?;
        if work.is_signed(key, signed.get_or_insert_with(data), rrsig.signature) {
            let wildcard = (labels < own_labels).then_some(rrsig.labels);
            let ttl = set.ttl.min(rrsig.ttl).min(left.unsigned_abs());
            return Ok(Signed { wildcard, ttl });
        }
        work.failures += 1;
        reason = Bogus::WrongSignature;
    }
    Err(reason)
}

/// Who says that he has signed a set: of several, the one that is nearest to its owner. Whether it is true is not looked at.
pub fn signer(set: &Set) -> Option<NameRef<'_>> {
    let signers = set.signatures.iter().filter_map(|rrsig| Rrsig::parse(rrsig).map(|rrsig| rrsig.signer));
    signers.filter(|signer| set.owner.borrow().is_within(*signer)).max_by_key(|signer| signer.label_count())
}

fn is_wildcard(name: NameRef<'_>) -> bool {
    name.as_wire().starts_with(b"\x01*")
}

/// What is to be proved about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It does not exist, nor does a wildcard that stands for it.
    NoName,
    /// It, or the wildcard that stands for it, has no data of the type.
    NoData(Type),
    /// It does not exist, and no wildcard nearer than the one below this name with so many labels: [`Signed::wildcard`].
    Expanded(u8),
}

/// How well it is proved that something is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proved {
    /// For certain.
    Secure,
    /// There is no signed data; there may be a delegation without signatures (RFC 5155 §9.2: the answer is not authentic).
    OptOut,
    /// The proof is of the zone, but too dear to be looked at (RFC 9276 §3.2): the answer is as if it were not signed.
    TooManyIterations,
}

/// That something is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied {
    /// How well it is proved.
    pub proved: Proved,
    /// Seconds that it may be kept.
    pub ttl: u32,
}

/// Whether `denial` proves a claim about `name` in the zone that `keys` are of. Proofs of other zones count for nothing.
///
/// # Errors
/// It does not.
pub fn denial(
    denial: &Denial,
    name: NameRef<'_>,
    claim: Claim,
    keys: &Keys,
    now: SystemTime,
    work: &mut Work,
) -> Result<Denied, Bogus> {
    // The client gets it too. Where a zone begins is proved without it.
    let soa = denial.soa.as_ref().map(|soa| set(soa, keys, now, work)).transpose()?;
    let proofs = Proofs::of(&denial.proofs, name, keys, now, work)?;
    let proved = match &proofs.kind {
        Kind::TooDear => Proved::TooManyIterations,
        Kind::Nsec(gaps) => {
            gaps.prove(name, claim)?;
            Proved::Secure
        }
        Kind::Nsec3(gaps) => gaps.prove(name, claim, work)?,
    };
    Ok(Denied { proved, ttl: soa.map_or(proofs.ttl, |soa| soa.ttl.min(proofs.ttl)) })
}

/// What the proof that a name has no DS says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// A zone begins there, and is not signed.
    Unsigned,
    /// No zone begins there.
    None,
    /// The name does not exist, so nothing below it does.
    NoName,
    /// There may be a delegation without signatures, at it or below it.
    OptOut,
    /// The proof is too dear to be looked at.
    TooManyIterations,
}

/// What `denial` proves about a name without DS, in the zone above that `keys` are of (RFC 4035 §5.2, RFC 5155 §8.6 and §8.9), and
/// for how many seconds.
///
/// # Errors
/// It proves nothing.
pub fn cut(
    denial: &Denial,
    name: NameRef<'_>,
    keys: &Keys,
    now: SystemTime,
    work: &mut Work,
) -> Result<(Cut, u32), Bogus> {
    let proofs = Proofs::of(&denial.proofs, name, keys, now, work)?;
    let cut = match &proofs.kind {
        Kind::TooDear => Cut::TooManyIterations,
        Kind::Nsec(gaps) => gaps.cut(name)?,
        Kind::Nsec3(gaps) => gaps.cut(name, work)?,
    };
    Ok((cut, proofs.ttl))
}

/// Whether a set says that `zone` has signed it, and is in it: then it is worth being checked, and whatever is proved rests on such sets
/// only.
pub(super) fn is_signed_by(set: &Set, zone: NameRef<'_>) -> bool {
    set.owner.borrow().is_within(zone)
        && set.signatures.iter().any(|rrsig| Rrsig::parse(rrsig).is_some_and(|rrsig| rrsig.signer == zone))
}

/// Proofs whose signatures are right.
struct Proofs<'p> {
    kind: Kind<'p>,
    ttl: u32,
}

enum Kind<'p> {
    Nsec(Gaps<'p>),
    Nsec3(HashedGaps<'p>),
    TooDear,
}

impl<'p> Proofs<'p> {
    /// Checks all that the zone has signed. One wrong signature is enough to refuse the answer: the rest is handed to clients too.
    fn of(
        proofs: &'p [Arc<Set>],
        name: NameRef<'_>,
        keys: &'p Keys,
        now: SystemTime,
        work: &mut Work,
    ) -> Result<Self, Bogus> {
        let zone = keys.zone();
        if !name.is_within(zone) {
            return Err(Bogus::OtherSigner);
        }
        let mut ttl = u32::MAX;
        let (mut nsec, mut nsec3) = (vec![], vec![]);
        for proof in proofs.iter().filter(|proof| is_signed_by(proof, zone)) {
            let signed = set(proof, keys, now, work)?;
            // The gap of a wildcard, told again under a name that the wildcard stands for, would be another gap.
            if signed.wildcard.is_some() {
                return Err(Bogus::Malformed);
            }
            ttl = ttl.min(signed.ttl);
            match proof.rtype {
                Type::NSEC => nsec.extend(proof.rdata().filter_map(|rdata| Gap::parse(proof.owner.borrow(), rdata))),
                Type::NSEC3 => nsec3.extend(proof.rdata().filter_map(|rdata| HashedGap::parse(proof, zone, rdata))),
                _ => {}
            }
        }
        let kind = match nsec3.first() {
            _ if !nsec.is_empty() => Kind::Nsec(Gaps { zone, gaps: nsec }),
            None => return Err(Bogus::NoProof),
            Some(_) if nsec3.iter().any(|gap: &HashedGap<'_>| gap.iterations > ITERATIONS_MAX) => Kind::TooDear,
            Some(first) => {
                // RFC 5155 §8.2: all the same hash.
                if nsec3.iter().any(|gap| (gap.iterations, gap.salt) != (first.iterations, first.salt)) {
                    return Err(Bogus::Malformed);
                }
                Kind::Nsec3(HashedGaps { zone, hash: first.how(), gaps: nsec3 })
            }
        };
        Ok(Self { kind, ttl })
    }
}

/// The types that a name has, as a bit map (RFC 4034 §4.1.2).
#[derive(Clone, Copy)]
struct Types<'p>(&'p [u8]);

impl Types<'_> {
    fn has(self, rtype: Type) -> bool {
        let [window, bit] = rtype.0.to_be_bytes();
        let mut rest = self.0;
        while let [number, octets, behind @ ..] = rest {
            let Some((map, behind)) = behind.split_at_checked(usize::from(*octets)) else { return false };
            if *number == window {
                return map.get(usize::from(bit / 8)).is_some_and(|octet| octet & (0x80 >> (bit % 8)) != 0);
            }
            rest = behind;
        }
        false
    }

    /// Whether the zone is cut at the name: then the record is the parent's, and about nothing of the name but DS.
    fn is_cut(self) -> bool {
        self.has(Type::NS) && !self.has(Type::SOA)
    }

    /// Whether nothing below the name is in the zone (RFC 6840 §4.1, RFC 6672 §5.3.2).
    fn is_end(self) -> bool {
        self.is_cut() || self.has(Type::DNAME)
    }

    /// Whether the name has no data of a type, nor an alias that would stand for it.
    fn lack(self, name: NameRef<'_>, rtype: Type) -> bool {
        match rtype {
            Type::ANY => self.0.is_empty(),
            // RFC 6840 §4.1 and §4.4: DS is for the parent to deny, and the root has none.
            Type::DS => !self.has(Type::DS) && !self.has(Type::CNAME) && (!self.has(Type::SOA) || name.is_root()),
            _ => !self.has(rtype) && !self.has(Type::CNAME) && !self.is_cut(),
        }
    }

    /// What a name without DS is.
    fn cut(self) -> Result<Cut, Bogus> {
        if self.has(Type::DS) || self.has(Type::SOA) {
            return Err(Bogus::Contradicted);
        }
        Ok(if self.has(Type::NS) { Cut::Unsigned } else { Cut::None })
    }
}

/// An NSEC record.
#[derive(Clone, Copy)]
pub(super) struct Gap<'p> {
    pub(super) owner: NameRef<'p>,
    pub(super) next: NameRef<'p>,
    types: Types<'p>,
}

impl<'p> Gap<'p> {
    /// Reads the record's data.
    pub(super) fn parse(owner: NameRef<'p>, rdata: &'p [u8]) -> Option<Self> {
        let next = NameRef::parse(rdata).ok()?;
        Some(Self { owner, next, types: Types(&rdata[next.as_wire().len()..]) })
    }
}

/// NSEC records of a zone, whose signatures are right.
pub(super) struct Gaps<'p> {
    pub(super) zone: NameRef<'p>,
    pub(super) gaps: Vec<Gap<'p>>,
}

impl<'p> Gaps<'p> {
    fn at(&self, name: NameRef<'_>) -> Option<&Gap<'p>> {
        self.gaps.iter().find(|gap| gap.owner == name)
    }

    /// The gap that a name lies in. After the last name comes the zone's own again.
    fn around(&self, name: NameRef<'_>) -> Option<&Gap<'p>> {
        self.gaps.iter().find(|gap| {
            let is_behind = gap.owner.canonical_cmp(name).is_lt();
            let is_before = name.canonical_cmp(gap.next).is_lt() || gap.next == self.zone;
            is_behind && is_before && !(gap.types.is_end() && name.is_within(gap.owner))
        })
    }

    /// Whether a name exists only for names below it: then it lies in the gap before one of them.
    fn is_empty_non_terminal(&self, name: NameRef<'_>) -> bool {
        self.around(name).is_some_and(|gap| gap.next.is_within(name))
    }

    /// The labels of the closest encloser of a name that does not exist: of its ancestors that exist, the nearest. The names at
    /// both ends of the gap exist, and no others near it.
    pub(super) fn encloser(&self, name: NameRef<'_>) -> Result<usize, Bogus> {
        let gap = self.around(name).ok_or(Bogus::NoProof)?;
        if gap.next.is_within(name) {
            return Err(Bogus::Contradicted);
        }
        Ok(labels_in_common(name, gap.owner).max(labels_in_common(name, gap.next)))
    }

    /// Whether they prove a claim about `name`.
    pub(super) fn prove(&self, name: NameRef<'_>, claim: Claim) -> Result<(), Bogus> {
        let suffixes = Suffixes::of(name);
        let wildcard = |encloser: usize| suffixes.suffix(encloser).wildcard().map_err(|_| Bogus::NoProof);
        let is_proved = |is_proved: bool| if is_proved { Ok(()) } else { Err(Bogus::Contradicted) };
        match claim {
            // RFC 4035 §5.4: the name's gap, and the wildcard's.
            Claim::NoName => {
                let wildcard = wildcard(self.encloser(name)?)?;
                self.encloser(wildcard.borrow()).map(|_| ())
            }
            Claim::NoData(rtype) => {
                if let Some(gap) = self.at(name) {
                    return is_proved(gap.types.lack(name, rtype));
                }
                if self.is_empty_non_terminal(name) {
                    return Ok(());
                }
                let wildcard = wildcard(self.encloser(name)?)?;
                match self.at(wildcard.borrow()) {
                    Some(gap) => is_proved(gap.types.lack(wildcard.borrow(), rtype)),
                    None if self.is_empty_non_terminal(wildcard.borrow()) => Ok(()),
                    None => Err(Bogus::NoProof),
                }
            }
            // RFC 4035 §5.3.4.
            Claim::Expanded(encloser) => is_proved(self.encloser(name)? == usize::from(encloser)),
        }
    }

    fn cut(&self, name: NameRef<'_>) -> Result<Cut, Bogus> {
        match self.at(name) {
            Some(gap) => gap.types.cut(),
            None if self.is_empty_non_terminal(name) => Ok(Cut::None),
            None => self.encloser(name).map(|_| Cut::NoName),
        }
    }
}

fn labels_in_common(one: NameRef<'_>, other: NameRef<'_>) -> usize {
    let (one, other) = (Suffixes::of(one), Suffixes::of(other));
    let shorter = one.count().min(other.count());
    (0..=shorter).rev().find(|labels| one.suffix(*labels) == other.suffix(*labels)).unwrap_or(0)
}

/// An NSEC3 record.
#[derive(Clone, Copy)]
pub(super) struct HashedGap<'p> {
    pub(super) hash: Hash,
    pub(super) next: Hash,
    flags: u8,
    iterations: u16,
    salt: &'p [u8],
    types: Types<'p>,
}

impl<'p> HashedGap<'p> {
    /// `None` for a record that is to be ignored.
    pub(super) fn parse(set: &'p Set, zone: NameRef<'_>, rdata: &'p [u8]) -> Option<Self> {
        let owner = set.owner.borrow();
        // RFC 5155 §3: the hash is the only label below the zone.
        let hash = hash_in_label(owner).filter(|_| owner.parent() == Some(zone))?;
        let ([algorithm, flags, high, low, octets], rest) = rdata.split_first_chunk::<5>()?;
        // RFC 5155 §8.1 and §8.2: other hashes and other flags are unknown.
        if *algorithm != 1 || flags & !OPT_OUT != 0 {
            return None;
        }
        let (salt, rest) = rest.split_at_checked(usize::from(*octets))?;
        let (octets, rest) = rest.split_first()?;
        let (next, types) = rest.split_first_chunk::<20>().filter(|_| *octets == 20)?;
        let iterations = u16::from_be_bytes([*high, *low]);
        Some(Self { hash, next: *next, flags: *flags, iterations, salt, types: Types(types) })
    }

    /// How its names are hashed.
    pub(super) fn how(&self) -> Nsec3Hash {
        Nsec3Hash { iterations: self.iterations, salt: self.salt.to_vec() }
    }

    /// Whether a hash lies in the gap. The last gap goes on before the first hash.
    fn is_around(&self, hash: Hash) -> bool {
        if self.hash < self.next { self.hash < hash && hash < self.next } else { hash > self.hash || hash < self.next }
    }

    fn opts_out(&self) -> bool {
        self.flags & OPT_OUT != 0
    }
}

/// NSEC3 records of a zone, of one chain, whose signatures are right.
pub(super) struct HashedGaps<'p> {
    pub(super) zone: NameRef<'p>,
    pub(super) hash: Nsec3Hash,
    pub(super) gaps: Vec<HashedGap<'p>>,
}

/// How much of a name exists (RFC 5155 §8.3).
enum Exists<'g, 'p> {
    /// All of it.
    Whole(&'g HashedGap<'p>),
    /// The closest encloser, with so many labels; the name below it lies in this gap.
    Encloser(usize, &'g HashedGap<'p>),
}

impl<'p> HashedGaps<'p> {
    fn hash(&self, name: NameRef<'_>, work: &mut Work) -> Result<Hash, Bogus> {
        work.hash(&self.hash)?;
        Ok(self.hash.hash(name))
    }

    fn at(&self, hash: Hash) -> Option<&HashedGap<'p>> {
        self.gaps.iter().find(|gap| gap.hash == hash)
    }

    fn around(&self, hash: Hash) -> Result<&HashedGap<'p>, Bogus> {
        self.gaps.iter().find(|gap| gap.is_around(hash)).ok_or(Bogus::NoProof)
    }

    fn exists(&self, name: NameRef<'_>, work: &mut Work) -> Result<Exists<'_, 'p>, Bogus> {
        let suffixes = Suffixes::of(name);
        let mut below = None;
        for labels in (self.zone.label_count()..=suffixes.count()).rev() {
            let hash = self.hash(suffixes.suffix(labels), work)?;
            match (self.at(hash), below) {
                (None, _) => below = Some(hash),
                (Some(gap), None) => return Ok(Exists::Whole(gap)),
                (Some(gap), Some(_)) if gap.types.is_end() => return Err(Bogus::NoProof),
                (Some(_), Some(below)) => return Ok(Exists::Encloser(labels, self.around(below)?)),
            }
        }
        Err(Bogus::NoProof)
    }

    /// How well they prove a claim about `name`.
    pub(super) fn prove(&self, name: NameRef<'_>, claim: Claim, work: &mut Work) -> Result<Proved, Bogus> {
        let suffixes = Suffixes::of(name);
        let wildcard = |encloser: usize| suffixes.suffix(encloser).wildcard().map_err(|_| Bogus::NoProof);
        let by = |gap: &HashedGap<'_>| if gap.opts_out() { Proved::OptOut } else { Proved::Secure };
        if let Claim::Expanded(encloser) = claim {
            // RFC 5155 §8.8: the wildcard's signature shows the encloser.
            let next_closer = usize::from(encloser) + 1;
            if next_closer > suffixes.count() {
                return Err(Bogus::Contradicted);
            }
            let hash = self.hash(suffixes.suffix(next_closer), work)?;
            return self.around(hash).map(by);
        }
        match (self.exists(name, work)?, claim) {
            // §8.4: the encloser, the gap below it, and that of the wildcard.
            (Exists::Encloser(labels, gap), Claim::NoName) => {
                let hash = self.hash(wildcard(labels)?.borrow(), work)?;
                self.around(hash).map(|_| by(gap))
            }
            // §8.5.
            (Exists::Whole(gap), Claim::NoData(rtype)) if gap.types.lack(name, rtype) => Ok(Proved::Secure),
            // §8.6, and for other types too: a name that exists only for delegations that are left out is left out as well
            // (RFC 5155, erratum 3441).
            (Exists::Encloser(_, gap), Claim::NoData(_)) if gap.opts_out() => Ok(Proved::OptOut),
            // §8.7.
            (Exists::Encloser(labels, _), Claim::NoData(rtype)) => {
                let wildcard = wildcard(labels)?;
                let hash = self.hash(wildcard.borrow(), work)?;
                let gap = self.at(hash).ok_or(Bogus::NoProof)?;
                if gap.types.lack(wildcard.borrow(), rtype) { Ok(Proved::Secure) } else { Err(Bogus::Contradicted) }
            }
            (Exists::Whole(_), _) | (_, Claim::Expanded(_)) => Err(Bogus::Contradicted),
        }
    }

    fn cut(&self, name: NameRef<'_>, work: &mut Work) -> Result<Cut, Bogus> {
        match self.exists(name, work)? {
            // §8.9.
            Exists::Whole(gap) => gap.types.cut(),
            Exists::Encloser(_, gap) if gap.opts_out() => Ok(Cut::OptOut),
            Exists::Encloser(..) => Ok(Cut::NoName),
        }
    }
}

#[cfg(test)]
mod answers;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{rdata, record::Record, sign, zonefile};
    use std::{path::Path, time::Duration};

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn records(text: &str) -> Vec<Record> {
        zonefile::records(Path::new("test"), text.as_bytes()).unwrap()
    }

    /// A set with its signatures.
    fn find(records: &[Record], owner: &str, rtype: Type) -> Set {
        let at_owner = || records.iter().filter(|record| record.owner == name(owner));
        let mut set = Set::of(&at_owner().filter(|record| record.rtype == rtype).collect::<Vec<_>>()).unwrap();
        let covers = |it: &&Record| it.rtype == Type::RRSIG && it.rdata.starts_with(&rtype.0.to_be_bytes());
        set.signatures = at_owner().filter(covers).map(|it| it.rdata.clone().into()).collect();
        set
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// In November 2026.
    const NOW: u64 = 1_795_000_000;
    /// 2026-01-01 and 2040-01-01, midnight: when the signatures begin and end.
    const BEGIN: u64 = 1_767_225_600;
    const END: u64 = 2_208_988_800;

    fn zones() -> Vec<Record> {
        records(include_str!("../../tests/zones/algorithms.zone"))
    }

    fn ds_of(records: &[Record], zone: &str, digest_type: u8) -> Vec<Vec<u8>> {
        let all = records.iter().filter(|it| it.rtype == Type::DS && it.owner == name(zone));
        all.filter(|it| it.rdata[3] == digest_type).map(|it| it.rdata.clone()).collect()
    }

    fn keys_of(records: &[Record], zone: &str) -> Keys {
        let (dnskeys, ds) = (find(records, zone, Type::DNSKEY), ds_of(records, zone, SHA256));
        match keys(name(zone).borrow(), &dnskeys, &ds, at(NOW), &mut Work::default()) {
            Ok(Trusted::Keys(keys)) => keys,
            other => panic!("{zone}: {other:?}"),
        }
    }

    fn with(set: &Set, change: impl FnOnce(&mut Set)) -> Set {
        let mut set = set.clone();
        change(&mut set);
        set
    }

    fn renamed(set: &Set, owner: &str) -> Set {
        with(set, |set| set.owner = name(owner))
    }

    #[test]
    fn signatures_of_every_algorithm_are_right_or_wrong() {
        let records = zones();
        for algorithm in [8, 10, 13, 14, 15] {
            let zone = format!("alg{algorithm}.test");
            let keys = keys_of(&records, &zone);
            let check = |it: &Set| set(it, &keys, at(NOW), &mut Work::default());
            let www = find(&records, &format!("www.{zone}"), Type::A);
            assert_eq!(check(&www), Ok(Signed { wildcard: None, ttl: 3600 }), "{zone}");
            assert_eq!(check(&renamed(&www, &format!("WWW.ALG{algorithm}.test"))), check(&www), "{zone}");
            assert_eq!(check(&renamed(&www, &format!("ftp.{zone}"))), Err(Bogus::WrongSignature), "{zone}");
            let wild = find(&records, &format!("*.wild.{zone}"), Type::TXT);
            assert_eq!(check(&wild), Ok(Signed { wildcard: None, ttl: 3600 }), "{zone}");
            let expanded = Ok(Signed { wildcard: Some(3), ttl: 3600 });
            assert_eq!(check(&renamed(&wild, &format!("a.wild.{zone}"))), expanded, "{zone}");
            assert_eq!(check(&renamed(&wild, &format!("b.a.wild.{zone}"))), expanded, "{zone}");
            assert_eq!(check(&renamed(&wild, &format!("wild.{zone}"))), Err(Bogus::WrongSignature), "{zone}");
            assert_eq!(check(&renamed(&wild, &zone)), Err(Bogus::Malformed), "{zone}");
            assert_eq!(check(&renamed(&wild, "a.wild.test")), Err(Bogus::OtherSigner), "{zone}");
            let octets = www.signatures[0].len();
            for octet in (0..octets).step_by(if algorithm < 13 { 7 } else { 1 }) {
                let mut changed = www.clone();
                changed.signatures[0][octet] ^= 1;
                assert!(check(&changed).is_err(), "{zone} {octet}");
                // One that is right is enough.
                changed.signatures.push(www.signatures[0].clone());
                assert_eq!(check(&changed), check(&www), "{zone} {octet}");
            }
            for octets in 0..octets {
                let mut short = www.clone();
                short.signatures[0] = short.signatures[0][..octets].into();
                assert!(check(&short).is_err(), "{zone} {octets}");
            }
        }
    }

    #[test]
    fn a_zone_with_unknown_algorithms_or_digests_is_insecure() {
        let records = zones();
        let state = |zone: &str, ds: &[Vec<u8>]| {
            let dnskeys = find(&records, zone, Type::DNSKEY);
            keys(name(zone).borrow(), &dnskeys, ds, at(NOW), &mut Work::default()).map(|trusted| match trusted {
                Trusted::Keys(keys) => {
                    assert!(keys.octets() > 0 && keys.ttl() == 3600);
                    None
                }
                Trusted::Insecure(because) => Some(because),
            })
        };
        // RFC 9905 §2; Ed448 is one that we have not.
        for zone in ["alg5.test", "alg7.test", "alg16.test"] {
            let want = Ok(Some(Insecurity::UnknownAlgorithm));
            assert_eq!(state(zone, &ds_of(&records, zone, SHA256)), want, "{zone}");
        }
        let [sha1, sha256, sha384] =
            [SHA1, SHA256, SHA384].map(|digest| ds_of(&records, "alg13.test", digest).remove(0));
        let with = |ds: &[u8], at: usize, octet: u8| {
            let mut ds = ds.to_vec();
            ds[at] = octet;
            ds
        };
        let wrong = with(&sha256, 10, sha256[10] ^ 1);
        let (unknown_digest, unknown_algorithm) = (with(&sha256, 3, 3), with(&sha256, 2, 17));
        for (ds, want) in [
            (vec![&sha1], Ok(None)),
            (vec![&sha256], Ok(None)),
            (vec![&sha384], Ok(None)),
            (vec![&wrong, &sha256], Ok(None)),
            (vec![&wrong], Err(Bogus::NoTrustedKey)),
            // RFC 4509 §3.
            (vec![&sha1, &wrong], Err(Bogus::NoTrustedKey)),
            (vec![&sha1, &unknown_digest], Ok(None)),
            (vec![&unknown_digest], Ok(Some(Insecurity::UnknownDigest))),
            (vec![&unknown_algorithm], Ok(Some(Insecurity::UnknownAlgorithm))),
            (vec![&unknown_algorithm, &unknown_digest], Ok(Some(Insecurity::UnknownDigest))),
            (vec![&unknown_algorithm, &wrong], Err(Bogus::NoTrustedKey)),
            (vec![], Ok(Some(Insecurity::UnknownAlgorithm))),
        ] {
            let ds: Vec<Vec<u8>> = ds.into_iter().cloned().collect();
            assert_eq!(state("alg13.test", &ds), want, "{ds:?}");
        }
    }

    #[test]
    fn the_keys_of_a_zone_are_signed_by_one_that_is_trusted() {
        let records = zones();
        let (zone, dnskeys) = (name("alg13.test"), find(&records, "alg13.test", Type::DNSKEY));
        let original = dnskeys.rdata().next().unwrap().to_vec();
        // What comes of a key whose octets are changed, and to which the parent's DS fits.
        let changed = |change: fn(&mut [u8])| {
            let mut record = records.iter().find(|it| it.rdata == original).unwrap().clone();
            change(&mut record.rdata);
            let mut set = Set::of(&[&record]).unwrap();
            set.signatures.clone_from(&dnskeys.signatures);
            let ds = [sign::ds(zone.borrow(), &record.rdata)];
            keys(zone.borrow(), &set, &ds, at(NOW), &mut Work::default()).map(|_| ())
        };
        assert_eq!(changed(|_| {}), Ok(()));
        assert_eq!(changed(|key| key[0] = 0), Err(Bogus::NotAZoneKey));
        assert_eq!(changed(|key| key[2] = 2), Err(Bogus::NotAZoneKey));
        assert_eq!(changed(|key| key[1] |= 0x80), Err(Bogus::RevokedKey));
        // The signature's tag is that of the original.
        assert_eq!(changed(|key| key[9] ^= 1), Err(Bogus::NoKey));
        // The same tag: two words have changed places.
        assert_eq!(changed(|key| key[8..12].rotate_left(2)), Err(Bogus::WrongSignature));
        let unsigned = with(&dnskeys, |set| set.signatures.clear());
        let ds = ds_of(&records, "alg13.test", SHA256);
        let state =
            |zone: &str, set: &Set| keys(name(zone).borrow(), set, &ds, at(NOW), &mut Work::default()).map(|_| ());
        assert_eq!(state("alg13.test", &unsigned), Err(Bogus::NoSignature));
        assert_eq!(state("test", &dnskeys), Err(Bogus::Malformed));
    }

    #[test]
    fn signatures_have_their_time() {
        let records = zones();
        let (keys, www) = (keys_of(&records, "alg13.test"), find(&records, "www.alg13.test", Type::A));
        for (now, want) in [
            (BEGIN - 1, Err(Bogus::NotYetValid)),
            (BEGIN, Ok(3600)),
            (END - 3601, Ok(3600)),
            (END - 10, Ok(10)),
            (END, Ok(0)),
            (END + 1, Err(Bogus::Expired)),
        ] {
            assert_eq!(set(&www, &keys, at(now), &mut Work::default()).map(|signed| signed.ttl), want, "{now}");
        }
        let mut backwards = www.clone();
        backwards.signatures[0][8] = 1;
        assert_eq!(set(&backwards, &keys, at(NOW), &mut Work::default()), Err(Bogus::ExpiredBeforeValid));
        // RFC 4035 §5.3.3: the TTL that was signed is the most; a cache on the way may have counted down.
        for (came, want) in [(9, 9), (7200, 3600)] {
            let set = with(&www, |set| set.ttl = came);
            assert_eq!(super::set(&set, &keys, at(NOW), &mut Work::default()).map(|signed| signed.ttl), Ok(want));
        }
    }

    #[test]
    fn signatures_are_good_over_the_end_of_32_bits() {
        let dir = tempfile::tempdir().unwrap();
        let zone = name("example");
        let signer = sign::Signer::open(zone.borrow(), dir.path(), dir.path()).unwrap();
        let text = "$TTL 1h\n@ SOA ns host 7 1h 15m 1w 5m\n@ NS ns\nns A 192.0.2.1\n";
        let content = zonefile::read(zone.borrow(), Path::new("test"), text.as_bytes(), None, zonefile::Rewrite::None);
        let begin = 1_u64 << 32;
        let zone_signed = signer.sign(&content.unwrap().zone, None, at(begin), 8).unwrap();
        let records: Vec<Record> = zone_signed
            .in_order()
            .flat_map(|node| {
                node.sets().flat_map(move |set| {
                    set.records().map(move |rdata| Record {
                        owner: node.name().to_name(),
                        rtype: set.rtype,
                        class: rdata::Class::IN,
                        ttl: set.ttl,
                        rdata: rdata.to_vec(),
                    })
                })
            })
            .collect();
        let dnskeys = find(&records, "example", Type::DNSKEY);
        let day = 86_400;
        for (now, want) in [
            (begin - 3601, Err(Bogus::NotYetValid)),
            (begin - 1, Ok(())),
            (begin + 14 * day, Ok(())),
            (begin + 15 * day, Err(Bogus::Expired)),
        ] {
            let state = keys(zone.borrow(), &dnskeys, &[signer.ds()], at(now), &mut Work::default());
            assert_eq!(state.map(|_| ()), want, "{now}");
        }
    }

    /// RFC 6605 §6 and RFC 8080 §6.
    #[test]
    fn examples_of_the_rfcs_are_right() {
        for (zone, owner, rtype, now, text) in [
            (
                "example.net",
                "www.example.net",
                Type::A,
                1_283_000_000,
                "$TTL 3600
example.net. IN DNSKEY 257 3 13 GojIhhXUN/u4v54ZQqGSnyhWJwaubCvTmeexv7bR6edbkrSqQpF64cYbcB7wNcP+e+MAnLr+Wi9xMWyQLc8NAA==
example.net. IN DS 55648 13 2 b4c8c1fe2e7477127b27115656ad6256f424625bf5c1e2770ce6d6e37df61d17
www.example.net. IN A 192.0.2.1
www.example.net. IN RRSIG A 13 3 3600 20100909100439 20100812100439 55648 example.net. qx6wLYqmh+l9oCKTN6qIc+bw6ya+KJ8oMz0YP107epXAyGmt+3SNruPFKG7tZoLBLlUzGGus7ZwmwWep666VCw==
",
            ),
            (
                "example.net",
                "www.example.net",
                Type::A,
                1_283_000_000,
                "$TTL 3600
example.net. IN DNSKEY 257 3 14 xKYaNhWdGOfJ+nPrL8/arkwf2EY3MDJ+SErKivBVSum1w/egsXvSADtNJhyem5RCOpgQ6K8X1DRSEkrbYQ+OB+v8/uX45NBwY8rp65F6Glur8I/mlVNgF6W/qTI37m40
example.net. IN DS 10771 14 4 72d7b62976ce06438e9c0bf319013cf801f09ecc84b8d7e9495f27e305c6a9b0563a9b5f4d288405c3008a946df983d6
www.example.net. IN A 192.0.2.1
www.example.net. IN RRSIG A 14 3 3600 20100909102025 20100812102025 10771 example.net. /L5hDKIvGDyI1fcARX3z65qrmPsVz73QD1Mr5CEqOiLP95hxQouuroGCeZOvzFaxsT8Glr74hbavRKayJNuydCuzWTSSPdz7wnqXL5bdcJzusdnI0RSMROxxwGipWcJm
",
            ),
            (
                "example.com",
                "example.com",
                Type::MX,
                1_439_000_000,
                "$TTL 3600
example.com. IN DNSKEY 257 3 15 l02Woi0iS8Aa25FQkUd9RMzZHJpBoRQwAQEX1SxZJA4=
example.com. IN DS 3613 15 2 3aa5ab37efce57f737fc1627013fee07bdf241bd10f3b1964ab55c78e79a304b
example.com. IN MX 10 mail.example.com.
example.com. IN RRSIG MX 15 2 3600 1440021600 1438207200 3613 example.com. oL9krJun7xfBOIWcGHi7mag5/hdZrKWw15jPGrHpjQeRAvTdszaPD+QLs3fx8A4M3e23mRZ9VrbpMngwcrqNAg==
",
            ),
        ] {
            let records = records(text);
            let dnskey = find(&records, zone, Type::DNSKEY).rdata().next().unwrap().to_vec();
            let ds = find(&records, zone, Type::DS).rdata().next().unwrap().to_vec();
            let ds = Ds::parse(&ds).unwrap();
            let zone = name(zone);
            assert!(ds.is_of(zone.borrow(), &dnskey, &mut Work::default()).unwrap(), "{ds:?}");
            let key = Key::of(&dnskey).unwrap();
            assert_eq!(key.tag, ds.tag);
            let keys = Keys { zone, all: vec![key], ttl: 0 };
            let signed = set(&find(&records, owner, rtype), &keys, at(now), &mut Work::default());
            assert_eq!(signed, Ok(Signed { wildcard: None, ttl: 3600 }));
        }
    }

    #[test]
    fn keys_and_signatures_that_make_work_are_given_up() {
        let records = zones();
        let mut keys = keys_of(&records, "alg13.test");
        let www = find(&records, "www.alg13.test", Type::A);
        let good = keys.all[0].clone();
        let wrong = Key { public: good.public.iter().rev().copied().collect(), ..good.clone() };
        // Few others with the same tag do no harm.
        keys.all = vec![wrong.clone(), wrong.clone(), good.clone()];
        let mut work = Work::default();
        assert!(set(&www, &keys, at(NOW), &mut work).is_ok());
        assert_eq!(work.checks(), 3);
        // KeyTrap: many keys, many signatures.
        keys.all = vec![wrong; 300];
        keys.all.push(good.clone());
        let many = with(&www, |set| set.signatures = vec![set.signatures[0].clone(); 300]);
        let mut work = Work::default();
        assert_eq!(set(&many, &keys, at(NOW), &mut work), Err(Bogus::TooMuchWork));
        assert!(work.failures <= FAILURES_MAX);
        // And whoever has gone so far is not believed in what is right.
        keys.all = vec![good];
        assert_eq!(set(&www, &keys, at(NOW), &mut work), Err(Bogus::TooMuchWork));
        let mut work = Work::default();
        for _ in 0..CHECKS_MAX {
            assert!(set(&www, &keys, at(NOW), &mut work).is_ok());
        }
        assert_eq!(set(&www, &keys, at(NOW), &mut work), Err(Bogus::TooMuchWork));
    }

    #[test]
    fn hashes_of_names_that_make_work_are_given_up() {
        let none = [0; 20];
        let gap = HashedGap { hash: none, next: none, flags: 0, iterations: 100, salt: &[], types: Types(&[]) };
        let zone = name("example");
        for (iterations, labels, gives_up) in [(100, 5, false), (100, 60, true), (0, 120, false), (50, 120, true)] {
            let hash = Nsec3Hash { iterations, salt: vec![] };
            let gaps = HashedGaps { zone: zone.borrow(), hash, gaps: vec![gap] };
            let mut work = Work::default();
            let result = gaps.prove(name(&("a.".repeat(labels) + "example")).borrow(), Claim::NoName, &mut work);
            let want = if gives_up { Bogus::TooMuchWork } else { Bogus::NoProof };
            assert_eq!(result, Err(want), "{iterations} {labels}");
            assert!(work.hashes() <= HASHES_MAX + 101);
        }
    }

    /// What NSEC records of the zone `example` prove about a name: each is `owner next types..`.
    fn proved(gaps: &[&str], claim: &str) -> String {
        let parsed: Vec<(Name, Name, Vec<u8>)> = gaps
            .iter()
            .map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                let mut types: Vec<u16> = words[2..].iter().map(|word| word.parse::<Type>().unwrap().0).collect();
                (name(words[0]), name(words[1]), rdata::type_bitmap(&mut types))
            })
            .collect();
        let gaps = parsed.iter().map(|(owner, next, types)| Gap {
            owner: owner.borrow(),
            next: next.borrow(),
            types: Types(types),
        });
        let zone = name("example");
        let gaps = Gaps { zone: zone.borrow(), gaps: gaps.collect() };
        let (about, what) = claim.split_once(' ').unwrap();
        let about = name(about);
        let told = |result: Result<(), Bogus>| result.map_or_else(|bogus| format!("{bogus:?}"), |()| "yes".to_owned());
        match what {
            "none" => told(gaps.prove(about.borrow(), Claim::NoName)),
            "cut" => gaps.cut(about.borrow()).map_or_else(|bogus| format!("{bogus:?}"), |cut| format!("{cut:?}")),
            encloser if encloser.parse::<u8>().is_ok() => {
                told(gaps.prove(about.borrow(), Claim::Expanded(encloser.parse().unwrap())))
            }
            rtype => told(gaps.prove(about.borrow(), Claim::NoData(rtype.parse().unwrap()))),
        }
    }

    #[test]
    fn gaps_prove_what_they_are_about_and_nothing_else() {
        let apex = "example b.example NS SOA RRSIG NSEC DNSKEY";
        let cut = "b.example d.example NS RRSIG NSEC";
        let safe = "b.example d.example NS DS RRSIG NSEC";
        let dname = "b.example d.example DNAME RRSIG NSEC";
        let wild = "*.example b.example TXT RRSIG NSEC";
        let alias = "d.example x.f.example CNAME RRSIG NSEC";
        let last = "x.f.example example A RRSIG NSEC";
        for (gaps, claim, want) in [
            // RFC 4035 §5.4: a name that does not exist, and the wildcard.
            (&[apex, dname][..], "c.example none", "yes"),
            (&[dname], "c.example none", "NoProof"),
            (&[apex], "c.example none", "NoProof"),
            (&[wild, dname], "c.example none", "NoProof"),
            (&[apex, last], "z.example none", "yes"),
            (&[last], "a.x.f.example none", "yes"),
            (&[apex, alias], "x.e.example none", "yes"),
            // Names that exist, also only for those below them.
            (&[apex, alias], "f.example none", "Contradicted"),
            (&[apex, alias], "d.example none", "NoProof"),
            (&[apex, alias], "x.f.example none", "NoProof"),
            (&["example x.*.example SOA", alias], "e.example none", "Contradicted"),
            // RFC 6840 §4.1: who gives a zone away says nothing about what is in it; nor is there anything below a DNAME.
            (&[apex, cut], "a.b.example none", "NoProof"),
            (&[apex, safe], "a.b.example A", "NoProof"),
            (&[apex, dname], "a.b.example none", "NoProof"),
            (&[apex, cut], "c.example none", "yes"),
            (&[cut], "b.example A", "Contradicted"),
            (&[cut], "b.example NS", "Contradicted"),
            (&[cut], "b.example DS", "yes"),
            (&[safe], "b.example DS", "Contradicted"),
            // DS is the parent's to deny.
            (&[apex], "example DS", "Contradicted"),
            (&[apex], "example A", "yes"),
            (&[apex], "example SOA", "Contradicted"),
            // RFC 6840 §4.3: an alias stands for all types.
            (&[alias], "d.example A", "Contradicted"),
            (&[alias], "d.example CNAME", "Contradicted"),
            // RFC 4592 §2.2.2: empty non-terminals.
            (&[alias], "f.example A", "yes"),
            (&[alias], "e.example A", "NoProof"),
            // RFC 4035 §3.1.3.4: the type is not at the wildcard.
            (&[wild, dname], "c.example A", "yes"),
            (&[wild, dname], "c.example TXT", "Contradicted"),
            (&[wild], "c.example A", "NoProof"),
            (&[dname], "c.example A", "NoProof"),
            (&["example x.*.example SOA", alias], "e.example A", "yes"),
            // RFC 4035 §3.1.3.3: no nearer wildcard.
            (&[dname], "c.example 1", "yes"),
            (&[dname], "x.c.example 1", "yes"),
            (&[last], "a.x.f.example 1", "Contradicted"),
            (&[last], "b.f.example 1", "NoProof"),
            (&["a.f.example x.f.example A"], "b.f.example 1", "Contradicted"),
            (&["a.f.example x.f.example A"], "b.f.example 2", "yes"),
            // Where zones begin.
            (&[cut], "b.example cut", "Unsigned"),
            (&[safe], "b.example cut", "Contradicted"),
            (&[apex], "example cut", "Contradicted"),
            (&[alias], "d.example cut", "None"),
            (&[alias], "f.example cut", "None"),
            (&[alias], "e.example cut", "NoName"),
            (&[cut], "c.b.example cut", "NoProof"),
            (&[apex], "c.example cut", "NoProof"),
        ] {
            assert_eq!(proved(gaps, claim), want, "{claim} by {gaps:?}");
        }
        // The root has no DS, and its own NSEC says so.
        let mut types = [Type::NS.0, Type::SOA.0];
        assert!(Types(&rdata::type_bitmap(&mut types)).lack(NameRef::ROOT, Type::DS));
    }

    #[test]
    fn more_iterations_than_are_accepted_make_an_answer_insecure() {
        let records = zones();
        let (zone, sub) = (name("dear.test"), name("sub.dear.test"));
        let dnskeys = find(&records, "dear.test", Type::DNSKEY);
        let ds: Vec<Vec<u8>> = dnskeys.rdata().map(|dnskey| sign::ds(zone.borrow(), dnskey)).collect();
        let Ok(Trusted::Keys(keys)) = keys(zone.borrow(), &dnskeys, &ds, at(NOW), &mut Work::default()) else {
            panic!("dear.test has keys")
        };
        for (iterations, proved, delegated, hashes) in
            [(100, Proved::Secure, Cut::Unsigned, 3 * 101), (101, Proved::TooManyIterations, Cut::TooManyIterations, 0)]
        {
            let owners = records.iter().filter(|it| it.rtype == Type::NSEC3 && it.rdata[3] == iterations);
            let proofs: Vec<Arc<Set>> =
                owners.map(|it| Arc::new(find(&records, &it.owner.to_string(), Type::NSEC3))).collect();
            assert_eq!(proofs.len(), 3);
            let all = Denial { soa: None, proofs };
            let nobody = name("nobody.dear.test");
            let mut work = Work::default();
            let denied = denial(&all, nobody.borrow(), Claim::NoName, &keys, at(NOW), &mut work);
            assert_eq!(denied.map(|denied| denied.proved), Ok(proved), "{iterations}");
            assert_eq!(work.hashes(), hashes);
            let found = cut(&all, sub.borrow(), &keys, at(NOW), &mut Work::default());
            assert_eq!(found, Ok((delegated, 300)), "{iterations}");
            // RFC 9276 §3.2: only if the proof is the zone's.
            let mut forged = all.clone();
            Arc::make_mut(&mut forged.proofs[0]).signatures[0][40] ^= 1;
            let denied = denial(&forged, nobody.borrow(), Claim::NoName, &keys, at(NOW), &mut Work::default());
            assert_eq!(denied, Err(Bogus::WrongSignature), "{iterations}");
        }
    }

    #[test]
    fn bit_maps_may_be_cut_off() {
        let map = rdata::type_bitmap(&mut [1, 46, 257]);
        for octets in 0..=map.len() {
            let types = Types(&map[..octets]);
            assert_eq!(types.has(Type(257)), octets == map.len(), "{octets}");
            assert!(!types.has(Type::MX));
        }
        assert!(Types(&map).has(Type::A) && Types(&map).has(Type::RRSIG));
    }

    #[test]
    fn a_proof_under_a_name_that_a_wildcard_stands_for_is_none() {
        let records = zones();
        let keys = keys_of(&records, "alg13.test");
        // The signature of a wildcard's set is right under any name that the wildcard stands for.
        let text = Arc::new(renamed(&find(&records, "*.wild.alg13.test", Type::TXT), "a.wild.alg13.test"));
        let denied = denial(
            &Denial { soa: None, proofs: vec![text] },
            name("b.wild.alg13.test").borrow(),
            Claim::NoData(Type::A),
            &keys,
            at(NOW),
            &mut Work::default(),
        );
        assert_eq!(denied, Err(Bogus::Malformed));
    }

    #[test]
    fn every_reason_has_its_code() {
        for (bogus, code) in [
            (Bogus::NoSignature, 10),
            (Bogus::Expired, 7),
            (Bogus::NotYetValid, 8),
            (Bogus::NoKey, 9),
            (Bogus::NotAZoneKey, 11),
            (Bogus::NoProof, 12),
            (Bogus::UnknownAlgorithm, 1),
            (Bogus::WrongSignature, 6),
            (Bogus::TooMuchWork, 6),
        ] {
            assert_eq!(bogus.ede().0, code, "{bogus}");
        }
        for (insecurity, code) in [
            (Insecurity::UnknownAlgorithm, Some(1)),
            (Insecurity::UnknownDigest, Some(2)),
            (Insecurity::TooManyIterations, Some(27)),
            (Insecurity::Unsigned, None),
        ] {
            assert_eq!(insecurity.ede().map(|(code, _)| code), code, "{insecurity}");
        }
    }
}
