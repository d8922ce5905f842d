//! One end of the path that is measured: a queue, an endpoint, and a buffer for each direction.

use crate::cabi::region::{Region, Remote, KEY};
use crate::cabi::{Buffer, CallError, Cq, Endpoint, Entry, Kind, Loans, Sent};
use crate::failure::Failure;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Which of the two ends this is; each sends a pattern of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The process that measures.
    Parent,
    /// The process that it started.
    Peer,
}

impl Side {
    fn seed(self) -> u8 {
        match self {
            Side::Parent => 0x11,
            Side::Peer => 0x66,
        }
    }

    fn other(self) -> Side {
        match self {
            Side::Parent => Side::Peer,
            Side::Peer => Side::Parent,
        }
    }
}

/// One end of a conversation.
pub(crate) struct Link {
    side: Side,
    cq: Cq,
    endpoint: Endpoint,
    outgoing: Buffer,
    incoming: Buffer,
    key_out: Buffer,
    key_in: Buffer,
    scratch: Buffer,
    patience: Duration,
}

impl Link {
    /// An end that sends through `endpoint` and finds its completions on `cq`, for messages of up to `largest` bytes.
    pub(crate) fn new(side: Side, cq: Cq, endpoint: Endpoint, largest: usize) -> Link {
        Link {
            side,
            cq,
            endpoint,
            outgoing: Buffer::new(largest, side.seed()),
            incoming: Buffer::new(largest, side.other().seed()),
            key_out: Buffer::new(KEY, 0),
            key_in: Buffer::new(KEY, 0),
            scratch: Buffer::new(largest, side.seed()),
            patience: patience(),
        }
    }

    /// Which rails lead to the other side, and why.
    pub(crate) fn explain(&self) -> Result<String, CallError> {
        self.endpoint.explain()
    }

    /// The calls on loans.
    pub(crate) fn loans(&self) -> Loans<'_> {
        Loans::new(&self.cq, &self.endpoint)
    }

    /// Posts a receive.
    #[inline]
    pub(crate) fn post(&self, size: usize, tag: u64) -> Result<(), CallError> {
        self.cq.recv(self.incoming, size, tag)
    }

    /// Sends, and counts in `in_flight` if an entry will follow. Where there is no room now, entries of earlier
    /// sends are taken off the queue first; no posted receive may complete meanwhile.
    #[inline]
    pub(crate) fn send(&self, size: usize, tag: u64, in_flight: &mut u64) -> Result<(), Failure> {
        match self.endpoint.send(self.outgoing, size, tag)? {
            Sent::Done => Ok(()),
            Sent::InFlight => {
                *in_flight += 1;
                Ok(())
            }
            Sent::Again => self.send_again(size, tag, in_flight),
        }
    }

    /// The next entry, asleep if need be: what `gridnet_cq_wait` does is part of what is measured.
    #[inline]
    pub(crate) fn wait(&self) -> Result<Entry, CallError> {
        self.cq.wait(self.patience)
    }

    /// Waits for as long as nothing comes; whether that was all of `timeout`.
    pub(crate) fn wait_in_vain(&self, timeout: Duration) -> Result<bool, CallError> {
        self.cq.wait_in_vain(timeout)
    }

    /// The next entry, by a poll where one is there.
    #[inline]
    pub(crate) fn next(&self) -> Result<Entry, CallError> {
        match self.cq.poll()? {
            Some(entry) => Ok(entry),
            None => self.wait(),
        }
    }

    /// Takes the entries of the sends that are still to end.
    #[inline]
    pub(crate) fn take_sent(&self, in_flight: u64) -> Result<(), CallError> {
        (0..in_flight).try_for_each(|_| self.next().map(drop))
    }

    /// Allocates a region.
    pub(crate) fn allocate(&self, len: usize) -> Result<Region, CallError> {
        self.cq.allocate(len)
    }

    /// Imports a key of the other side.
    pub(crate) fn import(&self, key: [u8; KEY]) -> Result<Remote<'_>, CallError> {
        self.endpoint.import(key)
    }

    /// Looks after messages while no entry is waited for.
    pub(crate) fn progress(&self) -> Result<(), CallError> {
        self.cq.progress()
    }

    /// Posts the receive of the other side's key.
    pub(crate) fn post_key(&self, tag: u64) -> Result<(), CallError> {
        self.cq.recv(self.key_in, KEY, tag)
    }

    /// Sends a key, and counts in `in_flight` if an entry will follow.
    pub(crate) fn send_key(&self, key: [u8; KEY], tag: u64, in_flight: &mut u64) -> Result<(), Failure> {
        self.key_out.write(&key);
        match self.endpoint.send(self.key_out, KEY, tag)? {
            Sent::Done => Ok(()),
            Sent::InFlight => {
                *in_flight += 1;
                Ok(())
            }
            Sent::Again => Err(Failure::Run("no room for a key".into())),
        }
    }

    /// Memory for operations on regions.
    pub(crate) fn scratch(&self) -> Buffer {
        self.scratch
    }

    /// The key that came.
    pub(crate) fn received_key(&self) -> [u8; KEY] {
        self.key_in.read()
    }

    /// Prepares the incoming buffer for [`Link::verify`].
    pub(crate) fn wipe(&self, size: usize) {
        self.incoming.wipe(size);
    }

    /// Whether the last message arrived as the other side sent it.
    pub(crate) fn verify(&self, size: usize) -> Result<(), Failure> {
        match self.incoming.holds(size, self.side.other().seed()) {
            true => Ok(()),
            false => Err(Failure::Run(format!("a message of {size} bytes did not arrive as it was sent"))),
        }
    }

    #[cold]
    fn send_again(&self, size: usize, tag: u64, in_flight: &mut u64) -> Result<(), Failure> {
        let deadline = Instant::now() + self.patience;
        while Instant::now() < deadline {
            match self.cq.poll()?.map(|entry| entry.kind) {
                Some(Kind::Send) => *in_flight -= 1,
                Some(Kind::Recv) => return Err(Failure::Run("a message arrived before its turn".into())),
                None => {}
            }
            match self.endpoint.send(self.outgoing, size, tag)? {
                Sent::Done => return Ok(()),
                Sent::InFlight => {
                    *in_flight += 1;
                    return Ok(());
                }
                Sent::Again => {}
            }
        }
        Err(Failure::Run(format!("no room for a message of {size} bytes in {:?}", self.patience)))
    }
}

/// A silence as long as this is an error: nothing that is measured takes so long.
pub(crate) fn patience() -> Duration {
    *PATIENCE.get_or_init(|| USUAL_PATIENCE)
}

/// Sets [`patience`], before anybody has asked for it.
pub(crate) fn be_patient_for(time: Duration) {
    // Once in the life of a process: nobody was there before.
    let _ = PATIENCE.set(time);
}

static PATIENCE: OnceLock<Duration> = OnceLock::new();

const USUAL_PATIENCE: Duration = Duration::from_secs(20);
