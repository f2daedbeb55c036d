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
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor},
};
use std::{
    fmt::{self, Write},
    io,
    marker::PhantomData,
    ops::Range,
    path::{Path, PathBuf},
};
use toml::de::{DeTable, DeValue};

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
    fn check_tables(&self) -> Result<(), ConfigError> {
        let document = DeTable::parse(&self.text).map_err(|error| self.diagnose(&error))?;
        for key in document.get_ref().keys() {
            if !TABLES.contains(&key.get_ref().as_ref()) {
                let message = unknown_key(key.get_ref(), &TABLES);
                return Err(self.point_at(key.span(), String::new(), message));
            }
        }
        Ok(())
    }

    /// Reads the table `name` of this layer alone; what the layer leaves out gets its default.
    fn table<T: DeserializeOwned + Default>(&self, name: &str) -> Result<T, ConfigError> {
        let read = || -> Result<Option<T>, toml::de::Error> {
            toml::Deserializer::parse(&self.text)?.deserialize_map(OneTable { name, of: PhantomData })
        };
        read().map(Option::unwrap_or_default).map_err(|error| self.diagnose(&error))
    }

    fn diagnose(&self, error: &toml::de::Error) -> ConfigError {
        let span = error.span().unwrap_or_default();
        let path = DeTable::parse(&self.text).map(|t| path_at(t.get_ref(), span.start)).unwrap_or_default();
        self.point_at(span, path.join("."), rephrase(error.message()))
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
        let entry = |(key, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
            let key: &std::borrow::Cow<'_, str> = key.get_ref();
            (key.clone().into_owned(), self.value(value))
        };
        table.iter().map(entry).collect()
    }

    fn value(&self, spanned: &toml::Spanned<DeValue<'_>>) -> Value {
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

/// Deserializes one top-level table and passes over all others: they belong to other daemons.
struct OneTable<'n, T> {
    name: &'n str,
    of: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for OneTable<'_, T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a file with a table [{}]", self.name)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<T>, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<String>()? {
            if key == self.name {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
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

/// Serde's message about an unknown field names all known ones; people want the one they meant.
fn rephrase(message: &str) -> String {
    let Some(rest) = message.strip_prefix("unknown field `") else { return message.to_owned() };
    let mut quoted = rest.split('`').step_by(2);
    let unknown = quoted.next().unwrap_or_default();
    let known: Vec<&str> = rest.split('`').skip(2).step_by(2).collect();
    unknown_key(unknown, &known)
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
    /// A file cannot be read, is not TOML, or has a table that nobody knows.
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
        layers.iter().try_for_each(Layer::check_tables)?;
        let builder = layers.iter().fold(Merged::builder(), |builder, layer| builder.add_source(layer.clone()));
        let unfit =
            |error: ::config::ConfigError| ConfigError::Unfit { table: String::new(), problem: error.to_string() };
        Ok(Self { merged: builder.build().map_err(unfit)?, layers })
    }

    /// The table `name`, checked layer by layer and then as a whole.
    ///
    /// # Errors
    /// The first value that is wrong, with its place.
    pub fn table<T: DeserializeOwned + Default>(&self, name: &str) -> Result<T, ConfigError> {
        for layer in &self.layers {
            layer.table::<T>(name)?;
        }
        match self.merged.get::<T>(name) {
            Ok(table) => Ok(table),
            Err(::config::ConfigError::NotFound(_)) => Ok(T::default()),
            Err(error) => Err(ConfigError::Unfit { table: name.to_owned(), problem: error.to_string() }),
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
            ("[web]\nlisten = [\"localhost:80\"]\n", &["tomte.toml:2:11", "web.listen"]),
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
            message.starts_with("environment variable TOMTE__WEB__MAX: invalid type: string \"many\""),
            "{message}"
        );
    }

    #[test]
    fn a_missing_file_is_an_error_only_when_it_was_asked_for() {
        let message = Settings::load(Some(Path::new("/nonexistent/t.toml")), [], &[]).unwrap_err().to_string();
        assert!(message.contains("/nonexistent/t.toml") && message.contains("-c FILE"), "{message}");
    }
}
