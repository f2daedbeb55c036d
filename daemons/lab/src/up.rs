//! `tomte up`: every host of the lab in this process.

use crate::{
    chain,
    hosts::{Host, Lab, Ports},
    state::{self, Begin},
    terminal::{self, fold},
};
use anyhow::Context;
use rustix::net::sockopt::socket_peercred;
use shared::{
    accounts::{self, Accounts},
    admin::{self, Admin, Directory, State, Switch},
    daemon::{self, Endpoint, Process, StartError, Workers},
    listener::{BindError, Sockets},
    logging,
    metrics::Registers,
    tls::LabCa,
    transcript::{self, Hub},
    units::Span,
};
use std::{
    io::Write,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Instant,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How many events of each daemon on each host the lab remembers for a `tomte events` that starts later.
const RING: usize = 1000;

pub(crate) const EXAMPLES: &str = "Examples:\n  \
    tomte up                                          the whole lab, on loopback\n  \
    tomte up www.someschool.edu ns.someschool.edu     two hosts of it\n  \
    tomte up --fresh                                  as if it had never run before\n  \
    tomte up --lab lab.toml --state here              your own lab, with its files in ./here\n  \
    tomte up --reveal-secrets                         passwords are shown as they are sent\n";

#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "they are flags of a command line")]
pub(crate) struct Arguments {
    /// The hosts to start; all of them if none is named
    #[arg(value_name = "HOST")]
    hosts: Vec<String>,
    /// Use the real ports (80, 25, 53 ...) instead of 8000 more; needs root or the capability
    #[arg(long)]
    privileged_ports: bool,
    /// Where pages, mailboxes, logs and certificates are kept
    #[arg(long, value_name = "DIR", default_value_os_t = state::default_dir())]
    state: PathBuf,
    /// Throw the state of former runs away first
    #[arg(long)]
    fresh: bool,
    /// Sign every zone, from the root down (DNSSEC)
    #[arg(long)]
    dnssec: bool,
    /// Another description of the lab than the built-in one
    #[arg(long, value_name = "FILE")]
    lab: Option<PathBuf>,
    /// Log level or filter, as in `info,wire=debug`
    #[arg(long, value_name = "FILTER", default_value = "warn")]
    log: String,
    /// Show passwords in the transcripts; for lessons
    #[arg(long)]
    reveal_secrets: bool,
}

pub(crate) fn up(arguments: &Arguments) -> anyhow::Result<()> {
    let began = Instant::now();
    let log = logging::Config { format: logging::Format::Pretty, filter: arguments.log.clone() };
    logging::init(&log).map_err(|problem| StartError::Unfit { key: "--log".to_owned(), problem })?;
    daemon::log_panics();
    daemon::raise_descriptor_limit();

    let mut lab = match &arguments.lab {
        None => Lab::parse("lab.toml", state::shipped("lab.toml")?)?,
        Some(file) => {
            let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            Lab::parse(&file.display().to_string(), &text)?
        }
    };
    lab.select(&arguments.hosts).map_err(|problem| StartError::Unfit { key: "tomte up".to_owned(), problem })?;
    std::fs::create_dir_all(&arguments.state).with_context(|| {
        format!("cannot make {}; name another directory with --state DIR", arguments.state.display())
    })?;
    // One running lab for each state directory: a second one would find the sockets and files of the first in use.
    let state = arguments.state.canonicalize()?;
    let socket = state.join("admin.sock");
    if let Ok(other) = UnixStream::connect(&socket) {
        let kill = socket_peercred(&other).map(|who| format!(", or: kill {}", who.pid)).unwrap_or_default();
        anyhow::bail!(
            "a lab is running already in {}. Stop it first: Ctrl-C in its terminal{kill}. One beside it needs a directory \
            (--state) and addresses (--lab) of its own",
            state.display()
        );
    }
    state::prepare(&state, if arguments.fresh { Begin::Fresh } else { Begin::Continue })?;
    let copy = state.join("lab.toml");
    if arguments.lab.is_none() && std::fs::read_to_string(&copy)? != state::shipped("lab.toml")? {
        eprintln!("{} is not the lab that starts now; to start that one: tomte up --lab {0}", copy.display());
    }
    let ports = if arguments.privileged_ports { Ports::Privileged } else { Ports::High };
    lab.settle(ports, &state);
    if arguments.dnssec {
        let servers: Vec<&mut dns::Config> = lab.host.iter_mut().filter_map(|host| host.dns.as_mut()).collect();
        sign(servers)?;
    }

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(run(lab, &state, arguments, began));
    // Whoever still blocks a thread has had the grace time.
    runtime.shutdown_background();
    result.inspect_err(|error| {
        if chain(error).contains(&state.display().to_string()) {
            eprintln!("(all of {} as it was shipped, without what has come since: tomte up --fresh)", state.display());
        }
    })
}

/// Has every zone signed. All keys are made before the first zone is: a parent signs what it says about its children's.
fn sign(mut servers: Vec<&mut dns::Config>) -> anyhow::Result<()> {
    for server in &mut servers {
        server.zones.iter_mut().for_each(|zone| zone.dnssec = dns::Dnssec::Sign);
        dns::make_keys(server)?;
    }
    // The local name servers validate from the lab's own root down.
    for server in servers.iter_mut().filter(|server| server.recurse && server.trust_anchors.is_none()) {
        server.trust_anchors = Some(server.ds_dir.join("root.ds"));
    }
    Ok(())
}

async fn run(lab: Lab, state: &Path, arguments: &Arguments, began: Instant) -> anyhow::Result<()> {
    let transcript = transcript::Config { ring: RING, dir: None, reveal_secrets: arguments.reveal_secrets };
    // All clients of the lab come from one address: whoever mistypes must not keep the others out for long.
    let accounts = accounts::Config {
        file: Some(state.join("accounts.toml")),
        pause_max: Span::secs(1),
        ..accounts::Config::default()
    };
    let process = Process {
        hub: Hub::new(&transcript)?,
        registers: Registers::default(),
        directory: Directory::default(),
        sockets: Sockets::default(),
        accounts: Arc::new(Accounts::load(&accounts).map_err(|error| StartError::unfit("accounts", error))?),
        workers: Workers::Inline,
    };
    process.accounts.on_reload(&process.directory, "the lab");
    let shutdown = CancellationToken::new();
    let tasks = TaskTracker::new();
    let authority = LabCa::open_or_create(&state.join("ca"))?;
    // All or nothing: every socket is bound before the first client is served.
    let mut started = vec![];
    for host in &lab.host {
        started.push(Started::bind(host, &process, &authority)?);
    }
    let (orders, mut wanted) = mpsc::channel(1);
    process.directory.on_switch(move |action, host| {
        let (answer, answered) = oneshot::channel();
        let order = Order { action, host: host.to_owned(), answer };
        orders.blocking_send(order).map_err(|_| "the lab stops".to_owned())?;
        answered.blocking_recv().unwrap_or_else(|_| Err("the lab stops".to_owned()))
    });
    let config = admin::Config { socket: Some(state.join("admin.sock")), listen: vec![] };
    let admin = Admin::bind(&config).await?;
    tasks.spawn(admin.run(process.view(), shutdown.clone()));

    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    print_table(&started, &authority.certificate_file(), state, began)?;
    if arguments.dnssec {
        println!("Trust anchor:  {}\n", state.join("dns/ds/root.ds").display());
    }
    let running = started.into_iter().map(|host| Some(host.serve(&process, &tasks, &shutdown))).collect();
    let mut hosts =
        Hosts { lab, running, process: &process, authority: &authority, tasks: &tasks, shutdown: &shutdown };
    let obey = async {
        while let Some(order) = wanted.recv().await {
            let result = hosts.switch(order.action, &order.host).await;
            // Whoever ordered it may be gone.
            let _ = order.answer.send(result);
        }
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = shutdown.cancelled() => {}
        () = obey => {}
    }
    let is_broken = shutdown.is_cancelled();
    eprintln!("stopping: sessions may finish; press Ctrl-C again to leave at once");
    process.directory.stopping();
    shutdown.cancel();
    tasks.close();
    tokio::select! {
        () = tasks.wait() => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // Only after the last event: `tomte events` sees the goodbyes.
    let _ = std::fs::remove_file(state.join("admin.sock"));
    if is_broken {
        anyhow::bail!("a daemon has ended by itself, and half a lab would only puzzle; its error is above");
    }
    Ok(())
}

/// A host is to be switched on or off.
struct Order {
    action: Switch,
    host: String,
    answer: oneshot::Sender<Result<(), String>>,
}

/// All hosts, those that were switched off included.
struct Hosts<'a> {
    lab: Lab,
    /// In the same order.
    running: Vec<Option<Running>>,
    process: &'a Process,
    authority: &'a LabCa,
    tasks: &'a TaskTracker,
    shutdown: &'a CancellationToken,
}

/// How a host is told to stop, and when it has.
struct Running {
    stop: CancellationToken,
    daemons: TaskTracker,
}

impl Hosts<'_> {
    async fn switch(&mut self, action: Switch, name: &str) -> Result<(), String> {
        let at = self.lab.host.iter().position(|host| host.name == name);
        let at = at.ok_or_else(|| format!("there is no host `{name}` in the lab"))?;
        match (action, self.running[at].take()) {
            (Switch::Stop, Some(Running { stop, daemons })) => {
                stop.cancel();
                daemons.wait().await;
                self.process.directory.stopped(name);
                Ok(())
            }
            (Switch::Start, None) => {
                let started = Started::bind(&self.lab.host[at], self.process, self.authority);
                let started = started.map_err(|error| format!("{error:#}"))?;
                self.running[at] = Some(started.serve(self.process, self.tasks, self.shutdown));
                Ok(())
            }
            (Switch::Stop, None) => Err("it is off already".to_owned()),
            (Switch::Start, running) => {
                self.running[at] = running;
                Err("it is on already".to_owned())
            }
        }
    }
}

/// The daemons of one host, with their sockets.
struct Started {
    name: String,
    suggestion: String,
    daemons: Vec<Daemon>,
}

/// One of them.
struct Daemon {
    name: &'static str,
    endpoints: Vec<Endpoint>,
    introduce: Introduction,
    run: Box<dyn FnOnce(CancellationToken) -> Run>,
}

/// Tells the directory what can be asked of a daemon, at this host.
type Introduction = Box<dyn FnOnce(&Directory, &str)>;

/// A daemon that runs.
type Run = Pin<Box<dyn Future<Output = Result<(), StartError>> + Send>>;

impl Daemon {
    fn new<F>(name: &'static str, endpoints: Vec<Endpoint>, run: impl FnOnce(CancellationToken) -> F + 'static) -> Self
    where
        F: Future<Output = Result<(), StartError>> + Send + 'static,
    {
        let run = Box::new(|stop| -> Run { Box::pin(run(stop)) });
        Self { name, endpoints, introduce: Box::new(|_, _| {}), run }
    }

    /// One that can be asked something.
    fn introduced(self, introduce: impl FnOnce(&Directory, &str) + 'static) -> Self {
        Self { introduce: Box::new(introduce), ..self }
    }
}

impl Started {
    fn bind(host: &Host, process: &Process, authority: &LabCa) -> anyhow::Result<Self> {
        let tls = authority.certificate_for(&host.names())?;
        let shared = |daemon| process.shared(daemon, &host.name, tls.clone());
        let bind = || -> Result<Vec<Daemon>, StartError> {
            let mut daemons = vec![];
            if let Some(config) = &host.web {
                let server = web::Server::bind(config, &shared("web"))?;
                daemons.push(Daemon::new("web", server.local_addrs(), |stop| server.run(stop)));
            }
            if let Some(config) = &host.dns {
                let server = dns::Server::bind(config, &shared("dns"))?;
                let (reloader, resolvers) = (server.reloader(), server.resolvers());
                let daemon = Daemon::new("dns", server.local_addrs(), |stop| server.run(stop));
                daemons.push(daemon.introduced(move |directory, host| {
                    let reload = move || reloader.reload_zones().map_err(|error| error.to_string());
                    directory.on_reload("dns", host, reload);
                    if let Some(resolvers) = resolvers {
                        directory.on_cache("dns", host, move |question| resolvers.about(question));
                    }
                }));
            }
            if let Some(config) = &host.smtp {
                let server = smtp::Server::bind(config.clone(), &shared("smtp"))?;
                let queue = server.queue();
                let daemon = Daemon::new("smtp", server.local_addrs(), |stop| server.run(stop));
                daemons.push(daemon.introduced(move |directory, host| {
                    directory.on_queue("smtp", host, move |action, id| queue.about(action, id));
                }));
            }
            if let Some(config) = &host.pop3 {
                let server = pop3::Server::bind(config.clone(), &shared("pop3"))?;
                daemons.push(Daemon::new("pop3", server.local_addrs(), |stop| server.run(stop)));
            }
            if let Some(config) = &host.wordlength {
                let server = wordlength::Server::bind(config.clone(), &shared("wordlength"))?;
                daemons.push(Daemon::new("wordlength", server.local_addrs(), |stop| server.run(stop)));
            }
            Ok(daemons)
        };
        let daemons = bind().map_err(|error| cure(&host.name, error))?;
        let started = Self { name: host.name.clone(), suggestion: String::new(), daemons };
        let fill = |text: String, Endpoint { protocol, address }: &Endpoint| {
            // URLs have a colon before the port, nc and telnet a blank.
            let blank = if protocol.starts_with("http") { ":" } else { " " };
            text.replace(&format!("{{{protocol}}}"), &format!("{}{blank}{}", address.ip(), address.port()))
        };
        let suggestion = started.endpoints().fold(host.r#try.clone(), fill);
        // dig has the port apart.
        let dns = started.daemons.iter().find(|daemon| daemon.name == "dns").and_then(|dns| dns.endpoints.first());
        let dig = dns.map(|dns| format!("{} -p {}", dns.address.ip(), dns.address.port())).unwrap_or_default();
        let suggestion = suggestion.replace("{dig}", &dig);
        Ok(Self { suggestion, ..started })
    }

    fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.daemons.iter().flat_map(|daemon| &daemon.endpoints)
    }

    fn serve(self, process: &Process, tasks: &TaskTracker, shutdown: &CancellationToken) -> Running {
        let running = Running { stop: shutdown.child_token(), daemons: TaskTracker::new() };
        for Daemon { name, endpoints, introduce, run } in self.daemons {
            let addresses = endpoints.iter().map(Endpoint::to_string).collect();
            process.directory.set(name, &self.name, State::Serving, addresses);
            introduce(&process.directory, &self.name);
            let run = end(self.name.clone(), name, shutdown.clone(), run(running.stop.clone()));
            tasks.spawn(running.daemons.track_future(run));
        }
        running.daemons.close();
        running
    }
}

/// What keeps `host` from starting, with the cure that fits the lab: its ports cannot be chosen, so the daemon's own advice
/// to choose another one would lead nowhere.
fn cure(host: &str, error: StartError) -> anyhow::Error {
    let advice = match &error {
        StartError::Bind(BindError::Privileged { protocol, address }) => format!(
            "{protocol} port {} on {} needs a privilege: leave --privileged-ports out (the ports are 8000 higher then), \
            start as root, or give the program the capability (setcap cap_net_bind_service=+ep)",
            address.port(),
            address.ip()
        ),
        StartError::Bind(BindError::InUse { protocol, address, holder }) => format!(
            "{protocol} port {} on {} is held by {holder}: stop that program, or name the hosts that you want \
            (tomte up HOST ..)",
            address.port(),
            address.ip()
        ),
        _ => return anyhow::Error::new(error).context(host.to_owned()),
    };
    anyhow::anyhow!("{host}: {advice}")
}

/// A daemon that ends before it was told to takes the lab with it: half a lab would only puzzle.
async fn end(
    host: String,
    daemon: &'static str,
    shutdown: CancellationToken,
    running: impl Future<Output = Result<(), StartError>>,
) {
    if let Err(error) = running.await {
        tracing::error!(host, daemon, %error, "stopped");
        shutdown.cancel();
    }
}

/// Who is where, and what to try next.
fn print_table(hosts: &[Started], authority: &Path, state: &Path, began: Instant) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let (bold, dim, plain) = if terminal::has_colours() { ("\x1b[1m", "\x1b[2m", "\x1b[0m") } else { ("", "", "") };
    let count = if hosts.len() == 1 { "1 host".to_owned() } else { format!("{} hosts", hosts.len()) };
    writeln!(out, "{bold}The lab is up: {count} in {} ms.{plain}\n", began.elapsed().as_millis())?;
    let services = |host: &Started| {
        let each = host.endpoints().map(|endpoint| format!("{} {}", endpoint.protocol, endpoint.address.port()));
        each.collect::<Vec<_>>()
    };
    let columns = terminal::width();
    let width = hosts.iter().map(|host| host.name.len()).max().unwrap_or(0).max(4);
    writeln!(out, "{bold}{:width$}  {:<13} SERVICES, and what to try{plain}", "HOST", "ADDRESS")?;
    for host in hosts {
        let address = host.endpoints().next().map(|endpoint| endpoint.address.ip().to_string()).unwrap_or_default();
        let row = format!("{:width$}  {address:<13} ", host.name);
        writeln!(out, "{row}{}", fold(&services(host), "  ", row.len(), columns))?;
        if !host.suggestion.is_empty() {
            writeln!(out, "    {dim}{}{plain}", host.suggestion)?;
        }
    }
    let telnet = hosts.iter().flat_map(Started::endpoints).find(|endpoint| endpoint.protocol == "http");
    if let Some(Endpoint { address, .. }) = telnet {
        writeln!(
            out,
            "\nBy hand:       telnet {} {}      then type: GET / HTTP/1.0, and Return twice",
            address.ip(),
            address.port()
        )?;
    }
    writeln!(out, "Live:          tomte events        (in another terminal: every line on the wire)")?;
    writeln!(out, "Files:         {dim}{}{plain}", state.display())?;
    writeln!(out, "Trust https:   {dim}curl --cacert {}{plain}", authority.display())?;
    writeln!(out, "Stop:          Ctrl-C\n")?;
    Ok(out.flush()?)
}
