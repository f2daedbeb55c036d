//! Any octets as an address or a command line: what is accepted is written so that it is read as the same again, in queue files and to
//! other servers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smtp::{
    address::{ForwardPath, Mailbox, ReversePath},
    command::Command,
};
use std::{fmt::Display, str::FromStr};

/// What is written means the same, fits into one line and cannot break out of its brackets.
fn assert_again<T: FromStr<Err: Display> + Display + PartialEq>(value: &T) {
    let text = value.to_string();
    assert!(!text.contains(char::is_control), "{text:?}");
    match text.parse::<T>() {
        Ok(again) => assert!(again == *value, "{text} is another one now: {again}"),
        Err(error) => panic!("{text}: {error}"),
    }
}

fuzz_target!(|data: &[u8]| {
    match Command::parse(data) {
        Ok(Command::Mail(mail)) => assert_again(&mail.from),
        Ok(Command::Rcpt(rcpt)) => assert_again(&rcpt.to),
        Ok(_) | Err(_) => {}
    }
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(path) = text.parse::<ReversePath>() {
        assert_again(&path);
    }
    if let Ok(path) = text.parse::<ForwardPath>() {
        assert_again(&path);
    }
    if let Ok(mailbox) = text.parse::<Mailbox>() {
        assert_again(&mailbox);
        // In brackets its end is found, whatever quotes hide. A path has its own limit.
        let path = format!("<{mailbox}> SIZE=1");
        assert_eq!(smtp::address::path_length(&path), Some(path.len() - " SIZE=1".len()), "{path}");
    }
});
