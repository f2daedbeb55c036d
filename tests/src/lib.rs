//! What the whole-lab tests and benchmarks share.
