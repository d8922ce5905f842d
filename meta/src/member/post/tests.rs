use std::collections::HashMap;

use super::super::state::Uplink;
use super::*;
use crate::directory::{Directory, Entry, Head, Version};
use crate::driver::Driver;
use crate::member::About;
use crate::message::Message;
use crate::packet::Load;
use crate::queue::{queue_for, Queued};
use crate::record::Extras;
use crate::testing::Parties;

const THREADS: usize = 4;
const ROUNDS: usize = 100;

/// A member that asks, another's office, and the way from the first one.
struct Scene {
    parties: Parties,
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
        Scene { asker: Arc::new(asker), answerer, node: parties.node(1), way, next: HashMap::new(), parties }
    }

    /// The next packet that is on the way; pieces of a conversation are in their order.
    fn next(&mut self) -> Option<Packet> {
        let bytes = self.way.try_recv()?;
        let Ok(Some(Message::Packet(packet))) = Message::decode(&bytes[crate::message::LENGTH_BYTES..])
        else {
            panic!("only packets are sent");
        };
        if let Some(Load::Sealed(piece)) = packet.load() {
            let next = self.next.entry(piece.of.number).or_default();
            assert_eq!(piece.sequence, *next);
            *next += 1;
        }
        Some(packet)
    }

    /// Carries what both say.
    fn run(&mut self) {
        while let Some(packet) = self.next() {
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
fn what_may_be_lost_with_a_way_is_said_again_by_the_next() {
    let mut scene = Scene::new();
    let (node, leader) = (scene.node, scene.parties.node(2));
    let other = |via| Entry {
        node,
        cluster: "c".parse().unwrap(),
        label: "n".parse().unwrap(),
        since: 1,
        order: 1,
        leads: false,
        via,
        more: Extras::default(),
    };
    let (mut directory, mut known) = (Directory::new(1), Version::default());
    directory.join(other(None));
    let told = |scene: &Scene, directory: &Directory, known: Version| {
        let head = Head::sign(directory, scene.parties.authority()).unwrap();
        for update in directory.since(known, &head) {
            assert_eq!(scene.asker.take_update(&mut Default::default(), update, true), Ok(None));
        }
        directory.version()
    };
    known = told(&scene, &directory, known);
    let first = ask(&scene.asker, scene.node);
    while scene.next().is_some() {}
    // The other one moves.
    directory.join(other(Some(leader)));
    told(&scene, &directory, known);
    scene.run();
    first.try_recv().unwrap().outcome.unwrap();
    // This one does.
    let second = ask(&scene.asker, scene.node);
    while scene.next().is_some() {}
    let (queue, way) = queue_for(&scene.asker.freight, 1 << 12);
    scene.way = way;
    scene.asker.linked(&queue, None);
    scene.run();
    second.try_recv().unwrap().outcome.unwrap();
}

/// Asks the other one for something.
fn ask(shared: &Shared, to: NodeId) -> std::sync::mpsc::Receiver<crate::office::Told> {
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let now = Instant::now();
    let tell = Box::new(move |outcome| drop(tell.send(outcome)));
    shared.post.office().ask(to, (7, vec![1; 100]), (now, now + LIMIT_MAX), tell);
    shared.send_all();
    told
}

#[test]
fn pieces_of_many_threads_do_not_pass_one_another() {
    let mut scene = Scene::new();
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
