//! What of an answer is kept, for how long, and how far it is believed (RFC 2181 §5.4.1, RFC 2308 §5).
//!
//! Everything here has been through [`scrub`](super::scrub): it is about the zone whose server said it, or not here.

use super::{
    cache::{Cache, Credibility, Denial, Origin, Security},
    scrub::{Answer, End, Referral},
};
use crate::rdata::Type;
use std::{net::SocketAddr, sync::Arc};

impl Cache {
    /// Keeps whom a server has referred us to. Nothing of it is an answer to anybody, but the DS records.
    pub fn keep_referral(&self, referral: &Referral, from: SocketAddr, now: u64) {
        let told = |credibility| Origin { credibility, security: Security::Unchecked, from };
        self.put_set(Arc::clone(&referral.servers), told(Credibility::Referral), now);
        for set in &referral.glue {
            self.put_set(Arc::clone(set), told(Credibility::Additional), now);
        }
        // RFC 4035 §3.1.4.1: the parent is the authority for DS, and for there being none.
        if let Some(ds) = referral.about_keys.iter().find(|set| set.rtype == Type::DS) {
            self.put_set(Arc::clone(ds), told(Credibility::Answer), now);
        } else {
            // Without a SOA it is no answer for a client (RFC 2308 §5), but it spares a question of ours.
            let ttl = referral.about_keys.iter().map(|proof| proof.ttl).min().unwrap_or(0);
            let denial = Arc::new(Denial { soa: None, proofs: referral.about_keys.clone() });
            let zone = referral.servers.owner.borrow();
            self.put_no_data(zone, Type::DS, denial, ttl, told(Credibility::Referral), now);
        }
    }

    /// Keeps the answer to a question for `rtype`.
    pub fn keep_answer(&self, answer: &Answer, rtype: Type, security: Security, from: SocketAddr, now: u64) {
        let credibility = if answer.is_authoritative { Credibility::Answer } else { Credibility::Hearsay };
        let origin = Origin { credibility, security, from };
        let data = if let End::Data(set) = &answer.end { Some(set) } else { None };
        for set in answer.aliases.iter().chain(data).filter(|set| !set.is_made) {
            self.put_set(Arc::clone(set), origin, now);
        }
        let (name, origin) = (answer.name.borrow(), Origin { credibility: Credibility::Answer, ..origin });
        match &answer.end {
            End::NoData(denial) => self.put_no_data(name, rtype, Arc::clone(denial), denial.ttl(), origin, now),
            End::NoName(denial) => self.put_no_name(name, Arc::clone(denial), origin, now),
            End::Data(_) | End::Leads => {}
        }
    }
}
