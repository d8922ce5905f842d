//! Memory of the program that a device reaches: that of messages which the peer fetches, and that into which this side fetches.
//!
//! A message that the peer may fetch is registered for reading, for as long as it is exposed. A receive that fetches is registered
//! while its RDMA READ is under way. Both end with the connection.
//!
//! Reads have a queue pair of their own, so that nothing else waits behind them, and one that fails, as its memory is not there any
//! more, ends nothing but reads: over this connection messages are asked for in pieces from then on. One that nobody answers ends the
//! connection, as a message does.

use std::collections::HashMap;

use gridnet_core::error::Error;
use gridnet_core::mem::Gather;
use gridnet_core::rail::RemoteSource;

use crate::conn::Ended;
use crate::device::{Depth, Device, Failure, QpNum, ReadWr, Registration, Route, Sge, Status, Wc, READS};

/// A fetch that has ended, by its token, and how.
pub(crate) type Fetched = (u64, Result<(), Error>);

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Reach {
    /// The queue pair for reads, as long as it works.
    qp: Option<QpNum>,
    /// What the peer may read, by key.
    exposed: HashMap<u64, Registration>,
    /// Where reads are under way to, by token.
    fetching: HashMap<u64, Registration>,
}

impl Reach {
    /// With a queue pair for reads, where the device can.
    pub(crate) fn open(device: &mut dyn Device) -> Result<Reach, Failure> {
        let depth = Depth { send: READS.into(), receive: 1, reads: READS };
        let qp = if device.can_read() { Some(device.create_qp(depth)?) } else { None };
        Ok(Reach { qp, exposed: HashMap::new(), fetching: HashMap::new() })
    }

    /// The queue pair for reads, as long as there is one.
    pub(crate) fn reader(&self) -> Option<QpNum> {
        self.qp
    }

    /// Leads the queue pair to that of the peer; reads are over where it has none.
    pub(crate) fn connect(&mut self, device: &mut dyn Device, route: Option<&Route>) -> Result<(), Failure> {
        match (self.qp, route) {
            (Some(qp), Some(route)) => device.connect_qp(qp, route),
            _ => {
                self.close(device);
                Ok(())
            }
        }
    }

    /// Begins to fetch, under this token.
    ///
    /// # Errors
    /// [`Failure::Full`] when too many are under way, others when it will not do.
    pub(crate) fn get(
        &mut self,
        device: &mut dyn Device,
        from: RemoteSource,
        to: &Gather<'_>,
        token: u64,
    ) -> Result<(), Failure> {
        let qp = self.qp.ok_or(Failure::Invalid)?;
        let rkey = u32::try_from(from.rkey).map_err(|_| Failure::Invalid)?;
        let sge = self.begin(device, to, token)?;
        let posted = device.post_read(qp, &ReadWr { wr_id: token, sge, remote: from.address, rkey });
        if posted.is_err() {
            self.end(token);
        }
        posted
    }

    /// Takes a completion of the queue pair for reads: how each of some fetches has ended.
    ///
    /// # Errors
    /// The peer's device does not answer, as when its process does not call: only a new connection has queue pairs that work again.
    pub(crate) fn take(&mut self, device: &mut dyn Device, wc: &Wc) -> Result<Vec<Fetched>, Ended> {
        match wc.status {
            Status::Success if self.end(wc.wr_id) => return Ok(vec![(wc.wr_id, Ok(()))]),
            Status::Success => return Ok(Vec::new()),
            Status::NoAnswer => return Err(Ended::no_answer()),
            Status::Flushed | Status::Failed(_) => {}
        }
        let failed = self.fetching.keys().map(|token| (*token, Err(Error::Access))).collect();
        self.close(device);
        self.fetching.clear();
        Ok(failed)
    }

    /// No reads any more, in either direction.
    pub(crate) fn close(&mut self, device: &mut dyn Device) {
        if let Some(qp) = self.qp.take() {
            device.destroy_qp(qp);
        }
    }

    /// Lets the peer read memory, if it is one piece that the device takes.
    pub(crate) fn expose(&mut self, device: &mut dyn Device, memory: &Gather<'_>) -> Option<RemoteSource> {
        let (base, len) = single(memory)?;
        // SAFETY: the send that exposes it keeps its memory readable until it is concealed, or the connection over: both drop the
        // registration. Nobody writes it meanwhile, and the device does not, as this is for peers to read.
        let registration = unsafe { device.register_memory(base, len, false) }.ok()?;
        let source = RemoteSource { rkey: registration.rkey.into(), address: base as u64 };
        self.exposed.insert(source.rkey, registration);
        Some(source)
    }

    /// Ends that.
    pub(crate) fn conceal(&mut self, source: RemoteSource) {
        self.exposed.remove(&source.rkey);
    }

    /// Lets the device write memory for the read of this token.
    fn begin(&mut self, device: &mut dyn Device, to: &Gather<'_>, token: u64) -> Result<Sge, Failure> {
        if self.fetching.len() >= usize::from(READS) {
            return Err(Failure::Full);
        }
        let (base, len) = single(to).ok_or(Failure::Invalid)?;
        let length = u32::try_from(len).map_err(|_| Failure::Invalid)?;
        // SAFETY: the receive that fetches keeps its memory, and leaves it alone, until it hears of the end of this fetch, or ends
        // it, or the connection is over: all drop the registration.
        let registration = unsafe { device.register_memory(base, len, true) }?;
        let sge = Sge { address: base as u64, length, lkey: registration.lkey };
        self.fetching.insert(token, registration);
        Ok(sge)
    }

    /// The read of this token is over, or its memory is not to be written any more; whether it was under way.
    pub(crate) fn end(&mut self, token: u64) -> bool {
        self.fetching.remove(&token).is_some()
    }

    /// From now on nobody reaches any of it.
    pub(crate) fn clear(&mut self) {
        self.exposed.clear();
        self.fetching.clear();
    }
}

/// The only piece of some memory.
fn single(memory: &Gather<'_>) -> Option<(*mut u8, usize)> {
    let mut pieces = memory.pieces();
    let first = pieces.next()?;
    pieces.next().is_none().then_some(first)
}
