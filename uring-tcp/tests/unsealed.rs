//! A rail in a session over which frames are plain: TLS says who the peers are, and nothing else is sealed.

mod common;

use std::net::IpAddr;
use std::sync::Arc;

use common::certificates::Authority;
use common::{check_friend, Members, Tcp};
use gridnet_core::endpoint::PeerState;
use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use gridnet_core::testing::pair::{Fixture, Pair, Setup};
use gridnet_core::wire::{Address, NodeId};
use gridnet_uring_tcp::{Engine, Security, Session};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConnection, ServerConnection};

/// Members that want it plain.
#[derive(Debug)]
struct Plain(Arc<Members>);

impl Session for Plain {
    fn call(&self, fabric: NodeId) -> Result<ClientConnection, Refusal> {
        self.0.call(fabric)
    }

    fn answer(&self) -> Result<ServerConnection, Refusal> {
        self.0.answer()
    }

    fn check(&self, shown: &[CertificateDer<'_>], fabric: NodeId) -> Result<(), Refusal> {
        self.0.check(shown, fabric)
    }

    fn revoked_of(&self, fabrics: &[NodeId]) -> Vec<NodeId> {
        self.0.revoked_of(fabrics)
    }

    fn may_come(&self, from: IpAddr) -> bool {
        self.0.may_come(from)
    }

    fn proved(&self, from: IpAddr) {
        self.0.proved(from);
    }

    fn refused(&self, who: &str, why: &str) {
        self.0.refused(who, why);
    }

    fn refusals(&self) -> u64 {
        self.0.refusals()
    }

    fn linked(&self, fabric: NodeId) {
        self.0.linked(fabric);
    }

    fn unseals(&self) -> bool {
        true
    }
}

const NOBODY: u8 = 77;

fn members() -> Arc<Members> {
    let mut members = Members::of(&Authority::new());
    members.nobody = vec![Tcp::new(Engine::Auto).address(NOBODY).node];
    Arc::new(members)
}

fn plain(members: &Arc<Members>) -> Security {
    Security::Session(Arc::new(Plain(members.clone())))
}

fn fixture(security: Security) -> Tcp {
    Tcp { security, ..Tcp::new(Engine::Auto) }
}

/// What the first node says of how its connections are secured.
fn secured(pair: &mut Pair<Tcp>) -> Vec<&'static str> {
    let to_b = pair.to_b;
    pair.a.engine().paths(to_b).into_iter().filter_map(|(_, path)| path.security).collect()
}

#[test]
fn frames_are_plain_behind_the_greeting_also_after_a_break() {
    let members = members();
    let (mut pair, mut tag) = (Pair::new(fixture(plain(&members))), 0);
    for _ in 0..3 {
        check_friend(&mut pair, &mut tag);
        let said = secured(&mut pair);
        assert!(!said.is_empty() && said.iter().all(|security| *security == "plain"), "{said:?}");
        let b = pair.b.address().node;
        let rail = &mut pair.a.engine().rails_mut()[0];
        rail.link_with(b).into_iter().for_each(|link| rail.cut(link));
    }
    assert!(members.refused.lock().unwrap().is_empty());
}

/// Why a fabric that knows its peers in this way has not come in.
fn try_as(pair: &mut Pair<Tcp>, theirs: Security, number: u8) -> Refusal {
    let own = std::mem::replace(&mut pair.fixture.security, theirs);
    let mut stranger = pair.stranger(number, Setup::default());
    pair.fixture.security = own;
    let address: Address = *pair.a.address();
    let to_a = stranger.engine().open(&address).expect("the call starts");
    let over = pair.run_until(|pair| {
        let now = pair.fixture.tick();
        stranger.drive(now);
        matches!(stranger.state(to_a), PeerState::Gone(_))
    });
    assert!(over, "it is in, or waits");
    let PeerState::Gone(why) = stranger.state(to_a) else { panic!("it is in") };
    assert_eq!(pair.a.engine().counters().peers_now, 1);
    why
}

#[test]
fn nobody_comes_in_plainly_where_it_is_sealed_nor_sealed_where_it_is_plain() {
    let members = members();
    let sealed = Security::Session(members.clone());
    for (own, theirs) in [(sealed.clone(), plain(&members)), (plain(&members), sealed)] {
        let (mut pair, mut tag) = (Pair::new(fixture(own)), 0);
        let why = try_as(&mut pair, theirs, 9);
        assert!(why.error == Error::Permission && why.reason.contains("wants it plain"), "{why:?}");
        assert!(!members.refused.lock().unwrap().is_empty(), "it is noted");
        check_friend(&mut pair, &mut tag);
    }
}

#[test]
fn with_whom_it_was_not_agreed_on_there_is_no_plain_connection() {
    let members = members();
    let (mut pair, mut tag) = (Pair::new(fixture(plain(&members))), 0);
    let why = try_as(&mut pair, plain(&members), NOBODY);
    assert!(why.error == Error::Permission && why.reason.contains("somebody else"), "{why:?}");
    check_friend(&mut pair, &mut tag);
}

/// What was agreed on with a node lasts from its link on, not from its greeting.
#[test]
fn a_session_is_told_of_links_and_of_no_other_who_is_greeted() {
    let members = members();
    let linked = || std::mem::take(&mut *members.linked.lock().unwrap());
    let (mut pair, mut tag) = (Pair::new(fixture(plain(&members))), 0);
    let [a, b] = [pair.a.address().node, pair.b.address().node];
    check_friend(&mut pair, &mut tag);
    let mut both = linked();
    both.sort();
    assert_eq!(both, if a < b { [a, b] } else { [b, a] });
    // Those prove who they are, too, as far as TLS is concerned.
    try_as(&mut pair, Security::Session(members.clone()), 9);
    // A second fabric of a node that is here is greeted, and has no link.
    let twin = pair.fixture.address(2);
    assert_eq!(twin.node, b);
    let why = try_as(&mut pair, plain(&members), 2);
    assert!(why.reason.contains("connected already"), "{why:?}");
    assert_eq!(linked(), []);
    let rail = &mut pair.a.engine().rails_mut()[0];
    rail.link_with(b).into_iter().for_each(|link| rail.cut(link));
    check_friend(&mut pair, &mut tag);
    assert!(linked().contains(&b), "made again");
}
