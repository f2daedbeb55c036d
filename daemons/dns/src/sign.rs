//! A zone that signs itself: DNSKEY, RRSIG, NSEC (RFC 4034, RFC 4035 §2), with ECDSA P-256 (RFC 6605).
//!
//! ```text
//!   parent    crepes.fr. DS      "their key has this digest"         signed by the parent
//!                 |
//!   zone      crepes.fr. DNSKEY  "this is my key"                    signed by itself
//!                 |
//!             www.crepes.fr. A + RRSIG                               signed by that key
//! ```
//!
//! One key does all (a combined signing key): whoever reads the zone has one step less to follow. It is made at the first start
//! and kept; its DS record is left in a directory where the parent's server finds it, and is in the zone as CDS and CDNSKEY
//! (RFC 7344) for a parent that asks.
//!
//! Signing is pure but for the key's file: content in, a new zone out. Signatures of the zone before are kept as long as they are
//! good for a while, so that a change of one record costs a few signatures and not all of them.

use crate::{
    durable::{self, Readers},
    name::{Name, NameRef},
    rdata::{self, Field, Type, type_bitmap},
    zone::{Builder, Node, Place, RrSet, Zone},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use ring::{
    digest,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use std::{
    borrow::Cow,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// ECDSAP256SHA256 (RFC 6605 §5).
const ALGORITHM: u8 = 13;
/// The digest of DS: SHA-256 (RFC 4509).
const DIGEST: u8 = 2;
/// Zone key and secure entry point (RFC 4034 §2.1.1).
const FLAGS: u16 = 257;
/// The protocol field of DNSKEY (RFC 4034 §2.1.2).
const PROTOCOL: u8 = 3;
/// How long a signature is good. Two weeks let a broken signer be noticed in time.
const VALID: Duration = Duration::from_hours(14 * 24);
/// A signature is made anew when it is good for less than this.
const REFRESH: Duration = Duration::from_hours(7 * 24);
/// Signatures begin before now, for validators whose clock is behind.
const SKEW: Duration = Duration::from_hours(1);

/// Why a zone cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The directory of the keys cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file has no key.
    #[error("{}: not a P-256 key in PEM (PKCS #8): {problem}; put it aside, and a new one is made (the parent then needs the new DS)", path.display())]
    NotAKey {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The zone has records that signing makes.
    #[error(
        "{owner} has {rtype} records, which are made by signing: take them out, or serve the zone as it is (`dnssec = \"as-is\"`)"
    )]
    SignedAlready {
        /// Where.
        owner: Name,
        /// What.
        rtype: Type,
    },
    /// The system has no random numbers.
    #[error("no signature could be made: the system gives no random numbers")]
    NoRandomness,
}

/// What signs one zone.
#[derive(Debug)]
pub struct Signer {
    zone: Name,
    pair: EcdsaKeyPair,
    dnskey: Vec<u8>,
    tag: u16,
    ds_dir: PathBuf,
}

/// A zone's name as the beginning of a file name: `root` for the root, and nothing that a file system could take for a path.
pub fn file_stem(zone: NameRef<'_>) -> String {
    if zone.is_root() {
        return "root".to_owned();
    }
    let text = zone.to_string().to_ascii_lowercase();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    text.trim_end_matches('.')
        .chars()
        .map(|c| if plain(c) { c.to_string() } else { format!("%{:02x}", c as u32) })
        .collect()
}

/// The key tag: how RRSIG and DS refer to a DNSKEY (RFC 4034 appendix B).
pub fn key_tag(dnskey: &[u8]) -> u16 {
    let sum: u32 = dnskey.iter().zip([8, 0].iter().cycle()).map(|(octet, shift)| u32::from(*octet) << shift).sum();
    (sum + (sum >> 16)) as u16
}

/// The data of a DS record for a key, with SHA-256 (RFC 4034 §5.1.4): a digest of owner and key.
pub fn ds(zone: NameRef<'_>, dnskey: &[u8]) -> Vec<u8> {
    let owner = zone.as_wire().to_ascii_lowercase();
    let digest = digest::digest(&digest::SHA256, &[&owner[..], dnskey].concat());
    let algorithm = dnskey.get(3).copied().unwrap_or_default();
    [&key_tag(dnskey).to_be_bytes()[..], &[algorithm, DIGEST], digest.as_ref()].concat()
}

fn write_whole(path: &Path, readers: Readers, text: &str) -> Result<(), SignError> {
    durable::replace(path, text.as_bytes(), readers).map_err(|source| SignError::File { path: path.to_owned(), source })
}

impl Signer {
    /// Takes the key of `zone` from `keys`, or makes one; leaves its DS record in `ds_dir`.
    ///
    /// # Errors
    /// See [`SignError`].
    pub fn open(zone: NameRef<'_>, keys: &Path, ds_dir: &Path) -> Result<Self, SignError> {
        for dir in [keys, ds_dir] {
            fs::create_dir_all(dir).map_err(|source| SignError::File { path: dir.to_owned(), source })?;
        }
        let path = keys.join(format!("{}.pem", file_stem(zone)));
        let random = SystemRandom::new();
        let pem = match fs::read_to_string(&path) {
            Ok(pem) => pem,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
                    .map_err(|_| SignError::NoRandomness)?;
                let pem =
                    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(pkcs8));
                // Nobody else may read it, at no moment.
                write_whole(&path, Readers::Owner, &pem)?;
                tracing::info!(%zone, key = %path.display(), "made a signing key");
                pem
            }
            Err(source) => return Err(SignError::File { path, source }),
        };
        let not_a_key = |problem: &str| SignError::NotAKey { path: path.clone(), problem: problem.to_owned() };
        let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).map(str::trim).collect();
        let pkcs8 = STANDARD.decode(base64).map_err(|error| not_a_key(&error.to_string()))?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8, &random)
            .map_err(|error| not_a_key(&error.to_string()))?;
        // RFC 6605 §4: the point without the octet that says that it is not compressed.
        let point = pair.public_key().as_ref().get(1..).unwrap_or_default();
        let dnskey = [&FLAGS.to_be_bytes()[..], &[PROTOCOL, ALGORITHM], point].concat();
        let tag = key_tag(&dnskey);
        let signer = Self { zone: zone.to_name(), pair, dnskey, tag, ds_dir: ds_dir.to_owned() };
        signer.leave_ds()?;
        Ok(signer)
    }

    /// The data of the zone's DNSKEY record.
    pub fn dnskey(&self) -> &[u8] {
        &self.dnskey
    }

    /// The data of the DS record that the parent needs.
    pub fn ds(&self) -> Vec<u8> {
        ds(self.zone.borrow(), &self.dnskey)
    }

    /// One line in the format of master files, which validators take as a trust anchor too.
    fn leave_ds(&self) -> Result<(), SignError> {
        let ds = self.ds();
        let digest = ds[4..].iter().fold(String::new(), |digest, octet| digest + &format!("{octet:02x}"));
        let line = format!("{} IN DS {} {ALGORITHM} {DIGEST} {digest}\n", self.zone, self.tag);
        let path = self.ds_dir.join(format!("{}.ds", file_stem(self.zone.borrow())));
        if fs::read_to_string(&path).is_ok_and(|known| known == line) {
            Ok(())
        } else {
            write_whole(&path, Readers::All, &line)
        }
    }

    /// The data of the DS records that a zone below has left; none, if it is not signed here.
    fn ds_of(&self, child: NameRef<'_>) -> Vec<Vec<u8>> {
        let path = self.ds_dir.join(format!("{}.ds", file_stem(child)));
        let Ok(text) = fs::read_to_string(&path) else { return vec![] };
        let record = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [owner, "IN", "DS", tag, algorithm, digest_type, digest] = words[..] else { return None };
            let is_childs = owner.parse::<Name>().is_ok_and(|owner| owner.borrow() == child);
            let digest: Option<Vec<u8>> =
                (0..digest.len()).step_by(2).map(|at| u8::from_str_radix(digest.get(at..at + 2)?, 16).ok()).collect();
            let tag: u16 = tag.parse().ok()?;
            let kinds: [u8; 2] = [algorithm.parse().ok()?, digest_type.parse().ok()?];
            is_childs.then(|| Some([&tag.to_be_bytes()[..], &kinds, &digest?].concat()))?
        };
        text.lines().filter_map(record).collect()
    }

    /// Signs `content`, which gets this `serial`. Signatures of `previous` that are good for a while are kept.
    ///
    /// # Errors
    /// The content has signatures already, or none can be made.
    pub fn sign(
        &self,
        content: &Zone,
        previous: Option<&Zone>,
        now: SystemTime,
        serial: u32,
    ) -> Result<Zone, SignError> {
        let origin = content.name();
        let mut builder = Builder::new(origin);
        // What a node has once it is complete, in canonical order: only then the next name of an NSEC is known.
        let mut chain: Vec<(Node<'_>, Vec<Signable<'_>>)> = vec![];
        let mut occluded_below: Option<Node<'_>> = None;
        for node in content.in_order() {
            if let Some(bad) = node.sets().find(|set| is_made_by_signing(set.rtype)) {
                return Err(SignError::SignedAlready { owner: node.name().to_name(), rtype: bad.rtype });
            }
            // Below a cut there is glue, which is the child's to sign; below a DNAME there is nothing for anybody.
            if let Some(above) = occluded_below {
                if node.name().is_within(above.name()) {
                    add(&mut builder, node.name(), node.sets());
                    continue;
                }
                occluded_below = None;
            }
            if node.is_cut() || node.has_dname() {
                occluded_below = Some(node);
            }
            if node.is_empty_non_terminal() {
                continue;
            }
            let mut sets = vec![];
            for set in node.sets() {
                let signable = Signable::of(set);
                match set.rtype {
                    // RFC 4035 §2.2: at a cut NS is the child's; only DS is ours.
                    rtype if node.is_cut() && rtype != Type::DS => add(&mut builder, node.name(), std::iter::once(set)),
                    Type::SOA => sets.push(signable.with_serial(serial)),
                    _ => sets.push(signable),
                }
            }
            if node.is_apex() {
                sets.extend(self.about_the_key(content));
            }
            if node.is_cut() {
                let ds = self.ds_of(node.name());
                let ttl = node.set(Type::NS).map_or(0, |set| set.ttl);
                if !ds.is_empty() && node.set(Type::DS).is_none() {
                    sets.push(Signable { rtype: Type::DS, ttl, records: ds.into_iter().map(Cow::Owned).collect() });
                }
            }
            chain.push((node, sets));
        }
        // RFC 9077 §3: the TTL of NSEC is that of other negative answers.
        let nsec_ttl = content.negative_soa().map_or(0, |soa| soa.ttl);
        for index in 0..chain.len() {
            let next = chain[(index + 1) % chain.len()].0.name();
            let (node, sets) = &mut chain[index];
            // RFC 4035 §2.3: the types of the name; at a cut NS too, and never the glue.
            let mut types: Vec<u16> = sets.iter().map(|set| set.rtype.0).collect();
            types.extend([Type::RRSIG.0, Type::NSEC.0]);
            types.extend(node.is_cut().then_some(Type::NS.0));
            let nsec = [next.as_wire(), &type_bitmap(&mut types)].concat();
            sets.push(Signable { rtype: Type::NSEC, ttl: nsec_ttl, records: vec![Cow::Owned(nsec)] });
            let known = previous.and_then(|zone| zone.node(node.name()));
            for set in sets.iter() {
                for record in &set.records {
                    place(&mut builder, node.name(), set.rtype, set.ttl, record);
                }
                let signature = match known.and_then(|known| self.reusable(known, set, now)) {
                    Some(signature) => signature.to_vec(),
                    None => self.signature(node.name(), set, now)?,
                };
                place(&mut builder, node.name(), Type::RRSIG, set.ttl, &signature);
            }
        }
        Ok(builder.finish().0)
    }

    /// Whether a zone that was signed needs it again: signatures come to their end, or a zone below has a new key.
    pub fn is_due(&self, served: &Zone, now: SystemTime) -> bool {
        let ends_soon = |node: Node<'_>| {
            node.set(Type::RRSIG).is_some_and(|set| set.records().any(|rdata| !is_good_until(rdata, now + REFRESH)))
        };
        let has_new_key = |node: Node<'_>| {
            let ds = self.ds_of(node.name());
            let known: Vec<&[u8]> = node.set(Type::DS).into_iter().flat_map(RrSet::records).collect();
            !ds.is_empty() && !ds.iter().any(|ds| known.contains(&&ds[..]))
        };
        served.nodes().any(|node| ends_soon(node) || node.is_cut() && has_new_key(node))
    }

    /// DNSKEY, CDS and CDNSKEY (RFC 7344 §3).
    fn about_the_key(&self, content: &Zone) -> [Signable<'static>; 3] {
        let ttl = content.apex().set(Type::SOA).map_or(0, |soa| soa.ttl);
        let set = |rtype, record| Signable { rtype, ttl, records: vec![Cow::Owned(record)] };
        [set(Type::DNSKEY, self.dnskey.clone()), set(Type::CDS, self.ds()), set(Type::CDNSKEY, self.dnskey.clone())]
    }

    /// The signature that the node has for exactly this set, if it is good for a while.
    fn reusable<'z>(&self, known: Node<'z>, set: &Signable<'_>, now: SystemTime) -> Option<&'z [u8]> {
        let before = known.set(set.rtype)?;
        let same = before.ttl == set.ttl
            && before.len() == set.records.len()
            && before.records().zip(&set.records).all(|(before, record)| before == &**record);
        let ours = |rdata: &&[u8]| {
            rdata.starts_with(&set.rtype.0.to_be_bytes())
                && rdata.get(16..18) == Some(&self.tag.to_be_bytes()[..])
                && is_good_until(rdata, now + REFRESH)
        };
        known.set(Type::RRSIG).filter(|_| same)?.records().find(ours)
    }

    /// RFC 4034 §3.1.8.1: signature = sign(RRSIG's data without the signature | RR(1) | RR(2) ...), all in canonical form.
    fn signature(&self, owner: NameRef<'_>, set: &Signable<'_>, now: SystemTime) -> Result<Vec<u8>, SignError> {
        let labels = owner.label_count() - usize::from(owner.as_wire().starts_with(b"\x01*"));
        let mut rdata = [
            &set.rtype.0.to_be_bytes()[..],
            &[ALGORITHM, labels as u8],
            &set.ttl.to_be_bytes(),
            &seconds(now + VALID).to_be_bytes(),
            &seconds(now - SKEW).to_be_bytes(),
            &self.tag.to_be_bytes(),
            &self.zone.borrow().as_wire().to_ascii_lowercase(),
        ]
        .concat();
        let records = set.records.iter().map(|record| &**record);
        let message = signed_data(&rdata, owner, set.rtype, set.ttl, records);
        let signature = self.pair.sign(&SystemRandom::new(), &message).map_err(|_| SignError::NoRandomness)?;
        rdata.extend_from_slice(signature.as_ref());
        Ok(rdata)
    }
}

/// What is signed: the data of RRSIG without the signature, and the records in canonical form and order
/// (RFC 4034 §3.1.8.1 and §6.3).
pub(crate) fn signed_data<'r>(
    head: &[u8],
    owner: NameRef<'_>,
    rtype: Type,
    ttl: u32,
    records: impl Iterator<Item = &'r [u8]>,
) -> Vec<u8> {
    // RFC 4034 §6.3: in order, and none twice.
    let mut records: Vec<Cow<'_, [u8]>> = records.map(|record| canonical(rtype, record)).collect();
    records.sort_unstable();
    records.dedup();
    let owner = owner.as_wire().to_ascii_lowercase();
    let mut data = head.to_vec();
    for record in records {
        data.extend_from_slice(&owner);
        data.extend_from_slice(&rtype.0.to_be_bytes());
        data.extend_from_slice(&[0, 1]);
        data.extend_from_slice(&ttl.to_be_bytes());
        data.extend_from_slice(&(record.len() as u16).to_be_bytes());
        data.extend_from_slice(&record);
    }
    data
}

/// A set on its way into a signed zone.
#[derive(Debug)]
struct Signable<'z> {
    rtype: Type,
    ttl: u32,
    records: Vec<Cow<'z, [u8]>>,
}

impl<'z> Signable<'z> {
    fn of(set: RrSet<'z>) -> Self {
        Self { rtype: set.rtype, ttl: set.ttl, records: set.records().map(Cow::Borrowed).collect() }
    }

    /// SOA with another serial, which stands before the last four numbers.
    fn with_serial(mut self, serial: u32) -> Self {
        for record in &mut self.records {
            let at = record.len().saturating_sub(20);
            if let Some(old) = record.to_mut().get_mut(at..at + 4) {
                old.copy_from_slice(&serial.to_be_bytes());
            }
        }
        self
    }
}

/// Seconds since 1970 as RRSIG has them: 32 bits that begin anew in 2106 (RFC 4034 §3.1.5).
pub(crate) fn seconds(at: SystemTime) -> u32 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() as u32)
}

/// Whether a signature is good at a time, in the arithmetic of serial numbers.
fn is_good_until(rrsig: &[u8], at: SystemTime) -> bool {
    let expires = rrsig.get(8..12).and_then(|octets| octets.try_into().ok()).map_or(0, u32::from_be_bytes);
    expires.wrapping_sub(seconds(at)).cast_signed() > 0
}

/// Whether records of a type come from signing and from nowhere else, in a zone that is signed here.
pub fn is_made_by_signing(rtype: Type) -> bool {
    [Type::RRSIG, Type::NSEC, Type::NSEC3, Type::NSEC3PARAM, Type::DNSKEY, Type::CDS, Type::CDNSKEY].contains(&rtype)
}

fn add<'z>(builder: &mut Builder, owner: NameRef<'_>, sets: impl Iterator<Item = RrSet<'z>>) {
    for set in sets {
        set.records().for_each(|record| place(builder, owner, set.rtype, set.ttl, record));
    }
}

fn place(builder: &mut Builder, owner: NameRef<'_>, rtype: Type, ttl: u32, rdata: &[u8]) {
    builder
        .add(owner, rtype, ttl, rdata, Place::default())
        .expect("it was in the zone, and signatures do not make it 4 GiB");
}

/// The data of a record as it is signed: names in lower case, in the types that are older than RFC 3597
/// (RFC 4034 §6.2 with RFC 6840 §5.1).
pub fn canonical(rtype: Type, record: &[u8]) -> Cow<'_, [u8]> {
    let folded = matches!(rtype.0, 2..=9 | 12 | 14 | 15 | 17 | 18 | 21 | 26 | 33 | 35 | 36 | 39);
    let Some(fields) = rdata::fields(rtype).filter(|_| folded) else { return Cow::Borrowed(record) };
    let (mut record, mut at) = (record.to_vec(), 0);
    for field in fields {
        // Others' data may end too early.
        let Some(octets) = record.get(at..).and_then(|behind| field.octets(behind)) else { break };
        if let Field::Name | Field::NameCompressible = field {
            record[at..at + octets].make_ascii_lowercase();
        }
        at += octets;
    }
    Cow::Owned(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zonefile::{self, Rewrite};
    use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    const ZONE: &str = "$TTL 1h
@        SOA   ns hostmaster 7 1h 15m 1w 5m
         NS    ns
         NS    ns.ELSEWHERE.test.
ns       A     192.0.2.1
*.wild   MX    10 Mail
a.b.c    TXT   \"deep\"
sub      NS    ns.sub
ns.sub   A     192.0.2.9
safe     NS    ns
away     DNAME example.net.
x.away   TXT   \"nobody sees this\"
";

    fn zone(text: &str) -> Zone {
        let name: Name = "example".parse().unwrap();
        zonefile::read(name.borrow(), Path::new("example.zone"), text.as_bytes(), None, Rewrite::None).unwrap().zone
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_hours(500_000)
    }

    fn signer(dir: &Path) -> Signer {
        Signer::open("example".parse::<Name>().unwrap().borrow(), &dir.join("keys"), &dir.join("ds")).unwrap()
    }

    /// Checks a signature as a validator does (RFC 4035 §5.3.2), and says whether it is right.
    fn is_right(key: &Signer, node: Node<'_>, rrsig: &[u8]) -> bool {
        let covered = Type(u16::from_be_bytes([rrsig[0], rrsig[1]]));
        let set = node.set(covered).unwrap();
        let signer = NameRef::parse(&rrsig[18..]).unwrap().as_wire().len();
        let (head, signature) = rrsig.split_at(18 + signer);
        let mut records: Vec<_> = set.records().map(|record| canonical(covered, record).into_owned()).collect();
        records.sort();
        let mut message = head.to_vec();
        for record in records {
            message.extend(node.name().as_wire().to_ascii_lowercase());
            message
                .extend([&rrsig[..2], &[0, 1], &rrsig[4..8], &(record.len() as u16).to_be_bytes(), &record].concat());
        }
        let point = [&[4], &key.dnskey()[4..]].concat();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(&message, signature).is_ok()
    }

    #[test]
    fn every_set_of_ours_is_signed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let key = signer(dir.path());
        let signed = key.sign(&zone(ZONE), None, now(), 8).unwrap();
        let mut told = vec![];
        for node in signed.in_order() {
            let rrsigs: Vec<&[u8]> = node.set(Type::RRSIG).into_iter().flat_map(RrSet::records).collect();
            let mut covered: Vec<String> = vec![];
            for rrsig in rrsigs {
                assert!(is_right(&key, node, rrsig), "{node:?} {rrsig:?}");
                covered.push(format!("{}/{}", Type(u16::from_be_bytes([rrsig[0], rrsig[1]])), rrsig[3]));
            }
            told.push(format!("{} {}", node.name(), covered.join(" ")));
        }
        let want = [
            "example. NS/1 SOA/1 NSEC/1 DNSKEY/1 CDS/1 CDNSKEY/1",
            "away.example. DNAME/2 NSEC/2",
            // Below a DNAME, an empty non-terminal, glue: no signature.
            "x.away.example. ",
            "c.example. ",
            "b.c.example. ",
            "a.b.c.example. TXT/4 NSEC/4",
            "ns.example. A/2 NSEC/2",
            "safe.example. NSEC/2",
            "sub.example. NSEC/2",
            "ns.sub.example. ",
            "wild.example. ",
            // RFC 4034 §3.1.3: the asterisk is not counted.
            "*.wild.example. NSEC/2 MX/2",
        ];
        let sorted = |line: &str| {
            let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            words[1..].sort();
            words
        };
        assert_eq!(told.iter().map(|line| sorted(line)).collect::<Vec<_>>(), want.map(sorted));
        let soa = signed.apex().set(Type::SOA).unwrap().records().next().unwrap();
        assert_eq!(soa[soa.len() - 20..][..4], [0, 0, 0, 8]);
    }

    #[test]
    fn the_chain_of_names_is_a_ring() {
        let dir = tempfile::tempdir().unwrap();
        let signed = signer(dir.path()).sign(&zone(ZONE), None, now(), 8).unwrap();
        let mut at = signed.name().to_name();
        let mut names = vec![];
        loop {
            let nsec = signed.node(at.borrow()).unwrap().set(Type::NSEC).unwrap();
            at = NameRef::parse(nsec.records().next().unwrap()).unwrap().to_name();
            names.push(at.to_string());
            if at.borrow() == signed.name() {
                break;
            }
        }
        let want = ["away", "a.b.c", "ns", "safe", "sub", "*.wild"].map(|label| format!("{label}.example."));
        assert_eq!(names[..6], want);
        assert_eq!(names.len(), 7);
    }

    #[test]
    fn a_change_makes_new_signatures_for_what_has_changed_and_age_for_all() {
        let dir = tempfile::tempdir().unwrap();
        let key = signer(dir.path());
        let content = zone(ZONE);
        let first = key.sign(&content, None, now(), 8).unwrap();
        let signatures = |zone: &Zone| -> Vec<Vec<u8>> {
            let all = zone.in_order().filter_map(|node| node.set(Type::RRSIG)).flat_map(RrSet::records);
            all.map(<[u8]>::to_vec).collect()
        };
        let new_ones = |zone: &Zone| {
            let before = signatures(&first);
            signatures(zone).iter().filter(|signature| !before.contains(signature)).count()
        };
        assert!(!key.is_due(&first, now()));
        // SOA has a new serial.
        assert_eq!(new_ones(&key.sign(&content, Some(&first), now(), 9).unwrap()), 1);
        // A new name: SOA, its own set and NSEC, and the NSEC before it.
        let more = zone(&format!("{ZONE}new A 192.0.2.7\n"));
        assert_eq!(new_ones(&key.sign(&more, Some(&first), now(), 9).unwrap()), 4);
        let later = now() + VALID - REFRESH + Duration::from_secs(1);
        assert!(key.is_due(&first, later));
        assert_eq!(new_ones(&key.sign(&content, Some(&first), later, 9).unwrap()), signatures(&first).len());
    }

    #[test]
    fn a_child_that_is_signed_gets_its_ds_into_the_parent() {
        let dir = tempfile::tempdir().unwrap();
        let key = signer(dir.path());
        let first = key.sign(&zone(ZONE), None, now(), 8).unwrap();
        let child: Name = "safe.example".parse().unwrap();
        let ds = Signer::open(child.borrow(), &dir.path().join("keys"), &dir.path().join("ds")).unwrap().ds();
        assert!(key.is_due(&first, now()), "the child has a key that the parent does not know");
        let second = key.sign(&zone(ZONE), Some(&first), now(), 9).unwrap();
        let set = second.node(child.borrow()).unwrap().set(Type::DS).unwrap();
        assert_eq!(set.records().collect::<Vec<_>>(), [&ds[..]]);
        assert!(!key.is_due(&second, now()));
    }

    #[test]
    fn the_key_stays_the_same_and_nobody_else_can_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let one = signer(dir.path());
        let other = signer(dir.path());
        assert_eq!(one.dnskey(), other.dnskey());
        let path = dir.path().join("keys/example.pem");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
        let error = Signer::open(one.zone.borrow(), &dir.path().join("keys"), &dir.path().join("ds")).unwrap_err();
        assert!(error.to_string().contains("example.pem: not a P-256 key"), "{error}");
    }

    #[test]
    fn a_zone_with_signatures_is_not_signed_again() {
        let dir = tempfile::tempdir().unwrap();
        let key = signer(dir.path());
        let once = key.sign(&zone(ZONE), None, now(), 8).unwrap();
        let error = key.sign(&once, None, now(), 8).unwrap_err().to_string();
        assert!(error.starts_with("example. has RRSIG records"), "{error}");
    }

    /// RFC 6605 §6.1: the key and its DS.
    #[test]
    fn tag_and_digest_are_those_of_the_rfc() {
        let key = "GojIhhXUN/u4v54ZQqGSnyhWJwaubCvTmeexv7bR6edbkrSqQpF64cYbcB7wNcP+e+MAnLr+Wi9xMWyQLc8NAA==";
        let dnskey = [&[1, 1, 3, 13][..], &STANDARD.decode(key).unwrap()].concat();
        assert_eq!(key_tag(&dnskey), 55648);
        let owner: Name = "example.net".parse().unwrap();
        let digest = digest::digest(&digest::SHA256, &[owner.borrow().as_wire(), &dnskey].concat());
        assert_eq!(digest.as_ref()[..4], [0xb4, 0xc8, 0xc1, 0xfe]);
    }

    #[test]
    fn names_in_data_are_folded_where_the_rfc_says_so() {
        for (rtype, record, want) in [
            (Type::NS, &b"\x02NS\0"[..], &b"\x02ns\0"[..]),
            (Type::MX, b"\0\x41\x04Mail\0", b"\0\x41\x04mail\0"),
            (Type::TXT, b"\x02Ab", b"\x02Ab"),
            (Type::NSEC, b"\x01A\0\0\x01\x40", b"\x01A\0\0\x01\x40"),
            (Type::MX, b"\0", b"\0"),
            (Type(35), b"\0A\0B\x09S", b"\0A\0B\x09S"),
            (Type(35), b"\0A\0B\x01S\x01T\x01U\x01N\0", b"\0A\0B\x01S\x01T\x01U\x01n\0"),
        ] {
            assert_eq!(&*canonical(rtype, record), want, "{rtype}");
        }
    }

    #[test]
    fn names_of_zones_make_names_of_files() {
        for (zone, want) in
            [(".", "root"), ("Crepes.FR", "crepes.fr"), ("0/25.2.0.192.in-addr.arpa", "0%2f25.2.0.192.in-addr.arpa")]
        {
            assert_eq!(file_stem(zone.parse::<Name>().unwrap().borrow()), want);
        }
    }
}
