//! The zones that this very server has, as the way down meets them: what they hold is asked of nobody, and what they have given away is
//! asked of those to whom it was given, whatever the zones above say (RFC 1034 §4.3.2 steps 3 and 4, §5.3.3).
//!
//! ```text
//!   in none of them      the cache, and the way down from the root
//!   in one of them       it answers; an alias may lead out of it, and one of others into it
//!   below a cut          the cache, but for what is denied above the cut; and the way down from the cut
//! ```
//!
//! They may change at any moment: what they say is not kept, but for keys on the way to what is validated.

use super::{
    Checking,
    iterate::Failure,
    scrub::{self, Answer, Asked, End, Referral, Said, Way},
};
use crate::{
    authority::{self, Identity, Place, Reason, Zones},
    message::{Edns, Header, Query, Writer, written},
    name::NameRef,
    rdata::{Class, Type},
    record::Message,
};
use std::sync::Arc;

/// For whom something is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Standpoint<'z> {
    /// Whether what others say is validated.
    pub checking: Checking,
    /// The zones of this server that he sees.
    pub own: &'z Arc<Zones>,
}

/// What a zone of ours says about a name in it.
///
/// # Errors
/// There is nothing of the zone to serve, or what it says makes no sense.
pub(super) fn answer(own: &Zones, name: NameRef<'_>, rtype: Type) -> Result<Option<Answer>, Failure> {
    if own.place(name, rtype) != Place::Here {
        return Ok(None);
    }
    match ask(own, name, rtype) {
        Some(Said::Answer(answer)) => Ok(Some(answer)),
        Some(Said::Useless(because)) => Err(Failure::NoAnswer { zone: name.to_name(), last: because.to_owned() }),
        Some(Said::Referral(_)) | None => Ok(None),
    }
}

/// To whom a zone of ours has given a name away.
pub(super) fn referral(own: &Zones, name: NameRef<'_>, rtype: Type) -> Option<Referral> {
    let is_below = matches!(own.place(name, rtype), Place::Below(_));
    match is_below.then(|| ask(own, name, rtype))?? {
        Said::Referral(referral) => Some(referral),
        Said::Answer(_) | Said::Useless(_) => None,
    }
}

/// What our zones say to a question, as it would be read if another server had said it.
fn ask(own: &Zones, name: NameRef<'_>, qtype: Type) -> Option<Said> {
    let octets_max = u16::MAX;
    let edns = Some(Edns { udp_octets: octets_max, dnssec_ok: true, options: &[] });
    let header = Header::default();
    let query = Query { header, name, qtype, class: Class::IN, edns, tsig_at: None };
    let (identity, mut reason) = (Identity::default(), Reason::Data);
    let message = written(octets_max.into(), |buffer| {
        let answer = authority::answer(own, &query, &identity);
        let mut writer = Writer::new(buffer, octets_max.into(), header);
        answer.write(&mut writer, 0);
        reason = answer.reason;
        writer.finish()
    });
    let message = Message::parse(&message).ok()?;
    let mut said = scrub::read(&message, Asked { zone: NameRef::ROOT, name, rtype: qtype, way: Way::Down });
    // An alias leads to DS at the top of a zone of ours, of which others know more.
    if let (Said::Answer(answer), Reason::ParentKnows) = (&mut said, reason)
        && !answer.aliases.is_empty()
    {
        answer.end = End::Leads;
    }
    Some(said)
}
