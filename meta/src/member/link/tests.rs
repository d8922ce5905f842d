//! What somebody on the way of a plain connection says in the name of the rendez-vous node.

use tokio::net::TcpListener;

use super::*;
use crate::authority;
use crate::directory::Version;
use crate::driver::Driver;
use crate::member::About;
use crate::pass::Pass;
use crate::plain::{self, Own};
use crate::secret::SECRET_BYTES;
use crate::testing::{in_runtime, Parties, LONG};

/// A rendez-vous node that greets plainly, and what it hears of one that comes.
async fn greet(listener: &TcpListener, own: &Own) -> Inbox<ReadHalf<Wire>> {
    let (reader, mut writer) = tokio::io::split(Wire::Plain(listener.accept().await.unwrap().0));
    let mut reader = Inbox::new(reader, MESSAGE_BYTES_MAX);
    plain::answer(own, &mut reader, &mut writer).await.unwrap();
    reader
}

#[test]
fn a_leader_that_anybody_may_have_named_does_not_make_a_member_deaf() {
    let (parties, driver) = (Parties::new(), Driver::start().unwrap());
    let key = authority::key().unwrap();
    let certificate = parties.authority().certify_rendezvous(&key, Moment::now(), LONG).unwrap();
    let own = Own { key, certificate, authority: parties.authority().certificate().clone() };
    in_runtime(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = vec![listener.local_addr().unwrap().to_string()];
        let to = Whereabouts { addresses, insecure: true, ..Whereabouts::default() };
        let about = About::new("tests".parse().unwrap());
        let shared = Arc::new(Shared::new(to, about, parties.member(0), driver.common()).unwrap());
        let (link, _reader) = tokio::join!(Link::to_rendezvous(shared.clone()), greet(&listener, &own));
        let mut link = link.unwrap();
        let forged = Follow {
            leader: parties.node(1),
            addresses: Vec::new(),
            pass: Pass { serial: 1, proof: [0; SECRET_BYTES] },
            known: Version { epoch: u64::MAX, number: u64::MAX },
        };
        link.take(&shared, Message::Follow(forged)).unwrap();
        assert!(matches!(link.beside.join_next().await, Some(Ok(Done::Moved(Err(_))))));
        let floor = shared.lock().follower.floor();
        assert_eq!(floor, Version::default(), "updates that come are taken");
    });
}
