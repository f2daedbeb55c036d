//! Mail from one site to another: SMTP.

pub mod address;
pub mod envelope;

// --- Sending ---
pub mod answer;
pub mod client;
pub mod courier;
pub mod mx;
pub mod report;
pub mod schedule;
