//! One side of a talk between two implementations of verbs; this one is the software device, over UDP.
//!
//! ```text
//! peer listen ADDRESS PORT            waits at a TCP port for the other side, for 60 s
//! peer call ADDRESS OTHER PORT        calls the other side there
//! ```
//!
//! ADDRESS is the one of this device, at UDP port 4791. Both sides speak lines over the TCP connection; numbers are decimal.
//!
//! 1. Each side says `qp QPN PSN ADDRESS RKEY IP`: its queue pair, the first packet number it sends with, a region of [`REGION`]
//!    bytes, and the address of its device. Each moves its queue pair to RTS and says `ready`.
//! 2. The side that has called is the first that asks. The other one obeys, and answers `ok` or what is wrong:
//!    `fill OFFSET LENGTH SEED`, `check OFFSET LENGTH SEED`: byte i there becomes, or is, [`pattern`];
//!    `recv OFFSET LENGTH` posts a receive; `wait LENGTH IMM`: whether it had so many bytes, and this immediate value, -1 for none;
//!    `turn`: the roles change, without an answer; `end`: that was all.
//!
//! Whoever asks sends, writes, reads and does atomic operations with messages of 1 byte to 1 MiB; all that was moved is looked at.

use std::fmt::Display;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use gridnet_rdma_sim::attr::{Access, AckTimeout, Change, InitAttr, Mtu, RtrAttr, RtsAttr};
use gridnet_rdma_sim::wire::{Psn, QpNum, RnrTimer, PORT};
use gridnet_rdma_sim::wr::{Data, RecvWr, Remote, Rkey, SendOp, SendWr, Sges, Wc, WcStatus};
use gridnet_rdma_sim::{Cq, Device, Mr, Qp, QpShape, UdpPort, UdpWaiter};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};

const MIB: u32 = 1 << 20;
/// Bytes of a region.
const REGION: usize = 2 * MIB as usize;
/// Where, in the other side's region, messages go to and come from.
const FAR: u64 = MIB as u64;
/// Wraps soon.
const FIRST_PSN: u32 = 0xff_ffe0;
/// For each answer, and for each completion.
const PATIENCE: Duration = Duration::from_secs(60);

const LENGTHS: [u32; 9] = [1, 7, 256, 1023, 1024, 1025, 4096, 65_537, MIB];

type Outcome<T> = Result<T, String>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["listen", address, port] => {
            listen(address, port).and_then(|(address, stream)| talk(address, stream, false))
        }
        ["call", address, other, port] => {
            call(address, other, port).and_then(|(address, stream)| talk(address, stream, true))
        }
        _ => Err("usage: peer listen ADDRESS PORT | peer call ADDRESS OTHER PORT".to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("peer: {what}");
            ExitCode::FAILURE
        }
    }
}

/// Says what was tried when something fails.
fn trying<T, E: Display>(what: &str, outcome: Result<T, E>) -> Outcome<T> {
    outcome.map_err(|error| format!("{what}: {error}"))
}

fn parse<T: std::str::FromStr<Err: Display>>(word: &str) -> Outcome<T> {
    trying(word, word.parse())
}

fn listen(address: &str, port: &str) -> Outcome<(IpAddr, TcpStream)> {
    let address = parse(address)?;
    let listener = trying("listen", TcpListener::bind(SocketAddr::new(address, parse(port)?)))?;
    let mut waits = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    let limit = trying("wait", PollTimeout::try_from(PATIENCE).map_err(|_| "too long"))?;
    match poll(&mut waits, limit) {
        Ok(1) => trying("accept", listener.accept()).map(|(stream, _)| (address, stream)),
        _ => Err("nobody has called".to_owned()),
    }
}

fn call(address: &str, other: &str, port: &str) -> Outcome<(IpAddr, TcpStream)> {
    let other = SocketAddr::new(parse(other)?, parse(port)?);
    Ok((parse(address)?, trying("call", TcpStream::connect_timeout(&other, PATIENCE))?))
}

/// The whole talk.
fn talk(address: IpAddr, stream: TcpStream, caller: bool) -> Outcome<()> {
    trying("stream", stream.set_read_timeout(Some(PATIENCE)))?;
    trying("stream", stream.set_nodelay(true))?;
    let lines = BufReader::new(trying("stream", stream.try_clone())?);
    let mut peer = Peer::open(address, lines, stream)?;
    peer.connect()?;
    if caller {
        peer.ask()?;
        peer.say("turn")?;
    }
    while !peer.obey()? {
        if caller {
            return peer.expect("end");
        }
        peer.ask()?;
        peer.say("turn")?;
    }
    Ok(())
}

/// This side.
struct Peer {
    lines: BufReader<TcpStream>,
    out: TcpStream,
    start: Instant,
    address: IpAddr,
    device: Device,
    cq: Cq,
    qp: Qp,
    mr: Mr,
    far: Remote,
}

impl Peer {
    fn open(address: IpAddr, lines: BufReader<TcpStream>, out: TcpStream) -> Outcome<Peer> {
        let port = trying("UDP", UdpPort::bind(SocketAddr::new(address, PORT)))?.accept_any_identification();
        let waiter = trying("UDP", port.waiter())?;
        let verbs = |error| format!("{error:?}");
        let device = Device::open(port).map_err(verbs)?;
        let pd = device.alloc_pd();
        let cq = device.create_cq(16, None).map_err(verbs)?;
        let mr = pd.allocate(REGION, Access::ALL).map_err(verbs)?;
        let qp = pd.create_qp(&cq, &cq, None, QpShape::default()).map_err(verbs)?;
        let start = Instant::now();
        let driven = device.clone();
        std::thread::spawn(move || drive(&driven, &waiter, start));
        let far = mr.remote(0);
        Ok(Peer { lines, out, start, address, device, cq, qp, mr, far })
    }

    /// Each side tells what the other needs.
    fn connect(&mut self) -> Outcome<()> {
        let here = self.mr.remote(0);
        let (qpn, ip) = (self.qp.num().value(), self.address);
        self.say(&format!("qp {qpn} {FIRST_PSN} {} {} {ip}", here.address, here.rkey.0))?;
        let line = self.hear()?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["qp", qpn, psn, address, rkey, ip] = words[..] else { return Err(line) };
        self.far = Remote { address: parse(address)?, rkey: Rkey(parse(rkey)?) };
        let rtr = RtrAttr {
            path_mtu: Mtu::B1024,
            remote: SocketAddr::new(parse(ip)?, PORT),
            dest_qp: QpNum::new(parse(qpn)?),
            rq_psn: Psn::new(parse(psn)?),
            max_dest_rd_atomic: 4,
            min_rnr_timer: RnrTimer::new(14),
        };
        let rts = RtsAttr {
            sq_psn: Psn::new(FIRST_PSN),
            timeout: AckTimeout::new(17),
            retry_cnt: 7,
            rnr_retry: 7,
            max_rd_atomic: 4,
        };
        for change in [Change::Init(InitAttr { access: Access::ALL }), Change::Rtr(rtr), Change::Rts(rts)] {
            self.qp.change(change).map_err(|error| format!("{change:?}: {error:?}"))?;
        }
        self.say("ready")?;
        match self.hear()?.as_str() {
            "ready" => Ok(()),
            line => Err(line.to_owned()),
        }
    }

    fn say(&mut self, line: &str) -> Outcome<()> {
        trying("say", writeln!(self.out, "{line}"))
    }

    fn hear(&mut self) -> Outcome<String> {
        let mut line = String::new();
        match trying("hear", self.lines.read_line(&mut line))? {
            0 => Err("the other side has gone".to_owned()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    /// Asks for something that must go well.
    fn expect(&mut self, line: &str) -> Outcome<()> {
        self.say(line)?;
        match self.hear()?.as_str() {
            "ok" => Ok(()),
            answer => Err(format!("{line}: {answer}")),
        }
    }

    /// The next completion.
    fn completion(&self) -> Outcome<Wc> {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            self.device.progress(self.start.elapsed());
            if let Some(wc) = self.cq.poll().map_err(|_| "the completion queue was full")? {
                return Ok(wc);
            }
            std::thread::yield_now();
        }
        Err("no completion".to_owned())
    }

    /// Does one operation with the first `len` bytes of the region here.
    fn transfer(&self, op: SendOp, len: u32) -> Outcome<()> {
        let wr = SendWr::new(7, op, Data::Sges(self.mr.sge(0, len).into()));
        self.qp.post_send(wr).map_err(|error| format!("{op:?}: {error:?}"))?;
        match self.completion()?.status {
            WcStatus::Success => Ok(()),
            status => Err(format!("{op:?} of {len} bytes: {status:?}")),
        }
    }

    fn fill(&self, at: usize, len: u32, seed: u32) -> Outcome<()> {
        self.mr.write(at, &pattern(seed, len)).map_err(|error| format!("fill: {error:?}"))
    }

    fn is_filled(&self, at: usize, len: u32, seed: u32) -> bool {
        self.mr.read(at, len as usize) == Ok(pattern(seed, len))
    }

    fn ask(&mut self) -> Outcome<()> {
        for (round, len) in (0..).zip(LENGTHS) {
            self.ask_messages(len, 100 * round)?;
            self.ask_memory(len, 100 * round + 50)?;
        }
        self.ask_atomics()?;
        println!("asked: SEND, SEND_WITH_IMM, WRITE, WRITE_WITH_IMM, READ of 1 byte to 1 MiB, COMPARE_SWAP, FETCH_ADD: all right");
        Ok(())
    }

    fn ask_messages(&mut self, len: u32, seed: u32) -> Outcome<()> {
        let messages =
            [(SendOp::Send, seed + 1, -1), (SendOp::SendWithImm(seed + 2), seed + 2, i64::from(seed) + 2)];
        for (op, seed, imm) in messages {
            self.expect(&format!("recv {FAR} {len}"))?;
            self.fill(0, len, seed)?;
            self.transfer(op, len)?;
            self.expect(&format!("wait {len} {imm}"))?;
            self.expect(&format!("check {FAR} {len} {seed}"))?;
        }
        Ok(())
    }

    fn ask_memory(&mut self, len: u32, seed: u32) -> Outcome<()> {
        let far = Remote { address: self.far.address.wrapping_add(FAR), ..self.far };
        self.fill(0, len, seed + 1)?;
        self.transfer(SendOp::RdmaWrite(far), len)?;
        self.expect(&format!("check {FAR} {len} {}", seed + 1))?;
        self.expect("recv 0 0")?;
        self.fill(0, len, seed + 2)?;
        self.transfer(SendOp::RdmaWriteWithImm(far, seed + 2), len)?;
        self.expect(&format!("wait {len} {}", seed + 2))?;
        self.expect(&format!("check {FAR} {len} {}", seed + 2))?;
        self.expect(&format!("fill {FAR} {len} {}", seed + 3))?;
        self.transfer(SendOp::RdmaRead(far), len)?;
        if self.is_filled(0, len, seed + 3) {
            Ok(())
        } else {
            Err(format!("READ of {len} bytes went wrong"))
        }
    }

    /// A word of the other side: 0, then 5, still 5, then 12; each operation says what was there before.
    fn ask_atomics(&mut self) -> Outcome<()> {
        let remote = Remote { address: self.far.address.wrapping_add(FAR), ..self.far };
        let steps = [
            (SendOp::RdmaWrite(remote), 0),
            (SendOp::CompareSwap { remote, compare: 0, swap: 5 }, 0),
            (SendOp::CompareSwap { remote, compare: 0, swap: 6 }, 5),
            (SendOp::FetchAdd { remote, add: 7 }, 5),
            (SendOp::RdmaRead(remote), 12u64),
        ];
        self.mr.write(0, &[0; 8]).map_err(|error| format!("{error:?}"))?;
        for (op, found) in steps {
            self.transfer(op, 8)?;
            if self.mr.read(0, 8) != Ok(found.to_ne_bytes().to_vec()) {
                return Err(format!("{op:?}: found something else than {found}"));
            }
        }
        Ok(())
    }

    /// Obeys until the roles change; true when that was all.
    fn obey(&mut self) -> Outcome<bool> {
        loop {
            let line = self.hear()?;
            let words: Vec<&str> = line.split_whitespace().collect();
            let answer = match words[..] {
                ["turn"] => return Ok(false),
                ["end"] => return self.say("ok").map(|()| true),
                ["fill", at, len, seed] => {
                    self.fill(parse(at)?, parse(len)?, parse(seed)?).map(|()| "ok".to_owned())?
                }
                ["check", at, len, seed] if self.is_filled(parse(at)?, parse(len)?, parse(seed)?) => {
                    "ok".to_owned()
                }
                ["check", ..] => "wrong bytes".to_owned(),
                ["recv", at, len] => self.receive(parse(at)?, parse(len)?)?,
                ["wait", len, imm] => self.answer_wait(parse(len)?, parse(imm)?)?,
                _ => return Err(format!("the other side asks: {line}")),
            };
            self.say(&answer)?;
        }
    }

    fn receive(&self, at: u64, len: u32) -> Outcome<String> {
        let sges = if len > 0 { self.mr.sge(at, len).into() } else { Sges::default() };
        self.qp.post_recv(RecvWr { wr_id: 8, sges }).map_err(|error| format!("receive: {error:?}"))?;
        Ok("ok".to_owned())
    }

    fn answer_wait(&self, len: u32, imm: i64) -> Outcome<String> {
        let wc = self.completion()?;
        let came = wc.imm.map_or(-1, i64::from);
        Ok(if wc.status == WcStatus::Success && wc.byte_len == len && came == imm {
            "ok".to_owned()
        } else {
            format!("status {}, {} bytes, immediate {came}", wc.status as u32, wc.byte_len)
        })
    }
}

/// The highest byte of (seed + i) * 2654435761 modulo 2^32, for each i below `len`.
fn pattern(seed: u32, len: u32) -> Vec<u8> {
    (0..len).map(|i| (seed.wrapping_add(i).wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// Answers the other side while this one reads lines.
fn drive(device: &Device, waiter: &UdpWaiter, start: Instant) {
    // Requests that are posted meanwhile are sent by whoever waits for them.
    const NAP: u8 = 1;
    loop {
        if device.progress(start.elapsed()) == 0 {
            let _ = poll(&mut [PollFd::new(waiter.as_fd(), PollFlags::POLLIN)], PollTimeout::from(NAP));
        }
    }
}
