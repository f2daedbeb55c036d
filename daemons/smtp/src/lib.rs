//! Mail from one site to another: SMTP.

pub mod address;
pub mod envelope;

// --- Receiving ---
pub mod command;
pub mod reply;
pub mod route;
pub mod session;

pub mod body;

// --- Keeping ---
mod greylist;
mod group;
mod local;
pub mod queue;
pub mod spool;

// --- Sending ---
pub mod answer;
pub mod client;
pub mod courier;
pub mod mx;
pub mod report;
pub mod schedule;

// --- The daemon ---
mod config;
mod server;
mod visit;

pub use config::Config;
pub use server::Server;
