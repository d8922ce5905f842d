//! Two processes over a wire of the system: what they do to each other's memory, and what is left of one that is killed.

use std::io::{BufRead, BufReader, Lines, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use gridnet_rdma_sim::attr::{Access, AckTimeout, Change, InitAttr, Mtu, RtrAttr, RtsAttr};
use gridnet_rdma_sim::wire::{Psn, QpNum, RnrTimer};
use gridnet_rdma_sim::wr::{Data, RecvWr, Remote, Rkey, SendOp, SendWr, Wc, WcStatus};
use gridnet_rdma_sim::{Cq, Device, Mr, Pd, Port, Qp, QpShape, ShmPort, UdpPort};

/// One test at a time: one of them counts what this process holds.
static ALONE: Mutex<()> = Mutex::new(());

/// How long a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(60);

const LEN: usize = 1 << 20;
/// Where, in the region of the child, the parent writes the word that ends it.
const LAST: u64 = LEN as u64 - 8;

/// What the child is to do: the wire, and its part.
const WIRE: &str = "RDMA_SIM_TEST_WIRE";
const PART: &str = "RDMA_SIM_TEST_PART";

fn port(wire: &str) -> Box<dyn Port> {
    match wire {
        "udp" => Box::new(UdpPort::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port of this host")),
        "shm" => Box::new(ShmPort::open().expect("shared memory")),
        other => panic!("no wire is called {other}"),
    }
}

/// A device with a region.
struct Process {
    start: Instant,
    device: Device,
    pd: Pd,
    mr: Mr,
}

/// A queue pair of it.
struct Line<'a> {
    process: &'a Process,
    cq: Cq,
    qp: Qp,
}

impl Process {
    fn new(wire: &str) -> Process {
        let device = Device::open(port(wire)).expect("random numbers");
        let pd = device.alloc_pd();
        let mr = pd.allocate(LEN, Access::ALL).expect("memory");
        Process { start: Instant::now(), device, pd, mr }
    }

    fn line(&self) -> Line<'_> {
        let cq = self.device.create_cq(64, None).expect("a queue");
        let qp = self.pd.create_qp(&cq, &cq, None, QpShape::default()).expect("a queue pair");
        qp.change(Change::Init(InitAttr { access: Access::ALL })).expect("INIT");
        Line { process: self, cq, qp }
    }

    /// Works until `done`.
    fn drive(&self, what: &str, mut done: impl FnMut() -> bool) {
        let start = Instant::now();
        while !done() {
            assert!(start.elapsed() < PATIENCE, "{what}");
            if self.device.progress(self.start.elapsed()) == 0 {
                std::thread::yield_now();
            }
        }
    }
}

impl Line<'_> {
    /// What the other process needs, as a line.
    fn card(&self) -> String {
        let remote = self.process.mr.remote(0);
        let address = self.process.device.address();
        format!("{address} {} {} {}", self.qp.num().value(), remote.address, remote.rkey.0)
    }

    /// Connects to the process whose card this is; returns its memory.
    fn connect(&self, card: &str) -> Remote {
        let words: Vec<&str> = card.split_whitespace().collect();
        let number = |at: usize| words[at].parse::<u64>().expect("a number");
        self.qp
            .change(Change::Rtr(RtrAttr {
                path_mtu: Mtu::B4096,
                remote: words[0].parse().expect("an address"),
                dest_qp: QpNum::new(number(1) as u32),
                rq_psn: Psn::new(0),
                max_dest_rd_atomic: 16,
                min_rnr_timer: RnrTimer::new(12),
            }))
            .expect("RTR");
        let rts = RtsAttr {
            sq_psn: Psn::new(0),
            // 134 ms, eight times: the other process may have to wait for a core.
            timeout: AckTimeout::new(15),
            retry_cnt: 7,
            rnr_retry: 7,
            max_rd_atomic: 16,
        };
        self.qp.change(Change::Rts(rts)).expect("RTS");
        Remote { address: number(2), rkey: Rkey(number(3) as u32) }
    }

    /// Does one request; how it ended.
    fn attempt(&self, op: SendOp, offset: u64, len: u32) -> WcStatus {
        let data = Data::Sges(self.process.mr.sge(offset, len).into());
        self.qp.post_send(SendWr::new(1, op, data)).expect("posted");
        let mut wc: Option<Wc> = None;
        self.process.drive("a completion", || {
            wc = self.cq.poll().expect("no overrun");
            wc.is_some()
        });
        wc.expect("a completion").status
    }

    fn perform(&self, op: SendOp, offset: u64, len: u32) {
        assert_eq!(self.attempt(op, offset, len), WcStatus::Success, "{op:?}");
    }
}

/// The process at the other side.
struct Other {
    child: Child,
    to: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Other {
    /// Starts `test` of this program as a child, too, which is to play `part`.
    fn start(test: &str, wire: &str, part: &str) -> Other {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", test, "--nocapture"])
            .env(WIRE, wire)
            .env(PART, part)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let (to, from) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        Other { child, to, lines: BufReader::new(from).lines() }
    }

    fn card(&mut self) -> String {
        loop {
            let line = self.lines.next().expect("a card").expect("text");
            // The harness writes on the same line.
            if let Some((_, card)) = line.split_once("card ") {
                return card.to_owned();
            }
        }
    }
}

/// Plays the child's part, if this is one: says its card, reads the parent's.
fn is_child() -> bool {
    let (Ok(wire), Ok(part)) = (std::env::var(WIRE), std::env::var(PART)) else { return false };
    let process = Process::new(&wire);
    let line = process.line();
    line.qp.post_recv(RecvWr { wr_id: 1, sges: process.mr.sge(0, 5).into() }).expect("posted");
    println!("card {}", line.card());
    let mut card = String::new();
    std::io::stdin().read_line(&mut card).expect("the parent's card");
    let remote = line.connect(&card);
    match part.as_str() {
        "answers" => answers(&process),
        "writes" => writes(&line, remote),
        other => panic!("no part is called {other}"),
    }
    true
}

/// Answers until it is told to end.
fn answers(process: &Process) {
    process.drive("the parent's last word", || process.mr.read(LAST as usize, 8) == Ok(vec![1; 8]));
    // Its acknowledgement may be lost: the parent closes the pipe when it has it.
    let rest = std::thread::spawn(|| std::io::stdin().read_line(&mut String::new()));
    process.drive("the end of the pipe", || rest.is_finished());
}

/// Writes on and on, until it is killed.
fn writes(line: &Line<'_>, remote: Remote) {
    while line.attempt(SendOp::RdmaWrite(remote), 0, 100_000) == WcStatus::Success {}
}

fn exchange(test: &str, wire: &str) {
    if is_child() {
        return;
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut other = Other::start(test, wire, "answers");
    let process = Process::new(wire);
    let line = process.line();
    let remote = line.connect(&other.card());
    writeln!(other.to, "{}", line.card()).expect("it listens");
    let bytes: Vec<u8> = (0..LEN / 2 - 8).map(|at| (at * 7 + at / 256) as u8).collect();
    process.mr.write(0, &bytes).expect("room");
    line.perform(SendOp::Send, 0, 5);
    let half = (LEN / 2) as u64;
    line.perform(SendOp::RdmaWrite(remote), 0, bytes.len() as u32);
    line.perform(SendOp::RdmaRead(remote), half, bytes.len() as u32);
    assert!(process.mr.read(half as usize, bytes.len()) == Ok(bytes));
    let end = Remote { address: remote.address + LAST, ..remote };
    line.perform(SendOp::FetchAdd { remote: end, add: 0x0101_0101_0101_0101 }, 0, 8);
    drop(other.to);
    assert!(other.child.wait().expect("it ends").success());
}

#[test]
fn two_processes_over_udp() {
    exchange("two_processes_over_udp", "udp");
}

#[test]
fn two_processes_over_shared_memory() {
    exchange("two_processes_over_shared_memory", "shm");
}

/// Descriptors, and mappings of shared memory, of this process.
fn held() -> (usize, usize) {
    let files = std::fs::read_dir("/proc/self/fd").expect("/proc").count();
    let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc");
    (files, maps.lines().filter(|line| line.contains("memfd:gridnet-rdma")).count())
}

/// A process that is killed while both write: requests to it end with an error, the device goes on with others, and nothing of it
/// stays here.
#[test]
fn a_peer_that_is_killed() {
    const NAME: &str = "a_peer_that_is_killed";
    if is_child() {
        return;
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let process = Process::new("shm");
    let mut before = None;
    for round in 0..3u32 {
        let mut other = Other::start(NAME, "shm", "writes");
        let line = process.line();
        let remote = line.connect(&other.card());
        writeln!(other.to, "{}", line.card()).expect("it listens");
        // At another moment each time: after so many requests, while the next one is under way.
        for _ in 0..3 + 7 * round {
            line.perform(SendOp::RdmaRead(remote), LEN as u64 / 2, 60_000);
        }
        line.qp
            .post_send(SendWr::new(
                2,
                SendOp::RdmaRead(remote),
                Data::Sges(process.mr.sge(0, 500_000).into()),
            ))
            .expect("posted");
        process.device.progress(process.start.elapsed());
        other.child.kill().expect("killed");
        other.child.wait().expect("it ended");
        let mut end = None;
        process.drive("the end of a request to a process that is gone", || {
            end = line.cq.poll().expect("no overrun").or(end.take());
            end.is_some()
        });
        // It may have been done just before.
        let outcome = line.attempt_after(end.expect("an end").status, remote);
        assert_eq!(outcome, WcStatus::RetryExcErr);
        drop((line, other));
        let start = Instant::now();
        process.drive("what was shared with it goes", || held().1 == 0 || start.elapsed() > PATIENCE);
        assert_eq!(*before.get_or_insert(held()), held(), "round {round}");
    }
}

impl Line<'_> {
    /// How a request ended, or when it was done, the next one.
    fn attempt_after(&self, status: WcStatus, remote: Remote) -> WcStatus {
        if status == WcStatus::Success {
            return self.attempt(SendOp::RdmaRead(remote), 0, 8);
        }
        status
    }
}
