//! A ping-pong, many small calls and large messages of one process over one path that is narrower than the processes are slow.

use std::time::{Duration, Instant};

use gridnet::core::completion::{Completion, OpKind};
use gridnet::core::rail::PeerId;
use gridnet_testbed::{lab_test, Impairment, Lab};

use crate::common::{exactly, from_any, Buffer, Party, Scratch};
use crate::hosts::{address_of, count, open, over, say_address, COUNT};

/// Who sends: the tag.
const PING: usize = 0;
const CALL: usize = 1;
const BULK: usize = 2;
const NAMES: [&str; 3] = ["ping-pong", "calls", "bulk"];
/// How many are under way.
const DEPTHS: [usize; 3] = [1, 64, 4];
const SIZES: [usize; 3] = [8, 8, 1 << 20];
/// A congestion control that every system has, and that by itself fills whatever queue there is.
const FILLS_QUEUES: &[(&str, &str)] = &[("GRIDNET_NET_CONGESTION", "reno")];
/// How long each is measured alone; together twice as long.
const SPAN: Duration = Duration::from_millis(1000);
/// Of the time of the path each has a third, and keeps so much of it:
const LEAST_SHARE: f64 = 0.8;
/// and the ping-pong takes so much longer.
const MOST_TIMES: f64 = 3.0;
/// A machine that is busy with something else changes what alone and together are compared with.
const ATTEMPTS: usize = 3;

lab_test! {
    fn who_asks_for_little_gets_it_beside_bulk() {
        let path = Impairment::default().mbit(100).delay(Duration::from_millis(2));
        let Some(lab) = over(path) else { return };
        let fair = (0..ATTEMPTS).any(|_| is_fair(&lab));
        assert!(fair, "{ATTEMPTS} times in a row");
    }

    #[ignore = "is started by the test above, in a host"]
    fn answers() {
        if count().is_none() {
            return;
        }
        let scratch = Scratch::new();
        let party = open(&scratch, FILLS_QUEUES);
        say_address(&party);
        let buffers = SIZES.map(Buffer::new);
        for user in [PING, CALL, BULK] {
            (0..2 * DEPTHS[user]).for_each(|_| receive(&party, user, buffers[user]));
        }
        loop {
            for Completion { tag, source, .. } in take(&party).iter().filter(|c| is_receive(c)) {
                let user = *tag as usize;
                receive(&party, user, buffers[user]);
                if user != BULK {
                    party.send_buffer(PeerId::new(*source), Buffer::new(0), *tag).unwrap();
                }
            }
        }
    }
}

fn is_fair(lab: &Lab) -> bool {
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    let answers = b.test("shares::answers").unwrap().env(COUNT, "1").spawn().unwrap();
    let address = address_of(&answers);
    a.run(|| {
        let scratch = Scratch::new();
        let party = open(&scratch, FILLS_QUEUES);
        let to = party.connect(&address);
        let mut caller = Caller { party, to, buffers: SIZES.map(Buffer::new) };
        caller.run(&[PING], SPAN / 10);
        let alone = [PING, CALL, BULK].map(|user| caller.run(&[user], SPAN));
        let together = caller.run(&[PING, CALL, BULK], 2 * SPAN);
        let shares = [PING, CALL, BULK].map(|user| 3.0 * together.rates[user] / alone[user].rates[user]);
        let times = together.p99 / alone[PING].p99;
        for user in [PING, CALL, BULK] {
            let (one, all) = (alone[user].rates[user], together.rates[user]);
            println!(
                "RESULT {}: {one:.0}/s alone, {all:.0}/s together, share {:.2}",
                NAMES[user], shares[user]
            );
        }
        let (one, all) = (alone[PING].p99 * 1e3, together.p99 * 1e3);
        println!("RESULT ping-pong p99: {one:.2} ms alone, {all:.2} ms together, {times:.2} x");
        shares.iter().all(|share| *share >= LEAST_SHARE) && times <= MOST_TIMES
    })
    .unwrap()
}

/// What came of one measurement.
struct Outcome {
    /// Messages a second: there and back, or one way.
    rates: [f64; 3],
    /// Seconds of the ping-pong.
    p99: f64,
}

struct Caller {
    party: Party,
    to: PeerId,
    buffers: [Buffer; 3],
}

impl Caller {
    fn start(&self, user: usize) {
        if user != BULK {
            self.party.receive(exactly(self.to, user as u64), self.buffers[user]).unwrap();
        }
        self.party.send_buffer(self.to, self.buffers[user], user as u64).unwrap();
    }

    /// Keeps messages of each user under way for so long, and then waits for their ends.
    fn run(&mut self, users: &[usize], span: Duration) -> Outcome {
        let (mut counts, mut under_way, mut times) = ([0_u32; 3], [0; 3], Vec::new());
        for &user in users {
            under_way[user] = DEPTHS[user];
            (0..DEPTHS[user]).for_each(|_| self.start(user));
        }
        let (begin, mut sent_at) = (Instant::now(), Instant::now());
        while under_way != [0; 3] {
            for completion in take(&self.party) {
                let user = completion.tag as usize;
                // Of small messages the answer counts, of large ones the end of the send.
                if is_receive(&completion) == (user == BULK) {
                    continue;
                }
                under_way[user] -= 1;
                if begin.elapsed() >= span {
                    continue;
                }
                counts[user] += 1;
                if user == PING {
                    times.push(sent_at.elapsed().as_secs_f64());
                    sent_at = Instant::now();
                }
                self.start(user);
                under_way[user] += 1;
            }
        }
        times.sort_by(f64::total_cmp);
        let p99 = times.get(times.len() * 99 / 100).copied().unwrap_or(f64::NAN);
        Outcome { rates: counts.map(|count| f64::from(count) / span.as_secs_f64()), p99 }
    }
}

fn receive(party: &Party, user: usize, buffer: Buffer) {
    party.receive(from_any(user as u64), buffer).unwrap();
}

fn is_receive(completion: &Completion) -> bool {
    assert_eq!(completion.status, 0);
    completion.kind == OpKind::Receive as u32
}

/// Sleeps until there are completions.
fn take(party: &Party) -> Vec<Completion> {
    let mut taken = Vec::new();
    // No end of patience is no end of the test: what waits is looked at by its caller.
    let _ = party.shared.wait(party.cq, Some(Duration::from_millis(100)), |completion| {
        taken.push(completion);
        true
    });
    taken
}
