//! Everybody who asks by datagrams: a batch in, a batch out.

use crate::{
    batch::{Batch, LearnsLocal},
    message,
    registry::Errand,
    respond::{Asker, Carrier, Response},
    server::{Serving, View, tell},
};
use shared::transcript::Transport;
use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::AsFd,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{Semaphore, mpsc},
};
use tokio_util::task::TaskTracker;

/// After an error of the socket: long enough not to spin, short enough not to be noticed.
const PAUSE: Duration = Duration::from_millis(100);
/// Batches until other tasks of this thread get their turn, should the flood not end.
const TURN: usize = 16;
/// Errands that came as datagrams and are under way, for each socket. Above it they are dropped; whoever means it asks again.
const ERRANDS_MAX: usize = 64;
/// The same for questions that others must be asked.
const QUESTIONS_MAX: usize = 2000;

/// Answers all that comes to `socket`, for ever.
pub(crate) async fn serve(serving: &Arc<Serving>, socket: Arc<UdpSocket>, tasks: &TaskTracker) -> io::Result<()> {
    let local = socket.local_addr()?;
    // To be woken when something can be read, and not when something can be sent: that is so each time that an answer has left,
    // and would wake us once more for each question.
    #[expect(
        deprecated,
        reason = "its successor is unsafe, for descriptors that are closed too early; the Arc keeps this one open"
    )]
    let reading = AsyncFd::with_interest(Arc::clone(&socket), Interest::READABLE)?;
    let mut view = View::of(serving);
    let mut batch = Batch::new(view.udp_octets_max(), LearnsLocal::on(socket.as_fd(), local)?);
    let errands = Arc::new(Semaphore::new(ERRANDS_MAX));
    let questions = Arc::new(Semaphore::new(QUESTIONS_MAX));
    let mut turn = 0;
    loop {
        let mut received = 0;
        let mut take = || {
            received = batch.receive(socket.as_fd())?;
            // A batch that is not full has emptied the socket. To say so saves the call that would only learn that there is
            // nothing: what comes from now on wakes us.
            if received < crate::batch::BATCH { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        };
        let result = match reading.try_io(Interest::READABLE, |_| take()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && received == 0 => {
                reading.readable().await.map(|mut ready| ready.retain_ready())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            other => other,
        };
        if let Err(error) = result {
            // ICMP's "port unreachable" for an answer of ours comes here; it is nobody's fault.
            tracing::debug!(%error, "cannot receive");
            if error.kind() != io::ErrorKind::ConnectionRefused {
                tokio::time::sleep(PAUSE).await;
            }
            continue;
        }
        if received == 0 {
            continue;
        }
        view.refresh();
        let now = SystemTime::now();
        for index in 0..received {
            let Some(peer) = batch.peer(index) else { continue };
            let (query, room) = batch.query_and_room(index);
            let came = message::receive(query);
            let asker = Asker { address: peer.ip().to_canonical(), carrier: Carrier::Udp, now };
            let response = view.respond(&came, asker, room);
            serving.counters.count(Carrier::Udp, response, room);
            let mut heard = None;
            if serving.transcript.is_heard() && response != Response::Errand {
                let talk = serving.transcript.conversation(Transport::Udp, local, peer);
                tell(&talk, &came, query.len(), response, room);
                heard = Some(talk);
            }
            match response {
                Response::Send { octets, .. } => batch.answered(index, octets),
                Response::Silence(_) => {}
                Response::Recurse(cached) => {
                    let Ok(permit) = Arc::clone(&questions).try_acquire_owned() else { continue };
                    let talk = heard.unwrap_or_else(|| serving.transcript.conversation(Transport::Udp, local, peer));
                    let (serving, socket) = (Arc::clone(serving), Arc::clone(&socket));
                    let (world, query) = (view.world(), query.to_vec());
                    tasks.spawn(async move {
                        let answer = serving.recurse(&world, &query, asker, cached, &talk).await;
                        if let Some(answer) = answer {
                            send(&socket, &answer, peer);
                        }
                        drop(permit);
                    });
                }
                Response::Errand => {
                    let errand = Errand { message: query.to_vec(), peer, carrier: Carrier::Udp };
                    let Ok(permit) = Arc::clone(&errands).try_acquire_owned() else { continue };
                    let (serving, socket) = (Arc::clone(serving), Arc::clone(&socket));
                    tasks.spawn(async move {
                        run(&serving, &socket, local, &errand).await;
                        drop(permit);
                    });
                }
            }
        }
        if batch.ready() > 0
            && let Err(error) = batch.send(socket.as_fd())
        {
            tracing::debug!(%error, "cannot send");
        }
        turn += 1;
        if turn % TURN == 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// One errand: its answer is one datagram.
async fn run(serving: &Serving, socket: &UdpSocket, local: SocketAddr, errand: &Errand) {
    let talk = serving.transcript.conversation(Transport::Udp, local, errand.peer);
    let (sender, mut answers) = mpsc::channel(1);
    let ((), answer) = tokio::join!(async move { serving.registry.serve(errand, &talk, &sender).await }, async move {
        answers.recv().await
    });
    if let Some(answer) = answer {
        send(socket, &answer, errand.peer);
    }
}

/// What the socket has no room for is lost, as datagrams are.
fn send(socket: &UdpSocket, answer: &[u8], peer: SocketAddr) {
    if let Err(error) = socket.send_to(answer, peer) {
        tracing::debug!(%peer, %error, "cannot send");
    }
}
