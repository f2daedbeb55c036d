//! `tomte events`: the live transcript on the terminal.

use crate::{
    client::{Whom, get},
    terminal,
};
use anyhow::{Context, bail};
use shared::{
    admin::{Entry, Filter},
    transcript::{Event, Kind, Transport},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    io::{BufRead, BufReader, IsTerminal, Write},
    net::{IpAddr, SocketAddr},
    os::unix::net::UnixStream,
    path::Path,
    sync::mpsc,
    thread,
    time::Duration,
};
use time::{OffsetDateTime, UtcOffset};

pub(crate) const EXAMPLES: &str = "Examples:\n  \
    tomte events                            everything, first what was said before you came\n  \
    tomte events --host mail.crepes.fr      one host's, both what it is asked and what it asks\n  \
    tomte events --daemon web --full --new  the web from now on, with all header fields\n  \
    tomte events --past | grep MX           what was said up to now, and no waiting\n  \
    tomte events --connection 12            one conversation, by the number behind #\n";

#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct Arguments {
    #[command(flatten)]
    whom: Whom,
    /// Only this daemon: web, smtp, dns ...
    #[arg(long, value_name = "NAME")]
    daemon: Option<String>,
    /// Only this host of the lab
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// Only this connection (the number after #)
    #[arg(long, value_name = "NUMBER")]
    connection: Option<u64>,
    /// Only what was said before and is remembered; does not wait for more
    #[arg(long, conflicts_with = "new")]
    past: bool,
    /// Only what comes from now on, nothing of what was said before
    #[arg(long)]
    new: bool,
    /// All lines of a message, such as the header fields of HTTP
    #[arg(long)]
    full: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// No colours, also on a terminal
    #[arg(long)]
    no_colour: bool,
}

pub(crate) fn events(arguments: &Arguments) -> anyhow::Result<()> {
    let Arguments { daemon, host, connection, .. } = arguments;
    let filter = Filter { daemon: daemon.clone(), host: host.clone(), connection: *connection };
    let sockets = arguments.whom.sockets()?;
    let mut all: Vec<Entry> = vec![];
    for socket in &sockets {
        all.extend(serde_json::from_reader::<_, Vec<Entry>>(get(socket, "/status")?)?);
    }
    meets_somebody(&all, &filter)?;
    let path = format!("/events?{}{}", if arguments.past { "past&" } else { "" }, filter.to_query());
    let mut out = std::io::stdout().lock();
    let paint =
        Paint { on: terminal::has_colours() && !arguments.no_colour, offset: local_offset, names: names_of(&all) };
    let mut show = |json: &str, event: &Event| {
        if arguments.json {
            writeln!(out, "{json}")?;
        } else {
            out.write_all(paint.event(event, arguments.full).as_bytes())?;
        }
        out.flush()
    };
    // As long as nobody speaks it would look as if nothing happened.
    if std::io::stderr().is_terminal() && !arguments.past {
        eprintln!("--- everything that is said comes here; Ctrl-C ends it ---");
    }
    let (mut past, mut streams) = (vec![], vec![]);
    for socket in sockets {
        let mut stream = Stream::open(&socket, &path)?;
        past.append(&mut stream.past()?);
        streams.push((socket, stream));
    }
    // Of each daemon it is in order; of those that are services of their own the clock tells who was first.
    if streams.len() > 1 {
        past.sort_by_key(|(_, event)| event.micros);
    }
    match connection {
        Some(number) if past.is_empty() && !arguments.past => {
            eprintln!("tomte: nothing is remembered of connection {number}; waiting for it to come (Ctrl-C ends that)");
        }
        _ if past.is_empty() && arguments.past => eprintln!("tomte: nothing of that is remembered"),
        _ => {}
    }
    if !arguments.new {
        past.iter().try_for_each(|(json, event)| show(json, event))?;
    }
    if arguments.past {
        return Ok(());
    }
    if !past.is_empty() && !arguments.new {
        eprintln!("--- above, what was said before you came; from here on, live ---");
    }
    drop(past);
    // A thread for each daemon that is followed; what they hear comes together here. The bound holds a fast daemon
    // back at its own socket, where it is told what it missed.
    let (sender, receiver) = mpsc::sync_channel(1024);
    for (socket, stream) in streams {
        let sender = sender.clone();
        thread::spawn(move || match stream.follow(&sender) {
            Ok(()) => eprintln!("tomte: {} has stopped", socket.display()),
            Err(error) => eprintln!("tomte: {error:#}"),
        });
    }
    drop(sender);
    for heard in receiver {
        match heard {
            Heard::Event(json) => show(&json, &parse(&json)?)?,
            Heard::Missed(count) => eprintln!("tomte: {count} events came faster than they could be shown"),
            Heard::Live => {}
        }
    }
    Ok(())
}

/// A filter that nobody meets would wait for ever without a word.
fn meets_somebody(all: &[Entry], filter: &Filter) -> anyhow::Result<()> {
    if all.iter().any(|entry| filter.wants_daemon(&entry.daemon, &entry.host)) {
        return Ok(());
    }
    let names = |of: fn(&Entry) -> &str| {
        let names: BTreeSet<&str> = all.iter().map(of).collect();
        names.into_iter().collect::<Vec<_>>().join(", ")
    };
    let wanted =
        [filter.daemon.as_deref(), filter.host.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(" at ");
    let (daemons, hosts) = (names(|entry| &entry.daemon), names(|entry| &entry.host));
    bail!("there is no {wanted} here\n  daemons: {daemons}\n  hosts: {hosts}");
}

/// Whose address is whose.
fn names_of(all: &[Entry]) -> BTreeMap<IpAddr, String> {
    let addresses = all.iter().flat_map(|entry| entry.addresses.iter().map(move |address| (entry, address)));
    // `udp 127.77.0.1:8053`
    let places = addresses.filter_map(|(entry, address)| {
        let place: SocketAddr = address.rsplit(' ').next()?.parse().ok()?;
        Some((place.ip(), entry.host.clone()))
    });
    places.filter(|(address, _)| !address.is_unspecified()).collect()
}

/// What a daemon tells whoever follows it.
pub(crate) enum Heard {
    /// An event, as JSON.
    Event(String),
    /// What comes from here on is new.
    Live,
    /// So many were missed.
    Missed(String),
}

/// The events of a running lab or daemon: server-sent events (WHATWG HTML §9.2).
pub(crate) struct Stream(BufReader<UnixStream>);

impl Stream {
    /// Asks for them.
    pub(crate) fn open(socket: &Path, path: &str) -> anyhow::Result<Self> {
        Ok(Self(get(socket, path)?))
    }

    /// The next one; none when the daemon has ended.
    fn next(&mut self) -> anyhow::Result<Option<Heard>> {
        let (mut kind, mut line) = (String::new(), String::new());
        while self.0.read_line(&mut line)? > 0 {
            let text = line.trim_end_matches('\n');
            if text.is_empty() {
                kind.clear();
            } else if let Some(name) = text.strip_prefix("event: ") {
                name.clone_into(&mut kind);
            } else if let Some(data) = text.strip_prefix("data: ") {
                return Ok(Some(match &*kind {
                    "live" => Heard::Live,
                    "missed" => Heard::Missed(data.to_owned()),
                    _ => Heard::Event(data.to_owned()),
                }));
            }
            line.clear();
        }
        Ok(None)
    }

    /// What is remembered, oldest first: all that comes before [`Heard::Live`].
    pub(crate) fn past(&mut self) -> anyhow::Result<Vec<(String, Event)>> {
        let mut past = vec![];
        while let Some(Heard::Event(json)) = self.next()? {
            let event = parse(&json)?;
            past.push((json, event));
        }
        Ok(past)
    }

    /// Passes on what comes, until the daemon ends or nobody wants it any more.
    pub(crate) fn follow(mut self, sender: &mpsc::SyncSender<Heard>) -> anyhow::Result<()> {
        while let Some(heard) = self.next()? {
            if sender.send(heard).is_err() {
                break;
            }
        }
        Ok(())
    }
}

fn parse(json: &str) -> anyhow::Result<Event> {
    serde_json::from_str(json).context("an event that this version does not know")
}

/// What the clock on the wall is ahead of UTC at a time. `localtime_r(3)` reads the environment, which nobody changes here (that would be
/// `unsafe`), so threads are no danger to it. Where nobody knows, it is UTC, and `date` has the same.
fn local_offset(time: OffsetDateTime) -> UtcOffset {
    UtcOffset::local_offset_at(time).unwrap_or(UtcOffset::UTC)
}

/// How an event looks.
struct Paint {
    on: bool,
    offset: fn(OffsetDateTime) -> UtcOffset,
    /// The hosts that serve here.
    names: BTreeMap<IpAddr, String>,
}

impl Paint {
    fn colour(&self, code: &'static str) -> &'static str {
        if self.on { code } else { "" }
    }

    /// `10:11:02.123 web www.someschool.edu #12 C: GET / HTTP/1.1`
    fn event(&self, event: &Event, full: bool) -> String {
        let (dim, plain) = (self.colour("\x1b[2m"), self.colour("\x1b[0m"));
        // Everybody on the same wire has the same colour, so that threads can be told apart at a glance.
        let thread = self.colour(
            ["\x1b[36m", "\x1b[33m", "\x1b[35m", "\x1b[34m", "\x1b[32m", "\x1b[31m"][event.connection as usize % 6],
        );
        let speech = match event.kind {
            Kind::Client => self.colour("\x1b[1;32m"),
            Kind::Server => self.colour("\x1b[1;34m"),
            Kind::Note => self.colour("\x1b[3m"),
            Kind::Open | Kind::Close => dim,
        };
        let other_end = match (event.transport, event.kind) {
            (Transport::Udp, Kind::Client | Kind::Server) => {
                let arrow = if event.outgoing { "->" } else { "<-" };
                let name = self.names.get(&event.remote.ip());
                format!("{arrow} {} ", name.cloned().unwrap_or_else(|| event.remote.to_string()))
            }
            // The line that opens a connection has said it.
            _ => String::new(),
        };
        let time = OffsetDateTime::UNIX_EPOCH + Duration::from_micros(event.micros);
        let (hour, minute, second, millis) = time.to_offset((self.offset)(time)).to_hms_milli();
        let head = format!(
            "{dim}{hour:02}:{minute:02}:{second:02}.{millis:03}{plain} {:<5} {} {thread}#{}{plain} {dim}{other_end}{plain}",
            event.daemon, event.host, event.connection
        );
        let mark = event.kind.mark();
        let line = match event.kind {
            Kind::Open | Kind::Close => {
                let transport = match event.transport {
                    Transport::Tcp => "tcp",
                    Transport::Tls => "tls",
                    Transport::Udp => "udp",
                };
                let (from, to) = if event.outgoing { (event.local, event.remote) } else { (event.remote, event.local) };
                format!("{} {transport} {from} -> {to}", event.line)
            }
            _ => event.line.clone(),
        };
        let mut text = format!("{head}{speech}{mark} {line}{plain}\n");
        if full {
            for line in &event.more {
                // Writing into a String does not fail.
                let _ = writeln!(text, "{head}{speech}{mark}{plain} {line}");
            }
            if let Some(body) = event.body {
                let remark = self.colour("\x1b[3m");
                let _ = writeln!(text, "{head}{remark}# {} octets of head, {body} of body{plain}", event.octets);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_and_its_fields_are_shown_when_asked_for() {
        let event = Event {
            micros: 36_662_123_000 - 19_800_000_000,
            daemon: "web".into(),
            host: "www.someschool.edu".into(),
            connection: 12,
            cause: None,
            outgoing: false,
            transport: Transport::Tcp,
            local: ([127, 77, 3, 80], 8080).into(),
            remote: ([127, 0, 0, 1], 51344).into(),
            kind: Kind::Client,
            line: "GET / HTTP/1.1".to_owned(),
            more: vec!["Host: www.someschool.edu".to_owned()],
            octets: 44,
            body: Some(0),
        };
        let names = [([127, 77, 0, 1].into(), "a.root-servers.net".to_owned())].into();
        let paint = Paint { on: false, offset: |_| time::macros::offset!(+5:30), names };
        assert_eq!(paint.event(&event, false), "10:11:02.123 web   www.someschool.edu #12 C: GET / HTTP/1.1\n");
        let full = paint.event(&event, true);
        let head = "10:11:02.123 web   www.someschool.edu #12";
        let rest = format!("{head} C: Host: www.someschool.edu\n{head} # 44 octets of head, 0 of body\n");
        assert!(full.ends_with(&rest), "{full}");
        let open = Event { kind: Kind::Open, line: "open".to_owned(), ..event };
        assert!(paint.event(&open, false).ends_with("#12 @ open tcp 127.0.0.1:51344 -> 127.77.3.80:8080\n"));
        // The arrow goes from whoever called.
        let called = Event { outgoing: true, ..open };
        assert!(paint.event(&called, false).ends_with("#12 @ open tcp 127.77.3.80:8080 -> 127.0.0.1:51344\n"));
        // Datagrams have no such line, so each says who is at the other end.
        let asked = Event {
            transport: Transport::Udp,
            kind: Kind::Client,
            line: "edu. NS?".to_owned(),
            remote: ([127, 77, 0, 1], 8053).into(),
            ..called
        };
        assert!(paint.event(&asked, false).ends_with("#12 -> a.root-servers.net C: edu. NS?\n"));
        let asks = Event { outgoing: false, remote: ([127, 0, 0, 1], 51344).into(), ..asked };
        assert!(paint.event(&asks, false).ends_with("#12 <- 127.0.0.1:51344 C: edu. NS?\n"));
    }
}
