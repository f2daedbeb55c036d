//! An answer of another server, looked at before anything of it is believed (RFC 1034 §5.3.3 step 4, RFC 2181 §5.4.1).
//!
//! A server is believed about its own zone and about nothing else (its bailiwick). So what counts is which zone's server was asked,
//! and for what; everything in the message that this does not cover is as if it were not there.

use super::cache::{Denial, Set};
use crate::{
    message::Rcode,
    name::{Name, NameRef},
    rdata::{Class, Type, is_well_formed},
    record::{Message, Record},
};
use std::{collections::HashSet, sync::Arc};

/// Aliases that one message may have: no server of good will has more (RFC 1034 §5.2.2 speaks of one).
const ALIASES_MAX: usize = 16;
/// Servers of a zone that are looked at (CVE-2022-3204). The root has thirteen.
const SERVERS_MAX: usize = 26;
/// Records that a message may have: the time to sort them grows with the square. Nobody of good will has a tenth of it.
const RECORDS_MAX: usize = 1000;

/// What a server was asked, and as whose server.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'q> {
    /// The zone that it is a server of.
    pub zone: NameRef<'q>,
    /// The name.
    pub name: NameRef<'q>,
    /// The type.
    pub rtype: Type,
    /// Which way.
    pub way: Way,
}

/// How the answer is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// We go down the tree: this server is one on the way, and may refer us to the next.
    Down,
    /// The server goes the way for us: what it says is all that there is.
    Forwarded,
}

/// What a message says.
#[derive(Clone, Debug)]
pub enum Said {
    /// It answers.
    Answer(Answer),
    /// Others know (step 4b).
    Referral(Referral),
    /// The server is of no use for this zone, for this reason (step 4d).
    Useless(&'static str),
}

/// An answer: aliases, and where they end.
#[derive(Clone, Debug)]
pub struct Answer {
    /// CNAME and DNAME sets on the way, in order. Behind each DNAME stands the CNAME that it makes (RFC 6672 §3.1): made here, whatever
    /// the server has made.
    pub aliases: Vec<Arc<Set>>,
    /// The name at the end of the aliases.
    pub name: Name,
    /// What is there.
    pub end: End,
    /// Whether the server is an authority for it.
    pub is_authoritative: bool,
    /// Addresses of the servers, if NS was asked for.
    pub addresses: Vec<Arc<Set>>,
}

/// The servers that an NS set names, as many of them as are looked at.
pub fn servers(set: &Set) -> impl Iterator<Item = NameRef<'_>> {
    set.rdata().take(SERVERS_MAX).filter_map(|rdata| NameRef::parse(rdata).ok())
}

/// How many records of an answer are passed over because they are not about the zone whose server gave it.
pub fn foreign(message: &Message, asked: Asked<'_>) -> u64 {
    let is_foreign = |record: &&Record| !record.owner.borrow().is_within(asked.zone) && record.rtype != Type::OPT;
    let all = message.answers.iter().chain(&message.authority).chain(&message.additional);
    all.filter(is_foreign).count() as u64
}

impl Answer {
    /// What is at a name, without aliases.
    pub fn of(name: Name, end: End) -> Self {
        Self { aliases: vec![], name, end, is_authoritative: true, addresses: vec![] }
    }
}

/// Where the aliases end.
#[derive(Clone, Debug)]
pub enum End {
    /// The records.
    Data(Arc<Set>),
    /// The name exists, without data of this type.
    NoData(Arc<Denial>),
    /// There is no such name.
    NoName(Arc<Denial>),
    /// The last alias leads to where this server is not believed: go on there (step 4c). Or it leads back to a name that the aliases
    /// have been at, which whoever goes on notices: that is the zone's fault, and none of its server.
    Leads,
}

/// Where to ask on.
#[derive(Clone, Debug)]
pub struct Referral {
    /// The servers of the next zone; the set's owner is the zone.
    pub servers: Arc<Set>,
    /// What is said about the zone's keys: DS, or the proof that there is none.
    pub about_keys: Vec<Arc<Set>>,
    /// Addresses of the servers.
    pub glue: Vec<Arc<Set>>,
}

/// The sets of `records` that `wanted` picks, each with the signatures that cover it. Signatures are a set only for those who want them
/// for their own sake.
fn sets(records: &[Record], wanted: impl Fn(&Record) -> bool) -> Vec<Arc<Set>> {
    let mut sets: Vec<Arc<Set>> = vec![];
    // What clients could not read is not handed on to them.
    let is_sound = |record: &&Record| record.class == Class::IN && is_well_formed(record.rtype, &record.rdata);
    let is_data = |record: &&Record| is_sound(record) && !record.rtype.is_meta();
    for record in records.iter().filter(is_data).filter(|record| wanted(record)) {
        if sets.iter().any(|known| known.owner == record.owner && known.rtype == record.rtype) {
            continue;
        }
        let same: Vec<&Record> =
            records.iter().filter(|it| it.owner == record.owner && it.rtype == record.rtype && is_sound(it)).collect();
        let Some(mut set) = Set::of(&same) else { continue };
        let covers = |it: &&Record| {
            it.rtype == Type::RRSIG && it.owner == record.owner && it.rdata.starts_with(&record.rtype.0.to_be_bytes())
        };
        // RFC 2181 §5: a record that is there twice is one record. A chain of aliases may bring the same DNAME again and again.
        let mut seen = HashSet::new();
        let covering = records.iter().filter(covers).filter(|it| seen.insert(&it.rdata[..]));
        set.signatures = covering.map(|it| it.rdata.clone().into()).collect();
        sets.push(Arc::new(set));
    }
    sets
}

/// Puts what proves that there is nothing nearer to sets that a wildcard stands for (RFC 4035 §3.1.3.3).
fn explain_wildcards(sets: &mut [Arc<Set>], proofs: &[Arc<Set>]) {
    for set in sets {
        let labels = set.owner.borrow().label_count();
        // RFC 4034 §3.1.3: RRSIG has fewer labels than the name.
        let is_made = |rrsig: &[u8]| rrsig.get(3).is_some_and(|count| usize::from(*count) < labels);
        if !proofs.is_empty() && set.signatures.iter().any(|rrsig| is_made(rrsig)) {
            Arc::make_mut(set).proofs = proofs.to_vec();
        }
    }
}

/// Reads what a server of `asked.zone` said to the question `asked`.
pub fn read(message: &Message, asked: Asked<'_>) -> Said {
    match message.rcode() {
        Rcode::NOERROR | Rcode::NXDOMAIN => {}
        Rcode::SERVFAIL => return Said::Useless("it says SERVFAIL"),
        Rcode::REFUSED => return Said::Useless("it says REFUSED"),
        Rcode::FORMERR => return Said::Useless("it says FORMERR"),
        Rcode::NOTIMP => return Said::Useless("it says NOTIMP"),
        Rcode::BADCOOKIE => return Said::Useless("it says BADCOOKIE"),
        _ => return Said::Useless("it says an error"),
    }
    if message.answers.len() + message.authority.len() + message.additional.len() > RECORDS_MAX {
        return Said::Useless("more records than anybody needs");
    }
    let is_believed = |record: &Record| {
        record.owner.borrow().is_within(asked.zone) && (record.rtype != Type::RRSIG || asked.rtype == Type::RRSIG)
    };
    let mut answers = sets(&message.answers, is_believed);
    let authority = sets(&message.authority, is_believed);
    let is_proof = |set: &&Arc<Set>| set.rtype == Type::NSEC || set.rtype == Type::NSEC3;
    let proofs: Vec<Arc<Set>> = authority.iter().filter(is_proof).cloned().collect();

    explain_wildcards(&mut answers, &proofs);

    // Step 4c: along the aliases.
    let (mut aliases, mut name, mut leads): (Vec<Arc<Set>>, _, _) = (vec![], asked.name.to_name(), false);
    let data = loop {
        // RFC 8482 §4.1: to ANY one of the sets is an answer, an alias too.
        let fits = |set: &Set, rtype| set.rtype == rtype || rtype == Type::ANY;
        let at = |rtype| answers.iter().find(|set| fits(set, rtype) && set.owner == name).cloned();
        // RFC 6672 §2.4: nothing is below a DNAME but what it makes.
        let above = |set: &&Arc<Set>| {
            set.rtype == Type::DNAME && name != set.owner && name.borrow().is_within(set.owner.borrow())
        };
        let alias = if let Some(dname) = answers.iter().find(above) {
            let Some(made) = Set::made_of(dname, name.borrow()) else {
                return Said::Useless("a DNAME that leads to no name");
            };
            aliases.push(Arc::clone(dname));
            let made = Arc::new(made);
            if asked.rtype == Type::CNAME {
                break Some(made);
            }
            made
        } else if let Some(set) = at(asked.rtype) {
            break Some(set);
        } else if let Some(cname) = at(Type::CNAME) {
            cname
        } else {
            break None;
        };
        let Some(target) = alias.target().map(NameRef::to_name) else {
            return Said::Useless("an alias that leads to no name");
        };
        if aliases.len() >= ALIASES_MAX {
            return Said::Useless("more aliases than anybody needs");
        }
        aliases.push(alias);
        name = target;
        let is_circle = aliases.iter().any(|set| set.rtype == Type::CNAME && set.owner == name);
        if is_circle || !name.borrow().is_within(asked.zone) {
            leads = true;
            break None;
        }
    };
    let is_authoritative = message.header.is_authoritative();
    // What comes beside servers that were asked for, or that we are referred to.
    let addresses_of = |servers: &Set| {
        let names: Vec<NameRef<'_>> = self::servers(servers).collect();
        let is_address = |record: &Record| {
            matches!(record.rtype, Type::A | Type::AAAA)
                && is_believed(record)
                && names.contains(&record.owner.borrow())
        };
        sets(&message.additional, is_address)
    };
    let answer = |end| {
        let addresses = match &end {
            End::Data(set) if set.rtype == Type::NS => addresses_of(set),
            _ => vec![],
        };
        Said::Answer(Answer { aliases: aliases.clone(), name: name.clone(), end, is_authoritative, addresses })
    };
    if let Some(set) = data {
        return answer(End::Data(set));
    }
    if leads {
        return answer(End::Leads);
    }
    // AA is about the first alias (RFC 1035 §4.1.1). Whether its target has data is said by a SOA; without one, whoever is asked for the
    // target says it.
    let knows_the_end = aliases.is_empty() && (is_authoritative || asked.way == Way::Forwarded);
    // RFC 2308 §2.1 and §2.2: with SOA it is a negative answer.
    let soa =
        authority.iter().find(|set| set.rtype == Type::SOA && name.borrow().is_within(set.owner.borrow())).cloned();
    if message.header.rcode() == Rcode::NXDOMAIN {
        // Without SOA and without AA it is no authority's word.
        return if soa.is_some() || knows_the_end {
            answer(End::NoName(Arc::new(Denial { soa, proofs: proofs.clone() })))
        } else if !aliases.is_empty() {
            answer(End::Leads)
        } else {
            Said::Useless("it says NXDOMAIN without being an authority")
        };
    }
    // Step 4b: a referral is down from this zone, and on the way to the name. Others lead astray, or in a circle.
    let leads_down = |set: &&Arc<Set>| {
        set.rtype == Type::NS && set.owner.borrow() != asked.zone && name.borrow().is_within(set.owner.borrow())
    };
    if asked.way == Way::Down
        && soa.is_none()
        && let Some(servers) = authority.iter().find(leads_down)
    {
        // The alias leads below a cut of the zone: whoever asks for its target is referred there.
        if !aliases.is_empty() {
            return answer(End::Leads);
        }
        let is_about_keys = |set: &&Arc<Set>| is_proof(set) || set.rtype == Type::DS && set.owner == servers.owner;
        return Said::Referral(Referral {
            about_keys: authority.iter().filter(is_about_keys).cloned().collect(),
            glue: addresses_of(servers),
            servers: Arc::clone(servers),
        });
    }
    if soa.is_some() || knows_the_end {
        return answer(End::NoData(Arc::new(Denial { soa, proofs: proofs.clone() })));
    }
    if !aliases.is_empty() {
        return answer(End::Leads);
    }
    if authority.iter().any(|set| set.rtype == Type::NS) || message.authority.iter().any(|it| it.rtype == Type::NS) {
        return Said::Useless("it refers to where we come from (lame)");
    }
    Said::Useless("it says nothing, and is no authority (lame)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Header;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn record(line: &str) -> Record {
        let words: Vec<&str> = line.split_whitespace().collect();
        let rtype: Type = words[1].parse().unwrap();
        let rdata = match rtype {
            Type::A => words[2].parse::<std::net::Ipv4Addr>().unwrap().octets().to_vec(),
            Type::SOA => [&b"\0\0"[..], &[0; 20]].concat(),
            _ => name(words[2]).borrow().as_wire().to_vec(),
        };
        Record { owner: name(words[0]), rtype, class: Class::IN, ttl: 60, rdata }
    }

    /// What clients could not read is not handed on to them.
    #[test]
    fn data_that_is_none_of_its_type_is_left_out() {
        let good = record("www.crepes.fr A 192.0.2.1");
        let as_type = |rtype, rdata: &[u8]| Record { rtype, rdata: rdata.to_vec(), ..good.clone() };
        let bad = [as_type(Type::A, &[1, 2, 3]), as_type(Type::AAAA, &[0; 17]), as_type(Type::TXT, b"\x09short")];
        assert!(sets(&bad, |_| true).is_empty());
        let mixed = sets(&[bad[0].clone(), good], |_| true);
        assert_eq!(mixed.iter().map(|set| set.with_ttl(0).len()).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn a_signature_that_comes_twice_is_one() {
        let data = record("www.crepes.fr A 192.0.2.1");
        let rdata = [&Type::A.0.to_be_bytes()[..], b"signature"].concat();
        let rrsig = Record { rtype: Type::RRSIG, rdata, ..data.clone() };
        assert_eq!(sets(&[data, rrsig.clone(), rrsig], |_| true)[0].signatures.len(), 1);
    }

    /// What is understood of a message that a server of `fr` sends when it is asked for the address of `www.crepes.fr`.
    fn said(flags: u16, answers: &[&str], authority: &[&str], additional: &[&str]) -> String {
        let head = [0, 1, (flags >> 8) as u8, flags as u8, 0, 0, 0, 0, 0, 0, 0, 0];
        let records = |lines: &[&str]| lines.iter().map(|line| record(line)).collect();
        let message = Message {
            header: Header::parse(&head).unwrap(),
            questions: vec![],
            answers: records(answers),
            authority: records(authority),
            additional: records(additional),
            tsig_at: None,
        };
        let (zone, qname) = (name("fr"), name("www.crepes.fr"));
        let asked = Asked { zone: zone.borrow(), name: qname.borrow(), rtype: Type::A, way: Way::Down };
        let list = |sets: &[Arc<Set>]| {
            sets.iter().map(|set| format!("{} {}", set.owner, set.rtype)).collect::<Vec<_>>().join(", ")
        };
        match read(&message, asked) {
            Said::Useless(because) => because.to_owned(),
            Said::Referral(Referral { servers, glue, .. }) => format!("to {}: {}", servers.owner, list(&glue)),
            Said::Answer(Answer { aliases, name, end, .. }) => {
                let end = match end {
                    End::Data(set) => format!("{} records", set.with_ttl(0).len()),
                    End::NoData(denial) => format!("no data, soa {}", denial.soa.is_some()),
                    End::NoName(denial) => format!("no name, soa {}", denial.soa.is_some()),
                    End::Leads => "leads on".to_owned(),
                };
                format!("[{}] {name} {end}", list(&aliases))
            }
        }
    }

    const AA: u16 = 0x8400;
    const NOT_AA: u16 = 0x8000;
    const NXDOMAIN: u16 = 3;

    #[test]
    fn answers_are_taken_apart() {
        let a = "www.crepes.fr A 192.0.2.1";
        assert_eq!(said(AA, &[a, "WWW.crepes.fr A 192.0.2.2"], &[], &[]), "[] www.crepes.fr. 2 records");
        let alias = "www.crepes.fr CNAME web.crepes.fr";
        assert_eq!(
            said(AA, &[alias, "web.crepes.fr A 192.0.2.1"], &[], &[]),
            "[www.crepes.fr. CNAME] web.crepes.fr. 1 records"
        );
        assert_eq!(said(AA, &[alias], &["fr SOA"], &[]), "[www.crepes.fr. CNAME] web.crepes.fr. no data, soa true");
        assert_eq!(said(NOT_AA, &[alias], &[], &[]), "[www.crepes.fr. CNAME] web.crepes.fr. leads on");
        assert_eq!(
            said(AA | NXDOMAIN, &[alias], &["fr SOA"], &[]),
            "[www.crepes.fr. CNAME] web.crepes.fr. no name, soa true"
        );
        assert_eq!(
            said(AA, &["crepes.fr DNAME baguettes.fr", "www.baguettes.fr A 192.0.2.1"], &[], &[]),
            "[crepes.fr. DNAME, www.crepes.fr. CNAME] www.baguettes.fr. 1 records"
        );
        // Whatever alias the server has made of the DNAME, ours counts.
        assert_eq!(
            said(
                AA,
                &["crepes.fr DNAME baguettes.fr", "www.crepes.fr CNAME www.bank.fr", "www.bank.fr A 192.0.2.6"],
                &[],
                &[]
            ),
            "[crepes.fr. DNAME, www.crepes.fr. CNAME] www.baguettes.fr. leads on"
        );
        assert_eq!(
            said(AA, &[alias], &["web.crepes.fr NS ns.crepes.fr"], &[]),
            "[www.crepes.fr. CNAME] web.crepes.fr. leads on"
        );
        // AA is about the alias; about its target this server says nothing (RFC 1035 §4.1.1).
        assert_eq!(said(AA, &[alias], &["fr NS ns.fr"], &[]), "[www.crepes.fr. CNAME] web.crepes.fr. leads on");
        assert_eq!(said(AA | NXDOMAIN, &[alias], &[], &[]), "[www.crepes.fr. CNAME] web.crepes.fr. leads on");
        assert_eq!(said(AA, &[], &["crepes.fr SOA"], &[]), "[] www.crepes.fr. no data, soa true");
        assert_eq!(said(AA | NXDOMAIN, &[], &[], &[]), "[] www.crepes.fr. no name, soa false");
    }

    #[test]
    fn a_referral_leads_down_and_its_glue_is_for_its_servers() {
        let ns = "crepes.fr NS ns.crepes.fr";
        assert_eq!(
            said(NOT_AA, &[], &[ns], &["ns.crepes.fr A 192.0.2.1", "www.bank.fr A 192.0.2.6"]),
            "to crepes.fr.: ns.crepes.fr. A"
        );
        assert_eq!(said(NOT_AA, &[], &["fr NS ns.nic.fr"], &[]), "it refers to where we come from (lame)");
        assert_eq!(said(NOT_AA, &[], &[". NS a.root-servers.net"], &[]), "it refers to where we come from (lame)");
        assert_eq!(said(NOT_AA, &[], &["bank.fr NS ns.bank.fr"], &[]), "it refers to where we come from (lame)");
        assert_eq!(said(NOT_AA, &[], &[], &[]), "it says nothing, and is no authority (lame)");
    }

    #[test]
    fn nobody_is_believed_about_what_is_not_theirs() {
        // An alias out of the zone, and the attacker's word about where it leads.
        assert_eq!(
            said(AA, &["www.crepes.fr CNAME www.bank.com", "www.bank.com A 192.0.2.6"], &[], &[]),
            "[www.crepes.fr. CNAME] www.bank.com. leads on"
        );
        // Glue of another zone (the Kaminsky attack's aim).
        assert_eq!(said(NOT_AA, &[], &["crepes.fr NS www.bank.com"], &["www.bank.com A 192.0.2.6"]), "to crepes.fr.: ");
        assert_eq!(said(AA, &["www.bank.com A 192.0.2.6"], &[], &[]), "[] www.crepes.fr. no data, soa false");
        assert_eq!(said(NOT_AA, &[], &["bank.com NS ns.evil.fr"], &[]), "it refers to where we come from (lame)");
        let circle = ["www.crepes.fr CNAME a.fr", "a.fr CNAME www.crepes.fr"];
        assert_eq!(
            said(AA, &circle, &[], &[]),
            "[www.crepes.fr. CNAME, a.fr. CNAME] www.crepes.fr. leads on",
            "whoever goes on notices"
        );
        assert_eq!(said(NOT_AA | NXDOMAIN, &[], &[], &[]), "it says NXDOMAIN without being an authority");
        for (rcode, want) in [(1, "FORMERR"), (2, "SERVFAIL"), (4, "NOTIMP"), (5, "REFUSED")] {
            assert_eq!(said(NOT_AA | rcode, &[], &[], &[]), format!("it says {want}"));
        }
    }
}
