//! Users of one fabric, each known by its completion queue, over one path that is narrower than the processes are slow: a ping-pong,
//! many small calls and large messages; and large messages of two users, of whom one has many. Every message is checked.

use std::time::{Duration, Instant};

use gridnet_testbed::{lab_test, Impairment, Lab};

use crate::common::Scratch;
use crate::hosts::{address_of, count, open, over, say_address, COUNT, PATIENCE};
use crate::users::{answer, Caller, Kind};

const PING: usize = 0;
const CALL: usize = 1;
const BULK: usize = 2;
/// The users of a test; its number in this list is what the side that answers is told.
const SETS: [&[Kind]; 2] = [
    &[
        Kind { name: "ping-pong", depth: 1, len: &[8], is_answered: true },
        Kind { name: "calls", depth: 64, len: &[8], is_answered: true },
        Kind { name: "bulk", depth: 4, len: &[1 << 20], is_answered: false },
    ],
    &[
        Kind { name: "few", depth: 2, len: &[256 << 10], is_answered: false },
        Kind { name: "many", depth: 16, len: &[256 << 10], is_answered: false },
    ],
];
/// A congestion control that every system has, and that by itself fills whatever queue there is.
const FILLS_QUEUES: &[(&str, &str)] = &[("GRIDNET_NET_CONGESTION", "reno")];
/// How long nothing is measured: of what goes alone TCP takes what it can, and small messages that come to it wait for that once.
const SETTLING: Duration = Duration::from_millis(300);
/// How long each is measured alone; together twice as long.
const SPAN: Duration = Duration::from_millis(800);
/// Of its fair share each keeps so much,
const LEAST_SHARE: f64 = 0.8;
/// and the ping-pong takes so much longer than alone.
const MOST_TIMES: f64 = 3.0;
/// A machine that is busy with something else changes what alone and together are compared with.
const ATTEMPTS: usize = 3;

lab_test! {
    fn who_asks_for_little_gets_it_beside_bulk() {
        let path = Impairment::default().mbit(100).delay(Duration::from_millis(2));
        check(path, 0, asks_for_little);
    }

    fn who_has_few_large_messages_gets_as_much_as_who_has_many() {
        let path = Impairment::default().mbit(300).delay(Duration::from_millis(1));
        check(path, 1, has_few);
    }

    #[ignore = "is started by the tests above, in a host"]
    fn answers() {
        let Some(set) = count() else { return };
        let scratch = Scratch::new();
        let party = open(&scratch, FILLS_QUEUES);
        say_address(&party);
        answer(&party, SETS[set as usize]);
    }
}

/// Measures users over a path, several times if it has to be.
fn check(path: Impairment, set: usize, is_fair: fn(&mut Caller) -> bool) {
    let Some(lab) = over(path) else { return };
    let fair = (0..ATTEMPTS).any(|_| measure(&lab, set, is_fair));
    assert!(fair, "{ATTEMPTS} times in a row");
}

fn measure(lab: &Lab, set: usize, is_fair: fn(&mut Caller) -> bool) -> bool {
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    let answers = b.test("shares::answers").unwrap().env(COUNT, set.to_string()).spawn().unwrap();
    let address = address_of(&answers);
    let fair = a.run(|| {
        let scratch = Scratch::new();
        let party = open(&scratch, FILLS_QUEUES);
        let to = party.connect(&address);
        let mut caller = Caller::new(party, to, SETS[set]);
        let fair = is_fair(&mut caller);
        caller.end();
        fair
    });
    answers.wait(PATIENCE).unwrap().success().unwrap();
    fair.unwrap()
}

/// Each has a third of what it has alone, or more.
fn asks_for_little(caller: &mut Caller) -> bool {
    const ALL: [usize; 3] = [PING, CALL, BULK];
    let alone = ALL.map(|user| run(caller, &[user], SPAN));
    let together = run(caller, &ALL, 2 * SPAN);
    let shares = ALL.map(|user| 3.0 * together.rates[user] / alone[user].rates[user]);
    let times = together.p99 / alone[PING].p99;
    for user in ALL {
        let (name, one, all) = (SETS[0][user].name, alone[user].rates[user], together.rates[user]);
        println!("RESULT {name}: {one:.0}/s alone, {all:.0}/s together, share {:.2}", shares[user]);
    }
    let (one, all) = (alone[PING].p99 * 1e3, together.p99 * 1e3);
    println!("RESULT ping-pong p99: {one:.2} ms alone, {all:.2} ms together, {times:.2} x");
    shares.iter().all(|share| *share >= LEAST_SHARE) && times <= MOST_TIMES
}

/// Each has half of the path.
fn has_few(caller: &mut Caller) -> bool {
    let rates = run(caller, &[0, 1], SPAN).rates;
    let half = rates.iter().sum::<f64>() / 2.0;
    println!("RESULT large messages: {:.0}/s of who has 2, {:.0}/s of who has 16", rates[0], rates[1]);
    rates[..2].iter().all(|rate| *rate >= LEAST_SHARE * half)
}

/// What came of one measurement.
struct Outcome {
    /// Messages a second of each user: there and back, or one way.
    rates: [f64; 3],
    /// Seconds of the ping-pong.
    p99: f64,
}

/// Keeps messages of some users under way for so long, and then waits for their ends.
fn run(caller: &mut Caller, users: &[usize], span: Duration) -> Outcome {
    let (mut counts, mut times) = ([0_u32; 3], Vec::new());
    let mut under_way: usize = users.iter().map(|user| caller.begin(*user)).sum();
    let (begin, mut sent_at) = (Instant::now(), Instant::now());
    while under_way > 0 {
        assert!(begin.elapsed() < PATIENCE, "{under_way} messages do not end");
        for (user, slot) in caller.take() {
            if begin.elapsed() >= SETTLING + span {
                under_way -= 1;
                continue;
            }
            let counts_now = begin.elapsed() >= SETTLING;
            counts[user] += u32::from(counts_now);
            if user == PING {
                times.extend(counts_now.then(|| sent_at.elapsed().as_secs_f64()));
                sent_at = Instant::now();
            }
            caller.start(user, slot);
        }
    }
    times.sort_by(f64::total_cmp);
    let p99 = times.get(times.len() * 99 / 100).copied().unwrap_or(f64::NAN);
    Outcome { rates: counts.map(|count| f64::from(count) / span.as_secs_f64()), p99 }
}
