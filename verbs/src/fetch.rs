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

    /// Fetches that have begun and not ended.
    #[cfg(feature = "testing")]
    pub(crate) fn under_way(&self) -> usize {
        self.fetching.len()
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

#[cfg(test)]
mod tests {
    use gridnet_core::mem::Iov;
    use gridnet_rdma_sim::testing::{Faults, Net};

    use super::*;
    use crate::soft::SoftDevice;

    const LEN: usize = 100;

    /// Two devices on one network, with a connection for reads from the first to the second.
    struct Two {
        net: Net,
        devices: [SoftDevice; 2],
        reaches: [Reach; 2],
    }

    impl Two {
        fn new() -> Two {
            let net = Net::new(7, Faults::NONE);
            let open = |port| SoftDevice::over(net.port(([127, 0, 0, 1], port).into()), "net").unwrap();
            let mut devices = [open(1), open(2)];
            let mut reaches = devices.each_mut().map(|device| Reach::open(device).unwrap());
            let pairs = reaches.each_ref().map(|reach| reach.reader().unwrap());
            let gids = devices.each_ref().map(|device| device.gid());
            for (side, (device, reach)) in devices.iter_mut().zip(&mut reaches).enumerate() {
                let (remote, dest_qp) = (gids[1 - side], pairs[1 - side]);
                let route = Route { remote, dest_qp, mtu: 1024, rq_psn: 0, sq_psn: 0 };
                reach.connect(device, Some(&route)).unwrap();
            }
            Two { net, devices, reaches }
        }

        /// Fetches with the first side; how that ends.
        fn fetch(&mut self, source: RemoteSource, to: &mut [u8; LEN]) -> Vec<Fetched> {
            // SAFETY: the array outlives the fetch, whose end is waited for, and is not looked at before.
            let iov = unsafe { Iov::new(to.as_mut_ptr(), LEN) };
            let [here, there] = &mut self.devices;
            self.reaches[0].get(here, source, &Gather::one(&iov), 1).unwrap();
            let mut done = Vec::with_capacity(1);
            for micros in 0_u64.. {
                assert!(micros < 10_000_000, "it does not end");
                self.net.set_now(std::time::Duration::from_micros(micros));
                there.progress();
                here.progress_and_poll(&mut done).unwrap();
                if !done.is_empty() {
                    break;
                }
            }
            self.reaches[0].take(here, &done[0]).unwrap()
        }

        fn expose(&mut self, from: &mut [u8; LEN]) -> RemoteSource {
            // SAFETY: the array outlives this, and is not written.
            let iov = unsafe { Iov::new(from.as_mut_ptr(), LEN) };
            self.reaches[1].expose(&mut self.devices[1], &Gather::one(&iov)).unwrap()
        }
    }

    /// What comes of a fetch when the source is changed like this, and whether anything came.
    fn fetch_from(change: impl Fn(&mut Reach, RemoteSource) -> RemoteSource) -> (Vec<Fetched>, bool, bool) {
        let (mut two, mut from, mut to) = (Two::new(), [7; LEN], [0; LEN]);
        let source = two.expose(&mut from);
        let source = change(&mut two.reaches[1], source);
        let ended = two.fetch(source, &mut to);
        let still_reads = two.reaches[0].reader().is_some();
        drop(two);
        (ended, to == from, still_reads)
    }

    #[test]
    fn only_the_key_that_was_given_opens_the_memory() {
        assert_eq!(fetch_from(|_, source| source), (vec![(1, Ok(()))], true, true));
        let refused = (vec![(1, Err(Error::Access))], false, false);
        let other_key =
            |_: &mut Reach, source: RemoteSource| RemoteSource { rkey: source.rkey ^ 1, ..source };
        assert_eq!(fetch_from(other_key), refused);
        let behind_its_end =
            |_: &mut Reach, source: RemoteSource| RemoteSource { address: source.address + 1, ..source };
        assert_eq!(fetch_from(behind_its_end), refused);
        let concealed = |reach: &mut Reach, source: RemoteSource| {
            reach.conceal(source);
            source
        };
        assert_eq!(fetch_from(concealed), refused);
    }

    #[test]
    fn keys_of_more_than_32_bits_are_no_keys() {
        let (mut two, mut from, mut to) = (Two::new(), [7; LEN], [0; LEN]);
        let source = two.expose(&mut from);
        // SAFETY: nothing is fetched.
        let iov = unsafe { Iov::new(to.as_mut_ptr(), LEN) };
        let wide = RemoteSource { rkey: source.rkey | 1 << 32, ..source };
        let refused = two.reaches[0].get(&mut two.devices[0], wide, &Gather::one(&iov), 1);
        assert_eq!(refused, Err(Failure::Invalid));
    }
}
