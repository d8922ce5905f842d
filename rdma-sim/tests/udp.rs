//! RoCEv2 over UDP sockets: what goes over the wire, packets of others, and two processes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gridnet_rdma_sim::attr::{Access, AckTimeout, Change, InitAttr, Mtu, RtrAttr, RtsAttr};
use gridnet_rdma_sim::wire::{Bth, Flow, Header, Identifications, Ipv4Fields, Packet, Psn, QpNum, RnrTimer};
use gridnet_rdma_sim::wr::{Data, RecvWr, Remote, Rkey, SendOp, SendWr, WcStatus};
use gridnet_rdma_sim::{Device, Mr, Port, Qp, QpShape, Received, UdpPort};
use socket2::{Domain, Protocol, Socket, Type};

/// How long a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(60);

fn port() -> UdpPort {
    UdpPort::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port of this host")
}

fn hello() -> Vec<u8> {
    let mut bytes = Vec::new();
    Packet { bth: Bth::new(QpNum::new(5), Psn::new(6)), header: Header::SendOnly, payload: b"hello" }
        .encode(&mut bytes);
    bytes
}

fn receive(port: &mut UdpPort) -> (Received, Vec<u8>) {
    let (start, mut bytes) = (Instant::now(), Vec::new());
    loop {
        let received = port.receive(&mut bytes);
        if received != Received::Nothing {
            return (received, bytes);
        }
        assert!(start.elapsed() < PATIENCE, "nothing came");
        std::thread::yield_now();
    }
}

/// The ICRC is right for the IP header that the kernel writes, not only for the one that this side believes in.
#[test]
fn the_icrc_is_that_of_the_header_on_the_wire() {
    let raw = match Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)) {
        Ok(raw) => raw,
        Err(error) => return println!("SKIPPED: the IP header that a port sends: {error}"),
    };
    // An address of its own: everything else that goes over loopback would fill the socket, and one packet would be lost.
    let own = SocketAddr::from(([127, 0, 0, 2], 0));
    raw.bind(&own.into()).expect("an address of this host");
    raw.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
    let mut raw = raw;
    let (mut from, to) = (port(), UdpPort::bind(own).expect("a port of this host"));
    let address = from.address();
    assert!(from.send(to.address(), &mut hello()));
    let (start, mut bytes) = (Instant::now(), [0; 2048]);
    let header = loop {
        assert!(start.elapsed() < PATIENCE, "it does not come by");
        let Ok(len) = raw.read(&mut bytes) else { continue };
        // The port of the sender: others may send over loopback, too.
        if len > 28 && bytes[20..22] == address.port().to_be_bytes() {
            break &bytes[..len];
        }
    };
    let field = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    assert_eq!(
        (header[0], field(4), field(6)),
        (0x45, 0, 0x4000),
        "no options, identification 0, not to be fragmented"
    );
    let fields = Ipv4Fields { identification: field(4), fragment: field(6) };
    let flow = Flow::new(address, to.address(), fields).expect("one family");
    assert_eq!(flow.open(&header[28..]), Some(&hello()[..]));
    let mut received = to;
    assert_eq!(receive(&mut received), (Received::Packet(address), hello()));
}

/// Others count the packets that they send in the identification.
#[test]
fn identifications_of_others() {
    let other = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let from = other.local_addr().expect("an address");
    for accepts in [false, true] {
        let mut port = if accepts { port().accept_any_identification() } else { port() };
        let fields = Ipv4Fields { identification: 0x1234, ..Ipv4Fields::UNFRAGMENTED };
        let mut bytes = hello();
        Flow::new(from, port.address(), fields).expect("one family").seal(&mut bytes);
        other.send_to(&bytes, port.address()).expect("sent");
        let expected = if accepts { Received::Packet(from) } else { Received::Corrupt };
        assert_eq!(receive(&mut port).0, expected);
        bytes[20] ^= 1;
        other.send_to(&bytes, port.address()).expect("sent");
        assert_eq!(receive(&mut port).0, Received::Corrupt);
        // Longer than any packet.
        other.send_to(&[0; 9000], port.address()).expect("sent");
        assert_eq!(receive(&mut port).0, Received::Corrupt);
    }
    assert_eq!(
        Identifications::default().open(&Flow::new(from, from, Ipv4Fields::UNFRAGMENTED).expect("one"), &[]),
        None
    );
}

#[test]
fn a_port_needs_an_address() {
    let any = UdpPort::bind("0.0.0.0:0".parse().expect("an address")).map(drop).map_err(|error| error.kind());
    assert_eq!(any, Err(std::io::ErrorKind::InvalidInput));
}

/// A process of the last test: a device with one queue pair and a region.
struct Process {
    start: Instant,
    device: Device,
    qp: Qp,
    mr: Mr,
    cq: gridnet_rdma_sim::Cq,
}

const LEN: usize = 1 << 20;
/// Where, in the region of the child, the parent writes the word that ends it.
const LAST: u64 = LEN as u64 - 8;

impl Process {
    fn new() -> Process {
        let device = Device::open(port()).expect("random numbers");
        let pd = device.alloc_pd();
        let mr = pd.allocate(LEN, Access::ALL).expect("memory");
        let cq = device.create_cq(64, None).expect("a queue");
        let qp = pd.create_qp(&cq, &cq, None, QpShape::default()).expect("a queue pair");
        Process { start: Instant::now(), device, qp, mr, cq }
    }

    /// What the other process needs, as a line.
    fn card(&self) -> String {
        let remote = self.mr.remote(0);
        format!("{} {} {} {}", self.device.address(), self.qp.num().value(), remote.address, remote.rkey.0)
    }

    /// Connects to the process whose card this is; returns its memory.
    fn connect(&self, card: &str) -> Remote {
        let words: Vec<&str> = card.split_whitespace().collect();
        let number = |at: usize| words[at].parse::<u64>().expect("a number");
        self.qp.change(Change::Init(InitAttr { access: Access::ALL })).expect("INIT");
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
            timeout: AckTimeout::new(14),
            retry_cnt: 7,
            rnr_retry: 7,
            max_rd_atomic: 16,
        };
        self.qp.change(Change::Rts(rts)).expect("RTS");
        Remote { address: number(2), rkey: Rkey(number(3) as u32) }
    }

    /// Works until `done`.
    fn drive(&self, what: &str, mut done: impl FnMut() -> bool) {
        while !done() {
            assert!(self.start.elapsed() < PATIENCE, "{what}");
            if self.device.progress(self.start.elapsed()) == 0 {
                std::thread::yield_now();
            }
        }
    }

    /// Does one request.
    fn perform(&self, op: SendOp, offset: u64, len: u32) {
        self.qp.post_send(SendWr::new(1, op, Data::Sges(vec![self.mr.sge(offset, len)]))).expect("posted");
        let mut wc = None;
        self.drive("a completion", || {
            wc = self.cq.poll().expect("no overrun");
            wc.is_some()
        });
        assert_eq!(wc.map(|wc| wc.status), Some(WcStatus::Success), "{op:?}");
    }
}

/// Runs the parent's test as a child, too: it says its card, reads the parent's, and answers until it is told to end.
const CHILD: &str = "RDMA_SIM_TEST_CHILD";

fn child() {
    let process = Process::new();
    process.qp.change(Change::Init(InitAttr { access: Access::ALL })).expect("INIT");
    process.qp.post_recv(RecvWr { wr_id: 1, sges: vec![process.mr.sge(0, 5)] }).expect("posted");
    println!("card {}", process.card());
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("the parent's card");
    process.connect(&line);
    process.drive("the parent's last word", || process.mr.read(LAST as usize, 8) == Ok(vec![1; 8]));
    // Its acknowledgement may be lost: the parent closes the pipe when it has it.
    let rest = std::thread::spawn(|| std::io::stdin().read_line(&mut String::new()));
    process.drive("the end of the pipe", || rest.is_finished());
}

#[test]
fn two_processes() {
    if std::env::var_os(CHILD).is_some() {
        return child();
    }
    let mut other = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "two_processes", "--nocapture"])
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let (mut to, from) = (other.stdin.take().expect("a pipe"), other.stdout.take().expect("a pipe"));
    let mut lines = BufReader::new(from).lines();
    let card = loop {
        let line = lines.next().expect("a card").expect("text");
        // The harness writes on the same line.
        if let Some((_, card)) = line.split_once("card ") {
            break card.to_owned();
        }
    };
    let process = Process::new();
    let remote = process.connect(&card);
    writeln!(to, "{}", process.card()).expect("it listens");
    let bytes: Vec<u8> = (0..LEN / 2 - 8).map(|at| (at * 7 + at / 256) as u8).collect();
    process.mr.write(0, &bytes).expect("room");
    process.perform(SendOp::Send, 0, 5);
    let half = (LEN / 2) as u64;
    process.perform(SendOp::RdmaWrite(remote), 0, bytes.len() as u32);
    process.perform(SendOp::RdmaRead(remote), half, bytes.len() as u32);
    assert!(process.mr.read(half as usize, bytes.len()) == Ok(bytes));
    let end = Remote { address: remote.address + LAST, ..remote };
    process.perform(SendOp::FetchAdd { remote: end, add: 0x0101_0101_0101_0101 }, 0, 8);
    drop(to);
    assert!(other.wait().expect("it ends").success());
}
