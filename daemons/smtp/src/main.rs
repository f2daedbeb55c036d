//! `tomte-smtp`: see the library for the chapter.

use shared::daemon::{self, Daemon, Program, Runtime};
use smtp::{Config, Server};
use std::process::ExitCode;

const PROGRAM: Program = Program {
    name: "smtp",
    about: "Takes mail, keeps it in a queue on disk, and delivers it: to mailboxes here or to other servers (SMTP).",
    examples: "Examples:\n  \
        tomte-smtp -c /etc/tomte/tomte.toml\n  \
        tomte-smtp --set smtp.listen='[\"127.0.0.1:8025\"]' --set smtp.domains='[\"hamburger.edu\"]' --check-config\n",
    version: env!("CARGO_PKG_VERSION"),
    runtime: Runtime::Shared,
};

fn main() -> ExitCode {
    daemon::main(&PROGRAM, Server::check, async |config: Config, daemon: Daemon<Config>| {
        let server = Server::bind(config, &daemon.shared)?;
        let (queue, reloader) = (server.queue(), server.reloader());
        daemon.on_reload(move |config, shared| reloader.reload(config, shared));
        daemon.directory().on_queue("smtp", &daemon.shared.host, move |action, id| queue.about(action, id));
        daemon.ready(&server.local_addrs());
        server.run(daemon.shutdown.clone()).await
    })
}
