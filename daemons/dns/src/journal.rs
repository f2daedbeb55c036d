//! What UPDATE has changed since the master file was written, on disk.
//!
//! A change is answered with NOERROR when it is here. The file is text, one entry for each change, oldest first:
//!
//! ```text
//!   change 2026010101 2026010102 at 2026-01-01T12:00:00Z octets 213 sha256 6c0f4d8e0d0d5f2a
//!   - crepes.fr. 3600 IN SOA ns.crepes.fr. hostmaster.crepes.fr. 2026010101 3600 900 604800 300
//!   + crepes.fr. 3600 IN SOA ns.crepes.fr. hostmaster.crepes.fr. 2026010102 3600 900 604800 300
//!   + www2.crepes.fr. 3600 IN A 10.77.1.81
//! ```
//!
//! The number of octets and their hash tell an entry that is whole from one that a crash has cut off. Such a one can
//! only be the last, was never answered, and is dropped.
//!
//! # The master file and its journal
//!
//! | serial of the file | what happens |
//! | --- | --- |
//! | where the journal begins | all entries are done again |
//! | where one of its entries ends | those behind it are done again; those before it are in the file, and are dropped |
//! | newer than where it ends | the file was edited, and counts: the journal is put aside |
//! | anything else | nobody can know what is meant: an error that names the cure |
//!
//! # What a crash leaves
//!
//! | while | on disk | afterwards |
//! | --- | --- | --- |
//! | an entry is appended | its beginning, perhaps | it is cut off; nobody was told NOERROR |
//! | the file is rewritten | the old one, and `.tmp` | the old one counts |
//! | the file has been renamed | the new one | it says the same in fewer words |

use crate::{draft::Difference, durable, name::NameRef, record::is_newer, sign::file_stem, zonefile};
use std::{
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

/// A journal is not made shorter below this size.
const COMPACT_OCTETS_MIN: u64 = 1 << 20;
/// The last entries stay by themselves when the others become one: a secondary that is a little behind is told a
/// little.
const COMPACT_KEEPS: usize = 64;
/// The octets of a hash that are written: they guard against accidents, not against people.
const HASH_OCTETS: usize = 8;

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The system refused.
    #[error("cannot use the journal {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An entry in the middle is not what was written.
    #[error(
        "{}:{line}: {problem}; put the journal back from a backup, or move it away to go on without the changes in it",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// The master file has a serial that the journal does not know.
    #[error(
        "the master file has the serial {serial}, and the changes in {} lead from {from} to {to}: give the file a serial \
         above {to} to go on with the file alone, or {from} to have the changes done again",
        path.display()
    )]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The master file's serial.
        serial: u32,
        /// Where the journal begins.
        from: u32,
        /// Where it ends.
        to: u32,
    },
}

/// A journal that can be appended to.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    /// Open at its end; not before the first change, and not after a failure.
    file: Option<File>,
    /// How many octets are sure to be on disk.
    octets: u64,
    /// At which size it is made shorter.
    compact_at: u64,
}

/// What a journal says about its master file.
#[derive(Debug)]
pub struct Opened {
    /// The journal, ready for what comes.
    pub journal: Journal,
    /// What is to be done again.
    pub replay: Vec<Difference>,
    /// What the master file has already: good for incremental transfers.
    pub history: Vec<Difference>,
    /// What somebody should know.
    pub warnings: Vec<String>,
}

/// A file of `state` for a zone: `<state>/<view or ->/<zone>.<what>`.
pub fn path(state: &Path, view: &str, zone: NameRef<'_>, what: &str) -> PathBuf {
    // The name of a view is what somebody wrote; `-` is not among the octets that stay.
    let escaped = |octet: u8| {
        if octet.is_ascii_alphanumeric() { char::from(octet).to_string() } else { format!("%{octet:02x}") }
    };
    let view = if view.is_empty() { "-".to_owned() } else { view.bytes().map(escaped).collect() };
    state.join(view).join(format!("{}.{what}", file_stem(zone)))
}

impl Journal {
    /// Reads the journal of a zone whose master file has `serial`; one that is not there is empty.
    ///
    /// # Errors
    /// It cannot be read, is damaged, or does not belong to this master file.
    pub fn open(path: &Path, zone: NameRef<'_>, serial: u32) -> Result<Opened, JournalError> {
        let io = |source| JournalError::Io { path: path.to_owned(), source };
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => vec![],
            Err(error) => return Err(io(error)),
        };
        let Entries { mut differences, good } = read(path, zone, &text)?;
        let mut warnings = vec![];
        if good < text.len() {
            let lost = text.len() - good;
            warnings.push(format!(
                "{}: the last entry was cut off by a crash, before it was answered: dropped",
                path.display()
            ));
            tracing::debug!(path = %path.display(), lost, "torn journal");
            let file = OpenOptions::new().write(true).open(path).map_err(io)?;
            file.set_len(good as u64).and_then(|()| file.sync_all()).map_err(io)?;
        }
        let mut journal = Self { path: path.to_owned(), file: None, octets: good as u64, compact_at: 0 };
        journal.set_compact_at();
        let (Some(first), Some(last)) = (differences.first(), differences.last()) else {
            return Ok(Opened { journal, replay: vec![], history: vec![], warnings });
        };
        let (from, to) = (first.from, last.to);
        let done = if serial == from {
            Some(0)
        } else {
            differences.iter().position(|entry| entry.to == serial).map(|at| at + 1)
        };
        if let Some(done) = done {
            let replay = differences.split_off(done);
            if done > 0 {
                journal.rewrite(&entries(&replay)).map_err(io)?;
            }
            return Ok(Opened { journal, replay, history: differences, warnings });
        }
        if is_newer(serial, to) {
            let aside = path.with_extension(format!("journal.{to}"));
            fs::rename(path, &aside).map_err(io)?;
            warnings.push(format!(
                "{zone}: the master file has the serial {serial}, newer than {to}, where the changes by UPDATE end: the \
                 file counts, and the changes are put aside as {}",
                aside.display()
            ));
            journal.octets = 0;
            return Ok(Opened { journal, replay: vec![], history: vec![], warnings });
        }
        Err(JournalError::Unknown { path: path.to_owned(), serial, from, to })
    }

    /// Writes changes to disk. When this returns without an error they are there.
    ///
    /// # Errors
    /// The system refused: none of them counts.
    pub fn append(&mut self, differences: &[Difference]) -> io::Result<()> {
        let text = entries(differences);
        let written = match &mut self.file {
            Some(file) => file.write_all(text.as_bytes()).and_then(|()| file.sync_data()),
            // After a failure nobody knows what of the file is on disk: what had been made sure of is written anew with
            // the rest. The same makes the file, when there was none.
            None => self.begin(&text),
        };
        match written {
            Ok(()) => {
                self.octets += text.len() as u64;
                Ok(())
            }
            Err(error) => {
                // A failed fsync is never tried again: the file is given up, and what could not be written cut off.
                if let Some(file) = self.file.take() {
                    let _ = file.set_len(self.octets);
                }
                Err(error)
            }
        }
    }

    /// Whether it has grown so that it should be made shorter.
    pub fn is_long(&self) -> bool {
        self.octets > self.compact_at
    }

    /// Makes one entry of all but the last: it says the same, and grows with the zone, not with time.
    ///
    /// # Errors
    /// It cannot be read or written; then it stays as it is.
    pub fn compact(&mut self, zone: NameRef<'_>) -> Result<(), JournalError> {
        let io = |source| JournalError::Io { path: self.path.clone(), source };
        let text = fs::read(&self.path).map_err(io)?;
        let Entries { mut differences, .. } = read(&self.path, zone, &text)?;
        let last = differences.split_off(differences.len().saturating_sub(COMPACT_KEEPS));
        let merged = Difference::merged(differences);
        let all: Vec<Difference> = merged.into_iter().chain(last).collect();
        let rewritten = self.rewrite(&entries(&all));
        // Whether it worked or not: not again at once.
        self.set_compact_at();
        rewritten.map_err(|source| JournalError::Io { path: self.path.clone(), source })
    }

    fn set_compact_at(&mut self) {
        self.compact_at = (self.octets * 2).max(COMPACT_OCTETS_MIN);
    }

    /// What is sure to be on disk, and `text`, in a file that is written anew.
    fn begin(&mut self, text: &str) -> io::Result<()> {
        let mut whole = if self.octets > 0 { fs::read(&self.path)? } else { vec![] };
        whole.truncate(self.octets as usize);
        whole.extend_from_slice(text.as_bytes());
        durable::replace(&self.path, &whole, durable::Readers::All)?;
        self.file = Some(OpenOptions::new().append(true).open(&self.path)?);
        Ok(())
    }

    fn rewrite(&mut self, text: &str) -> io::Result<()> {
        self.file = None;
        durable::replace(&self.path, text.as_bytes(), durable::Readers::All)?;
        self.octets = text.len() as u64;
        Ok(())
    }
}

/// Entries as they stand in the file.
fn entries(differences: &[Difference]) -> String {
    let mut text = String::new();
    for difference in differences {
        let mut body = String::new();
        let lines = difference.deleted.iter().map(|record| ('-', record));
        for (sign, record) in lines.chain(difference.added.iter().map(|record| ('+', record))) {
            writeln!(body, "{sign} {record}").expect("writing into a String does not fail");
        }
        let Difference { from, to, .. } = difference;
        let at = time::UtcDateTime::from(SystemTime::now());
        let (date, (hour, minute, second)) = (at.date(), at.time().as_hms());
        let (octets, hash) = (body.len(), hash(*from, *to, body.as_bytes()));
        writeln!(text, "change {from} {to} at {date}T{hour:02}:{minute:02}:{second:02}Z octets {octets} sha256 {hash}")
            .expect("writing into a String does not fail");
        text.push_str(&body);
    }
    text
}

fn hash(from: u32, to: u32, body: &[u8]) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    context.update(&from.to_be_bytes());
    context.update(&to.to_be_bytes());
    context.update(body);
    context.finish().as_ref()[..HASH_OCTETS].iter().fold(String::new(), |mut text, octet| {
        write!(text, "{octet:02x}").expect("writing into a String does not fail");
        text
    })
}

/// What stands in a journal.
struct Entries {
    differences: Vec<Difference>,
    /// So many octets of it are good.
    good: usize,
}

fn read(path: &Path, zone: NameRef<'_>, text: &[u8]) -> Result<Entries, JournalError> {
    let line_of = |at: usize| 1 + text[..at].split(|octet| *octet == b'\n').skip(1).count();
    let damaged = |at, problem| Err(JournalError::Damaged { path: path.to_owned(), line: line_of(at), problem });
    let (mut differences, mut at): (Vec<Difference>, usize) = (vec![], 0);
    while at < text.len() {
        let Some(Entry { from, to, body, end }) = Entry::read(text, at) else {
            // A crash cuts off the last entry. One in the middle was changed by somebody, or by a disk.
            let behind = (at + 1..text.len()).filter(|at| text[at - 1] == b'\n' && text[*at..].starts_with(b"change "));
            if behind.into_iter().any(|at| Entry::read(text, at).is_some()) {
                return damaged(at, "this entry is not as it was written".to_owned());
            }
            return Ok(Entries { differences, good: at });
        };
        let records = |sign: &[u8; 2]| {
            let lines = body.split_inclusive(|octet| *octet == b'\n').filter_map(|line| line.strip_prefix(sign));
            zonefile::records(path, &lines.collect::<Vec<_>>().concat())
        };
        let (deleted, added) = match (records(b"- "), records(b"+ ")) {
            (Ok(deleted), Ok(added)) => (deleted, added),
            (Err(error), _) | (_, Err(error)) => return damaged(at, error.problem),
        };
        if let Some(record) = deleted.iter().chain(&added).find(|record| !record.owner.borrow().is_within(zone)) {
            return damaged(at, format!("`{record}` is not in the zone {zone}"));
        }
        let Some(difference) = Difference::new(deleted, added).filter(|known| (known.from, known.to) == (from, to))
        else {
            return damaged(at, "the SOA records are not those of the change".to_owned());
        };
        if differences.last().is_some_and(|last| last.to != from) {
            return damaged(at, format!("the change begins at {from}, where the one before does not end"));
        }
        differences.push(difference);
        at = end;
    }
    Ok(Entries { differences, good: at })
}

/// One entry whose hash is right.
struct Entry<'t> {
    from: u32,
    to: u32,
    body: &'t [u8],
    end: usize,
}

impl<'t> Entry<'t> {
    fn read(text: &'t [u8], at: usize) -> Option<Self> {
        let behind = text.get(at..)?;
        let head_octets = behind.iter().position(|octet| *octet == b'\n')?;
        let words: Vec<&str> = std::str::from_utf8(&behind[..head_octets]).ok()?.split(' ').collect();
        let ["change", from, to, "at", _, "octets", octets, "sha256", wanted] = words[..] else { return None };
        let (from, to) = (from.parse().ok()?, to.parse().ok()?);
        let begin = at + head_octets + 1;
        let end = begin.checked_add(octets.parse().ok()?)?;
        let body = text.get(begin..end)?;
        (hash(from, to, body) == wanted).then_some(Self { from, to, body, end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        draft::Draft,
        name::Name,
        rdata::{self, Type},
        record::Message,
        update,
        zonefile::Rewrite,
    };
    use proptest::prelude::*;
    use std::sync::Arc;

    fn zone() -> Name {
        "crepes.fr".parse().unwrap()
    }

    /// A change from one serial to the next, with an address that tells it.
    fn step(from: u32) -> Difference {
        let records = |text: &str| zonefile::records(Path::new("test"), text.as_bytes()).unwrap();
        let soa = |serial: u32| {
            format!("crepes.fr. 300 SOA ns.crepes.fr. hostmaster.crepes.fr. {serial} 3600 900 604800 300\n")
        };
        let added =
            soa(from + 1) + &format!("w{from}.crepes.fr. 60 A 10.0.0.1\nw{from}.crepes.fr. 60 TXT \"a\\010\\\\b\"\n");
        Difference::new(records(&soa(from)), records(&added)).unwrap()
    }

    /// A journal from 10 to 13.
    fn written(dir: &Path) -> PathBuf {
        let path = path(dir, "", zone().borrow(), "journal");
        let mut journal = open(&path, 10).unwrap().journal;
        journal.append(&[step(10)]).unwrap();
        journal.append(&[step(11), step(12)]).unwrap();
        path
    }

    fn open(path: &Path, serial: u32) -> Result<Opened, JournalError> {
        Journal::open(path, zone().borrow(), serial)
    }

    fn froms(differences: &[Difference]) -> Vec<u32> {
        differences.iter().map(|difference| difference.from).collect()
    }

    #[test]
    fn what_was_written_is_done_again_from_where_the_file_is() {
        for (serial, history, replay) in
            [(10, vec![], vec![10, 11, 12]), (12, vec![10, 11], vec![12]), (13, vec![10, 11, 12], vec![])]
        {
            let dir = tempfile::tempdir().unwrap();
            let path = written(dir.path());
            let opened = open(&path, serial).unwrap();
            assert_eq!((froms(&opened.history), froms(&opened.replay)), (history, replay.clone()));
            assert_eq!(opened.warnings, [""; 0]);
            // What the file has is not kept: the next start finds the rest, with what comes behind it.
            let mut journal = opened.journal;
            journal.append(&[step(13)]).unwrap();
            let again = open(&path, serial).unwrap();
            assert_eq!(froms(&again.replay), [&replay[..], &[13]].concat());
            assert!(again.replay.iter().all(|difference| *difference == step(difference.from)));
        }
    }

    #[test]
    fn a_file_that_is_newer_counts_and_the_journal_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(dir.path());
        let opened = open(&path, 14).unwrap();
        assert_eq!((froms(&opened.replay), froms(&opened.history)), (vec![], vec![]));
        assert!(opened.warnings[0].contains("put aside"), "{:?}", opened.warnings);
        assert!(!path.exists());
        assert!(path.with_extension("journal.13").exists());
    }

    #[test]
    fn a_serial_that_the_journal_does_not_know_is_an_error_that_names_the_cure() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(dir.path());
        let error = open(&path, 9).unwrap_err().to_string();
        assert!(error.contains("lead from 10 to 13: give the file a serial above 13"), "{error}");
        assert!(path.exists());
    }

    #[test]
    fn wherever_a_crash_cuts_the_last_entry_off_those_before_it_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(dir.path());
        let whole = fs::read(&path).unwrap();
        let last = entries(&[step(12)]).len();
        for cut in 1..last {
            fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let mut opened = open(&path, 10).unwrap();
            assert_eq!(froms(&opened.replay), [10, 11], "{cut}");
            assert_eq!(opened.warnings.len(), 1);
            // What comes next does not stand behind the rest of a torn entry.
            opened.journal.append(&[step(12)]).unwrap();
            assert_eq!(froms(&open(&path, 10).unwrap().replay), [10, 11, 12], "{cut}");
        }
        // Some file systems leave zeros.
        fs::write(&path, [&whole[..], &[0; 100]].concat()).unwrap();
        assert_eq!(froms(&open(&path, 10).unwrap().replay), [10, 11, 12]);
        assert_eq!(fs::read(&path).unwrap(), whole);
    }

    #[test]
    fn an_entry_in_the_middle_that_is_not_as_it_was_written_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(dir.path());
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen("10.0.0.1", "10.0.0.2", 1)).unwrap();
        let error = open(&path, 10).unwrap_err();
        assert!(matches!(error, JournalError::Damaged { line: 1, .. }), "{error}");
        // An entry too many, or too few.
        let entry = |from| entries(&[step(from)]);
        for (text, line) in [(entry(10) + &entry(12), 6), (entry(10) + &entry(10), 6)] {
            fs::write(&path, text).unwrap();
            let error = open(&path, 10).unwrap_err();
            assert!(matches!(error, JournalError::Damaged { line: at, .. } if at == line), "{error}");
        }
    }

    #[test]
    fn a_long_journal_becomes_short_and_says_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path(), "", zone().borrow(), "journal");
        let mut journal = open(&path, 10).unwrap().journal;
        // Names come, and go with the next serial: none of it is left in the end.
        let there_and_back = |from: u32| {
            let there = step(from);
            let mut back = step(from + 1);
            back.deleted.extend_from_slice(&there.added[1..]);
            back.added.truncate(1);
            [there, back]
        };
        for from in (10..210).step_by(2) {
            journal.append(&there_and_back(from)).unwrap();
        }
        assert!(!journal.is_long());
        journal.compact_at = 0;
        let before = open(&path, 10).unwrap().replay;
        assert!(journal.is_long());
        journal.compact(zone().borrow()).unwrap();
        assert!(!journal.is_long());
        let after = open(&path, 10).unwrap().replay;
        assert_eq!((before.len(), after.len()), (200, COMPACT_KEEPS + 1));
        assert_eq!(after[1..], before[before.len() - COMPACT_KEEPS..]);
        assert_eq!(Difference::merged(after), Difference::merged(before));
        journal.append(&[step(210)]).unwrap();
        assert_eq!(open(&path, 10).unwrap().replay.last().unwrap().to, 211);
    }

    #[test]
    fn a_journal_that_cannot_be_written_loses_nothing_that_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(dir.path());
        let mut journal = open(&path, 10).unwrap().journal;
        // Where the new file should be made stands a directory.
        let beside = path.with_extension("journal.tmp");
        fs::create_dir(&beside).unwrap();
        journal.append(&[step(13)]).unwrap_err();
        assert_eq!(froms(&open(&path, 10).unwrap().replay), [10, 11, 12]);
        fs::remove_dir(&beside).unwrap();
        journal.append(&[step(13)]).unwrap();
        assert_eq!(froms(&open(&path, 10).unwrap().replay), [10, 11, 12, 13]);
    }

    #[test]
    fn views_and_zones_make_names_of_files() {
        let state = Path::new("/s");
        for (view, zone, want) in [
            ("", "crepes.fr", "/s/-/crepes.fr.journal"),
            ("", ".", "/s/-/root.journal"),
            ("lab", "Crepes.fr", "/s/lab/crepes.fr.journal"),
            ("-", "x", "/s/%2d/x.journal"),
            ("../..", "a/b", "/s/%2e%2e%2f%2e%2e/a%2fb.journal"),
        ] {
            let zone: Name = zone.parse().unwrap();
            assert_eq!(path(state, view, zone.borrow(), "journal"), Path::new(want));
        }
    }

    /// A message that adds one record to the zone, as a client sends it.
    fn addition(owner: &Name, rtype: Type, ttl: u32, rdata: &[u8]) -> Vec<u8> {
        let mut message = vec![0, 1, 0x28, 0, 0, 1, 0, 0, 0, 1, 0, 0];
        message.extend(zone().borrow().as_wire());
        message.extend([0, 6, 0, 1]);
        message.extend(owner.borrow().as_wire());
        message.extend([rtype.0.to_be_bytes(), [0, 1]].concat());
        message.extend(ttl.to_be_bytes());
        message.extend((rdata.len() as u16).to_be_bytes());
        message.extend(rdata);
        message
    }

    fn any_type() -> impl Strategy<Value = Type> {
        prop_oneof![(0..rdata::TABLE.len()).prop_map(|row| Type(rdata::TABLE[row].0)), any::<u16>().prop_map(Type)]
    }

    /// Octets that mean something in most types, and some that mean something in a master file.
    fn any_rdata() -> impl Strategy<Value = Vec<u8>> {
        let special = proptest::sample::select(&b"\0\x01\x02\x03\x04\x08\n\r \"$();@\\."[..]);
        proptest::collection::vec(prop_oneof![special, any::<u8>()], 0..30)
    }

    proptest! {
        /// What was answered with NOERROR must not be what the next start stumbles over.
        #[test]
        fn what_an_update_has_changed_is_read_back_as_it_was_written(
            label in proptest::collection::vec(any::<u8>(), 1..9),
            rtype in any_type(),
            ttl in prop_oneof![any::<u32>(), Just(0x7fff_ffff), Just(0x8000_0000)],
            rdata in any_rdata(),
        ) {
            let text = "$TTL 300\n@ SOA ns hostmaster 10 1h 15m 1w 5m\n NS ns\nns A 10.77.1.53\n";
            let zone = zone();
            let loaded = zonefile::read(zone.borrow(), Path::new("z"), text.as_bytes(), None, Rewrite::None).unwrap();
            let label = [&[label.len() as u8][..], &label].concat();
            let owner = Name::join(&label, zone.borrow()).unwrap();
            // What is malformed is told so, and nothing is written.
            if let Ok(message) = Message::parse(&addition(&owner, rtype, ttl, &rdata))
                && let Ok(Some(difference)) = update::perform(&mut Draft::new(Arc::new(loaded.zone)), &message)
            {
                let text = entries(std::slice::from_ref(&difference));
                let Entries { differences, good } = read(Path::new("j"), zone.borrow(), text.as_bytes()).unwrap();
                prop_assert_eq!((differences, good), (vec![difference], text.len()));
            }
        }
    }
}
