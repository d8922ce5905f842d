//! TLS 1.3 between a socket and what is read and written over it, where a session says who the peers are.
//!
//! The library that does it knows nothing of sockets: bytes of the network go in, bytes of the rail come out, and the other way
//! round. What it keeps is bounded: 64 KiB on their way out, one record on its way in. Nothing is handed to the rail before both
//! sides have proved who they are.

use std::fmt;
use std::io::{BufRead, ErrorKind, IoSlice, Read, Write};
use std::net::IpAddr;

use gridnet_core::rail::Refusal;
use gridnet_core::wire::NodeId;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConnection, Connection, ServerConnection};
use socket2::Socket;

use crate::socket::Moved;

/// Who the peers of a rail are, by TLS 1.3 with both sides certified.
pub trait Session: fmt::Debug + Send + Sync {
    /// The caller's side of a connection to the fabric of this node id. It takes nobody who may not speak for that.
    ///
    /// # Errors
    /// Why this side cannot prove who it is any more.
    fn call(&self, fabric: NodeId) -> Result<ClientConnection, Refusal>;

    /// The called side of a connection, which takes those of the session only.
    ///
    /// # Errors
    /// As [`Self::call`].
    fn answer(&self) -> Result<ServerConnection, Refusal>;

    /// Whether who has shown these certificates, which TLS has found good, may speak for the fabric of this node id.
    ///
    /// # Errors
    /// Why not.
    fn check(&self, shown: &[CertificateDer<'_>], fabric: NodeId) -> Result<(), Refusal>;

    /// Those of these fabrics whose nodes were revoked.
    fn revoked_of(&self, fabrics: &[NodeId]) -> Vec<NodeId>;

    /// Whether a caller from this address is answered, which costs a signature: so many are in a second that do not prove who they are.
    fn may_come(&self, from: IpAddr) -> bool;

    /// A caller from this address has proved who it is.
    fn proved(&self, from: IpAddr);

    /// Counts and notes that somebody was refused: who, and why.
    fn refused(&self, who: &str, why: &str);

    /// How often that was.
    fn refusals(&self) -> u64;

    /// Frames flow between this rail and the fabric of this node id, which was called or let in: a link has come of it. Said by the
    /// thread that drives the rail, before anything is heard over the link; twice where frames went before the other side had greeted.
    fn linked(&self, fabric: NodeId) {
        let _ = fabric;
    }

    /// Over how many connections a link to the fabric of this node id goes, as was agreed on with it; none where the rail decides.
    /// Asked when the link has come up.
    fn streams(&self, fabric: NodeId) -> Option<u32> {
        let _ = fabric;
        None
    }

    /// Whether all that follows the greeting is plain: TLS says who the peers are, and that they want it so. Only where both sides do
    /// is there a connection; `check` is to refuse those with whom it was not agreed on.
    fn unseals(&self) -> bool {
        false
    }
}

/// Why TLS ends a connection: the error inside of one of the system's kind.
#[derive(Debug, Clone)]
pub(crate) struct Failed {
    pub(crate) why: String,
    /// This side does not take the other.
    pub(crate) is_refusal: bool,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for Failed {}

impl Failed {
    /// What TLS had to say in an error, if it is one of its.
    pub(crate) fn of(error: &std::io::Error) -> Option<&Failed> {
        error.get_ref()?.downcast_ref()
    }

    fn from_tls(error: &rustls::Error) -> Failed {
        let (why, is_refusal) = match error {
            rustls::Error::AlertReceived(alert) => (format!("TLS: the other side refuses: {alert:?}"), false),
            rustls::Error::InvalidMessage(_) => {
                ("TLS: what came is none: has the other side a session (GRIDNET_SESSION)?".to_owned(), true)
            }
            other => (format!("TLS: {other}"), true),
        };
        Failed { why, is_refusal }
    }

    fn into_error(self) -> std::io::Error {
        std::io::Error::new(ErrorKind::PermissionDenied, self)
    }
}

/// How a connection has ended.
#[derive(Debug, Clone)]
enum End {
    /// The other side has said that nothing more comes.
    Said,
    /// It has gone without a word, which anybody on the way can bring about.
    Cut,
    Failed(Failed),
    Broken(ErrorKind, Option<i32>),
}

impl End {
    fn moved(&self) -> Moved {
        match self {
            End::Said => Moved::End,
            End::Cut => {
                let why = "the connection was closed without a word";
                Moved::Broken(std::io::Error::new(ErrorKind::UnexpectedEof, why))
            }
            End::Failed(failed) => Moved::Broken(failed.clone().into_error()),
            End::Broken(_, Some(number)) => Moved::Broken(std::io::Error::from_raw_os_error(*number)),
            End::Broken(kind, None) => Moved::Broken((*kind).into()),
        }
    }
}

/// See the [module](self).
pub(crate) struct Tls {
    connection: Connection,
    /// Bytes for the rail that have come and were not taken.
    left: usize,
    end: Option<End>,
    /// Where something else may follow a record: how far the present one was read.
    record: Option<Record>,
}

/// How much of a record was read (RFC 8446, 5.1).
#[derive(Debug, Default)]
struct Record {
    header: [u8; RECORD_HEADER],
    /// Bytes of the header that are there,
    known: usize,
    /// and those of the rest that are not.
    left: usize,
}

/// Bytes of the header of a record; the last two are the length of the rest.
const RECORD_HEADER: usize = 5;

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What the connection has inside is nobody's business.
        f.debug_struct("Tls").field("left", &self.left).field("end", &self.end).finish_non_exhaustive()
    }
}

impl Tls {
    pub(crate) fn new(connection: Connection) -> Tls {
        Tls { connection, left: 0, end: None, record: None }
    }

    /// The same, of which [something else may follow](Self::is_over) the last record: nothing is read beyond the end of one.
    pub(crate) fn exact(connection: Connection) -> Tls {
        Tls { record: Some(Record::default()), ..Tls::new(connection) }
    }

    /// Whether nothing is under way in either direction, so that what follows may be without TLS.
    pub(crate) fn is_over(&self) -> bool {
        let is_between = self.record.as_ref().is_some_and(|record| (record.known, record.left) == (0, 0));
        let is_quiet = self.left == 0 && self.end.is_none() && !self.connection.wants_write();
        is_between && is_quiet && !self.connection.is_handshaking()
    }

    /// Hands out what has come, at most `most` bytes: fewer say that nothing more is there. `put` gets how many came before, and the next.
    pub(crate) fn receive(
        &mut self,
        socket: &Socket,
        most: usize,
        mut put: impl FnMut(usize, &[u8]),
    ) -> Moved {
        let mut done = 0;
        while done < most {
            let is_record_taken = self.record.is_some() && self.left == 0 && done > 0;
            if is_record_taken {
                break;
            }
            if self.left == 0 && !self.read(socket) {
                return match (&self.end, done) {
                    (Some(end), 0) => end.moved(),
                    (None, 0) => Moved::Nothing,
                    (_, done) => Moved::Bytes(done),
                };
            }
            let mut reader = self.connection.reader();
            let chunk = reader.fill_buf().unwrap_or_default();
            if chunk.is_empty() {
                self.left = 0;
                continue;
            }
            let part = chunk.get(..most - done).unwrap_or(chunk);
            put(done, part);
            let len = part.len();
            reader.consume(len);
            done += len;
            self.left = self.left.saturating_sub(len);
        }
        Moved::Bytes(done)
    }

    /// Reads from the network, once; false when nothing is there or the connection is over.
    fn read(&mut self, socket: &Socket) -> bool {
        if self.end.is_some() {
            return false;
        }
        let read = match &mut self.record {
            Some(record) => self.connection.read_tls(&mut Exact(socket, record)),
            None => self.connection.read_tls(&mut Raw(socket)),
        };
        match read {
            Ok(0) => {
                let cut = if self.connection.is_handshaking() { End::Said } else { End::Cut };
                self.end = Some(cut);
                return false;
            }
            Ok(_) => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return false,
            Err(e) => {
                self.end = Some(End::Broken(e.kind(), e.raw_os_error()));
                return false;
            }
        }
        match self.connection.process_new_packets() {
            Ok(state) => {
                self.left = state.plaintext_bytes_to_read();
                if state.peer_has_closed() {
                    self.end = Some(End::Said);
                }
            }
            Err(e) => self.end = Some(End::Failed(Failed::from_tls(&e))),
        }
        // Its part of the handshake, new keys, or why it refuses. An error shows again in whatever comes next.
        let _ = self.push(socket);
        self.left > 0 || self.end.is_none()
    }

    /// Seals and sends; bytes that were taken, fewer than there are when the network takes no more.
    pub(crate) fn send(&mut self, socket: &Socket, pieces: &mut [IoSlice<'_>]) -> Moved {
        let mut pieces = pieces;
        let mut taken = 0;
        loop {
            match self.push(socket) {
                Ok(false) if !pieces.is_empty() => {}
                Ok(_) => break,
                Err(e) => return Moved::Broken(e),
            }
            match self.connection.writer().write_vectored(pieces) {
                Ok(0) => break,
                Ok(len) => {
                    taken += len;
                    IoSlice::advance_slices(&mut pieces, len);
                }
                Err(e) => return Moved::Broken(self.failure().unwrap_or(e)),
            }
        }
        if taken > 0 {
            Moved::Bytes(taken)
        } else {
            Moved::Nothing
        }
    }

    fn failure(&self) -> Option<std::io::Error> {
        match &self.end {
            Some(End::Failed(failed)) => Some(failed.clone().into_error()),
            _ => None,
        }
    }

    /// Sends what was sealed, as far as the network takes it; whether something is left.
    pub(crate) fn push(&mut self, socket: &Socket) -> std::io::Result<bool> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut Raw(socket)) {
                Ok(_) => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    return Ok(true)
                }
                Err(e) => return Err(e),
            }
        }
        Ok(false)
    }

    /// Whether something that was sealed waits to be sent.
    pub(crate) fn is_clogged(&self) -> bool {
        self.connection.wants_write()
    }

    /// Whether something can be had that the socket knows nothing of.
    pub(crate) fn has_more(&self) -> bool {
        self.left > 0 || self.end.is_some()
    }

    #[cfg(test)]
    pub(crate) fn renew_keys(&mut self) {
        self.connection.refresh_traffic_keys().unwrap();
    }

    /// Says that nothing more will be sent.
    pub(crate) fn end_sending(&mut self, socket: &Socket) {
        self.connection.send_close_notify();
        // A connection over which nothing can be said is over already.
        let _ = self.push(socket);
    }

    /// Whether this side has heard that the other one is who it says.
    pub(crate) fn is_proved(&self) -> bool {
        !self.connection.is_handshaking() && self.end.is_none()
    }

    /// The certificates of the other side; none before the end of the handshake.
    pub(crate) fn shown(&self) -> Vec<CertificateDer<'static>> {
        match self.connection.is_handshaking() {
            true => Vec::new(),
            false => self.connection.peer_certificates().unwrap_or_default().to_vec(),
        }
    }
}

/// The socket below.
struct Raw<'a>(&'a Socket);

impl Read for Raw<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut socket = self.0;
        socket.read(buffer)
    }
}

/// The socket below, of which no more is read than the present record.
struct Exact<'a>(&'a Socket, &'a mut Record);

impl Read for Exact<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let (mut socket, record) = (self.0, &mut *self.1);
        let is_header = record.left == 0;
        let most = if is_header { RECORD_HEADER - record.known } else { record.left };
        let most = most.min(buffer.len());
        let len = socket.read(buffer.get_mut(..most).unwrap_or_default())?;
        if !is_header {
            record.left -= len;
            return Ok(len);
        }
        let known = record.known + len;
        if let (Some(to), Some(read)) = (record.header.get_mut(record.known..known), buffer.get(..len)) {
            to.copy_from_slice(read);
        }
        record.known = known;
        if let (RECORD_HEADER, [_, _, _, high, low]) = (known, record.header) {
            (record.known, record.left) = (0, usize::from(u16::from_be_bytes([high, low])));
        }
        Ok(len)
    }
}

impl Write for Raw<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.send_with_flags(bytes, libc::MSG_NOSIGNAL)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> std::io::Result<usize> {
        self.0.send_vectored_with_flags(pieces, libc::MSG_NOSIGNAL)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "../tests/common/certificates.rs"]
mod certificates;
#[cfg(test)]
mod tests;
