//! The log: one event a line, fields not prose, to the terminal, as JSON, or into the journal.

use serde::{Deserialize, Serialize};
use std::io::IsTerminal;
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

/// The `[log]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the log goes and in which form.
    pub format: Format,
    /// What is logged: a level, or levels by target, like `info,wire=debug` (which logs every protocol line).
    pub filter: String,
}

impl Default for Config {
    fn default() -> Self {
        Self { format: Format::Auto, filter: "info".to_owned() }
    }
}

/// Forms of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The journal when systemd runs us, lines for people otherwise.
    Auto,
    /// Lines for people, on standard error; in colour on a terminal.
    Pretty,
    /// One JSON object a line, on standard error.
    Json,
    /// The systemd journal, with fields.
    Journald,
}

/// Whether a log could be started like this.
///
/// # Errors
/// The filter cannot be understood.
pub fn check(config: &Config) -> Result<(), String> {
    filter(config).map(drop)
}

fn filter(config: &Config) -> Result<EnvFilter, String> {
    EnvFilter::try_new(&config.filter)
        .map_err(|error| format!("`{}`: {error}; write a level like `info`, or `info,wire=debug`", config.filter))
}

/// Starts the log of this process. A second call, as in tests, changes nothing.
///
/// # Errors
/// The filter cannot be understood.
pub fn init(config: &Config) -> Result<(), String> {
    let filter = filter(config)?;
    // systemd sets JOURNAL_STREAM when standard error goes to the journal anyway: then keep the fields.
    let to_journal = match config.format {
        Format::Journald => true,
        Format::Auto => std::env::var_os("JOURNAL_STREAM").is_some(),
        Format::Pretty | Format::Json => false,
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let layer = match (to_journal.then(tracing_journald::layer), config.format) {
        (Some(Ok(journal)), _) => journal.boxed(),
        // No journal here (a container, a test): lines are better than silence.
        (_, Format::Json) => lines.json().flatten_event(true).boxed(),
        _ => lines.with_ansi(std::io::stderr().is_terminal()).compact().boxed(),
    };
    // `try_init` fails only when a subscriber is there already.
    let _ = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
    Ok(())
}
