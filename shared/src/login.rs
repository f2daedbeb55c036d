//! Somebody logs in: the accounts are asked, what came of it is counted, and whoever guesses waits.
//!
//! ```text
//!   session -- Verify(credentials) --> driver --> Logins::check --> accounts
//!           -- FetchKeys(user) ------> driver --> Logins::keys        |
//!           <------------ Answer ------------------------------------+
//! ```

use crate::{
    Shared,
    accounts::{Accounts, Verdict},
    sasl::{Credentials, Proof},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use prometheus_client::metrics::counter::Counter;
use ring::rand::{SecureRandom, SystemRandom};
use std::{net::IpAddr, sync::Arc, time::Instant};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

pub use crate::sasl::Answer;

/// Where a daemon's clients log in.
#[derive(Debug)]
pub struct Logins {
    accounts: Arc<Accounts>,
    welcome: Counter,
    denied: Counter,
}

impl Logins {
    /// With the daemon's accounts and counters.
    pub fn new(shared: &Shared) -> Self {
        let counter = |result| shared.metrics.labelled("logins", "Logins by result", &[("result", result)]);
        Self { accounts: Arc::clone(&shared.accounts), welcome: counter("welcome"), denied: counter("denied") }
    }

    /// Whether a client at `peer` is `user`, the account that its credentials mean. A denial takes its time, until `shutdown`.
    pub async fn check(
        &self,
        user: &str,
        credentials: &Credentials,
        peer: IpAddr,
        shutdown: &CancellationToken,
    ) -> Answer {
        let now = Instant::now();
        let verdict = match credentials {
            Credentials::Password { secret, .. } => self.accounts.verify(user, secret, peer, now).await,
            Credentials::Scram { proof, .. } => self.accounts.judge(user, peer, now, |_| *proof != Proof::Wrong),
        };
        self.settle(verdict, user, peer, shutdown).await
    }

    /// The same for a proof that needs the account's clear secret; see [`Accounts::judge`].
    pub async fn judge(
        &self,
        user: &str,
        proof: impl FnOnce(Option<&str>) -> bool,
        peer: IpAddr,
        shutdown: &CancellationToken,
    ) -> Answer {
        let verdict = self.accounts.judge(user, peer, Instant::now(), proof);
        self.settle(verdict, user, peer, shutdown).await
    }

    async fn settle(&self, verdict: Verdict, user: &str, peer: IpAddr, shutdown: &CancellationToken) -> Answer {
        match verdict {
            Verdict::Welcome => {
                self.welcome.inc();
                Answer::Welcome
            }
            Verdict::Denied { because, pause } => {
                self.denied.inc();
                tracing::info!(user, %peer, ?because, "denied");
                shutdown.run_until_cancelled(sleep(pause)).await;
                Answer::Denied
            }
            Verdict::TooSoon { wait } => Answer::TooSoon(wait),
            Verdict::CannotTell => Answer::CannotTell,
        }
    }

    /// What the proof of a client at `peer` that it is `user` will be checked with.
    pub fn keys(&self, user: &str, peer: IpAddr) -> Answer {
        match (self.accounts.wait(peer, Instant::now()), nonce()) {
            (Some(wait), _) => Answer::TooSoon(wait),
            (None, Some(nonce)) => Answer::Keys { keys: self.accounts.scram(user), nonce },
            (None, None) => Answer::CannotTell,
        }
    }
}

/// The account that `user` means: mail programs offer the whole address, and its domain is left out if it is one of `ours`, in letters or as
/// the DNS has it.
pub fn account<'a>(user: &'a str, ours: &[String]) -> &'a str {
    match user.rsplit_once('@') {
        Some((name, domain)) if ours.iter().any(|ours| is_same(ours, domain)) => name,
        _ => user,
    }
}

fn is_same(one: &str, other: &str) -> bool {
    // What is no domain is only itself.
    let in_dns = |domain: &str| idna::domain_to_ascii(domain).ok();
    one.eq_ignore_ascii_case(other) || in_dns(one).is_some_and(|one| in_dns(other) == Some(one))
}

/// A nonce for SCRAM; none without randomness. Base64 has no comma (RFC 5802 §7).
pub fn nonce() -> Option<String> {
    let mut octets = [0; 18];
    SystemRandom::new().fill(&mut octets).ok()?;
    Some(BASE64_STANDARD.encode(octets))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_denial_waits_and_a_stop_ends_the_wait() {
        let (logins, peer) = (Logins::new(&Shared::for_tests("pop3")), [127, 0, 0, 1].into());
        let wrong = || Credentials::Scram { user: "bob".to_owned(), proof: Proof::Wrong };
        let (began, going_on) = (tokio::time::Instant::now(), CancellationToken::new());
        assert!(matches!(logins.check("bob", &wrong(), peer, &going_on).await, Answer::Denied));
        assert!(began.elapsed() > Duration::ZERO);
        assert!(matches!(logins.keys("bob", peer), Answer::TooSoon(_)));
        let (began, stopped) = (tokio::time::Instant::now(), CancellationToken::new());
        stopped.cancel();
        assert!(matches!(logins.judge("bob", |_| false, [127, 0, 0, 2].into(), &stopped).await, Answer::Denied));
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert_eq!(logins.denied.get(), 2);
    }

    #[test]
    fn an_address_of_ours_means_its_account_and_nobody_elses_does() {
        let ours = ["hamburger.edu".to_owned()];
        for (user, means) in [
            ("bob", "bob"),
            ("bob@Hamburger.EDU", "bob"),
            ("bob@crepes.fr", "bob@crepes.fr"),
            ("a@b@hamburger.edu", "a@b"),
            ("@hamburger.edu", ""),
            ("bob@", "bob@"),
            ("bob@ham burger.edu", "bob@ham burger.edu"),
        ] {
            assert_eq!(account(user, &ours), means);
        }
        // RFC 5890 §2.3.2.5: the same domain, however its letters are written.
        for ours in ["exämple.se", "xn--exmple-cua.se"].map(|ours| [ours.to_owned()]) {
            for user in [
                "bob@exämple.se",
                "bob@xn--exmple-cua.se",
                "bob@XN--EXMPLE-CUA.SE",
                "bob@EXÄMPLE.se",
                "bob@exa\u{308}mple.se",
            ] {
                assert_eq!(account(user, &ours), "bob", "{user} {ours:?}");
            }
            assert_eq!(account("bob@example.se", &ours), "bob@example.se");
        }
    }

    #[test]
    fn no_nonce_comes_twice_and_none_has_a_comma() {
        let (one, other) = (nonce().unwrap(), nonce().unwrap());
        assert!(one != other && !one.contains(','));
    }
}
