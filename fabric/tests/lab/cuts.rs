//! Connections that break while messages are under way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use gridnet::core::error::Error;
use gridnet_testbed::{lab_test, Running};

use crate::common::{from_any, Buffer, Scratch};
use crate::hosts::{
    address_of, assert_nothing_listens_for_everybody, breaks, count, is_long, open, receive_all, say_address,
    send_all, two, Noise, COUNT, PATIENCE, SIZES,
};

/// Messages of the second test.
const LARGE: &[usize] = &[10_000_000];

/// Says so when it goes away, also by a panic.
pub struct Over<'a>(pub &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Shows what a part has said, if the test fails.
pub struct Said<'a>(pub &'a Running);

impl Drop for Said<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the other side has said: {:?}", self.0.said());
        }
    }
}

lab_test! {
    /// RST every 100 ms.
    fn messages_survive_resets() {
        let Some(lab) = two(200) else { return };
        let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
        let messages = if is_long() { 10_000_u64 } else { 5_000 };
        let receiver = b.test("cuts::receives").unwrap().env(COUNT, messages.to_string()).spawn().unwrap();
        let (address, is_over) = (address_of(&receiver), AtomicBool::new(false));
        let mut resets = 0;
        let (broken, repeated) = scope(|scope| {
            let cutter = scope.spawn(|| {
                let mut resets = 0;
                while !is_over.load(Ordering::Relaxed) {
                    resets += usize::from(lab.reset("a", "b", Duration::from_millis(10)).unwrap() > 0);
                    // That is what is asked for: one in 100 ms.
                    sleep(Duration::from_millis(100));
                }
                resets
            });
            let after = a.run(|| {
                let (_over, scratch) = (Over(&is_over), Scratch::new());
                let _said = Said(&receiver);
                let party = open(&scratch, &[]);
                let to = party.connect(&address);
                send_all(&party, to, Noise::new(SIZES), messages, 64, || {});
                breaks(&party, to)
            });
            resets = cutter.join().unwrap();
            after.unwrap()
        });
        receiver.wait(PATIENCE).unwrap().success().unwrap();
        println!("RESULT {resets} resets, {broken} breaks, {repeated} frames sent again, {messages} messages");
        assert!(broken >= 10 && repeated > 0, "{broken} breaks are too few to tell");
    }

    /// The cable is pulled for 3 s.
    fn a_transfer_survives_a_blackout() {
        let Some(lab) = two(400) else { return };
        let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
        let messages = if is_long() { 100 } else { 10_u64 };
        let receiver = b.test("cuts::receives_large").unwrap().env(COUNT, messages.to_string()).spawn().unwrap();
        let address = address_of(&receiver);
        // The cable was pulled; and it was put back.
        let (pulled, back) = (AtomicBool::new(false), AtomicBool::new(false));
        scope(|scope| {
            scope.spawn(|| {
                receiver.wait_for("received 3\n", PATIENCE).unwrap();
                lab.link("a-b").unwrap().blackout(true).unwrap();
                pulled.store(true, Ordering::Relaxed);
                sleep(Duration::from_secs(3));
                back.store(true, Ordering::Relaxed);
                lab.link("a-b").unwrap().blackout(false).unwrap();
            });
            a.run(|| {
                let scratch = Scratch::new();
                let party = open(&scratch, &[]);
                let to = party.connect(&address);
                let noise = Noise::new(LARGE);
                let end = Instant::now() + PATIENCE;
                for number in 0..messages {
                    // However late the cable is pulled, one message has to wait for it.
                    while number + 1 == messages && !pulled.load(Ordering::Relaxed) {
                        assert!(Instant::now() < end, "nobody pulls the cable");
                        assert_eq!(party.wait(Duration::from_millis(1)).unwrap_err(), Error::Timeout);
                    }
                    assert!(party.send(to, noise.message(number), number, false).unwrap());
                    assert_eq!(party.wait(PATIENCE).expect("it is only delayed").status, 0);
                }
                assert!(back.load(Ordering::Relaxed), "something passes through a cable that is pulled");
                println!("RESULT blackout of 3 s: {} breaks", breaks(&party, to).0);
            })
            .unwrap();
        });
        receiver.wait(PATIENCE).unwrap().success().unwrap();
    }

    #[ignore = "is started by the test above, in a host"]
    fn receives() {
        let Some(messages) = count() else { return };
        let scratch = Scratch::new();
        let party = open(&scratch, &[]);
        assert_nothing_listens_for_everybody();
        say_address(&party);
        receive_all(&party, Noise::new(SIZES), messages, |_| {});
        linger(&party);
    }

    #[ignore = "is started by the test above, in a host"]
    fn receives_large() {
        let Some(messages) = count() else { return };
        let scratch = Scratch::new();
        let party = open(&scratch, &[]);
        say_address(&party);
        let (buffer, noise) = (Buffer::new(LARGE[0]), Noise::new(LARGE));
        for number in 0..messages {
            party.receive(from_any(number), buffer).unwrap();
            let completion = party.wait(PATIENCE).expect("it is only delayed");
            assert_eq!((completion.status, completion.length), (0, LARGE[0] as u64));
            assert!(buffer.to_vec() == noise.message(number), "message {number} differs");
            println!("received {number}");
        }
        linger(&party);
    }
}

/// Stays until the other side has gone: it may not have heard yet that all has come.
pub fn linger(party: &crate::common::Party) {
    let end = Instant::now() + PATIENCE;
    while party.enter().engine.counters().peers_now > 0 {
        assert!(Instant::now() < end, "the other side does not end");
        let _ = party.wait(Duration::from_millis(50));
    }
}
