//! Questions and answers, as they stand in `tests/answers/*.txt`, played against the server without its sockets.
//!
//! `C:` asks: name, type, and perhaps `CH`, `rd`, `edns SIZE`, `do`, `opt CODE HEX` (`-` is none), `tcp`, `tls`. `S:` is the whole answer: the RCODE with flags and
//! counts, then each record with the letter of its section: `an`, `au`, `ad`. `UPDATE=1` rewrites the `S:` lines; then read
//! the difference as a reviewer would.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use dns::{
    Rewrite,
    authority::{Identity, Rotation, Zones},
    cookie::Cookies,
    denial::{Chain, Hash, hash_in_label},
    message::{self, Rcode},
    name::Name,
    rate::Rates,
    rdata::{self, Field, Type},
    respond::{Asker, Carrier, Policy, Response, World, answer_line, respond},
    zonefile,
};
use std::{
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    net::Ipv6Addr,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

/// The zones in `tests/zones`.
const ZONES: [&str; 5] = ["example", "nsec.test", "hashed.test", "optout.test", "star.test"];

fn world() -> World {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/zones");
    let load = |zone: &str| {
        let name: Name = zone.parse().unwrap();
        let file = dir.join(format!("{zone}.zone"));
        Arc::new(zonefile::load(name.borrow(), &file, Rewrite::None).unwrap().zone)
    };
    World {
        everybody: Arc::new(Zones::new(ZONES.map(load).to_vec())),
        views: vec![],
        identity: Arc::new(Identity::new("tomte", "ns.example")),
        policy: Arc::new(policy()),
        resolver: None,
        udp_octets_max: 1232,
    }
}

/// The name whose hash an NSEC3 record has: proofs are to be read.
fn unhashed(world: &World, hash: Hash) -> String {
    let names = world.everybody.iter().flat_map(|zone| match zone.chain() {
        Chain::Nsec3 { hash, .. } => {
            zone.nodes().map(|node| (hash.hash(node.name()), node.name().to_string())).collect()
        }
        _ => vec![],
    });
    names.into_iter().find(|(known, _)| *known == hash).unwrap().1
}

/// `www.example. A rd edns 1232` as octets.
fn question(words: &str) -> (Vec<u8>, Carrier) {
    let words: Vec<&str> = words.split_whitespace().collect();
    let [name, qtype, options @ ..] = &words[..] else { panic!("{words:?}") };
    let has = |word: &str| options.contains(&word);
    let qtype = match qtype.trim_end_matches('?') {
        "ANY" => Type::ANY,
        "AXFR" => Type::AXFR,
        other => other.parse().unwrap(),
    };
    let mut octets = vec![0xab, 0xcd, u8::from(has("rd")), 0, 0, 1, 0, 0, 0, 0, 0, 0];
    octets.extend(Name::from_text(name.as_bytes(), None).unwrap().borrow().as_wire());
    octets.extend(qtype.0.to_be_bytes());
    octets.extend([0, if has("CH") { 3 } else { 1 }]);
    if let Some(at) = options.iter().position(|word| *word == "edns") {
        let size: u16 = options[at + 1].parse().unwrap();
        let mut edns = vec![];
        for at in (0..options.len()).filter(|at| options[*at] == "opt") {
            let (code, hex): (u16, &str) = (options[at + 1].parse().unwrap(), options[at + 2].trim_matches('-'));
            let octet = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            let data: Vec<u8> = (0..hex.len()).step_by(2).map(octet).collect();
            edns.extend([code.to_be_bytes(), (data.len() as u16).to_be_bytes()].concat());
            edns.extend(data);
        }
        octets[11] = 1;
        octets.extend([0, 0, 41]);
        octets.extend(size.to_be_bytes());
        octets.extend([0, 0, if has("do") { 0x80 } else { 0 }, 0]);
        octets.extend((edns.len() as u16).to_be_bytes());
        octets.extend(edns);
    }
    let carrier = if has("tls") { Carrier::Tls } else { Carrier::Udp };
    (octets, if has("tcp") { Carrier::Tcp } else { carrier })
}

fn policy() -> Policy {
    Policy {
        cookies: Cookies::new([7; 16]),
        rates: Rates::new(0, 0, SystemTime::UNIX_EPOCH),
        idle_timeout: Duration::from_secs(10),
    }
}

fn answer(world: &World, rotation: &mut Rotation, query: &[u8], carrier: Carrier) -> Option<(Vec<u8>, Rcode)> {
    let mut buffer = vec![0; 65535];
    match respond(
        world,
        &message::receive(query),
        Asker { address: Ipv4Addr::LOCALHOST.into(), carrier, now: SystemTime::UNIX_EPOCH },
        rotation,
        &mut buffer,
    ) {
        Response::Silence(_) | Response::Errand | Response::Recurse(_) => None,
        Response::Send { octets, rcode, .. } => {
            buffer.truncate(octets);
            Some((buffer, rcode))
        }
    }
}

fn u16_at(octets: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([octets[at], octets[at + 1]]))
}

/// The lines of an answer. It reads what we wrote by the rules of RFC 1035, compression included.
fn told(world: &World, octets: &[u8], rcode: Rcode) -> Vec<String> {
    let mut lines = vec![answer_line(octets, rcode)];
    assert_eq!(octets[..2], [0xab, 0xcd], "the id is the client's");
    assert_eq!(octets[2] & 0x80, 0x80, "QR");
    let mut at = 12;
    for _ in 0..u16_at(octets, 4) {
        at = message::read_name(octets, at).unwrap().1 + 4;
    }
    for (section, counted) in [("an", 6), ("au", 8), ("ad", 10)] {
        for _ in 0..u16_at(octets, counted) {
            let (owner, end) = message::read_name(octets, at).unwrap();
            let rtype = Type(u16_at(octets, end) as u16);
            let ttl = u16_at(octets, end + 4) << 16 | u16_at(octets, end + 6);
            let (from, to) = (end + 10, end + 10 + u16_at(octets, end + 8));
            at = to;
            lines.push(match rtype {
                Type::OPT => {
                    let mut line = format!("{section} OPT {} {:#010x}", u16_at(octets, end + 2), ttl);
                    let mut at = from;
                    while at < to {
                        let (code, behind) = (u16_at(octets, at), at + 4 + u16_at(octets, at + 2));
                        let octets_of = octets[at + 4..behind].iter();
                        let hex = octets_of.fold(String::new(), |hex, octet| hex + &format!("{octet:02x}"));
                        // Padding is told by what it makes of the message.
                        write!(line, " opt {code} ").unwrap();
                        line += if code == 12 { "0.." } else { &hex };
                        at = behind;
                    }
                    if line.contains("opt 12") {
                        write!(line, " ({} octets in all)", octets.len()).unwrap();
                    }
                    line
                }
                // The rest of a signature is for validators.
                Type::RRSIG => {
                    let (covers, labels) = (Type(u16_at(octets, from) as u16), octets[from + 3]);
                    format!("{section} {owner} {ttl} RRSIG {covers} {labels}")
                }
                Type::NSEC3 => {
                    let salt = usize::from(octets[from + 4]);
                    let next = from + 6 + salt;
                    let owner = unhashed(world, hash_in_label(owner.borrow()).unwrap());
                    let behind = unhashed(world, octets[next..next + 20].try_into().unwrap());
                    format!("{section} hash of {owner} {ttl} NSEC3 {behind}{}", types(&octets[next + 20..to]))
                }
                _ => format!("{section} {owner} {ttl} {rtype}{}", data(octets, rtype, from, to)),
            });
        }
    }
    assert_eq!(at, octets.len(), "nothing is left over");
    lines
}

fn data(octets: &[u8], rtype: Type, mut at: usize, end: usize) -> String {
    let mut text = String::new();
    for field in rdata::fields(rtype).unwrap_or(&[Field::Hex]) {
        text.push(' ');
        match field {
            Field::Name | Field::NameCompressible => {
                let (name, behind) = message::read_name(octets, at).unwrap();
                text += &name.to_string();
                at = behind;
            }
            Field::U8 => {
                text += &octets[at].to_string();
                at += 1;
            }
            Field::U16 => {
                text += &u16_at(octets, at).to_string();
                at += 2;
            }
            Field::U32 | Field::Period => {
                text += &(u16_at(octets, at) << 16 | u16_at(octets, at + 2)).to_string();
                at += 4;
            }
            Field::TypeBitmap => {
                text.truncate(text.len() - 1);
                text += &types(&octets[at..end]);
                at = end;
            }
            Field::Ipv4 => {
                text += &Ipv4Addr::from(<[u8; 4]>::try_from(&octets[at..end]).unwrap()).to_string();
                at = end;
            }
            Field::Ipv6 => {
                text += &Ipv6Addr::from(<[u8; 16]>::try_from(&octets[at..end]).unwrap()).to_string();
                at = end;
            }
            Field::Texts => {
                let length = usize::from(octets[at]);
                write!(text, "{:?}", String::from_utf8_lossy(&octets[at + 1..=at + length])).unwrap();
                at += 1 + length;
            }
            _ => {
                octets[at..end].iter().for_each(|octet| write!(text, "{octet:02x}").unwrap());
                at = end;
            }
        }
    }
    assert_eq!(at, end, "the data of {rtype} has its length");
    text
}

/// The types of a bit map, each with a blank before it.
fn types(mut map: &[u8]) -> String {
    let mut text = String::new();
    while let [window, octets, rest @ ..] = map {
        let (bits, behind) = rest.split_at(usize::from(*octets));
        for number in 0..bits.len() * 8 {
            if bits[number / 8] & (0x80 >> (number % 8)) != 0 {
                write!(text, " {}", Type(u16::from(*window) << 8 | number as u16)).unwrap();
            }
        }
        map = behind;
    }
    text
}

#[test]
fn the_answers_are_those_of_the_files() {
    let world = world();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/answers");
    let mut files: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 10, "the files are there");
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let mut rotation = Rotation::default();
        let mut fresh = String::new();
        for line in text.lines().filter(|line| !line.starts_with("S:")) {
            writeln!(fresh, "{line}").unwrap();
            if let Some(words) = line.strip_prefix("C: ") {
                let (query, carrier) = question(words);
                let (octets, rcode) = answer(&world, &mut rotation, &query, carrier).expect("a query is answered");
                for line in told(&world, &octets, rcode) {
                    writeln!(fresh, "S: {line}").unwrap();
                }
            }
        }
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&file, fresh).unwrap();
        } else {
            assert_eq!(fresh, text, "{}", file.display());
        }
    }
}

#[test]
fn every_part_of_a_query_gets_an_answer_or_silence_and_never_harms() {
    let world = world();
    let mut rotation = Rotation::default();
    let (whole, _) = question("www.example. A? rd edns 1232 do");
    for length in 0..whole.len() {
        let answered = answer(&world, &mut rotation, &whole[..length], Carrier::Udp).map(|(_, rcode)| rcode);
        let want = (length >= 12).then_some(Rcode::FORMERR);
        assert_eq!(answered, want, "{length} octets");
    }
    // Every octet of it changed to every other value.
    for at in 0..whole.len() {
        for value in 0..=255 {
            let mut changed = whole.clone();
            changed[at] = value;
            if let Some((octets, _)) = answer(&world, &mut rotation, &changed, Carrier::Udp) {
                assert_eq!(octets[..2], changed[..2]);
                assert_ne!(octets[2] & 0x80, 0);
            }
        }
    }
}

#[test]
fn malformed_messages_get_what_the_rfcs_say() {
    let (plain, _) = question("www.example. A?");
    let (edns, _) = question("www.example. A? edns 1232");
    let with = |octets: &[u8], at: usize, value: u8| {
        let mut octets = octets.to_vec();
        octets[at] = value;
        octets
    };
    let join = |octets: &[u8], more: &[u8]| [octets, more].concat();
    let opt_at = edns.len() - 11;
    let twice = with(&join(&edns, &edns[opt_at..]), 11, 2);
    // RFC 7873 §5.4: no question, and OPT with a client's cookie.
    let cookie = join(b"\xab\xcd\0\0\0\0\0\0\0\0\0\x01", b"\0\0\x29\x04\xd0\0\0\0\0\0\x0c\0\x0a\0\x08abcdefgh");
    let table: [(&str, Vec<u8>, Option<Rcode>); 24] = [
        ("QR=1: two servers must not answer each other for ever", with(&plain, 2, 0x80), None),
        ("no octets", vec![], None),
        ("eleven octets", plain[..11].to_vec(), None),
        ("opcode STATUS", with(&plain, 2, 2 << 3), Some(Rcode::NOTIMP)),
        ("opcode 15", with(&plain, 2, 15 << 3), Some(Rcode::NOTIMP)),
        ("QDCOUNT 0", with(&plain[..12], 5, 0), Some(Rcode::FORMERR)),
        ("QDCOUNT 2", with(&join(&plain, &plain[12..]), 5, 2), Some(Rcode::FORMERR)),
        ("ANCOUNT 1", with(&plain, 7, 1), Some(Rcode::FORMERR)),
        ("a pointer to itself", with(&with(&plain, 12, 0xc0), 13, 12), Some(Rcode::FORMERR)),
        ("a label of 64", with(&plain, 12, 64), Some(Rcode::FORMERR)),
        ("a name of 256", join(&join(&plain[..12], &b"\x01a".repeat(128)), &[0, 0, 1, 0, 1]), Some(Rcode::FORMERR)),
        ("junk behind the end", join(&plain, b"x"), Some(Rcode::FORMERR)),
        ("OPT twice", twice, Some(Rcode::FORMERR)),
        ("OPT with a name", with(&join(&plain, b"\x01a\0\0\x29\x04\0\0\0\0\0\0\0"), 11, 1), Some(Rcode::FORMERR)),
        ("OPT that says more than it has", with(&edns, edns.len() - 1, 1), Some(Rcode::FORMERR)),
        ("half an option", with(&join(&edns, b"\0\x03\0"), edns.len() - 1, 3), Some(Rcode::FORMERR)),
        ("an option nobody knows", with(&join(&edns, b"\xff\xf0\0\x01x"), edns.len() - 1, 5), Some(Rcode::NOERROR)),
        ("EDNS version 1", with(&edns, opt_at + 6, 1), Some(Rcode::BADVERS)),
        ("a cookie and no question", cookie.clone(), Some(Rcode::NOERROR)),
        ("the same, and OPT has a name", join(&join(&cookie[..12], b"\x01a"), &cookie[12..]), Some(Rcode::FORMERR)),
        ("the same, EDNS version 1", with(&cookie, 18, 1), Some(Rcode::BADVERS)),
        ("the same, half an option behind it", with(&join(&cookie, b"\0\x03\0"), 22, 15), Some(Rcode::FORMERR)),
        ("the same, junk behind the end", join(&cookie, b"x"), Some(Rcode::FORMERR)),
        ("no question, and NSID instead of a cookie", with(&cookie, 24, 3), Some(Rcode::FORMERR)),
    ];
    let world = world();
    for (what, query, want) in table {
        let answered = answer(&world, &mut Rotation::default(), &query, Carrier::Udp);
        assert_eq!(answered.as_ref().map(|(_, rcode)| *rcode), want, "{what}");
        if let Some((octets, rcode)) = answered {
            let lines = told(&world, &octets, rcode);
            // RFC 6891 §6.1.3: the upper bits of BADVERS stand in OPT.
            assert!(rcode != Rcode::BADVERS || lines.contains(&"ad OPT 1232 0x01000000".to_owned()), "{lines:?}");
        }
    }
}

proptest::proptest! {
    #[test]
    fn no_octets_harm_the_server(octets in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        let world = world();
        let mut query = octets;
        // Make more of them look like queries.
        if query.len() > 12 && query[0] % 2 == 0 {
            query[2..12].copy_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
        }
        if let Some((answer, _)) = answer(&world, &mut Rotation::default(), &query, Carrier::Udp) {
            proptest::prop_assert!(answer.len() >= 12 && answer.len() <= 1232);
        }
    }

    #[test]
    fn a_small_datagram_gets_whole_sets_or_tc(size in 0_u16..1400) {
        let world = world();
        for name in ["www.example. A?", "host.sub.example. A?", "second.example. AAAA?", "example. MX?"] {
            let (query, carrier) = question(&format!("{name} edns {size}"));
            let (octets, rcode) = answer(&world, &mut Rotation::default(), &query, carrier).unwrap();
            proptest::prop_assert!(octets.len() <= usize::from(size.max(512)));
            let _ = told(&world, &octets, rcode);
        }
    }
}
