//! Who the root's servers are (RFC 9609): hints get old, so they are asked that first, and asked again when the answer does.
//!
//! ```text
//!   C: . NS?                          one of the hints, another one after each start
//!   S: a to m, and their addresses    the cache has them from now on; until then, and whenever it has not, the hints do
//! ```
//!
//! Nobody waits for it: the hints are as good for a first question.

use super::{
    Checking, Resolver,
    iterate::{Failure, Freshness, Task},
    own::Standpoint,
};
use crate::{
    name::{Name, NameRef},
    rdata::Type,
};
use serde::{Deserialize, Serialize};
use std::{
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};

/// How long after a failure it is tried again, and twice as long after each further one.
const AGAIN: Duration = Duration::from_secs(1);
/// The longest such time; and the least for which an answer is taken to be good.
const AGAIN_MAX: Duration = Duration::from_mins(10);

/// Whether the root's servers are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Prime {
    /// Without a file of hints.
    #[default]
    Internet,
    /// With one too.
    Always,
    /// Not at all.
    Never,
}

/// Keeps the cache in mind of the root's servers, as long as somebody has the resolver.
pub(super) async fn keep(resolver: Weak<Resolver>) {
    let mut again = AGAIN;
    while let Some(resolver) = resolver.upgrade() {
        // Who asks others does not go down from the root, or only when these are lost.
        if !resolver.primes || !resolver.forward.is_empty() {
            return;
        }
        let wait = match resolver.prime().await {
            Ok(ttl) => {
                tracing::debug!(ttl, "the root's servers are known");
                again = AGAIN;
                // RFC 9609 §3.1 permits to ask before the end: then nobody meets a moment without an answer.
                (Duration::from_secs(ttl.into()) / 10 * 9).max(AGAIN_MAX)
            }
            Err(failure) => {
                tracing::info!(%failure, "the root's servers cannot be asked for; the hints will do");
                let wait = again;
                again = (again * 2).min(AGAIN_MAX);
                wait
            }
        };
        drop(resolver);
        tokio::time::sleep(wait).await;
    }
}

impl Resolver {
    /// Asks for the root's servers. Returns for how long the answer is good.
    async fn prime(&self) -> Result<u32, Failure> {
        let nobodys = Standpoint { checking: Checking::On, own: &Arc::default() };
        let task = Task::new(0, nobodys, &self.known);
        // RFC 9609 §3.3: with DO, as all questions. The NS set is validated; addresses are not, for their zone is not signed, and whatever
        // such a server says is validated anyhow.
        self.refresh(&Name::root(), Type::NS, &task).await?;
        let unchecked = Standpoint { checking: Checking::Off, ..nobodys };
        let known = self.look(NameRef::ROOT, Type::NS, Freshness::Good, unchecked, self.now())?.reply;
        Ok(known.answers.first().map_or(0, |(_, ttl)| *ttl))
    }
}

/// Hints in the order in which they are tried while nothing is known of them: RFC 9609 §3.2 wants the first to be a random one, so that
/// each root server gets its share. Those of IPv4 come first, which every host has.
pub(super) fn shuffled(hints: Vec<SocketAddr>, random: usize) -> Vec<SocketAddr> {
    let (mut four, mut six): (Vec<SocketAddr>, Vec<SocketAddr>) = hints.into_iter().partition(SocketAddr::is_ipv4);
    for family in [&mut four, &mut six] {
        let first = random % family.len().max(1);
        family.rotate_left(first);
    }
    [four, six].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9609 §3.2.
    #[test]
    fn each_hint_comes_first_now_and_then_and_all_stay() {
        let hints: Vec<SocketAddr> = ["192.0.2.1:53", "[2001:db8::1]:53", "192.0.2.2:53", "192.0.2.3:53"]
            .map(|text| text.parse().unwrap())
            .to_vec();
        let firsts: Vec<String> = (0..4).map(|turn| shuffled(hints.clone(), turn)[0].to_string()).collect();
        assert_eq!(firsts, ["192.0.2.1:53", "192.0.2.2:53", "192.0.2.3:53", "192.0.2.1:53"]);
        let mut all = shuffled(hints.clone(), 5);
        assert!(all[3].is_ipv6());
        all.sort_unstable();
        let mut hints = hints;
        hints.sort_unstable();
        assert_eq!(all, hints);
        assert!(shuffled(vec![], 5).is_empty());
    }
}
