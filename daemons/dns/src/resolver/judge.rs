//! Whether what was told is what its zone has signed: the chain of trust is fetched, gone, and remembered (RFC 4035 §5).
//!
//! ```text
//!   an answer  --signer-->  which zone's keys must vouch for it        `judge`
//!                           DS and DNSKEY from the anchor down         `zone`, over `trust::Chain`
//!                           each fetched once for all who wait         `fetch`
//!              --keys---->  secure, insecure with the reason, or bogus
//! ```
//!
//! What is found is kept with the data ([`Security`]), so that it costs nothing to say it again. What is bogus is not kept, and another
//! server is asked: it may be one server that lies, and not the zone that is broken.

use super::{
    Checking, Resolver,
    cache::{Content, Denial, Marks, Security, Set},
    iterate::{Failure, Task},
    scrub::{Answer, End},
    trust::{Chain, Learnt, Link, Need, State, ToldDs},
    validate::{self, Bogus, Claim, Denied, Insecurity, Keys, Proved, Signed, Work},
};
use crate::{
    name::{Name, NameRef, Suffixes},
    rdata::Type,
};
use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError},
    time::SystemTime,
};
use tokio::sync::OnceCell;

/// Servers that are asked once more, after one has given something bogus. RFC 4035 §4.7 and RFC 6840 §5.9 speak of trying others.
pub(super) const BOGUS_MAX: usize = 3;

/// Why an answer is not believed, or cannot be judged.
#[derive(Clone, Debug)]
pub(super) enum Doubt {
    /// It is not what its zone has signed.
    Bogus(Name, Bogus),
    /// What it takes to judge could not be had.
    Failed(Failure),
}

impl From<Failure> for Doubt {
    fn from(failure: Failure) -> Self {
        Doubt::Failed(failure)
    }
}

/// What somebody said about DS or DNSKEY.
#[derive(Clone, Debug)]
pub(super) struct Fetched {
    told: ToldDs,
    /// As it stands in the cache, to be forgotten if it is bogus.
    content: Option<Content>,
    from: SocketAddr,
}

/// What all who need the same DS or DNSKEY at the same time wait for.
pub(super) type Fetching = Arc<OnceCell<Result<Fetched, Failure>>>;

impl Resolver {
    /// Whether data with this mark may be used as it is.
    pub(super) fn believes(&self, security: Security, checking: Checking) -> bool {
        security != Security::Unchecked || checking == Checking::Off || self.anchors.is_empty()
    }

    /// Judges all of an answer to a question for `rtype`, and lets it live no longer than its signatures (RFC 4035 §5.3.3).
    pub(super) async fn judge(&self, answer: &mut Answer, rtype: Type, task: &Task) -> Result<Marks, Doubt> {
        if task.checking == Checking::Off || self.anchors.is_empty() {
            return Ok(Marks::UNCHECKED);
        }
        // Boxed: who validates nothing does not carry it along.
        let judged = Box::pin(self.judge_all(answer, rtype, task)).await;
        match judged.as_ref().map(Marks::of_all) {
            Ok(Security::Secure) => self.counters.secure.inc(),
            Ok(_) => self.counters.insecure.inc(),
            Err(Doubt::Bogus(_, Bogus::TooMuchWork)) => self.counters.too_much_work.inc(),
            Err(Doubt::Bogus(..)) => self.counters.bogus.inc(),
            Err(Doubt::Failed(_)) => 0,
        };
        judged
    }

    async fn judge_all(&self, answer: &mut Answer, rtype: Type, task: &Task) -> Result<Marks, Doubt> {
        let mut aliases: Vec<Security> = vec![];
        for alias in &mut answer.aliases {
            // One that we made ourselves is as good as the DNAME before it.
            let before = aliases.last().copied().unwrap_or(Security::Secure);
            aliases.push(if alias.is_made { before } else { self.judge_set(alias, task).await? });
        }
        let name = answer.name.borrow();
        let end = match &mut answer.end {
            End::Data(set) if set.is_made => Security::Secure,
            End::Data(set) => self.judge_set(set, task).await?,
            End::NoData(denial) => self.judge_denial(denial, name, Claim::NoData(rtype), task).await?,
            End::NoName(denial) => self.judge_denial(denial, name, Claim::NoName, task).await?,
            End::Leads => Security::Secure,
        };
        Ok(Marks { aliases, end })
    }

    async fn judge_set(&self, set: &mut Arc<Set>, task: &Task) -> Result<Security, Doubt> {
        if set.rtype == Type::RRSIG {
            return Ok(Security::Insecure(Insecurity::Signature));
        }
        let owner = set.owner.clone();
        let signer = validate::signer(set).map(NameRef::to_name);
        let keys = match self.keys_for(&owner, signer.as_ref(), set.rtype, task).await? {
            Ok(keys) => keys,
            Err(because) => return Ok(Security::Insecure(because)),
        };
        let judged = task.work(|work| {
            let Signed { wildcard, ttl } = validate::set(set, &keys, SystemTime::now(), work)?;
            let Some(encloser) = wildcard else { return Ok((Security::Secure, ttl)) };
            // RFC 4035 §5.3.4: a wildcard stands for the name only if nothing nearer exists.
            let proofs = Denial { soa: None, proofs: set.proofs.clone() };
            let claim = Claim::Expanded(encloser);
            let denied = validate::denial(&proofs, owner.borrow(), claim, &keys, SystemTime::now(), work)?;
            Ok((security_of(denied), ttl.min(denied.ttl)))
        });
        let (security, ttl) = judged.map_err(|bogus| Doubt::Bogus(owner.clone(), bogus))?;
        *set = Arc::clone(set).within(ttl);
        Ok(security)
    }

    async fn judge_denial(
        &self,
        denial: &mut Arc<Denial>,
        name: NameRef<'_>,
        claim: Claim,
        task: &Task,
    ) -> Result<Security, Doubt> {
        let name = name.to_name();
        let signer = denial.soa.iter().chain(&denial.proofs).find_map(|set| validate::signer(set));
        let signer = signer.map(NameRef::to_name);
        let rtype = if let Claim::NoData(rtype) = claim { rtype } else { Type::A };
        let keys = match self.keys_for(&name, signer.as_ref(), rtype, task).await? {
            Ok(keys) => keys,
            Err(because) => return Ok(Security::Insecure(because)),
        };
        let judged = task.work(|work| validate::denial(denial, name.borrow(), claim, &keys, SystemTime::now(), work));
        let denied = judged.map_err(|bogus| Doubt::Bogus(name.clone(), bogus))?;
        if let Some(soa) = denial.soa.clone().filter(|soa| soa.ttl > denied.ttl) {
            Arc::make_mut(denial).soa = Some(soa.within(denied.ttl));
        }
        if let Some(denials) = self.denials.as_ref().filter(|_| denied.proved == Proved::Secure) {
            denials.keep(keys.zone(), denial, self.now());
        }
        Ok(security_of(denied))
    }

    /// The keys that must have signed data of a type about a name, or why none need to.
    async fn keys_for(
        &self,
        owner: &Name,
        signer: Option<&Name>,
        rtype: Type,
        task: &Task,
    ) -> Result<Result<Arc<Keys>, Insecurity>, Doubt> {
        // RFC 4035 §2.4: DS is its parent's, so it is the parent who must have signed it.
        let about = if rtype == Type::DS { owner.borrow().parent() } else { None };
        let about = about.unwrap_or(owner.borrow());
        let target = match self.anchors.zone_of(about, signer.map(Name::borrow)) {
            Ok(target) => target.to_name(),
            Err(because) => return Ok(Err(because)),
        };
        match self.zone(&target, task).await? {
            State::Secure(keys) => Ok(Ok(keys)),
            State::Insecure(because) => Ok(Err(because)),
            State::Bogus(bogus) => Err(Doubt::Bogus(target, bogus)),
        }
    }

    /// What the zone is that `target` is, or is in: along the chain of trust.
    async fn zone(&self, target: &Name, task: &Task) -> Result<State, Failure> {
        let mut chain = Chain::new(target.borrow(), &self.anchors);
        let mut avoid: Vec<SocketAddr> = vec![];
        let mut fetched: Option<((Name, Type), Fetched)> = None;
        loop {
            let need = {
                let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
                chain.next(|name| links.get(name, self.now()))
            };
            let question = match need {
                Need::Done(state) => return Ok(state),
                Need::Ds(name) => (name, Type::DS),
                Need::Dnskey(name) => (name, Type::DNSKEY),
            };
            // While we waited somebody else may have learnt it: so first fetch, then look again what is needed.
            let Some((_, told)) = fetched.take_if(|(known, _)| *known == question) else {
                let told = self.fetch(&question.0, question.1, &avoid, task).await?;
                fetched = Some((question, told));
                continue;
            };
            let (mut further, now) = (chain.clone(), SystemTime::now());
            let learnt = task.work(|work| match (&told.told, question.1) {
                (ToldDs::Set(set), Type::DNSKEY) => further.got_dnskey(Some(set), now, work),
                (_, Type::DNSKEY) => further.got_dnskey(None, now, work),
                (told, _) => further.got_ds(told, now, work),
            });
            if let Some(Link::Zone(State::Bogus(bogus))) = learnt.as_ref().map(|learnt| &learnt.link) {
                if let Some(content) = &told.content {
                    self.cache.forget(question.0.borrow(), question.1, content);
                }
                // One server that lies is not the zone.
                if *bogus != Bogus::TooMuchWork && avoid.len() < BOGUS_MAX {
                    avoid.push(told.from);
                    match self.fetch(&question.0, question.1, &avoid, task).await {
                        Ok(other) => {
                            fetched = Some((question, other));
                            continue;
                        }
                        // Nobody else is there: so it is.
                        Err(Failure::NoAnswer { .. } | Failure::NoAddress(_)) => {}
                        Err(failure) => return Err(failure),
                    }
                }
            }
            (chain, avoid) = (further, vec![]);
            // Who makes too much work for one question must not make a zone bogus for others.
            let is_too_much = |learnt: &Learnt| matches!(learnt.link, Link::Zone(State::Bogus(Bogus::TooMuchWork)));
            if let Some(learnt) = learnt.filter(|learnt| !is_too_much(learnt)) {
                if let (Link::Zone(State::Secure(_)), Some(content)) = (&learnt.link, &told.content) {
                    let (zone, security) = (question.0.borrow(), Security::Secure);
                    self.cache.judged(zone, question.1, content, security, learnt.ttl, self.now());
                }
                self.links.lock().unwrap_or_else(PoisonError::into_inner).put(learnt, self.now());
            }
        }
    }

    /// DS or DNSKEY of a zone, as somebody tells it, not yet believed: from the cache, or from a server that is not in `avoid`.
    async fn fetch(&self, name: &Name, rtype: Type, avoid: &[SocketAddr], task: &Task) -> Result<Fetched, Failure> {
        if !avoid.is_empty() {
            return self.fetch_anew(name, rtype, avoid, task).await;
        }
        if let Some(known) = self.fetched_before(name, rtype) {
            return Ok(known);
        }
        let key = (name.borrow().as_wire().to_ascii_lowercase(), rtype);
        let cell = Arc::clone(self.lock_fetching().entry(key.clone()).or_default());
        let waiting = Waiting { resolver: self, key, cell };
        let mut is_ours = false;
        let fetch = || {
            is_ours = true;
            self.fetch_anew(name, rtype, avoid, task)
        };
        match waiting.cell.get_or_init(fetch).await {
            // Somebody else's question has made too much work; that says nothing about this one.
            Err(Failure::TooMuchWork(_)) if !is_ours => self.fetch_anew(name, rtype, avoid, task).await,
            fetched => fetched.clone(),
        }
    }

    async fn fetch_anew(
        &self,
        name: &Name,
        rtype: Type,
        avoid: &[SocketAddr],
        task: &Task,
    ) -> Result<Fetched, Failure> {
        let (answer, from) = self.ask_on(name, rtype, &task.about_keys(), avoid).await?;
        self.cache.keep_answer(&answer, rtype, &Marks::UNCHECKED, from, self.now());
        let (told, content) = match (answer.aliases.first(), answer.end) {
            (Some(alias), _) => (ToldDs::Alias(Arc::clone(alias)), None),
            (None, End::Data(set)) => (ToldDs::Set(Arc::clone(&set)), Some(Content::Set(set))),
            (None, End::NoData(denial)) => (ToldDs::Nothing(Arc::clone(&denial)), Some(Content::NoData(denial))),
            (None, End::NoName(denial)) => (ToldDs::Nothing(Arc::clone(&denial)), Some(Content::NoName(denial))),
            // An answer that leads on has an alias.
            (None, End::Leads) => (ToldDs::Nothing(Arc::default()), None),
        };
        Ok(Fetched { told, content, from })
    }

    /// What the cache has of it; DS, and that there is none, may have come with the referral.
    fn fetched_before(&self, name: &Name, rtype: Type) -> Option<Fetched> {
        let (suffixes, now) = (Suffixes::of(name.borrow()), self.now());
        let found = self.cache.get(name.borrow(), rtype, now).filter(|found| !found.is_stale).or_else(|| {
            let known = |labels| self.cache.get_no_name(suffixes.suffix(labels), now);
            (1..=suffixes.count()).rev().find_map(known).filter(|found| !found.is_stale)
        })?;
        let told = match &found.content {
            Content::Set(set) => ToldDs::Set(Arc::clone(set)),
            Content::NoData(denial) | Content::NoName(denial) => ToldDs::Nothing(Arc::clone(denial)),
        };
        Some(Fetched { told, content: Some(found.content), from: found.origin.from })
    }
}

/// Somebody who waits for DS or DNSKEY. The last one who does takes the place in the table away, however his waiting ends.
struct Waiting<'r> {
    resolver: &'r Resolver,
    key: (Vec<u8>, Type),
    cell: Fetching,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut fetching = self.resolver.lock_fetching();
        // The table's own, and this one. What has come is in the cache by now: nobody needs the place any more.
        let is_needed = !self.cell.initialized() && Arc::strong_count(&self.cell) > 2;
        if !is_needed && fetching.get(&self.key).is_some_and(|cell| Arc::ptr_eq(cell, &self.cell)) {
            fetching.remove(&self.key);
        }
    }
}

fn security_of(denied: Denied) -> Security {
    match denied.proved {
        Proved::Secure => Security::Secure,
        Proved::OptOut => Security::Insecure(Insecurity::OptedOut),
        Proved::TooManyIterations => Security::Insecure(Insecurity::TooManyIterations),
    }
}

impl Task {
    /// Does something that costs work, all of which is counted for the client's question.
    fn work<T>(&self, what: impl FnOnce(&mut Work) -> T) -> T {
        what(&mut self.work.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
