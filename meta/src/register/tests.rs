use super::*;
use crate::cluster::{Order, Will};
use crate::directory::Version;
use crate::identity::{Certificate, NodeKey};
use crate::message::{Attach, Present};
use crate::packet::{Load, Packet};
use crate::pass::Pass;
use crate::record::Extras;

const KEYING: &[u8] = b"this connection";

fn id(byte: u8) -> NodeId {
    NodeId::new([byte; 16]).unwrap()
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

struct Scene {
    register: Register,
    secret: JoinSecret,
    start: Instant,
    clock: Moment,
}

impl Scene {
    fn new(left: Option<u64>) -> Scene {
        let (secret, clock) = (JoinSecret::random().unwrap(), Moment::from_unix(1_800_000_000));
        let rules = Rules { joins_per_second: 5, nodes_max: 2, ..Rules::default() };
        let mut register = Register::new(Authority::create(id(1), clock).unwrap(), rules, 1, clock);
        let expires = clock.after(Duration::from_secs(3600));
        register.tickets.insert(id(2), TicketState { secret: secret.clone(), expires, left });
        Scene { register, secret, start: Instant::now(), clock }
    }

    fn request(&self, ticket: NodeId, keying: &[u8]) -> Join {
        let request = NodeKey::create().unwrap().request().to_vec();
        let proof = self.secret.prove(keying, &[ticket.bytes(), &request]);
        Join { ticket, proof, request }
    }

    fn join(&mut self, join: &Join) -> Result<Joined, Refusal> {
        self.register.join(join, KEYING, address(1), (self.start, self.clock)).map_err(|(refusal, _)| refusal)
    }

    fn member(&mut self) -> NodeId {
        self.join(&self.request(id(2), KEYING)).unwrap().node
    }

    fn now(&self) -> (Instant, Moment) {
        (self.start, self.clock)
    }

    fn about(&self) -> Attach {
        let (cluster, label) = ("c".parse().unwrap(), "l".parse().unwrap());
        let (known, will, leads) = (Version::default(), Will::Willing, Vec::new());
        Attach { cluster, label, known, will, leads, pass: None, more: Extras::default() }
    }

    fn attach(&mut self, node: NodeId) -> Result<u64, Refusal> {
        // Nobody asks too fast here.
        self.start += Duration::from_secs(1);
        let (about, now) = (self.about(), self.now());
        self.register.attach(node, &about, now).map_err(|(refusal, _)| refusal)
    }
}

#[test]
fn who_knows_the_secret_becomes_a_node_that_nobody_was() {
    let mut scene = Scene::new(None);
    let joined = scene.join(&scene.request(id(2), KEYING)).unwrap();
    let certificate = Certificate::read(&joined.certificate).unwrap();
    assert_eq!(certificate.node, Some(joined.node));
    assert_eq!(certificate.until, scene.clock.after(Rules::default().certificate_lifetime));
    assert_ne!(scene.member(), joined.node);
    assert_eq!((scene.register.joined, scene.register.refusals.len()), (2, 0));
}

#[test]
fn others_are_refused_with_a_reason_and_counted() {
    let mut scene = Scene::new(Some(1));
    assert_eq!(scene.join(&scene.request(id(3), KEYING)), Err(Refusal::Ticket));
    // A proof that was heard on another connection, for another request, and of another secret.
    assert_eq!(scene.join(&scene.request(id(2), b"another connection")), Err(Refusal::Secret));
    let mut stolen = scene.request(id(2), KEYING);
    stolen.request = NodeKey::create().unwrap().request().to_vec();
    assert_eq!(scene.join(&stolen), Err(Refusal::Secret));
    let mut forged = scene.request(id(2), KEYING);
    forged.proof[31] ^= 1;
    assert_eq!(scene.join(&forged), Err(Refusal::Secret));
    assert_eq!(scene.register.refusals, BTreeMap::from([(Refusal::Secret, 3), (Refusal::Ticket, 1)]));
}

#[test]
fn tickets_end_by_time_and_by_number() {
    let mut scene = Scene::new(Some(2));
    let malformed = vec![1, 2, 3];
    let proof = scene.secret.prove(KEYING, &[id(2).bytes(), &malformed]);
    assert_eq!(scene.join(&Join { ticket: id(2), proof, request: malformed }), Err(Refusal::Malformed));
    scene.member();
    scene.member();
    assert_eq!(scene.join(&scene.request(id(2), KEYING)), Err(Refusal::UsedUp));
    scene.clock = scene.clock.after(Duration::from_secs(3600));
    assert_eq!(scene.join(&scene.request(id(2), KEYING)), Err(Refusal::Expired));
}

#[test]
fn a_flood_from_one_address_leaves_room_for_others() {
    let mut scene = Scene::new(None);
    let request = scene.request(id(2), b"wrong");
    let refused: Vec<Refusal> = (0..50).map(|_| scene.join(&request).unwrap_err()).collect();
    assert_eq!(refused.iter().filter(|refusal| **refusal == Refusal::Rate).count(), 45);
    let other = scene.request(id(2), KEYING);
    let joined = scene.register.join(&other, KEYING, address(2), (scene.start, scene.clock));
    assert!(joined.is_ok());
}

#[test]
fn the_last_connection_of_a_node_counts() {
    let mut scene = Scene::new(None);
    let node = scene.member();
    let (first, second) = (scene.attach(node).unwrap(), scene.attach(node).unwrap());
    scene.register.detach(node, first, Departure::Lost, scene.start);
    assert!(scene.register.directory.contains(node) && scene.register.is_current(node, second));
    scene.register.detach(node, second, Departure::Left, scene.start);
    assert!(!scene.register.directory.contains(node));
}

#[test]
fn a_revoked_node_is_out_for_good() {
    let mut scene = Scene::new(None);
    let node = scene.member();
    let connection = scene.attach(node).unwrap();
    assert_eq!(scene.register.revoke(node, scene.now()), Some(true));
    assert!(scene.register.directory.is_revoked(node));
    assert!(!scene.register.is_current(node, connection) && !scene.register.directory.contains(node));
    assert_eq!(scene.attach(node), Err(Refusal::Revoked));
    let request = NodeKey::create().unwrap();
    assert_eq!(scene.register.renew(node, request.request(), scene.now()).unwrap_err().0, Refusal::Revoked);
    assert_eq!(scene.register.revoke(node, scene.now()), Some(false));
}

#[test]
fn revocations_are_bounded_and_told_as_long_as_they_matter() {
    let mut scene = Scene::new(None);
    let number = |n: u128| NodeId::new(n.to_be_bytes()).unwrap();
    let before = (1..REVOKED_MAX as u128).map(|n| (number(n), None)).collect();
    scene.register.revoked_before(before, scene.clock);
    assert_eq!(scene.register.revoke(number(1 << 98), scene.now()), Some(false));
    assert_eq!(scene.register.revoke(number(1 << 100), scene.now()), None);
    assert_eq!(scene.register.directory.revoked().len(), REVOKED_MAX);
    // Another life: those of unknown end count from now.
    let kept: BTreeMap<NodeId, Option<Moment>> =
        scene.register.revoked.iter().map(|(node, until)| (*node, Some(*until))).collect();
    let mut again = Scene::new(None);
    again.clock = scene.clock.after(Duration::from_secs(86_400 + 2 * 3600));
    again.register.revoked_before(kept.into_iter().chain([(number(1 << 99), None)]).collect(), again.clock);
    assert_eq!(again.register.directory.revoked().collect::<Vec<_>>(), [number(1 << 99)]);
    assert_eq!(again.attach(number(7)), Err(Refusal::Revoked), "also one that is not told any more");
    assert_eq!(again.register.revoke(number(1 << 100), again.now()), Some(false));
    assert_eq!(again.register.revoked.len(), 2, "those that matter no more made room");
}

#[test]
fn there_is_room_for_so_many_and_who_is_there_may_come_again() {
    let mut scene = Scene::new(None);
    let nodes: Vec<NodeId> = (0..3).map(|_| scene.member()).collect();
    scene.attach(nodes[0]).unwrap();
    scene.attach(nodes[1]).unwrap();
    assert_eq!(scene.attach(nodes[2]), Err(Refusal::Limit));
    scene.attach(nodes[1]).unwrap();
}

#[test]
fn a_member_gets_a_new_certificate_for_itself() {
    let mut scene = Scene::new(None);
    let node = scene.member();
    let key = NodeKey::create().unwrap();
    scene.clock = scene.clock.after(Duration::from_secs(60_000));
    let renewed = scene.register.renew(node, key.request(), scene.now()).unwrap();
    let identity = key.certified(node, &renewed).unwrap();
    assert!(!identity.is_to_be_renewed(scene.clock));
    assert_eq!(scene.register.renew(node, &[1], scene.now()).unwrap_err().0, Refusal::Malformed);
}

/// A leader, a node that was sent to it, and its pass.
fn leader_and_node(scene: &mut Scene) -> (NodeId, NodeId, Pass) {
    let (leader, node) = (scene.member(), scene.member());
    scene.attach(leader).unwrap();
    assert_eq!(scene.register.take_orders(), []);
    scene.attach(node).unwrap();
    assert_eq!(scene.register.take_orders(), [Order::Lead(leader)]);
    scene.register.leads(leader, vec!["10.0.0.1:5".parse().unwrap()], scene.start);
    let orders = scene.register.take_orders();
    assert!(matches!(&orders[..], [Order::Follow(to, of)] if *to == node && of.node == leader), "{orders:?}");
    assert!(scene.register.directory.entry(leader).unwrap().leads);
    let pass = scene.register.pass(node, leader);
    (leader, node, pass)
}

fn present(scene: &mut Scene, leader: NodeId, node: NodeId, pass: &Pass) -> Result<(), Refusal> {
    let about = Attach { pass: Some(pass.clone()), ..scene.about() };
    let now = scene.now();
    scene.register.present(leader, &Present { node, about }, now).map_err(|(refusal, _)| refusal)
}

#[test]
fn a_node_is_reached_through_its_leader_and_lost_with_it() {
    let mut scene = Scene::new(None);
    let (leader, node, pass) = leader_and_node(&mut scene);
    assert_eq!(present(&mut scene, leader, node, &pass), Ok(()));
    assert_eq!(scene.register.directory.entry(node).unwrap().via, Some(leader));
    assert_eq!(
        (scene.register.next_hop(node), scene.register.next_hop(leader)),
        (Some(leader), Some(leader))
    );
    let packet = Packet::new(node, leader, 1, &Load::Other(0));
    assert!(!scene.register.comes_from(&packet, leader), "it was not passed on by its leader");
    let packet = packet.passed_on(leader).unwrap();
    assert!(scene.register.comes_from(&packet, leader) && !scene.register.comes_from(&packet, node));
    let forged = Packet::new(node, leader, 1, &Load::Other(0));
    assert!(!scene.register.comes_from(&forged, leader));
    // The leader's connection ends, and with it all that is below.
    scene.register.detach(leader, 1, Departure::Lost, scene.start);
    assert!(scene.register.directory.contains(node), "another connection than the last");
    let connection = (1..100).find(|number| scene.register.is_current(leader, *number)).unwrap();
    scene.register.detach(leader, connection, Departure::Lost, scene.start);
    assert_eq!(scene.register.directory.entries().len(), 0);
    assert_eq!(scene.register.next_hop(node), None);
}

#[test]
fn a_leader_is_believed_only_for_those_who_were_sent_to_it_last() {
    let mut scene = Scene::new(None);
    scene.register.rules.nodes_max = 3;
    let (leader, node, pass) = leader_and_node(&mut scene);
    let other = scene.member();
    scene.attach(other).unwrap();
    assert_eq!(present(&mut scene, leader, other, &pass), Err(Refusal::Pass), "the pass of another");
    assert_eq!(present(&mut scene, other, node, &pass), Err(Refusal::Pass), "one that does not lead");
    let forged = Pass { serial: pass.serial + 1, ..pass.clone() };
    assert_eq!(present(&mut scene, leader, node, &forged), Err(Refusal::Pass));
    assert_eq!(present(&mut scene, leader, node, &pass), Ok(()));
    // It has come back by itself: the leader that had it cannot take it again.
    scene.attach(node).unwrap();
    assert_eq!(present(&mut scene, leader, node, &pass), Err(Refusal::Pass));
    assert_eq!(scene.register.directory.entry(node).unwrap().via, None);
    scene.register.absent(leader, node, Departure::Lost, scene.start);
    assert!(scene.register.directory.contains(node), "what it says late means nothing");
    let now = scene.now();
    scene.register.revoke(node, now).unwrap();
    let again = scene.register.pass(node, leader);
    assert_eq!(present(&mut scene, leader, node, &again), Err(Refusal::Revoked));
}

#[test]
fn a_leader_that_comes_by_another_connection_keeps_its_nodes() {
    let mut scene = Scene::new(None);
    let (leader, node, pass) = leader_and_node(&mut scene);
    present(&mut scene, leader, node, &pass).unwrap();
    let (now, leads) = (scene.now(), vec!["10.0.0.1:5".parse().unwrap()]);
    let about = Attach { leads, ..scene.about() };
    scene.register.attach(leader, &about, now).unwrap();
    assert_eq!(scene.register.next_hop(node), Some(leader));
    assert!(scene.register.directory.entry(leader).unwrap().leads);
    // It says again who is there, and whom it does not name is not.
    present(&mut scene, leader, node, &pass).unwrap();
    scene.register.has_said_all(leader, scene.start);
    assert_eq!(scene.register.next_hop(node), Some(leader));
    scene.start += Duration::from_secs(1);
    let now = scene.now();
    scene.register.attach(leader, &about, now).unwrap();
    scene.register.has_said_all(leader, scene.start);
    assert_eq!((scene.register.next_hop(node), scene.register.directory.contains(node)), (None, false));
    present(&mut scene, leader, node, &pass).unwrap();
    // One that has forgotten that it leads has lost them.
    scene.attach(leader).unwrap();
    assert_eq!(scene.register.next_hop(node), None);
    assert!(!scene.register.directory.entry(leader).unwrap().leads);
}

#[test]
fn a_rendezvous_node_that_was_started_again_knows_its_passes() {
    let mut scene = Scene::new(None);
    let (leader, node, pass) = leader_and_node(&mut scene);
    let (certificate, key) = scene.register.authority.to_pem();
    let authority = Authority::from_pem(&certificate, &key).unwrap();
    let later = scene.clock.after(Duration::from_secs(60));
    scene.register = Register::new(authority, scene.register.rules, 2, later);
    let (now, leads) = (scene.now(), vec!["10.0.0.1:5".parse().unwrap()]);
    let about = Attach { leads, ..scene.about() };
    scene.register.attach(leader, &about, now).unwrap();
    assert_eq!(present(&mut scene, leader, node, &pass), Ok(()));
    assert!(scene.register.pass(node, leader).serial > pass.serial);
}

#[test]
fn a_leader_may_say_so_much_a_second_of_those_below_it() {
    let mut scene = Scene::new(None);
    let (leader, other) = (scene.member(), scene.member());
    let count = |scene: &mut Scene, leader| {
        (0..2 * REPORTED_PER_SECOND).filter(|_| scene.register.may_report(leader, scene.start)).count()
    };
    assert_eq!(count(&mut scene, leader), REPORTED_PER_SECOND as usize);
    assert_eq!(count(&mut scene, other), REPORTED_PER_SECOND as usize);
    let noted = (0..100).filter(|_| scene.register.may_note(leader, scene.start)).count();
    assert_eq!(noted, ASKED_PER_SECOND as usize);
}

#[test]
fn the_directory_is_signed_once_for_all_that_changes_in_a_pause() {
    let mut scene = Scene::new(None);
    let (start, until, ms) = (scene.start, scene.clock.after(Duration::from_secs(60)), Duration::from_millis);
    let register = &mut scene.register;
    let signed = |register: &mut Register, at: u64| {
        let signed = register.signed(start + ms(at), ms(10)).unwrap();
        assert_eq!(signed.directory.version(), signed.head.version, "it is of what was signed");
        signed.head.version.number
    };
    register.directory.revoke(id(3), until);
    assert_eq!((signed(register, 0), register.signed_until(ms(10))), (1, None));
    register.directory.revoke(id(4), until);
    register.directory.revoke(id(5), until);
    assert_eq!((signed(register, 9), register.signed_until(ms(10))), (1, Some(start + ms(10))));
    assert_eq!((signed(register, 10), register.signed_until(ms(10))), (3, None));
    register.directory.revoke(id(6), until);
    assert_eq!((signed(register, 19), signed(register, 500)), (3, 4));
}
