//! `tomte-smtp`: see the library for the chapter.

fn main() {}
