//! What is to be sent over one connection, while it is listened to: who reads slowly is heard all the same.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::{timeout, timeout_at, Instant};

use crate::channel::broken;
use crate::error::Error;
use crate::message::Message;

/// How long the other side may leave what we send where it is.
pub(crate) const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// Bytes that are written at once: as many as one record of TLS has. It is to take so many within [`WRITE_LIMIT`].
const PIECE_BYTES: usize = 16 << 10;
/// While more bytes of answers wait than this, nothing more is listened to that could be answered.
const ANSWERS_MAX: usize = 64 << 10;

/// See the [module](self).
pub(crate) struct Outbox<Writer> {
    writer: Writer,
    waiting: VecDeque<Waiting>,
    /// Bytes of the first that are written.
    written: usize,
    /// Whether what was written has left.
    is_flushed: bool,
    /// Bytes of answers that wait.
    answers: usize,
    /// When the last piece has left, or the first one came.
    moved: Instant,
}

struct Waiting {
    bytes: Arc<[u8]>,
    is_answer: bool,
}

impl<Writer: AsyncWrite + Unpin> Outbox<Writer> {
    pub(crate) fn new(writer: Writer) -> Outbox<Writer> {
        let (waiting, moved) = (VecDeque::new(), Instant::now());
        Outbox { writer, waiting, written: 0, is_flushed: true, answers: 0, moved }
    }

    /// Says something.
    pub(crate) fn push(&mut self, message: &Message) -> Result<(), Error> {
        self.push_encoded(message.encode()?.into());
        Ok(())
    }

    /// Says something that the other side has asked for.
    pub(crate) fn answer(&mut self, message: &Message) -> Result<(), Error> {
        let bytes: Arc<[u8]> = message.encode()?.into();
        self.answers += bytes.len();
        self.add(Waiting { bytes, is_answer: true });
        Ok(())
    }

    /// Says what [`Message::encode`] gave.
    pub(crate) fn push_encoded(&mut self, bytes: Arc<[u8]>) {
        self.add(Waiting { bytes, is_answer: false });
    }

    fn add(&mut self, waiting: Waiting) {
        if self.is_empty() {
            self.moved = Instant::now();
        }
        self.waiting.push_back(waiting);
    }

    /// Whether all has left.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.is_flushed
    }

    /// Bytes that wait.
    #[cfg(test)]
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting.iter().map(|waiting| waiting.bytes.len()).sum()
    }

    /// Whether there is room for more answers.
    pub(crate) fn may_answer(&self) -> bool {
        self.answers <= ANSWERS_MAX
    }

    /// Writes one piece. Waiting for it may be given up and begun again: nothing is lost.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when the other side takes nothing for [`WRITE_LIMIT`], however often this was begun.
    pub(crate) async fn write(&mut self) -> Result<(), Error> {
        let until = self.moved + WRITE_LIMIT;
        match timeout_at(until, self.write_piece()).await {
            Ok(written) => written.map_err(|e| broken(&e)),
            Err(_) => Err(Error::Unreachable(format!("the other side takes nothing for {WRITE_LIMIT:?}"))),
        }
    }

    async fn write_piece(&mut self) -> std::io::Result<()> {
        // What was written and has not left when this was given up leaves first.
        let mut room = if self.is_flushed { PIECE_BYTES } else { 0 };
        while let Some(first) = self.waiting.front().filter(|_| room > 0) {
            let left = first.bytes.get(self.written..).unwrap_or_default();
            let count = self.writer.write(left.get(..room).unwrap_or(left)).await?;
            if count == 0 {
                return Err(std::io::ErrorKind::WriteZero.into());
            }
            (self.written, room) = (self.written + count, room.saturating_sub(count));
            self.is_flushed = false;
            self.advance();
        }
        self.writer.flush().await?;
        (self.is_flushed, self.moved) = (true, Instant::now());
        Ok(())
    }

    /// Forgets the first one when it is written.
    fn advance(&mut self) {
        if self.waiting.front().is_some_and(|first| self.written >= first.bytes.len()) {
            self.written = 0;
            if let Some(Waiting { bytes, is_answer: true }) = self.waiting.pop_front() {
                self.answers -= bytes.len();
            }
        }
    }

    /// Writes all, and says that nothing follows; in bounded time.
    pub(crate) async fn finish(&mut self, limit: Duration) -> Result<(), Error> {
        let all = async {
            while !self.is_empty() {
                self.write().await?;
            }
            // Whoever has gone already need not hear it.
            let _ = self.writer.shutdown().await;
            Ok(())
        };
        timeout(limit, all).await.unwrap_or_else(|_| {
            Err(Error::Unreachable(format!("the other side has not taken the last words within {limit:?}")))
        })
    }
}
