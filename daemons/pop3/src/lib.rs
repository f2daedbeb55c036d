//! Mail from the server to its reader: POP3.
//!
//! SMTP pushes mail to the server of its recipient, who is not always there. POP3 is how the recipient comes and takes it: one
//! connection, a command a line, `+OK` or `-ERR`. A whole visit:
//!
//! ```text
#![doc = include_str!("../tests/transcripts/textbook.txt")]
//! ```
//!
//! A session has three states (RFC 1939 §3). In AUTHORIZATION the client says who it is. In TRANSACTION the maildrop is locked
//! for it, numbers stand for messages, and what comes in meanwhile is not seen. QUIT leads to UPDATE, where the messages that
//! were marked by DELE are removed: not before, and not at all when the connection is lost instead. The server remembers nothing
//! from one session to the next but what is in the maildrop.
//!
//! | RFC | what it has |
//! |---|---|
//! | 1939 | the protocol; TOP, UIDL and APOP are optional there, and here |
//! | 2449, 3206 | CAPA: what the server can do; `[IN-USE]`, `[AUTH]` and other codes that tell programs why |
//! | 2595, 8314 | STLS: TLS on the same connection; TLS from the start, on port 995 |
//! | 5034, 4616, 5802, 7677 | AUTH with PLAIN and SCRAM-SHA-256 |
//! | 6856 | UTF8: headers that are not ASCII |
//!
//! Reading order: [`command`] (what a client may say), [`reply`] (what we may answer), [`session`] (the state machine, with no
//! socket), [`body`] (a message on the wire), then `visit` and `server`, which move the octets, and [`shared::maildir`], where
//! the mail lies. `md5` is there for APOP alone.

pub mod command;
pub mod reply;
pub mod session;

pub mod body;
mod md5;

mod config;
mod server;
mod visit;

pub use config::Config;
pub use server::{Reloader, Server};
