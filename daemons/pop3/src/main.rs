//! `tomte-pop3`: see the library for the chapter.

use pop3::{Config, Server};
use shared::daemon::{self, Daemon, Program, Runtime};
use std::process::ExitCode;

const PROGRAM: Program = Program {
    name: "pop3",
    about: "Hands mail from its mailboxes to their readers (POP3).",
    examples: "Examples:\n  \
        tomte-pop3 -c /etc/tomte/tomte.toml\n  \
        tomte-pop3 --set pop3.listen='[\"127.0.0.1:8110\"]' --set pop3.mailboxes=/srv/mail --check-config\n",
    version: env!("CARGO_PKG_VERSION"),
    runtime: Runtime::Shared,
};

fn main() -> ExitCode {
    daemon::main(&PROGRAM, Server::check, async |config: Config, daemon: Daemon<Config>| {
        let server = Server::bind(config, &daemon.shared)?;
        let reloader = server.reloader();
        daemon.on_reload(move |config, shared| reloader.reload(config, shared));
        daemon.ready(&server.local_addrs());
        server.run(daemon.shutdown.clone()).await
    })
}
