//! Many peers over tcp.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use gridnet::core::rail::PeerId;
use gridnet::core::wire::Address;
use gridnet_testbed::lab_test;
use nix::sys::resource::{getrlimit, setrlimit, Resource};

use crate::common::{exactly, from_any, Buffer, Party, Scratch, RECEIVE};
use crate::cuts::linger;
use crate::hosts::{
    address_of, addresses_of, await_pulses, count, kib, open, say_address, two, COUNT, PATIENCE,
};

const PEERS: usize = 256;
const ROUNDS: usize = 5;
const BYTES: usize = 64;

lab_test! {
    fn as_many_peers_as_that_exchange_messages() {
        if !allow_descriptors() {
            return;
        }
        let Some(lab) = two(1000) else { return };
        let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
        let peers = b.test("many::echo").unwrap().env(COUNT, PEERS.to_string()).spawn().unwrap();
        let addresses = addresses_of(&peers, PEERS);
        // So many servers on one host: each at a port that the system has chosen, none for everybody.
        let own = b.address().unwrap().to_string();
        let said = b.command("ss").args(["-H", "-l", "-t", "-n", "-4"]).output(PATIENCE).unwrap().success().unwrap();
        let places: BTreeSet<&str> = said.lines().filter_map(|line| line.split_whitespace().nth(3)).collect();
        assert!(places.len() >= PEERS && places.iter().all(|at| at.starts_with(&own)), "{own}: {places:?}");
        a.run(|| {
            let scratch = Scratch::new();
            let party = open(&scratch, &[]);
            let (out, back) = (Buffer::new(BYTES), (0..PEERS).map(|_| Buffer::new(BYTES)).collect::<Vec<_>>());
            let first = party.connect(&addresses[0]);
            exchange(&party, &[first], out, &back, 1);
            let before = kib(std::process::id(), "VmRSS");
            let start = Instant::now();
            let all: Vec<PeerId> = addresses.iter().map(|address| party.connect(address)).collect();
            for round in 0..ROUNDS {
                exchange(&party, &all, out, &back, round as u8);
            }
            let took = start.elapsed();
            await_pulses(&party, PEERS);
            let growth = kib(std::process::id(), "VmRSS").saturating_sub(before) * 1024 / (PEERS as u64 - 1);
            println!("RESULT {PEERS} peers over tcp: {took:?}, {growth} bytes for each at the client");
            assert!(growth <= 8192, "{growth} bytes for each peer");
        })
        .unwrap();
    }

    /// The other way round: they all call one.
    fn a_server_of_as_many_peers_as_that() {
        if !allow_descriptors() {
            return;
        }
        let Some(lab) = two(1000) else { return };
        let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
        let server = b.test("many::serves").unwrap().env(COUNT, PEERS.to_string()).spawn().unwrap();
        let address = address_of(&server);
        a.run(|| {
            let scratch = Scratch::new();
            let mut callers: Vec<Caller> = Vec::new();
            // The first one alone, so that the server knows what one takes.
            for count in [1, PEERS] {
                callers.extend((callers.len()..count).map(|number| Caller::new(&scratch, &address, number)));
                let end = Instant::now() + PATIENCE;
                // All of them are looked at each time: links are made by whoever looks.
                while callers.iter_mut().filter_map(Caller::look).count() > 0 {
                    assert!(Instant::now() < end, "the server does not answer");
                }
            }
            let end = Instant::now() + PATIENCE;
            while !server.said()[0].contains("has measured\n") {
                assert!(Instant::now() < end, "the server does not measure: {:?}", server.said());
                for caller in &callers {
                    caller.party.enter().maintain();
                }
            }
        })
        .unwrap();
        let said = server.wait(PATIENCE).unwrap().success().unwrap();
        said.lines().filter(|line| line.starts_with("RESULT")).for_each(|line| println!("{line}"));
    }

    #[ignore = "is started by the test above, in a host"]
    fn serves() {
        let Some(peers) = count() else { return };
        allow_descriptors();
        let scratch = Scratch::new();
        let party = open(&scratch, &[]);
        say_address(&party);
        let buffer = Buffer::new(BYTES);
        let mut before = 0;
        for number in 0..peers * ROUNDS as u64 {
            if number == ROUNDS as u64 {
                before = kib(std::process::id(), "VmRSS");
            }
            party.receive(from_any(1), buffer).unwrap();
            let completion = party.wait_received();
            // Short messages are copied at once: the buffer is free again.
            party.send_buffer(PeerId::new(completion.source), buffer, 2).unwrap();
        }
        await_pulses(&party, peers as usize);
        let growth = kib(std::process::id(), "VmRSS").saturating_sub(before) * 1024 / (peers - 1);
        println!("RESULT {peers} peers over tcp: {growth} bytes for each at the server");
        assert!(growth <= 8192, "{growth} bytes for each peer");
        println!("has measured");
        linger(&party);
    }

    #[ignore = "is started by the test above, in a host"]
    fn echo() {
        let Some(count) = count() else { return };
        allow_descriptors();
        let scratch = Scratch::new();
        let parties: Vec<Party> =
            (0..count).map(|_| open(&scratch, &[("GRIDNET_PAGE", "off")])).collect();
        parties.iter().for_each(say_address);
        let buffers: Vec<Buffer> = parties.iter().map(|_| Buffer::new(BYTES)).collect();
        for (party, buffer) in parties.iter().zip(&buffers) {
            party.receive(from_any(1), *buffer).unwrap();
        }
        loop {
            for (party, buffer) in parties.iter().zip(&buffers) {
                if let Some(source) = take_received(party) {
                    // Short messages are copied at once: the buffer is free again.
                    party.send_buffer(source, *buffer, 2).unwrap();
                    party.receive(from_any(1), *buffer).unwrap();
                }
            }
        }
    }
}

/// One of many that call a server.
struct Caller {
    party: Party,
    to: PeerId,
    out: Buffer,
    back: Buffer,
    /// Messages that have come back.
    done: usize,
}

impl Caller {
    fn new(scratch: &Scratch, address: &Address, number: usize) -> Caller {
        let party = open(scratch, &[("GRIDNET_PAGE", "off")]);
        let (out, back) = (Buffer::new(BYTES), Buffer::new(BYTES));
        out.fill(number as u8);
        let caller = Caller { to: party.connect(address), party, out, back, done: 0 };
        caller.start();
        caller
    }

    fn start(&self) {
        self.party.receive(exactly(self.to, 2), self.back).unwrap();
        self.party.send_buffer(self.to, self.out, 1).unwrap();
    }

    /// Looks what has come, and goes on; nothing when all has.
    fn look(&mut self) -> Option<()> {
        if take_received(&self.party).is_some() {
            self.done += 1;
            assert!(self.back.to_vec() == self.out.to_vec(), "it is the message of another one");
            self.back.fill(!self.out.to_vec()[0]);
            if self.done < ROUNDS {
                self.start();
            }
        }
        (self.done < ROUNDS).then_some(())
    }
}

/// Looks what has ended without waiting; from whom something has come.
fn take_received(party: &Party) -> Option<PeerId> {
    let mut from = None;
    party.enter().maintain();
    party.enter().take(party.cq, |completion| {
        assert_eq!(completion.status, 0);
        if completion.context == RECEIVE {
            from = Some(PeerId::new(completion.source));
        }
        true
    });
    from
}

/// A message to each, and back.
fn exchange(party: &Party, peers: &[PeerId], out: Buffer, back: &[Buffer], byte: u8) {
    out.fill(byte);
    for (peer, buffer) in peers.iter().zip(back) {
        party.receive(exactly(*peer, 2), *buffer).unwrap();
        party.send_buffer(*peer, out, 1).unwrap();
    }
    let end = Instant::now() + PATIENCE;
    let mut received = 0;
    while received < peers.len() {
        assert!(Instant::now() < end, "{received} answers of {}", peers.len());
        if let Ok(completion) = party.wait(Duration::from_secs(1)) {
            assert_eq!(completion.status, 0);
            received += usize::from(completion.context == RECEIVE);
        }
    }
    assert!(back.iter().take(peers.len()).all(|buffer| buffer.to_vec() == [byte; BYTES]));
}

/// Allows this process the descriptors that so many fabrics need.
fn allow_descriptors() -> bool {
    const NEEDED: u64 = 16_384;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit can be asked for");
    if hard < NEEDED {
        println!("SKIPPED: many peers: {hard} descriptors are allowed, {NEEDED} needed");
        return false;
    }
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(NEEDED), hard).expect("it may be raised");
    true
}
