//! `tomte-dns`: see the library for the chapter.

use dns::{Config, Server};
use mimalloc::MiMalloc;
use shared::daemon::{self, Daemon, Program, Runtime};
use std::process::ExitCode;

const PROGRAM: Program = Program {
    name: "dns",
    about: "A name server that shows its working: the root, top-level domains and sites, from master files",
    examples: "Examples:\n  \
        tomte-dns --set dns.listen='[\"127.0.0.1:8053\"]' --set dns.zones='[{ name = \"crepes.fr\", file = \"crepes.fr.zone\" }]'\n  \
        dig @127.0.0.1 -p 8053 www.crepes.fr",
    version: env!("CARGO_PKG_VERSION"),
    runtime: Runtime::PerCore,
};

/// The system's own keeps a fifth more memory than the cache was given, and takes a twentieth more time for each question to others.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    daemon::main(&PROGRAM, Server::check, async |config: Config, daemon: Daemon<Config>| {
        let server = Server::bind(&config, &daemon.shared)?;
        let reloader = server.reloader();
        daemon.on_reload(move |config, shared| reloader.reload(&config, shared));
        let (directory, host) = (daemon.directory(), daemon.shared.host.clone());
        let zones = server.reloader();
        directory.on_reload("dns", &host, move || zones.reload_zones().map_err(|error| error.to_string()));
        if let Some(resolvers) = server.resolvers() {
            directory.on_cache("dns", &host, move |question| resolvers.about(question));
        }
        daemon.ready(&server.local_addrs());
        server.run(daemon.shutdown.clone()).await
    })
}
