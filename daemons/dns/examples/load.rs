//! How long a zone file takes to load, and how much memory the zone takes:
//!
//! ```text
//! cargo run --release -p tomte-dns --example load -- example.zone example
//! cargo run --release -p tomte-dns --example load             (makes a zone of 1,000,000 records)
//! ```
//!
//! Then a second of questions to the pure server, hits and names that do not exist: what an answer costs without the sockets.

use dns::{
    authority::{Identity, Rotation, Zones},
    cookie::Cookies,
    message,
    name::Name,
    rate::Rates,
    respond::{Asker, Carrier, Policy, World, respond},
    zonefile::{self, Rewrite},
};
use std::{
    fmt::Write as _,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

/// Names that are made; each has one address.
const NAMES: usize = 1_000_000;
const QUESTIONS: usize = 1_000_000;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (file, origin) = match (arguments.next(), arguments.next()) {
        (Some(file), Some(origin)) => (PathBuf::from(file), origin),
        _ => (make(), "example".to_owned()),
    };
    let origin: Name = origin.parse().expect("the second argument is a name");
    let before = resident_kib();
    let began = Instant::now();
    let loaded = zonefile::load(origin.borrow(), &file, Rewrite::None).unwrap_or_else(|errors| panic!("{}", errors[0]));
    let took = began.elapsed();
    println!("{} records in {} ms", loaded.zone.len(), took.as_millis());
    println!(
        "the zone: {} MB; the process: {} MB, at most {} MB",
        loaded.zone.octets() / 1_000_000,
        (status("VmRSS:") - before) * 1024 / 1_000_000,
        status("VmHWM:") * 1024 / 1_000_000
    );
    let began = Instant::now();
    println!("{} names in order in {} ms", loaded.zone.in_order().len(), began.elapsed().as_millis());

    let policy = Policy {
        cookies: Cookies::new([0; 16]),
        rates: Rates::new(0, 0, SystemTime::UNIX_EPOCH),
        idle_timeout: Duration::from_secs(10),
    };
    let identity = Arc::new(Identity::new("load", "load"));
    let world = World {
        everybody: Arc::new(Zones::new(vec![Arc::new(loaded.zone)])),
        views: vec![],
        identity,
        policy: Arc::new(policy),
        resolver: None,
        udp_octets_max: 1232,
    };
    let asker = Asker { address: Ipv4Addr::LOCALHOST.into(), carrier: Carrier::Udp, now: SystemTime::UNIX_EPOCH };
    for prefix in ["host-", "nothing-"] {
        let queries: Vec<Vec<u8>> =
            (0..1000).map(|n| query(&format!("{prefix}{}", n * 977 % NAMES), &origin)).collect();
        let (mut rotation, mut buffer) = (Rotation::default(), vec![0; 65535]);
        let began = Instant::now();
        for query in queries.iter().cycle().take(QUESTIONS) {
            let received = message::receive(query);
            std::hint::black_box(respond(&world, &received, asker, &mut rotation, &mut buffer));
        }
        println!("{prefix}*: {} ns an answer", began.elapsed().as_nanos() / QUESTIONS as u128);
    }
}

fn make() -> PathBuf {
    let mut text = String::from("$TTL 1h\n@ SOA ns root 1 1h 15m 1w 5m\n NS ns\nns A 10.0.0.1\n");
    for n in 0..NAMES {
        writeln!(text, "host-{n} A 10.{}.{}.{}", n >> 16 & 255, n >> 8 & 255, n & 255).expect("a String takes it");
    }
    let file = std::env::temp_dir().join("tomte-dns-load.zone");
    std::fs::write(&file, text).expect("the temporary directory takes the zone");
    file
}

fn query(label: &str, origin: &Name) -> Vec<u8> {
    let name = Name::from_text(label.as_bytes(), Some(origin.borrow())).expect("label and origin are short");
    [&[0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], name.borrow().as_wire(), &[0, 1, 0, 1]].concat()
}

fn resident_kib() -> usize {
    status("VmRSS:")
}

/// A figure of this process in KiB; 0 where there is no /proc.
fn status(key: &str) -> usize {
    let text = std::fs::read_to_string(Path::new("/proc/self/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("0");
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}
