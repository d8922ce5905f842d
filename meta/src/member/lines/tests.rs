//! Lines between members of a session on this host, and those who call where one was agreed on.

use std::net::TcpStream as PlainStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::*;
use crate::channel::{send, Inbox};
use crate::driver::Driver;
use crate::member::{About, ECHO};
use crate::message::MESSAGE_BYTES_MAX;
use crate::mutated::{alone, listens};
use crate::testing::{in_runtime, Parties, Scratch, Session, LONG};
use crate::tls;

/// What is asked in these tests.
const SERVICE: u16 = 1000;

fn join(session: &Session, label: &str) -> Member {
    let about = About { cluster: Some(label.parse().unwrap()), ..About::new(label.parse().unwrap()) };
    Member::join(session.ticket(), about, LONG).unwrap()
}

/// Two members of two clusters, who know each other.
fn two(session: &Session) -> [Member; 2] {
    let members = ["a", "b"].map(|label| join(session, label));
    members.iter().for_each(|member| assert!(member.wait_for_count(LONG, 2)));
    members
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

fn is_up(from: &Member, to: &Member) -> bool {
    matches!(from.line(to.node()), LineState::Up { .. })
}

/// Asks once, and waits until both ask each other over a line. When it has just come up, answers may still go by the tree.
fn warm([from, to]: &[Member; 2]) {
    assert_eq!(from.ask(to.node(), ECHO, b"first", LONG).unwrap().body, b"first");
    until("a line stands", || is_up(from, to) && is_up(to, from));
    for (from, to) in [(from, to), (to, from)] {
        until("it is used", || from.ask(to.node(), ECHO, b"", LONG).unwrap().trail.hops() == 1);
    }
}

/// By which lines are TLS over TCP also within a host.
fn seal(members: &[Member]) {
    members
        .iter()
        .for_each(|member| member.shared.rule_lines("[[rule]]\nuse = ['tls/tcp']".parse().unwrap()));
}

#[test]
fn the_second_request_passes_nobody_and_needs_nobody() {
    passes_nobody("second", "unix, called at process ", |_| ());
}

#[test]
fn rules_that_ask_for_tls_get_it_within_a_host_too() {
    passes_nobody("sealed", "tls/tcp, called at 127.0.0.1:", seal);
    // Whoever of the two asks for it.
    let session = Session::new("one-sealed");
    let members = two(&session);
    seal(&members[1..]);
    warm(&members);
    let stack = |state: LineState| matches!(state, LineState::Up { stack: "tls/tcp", .. });
    assert!(stack(members[0].line(members[1].node())));
    // And when rules change: one without ends, and another one is made later.
    seal(&members[..1]);
    let unseal = |member: &Member| member.shared.rule_lines(Rules::default());
    members.iter().for_each(unseal);
    members[0].shared.lines.end(members[1].node());
    until("the other side knows", || !is_up(&members[1], &members[0]));
    members.iter().for_each(unseal);
    warm(&members);
    let [a, b] = &members;
    assert!(a.line(b.node()).to_string().starts_with("unix, "), "{}", a.line(b.node()));
    seal(&members);
    until("it is over", || !is_up(a, b) && !is_up(b, a));
}

fn passes_nobody(what: &str, stack: &str, prepare: fn(&[Member])) {
    let session = Session::new(what);
    let members = two(&session);
    prepare(&members);
    let [a, b] = &members;
    assert!(a.lines().is_empty(), "as long as nobody is asked");
    assert_eq!(a.ask(b.node(), ECHO, b"x", LONG).unwrap().trail.nodes().len(), 1);
    warm(&members);
    let packets = || session.rendezvous.status().packets.passed_on;
    let before = packets();
    for (from, to) in [(a, b), (b, a)] {
        for len in [0, 1000, 20_000] {
            let answer = from.ask(to.node(), ECHO, &vec![7; len], LONG).unwrap();
            assert_eq!((answer.body.len(), answer.trail.hops()), (len, 1));
        }
    }
    assert_eq!(packets(), before);
    let said = a.line(b.node()).to_string();
    assert!(said.starts_with(stack), "{said}");
    assert_eq!(a.lines().len(), 1);
    drop(session);
    let is_lost = |connection: &super::super::Connection| *connection != super::super::Connection::Attached;
    assert!(members.iter().all(|member| member.wait_for_connection(LONG, is_lost)));
    assert_eq!(a.ask(b.node(), ECHO, b"alone", LONG).unwrap().body, b"alone");
}

#[test]
fn a_request_over_a_line_that_is_cut_is_done_once_and_answered() {
    is_cut("cut", |_| ());
    is_cut("cut-sealed", seal);
}

fn is_cut(what: &str, prepare: fn(&[Member])) {
    let session = Session::new(what);
    let members = two(&session);
    prepare(&members);
    let [a, b] = &members;
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let (gate, done) = (Mutex::new(gate), Arc::new(AtomicUsize::new(0)));
    let count = done.clone();
    b.serve(SERVICE, move |_, body| {
        count.fetch_add(1, Ordering::Relaxed);
        let _ = gate.lock().unwrap().recv();
        Ok(body.to_vec())
    });
    warm(&members);
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| a.ask(b.node(), SERVICE, b"once", LONG));
        until("it is being done", || done.load(Ordering::Relaxed) == 1);
        b.shared.lines.end(a.node());
        until("the other side knows", || !is_up(a, b));
        drop(open);
        assert_eq!(waits.join().unwrap().unwrap().body, b"once");
    });
    assert_eq!(done.load(Ordering::Relaxed), 1);
    assert!(!a.ask(b.node(), ECHO, b"", LONG).unwrap().trail.nodes().is_empty(), "not over the line");
    let said = a.line(b.node()).to_string();
    assert!(said.starts_with("the bootstrap channel: "), "{said}");
}

#[test]
fn rules_of_either_side_keep_requests_on_the_tree() {
    let session = Session::new("rules");
    for keeps in [0, 1] {
        let members = two(&session);
        let [a, b] = &members;
        members[keeps].shared.rule_lines("scheme = 'relay-only'".parse().unwrap());
        assert_eq!(a.ask(b.node(), ECHO, b"", LONG).unwrap().trail.hops(), 2);
        let says = |state: LineState| matches!(state, LineState::Bootstrap { why, .. } if why.contains("rules allow no other way"));
        until("it was tried", || says(a.line(b.node())));
        assert_eq!(a.ask(b.node(), ECHO, b"", LONG).unwrap().trail.hops(), 2);
        assert!(b.lines().is_empty(), "nothing was begun there");
        drop(members);
        until("both have left", || session.rendezvous.status().nodes.is_empty());
    }
    // A line that stands ends with the rules that have allowed it.
    let members = two(&session);
    warm(&members);
    let [a, b] = &members;
    b.shared.rule_lines("scheme = 'cluster'".parse().unwrap());
    until("it is over", || !is_up(a, b) && !is_up(b, a));
    assert_eq!(a.ask(b.node(), ECHO, b"", LONG).unwrap().trail.hops(), 2);
}

#[test]
fn a_line_that_stands_is_judged_again_and_again() {
    let session = Session::new("again");
    let members = two(&session);
    warm(&members);
    let [a, b] = &members;
    // As if what is known of the two had changed.
    *b.shared.lines.rules() = Some(Arc::new("scheme = 'cluster'".parse().unwrap()));
    until("it is over", || !is_up(a, b) && !is_up(b, a));
}

#[test]
fn there_is_no_line_before_rules_are_known_that_are_to_come() {
    let session = Session::new("no-rules-yet");
    let about = About { offer: Some(Default::default()), ..About::new("a".parse().unwrap()) };
    let a = Member::join(session.ticket(), About { cluster: Some("a".parse().unwrap()), ..about }, LONG);
    let members = [a.unwrap(), join(&session, "b")];
    let [a, b] = &members;
    assert!(a.wait_for_count(LONG, 2) && b.wait_for_count(LONG, 2));
    for (from, to) in [(a, b), (b, a)] {
        assert_eq!(from.ask(to.node(), ECHO, b"", LONG).unwrap().body, b"");
        let says = |state: LineState| matches!(state, LineState::Bootstrap { why, .. } if why.contains("not known yet"));
        until("it was tried", || says(from.line(to.node())));
    }
    assert!(a.lines().iter().chain(&b.lines()).all(|line| line.state != LineState::Making));
    a.shared.rule_lines(Rules::default());
    assert_eq!(a.ask(b.node(), ECHO, b"", LONG).unwrap().body, b"");
    until("a line stands", || is_up(a, b) && is_up(b, a));
}

#[test]
fn a_revoked_node_has_no_line() {
    let session = Session::new("revoked-line");
    let members = two(&session);
    warm(&members);
    let [a, b] = &members;
    assert!(session.rendezvous.revoke(b.node()).unwrap());
    until("it is over", || !is_up(a, b) && !is_up(b, a));
    until("it is known", || a.is_revoked(b.node()));
    assert!(matches!(
        a.ask(b.node(), ECHO, b"", LONG),
        Err(crate::error::Error::Refused(Refusal::Revoked, _))
    ));
    assert!(a.shared.answer_line(b.node(), &[]).is_err());
}

#[test]
fn a_leader_and_one_below_it_have_a_line_within_the_host_only() {
    let session = Session::new("beside");
    let about = || About::new("one".parse().unwrap());
    let members = [0, 1].map(|_| Member::join(session.ticket(), about(), LONG).unwrap());
    let is_led = |entries: &[crate::directory::Entry]| {
        entries.len() == 2
            && entries.iter().any(|entry| entry.leads)
            && entries.iter().any(|entry| entry.via.is_some())
    };
    assert!(members.iter().all(|member| member.wait_for_nodes(LONG, is_led)));
    let [a, b] = &members;
    until("one is below the other", || a.leader().is_some() != b.leader().is_some());
    seal(&members);
    assert_eq!(a.ask(b.node(), ECHO, b"", LONG).unwrap().trail.nodes().len(), 0);
    assert!(a.lines().is_empty() && b.lines().is_empty(), "the connection that there is will do");
    members.iter().for_each(|member| member.shared.rule_lines(Rules::default()));
    warm(&members);
    assert!(a.line(b.node()).to_string().starts_with("unix, "), "{}", a.line(b.node()));
}

#[test]
fn within_a_host_no_port_is_opened() {
    alone("member::lines::tests::one_of_the_same_host_is_answered");
}

#[test]
#[ignore = "run by within_a_host_no_port_is_opened, as a process of its own"]
fn one_of_the_same_host_is_answered() {
    let session = Session::new("no-port");
    let members = two(&session);
    warm(&members);
    let [a, b] = &members;
    let before = listens();
    let host = b.shared.lock().host.clone();
    let ask = |uid: u32| postcard::to_stdvec(&((9u64, host.clone(), Vec::<SocketAddr>::new()), uid)).unwrap();
    let _here = b.shared.lines.handle.enter();
    let named = || std::fs::read_to_string("/proc/self/net/unix").unwrap().matches("@gridnet-line-").count();
    let own = nix::unistd::geteuid().as_raw();
    let (names, answer) = (named(), b.shared.answer_line(a.node(), &ask(own)).unwrap());
    // It waits for the other one for some seconds.
    assert!(named() > names && listens() == before);
    let ((_, at), rest) =
        postcard::take_from_bytes::<(Option<crate::name::Name>, Vec<SocketAddr>)>(&answer).unwrap();
    assert!(at.is_empty() && rest.len() >= 48, "a name and a secret");
    // One of another user is told of a port.
    let answer = b.shared.answer_line(a.node(), &ask(own + 1)).unwrap();
    let ((_, at), rest) =
        postcard::take_from_bytes::<(Option<crate::name::Name>, Vec<SocketAddr>)>(&answer).unwrap();
    assert!(at.len() == 1 && rest.is_empty() && listens() != before);
}

/// Where a process finds the ticket with which it joins.
const TICKET: &str = "META_TEST_TICKET";

#[test]
fn a_line_ends_when_the_other_process_is_killed() {
    let session = Session::new("killed");
    let (a, scratch) = (join(&session, "a"), Scratch::new("killed-ticket"));
    session.ticket().write(&scratch.path("ticket")).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--ignored", "--exact", "member::lines::tests::one_that_is_killed"]);
    let mut child = child.env(TICKET, scratch.path("ticket")).stdout(Stdio::null()).spawn().unwrap();
    let at = At::Process(child.id());
    let up = || a.lines().iter().any(|line| matches!(line.state, LineState::Up { at: to, .. } if to == at));
    until("a line stands", up);
    child.kill().unwrap();
    child.wait().unwrap();
    until("it is over", || !up());
}

#[test]
#[ignore = "run by a_line_ends_when_the_other_process_is_killed, as a process of its own"]
fn one_that_is_killed() {
    let Some(ticket) = std::env::var_os(TICKET) else { return };
    let ticket = crate::ticket::Ticket::read(std::path::Path::new(&ticket)).unwrap();
    let about = About { cluster: Some("b".parse().unwrap()), ..About::new("b".parse().unwrap()) };
    let member = Member::join(ticket, about, LONG).unwrap();
    let end = Instant::now() + LONG;
    while Instant::now() < end {
        for other in member.nodes().iter().filter(|other| other.node != member.node()) {
            // It may end first.
            let _ = member.ask(other.node, ECHO, b"", Duration::from_secs(1));
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

#[test]
fn where_nobody_can_be_reached_within_the_host_a_line_is_by_tls() {
    let session = Session::new("falls-back");
    let members = two(&session);
    let [a, b] = &members;
    // As if it did not get in there.
    a.shared.lines.blocked.store(true, Ordering::Relaxed);
    warm(&members);
    let said = a.line(b.node()).to_string();
    assert!(said.starts_with("tls/tcp, called at 127.0.0.1:"), "{said}");
}

#[test]
fn one_that_listens_is_called_and_one_that_does_not_calls() {
    let session = Session::new("calls");
    let members = two(&session);
    let [a, b] = &members;
    // As if it were of another host, and had no address that others reach.
    let alone = |member: &Member| member.shared.lock().own = [None; 2];
    for (member, host) in [(a, "host-a"), (b, "host-b")] {
        member.shared.lock().host = Some(host.parse().unwrap());
        alone(member);
    }
    assert_eq!(a.ask(b.node(), ECHO, b"", LONG).unwrap().body, b"");
    let says = |state: LineState, what: &str| matches!(&state, LineState::Bootstrap { why, .. } if why.contains(what));
    until("nobody listens", || says(a.line(b.node()), "has no address for others to call"));
    assert_eq!(a.ask(b.node(), ECHO, b"", LONG).unwrap().trail.hops(), 2, "by the tree as before");
}

/// A member, as its thread has it, and another two of its session.
fn listening(parties: &Parties) -> (Driver, Arc<Shared>) {
    let driver = Driver::start().unwrap();
    let about = About::new("tests".parse().unwrap());
    let shared = Shared::new(Vec::new(), about, parties.member(0), driver.common()).unwrap();
    (driver, Arc::new(shared))
}

/// Calls as that party for the line of that number; what it hears first.
async fn call(at: SocketAddr, parties: &Parties, party: usize, to: NodeId, number: u64) -> Option<Message> {
    let (identity, authority) = parties.member(party);
    let tls = tls::calling_line(&authority, &identity).unwrap();
    let stream = TcpStream::connect(at).await.unwrap();
    let stream = TlsConnector::from(tls).connect(tls::node(to).unwrap(), stream).await.ok()?;
    let (reader, mut writer) = tokio::io::split(stream);
    // It may have been sent away already.
    let _ = send(&mut writer, &Message::Line(number)).await;
    Inbox::new(reader, MESSAGE_BYTES_MAX).next().await.ok()
}

#[test]
fn only_the_member_that_was_agreed_with_gets_in() {
    let (parties, others) = (Parties::new(), Parties::new());
    let (_driver, shared) = listening(&parties);
    in_runtime(async {
        let (listeners, at) = door::open(&[Ipv4Addr::LOCALHOST.into()]).unwrap();
        let (at, node) = (at[0], parties.node(0));
        let waits = tokio::spawn({
            let (shared, line) = (shared.clone(), (parties.node(1), 7));
            async move { door::wait(&shared, listeners, line).await.map(|stood| stood.has_called) }
        });
        // Nonsense, one of another session, another member, and the right one for another line.
        let mut stranger = TcpStream::connect(at).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stranger, b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        assert_eq!(call(at, &others, 1, node, 7).await, None);
        assert_eq!(call(at, &parties, 2, node, 7).await, None);
        assert_eq!(call(at, &parties, 1, node, 8).await, None);
        assert!(!waits.is_finished());
        assert_eq!(call(at, &parties, 1, node, 7).await, Some(Message::Line(7)));
        assert_eq!(waits.await.unwrap(), Ok(false));
        assert!(PlainStream::connect(at).is_err(), "nobody listens any more");
    });
    let lines: Vec<String> =
        shared.lock().audit.lines().map(|line| format!("{}: {}", line.refusal, line.why)).collect();
    assert!(lines.len() >= 4 && lines.iter().all(|line| line.starts_with("stranger: ")), "{lines:#?}");
    let other = format!("is node {}: a line was agreed on with node {}", parties.node(2), parties.node(1));
    for why in [other.as_str(), "a line that was not agreed on"] {
        assert!(lines.iter().any(|line| line.contains(why)), "{lines:#?}");
    }
}

#[test]
fn requests_for_lines_that_make_no_sense_are_noted_and_so_many_are_heard() {
    let session = Session::new("asks");
    let [a, b] = two(&session);
    let refused = |body: &[u8]| a.shared.answer_line(b.node(), body).unwrap_err().0;
    let place = |host: Option<crate::name::Name>, at: &str| {
        postcard::to_stdvec(&(1u64, host, vec![at.parse::<SocketAddr>().unwrap()])).unwrap()
    };
    let own = a.shared.lock().host.clone();
    assert_eq!(refused(&[0xff; 3]), Refusal::Malformed);
    assert_eq!(refused(&place(None, "127.0.0.1:22")), Refusal::Malformed, "it is elsewhere");
    assert_eq!(refused(&place(own, "127.0.0.1:22")), Refusal::Malformed, "it says that it is of this host");
    let refusals: Vec<Refusal> = (0..20).map(|_| refused(&[])).collect();
    assert!(refusals.contains(&Refusal::Rate), "{refusals:?}");
    for why in ["not its own", "is to call itself"] {
        let is_it =
            |line: &crate::audit::Line| line.who == format!("node {}", b.node()) && line.why.contains(why);
        assert!(a.refused().iter().any(is_it), "{why}");
    }
    assert!(a.lines().is_empty());
}
