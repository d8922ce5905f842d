//! The connection below control messages: TLS, or bare TCP where the [configuration of the session](crate::plain) says so.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::channel::broken;
use crate::error::Error;

/// How a record of TLS begins that carries a handshake (RFC 8446, 5.1): no control message begins so.
const TLS_HANDSHAKE: u8 = 0x16;

/// See the [module](self).
pub(crate) enum Wire {
    /// TLS 1.3.
    Tls(Box<TlsStream<TcpStream>>),
    /// Whoever is on the way can read and change what passes.
    Plain(TcpStream),
}

impl Wire {
    /// Whether nothing protects what passes.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self, Wire::Plain(_))
    }

    /// The own address of the connection.
    pub(crate) fn local_ip(&self) -> Result<IpAddr, Error> {
        let socket = match self {
            Wire::Tls(stream) => stream.get_ref().0,
            Wire::Plain(stream) => stream,
        };
        Ok(socket.local_addr().map_err(|e| broken(&e))?.ip())
    }
}

/// Whether a caller begins as one that speaks TLS. Waits for its first byte.
pub(crate) async fn begins_tls(stream: &TcpStream) -> Result<bool, Error> {
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(0) => Err(Error::Unreachable("the connection was closed".into())),
        Ok(_) => Ok(first == [TLS_HANDSHAKE]),
        Err(e) => Err(broken(&e)),
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Tls(stream) => Pin::new(stream).poll_read(context, to),
            Wire::Plain(stream) => Pin::new(stream).poll_read(context, to),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Wire::Tls(stream) => Pin::new(stream).poll_write(context, from),
            Wire::Plain(stream) => Pin::new(stream).poll_write(context, from),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Tls(stream) => Pin::new(stream).poll_flush(context),
            Wire::Plain(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Tls(stream) => Pin::new(stream).poll_shutdown(context),
            Wire::Plain(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
