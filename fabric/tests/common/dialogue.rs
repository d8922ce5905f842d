//! All protocols once, between a survivor that answers and a peer that may die at any step.

use std::path::Path;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use gridnet::core::completion::Completion;
use gridnet::core::endpoint::{SendArgs, Sent};
use gridnet::core::error::Error;
use gridnet::core::loan::{Lent, LentSlot, LOAN_UNIT};
use gridnet::core::matching::Pattern;
use gridnet::core::rail::PeerId;
use gridnet::core::testing::loans::read;
use gridnet::core::wire::{Address, ADDRESS_BYTES};
use gridnet::ThreadLevel;
use gridnet_shm::testing::Usage;

use super::onesided::{Initiator, Regions, KEYS, REMOTE};
use super::{exactly, from_any, Buffer, Party, PATIENCE, SEND};

/// Tags of what the peer sends; the answers to them have [`ANSWER`] added.
const HELLO: u64 = 1;
const SMALL: u64 = 2;
const STAGED: u64 = 3;
const LARGE: u64 = 4;
/// With the address of the peer's second fabric, which the survivor is to call.
const CALL: u64 = 5;
const LOAN: u64 = 6;
/// With the keys of two regions; the answer has those of the survivor.
const REGIONS: u64 = 7;
const ANSWER: u64 = 100;
/// Nobody sends this: a receive of it ends with its peer.
const NEVER: u64 = 999;
/// Context of receives of loans.
const LENT: u64 = 3;

const SMALL_LEN: usize = 8;
const STAGED_LEN: usize = 1_000;
/// Long enough for the single copy and for several segments.
const LARGE_LEN: usize = 400_000;
const LOAN_LEN: usize = 20_000;
/// More than are ever lent at once.
const MOST_LOANS: usize = 6;
/// Long messages each way: both ways through the rail are tried.
const LARGE_ROUNDS: usize = 6;
/// A step of serving.
const SLICE: Duration = Duration::from_millis(20);

/// Who answers, and outlives its peers.
#[derive(Debug)]
pub struct Survivor {
    party: Party,
    buffers: [(u64, Buffer); 6],
    place: NonNull<Lent>,
    /// Operations that end with the peer at the latest.
    open: usize,
    /// Operations that have ended.
    served: u64,
    answers: Answers,
    /// Keys of its own regions, which stay.
    keys: &'static [u8],
}

/// What is sent in answer: memory that nobody writes.
#[derive(Debug, Clone, Copy)]
struct Answers {
    small: &'static [u8],
    staged: &'static [u8],
    large: &'static [u8],
}

impl Answers {
    fn new() -> Answers {
        let bytes = |len, byte| -> &'static [u8] { Box::leak(vec![byte; len].into_boxed_slice()) };
        Answers { small: bytes(SMALL_LEN, 2), staged: bytes(STAGED_LEN, 3), large: bytes(LARGE_LEN, 4) }
    }

    fn to(&self, tag: u64) -> &'static [u8] {
        match tag {
            SMALL | HELLO | CALL => self.small,
            STAGED => self.staged,
            _ => self.large,
        }
    }
}

impl Survivor {
    pub fn open(dir: &Path) -> Survivor {
        // It sleeps whenever it waits, so that the peer comes by the step that wakes.
        let options = [("GRIDNET_WAIT_MODE", "block")];
        let party = Party::open(dir, Some("survivor"), ThreadLevel::Single, &options);
        let lengths = [
            (HELLO, 8),
            (SMALL, 8),
            (STAGED, STAGED_LEN),
            (LARGE, LARGE_LEN),
            (CALL, ADDRESS_BYTES),
            (REGIONS, KEYS),
        ];
        let buffers = lengths.map(|(tag, len)| (tag, Buffer::new(len)));
        let place = NonNull::from(Box::leak(Box::new(Lent::NONE)));
        let keys = Box::leak(Regions::open(&party).keys(&party).into_boxed_slice());
        let survivor = Survivor { party, keys, buffers, place, open: 0, served: 0, answers: Answers::new() };
        buffers.iter().for_each(|(tag, _)| survivor.listen(*tag));
        survivor.listen_for_loans();
        survivor
    }

    pub fn address(&self) -> Address {
        self.party.address()
    }

    /// Waits for one completion, for a moment, and does what follows from it.
    pub fn serve(&mut self) {
        let ended = self.party.wait(SLICE);
        self.served += u64::from(ended.is_ok());
        match ended {
            Ok(completion) if completion.context == LENT => self.take_loan(&completion),
            Ok(completion) if [SEND, REMOTE].contains(&completion.context) => self.open -= 1,
            Ok(completion) => self.take_message(&completion),
            Err(error) => assert_eq!(error, Error::Timeout),
        }
    }

    /// Operations that have ended so far.
    pub fn served(&self) -> u64 {
        self.served
    }

    /// True when no peer is known to live, and nothing waits for one.
    pub fn is_alone(&self) -> bool {
        if self.party.usage().greetings > 0 {
            return false;
        }
        let guard = self.party.enter();
        let counters = guard.engine.counters();
        let listening = self.buffers.len() as u64 + 1;
        counters.peers_now == 0
            && self.open == 0
            && counters.pending_now == listening
            && guard.engine.loans() == 0
    }

    /// Waits until none of its memory is in use: a connection of the dead that waits to be heard goes in a moment.
    pub fn settle(&mut self, limit: Duration) {
        let start = Instant::now();
        while !self.party.is_nothing_in_use() {
            self.serve();
            assert!(start.elapsed() < limit, "the dead hold memory: {:?}", self.party.usage());
        }
    }

    /// What is in use of its memory.
    pub fn usage(&self) -> String {
        let usage = self.party.usage();
        // How much is kept for the next loans depends on how many there were at once; not on how many peers have died.
        assert!(
            usage.loans <= MOST_LOANS * LOAN_LEN.next_multiple_of(LOAN_UNIT),
            "loans do not come back: {usage:?}"
        );
        format!("{:?} {}", Usage { loans: 0, ..usage }, self.party.enter().engine.counters().unexpected_now)
    }

    fn listen(&self, tag: u64) {
        let (_, buffer) = self.buffers.iter().find(|(of, _)| *of == tag).expect("a tag that is listened to");
        self.receive(&from_any(tag), *buffer, tag).expect("there is room");
    }

    /// Posts a receive whose context says its tag, also when it fails.
    fn receive(&self, pattern: &Pattern, buffer: Buffer, context: u64) -> Result<u64, Error> {
        // Contexts 1 to 3 have a meaning of their own.
        self.party.enter().engine.receive(self.party.cq, pattern, buffer.iov(), context << 8)
    }

    fn take_message(&mut self, completion: &Completion) {
        let tag = completion.context >> 8;
        let source = PeerId::new(completion.source);
        if tag == NEVER {
            assert_eq!(completion.status, Error::PeerGone.code());
            self.open -= 1;
            return;
        }
        if completion.status != 0 {
            assert_eq!(completion.status, Error::PeerGone.code());
            return self.listen(tag);
        }
        let (_, buffer) = self.buffers.iter().find(|(of, _)| *of == tag).expect("a tag that is listened to");
        let bytes = buffer.to_vec();
        self.listen(tag);
        match tag {
            HELLO => {
                let posted = self.receive(&exactly(source, NEVER), Buffer::new(8), NEVER);
                self.open += usize::from(posted.is_ok());
            }
            CALL => return self.call(&bytes),
            REGIONS => return self.use_regions(source, &bytes),
            _ => {
                assert!(bytes.iter().all(|byte| u64::from(*byte) == tag), "a message of tag {tag} is broken")
            }
        }
        self.answer(source, tag, tag == SMALL);
    }

    fn answer(&mut self, to: PeerId, tag: u64, sync: bool) {
        self.answer_with(to, tag, self.answers.to(tag), sync);
    }

    fn answer_with(&mut self, to: PeerId, tag: u64, bytes: &'static [u8], sync: bool) {
        match self.party.send(to, bytes, tag + ANSWER, sync) {
            Ok(in_progress) => self.open += usize::from(in_progress),
            Err(error) => assert_eq!(error, Error::PeerGone),
        }
    }

    /// Operations on the peer's regions, then the answer, by which it may use the survivor's.
    fn use_regions(&mut self, source: PeerId, keys: &[u8]) {
        match Initiator::import(&self.party, source, keys) {
            Ok(initiator) => {
                let (follow, result) = initiator.start();
                self.open += follow;
                assert!(matches!(result, Ok(()) | Err(Error::PeerGone | Error::Key)), "{result:?}");
                initiator.end();
            }
            Err(error) => assert_eq!(error, Error::PeerGone),
        }
        self.answer_with(source, REGIONS, self.keys, false);
    }

    /// Calls the peer's second fabric, which answers with a small message.
    fn call(&mut self, address: &[u8]) {
        let address = address.try_into().map(Address::parse).expect("an address is that long");
        let opened = self.party.enter().engine.open(&address.expect("the peer knows its address"));
        match opened {
            Ok(peer) => self.answer(peer, CALL, false),
            // It is dead already.
            Err(refusal) => {
                assert_eq!(refusal.error, Error::Unreachable, "{}", refusal.reason);
            }
        }
    }

    fn listen_for_loans(&self) {
        // SAFETY: leaked memory; one receive at a time uses it.
        let slot = unsafe { LentSlot::new(self.place) };
        let mut guard = self.party.enter();
        guard.engine.receive_loan(self.party.cq, &from_any(LOAN), slot, LENT).expect("there is room");
    }

    /// Reads a loan, answers with one, and gives the first back.
    fn take_loan(&mut self, completion: &Completion) {
        assert_eq!(completion.status, 0, "a loan is whole when it comes");
        // SAFETY: its receive has completed.
        let lent = unsafe { self.place.read() };
        assert_eq!(read(&lent), vec![LOAN as u8; LOAN_LEN]);
        self.listen_for_loans();
        self.open += send_loan(&self.party, PeerId::new(completion.source), LOAN + ANSWER);
        self.party.enter().engine.give_back(lent.loan).expect("it was received");
    }
}

/// Sends a loan; how many completions follow.
fn send_loan(party: &Party, to: PeerId, tag: u64) -> usize {
    let mut guard = party.enter();
    let (loan, base) = guard.engine.take_loan(LOAN_LEN).expect("there is memory");
    // SAFETY: the loan has as many bytes, and is ours alone.
    unsafe { std::ptr::write_bytes(base.as_ptr(), LOAN as u8, LOAN_LEN) };
    let args = SendArgs {
        cq: party.cq,
        owner: 0,
        context: SEND,
        tag,
        immediate: None,
        sync: false,
        always_complete: false,
    };
    match guard.engine.send_loan(to, loan, LOAN_LEN, false, &args) {
        Ok(sent) => usize::from(matches!(sent, Sent::InProgress(_))),
        Err(error) => {
            assert_eq!(error, Error::PeerGone);
            guard.engine.give_back(loan).expect("it is ours");
            0
        }
    }
}

/// Who goes through everything, and may be killed on the way.
pub struct Doomed {
    first: Party,
    second: Party,
    answers: Answers,
}

impl Doomed {
    pub fn open(dir: &Path) -> Doomed {
        let first = Party::open(dir, Some("doomed"), ThreadLevel::Single, &[]);
        let second = Party::open(dir, None, ThreadLevel::Single, &[]);
        Doomed { first, second, answers: Answers::new() }
    }

    pub fn run(&self) {
        let address = self.first.shared.lookup("survivor", Some(PATIENCE)).expect("the survivor is there");
        let survivor = self.first.connect(&address);
        self.exchange(survivor, HELLO);
        for _ in 0..2 {
            self.exchange(survivor, SMALL);
            self.exchange(survivor, STAGED);
            self.exchange_loans(survivor);
            self.exchange_regions(survivor);
        }
        (0..LARGE_ROUNDS).for_each(|_| self.exchange(survivor, LARGE));
        self.be_called(survivor);
    }

    fn exchange(&self, survivor: PeerId, tag: u64) {
        let bytes = self.answers.to(tag);
        let buffer = Buffer::new(bytes.len());
        self.first.receive(exactly(survivor, tag + ANSWER), buffer).expect("the survivor lives");
        self.first.send(survivor, bytes, tag, false).expect("the survivor lives");
        self.first.wait_received();
        assert!(buffer.to_vec() == bytes, "the answer to {tag} is broken");
    }

    fn exchange_regions(&self, survivor: PeerId) {
        let regions = Regions::open(&self.first);
        let keys = Box::leak(regions.keys(&self.first).into_boxed_slice());
        let buffer = Buffer::new(KEYS);
        self.first.receive(exactly(survivor, REGIONS + ANSWER), buffer).expect("the survivor lives");
        self.first.send(survivor, keys, REGIONS, false).expect("the survivor lives");
        self.first.wait_received();
        let initiator =
            Initiator::import(&self.first, survivor, &buffer.to_vec()).expect("the survivor lives");
        initiator.check();
        initiator.end();
        // The survivor's operations by messages came before its answer, and so are over.
        regions.close(&self.first);
    }

    fn exchange_loans(&self, survivor: PeerId) {
        let place = NonNull::from(Box::leak(Box::new(Lent::NONE)));
        // SAFETY: leaked memory that one receive uses.
        let slot = unsafe { LentSlot::new(place) };
        let pattern = exactly(survivor, LOAN + ANSWER);
        let posted = self.first.enter().engine.receive_loan(self.first.cq, &pattern, slot, LENT);
        posted.expect("the survivor lives");
        send_loan(&self.first, survivor, LOAN);
        while self.first.wait(PATIENCE).expect("the survivor answers").context != LENT {}
        // SAFETY: its receive has completed.
        let lent = unsafe { place.read() };
        assert_eq!(read(&lent), vec![LOAN as u8; LOAN_LEN]);
        self.first.enter().engine.give_back(lent.loan).expect("it was received");
    }

    /// The survivor calls the second fabric.
    fn be_called(&self, survivor: PeerId) {
        let address: &'static [u8] = Box::leak(Box::new(self.second.address().to_bytes()));
        self.second.receive(from_any(CALL + ANSWER), Buffer::new(SMALL_LEN)).expect("there is room");
        self.first.send(survivor, address, CALL, false).expect("the survivor lives");
        self.second.wait_received();
    }
}
