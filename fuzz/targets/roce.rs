//! Packets of RoCEv2 from anybody: refused, or understood as something that would be written in the same way. And packets that a
//! queue pair takes for those of its peer, with the right numbers and keys now and then.

#![no_main]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gridnet_rdma_sim::attr::{Access, AckTimeout, Change, InitAttr, Mtu, RtrAttr, RtsAttr};
use gridnet_rdma_sim::wire::{Flow, Identifications, Ipv4Fields, Packet, Psn, QpNum, RnrTimer, BTH_BYTES};
use gridnet_rdma_sim::wr::{Data, RecvWr, SendOp, SendWr};
use gridnet_rdma_sim::{Device, Mr, Port, Qp, QpShape, Received};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((&which, bytes)) = bytes.split_first() else { return };
    match which % 2 {
        0 => codec(bytes),
        _ => peer(bytes),
    }
});

fn address() -> SocketAddr {
    ([127, 0, 0, 1], 4791).into()
}

fn codec(bytes: &[u8]) {
    let flow = Flow::new(address(), address(), Ipv4Fields::UNFRAGMENTED).expect("one family");
    let _ = flow.open(bytes);
    let _ = Identifications::default().open(&flow, bytes);
    let Ok(packet) = Packet::decode(bytes) else { return };
    let mut again = Vec::new();
    packet.encode(&mut again);
    assert_eq!(Packet::decode(&again), Ok(packet));
    flow.seal(&mut again);
    assert!(flow.open(&again).is_some());
}

/// A port to which the fuzzer is the network.
struct Wire(Arc<Mutex<VecDeque<Vec<u8>>>>);

impl Port for Wire {
    fn address(&self) -> SocketAddr {
        address()
    }

    fn send(&mut self, _: SocketAddr, packet: &mut Vec<u8>) -> bool {
        assert!(Packet::decode(packet).is_ok());
        true
    }

    fn receive(&mut self, packet: &mut Vec<u8>) -> Received {
        match self.0.lock().expect("one thread").pop_front() {
            Some(bytes) => {
                *packet = bytes;
                Received::Packet(address())
            }
            None => Received::Nothing,
        }
    }
}

/// Bytes of the region that the peer may have; it lies between two that it may not.
const LEN: usize = 4096;

fn peer(bytes: &[u8]) {
    let queue = Arc::new(Mutex::new(VecDeque::new()));
    let device = Device::open(Wire(queue.clone())).expect("random numbers");
    let pd = device.alloc_pd();
    let cq = device.create_cq(256, None).expect("a queue");
    let own = pd.allocate(LEN, Access::LOCAL_WRITE).expect("memory");
    own.write(0, &[7; LEN]).expect("room");
    let mut block = vec![0u8; LEN];
    // SAFETY: the block outlives the region, and is not looked at.
    let open = unsafe { pd.register(block.as_mut_ptr(), LEN, Access::ALL) }.expect("a region");
    let qp = pd.create_qp(&cq, &cq, None, QpShape::default()).expect("a queue pair");
    connect(&qp);
    post(&qp, &open);
    let mut now = Duration::ZERO;
    let mut rest = bytes;
    while let Some((&[control, len], after)) = rest.split_first_chunk() {
        let (packet, after) = after.split_at(usize::from(len).min(after.len()));
        rest = after;
        queue.lock().expect("one thread").push_back(help(control, packet.to_vec(), &qp, &open));
        now += Duration::from_micros(u64::from(control) * 100);
        device.progress(now);
        while let Ok(Some(_)) = cq.poll() {}
    }
    assert_eq!(own.read(0, LEN), Ok(vec![7; LEN]), "memory was written that no peer may have");
}

fn connect(qp: &Qp) {
    let rtr = RtrAttr {
        path_mtu: Mtu::B256,
        remote: address(),
        dest_qp: QpNum::new(2),
        rq_psn: Psn::new(0),
        max_dest_rd_atomic: 2,
        min_rnr_timer: RnrTimer::new(1),
    };
    let rts = RtsAttr {
        sq_psn: Psn::new(0),
        timeout: AckTimeout::new(8),
        retry_cnt: 7,
        rnr_retry: 7,
        max_rd_atomic: 2,
    };
    for change in [Change::Init(InitAttr { access: Access::ALL }), Change::Rtr(rtr), Change::Rts(rts)] {
        qp.change(change).expect("the usual way");
    }
}

/// Something of each kind.
fn post(qp: &Qp, mr: &Mr) {
    for id in 0..8 {
        qp.post_recv(RecvWr { wr_id: id, sges: mr.sge(id * 300, 300).into() }).expect("posted");
    }
    let remote = mr.remote(0);
    let ops = [
        (SendOp::Send, 700),
        (SendOp::RdmaRead(remote), 3000),
        (SendOp::RdmaWriteWithImm(remote, 1), 10),
        (SendOp::FetchAdd { remote, add: 1 }, 8),
        (SendOp::RdmaRead(remote), 5),
    ];
    for (op, len) in ops {
        qp.post_send(SendWr::new(1, op, Data::Sges(mr.sge(64, len).into()))).expect("posted");
    }
}

/// Makes a packet one that is taken: the queue pair always, the number and the memory as the control byte says.
fn help(control: u8, mut packet: Vec<u8>, qp: &Qp, mr: &Mr) -> Vec<u8> {
    if packet.len() < BTH_BYTES {
        return packet;
    }
    packet[1] &= 0xf0;
    packet[5..8].copy_from_slice(&qp.num().value().to_be_bytes()[1..]);
    if control & 1 != 0 {
        // Small numbers are those of packets that are expected soon.
        (packet[9], packet[10]) = (0, 0);
        packet[11] %= 16;
    }
    if control & 2 != 0 && packet.len() >= BTH_BYTES + 16 {
        let remote = mr.remote(u64::from(packet[19]) * 16);
        packet[12..20].copy_from_slice(&remote.address.to_be_bytes());
        packet[20..24].copy_from_slice(&remote.rkey.0.to_be_bytes());
        (packet[24], packet[25]) = (0, 0);
        packet[26] %= 20;
    }
    packet
}
