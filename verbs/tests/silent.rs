//! Peers that do not answer.

mod common;

use std::time::{Duration, Instant};

use common::Verbs;
use gridnet_core::endpoint::PeerState;
use gridnet_core::testing::node::anything;
use gridnet_core::testing::pair::{Fixture, Pair};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that does not call: its software device answers nobody, its host does. The link breaks, and the conversation goes on with
/// it.
#[test]
fn a_process_that_does_not_call_is_waited_for() {
    let mut pair = Pair::new(Verbs::udp());
    let to_b = pair.to_b;
    let send = pair.a.send(to_b, &[7; 100_000], 1);
    let end = Instant::now() + PATIENCE;
    while pair.a.state(to_b) == PeerState::Up {
        assert!(Instant::now() < end, "the link does not break");
        let now = pair.fixture.tick();
        pair.a.drive(now);
    }
    assert_ne!(pair.a.engine().breaks(to_b).0, 0);
    let receive = pair.b.receive(anything(), 100_000);
    assert!(pair.finish_b(receive).bytes == [7; 100_000]);
    assert_eq!(pair.finish_a(send).status, Ok(()));
}
