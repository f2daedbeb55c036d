//! What is not there, proved: NSEC (RFC 4035 §3.1.3) and NSEC3 (RFC 5155 §7.2).
//!
//! A zone cannot sign an answer to every question about names that do not exist. It signs its gaps instead: each name says which
//! one is the next. NSEC says so in clear, so that the zone can be walked; NSEC3 says so of the names' hashes.
//!
//! ```text
//!   alpha.fr NSEC delta.fr A RRSIG NSEC        between alpha and delta there is no name
//! ```
//!
//! A name that does not exist needs two gaps: its own, and that of the wildcard that could have stood for it.

use crate::{
    name::{NameRef, Suffixes},
    rdata::Type,
    zone::{Node, Zone},
};
use ring::digest;

/// What a signed zone denies with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chain {
    /// The zone is not signed.
    None,
    /// Names in clear, in canonical order.
    Nsec {
        /// The nodes that have an NSEC record, in order.
        nodes: Vec<u32>,
    },
    /// Hashes of names.
    Nsec3 {
        /// How they are made.
        hash: Nsec3Hash,
        /// Each hash and its node, in order.
        nodes: Vec<(Hash, u32)>,
        /// The nodes with an NSEC3 record that have names below them, by number; there is hardly ever one.
        above_others: Vec<u32>,
    },
}

/// A name's hash: SHA-1 is the only one that there is (RFC 5155 §11).
pub type Hash = [u8; 20];

/// How NSEC3 hashes names (RFC 5155 §5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nsec3Hash {
    /// Times that the hash is hashed again; RFC 9276 §3.1 wants none.
    pub iterations: u16,
    /// What is hashed with the name; RFC 9276 §3.1 wants none.
    pub salt: Vec<u8>,
}

/// Iterations that a zone may ask for. Every name that does not exist costs so many; validators take even fewer (RFC 9276 §3.2).
pub const ITERATIONS_MAX: u16 = 100;

impl Nsec3Hash {
    /// The parameters of an NSEC3PARAM or NSEC3 record: both begin alike (RFC 5155 §3.2 and §4.2).
    pub fn of(rdata: &[u8]) -> Option<Self> {
        let ([algorithm, _flags, high, low, octets], rest) = rdata.split_first_chunk::<5>()?;
        let salt = rest.get(..usize::from(*octets))?.to_vec();
        let iterations = u16::from_be_bytes([*high, *low]);
        (*algorithm == 1 && iterations <= ITERATIONS_MAX).then_some(Self { iterations, salt })
    }

    /// The hash of a name: IH(salt, x, k) = H(IH(salt, x, k-1) || salt).
    pub fn hash(&self, name: NameRef<'_>) -> Hash {
        let mut octets = name.as_wire().to_ascii_lowercase();
        octets.extend_from_slice(&self.salt);
        let sha1 = &digest::SHA1_FOR_LEGACY_USE_ONLY;
        let mut hash = digest::digest(sha1, &octets);
        for _ in 0..self.iterations {
            hash = digest::digest(sha1, &[hash.as_ref(), &self.salt].concat());
        }
        hash.as_ref().try_into().expect("SHA-1 makes 20 octets")
    }
}

/// The hash that an NSEC3 record's owner has for its first label (RFC 5155 §1.3: base32 with the extended hex alphabet).
pub fn hash_in_label(owner: NameRef<'_>) -> Option<Hash> {
    let (label, _) = owner.split_first()?;
    let (mut hash, mut filled, mut bits, mut held) = (Hash::default(), 0, 0_u32, 0_u32);
    if label.len() != 32 {
        return None;
    }
    for octet in label {
        let digit = match octet.to_ascii_lowercase() {
            digit @ b'0'..=b'9' => digit - b'0',
            letter @ b'a'..=b'v' => letter - b'a' + 10,
            _ => return None,
        };
        (held, bits) = (held << 5 | u32::from(digit), bits + 5);
        if bits >= 8 {
            bits -= 8;
            hash[filled] = (held >> bits) as u8;
            filled += 1;
        }
    }
    Some(hash)
}

impl Chain {
    /// What the records of a zone say.
    pub fn of(zone: &Zone) -> Self {
        let apex = zone.apex();
        if apex.set(Type::NSEC).is_some() {
            let with_nsec = zone.in_order().filter(|node| node.set(Type::NSEC).is_some());
            return Chain::Nsec { nodes: with_nsec.map(Node::index).collect() };
        }
        // RFC 5155 §4: NSEC3PARAM says which of perhaps several chains is whole.
        let parameters = apex.set(Type::NSEC3PARAM).and_then(|set| set.records().find_map(Nsec3Hash::of));
        let Some(hash) = parameters else { return Chain::None };
        let in_chain = |node: &Node<'_>| {
            let set = node.set(Type::NSEC3)?;
            set.records().any(|rdata| Nsec3Hash::of(rdata).as_ref() == Some(&hash)).then_some(())?;
            Some((hash_in_label(node.name())?, node.index()))
        };
        let mut nodes: Vec<_> = zone.nodes().filter_map(|node| in_chain(&node)).collect();
        nodes.sort_unstable();
        let has_hash = |node: &Node<'_>| !node.is_apex() && node.set(Type::NSEC3).is_some();
        let mut above_others: Vec<_> =
            zone.nodes().filter_map(Node::parent).filter(has_hash).map(Node::index).collect();
        above_others.sort_unstable();
        above_others.dedup();
        if nodes.is_empty() { Chain::None } else { Chain::Nsec3 { hash, nodes, above_others } }
    }

    /// Whether a node with an NSEC3 record has names below it: then it exists, though it has nothing else (RFC 5155 §7.2.8).
    pub fn is_above_others(&self, node: Node<'_>) -> bool {
        matches!(self, Chain::Nsec3 { above_others, .. } if above_others.binary_search(&node.index()).is_ok())
    }
}

/// What is to be proved about a name.
#[derive(Clone, Copy, Debug)]
pub enum Claim<'z> {
    /// It does not exist, nor does a wildcard that stands for it; `encloser` is its nearest ancestor that exists.
    NoName {
        /// The closest encloser.
        encloser: Node<'z>,
    },
    /// It exists, and has no data of the type.
    NoData {
        /// The name.
        node: Node<'z>,
    },
    /// It does not exist, and a wildcard stands for it.
    Expanded {
        /// The wildcard.
        wildcard: Node<'z>,
    },
    /// It does not exist, and the wildcard that stands for it has no data of the type.
    NoDataAtWildcard {
        /// The wildcard.
        wildcard: Node<'z>,
    },
    /// The zone ends here, and what is below is not signed.
    NoDs {
        /// The cut.
        cut: Node<'z>,
    },
}

/// The nodes whose NSEC or NSEC3 records prove a claim about `name`, without repetition; none in a zone that is not signed.
pub fn proof<'z>(zone: &'z Zone, name: NameRef<'_>, claim: Claim<'z>) -> Vec<Node<'z>> {
    let mut nodes: Vec<Node<'z>> = match zone.chain() {
        Chain::None => vec![],
        Chain::Nsec { nodes } => {
            let gap = |name: NameRef<'_>| gap(zone, nodes, name);
            let found = match claim {
                Claim::NoName { encloser } => {
                    // RFC 4035 §3.1.3.2: the gap of the name, and that of the wildcard.
                    let wildcard = encloser.name().wildcard().ok();
                    [gap(name), wildcard.and_then(|wildcard| gap(wildcard.borrow()))]
                }
                // RFC 4035 §3.1.3.1. An empty non-terminal has no NSEC: it lies in the gap of the name before it.
                Claim::NoData { node } | Claim::NoDs { cut: node } => [gap(node.name()), None],
                // RFC 4035 §3.1.3.3 and §3.1.3.4.
                Claim::Expanded { .. } => [gap(name), None],
                Claim::NoDataAtWildcard { wildcard } => [gap(wildcard.name()), gap(name)],
            };
            found.into_iter().flatten().collect()
        }
        Chain::Nsec3 { hash, nodes, .. } => {
            let find = |name: NameRef<'_>| nodes.binary_search_by_key(&hash.hash(name), |(hash, _)| *hash);
            let matching = |name: NameRef<'_>| find(name).ok().map(|at| zone.node_at(nodes[at].1));
            let covering = |name: NameRef<'_>| match find(name) {
                Ok(_) => None,
                // Before the first hash is the gap of the last: the chain is a ring.
                Err(at) => nodes.get(at.wrapping_sub(1)).or(nodes.last()).map(|(_, index)| zone.node_at(*index)),
            };
            // RFC 5155 §7.2.1: the closest encloser that has a record, and the next closer name, one label longer. An empty
            // non-terminal above opted-out delegations only has none (erratum 3441), so this may be an ancestor of where the walk
            // through the zone ended; validators see no more than the records, and look for the wildcard here (§8.3, §8.4).
            let suffixes = Suffixes::of(name);
            let closest = || {
                let mut upwards = (zone.name().label_count()..suffixes.count()).rev();
                let (labels, node) = upwards.find_map(|labels| Some((labels, matching(suffixes.suffix(labels))?)))?;
                Some((suffixes.suffix(labels), [Some(node), covering(suffixes.suffix(labels + 1))]))
            };
            let found = match claim {
                // RFC 5155 §7.2.2.
                Claim::NoName { .. } => closest().map(|(encloser, [node, gap])| {
                    let wildcard = encloser.wildcard().ok();
                    [node, gap, wildcard.and_then(|wildcard| covering(wildcard.borrow()))]
                }),
                // RFC 5155 §7.2.3, §7.2.4 and §7.2.7: a name without a hash of its own is in an opted-out gap.
                Claim::NoData { .. } | Claim::NoDs { .. } => match matching(name) {
                    Some(node) => Some([Some(node), None, None]),
                    None => closest().map(|(_, [node, gap])| [node, gap, None]),
                },
                // RFC 5155 §7.2.6: the signature's label count shows the encloser; the gap is what is to be proved. The next
                // closer name has as many labels as the wildcard.
                Claim::Expanded { wildcard } => {
                    Some([covering(suffixes.suffix(wildcard.name().label_count())), None, None])
                }
                // RFC 5155 §7.2.5.
                Claim::NoDataAtWildcard { wildcard } => {
                    closest().map(|(_, [node, gap])| [node, gap, matching(wildcard.name())])
                }
            };
            found.into_iter().flatten().flatten().collect()
        }
    };
    let mut seen = vec![];
    nodes.retain(|node| {
        let is_new = !seen.contains(&node.index());
        seen.push(node.index());
        is_new
    });
    nodes
}

/// The node whose NSEC record is about `name`: of those with one, the last that is not behind it.
fn gap<'z>(zone: &'z Zone, nodes: &[u32], name: NameRef<'_>) -> Option<Node<'z>> {
    let behind = nodes.partition_point(|index| zone.node_at(*index).name().canonical_cmp(name).is_le());
    nodes.get(behind.checked_sub(1)?).map(|index| zone.node_at(*index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Name;

    /// RFC 5155 appendix A: the hashes of the example zone.
    #[test]
    fn names_have_the_hashes_of_the_rfc() {
        let hash = Nsec3Hash { iterations: 12, salt: vec![0xaa, 0xbb, 0xcc, 0xdd] };
        for (name, want) in [
            ("example", "0p9mhaveqvm6t7vbl5lop2u3t2rp3tom.x"),
            ("a.example", "35mthgpgcu1qg68fab165klnsnk3dpvl.x"),
            ("*.W.example", "r53bq7cc2uvmubfu5ocmm6pers9tk9en.x"),
            ("2t7b4g4vsa5smi47k61mv5bv1a22bojr.example", "kohar7mbb8dc2ce8a9qvl8hon4k53uhi.x"),
        ] {
            let (name, want): (Name, Name) = (name.parse().unwrap(), want.parse().unwrap());
            assert_eq!(Some(hash.hash(name.borrow())), hash_in_label(want.borrow()), "{name}");
        }
        for wrong in ["x", "0p9mhaveqvm6t7vbl5lop2u3t2rp3tow.x", "."] {
            assert_eq!(hash_in_label(wrong.parse::<Name>().unwrap().borrow()), None, "{wrong}");
        }
        assert_eq!(Nsec3Hash::of(&[1, 0, 0, 12, 4, 0xaa, 0xbb, 0xcc, 0xdd]), Some(hash));
        for wrong in [&[][..], &[2, 0, 0, 0, 0], &[1, 0, 0, 0, 1], &[1, 0, 0, 101, 0]] {
            assert_eq!(Nsec3Hash::of(wrong), None, "{wrong:?}");
        }
    }
}
