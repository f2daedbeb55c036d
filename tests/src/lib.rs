//! What the whole-lab tests and the benchmarks share: starting a server with a configuration of its own and stopping it
//! again ([`process`]), asking it for a file or loading it with `wrk` ([`load`]), and printing what came out ([`table`]).

pub mod process;

pub mod load;

pub mod table;
