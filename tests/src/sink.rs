//! Takes mail and forgets it, faster than what is measured can send it.
//!
//! Postfix's own `smtp-sink` looks at each octet in one process: it takes 230 messages of 1 MiB a second here, which is less than
//! twice what Postfix relays. So it cannot show whether anybody relays twice as many.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;

use anyhow::Result;
use memchr::memmem;

/// More than a client sends before it waits for an answer, a message aside.
const BUFFER_OCTETS: usize = 256 << 10;

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
            thread::spawn(move || drop(serve(client)));
        }
    });
    Ok(address)
}

fn serve(mut client: TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    client.write_all(b"220 sink\r\n")?;
    let (mut buffer, mut held) = (vec![0; BUFFER_OCTETS], 0);
    loop {
        let more = client.read(&mut buffer[held..])?;
        if more == 0 {
            return Ok(());
        }
        held += more;
        let mut answers = vec![];
        while let Some(end) = buffer[..held].windows(2).position(|octets| octets == b"\r\n") {
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

/// Reads over a message that begins at the start of the buffer; returns how much lies in it that came behind.
fn skip_message(client: &mut TcpStream, buffer: &mut [u8], mut held: usize) -> io::Result<usize> {
    // The dot may stand on the very first line.
    if held >= 3 && buffer.starts_with(&END[2..]) {
        buffer.copy_within(3..held, 0);
        return Ok(held - 3);
    }
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

    #[test]
    fn messages_end_at_their_dots_however_they_come() {
        let mut client = TcpStream::connect(start().unwrap()).unwrap();
        let said =
            b"EHLO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nx\r\n..\r\n.y\r\n.\r\nDATA\r\n.\r\nQUIT\r\n";
        let whole = {
            client.write_all(said).unwrap();
            let mut heard = String::new();
            client.read_to_string(&mut heard).unwrap();
            heard
        };
        assert_eq!(whole.matches("250 forgotten\r\n").count(), 2, "{whole}");
        assert!(whole.ends_with("221 bye\r\n"), "{whole}");
        let mut client = TcpStream::connect(start().unwrap()).unwrap();
        client.set_nodelay(true).unwrap();
        for octet in said {
            client.write_all(&[*octet]).unwrap();
        }
        let mut heard = String::new();
        client.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, whole);
    }
}
