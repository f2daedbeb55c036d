//! Takes mail and forgets it, faster than what is measured can send it.
//!
//! Postfix's own `smtp-sink` looks at each octet in one process: it takes 230 messages of 1 MiB a second here, which is less than
//! twice what Postfix relays. So it cannot show whether anybody relays twice as many.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::thread;

use anyhow::Result;
use memchr::memmem;

/// More than a client sends before it waits for an answer, a message aside.
const BUFFER_OCTETS: usize = 256 << 10;

const CRLF: &[u8] = b"\r\n";
const END: &[u8] = b"\r\n.\r\n";

/// Listens on an address of its own until the program ends. Whoever comes is served by a thread.
///
/// # Errors
/// There is no free port.
pub fn start() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            // A client that goes away has said what it had to.
            thread::spawn(move || drop(client.set_nodelay(true).and_then(|()| serve(client))));
        }
    });
    Ok(address)
}

fn serve(mut client: impl Read + Write) -> io::Result<()> {
    client.write_all(b"220 sink\r\n")?;
    let (mut buffer, mut held) = (vec![0; BUFFER_OCTETS + CRLF.len()], 0);
    loop {
        let more = client.read(&mut buffer[held..BUFFER_OCTETS])?;
        if more == 0 {
            return Ok(());
        }
        held += more;
        let mut answers = vec![];
        while let Some(end) = memmem::find(&buffer[..held], CRLF) {
            let verb = buffer[..end.min(4)].to_ascii_uppercase();
            buffer.copy_within(end + 2..held, 0);
            held -= end + 2;
            match &verb[..] {
                b"EHLO" => answers.extend_from_slice(b"250-sink\r\n250-PIPELINING\r\n250 8BITMIME\r\n"),
                b"DATA" => {
                    answers.extend_from_slice(b"354 go on\r\n");
                    client.write_all(&answers)?;
                    answers.clear();
                    held = skip_message(&mut client, &mut buffer, held)?;
                    answers.extend_from_slice(b"250 forgotten\r\n");
                }
                b"QUIT" => {
                    answers.extend_from_slice(b"221 bye\r\n");
                    return client.write_all(&answers);
                }
                _ => answers.extend_from_slice(b"250 ok\r\n"),
            }
        }
        client.write_all(&answers)?;
    }
}

/// Reads over a message that begins at the start of the buffer, which has room for a line end more; returns how much lies in it that came
/// behind.
fn skip_message(client: &mut impl Read, buffer: &mut [u8], mut held: usize) -> io::Result<usize> {
    // The dot may stand on the very first line: the end of DATA's stands before that.
    buffer.copy_within(..held, CRLF.len());
    buffer[..CRLF.len()].copy_from_slice(CRLF);
    held += CRLF.len();
    loop {
        if let Some(at) = memmem::find(&buffer[..held], END) {
            let end = at + END.len();
            buffer.copy_within(end..held, 0);
            return Ok(held - end);
        }
        let kept = held.min(END.len() - 1);
        buffer.copy_within(held - kept..held, 0);
        held = kept;
        match client.read(&mut buffer[held..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => held += more,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    /// A client whose words come so many octets at a time.
    struct Client<'a> {
        says: &'a [u8],
        at_once: usize,
        hears: Vec<u8>,
    }

    impl Read for Client<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let octets = self.at_once.min(buffer.len()).min(self.says.len());
            self.says.read(&mut buffer[..octets])
        }
    }

    impl Write for Client<'_> {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.hears.write(octets)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn messages_end_at_their_dots_however_they_come() {
        let says =
            b"EHLO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nx\r\n..\r\n.y\r\n.\r\nDATA\r\n.\r\nQUIT\r\n";
        for at_once in 1..=says.len() {
            let mut client = Client { says, at_once, hears: vec![] };
            serve(&mut client).unwrap();
            let heard = String::from_utf8(client.hears).unwrap();
            assert_eq!(heard.matches("250 forgotten\r\n").count(), 2, "{at_once}: {heard}");
            assert!(heard.ends_with("221 bye\r\n"), "{at_once}: {heard}");
        }
    }

    #[test]
    fn whoever_connects_is_greeted() {
        let mut client = TcpStream::connect(start().unwrap()).unwrap();
        client.write_all(b"QUIT\r\n").unwrap();
        let mut heard = String::new();
        client.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "220 sink\r\n221 bye\r\n");
    }
}
