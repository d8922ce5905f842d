//! One connection over which frames flow: a queue pair, its memory, and the TCP connection beside it.

use std::net::SocketAddr;

use gridnet_core::error::Error;
use gridnet_core::rail::{PeerId, Posted, Refusal, Sink};
use gridnet_core::wire::{is_sequenced, Frame, Header, Incoming, Kind, HEADER_BYTES, MAX_EXTENSION};

use crate::device::{Depth, Device, Failure, QpNum, RecvWr, Region, Route, SendWr, Status, Wc};
use crate::fetch::Reach;
use crate::hello::{bye, Pair, Role, BYE};
use crate::outbox::{Outbox, RESERVE, SLOTS, TELL_AFTER};
use crate::wire::{Heard, Wire};

/// Longest header of a frame.
const HEADER_MAX: usize = HEADER_BYTES + MAX_EXTENSION * 8;
/// Longest payload of a frame: part of the version of the protocol.
pub(crate) const MAX_PAYLOAD: usize = 16 << 10;
/// Bytes of a slot: whole cache lines.
const SLOT_BYTES: usize = (HEADER_MAX + MAX_PAYLOAD).next_multiple_of(64);
/// Receives that are posted.
const RECEIVES: u32 = SLOTS + RESERVE;
/// Packets that are heard beside a link in one go.
pub(crate) const MAX_WORDS: usize = 16;
/// Marks the numbers of sends among those of work requests.
const SEND: u64 = 1 << 63;

/// Why a connection is over.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The peer broke the protocol.
    Misbehaved(Refusal),
    /// It broke, after a silence of so many ns.
    Broken(Refusal, u64),
    /// The peer has said its last word, and all before it was taken.
    Bye,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) qp: QpNum,
    pub(crate) wire: Wire,
    /// Slots for sends, then those for receives.
    region: Region,
    outbox: Outbox,
    /// Memory of the program that the device reaches.
    pub(crate) reach: Reach,
    psn: u32,
    /// Messages of the peer that were taken; it was told of `told` of them.
    taken: u64,
    told: u64,
    /// Sequenced frames that were delivered.
    delivered: u64,
    /// The first message of the peer only shows that packets come through: it is the caller's.
    awaits_probe: bool,
    /// Messages that the peer has sent in all, when it has said its last word.
    pub(crate) last: Option<u64>,
    /// Where the queue pair leads.
    remote: Option<SocketAddr>,
    /// A header that is being written.
    scratch: Vec<u8>,
}

/// What is left of a connection that broke.
#[derive(Debug)]
pub(crate) struct Remains {
    region: Region,
    outbox: Outbox,
    pub(crate) delivered: u64,
}

impl Ended {
    /// The peer's device does not answer.
    pub(crate) fn no_answer() -> Ended {
        broken("the peer's device does not answer", SILENCE_NS)
    }
}

impl Conn {
    /// A queue pair with its receives, in INIT. `role` is that of this side.
    pub(crate) fn open(device: &mut dyn Device, wire: Wire, role: Role) -> Result<Conn, Refusal> {
        let none = |_: Failure| Refusal::new(Error::NoMemory, "no memory or no queue pair for a link");
        let arena = crate::arena::Arena::new((SLOTS + RECEIVES) as usize * SLOT_BYTES);
        let region = device.register(arena.ok_or(Failure::NoMemory).map_err(none)?).map_err(none)?;
        let depth = Depth { send: (SLOTS + RESERVE) as usize, receive: RECEIVES as usize, reads: 0 };
        let psn = getrandom::u32().map_err(|_| Refusal::new(Error::System, "no random numbers"))? & 0xff_ffff;
        let mut reach = Reach::open(device).map_err(none)?;
        let qp = device.create_qp(depth).map_err(|failure| {
            reach.close(device);
            none(failure)
        })?;
        let conn = Conn {
            qp,
            wire,
            region,
            outbox: Outbox::default(),
            reach,
            psn,
            taken: 0,
            told: 0,
            delivered: 0,
            awaits_probe: role == Role::Called,
            last: None,
            remote: None,
            scratch: Vec::with_capacity(HEADER_MAX),
        };
        let receives: Vec<RecvWr> = (0..RECEIVES).map(|slot| conn.receive_of(slot)).collect();
        if device.post_recv(qp, &receives).is_err() {
            drop(conn.fence(device));
            return Err(none(Failure::Invalid));
        }
        Ok(conn)
    }

    /// What the peer has to know of it.
    pub(crate) fn pair(&self, device: &dyn Device) -> Pair {
        let mtu = device.limits().max_mtu;
        Pair { gid: device.gid(), num: self.qp, psn: self.psn, mtu, reader: self.reach.reader() }
    }

    /// Leads the queue pair to that of the peer.
    pub(crate) fn connect(&mut self, device: &mut dyn Device, peer: &Pair) -> Result<(), Refusal> {
        let there = self.wire.peer().map(|peer| peer.ip().to_canonical());
        if !there.is_some_and(|there| device.leads_to(peer.gid, there)) {
            let why = format!(
                "the peer's device is at {}, where this one ({}) does not lead for this peer",
                peer.gid.ip(),
                device.name()
            );
            return Err(Refusal::new(Error::Unreachable, why));
        }
        let mtu = peer.mtu.min(device.limits().max_mtu);
        let route = Route { remote: peer.gid, dest_qp: peer.num, mtu, rq_psn: peer.psn, sq_psn: self.psn };
        let refused = |_| Refusal::new(Error::Unreachable, "the device leads to no such queue pair");
        device.connect_qp(self.qp, &route).map_err(refused)?;
        let reads = peer.reader.map(|dest_qp| Route { dest_qp, ..route });
        self.reach.connect(device, reads.as_ref()).map_err(refused)?;
        self.remote = Some(peer.gid);
        Ok(())
    }

    /// Sends a message of a whole packet that says nothing. When it is [done](Self::is_proved), packets of the devices go both ways.
    pub(crate) fn prove(&mut self, device: &mut dyn Device, peer: &Pair) -> Result<(), Refusal> {
        let len = peer.mtu.min(device.limits().max_mtu).into();
        let (message, _) = self.outbox.next();
        let wr = SendWr { wr_id: SEND | message, sge: Some(self.region.sge(0, len)), imm: 0, signaled: true };
        let refused = |_| Refusal::new(Error::System, "the device takes no message");
        device.post_send(self.qp, &[wr]).map_err(refused)?;
        self.outbox.note_empty(true);
        Ok(())
    }

    /// Takes a completion of that message.
    pub(crate) fn is_proved(&mut self, wc: &Wc) -> Result<(), Refusal> {
        if wc.status != Status::Success || wc.wr_id & SEND == 0 {
            let at = self.remote.map_or_else(String::new, |remote| format!(" at {remote}"));
            let why = format!("the peer's device{at} does not answer, though its host does: does a firewall let no UDP through?");
            return Err(Refusal::new(Error::Unreachable, why));
        }
        self.outbox.hear_completed(wc.wr_id & !SEND);
        Ok(())
    }

    /// Address of the peer's device.
    pub(crate) fn remote(&self) -> Option<SocketAddr> {
        self.remote
    }

    /// Takes a frame.
    pub(crate) fn post(&mut self, device: &mut dyn Device, frame: &Frame<'_>) -> Posted {
        let Some(slot) = self.outbox.slot() else { return Posted::NoResource };
        if frame.payload.len() > MAX_PAYLOAD {
            return Posted::Failed(Error::Invalid);
        }
        self.scratch.clear();
        if Header::of(frame).and_then(|header| header.encode(&mut self.scratch)).is_err() {
            return Posted::Failed(Error::Invalid);
        }
        let at = slot as usize * SLOT_BYTES;
        let len = (self.scratch.len() + frame.payload.len()) as u32;
        if !self.region.fill(at, &self.scratch, &frame.payload) {
            return Posted::Failed(Error::Internal);
        }
        let (message, signaled) = self.outbox.next();
        let wr = SendWr {
            wr_id: SEND | message,
            sge: Some(self.region.sge(at, len)),
            imm: self.taken as u32,
            signaled,
        };
        if device.post_send(self.qp, &[wr]).is_err() {
            return Posted::NoResource;
        }
        self.told = self.taken;
        self.outbox.note_frame(len, is_sequenced(frame.kind as u8), signaled);
        Posted::Done
    }

    /// Tells the peer how many messages were taken, if they are `enough` and nothing has told it yet.
    pub(crate) fn tell(&mut self, device: &mut dyn Device, enough: u64) {
        if self.taken - self.told >= enough && self.outbox.may_tell() {
            self.send_empty(device);
        }
    }

    fn send_empty(&mut self, device: &mut dyn Device) {
        let (message, signaled) = self.outbox.next();
        let wr = SendWr { wr_id: SEND | message, sge: None, imm: self.taken as u32, signaled };
        if device.post_send(self.qp, &[wr]).is_ok() {
            self.told = self.taken;
            self.outbox.note_empty(signaled);
        }
    }

    /// Takes a completion; how many frames were delivered.
    pub(crate) fn take<S: Sink>(
        &mut self,
        device: &mut dyn Device,
        wc: &Wc,
        peer: PeerId,
        sink: &mut S,
    ) -> Result<usize, Ended> {
        match wc.status {
            Status::Success => {}
            Status::Flushed => return Err(broken("the queue pair is in the error state", 0)),
            Status::NoAnswer => return Err(Ended::no_answer()),
            Status::Failed(why) => return Err(broken(why, 0)),
        }
        if wc.wr_id & SEND != 0 {
            self.outbox.hear_completed(wc.wr_id & !SEND);
            // There may have been no room for that before.
            self.tell(device, TELL_AFTER);
            return Ok(0);
        }
        let slot = wc.wr_id as u32;
        let count = wc.imm.ok_or_else(|| misbehaved(Error::PeerMisbehaved))?;
        if !self.outbox.hear_taken(count) {
            return Err(misbehaved(Error::PeerMisbehaved));
        }
        let frames = match wc.byte_len {
            0 => 0,
            _ if std::mem::take(&mut self.awaits_probe) => 0,
            len => {
                self.deliver(slot, len as usize, peer, sink).map_err(misbehaved)?;
                1
            }
        };
        self.taken += 1;
        if device.post_recv(self.qp, &[self.receive_of(slot)]).is_err() {
            return Err(broken("the device takes no receive", 0));
        }
        self.tell(device, TELL_AFTER);
        Ok(frames)
    }

    fn deliver<S: Sink>(&mut self, slot: u32, len: usize, peer: PeerId, sink: &mut S) -> Result<(), Error> {
        let at = receive_at(slot);
        let mut bytes = [0; HEADER_MAX];
        let head = bytes.get_mut(..len.min(HEADER_MAX)).unwrap_or_default();
        if !self.region.read(at, head) {
            return Err(Error::Internal);
        }
        let Ok(Some((header, header_len))) = Header::parse(head) else { return Err(Error::PeerMisbehaved) };
        if header.payload_len as usize != len - header_len {
            return Err(Error::PeerMisbehaved);
        }
        let payload = self.region.bytes(at + header_len, len - header_len).ok_or(Error::PeerMisbehaved)?;
        let Header { kind, flags, word, extension, .. } = header;
        if kind == Kind::Eager as u8 && flags == 0 {
            sink.message(peer, word, payload);
        } else {
            sink.frame(peer, Incoming { kind, flags, word, extension, payload })?;
        }
        self.delivered += u64::from(is_sequenced(kind));
        Ok(())
    }

    fn receive_of(&self, slot: u32) -> RecvWr {
        RecvWr { wr_id: slot.into(), sge: self.region.sge(receive_at(slot), SLOT_BYTES as u32) }
    }

    /// Sequenced frames that were delivered.
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Messages of the peer that were taken.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// Says the last word. What was sent before still arrives, as long as the device works.
    pub(crate) fn hang_up(&mut self, device: &mut dyn Device, is_protocol: bool) {
        self.reach.close(device);
        self.reach.clear();
        if !self.outbox.is_done() && !self.outbox.will_be_done() && self.outbox.may_tell() {
            // Of the last messages nothing would say that they are done. As none after a completion was asked for counts as
            // quiet only when that has come, ask for sure.
            let (message, _) = self.outbox.next();
            let wr = SendWr { wr_id: SEND | message, sge: None, imm: self.taken as u32, signaled: true };
            if device.post_send(self.qp, &[wr]).is_ok() {
                self.outbox.note_empty(true);
            }
        }
        // An error says that the peer has gone before.
        let _ = self.wire.say(BYE, &bye(is_protocol, self.outbox.sent()));
    }

    /// Takes a completion after the last word; whether everything that was sent has arrived, or never will.
    pub(crate) fn wind_up(&mut self, wc: &Wc) -> bool {
        if wc.status != Status::Success {
            return true;
        }
        if wc.wr_id & SEND != 0 {
            self.outbox.hear_completed(wc.wr_id & !SEND);
        }
        self.outbox.is_done()
    }

    /// Whether everything that was sent has arrived.
    pub(crate) fn is_done(&self) -> bool {
        self.outbox.is_done()
    }

    /// Hears what the peer has said meanwhile: a connection that is closed with something unheard loses what was said last.
    pub(crate) fn hear_out(&mut self) {
        // Who still speaks after so many has no right to be heard.
        for _ in 0..MAX_WORDS {
            if !matches!(self.wire.hear(), Heard::Packet(..)) {
                return;
            }
        }
    }

    /// Nothing comes through it any more.
    pub(crate) fn fence(mut self, device: &mut dyn Device) -> Remains {
        device.destroy_qp(self.qp);
        self.reach.close(device);
        self.wire.end();
        Remains { region: self.region, outbox: self.outbox, delivered: self.delivered }
    }
}

impl Remains {
    /// Hands out the sequenced frames after the first `after` ones.
    pub(crate) fn retained(&self, after: u64, each: &mut dyn FnMut(Incoming<'_>)) -> Result<(), Error> {
        for (slot, len) in self.outbox.retained(after).ok_or(Error::PeerMisbehaved)? {
            let (at, len) = (slot as usize * SLOT_BYTES, len as usize);
            let mut head = [0; HEADER_MAX];
            let head = head.get_mut(..len.min(HEADER_MAX)).unwrap_or_default();
            let parsed = if self.region.read(at, head) { Header::parse(head) } else { Ok(None) };
            let Ok(Some((header, header_len))) = parsed else { return Err(Error::Internal) };
            let payload = self.region.bytes(at + header_len, len - header_len).ok_or(Error::Internal)?;
            let Header { kind, flags, word, extension, .. } = header;
            each(Incoming { kind, flags, word, extension, payload });
        }
        Ok(())
    }
}

fn receive_at(slot: u32) -> usize {
    (SLOTS + slot % RECEIVES) as usize * SLOT_BYTES
}

/// What the software device waits for answers in all: 8 times 67 ms.
const SILENCE_NS: u64 = 536_000_000;

fn broken(why: &'static str, silent_ns: u64) -> Ended {
    Ended::Broken(Refusal::new(Error::PeerGone, why), silent_ns)
}

fn misbehaved(error: Error) -> Ended {
    Ended::Misbehaved(Refusal::new(error, "frame that breaks the protocol"))
}
