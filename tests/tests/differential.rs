//! A day of lookups in a minute, asked of our local name server and of Unbound: both must tell the same.
//!
//! Where they do not, BIND has the casting vote. The Internet that they ask is made up from a seed, which a failure prints:
//! aliases over zones, DNAMEs, wildcards, empty non-terminals, delegations with and without glue, servers that are lame or dead;
//! and once more with zones that are signed in every way, opted out, unsigned or spoilt. Short TTLs end while it runs.
#![expect(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tests::alone;
use tests::dns::{Answer, Over, Question, Record, Type};
use tests::internet::{Flaw, Internet, Maker, Resolver, Signing, Way, Zone};

/// Where servers are. The last leaf serves nothing that it is said to serve.
const ROOT: Ipv4Addr = Ipv4Addr::new(127, 53, 0, 1);
const TOPS: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 53, 1, 1), Ipv4Addr::new(127, 53, 1, 2)];
const LEAVES: u8 = 6;
const LAME: u8 = LEAVES;
/// Nobody is there.
const DEAD: Ipv4Addr = Ipv4Addr::new(127, 53, 9, 9);

const DOMAINS: usize = 4;
const ZONES: usize = 48;
const QUESTIONS: usize = 6000;
/// How many ask at the same time.
const CLIENTS: usize = 6;

fn leaf(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 53, 2, number + 1)
}

/// Numbers that are the same for the same seed (splitmix64).
#[derive(Debug, Clone)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.roll() % end as u64) as usize
    }

    fn of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }
}

/// How a zone's servers are found. Every second zone has glue, so that the others' servers can be in those.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    ByGlue,
    WithoutGlue,
    BesideALameOne,
    BesideADeadOne,
    Never,
}

fn found(number: usize) -> Found {
    match number % 12 {
        1 | 5 => Found::WithoutGlue,
        3 => Found::BesideALameOne,
        7 => Found::BesideADeadOne,
        9 if number > 36 => Found::Never,
        _ => Found::ByGlue,
    }
}

/// How the domains are signed.
const SIGNED: [Signing; DOMAINS] = [Signing::Nsec, Signing::Nsec3, Signing::Nsec3OptOut, Signing::Unsigned];

/// What is wrong with a signed zone; nothing, if others' servers are in it.
fn flaw(number: usize) -> Flaw {
    match number % 24 {
        2 => Flaw::Expired,
        10 => Flaw::WrongDs,
        12 => Flaw::Stripped,
        _ if number.is_multiple_of(8) => Flaw::None,
        _ => Flaw::Altered,
    }
}

/// A zone's name. Every eighth is below the one before it.
fn name(number: usize) -> String {
    if number % 8 == 7 { format!("sub.{}", name(number - 1)) } else { format!("z{number}.t{}.", number % DOMAINS) }
}

/// The records of a delegation, as the zone above has them, and the NS records and addresses that the zone itself has.
fn delegation(number: usize, servers: &[u8], dice: &mut Dice) -> (String, String) {
    let zone = name(number);
    let (mut above, mut own) = (String::new(), String::new());
    let mut add = |server: &str, glue: Option<Ipv4Addr>| {
        writeln!(above, "{zone} NS {server}").unwrap();
        writeln!(own, "@ NS {server}").unwrap();
        if let Some(glue) = glue {
            writeln!(above, "{server} A {glue}").unwrap();
            writeln!(own, "{server} A {glue}").unwrap();
        }
    };
    let by = found(number);
    match by {
        Found::WithoutGlue => {
            for server in servers {
                let other = name(dice.below(ZONES / 8) * 8);
                add(&format!("out{server}.{other}"), None);
            }
        }
        Found::Never => add(&format!("ns.{zone}"), Some(leaf(LAME))),
        _ => {
            for server in servers {
                add(&format!("ns{server}.{zone}"), Some(leaf(*server)));
            }
        }
    }
    match by {
        Found::BesideALameOne => add(&format!("lame.{zone}"), Some(leaf(LAME))),
        Found::BesideADeadOne => add(&format!("dead.{zone}"), Some(DEAD)),
        _ => {}
    }
    (above, own)
}

/// What each zone has: one of everything that makes lookups hard, with targets in zones that the dice choose.
fn records(dice: &mut Dice) -> String {
    let mut text = String::new();
    let mut add = |line: String| writeln!(text, "{line}").unwrap();
    for server in 0..=LEAVES {
        add(format!("out{server} A {}", leaf(server)));
    }
    for host in 0..6 {
        let ttl = dice.of(&[0, 1, 2, 5, 3600]);
        for record in 0..=dice.below(3) {
            add(format!("h{host} {ttl} A 192.0.{}.{}", dice.below(256), record + 1));
        }
        if dice.below(2) == 0 {
            add(format!("h{host} 2 AAAA 2001:db8::{:x}", dice.below(65536)));
        }
    }
    let mut other = || name(dice.below(ZONES));
    for line in [
        "@ MX 10 h0",
        "@ 1 TXT \"apex\"",
        "text TXT \"no address\"",
        "flaw TXT \"genuine\"",
        "a.b.ent A 192.0.2.1",
        "*.w 1 A 192.0.2.2",
        "*.w TXT \"a wildcard\"",
        "x.w A 192.0.2.3",
        "z.y.w A 192.0.2.4",
        "alias0 1 CNAME h0",
        "into-wildcard CNAME q.w",
        "into-nothing CNAME nothing",
        "to-itself CNAME to-itself",
        "loop0 CNAME loop1",
        "loop1 CNAME loop0",
        "wide DNAME w",
    ] {
        add(line.to_owned());
    }
    for (alias, target) in
        [("alias1", "h0"), ("alias2", "nobody"), ("alias3", "alias1"), ("alias4", "q.w"), ("alias5", "h1.far")]
    {
        add(format!("{alias} CNAME {target}.{}", other()));
    }
    add(format!("*.cw 2 CNAME h1.{}", other()));
    add(format!("far 2 DNAME {}", other()));
    add(format!("farther DNAME far.{}", other()));
    text
}

/// Whether zones are signed at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tree {
    Plain,
    Signed,
}

/// The whole tree.
fn zones(tree: Tree, dice: &mut Dice) -> Vec<Zone> {
    let mut root = format!("@ NS ns.root.\nns.root. A {ROOT}\n");
    let mut tops = [const { String::new() }; DOMAINS];
    for (number, top) in tops.iter_mut().enumerate() {
        for (server, ip) in TOPS.iter().enumerate() {
            writeln!(root, "t{number}. NS ns{server}.t{number}.\nns{server}.t{number}. A {ip}").unwrap();
            writeln!(top, "@ NS ns{server}\nns{server} A {ip}").unwrap();
        }
    }
    let mut leaves: Vec<Zone> = vec![];
    for number in 0..ZONES {
        let mut servers = vec![dice.below(LAME.into()) as u8];
        servers.extend(Some(dice.below(LAME.into()) as u8).filter(|second| *second != servers[0]));
        let (above, own) = delegation(number, &servers, dice);
        match number % 8 {
            7 => leaves.last_mut().unwrap().records += &above,
            _ => tops[number % DOMAINS] += &above,
        }
        let servers: Vec<Ipv4Addr> = servers.into_iter().map(leaf).collect();
        leaves.push(Zone::new(&name(number), &servers, own + &records(dice)));
    }
    let tops = tops.into_iter().enumerate().map(|(number, text)| Zone::new(&format!("t{number}."), &TOPS, text));
    let (mut root, mut tops) = (Zone::new(".", &[ROOT], root), tops.collect::<Vec<_>>());
    if tree == Tree::Signed {
        root.signing = Signing::Nsec;
        for (top, signing) in tops.iter_mut().zip(SIGNED) {
            top.signing = signing;
        }
        for (number, leaf) in leaves.iter_mut().enumerate() {
            leaf.signing = *dice.of(&SIGNED);
            if leaf.signing != Signing::Unsigned {
                leaf.flaw = flaw(number);
            }
        }
    }
    // Its server is said to serve others, and does not.
    let lame = Zone::new("lame.", &[leaf(LAME)], format!("@ NS ns\nns A {}\n", leaf(LAME)));
    [root, lame].into_iter().chain(tops).chain(leaves).collect()
}

/// Owners in every zone, and some names that are not there.
const OWNERS: [&str; 45] = [
    "",
    "h0",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "text",
    "ent",
    "b.ent",
    "a.b.ent",
    "c.b.ent",
    "w",
    "q.w",
    "q.q.w",
    "x.w",
    "q.x.w",
    "y.w",
    "q.y.w",
    "z.y.w",
    "*.w",
    "alias0",
    "x.alias0",
    "alias1",
    "alias2",
    "alias3",
    "alias4",
    "alias5",
    "into-wildcard",
    "into-nothing",
    "to-itself",
    "loop0",
    "cw",
    "q.cw",
    "far",
    "h0.far",
    "nobody.far",
    "h0.farther",
    "q.wide",
    "flaw",
    "sub",
    "h0.sub",
    "ns0",
    "nobody",
];

/// With what a question is asked.
#[derive(Debug, Clone, Copy)]
enum With {
    /// EDNS.
    Edns,
    /// DO: signatures, and the word about them.
    Dnssec,
    /// DO and CD: whoever asks validates by himself.
    Unchecked,
}

/// What somebody asks. Some zones are asked for more than others.
fn question(dice: &mut Dice) -> (String, Type, With) {
    let with = *dice.of(&[With::Edns, With::Edns, With::Dnssec, With::Dnssec, With::Dnssec, With::Unchecked]);
    let rtype = *dice.of(&[
        Type::A,
        Type::A,
        Type::A,
        Type::A,
        Type::Aaaa,
        Type::Txt,
        Type::Mx,
        Type::Ns,
        Type::Cname,
        Type::Soa,
        Type::Dname,
        Type::Ds,
        Type::Dnskey,
    ]);
    let zone = name(dice.below(ZONES).min(dice.below(ZONES)));
    let owner = *dice.of(&OWNERS);
    let name = match dice.below(40) {
        0 => format!("t{}.", dice.below(DOMAINS)),
        1 => format!("nobody{}.t{}.", dice.below(10), dice.below(DOMAINS)),
        2 => format!("nobody{}.", dice.below(100)),
        3 => format!("a.b.c.d.{}.{zone}", dice.below(1000)),
        _ if owner.is_empty() => zone,
        _ => format!("{owner}.{zone}"),
    };
    match rtype {
        // RFC 6672 §3.2 step 3C goes on with the new name, RFC 1034 §3.6.2 stops at what was asked for: Unbound does the one or the
        // other, as its cache has it, and at times says nothing at all.
        Type::Cname | Type::Dname if is_renamed(&name) || name.starts_with(LEADS_TO_A_RENAMED_ONE) => question(dice),
        _ => (name, rtype, with),
    }
}

const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;

/// RFC 4034 §3. Its data begins with the type that is signed.
const RRSIG: u16 = 46;

/// What an answer comes to. Neither TTLs nor the order of records count; what stands beside the answer is the server's choice.
struct Told {
    rcode: u8,
    authentic: bool,
    /// Without DNAMEs: Unbound leaves one out if its TTL ends before that of the alias that was made from it.
    answers: BTreeSet<(String, u16, Vec<u8>)>,
    /// For whoever reads about a difference.
    explanation: Option<(u16, String)>,
}

/// How a failure is explained does not count.
impl PartialEq for Told {
    fn eq(&self, other: &Self) -> bool {
        (self.rcode, self.authentic, &self.answers) == (other.rcode, other.authentic, &other.answers)
    }
}

impl Told {
    fn of(answer: &Answer) -> Self {
        let is_dname = |record: &&Record| {
            record.rtype == Type::Dname as u16
                || record.rtype == RRSIG && record.data.starts_with(&[0, Type::Dname as u8])
        };
        let records = answer.answers.iter().filter(|record| !is_dname(record));
        // What stands in an answer that is none is no data: Unbound leaves the aliases in it that it has believed so far.
        let records = records.filter(|_| answer.rcode != SERVFAIL);
        let answers = records.map(|record| (record.owner.clone(), record.rtype, record.data.clone())).collect();
        Self { rcode: answer.rcode, authentic: answer.authentic, answers, explanation: answer.explanation.clone() }
    }
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rcode {}{}", self.rcode, if self.authentic { " ad" } else { "" })?;
        if let Some((code, text)) = &self.explanation {
            write!(f, " ({code} {text})")?;
        }
        self.answers
            .iter()
            .try_for_each(|(owner, rtype, data)| write!(f, "; {owner} type {rtype} {}", data.escape_ascii()))
    }
}

/// An alias whose target is below a DNAME.
const LEADS_TO_A_RENAMED_ONE: &str = "alias5.";

/// Whether a name is below one of the zones' DNAMEs, in the zone itself.
fn is_renamed(name: &str) -> bool {
    ["far", "farther", "wide"].iter().any(|dname| name.split('.').nth(1) == Some(dname))
}

/// RFC 6672 §3.1: the alias that is made from a DNAME stands behind it.
fn has_its_dnames(answer: &Answer) -> bool {
    let has_dname = |alias: &Record| {
        let is_above = |record: &&Record| alias.owner.split_once('.').is_some_and(|(_, above)| above == record.owner);
        answer.answers.iter().filter(|record| record.rtype == Type::Dname as u16).any(|record| is_above(&record))
    };
    let mut aliases = answer.answers.iter().filter(|record| record.rtype == Type::Cname as u16);
    aliases.all(|alias| !is_renamed(&alias.owner) || has_dname(alias))
}

/// Why it is right that the two differ, if it is.
fn excuse((_, rtype, with): &(String, Type, With), ours: &Told, unbound: &Told) -> Option<&'static str> {
    let same = ours.answers == unbound.answers;
    let is_the_alias = !ours.answers.is_empty() && (same || unbound.rcode == SERVFAIL);
    if *rtype == Type::Cname && ours.rcode == 0 && unbound.rcode != 0 && is_the_alias {
        return Some(
            "RFC 1034 §3.6.2: the alias itself was asked for and is there; Unbound has heard what became of its target",
        );
    }
    if matches!(with, With::Unchecked) && same && ours.rcode == unbound.rcode {
        return Some(
            "RFC 4035 §3.2.2: whoever sets CD does not wait for us to validate; Unbound knows the answer's state at times",
        );
    }
    None
}

fn ask(server: &Resolver, (name, rtype, with): &(String, Type, With)) -> Result<Answer, String> {
    let question = Question::new(name, *rtype).recursive();
    let question = match with {
        With::Edns => question.with_edns(),
        With::Dnssec => question.with_dnssec(),
        With::Unchecked => question.with_dnssec().unchecked(),
    };
    match question.ask(server.address(), Over::Udp) {
        Ok(answer) if !answer.truncated => Ok(answer),
        Ok(_) => question.ask(server.address(), Over::Tcp).map_err(|error| format!("{error:#}")),
        Err(error) => Err(format!("{error:#}")),
    }
}

/// What everything is made up from: with the seed that a failure has printed the same comes again. Without one it is always
/// the same tree, so that a red test means a change; `for seed in $(seq 20); do TOMTE_TESTS_SEED=$seed ...` looks further.
fn seed() -> u64 {
    std::env::var("TOMTE_TESTS_SEED").map_or(0x1035, |seed| seed.parse().unwrap())
}

#[test]
#[ignore = "needs unshare, ip and unbound: tests/run clients"]
fn a_day_of_lookups_tells_the_same_as_unbound() {
    alone::test(|| compare(Tree::Plain)).unwrap();
}

#[test]
#[ignore = "needs unshare, ip, unbound, dnssec-keygen and dnssec-signzone: tests/run clients"]
fn a_day_of_lookups_among_signed_and_spoilt_zones_tells_the_same_as_unbound() {
    alone::test(|| compare(Tree::Signed)).unwrap();
}

fn compare(tree: Tree) {
    let seed = seed();
    let mut dice = Dice(seed);
    let internet = Internet::start(&zones(tree, &mut dice)).unwrap();
    let ours = internet.resolver(Maker::Ours, Way::Down, "").unwrap();
    let unbound = internet.resolver(Maker::Unbound, Way::Down, "").unwrap();
    let questions: Vec<(String, Type, With)> = (0..QUESTIONS).map(|_| question(&mut dice)).collect();
    let (kinds, differences) = ask_both(&questions, &ours, &unbound);
    // Nobody gains by comparing nothing but one kind of answer.
    let Kinds { data, authentic, failures, no_names } = &kinds;
    let is_common = |kind: &AtomicUsize| kind.load(Ordering::Relaxed) > QUESTIONS / 50;
    assert!([data, failures, no_names].into_iter().all(is_common), "{kinds:?}");
    assert_eq!(is_common(authentic), tree == Tree::Signed, "{kinds:?}");
    let wrong = outvoted(differences, &internet);
    let some = wrong[..wrong.len().min(20)].join("\n");
    assert!(wrong.is_empty(), "seed {seed}: {} of {QUESTIONS} answers differ:\n{some}", wrong.len());
}

/// What the two do not agree about.
struct Difference<'q> {
    question: &'q (String, Type, With),
    ours: Result<Told, String>,
    unbound: Result<Told, String>,
}

/// How many answers there were of each kind.
#[derive(Debug, Default)]
struct Kinds {
    data: AtomicUsize,
    authentic: AtomicUsize,
    failures: AtomicUsize,
    no_names: AtomicUsize,
}

impl Kinds {
    fn count(&self, answer: &Answer) {
        let kind = match answer.rcode {
            0 => &self.data,
            NXDOMAIN => &self.no_names,
            _ => &self.failures,
        };
        kind.fetch_add(1, Ordering::Relaxed);
        self.authentic.fetch_add(usize::from(answer.authentic), Ordering::Relaxed);
    }
}

/// Asks both, in several threads; keeps what they do not agree about and what nothing excuses.
fn ask_both<'q>(
    questions: &'q [(String, Type, With)],
    ours: &Resolver,
    unbound: &Resolver,
) -> (Kinds, Vec<Difference<'q>>) {
    let (next, kinds, differences) = (AtomicUsize::new(0), Kinds::default(), Mutex::new(vec![]));
    let client = || {
        while let Some(question) = questions.get(next.fetch_add(1, Ordering::Relaxed)) {
            let (ours, unbound) = (
                ask(ours, question),
                // Unbound may be longer about a dead server than anybody waits, so it is asked again.
                ask(unbound, question).or_else(|_| ask(unbound, question)),
            );
            if let Ok(answer) = &ours {
                kinds.count(answer);
                assert!(has_its_dnames(answer), "{question:?}: {answer:?}");
            }
            let (ours, unbound) = (ours.map(|it| Told::of(&it)), unbound.map(|it| Told::of(&it)));
            let is_fine = match (&ours, &unbound) {
                (Ok(ours), Ok(unbound)) => ours == unbound || excuse(question, ours, unbound).is_some(),
                // What is bogus and has a dead server too keeps Unbound busy for longer than a client waits twice.
                (Ok(ours), Err(_)) => ours.rcode == SERVFAIL,
                _ => false,
            };
            if !is_fine {
                differences.lock().unwrap().push(Difference { question, ours, unbound });
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(client);
        }
    });
    (kinds, differences.into_inner().unwrap())
}

/// BIND has the casting vote: where it says what ours does, Unbound has made a mistake of its own. What remains is ours.
fn outvoted(differences: Vec<Difference<'_>>, internet: &Internet) -> Vec<String> {
    let mut wrong = vec![];
    if !differences.is_empty() {
        let bind = internet.resolver(Maker::Bind, Way::Down, "").unwrap();
        for Difference { question, ours, unbound } in differences {
            let vote = ask(&bind, question).map(|answer| Told::of(&answer));
            let told = format!("{question:?}\n  ours:    {ours:?}\n  unbound: {unbound:?}\n  bind:    {vote:?}");
            if ours.is_ok() && ours == vote {
                eprintln!("two against Unbound: {told}");
            } else {
                wrong.push(told);
            }
        }
    }
    wrong
}
