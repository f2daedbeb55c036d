//! The textbook's socket demo.
