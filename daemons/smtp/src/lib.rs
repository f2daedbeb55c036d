//! Mail from one site to another: SMTP.

pub mod address;
pub mod envelope;
