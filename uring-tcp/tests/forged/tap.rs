//! Somebody in the middle of a connection, who passes on what is said there frame by frame, and now and then forges one.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use gridnet_core::testing::raw::RawFrame;
use gridnet_core::wire::{extension_words, is_sequenced, Header, NetAddresses, HEADER_BYTES, MAX_EXTENSION};

use crate::common::say_frame;
use crate::forge::Forge;

/// Kinds from here on are records of the rail: a header and no more.
pub const RECORDS: u8 = 0xf0;
/// So many sequenced frames have come.
pub const RECORD_ACK: u8 = 0xf0;
/// The link ends.
pub const RECORD_BYE: u8 = 0xf1;
/// What is not passed on yet, in bytes, before nothing more is read.
const MOST_WAITING: usize = 1 << 20;
/// Rounds after a forged frame until the next: so the victim has looked at it before it hears another.
const PAUSE: u32 = 2;

/// Leads from a port of its own to where somebody listens.
pub struct Tap {
    listener: TcpListener,
    to: SocketAddr,
    /// The first is the link; others are passed on as they are.
    wires: Vec<Wire>,
    /// Whether the victim is the one who was called.
    is_victim_called: bool,
    pub forge: Forge,
    pause: u32,
    /// The peer has said that the link is over, before the victim has.
    pub has_peer_left: bool,
    has_victim_left: bool,
}

/// One connection: from the caller to the called, and back.
struct Wire {
    ends: [TcpStream; 2],
    lines: [Line; 2],
}

/// One direction.
#[derive(Default)]
struct Line {
    heard: Vec<u8>,
    to_say: Vec<u8>,
    /// Packets of the handshake until frames come.
    packets: u32,
    is_over: bool,
    /// Of the sequenced frames that went out, how many the sender has said itself, after each.
    genuine: Vec<u64>,
}

impl Tap {
    /// Before `to`. What is said to the victim is forged.
    pub fn new(to: SocketAddr, is_victim_called: bool, forge: Forge) -> Tap {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
        listener.set_nonblocking(true).expect("it can be set");
        Tap {
            listener,
            to,
            wires: Vec::new(),
            is_victim_called,
            forge,
            pause: 0,
            has_peer_left: false,
            has_victim_left: false,
        }
    }

    pub fn at(&self) -> NetAddresses {
        let at = self.listener.local_addr().expect("it listens");
        NetAddresses::new(at.port(), [at.ip()])
    }

    /// Passes on what is there.
    pub fn pump(&mut self) {
        self.pause = self.pause.saturating_sub(1);
        while let Ok((near, _)) = self.listener.accept() {
            let Ok(far) = TcpStream::connect(self.to) else { continue };
            for end in [&near, &far] {
                end.set_nonblocking(true).expect("it can be set");
                end.set_nodelay(true).expect("it can be set");
            }
            let (caller, called) =
                (Line { packets: 1, ..Line::default() }, Line { packets: 2, ..Line::default() });
            self.wires.push(Wire { ends: [near, far], lines: [caller, called] });
        }
        for number in 0..self.wires.len() {
            self.pump_wire(number);
        }
    }

    /// Says one more frame to the victim, though nothing was said to it.
    pub fn interject(&mut self) {
        let towards = usize::from(!self.is_victim_called);
        let Some(wire) = self.wires.first_mut().filter(|wire| wire.lines[towards].packets == 0) else {
            return;
        };
        if self.pause == 0 && self.forge.chance > 0.0 {
            let forged = self.forge.another();
            forged.iter().for_each(|frame| wire.lines[towards].say(frame, false));
            self.pause = PAUSE;
        }
    }

    fn pump_wire(&mut self, number: usize) {
        for way in 0..2 {
            let Wire { ends, lines } = &mut self.wires[number];
            lines[way].hear(&mut ends[way]);
            if number == 0 {
                self.pass_frames(way);
            } else {
                let line = &mut lines[way];
                line.to_say.append(&mut line.heard);
            }
            let Wire { ends, lines } = &mut self.wires[number];
            lines[way].speak(&mut ends[1 - way]);
        }
    }

    /// What is said over the link, in whole frames.
    fn pass_frames(&mut self, way: usize) {
        let is_to_victim = (way == 0) == self.is_victim_called;
        while let Some(frame) = self.wires[0].lines[way].next_frame() {
            let lines = &mut self.wires[0].lines;
            let has_left = frame.kind == RECORD_BYE;
            self.has_victim_left |= has_left && !is_to_victim;
            self.has_peer_left |= has_left && is_to_victim && !self.has_victim_left;
            if !is_to_victim {
                self.forge.overhear(&frame);
                let frame = lines[1 - way].corrected(frame);
                lines[way].say(&frame, true);
                continue;
            }
            let forged = if self.pause == 0 { self.forge.instead_of(&frame) } else { None };
            self.forge.note(&frame);
            let Some((forged, is_replaced)) = forged else {
                lines[way].say(&frame, true);
                continue;
            };
            self.pause = PAUSE;
            if !is_replaced {
                lines[way].say(&frame, true);
            }
            lines[way].say(&forged, is_replaced);
        }
    }
}

impl Line {
    fn hear(&mut self, end: &mut TcpStream) {
        let mut buffer = [0; 1 << 14];
        while !self.is_over && self.to_say.len() < MOST_WAITING {
            match end.read(&mut buffer) {
                Ok(0) => self.is_over = true,
                Ok(len) => self.heard.extend_from_slice(&buffer[..len]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.is_over = true,
            }
        }
    }

    fn speak(&mut self, end: &mut TcpStream) {
        let mut said = 0;
        while said < self.to_say.len() {
            match end.write(&self.to_say[said..]) {
                Ok(len) => said += len,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => said = self.to_say.len(),
            }
        }
        self.to_say.drain(..said);
        if self.is_over && self.to_say.is_empty() {
            // An error says that it has ended.
            let _ = end.shutdown(Shutdown::Write);
        }
    }

    /// The next whole frame that was heard; what belongs to the handshake is passed on before it.
    fn next_frame(&mut self) -> Option<RawFrame> {
        while self.packets > 0 {
            let len = 2 + usize::from(u16::from_le_bytes(*self.heard.first_chunk()?));
            let packet = self.heard.get(..len)?;
            // A refusal ends it.
            self.packets = if packet[2] == b'R' { u32::MAX } else { self.packets - 1 };
            self.to_say.extend(self.heard.drain(..len));
        }
        let (frame, len) = decoded(&self.heard)?;
        self.heard.drain(..len);
        Some(frame)
    }

    fn say(&mut self, frame: &RawFrame, is_genuine: bool) {
        if frame.kind < RECORDS && is_sequenced(frame.kind) {
            let before = self.genuine.last().copied().unwrap_or(0);
            self.genuine.push(before + u64::from(is_genuine));
        }
        encode(frame, &mut self.to_say);
    }

    /// What the other side says to this one: it counts the forged ones, too.
    fn corrected(&self, mut frame: RawFrame) -> RawFrame {
        if frame.kind == RECORD_ACK && frame.word > 0 {
            let at = usize::try_from(frame.word - 1).expect("a count of frames");
            frame.word = *self.genuine.get(at).expect("it has got no more than was said");
        }
        frame
    }
}

fn decoded(bytes: &[u8]) -> Option<(RawFrame, usize)> {
    let fixed = bytes.first_chunk::<HEADER_BYTES>()?;
    if fixed[4] >= RECORDS {
        let word = u64::from_le_bytes(*fixed.last_chunk().expect("8 of 16"));
        let extension = [0; MAX_EXTENSION];
        let record = RawFrame { kind: fixed[4], flags: 0, word, extension, payload: Vec::new() };
        return Some((record, HEADER_BYTES));
    }
    let (header, start) = Header::parse(bytes).expect("engines say what can be")?;
    let payload = bytes.get(start..start + header.payload_len as usize)?.to_vec();
    let Header { kind, flags, word, extension, .. } = header;
    let len = start + payload.len();
    Some((RawFrame { kind, flags, word, extension, payload }, len))
}

/// As the rail does it, also where kind and flags do not go together.
fn encode(frame: &RawFrame, out: &mut Vec<u8>) {
    let words = match frame.kind {
        RECORDS.. => 0,
        kind => extension_words(kind, frame.flags).unwrap_or(MAX_EXTENSION),
    };
    let RawFrame { kind, flags, word, extension, payload } = frame;
    say_frame(*kind, *word, payload, *flags, &extension[..words], out);
}
