//! Mail from one site to another: SMTP.

pub mod address;
pub mod envelope;

pub mod command;
pub mod reply;
pub mod route;
pub mod session;

pub mod body;
