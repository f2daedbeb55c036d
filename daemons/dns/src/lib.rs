//! Names and who knows them: the servers that own zones, and the one that asks them.
//!
//! The name system is a tree that is cut into zones. Each zone has servers that know everything in it and nothing else, but for
//! where it was cut further: there they name the servers of the next zone. So a question that begins at the root gets two
//! referrals on its way to the answer:
//!
//! ```text
//!   C: www.crepes.fr. A?      to the root     S: ask ns.fr., it is at 10.77.0.2           (a referral, no AA)
//!   C: www.crepes.fr. A?      to fr           S: ask ns.crepes.fr., it is at 10.77.1.53   (a referral, no AA)
//!   C: www.crepes.fr. A?      to crepes.fr    S: 10.77.1.80                               (the answer, with AA)
//! ```
//!
//! One program plays all three parts; its zones make the difference. It plays the fourth part too: the local name server that
//! goes this way for its clients and keeps what it learns (`recurse = true`).
//!
//! # Reading order
//!
//! 1. [`name`]: what a name is on the wire and on paper, and when two are the same (RFC 1034 §3.1, RFC 4343).
//! 2. [`rdata`]: the types of records, as one table.
//! 3. [`message`]: a query read where it lies; an answer written, with compression, up to a limit (RFC 1035 §4, RFC 6891).
//! 4. [`zonefile`]: zones as people write them (RFC 1035 §5), and what to say about their mistakes; [`rare`]: data whose text
//!    is a language of its own, and [`service`], which is one too (RFC 9460).
//! 5. [`zone`]: zones as the server keeps them.
//! 6. [`authority`]: **the chapter's heart**, RFC 1034 §4.3.2 with its steps numbered; pure. Beside it [`denial`]: how a signed
//!    zone proves what it has not (RFC 4035, RFC 5155), and [`sign`]: how a zone is signed (RFC 4034).
//! 7. [`respond`]: from the octets of a query to those of its answer, with [`cookie`]s for those who are where they say, and
//!    a [`rate`] for those who may not be.
//! 8. Zones that change: [`record`]s by themselves, and who signed a message ([`tsig`], RFC 8945); what a client wants changed
//!    ([`update`], RFC 2136), the zone while it is being changed ([`draft`]), and where that is kept ([`journal`]).
//! 9. Zones that are copied: [`transfer`] (RFC 5936, RFC 1995), [`notify`] (RFC 1996), and when a [`secondary`] looks
//!    (RFC 1034 §4.3.5); `outgoing.rs` does it.
//! 10. [`registry`]: who keeps the zones, and how new ones come in without losing a query; `errands.rs`: what only it can answer.
//! 11. `server.rs`: the sockets and the counters; `datagrams.rs`, with `batch.rs`: UDP, many at a time; `connection.rs`: TCP and
//!     TLS (RFC 7766, RFC 7858).
//! 12. [`resolver`]: the local name server (RFC 1034 §5.3.3), behind the same sockets; a chapter of its own. It begins where step 4
//!     of the algorithm above looks into a cache.

mod acl;
pub mod authority;
mod batch;
mod config;
mod connection;
pub mod cookie;
mod copy;
mod datagrams;
pub mod denial;
pub mod draft;
mod durable;
mod errands;
pub mod journal;
pub mod message;
pub mod name;
pub mod notify;
mod outgoing;
pub mod rare;
pub mod rate;
pub mod rdata;
pub mod record;
pub mod registry;
pub mod resolver;
pub mod respond;
pub mod secondary;
mod server;
pub mod service;
pub mod sign;
pub mod transfer;
pub mod tsig;
pub mod update;
pub mod zone;
pub mod zonefile;

pub use config::{Config, Dnssec, Key, View, ZoneFile};
pub use registry::make_keys;
pub use server::{Reloader, Server};
pub use zonefile::Rewrite;
