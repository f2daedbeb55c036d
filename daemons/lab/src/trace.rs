//! `tomte dns trace`: one question to a local name server, drawn as the textbook's numbered figure, and the answer.

use crate::{
    client::{Whom, get},
    events::{Heard, Stream},
};
use anyhow::{Context, anyhow, bail};
use dns::{name::Name, rdata::Type, record::Message};
use shared::{
    admin::{Entry, Filter},
    transcript::{Event, Kind},
};
use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

pub(crate) const EXAMPLES: &str = "Examples:\n  \
    tomte dns trace www.someschool.edu  who asks whom, in order\n  \
    tomte dns trace crepes.fr MX --at resolver.hamburger.edu\n  \
    tomte cache purge .                 all is forgotten; the next one is a long way\n";

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Ask a local name server, and show what it does for the answer
    Trace(Arguments),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The name
    name: String,
    /// The type
    #[arg(default_value = "A")]
    rtype: String,
    /// The host whose name server is asked; by default the first one that is called resolver.*
    #[arg(long, value_name = "HOST")]
    at: Option<String>,
    #[command(flatten)]
    whom: Whom,
}

/// A resolver gives up after ten seconds.
const PATIENCE: Duration = Duration::from_secs(12);

pub(crate) fn dns(Command::Trace(arguments): &Command) -> anyhow::Result<()> {
    let name: Name = arguments.name.parse().with_context(|| format!("`{}`", arguments.name))?;
    let Ok(rtype) = arguments.rtype.parse::<Type>() else {
        bail!("`{}` is no type; write for example A, MX or NS", arguments.rtype)
    };
    let sockets = arguments.whom.sockets()?;
    let Some(socket) = sockets.first() else { bail!("nothing runs here; start the lab with `tomte up`") };
    let mut json = String::new();
    get(socket, "/status")?.read_to_string(&mut json)?;
    let hosts: Vec<Entry> = serde_json::from_str(&json)?;
    let is_asked = |entry: &&Entry| {
        entry.daemon == "dns"
            && arguments.at.as_ref().map_or(entry.host.starts_with("resolver."), |host| *host == entry.host)
    };
    let Some(resolver) = hosts.iter().find(is_asked) else {
        let known: Vec<&str> = hosts.iter().filter(|it| it.daemon == "dns").map(|it| &*it.host).collect();
        match &known[..] {
            [] => bail!("no name server runs here; start the whole lab (`tomte up`), or name servers too"),
            known => bail!("no such name server runs here; name one of {} with --at", known.join(", ")),
        }
    };
    let udp = resolver.addresses.iter().find_map(|address| address.strip_prefix("udp "));
    let address: SocketAddr = udp.context("it does not serve over UDP")?.parse()?;

    // First listen, then ask: nothing that is said is missed.
    let (sender, heard) = mpsc::sync_channel(1024);
    let filter = Filter { daemon: Some("dns".to_owned()), host: Some(resolver.host.clone()), connection: None };
    let mut stream = Stream::open(socket, &format!("/events?{}", filter.to_query()))?;
    stream.past()?;
    thread::spawn(move || stream.follow(&sender));
    let client = UdpSocket::bind(if address.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" })?;
    client.connect(address)?;
    let local = client.local_addr()?;
    let question =
        [&[0x74, 0x6f, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], name.borrow().as_wire(), &rtype.0.to_be_bytes(), &[0, 1]]
            .concat();
    client.send(&question)?;

    let named = |address: IpAddr| {
        let at = |entry: &&Entry| entry.addresses.iter().any(|text| text.contains(&format!(" {address}:")));
        hosts.iter().find(at).map_or_else(|| address.to_string(), |entry| entry.host.clone())
    };
    let mut out = std::io::stdout().lock();
    let (mut number, mut asked_by_us, deadline) = (0, None, Instant::now() + PATIENCE);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(heard) = heard.recv_timeout(left) else {
            bail!("{} has not answered within {} s", resolver.host, PATIENCE.as_secs())
        };
        let Heard::Event(json) = heard else { continue };
        let event: Event = serde_json::from_str(&json)?;
        if event.remote == local && event.kind == Kind::Client {
            asked_by_us = Some(event.connection);
        }
        let is_ours = asked_by_us == Some(event.connection);
        if asked_by_us.is_none() || !(is_ours || event.cause == asked_by_us) {
            continue;
        }
        let other = if is_ours { "you".to_owned() } else { named(event.remote.ip()) };
        let (from, to) = match (event.kind, is_ours) {
            (Kind::Client, true) | (Kind::Server, false) => (&other, &resolver.host),
            (Kind::Client, false) | (Kind::Server, true) => (&resolver.host, &other),
            (Kind::Note, _) => {
                writeln!(out, "    # {}", event.line)?;
                continue;
            }
            _ => continue,
        };
        number += 1;
        writeln!(out, "{number:>3} {from:<24} -> {to:<24} {}", event.line)?;
        if is_ours && event.kind == Kind::Server {
            break;
        }
    }
    // What came, with the time that it may still be kept: less than its owner said, if it was remembered.
    client.set_read_timeout(Some(PATIENCE))?;
    let mut answer = vec![0; usize::from(u16::MAX)];
    let octets = client.recv(&mut answer)?;
    let answer = Message::parse(&answer[..octets]).map_err(|problem| anyhow!("the answer is no message: {problem}"))?;
    for record in &answer.answers {
        writeln!(out, "      {record}")?;
    }
    Ok(())
}
