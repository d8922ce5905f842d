use std::collections::HashMap;

use super::super::state::Uplink;
use super::*;
use crate::driver::Driver;
use crate::member::About;
use crate::message::Message;
use crate::packet::Load;
use crate::queue::{queue_for, Queued};
use crate::testing::Parties;

const THREADS: usize = 4;
const ROUNDS: usize = 100;

/// A member that asks, another's office, and the way from the first one.
struct Scene {
    asker: Arc<Shared>,
    answerer: Office,
    node: NodeId,
    way: Queued,
    /// The next piece of each conversation.
    next: HashMap<u64, u32>,
}

impl Scene {
    fn new() -> Scene {
        let parties = Parties::new();
        let (of, common) = (parties.member(0), Driver::start().unwrap().common());
        let asker = Shared::new(Vec::new(), About::new("tests".parse().unwrap()), of, common).unwrap();
        let (queue, way) = queue_for(&asker.freight, 1 << 12);
        asker.lock().uplink = Some(Uplink { queue, leader: None });
        let answerer = Office::new(parties.node(1), parties.sealing(1));
        Scene { asker: Arc::new(asker), answerer, node: parties.node(1), way, next: HashMap::new() }
    }

    /// Carries what both say, and looks whether pieces come in their order.
    fn run(&mut self) {
        while let Some(bytes) = self.way.try_recv() {
            let Ok(Some(Message::Packet(packet))) = Message::decode(&bytes[crate::message::LENGTH_BYTES..])
            else {
                panic!("only packets are sent");
            };
            if let Some(Load::Sealed(piece)) = packet.load() {
                let next = self.next.entry(piece.of.number).or_default();
                assert_eq!(piece.sequence, *next);
                *next += 1;
            }
            let now = Instant::now();
            for call in self.answerer.take(&packet, false, (now, Moment::now())) {
                self.answerer.answer(&call, Ok(Vec::new()), now);
            }
            for packet in self.answerer.take_packets() {
                self.asker.receive(packet, Origin::Uplink);
            }
        }
    }
}

#[test]
fn pieces_of_many_threads_do_not_pass_one_another() {
    let mut scene = Scene::new();
    let ask = |shared: &Shared, to| {
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let now = Instant::now();
        let tell = Box::new(move |outcome| drop(tell.send(outcome)));
        shared.post.office().ask(to, (7, vec![1; 100]), (now, now + LIMIT_MAX), tell);
        shared.send_all();
        told
    };
    let first = ask(&scene.asker, scene.node);
    scene.run();
    first.try_recv().unwrap().outcome.unwrap();
    for _ in 0..ROUNDS {
        let (shared, to) = (&*scene.asker, scene.node);
        let told: Vec<_> = std::thread::scope(|scope| {
            let thread = || (0..8).map(|_| ask(shared, to)).collect::<Vec<_>>();
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(thread)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        scene.run();
        assert!(told.iter().all(|told| told.try_recv().is_ok_and(|told| told.outcome.is_ok())));
    }
    assert_eq!(scene.next.len(), 1, "one conversation");
}
