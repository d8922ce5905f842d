//! Put, get and atomic operations on regions of both kinds, as the dialogue has them.

use gridnet::core::completion::Completion;
use gridnet::core::endpoint::{RemoteArgs, Sent};
use gridnet::core::error::Error;
use gridnet::core::matching::Key;
use gridnet::core::mem::{MEMORY_HOST, NUMA_UNKNOWN};
use gridnet::core::rail::PeerId;
use gridnet::core::region::{Access, Atomic, AtomicOp, Width, KEY_BYTES};

use super::{Buffer, Party};

/// Length of a message with the keys of both regions.
pub const KEYS: usize = 2 * KEY_BYTES;
/// Context of what the initiator starts here.
pub const REMOTE: u64 = 4;

const LEN: usize = 4096;
/// Where bytes are put, besides the word at 0 that is counted up.
const AT: u64 = 64;

/// A region of each kind.
#[derive(Debug)]
pub struct Regions {
    keys: [Key; 2],
}

impl Regions {
    pub fn open(party: &Party) -> Regions {
        let mut guard = party.enter();
        let memory = Buffer::new(LEN).iov();
        let allocated = guard.engine.allocate(LEN, Access::ALL, MEMORY_HOST, NUMA_UNKNOWN);
        let registered = guard.engine.register(memory.base(), LEN, Access::ALL, MEMORY_HOST);
        Regions { keys: [allocated.expect("there is room").0, registered.expect("it is mapped")] }
    }

    /// The keys of both, to be sent.
    pub fn keys(&self, party: &Party) -> Vec<u8> {
        let guard = party.enter();
        self.keys.iter().flat_map(|key| guard.engine.region_key(*key).expect("it is open")).collect()
    }

    pub fn close(self, party: &Party) {
        for key in self.keys {
            party.enter().engine.close_region(key).expect("nobody is inside");
        }
    }
}

/// Operations of one side on the regions of the other.
pub struct Initiator<'a> {
    party: &'a Party,
    peer: PeerId,
    rkeys: Vec<Key>,
    buffer: Buffer,
}

impl<'a> Initiator<'a> {
    /// Imports what [`Regions::keys`] has made.
    ///
    /// # Errors
    /// When the peer has gone.
    pub fn import(party: &'a Party, peer: PeerId, keys: &[u8]) -> Result<Initiator<'a>, Error> {
        let mut initiator = Initiator { party, peer, rkeys: Vec::new(), buffer: Buffer::new(LEN) };
        for key in keys.chunks(KEY_BYTES) {
            let rkey = party.enter().engine.import_key(peer, key).map_err(|refusal| refusal.error)?;
            initiator.rkeys.push(rkey);
        }
        Ok(initiator)
    }

    /// Starts some of everything; how many completions follow.
    ///
    /// # Errors
    /// When the peer has gone; then so many follow all the same.
    pub fn start(&self) -> (usize, Result<(), Error>) {
        let mut follow = 0;
        let result = self.rkeys.iter().try_for_each(|rkey| self.start_on(*rkey, &mut follow));
        (follow, result)
    }

    fn start_on(&self, rkey: Key, follow: &mut usize) -> Result<(), Error> {
        let args = RemoteArgs { cq: self.party.cq, owner: 0, context: REMOTE };
        let add = Atomic { op: AtomicOp::Add, width: Width::Eight, operand: 1, compare: 0 };
        let mut guard = self.party.enter();
        let engine = &mut guard.engine;
        for len in [8, 2000] {
            let piece = self.buffer.first(len).iov();
            for sent in [
                engine.put(self.peer, rkey, AT, piece, &args)?,
                engine.get(self.peer, rkey, AT, piece, &args)?,
            ] {
                *follow += usize::from(matches!(sent, Sent::InProgress(_)));
            }
        }
        let sent = engine.atomic(self.peer, rkey, 0, &add, None, &args)?;
        *follow += usize::from(matches!(sent, Sent::InProgress(_)));
        // What comes after a message goes by message, too.
        let sent = engine.put(self.peer, rkey, AT, self.buffer.first(100).iov(), &args)?;
        *follow += usize::from(matches!(sent, Sent::InProgress(_)));
        Ok(())
    }

    /// Puts bytes, waits, and gets them back.
    pub fn check(&self) {
        self.buffer.fill(7);
        let (mut follow, result) = self.start();
        result.expect("the owner lives");
        while follow > 0 {
            let Completion { status, context, .. } =
                self.party.wait(super::PATIENCE).expect("the owner answers");
            assert_eq!((status, context), (0, REMOTE));
            follow -= 1;
        }
        assert!(
            self.buffer.first(2000).to_vec().iter().all(|byte| *byte == 7),
            "what was put does not come back"
        );
    }

    pub fn end(self) {
        self.rkeys.iter().for_each(|rkey| self.party.enter().engine.close_key(*rkey));
    }
}
