//! Names that are answered here, whatever others say of them: those that the operator wants so, and those that are nobody's.
//!
//! A name with records here has these and no others. `*.name` stands for all that is below a name, and an alias to the root says
//! that there is no such name (the convention of response policy zones).

use super::cache::Set;
use crate::{
    name::{NameRef, Suffixes},
    rdata::Type,
    record::Record,
    zonefile,
};
use std::{collections::HashMap, path::Path, sync::Arc};

/// RFC 6761 §6.3 and §6.4, RFC 7686 §2: these are not to be asked for.
const NOBODYS: &str = "\
localhost. A 127.0.0.1
localhost. AAAA ::1
*.localhost. A 127.0.0.1
*.localhost. AAAA ::1
invalid. CNAME .
*.invalid. CNAME .
onion. CNAME .
*.onion. CNAME .
";
/// What such an answer may be kept for: the operator may change his mind.
const TTL_SECS: u32 = 60;

/// What is said here about a name.
#[derive(Clone, Debug)]
pub enum Local {
    /// These records, of the type that was asked for or an alias.
    Set(Arc<Set>),
    /// The name exists, and has none of the type.
    NoData,
    /// The name does not exist.
    NoName,
}

/// The names.
#[derive(Clone, Debug)]
pub struct Locals {
    /// By name in lower case; what is below a name stands under its wildcard.
    known: HashMap<Box<[u8]>, Vec<Arc<Set>>>,
    /// A bit for the hash of each name: most questions need not look further.
    filter: u64,
}

impl Locals {
    /// The names that are nobody's, and those in `lines`: records as they stand in a master file, with or without a TTL.
    ///
    /// # Errors
    /// A line is no record: which one, and why.
    pub fn read(lines: &[String]) -> Result<Self, String> {
        let mut locals = Self { known: HashMap::new(), filter: 0 };
        for line in NOBODYS.lines() {
            add(&mut locals.known, line).expect("a test reads them");
        }
        let mut own = HashMap::new();
        for line in lines {
            add(&mut own, line).map_err(|problem| {
                format!("`{line}`: {problem}; write a record, such as \"printer.example A 192.0.2.7\"")
            })?;
        }
        // The operator may know better what `localhost` is.
        locals.known.extend(own);
        for owner in locals.known.keys() {
            let below = owner.strip_prefix(b"\x01*").unwrap_or(owner);
            if let Ok(name) = NameRef::parse(below) {
                locals.filter |= bit(crate::name::hash(name));
            }
        }
        Ok(locals)
    }

    /// What is said here about a name and a type; `None` if others are to be asked.
    pub fn look(&self, name: NameRef<'_>, rtype: Type) -> Option<Local> {
        let suffixes = Suffixes::of(name);
        if suffixes.from_root().all(|(_, hash)| self.filter & bit(hash) == 0) {
            return None;
        }
        let key = name.as_wire().to_ascii_lowercase();
        let exact = self.known.get(&key[..]);
        let sets = exact.or_else(|| {
            (1..suffixes.count()).rev().find_map(|labels| {
                let wildcard = suffixes.suffix(labels).wildcard().ok()?;
                self.known.get(&wildcard.borrow().as_wire().to_ascii_lowercase()[..])
            })
        })?;
        let of = |rtype| sets.iter().find(|set| set.rtype == rtype);
        Some(match (of(rtype), of(Type::CNAME)) {
            (_, Some(alias)) if alias.target().is_some_and(NameRef::is_root) => Local::NoName,
            (Some(set), _) | (None, Some(set)) => Local::Set(owned_by(set, name)),
            (None, None) => Local::NoData,
        })
    }
}

fn add(known: &mut HashMap<Box<[u8]>, Vec<Arc<Set>>>, line: &str) -> Result<(), String> {
    let text = format!("$TTL {TTL_SECS}\n$ORIGIN .\n{line}\n");
    let records = zonefile::records(Path::new(""), text.as_bytes()).map_err(|error| error.problem)?;
    let [record] = &records[..] else { return Err("this is not one record".to_owned()) };
    let sets = known.entry(record.owner.borrow().as_wire().to_ascii_lowercase().into()).or_default();
    let before = sets.iter().filter(|set| set.rtype == record.rtype);
    let before = before.flat_map(|set| set.rdata().map(|rdata| Record { rdata: rdata.to_vec(), ..record.clone() }));
    let before: Vec<Record> = before.collect();
    let all: Vec<&Record> = before.iter().chain([record]).collect();
    sets.retain(|set| set.rtype != record.rtype);
    sets.extend(Set::of(&all).map(Arc::new));
    Ok(())
}

/// A wildcard's records belong to the name that it stands for.
fn owned_by(set: &Arc<Set>, name: NameRef<'_>) -> Arc<Set> {
    if set.owner.borrow() == name {
        return Arc::clone(set);
    }
    Arc::new(Set::clone(set).at(name))
}

fn bit(hash: u32) -> u64 {
    1 << (hash % 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Name;

    fn said(locals: &Locals, name: &str, rtype: Type) -> String {
        let name: Name = name.parse().unwrap();
        match locals.look(name.borrow(), rtype) {
            None => "ask".to_owned(),
            Some(Local::NoData) => "no data".to_owned(),
            Some(Local::NoName) => "no name".to_owned(),
            Some(Local::Set(set)) => format!("{} {} {}", set.owner, set.rtype, set.with_ttl(0).len()),
        }
    }

    #[test]
    fn names_of_nobody_and_names_of_the_operator_are_answered_here() {
        let lines = [
            "printer.example A 192.0.2.7",
            "Printer.example A 192.0.2.8",
            "www.example CNAME printer.example",
            "ads.example CNAME .",
            "*.ads.example CNAME .",
        ];
        let locals = Locals::read(&lines.map(str::to_owned)).unwrap();
        for (name, rtype, want) in [
            ("localhost", Type::A, "localhost. A 1"),
            ("a.b.LOCALHOST", Type::AAAA, "a.b.LOCALHOST. AAAA 1"),
            ("localhost", Type::MX, "no data"),
            ("x.invalid", Type::A, "no name"),
            ("x.onion", Type::A, "no name"),
            ("PRINTER.example", Type::A, "Printer.example. A 2"),
            ("printer.example", Type::AAAA, "no data"),
            ("x.printer.example", Type::A, "ask"),
            ("www.example", Type::A, "www.example. CNAME 1"),
            ("ads.example", Type::A, "no name"),
            ("a.b.ads.example", Type::A, "no name"),
            ("example", Type::A, "ask"),
            (".", Type::NS, "ask"),
        ] {
            assert_eq!(said(&locals, name, rtype), want, "{name} {rtype}");
        }
    }

    #[test]
    fn what_is_no_record_is_refused_with_an_example() {
        for line in ["printer.example", "printer.example A 1.2.3", "", "a A 192.0.2.1\nb A 192.0.2.1"] {
            let problem = Locals::read(&[line.to_owned()]).unwrap_err();
            assert!(problem.contains("write a record"), "{problem}");
        }
    }
}
