//! Master files: zones as people write them (RFC 1035 §5).
//!
//! ```text
//!   $ORIGIN crepes.fr.
//!   $TTL 1h
//!   @      SOA  ns hostmaster ( 2026010101 1h 15m 1w 5m )
//!          NS   ns
//!   ns     A    10.77.1.53
//! ```
//!
//! A line is cut into words, then read by the fields of its type ([`crate::rdata::TABLE`]). A mistake is an error with file and
//! line, what stood there and what would be right; a file with a mistake makes no zone.

use crate::{
    name::{self, Name, NameError, NameRef},
    rare,
    rdata::{self, Field, Type},
    record::{Record, TTL_MAX},
    service,
    zone::{AddError, Builder, Finding, Place, Severity, Zone},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use std::{
    fmt::{self, Write as _},
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

/// How deep `$INCLUDE` may go: a file that includes itself must end.
const INCLUDE_DEPTH_MAX: usize = 8;
/// Octets of a word that an error repeats.
const WORD_SHOWN_MAX: usize = 60;

/// Whether IPv4 addresses are taken as they are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rewrite {
    /// As written.
    #[default]
    None,
    /// An address that begins with 10 begins with 127 instead: the lab in one process is on the loopback network.
    Loopback,
}

impl Rewrite {
    /// An address as it is to be used.
    pub fn address(self, mut octets: [u8; 4]) -> Ipv4Addr {
        if self == Rewrite::Loopback && octets[0] == 10 {
            octets[0] = 127;
        }
        octets.into()
    }
}

/// A mistake in a zone file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{problem}", place(file, *line))]
pub struct ZoneFileError {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1; 0 when it is about the file as a whole.
    pub line: u32,
    /// What stood there, and what would be right.
    pub problem: String,
}

fn place(file: &Path, line: u32) -> String {
    if line == 0 { format!("{}: ", file.display()) } else { format!("{}:{line}: ", file.display()) }
}

/// A zone that can be served, and what is doubtful about it.
#[derive(Debug)]
pub struct Loaded {
    /// The zone.
    pub zone: Zone,
    /// Warnings, each with its place.
    pub warnings: Vec<ZoneFileError>,
}

/// Reads the zone `origin` from `file`.
///
/// # Errors
/// The file cannot be read, has a mistake, or makes a zone that cannot be served; all errors of the last kind are told.
pub fn load(origin: NameRef<'_>, file: &Path, rewrite: Rewrite) -> Result<Loaded, Vec<ZoneFileError>> {
    let whole = |problem: String| vec![ZoneFileError { file: file.to_owned(), line: 0, problem }];
    let text = fs::read(file).map_err(|error| whole(format!("cannot read the zone file: {error}")))?;
    // `$INCLUDE` may not lead out of the zone's directory: whoever may write a zone need not see other files.
    let directory = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = directory.canonicalize().map_err(|error| whole(format!("cannot see its directory: {error}")))?;
    read(origin, file, &text, Some(&directory), rewrite)
}

/// Reads the zone `origin` from text; `file` is for messages, and `directory` is where `$INCLUDE` may look.
///
/// # Errors
/// As [`load`].
pub fn read(
    origin: NameRef<'_>,
    file: &Path,
    text: &[u8],
    directory: Option<&Path>,
    rewrite: Rewrite,
) -> Result<Loaded, Vec<ZoneFileError>> {
    let mut reader = Reader {
        files: vec![file.to_owned()],
        directory,
        builder: Builder::new(origin),
        rewrite,
        rdata: vec![],
        owner: None,
        default_ttl: None,
        last_ttl: None,
    };
    reader.file(text, 0, origin.to_name(), 0).map_err(|error| vec![error])?;
    let Reader { files, builder, .. } = reader;
    let (zone, findings) = builder.finish();
    let told = |finding: Finding| {
        let Finding { owner, place, text, .. } = finding;
        ZoneFileError {
            file: files[usize::from(place.file)].clone(),
            line: place.line,
            problem: format!("{owner}: {text}"),
        }
    };
    let (errors, warnings): (Vec<_>, Vec<_>) = findings.into_iter().partition(|f| f.severity == Severity::Error);
    if errors.is_empty() {
        Ok(Loaded { zone, warnings: warnings.into_iter().map(told).collect() })
    } else {
        Err(errors.into_iter().map(told).collect())
    }
}

/// Reads records that need not make a zone: a part of a journal, or a copy of somebody else's zone.
///
/// # Errors
/// A line is wrong.
pub(crate) fn records(file: &Path, text: &[u8]) -> Result<Vec<Record>, ZoneFileError> {
    let mut reader = Reader {
        files: vec![file.to_owned()],
        directory: None,
        builder: Builder::new(NameRef::ROOT),
        rewrite: Rewrite::None,
        rdata: vec![],
        owner: None,
        default_ttl: None,
        last_ttl: None,
    };
    reader.file(text, 0, Name::root(), 0)?;
    Ok(reader.builder.into_records())
}

/// One word of a file.
#[derive(Clone, Copy, Debug)]
struct Word<'t> {
    /// As it stands, escapes included; without the quotes.
    text: &'t [u8],
    quoted: bool,
    line: u32,
}

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A stray quote can make a word of megabytes.
        let shown = &self.text[..self.text.len().min(WORD_SHOWN_MAX)];
        f.write_str(&shared::transcript::readable(shown))?;
        if shown.len() < self.text.len() { f.write_str("...") } else { Ok(()) }
    }
}

impl Word<'_> {
    fn text(&self) -> &str {
        std::str::from_utf8(self.text).unwrap_or_default()
    }
}

/// A mistake on its way to the place where the file is known.
struct Mistake {
    line: u32,
    problem: String,
}

fn mistake<T>(line: u32, problem: impl Into<String>) -> Result<T, Mistake> {
    Err(Mistake { line, problem: problem.into() })
}

/// Cuts text into entries: the words of a line, or of several within parentheses.
struct Lexer<'t> {
    text: &'t [u8],
    at: usize,
    line: u32,
}

impl<'t> Lexer<'t> {
    /// The next entry's words go into `words`. Returns whether the line begins with a blank, which stands for the owner of the
    /// record before; `None` at the end.
    fn entry(&mut self, words: &mut Vec<Word<'t>>) -> Result<Option<Begins>, Mistake> {
        words.clear();
        let mut begins = Begins::of(self.text.get(self.at));
        let mut open = None;
        loop {
            let Some(&octet) = self.text.get(self.at) else {
                if let Some(line) = open {
                    return mistake(line, "`(` is never closed");
                }
                return Ok((!words.is_empty()).then_some(begins));
            };
            match octet {
                b'\n' => {
                    self.at += 1;
                    self.line += 1;
                    if open.is_none() {
                        if !words.is_empty() {
                            return Ok(Some(begins));
                        }
                        begins = Begins::of(self.text.get(self.at));
                    }
                }
                b' ' | b'\t' | b'\r' => self.at += 1,
                b';' => {
                    let rest = &self.text[self.at..];
                    self.at += rest.iter().position(|octet| *octet == b'\n').unwrap_or(rest.len());
                }
                b'(' if open.is_none() => {
                    open = Some(self.line);
                    self.at += 1;
                }
                b'(' => return mistake(self.line, "`(` within parentheses"),
                b')' if open.is_some() => {
                    open = None;
                    self.at += 1;
                }
                b')' => return mistake(self.line, "`)` without `(`"),
                b'"' => {
                    self.at += 1;
                    let word = self.word(|octet| octet == b'"');
                    if self.text.get(self.at).is_none() {
                        return mistake(word.line, "`\"` is never closed");
                    }
                    self.at += 1;
                    words.push(Word { quoted: true, ..word });
                }
                _ => {
                    let ends = |octet| matches!(octet, b' ' | b'\t' | b'\r' | b'\n' | b';' | b'(' | b')' | b'"');
                    let word = self.word(ends);
                    words.push(word);
                }
            }
        }
    }

    fn word(&mut self, ends: impl Fn(u8) -> bool) -> Word<'t> {
        let (begin, line) = (self.at, self.line);
        while let Some(&octet) = self.text.get(self.at).filter(|octet| !ends(**octet)) {
            if octet == b'\n' {
                self.line += 1;
            }
            // What stands behind a backslash ends nothing.
            let escaped = octet == b'\\' && self.text.get(self.at + 1).is_some_and(|next| *next != b'\n');
            self.at += if escaped { 2 } else { 1 };
        }
        Word { text: &self.text[begin..self.at], quoted: false, line }
    }
}

/// How a line begins.
#[derive(Clone, Copy, PartialEq)]
enum Begins {
    WithOwner,
    Blank,
}

impl Begins {
    fn of(octet: Option<&u8>) -> Self {
        if matches!(octet, Some(b' ' | b'\t')) { Begins::Blank } else { Begins::WithOwner }
    }
}

/// What is known while a file is read.
struct Reader<'r> {
    files: Vec<PathBuf>,
    directory: Option<&'r Path>,
    builder: Builder,
    rewrite: Rewrite,
    /// The data of the record that is being read.
    rdata: Vec<u8>,
    /// The owner of the last record, in wire form.
    owner: Option<Vec<u8>>,
    default_ttl: Option<u32>,
    last_ttl: Option<u32>,
}

impl Reader<'_> {
    fn file(&mut self, text: &[u8], file: u16, mut origin: Name, depth: usize) -> Result<(), ZoneFileError> {
        let mut lexer = Lexer { text, at: 0, line: 1 };
        let mut words = vec![];
        loop {
            let entry = lexer.entry(&mut words);
            let path = |reader: &Self| reader.files[usize::from(file)].clone();
            let begins = match entry {
                Ok(Some(begins)) => begins,
                Ok(None) => return Ok(()),
                Err(Mistake { line, problem }) => return Err(ZoneFileError { file: path(self), line, problem }),
            };
            let first = words[0];
            let done = match first.text {
                b"$INCLUDE" => self.include(&words, file, &origin, depth)?,
                [b'$', ..] if !first.quoted => self.directive(&words, &mut origin),
                _ => self.record(begins, &words, file, &origin),
            };
            done.map_err(|Mistake { line, problem }| ZoneFileError { file: path(self), line, problem })?;
        }
    }

    /// `$ORIGIN name` (RFC 1035 §5.1), `$TTL time` (RFC 2308 §4).
    fn directive(&mut self, words: &[Word<'_>], origin: &mut Name) -> Result<(), Mistake> {
        match words {
            [Word { text: b"$ORIGIN", .. }, name] => *origin = read_name(name, origin)?,
            [Word { text: b"$TTL", .. }, ttl] => self.default_ttl = Some(read_ttl(ttl)?),
            [first, ..] => {
                let right = "the directives are `$ORIGIN name`, `$TTL time` and `$INCLUDE file [origin]`";
                return mistake(first.line, format!("`{first}` with {} words behind it; {right}", words.len() - 1));
            }
            [] => {}
        }
        Ok(())
    }

    /// `$INCLUDE file [origin]` (RFC 1035 §5.1): neither the origin nor the last owner of the other file come back.
    fn include(
        &mut self,
        words: &[Word<'_>],
        file: u16,
        origin: &Name,
        depth: usize,
    ) -> Result<Result<(), Mistake>, ZoneFileError> {
        let line = words[0].line;
        let (wanted, origin) = match words {
            [_, wanted] => (wanted, Ok(origin.clone())),
            [_, wanted, other] => (wanted, read_name(other, origin)),
            _ => return Ok(mistake(line, "`$INCLUDE` takes a file and perhaps an origin")),
        };
        let origin = match origin {
            Ok(origin) => origin,
            Err(mistake) => return Ok(Err(mistake)),
        };
        if depth == INCLUDE_DEPTH_MAX {
            return Ok(mistake(
                line,
                format!("`$INCLUDE` goes deeper than {INCLUDE_DEPTH_MAX} files: does one include itself?"),
            ));
        }
        let Some(directory) = self.directory else { return Ok(mistake(line, "`$INCLUDE` has no place here")) };
        let path = match directory.join(wanted.text()).canonicalize() {
            Ok(path) if path.starts_with(directory) => path,
            Ok(_) => return Ok(mistake(line, format!("`{wanted}` is outside of the zone's directory"))),
            Err(error) => return Ok(mistake(line, format!("cannot read `{wanted}`: {error}"))),
        };
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) => return Ok(mistake(line, format!("cannot read `{wanted}`: {error}"))),
        };
        let Ok(number) = u16::try_from(self.files.len()) else { return Ok(mistake(line, "too many files")) };
        let shown = self.files[usize::from(file)].parent().unwrap_or(Path::new("")).join(wanted.text());
        self.files.push(shown);
        let owner = self.owner.take();
        self.file(&text, number, origin, depth + 1)?;
        self.owner = owner;
        Ok(Ok(()))
    }

    /// `[owner] [TTL] [class] type data`, TTL and class in either order.
    fn record(&mut self, begins: Begins, words: &[Word<'_>], file: u16, origin: &Name) -> Result<(), Mistake> {
        let line = words[0].line;
        let mut rest = words;
        if begins == Begins::WithOwner {
            let mut owner = self.owner.take().unwrap_or_default();
            owner.clear();
            name::append_text(&mut owner, words[0].text, Some(origin.borrow()))
                .map_err(|error| name_mistake(&words[0], error))?;
            self.owner = Some(owner);
            rest = &words[1..];
        }
        let (mut ttl, mut class_seen) = (None, false);
        let rtype = loop {
            let Some((word, behind)) = rest.split_first() else {
                return mistake(line, "the line ends before a type; write for example `www A 10.77.1.80`");
            };
            rest = behind;
            if ttl.is_none() && word.text.first().is_some_and(u8::is_ascii_digit) {
                ttl = Some(read_ttl(word)?);
            } else if !class_seen && [&b"IN"[..], b"CLASS1"].iter().any(|class| class.eq_ignore_ascii_case(word.text)) {
                class_seen = true;
            } else if [&b"CH"[..], b"HS", b"CS"].iter().any(|class| class.eq_ignore_ascii_case(word.text)) {
                return mistake(word.line, format!("the class is {word}; only IN is served"));
            } else {
                break read_type(word)?;
            }
        };
        if rtype.is_meta() {
            return mistake(line, format!("{rtype} cannot stand in a zone"));
        }
        self.rdata.clear();
        self.data(line, rtype, rest, origin)?;
        // RFC 2308 §4: without a TTL of its own, the record has $TTL's; before there was $TTL, it had that of the one before.
        let ttl = ttl.or(self.default_ttl).or(self.last_ttl);
        let Some(ttl) = ttl else {
            return mistake(line, "the record has no TTL: put `$TTL 1h` before the first record");
        };
        self.last_ttl = Some(ttl);
        let Some(owner) = self.owner.as_deref().and_then(|wire| NameRef::parse(wire).ok()) else {
            return mistake(
                line,
                "the line begins with a blank, and there is no record before it whose owner it could have",
            );
        };
        self.builder.add(owner, rtype, ttl, &self.rdata, Place { file, line }).map_err(|error| {
            let problem = match error {
                AddError::OutOfZone => {
                    format!("{owner} is not in the zone {}; is a dot missing or too many?", self.builder.origin())
                }
                AddError::TooLarge => error.to_string(),
            };
            Mistake { line, problem }
        })
    }

    fn data(&mut self, line: u32, rtype: Type, mut words: &[Word<'_>], origin: &Name) -> Result<(), Mistake> {
        if let [Word { text: b"\\#", quoted: false, .. }, length, digits @ ..] = words {
            return self.opaque(line, rtype, length, digits);
        }
        let Some(fields) = rdata::fields(rtype) else {
            return mistake(
                line,
                format!("the data of {rtype} is written `\\# 4 0a000001`: its octets, and how many (RFC 3597)"),
            );
        };
        for field in fields {
            let taken = self.field(line, rtype, *field, words, origin)?;
            words = &words[taken..];
        }
        match words {
            [] if self.rdata.len() > usize::from(u16::MAX) => mistake(line, "the data has more than 65535 octets"),
            // What is in a zone can be deleted by UPDATE, and the journal must be able to read that back.
            [] if !rdata::is_well_formed(rtype, &self.rdata) => mistake(line, format!("this is no data of {rtype}")),
            [] => Ok(()),
            [word, ..] => {
                mistake(word.line, format!("`{word}` is one word too many for {rtype}, which is {}", shape(fields)))
            }
        }
    }

    /// `\# 4 0a000001` (RFC 3597 §5).
    fn opaque(&mut self, line: u32, rtype: Type, length: &Word<'_>, digits: &[Word<'_>]) -> Result<(), Mistake> {
        for word in digits {
            append_hex(&mut self.rdata, word.text)
                .ok_or_else(|| wrong(word, "hexadecimal digits, two for each octet"))?;
        }
        if length.text().parse() != Ok(self.rdata.len()) || self.rdata.len() > usize::from(u16::MAX) {
            return mistake(length.line, format!("`\\# {length}` is followed by {} octets", self.rdata.len()));
        }
        if !rdata::is_well_formed(rtype, &self.rdata) {
            return mistake(line, format!("these octets are no data of {rtype}"));
        }
        Ok(())
    }

    /// Reads one field; returns how many words it took.
    fn field(
        &mut self,
        line: u32,
        rtype: Type,
        field: Field,
        words: &[Word<'_>],
        origin: &Name,
    ) -> Result<usize, Mistake> {
        // These may be empty.
        match field {
            Field::TypeBitmap => return self.bitmap(words).map(|()| words.len()),
            Field::ServiceParameters => return self.service(line, words).map(|()| words.len()),
            Field::Rare => {
                let texts: Vec<&str> = words.iter().map(Word::text).collect();
                let data = rare::read(rtype, &texts, origin.borrow());
                let no = || Mistake { line, problem: format!("the data of {rtype} is {}", rare::shape(rtype)) };
                self.rdata.extend(data.ok_or_else(no)?);
                return Ok(words.len());
            }
            _ => {}
        }
        let Some(word) = words.first() else {
            let fields = rdata::fields(rtype).unwrap_or_default();
            return mistake(
                line,
                format!("the line ends where {} should be; {rtype} is {}", describe(field), shape(fields)),
            );
        };
        let text = word.text();
        let out = &mut self.rdata;
        let no = || wrong(word, describe(field));
        match field {
            Field::U8 => out.push(text.parse().map_err(|_| no())?),
            Field::U16 => out.extend(text.parse::<u16>().map_err(|_| no())?.to_be_bytes()),
            Field::U32 => out.extend(text.parse::<u32>().map_err(|_| no())?.to_be_bytes()),
            Field::Period => out.extend(period(word.text).ok_or_else(no)?.to_be_bytes()),
            Field::Moment => out.extend(moment(text).ok_or_else(no)?.to_be_bytes()),
            Field::Name | Field::NameCompressible => {
                name::append_text(out, word.text, Some(origin.borrow())).map_err(|error| name_mistake(word, error))?;
            }
            Field::Ipv4 => {
                let octets = text.parse::<Ipv4Addr>().map_err(|_| no())?.octets();
                out.extend(self.rewrite.address(octets).octets());
            }
            Field::Ipv6 => out.extend(text.parse::<Ipv6Addr>().map_err(|_| no())?.octets()),
            Field::Text => append_string(out, word)?,
            Field::Texts => {
                for word in words {
                    append_string(out, word)?;
                }
                return Ok(words.len());
            }
            Field::TextToEnd => out.extend(unescaped(word)?),
            Field::TypeCode => out.extend(read_type(word)?.0.to_be_bytes()),
            Field::Hex => {
                for word in words {
                    append_hex(out, word.text).ok_or_else(|| wrong(word, describe(field)))?;
                }
                return Ok(words.len());
            }
            Field::HexCounted => {
                let at = out.len();
                out.push(0);
                if text != "-" {
                    append_hex(out, word.text).ok_or_else(no)?;
                }
                out[at] = u8::try_from(out.len() - at - 1).map_err(|_| no())?;
            }
            Field::Base64 => {
                let joined: Vec<u8> = words.iter().flat_map(|word| word.text).copied().collect();
                out.extend(STANDARD.decode(joined).map_err(|_| no())?);
                return Ok(words.len());
            }
            Field::Base32Counted => {
                let octets = base32hex(word.text).ok_or_else(no)?;
                out.push(u8::try_from(octets.len()).map_err(|_| no())?);
                out.extend(octets);
            }
            Field::Eui(octets) => {
                let pairs: Vec<&[u8]> = word.text.split(|octet| *octet == b'-').collect();
                if pairs.len() != usize::from(octets) || pairs.iter().any(|pair| pair.len() != 2) {
                    return Err(no());
                }
                for pair in pairs {
                    append_hex(out, pair).ok_or_else(no)?;
                }
            }
            // They returned above.
            Field::TypeBitmap | Field::ServiceParameters | Field::Rare => {}
        }
        Ok(1)
    }

    /// Mnemonics of types (RFC 4034 §4.2).
    fn bitmap(&mut self, words: &[Word<'_>]) -> Result<(), Mistake> {
        let mut types = words.iter().map(|word| read_type(word).map(|rtype| rtype.0)).collect::<Result<Vec<_>, _>>()?;
        self.rdata.extend(rdata::type_bitmap(&mut types));
        Ok(())
    }

    /// SVCB's parameters: `alpn=h2,h3 port=8443` (RFC 9460 §2.1), on the wire sorted by their numbers (§2.2).
    fn service(&mut self, line: u32, words: &[Word<'_>]) -> Result<(), Mistake> {
        let mut parameters = vec![];
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let (key, value) = match word.text.iter().position(|octet| *octet == b'=') {
                Some(at) => (&word.text[..at], &word.text[at + 1..]),
                None => (word.text, &b""[..]),
            };
            // `key="value"` is two words for the lexer, the second one quoted.
            let value = match words.as_slice().first() {
                Some(next) if next.quoted && word.text.ends_with(b"=") => {
                    words.next();
                    next.text
                }
                _ => value,
            };
            let value = unescaped(&Word { text: value, ..*word })?;
            let read = service::read(&String::from_utf8_lossy(key), &value);
            parameters.push(read.map_err(|right| wrong(word, right))?);
        }
        parameters.sort();
        if parameters.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return mistake(line, "a parameter stands there twice");
        }
        let begin = self.rdata.len();
        for (key, value) in parameters {
            self.rdata.extend(key.to_be_bytes());
            self.rdata.extend((value.len() as u16).to_be_bytes());
            self.rdata.extend(value);
        }
        match service::inconsistency(&self.rdata[begin..]) {
            Some(problem) => mistake(line, problem),
            None => Ok(()),
        }
    }
}

fn wrong(word: &Word<'_>, right: &str) -> Mistake {
    Mistake { line: word.line, problem: format!("`{word}` stands where {right} should be") }
}

fn name_mistake(word: &Word<'_>, error: NameError) -> Mistake {
    Mistake { line: word.line, problem: format!("`{word}` is not a name: {error}") }
}

fn read_name(word: &Word<'_>, origin: &Name) -> Result<Name, Mistake> {
    Name::from_text(word.text, Some(origin.borrow())).map_err(|error| name_mistake(word, error))
}

fn read_type(word: &Word<'_>) -> Result<Type, Mistake> {
    word.text().parse().map_err(|()| {
        let text = word.text().to_ascii_uppercase();
        let near = rdata::TABLE.iter().map(|row| row.1).min_by_key(|known| strsim::damerau_levenshtein(known, &text));
        let near = near.filter(|known| strsim::damerau_levenshtein(known, &text) <= 1);
        let hint = near.map_or("A, NS, MX, TXT ..., or TYPE123".to_owned(), |near| format!("did you mean {near}?"));
        Mistake { line: word.line, problem: format!("`{word}` is no type that is known here: {hint}") }
    })
}

fn read_ttl(word: &Word<'_>) -> Result<u32, Mistake> {
    period(word.text)
        .filter(|ttl| *ttl <= TTL_MAX)
        .ok_or_else(|| wrong(word, "a time up to 2147483647 seconds, as `3600` or `1h30m`,"))
}

/// `3600`, or `1h30m` with w, d, h, m and s.
fn period(text: &[u8]) -> Option<u32> {
    let (mut sum, mut number, mut digits) = (0_u32, 0_u32, false);
    for octet in text {
        let unit = match octet.to_ascii_lowercase() {
            digit @ b'0'..=b'9' => {
                number = number.checked_mul(10)?.checked_add(u32::from(digit - b'0'))?;
                digits = true;
                continue;
            }
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            b'd' => 86_400,
            b'w' => 604_800,
            _ => return None,
        };
        if !digits {
            return None;
        }
        sum = sum.checked_add(number.checked_mul(unit)?)?;
        (number, digits) = (0, false);
    }
    (!text.is_empty()).then_some(())?;
    sum.checked_add(number)
}

/// `20260131120000`, or seconds since 1970 (RFC 4034 §3.2).
fn moment(text: &str) -> Option<u32> {
    if text.len() != 14 {
        return text.parse().ok();
    }
    let part = |from: usize, to: usize| text.get(from..to)?.parse::<u16>().ok();
    let month = time::Month::try_from(part(4, 6)? as u8).ok()?;
    let date = time::Date::from_calendar_date(i32::from(part(0, 4)?), month, part(6, 8)? as u8).ok()?;
    let time = time::Time::from_hms(part(8, 10)? as u8, part(10, 12)? as u8, part(12, 14)? as u8).ok()?;
    // Serial arithmetic: the 32 bits go round (RFC 4034 §3.1.5).
    Some(time::UtcDateTime::new(date, time).unix_timestamp().cast_unsigned() as u32)
}

fn append_hex(out: &mut Vec<u8>, text: &[u8]) -> Option<()> {
    let digit = |octet: u8| char::from(octet).to_digit(16).map(|digit| digit as u8);
    if !text.len().is_multiple_of(2) {
        return None;
    }
    for pair in text.chunks_exact(2) {
        out.push(digit(pair[0])? << 4 | digit(pair[1])?);
    }
    Some(())
}

/// Base32 with the extended hex alphabet, without padding (RFC 4648 §7, RFC 5155 §3.3).
fn base32hex(text: &[u8]) -> Option<Vec<u8>> {
    let (mut bits, mut count, mut out) = (0_u32, 0, vec![]);
    for octet in text {
        bits = bits << 5 | char::from(*octet).to_digit(32)?;
        count += 5;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Some(out)
}

fn unescaped(word: &Word<'_>) -> Result<Vec<u8>, Mistake> {
    let mut octets = word.text.iter().copied();
    let mut out = vec![];
    while let Some(octet) = octets.next() {
        out.push(match octet {
            b'\\' => name::unescape(&mut octets).ok_or_else(|| name_mistake(word, NameError::BadEscape))?,
            plain => plain,
        });
    }
    Ok(out)
}

/// A character-string (RFC 1035 §3.3).
fn append_string(out: &mut Vec<u8>, word: &Word<'_>) -> Result<(), Mistake> {
    let octets = unescaped(word)?;
    let Ok(length) = u8::try_from(octets.len()) else {
        return mistake(
            word.line,
            format!("a string of {} octets; 255 are the most: cut it into several, each in quotes", octets.len()),
        );
    };
    out.push(length);
    out.extend(octets);
    Ok(())
}

fn describe(field: Field) -> &'static str {
    match field {
        Field::U8 => "a number up to 255",
        Field::U16 => "a number up to 65535",
        Field::U32 => "a number up to 4294967295",
        Field::Period => "a time, as `3600` or `1h`,",
        Field::Moment => "a moment, as `20260131120000`,",
        Field::Name | Field::NameCompressible => "a name",
        Field::Ipv4 => "an IPv4 address, as `10.77.1.80`,",
        Field::Ipv6 => "an IPv6 address, as `2001:db8::1`,",
        Field::Text | Field::Texts | Field::TextToEnd => "a text",
        Field::Hex => "hexadecimal digits, two for each octet,",
        Field::HexCounted => "a salt in hexadecimal digits, or `-`,",
        Field::Base64 => "base64",
        Field::Base32Counted => "base32",
        Field::TypeCode | Field::TypeBitmap => "a type",
        Field::Eui(_) => "octets, as `00-00-5e-00-53-2a`,",
        Field::ServiceParameters => "a parameter",
        Field::Rare => "data in a form of its own",
    }
}

/// `a number up to 65535, a name`
fn shape(fields: &[Field]) -> String {
    let mut text = String::new();
    for (index, field) in fields.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        write!(text, "{comma}{}", describe(*field).trim_end_matches(',')).expect("writing into a String does not fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "$TTL 1h\n@ SOA ns root 1 1h 15m 1w 5m\n NS ns\nns A 10.0.0.1\n";

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn read_text(text: &str) -> Result<Loaded, Vec<ZoneFileError>> {
        read(name("crepes.fr").borrow(), Path::new("crepes.zone"), text.as_bytes(), None, Rewrite::None)
    }

    fn rdata(line: &str) -> Vec<u8> {
        let loaded = read_text(&format!("{HEAD}{line}\n")).unwrap_or_else(|errors| panic!("{line}: {errors:?}"));
        let node = loaded.zone.node(name("x.crepes.fr").borrow()).unwrap();
        node.sets().flat_map(crate::zone::RrSet::records).flatten().copied().collect()
    }

    #[test]
    fn each_type_is_read_by_its_fields() {
        for (line, want) in [
            ("x A 10.77.1.80", &[10, 77, 1, 80][..]),
            ("x 300 IN A 10.77.1.80", &[10, 77, 1, 80]),
            ("x IN 5m A 10.77.1.80", &[10, 77, 1, 80]),
            ("x MX 10 mail", b"\0\x0a\x04mail\x06crepes\x02fr\0"),
            ("x MX 10 mail.fr.", b"\0\x0a\x04mail\x02fr\0"),
            ("x TXT a \"b c\" \"\" \"q\\\"\\010\"", b"\x01a\x03b c\0\x03q\"\x0a"),
            ("x TXT \"semi;colon (and) more\"", b"\x15semi;colon (and) more"),
            ("x AAAA 2001:db8::1", b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01"),
            ("x SRV 1 2 ( 3\n  _a\\.b.fr. ; comment )\n )", b"\0\x01\0\x02\0\x03\x04_a.b\x02fr\0"),
            ("x CAA 0 issue \"ca.fr\"", b"\0\x05issueca.fr"),
            ("x DS 1 13 2 ABCD ef", b"\0\x01\x0d\x02\xab\xcd\xef"),
            (
                "x NSEC a.fr. A MX TYPE1234",
                b"\x01a\x02fr\0\0\x02\x40\x01\x04\x1b\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x20",
            ),
            ("x NSEC3PARAM 1 0 0 -", b"\x01\0\0\0\0"),
            ("x NSEC3 1 1 0 aabb 00000014 A", b"\x01\x01\0\0\x02\xaa\xbb\x05\0\0\0\0\x24\0\x01\x40"),
            (
                "x RRSIG A 13 2 3600 20260101000000 1 7 fr. AAAA",
                b"\0\x01\x0d\x02\0\0\x0e\x10\x69\x55\xb9\0\0\0\0\x01\0\x07\x02fr\0\0\0\0",
            ),
            ("x TYPE65280 \\# 3 0a0b 0c", b"\x0a\x0b\x0c"),
            ("x TYPE1 \\# 4 0a000001", &[10, 0, 0, 1]),
            ("x A \\# 4 0a000001", &[10, 0, 0, 1]),
            ("x TYPE65280 \\# 0", b""),
            ("x DNAME other.fr.", b"\x05other\x02fr\0"),
            ("x WKS 192.0.2.1 tcp smtp 0", b"\xc0\0\x02\x01\x06\x80\0\0\x40"),
            ("x LOC 0 N 0 E 0m", b"\0\x12\x16\x13\x80\0\0\0\x80\0\0\0\0\x98\x96\x80"),
            ("x NID 10 0014:4fff:ff20:ee64", b"\0\x0a\0\x14\x4f\xff\xff\x20\xee\x64"),
            ("x EUI48 00-00-5e-00-53-2a", b"\0\0\x5e\0\x53\x2a"),
            ("x HTTPS 1 . port=8443 alpn=\"h2,h3\"", b"\0\x01\0\0\x01\0\x06\x02h2\x02h3\0\x03\0\x02\x20\xfb"),
            ("x HINFO PC \"Debian 12\"", b"\x02PC\x09Debian 12"),
        ] {
            assert_eq!(rdata(line), want, "{line}");
        }
    }

    #[test]
    fn owners_origins_and_times_follow_rfc_1035() {
        let text = "$ORIGIN fr.\n$TTL 1h\ncrepes SOA ns.crepes root.crepes ( 1 1h\n 15m 1w 5m )\n\n  ; nothing\n\tNS ns.crepes\n\
            $ORIGIN crepes\nns 60 A 10.0.0.1\n A 10.0.0.2\n@ 1w2d3h4m5s TXT at\r\n*.W A 10.0.0.3\n_x._y TXT under\n";
        let zone = read_text(text).unwrap().zone;
        let ttl =
            |owner: &str, rtype| zone.node(name(owner).borrow()).unwrap().set(rtype).map(|set| (set.ttl, set.len()));
        assert_eq!(ttl("ns.crepes.fr", Type::A), Some((60, 2)));
        assert_eq!(ttl("crepes.fr", Type::NS), Some((3600, 1)));
        assert_eq!(ttl("crepes.fr", Type::TXT), Some((788_645, 1)));
        assert_eq!(ttl("*.w.crepes.fr", Type::A), Some((3600, 1)));
        assert_eq!(ttl("_x._y.crepes.fr", Type::TXT), Some((3600, 1)));
    }

    #[test]
    fn a_mistake_is_told_with_file_and_line_and_what_would_be_right() {
        for (line, want) in [
            ("x A 10.0.0", "crepes.zone:5: `10.0.0` stands where an IPv4 address, as `10.77.1.80`, should be"),
            ("x MX mail", "crepes.zone:5: `mail` stands where a number up to 65535 should be"),
            ("x MX 10", "crepes.zone:5: the line ends where a name should be; MX is a number up to 65535, a name"),
            ("x A 10.0.0.1 10.0.0.2", "crepes.zone:5: `10.0.0.2` is one word too many for A"),
            ("x AAA ::1", "crepes.zone:5: `AAA` is no type that is known here: did you mean AAAA?"),
            ("x CNMAE a", "did you mean CNAME?"),
            ("x", "the line ends before a type"),
            ("\n\nx TXT \"open", "crepes.zone:7: `\"` is never closed"),
            ("x SRV ( 1", "`(` is never closed"),
            ("x A 10.0.0.1 )", "`)` without `(`"),
            ("x CH TXT a", "only IN is served"),
            ("x 99999999999 A 10.0.0.1", "stands where a time up to 2147483647 seconds"),
            ("x.edu. A 10.0.0.1", "x.edu. is not in the zone crepes.fr."),
            ("x..y A 10.0.0.1", "`x..y` is not a name: a label is empty"),
            ("x TYPE65280 0a", "is written `\\# 4 0a000001`"),
            ("x A \\# 3 0a0000", "these octets are no data of A"),
            ("x TYPE65280 \\# 3 0a", "`\\# 3` is followed by 1 octets"),
            ("x OPT \\# 0", "`OPT` is no type"),
            ("x TYPE41 \\# 0", "OPT cannot stand in a zone"),
            ("$GENERATE 1-9 a A 10.0.0.$", "the directives are"),
            ("$INCLUDE other.zone", "`$INCLUDE` has no place here"),
            ("x CNAME a\nx A 10.0.0.1", "crepes.zone:5: x.crepes.fr.: a CNAME and A at the same name"),
            ("x CNAME a\nx CNAME b", "more than one CNAME"),
            ("@ SOA a b 2 1 1 1 1", "there are 2 SOA records"),
            ("sub NS ns.sub", "crepes.zone:5: sub.crepes.fr.: ns.sub.crepes.fr. has no address here (glue)"),
        ] {
            let errors = read_text(&format!("{HEAD}{line}\n")).expect_err(line);
            assert!(errors[0].to_string().contains(want), "{line}: {}", errors[0]);
        }
        for (text, want) in [
            ("", "crepes.zone: crepes.fr.: there is no SOA record"),
            ("a A 10.0.0.1\n", "crepes.zone:1: the record has no TTL"),
            (" 60 A 10.0.0.1\n", "crepes.zone:1: the line begins with a blank"),
        ] {
            assert!(read_text(text).unwrap_err()[0].to_string().contains(want), "{text}");
        }
    }

    #[test]
    fn what_is_doubtful_is_a_warning() {
        let loaded = read_text(&format!("{HEAD}x MX 10 nowhere\ny 60 A 10.0.0.1\ny 90 A 10.0.0.2\n")).unwrap();
        let told: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told.iter().any(|text| text.contains("MX leads to nowhere.crepes.fr., which does not exist")),
            "{told:?}"
        );
    }

    #[test]
    fn include_stays_in_the_directory_and_ends() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join("zones").join(name);
        fs::create_dir(dir.path().join("zones")).unwrap();
        fs::write(dir.path().join("secret"), "x TXT secret\n").unwrap();
        fs::write(at("hosts"), "x A 10.0.0.9\n").unwrap();
        let load = |include: &str| {
            fs::write(at("crepes.zone"), format!("{HEAD}$INCLUDE {include}\n TXT of-ns\n")).unwrap();
            load(name("crepes.fr").borrow(), &at("crepes.zone"), Rewrite::Loopback)
        };
        let zone = load("hosts sub").unwrap().zone;
        let set = zone.node(name("x.sub.crepes.fr").borrow()).unwrap().set(Type::A).unwrap();
        assert_eq!(set.records().next().unwrap(), [127, 0, 0, 9]);
        assert!(zone.node(name("ns.crepes.fr").borrow()).unwrap().set(Type::TXT).is_some());
        for (include, want) in [
            ("../secret", "outside of the zone's directory"),
            ("/etc/passwd", "outside of the zone's directory"),
            ("nothing", "cannot read `nothing`"),
            ("crepes.zone", "deeper than 8 files"),
        ] {
            let error = load(include).unwrap_err()[0].to_string();
            assert!(error.contains(want), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "[a-z0-9 .@\\\\\"();$\\n*A-Z_-]{0,200}") {
            let _ = read_text(&text);
            let _ = read_text(&format!("{HEAD}{text}"));
        }
    }
}
