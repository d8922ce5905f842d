//! Hosts with fabrics, and what these say to each other.

use std::collections::HashMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use gridnet::core::completion::Completion;
use gridnet::core::error::Error;
use gridnet::core::matching::{Pattern, Source};
use gridnet::core::rail::PeerId;
use gridnet::core::wire::{Address, ADDRESS_BYTES};
use gridnet::{AnyRail, ThreadLevel};
use gridnet_core::testing::random::Random;
use gridnet_testbed::{Impairment, Lab, LinkSpec, Running, Topology};

use crate::common::{Buffer, Party, Scratch};

/// How long anything may take that is expected to come.
pub const PATIENCE: Duration = Duration::from_secs(100);
/// How many messages a part is to expect.
pub const COUNT: &str = "LAB_COUNT";

/// Hosts a and b, on a cable of so many Mbit/s; none, aloud, where what a lab needs is not installed.
pub fn two(mbit: u64) -> Option<Lab> {
    over(Impairment::default().mbit(mbit))
}

/// The same, on any cable.
pub fn over(path: Impairment) -> Option<Lab> {
    open_lab(Topology::new().host("a").host("b").link(LinkSpec::between("a", "b").with(path)))
}

/// The lab; none, aloud, where what it needs is not installed.
pub fn open_lab(topology: Topology) -> Option<Lab> {
    if std::env::var_os("TEST_SANITIZED").is_some() {
        println!("SKIPPED: fabrics of several hosts: they measure memory, of which a sanitizer takes much");
        return None;
    }
    match Lab::open_unchecked(topology) {
        Ok(lab) => Some(lab),
        Err(gridnet_testbed::Error::Unavailable(why)) => {
            println!("SKIPPED: fabrics of several hosts: {why}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Whether counts are to be those of the long run.
pub fn is_long() -> bool {
    std::env::var_os("TEST_SOAK").is_some()
}

/// A number for this part, if it is one that a test has started.
pub fn count() -> Option<u64> {
    std::env::var(COUNT).ok()?.parse().ok()
}

/// A fabric whose only rail is tcp.
pub fn open(scratch: &Scratch, options: &[(&str, &str)]) -> Party {
    let all = [&[("GRIDNET_RAILS", "tcp"), ("GRIDNET_NET_INSECURE", "1")], options].concat();
    Party::open(&scratch.0, None, ThreadLevel::Serialized, &all)
}

/// Says where a fabric is reached.
pub fn say_address(party: &Party) {
    let digits = party.address().to_bytes().iter().fold(String::new(), |mut digits, byte| {
        let _ = write!(digits, "{byte:02x}");
        digits
    });
    println!("address {digits} end");
}

/// The addresses that a part says.
pub fn addresses_of(part: &Running, count: usize) -> Vec<Address> {
    let end = Instant::now() + PATIENCE;
    loop {
        part.wait_for(" end", PATIENCE).expect("it opens its fabric");
        let [said, _] = part.said();
        let found: Vec<Address> = said.lines().filter_map(parse).collect();
        if found.len() >= count {
            return found;
        }
        assert!(Instant::now() < end, "{} addresses", found.len());
        std::thread::yield_now();
    }
}

pub fn address_of(part: &Running) -> Address {
    addresses_of(part, 1)[0]
}

fn parse(line: &str) -> Option<Address> {
    let (_, rest) = line.split_once("address ")?;
    let digits = rest.strip_suffix(" end")?;
    let mut bytes = [0; ADDRESS_BYTES];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(at * 2..at * 2 + 2)?, 16).ok()?;
    }
    Address::parse(&bytes).ok()
}

/// Messages that tell at each byte whether they are the right ones: pieces of one noise.
#[derive(Clone, Copy)]
pub struct Noise {
    bytes: &'static [u8],
    sizes: &'static [usize],
}

/// Where messages may begin.
const NOISE_BYTES: usize = 1 << 20;
/// Sizes that go by every way.
pub const SIZES: &[usize] = &[0, 8, 100, 3000, 8192, 8193, 40_000, 70_000];
/// Those that go at once, whether the receiver is ready or not.
pub const SHORT: &[usize] = &[8, 100, 3000, 8192];

impl Noise {
    pub fn new(sizes: &'static [usize]) -> Noise {
        let longest = sizes.iter().copied().max().unwrap_or_default();
        Noise { bytes: Box::leak(Random::new(7).bytes(NOISE_BYTES + longest).into_boxed_slice()), sizes }
    }

    fn longest(self) -> usize {
        self.bytes.len() - NOISE_BYTES
    }

    /// What message `number` is.
    pub fn message(self, number: u64) -> &'static [u8] {
        let len = self.sizes[number as usize % self.sizes.len()];
        let start = (number * 4099) as usize % NOISE_BYTES;
        &self.bytes[start..start + len]
    }
}

/// Sends `count` numbered messages, with at most `window` under way; looks with `each` now and then.
pub fn send_all(party: &Party, to: PeerId, noise: Noise, count: u64, window: u64, mut each: impl FnMut()) {
    let (mut sent, mut under_way) = (0, 0);
    while sent < count || under_way > 0 {
        while sent < count && under_way < window {
            // The last one says that all have come.
            let is_last = sent + 1 == count;
            let follows = party.send(to, noise.message(sent), sent, is_last).expect("the peer lives");
            under_way += u64::from(follows);
            sent += 1;
        }
        each();
        if under_way > 0 {
            match party.wait(Duration::from_millis(100)) {
                Ok(completion) => {
                    let why = || party.enter().explain(to);
                    assert_eq!(completion.status, 0, "message {sent} or before: {:?}", why());
                    under_way -= 1;
                }
                Err(error) => assert_eq!(error, Error::Timeout),
            }
        }
    }
}

/// Receives `count` numbered messages in order, each of which has to be right; `each` hears of them.
pub fn receive_all(party: &Party, noise: Noise, count: u64, mut each: impl FnMut(u64)) {
    const AT_ONCE: usize = 32;
    let mut free: Vec<Buffer> = (0..AT_ONCE).map(|_| Buffer::new(noise.longest())).collect();
    let anything = Pattern { source: Source::Any, tag: 0, ignore: u64::MAX };
    let mut posted = HashMap::new();
    let mut next = 0;
    for done in 0..count {
        // In the order of the messages: whichever comes first takes the first.
        while let Some(buffer) = free.pop_if(|_| next < count) {
            party.enter().engine.receive(party.cq, &anything, buffer.iov(), next).expect("there is room");
            posted.insert(next, buffer);
            next += 1;
        }
        let Completion { status, context, tag, length, .. } =
            party.wait(PATIENCE).unwrap_or_else(|e| panic!("{done} of {count} messages have come: {e:?}"));
        let expected = noise.message(context);
        assert_eq!((status, tag, length), (0, context, expected.len() as u64), "message {context}");
        let buffer = posted.remove(&context).expect("it was posted");
        assert!(buffer.first(expected.len()).to_vec() == expected, "message {context} differs");
        free.push(buffer);
        each(done + 1);
    }
    // What comes now came twice.
    assert_eq!(party.enter().engine.counters().unexpected_now, 0);
}

/// How often the link to a peer has broken, and how many frames were sent again.
pub fn breaks(party: &Party, peer: PeerId) -> (u64, u64) {
    party.enter().engine.breaks(peer)
}

/// Waits until the links of a fabric are looked after.
pub fn await_pulses(party: &Party, count: usize) {
    let end = Instant::now() + PATIENCE;
    loop {
        let found = party.enter().engine.rails().iter().find_map(|rail| match rail {
            AnyRail::Tcp(tcp) => Some(tcp.pulses()),
            _ => None,
        });
        if found == Some(count) {
            return;
        }
        assert!(Instant::now() < end, "{found:?} pulses of {count}");
        // Whatever comes meanwhile has been asked for by nobody.
        let _ = party.wait(Duration::from_millis(50));
    }
}

/// A figure of a process in KiB, such as `VmRSS`.
pub fn kib(pid: u32, what: &str) -> u64 {
    let figure = status(pid, what);
    figure.parse().unwrap_or_else(|_| panic!("{what} is {figure}"))
}

/// Waits until a process is stopped.
pub fn await_stopped(pid: u32) {
    let end = Instant::now() + PATIENCE;
    while status(pid, "State") != "T" {
        assert!(Instant::now() < end, "process {pid} is not stopped");
        std::thread::yield_now();
    }
}

/// The first word that the system says of this of a process.
fn status(pid: u32, what: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':'));
    let word = line.and_then(|line| line.split_whitespace().next());
    word.unwrap_or_else(|| panic!("no {what} in {status}")).to_owned()
}

/// Nothing in the network of this thread listens on every address.
pub fn assert_nothing_listens_for_everybody() {
    let mut listeners = 0;
    for table in ["tcp", "tcp6"] {
        let text =
            std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).expect("there is procfs");
        // Local address and port in hexadecimal digits, the other side's, state: 0A is LISTEN.
        for line in text.lines().filter(|line| line.split_whitespace().nth(3) == Some("0A")) {
            let (ip, _) = line.split_whitespace().nth(1).and_then(|local| local.split_once(':')).unwrap();
            assert!(ip.bytes().any(|digit| digit != b'0'), "a listener on every address: {line}");
            listeners += 1;
        }
    }
    assert!(listeners > 0, "the fabric listens somewhere");
}
