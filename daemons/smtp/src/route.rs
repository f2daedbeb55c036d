//! Who is here: which addresses are ours, whom they mean, and for whom else we take mail.
//!
//! ```text
//!   RCPT TO:<Info+list@hamburger.edu>
//!     hamburger.edu is one of `domains`         else: relay, if the client may; refuse, if not
//!     info+list  an alias? an account?          no
//!     info       an alias? an account?          alias: bob, alice@crepes.fr
//!     bob        an alias? an account?          an account -> bob@hamburger.edu, local
//!     alice@crepes.fr                           -> relayed, for the alias is ours
//! ```
//!
//! A name may be both: with `bob = ["bob", "alice"]` bob keeps a copy, for within an alias its own name is the account.

use crate::{
    address::{AddressError, Domain, ForwardPath, Host, Mailbox},
    reply::Reply,
};
use shared::{accounts::Accounts, sasl::prepare};
use std::{
    collections::{HashMap, HashSet},
    fmt,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

/// Mailboxes that one address may mean, and aliases on the way to them. It bounds what a client has to wait for, and what a message's
/// envelope holds. RFC 5321 §4.5.3.1.8 counts what a client says, which is bounded apart.
pub const EXPANDED_MAX: usize = 1000;
/// How long a fault address may hold up a client.
const SLOW_MAX: Duration = Duration::from_mins(5);

/// What this server knows of itself.
#[derive(Debug)]
pub struct House {
    /// What it calls itself.
    pub name: String,
    /// The domains whose mailboxes are here. The first stands behind names that come without one.
    pub domains: Vec<Domain>,
    /// Addresses that mean this server in an address literal.
    pub addresses: Vec<IpAddr>,
    /// Who has a mailbox.
    pub residents: Residents,
    /// Names that stand for others, [folded].
    pub aliases: HashMap<String, Vec<Target>>,
    /// Who gets what is for nobody.
    pub catch_all: Option<String>,
    /// What divides a name from what its owner has added to it: `bob+lists`.
    pub separator: Option<char>,
    /// Whether addresses such as `fail-451` do what they say.
    pub faults: Faults,
}

/// Who has a mailbox.
#[derive(Debug)]
pub enum Residents {
    /// Everybody who can log in.
    Accounts(Arc<Accounts>),
    /// These.
    Named(HashSet<String>),
}

/// Whom an alias means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A name of ours: an account, or another alias.
    Name(String),
    /// An account, also where an alias has its name: `\\bob`.
    Account(String),
    /// An address, ours or not.
    Address(Mailbox),
}

/// Why a name of ours means no mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmeant {
    /// Nobody is called so.
    Nobody,
    /// A list, and through it more mailboxes than [`EXPANDED_MAX`]. It is refused rather than cut: nobody would know who had the message.
    TooMany,
}

/// What a target comes to.
enum Meaning<'a> {
    /// A mailbox, here or elsewhere.
    Mailbox(Mailbox),
    /// An alias, and whom it means.
    Alias(&'a str, &'a [Target]),
    /// An alias that led here. It is being looked at.
    Circle,
    /// Nobody is called so.
    Nobody,
}

/// Whether fault addresses work: for lessons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Faults {
    On,
    Off,
}

/// Whether a client may send to others through us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MayRelay {
    /// It is in an allowed network, or has logged in.
    Yes,
    /// It is a stranger.
    No,
}

/// Whom a recipient means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meant {
    /// At least one.
    pub mailboxes: Vec<Mailbox>,
    /// How long to wait with the answer.
    pub pause: Duration,
}

/// The name under which mail for the postmaster is taken always (RFC 5321 §4.5.1).
pub const POSTMASTER: &str = "postmaster";
/// Who writes our reports. Nobody is called so; whoever answers a report has the postmaster hear of it, instead of hearing of another report.
pub const MAILER_DAEMON: &str = "MAILER-DAEMON";

impl Target {
    /// `bob`, or `bob@hamburger.edu`; `\bob` is the account.
    ///
    /// # Errors
    /// It is neither.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let (account, text) = text.strip_prefix('\\').map_or((false, text), |text| (true, text));
        if text.contains('@') {
            return text.parse().map(Self::Address);
        }
        let nowhere: Domain = "localhost".parse()?;
        let name = Mailbox::new(text, Host::Domain(nowhere))?.local().to_owned();
        Ok(if account { Self::Account(name) } else { Self::Name(name) })
    }
}

impl fmt::Display for Target {
    /// As it is written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Name(name) => f.write_str(name),
            Target::Account(name) => write!(f, "\\{name}"),
            Target::Address(mailbox) => mailbox.fmt(f),
        }
    }
}

impl House {
    /// Whether this server is the last one for mail to `host`.
    pub fn is_ours(&self, host: &Host) -> bool {
        match host {
            Host::Domain(domain) => self.domains.contains(domain),
            Host::Literal(address) => self.addresses.contains(address),
        }
    }

    /// Whom a recipient means, or why it is refused.
    ///
    /// # Errors
    /// The refusal.
    pub fn judge(&self, to: &ForwardPath, relay: MayRelay) -> Result<Meant, Reply> {
        let at_once = |mailboxes| Meant { mailboxes, pause: Duration::ZERO };
        let mailbox = match to {
            ForwardPath::Postmaster => return Ok(at_once(self.names(POSTMASTER).unwrap_or_default())),
            ForwardPath::Mailbox(mailbox) if self.is_ours(mailbox.host()) => mailbox,
            ForwardPath::Mailbox(mailbox) => match relay {
                MayRelay::Yes => return Ok(at_once(vec![mailbox.clone()])),
                MayRelay::No => return Err(Reply::relaying_denied(to)),
            },
        };
        if self.faults == Faults::On {
            if let Some(code) = fault_code(mailbox.local()) {
                return Err(Reply::as_wished(code));
            }
            if let Some(pause) = fault_pause(mailbox.local()) {
                return Ok(Meant { mailboxes: self.names(POSTMASTER).unwrap_or_default(), pause });
            }
        }
        self.expand(mailbox.local()).map(at_once).map_err(|unmeant| match unmeant {
            Unmeant::Nobody => Reply::no_such_user(to),
            Unmeant::TooMany => Reply::list_too_long(to, EXPANDED_MAX),
        })
    }

    /// The mailboxes that a name of ours means, each once; none when nobody is called so, or too many are.
    pub fn names(&self, name: &str) -> Option<Vec<Mailbox>> {
        self.expand(name).ok()
    }

    /// The mailboxes that a name of ours means, each once.
    ///
    /// # Errors
    /// See [`Unmeant`].
    pub fn expand(&self, name: &str) -> Result<Vec<Mailbox>, Unmeant> {
        match self.reach(&Target::Name(name.to_owned())) {
            Err(Unmeant::Nobody) if name.eq_ignore_ascii_case(MAILER_DAEMON) => self.expand(POSTMASTER),
            meant => meant,
        }
    }

    /// The mailboxes that a target means, each once.
    ///
    /// # Errors
    /// See [`Unmeant`].
    pub fn reach(&self, first: &Target) -> Result<Vec<Mailbox>, Unmeant> {
        let (mut found, mut once, mut seen) = (vec![], HashSet::new(), HashSet::new());
        // The aliases that led here. Each ends where `None` stands in `todo`.
        let mut path = vec![];
        let mut todo = vec![Some(first)];
        while let Some(next) = todo.pop() {
            let Some(target) = next else {
                path.pop();
                continue;
            };
            match self.meaning(target, &path) {
                Meaning::Mailbox(mailbox) => {
                    if once.insert(mailbox.clone()) {
                        found.push(mailbox);
                    }
                    if found.len() > EXPANDED_MAX {
                        return Err(Unmeant::TooMany);
                    }
                }
                Meaning::Alias(alias, targets) => {
                    if seen.insert(alias) {
                        if seen.len() > EXPANDED_MAX {
                            return Err(Unmeant::TooMany);
                        }
                        path.push(alias);
                        todo.push(None);
                        // From the end, so that the first comes out first.
                        todo.extend(targets.iter().rev().map(Some));
                    }
                }
                // An account may have gone since the start, when this would have been refused. The others get their mail.
                Meaning::Nobody if !path.is_empty() => tracing::warn!(%first, %target, "an alias leads to nobody"),
                Meaning::Nobody | Meaning::Circle => {}
            }
        }
        if found.is_empty() && matches!(first, Target::Name(name) if name.eq_ignore_ascii_case(POSTMASTER)) {
            // RFC 5321 §4.5.1: its mail is taken, whatever became of those who should have it.
            found.extend(self.at_home(POSTMASTER));
        }
        if found.is_empty() { Err(Unmeant::Nobody) } else { Ok(found) }
    }

    /// Whom a target means, where `path` are the aliases that led to it.
    fn meaning<'a>(&'a self, target: &'a Target, path: &[&str]) -> Meaning<'a> {
        let name = match target {
            Target::Address(mailbox) if self.is_ours(mailbox.host()) => mailbox.local(),
            Target::Address(mailbox) => return Meaning::Mailbox(mailbox.clone()),
            Target::Account(name) => return self.mailbox_of(name).map_or(Meaning::Nobody, Meaning::Mailbox),
            Target::Name(name) => name,
        };
        for name in [Some(name), self.catch_all.as_deref()].into_iter().flatten() {
            let alias = self.alias(name);
            if let Some((alias, targets)) = alias
                && !path.contains(&alias)
            {
                return Meaning::Alias(alias, targets);
            }
            // `bob = ["bob", "alice"]`: within its own alias, a name is the account, or bob would lose his mail by it.
            if let Some(mailbox) = self.mailbox_of(name) {
                return Meaning::Mailbox(mailbox);
            }
            if alias.is_some() {
                return Meaning::Circle;
            }
        }
        Meaning::Nobody
    }

    /// Whether mail for a target of an alias would be lost.
    pub fn is_for_nobody(&self, target: &Target) -> bool {
        matches!(self.meaning(target, &[]), Meaning::Nobody)
    }

    /// An alias by its name, and whom it means.
    fn alias(&self, name: &str) -> Option<(&str, &[Target])> {
        let of = |name: &str| self.aliases.get_key_value(&folded(name));
        let (alias, targets) = of(name).or_else(|| of(self.without_addition(name)))?;
        Some((alias, targets))
    }

    /// The mailbox of the account that is called so, as it was written.
    fn mailbox_of(&self, name: &str) -> Option<Mailbox> {
        self.account(name).and_then(|_| self.at_home(name))
    }

    /// The account of ours that a target names itself, whatever aliases there are.
    pub fn account_of(&self, target: &Target) -> Option<String> {
        match target {
            Target::Name(name) | Target::Account(name) => self.account(name),
            Target::Address(mailbox) if self.is_ours(mailbox.host()) => self.account(mailbox.local()),
            Target::Address(_) => None,
        }
    }

    /// The account that a name of ours means: as it is written, or in lower case, or without what was added to it.
    pub fn account(&self, name: &str) -> Option<String> {
        let forms = [name, self.without_addition(name)];
        forms.into_iter().flat_map(|form| [form.to_owned(), folded(form)]).find(|form| self.is_resident(form))
    }

    /// Whether an account of this name has a mailbox here.
    fn is_resident(&self, name: &str) -> bool {
        let resident = match &self.residents {
            Residents::Accounts(accounts) => accounts.has(name),
            Residents::Named(names) => names.contains(name),
        };
        resident || name == POSTMASTER
    }

    fn without_addition<'a>(&self, name: &'a str) -> &'a str {
        match self.separator.and_then(|separator| name.split_once(separator)) {
            Some((base, _)) if !base.is_empty() => base,
            _ => name,
        }
    }

    /// A name of ours with our domain.
    fn at_home(&self, name: &str) -> Option<Mailbox> {
        let domain = self.domains.first()?;
        Mailbox::new(name, Host::Domain(domain.clone())).ok()
    }

    /// `user` in its own domain: the address that its owner writes from.
    pub fn address_of(&self, user: &str) -> Option<Mailbox> {
        self.at_home(user)
    }
}

/// As names are compared where they are not as they are written: in small letters, each with its accent one character (RFC 4013), which is
/// how accounts are called.
pub fn folded(name: &str) -> String {
    prepare(&name.to_lowercase()).into_owned()
}

/// `fail-451` wants that code; only refusals can be had.
fn fault_code(local: &str) -> Option<u16> {
    let code = local.strip_prefix("fail-")?.parse().ok()?;
    // 421 closes the connection, which is another lesson.
    ((400..600).contains(&code) && code != 421).then_some(code)
}

/// `slow-10s` wants to wait.
fn fault_pause(local: &str) -> Option<Duration> {
    let seconds = local.strip_prefix("slow-")?.strip_suffix('s')?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(SLOW_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn house() -> House {
        let name = |name: &str| Target::Name(name.to_owned());
        let aliases = [
            ("info", vec![name("bob"), Target::parse("alice@crepes.fr").unwrap(), name("INFO")]),
            ("staff", vec![name("info"), name("carol"), Target::parse("bob@hamburger.edu").unwrap()]),
            ("nobody", vec![name("gone")]),
            ("carol", vec![name("carol"), name("info")]),
            ("desk", vec![name("Carol+desk"), name("carol"), Target::parse("\\carol").unwrap(), name("gone")]),
            ("round", vec![name("about"), name("bob")]),
            ("about", vec![name("round")]),
        ];
        House {
            name: "hamburger.edu".to_owned(),
            domains: vec!["hamburger.edu".parse().unwrap(), "mail.hamburger.edu".parse().unwrap()],
            addresses: vec![[127, 77, 2, 25].into()],
            residents: Residents::Named(["bob", "carol"].map(str::to_owned).into()),
            aliases: aliases.map(|(name, targets)| (name.to_owned(), targets)).into(),
            catch_all: None,
            separator: Some('+'),
            faults: Faults::On,
        }
    }

    fn meant(house: &House, to: &str) -> Result<Vec<String>, String> {
        let judged = house.judge(&to.parse().unwrap(), MayRelay::No);
        judged.map(|meant| meant.mailboxes.iter().map(ToString::to_string).collect()).map_err(|reply| reply.to_string())
    }

    #[test]
    fn names_mean_whom_they_should() {
        let house = house();
        for (to, mailboxes) in [
            ("<bob@hamburger.edu>", &["bob@hamburger.edu"][..]),
            ("<BOB@Hamburger.EDU>", &["BOB@hamburger.edu"]),
            ("<bob+lists@mail.hamburger.edu>", &["bob+lists@hamburger.edu"]),
            ("<bob@[127.77.2.25]>", &["bob@hamburger.edu"]),
            ("<Info+x@hamburger.edu>", &["bob@hamburger.edu", "alice@crepes.fr"]),
            ("<staff@hamburger.edu>", &["bob@hamburger.edu", "alice@crepes.fr", "carol@hamburger.edu"]),
            // Who is an alias of itself keeps its mail; who is not is only what it stands for.
            ("<carol@hamburger.edu>", &["carol@hamburger.edu", "bob@hamburger.edu", "alice@crepes.fr"]),
            ("<Carol+x@hamburger.edu>", &["carol@hamburger.edu", "bob@hamburger.edu", "alice@crepes.fr"]),
            ("<desk@hamburger.edu>", &["carol@hamburger.edu", "bob@hamburger.edu", "alice@crepes.fr"]),
            ("<round@hamburger.edu>", &["bob@hamburger.edu"]),
            ("<Postmaster>", &["postmaster@hamburger.edu"]),
            ("<postmaster@hamburger.edu>", &["postmaster@hamburger.edu"]),
            ("<Mailer-Daemon@hamburger.edu>", &["postmaster@hamburger.edu"]),
        ] {
            let mailboxes = mailboxes.iter().map(|&text| text.to_owned()).collect();
            assert_eq!(meant(&house, to), Ok(mailboxes), "{to}");
        }
        assert_eq!(house.account("BOB+x").as_deref(), Some("bob"));
    }

    /// Keyboards and systems write a letter and its accent as one character, or as two.
    #[test]
    fn a_name_is_the_same_however_its_letters_are_put_together() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let aliases = HashMap::from([(folded("Käse"), vec![Target::Name("ha\u{30a}kan".to_owned())])]);
        let house = House { residents: Residents::Named(names(&["h\u{e5}kan"])), aliases, ..house() };
        for name in ["h\u{e5}kan", "ha\u{30a}kan", "HA\u{30a}KAN", "H\u{c5}kan+x"] {
            assert_eq!(house.account(name).as_deref(), Some("h\u{e5}kan"), "{name}");
        }
        assert_eq!(meant(&house, "<ka\u{308}se@hamburger.edu>"), Ok(vec!["ha\u{30a}kan@hamburger.edu".to_owned()]));
        assert!(house.account("hakan").is_none());
    }

    #[test]
    fn strangers_and_relays_are_refused_and_an_own_user_is_not() {
        let house = house();
        assert!(meant(&house, "<alice@hamburger.edu>").unwrap_err().starts_with("550 5.1.1"));
        assert!(meant(&house, "<nobody@hamburger.edu>").unwrap_err().starts_with("550 5.1.1"));
        assert!(meant(&house, "<alice@crepes.fr>").unwrap_err().starts_with("550 5.7.1"));
        assert!(meant(&house, "<bob@[127.77.2.26]>").unwrap_err().starts_with("550 5.7.1"));
        // RFC 5321 appendix F.2: the percent sign routes nothing.
        assert!(meant(&house, "<alice%crepes.fr@hamburger.edu>").unwrap_err().starts_with("550 5.1.1"));
        let relayed = house.judge(&"<alice@crepes.fr>".parse().unwrap(), MayRelay::Yes).unwrap();
        assert_eq!(relayed.mailboxes, ["alice@crepes.fr".parse().unwrap()]);
    }

    #[test]
    fn what_is_for_nobody_goes_to_whom_catches_all() {
        let house = House { catch_all: Some("bob".to_owned()), ..house() };
        assert_eq!(meant(&house, "<anybody@hamburger.edu>"), Ok(vec!["bob@hamburger.edu".to_owned()]));
    }

    #[test]
    fn a_backslash_means_the_account_and_no_alias_of_its_name() {
        let mut house = house();
        house
            .aliases
            .insert("bob".to_owned(), ["alice@crepes.fr", "\\carol"].map(|text| Target::parse(text).unwrap()).into());
        let mailboxes = ["alice@crepes.fr", "carol@hamburger.edu"].map(str::to_owned).to_vec();
        assert_eq!(meant(&house, "<bob@hamburger.edu>"), Ok(mailboxes));
    }

    #[test]
    fn a_postmaster_whose_alias_leads_to_nobody_has_a_mailbox_of_its_own() {
        let mut house = house();
        house.aliases.insert(POSTMASTER.to_owned(), vec![Target::Name("gone".to_owned())]);
        for to in ["<Postmaster>", "<postmaster@hamburger.edu>"] {
            assert_eq!(meant(&house, to), Ok(vec!["postmaster@hamburger.edu".to_owned()]), "{to}");
        }
    }

    #[test]
    fn a_list_that_is_too_long_is_refused_for_ever_and_says_why() {
        let mut house = house();
        let list = |members: usize| (1..=members).map(|number| Target::Name(format!("bob+{number}"))).collect();
        house.aliases.insert("all".to_owned(), list(EXPANDED_MAX));
        assert_eq!(meant(&house, "<all@hamburger.edu>").unwrap().len(), EXPANDED_MAX);
        house.aliases.insert("all".to_owned(), list(EXPANDED_MAX + 1));
        let heard = meant(&house, "<all@hamburger.edu>").map(drop).unwrap_err();
        assert_eq!(
            heard,
            "550 5.2.4 <all@hamburger.edu>... that list has more than 1000 members: write to a part of them"
        );
        for number in 0..=EXPANDED_MAX {
            let next = vec![Target::Name(format!("a{}", number + 1)), Target::Name("bob".to_owned())];
            house.aliases.insert(format!("a{number}"), next);
        }
        assert!(meant(&house, "<a0@hamburger.edu>").map(drop).unwrap_err().starts_with("550 5.2.4"));
    }

    #[test]
    fn fault_addresses_do_what_they_say_when_they_may() {
        let mut house = house();
        assert!(meant(&house, "<fail-451@hamburger.edu>").unwrap_err().starts_with("451 4.3.0"));
        assert!(meant(&house, "<fail-250@hamburger.edu>").unwrap_err().starts_with("550 5.1.1"));
        let slow = house.judge(&"<slow-10s@hamburger.edu>".parse().unwrap(), MayRelay::No).unwrap();
        assert_eq!(slow.pause, Duration::from_secs(10));
        house.faults = Faults::Off;
        assert!(meant(&house, "<fail-451@hamburger.edu>").unwrap_err().starts_with("550 5.1.1"));
    }
}
