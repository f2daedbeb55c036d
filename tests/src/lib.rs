//! What the whole-lab tests and the benchmarks share: starting a server with a configuration of its own and stopping it
//! again ([`process`]), one of our own programs watched line by line ([`program`]), a lab of its own for each test
//! ([`lab`]), talking HTTP octet by octet ([`http`]), loading a server with `wrk` ([`load`]), and printing what came out
//! ([`table`]).

pub mod process;
pub mod program;

pub mod lab;

pub mod http;

pub mod load;

pub mod table;
