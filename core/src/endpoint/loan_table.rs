//! The loans of one fabric: its own, with their holders, and those of peers that the program has not given back.

use crate::error::Error;
use crate::loan::{class_of, Lent, LentSlot, LoanMemory, PrivateMemory, CLASSES};
use crate::matching::{Key, Slab};
use crate::mem::Iov;
use crate::rail::PeerId;
use crate::sync::prefetch_for_write;

/// Loans that a fabric can have at once, own and received: their places take 20 bits of a handle.
const MAX_LOANS: usize = 1 << MARK_SHIFT;
/// Bits of a handle between place and generation that tell the fabrics of a process apart.
const MARK_BITS: u32 = 12;
const MARK_SHIFT: u32 = 32 - MARK_BITS;
const MARK_MASK: u64 = ((1 << MARK_BITS) - 1) << MARK_SHIFT;
/// The end of a list of holds.
pub(super) const NO_HOLD: u32 = u32::MAX;

/// Memory of an own loan.
#[derive(Debug)]
pub(super) enum Memory {
    /// Peers can read it.
    Rail(LoanMemory),
    /// Only this process can.
    Private(PrivateMemory),
}

impl Memory {
    pub(super) fn base(&self) -> std::ptr::NonNull<u8> {
        match self {
            Memory::Rail(memory) => memory.base,
            Memory::Private(memory) => memory.base(),
        }
    }

    fn capacity(&self) -> usize {
        match self {
            Memory::Rail(memory) => memory.capacity,
            Memory::Private(memory) => memory.capacity(),
        }
    }
}

/// What a handle names.
#[derive(Debug)]
enum Loan {
    Own(Own),
    Borrowed(Lender),
}

#[derive(Debug)]
struct Own {
    memory: Memory,
    /// Bytes that were asked for.
    len: usize,
    /// Holds of peers, and of sends that wait.
    holders: u32,
    /// The program has it, and not yet sent it for good or given it back.
    kept: bool,
}

/// To whom a received loan goes back.
#[derive(Debug)]
pub(super) enum Lender {
    /// To a peer, under its number.
    Peer(PeerId, u64),
    /// To nobody: a message that was not sent as a loan, in private memory.
    Bytes(#[expect(dead_code, reason = "kept until the loan is given back")] Box<[u8]>),
    /// As above, in memory that it was moved into.
    Memory(#[expect(dead_code, reason = "kept until the loan is given back")] PrivateMemory),
}

/// A peer reads a loan, or will when its send has left. The key of a hold is the number that the peer gives back.
#[derive(Debug)]
struct Hold {
    loan: Key,
    peer: PeerId,
    /// Neighbours among the holds of the peer.
    previous: u32,
    next: u32,
}

/// A send of a loan that waits.
#[derive(Debug)]
pub(super) struct Loaned {
    /// The message.
    pub(super) iov: Iov,
    pub(super) hold: Key,
    /// Where the peer finds it; none when it is copied as any message.
    pub(super) position: Option<u64>,
}

/// A receive of loans whose message comes in pieces.
#[derive(Debug)]
pub(super) struct LendingMemory {
    pub(super) slot: LentSlot,
    pub(super) iov: Iov,
    memory: PrivateMemory,
}

impl LendingMemory {
    /// Memory for a message of `len` bytes, a number that a peer wrote.
    pub(super) fn new(slot: LentSlot, len: u64) -> Option<LendingMemory> {
        let memory = PrivateMemory::new(usize::try_from(len).ok()?)?;
        Some(LendingMemory { slot, iov: memory.iov(), memory })
    }
}

/// A loan that is being sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sending {
    pub(super) loan: Key,
    pub(super) hold: Key,
    pub(super) base: *mut u8,
    pub(super) position: Option<u64>,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Loans {
    loans: Slab<Loan>,
    holds: Slab<Hold>,
    /// Memory that came back, by class: the last to come back is the next to serve, as it may still be in the cache.
    free: Vec<Vec<Memory>>,
    mark: u64,
    /// Loans that there may be at once.
    most: usize,
    /// Receives of loans under way: each will need a place.
    promised: usize,
    /// The rail that lends: the first that can.
    pub(super) lender: Option<usize>,
    /// Peers whose loan was copied out of the store, and is not read any more; once for each.
    pub(super) copied: Vec<PeerId>,
}

impl Loans {
    pub(super) fn new(lender: Option<usize>) -> Loans {
        Loans {
            loans: Slab::default(),
            holds: Slab::default(),
            free: std::iter::repeat_with(Vec::new).take(CLASSES).collect(),
            mark: 0,
            most: MAX_LOANS,
            promised: 0,
            lender,
            copied: Vec::new(),
        }
    }

    /// Gives the handles of this fabric a mark, so that those of another are recognised.
    pub(super) fn set_mark(&mut self, mark: u32) {
        self.mark = u64::from(mark) << MARK_SHIFT & MARK_MASK;
    }

    /// Bounds the loans that there may be at once; handles have places for [`MAX_LOANS`].
    pub(super) fn set_most(&mut self, most: usize) {
        self.most = most.min(MAX_LOANS);
    }

    #[inline]
    fn handle_of(&self, key: Key) -> u64 {
        key.to_bits() | self.mark
    }

    /// The key of a handle.
    ///
    /// # Errors
    /// [`Error::Invalid`] for one of another fabric.
    #[inline]
    fn key_of(&self, handle: u64) -> Result<Key, Error> {
        if handle & MARK_MASK != self.mark {
            return Err(Error::Invalid);
        }
        Ok(Key::from_bits(handle & !MARK_MASK))
    }

    /// Loans that exist.
    pub(super) fn len(&self) -> usize {
        self.loans.len()
    }

    /// True when there is a place for one more, besides those that are promised.
    #[inline]
    pub(super) fn has_room(&self) -> bool {
        self.loans.len() + self.promised < self.most
    }

    /// Keeps a place for a receive of loans, until [`Self::borrow`] or [`Self::break_promise`]. To be called when there is
    /// room: so no received loan ever finds the table full.
    #[inline]
    pub(super) fn promise(&mut self) {
        self.promised += 1;
    }

    /// A receive of loans has ended without one.
    pub(super) fn break_promise(&mut self) {
        self.promised -= 1;
    }

    /// Places that are promised.
    pub(super) fn promised(&self) -> usize {
        self.promised
    }

    /// Memory of a class that came back.
    #[inline]
    pub(super) fn reuse(&mut self, class: usize) -> Option<Memory> {
        self.free.get_mut(class)?.pop()
    }

    /// All memory that came back and is not in use.
    pub(super) fn drain_free(&mut self) -> impl Iterator<Item = Memory> + '_ {
        self.free.iter_mut().flat_map(|class| class.drain(..))
    }

    /// Enters an own loan of `len` bytes: its handle and where it begins.
    #[inline]
    pub(super) fn enter(&mut self, memory: Memory, len: usize) -> (u64, std::ptr::NonNull<u8>) {
        let base = memory.base();
        let key = self.loans.insert(Loan::Own(Own { memory, len, holders: 0, kept: true }));
        (self.handle_of(key), base)
    }

    /// Enters a received message that is lent to the program, in a place that was promised.
    #[inline]
    pub(super) fn borrow(&mut self, lender: Lender, slot: LentSlot, data: *const u8, len: usize) {
        self.promised -= 1;
        let key = self.loans.insert(Loan::Borrowed(lender));
        slot.write(Lent { loan: self.handle_of(key), data, len });
    }

    /// As [`Self::borrow`], for a message in private bytes.
    pub(super) fn borrow_bytes(&mut self, bytes: Box<[u8]>, slot: LentSlot) {
        let (data, len) = (bytes.as_ptr(), bytes.len());
        self.borrow(Lender::Bytes(bytes), slot, data, len);
    }

    /// As [`Self::borrow`], for a message that came in pieces.
    pub(super) fn borrow_memory(&mut self, lending: LendingMemory) {
        let (data, len) = (lending.memory.base().as_ptr(), lending.memory.capacity());
        self.borrow(Lender::Memory(lending.memory), lending.slot, data, len);
    }

    /// Lends the first `len` bytes of a loan to `peer`, whose list of holds begins at `first`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a loan of another fabric or one that is shorter, [`Error::Handle`] for one that was sent or given
    /// back, [`Error::Unsupported`] for one that was received.
    #[inline]
    pub(super) fn begin_send(
        &mut self,
        handle: u64,
        len: usize,
        peer: PeerId,
        first: &mut u32,
    ) -> Result<Sending, Error> {
        let loan = self.key_of(handle)?;
        let own = match self.loans.get_mut(loan) {
            Some(Loan::Own(own)) if own.kept => own,
            Some(Loan::Borrowed(_)) => return Err(Error::Unsupported),
            _ => return Err(Error::Handle),
        };
        if len > own.len {
            return Err(Error::Invalid);
        }
        own.holders += 1;
        let base = own.memory.base().as_ptr();
        let position = match &own.memory {
            Memory::Rail(memory) => Some(memory.position),
            Memory::Private(_) => None,
        };
        let hold = self.holds.insert(Hold { loan, peer, previous: NO_HOLD, next: *first });
        if let Some(next) = self.holds.at_mut(*first) {
            next.previous = hold.index();
        }
        *first = hold.index();
        Ok(Sending { loan, hold, base, position })
    }

    /// Where the memory begins that a hold keeps.
    pub(super) fn memory_of(&self, hold: Key) -> Option<*mut u8> {
        match self.loans.get(self.holds.get(hold)?.loan)? {
            Loan::Own(own) => Some(own.memory.base().as_ptr()),
            Loan::Borrowed(_) => None,
        }
    }

    /// Ends a hold, if it is `peer`'s; false when it is not.
    #[inline]
    pub(super) fn end_hold(&mut self, hold: Key, peer: PeerId, first: &mut u32) -> bool {
        if self.holds.get(hold).is_none_or(|hold| hold.peer != peer) {
            return false;
        }
        let Some(gone) = self.holds.remove(hold) else { return false };
        match self.holds.at_mut(gone.previous) {
            Some(previous) => previous.next = gone.next,
            None => *first = gone.next,
        }
        if let Some(next) = self.holds.at_mut(gone.next) {
            next.previous = gone.previous;
        }
        if let Some(Loan::Own(own)) = self.loans.get_mut(gone.loan) {
            own.holders -= 1;
        }
        self.settle(gone.loan);
        true
    }

    /// Ends all holds of a peer that has gone.
    pub(super) fn end_holds_of(&mut self, peer: PeerId, first: &mut u32) {
        while let Some((hold, _)) = self.holds.at(*first) {
            if !self.end_hold(hold, peer, first) {
                return;
            }
        }
    }

    /// The program has an own loan no more.
    #[inline]
    pub(super) fn let_go(&mut self, loan: Key) {
        if let Some(Loan::Own(own)) = self.loans.get_mut(loan) {
            own.kept = false;
        }
        self.settle(loan);
    }

    /// The program gives a loan back: to whom it goes, if to anybody.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a loan of another fabric, [`Error::Handle`] for one that was sent or given back.
    #[inline]
    pub(super) fn give_back(&mut self, handle: u64) -> Result<Option<(PeerId, u64)>, Error> {
        let key = self.key_of(handle)?;
        match self.loans.get(key) {
            Some(Loan::Own(own)) if own.kept => {
                self.let_go(key);
                Ok(None)
            }
            Some(Loan::Borrowed(_)) => match self.loans.remove(key) {
                Some(Loan::Borrowed(Lender::Peer(peer, loan))) => Ok(Some((peer, loan))),
                _ => Ok(None),
            },
            _ => Err(Error::Handle),
        }
    }

    /// Frees the memory of a loan that nobody has any more.
    #[inline]
    fn settle(&mut self, loan: Key) {
        let Some(Loan::Own(Own { kept: false, holders: 0, .. })) = self.loans.get(loan) else {
            return;
        };
        if let Some(Loan::Own(Own { memory, len, .. })) = self.loans.remove(loan) {
            // Those who read it have these lines in their caches, and the next loan of this length begins by writing them: now
            // they have time to come over.
            prefetch_for_write(memory.base().as_ptr());
            prefetch_for_write(memory.base().as_ptr().wrapping_add(len.saturating_sub(1)));
            if let Some(class) = class_of(memory.capacity()).and_then(|(class, _)| self.free.get_mut(class)) {
                class.push(memory);
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn memory() -> Memory {
        Memory::Private(PrivateMemory::new(4096).unwrap())
    }

    fn free(table: &Loans) -> usize {
        table.free.iter().map(Vec::len).sum()
    }

    #[test]
    fn memory_comes_back_with_the_last_holder() {
        let mut table = Loans::new(None);
        let (alice, bob) = (PeerId::new(0), PeerId::new(1));
        let (mut of_alice, mut of_bob) = (NO_HOLD, NO_HOLD);
        let (loan, _) = table.enter(memory(), 100);
        let a = table.begin_send(loan, 100, alice, &mut of_alice).unwrap();
        let b = table.begin_send(loan, 0, bob, &mut of_bob).unwrap();
        assert_eq!(table.begin_send(loan, 101, bob, &mut of_bob).unwrap_err(), Error::Invalid);
        table.let_go(a.loan);
        assert_eq!(table.give_back(loan), Err(Error::Handle));
        assert_eq!(table.begin_send(loan, 1, bob, &mut of_bob).unwrap_err(), Error::Handle);
        assert!(!table.end_hold(a.hold, bob, &mut of_bob), "not bob's");
        assert!(table.end_hold(a.hold, alice, &mut of_alice));
        assert!(!table.end_hold(a.hold, alice, &mut of_alice), "a second time");
        assert_eq!((free(&table), table.len()), (0, 1));
        assert!(table.end_hold(b.hold, bob, &mut of_bob));
        assert_eq!((free(&table), table.len(), of_alice, of_bob), (1, 0, NO_HOLD, NO_HOLD));
    }

    #[test]
    fn handles_of_other_fabrics_and_old_ones_are_found_out() {
        let (mut one, mut other) = (Loans::new(None), Loans::new(None));
        one.set_mark(1);
        other.set_mark(2);
        let (loan, _) = one.enter(memory(), 1);
        other.enter(memory(), 1);
        assert_eq!(other.give_back(loan), Err(Error::Invalid));
        assert_eq!(one.give_back(loan), Ok(None));
        assert_eq!(one.give_back(loan), Err(Error::Handle));
        let memory = one.reuse(0).unwrap();
        let (again, _) = one.enter(memory, 1);
        assert_ne!(again, loan);
        assert_eq!(one.give_back(loan), Err(Error::Handle));
        assert_eq!(one.give_back(0), Err(Error::Invalid));
    }

    #[test]
    fn no_bound_goes_beyond_what_handles_can_tell_apart() {
        let mut table = Loans::new(None);
        table.set_most(usize::MAX);
        assert_eq!(table.most, MAX_LOANS);
        table.set_most(2);
        table.promise();
        assert!(table.has_room());
        table.promise();
        assert!(!table.has_room());
        table.break_promise();
        table.enter(memory(), 1);
        assert!(!table.has_room(), "one there is, and one is promised");
    }

    /// Handle, whether the program has it, and the holds of peers.
    type Modelled = (u64, bool, Vec<(Key, usize)>);

    proptest! {
        /// Loans, holds and the ends of peers in any order: memory is free exactly when nobody has it.
        #[test]
        fn nothing_is_lost_and_nothing_is_free_twice(
            steps in prop::collection::vec((0..6u8, 0..4u32, any::<u16>()), 0..200)
        ) {
            let mut table = Loans::new(None);
            let mut firsts = [NO_HOLD; 4];
            let mut model: Vec<Modelled> = Vec::new();
            let mut made = 0;
            for (what, peer, pick) in steps {
                let at = peer as usize;
                let chosen = pick as usize % model.len().max(1);
                match (what, model.get_mut(chosen)) {
                    (0, _) | (_, None) => {
                        let memory = table.reuse(0).unwrap_or_else(|| {
                            made += 1;
                            memory()
                        });
                        model.push((table.enter(memory, 64).0, true, Vec::new()));
                    }
                    (1 | 2, Some((handle, kept, holds))) => {
                        let sent = table.begin_send(*handle, 64, PeerId::new(peer), &mut firsts[at]);
                        prop_assert_eq!(sent.is_ok(), *kept);
                        if let Ok(sending) = sent {
                            holds.push((sending.hold, at));
                            if what == 2 {
                                table.let_go(sending.loan);
                                *kept = false;
                            }
                        }
                    }
                    (3, Some((handle, kept, _))) => {
                        prop_assert_eq!(table.give_back(*handle).is_ok(), *kept);
                        *kept = false;
                    }
                    (4, Some((_, _, holds))) => {
                        if let Some((hold, of)) = holds.pop() {
                            prop_assert!(table.end_hold(hold, PeerId::new(of as u32), &mut firsts[of]));
                        }
                    }
                    _ => {
                        table.end_holds_of(PeerId::new(peer), &mut firsts[at]);
                        prop_assert_eq!(firsts[at], NO_HOLD);
                        model.iter_mut().for_each(|(_, _, holds)| holds.retain(|(_, of)| *of != at));
                    }
                }
                model.retain(|(_, kept, holds)| *kept || !holds.is_empty());
                prop_assert_eq!((table.len(), free(&table)), (model.len(), made - model.len()));
            }
        }
    }
}
