//! What carries bytes between a socket and a pipe.

use std::io::ErrorKind;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::libc::MSG_NOSIGNAL;
use socket2::SockRef;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{sleep_until, timeout};

use super::{End, Inner};
use crate::error::Refusal;
use crate::member::post::Origin;
use crate::member::state::Shared;
use crate::office::LIMIT_MAX;
use crate::packet::{Load, Packet, Part};
use crate::pipe::PART_BYTES;

/// What is over is looked at so often while the program does not read.
const LAST_LOOKS: Duration = Duration::from_secs(1);

/// See the [module](self).
pub(super) struct Pump<'a> {
    shared: &'a Arc<Shared>,
    end: &'a Arc<End>,
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    /// Whether the program sends no more, and has been told that nothing more comes.
    is_ended: (bool, bool),
    /// It reads no more. What it has sent before is delivered all the same.
    is_deaf: bool,
}

/// What there is to do next.
struct Turn {
    /// Bytes that the program may send.
    room: usize,
    /// For the program.
    waiting: Vec<u8>,
    /// Nothing more comes.
    is_read: bool,
    next_look: Instant,
}

impl Inner {
    /// Whether the program has all that it gets of a pipe that is over.
    pub(super) fn is_done(&self, why: Refusal, now: Instant) -> bool {
        // From one that is not to be trusted nothing more is taken.
        let is_cut = matches!(why, Refusal::Revoked | Refusal::Malformed);
        let is_coming = self.comes_until.is_some_and(|until| now < until) && !self.pipe.has_all();
        is_cut || (self.pipe.waiting().is_empty() && !is_coming)
    }
}

impl Pump<'_> {
    pub(super) fn new<'a>(
        shared: &'a Arc<Shared>,
        end: &'a Arc<End>,
        socket: tokio::net::UnixStream,
    ) -> Pump<'a> {
        let (reader, writer) = socket.into_split();
        Pump { shared, end, reader, writer, is_ended: (false, false), is_deaf: false }
    }

    /// Until the pipe is over.
    pub(super) async fn run(mut self) -> Result<(), Refusal> {
        let opened = async {
            while !self.end.is_open()? {
                self.end.woken.notified().await;
            }
            Ok::<(), Refusal>(())
        };
        // Who has asked hears of it earlier, unless the member ends.
        timeout(LIMIT_MAX + Duration::from_secs(1), opened).await.map_err(|_| Refusal::Late)??;
        let mut bytes = vec![0; PART_BYTES];
        loop {
            let Some(Turn { room, waiting, is_read, next_look }) = self.turn()? else { return Ok(()) };
            if is_read && !self.is_ended.1 {
                // Whoever has gone already need not hear it.
                let _ = tokio::io::AsyncWriteExt::shutdown(&mut self.writer).await;
                self.is_ended.1 = true;
                continue;
            }
            let most = bytes.get_mut(..room).unwrap_or_default();
            tokio::select! {
                () = self.end.woken.notified() => (),
                count = tokio::io::AsyncReadExt::read(&mut self.reader, most), if room > 0 && !self.is_ended.0 => {
                    // An error is the end of one that has gone with something unread.
                    let count = count.unwrap_or(0);
                    let part = {
                        let mut inner = self.end.lock();
                        match count {
                            0 => inner.pipe.finish(),
                            _ => inner.pipe.send(most.get(..count).unwrap_or_default().to_vec(), Instant::now()),
                        }
                    };
                    self.is_ended.0 |= count == 0;
                    self.say(part)?;
                }
                count = tokio::io::AsyncWriteExt::write(&mut self.writer, &waiting), if !waiting.is_empty() => {
                    match count {
                        Ok(count) => self.end.lock().pipe.taken(count),
                        Err(_) => self.is_deaf = true,
                    }
                }
                () = sleep_until(next_look.into()) => self.look(),
            }
        }
    }

    /// Tells the other side what it is to be told; what there is to do then. Nothing when the pipe has ended well.
    fn turn(&self) -> Result<Option<Turn>, Refusal> {
        let now = Instant::now();
        let mut inner = self.end.lock();
        if let Some(why) = inner.over.filter(|why| self.is_deaf || inner.is_done(*why, now)) {
            return Err(why);
        }
        inner.pipe.check(now)?;
        let most = if self.is_deaf { 0 } else { PART_BYTES };
        let waiting = inner.pipe.waiting().iter().copied().take(most).collect();
        let is_read = inner.pipe.is_read();
        if inner.over.is_some() {
            // Nobody hears what is said. What has come is for the program, as long as it takes it.
            let coming = inner.comes_until.filter(|until| *until > now);
            let next_look = coming.unwrap_or(now + LAST_LOOKS);
            return Ok(Some(Turn { room: 0, waiting, is_read, next_look }));
        }
        let told = inner.pipe.tell(now);
        let (room, next_look) = (inner.pipe.room(), inner.pipe.next_look());
        let (is_over, is_delivered) = (inner.pipe.is_over(), inner.pipe.is_delivered());
        drop(inner);
        told.map_or(Ok(()), |part| self.say(part))?;
        if is_over && self.is_ended.1 {
            return Ok(None);
        }
        if (self.is_deaf || self.shared.relays.is_leaving()) && self.may_end(is_delivered) {
            return Err(Refusal::Ended);
        }
        Ok(Some(Turn { room, waiting, is_read, next_look }))
    }

    /// Whether nothing is lost of what the program has sent when this ends now, or it still sends.
    fn may_end(&self, is_delivered: bool) -> bool {
        let socket = SockRef::from(self.reader.as_ref());
        match self.is_ended {
            (true, is_read) => is_delivered && (is_read || is_gone(&socket)),
            // Asked of the system: what the runtime knows may be of before.
            (false, _) => {
                socket.peek(&mut [MaybeUninit::uninit()]).is_err_and(|e| e.kind() == ErrorKind::WouldBlock)
            }
        }
    }

    /// Whether the program is still there.
    fn look(&mut self) {
        self.is_deaf |= self.is_ended == (true, false) && is_gone(&SockRef::from(self.writer.as_ref()));
    }

    fn say(&self, part: Part) -> Result<(), Refusal> {
        let (to, of) = self.end.key;
        let packet = Packet::new(self.shared.node, to, self.end.number, &Load::Piped(of, part));
        self.shared.route(packet, Origin::Here).map_err(|(_, why)| why)
    }
}

/// Whether the program has closed its end.
fn is_gone(socket: &SockRef<'_>) -> bool {
    socket.send_with_flags(&[], MSG_NOSIGNAL).is_err_and(|e| e.kind() == ErrorKind::BrokenPipe)
}
