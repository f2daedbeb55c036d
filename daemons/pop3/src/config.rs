//! What can be set.

use crate::session::LINE_OCTETS_MAX;
use serde::{Deserialize, Serialize};
use shared::{
    config::keep,
    login, maildir,
    units::Span,
    wire::{Limits, LineEnd},
};
use std::{
    net::{Ipv6Addr, SocketAddr},
    path::PathBuf,
};

/// The `[pop3]` table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Addresses to serve on; STLS begins TLS there.
    pub listen: Vec<SocketAddr>,
    /// Addresses where TLS comes first (port 995); they need a certificate in `[tls]`.
    pub listen_tls: Vec<SocketAddr>,
    /// The directory with the mailboxes, one Maildir for each user: `MAILBOXES/bob/{cur,new,tmp}`.
    pub mailboxes: PathBuf,
    /// Domains that may stand behind a user's name: with `["hamburger.edu"]`, bob@hamburger.edu is bob.
    pub domains: Vec<String>,
    /// Take passwords on connections that are not encrypted. For lessons only: everybody on the way can read them.
    pub allow_plaintext_auth: bool,
    /// Greet with a timestamp, so that accounts with an `apop_secret` can log in by APOP.
    pub apop: bool,
    /// How long a user must wait between two logins; `"0 s"` sets no limit.
    pub login_delay: Span,
    /// How long a client may be silent. RFC 1939 §3 wants at least 10 minutes.
    pub idle_timeout: Span,
    /// How long a client may refuse to take anything of what we send.
    pub send_timeout: Span,
    /// How long sessions may finish after the order to stop.
    pub grace: Span,
    /// Connections at the same time.
    pub connections: usize,
    /// Connections at the same time from one address (one /64 for IPv6).
    pub connections_per_peer: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![(Ipv6Addr::UNSPECIFIED, 110).into()],
            listen_tls: vec![],
            mailboxes: PathBuf::from("/var/lib/tomte/mail"),
            domains: vec![],
            allow_plaintext_auth: false,
            apop: false,
            login_delay: Span::secs(0),
            idle_timeout: Span::secs(600),
            send_timeout: Span::secs(60),
            grace: Span::secs(5),
            connections: 1000,
            connections_per_peer: 100,
        }
    }
}

impl Config {
    /// How we read and write. A bare LF ends no line: people who type use telnet, which sends CR LF, or `nc -C`.
    pub fn limits(&self) -> Limits {
        Limits {
            line_end: LineEnd::CrLf,
            line_octets_max: LINE_OCTETS_MAX,
            idle: self.idle_timeout.0,
            write: self.send_timeout.0,
        }
    }

    /// What a running server cannot change stays as it `was`; the keys that would have been changed.
    pub(crate) fn keep_bound(&mut self, was: &Self) -> Vec<&'static str> {
        let mut kept = vec![];
        keep("listen", &mut self.listen, &was.listen, &mut kept);
        keep("listen_tls", &mut self.listen_tls, &was.listen_tls, &mut kept);
        keep("connections", &mut self.connections, &was.connections, &mut kept);
        keep("connections_per_peer", &mut self.connections_per_peer, &was.connections_per_peer, &mut kept);
        keep("grace", &mut self.grace, &was.grace, &mut kept);
        kept
    }

    /// The account that a client means: its domain, if it is one of ours, is left out.
    pub fn account<'a>(&self, user: &'a str) -> &'a str {
        login::account(user, &self.domains)
    }

    /// The mailbox of an account; none for a name that would lead elsewhere.
    pub fn mailbox(&self, account: &str) -> Option<PathBuf> {
        maildir::of_account(&self.mailboxes, account)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_of_ours_is_no_part_of_the_name() {
        let config = Config { domains: vec!["hamburger.edu".to_owned()], ..Config::default() };
        for (user, account) in [
            ("bob", "bob"),
            ("bob@Hamburger.EDU", "bob"),
            ("bob@crepes.fr", "bob@crepes.fr"),
            ("a@b@hamburger.edu", "a@b"),
            ("@hamburger.edu", ""),
        ] {
            assert_eq!(config.account(user), account);
        }
    }
}
