//! What every tomte daemon shares.
//!
//! A daemon is two steps: *bind* its sockets, then *run* until it is told to stop. All that surrounds these two steps
//! is here, once: the configuration it reads, the log it writes, the sockets it gets (its own or handed over by
//! systemd), the accept loop, the way a control connection is cut into lines, and the transcript that sees each line.
//!
//! Reading order:
//!
//! 1. [`daemon`]: `main()` for all; what happens between `exec` and the exit code; [`check`]: whether it would begin at all.
//! 2. [`config`] and [`units`]: layers of TOML, errors with line and column, sizes and times as people write them; [`current`]: what
//!    a reload replaces.
//! 3. [`listener`]: sockets and the one accept loop.
//! 4. [`wire`] and [`transcript`]: a conversation as lines, and the place where all of them are seen; [`message`]: what is long in it;
//!    [`lookout`]: who is awaited with open eyes.
//! 5. [`admin`], [`metrics`], [`logging`]: looking into a running daemon.
//! 6. [`accounts`], [`sasl`], [`login`], [`tls`]: who may, and how to keep it private; [`counted`]: who
//!    takes what waits encrypted.
//! 7. [`maildir`]: mailboxes, delivered to by one daemon and read by another.
//! 8. `testing` (feature `testing`): the player of transcript files.

pub mod check;
pub mod daemon;

pub mod config;
pub mod current;
pub mod units;

pub mod listener;

pub mod lookout;
pub mod message;
pub mod transcript;
pub mod wire;

pub mod admin;
pub mod logging;
pub mod metrics;

pub mod accounts;
pub mod counted;
pub mod login;
pub mod sasl;
pub mod tls;

pub mod maildir;

#[cfg(feature = "testing")]
pub mod testing;

pub use daemon::Shared;
