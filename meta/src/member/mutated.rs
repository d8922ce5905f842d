//! A leader to which those below it say what is almost right, and a member to which its leader does.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use gridnet_core::wire::NodeId;
use tokio::io::DuplexStream;

use super::link::Link;
use super::state::{Shared, Uplink};
use super::{lead, About};
use crate::channel::{Frames, Inbox};
use crate::clock::Moment;
use crate::directory::{Departure, Directory, Entry, Head, Version};
use crate::driver::Driver;
use crate::error::Error;
use crate::hub::{Served, Visitor};
use crate::message::{Attach, Follow, Message, Present, MESSAGE_BYTES_MAX};
use crate::mutated::{alone, count, talk, Before, Mutator};
use crate::outbox::Outbox;
use crate::packet::{Conversation, Load, Packet, Part, Sealed};
use crate::pass::Pass;
use crate::queue::queue;
use crate::record::Extras;
use crate::rendezvous::LONGEST_OF_MEMBER;
use crate::testing::{Session, LONG};

fn id(number: u128) -> NodeId {
    NodeId::new((number | 1 << 100).to_be_bytes()).unwrap()
}

/// A member, as its thread has it, that knows a directory.
fn member(session: &Session) -> Arc<Shared> {
    member_at(session, None)
}

/// One that listens there when it leads.
fn member_at(session: &Session, listen: Option<SocketAddr>) -> Arc<Shared> {
    let authority = session.store.authority().unwrap();
    let (node, common) = (id(0), Driver::start().unwrap().common());
    let of = (session.identity(node, 60 * LONG), authority.certificate().clone());
    let about = About { cluster: Some("c".parse().unwrap()), listen, ..About::new("m".parse().unwrap()) };
    let addresses = vec![session.rendezvous.listening()[0].to_string()];
    let shared = Arc::new(Shared::new(addresses, about, of, common).unwrap());
    let mut directory = Directory::new(1);
    for number in 0..40 {
        let (cluster, label, more) = ("c".parse().unwrap(), "n".parse().unwrap(), Extras::default());
        let (since, order, leads, via) = (1, 1, false, None);
        directory.join(Entry { node: id(number), cluster, label, since, order, leads, via, more });
    }
    let head = Head::sign(&directory, &authority).unwrap();
    for update in directory.since(Version::default(), &head) {
        assert_eq!(shared.take_update(&mut Default::default(), update, true), Ok(None));
    }
    assert_eq!(shared.tables().list().len(), 40);
    shared
}

/// Packets of others for a node.
fn packets(from: NodeId, to: NodeId) -> Vec<Message> {
    let of = Conversation { number: 9, is_mine: true };
    let loads = [
        Load::Sealed(Sealed { of, sequence: 0, bytes: vec![0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0] }),
        Load::Unknown(of),
        Load::Undelivered { number: 7, why: crate::error::Refusal::NoRoute },
        Load::Piped(of, Part::Bytes { at: 0, bytes: vec![1; 100] }),
        Load::Piped(of, Part::Room { received: 0, until: 1000 }),
        Load::Piped(of, Part::Finish { at: 100 }),
        Load::Piped(of, Part::Over { why: crate::error::Refusal::Late }),
        Load::Other(9),
    ];
    loads.iter().map(|load| Message::Packet(Packet::new(from, to, 7, load))).collect()
}

#[test]
fn a_leader_never_listens_at_all_addresses() {
    let session = Session::new("all-addresses");
    // Who listens there for a moment only would hear that the port is taken.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let all = SocketAddr::from(([0; 4], taken.local_addr().unwrap().port()));
    let shared = member_at(&session, Some(all));
    let why = crate::testing::in_runtime(async { lead::begin(&shared, IpAddr::from([127, 0, 0, 1])) });
    assert!(matches!(&why, Err(Error::Config(why)) if why.contains("all addresses")), "{why:?}");
}

#[test]
fn one_that_comes_again_and_again_is_put_off() {
    let session = Session::new("again-and-again");
    let shared = member(&session);
    crate::testing::in_runtime(async {
        lead::begin(&shared, IpAddr::from([127, 0, 0, 1])).unwrap();
        let came = (0..100).filter(|_| below(&shared, id(70)).is_some()).count();
        // Ten a second; the machine may be slow.
        assert!((10..100).contains(&came), "{came}");
        assert!(below(&shared, id(71)).is_some(), "others get in");
    });
}

#[test]
fn whatever_those_below_say_a_leader_bears_it() {
    alone("member::mutated::a_leader");
}

#[test]
fn whatever_its_leader_says_a_member_bears_it() {
    alone("member::mutated::a_member");
}

/// A node that is connected to a leader, over a way that is no socket.
fn below(shared: &Shared, node: NodeId) -> Option<(Served<DuplexStream>, DuplexStream)> {
    let (cluster, label) = ("c".parse().unwrap(), "wild".parse().unwrap());
    let (known, will, leads, more) = (Version::default(), Default::default(), Vec::new(), Extras::default());
    let about = Attach { cluster, label, known, will, leads, pass: None, more };
    let (sender, queue) = queue(&shared.freight);
    let connection = shared.member_came(Present { node, about }, sender).ok()?;
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let (reader, writer) = tokio::io::split(ours);
    let (from, until) = (SocketAddr::from(([127, 0, 0, 1], 1)), Moment::from_unix(i64::MAX));
    let visitor = Visitor { node, connection, from, until, is_plain: false };
    let (reader, outbox) = (Inbox::new(reader, LONGEST_OF_MEMBER), Outbox::new(writer));
    Some((Served { visitor, reader, outbox, known, queue }, theirs))
}

/// Says some messages to a leader; how many were said.
async fn say_some(shared: &Arc<Shared>, node: NodeId, mutator: &mut Mutator) -> usize {
    let Some((mut member, theirs)) = below(shared, node) else { return 0 };
    let serves = async move {
        let _ = member.serve(shared).await;
        shared.member_gone(node, member.visitor.connection, Departure::Lost);
    };
    talk(theirs, mutator, serves).await
}

#[test]
#[ignore = "run by whatever_those_below_say_a_leader_bears_it, as a process of its own"]
fn a_leader() {
    let session = Session::new("mutated-leader");
    let shared = member(&session);
    // Those who say too much are not listened to for a moment: that time is virtual.
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        lead::begin(&shared, IpAddr::from([127, 0, 0, 1])).unwrap();
        let (sender, mut uplink) = queue(&shared.freight);
        shared.lock().uplink = Some(Uplink { queue: sender, leader: None });
        let (all, mut said, mut connections, mut before) = (count(30), 0, 0, None);
        let sender = id(1 << 90);
        let mut mutator = Mutator::new(&[packets(sender, id(0)), packets(sender, id(3))].concat());
        while said < all {
            connections += 1;
            // Packets that go on are to be of the one that says them, which may not come too often.
            let is_sender = mutator.numbers.below(2) == 0;
            let node = if is_sender { sender } else { id(connections + 1000) };
            said += say_some(&shared, node, &mut mutator).await;
            while uplink.try_recv().is_some() {}
            shared.reports(false);
            if before.is_none() && said >= all / 10 {
                before = Some(Before::now());
            }
        }
        before.unwrap().is_as_before("a leader", said);
        let state = shared.lock();
        assert_eq!(state.leading.as_ref().map(|leading| leading.members.len()), Some(0));
    });
}

#[test]
#[ignore = "run by whatever_its_leader_says_a_member_bears_it, as a process of its own"]
fn a_member() {
    let session = Session::new("mutated-member");
    let shared = member(&session);
    let known = shared.lock().follower.version();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (all, mut before) = (count(20), None);
        let mut link = Link::to_rendezvous(shared.clone()).await.unwrap();
        let leader = id(2);
        let pass = Pass { serial: 1, proof: [1; 32] };
        link.follow = Some(Follow { leader, addresses: Vec::new(), pass, known });
        let mut mutator = Mutator::new(&packets(id(3), id(0)));
        let mut bad = 0;
        for said in 0..all {
            let mut frames = Frames::new(MESSAGE_BYTES_MAX);
            frames.add(&mutator.next());
            match frames.next() {
                Ok(Some(message)) => bad += usize::from(link.take(&shared, message).is_err()),
                Ok(None) => (),
                Err(_) => bad += 1,
            }
            if said == all / 10 {
                before = Some(Before::now());
            }
        }
        before.unwrap().is_as_before("a member", all);
        assert!(bad > all / 10 && bad < all, "{bad} of {all}");
        let state = shared.lock();
        assert!(state.leading.is_none(), "a leader cannot make it listen");
        // Nothing of that was signed.
        assert_eq!((state.follower.version(), state.follower.entries().len()), (known, 40));
    });
}
