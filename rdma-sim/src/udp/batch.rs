//! Datagrams by the dozen: one system call takes or sends several.

#![expect(unsafe_code)] // recvmmsg(2) and sendmmsg(2), into memory that stays.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;

/// Datagrams of one call.
pub(super) const BATCH: usize = 16;

/// See [`Inbox::found`].
const CROWD: u32 = 2;

/// Datagrams that came and were not looked at.
pub(super) struct Inbox {
    bytes: Box<[[u8; LONGEST]; BATCH]>,
    from: [libc::sockaddr_storage; BATCH],
    lens: [usize; BATCH],
    /// Of the last call: how many came, how many were taken.
    came: usize,
    taken: usize,
    /// Looks one after the other that have found something, up to [`CROWD`]: then datagrams come faster than they are looked for.
    /// Otherwise they are taken one by one, since a look that finds nothing costs half as much then.
    found: u32,
}

/// Longest datagram that is kept whole.
pub(super) const LONGEST: usize = super::MAX_DATAGRAM;

impl Inbox {
    pub(super) fn new() -> Inbox {
        let bytes: Box<[[u8; LONGEST]]> = vec![[0; LONGEST]; BATCH].into();
        Inbox {
            // It has just that length.
            bytes: bytes.try_into().unwrap_or_else(|_| Box::new([[0; LONGEST]; BATCH])),
            from: [EMPTY; BATCH],
            lens: [0; BATCH],
            came: 0,
            taken: 0,
            found: 0,
        }
    }

    /// Whether some are here that the socket does not show any more.
    pub(super) fn has_some(&self) -> bool {
        self.taken < self.came
    }

    /// The next datagram and who has sent it; none when there is none for now.
    pub(super) fn next(&mut self, socket: &UdpSocket) -> io::Result<Option<(SocketAddr, &[u8])>> {
        if self.taken == self.came {
            let had = std::mem::take(&mut self.came);
            self.taken = 0;
            if (1..BATCH).contains(&had) {
                // Most likely there is nothing more: to hear so would cost a system call.
                return Ok(None);
            }
            self.came = self.look(socket)?;
            if self.came == 0 {
                return Ok(None);
            }
        }
        let at = self.taken;
        self.taken += 1;
        let from = address_of(&self.from[at]).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Some((from, &self.bytes[at][..self.lens[at].min(LONGEST)])))
    }

    fn look(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        let came = if self.found >= CROWD { self.fill(socket)? } else { self.fill_one(socket)? };
        self.found = if came == 0 { 0 } else { CROWD.min(self.found + 1) };
        Ok(came)
    }

    fn fill_one(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        match socket.recv_from(&mut self.bytes[0]) {
            Ok((len, from)) => {
                self.lens[0] = len;
                write_address(from, &mut self.from[0]);
                Ok(1)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error),
        }
    }

    fn fill(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        let mut parts: [libc::iovec; BATCH] = std::array::from_fn(|at| libc::iovec {
            iov_base: self.bytes[at].as_mut_ptr().cast(),
            iov_len: LONGEST,
        });
        let mut messages: [libc::mmsghdr; BATCH] = std::array::from_fn(|at| {
            message(&raw mut self.from[at], size_of::<libc::sockaddr_storage>(), &raw mut parts[at])
        });
        let (file, count, flags) = (socket.as_raw_fd(), BATCH as libc::c_uint, libc::MSG_DONTWAIT);
        // SAFETY: each header names an address and one piece of memory of the lengths that it says, of arrays that outlive the call
        // and that nobody else uses meanwhile; no timeout is given.
        let came = unsafe { libc::recvmmsg(file, messages.as_mut_ptr(), count, flags, std::ptr::null_mut()) };
        if came < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock { Ok(0) } else { Err(error) };
        }
        for (len, message) in self.lens.iter_mut().zip(&messages).take(came as usize) {
            *len = message.msg_len as usize;
        }
        Ok(came as usize)
    }
}

/// Datagrams that wait for the next call.
pub(super) struct Outbox {
    waiting: Vec<(SocketAddr, Vec<u8>)>,
    /// Memory of those that were sent.
    spare: Vec<Vec<u8>>,
}

impl Outbox {
    pub(super) fn new() -> Outbox {
        Outbox { waiting: Vec::with_capacity(BATCH), spare: Vec::with_capacity(BATCH) }
    }

    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= BATCH
    }

    /// Takes a datagram, whose memory is exchanged for another.
    pub(super) fn push(&mut self, to: SocketAddr, datagram: &mut Vec<u8>) {
        let mut spare = self.spare.pop().unwrap_or_default();
        spare.clear();
        self.waiting.push((to, std::mem::replace(datagram, spare)));
    }

    /// Sends all; false when there is no room for some. What cannot be sent at all is lost.
    pub(super) fn send(&mut self, socket: &UdpSocket) -> bool {
        while let [(to, datagram), rest @ ..] = &self.waiting[..] {
            let outcome = match rest {
                [] => socket.send_to(datagram, to).map(|_| 1),
                _ => self.send_some(socket),
            };
            let sent = match outcome {
                Ok(sent) => sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                // No route, too long, forbidden: the first of them is lost, as anywhere on the way.
                Err(_) => 1,
            };
            self.spare.extend(self.waiting.drain(..sent).map(|(_, datagram)| datagram));
        }
        true
    }

    fn send_some(&self, socket: &UdpSocket) -> io::Result<usize> {
        let mut parts = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH];
        let mut to = [EMPTY; BATCH];
        let mut messages: [libc::mmsghdr; BATCH] =
            std::array::from_fn(|at| message(&raw mut to[at], 0, &raw mut parts[at]));
        let count = self.waiting.len().min(BATCH);
        for (at, (address, datagram)) in self.waiting.iter().take(count).enumerate() {
            parts[at] =
                libc::iovec { iov_base: datagram.as_ptr().cast_mut().cast(), iov_len: datagram.len() };
            messages[at].msg_hdr.msg_namelen = write_address(*address, &mut to[at]);
        }
        let (file, flags) = (socket.as_raw_fd(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
        // SAFETY: the first `count` headers name addresses and datagrams of the lengths that they say, which outlive the call; the
        // kernel reads them, and writes the headers only.
        let sent = unsafe { libc::sendmmsg(file, messages.as_mut_ptr(), count as libc::c_uint, flags) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(sent as usize)
    }
}

/// No address.
// SAFETY: plain numbers, for which zeros will do.
const EMPTY: libc::sockaddr_storage = unsafe { std::mem::zeroed() };

fn message(
    address: *mut libc::sockaddr_storage,
    address_len: usize,
    part: *mut libc::iovec,
) -> libc::mmsghdr {
    // SAFETY: plain numbers and pointers, for which zeros will do.
    let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
    message.msg_hdr.msg_name = address.cast();
    message.msg_hdr.msg_namelen = address_len as libc::socklen_t;
    message.msg_hdr.msg_iov = part;
    message.msg_hdr.msg_iovlen = 1;
    message
}

fn address_of(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that it is this structure, which is shorter and no more aligned.
            let v4 = unsafe { &*std::ptr::from_ref(storage).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { &*std::ptr::from_ref(storage).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), v6.sin6_flowinfo, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// Writes an address; its length.
fn write_address(address: SocketAddr, storage: &mut libc::sockaddr_storage) -> libc::socklen_t {
    let place = std::ptr::from_mut(storage);
    match address {
        SocketAddr::V4(v4) => {
            // SAFETY: the storage is larger than this structure, and as aligned; zeros are one.
            let to = unsafe { &mut *place.cast::<libc::sockaddr_in>() };
            to.sin_family = libc::AF_INET as libc::sa_family_t;
            to.sin_port = v4.port().to_be();
            to.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
            size_of::<libc::sockaddr_in>() as libc::socklen_t
        }
        SocketAddr::V6(v6) => {
            // SAFETY: as above.
            let to = unsafe { &mut *place.cast::<libc::sockaddr_in6>() };
            to.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            to.sin6_port = v6.port().to_be();
            to.sin6_flowinfo = v6.flowinfo();
            to.sin6_addr.s6_addr = v6.ip().octets();
            to.sin6_scope_id = v6.scope_id();
            size_of::<libc::sockaddr_in6>() as libc::socklen_t
        }
    }
}
