//! What the whole-lab tests and the benchmarks share: starting a server with a configuration of its own and stopping it
//! again ([`process`]), one of our own programs watched line by line ([`program`]), others' programs that ask it ([`client`]), a lab of its own for each test
//! ([`lab`]), a network for oneself ([`alone`]), talking HTTP octet by octet ([`http`]) and asking a name server ([`dns`]),
//! name servers and their clients ([`nameserver`]), mail servers and what they have on disk ([`mail`]), fetching it ([`pop3`]),
//! Postfix and Dovecot beside them ([`postfix`], [`dovecot`]), somebody who takes mail and forgets it ([`sink`]), a small Internet
//! ([`internet`]), loading a server with `wrk` ([`load`]) or `dnsperf` ([`mod@dnsperf`]), comparing servers ([`contest`]) and printing
//! what came out ([`table`]).

pub mod client;
pub mod process;
pub mod program;

pub mod alone;
pub mod lab;

pub mod http;

pub mod dns;

pub mod internet;
pub mod nameserver;

pub mod dovecot;
pub mod mail;
pub mod pop3;
pub mod postfix;
pub mod sink;

pub mod dnsperf;
pub mod load;

pub mod contest;

pub mod table;
