//! What a test of verbs needs: two ends that are connected. Each wire of the software device has such a bed (`bed.rs`), and so have
//! the devices of libibverbs (`verbs/tests/adapter`).

use gridnet_rdma_sim::attr::{Access, State};
use gridnet_rdma_sim::wr::{RecvWr, Remote, SendWr, Sge, Wc};
use gridnet_rdma_sim::Error;

/// Number of a region of an end.
pub type Region = usize;

/// One end of a connection: a queue pair in RTS, with queues and regions.
pub trait End {
    fn allocate(&mut self, len: usize, access: Access) -> Region;
    fn fill(&mut self, region: Region, offset: usize, bytes: &[u8]);
    fn bytes(&self, region: Region, offset: usize, len: usize) -> Vec<u8>;
    fn sge(&self, region: Region, offset: u64, len: u32) -> Sge;
    fn remote(&self, region: Region, offset: u64) -> Remote;
    fn deregister(&mut self, region: Region);
    fn post_send(&mut self, wr: SendWr) -> Result<(), Error>;
    fn post_recv(&mut self, wr: RecvWr) -> Result<(), Error>;
    fn poll_send(&mut self) -> Option<Wc>;
    fn poll_recv(&mut self) -> Option<Wc>;
    fn state(&self) -> State;
    fn fail(&mut self);
}

/// Two ends.
pub trait Bed {
    fn ends(&mut self) -> (&mut dyn End, &mut dyn End);
    /// Lets something happen; false when there was time enough for everything.
    fn turn(&mut self) -> bool;
}
