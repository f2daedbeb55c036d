//! Dialogues: one file for one rule, in `tests/transcripts`.
//!
//! Each is played in three ways that must not differ: line by line as somebody types, octet by octet, and all at once.

use crate::stage::Stage;
use shared::{
    testing::{Mismatch, Pace, Script, play_all_async},
    units::Span,
};
use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/transcripts");

#[tokio::test]
async fn every_dialogue_goes_as_written_line_by_line_octet_by_octet_and_pipelined() {
    let stage = Stage::new();
    play_all_async(DIRECTORY, async |script| {
        for pace in [Pace::Lines, Pace::Octets, Pace::Pipelined(|_| false)] {
            play(&stage, script, pace).await?;
        }
        Ok(())
    })
    .await;
}

/// The same server with times of one second instead of many: what happens to those who are slower.
#[tokio::test]
async fn who_keeps_the_server_waiting_is_told_and_sent_away() {
    let stage = Stage::with(|config, _| {
        config.keep_alive_timeout = Span::secs(1);
        config.head_timeout = Span::secs(1);
        config.body_timeout = Span::secs(1);
    });
    play_all_async(format!("{DIRECTORY}/impatient"), async |script| play(&stage, script, Pace::Lines).await).await;
}

async fn play(stage: &Stage, script: &Script, pace: Pace) -> Result<(), Mismatch> {
    let stream = TcpStream::connect(stage.address()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let unknown = async |text: &str| Err(format!("`@ {text}` is unknown"));
    script.on_stream(AsLines { stream, ready: VecDeque::new(), last: b'\n' }, pace, unknown).await
}

/// What comes from the server, with CR LF where a body has LF alone or ends without either: scripts are made of lines.
struct AsLines {
    stream: TcpStream,
    ready: VecDeque<u8>,
    /// The octet that came last.
    last: u8,
}

impl AsyncRead for AsLines {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, ready, last } = self.get_mut();
        if ready.is_empty() {
            let mut octets = [0; 4096];
            let mut arrived = ReadBuf::new(&mut octets);
            ready!(Pin::new(stream).poll_read(cx, &mut arrived))?;
            if arrived.filled().is_empty() && *last != b'\n' {
                ready.extend(b"\r\n");
                *last = b'\n';
            }
            for octet in arrived.filled() {
                if *octet == b'\n' && *last != b'\r' {
                    ready.push_back(b'\r');
                }
                ready.push_back(*octet);
                *last = *octet;
            }
        }
        let given = ready.len().min(buffer.remaining());
        ready.drain(..given).for_each(|octet| buffer.put_slice(&[octet]));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for AsLines {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, octets)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
