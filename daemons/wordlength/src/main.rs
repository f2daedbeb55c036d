//! `tomte-wordlength`: see the library for the chapter.

use shared::daemon::{self, Daemon, Program, Runtime};
use std::process::ExitCode;
use wordlength::{Config, Server};

const PROGRAM: Program = Program {
    name: "wordlength",
    about: "Tells the length of each word it is sent, over TCP and UDP.",
    examples: "Examples:\n  tomte-wordlength                  serve on port 7777\n  printf 'CAT\\n' | nc -N 127.0.0.1 7777\n",
    version: env!("CARGO_PKG_VERSION"),
    runtime: Runtime::Shared,
};

fn main() -> ExitCode {
    daemon::main(&PROGRAM, Server::check, async |config: Config, daemon: Daemon<Config>| {
        let server = Server::bind(config, &daemon.shared)?;
        daemon.ready(&server.local_addrs());
        server.run(daemon.shutdown.clone()).await
    })
}
