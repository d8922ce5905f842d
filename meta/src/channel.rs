//! Control messages over a byte stream.

use std::io;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{timeout, Instant};

use crate::error::Error;
use crate::message::{Message, LENGTH_BYTES, MESSAGE_BYTES_MAX};
use crate::outbox::WRITE_LIMIT;

/// Bytes that are asked for at once.
const READ_BYTES: usize = 4096;
/// Bytes that the system takes of us before they can be sent.
const UNSENT_BYTES: u32 = 32 << 10;

/// Bytes that come in, and the messages in them.
pub(crate) struct Frames {
    bytes: Vec<u8>,
    taken: usize,
    longest: usize,
}

/// What comes in. Waiting for the next message may be given up and begun again: nothing is lost.
pub(crate) struct Inbox<Stream> {
    stream: Stream,
    frames: Frames,
    /// When something came last.
    heard: Instant,
}

impl<Stream: AsyncRead + Unpin> Inbox<Stream> {
    /// Takes messages of at most `longest` bytes.
    pub(crate) fn new(stream: Stream, longest: usize) -> Inbox<Stream> {
        Inbox { stream, frames: Frames::new(longest), heard: Instant::now() }
    }

    /// The same, for messages of at most `longest` bytes from now on.
    pub(crate) fn longest(mut self, longest: usize) -> Inbox<Stream> {
        self.frames.longest = longest;
        self
    }

    /// When something came last, also a part of a message.
    pub(crate) fn heard(&self) -> Instant {
        self.heard
    }

    /// What has come, when it was not looked for in time; `None` when nothing has for so long, not even a part of a message.
    pub(crate) async fn come(&mut self, silence: Duration) -> Option<Result<Option<Message>, Error>> {
        // It looks once, also when no time is left.
        match timeout(Duration::ZERO, self.next()).await {
            Ok(message) => Some(message.map(Some)),
            Err(_) => (self.heard.elapsed() < silence).then_some(Ok(None)),
        }
    }

    /// The next message that is known.
    pub(crate) async fn next(&mut self) -> Result<Message, Error> {
        loop {
            if let Some(message) = self.frames.next()? {
                return Ok(message);
            }
            self.frames.make_room();
            match self.stream.read_buf(&mut self.frames.bytes).await {
                Ok(0) => return Err(Error::Unreachable("the connection was closed".into())),
                Ok(_) => self.heard = Instant::now(),
                Err(e) => return Err(broken(&e)),
            }
        }
    }
}

impl Frames {
    /// For messages of at most `longest` bytes.
    pub(crate) fn new(longest: usize) -> Frames {
        Frames { bytes: Vec::new(), taken: 0, longest }
    }

    /// Takes what has come.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.make_room();
        self.bytes.extend_from_slice(bytes);
    }

    fn make_room(&mut self) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.reserve(READ_BYTES);
    }

    /// The next message that is known, if it is there as a whole.
    pub(crate) fn next(&mut self) -> Result<Option<Message>, Error> {
        loop {
            let left = self.bytes.get(self.taken..).unwrap_or_default();
            let Some((length, rest)) = left.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
            let length = Message::length(*length)?;
            if length > self.longest {
                return Err(Error::Peer(format!(
                    "control message of {length} bytes: at most {}",
                    self.longest
                )));
            }
            let Some(message) = rest.get(..length) else { return Ok(None) };
            let decoded = Message::decode(message)?;
            self.taken += LENGTH_BYTES + message.len();
            if decoded.is_some() {
                return Ok(decoded);
            }
        }
    }
}

/// Prepares the socket of a connection for what goes over it.
pub(crate) fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    // What is said waits no longer behind parts of pipes than these take.
    let _ = SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_BYTES);
}

/// Sends one message, in bounded time.
pub(crate) async fn send<Stream>(stream: &mut Stream, message: &Message) -> Result<(), Error>
where
    Stream: AsyncWrite + Unpin,
{
    send_encoded(stream, &message.encode()?).await
}

/// Sends what [`Message::encode`] gave.
pub(crate) async fn send_encoded<Stream>(stream: &mut Stream, bytes: &[u8]) -> Result<(), Error>
where
    Stream: AsyncWrite + Unpin,
{
    debug_assert!(bytes.len() <= LENGTH_BYTES + MESSAGE_BYTES_MAX);
    let write = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    match timeout(WRITE_LIMIT, write).await {
        Ok(sent) => sent.map_err(|e| broken(&e)),
        Err(_) => Err(Error::Unreachable(format!("the other side takes nothing for {WRITE_LIMIT:?}"))),
    }
}

/// What broke a connection. TLS tells of certificates in this way, too.
pub(crate) fn broken(error: &io::Error) -> Error {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(e) => Error::Peer(format!("TLS: {e}{}", hint(e))),
        None => Error::Unreachable(error.to_string()),
    }
}

fn hint(error: &rustls::Error) -> &'static str {
    use rustls::{AlertDescription, CertificateError};
    match error {
        rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        )
        | rustls::Error::AlertReceived(AlertDescription::CertificateExpired) => {
            " (are the clocks of both hosts right?)"
        }
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            " (another session is served there, or this is an old ticket)"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_runtime<Out>(future: impl std::future::Future<Output = Out>) -> Out {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    #[test]
    fn messages_are_put_together_and_unknown_ones_skipped() {
        let mut bytes = Message::Ping(1).encode().unwrap();
        bytes.extend([3, 0, 0, 0, 0x55, 0x00, 9]);
        bytes.extend(Message::Renew(vec![5; 9000]).encode().unwrap());
        in_runtime(async {
            for step in [1, 3, 1000, 20_000] {
                let (mut to, from) = tokio::io::duplex(64);
                let mut inbox = Inbox::new(from, MESSAGE_BYTES_MAX);
                let pieces: Vec<Vec<u8>> = bytes.chunks(step).map(<[u8]>::to_vec).collect();
                let writer = async {
                    for piece in &pieces {
                        to.write_all(piece).await.unwrap();
                    }
                    drop(to);
                };
                let reader = async {
                    assert_eq!(inbox.next().await.unwrap(), Message::Ping(1));
                    assert_eq!(inbox.next().await.unwrap(), Message::Renew(vec![5; 9000]));
                    assert!(matches!(inbox.next().await, Err(Error::Unreachable(_))));
                };
                tokio::join!(writer, reader);
            }
        });
    }

    #[test]
    fn giving_up_a_wait_loses_nothing() {
        in_runtime(async {
            let (mut to, from) = tokio::io::duplex(64);
            let mut inbox = Inbox::new(from, MESSAGE_BYTES_MAX);
            for byte in Message::Ping(7).encode().unwrap() {
                assert!(timeout(Duration::from_millis(1), inbox.next()).await.is_err());
                to.write_all(&[byte]).await.unwrap();
            }
            assert_eq!(inbox.next().await.unwrap(), Message::Ping(7));
        });
    }

    #[test]
    fn a_message_of_impossible_length_ends_it_before_it_has_come() {
        in_runtime(async {
            let (mut to, from) = tokio::io::duplex(64);
            to.write_all(&u32::MAX.to_le_bytes()).await.unwrap();
            assert!(matches!(Inbox::new(from, MESSAGE_BYTES_MAX).next().await, Err(Error::Peer(_))));
        });
    }
}
