//! What a lossy link costs, in packets: those that leave for each that has to arrive, and round trips.

mod common;

use common::{Options, Two};
use gridnet_rdma_sim::attr::Mtu;
use gridnet_rdma_sim::testing::Faults;
use gridnet_rdma_sim::wr::{SendOp, WcStatus};

/// Messages, and packets of each.
const MESSAGES: u64 = 250;
const PACKETS: u32 = 16;
/// Messages under way.
const POSTED: u64 = 32;
/// From port to port and back.
const ROUND_US: u64 = 20;

/// What it took to write all messages.
struct Cost {
    /// Packets that have left for 100 that had to arrive.
    percent: u64,
    /// Round trips for 100 packets.
    rounds: u64,
}

fn cost(loss: u32, seed: u64) -> Cost {
    let options = Options { mtu: Mtu::B1024, timeout: 14, ..Options::default() };
    let two = Two::with(seed, Faults { loss, ..Faults::NONE }, &options);
    let (mut posted, mut done) = (0, 0);
    let len = PACKETS * Mtu::B1024.bytes();
    while done < MESSAGES {
        while posted < MESSAGES && posted < done + POSTED {
            let to = posted % 32 * u64::from(len);
            two.a.post(posted, SendOp::RdmaWrite(two.b.mr.remote(to)), to, len);
            posted += 1;
        }
        two.step();
        for wc in two.a.drain().0 {
            assert_eq!((wc.wr_id, wc.status), (done, WcStatus::Success));
            done += 1;
        }
    }
    let needed = MESSAGES * u64::from(PACKETS);
    let rounds = two.net.now().as_micros() as u64 / ROUND_US;
    Cost { percent: two.a.device.counters().sent * 100 / needed, rounds: rounds * 100 / needed }
}

/// The worst of some runs.
fn worst(loss: u32) -> Cost {
    let costs: Vec<Cost> = (1..=3).map(|seed| cost(loss, seed)).collect();
    let percent = costs.iter().map(|cost| cost.percent).max().unwrap_or(0);
    let rounds = costs.iter().map(|cost| cost.rounds).max().unwrap_or(0);
    println!(
        "{} % lost each way: {percent} packets for 100, {rounds} round trips for 100",
        f64::from(loss) / 10_000.0
    );
    Cost { percent, rounds }
}

#[test]
fn only_what_was_lost_is_sent_again() {
    let none = worst(0);
    assert_eq!(none.percent, 100);
    let bounds = [(1_000, 102, 10), (10_000, 104, 25), (50_000, 115, 200)];
    let costs = bounds.map(|(loss, ..)| worst(loss));
    for ((loss, percent, rounds), cost) in bounds.into_iter().zip(costs) {
        assert!(cost.percent <= percent, "{} packets for 100 at {loss} ppm", cost.percent);
        assert!(cost.rounds <= rounds, "{} round trips for 100 packets at {loss} ppm", cost.rounds);
    }
}
