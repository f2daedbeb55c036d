//! One TOML file with a table for each daemon, in layers; the later wins:
//!
//! ```text
//!   built-in defaults < tomte.toml < conf.d/*.toml < TOMTE__WEB__KEEP_ALIVE_MAX=10 < --set web.keep_alive_max=10
//! ```
//!
//! Each layer is TOML text with a name, environment and flags too. So each is checked on its own, with the position of
//! every value still at hand, before the layers are laid upon each other by the `config` crate, which keeps for every
//! value where it came from. An error says where, which key, what stood there and what would be right:
//!
//! ```text
//! /etc/tomte/tomte.toml:12:1: unknown key `docrot` in [web]; did you mean `docroot`?
//!    12 | docrot = "/srv/www"
//!       | ^^^^^^
//! ```

use ::config::{Config as Merged, Map, Source, Value, ValueKind};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fmt::{self, Write},
    io,
    ops::Range,
    path::{Path, PathBuf},
};
use toml::{
    Spanned,
    de::{DeTable, DeValue, ValueDeserializer},
};

/// Where the configuration lies when no flag says otherwise.
pub const DEFAULT_FILE: &str = "/etc/tomte/tomte.toml";

/// The tables that a configuration file may have: the shared ones, then one for each daemon.
pub const TABLES: [&str; 12] =
    ["log", "admin", "transcript", "accounts", "tls", "wordlength", "web", "smtp", "pop3", "ftp", "dns", "tracker"];

/// A configuration that cannot be used. The daemon exits with code 78 (`EX_CONFIG`) and systemd does not restart it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file that was asked for cannot be read.
    #[error("{}: cannot read the configuration: {source}{}", path.display(), cure(source))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A value that cannot be understood, and where it stands.
    #[error("{0}")]
    Invalid(Box<Diagnosis>),
    /// Layers that are right one by one but not together.
    #[error("[{table}]: {problem}")]
    Unfit {
        /// The table.
        table: String,
        /// What is wrong with the whole.
        problem: String,
    },
    /// More than one thing is wrong.
    #[error("{}", lines(.0))]
    Several(Vec<ConfigError>),
}

impl ConfigError {
    /// This error, or those that it is made of.
    pub fn each(self) -> Vec<Self> {
        match self {
            Self::Several(all) => all,
            one => vec![one],
        }
    }

    /// Nothing, one error, or several.
    ///
    /// # Errors
    /// There are some.
    pub fn all(mut errors: Vec<Self>) -> Result<(), Self> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Self::Several(errors)),
        }
    }
}

/// Several errors, one below the other.
pub(crate) fn lines<E: fmt::Display>(errors: &[E]) -> String {
    errors.iter().map(E::to_string).collect::<Vec<_>>().join("\n")
}

fn cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; name an existing file with -c FILE, or leave -c out to run with the defaults",
        io::ErrorKind::PermissionDenied => "; let the daemon's user read it (chmod o+r, or chgrp)",
        _ => "",
    }
}

/// One wrong value: where, which key, what, and what would be right.
#[derive(Debug)]
pub struct Diagnosis {
    place: String,
    key: String,
    message: String,
    excerpt: Option<Excerpt>,
}

#[derive(Debug)]
struct Excerpt {
    line: usize,
    column: usize,
    text: String,
    width: usize,
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)?;
        if let Some(at) = &self.excerpt {
            write!(f, ":{}:{}", at.line, at.column)?;
        }
        write!(f, ": {}", self.message)?;
        if !self.key.is_empty() {
            write!(f, " (key {})", self.key)?;
        }
        if let Some(at) = &self.excerpt {
            let gutter = at.line.to_string().len().max(4);
            write!(f, "\n{:gutter$} | {}", at.line, at.text)?;
            write!(f, "\n{:gutter$} | {:indent$}{}", "", "", "^".repeat(at.width), indent = at.column - 1)?;
        }
        Ok(())
    }
}

/// One layer: TOML text and the name under which errors and `--print-config` speak of it.
#[derive(Clone, Debug)]
struct Layer {
    place: String,
    text: String,
    /// Lines and columns mean something to the reader only in a file.
    is_file: bool,
}

impl Layer {
    /// Syntax, and top-level tables that nobody knows.
    fn check_tables(&self) -> Vec<ConfigError> {
        let document = match DeTable::parse(&self.text) {
            Ok(document) => document,
            Err(error) => return vec![self.diagnose(&error)],
        };
        let unknown = document.get_ref().keys().filter(|key| !TABLES.contains(&key.get_ref().as_ref()));
        unknown.map(|key| self.point_at(key.span(), String::new(), unknown_key(key.get_ref(), &TABLES))).collect()
    }

    /// What is wrong in the table `name` of this layer alone. Each key is read by itself: what a layer leaves out gets its default,
    /// and one mistake hides no other.
    fn problems<T: DeserializeOwned>(&self, name: &str) -> Vec<ConfigError> {
        let document = DeTable::parse(&self.text);
        let Some(value) = document.as_ref().ok().and_then(|document| document.get_ref().get(name)) else {
            return vec![];
        };
        let read = |value: DeValue<'_>, span| T::deserialize(ValueDeserializer::from(Spanned::new(span, value))).err();
        let wrong: Vec<toml::de::Error> = match value.get_ref() {
            DeValue::Table(keys) => {
                let alone =
                    |(key, value): (&Spanned<_>, &Spanned<_>)| DeTable::from_iter([(key.clone(), value.clone())]);
                keys.iter().filter_map(|entry| read(DeValue::Table(alone(entry)), value.span())).collect()
            }
            other => read(other.clone(), value.span()).into_iter().collect(),
        };
        wrong.iter().map(|error| self.diagnose(error)).collect()
    }

    /// Where the value of `key` stands, or, if this layer does not say it all, the longest part of it that it does. How many steps
    /// that is, too: `web.site[1].docroot` has four.
    fn find(&self, key: &str) -> Option<(usize, Range<usize>)> {
        let document = DeTable::parse(&self.text).ok()?;
        let mut value = Spanned::new(document.span(), DeValue::Table(document.into_inner()));
        let (mut depth, mut found) = (0, None);
        for step in key.split(['.', '[']) {
            let next = match (value.get_ref(), step.strip_suffix(']').map(str::parse::<usize>)) {
                (DeValue::Table(table), None) => table.get(step),
                (DeValue::Array(items), Some(Ok(index))) => items.get(index),
                _ => None,
            };
            let Some(next) = next.cloned() else { break };
            value = next;
            depth += 1;
            found = Some((depth, value.span()));
        }
        found
    }

    fn diagnose(&self, error: &toml::de::Error) -> ConfigError {
        let span = error.span().unwrap_or_default();
        let path = DeTable::parse(&self.text).map(|t| path_at(t.get_ref(), span.start)).unwrap_or_default();
        let key = path.last().map_or("", String::as_str);
        let message = rephrase(error.message(), key, self.text.get(span.clone()).unwrap_or_default());
        self.point_at(span, path.join("."), message)
    }

    fn point_at(&self, span: Range<usize>, key: String, message: String) -> ConfigError {
        let excerpt = self.is_file.then(|| {
            let start = span.start.min(self.text.len());
            let line_start = self.text[..start].rfind('\n').map_or(0, |at| at + 1);
            let text = self.text[line_start..].lines().next().unwrap_or_default().to_owned();
            let column = self.text[line_start..start].chars().count() + 1;
            let room = text.chars().count().saturating_sub(column - 1).max(1);
            let line = self.text[..line_start].matches('\n').count() + 1;
            Excerpt { line, column, width: self.text[start..span.end.max(start)].chars().count().clamp(1, room), text }
        });
        ConfigError::Invalid(Box::new(Diagnosis { place: self.place.clone(), key, message, excerpt }))
    }

    /// The origin of a value that begins at `offset`, for people: `tomte.toml:12`.
    fn origin(&self, offset: usize) -> String {
        if self.is_file {
            format!("{}:{}", self.place, self.text[..offset].matches('\n').count() + 1)
        } else {
            self.place.clone()
        }
    }

    fn values(&self, table: &DeTable<'_>) -> Map<String, Value> {
        let entry = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
            let key: &std::borrow::Cow<'_, str> = key.get_ref();
            (key.clone().into_owned(), self.value(value))
        };
        table.iter().map(entry).collect()
    }

    fn value(&self, spanned: &Spanned<DeValue<'_>>) -> Value {
        let kind = match spanned.get_ref() {
            DeValue::String(text) => ValueKind::String(text.clone().into_owned()),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map_or_else(|_| ValueKind::String(number.to_string()), ValueKind::I64),
            DeValue::Float(number) => number.as_str().parse().map_or(ValueKind::Nil, ValueKind::Float),
            DeValue::Boolean(value) => ValueKind::Boolean(*value),
            DeValue::Datetime(when) => ValueKind::String(when.to_string()),
            DeValue::Array(items) => ValueKind::Array(items.iter().map(|item| self.value(item)).collect()),
            DeValue::Table(table) => ValueKind::Table(self.values(table)),
        };
        Value::new(Some(&self.origin(spanned.span().start)), kind)
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ::config::ConfigError> {
        let document = DeTable::parse(&self.text).map_err(|error| ::config::ConfigError::Message(error.to_string()))?;
        Ok(self.values(document.get_ref()))
    }
}

/// The keys that lead to the value at `offset`.
fn path_at(table: &DeTable<'_>, offset: usize) -> Vec<String> {
    for (key, value) in table {
        let within = key.span().contains(&offset) || value.span().contains(&offset);
        let deeper = match value.get_ref() {
            DeValue::Table(inner) => path_at(inner, offset),
            DeValue::Array(items) => {
                let mut inner = items.iter().filter_map(|item| match item.get_ref() {
                    DeValue::Table(inner) => Some(path_at(inner, offset)),
                    _ => None,
                });
                inner.rfind(|path| !path.is_empty()).unwrap_or_default()
            }
            _ => vec![],
        };
        if within || !deeper.is_empty() {
            return std::iter::once(key.get_ref().clone().into_owned()).chain(deeper).collect();
        }
    }
    vec![]
}

/// What would be right, where serde only says what is wrong with what `stood` there. Its message about an unknown field names
/// all known ones; people want the one they meant.
fn rephrase(message: &str, key: &str, stood: &str) -> String {
    if let Some(rest) = message.strip_prefix("unknown field `") {
        let mut quoted = rest.split('`').step_by(2);
        let unknown = quoted.next().unwrap_or_default();
        let known: Vec<&str> = rest.split('`').skip(2).step_by(2).collect();
        return unknown_key(unknown, &known);
    }
    let cure = match message.rsplit_once("expected ").map_or(message, |(_, wanted)| wanted) {
        "invalid socket address syntax" => {
            return format!(
                "{stood} is no socket address: write an address and a port, like \"127.0.0.1:8080\", \"[::1]:8080\", or \
                 \"[::]:8080\" for every address of this machine; names are not looked up here"
            );
        }
        "invalid IP address syntax" => {
            return format!(
                "{stood} is no address: write one like \"127.0.0.1\" or \"::1\"; names are not looked up here"
            );
        }
        "a sequence" => {
            let item = match stood {
                _ if !key.starts_with("listen") => stood.to_owned(),
                port if port.parse::<u16>().is_ok() => format!("\"127.0.0.1:{port}\""),
                address if address.contains(':') => address.to_owned(),
                _ => "\"127.0.0.1:8080\"".to_owned(),
            };
            format!("a list stands in brackets: {key} = [{item}]")
        }
        "a string" | "path string" => format!("put it in quotes: {key} = \"{stood}\""),
        "a boolean" => format!("write true or false, without quotes: {key} = true"),
        "u8" | "u16" | "u32" | "u64" | "usize" => format!("write a whole number, without quotes: {key} = 10"),
        "a map" => format!("names and values stand in braces: {key} = {{ name = value }}"),
        _ => return message.to_owned(),
    };
    format!("{message}; {cure}")
}

fn unknown_key(unknown: &str, known: &[&str]) -> String {
    // 0.8 lets through a swapped, missing or doubled letter and a lost plural, and keeps out mere coincidence. Between
    // short names it sees no likeness even when two letters have changed places, so one slip of the finger counts always.
    let slip = |name: &str| if strsim::osa_distance(unknown, name) == 1 { 0.81 } else { 0.0 };
    let likeness = |name: &&str| strsim::jaro_winkler(unknown, name).max(slip(name));
    let nearest = known.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match nearest.filter(|name| likeness(name) > 0.8) {
        Some(meant) => format!("unknown key `{unknown}`; did you mean `{meant}`?"),
        None => format!("unknown key `{unknown}`; known here: {}", known.join(", ")),
    }
}

/// Reads a whole document of another kind than the daemons' (such as lab.toml), with errors as precise as theirs.
///
/// # Errors
/// The first value that is wrong, with its place.
pub fn read_document<T: DeserializeOwned>(place: &str, text: &str) -> Result<T, ConfigError> {
    let layer = Layer { place: place.to_owned(), text: text.to_owned(), is_file: true };
    toml::Deserializer::parse(text).and_then(T::deserialize).map_err(|error| layer.diagnose(&error))
}

/// As [`Settings::misfit`], for a document of another kind: `host[3].web.docroot`.
pub fn misfit_in(place: &str, text: &str, key: &str, problem: &str) -> ConfigError {
    let layer = Layer { place: place.to_owned(), text: text.to_owned(), is_file: true };
    let span = layer.find(key).map_or(0..0, |(_, span)| span);
    layer.point_at(span, String::new(), format!("{key}: {problem}"))
}

/// All layers, read and merged.
#[derive(Clone, Debug)]
pub struct Settings {
    layers: Vec<Layer>,
    merged: Merged,
}

impl Settings {
    /// Reads `file` and `conf.d/*.toml` beside it, then `environment` (variables `TOMTE__TABLE__KEY`), then `sets`
    /// (each `table.key=value`). Without `file`, [`DEFAULT_FILE`] is read if it exists.
    ///
    /// # Errors
    /// A file cannot be read, is not TOML, or has a table that nobody knows: all that is wrong.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        sets: &[String],
    ) -> Result<Self, ConfigError> {
        let mut layers = vec![];
        let main = file.unwrap_or(Path::new(DEFAULT_FILE));
        if file.is_some() || main.exists() {
            layers.push(read_file(main)?);
        }
        for path in conf_d(main)? {
            layers.push(read_file(&path)?);
        }
        // Sorted, so that a run does not depend on the order in which the environment happens to be stored.
        let mut variables: Vec<_> =
            environment.into_iter().filter_map(|(k, v)| Some((k.strip_prefix("TOMTE__")?.to_owned(), v))).collect();
        variables.sort();
        for (name, value) in variables {
            let key = name.to_ascii_lowercase().replace("__", ".");
            layers.push(assignment(&key, &value, format!("environment variable TOMTE__{name}")));
        }
        for set in sets {
            let (key, value) = set.split_once('=').ok_or_else(|| ConfigError::Unfit {
                table: "--set".to_owned(),
                problem: format!("`{set}` is not table.key=value"),
            })?;
            layers.push(assignment(key.trim(), value.trim(), format!("--set {set}")));
        }
        Self::from_layers(layers)
    }

    /// One layer from memory, for tests and for the lab.
    ///
    /// # Errors
    /// As for [`Settings::load`].
    pub fn from_text(place: &str, text: &str) -> Result<Self, ConfigError> {
        Self::from_layers(vec![Layer { place: place.to_owned(), text: text.to_owned(), is_file: true }])
    }

    fn from_layers(layers: Vec<Layer>) -> Result<Self, ConfigError> {
        ConfigError::all(layers.iter().flat_map(Layer::check_tables).collect())?;
        let builder = layers.iter().fold(Merged::builder(), |builder, layer| builder.add_source(layer.clone()));
        let unfit =
            |error: ::config::ConfigError| ConfigError::Unfit { table: String::new(), problem: error.to_string() };
        Ok(Self { merged: builder.build().map_err(unfit)?, layers })
    }

    /// The table `name`, checked layer by layer and then as a whole.
    ///
    /// # Errors
    /// Each key whose value is wrong, with its place.
    pub fn table<T: DeserializeOwned + Default>(&self, name: &str) -> Result<T, ConfigError> {
        ConfigError::all(self.layers.iter().flat_map(|layer| layer.problems::<T>(name)).collect())?;
        match self.merged.get::<T>(name) {
            Ok(table) => Ok(table),
            Err(::config::ConfigError::NotFound(_)) => Ok(T::default()),
            Err(error) => Err(ConfigError::Unfit { table: name.to_owned(), problem: error.to_string() }),
        }
    }

    /// Whether any layer has the table `name`.
    pub fn has(&self, name: &str) -> bool {
        self.layers.iter().any(|layer| layer.find(name).is_some())
    }

    /// Says a problem with the value of `key` (as `web.site[1].docroot`) of the place where that value stands.
    pub fn misfit(&self, key: &str, problem: &str) -> ConfigError {
        let steps = key.split(['.', '[']).count();
        let found = self.layers.iter().rev().filter_map(|layer| Some((layer, layer.find(key)?)));
        // Later layers win; and of what is not said in full, what says most of it.
        let nearest =
            found.fold(None, |best: Option<(&Layer, usize, Range<usize>)>, (layer, (depth, span))| match best {
                Some((_, known, _)) if known >= depth => best,
                _ => Some((layer, depth, span)),
            });
        match nearest {
            // Of a key the table alone says nothing.
            Some((layer, depth, span)) if depth > 1 || steps == 1 => {
                layer.point_at(span, String::new(), format!("{key}: {problem}"))
            }
            _ => ConfigError::Invalid(Box::new(Diagnosis {
                place: key.to_owned(),
                key: String::new(),
                message: format!("{problem} (the key is not set: this is its default)"),
                excerpt: None,
            })),
        }
    }

    /// The table as TOML, each key with its effective value and where that came from; for `--print-config`.
    pub fn explain<T: Serialize>(&self, name: &str, effective: &T) -> String {
        let mut out = format!("[{name}]\n");
        let table = toml::Table::try_from(effective).unwrap_or_default();
        let set = self.merged.collect().ok().and_then(|mut tables| tables.remove(name)?.into_table().ok());
        explain_keys("", &table, &set.unwrap_or_default(), &mut out);
        out
    }

    /// The files that were read, in order.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.layers.iter().filter(|layer| layer.is_file).map(|layer| layer.place.as_str())
    }
}

/// `set` holds, with its origin, what some layer set; all other keys of `table` have their default.
fn explain_keys(prefix: &str, table: &toml::Table, set: &Map<String, Value>, out: &mut String) {
    for (key, value) in table {
        let known = set.get(key);
        if let toml::Value::Table(inner) = value {
            let set = known.and_then(|value| value.clone().into_table().ok()).unwrap_or_default();
            explain_keys(&format!("{prefix}{key}."), inner, &set, out);
        } else {
            let origin = known.and_then(Value::origin).unwrap_or("default");
            let assignment = format!("{prefix}{key} = {value}");
            writeln!(out, "{assignment:<48} # {origin}").expect("writing into a String does not fail");
        }
    }
}

fn read_file(path: &Path) -> Result<Layer, ConfigError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    Ok(Layer { place: path.display().to_string(), text, is_file: true })
}

/// `conf.d/*.toml` beside the main file, by name.
fn conf_d(main: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let dir = main.with_file_name("conf.d");
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(source) => return Err(ConfigError::Unreadable { path: dir, source }),
    };
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()
        .map_err(|source| ConfigError::Unreadable { path: dir, source })?;
    paths.retain(|path| path.extension().is_some_and(|e| e == "toml"));
    paths.sort();
    Ok(paths)
}

/// `web.keep_alive_max` and `10` as a layer. What is not TOML by itself is a string, so that `web.docroot=/srv/www`
/// needs no quotes.
fn assignment(key: &str, value: &str, place: String) -> Layer {
    let plain = format!("{key} = {value}");
    let text = if DeTable::parse(&plain).is_ok() {
        plain
    } else {
        format!("{key} = {}", toml::Value::String(value.to_owned()))
    };
    Layer { place, text, is_file: false }
}

/// Keeps what a running daemon cannot change: `fresh` becomes what it was, and `kept` gets the key, so that the log can say that it takes a
/// restart.
pub fn keep<T: Clone + PartialEq>(key: &'static str, fresh: &mut T, was: &T, kept: &mut Vec<&'static str>) {
    if fresh != was {
        fresh.clone_from(was);
        kept.push(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{Size, Span};
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Web {
        listen: Vec<std::net::SocketAddr>,
        docroot: PathBuf,
        idle: Span,
        head_max: Size,
        max: u32,
        hosts: Vec<Host>,
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Host {
        name: String,
        redirect: Option<String>,
    }

    impl Default for Web {
        fn default() -> Self {
            let listen = vec![([127, 0, 0, 1], 80).into()];
            Self {
                listen,
                docroot: "/srv".into(),
                idle: Span::secs(5),
                head_max: Size::kib(16),
                max: 100,
                hosts: vec![],
            }
        }
    }

    fn error(text: &str) -> String {
        let settings = Settings::from_text("tomte.toml", text);
        settings.and_then(|s| s.table::<Web>("web")).unwrap_err().to_string()
    }

    #[test]
    fn an_unknown_key_gets_its_place_and_a_suggestion() {
        let message = error("[web]\nmax = 3\n  docrot = \"/srv/www\"\n");
        let want = "tomte.toml:3:3: unknown key `docrot`; did you mean `docroot`? (key web.docrot)\n   \
                    3 |   docrot = \"/srv/www\"\n     |   ^^^^^^";
        assert_eq!(message, want);
    }

    #[test]
    fn each_kind_of_mistake_is_named_with_its_place() {
        for (text, wants) in [
            ("[wed]\n", &["tomte.toml:1:2", "unknown key `wed`; did you mean `web`?"][..]),
            ("[wbe]\n", &["did you mean `web`?"]),
            ("[cat]\n", &["known here: log, admin"]),
            ("[web\n", &["tomte.toml:1:5"]),
            ("[web]\nmax = \"ten\"\n", &["tomte.toml:2:7", "invalid type: string \"ten\", expected u32", "web.max"]),
            ("[web]\nmax = -1\n", &["tomte.toml:2:7", "-1", "web.max"]),
            ("[web]\nidle = 30\n", &["tomte.toml:2:8", "a time with its unit in quotes, like \"30 s\""]),
            ("[web]\nidle = \"30\"\n", &["tomte.toml:2:8", "write a whole number and a unit"]),
            ("[web]\nhead_max = \"1 Mib\"\n", &["tomte.toml:2:12", "MiB"]),
            (
                "[web]\nlisten = [\"localhost:80\"]\n",
                &["tomte.toml:2:11: \"localhost:80\" is no socket address", "like \"127.0.0.1:8080\"", "web.listen"],
            ),
            (
                "[web]\nlisten = 80\n",
                &["2:10: ", "expected a sequence; ", "in brackets: listen = [\"127.0.0.1:80\"] (key"],
            ),
            ("[web]\nlisten = \"[::1]:80\"\n", &["in brackets: listen = [\"[::1]:80\"] (key"]),
            ("[web]\nlisten = \"\"\n", &["in brackets: listen = [\"127.0.0.1:8080\"] (key"]),
            ("[web]\nhosts = 1\n", &["in brackets: hosts = [1] (key"]),
            ("[web]\nmax = \"10\"\n", &["write a whole number, without quotes: max = 10"]),
            ("[web]\ndocroot = 1\n", &["put it in quotes: docroot = \"1\""]),
            ("web = 1\n", &["tomte.toml:1:7", "(key web)"]),
            (
                "[web]\n[[web.hosts]]\nname=\"a\"\n[[web.hosts]]\nnane=\"b\"\n",
                &["tomte.toml:5:1", "`name`", "web.hosts.nane"],
            ),
            ("[web]\nzzz = 1\n", &["known here: listen, docroot"]),
        ] {
            let message = error(text);
            for want in wants {
                assert!(message.contains(want), "{text:?}\ngave    {message}\nwithout {want}");
            }
        }
    }

    #[test]
    fn every_wrong_key_is_told_not_the_first_alone() {
        let message = error("[web]\nmax = -1\ndocrot = 1\nidle = \"1 s\"\nhead_max = 3\n");
        let places: Vec<&str> = message.lines().filter(|line| line.starts_with("tomte.toml:")).collect();
        assert_eq!(places.len(), 3, "{message}");
        let message = error("[wbe]\n[smpt]\n");
        assert!(message.contains("`web`?") && message.contains("`smtp`?"), "{message}");
    }

    #[test]
    fn a_misfit_is_said_of_the_last_layer_that_says_it_and_as_exactly_as_it_can_be() {
        let text = "[web]\nmax = 1\nhosts = [{ name = \"a\" }, { name = \"b\" }]\n";
        let file = Layer { place: "tomte.toml".to_owned(), text: text.to_owned(), is_file: true };
        let flag = assignment("web.max", "2", "--set web.max=2".to_owned());
        let settings = Settings::from_layers(vec![file, flag]).unwrap();
        for (key, want) in [
            ("web.max", "--set web.max=2: web.max: no"),
            ("web.hosts[1].name", "tomte.toml:3:35: web.hosts[1].name: no\n"),
            ("web.hosts[1].redirect", "tomte.toml:3:26: web.hosts[1].redirect: no\n"),
            ("web.hosts[2].name", "tomte.toml:3:9: web.hosts[2].name: no\n"),
            ("web.idle", "web.idle: no (the key is not set: this is its default)"),
            ("web", "--set web.max=2: web: no"),
            ("smtp.spool", "smtp.spool: no (the key is not set"),
        ] {
            let message = settings.misfit(key, "no").to_string();
            assert!(message.starts_with(want), "{message}\nwanted {want}");
        }
        assert!(settings.has("web") && !settings.has("smtp"));
        assert!(
            misfit_in("lab.toml", "[[host]]\nname = \"a b\"\n", "host[0].name", "no")
                .to_string()
                .starts_with("lab.toml:2:8: host[0].name: no\n")
        );
    }

    #[test]
    fn later_layers_win_and_each_value_knows_where_it_came_from() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tomte.toml");
        std::fs::write(&file, "[web]\nmax = 1\nidle = \"1 s\"\ndocroot = \"/a\"\n[smtp]\nanything = true\n").unwrap();
        std::fs::create_dir(dir.path().join("conf.d")).unwrap();
        std::fs::write(dir.path().join("conf.d/10-more.toml"), "web.idle = \"2 s\"\n").unwrap();
        std::fs::write(dir.path().join("conf.d/ignored.txt"), "not toml").unwrap();
        let environment = [("TOMTE__WEB__DOCROOT".to_owned(), "/b".to_owned()), ("PATH".to_owned(), "/bin".to_owned())];
        let settings = Settings::load(Some(&file), environment, &["web.head_max=1 KiB".to_owned()]).unwrap();
        let web: Web = settings.table("web").unwrap();
        assert_eq!((web.max, web.idle, web.docroot.as_path()), (1, Span::secs(2), Path::new("/b")));
        assert_eq!(web.head_max, Size::kib(1));
        let explained = settings.explain("web", &web);
        for (key, origin) in [
            ("max = 1 ", "tomte.toml:2"),
            ("idle = \"2 s\" ", "conf.d/10-more.toml:1"),
            ("docroot = \"/b\" ", "environment variable TOMTE__WEB__DOCROOT"),
            ("head_max = \"1 KiB\" ", "--set web.head_max=1 KiB"),
            ("listen = [\"127.0.0.1:80\"]", "default"),
        ] {
            let line = explained.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("{explained}"));
            assert!(line.ends_with(origin), "{line}");
        }
    }

    #[test]
    fn a_wrong_variable_is_named() {
        let environment = [("TOMTE__WEB__MAX".to_owned(), "many".to_owned())];
        let settings = Settings::load(None, environment, &[]).unwrap();
        let message = settings.table::<Web>("web").unwrap_err().to_string();
        assert!(
            message.starts_with(
                "environment variable TOMTE__WEB__MAX: invalid type: string \"many\", expected u32; write"
            ),
            "{message}"
        );
    }

    #[test]
    fn a_missing_file_is_an_error_only_when_it_was_asked_for() {
        let message = Settings::load(Some(Path::new("/nonexistent/t.toml")), [], &[]).unwrap_err().to_string();
        assert!(message.contains("/nonexistent/t.toml") && message.contains("-c FILE"), "{message}");
    }
}
