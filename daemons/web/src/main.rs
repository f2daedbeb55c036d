//! `tomte-web`: the web server as a program of its own.

use shared::daemon::{self, Daemon, Program, Runtime};
use std::process::ExitCode;
use web::{Config, Server};

const PROGRAM: Program = Program {
    name: "web",
    about: "A web server that shows its working: HTTP/1.0 and HTTP/1.1, static files, virtual hosts",
    examples: "Examples:\n  \
        tomte-web --set web.listen='[\"127.0.0.1:8080\"]' --set web.docroot=/srv/www\n  \
        tomte-web -c /etc/tomte/tomte.toml --check-config\n  \
        printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc 127.0.0.1 8080",
    version: env!("CARGO_PKG_VERSION"),
    runtime: Runtime::PerCore,
};

fn main() -> ExitCode {
    daemon::main(&PROGRAM, Server::check, async |config: Config, daemon: Daemon<Config>| {
        let server = Server::bind(&config, &daemon.shared)?;
        let reloader = server.reloader();
        daemon.on_reload(move |config, shared| reloader.reload(&config, shared));
        daemon.ready(&server.local_addrs());
        server.run(daemon.shutdown.clone()).await
    })
}
