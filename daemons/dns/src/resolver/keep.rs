//! What of an answer is kept, for how long, and how far it is believed (RFC 2181 §5.4.1, RFC 2308 §5).
//!
//! Everything here has been through [`scrub`](super::scrub): it is about the zone whose server said it, or not here.

use super::{
    cache::{Cache, Credibility, Denial, Marks, Origin, Security},
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

    /// Keeps the answer to a question for `rtype`, each part with its own mark.
    pub fn keep_answer(&self, answer: &Answer, rtype: Type, marks: &Marks, from: SocketAddr, now: u64) {
        let credibility = if answer.is_authoritative { Credibility::Answer } else { Credibility::Hearsay };
        let told = |security| Origin { credibility, security, from };
        let data = if let End::Data(set) = &answer.end { Some((set, marks.end)) } else { None };
        let aliases = answer.aliases.iter().enumerate().map(|(place, alias)| (alias, marks.of_alias(place)));
        for (set, security) in aliases.chain(data).filter(|(set, _)| !set.is_made) {
            self.put_set(Arc::clone(set), told(security), now);
        }
        for set in &answer.addresses {
            let origin = Origin { credibility: Credibility::Additional, security: Security::Unchecked, from };
            self.put_set(Arc::clone(set), origin, now);
        }
        let origin = told(marks.end);
        let (name, origin) = (answer.name.borrow(), Origin { credibility: Credibility::Answer, ..origin });
        match &answer.end {
            End::NoData(denial) => self.put_no_data(name, rtype, Arc::clone(denial), denial.ttl(), origin, now),
            End::NoName(denial) => self.put_no_name(name, Arc::clone(denial), origin, now),
            End::Data(_) | End::Leads => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        rdata::Class,
        record::Record,
        resolver::{cache::Set, validate::Insecurity},
    };

    /// RFC 4035 §3.2.3: the alias is authentic on its own, whatever is proved about where it leads.
    #[test]
    fn an_alias_is_kept_with_its_own_mark() {
        let (cache, from) = (Cache::new(1 << 20), SocketAddr::from(([127, 0, 0, 1], 53)));
        let set = |owner: &str, rtype, rdata: &[u8]| {
            let (owner, rdata) = (owner.parse().unwrap(), rdata.to_vec());
            Arc::new(Set::of(&[&Record { owner, rtype, class: Class::IN, ttl: 60, rdata }]).unwrap())
        };
        let (alias, end) =
            (set("alias.test", Type::CNAME, b"\x03end\x04test\0"), set("end.test", Type::A, &[192, 0, 2, 1]));
        let answer =
            Answer { aliases: vec![Arc::clone(&alias)], ..Answer::of(end.owner.clone(), End::Data(end.clone())) };
        let opted_out = Security::Insecure(Insecurity::OptedOut);
        let marks = Marks { aliases: vec![Security::Secure], end: opted_out };
        assert_eq!(marks.of_all(), opted_out);
        cache.keep_answer(&answer, Type::A, &marks, from, 1);
        for (set, security) in [(alias, Security::Secure), (end, opted_out)] {
            let found = cache.get(set.owner.borrow(), set.rtype, 1).unwrap();
            assert_eq!(found.origin.security, security, "{}", set.owner);
        }
    }
}
