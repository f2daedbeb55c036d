//! Many datagrams with one system call: `recvmmsg(2)` and `sendmmsg(2)`.
//!
//! A name server's work is so little that the way into the kernel and back is a good part of it. No safe crate wraps both calls
//! in a form that can be kept from one batch to the next and given to another thread, so this module has the only `unsafe` code
//! of the name server. What it keeps is plain octets and numbers; the structures with pointers live in one function call each.

#![expect(unsafe_code, reason = "recvmmsg and sendmmsg; see the module's documentation")]

use std::{
    io,
    mem::{self, MaybeUninit},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

/// Datagrams at a time. More would wait for each other; the gain is had by then.
pub(crate) const BATCH: usize = 32;
/// A query is small; what does not fit here is cut off and then malformed.
const QUERY_OCTETS_MAX: usize = 4096;
/// Room for one control message with the local address, aligned as the kernel wants it.
type Control = [u64; 8];

/// Room for a batch of queries and their answers.
pub(crate) struct Batch {
    queries: Box<[[u8; QUERY_OCTETS_MAX]]>,
    peers: Box<[libc::sockaddr_storage]>,
    controls: Box<[Control]>,
    /// Per query: its octets, the octets of the peer's address, and those of the control message.
    lengths: [(usize, u32, usize); BATCH],
    answers: Vec<u8>,
    answer_octets_max: usize,
    /// Which query each answer is for, and its octets.
    ready: Vec<(usize, usize)>,
    learns_local: LearnsLocal,
}

/// Whether each datagram comes with the local address that it was sent to, and the answer leaves from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LearnsLocal {
    /// The socket has one address.
    No,
    /// The socket is bound to all addresses of the machine. An answer from another address than the one that was asked would be
    /// thrown away (RFC 2181 §4.1).
    Yes,
}

impl LearnsLocal {
    /// What a socket needs; asks the kernel for it.
    pub(crate) fn on(socket: BorrowedFd<'_>, local: SocketAddr) -> io::Result<Self> {
        if !local.ip().is_unspecified() {
            return Ok(Self::No);
        }
        let (level, option) = match local {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
        };
        let on: libc::c_int = 1;
        // SAFETY: the option's value is an int, and its address and size are those of `on`.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                level,
                option,
                ptr::from_ref(&on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if result == 0 { Ok(Self::Yes) } else { Err(io::Error::last_os_error()) }
    }
}

impl Batch {
    /// Room for queries and for answers of `answer_octets_max` octets each.
    pub(crate) fn new(answer_octets_max: usize, learns_local: LearnsLocal) -> Self {
        // SAFETY: sockaddr_storage is numbers; all zero is the address family AF_UNSPEC.
        let no_address: libc::sockaddr_storage = unsafe { mem::zeroed() };
        Self {
            queries: vec![[0; QUERY_OCTETS_MAX]; BATCH].into_boxed_slice(),
            peers: vec![no_address; BATCH].into_boxed_slice(),
            controls: vec![[0; 8]; BATCH].into_boxed_slice(),
            lengths: [(0, 0, 0); BATCH],
            answers: vec![0; BATCH * answer_octets_max],
            answer_octets_max,
            ready: Vec::with_capacity(BATCH),
            learns_local,
        }
    }

    /// Takes the datagrams that are here, and returns how many; an error of kind `WouldBlock` if there is none.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let mut pieces = [const { MaybeUninit::<libc::iovec>::uninit() }; BATCH];
        let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; BATCH];
        for (index, header) in headers.iter_mut().enumerate() {
            let piece = pieces[index]
                .write(libc::iovec { iov_base: self.queries[index].as_mut_ptr().cast(), iov_len: QUERY_OCTETS_MAX });
            let peer = (ptr::from_mut(&mut self.peers[index]).cast(), size_of::<libc::sockaddr_storage>() as u32);
            let control = match self.learns_local {
                LearnsLocal::No => (ptr::null_mut(), 0),
                LearnsLocal::Yes => (self.controls[index].as_mut_ptr().cast(), size_of::<Control>()),
            };
            header.write(message(piece, peer, control));
        }
        // SAFETY: all headers are initialized, and each points to a piece, a buffer and an address of ours, which outlive the
        // call and are not used by anybody else meanwhile.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr().cast(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        for (header, length) in headers.iter().zip(&mut self.lengths).take(received) {
            // SAFETY: it was initialized above; the kernel has changed numbers in it.
            let header = unsafe { header.assume_init_ref() };
            let octets = (header.msg_len as usize).min(QUERY_OCTETS_MAX);
            *length = (octets, header.msg_hdr.msg_namelen, header.msg_hdr.msg_controllen);
        }
        Ok(received)
    }

    /// A query's octets, and the room for its answer.
    pub(crate) fn query_and_room(&mut self, index: usize) -> (&[u8], &mut [u8]) {
        let (from, room) = (self.ready.len() * self.answer_octets_max, self.answer_octets_max);
        (&self.queries[index][..self.lengths[index].0], &mut self.answers[from..from + room])
    }

    /// Who sent a query; `None` for what is not an address.
    pub(crate) fn peer(&self, index: usize) -> Option<SocketAddr> {
        let (storage, octets) = (ptr::from_ref(&self.peers[index]), self.lengths[index].1 as usize);
        match libc::c_int::from(self.peers[index].ss_family) {
            libc::AF_INET if octets >= size_of::<libc::sockaddr_in>() => {
                // SAFETY: the kernel has written a sockaddr_in there, as family and length say; the storage is aligned for all.
                let address = unsafe { &*storage.cast::<libc::sockaddr_in>() };
                let ip = Ipv4Addr::from(address.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddrV4::new(ip, u16::from_be(address.sin_port)).into())
            }
            libc::AF_INET6 if octets >= size_of::<libc::sockaddr_in6>() => {
                // SAFETY: as above, with sockaddr_in6.
                let address = unsafe { &*storage.cast::<libc::sockaddr_in6>() };
                let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
                let port = u16::from_be(address.sin6_port);
                Some(SocketAddrV6::new(ip, port, address.sin6_flowinfo, address.sin6_scope_id).into())
            }
            _ => None,
        }
    }

    /// The room of this query's answer holds `octets` of it, to be sent with the others.
    pub(crate) fn answered(&mut self, index: usize, octets: usize) {
        self.ready.push((index, octets.min(self.answer_octets_max)));
    }

    /// How many answers wait.
    pub(crate) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Sends all answers. What the socket has no room for is lost, as datagrams are: the client asks again. Returns an error
    /// that stopped one of them.
    pub(crate) fn send(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let mut pieces = [const { MaybeUninit::<libc::iovec>::uninit() }; BATCH];
        let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; BATCH];
        let answers = self.answers.chunks_exact_mut(self.answer_octets_max);
        for (((index, octets), answer), (piece, header)) in
            self.ready.iter().zip(answers).zip(pieces.iter_mut().zip(&mut headers))
        {
            let piece = piece.write(libc::iovec { iov_base: answer.as_mut_ptr().cast(), iov_len: *octets });
            let (_, peer_octets, control_octets) = self.lengths[*index];
            let control = match self.learns_local {
                LearnsLocal::Yes if control_octets > 0 => {
                    any_interface(&mut self.controls[*index]);
                    (self.controls[*index].as_mut_ptr().cast(), control_octets)
                }
                _ => (ptr::null_mut(), 0),
            };
            header.write(message(piece, (ptr::from_mut(&mut self.peers[*index]).cast(), peer_octets), control));
        }
        let (mut sent, mut result) = (0, Ok(()));
        while sent < self.ready.len() {
            // SAFETY: as many headers as there are answers are initialized, and all that they point to outlives the call.
            let more = unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    headers[sent..].as_mut_ptr().cast(),
                    (self.ready.len() - sent) as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                )
            };
            if let Ok(more) = usize::try_from(more) {
                sent += more;
                continue;
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::Interrupted => continue,
                io::ErrorKind::WouldBlock => break,
                // This one cannot be sent (a peer without a route); the others can.
                _ => sent += 1,
            }
            result = Err(error);
        }
        self.ready.clear();
        result
    }
}

/// One datagram's header.
fn message(
    piece: &mut libc::iovec,
    (peer, peer_octets): (*mut libc::c_void, u32),
    (control, control_octets): (*mut libc::c_void, usize),
) -> libc::mmsghdr {
    // SAFETY: msghdr is numbers and pointers that may be null.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_name = peer;
    header.msg_namelen = peer_octets;
    header.msg_iov = piece;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = control_octets as _;
    libc::mmsghdr { msg_hdr: header, msg_len: 0 }
}

/// What came in says which interface it came by; the answer shall take the route that the machine has for it. The control message
/// is `cmsghdr`, then `in_pktinfo` (interface, local address, destination) or `in6_pktinfo` (local address, interface).
fn any_interface(control: &mut Control) {
    let head = ptr::from_ref(control).cast::<libc::cmsghdr>();
    // SAFETY: the buffer is aligned and larger than a cmsghdr, and the kernel has written one at its beginning.
    let (level, kind) = unsafe { ((*head).cmsg_level, (*head).cmsg_type) };
    let data = size_of::<libc::cmsghdr>() / size_of::<u64>();
    if (level, kind) == (libc::IPPROTO_IP, libc::IP_PKTINFO) {
        let mut octets = control[data].to_ne_bytes();
        octets[..4].fill(0);
        control[data] = u64::from_ne_bytes(octets);
    } else if (level, kind) == (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) {
        // A link-local address means something on its link only.
        let [a, b, ..] = control[data].to_ne_bytes();
        if (a, b & 0xc0) != (0xfe, 0x80) {
            let mut octets = control[data + 2].to_ne_bytes();
            octets[..4].fill(0);
            control[data + 2] = u64::from_ne_bytes(octets);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::UdpSocket, os::fd::AsFd};

    fn echo(server: &UdpSocket, batch: &mut Batch) -> usize {
        let received = batch.receive(server.as_fd()).unwrap();
        for index in 0..received {
            let (query, room) = batch.query_and_room(index);
            let octets = query.len();
            room[..octets].copy_from_slice(query);
            batch.answered(index, octets);
        }
        batch.send(server.as_fd()).unwrap();
        received
    }

    #[test]
    fn a_batch_goes_out_to_those_it_came_from() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let local = server.local_addr().unwrap();
        let mut batch = Batch::new(512, LearnsLocal::on(server.as_fd(), local).unwrap());
        assert_eq!(batch.receive(server.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let clients: Vec<_> = (0..40_u8)
            .map(|number| {
                let client = UdpSocket::bind("127.0.0.1:0").unwrap();
                client.send_to(&[number; 3], local).unwrap();
                client
            })
            .collect();
        assert_eq!([echo(&server, &mut batch), echo(&server, &mut batch)], [BATCH, 40 - BATCH]);
        for (number, client) in clients.iter().enumerate() {
            let mut answer = [0; 8];
            assert_eq!(client.recv_from(&mut answer).unwrap(), (3, local));
            assert_eq!(answer[..3], [number as u8; 3]);
        }
    }

    #[test]
    fn an_answer_leaves_from_the_address_that_was_asked() {
        for (all, asked, client) in [
            ("0.0.0.0:0", "127.0.0.7", "127.0.0.1:0"),
            ("[::]:0", "127.0.0.7", "127.0.0.1:0"),
            ("[::]:0", "::1", "[::1]:0"),
        ] {
            let server = UdpSocket::bind(all).unwrap();
            let local = server.local_addr().unwrap();
            let mut batch = Batch::new(512, LearnsLocal::on(server.as_fd(), local).unwrap());
            let client = UdpSocket::bind(client).unwrap();
            // A connected socket takes datagrams from its peer only.
            client.connect((asked, local.port())).unwrap();
            client.send(b"?").unwrap();
            assert_eq!(echo(&server, &mut batch), 1, "{all} {asked}");
            let mut answer = [0; 8];
            assert_eq!(client.recv(&mut answer).unwrap(), 1, "{all} {asked}");
            assert_eq!(batch.peer(0).map(|peer| peer.port()), client.local_addr().ok().map(|local| local.port()));
        }
    }
}
