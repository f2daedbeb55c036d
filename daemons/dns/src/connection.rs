//! One client over TCP (RFC 7766) or TLS (RFC 7858): messages with their length before them, many on one connection.
//!
//! What the zones tell is answered in the order of the questions; an errand (a transfer, an update) runs beside, and its answer
//! comes when it is there (RFC 7766 §6.2.1.1: the id tells which question it is for).

use crate::{
    message,
    registry::Errand,
    respond::{Asker, Carrier, Response},
    server::{Serving, View, tell},
};
use shared::transcript::Conversation;
use std::{io, net::SocketAddr, sync::Arc, time::SystemTime};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{Semaphore, mpsc},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::{
    bytes::{Buf, BytesMut},
    sync::CancellationToken,
    task::TaskTracker,
};

/// The largest message that can come over TCP, whose length has two octets.
const OCTETS_MAX: usize = u16::MAX as usize;
/// Answers to pipelined queries are sent together up to this size.
const BATCH_OCTETS: usize = 16 * 1024;
/// How much is read at once. A message that is longer makes the buffer grow to its size.
const READ_OCTETS: usize = 4 * 1024;
/// Errands of one connection, and questions for others, that are under way; with more, no further message is read until one is done.
const ERRANDS_MAX: usize = 32;
/// Messages of a transfer that wait for a client that reads slowly.
const WAITING_MAX: usize = 2;

/// Takes a whole message off the front of the buffer.
fn take(buffer: &mut BytesMut) -> Option<BytesMut> {
    let length = usize::from(u16::from_be_bytes(*buffer.first_chunk()?));
    if buffer.len() < 2 + length {
        return None;
    }
    buffer.advance(2);
    Some(buffer.split_to(length))
}

/// Answers a client until it leaves, is silent for too long, or the server stops.
pub(crate) async fn serve(
    serving: &Arc<Serving>,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: SocketAddr,
    carrier: Carrier,
    talk: &Arc<Conversation>,
    shutdown: &CancellationToken,
) -> io::Result<()> {
    let mut view = View::of(serving);
    let (mut buffer, mut answer, mut batch) = (BytesMut::new(), vec![0; OCTETS_MAX], vec![]);
    let (sender, mut answers) = mpsc::channel::<Vec<u8>>(WAITING_MAX);
    let tasks = TaskTracker::new();
    tasks.close();
    let places = Arc::new(Semaphore::new(ERRANDS_MAX));
    // A place for the next errand: without one, nothing more is read.
    let mut place = Arc::clone(&places).try_acquire_owned().ok();
    let mut ended = false;
    let mut used = Instant::now();
    let idle = sleep_until(used + serving.idle_timeout);
    tokio::pin!(idle);
    loop {
        view.refresh();
        let now = SystemTime::now();
        while place.is_some() && batch.len() < BATCH_OCTETS {
            let Some(query) = take(&mut buffer) else { break };
            used = Instant::now();
            let received = message::receive(&query);
            let asker = Asker { address: peer.ip().to_canonical(), carrier, now };
            let response = view.respond(&received, asker, &mut answer);
            serving.counters.count(carrier, response, &answer);
            match response {
                Response::Errand => {
                    let errand = Errand { message: query.to_vec(), peer, carrier };
                    let (serving, talk, sender) = (Arc::clone(serving), Arc::clone(talk), sender.clone());
                    let taken = place.take();
                    tasks.spawn(async move {
                        serving.registry.serve(&errand, &talk, &sender).await;
                        drop(taken);
                    });
                    place = Arc::clone(&places).try_acquire_owned().ok();
                    continue;
                }
                Response::Recurse(cached) => {
                    let (serving, talk, sender) = (Arc::clone(serving), Arc::clone(talk), sender.clone());
                    let (world, query, taken) = (view.world(), query.to_vec(), place.take());
                    tell(&talk, &received, query.len(), response, &answer);
                    tasks.spawn(async move {
                        if let Some(answer) = serving.recurse(&world, &query, asker, cached, &talk).await {
                            // The client may be gone.
                            let _ = sender.send(answer).await;
                        }
                        drop(taken);
                    });
                    place = Arc::clone(&places).try_acquire_owned().ok();
                    continue;
                }
                Response::Silence(_) => {}
                Response::Send { octets, .. } => frame(&mut batch, &answer[..octets]),
            }
            if talk.is_heard() {
                tell(talk, &received, query.len(), response, &answer);
            }
        }
        if !batch.is_empty() {
            // RFC 7766 §8: length and message in one write, so that they are one segment.
            let sent = async {
                stream.write_all(&batch).await?;
                stream.flush().await
            };
            timeout(serving.send_timeout, sent).await.map_err(|_| io::ErrorKind::TimedOut)??;
            batch.clear();
            used = Instant::now();
            if place.is_some() && has_message(&buffer) {
                continue;
            }
        }
        // A client that has said all may still wait for its answers.
        if ended && tasks.is_empty() && answers.is_empty() {
            if let Some(why) = unfinished(&buffer) {
                talk.note(&format!("no answer: {why}"));
            }
            return Ok(());
        }
        buffer.reserve(wanted(&buffer));
        tokio::select! {
            biased;
            Some(answer) = answers.recv() => frame(&mut batch, &answer),
            // A stop is noticed between two queries. DNS has no goodbye; a client asks again elsewhere.
            () = shutdown.cancelled() => return Ok(()),
            free = Arc::clone(&places).acquire_owned(), if place.is_none() => place = free.ok(),
            read = stream.read_buf(&mut buffer), if !ended && place.is_some() => ended = read? == 0,
            () = tasks.wait(), if !tasks.is_empty() => {}
            () = &mut idle => {
                // The timer is set once for many messages: when it goes off, it may be that there was one meanwhile. Octets that
                // make no message do not count, or a client could hold the connection with one of them now and then.
                if used.elapsed() >= serving.idle_timeout && tasks.is_empty() {
                    let why = unfinished(&buffer).map(|why| format!(": {why}")).unwrap_or_default();
                    talk.note(&format!("idle for too long{why}"));
                    return Ok(());
                }
                let since = if tasks.is_empty() { used } else { Instant::now() };
                idle.as_mut().reset(since + serving.idle_timeout);
            }
        }
    }
}

/// A message with its length before it (RFC 1035 §4.2.2).
fn frame(batch: &mut Vec<u8>, message: &[u8]) {
    batch.extend_from_slice(&(message.len() as u16).to_be_bytes());
    batch.extend_from_slice(message);
}

fn has_message(buffer: &[u8]) -> bool {
    let whole = |(length, rest): (&[u8; 2], &[u8])| rest.len() >= usize::from(u16::from_be_bytes(*length));
    buffer.split_first_chunk::<2>().is_some_and(whole)
}

/// What is wrong with octets that have not become a message: whoever types here by hand, or speaks another protocol, may wonder.
fn unfinished(buffer: &[u8]) -> Option<String> {
    let (length, rest) = buffer.split_first_chunk()?;
    let octets = u16::from_be_bytes(*length);
    let why = format!("the first two octets announce {octets} more, and {} came", rest.len());
    // A ClientHello (RFC 8446 §5.1) would be a message of 5,635 octets.
    let is_tls = *length == [0x16, 3] && matches!(rest, [1..=4, ..]);
    Some(if is_tls { why + "; they begin TLS, which is spoken at `dns.listen_tls` (port 853)" } else { why })
}

/// How many octets more there must be room for.
fn wanted(buffer: &[u8]) -> usize {
    let whole = buffer.first_chunk::<2>().map_or(0, |length| 2 + usize::from(u16::from_be_bytes(*length)));
    whole.saturating_sub(buffer.len()).max(READ_OCTETS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_that_make_no_message_are_explained() {
        assert_eq!(unfinished(b""), None);
        assert_eq!(unfinished(b"G"), None);
        let http = "the first two octets announce 18245 more, and 3 came";
        assert_eq!(unfinished(b"GET /"), Some(http.to_owned()));
        let tls = unfinished(b"\x16\x03\x01\x02\0\x01").unwrap();
        assert!(tls.starts_with("the first two octets announce 5635 more, and 4 came; they begin TLS"), "{tls}");
    }
}
