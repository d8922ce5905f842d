//! What the benches share: two engines of one process, joined by a loopback hub.
//!
//! The benches time pieces inside one thread. What two processes get is measured by `gridnet perf`; results of both, with
//! the machine they are from, are in `bench/results`.

use gridnet_core::endpoint::{CqId, Engine, Limits, SendArgs};
use gridnet_core::error::Error;
use gridnet_core::loopback::{Hub, LoopbackRail};
use gridnet_core::matching::{Pattern, Source};
use gridnet_core::mem::Iov;
use gridnet_core::rail::PeerId;
use gridnet_core::time::Time;
use gridnet_core::wire::{Address, NetAddresses, NodeId};

/// One side: an engine, its queue, and what it calls the other.
#[derive(Debug)]
pub struct Side {
    engine: Engine<LoopbackRail>,
    cq: CqId,
    peer: PeerId,
}

/// Two connected engines.
#[derive(Debug)]
pub struct Pair {
    sender: Side,
    receiver: Side,
}

impl Pair {
    /// Connects two engines over a hub.
    ///
    /// # Errors
    /// When the rails refuse each other, which a hub does not.
    pub fn connected() -> Result<Pair, Error> {
        let hub = Hub::new();
        let (a, b) = (address(1)?, address(2)?);
        let mut sender = Engine::new(a, vec![hub.rail(&a)], Limits::default());
        let mut receiver = Engine::new(b, vec![hub.rail(&b)], Limits::default());
        let to_receiver = sender.open(&b).map_err(|refusal| refusal.error)?;
        for _ in 0..4 {
            receiver.maintain(Time(0));
            receiver.progress();
            sender.progress();
        }
        let to_sender = receiver.open(&a).map_err(|refusal| refusal.error)?;
        let (cq_a, cq_b) = (sender.create_cq(1024), receiver.create_cq(1024));
        Ok(Pair {
            sender: Side { engine: sender, cq: cq_a, peer: to_receiver },
            receiver: Side { engine: receiver, cq: cq_b, peer: to_sender },
        })
    }

    /// Moves one message from `from` to `to`, from the call to both completions.
    ///
    /// # Errors
    /// When an operation is refused.
    pub fn message(&mut self, from: &[u8], to: &mut [u8]) -> Result<(), Error> {
        let Pair { sender, receiver } = self;
        // SAFETY: both slices outlive this call, at whose end no operation is under way; nobody touches them meanwhile.
        let (source, target) =
            unsafe { (Iov::new(from.as_ptr().cast_mut(), from.len()), Iov::new(to.as_mut_ptr(), to.len())) };
        let pattern = Pattern { source: Source::Peer(receiver.peer), tag: 1, ignore: 0 };
        receiver.engine.receive(receiver.cq, &pattern, target, 0)?;
        let args = SendArgs {
            cq: sender.cq,
            owner: 0,
            context: 0,
            tag: 1,
            immediate: None,
            sync: false,
            always_complete: true,
        };
        sender.engine.send_iov(sender.peer, &[source], &args)?;
        let (mut sent, mut received) = (0, 0);
        while sent + received < 2 {
            receiver.engine.progress();
            sender.engine.progress();
            sent += sender.engine.take_completions(sender.cq, |_| true);
            received += receiver.engine.take_completions(receiver.cq, |_| true);
        }
        Ok(())
    }
}

fn address(number: u8) -> Result<Address, Error> {
    let node = NodeId::new([number; 16]).ok_or(Error::Internal)?;
    Ok(Address { uid: 0, host: 1, node, incarnation: 1, network: NetAddresses::NONE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_every_kind_arrive() {
        let mut pair = Pair::connected().unwrap();
        for len in [0, 8, 4096, 1 << 20] {
            let from: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let mut to = vec![0; len];
            pair.message(&from, &mut to).unwrap();
            assert_eq!(from, to);
        }
    }
}
