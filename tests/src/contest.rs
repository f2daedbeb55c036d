//! Several servers at the same work, in turn: what each run showed, the medians, and ours against the best of the others.
//!
//! A benchmark says what its columns are ([`Work`]), who takes part ([`Contestant`]), how a server is started and what one run
//! shows; the flags, the turns ([`Choices::run`]) and the report ([`Choices::report`]) are the same for all.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::process::{built_program, find_program, version};
use crate::table::{Table, figure, median};

/// The server that the others are compared with.
const OURS: &str = "ours";

/// The kinds of work that a benchmark knows; each is a column.
pub trait Work: ValueEnum + Copy + PartialEq + Send + Sync + 'static {
    /// What each run of it shows.
    fn figures(self) -> &'static [Figure];

    /// How often each server does it, when so many rounds are wanted.
    fn rounds(self, wanted: u16) -> u16 {
        wanted
    }
}

/// The servers that a benchmark knows. The one that is called `ours` is ours.
pub trait Contestant: ValueEnum + Copy + Send + Sync + 'static {
    /// Our program.
    const OURS: &'static str;

    /// The program of another, and the Debian package that it is in; none for ours.
    fn peer(self) -> Option<(&'static str, &'static str)>;

    /// The version as the program itself tells it.
    fn version(self, program: &Path) -> Result<String> {
        version(program, "--version")
    }
}

/// What a column or a server is called on the command line.
pub fn name(value: impl ValueEnum + Copy) -> String {
    value.to_possible_value().expect("no value is skipped").get_name().to_owned()
}

/// What every benchmark lets its user choose.
#[derive(Debug, Args)]
pub struct Choices<W: Work, C: Contestant> {
    /// How often each server runs each column; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Only these columns.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "COLUMN")]
    only: Vec<W>,
    /// Only these servers.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "SERVER")]
    servers: Vec<C>,
    /// Our binary; by default the one of this source tree.
    #[arg(long, value_name = "FILE")]
    ours: Option<PathBuf>,
    /// Print JSON, with every single run.
    #[arg(long)]
    json: bool,
}

impl<W: Work, C: Contestant> Choices<W, C> {
    /// The columns that are wanted.
    pub fn columns(&self) -> &[W] {
        all_or(&self.only)
    }

    fn servers(&self) -> &[C] {
        all_or(&self.servers)
    }

    /// A server's program.
    pub fn program(&self, server: C) -> Result<PathBuf> {
        match (server.peer(), &self.ours) {
            (Some((program, package)), _) => find_program(program, package),
            (None, Some(program)) => Ok(program.clone()),
            (None, None) => built_program(C::OURS),
        }
    }

    /// Runs a column. `start` gets a server ready; then they take turns at `measure`, which is told the round and may put another in
    /// the server's place. So a slow minute of the machine hits all of them.
    pub fn run<S>(
        &self,
        work: W,
        start: impl Fn(C) -> Result<S>,
        mut measure: impl FnMut(C, &mut S, u16) -> Result<Vec<f64>>,
    ) -> Result<Column> {
        let mut servers = vec![];
        for server in self.servers() {
            servers.push(start(*server).with_context(|| name(*server))?);
        }
        let runs = |server: &C| Runs { server: name(*server), runs: vec![] };
        let mut column =
            Column { name: name(work), figures: work.figures(), servers: self.servers().iter().map(runs).collect() };
        for round in 1..=work.rounds(self.rounds) {
            for ((kind, server), runs) in self.servers().iter().zip(&mut servers).zip(&mut column.servers) {
                let run = measure(*kind, server, round).with_context(|| runs.server.clone())?;
                let (first, unit) = (figure(run[0]), column.figures[0].unit);
                eprintln!("{} round {round}: {} {first} {unit}", column.name, runs.server);
                runs.runs.push(run);
            }
        }
        Ok(column)
    }

    /// Prints what came out. `each` is how much one run was; `tools` are programs that took part besides the servers, with their
    /// versions.
    pub fn report(&self, each: &str, tools: Vec<(String, String)>, columns: Vec<Column>) -> Result<()> {
        let mut versions = vec![];
        for server in self.servers() {
            versions.push((name(*server), server.version(&self.program(*server)?)?));
        }
        versions.extend(tools);
        let report = Report { rounds: self.rounds, each: each.to_owned(), versions, columns };
        if self.json {
            println!("{:#}", report.to_json());
        } else {
            print!("{report}");
        }
        Ok(())
    }
}

fn all_or<T: ValueEnum>(chosen: &[T]) -> &[T] {
    if chosen.is_empty() { T::value_variants() } else { chosen }
}

/// Something that each run of a column shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figure {
    /// What it is counted in.
    pub unit: &'static str,
    /// Which of two such figures wins.
    pub better: Better,
}

/// Which of two figures wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words say it")]
pub enum Better {
    More,
    Less,
}

/// One kind of work and everybody's results.
#[derive(Debug)]
pub struct Column {
    /// What it is called on the command line.
    pub name: String,
    /// What each run shows.
    pub figures: &'static [Figure],
    /// Each server with its runs.
    pub servers: Vec<Runs>,
}

/// One server's runs: in each the figures of the column, in their order.
#[derive(Debug)]
pub struct Runs {
    /// The server.
    pub server: String,
    /// The runs.
    pub runs: Vec<Vec<f64>>,
}

impl Runs {
    fn of(&self, index: usize) -> Vec<f64> {
        self.runs.iter().map(|run| run[index]).collect()
    }

    fn median(&self, index: usize) -> f64 {
        median(&self.of(index)).unwrap_or(f64::NAN)
    }
}

impl Column {
    /// Ours against the best of the others; above 1 we are ahead, whichever way the figure goes. `None` unless ours and
    /// another have run.
    fn ratio(&self, index: usize) -> Option<f64> {
        let ours = self.servers.iter().find(|runs| runs.server == OURS)?.median(index);
        let others = self.servers.iter().filter(|runs| runs.server != OURS).map(|runs| runs.median(index));
        match self.figures[index].better {
            Better::More => Some(ours / others.reduce(f64::max)?),
            Better::Less => Some(others.reduce(f64::min)? / ours),
        }
    }

    /// The column with every single run.
    fn to_json(&self) -> Value {
        let figure = |(index, figure): (usize, &Figure)| {
            let server = |runs: &Runs| {
                let value = json!({ "median": runs.median(index), "runs": runs.of(index) });
                (runs.server.clone(), value)
            };
            let servers: serde_json::Map<_, _> = self.servers.iter().map(server).collect();
            json!({ "unit": figure.unit, "servers": servers, "ours/best": self.ratio(index) })
        };
        json!({ "column": self.name, "figures": self.figures.iter().enumerate().map(figure).collect::<Vec<_>>() })
    }
}

/// All that a benchmark has found.
#[derive(Debug)]
struct Report {
    /// How often each server ran each column.
    rounds: u16,
    /// How much one run was: `3 s`.
    each: String,
    /// Each program and its version, as it tells it itself.
    versions: Vec<(String, String)>,
    /// The columns.
    columns: Vec<Column>,
}

impl Report {
    /// With every single run, for programs.
    fn to_json(&self) -> Value {
        let versions: BTreeMap<_, _> = self.versions.iter().cloned().collect();
        let columns: Vec<_> = self.columns.iter().map(Column::to_json).collect();
        json!({ "rounds": self.rounds, "each": self.each, "versions": versions, "columns": columns })
    }
}

/// For people.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, version) in &self.versions {
            writeln!(f, "{name}: {version}")?;
        }
        let processors = std::thread::available_parallelism().map_or(0, usize::from);
        writeln!(f, "{} rounds of {}, medians, {processors} processors\n", self.rounds, self.each)?;
        write!(f, "{}", table(&self.columns))?;
        writeln!(f, "\nours/best: above 1 ours is ahead of the best peer, in rate, time, memory and processor alike.")
    }
}

/// A row for each figure of each column, a cell for each server, and the ratio.
fn table(columns: &[Column]) -> Table {
    let servers = columns.first().map(|column| &column.servers[..]).unwrap_or_default();
    let heading = ["", ""].into_iter().chain(servers.iter().map(|runs| runs.server.as_str()));
    let mut table = Table::new(heading.chain(["ours/best"]));
    for column in columns {
        for (index, shown) in column.figures.iter().enumerate() {
            let name = if index == 0 { column.name.clone() } else { String::new() };
            let ratio = column.ratio(index).map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
            let cells = column.servers.iter().map(|runs| figure(runs.median(index)));
            table.row([name, shown.unit.to_owned()].into_iter().chain(cells).chain([ratio]));
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIGURES: [Figure; 2] =
        [Figure { unit: "q/s", better: Better::More }, Figure { unit: "CPU us", better: Better::Less }];

    fn runs(server: &str, rate: [f64; 3], cost: f64) -> Runs {
        Runs { server: server.to_owned(), runs: rate.map(|rate| vec![rate, cost]).to_vec() }
    }

    #[test]
    fn above_one_is_ahead_of_the_best_whichever_way_the_figure_goes() {
        let servers = vec![
            runs(OURS, [150.0, 100.0, 120.0], 2.0),
            runs("a", [100.0; 3], 8.0),
            runs("b", [10.0, 60.0, 60.0], 4.0),
        ];
        let column = Column { name: "hits".to_owned(), figures: &FIGURES, servers };
        assert_eq!((column.ratio(0), column.ratio(1)), (Some(1.2), Some(2.0)));
        assert_eq!(column.to_json()["figures"][0]["servers"]["b"]["median"], 60.0);
        assert_eq!(
            table(&[column]).to_string(),
            "              ours     a     b  ours/best\n\
             hits     q/s   120   100  60.0       1.20\n      \
             CPU us  2.00  8.00  4.00       2.00\n"
        );
    }

    #[test]
    fn nobody_is_ahead_of_nobody() {
        let column = Column { name: "hits".to_owned(), figures: &FIGURES, servers: vec![runs(OURS, [1.0; 3], 1.0)] };
        assert_eq!(column.ratio(0), None);
    }
}
