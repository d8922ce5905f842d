//! Datagrams by the dozen: one system call takes several, and sends several as segments of one.

#![expect(unsafe_code)] // recvmmsg(2), and sendmsg(2) with a control message that no crate has.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;

use crate::wire::{Flow, Ipv4Fields, ICRC_BYTES};

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

/// Packets that wait for the next call.
pub(super) struct Outbox {
    waiting: Vec<(SocketAddr, Vec<u8>)>,
    /// Memory of those that were sent.
    spare: Vec<Vec<u8>>,
    /// Packets of one length for one peer leave as one datagram, which the system or the adapter cuts.
    pub(super) segments: bool,
    /// So many of the first have to leave one by one.
    alone: usize,
}

impl Outbox {
    pub(super) fn new() -> Outbox {
        let room = || Vec::with_capacity(BATCH);
        Outbox { waiting: room(), spare: Vec::with_capacity(BATCH), segments: false, alone: 0 }
    }

    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= BATCH
    }

    /// Takes a packet, whose memory is exchanged for another.
    pub(super) fn push(&mut self, to: SocketAddr, packet: &mut Vec<u8>) {
        let mut spare = self.spare.pop().unwrap_or_default();
        spare.clear();
        self.waiting.push((to, std::mem::replace(packet, spare)));
    }

    /// Sends all, each with its ICRC; false when there is no room for some. What cannot be sent at all is lost.
    pub(super) fn send(&mut self, socket: &UdpSocket, own: SocketAddr) -> bool {
        while let Some((to, _)) = self.waiting.first() {
            let (to, count) = (*to, self.group());
            for (at, (_, packet)) in self.waiting[..count].iter_mut().enumerate() {
                // The segments of a datagram have identifications that follow each other.
                let fields = Ipv4Fields { identification: at as u16, ..Ipv4Fields::UNFRAGMENTED };
                if let Some(flow) = Flow::new(own, to, fields) {
                    flow.seal(packet);
                }
            }
            let outcome = match &self.waiting[..count] {
                [(_, datagram)] => socket.send_to(datagram, to).map(drop),
                group => send_segments(socket, to, group),
            };
            match outcome.map_err(|error| (error.kind(), error.raw_os_error())) {
                Err((io::ErrorKind::WouldBlock, _)) => {
                    self.unseal(count);
                    return false;
                }
                Err((_, code)) if count > 1 => {
                    // An interface that cannot; or one of them is too long for it, which then is lost alone.
                    self.segments &= !matches!(code, Some(libc::EIO | libc::EOPNOTSUPP));
                    self.unseal(count);
                    self.alone = count;
                }
                // Or no route, too long, forbidden: lost, as anywhere on the way.
                _ => {
                    self.alone = self.alone.saturating_sub(count);
                    self.spare.extend(self.waiting.drain(..count).map(|(_, packet)| packet));
                }
            }
        }
        true
    }

    fn unseal(&mut self, count: usize) {
        for (_, packet) in &mut self.waiting[..count] {
            packet.truncate(packet.len() - ICRC_BYTES);
        }
    }

    /// How many of the first packets can leave as one datagram: to one peer, all of one length but the last, which may be shorter.
    fn group(&self) -> usize {
        let Some((to, first)) = self.waiting.first().filter(|_| self.segments && self.alone == 0) else {
            return 1;
        };
        let whole = first.len() + ICRC_BYTES;
        let most = (MAX_DATAGRAM_OF_SEGMENTS / whole).clamp(1, BATCH);
        let is_like = |(other, packet): &(SocketAddr, Vec<u8>)| other == to && packet.len() == first.len();
        let alike = self.waiting.iter().take(most).take_while(|next| is_like(next)).count();
        match self.waiting.get(alike) {
            Some((other, packet)) if alike < most && other == to && packet.len() < first.len() => alike + 1,
            _ => alike,
        }
    }
}

/// What IPv4 can say of the length of a datagram, less headers.
const MAX_DATAGRAM_OF_SEGMENTS: usize = 65_000;

/// Room for one control message with a number of 16 bits.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Sends packets as one datagram that is cut at the length of the first.
fn send_segments(socket: &UdpSocket, to: SocketAddr, group: &[(SocketAddr, Vec<u8>)]) -> io::Result<()> {
    let mut parts: [libc::iovec; BATCH] = std::array::from_fn(|at| {
        let bytes = group.get(at).map_or(&[][..], |(_, packet)| packet);
        libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
    });
    let mut address = EMPTY;
    let mut control = Control([0; 64]);
    let mut message = message(&raw mut address, 0, parts.as_mut_ptr()).msg_hdr;
    message.msg_namelen = write_address(to, &mut address);
    message.msg_iovlen = group.len().min(BATCH) as _;
    message.msg_control = (&raw mut control).cast();
    let segment = group.first().map_or(0, |(_, packet)| packet.len()) as u16;
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the control message with its two bytes fits into the 64 of `control`, which is as aligned as its header; all that the
    // message names outlives the call, and is only read.
    let sent = unsafe {
        message.msg_controllen = libc::CMSG_SPACE(size_of::<u16>() as u32) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_UDP;
        (*header).cmsg_type = libc::UDP_SEGMENT;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<u16>() as u32) as _;
        libc::CMSG_DATA(header).cast::<u16>().write_unaligned(segment);
        libc::sendmsg(socket.as_raw_fd(), &raw const message, flags)
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
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
