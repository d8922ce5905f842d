//! Byte streams between fabrics, as Rust programs use them.
//!
//! Calls that can wait take a time: `None` is for ever, zero does not wait and says [`Error::Again`]. Others may call at the
//! same time where the thread level of the fabric allows it: one reads and one writes, or several accept.

use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gridnet_core::endpoint::CqId;
use gridnet_core::error::Error;
use gridnet_core::mem::Iov;
use gridnet_core::rail::{Armed, PeerId, Refusal};
use gridnet_core::stream::{Bells, ListenerId, Ready, StreamId};

use crate::fabric::Fabric;
use crate::shared::Shared;
use crate::way::{Way, Ways};

/// Takes calls for a service.
#[derive(Debug)]
pub struct Listener {
    shared: Arc<Shared>,
    id: ListenerId,
    bell: CqId,
    service: Box<str>,
}

/// Ordered bytes to and from a peer. It ends when it is dropped: what was written before still goes out while the fabric makes
/// progress.
#[derive(Debug)]
pub struct Stream {
    shared: Arc<Shared>,
    id: StreamId,
    input: CqId,
    output: CqId,
    peer: PeerId,
    /// For long writes; one thread writes at a time.
    ways: Mutex<Ways>,
}

impl Listener {
    /// Begins to take calls for a service; `backlog` of them (1 to 4096) wait to be accepted at most.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is no name (1 to 128 bytes without control characters) or number; [`Error::NameInUse`] when
    /// the fabric has such a listener; and as [`Shared::enter`].
    pub fn open(shared: &Arc<Shared>, service: &str, backlog: usize) -> Result<Listener, Refusal> {
        let listening = shared.enter().and_then(|mut guard| guard.engine.stream_listen(service, backlog));
        let (id, bells) = listening.map_err(|error| Refusal::new(error, not_listening(error, service)))?;
        let bell = bells.input.ok_or_else(no_bell)?;
        shared.enter().map_err(told)?.serve(service);
        Ok(Listener { shared: shared.clone(), id, bell, service: service.into() })
    }

    /// Takes the stream of the oldest caller.
    ///
    /// # Errors
    /// [`Error::Again`], [`Error::Timeout`]: nobody has called.
    pub fn accept(&self, timeout: Option<Duration>) -> Result<Stream, Error> {
        let accepted = self.shared.until(self.bell, timeout, |fabric| {
            let bell = fabric.engine.known_listener_bell(self.id);
            fabric.end_arming(bell);
            fabric.engine.stream_accept(self.id)
        });
        let (id, bells, peer) = accepted?;
        Stream::new(&self.shared, id, bells, peer).map_err(|refusal| refusal.error)
    }

    /// A descriptor that is readable, after [`Self::arm`] said yes, once something has happened. It ends with the listener.
    ///
    /// # Errors
    /// [`Error::System`] without free descriptors.
    pub fn descriptor(&self) -> Result<RawFd, Refusal> {
        let mut guard = self.shared.enter().map_err(told)?;
        let bell = guard.engine.listener_bell(self.id).map_err(told)?;
        guard.cq_descriptor(bell)
    }

    /// Prepares the descriptor for sleep: BUSY when there may be something to accept already.
    ///
    /// # Errors
    /// As [`Self::descriptor`].
    pub fn arm(&self) -> Result<Armed, Refusal> {
        let mut guard = self.shared.enter().map_err(told)?;
        let bell = guard.engine.listener_bell(self.id).map_err(told)?;
        guard.arm_bell(bell, |fabric| fabric.engine.listener_ready(self.id).map(|ready| ready.input))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // An error says that the fabric cannot be used any more, and with it the listener.
        if let Ok(mut guard) = self.shared.enter() {
            guard.end_service(&self.service);
            let bells = guard.engine.stream_unlisten(self.id);
            guard.forget_bells(bells);
        }
    }
}

impl Stream {
    /// Calls a service of a peer, and waits until the peer has answered.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the peer has no such service, [`Error::Limit`] when too many wait there, [`Error::Permission`] when
    /// the rules of either side do not allow it over the stack that leads there, [`Error::Timeout`], the peer's error when it has
    /// gone, [`Error::Invalid`] for what is no name.
    pub fn connect(
        shared: &Arc<Shared>,
        peer: PeerId,
        service: &str,
        timeout: Option<Duration>,
    ) -> Result<Stream, Refusal> {
        let stream = Stream::call(shared, peer, service)?;
        stream
            .await_answer(timeout)
            .map_err(|error| Refusal::new(error, stream.not_answered(error, service)))
            .map(|()| stream)
    }

    /// Calls a service of a peer, without waiting: writing says [`Error::Again`] until the peer has answered.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is no name; the peer's error when it has gone.
    pub fn call(shared: &Arc<Shared>, peer: PeerId, service: &str) -> Result<Stream, Refusal> {
        let mut guard = shared.enter().map_err(told)?;
        let called = guard.engine.stream_connect(peer, service).map_err(|error| {
            // The rules of this side have more to say.
            let own = guard.engine.stream_admitted(peer, service).err().filter(|own| own.error == error);
            own.unwrap_or_else(|| Refusal::new(error, no_stream(error, service)))
        });
        drop(guard);
        let (id, bells) = called?;
        Stream::new(shared, id, bells, peer)
    }

    fn new(shared: &Arc<Shared>, id: StreamId, bells: Bells, peer: PeerId) -> Result<Stream, Refusal> {
        let (Some(input), Some(output)) = (bells.input, bells.output) else { return Err(no_bell()) };
        Ok(Stream { shared: shared.clone(), id, input, output, peer, ways: Mutex::default() })
    }

    /// Why the peer has not accepted.
    fn not_answered(&self, error: Error, service: &str) -> String {
        let rail = self.shared.enter().ok().and_then(|guard| guard.engine.rail_name(self.peer));
        match (error, rail) {
            (Error::Permission, Some(rail)) => {
                format!("the rules of the peer allow no stream to {service:?} over the rail {rail}")
            }
            _ => no_stream(error, service),
        }
    }

    /// Waits until the peer has accepted.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub fn await_answer(&self, timeout: Option<Duration>) -> Result<(), Error> {
        self.shared.until(self.output, timeout, |fabric| fabric.engine.stream_connected(self.id))
    }

    /// The peer at the other end.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Reads what has come, at least a byte; 0 bytes are the end of the stream.
    ///
    /// # Errors
    /// [`Error::Again`], [`Error::Timeout`]: nothing has come; the peer's error when it has gone, after what has come.
    pub fn read(&self, to: &mut [u8], timeout: Option<Duration>) -> Result<usize, Error> {
        if to.is_empty() {
            return Ok(0);
        }
        let mut is_lent = false;
        self.shared.until_the_last(self.input, timeout, |fabric, is_last| {
            if std::mem::take(&mut is_lent) {
                match fabric.engine.stream_take_back(self.id) {
                    0 => {}
                    len => return Ok(len),
                }
            }
            let read = fabric.engine.stream_read(self.id, to);
            if read == Err(Error::Again) && !is_last {
                // SAFETY: the memory is borrowed, and nobody else touches it, until it is taken back: by the next attempt, while this call
                // waits. When there is no next one, nobody can go in any more, and so nobody writes.
                let memory = unsafe { Iov::new(to.as_mut_ptr(), to.len()) };
                is_lent = fabric.engine.stream_lend(self.id, memory);
            }
            read
        })
    }

    /// Writes all of `bytes`, or as much as may go in time; how much.
    ///
    /// # Errors
    /// When nothing was written: [`Error::Again`], [`Error::Timeout`]; [`Error::Closed`] when a side has ended the stream; why
    /// not, when the peer has gone or has refused.
    pub fn write(&self, bytes: &[u8], timeout: Option<Duration>) -> Result<usize, Error> {
        let mut written = 0;
        let ended = self.shared.until(self.output, timeout, |fabric| {
            written += fabric.engine.stream_write(self.id, &bytes[written..])?;
            if written < bytes.len() {
                Err(Error::Again)
            } else {
                Ok(())
            }
        });
        match ended {
            Err(error) if written == 0 => Err(error),
            _ => Ok(written),
        }
    }

    /// Writes all of `bytes`, or ends the stream as [`Self::abort`] does: nobody can say then how many of them the peer has read. A long part
    /// for which the peer has no room may not be copied here: the peer fetches it from this memory, where the rail can and that was
    /// faster lately, and this waits until it has.
    ///
    /// # Errors
    /// As [`Self::write`]; [`Error::Again`] and [`Error::Timeout`]: not all could be written in time.
    pub fn write_all(&self, bytes: &[u8], timeout: Option<Duration>) -> Result<(), Error> {
        let window = self.shared.enter()?.config().stream_window;
        let Some(by_frames) = bytes.len().checked_sub(2 * window) else {
            return self.write_by(Way::Frames, bytes, timeout);
        };
        let way = self.ways.lock().unwrap_or_else(PoisonError::into_inner).next();
        let began = Instant::now();
        self.write_by(way, bytes, timeout)?;
        // Of frames the last ones, as many as the peer has room for, may not have been read.
        let read = if way == Way::Shown { bytes.len() } else { by_frames + window };
        self.ways.lock().unwrap_or_else(PoisonError::into_inner).learn(way, read, began.elapsed());
        Ok(())
    }

    fn write_by(&self, way: Way, bytes: &[u8], timeout: Option<Duration>) -> Result<(), Error> {
        let (mut written, mut is_shown) = (0, false);
        let ended = self.shared.until(self.output, timeout, |fabric| loop {
            if is_shown {
                written += fabric.engine.stream_shown(self.id)?;
                is_shown = false;
                // Whatever the peer has done since, it has all of them. A part is never empty.
                if written == bytes.len() {
                    return Ok(());
                }
            }
            let left = &bytes[written..];
            // SAFETY: the memory is borrowed, and nobody writes it, until the peer has answered, or it is hidden below: then a copy that
            // comes too late is thrown away.
            let memory = unsafe { Iov::new(left.as_ptr().cast_mut(), left.len()) };
            is_shown = way == Way::Shown && fabric.engine.stream_show(self.id, &memory);
            if is_shown {
                continue;
            }
            written += fabric.engine.stream_write(self.id, left)?;
            return if written < bytes.len() { Err(Error::Again) } else { Ok(()) };
        });
        if ended.is_err() {
            // An error says that the fabric cannot be used any more: peers only read, and what they have read goes nowhere.
            let mut guard = self.shared.enter()?;
            guard.engine.stream_hide(self.id);
            guard.engine.stream_abort(self.id)?;
        }
        ended
    }

    /// Says that no bytes follow: the peer reads the end of the stream behind the last one. Reading goes on.
    ///
    /// # Errors
    /// [`Error::Again`] before the peer has answered; why not, when it has gone or has refused.
    pub fn shut_down(&self) -> Result<(), Error> {
        self.shared.enter()?.engine.stream_shut_down(self.id)
    }

    /// Ends the stream at once, both ways, whoever uses it meanwhile: reading and writing say [`Error::Canceled`] from now on,
    /// also to those who wait. What was written before still goes out.
    ///
    /// # Errors
    /// As [`Shared::enter`].
    pub fn abort(&self) -> Result<(), Error> {
        self.shared.enter()?.engine.stream_abort(self.id)
    }

    /// Waits until one of what is `wanted` can be done; which.
    ///
    /// # Errors
    /// [`Error::Again`], [`Error::Timeout`]: none of it; [`Error::Invalid`] when nothing is wanted.
    pub fn wait(&self, wanted: Ready, timeout: Option<Duration>) -> Result<Ready, Error> {
        let bell = match (wanted.input, wanted.output) {
            (true, false) => self.input,
            (false, true) => self.output,
            (true, true) => self.shared.enter()?.engine.stream_bell(self.id)?,
            (false, false) => return Err(Error::Invalid),
        };
        self.shared.until(bell, timeout, |fabric| {
            let known = fabric.engine.known_stream_bell(self.id);
            fabric.end_arming(known);
            let ready = fabric.engine.stream_ready(self.id)?;
            let ready = Ready { input: ready.input && wanted.input, output: ready.output && wanted.output };
            if ready == Ready::default() {
                Err(Error::Again)
            } else {
                Ok(ready)
            }
        })
    }

    /// What can be done without waiting.
    ///
    /// # Errors
    /// As [`Shared::enter`].
    pub fn ready(&self) -> Result<Ready, Error> {
        self.shared.enter()?.engine.stream_ready(self.id)
    }

    /// A descriptor that is readable, after [`Self::arm`] said yes, once something has happened. It ends with the stream.
    ///
    /// # Errors
    /// [`Error::System`] without free descriptors.
    pub fn descriptor(&self) -> Result<RawFd, Refusal> {
        let mut guard = self.shared.enter().map_err(told)?;
        let bell = guard.engine.stream_bell(self.id).map_err(told)?;
        guard.cq_descriptor(bell)
    }

    /// Prepares the descriptor for sleep until one of what is `wanted` can be done: BUSY when it may be already.
    ///
    /// # Errors
    /// As [`Self::descriptor`].
    pub fn arm(&self, wanted: Ready) -> Result<Armed, Refusal> {
        let mut guard = self.shared.enter().map_err(told)?;
        let bell = guard.engine.stream_bell(self.id).map_err(told)?;
        guard.arm_bell(bell, |fabric| {
            let ready = fabric.engine.stream_ready(self.id)?;
            Ok(ready.input && wanted.input || ready.output && wanted.output)
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // As for a listener.
        if let Ok(mut guard) = self.shared.enter() {
            let bells = guard.engine.stream_close(self.id);
            guard.forget_bells(bells);
        }
    }
}

impl Fabric {
    /// Arms the descriptor of a bell, unless what it is rung for can be done already.
    fn arm_bell(
        &mut self,
        bell: CqId,
        is_ready: impl Fn(&Fabric) -> Result<bool, Error>,
    ) -> Result<Armed, Refusal> {
        // Entries are old news: what they told of is looked at now.
        self.engine.take_completions(bell, |_| true);
        if is_ready(self).map_err(told)? {
            return Ok(Armed::Busy);
        }
        self.arm_cq(bell)
    }

    /// Whoever armed the descriptor of a bell is awake: nobody has to ring for it.
    fn end_arming(&mut self, bell: Option<CqId>) {
        if self.descriptors.is_empty() {
            return;
        }
        if let Some(queue) = bell.and_then(|bell| self.engine.cq(bell)) {
            queue.armed = false;
        }
    }

    /// The descriptors of bells that are no more.
    fn forget_bells(&mut self, bells: Bells) {
        self.descriptors.retain(|descriptor| Some(descriptor.cq) != bells.any);
    }
}

fn told(error: Error) -> Refusal {
    Refusal::new(error, error.text())
}

fn no_bell() -> Refusal {
    Refusal::new(Error::Internal, "a stream without a queue")
}

fn not_listening(error: Error, service: &str) -> String {
    match error {
        Error::NameInUse => format!("this fabric has a listener for {service:?} already"),
        Error::Invalid => format!(
            "service {service:?} or its backlog; accepted: 1 to 128 bytes without control characters, 1 to 4096 streams"
        ),
        _ => error.text().to_owned(),
    }
}

fn no_stream(error: Error, service: &str) -> String {
    match error {
        Error::NotFound => format!("the peer has no listener for the service {service:?}"),
        Error::Limit => {
            format!("too many streams wait to be accepted by the peer's listener for {service:?}")
        }
        Error::Timeout => format!("the peer has not answered the call for the service {service:?} in time"),
        Error::Invalid => format!("service {service:?}; accepted: 1 to 128 bytes without control characters"),
        _ => error.text().to_owned(),
    }
}
