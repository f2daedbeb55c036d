//! What a sender hears about its message (RFC 3461, 3462, 3464): that it could not be delivered, that it takes long, that it
//! was delivered, that it went where nobody reports.

use crate::{
    address::Mailbox,
    envelope::{Account, Envelope},
};
use std::time::SystemTime;

/// How much of a message is returned with RET=FULL; a longer one is returned as its header alone. RFC 3461 §4.3 asks for the
/// whole message "if possible", and a report as large as a film helps nobody.
pub const FULL_OCTETS_MAX: u64 = 64 << 10;
/// How many octets of the message [`Report::original`] needs at most.
pub const ORIGINAL_OCTETS_MAX: usize = FULL_OCTETS_MAX as usize;

/// What is to be reported.
#[derive(Clone, Debug)]
pub struct Report<'a> {
    /// Our name.
    pub host: &'a str,
    /// Unique on this host: the report's Message-ID and boundary come from it.
    pub id: &'a str,
    /// The message's queue id.
    pub queue_id: &'a str,
    /// To whom.
    pub addressee: Addressee<'a>,
    /// The message's envelope.
    pub envelope: &'a Envelope,
    /// When the message came.
    pub arrived: SystemTime,
    /// The time.
    pub now: SystemTime,
    /// What happened to whom.
    pub entries: Vec<Entry<'a>>,
    /// The message from its start: all of it, or its first [`ORIGINAL_OCTETS_MAX`] octets.
    pub original: &'a [u8],
    /// The octets of the whole message.
    pub octets: u64,
}

/// Who gets the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressee<'a> {
    /// The message's sender; if there is none, there is no report.
    Sender,
    /// Somebody who answers for this server, about a report that could not be delivered itself.
    Postmaster(&'a Mailbox),
}

/// What happened to one recipient.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// The index into the envelope's recipients.
    pub recipient: usize,
    /// What.
    pub action: Action,
    /// How.
    pub account: &'a Account,
    /// When it was tried last.
    pub tried: SystemTime,
}

/// RFC 3464 §2.3.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Never.
    Failed,
    /// Not yet.
    Delayed {
        /// When it will be given up.
        until: SystemTime,
    },
    /// In the mailbox.
    Delivered,
    /// Gone to a server that does not report.
    Relayed,
    /// Gone to several mailboxes, by an alias.
    Expanded,
}

/// A report that is ready to be queued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// From nobody, to the addressee.
    pub envelope: Envelope,
    /// The message, its lines ended by CR LF, not dot-stuffed.
    pub message: Vec<u8>,
}

impl Report<'_> {
    /// Writes the report. There is none when nobody may be told (the message came from `<>`), or when the sender wanted to hear of none of
    /// this (NOTIFY).
    pub fn build(&self) -> Option<Built> {
        None
    }
}
