use super::certificates::{name, Authority};
use crate::out::Out;
use crate::socket::{pair, Moved, Stream};
use gridnet_core::mem::{Gather, Iov};
use gridnet_core::wire::{Header, Kind};
use rustls::{ClientConnection, ServerConnection};
use socket2::MaybeUninitSlice;
use std::io::{ErrorKind, IoSlice};
use std::mem::MaybeUninit;

use super::Failed;

/// Two ends of a connection; the first has called.
fn secured() -> (Stream, Stream) {
    let authority = Authority::new();
    let (mut one, mut other) = pair();
    one.secure(ClientConnection::new(authority.member().client, name()).unwrap().into());
    other.secure(ServerConnection::new(authority.member().server).unwrap().into());
    (one, other)
}

/// Reads until so many bytes are there, or the connection ends.
fn read(from: &Stream, other: &Stream, count: usize) -> Result<Vec<u8>, Moved> {
    let (mut all, mut buffer) = (Vec::new(), [0; 5000]);
    while all.len() < count {
        match from.receive(&mut buffer) {
            Moved::Bytes(len) => all.extend_from_slice(&buffer[..len]),
            Moved::Nothing => {
                // Its part of the handshake, and what it has not sent yet.
                assert!(matches!(other.receive(&mut [0; 1]), Moved::Nothing));
                let _ = other.push();
                std::thread::yield_now();
            }
            end => return Err(end),
        }
    }
    Ok(all)
}

fn noise(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 256) as u8).collect()
}

#[test]
fn what_is_said_before_the_handshake_has_ended_comes_behind_it() {
    let (one, other) = secured();
    assert!(matches!(one.send(b"at once"), Moved::Bytes(7)));
    assert_eq!(read(&other, &one, 7).unwrap(), b"at once");
    assert_eq!(other.shown().len(), 1);
    assert!(matches!(other.send(b"back"), Moved::Bytes(4)));
    assert_eq!(read(&one, &other, 4).unwrap(), b"back");
}

#[test]
fn more_than_the_network_takes_waits_within_bounds_and_comes_whole() {
    let (one, other) = secured();
    let all = noise(3_000_000);
    let (mut sent, mut came) = (0, Vec::new());
    while came.len() < all.len() {
        // Until nothing more is taken: what waits is bounded by the buffers of the kernel and of TLS.
        while sent < all.len() {
            match one.send(&all[sent..]) {
                Moved::Bytes(len) => sent += len,
                Moved::Nothing => break,
                end => panic!("{end:?}"),
            }
            assert!(sent - came.len() < 1 << 20, "nothing bounds what waits");
        }
        let mut buffer = [0; 40_000];
        match other.receive(&mut buffer) {
            Moved::Bytes(len) => came.extend_from_slice(&buffer[..len]),
            Moved::Nothing => {
                assert!(matches!(one.receive(&mut [0; 1]), Moved::Nothing));
                let _ = one.push();
            }
            end => panic!("{end:?}"),
        }
    }
    assert!(came == all);
}

#[test]
fn fewer_bytes_than_were_asked_for_say_that_nothing_more_is_there() {
    let (one, other) = secured();
    assert!(matches!(one.send(&noise(10_000)), Moved::Bytes(10_000)));
    assert_eq!(read(&other, &one, 5000).unwrap().len(), 5000);
    // The rest is here, and nobody who watches the socket knows.
    assert!(other.has_more());
    assert!(matches!(other.receive(&mut [0; 4999]), Moved::Bytes(4999)));
    assert!(other.has_more());
    assert!(matches!(other.receive(&mut [0; 100]), Moved::Bytes(1)));
    assert!(!other.has_more());
    assert!(matches!(other.receive(&mut [0; 100]), Moved::Nothing));
}

#[test]
fn pieces_are_gathered_and_scattered() {
    let (one, other) = secured();
    let all = noise(40_000);
    let mut pieces = [IoSlice::new(&all[..1]), IoSlice::new(&[]), IoSlice::new(&all[1..])];
    assert!(matches!(one.send_pieces(&mut pieces), Moved::Bytes(40_000)));
    let mut to = [[MaybeUninit::new(0u8); 7_000], [MaybeUninit::new(0u8); 7_000]];
    let (mut came, mut passed) = (Vec::new(), 0);
    while passed < all.len() {
        let [first, second] = &mut to;
        let mut places =
            [MaybeUninitSlice::new(first), MaybeUninitSlice::new(&mut []), MaybeUninitSlice::new(second)];
        match other.receive_pieces(&mut places) {
            Moved::Bytes(len) => {
                // SAFETY: all of them were given a value above.
                let bytes = to.as_flattened().iter().map(|byte| unsafe { byte.assume_init() });
                came.extend(bytes.take(len));
                passed += len;
            }
            Moved::Nothing => assert!(matches!(one.receive(&mut [0; 1]), Moved::Nothing)),
            end => panic!("{end:?}"),
        }
    }
    assert!(came == all);
}

#[test]
fn keys_change_on_the_way() {
    let (one, other) = secured();
    for round in 0..20u8 {
        assert!(matches!(one.send(&[round; 100]), Moved::Bytes(100)));
        assert_eq!(read(&other, &one, 100).unwrap(), [round; 100]);
        assert!(matches!(other.send(&[round; 9]), Moved::Bytes(9)));
        assert_eq!(read(&one, &other, 9).unwrap(), [round; 9]);
        let who = if round % 2 == 0 { &one } else { &other };
        who.renew_keys();
    }
}

#[test]
fn an_end_that_was_said_is_told_from_one_that_was_not() {
    for says in [true, false] {
        let (one, other) = secured();
        assert!(matches!(one.send(b"last"), Moved::Bytes(4)));
        assert_eq!(read(&other, &one, 4).unwrap(), b"last");
        if says {
            one.end_sending();
        } else {
            one.end();
        }
        match (says, read(&other, &other, 1).unwrap_err()) {
            (true, Moved::End) => {}
            (false, Moved::Broken(e)) if e.kind() == ErrorKind::UnexpectedEof => {}
            (_, end) => panic!("{says} {end:?}"),
        }
        assert!(other.has_more(), "nobody else would look");
    }
}

#[test]
fn who_is_not_certified_by_the_same_authority_hears_why() {
    let (mine, others) = (Authority::new(), Authority::new());
    let callers = [mine.stranger(), others.member().client, others.stranger()];
    for (number, caller) in callers.into_iter().enumerate() {
        let (mut one, mut other) = pair();
        one.secure(ClientConnection::new(caller, name()).unwrap().into());
        other.secure(ServerConnection::new(mine.member().server).unwrap().into());
        assert!(matches!(one.send(b"let me in"), Moved::Bytes(9)));
        let (mut at_one, mut at_other) = (None, None);
        while at_one.is_none() || at_other.is_none() {
            for (stream, failed) in [(&one, &mut at_one), (&other, &mut at_other)] {
                match stream.receive(&mut [0; 100]) {
                    Moved::Bytes(_) => panic!("something came through"),
                    Moved::Broken(e) if failed.is_none() => *failed = Failed::of(&e).cloned(),
                    _ => {}
                }
            }
        }
        let (at_one, at_other) = (at_one.unwrap(), at_other.unwrap());
        // The one that finds the fault refuses; the other hears of it.
        assert_eq!(
            (at_one.is_refusal, at_other.is_refusal),
            (number != 0, number == 0),
            "{at_one} {at_other}"
        );
    }
}

#[test]
fn a_segment_of_which_the_network_takes_a_part_is_flushed() {
    let (one, other) = secured();
    let mut out = Out::new(crate::config::Window::default(), true);
    let mut bytes = noise(256 << 10);
    // SAFETY: the vector outlives the calls below.
    let iov = unsafe { Iov::new(bytes.as_mut_ptr(), bytes.len()) };
    let payload = Gather::one(&iov);
    let payload_len = bytes.len() as u32;
    let header = Header { payload_len, kind: Kind::Segment as u8, flags: 0, word: 1, extension: [0; 5] };
    assert!(matches!(one.send(b"x"), Moved::Bytes(1)));
    assert_eq!(read(&other, &one, 1).unwrap(), b"x");
    let mut posted = 0;
    let mut buffer = vec![0; 1 << 20];
    let mut came = 0;
    // Nobody reads: some time nothing more is taken, and what was taken is not lost.
    while out.send_segment(&one, &header, &payload).unwrap() == crate::out::Taken::Yes {
        posted += 1;
        assert!(posted < 100, "nothing bounds what waits");
    }
    let total = posted * (bytes.len() + 24);
    while came < total {
        match other.receive(&mut buffer) {
            Moved::Bytes(len) => came += len,
            Moved::Nothing => {
                assert!(matches!(one.receive(&mut [0; 1]), Moved::Nothing));
                out.flush(&one).unwrap();
            }
            end => panic!("{end:?}"),
        }
    }
    assert_eq!((came, out.unsent(), out.is_full()), (total, 0, false));
}
