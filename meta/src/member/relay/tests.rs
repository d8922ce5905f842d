use std::io::{Read, Write};
use std::sync::mpsc::channel;

use rustls::{ClientConnection, ServerConnection, StreamOwned};

use super::*;
use crate::member::About;
use crate::testing::{Session, LONG};
use crate::tls;

const NONCE: &[u8; 32] = b"nobody on the way is to see this";

fn contains(seen: &[u8], nonce: &[u8]) -> bool {
    seen.windows(nonce.len()).any(|window| window == nonce)
}

#[test]
fn who_passes_it_on_sees_ciphertext_only_when_the_ends_speak_tls() {
    let session = Session::new("nonce");
    let join = |label: &str| {
        let about = About { cluster: Some(label.parse().unwrap()), ..About::new(label.parse().unwrap()) };
        Member::join(session.ticket(), about, LONG).unwrap()
    };
    let (a, b) = (join("a"), join("b"));
    assert!(a.wait_for_count(LONG, 2));
    let (tell, told) = channel();
    let tell = Mutex::new(tell);
    b.serve_relays(move |_, _, relay| {
        tell.lock().unwrap().send(relay.into_parts().0).map_err(|e| e.to_string())
    });
    let open = || {
        let ours = a.relay(b.node(), b"", LONG).unwrap().into_parts().0;
        (ours, told.recv_timeout(LONG).unwrap())
    };
    let seen = || session.rendezvous.freight().seen.lock().unwrap().clone();
    let (ours, theirs) = open();
    let asking = tls::asking(&a.shared.authority, &a.shared.identity()).unwrap();
    let asked = tls::asked(&b.shared.authority, b.shared.key.clone()).unwrap();
    let client = ClientConnection::new(asking, tls::node(b.node()).unwrap()).unwrap();
    let mut sealed = StreamOwned::new(client, ours);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = StreamOwned::new(ServerConnection::new(asked).unwrap(), theirs);
            let mut come = [0; NONCE.len()];
            stream.read_exact(&mut come).unwrap();
            stream.write_all(&come).unwrap();
            stream.flush().unwrap();
            // Until the other side has it.
            let _ = stream.sock.read(&mut [0; 1]);
        });
        sealed.write_all(NONCE).unwrap();
        sealed.flush().unwrap();
        let mut come = [0; NONCE.len()];
        sealed.read_exact(&mut come).unwrap();
        assert_eq!(&come, NONCE);
        sealed.sock.shutdown(std::net::Shutdown::Both).unwrap();
    });
    assert!(seen().len() > 1000 && !contains(&seen(), NONCE), "{} bytes were seen", seen().len());
    // What is not sealed is seen there.
    let (mut ours, mut theirs) = open();
    ours.write_all(NONCE).unwrap();
    theirs.read_exact(&mut [0; NONCE.len()]).unwrap();
    assert!(contains(&seen(), NONCE));
}

#[test]
fn a_program_that_has_gone_ends_its_pipe_although_the_other_says_nothing() {
    let session = Session::new("gone");
    let join = |label: &str| {
        let about = About { cluster: Some(label.parse().unwrap()), ..About::new(label.parse().unwrap()) };
        Member::join(session.ticket(), about, LONG).unwrap()
    };
    let (a, b) = (join("a"), join("b"));
    assert!(a.wait_for_count(LONG, 2));
    let (tell, told) = channel();
    let tell = Mutex::new(tell);
    b.serve_relays(move |_, _, relay| tell.lock().unwrap().send(relay).map_err(|e| e.to_string()));
    let (stream, fate) = a.relay(b.node(), b"", LONG).unwrap().into_parts();
    let theirs = told.recv_timeout(LONG).unwrap();
    drop(stream);
    let begun = Instant::now();
    while fate.end().is_none() {
        assert!(begun.elapsed() < LONG, "it stays");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    assert!(matches!(fate.end(), Some(Err(Error::Refused(Refusal::Ended, _)))), "{:?}", fate.end());
    assert!(a.shared.relays.ends().is_empty());
    drop(theirs);
}

#[test]
fn a_pipe_that_was_long_asked_for_is_not_silent() {
    let asked = Instant::now() - 2 * crate::pipe::SILENCE_LIMIT;
    let inner = Mutex::new(Inner {
        pipe: Pipe::new(asked),
        hops: 0,
        over: None,
        comes_until: None,
        is_told: false,
        ended: None,
        is_open: false,
        why_not: None,
    });
    let key = (NodeId::new([1; 16]).unwrap(), Conversation { number: 1, is_mine: true });
    let end = End { key, number: 1, inner, woken: Notify::new() };
    let before = Instant::now();
    end.opened(None);
    assert_eq!(end.is_open(), Ok(true));
    assert_eq!(end.lock().pipe.check(before), Ok(()));
}

#[test]
fn what_has_come_goes_to_the_program_before_a_pipe_ends() {
    let begun = Instant::now();
    let part = |at, bytes: &[u8]| Part::Bytes { at, bytes: bytes.to_vec() };
    let mut inner = Inner {
        pipe: Pipe::new(begun),
        hops: 0,
        over: None,
        comes_until: Some(begun + LAST_PARTS),
        is_told: false,
        ended: None,
        is_open: true,
        why_not: None,
    };
    inner.pipe.take(part(0, b"come"), begun).unwrap();
    for (why, is_done) in [(Refusal::NoRoute, false), (Refusal::Ended, false), (Refusal::Revoked, true)] {
        assert_eq!(inner.is_done(why, begun), is_done, "{why:?}");
    }
    inner.pipe.taken(4);
    assert!(!inner.is_done(Refusal::NoRoute, begun), "more may come");
    assert!(inner.is_done(Refusal::NoRoute, begun + LAST_PARTS), "not for ever");
    inner.pipe.take(Part::Finish { at: 6 }, begun).unwrap();
    assert!(!inner.is_done(Refusal::NoRoute, begun), "two are missing");
    inner.pipe.take(part(4, b"in"), begun).unwrap();
    assert!(!inner.is_done(Refusal::NoRoute, begun), "the program has not got them");
    inner.pipe.taken(2);
    assert!(inner.is_done(Refusal::NoRoute, begun), "that was all");
}
