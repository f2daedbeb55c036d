//! A message, or any text of many lines, on its way from a file to the other end of a conversation.
//!
//! ```text
//!   file --- read ---> octets --- Stuffing ---> wire octets, to their end CR LF . CR LF
//!                                    |
//!                                    +--------> Shown: its beginning, for the transcript
//! ```
//!
//! In pieces: a message of a gigabyte needs no more memory than one of a line.

use crate::transcript::{Conversation, Kind, readable};
use bytes::{BufMut, BytesMut};
use memchr::memchr_iter;
use rustix::{
    fd::AsFd,
    io::{Errno, ReadWriteFlags, pread, preadv2},
};
use std::{
    io::{self, IoSliceMut},
    sync::Arc,
};
use tokio::task::spawn_blocking;

/// How much is read, and sent, at once.
pub const CHUNK_OCTETS: usize = 64 << 10;
/// How much of it the transcript shows.
const SHOWN_OCTETS: usize = 16 << 10;

/// Whether a call may wait for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Only what is in memory; `WouldBlock` otherwise.
    Cached,
    /// As long as it takes.
    Disk,
}

/// Reads from the octet `at` on; 0 octets at the end.
///
/// # Errors
/// `WouldBlock` when only what is in memory was asked for; otherwise the disk fails.
pub fn read_at(file: &impl AsFd, buffer: &mut [u8], at: u64, patience: Patience) -> io::Result<usize> {
    match patience {
        Patience::Disk => Ok(pread(file, buffer, at)?),
        Patience::Cached => {
            let mut buffers = [IoSliceMut::new(buffer)];
            match preadv2(file, &mut buffers, at, ReadWriteFlags::NOWAIT) {
                // Some file systems do not know the flag.
                Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INVAL) => Err(io::ErrorKind::WouldBlock.into()),
                read => Ok(read?),
            }
        }
    }
}

/// The next octets of a file, from `at` on and not beyond `end`: at most [`CHUNK_OCTETS`], none at its end. What the kernel has in memory
/// is read at once, the rest on the pool for blocking work, so that a slow disk holds up nobody else. `buffer` is used again.
///
/// # Errors
/// The disk fails.
pub async fn read<F: AsFd + Send + Sync + 'static>(
    file: &Arc<F>,
    mut buffer: Vec<u8>,
    at: u64,
    end: u64,
) -> io::Result<Vec<u8>> {
    let rest = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX);
    buffer.resize(rest.min(CHUNK_OCTETS), 0);
    let octets = match read_at(&**file, &mut buffer, at, Patience::Cached) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            let file = Arc::clone(file);
            let reading = spawn_blocking(move || {
                let octets = read_at(&*file, &mut buffer, at, Patience::Disk)?;
                Ok::<_, io::Error>((buffer, octets))
            });
            let octets;
            (buffer, octets) = reading.await??;
            octets
        }
        octets => octets?,
    };
    buffer.truncate(octets);
    Ok(buffer)
}

/// Where we are in a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// As at the first octet of the message, which may be a dot already.
    #[default]
    Start,
    Inside,
    /// The last octet was a CR.
    AfterCr,
}

/// Every line ends with CR LF, a dot at the start of one is doubled, a dot alone is the end: RFC 5321 §4.5.2, and RFC 1939 §3: "if any line begins with the termination octet, the line is byte-stuffed by pre-pending the termination octet".
#[derive(Clone, Copy, Debug, Default)]
pub struct Stuffing(Place);

impl Stuffing {
    /// Appends the wire octets of `octets` to `out`.
    pub fn push(&mut self, octets: &[u8], out: &mut BytesMut) {
        let Some(last) = octets.last() else { return };
        let mut from = 0;
        if self.0 == Place::Start && octets[0] == b'.' {
            out.put_u8(b'.');
        }
        for lf in memchr_iter(b'\n', octets) {
            let after_cr = if lf == 0 { self.0 == Place::AfterCr } else { octets[lf - 1] == b'\r' };
            if !after_cr {
                out.put_slice(&octets[from..lf]);
                out.put_slice(b"\r\n");
                from = lf + 1;
            }
            if octets.get(lf + 1) == Some(&b'.') {
                out.put_slice(&octets[from..=lf]);
                out.put_u8(b'.');
                from = lf + 1;
            }
        }
        out.put_slice(&octets[from..]);
        self.0 = match last {
            b'\n' => Place::Start,
            b'\r' => Place::AfterCr,
            _ => Place::Inside,
        };
    }

    /// Appends the end: of the last line, if it has none, and of the message.
    pub fn finish(self, out: &mut BytesMut) {
        if self.0 != Place::Start {
            out.put_slice(b"\r\n");
        }
        out.put_slice(b".\r\n");
    }
}

/// A text of many lines as the transcript shows it: one message, cut off where it becomes long.
#[derive(Debug)]
pub struct Shown {
    speaker: Kind,
    octets: usize,
    /// The beginning, if somebody watches.
    beginning: Option<Vec<u8>>,
}

impl Shown {
    /// Before the first octet.
    pub fn new(conversation: &Conversation, speaker: Kind) -> Self {
        Self { speaker, octets: 0, beginning: conversation.is_heard().then(Vec::new) }
    }

    /// Octets as they go over the wire, with their line ends.
    pub fn push(&mut self, octets: &[u8]) {
        self.octets += octets.len();
        if let Some(beginning) = &mut self.beginning {
            let room = SHOWN_OCTETS.saturating_sub(beginning.len());
            beginning.extend_from_slice(&octets[..octets.len().min(room)]);
        }
    }

    /// Whether the octets that come next will be shown.
    pub fn wants_more(&self) -> bool {
        self.beginning.as_ref().is_some_and(|beginning| beginning.len() < SHOWN_OCTETS)
    }

    /// As [`Shown::push`], for `octets` octets that are at hand only if somebody [wants them](Shown::wants_more).
    pub fn push_some(&mut self, at_hand: Option<&[u8]>, octets: usize) {
        match at_hand {
            Some(octets) => self.push(octets),
            None => self.octets += octets,
        }
    }

    /// All of it has gone.
    pub fn tell(self, conversation: &Conversation) {
        let Some(beginning) = self.beginning else { return };
        let text = beginning.strip_suffix(b"\r\n").unwrap_or(&beginning);
        let mut lines =
            text.split(|octet| *octet == b'\n').map(|line| readable(line.strip_suffix(b"\r").unwrap_or(line)));
        let first = lines.next().unwrap_or_default();
        let mut more: Vec<String> = lines.collect();
        if beginning.len() < self.octets {
            more.extend(["[..]", "."].map(str::to_owned));
        }
        conversation.message(self.speaker, first, more, self.octets);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        maildir::WireOctets,
        transcript::{Heard, Hub, Transport},
    };

    fn sent(text: &[u8], size: usize) -> Vec<u8> {
        let (mut stuffing, mut out) = (Stuffing::default(), BytesMut::new());
        text.chunks(size).for_each(|chunk| stuffing.push(chunk, &mut out));
        stuffing.finish(&mut out);
        out.to_vec()
    }

    #[test]
    fn lines_end_with_cr_lf_and_dots_are_doubled_from_the_very_first_octet() {
        let table: [(&[u8], &[u8]); 12] = [
            (b"", b".\r\n"),
            (b".", b"..\r\n.\r\n"),
            (b".\r\n", b"..\r\n.\r\n"),
            (b".\n.\n", b"..\r\n..\r\n.\r\n"),
            (b"..\n", b"...\r\n.\r\n"),
            (b"a\r\n.b\r\n", b"a\r\n..b\r\n.\r\n"),
            (b"a\n\n.\nb\n", b"a\r\n\r\n..\r\nb\r\n.\r\n"),
            (b"a.b\r\n", b"a.b\r\n.\r\n"),
            (b"a", b"a\r\n.\r\n"),
            (b"a\r", b"a\r\r\n.\r\n"),
            // A bare CR is an octet as any other: a dot behind it begins no line.
            (b"a\r.b\r\r\n", b"a\r.b\r\r\n.\r\n"),
            (b"a\n\r\n.", b"a\r\n\r\n..\r\n.\r\n"),
        ];
        for (text, want) in table {
            for size in 1..=text.len().max(1) {
                assert_eq!(sent(text, size), want, "{:?} in chunks of {size}", String::from_utf8_lossy(text));
            }
        }
    }

    #[test]
    fn what_is_sent_is_what_was_counted() {
        for number in 0..4_usize.pow(6) {
            let text: Vec<u8> = (0..6).map(|digit| b"a.\r\n"[number / 4_usize.pow(digit) % 4]).collect();
            let mut counting = WireOctets::default();
            counting.push(&text);
            let sent = sent(&text, 64);
            // The client takes the end and the doubled dots away.
            let message = sent.strip_suffix(b".\r\n").unwrap();
            let stuffed = (0..message.len())
                .filter(|at| message[*at] == b'.' && (*at == 0 || (*at > 1 && message[at - 2..*at] == *b"\r\n")));
            assert_eq!((message.len() - stuffed.count()) as u64, counting.total(), "{text:?}");
        }
    }

    #[tokio::test]
    async fn a_file_is_read_in_chunks_up_to_where_it_shall_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("message");
        let text: Vec<u8> = (0..150_000_u32).map(|number| number as u8).collect();
        std::fs::write(&path, &text).unwrap();
        let file = Arc::new(std::fs::File::open(&path).unwrap());
        let (mut at, mut whole, mut chunk) = (100, vec![], vec![]);
        while at < 140_000 {
            chunk = read(&file, chunk, at, 140_000).await.unwrap();
            assert!((1..=CHUNK_OCTETS).contains(&chunk.len()));
            at += chunk.len() as u64;
            whole.extend_from_slice(&chunk);
        }
        assert_eq!(whole, text[100..140_000]);
        assert!(read(&file, chunk, 150_000, 160_000).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn the_transcript_shows_the_beginning_of_what_is_long() {
        let hub = Hub::quiet();
        let address = ([127, 0, 0, 1], 110).into();
        let talk = hub.transcript("pop3", "mail").conversation(Transport::Tcp, address, address);
        let mut listener = hub.subscribe();
        let short = &b"+OK\r\nA: 1\r\n.\r\n"[..];
        let long = b"x\r\n".repeat(SHOWN_OCTETS);
        for text in [short, &long] {
            let mut shown = Shown::new(&talk, Kind::Server);
            text.chunks(1000).for_each(|chunk| shown.push(chunk));
            shown.tell(&talk);
        }
        let mut told = async || match listener.next().await {
            Some(Heard::Event(event)) => event,
            other => panic!("{other:?}"),
        };
        let event = told().await;
        assert_eq!((event.to_string().as_str(), event.octets), ("S: +OK\nS: A: 1\nS: .", 14));
        let event = told().await;
        assert_eq!((event.octets, event.more.len()), (long.len() as u64, SHOWN_OCTETS / 3 + 2));
        assert_eq!(event.more[event.more.len() - 2..], ["[..]", "."]);
    }
}
