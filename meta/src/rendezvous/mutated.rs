//! A rendez-vous node to which members say what is almost right.

use super::*;
use crate::channel::Inbox;
use crate::cluster::Will;
use crate::hub::{Served, Visitor};
use crate::member::{About, Connection, Member};
use crate::message::Attach;
use crate::mutated::{alone, count, talk, Before, Mutator};
use crate::outbox::Outbox;
use crate::queue::queue;
use crate::record::Extras;
use crate::testing::{Session, LONG};
use tokio::io::DuplexStream;

#[test]
fn whatever_members_say_the_rendezvous_node_bears_it() {
    alone("rendezvous::mutated::in_a_process_of_its_own");
}

/// A member that is attached, over a way that is no socket.
fn attached(
    shared: &Shared,
    node: NodeId,
    leads: Vec<SocketAddr>,
) -> Option<(Served<DuplexStream>, DuplexStream)> {
    let (cluster, label) = ("c".parse().unwrap(), "wild".parse().unwrap());
    let will = if leads.is_empty() { Will::Unwilling } else { Will::Configured };
    let (known, more) = (Version::default(), Extras::default());
    let attach = Attach { cluster, label, known, will, leads, pass: None, more };
    let (sender, queue) = queue(&shared.freight);
    let from = SocketAddr::from(([127, 0, 0, 1], 1));
    let connection = {
        let mut state = shared.lock();
        let connection = state.register.attach(node, &attach, (Instant::now(), Moment::now())).ok()?;
        state.links.insert(
            node,
            Link { connection, from, queue: sender, is_plain: false, refusals: BTreeMap::new() },
        );
        connection
    };
    shared.announce();
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let (reader, writer) = tokio::io::split(ours);
    let visitor = Visitor { node, connection, from, until: Moment::from_unix(i64::MAX), is_plain: false };
    let (reader, outbox) = (Inbox::new(reader, LONGEST_OF_MEMBER), Outbox::new(writer));
    Some((Served { visitor, reader, outbox, known, queue }, theirs))
}

/// Says some messages; how many were said.
async fn say_some(shared: &Arc<Shared>, node: NodeId, mutator: &mut Mutator) -> usize {
    let leads = match mutator.numbers.below(2) {
        0 => Vec::new(),
        _ => vec![SocketAddr::from(([127, 0, 0, 1], 9))],
    };
    let Some((mut member, theirs)) = attached(shared, node, leads) else { return 0 };
    let serves = async move {
        let ended = member.serve(shared).await;
        shared.detach(node, member.visitor.connection, departure(&ended));
    };
    talk(theirs, mutator, serves).await
}

#[test]
#[ignore = "run by whatever_members_say_the_rendezvous_node_bears_it, as a process of its own"]
fn in_a_process_of_its_own() {
    let session = Session::new("mutated");
    let about = About { cluster: Some("good".parse().unwrap()), ..About::new("good".parse().unwrap()) };
    let good = Member::join(session.ticket(), about, LONG).unwrap();
    let shared = session.rendezvous.shared.clone();
    let mut mutator = Mutator::new(&[]);
    let all = count(40);
    // Those who say too much are not listened to for a moment: that time is virtual.
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().start_paused(true).build().unwrap();
    let (mut said, mut connections, mut before) = (0, 0u128, None);
    while said < all {
        connections += 1;
        let node = NodeId::new((connections | 1 << 100).to_be_bytes()).unwrap();
        said += runtime.block_on(say_some(&shared, node, &mut mutator));
        // What is made once is made by then.
        if before.is_none() && said >= all / 10 {
            before = Some(Before::now());
        }
    }
    before.unwrap().is_as_before("a rendez-vous node", said);
    assert!(session.rendezvous.is_running());
    let status = session.rendezvous.status();
    assert!(status.refusals["malformed"] > 0);
    assert_eq!((status.nodes.len(), status.links.len()), (1, 1), "{:?}", status.nodes);
    let last = Member::join(session.ticket(), About::new("last".parse().unwrap()), LONG).unwrap();
    assert!(good.wait_for_nodes(LONG, |nodes| nodes.iter().any(|entry| entry.node == last.node())));
    assert_eq!(good.connection(), Connection::Attached);
}
