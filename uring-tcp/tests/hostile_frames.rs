//! Peers that come through the handshake, and then say anything: they are cut off, and disturb nobody.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use common::{check_friend, say_frame, Tcp};
use gridnet_core::endpoint::{Limits, PeerState};
use gridnet_core::error::Error;
use gridnet_core::testing::node::anything;
use gridnet_core::testing::pair::{address_of, Fixture, Pair, Setup};
use gridnet_core::testing::random::Random;
use gridnet_core::wire::{Address, Extension, Hello, NetAddresses, NodeId, FLAG_AHEAD};
use gridnet_uring_tcp::Engine;

/// Frames of one peer at most.
const FRAMES: u64 = 400;
/// The last packet of a handshake that has come about.
const WELCOME: &[u8] = &[1, 0, b'W'];
/// Far more than anything takes.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn fuzzed_frames_end_their_sender_and_nobody_else() {
    let total: u64 = if std::env::var_os("TEST_SOAK").is_some() { 1_000_000 } else { 20_000 };
    let limits = Limits { unexpected_bytes: 4 << 20, unexpected_messages: 4096, ..Limits::default() };
    let mut pair = Pair::with(Tcp::new(Engine::Auto), Setup { limits, ..Setup::default() });
    let mut random = Random::new(11);
    let (mut said, mut peers, mut cut_off, mut tag) = (0, 0_u64, 0_u64, 0);
    while said < total {
        peers += 1;
        let mut peer = Peer::greet(&mut pair, peers);
        let count = 1 + random.below(FRAMES);
        for number in 0..count {
            said += 1;
            let is_last = number + 1 == count;
            let frame = if number == 0 { resume() } else { fuzzed(&mut random) };
            let frame = if is_last { shortened(frame, &mut random) } else { frame };
            // The victim hears several at a time.
            let is_heard = number % 8 == 0 || is_last;
            if !if is_heard { peer.say(&frame, &mut pair) } else { peer.0.write_all(&frame).is_ok() } {
                break;
            }
        }
        cut_off += u64::from(peer.is_hung_up(&mut pair));
        drop(peer);
        pair.step();
        if peers % 16 == 0 {
            check_friend(&mut pair, &mut tag);
            take_all(&mut pair);
        }
    }
    check_friend(&mut pair, &mut tag);
    println!("RESULT {said} fuzzed frames of {peers} peers, of which {cut_off} were cut off");
    assert!(cut_off * 2 > peers, "{cut_off} of {peers} were cut off: the frames are too good to tell");
    // Nothing is left of them but what they had sent in good order.
    let is_alone = pair.run_until(|pair| pair.a.engine().counters().peers_now == 1);
    assert!(is_alone, "{} peers are left", pair.a.engine().counters().peers_now);
}

/// What a peer sent stays when it goes. Who comes again and again under another name is not let in any more when that is too much.
#[test]
fn messages_of_many_names_have_a_bound() {
    let limits = Limits { unexpected_messages: 64, ..Limits::default() };
    let mut pair = Pair::with(Tcp::new(Engine::Auto), Setup { limits, ..Setup::default() });
    let (mut names, mut tag) = (0.., 0);
    let mut come = |pair: &mut Pair<Tcp>| -> Result<(), String> {
        let hello = Hello::new(node(names.next().unwrap()), 1, 1);
        let mut peer = Peer::try_greet_as(pair, hello)?;
        let messages =
            [resume(), (0..20).flat_map(|_| frame(1, 7, b"mine", 0, &[])).collect::<Vec<u8>>()].concat();
        let before = pair.a.engine().counters().unexpected_now;
        assert!(peer.say(&messages, pair));
        assert!(pair.run_until(|pair| pair.a.engine().counters().unexpected_now == before + 20));
        // Whoever says what cannot be has gone at once.
        peer.say(&[0xff; 40], pair);
        assert!(peer.is_hung_up(pair));
        Ok(())
    };
    let mut resident = Peer::greet(&mut pair, 500);
    assert!(resident.say(&resume(), &mut pair));
    for turn in 0..3 {
        // 60 messages are below the bound.
        (0..4).for_each(|_| assert_eq!(come(&mut pair), Ok(()), "turn {turn}"));
        let refused = come(&mut pair).expect_err("80 messages wait");
        assert!(refused.contains("GRIDNET_UNEXPECTED_MESSAGES=64"), "{refused}");
        check_friend(&mut pair, &mut tag);
        // Who was let in before, and was not given up yet, may start again.
        drop(resident);
        assert!(pair.run_until(|pair| pair.a.engine().counters().peers_now == 1));
        let next_life = Hello::new(node(500), turn + 2, 1);
        resident = Peer::try_greet_as(&mut pair, next_life).expect("it takes the place of its last life");
        assert!(resident.say(&resume(), &mut pair));
        take_all(&mut pair);
    }
}

#[test]
fn lengths_that_cannot_be_are_not_waited_for() {
    let mut pair = Pair::new(Tcp::new(Engine::Auto));
    let mut tag = 0;
    // An eager frame may have 8 KiB, others 256 KiB; whoever announces more is not given memory for it.
    for (number, (kind, len)) in
        [(1, 8193), (1, u32::MAX), (16, (256 << 10) + 1), (4, u32::MAX), (0xf0, 1)].into_iter().enumerate()
    {
        let mut peer = Peer::greet(&mut pair, 1000 + number as u64);
        assert!(peer.say(&resume(), &mut pair));
        let extension: &[u64] = match kind {
            16 => &[1, 0],
            4 => &[0],
            _ => &[],
        };
        let mut bytes = frame(kind, 1, &[], 0, extension);
        bytes[..4].copy_from_slice(&len.to_le_bytes());
        peer.say(&bytes, &mut pair);
        assert!(peer.is_hung_up(&mut pair), "kind {kind} with {len} bytes");
        check_friend(&mut pair, &mut tag);
    }
}

/// Frames may come with the hello of who calls, before it has heard anything. They are judged as all others, and those of who is refused
/// are heard by nobody.
#[test]
fn frames_that_come_with_the_hello_are_judged_as_all_others() {
    let mut pair = Pair::new(Tcp::new(Engine::Auto));
    let mut tag = 0;
    let messages = [resume(), (0..200).flat_map(|_| frame(1, 7, &[9; 100], 0, &[])).collect()].concat();
    let too_long = [&u32::MAX.to_le_bytes()[..], &frame(1, 1, &[], 0, &[])[4..]].concat();
    for (number, behind, taken) in
        [(1, Vec::new(), 200), (2, too_long, 200), (3, vec![0xff; 40], 200), (4, messages.clone(), 200)]
    {
        let ends = !behind.is_empty();
        let hello = Hello::new(node(2000 + number), 1, 1);
        let mut peer = Peer::call_and_say(&pair, hello, &[messages.as_slice(), &behind].concat());
        let is_taken = pair.run_until(|pair| pair.a.engine().counters().unexpected_now == taken);
        assert!(is_taken, "{number}: {} messages", pair.a.engine().counters().unexpected_now);
        assert_eq!(peer.is_hung_up(&mut pair), ends, "{number}");
        take_all(&mut pair);
        check_friend(&mut pair, &mut tag);
    }
    // Another fabric is meant.
    let hello = Hello::new(node(2010), 1, 1);
    let victim = *pair.a.address();
    let meant = Address { incarnation: victim.incarnation + 1, ..victim };
    let said = [packet(hello, &meant, pair.fixture.uid()), messages].concat();
    let mut peer = Peer::connect(&victim, &said);
    assert!(peer.is_hung_up(&mut pair));
    assert_eq!(pair.a.engine().counters().unexpected_now, 0);
    check_friend(&mut pair, &mut tag);
}

/// The first bytes of a large message go ahead only to peers that know of that: to those with an older library they are nonsense.
#[test]
fn nothing_goes_ahead_to_peers_that_do_not_know_of_it() {
    let mut pair = Pair::new(Tcp::new(Engine::Auto));
    for (number, (features, goes_ahead)) in
        [(0, false), (1, false), (2, true), (3, true)].into_iter().enumerate()
    {
        let node = node(number as u64 + 1);
        let mut peer = Peer::greet_as(&mut pair, Hello { features, ..Hello::new(node, 1, 1) });
        assert!(peer.say(&resume(), &mut pair));
        let to = pair.a.peer_of(node).expect("it has come");
        let start = Instant::now();
        while pair.a.state(to) != PeerState::Up {
            pair.step();
            assert!(start.elapsed() < PATIENCE, "it is not let in");
        }
        pair.a.send(to, &[7; 100_000], 1);
        let mut heard = Vec::new();
        let flags = loop {
            pair.step();
            assert!(read(&mut peer.0, &mut heard) && start.elapsed() < PATIENCE, "nothing is announced");
            if let Some(flags) = announcement_in(&heard) {
                break flags;
            }
        };
        assert_eq!(flags & FLAG_AHEAD != 0, goes_ahead, "features {features}");
    }
}

/// The flags of the announcement among frames, once it has come.
fn announcement_in(mut heard: &[u8]) -> Option<u8> {
    loop {
        let header: [u8; 16] = heard.get(..16)?.try_into().ok()?;
        let [a, b, c, d, kind, flags, words, ..] = header;
        if kind == 2 {
            return Some(flags);
        }
        let len = 16 + 8 * usize::from(words) + u32::from_le_bytes([a, b, c, d]) as usize;
        heard = heard.get(len..)?;
    }
}

/// Calls are numbered between two: whoever says a large number makes no later call to others look old.
#[test]
fn how_a_stranger_numbers_its_call_is_nothing_to_others() {
    let mut pair = Pair::new(Tcp::new(Engine::Auto));
    let stranger = Hello::new(node(1), 1, u32::MAX);
    let _peer = Peer::greet_as(&mut pair, stranger);
    let (listener, address) = somebody(7);
    pair.a.engine().open(&address).expect("the call starts");
    let (mut called, _) = listener.accept().expect("it calls");
    let mut heard = Vec::new();
    let start = Instant::now();
    while heard.len() < 100 {
        pair.step();
        assert!(read(&mut called, &mut heard) && start.elapsed() < PATIENCE, "it says nothing");
    }
    let hello = Hello::parse(heard.get(3..).unwrap()).expect("it greets");
    // The first one was to the friend.
    assert_eq!(hello.generation, 2);
}

/// A call crosses another only if both lead to the same incarnation.
#[test]
fn who_calls_in_the_place_of_another_incarnation_does_not_get_its_link() {
    let mut pair = Pair::new(Tcp::new(Engine::Auto));
    let (_listener, mut address) = somebody(7);
    // Of two calls that cross, that of the smaller node counts.
    let mut bytes = [0; 16];
    bytes[15] = 7;
    address.node = NodeId::new(bytes).expect("not zero");
    let called = pair.a.engine().open(&address).expect("the call starts");
    for (incarnation, is_welcome) in [(2, false), (1, true)] {
        let mut peer = Peer::call(&pair, Hello::new(address.node, incarnation, 1));
        let mut heard = Vec::new();
        let start = Instant::now();
        // Frames may be behind it.
        let is_heard = |heard: &[u8]| heard.windows(WELCOME.len()).any(|bytes| bytes == WELCOME);
        while !is_heard(&heard) && read(&mut peer.0, &mut heard) {
            pair.step();
            assert!(start.elapsed() < PATIENCE, "no answer");
        }
        assert_eq!(is_heard(&heard), is_welcome, "{:?}", String::from_utf8_lossy(&heard));
        let state = pair.a.state(called);
        assert_eq!(state == PeerState::Connecting, !is_welcome, "{state:?}");
    }
}

/// Where somebody listens who says nothing.
fn somebody(number: u8) -> (TcpListener, Address) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
    let at = listener.local_addr().expect("it has one");
    let network = NetAddresses::new(at.port(), [at.ip()]);
    (listener, Address { network, ..address_of(number, 0) })
}

/// A peer by hand.
struct Peer(TcpStream);

impl Peer {
    fn greet(pair: &mut Pair<Tcp>, number: u64) -> Peer {
        Peer::greet_as(pair, Hello::new(node(number), 1, 1))
    }

    /// Calls the first node of the pair, and says that.
    fn call(pair: &Pair<Tcp>, hello: Hello) -> Peer {
        Peer::call_and_say(pair, hello, &[])
    }

    /// The same, and this right behind it.
    fn call_and_say(pair: &Pair<Tcp>, hello: Hello, more: &[u8]) -> Peer {
        let victim = *pair.a.address();
        Peer::connect(&victim, &[packet(hello, &victim, pair.fixture.uid()).as_slice(), more].concat())
    }

    fn connect(victim: &Address, said: &[u8]) -> Peer {
        let at: SocketAddr = victim.network.iter().next().expect("it listens");
        let mut stream = TcpStream::connect(at).expect("somebody listens");
        stream.set_nodelay(true).unwrap();
        stream.write_all(said).unwrap();
        Peer(stream)
    }

    fn greet_as(pair: &mut Pair<Tcp>, hello: Hello) -> Peer {
        Peer::try_greet_as(pair, hello).expect("it is welcome")
    }

    /// Comes through the handshake, or hears why not.
    fn try_greet_as(pair: &mut Pair<Tcp>, hello: Hello) -> Result<Peer, String> {
        let Peer(mut stream) = Peer::call(pair, hello);
        // Its hello, and its welcome.
        let mut heard = Vec::new();
        let start = Instant::now();
        while !heard.ends_with(WELCOME) {
            pair.step();
            if !read(&mut stream, &mut heard) {
                return Err(String::from_utf8_lossy(&heard).into_owned());
            }
            assert!(start.elapsed() < PATIENCE, "no welcome");
        }
        Ok(Peer(stream))
    }

    /// Says something, as long as somebody listens.
    fn say(&mut self, bytes: &[u8], pair: &mut Pair<Tcp>) -> bool {
        let is_said = self.0.write_all(bytes).is_ok();
        pair.step();
        is_said && read(&mut self.0, &mut Vec::new())
    }

    /// Whether the other side hangs up, of what it has heard so far.
    fn is_hung_up(&mut self, pair: &mut Pair<Tcp>) -> bool {
        !(0..50).all(|_| {
            pair.step();
            read(&mut self.0, &mut Vec::new())
        })
    }
}

/// Reads what is there; false when the other side has hung up.
fn read(stream: &mut TcpStream, heard: &mut Vec<u8>) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut buffer = [0; 65_536];
    let result = stream.read(&mut buffer);
    stream.set_nonblocking(false).unwrap();
    match result {
        Ok(0) => false,
        Ok(len) => {
            heard.extend_from_slice(&buffer[..len]);
            true
        }
        Err(e) => e.kind() == ErrorKind::WouldBlock,
    }
}

fn node(number: u64) -> NodeId {
    let mut node = [0xee; 16];
    node[..8].copy_from_slice(&number.to_le_bytes());
    NodeId::new(node).expect("not zero")
}

/// A hello with what the rail adds.
fn packet(mut hello: Hello, victim: &Address, uid: u32) -> Vec<u8> {
    let incarnation = victim.incarnation.to_le_bytes();
    let offer = [&[0; 4][..], &uid.to_le_bytes(), &[7; 32], victim.node.bytes(), &incarnation].concat();
    hello.extensions.push(Extension { kind: 0x8002, bytes: offer });
    let bytes = hello.encode();
    [&(bytes.len() as u16 + 1).to_le_bytes()[..], b"H", &bytes].concat()
}

fn resume() -> Vec<u8> {
    frame(12, 0, &[], 0, &[1, 0])
}

fn frame(kind: u8, word: u64, payload: &[u8], flags: u8, extension: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::new();
    say_frame(kind, word, payload, flags, extension, &mut bytes);
    bytes
}

/// A frame of any kind, most often one that could be; now and then with a wrong bit.
fn fuzzed(random: &mut Random) -> Vec<u8> {
    let number = |random: &mut Random| match random.below(3) {
        0 => random.below(8),
        1 => random.below(1 << 20),
        _ => random.next_u64(),
    };
    // Kind, flags, extension words, payload. What is asked for must not be all that comes.
    let shapes: [(u8, u8, usize, u64); 27] = [
        (1, 0, 0, 300),
        (1, 0, 0, 300),
        (1, 0, 0, 8192),
        (1, 1, 1, 100),
        (1, 2, 1, 100),
        (1, 3, 2, 100),
        (2, 0, 2, 0),
        (2, 1, 3, 0),
        (2, 4, 4, 0),
        (2, 5, 5, 0),
        (3, 0, 3, 0),
        (5, 0, 1, 0),
        (6, 0, 0, 0),
        (7, 0, 0, 0),
        (8, 0, 0, 0),
        (0xf0, 0, 0, 0),
        (9, 0, 1, 0),
        (16, 0, 2, 1000),
        (16, 8, 2, 1000),
        (17, 0, 3, 0),
        (18, 0, 1, 1000),
        (19, 0, 5, 0),
        (20, 0, 2, 0),
        (20, 0, 2, 0),
        (1, 0, 0, 20),
        (1, 0, 0, 20),
        (1, 0, 0, 20),
    ];
    // Segments and loans of nothing, another path where there is one only, a conversation that begins anew: each is the last.
    let fatal: [(u8, u8, usize, u64); 6] =
        [(3, 16, 4, 0), (4, 0, 1, 1000), (10, 0, 3, 0), (10, 1, 4, 0), (11, 0, 0, 0), (12, 0, 2, 0)];
    let is_fatal = random.below(100) == 0;
    let (kind, flags, words, most) = if is_fatal { random.pick(&fatal) } else { random.pick(&shapes) };
    let payload = if most > 0 { random.below(most + 1) } else { 0 };
    let payload = random.bytes(payload as usize);
    let word = match kind {
        0xf0 => 0,
        // Operations that may have been: sends, and what is asked of a region.
        3 | 5 | 6 => random.below(8),
        18 | 20 => random.below(8) | 3 << 30,
        _ => number(random),
    };
    let mut extension: Vec<u64> = (0..words).map(|_| number(random)).collect();
    if let (5 | 9 | 20, Some(status)) = (kind, extension.first_mut()) {
        *status = i64::from(random.pick(&[Error::Canceled, Error::Truncated, Error::NotFound]).code()) as u64;
    }
    let mut bytes = frame(kind, word, &payload, flags, &extension);
    if random.below(100) == 0 {
        let at = random.below(16.min(bytes.len() as u64)) as usize;
        bytes[at] ^= 1 << random.below(8);
    }
    bytes
}

/// The same cut off, or with nonsense behind it.
fn shortened(mut frame: Vec<u8>, random: &mut Random) -> Vec<u8> {
    if random.chance(0.5) {
        frame.truncate(random.below(frame.len() as u64) as usize);
    } else {
        frame.extend(random.bytes(40));
    }
    frame
}

/// Receives what strangers have left.
fn take_all(pair: &mut Pair<Tcp>) {
    while let Some(found) = pair.a.engine().probe(&anything()) {
        // What was only announced fails when its sender is given up: that is not waited for.
        pair.a.receive(anything(), found.len.min(8192) as usize);
    }
}
