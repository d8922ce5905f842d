use super::*;
use crate::config::Tuning;
use crate::socket::{listen_at, pair, Moved, Stream};

/// One of each kind that receives, where the system allows it.
fn rings() -> Vec<Ring> {
    let kinds = [(Task::Receive, true), (Task::Receive, false), (Task::ReceiveByThread, true)];
    let ring = |(task, single)| {
        let ring = Ring::new(task, single);
        ring.inspect_err(|why| eprintln!("SKIPPED {task:?}: {}", why.reason)).ok()
    };
    kinds.into_iter().filter_map(ring).collect()
}

/// What there is, once there is something.
fn look(ring: &mut Ring) -> Vec<Watched> {
    let mut ready = Vec::new();
    while ready.is_empty() {
        ring.submit();
        ring.collect(&mut ready);
    }
    ready
}

/// Sends as much of `bytes` as there is room for.
fn send_some(stream: &Stream, bytes: &[u8]) -> usize {
    match stream.send(bytes) {
        Moved::Bytes(len) => len,
        _ => 0,
    }
}

#[test]
fn bytes_come_in_order_also_when_buffers_run_out() {
    for mut ring in rings() {
        let (one, other) = pair();
        let bytes: Vec<u8> = (0..4_000_000_u32).map(|i| (i / 7) as u8).collect();
        let (mut sent, mut came, mut ran_out) = (0, Vec::new(), 0);
        let mut kept = Vec::new();
        let mut turn = ring.receive(&other, 7).unwrap();
        assert_eq!(ring.receive(&other, 7), None, "once at a time");
        while came.len() < bytes.len() {
            sent += send_some(&one, &bytes[sent..]);
            let mut ready = Vec::new();
            ring.submit();
            ring.collect(&mut ready);
            for what in ready {
                let Watched::Received(7, arrival) = what else { panic!("{what:?}") };
                assert_eq!(arrival.turn, turn, "of another receive");
                came.extend_from_slice(ring.bytes(arrival));
                kept.push(arrival);
                if arrival.is_last {
                    assert_eq!(arrival.result, -libc::ENOBUFS);
                    ran_out += 1;
                    // None was given back so far.
                    kept.drain(..).for_each(|arrival| ring.give_back(arrival));
                    let next = ring.receive(&other, 7).unwrap();
                    assert_ne!(std::mem::replace(&mut turn, next), next);
                }
            }
        }
        assert!(ran_out > 0 && came == bytes, "{}: {ran_out}", ring.name());
    }
}

#[test]
fn an_end_that_was_asked_for_comes_last_and_loses_nothing() {
    for mut ring in rings() {
        let (one, other) = pair();
        for round in 0..50u8 {
            let turn = ring.receive(&other, 3).unwrap();
            ring.submit();
            assert_eq!(send_some(&one, &[round]), 1);
            assert!(ring.stop_receiving(3, turn));
            let (mut came, mut is_over) = (Vec::new(), false);
            while !is_over {
                for what in look(&mut ring) {
                    let Watched::Received(3, arrival) = what else { panic!("{what:?}") };
                    assert!(!is_over, "something came behind the end");
                    came.extend_from_slice(ring.bytes(arrival));
                    ring.give_back(arrival);
                    is_over = arrival.is_last;
                }
            }
            let mut buffer = [0; 8];
            while came.is_empty() {
                if let Moved::Bytes(len) = other.receive(&mut buffer) {
                    came.extend_from_slice(&buffer[..len]);
                }
            }
            assert_eq!(came, [round], "{}", ring.name());
        }
    }
}

#[test]
fn the_end_of_a_connection_is_told_once() {
    for mut ring in rings() {
        let (one, other) = pair();
        let turn = ring.receive(&other, 1).unwrap();
        ring.submit();
        one.end_sending();
        let told = look(&mut ring);
        assert_eq!(told, [Watched::Received(1, Arrival { result: 0, buffer: None, is_last: true, turn })]);
        assert!(ring.receive(&other, 1).is_some(), "its place is free");
    }
}

/// What comes after the ring was told to wake somebody makes the descriptor readable.
#[test]
fn what_comes_rings_the_bell() {
    for mut ring in rings() {
        let (one, other) = pair();
        assert!(ring.receive(&other, 1).is_some());
        ring.submit();
        ring.arm();
        assert_eq!(send_some(&one, b"x"), 1);
        let bell = ring.bell.as_fd();
        let mut wanted = [nix::poll::PollFd::new(bell, nix::poll::PollFlags::POLLIN)];
        assert_eq!(nix::poll::poll(&mut wanted, 8000u16), Ok(1), "{}", ring.name());
    }
}

#[test]
fn bytes_belong_to_one_side_at_a_time() {
    for mut ring in rings() {
        let nobodys = |number| Arrival { result: 8, buffer: Some(number), is_last: false, turn: Turn(0) };
        for number in [0, 1, 127, 128, u16::MAX] {
            assert!(ring.bytes(nobodys(number)).is_empty(), "the kernel has it");
            ring.give_back(nobodys(number));
        }
        let (one, other) = pair();
        assert!(ring.receive(&other, 1).is_some());
        for round in 0..300 {
            assert_eq!(send_some(&one, b"x"), 1);
            let [Watched::Received(1, arrival)] = look(&mut ring)[..] else { panic!("round {round}") };
            assert_eq!(ring.bytes(arrival), b"x");
            ring.give_back(arrival);
            assert!(ring.bytes(arrival).is_empty(), "it was given back");
            ring.give_back(arrival);
        }
    }
}

#[test]
fn callers_are_accepted_and_those_whom_nobody_took_hang_up() {
    for mut ring in rings() {
        let accepts = ring.receiving.as_ref().is_some_and(|receiving| receiving.accepts);
        let listener = listen_at("127.0.0.1:0".parse().unwrap(), &Tuning::default()).unwrap();
        let at = listener.local_addr().unwrap().as_socket().unwrap();
        let watched = Watched::Listener(2);
        let want = crate::watch::READING;
        ring.watch(listener.as_raw_fd(), watched, want).unwrap();
        ring.watch(listener.as_raw_fd(), watched, want).unwrap();
        ring.submit();
        let first = Stream::call(None, at, None, &Tuning::default()).unwrap();
        assert_eq!(look(&mut ring)[0], watched);
        assert_eq!(ring.take_accepted(3).map(|_| ()), None, "nobody called there");
        let Some(taken) = ring.take_accepted(2).filter(|_| accepts) else {
            assert!(!accepts);
            continue;
        };
        let (taken, from) = Stream::accepted(taken);
        assert_eq!(from, first.local());
        assert_eq!(send_some(&taken, b"x"), 1);
        let second = Stream::call(None, at, None, &Tuning::default()).unwrap();
        assert_eq!(look(&mut ring), [watched]);
        drop(ring);
        while matches!(second.receive(&mut [0; 8]), Moved::Nothing) {
            std::thread::yield_now();
        }
    }
}

#[test]
fn more_requests_than_the_queue_holds_are_taken() {
    for mut ring in rings() {
        let (_one, other) = pair();
        for number in 0..3 * ENTRIES {
            ring.watch(other.as_fd().as_raw_fd(), Watched::Link(number), crate::watch::READING).unwrap();
        }
    }
}
