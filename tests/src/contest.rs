//! Several servers at the same work, in turn: what each run showed, the medians, and ours against the best of the others.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

use crate::table::{Table, figure, median};

/// The server that the others are compared with.
pub const OURS: &str = "ours";

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
    pub fn ratio(&self, index: usize) -> Option<f64> {
        let ours = self.servers.iter().find(|runs| runs.server == OURS)?.median(index);
        let others = self.servers.iter().filter(|runs| runs.server != OURS).map(|runs| runs.median(index));
        match self.figures[index].better {
            Better::More => Some(ours / others.reduce(f64::max)?),
            Better::Less => Some(others.reduce(f64::min)? / ours),
        }
    }

    /// The column with every single run.
    pub fn to_json(&self) -> Value {
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
pub struct Report {
    /// How often each server ran each column.
    pub rounds: u16,
    /// How long one run took, in seconds.
    pub seconds: u64,
    /// Each program and its version, as it tells it itself.
    pub versions: Vec<(String, String)>,
    /// The columns.
    pub columns: Vec<Column>,
}

impl Report {
    /// With every single run, for programs.
    pub fn to_json(&self) -> Value {
        let versions: BTreeMap<_, _> = self.versions.iter().cloned().collect();
        let columns: Vec<_> = self.columns.iter().map(Column::to_json).collect();
        json!({ "rounds": self.rounds, "seconds": self.seconds, "versions": versions, "columns": columns })
    }
}

/// For people.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, version) in &self.versions {
            writeln!(f, "{name}: {version}")?;
        }
        let processors = std::thread::available_parallelism().map_or(0, usize::from);
        writeln!(f, "{} rounds of {} s, medians, {processors} processors\n", self.rounds, self.seconds)?;
        write!(f, "{}", table(&self.columns))?;
        writeln!(f, "\nours/best: above 1 ours is ahead of the best peer, in rate, time, memory and processor alike.")
    }
}

/// A row for each figure of each column, a cell for each server, and the ratio.
pub fn table(columns: &[Column]) -> Table {
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
