//! An endpoint: a fabric of gridnet, and the operations that a program has started on it.

use std::collections::HashMap;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gridnet::config::Config;
use gridnet::core::completion::Completion;
use gridnet::core::endpoint::CqId;
use gridnet::core::error::Error;
use gridnet::core::matching::{Key, Slab};
use gridnet::core::rail::{Armed, PeerId, Refusal};
use gridnet::core::stats::PeerCounters;
use gridnet::core::wire::{Address, ADDRESS_BYTES};
use gridnet::{Shared, ThreadLevel};

use crate::abi::errno;
use crate::abi::flag::{RECV, SEND};
use crate::helper::Helper;
use crate::host;
use crate::info::INJECT_SIZE;
use crate::op::{Kind, Op};
use crate::peers::Peers;
use crate::queue::Failure;
use crate::quick::Transfer;
use crate::rank;
use crate::remote::Remote;
use crate::state::{Reports, Side};

/// Completions taken in one go.
pub(super) const BATCH: usize = 64;
/// Copies of small messages that are kept for the next ones.
const MOST_SPARE: usize = 64;
/// How long an endpoint that is closed goes on with sends that nobody waits for.
const LINGER: Duration = Duration::from_secs(5);

/// A copy of a small message.
pub(crate) type Copied = Box<[u8; INJECT_SIZE]>;

/// See the [module](self).
pub(crate) struct Endpoint {
    pub(super) shared: Arc<Shared>,
    pub(super) cq: CqId,
    name: Address,
    /// Which rank this process is.
    rank: Option<u32>,
    pub(crate) vector: Option<Key>,
    pub(crate) tx: Side,
    pub(crate) rx: Side,
    enabled: bool,
    pub(super) peers: Peers,
    pub(super) ops: Slab<Op>,
    /// Sends among them.
    pub(super) sends: usize,
    /// Messages that were claimed, by the contexts of the claims.
    pub(super) claimed: HashMap<usize, Key>,
    /// A buffer for several messages is given back when it has less room than this.
    pub(crate) min_multi_recv: usize,
    /// Memory of peers,
    pub(super) remote: Remote,
    /// and what of our own is shown to them, by the program's keys.
    pub(super) regions: HashMap<u64, Key>,
    /// What counts reads of peers' memory, and writes to it.
    pub(crate) reads: Option<Key>,
    pub(crate) writes: Option<Key>,
    /// Nothing waits for notices of peers.
    pub(super) is_deaf: bool,
    spare: Vec<Copied>,
    pub(super) taken: Vec<Completion>,
    /// Takes in a row that looked at a ring alone.
    pub(super) lean_takes: u32,
    pub(super) transfer: Transfer,
    /// Goes on without calls, where the program counts on that.
    pub(crate) helper: Option<Helper>,
    /// The last operation that failed for its peer's sake said so in the log.
    pub(super) complaints: u32,
}

/// Opens the fabric of an endpoint.
fn open_fabric(automatic: bool) -> Result<Arc<Shared>, Refusal> {
    let progress = ("GRIDNET_PROGRESS".to_owned(), "thread".to_owned());
    let overrides = if automatic { vec![progress] } else { Vec::new() };
    let config = Config::from_process(&overrides).map_err(|e| Refusal::new(Error::Config, e.to_string()))?;
    Shared::open(config, None, ThreadLevel::Serialized)
}

impl Endpoint {
    /// Opens an endpoint for a program that asked for this API, whose operations have these flags unless they are given others.
    pub(crate) fn open(api: u32, automatic: bool, tx_flags: u64, rx_flags: u64) -> Result<Endpoint, i32> {
        let shared = open_fabric(automatic).map_err(|refusal| {
            // The log is open only if the fabric is.
            eprintln!("gridnet: no endpoint: {}", refusal.reason);
            errno::of(refusal.error)
        })?;
        tracing::info!(
            libfabric = host::libfabric(),
            api = format!("{}.{}", api >> 16, api & 0xffff),
            "endpoint open"
        );
        let (cq, name) = {
            let mut guard = shared.enter().map_err(errno::of)?;
            // A program may post as many receives as it likes before the first of them ends.
            let capacity = guard.config().max_ops;
            (guard.engine.create_cq(capacity), *guard.address())
        };
        Ok(Endpoint {
            shared,
            cq,
            name,
            rank: rank::own(),
            vector: None,
            tx: Side { op_flags: tx_flags, ..Side::default() },
            rx: Side { op_flags: rx_flags, ..Side::default() },
            enabled: false,
            peers: Peers::default(),
            ops: Slab::default(),
            sends: 0,
            claimed: HashMap::new(),
            min_multi_recv: 64,
            remote: Remote::default(),
            regions: HashMap::new(),
            reads: None,
            writes: None,
            is_deaf: false,
            spare: Vec::new(),
            taken: Vec::with_capacity(BATCH),
            lean_takes: 0,
            transfer: Transfer::default(),
            helper: None,
            complaints: 0,
        })
    }

    /// The address of the endpoint.
    pub(crate) fn name(&self) -> &Address {
        &self.name
    }

    /// The same as bytes, with the rank of this process.
    pub(crate) fn name_bytes(&self) -> [u8; ADDRESS_BYTES] {
        let mut bytes = self.name.to_bytes();
        rank::write(&mut bytes, self.rank);
        bytes
    }

    /// The sides that flags name: that which sends, that which receives.
    pub(crate) fn sides(&mut self, flags: u64) -> Vec<&mut Side> {
        let both = [(SEND, &mut self.tx), (RECV, &mut self.rx)];
        both.into_iter().filter(|(bit, _)| flags & bit != 0).map(|(_, side)| side).collect()
    }

    /// From now on operations may start.
    ///
    /// # Errors
    /// What is not bound yet.
    pub(crate) fn enable(&mut self) -> Result<(), i32> {
        self.vector.ok_or(errno::ENOAV)?;
        if self.tx.queue.or(self.tx.counter).is_none() || self.rx.queue.or(self.rx.counter).is_none() {
            return Err(errno::ENOCQ);
        }
        if !self.enabled {
            self.await_notice().map_err(errno::of)?;
        }
        self.enabled = true;
        Ok(())
    }

    #[inline(always)]
    pub(super) fn check_enabled(&self) -> Result<(), i32> {
        if self.enabled {
            Ok(())
        } else {
            Err(errno::EOPBADSTATE)
        }
    }

    /// Room for a copy of a small message.
    pub(super) fn take_spare(&mut self) -> Copied {
        self.spare.pop().unwrap_or_else(|| Box::new([0; INJECT_SIZE]))
    }

    pub(super) fn give_spare(&mut self, copy: Option<Copied>) {
        if let Some(copy) = copy.filter(|_| self.spare.len() < MOST_SPARE) {
            self.spare.push(copy);
        }
    }

    /// Takes what has come in to `self.taken`, which is empty.
    pub(super) fn take(&mut self) -> Result<(), i32> {
        if self.take_quickly()? {
            return Ok(());
        }
        let mut guard = self.shared.enter().map_err(errno::of)?;
        let taken = &mut self.taken;
        guard.take(self.cq, |completion| {
            taken.push(completion);
            taken.len() < BATCH
        });
        Ok(())
    }

    /// The descriptor that tells, once [`Self::arm`] has said true, when there is something to take.
    ///
    /// # Errors
    /// The system's, when there are none left.
    pub(crate) fn descriptor(&self) -> Result<RawFd, i32> {
        let mut guard = self.shared.enter().map_err(errno::of)?;
        guard.cq_descriptor(self.cq).map_err(|refusal| errno::of(refusal.error))
    }

    /// Prepares the descriptor; false when there is something to take already.
    ///
    /// # Errors
    /// What the fabric says that cannot be used any more.
    pub(crate) fn arm(&self) -> Result<bool, i32> {
        let mut guard = self.shared.enter().map_err(errno::of)?;
        guard.arm_cq(self.cq).map(|armed| armed == Armed::Yes).map_err(|refusal| errno::of(refusal.error))
    }

    /// Whether the other side of what is waited for may need this core.
    pub(crate) fn shares_core(&self) -> bool {
        self.shared.enter().is_ok_and(|guard| guard.engine.is_peer_on_this_core())
    }

    /// No operation on memory of peers is under way.
    pub(crate) fn is_idle(&self) -> bool {
        !self.remote.is_busy()
    }

    /// Steps wait for room.
    pub(crate) fn has_stalled(&self) -> bool {
        self.remote.has_stalled()
    }

    /// The end: sends and writes that were copied, and that nobody waits for, go out first.
    pub(crate) fn close(mut self) {
        let end = Instant::now() + LINGER;
        // What is reported from now on nobody reads.
        let mut nowhere = Reports::default();
        while (self.sends > 0 || self.remote.is_busy()) && Instant::now() < end {
            if self.take().is_err() {
                break;
            }
            self.resume_stalled(&mut nowhere);
            if self.taken.is_empty() {
                // Whoever is to take them may need this core.
                std::thread::yield_now();
            }
            let mut taken = std::mem::take(&mut self.taken);
            // In their order: peers are told in that of the writes.
            for completion in taken.drain(..) {
                let key = Key::from_bits(completion.context);
                let step = self.ops.get(key).and_then(|op| match op.kind {
                    Kind::Step(errand) => Some(errand),
                    _ => None,
                });
                self.drop_op(key);
                if let Some(errand) = step {
                    // Nobody is told of a write that was refused.
                    if let Some(error) = Error::from_code(completion.status) {
                        self.fail_errand(errand, Failure::of(error));
                    }
                    self.step_ended(&mut nowhere, errand);
                }
            }
            self.taken = taken;
        }
        self.report();
        self.shared.stop_progress();
    }

    /// Says what has gone through the endpoint.
    fn report(&self) {
        let Ok(guard) = self.shared.enter() else { return };
        let all = guard.engine.counters().peers;
        // A peer that was tried in vain by one rail may be another one by the next.
        let is_used =
            |peer| guard.engine.peer_counters(peer).is_some_and(|counts| counts != PeerCounters::default());
        let peers = (0..).map(PeerId::new).take_while(|peer| guard.engine.peer(*peer).is_ok());
        let rails: Vec<&str> = peers
            .filter(|peer| is_used(*peer))
            .map(|peer| guard.engine.rail_name(peer).unwrap_or("none"))
            .collect();
        tracing::info!(
            node = %self.name.node,
            messages_sent = all.messages_sent,
            bytes_sent = all.bytes_sent,
            messages_received = all.messages_received,
            bytes_received = all.bytes_received,
            puts = all.puts,
            bytes_put = all.bytes_put,
            gets = all.gets,
            bytes_got = all.bytes_got,
            atomics = all.atomics,
            by_message = all.by_message,
            rails = rails.join(","),
            "endpoint closed"
        );
    }
}
