//! A web server that shows its working.
#![allow(dead_code)] // until server.rs uses them

mod head;

mod chunked;

mod target;

mod conditional;

mod range;

mod listing;

mod page;

mod media;

mod accesslog;

mod date;
