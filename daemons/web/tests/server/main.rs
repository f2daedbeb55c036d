//! What the web server promises, shown over real sockets on 127.0.0.1.
//!
//! Most rules are [`transcripts`]: dialogues that a person could type. What a dialogue cannot show has its own chapter:
//! how connections live and end, what happens on the disk meanwhile, bodies of many octets, who is let in, what is
//! written down about it, which settings are refused, that the short way answers as the long one, what abuse costs, and that the network's way of cutting octets changes nothing.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its stage has failed, and the line says where")]

mod stage;

mod abuse;
mod bodies;
mod chunking;
mod connections;
mod disk;
mod login;
mod record;
mod requirements;
mod settings;
mod shortcut;
mod transcripts;
