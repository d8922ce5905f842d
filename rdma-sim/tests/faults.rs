//! Scripts of operations in both directions over networks that lose, repeat, reorder and spoil packets: everything completes, in
//! order, with the right data.

mod common;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use common::{Options, Side, Two};
use gridnet_rdma_sim::attr::Mtu;
use gridnet_rdma_sim::testing::{FaultCounts, Faults};
use gridnet_rdma_sim::wire::Packet;
use gridnet_rdma_sim::wr::{Data, SendOp, SendWr, Wc, WcOpcode, WcStatus};
use proptest::prelude::Rng;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

const KIB: u64 = 1024;
/// What is sent and written comes from here.
const SOURCE: u64 = 0;
/// What the peer sends and writes comes here.
const INBOX: u64 = 256 * KIB;
/// What was read comes here.
const RESULTS: u64 = 512 * KIB;
/// What atomic operations found comes here.
const ORIGINALS: u64 = 768 * KIB;
/// What the peer adds to.
const COUNTER: u64 = 1000 * KIB;
/// Length of each of the first three.
const AREA: u64 = 256 * KIB;

/// What was asked for, and what must be there in the end.
struct Asked {
    wr: SendWr,
    from: u64,
    to: u64,
    len: u32,
}

/// A script of one side.
struct Script {
    asked: Vec<Asked>,
    posted: usize,
    done: Vec<Wc>,
    received: Vec<Wc>,
}

fn random_len(random: &mut TestRng) -> u32 {
    match random.next_u32() % 8 {
        0 => 0,
        1 => 1 + random.next_u32() % 8,
        2 => 1023 + random.next_u32() % 3,
        3 => 4095 + random.next_u32() % 3,
        _ => random.next_u32() % 12_000,
    }
}

impl Script {
    fn new(random: &mut TestRng, me: &Side, peer: &Side, count: usize) -> Script {
        let (mut inbox, mut results) = (0, 0);
        let mut asked = Vec::new();
        for id in 0..count as u64 {
            let len = random_len(random);
            let from = u64::from(random.next_u32()) % (AREA - 12_288);
            let gap = u64::from(random.next_u32() % 5);
            let kind = random.next_u32() % 6;
            let room = AREA - inbox.max(results) > u64::from(len) + gap;
            let (op, from, to, len) = match kind {
                _ if !room || kind == 0 => {
                    (SendOp::FetchAdd { remote: peer.mr.remote(COUNTER), add: 1 + id }, 0, 0, 8)
                }
                1 => (SendOp::Send, from, inbox + gap, len),
                2 => (SendOp::SendWithImm(id as u32), from, inbox + gap, len),
                3 => (SendOp::RdmaWrite(peer.mr.remote(INBOX + inbox + gap)), from, inbox + gap, len),
                4 => (
                    SendOp::RdmaWriteWithImm(peer.mr.remote(INBOX + inbox + gap), id as u32),
                    from,
                    inbox + gap,
                    len,
                ),
                _ => (SendOp::RdmaRead(peer.mr.remote(SOURCE + from)), from, results + gap, len),
            };
            let local = match op {
                SendOp::FetchAdd { .. } => me.mr.sge(ORIGINALS + 8 * id, 8),
                SendOp::RdmaRead(_) => me.mr.sge(RESULTS + to, len),
                _ => me.mr.sge(SOURCE + from, len),
            };
            match op {
                SendOp::FetchAdd { .. } => {}
                SendOp::RdmaRead(_) => results = to + u64::from(len),
                _ => inbox = to + u64::from(len),
            }
            let mut wr = SendWr::new(id, op, Data::Sges(local.into()));
            wr.fence = random.next_u32().is_multiple_of(8);
            // Of each four in a row one has a completion, and the last.
            wr.signaled = id % 4 == 3 || id + 1 == count as u64 || random.next_u32().is_multiple_of(2);
            asked.push(Asked { wr, from, to, len });
        }
        Script { asked, posted: 0, done: Vec::new(), received: Vec::new() }
    }

    /// Receives for what this script sends, at the other side.
    fn post_receives(&self, peer: &Side) {
        for asked in &self.asked {
            match asked.wr.op {
                SendOp::Send | SendOp::SendWithImm(_) => {
                    peer.post_recv(asked.wr.wr_id, INBOX + asked.to, asked.len);
                }
                SendOp::RdmaWriteWithImm(..) => peer.post_recv(asked.wr.wr_id, 0, 0),
                _ => {}
            }
        }
    }

    /// Posts up to eight that are not done.
    fn feed(&mut self, me: &Side) {
        while self.posted < self.asked.len() && self.posted < self.finished() + 8 {
            me.qp.post_send(self.asked[self.posted].wr.clone()).expect("posted");
            self.posted += 1;
        }
    }

    /// Requests that are done: those that have a completion, and those before them.
    fn finished(&self) -> usize {
        self.done.last().map_or(0, |wc| wc.wr_id as usize + 1)
    }

    fn is_done(&self) -> bool {
        self.finished() == self.asked.len()
    }

    fn check(&self, me: &Side, peer: &Side) {
        let bytes = |side: &Side, at: u64, len: u32| side.mr.read(at as usize, len as usize).expect("within");
        let (mut sum, mut received) = (0u64, self.received.iter());
        let signaled = self.asked.iter().filter(|asked| asked.wr.signaled);
        let expected = signaled.map(|asked| (asked.wr.wr_id, WcStatus::Success));
        assert!(self.done.iter().map(|wc| (wc.wr_id, wc.status)).eq(expected), "one for each, in order");
        for asked in &self.asked {
            let id = asked.wr.wr_id;
            let what = format!("{:?}", asked.wr);
            match asked.wr.op {
                SendOp::FetchAdd { add, .. } => {
                    let original = bytes(me, ORIGINALS + 8 * id, 8);
                    assert_eq!(original, sum.to_ne_bytes(), "{what}: each is added once, in order");
                    sum += add;
                }
                SendOp::RdmaRead(_) => {
                    let (got, want) =
                        (bytes(me, RESULTS + asked.to, asked.len), bytes(peer, asked.from, asked.len));
                    assert!(got == want, "{what}");
                }
                _ => {
                    let (got, want) =
                        (bytes(peer, INBOX + asked.to, asked.len), bytes(me, asked.from, asked.len));
                    assert!(got == want, "{what}");
                }
            }
            let (opcode, imm) = match asked.wr.op {
                SendOp::Send => (WcOpcode::Recv, None),
                SendOp::SendWithImm(imm) => (WcOpcode::Recv, Some(imm)),
                SendOp::RdmaWriteWithImm(_, imm) => (WcOpcode::RecvRdmaWithImm, Some(imm)),
                _ => continue,
            };
            let came = received.next().expect("a receive for each");
            assert_eq!((came.status, came.wr_id, came.opcode), (WcStatus::Success, id, opcode), "{what}");
            assert_eq!((came.imm, came.byte_len), (imm, asked.len), "{what}");
        }
        assert_eq!(received.next(), None);
        assert_eq!(bytes(peer, COUNTER, 8), sum.to_ne_bytes());
    }
}

fn fill(side: &Side, random: &mut TestRng) {
    let mut bytes = vec![0; AREA as usize];
    random.fill_bytes(&mut bytes);
    side.mr.write(SOURCE as usize, &bytes).expect("room");
}

/// Plays one script in each direction; returns what has happened to packets.
fn play(seed: u64, faults: Faults) -> FaultCounts {
    play_watched(seed, faults, |_, _| true)
}

/// The same, where `watch` sees each packet.
fn play_watched(
    seed: u64,
    faults: Faults,
    watch: impl FnMut(SocketAddr, &[u8]) -> bool + Send + 'static,
) -> FaultCounts {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mtu = [Mtu::B256, Mtu::B1024, Mtu::B4096][seed as usize % 3];
    let two = Two::with(seed, faults, &Options { mtu, ..Options::default() });
    two.net.set_filter(watch);
    fill(&two.a, &mut random);
    fill(&two.b, &mut random);
    let mut forth = Script::new(&mut random, &two.a, &two.b, 60);
    let mut back = Script::new(&mut random, &two.b, &two.a, 60);
    // Half of the receives are late: their senders hear RNR NAK.
    if seed.is_multiple_of(2) {
        forth.post_receives(&two.b);
    }
    back.post_receives(&two.a);
    let mut late = !seed.is_multiple_of(2);
    while !(forth.is_done() && back.is_done()) {
        forth.feed(&two.a);
        back.feed(&two.b);
        assert!(
            two.step(),
            "seed {seed}: {} and {} of 60 are done, and nothing moves",
            forth.finished(),
            back.finished()
        );
        if late && two.net.now() > Duration::from_millis(2) {
            forth.post_receives(&two.b);
            late = false;
        }
        let ((sent_a, received_a), (sent_b, received_b)) = (two.a.drain(), two.b.drain());
        forth.done.extend(sent_a);
        forth.received.extend(received_b);
        back.done.extend(sent_b);
        back.received.extend(received_a);
        let failed = forth.done.iter().chain(&back.done).find(|wc| wc.status != WcStatus::Success);
        assert_eq!(failed, None, "seed {seed}");
    }
    forth.check(&two.a, &two.b);
    back.check(&two.b, &two.a);
    let (a, b) = (two.a.device.counters(), two.b.device.counters());
    assert_eq!((a.malformed + b.malformed, a.strange + b.strange), (0, 0));
    two.net.counts()
}

/// Plays with some seeds, in which what `count` counts must happen.
fn play_all(faults: Faults, count: impl Fn(FaultCounts) -> u64) {
    let counts: Vec<u64> = (0..6).map(|seed| count(play(seed, faults))).collect();
    assert!(counts.iter().sum::<u64>() > 0, "the fault has not happened");
}

/// Where nothing is lost and receives are there in time, each request is sent once.
#[test]
fn nothing_is_sent_again_without_need() {
    for seed in [0, 2, 4] {
        let mut seen = HashSet::new();
        play_watched(seed, Faults::NONE, move |to, bytes| {
            let packet = Packet::decode(bytes).expect("a packet");
            let is_new = packet.header.is_response() || seen.insert((to, packet.bth.psn));
            assert!(is_new, "{:?} was sent again", packet.header);
            true
        });
    }
}

#[test]
fn one_in_a_thousand_lost() {
    play_all(Faults { loss: 1_000, ..Faults::NONE }, |counts| counts.lost);
}

#[test]
fn one_in_a_hundred_lost() {
    play_all(Faults { loss: 10_000, ..Faults::NONE }, |counts| counts.lost);
}

#[test]
fn one_in_twenty_lost() {
    play_all(Faults { loss: 50_000, ..Faults::NONE }, |counts| counts.lost);
}

#[test]
fn repeated() {
    play_all(Faults { duplication: 50_000, ..Faults::NONE }, |counts| counts.repeated);
}

#[test]
fn reordered() {
    play_all(Faults { reordering: 20_000, ..Faults::NONE }, |counts| counts.overtaken);
}

#[test]
fn spoiled() {
    play_all(Faults { corruption: 20_000, ..Faults::NONE }, |counts| counts.spoiled);
}

/// A port without room: the packet waits, and nothing is lost.
#[test]
fn refused() {
    play_all(Faults { refusal: 200_000, ..Faults::NONE }, |counts| counts.refused);
}

#[test]
fn everything_at_once() {
    let all = Faults {
        loss: 20_000,
        duplication: 20_000,
        reordering: 20_000,
        corruption: 10_000,
        refusal: 50_000,
        ..Faults::NONE
    };
    play_all(all, |counts| {
        let FaultCounts { lost, repeated, overtaken, spoiled, refused, .. } = counts;
        [lost, repeated, overtaken, spoiled, refused].into_iter().min().unwrap_or(0)
    });
}

/// Other seeds in each run, or those of `PROPTEST_RNG_SEED`. Proptest prints the one that fails, and keeps none.
#[test]
fn any_seed_and_any_faults() {
    let config = Config { cases: 8, failure_persistence: None, ..Config::default() };
    let faults = (0..30_000u32, 0..30_000u32, 0..30_000u32, 0..10_000u32, 0..50_000u32);
    let outcome = TestRunner::new(config).run(&(proptest::num::u64::ANY, faults), |(seed, faults)| {
        let (loss, duplication, reordering, corruption, refusal) = faults;
        play(seed, Faults { loss, duplication, reordering, corruption, refusal, ..Faults::NONE });
        Ok(())
    });
    outcome.expect("all seeds");
}
