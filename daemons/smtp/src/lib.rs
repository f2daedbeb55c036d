//! Mail from one site to another: SMTP.
//!
//! Alice's program hands her message to her server. That server keeps it in a queue, finds Bob's server by the MX records of his
//! domain, and pushes the message there over one TCP connection. Bob's server puts it into his mailbox, where it waits until Bob
//! comes for it (POP3). Two servers, because neither Alice nor Bob wants to wait until the other one's machine is on. A whole
//! conversation:
//!
//! ```text
#![doc = include_str!("../tests/transcripts/textbook.txt")]
//! ```
//!
//! Three phases (RFC 5321 §3): a handshake, transactions, of which one connection may have many, and a goodbye. A transaction is
//! an envelope, MAIL and RCPT, and a message, DATA. The envelope decides where it goes; what the message's own header says is for
//! people. Every reply begins with three digits: 2 yes, 3 go on, 4 not now, 5 never.
//!
//! The 250 behind the dot is a promise: from then on the message is ours, and it is on disk ([`spool`] has the table of what a crash
//! leaves at each step). It is kept by delivering it, or by telling its sender that it cannot be delivered.
//!
//! ```text
//!   client -- wire --> session (what to answer) --> body (octets) --> spool or mailbox --> 250
//!                                                                       |
//!             client (what to say) <-- courier <-- mx <-- queue <-------+
//!                                                          |
//!                                                          +--> local: mailbox;  report: to the sender;  schedule: later
//! ```
//!
//! | RFC | what it has |
//! |---|---|
//! | 5321 | the protocol, who relays for whom, how often to try |
//! | 1870, 6152, 6531 | SIZE; 8BITMIME; SMTPUTF8 |
//! | 2034, 3463 | enhanced codes, for programs that want to know why |
//! | 2920, 3030 | PIPELINING; CHUNKING: BDAT |
//! | 3207, 7435 | STARTTLS; between servers whatever encryption can be had |
//! | 3461, 3462, 3464 | DSN: which reports a sender wants, and what they look like |
//! | 4954, 6409, 8314 | AUTH; ports 587 and 465, where our own users hand in their mail |
//! | 7208, 6376, 9989, 8601 | SPF, DKIM and DMARC, and what they say in Authentication-Results; off by default |
//! | 6647, 7505 | greylisting; domains that take no mail |
//!
//! Reading order: [`address`] and [`envelope`] (the nouns), [`command`], [`reply`], [`route`] (whom an address means), [`session`]
//! (the state machine, with no socket), [`body`] (what a message is, to the octet). Then [`spool`] (the queue on disk), [`queue`]
//! (at work), `local` (mailboxes) and `quota` (how full they are). Then the other side: [`answer`], [`client`] (the same dialogue from the other end), [`mx`],
//! [`relay`], [`courier`], [`schedule`], [`report`]. `visit` and `server` move the octets.

pub mod address;
pub mod envelope;

// --- Receiving ---
pub mod command;
pub mod reply;
pub mod route;
pub mod session;

pub mod body;

mod authenticity;

// --- Keeping ---
mod crash;
mod greylist;
mod group;
mod local;
pub mod queue;
mod quota;
pub mod spool;

// --- Sending ---
pub mod answer;
pub mod client;
pub mod courier;
pub mod mx;
pub mod relay;
pub mod report;
pub mod schedule;

// --- The daemon ---
mod config;
mod server;
mod visit;

pub use authenticity::DkimKey;
pub use config::Config;
pub use server::{Reloader, Server};
