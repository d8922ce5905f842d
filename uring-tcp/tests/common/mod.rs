//! What the tests of the rail share: fabrics in one process, over the loopback interface.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod certificates;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use certificates::{Authority, Configs};
use gridnet_core::endpoint::PeerState;
use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use gridnet_core::testing::node::exactly;
use gridnet_core::testing::pair::{Cutting, Fixture, Pair};
use gridnet_core::testing::random::Random;
use gridnet_core::time::Time;
use gridnet_core::wire::{Address, NodeId};
use gridnet_uring_tcp::{
    Engine, Interfaces, Key, Multirail, Security, Session, TcpConfig, TcpRail, Tuning, Window,
};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConnection, ServerConnection};

/// Rails on the loopback interface.
pub struct Tcp {
    pub start: Instant,
    /// Time that has passed without anybody waiting for it.
    pub skipped: Duration,
    /// So many times slower than real time passes: for tests of bounds that a busy machine would reach.
    pub slowness: u32,
    pub engine: Engine,
    pub security: Security,
    pub interfaces: &'static str,
    pub window: Window,
    pub tuning: Tuning,
    pub multirail: Multirail,
    pub retains: bool,
}

impl Tcp {
    pub fn new(engine: Engine) -> Tcp {
        Tcp {
            start: Instant::now(),
            skipped: Duration::ZERO,
            slowness: 1,
            engine: if engine == Engine::Auto { engine } else { allowed(engine) },
            security: Security::Insecure,
            interfaces: "127.0.0.1",
            window: Window::default(),
            tuning: Tuning::default(),
            multirail: Multirail::Auto,
            retains: true,
        }
    }

    /// What the rail of this address is opened with.
    pub fn config(&self, address: &Address) -> TcpConfig {
        TcpConfig {
            local: *address,
            interfaces: Interfaces::parse(self.interfaces).expect("the names are right"),
            ports: None,
            security: self.security.clone(),
            engine: self.engine,
            single_thread: true,
            tuning: self.tuning.clone(),
            window: self.window,
            multirail: self.multirail,
            retains: self.retains,
        }
    }
}

impl Fixture for Tcp {
    type Rail = TcpRail;

    fn rail(&mut self, address: &Address) -> TcpRail {
        TcpRail::open(self.config(address)).expect("the rail opens")
    }

    fn reached_at(&self, rail: &TcpRail, address: Address) -> Address {
        Address { network: rail.listens_at(), ..address }
    }

    fn tick(&mut self) -> Time {
        // What the kernel does with packets may be waiting for the core.
        std::thread::yield_now();
        Time((self.start.elapsed() / self.slowness + self.skipped).as_nanos() as u64)
    }

    fn quiet_steps(&self) -> usize {
        // Some ten milliseconds: now and then the last packet waits for a timer of the kernel (a probe for lost tails). More where
        // threads of the kernel want the cores, too.
        if self.engine == Engine::IoUringSqpoll {
            9000
        } else {
            4000
        }
    }

    fn patience(&self) -> usize {
        // Ten seconds and more.
        4_000_000
    }

    fn times(&self, all: u64) -> u64 {
        if std::env::var_os("TEST_SOAK").is_some() {
            all
        } else {
            // Six kinds of rails have the whole suite.
            all / 6
        }
    }

    fn overshoot(&self) -> usize {
        // What is under way, and what was read at once before the word to stop was sent.
        self.window.frames as usize + 2 * 16384 / 24
    }
}

impl Cutting for Tcp {
    fn is_exact(&self) -> bool {
        false
    }

    fn cut(&mut self, rails: [&mut TcpRail; 2], between: [NodeId; 2], random: &mut Random) {
        // Where there are several paths, one time in three only one of the others.
        if matches!(self.multirail, Multirail::Alike(_)) && random.below(3) == 0 {
            let [a, b] = rails;
            let (rail, other) = if random.below(2) == 0 { (a, between[1]) } else { (b, between[0]) };
            return rail.link_with(other).into_iter().for_each(|link| rail.cut_path(link));
        }
        // Which sides lose what they have not read; if none does, the connection ends behind everything that was sent.
        let (losers, quiet) = (random.below(4), random.below(2));
        for (side, (rail, other)) in (0..).zip(rails.into_iter().zip([between[1], between[0]])) {
            match rail.link_with(other) {
                Some(link) if losers >> side & 1 == 1 => rail.cut(link),
                Some(link) if losers == 0 && side == quiet => rail.shut(link),
                _ => {}
            }
        }
    }
}

/// Says what is left out, once.
pub fn skip(what: &str) {
    static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let mut said = SAID.lock().expect("nobody panics with it");
    if !said.iter().any(|before| before == what) {
        said.push(what.to_owned());
        // Not by a macro: what those print is kept back for tests that pass.
        let _ = writeln!(std::io::stderr(), "\nSKIPPED: {what}");
    }
}

/// This one, where the system allows it.
pub fn allowed(engine: Engine) -> Engine {
    let Err(refusal) = gridnet_uring_tcp::engine(engine) else { return engine };
    skip(&format!("{engine:?}: {}; epoll in its place", refusal.reason));
    Engine::Epoll
}

pub fn key(byte: u8) -> Security {
    Security::Key(Key::new(&[byte; 32]).expect("the key is long enough"))
}

/// The loopback interface's address of IPv6, where there is one.
pub fn ipv6() -> &'static str {
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        return "::1";
    }
    skip("IPv6: the loopback interface has no such address; IPv4 in its place");
    "127.0.0.1"
}

/// A session of which everybody is a member who is certified, as whichever fabric it says.
#[derive(Debug)]
pub struct Members {
    pub configs: Configs,
    pub refused: Mutex<Vec<String>>,
    /// Callers that are answered before others have proved who they are.
    pub hellos: Mutex<i64>,
    /// Fabrics that nobody may speak for.
    pub nobody: Vec<NodeId>,
    pub revoked: Mutex<Vec<NodeId>>,
    /// Fabrics to which there was a link, each time.
    pub linked: Mutex<Vec<NodeId>>,
    /// Over how many connections each link is to go, if that was agreed on.
    pub streams: Option<u32>,
}

impl Members {
    pub fn of(authority: &Authority) -> Members {
        Members {
            configs: authority.member(),
            hellos: Mutex::new(i64::MAX),
            refused: Mutex::default(),
            nobody: Vec::new(),
            revoked: Mutex::default(),
            linked: Mutex::default(),
            streams: None,
        }
    }
}

impl Session for Members {
    fn call(&self, _: NodeId) -> Result<ClientConnection, Refusal> {
        Ok(ClientConnection::new(Arc::clone(&self.configs.client), certificates::name()).unwrap())
    }

    fn answer(&self) -> Result<ServerConnection, Refusal> {
        Ok(ServerConnection::new(Arc::clone(&self.configs.server)).unwrap())
    }

    fn check(&self, shown: &[CertificateDer<'_>], fabric: NodeId) -> Result<(), Refusal> {
        match !shown.is_empty() && !self.nobody.contains(&fabric) {
            true => Ok(()),
            false => Err(Refusal::new(Error::Permission, "a name of somebody else")),
        }
    }

    fn revoked_of(&self, fabrics: &[NodeId]) -> Vec<NodeId> {
        let revoked = self.revoked.lock().unwrap();
        fabrics.iter().copied().filter(|fabric| revoked.contains(fabric)).collect()
    }

    fn may_come(&self, _: IpAddr) -> bool {
        let mut left = self.hellos.lock().unwrap();
        *left -= 1;
        *left >= 0
    }

    fn proved(&self, _: IpAddr) {
        let mut left = self.hellos.lock().unwrap();
        *left = left.saturating_add(1);
    }

    fn refused(&self, who: &str, why: &str) {
        self.refused.lock().unwrap().push(format!("{who} {why}"));
    }

    fn refusals(&self) -> u64 {
        self.refused.lock().unwrap().len() as u64
    }

    fn linked(&self, fabric: NodeId) {
        self.linked.lock().unwrap().push(fabric);
    }

    fn streams(&self, _: NodeId) -> Option<u32> {
        self.streams
    }
}

/// Peers are the members of one session.
pub fn tls() -> Security {
    static MEMBERS: OnceLock<Arc<Members>> = OnceLock::new();
    let members = MEMBERS.get_or_init(|| Arc::new(Members::of(&Authority::new())));
    Security::Session(Arc::clone(members) as Arc<dyn Session>)
}

/// Runs until the first node of a pair has hung up on a stranger; what it said before.
pub fn drive_until_hung_up(pair: &mut Pair<Tcp>, stranger: &mut TcpStream) -> Vec<u8> {
    let mut heard = Vec::new();
    let over = pair.run_until(|_| is_hung_up(stranger, &mut heard));
    assert!(over, "a stranger is still there");
    heard
}

/// Whether the other side has hung up; what it said before goes to `heard`.
pub fn is_hung_up(stream: &mut TcpStream, heard: &mut Vec<u8>) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut buffer = [0; 4096];
    let read = stream.read(&mut buffer);
    stream.set_nonblocking(false).unwrap();
    match read {
        Ok(0) => true,
        Ok(len) => {
            heard.extend_from_slice(&buffer[..len]);
            false
        }
        Err(e) => e.kind() != ErrorKind::WouldBlock,
    }
}

/// Whatever strangers do, the second node of a pair talks to the first as ever, with tags after `tag`.
pub fn check_friend(pair: &mut Pair<Tcp>, tag: &mut u64) {
    for len in [20, 300_000] {
        *tag += 1;
        let bytes = Random::new(*tag).bytes(len);
        let receive = pair.a.receive(exactly(pair.to_b, *tag), len);
        pair.b.send(pair.to_a, &bytes, *tag);
        let outcome = pair.finish_a(receive);
        assert_eq!(outcome.status, Ok(()), "message {tag}");
        assert!(outcome.bytes == bytes, "message {tag}");
    }
    assert_eq!(pair.a.state(pair.to_b), PeerState::Up);
}

/// Appends a frame of any kind as the rail writes it.
pub fn say_frame(kind: u8, word: u64, payload: &[u8], flags: u8, extension: &[u64], out: &mut Vec<u8>) {
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&[kind, flags, extension.len() as u8, 0]);
    out.extend_from_slice(&word.to_le_bytes());
    extension.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
    out.extend_from_slice(payload);
}

/// Has the system refuse this call to this thread from now on.
pub fn forbid(call: libc::c_long) {
    const LOAD_NUMBER: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const IS: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const ANSWER: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut filter = [
        step(LOAD_NUMBER, 0, 0, 0),
        step(IS, 0, 1, call as u32),
        step(ANSWER, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(ANSWER, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program and its steps live until the calls return; the kernel copies them.
    let status = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            | libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program)
    };
    assert_eq!(status, 0, "the filter is refused");
}
