//! Loading a name server with `dnsperf`.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::contest::{Better, Figure};
use crate::dns::Over;
use crate::process::find_program;

/// How many clients ask, each from its own port: enough that both workers of a server get their share of them.
const CLIENTS: u32 = 32;

/// What one run does. It sets RD, which an authoritative server passes over.
#[derive(Debug, Clone, Copy)]
pub struct Queries<'a> {
    /// The server.
    pub server: SocketAddr,
    /// A file with a name and a type in each line, asked in turn.
    pub questions: &'a Path,
    /// How they travel.
    pub over: Over,
    /// How fast they are asked.
    pub pace: Pace,
    /// How often the file is gone through at most; without it, until the time is over.
    pub passes: Option<u32>,
    /// How long it takes at most.
    pub duration: Duration,
}

/// How fast questions are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// A hundred are always under way.
    AsFastAsItGoes,
    /// So many in a second, and how long each takes is kept.
    PerSecond(u32),
}

impl Pace {
    /// What a run at this pace shows, the rate or the waits first.
    pub fn figures(self) -> &'static [Figure] {
        const COST: Figure = Figure { unit: "CPU us/query", better: Better::Less };
        match self {
            Self::AsFastAsItGoes => &[Figure { unit: "q/s", better: Better::More }, COST],
            Self::PerSecond(_) => &[
                Figure { unit: "p99 ms", better: Better::Less },
                Figure { unit: "p50 ms", better: Better::Less },
                COST,
            ],
        }
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// Queries that were answered.
    pub completed: u64,
    /// Queries that were not.
    pub lost: u64,
    /// Answers with this RCODE.
    pub noerror: u64,
    /// Answers with this RCODE.
    pub nxdomain: u64,
    seconds: f64,
    /// How long each took, in seconds, the fastest first.
    waits: Vec<f64>,
}

impl Queries<'_> {
    /// Runs dnsperf. What is lost may only be what a full socket buffer drops, and no answer may be an error.
    pub fn run(&self) -> Result<Outcome> {
        let mut dnsperf = Command::new(find_program("dnsperf", "dnsperf")?);
        dnsperf.args(["-s", &self.server.ip().to_string(), "-p", &self.server.port().to_string(), "-W"]);
        dnsperf.args(["-c", &CLIENTS.to_string(), "-l", &self.duration.as_secs().max(1).to_string()]);
        dnsperf.args(["-m", if self.over == Over::Tcp { "tcp" } else { "udp" }]).arg("-d").arg(self.questions);
        if let Some(passes) = self.passes {
            dnsperf.args(["-n", &passes.to_string()]);
        }
        match self.pace {
            Pace::AsFastAsItGoes => dnsperf.args(["-T", "2"]),
            Pace::PerSecond(rate) => dnsperf.args(["-T", "1", "-Q", &rate.to_string(), "-v"]),
        };
        let output = dnsperf.output().context("cannot start dnsperf")?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "dnsperf: {}{text}", String::from_utf8_lossy(&output.stderr));
        let outcome = Outcome::read(&text).with_context(|| format!("dnsperf reported {text}"))?;
        let Outcome { completed, lost, noerror, nxdomain, .. } = outcome;
        ensure!(completed > 0 && lost * 1000 <= completed, "{completed} queries answered, {lost} lost");
        ensure!(noerror + nxdomain == completed, "some answers are neither NOERROR nor NXDOMAIN:\n{text}");
        Ok(outcome)
    }
}

impl Outcome {
    /// Queries in a second.
    pub fn rate(&self) -> f64 {
        self.completed as f64 / self.seconds
    }

    /// The [figures](Pace::figures) of a run at this pace, for which the server used so much of the processor.
    pub fn figures(&self, pace: Pace, cpu: Duration) -> Result<Vec<f64>> {
        let cost = cpu.as_secs_f64() * 1e6 / self.completed as f64;
        Ok(match pace {
            Pace::AsFastAsItGoes => vec![self.rate(), cost],
            Pace::PerSecond(_) => vec![self.percentile_ms(99)?, self.percentile_ms(50)?, cost],
        })
    }

    /// How many milliseconds so many of a hundred did not have to wait longer than. Only a run with a [`Pace::PerSecond`] tells.
    fn percentile_ms(&self, percent: usize) -> Result<f64> {
        let told = self.waits.len();
        ensure!(told > 0 && told as u64 == self.completed, "dnsperf told {told} of {} queries", self.completed);
        Ok(self.waits[(told - 1) * percent / 100] * 1e3)
    }

    fn read(text: &str) -> Result<Self> {
        // `  Queries completed:    209999 (100.00%)`
        let word = |key: &str| {
            let line = text.lines().find_map(|line| line.trim_start().strip_prefix(key));
            line.and_then(|rest| rest.split_ascii_whitespace().next()).with_context(|| format!("no `{key}`"))
        };
        // `  Response codes:       NOERROR 105000 (50.00%), NXDOMAIN 104999 (50.00%)`
        let codes = text.lines().find_map(|line| line.trim_start().strip_prefix("Response codes:")).unwrap_or("");
        let code = |name: &str| {
            let mut codes = codes.split(',').map(str::split_ascii_whitespace);
            let count = codes.find_map(|mut words| words.next().filter(|word| *word == name).and(words.next()));
            count.map_or(Ok(0), str::parse)
        };
        // `> NOERROR host-1.example A 0.000123`
        let waits = text.lines().filter_map(|line| line.strip_prefix("> ")?.rsplit(' ').next()?.parse().ok());
        let mut waits: Vec<f64> = waits.collect();
        waits.sort_by(f64::total_cmp);
        Ok(Self {
            completed: word("Queries completed:")?.parse()?,
            lost: word("Queries lost:")?.parse()?,
            noerror: code("NOERROR")?,
            nxdomain: code("NXDOMAIN")?,
            seconds: word("Run time (s):")?.parse()?,
            waits,
        })
    }
}

/// Its name, and its version as its help tells it.
pub fn version() -> Result<(String, String)> {
    let output = Command::new(find_program("dnsperf", "dnsperf")?).arg("-h").output()?;
    let help = String::from_utf8_lossy(&output.stdout);
    let version = help.lines().find_map(|line| line.strip_prefix("Version "));
    Ok(("dnsperf".to_owned(), version.unwrap_or("unknown").to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dnsperf_tells_is_read() {
        let text = "> NOERROR host-0.example A 0.000250\n> NXDOMAIN nobody-7919.example A 0.000125\n\nStatistics:\n\n  \
            Queries sent:         3\n  Queries completed:    2 (66.67%)\n  Queries lost:         1 (33.33%)\n\n  \
            Response codes:       NOERROR 1 (50.00%), NXDOMAIN 1 (50.00%)\n  Run time (s):         1.500000\n";
        let outcome = Outcome::read(text).unwrap();
        assert_eq!((outcome.completed, outcome.lost, outcome.noerror, outcome.nxdomain), (2, 1, 1, 1));
        assert_eq!((outcome.seconds, outcome.percentile_ms(99).unwrap()), (1.5, 0.125));
        assert!(Outcome::read("Usage: dnsperf").is_err());
    }
}
