//! Peers that are slow: they are waited for, and cost no memory on either side.

use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use gridnet_testbed::lab_test;
use nix::sys::signal::{raise, Signal};

use crate::common::Scratch;
use crate::cuts::linger;
use crate::hosts::{
    address_of, await_pulses, await_stopped, breaks, count, is_long, kib, open, receive_all, say_address,
    send_all, two, Noise, COUNT, PATIENCE, SHORT, SIZES,
};

/// What a sender or receiver may take beside what its program gave it: buffers, retained frames, the store.
const BOUND_KIB: u64 = 24 << 10;

/// Messages that nobody has asked for, all at once, and what bounds the store of the one they are sent to.
struct Flood {
    what: &'static str,
    sizes: &'static [usize],
    messages: u64,
    bound: (&'static str, &'static str),
    /// Fewer than so many are in the store at any time.
    stored: u64,
}

/// The number in this list is what the receiver is told. Of long messages announcements are stored, of which all may have come before
/// their sender hears that it is to stop; bytes of theirs would show in what memory is taken.
///
/// Of announcements more are sent than may be under way at a time.
const FLOODS: [Flood; 3] = [
    Flood { what: "of all sizes", sizes: SIZES, messages: 8_000, bound: BYTES, stored: 4_000 },
    Flood {
        what: "the longest that go at once",
        sizes: &[8192],
        messages: 6_000,
        bound: BYTES,
        stored: 1_024,
    },
    Flood { what: "of announcements", sizes: &[9 << 10], messages: 10_000, bound: MESSAGES, stored: 9_000 },
];
const MESSAGES: (&str, &str) = ("GRIDNET_UNEXPECTED_MESSAGES", "1000");
const BYTES: (&str, &str) = ("GRIDNET_UNEXPECTED_BYTES", "8m");

/// More than that is never in the store. It is what is set for all peers, of which one has a quarter, and 1 MiB beyond that
/// (`GRIDNET_NET_WINDOW`) may be under way while it is told to stop.
const STORED_BYTES: u64 = 8 << 20;

/// Silence after which a peer would have gone if its host did not answer: far less than the receiver is stopped for.
const PEER_TIMEOUT: &str = "1s";

lab_test! {
    /// SIGSTOP of a receiver under full send.
    fn a_stopped_receiver_is_waited_for() {
        let Some(lab) = two(1000) else { return };
        let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
        let span = Duration::from_secs(if is_long() { 10 } else { 3 });
        let messages = 30_000_u64;
        let receiver = b.test("slow::receives").unwrap().env(COUNT, messages.to_string()).spawn().unwrap();
        let address = address_of(&receiver);
        scope(|scope| {
            scope.spawn(|| {
                await_stopped(receiver.pid());
                sleep(span);
                receiver.signal(Signal::SIGCONT).unwrap();
            });
            a.run(|| {
                let scratch = Scratch::new();
                let party = open(&scratch, &[("GRIDNET_PEER_TIMEOUT", PEER_TIMEOUT)]);
                let to = party.connect(&address);
                await_pulses(&party, 1);
                let noise = Noise::new(SHORT);
                let before = kib(std::process::id(), "VmRSS");
                let (mut most, mut stalled, mut looks) = (before, false, 0_u32);
                send_all(&party, to, noise, messages, 2000, || {
                    looks += 1;
                    if looks % 16 == 0 {
                        most = most.max(kib(std::process::id(), "VmRSS"));
                        stalled |= party.enter().engine.is_stalled(to);
                    }
                    stalled |= party.enter().engine.is_stalled(to);
                });
                println!("RESULT receiver stopped for {span:?}: {} KiB more at the sender", most - before);
                assert!(most - before < BOUND_KIB, "{before} KiB before, {most} KiB meanwhile");
                assert!(stalled, "nobody has noticed");
                assert_eq!(breaks(&party, to).0, 0, "its host answers");
            })
            .unwrap();
        });
        receiver.wait(PATIENCE).unwrap().success().unwrap();
    }

    /// Floods at a process that posts no receive.
    fn a_flood_fills_no_more_than_the_store() {
        let Some(lab) = two(1000) else { return };
        let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
        for (number, Flood { what, sizes, messages, .. }) in FLOODS.iter().enumerate() {
            let receiver = b.test("slow::lets_them_come").unwrap().env(COUNT, number.to_string()).spawn().unwrap();
            let address = address_of(&receiver);
            a.run(|| {
                let scratch = Scratch::new();
                let party = open(&scratch, &[]);
                let (to, noise) = (party.connect(&address), Noise::new(sizes));
                await_pulses(&party, 1);
                let before = kib(std::process::id(), "VmRSS");
                let (mut most, mut looks) = (before, 0_u32);
                send_all(&party, to, noise, *messages, *messages, || {
                    looks += 1;
                    if looks % 16 == 1 {
                        most = most.max(kib(std::process::id(), "VmRSS"));
                    }
                });
                println!("RESULT flood {what}: {} KiB more at the sender", most - before);
                assert!(most - before < BOUND_KIB, "{before} KiB before, {most} KiB meanwhile");
            })
            .unwrap();
            let said = receiver.wait(PATIENCE).unwrap().success().unwrap();
            said.lines().filter(|line| line.starts_with("RESULT")).for_each(|line| println!("{line}"));
        }
    }

    #[ignore = "is started by the test above, in a host"]
    fn receives() {
        let Some(messages) = count() else { return };
        let scratch = Scratch::new();
        let party = open(&scratch, &[]);
        say_address(&party);
        receive_all(&party, Noise::new(SHORT), messages, |done| {
            // By itself: whoever stopped it from outside might come too late.
            if done == 1000 {
                raise(Signal::SIGSTOP).expect("it may stop itself");
            }
        });
        linger(&party);
    }

    #[ignore = "is started by the test above, in a host"]
    fn lets_them_come() {
        let Some(number) = count() else { return };
        let Flood { what, sizes, messages, bound, stored: most_stored } = FLOODS[number as usize];
        let scratch = Scratch::new();
        let party = open(&scratch, &[bound]);
        say_address(&party);
        let noise = Noise::new(sizes);
        let before = kib(std::process::id(), "VmRSS");
        let (mut most, mut stored, mut bytes, mut same) = (before, 0, 0, 0);
        // Until nothing more comes.
        let end = Instant::now() + PATIENCE;
        while same < 10 {
            assert!(Instant::now() < end, "nobody stops the sender: {stored} messages have come");
            let _ = party.wait(Duration::from_millis(50));
            most = most.max(kib(std::process::id(), "VmRSS"));
            let counters = party.enter().engine.counters();
            let now = counters.unexpected_now;
            bytes = bytes.max(counters.unexpected_bytes_now);
            same = if now == stored && counters.peers.backpressure_stops > 0 { same + 1 } else { 0 };
            stored = now;
        }
        let more = most - before;
        println!("RESULT flood {what}: {more} KiB more for {stored} messages of {messages}, {bytes} bytes stored");
        assert!(stored < most_stored, "{stored} messages are in the store");
        assert!(bytes < STORED_BYTES, "{bytes} bytes are in the store");
        assert!(more < BOUND_KIB, "{before} KiB before, {most} KiB meanwhile");
        receive_all(&party, noise, messages, |_| {});
        linger(&party);
    }
}
