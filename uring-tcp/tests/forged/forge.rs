//! Frames of a conversation with something wrong: another number that names something, another place or length, another kind.

use std::collections::{BTreeMap, VecDeque};

use gridnet_core::testing::random::Random;
use gridnet_core::testing::raw::RawFrame;
use gridnet_core::wire::{
    extension_words, FLAG_AHEAD, FLAG_IMMEDIATE, FLAG_LAST, FLAG_PATH, FLAG_SOURCE, FLAG_SYNC, MAX_EXTENSION,
};

use crate::tap::{RECORDS, RECORD_ACK, RECORD_BYE};

/// Frames of each side that are remembered, of each kind,
const FRAMES: usize = 8;
/// names of what was begun last,
const NAMES: usize = 4;
/// and bytes of each frame.
const BYTES: usize = 9000;
/// Values that are wrong at the edges.
const ODD: [u64; 9] = [0, 1, 8, 4096, 1 << 31, 1 << 32, i64::MAX as u64, u64::MAX - 1, u64::MAX];
/// All kinds that there are, those of the rail last.
const KINDS: [u8; 22] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 0xf0, 0xf2];

/// What was forged, by kind.
#[derive(Debug, Default, Clone, Copy)]
pub struct Count {
    pub said: u64,
    /// With the number that it names untouched, and something else changed or nothing.
    pub named: u64,
    /// Those after which the victim hung up, and those of them that named what they named before.
    pub refused: u64,
    pub refused_named: u64,
}

/// Who forges.
pub struct Forge {
    pub random: Random,
    /// How often one is forged beside one that passes, or in its place.
    pub chance: f64,
    /// What the peer has said, and what the victim has.
    own: Memory,
    pub heard: Memory,
    /// What the victim has said to others.
    pub others: Memory,
    pub said: u64,
    pub counts: BTreeMap<u8, Count>,
    last: Option<(u8, bool)>,
}

impl Forge {
    pub fn new(seed: u64) -> Forge {
        Forge {
            random: Random::new(seed),
            chance: 0.0,
            own: Memory::default(),
            heard: Memory::default(),
            others: Memory::default(),
            said: 0,
            counts: BTreeMap::new(),
            last: None,
        }
    }

    /// A frame of the peer.
    pub fn note(&mut self, frame: &RawFrame) {
        self.own.keep(frame);
    }

    /// A frame of the victim.
    pub fn overhear(&mut self, frame: &RawFrame) {
        self.heard.keep(frame);
    }

    /// The dice for a frame that passes: one to be said behind it, or in its place.
    pub fn instead_of(&mut self, frame: &RawFrame) -> Option<(RawFrame, bool)> {
        let is_forged = self.random.chance(self.chance);
        let is_replaced = frame.payload.len() <= BYTES && self.random.chance(0.3);
        is_forged.then(|| (self.forged(shortened(frame)), is_replaced))
    }

    /// One out of what was said, on the side of the peer or, now and then, of the victim.
    pub fn another(&mut self) -> Option<RawFrame> {
        let from = if self.random.chance(0.2) { &self.heard } else { &self.own };
        let frame = from.pick(&mut self.random)?.clone();
        Some(self.forged(frame))
    }

    /// The victim has hung up.
    pub fn note_refused(&mut self) {
        let Some((kind, is_named)) = self.last else { return };
        let count = self.counts.entry(kind).or_default();
        count.refused += 1;
        count.refused_named += u64::from(is_named);
    }

    fn forged(&mut self, from: RawFrame) -> RawFrame {
        let mut frame = from.clone();
        for _ in 0..1 + u32::from(self.random.chance(0.2)) {
            self.change(&mut frame);
        }
        // Of the rail's word for the end nobody learns anything.
        if frame.kind == RECORD_BYE {
            frame.kind = RECORD_ACK;
        }
        let is_named = (frame.kind, frame.word) == (from.kind, from.word);
        self.said += 1;
        let count = self.counts.entry(frame.kind).or_default();
        count.said += 1;
        count.named += u64::from(is_named);
        self.last = Some((frame.kind, is_named));
        frame
    }

    fn change(&mut self, frame: &mut RawFrame) {
        match self.random.below(12) {
            // Once more, as it was.
            0 => {}
            1 => frame.kind = self.random.pick(&KINDS),
            2 => {
                frame.flags ^= self.random.pick(&[
                    FLAG_IMMEDIATE,
                    FLAG_SYNC,
                    FLAG_SOURCE,
                    FLAG_LAST,
                    FLAG_PATH,
                    FLAG_AHEAD,
                ])
            }
            3 | 4 if !frame.payload.is_empty() => self.change_payload(&mut frame.payload),
            _ => {
                let words = match frame.kind {
                    RECORDS.. => 0,
                    kind => extension_words(kind, frame.flags).unwrap_or(MAX_EXTENSION),
                };
                match self.random.below(words as u64 + 1) as usize {
                    0 => frame.word = self.name(frame.kind).unwrap_or(self.number(frame.word, frame)),
                    at => frame.extension[at - 1] = self.number(frame.extension[at - 1], frame),
                }
            }
        }
        // A flag of another kind is refused before anybody looks at the words: a few are enough.
        if frame.kind < RECORDS
            && extension_words(frame.kind, frame.flags).is_err()
            && self.random.chance(0.95)
        {
            frame.flags = 0;
        }
    }

    fn change_payload(&mut self, payload: &mut Vec<u8>) {
        let len = payload.len() as u64;
        match self.random.below(3) {
            0 => payload.truncate(self.random.below(len) as usize),
            1 => {
                let more = self.random.pick(&[1, 8, 4096]);
                payload.extend(self.random.bytes(more));
            }
            _ => payload[self.random.below(len) as usize] ^= 1,
        }
    }

    /// What a frame of this kind may name, of the peer's own or of somebody else's.
    fn name(&mut self, kind: u8) -> Option<u64> {
        if self.random.chance(0.25) {
            return None;
        }
        let from = match kind {
            // Regions are known from what the peer has asked for itself.
            16 | 17 | 19 => &self.own,
            _ if self.random.chance(0.5) => &self.heard,
            _ => &self.others,
        };
        from.name(kind, &mut self.random)
    }

    /// Another number than this one.
    fn number(&mut self, from: u64, frame: &RawFrame) -> u64 {
        match self.random.below(7) {
            0 => self.random.pick(&ODD),
            // A neighbour: what others have under way, or the same place a generation earlier or later.
            1 => from.wrapping_add(self.random.pick(&[
                1,
                2,
                3,
                u64::MAX,
                u64::MAX - 1,
                1 << 32,
                u64::MAX << 32,
            ])),
            2 => from.wrapping_add(frame.payload.len() as u64 + self.random.below(3)).wrapping_sub(1),
            3 => from ^ 1 << self.random.below(64),
            4 => self.heard.word(&mut self.random).unwrap_or(from),
            5 => self.others.word(&mut self.random).unwrap_or(from),
            _ => self.own.word(&mut self.random).unwrap_or(from),
        }
    }
}

/// The last frames of each kind.
#[derive(Default, Clone)]
pub struct Memory {
    frames: BTreeMap<u8, VecDeque<RawFrame>>,
    /// By which numbers the speaker is to be answered, by the kind of the answer.
    names: BTreeMap<u8, VecDeque<u64>>,
}

impl Memory {
    fn keep(&mut self, frame: &RawFrame) {
        keep_last(FRAMES, self.frames.entry(frame.kind).or_default(), shortened(frame));
        let (answers, name) = name_in(frame);
        for kind in answers {
            keep_last(NAMES, self.names.entry(*kind).or_default(), name);
        }
        if let 16 | 17 | 19 = frame.kind {
            for kind in [16, 17, 19] {
                keep_last(NAMES, self.names.entry(kind).or_default(), frame.word);
            }
        }
    }

    fn name(&self, kind: u8, random: &mut Random) -> Option<u64> {
        let names = self.names.get(&kind)?;
        names.get(random.below(names.len() as u64) as usize).copied()
    }

    /// One of any kind, however many there were.
    fn pick(&self, random: &mut Random) -> Option<&RawFrame> {
        let frames = self.frames.values().nth(random.below(self.frames.len().max(1) as u64) as usize)?;
        frames.get(random.below(frames.len() as u64) as usize)
    }

    /// Any number of one of them.
    fn word(&self, random: &mut Random) -> Option<u64> {
        let frame = self.pick(random)?;
        let words = extension_words(frame.kind, frame.flags).unwrap_or(0);
        Some(match random.below(words as u64 + 1) as usize {
            0 => frame.word,
            at => frame.extension[at - 1],
        })
    }
}

fn keep_last<T>(most: usize, things: &mut VecDeque<T>, thing: T) {
    things.push_back(thing);
    if things.len() > most {
        things.pop_front();
    }
}

/// How the speaker calls what the frame begins, and kinds of frames that answer it by that number.
fn name_in(frame: &RawFrame) -> (&'static [u8], u64) {
    let from = usize::from(frame.flags & FLAG_IMMEDIATE != 0);
    let words = &frame.extension;
    match frame.kind {
        1 if frame.flags & FLAG_SYNC != 0 => (&[6], words[from]),
        2 => (&[3, 5], words[from + 1]),
        3 => (&[4, 9], words[0]),
        16 | 17 | 19 => (&[18, 20], words[0]),
        // A stream that is asked for, and one that is accepted.
        14 if words[0] == 1 => (&[13, 14, 15], frame.word),
        14 if words[0] == 2 => (&[13, 14, 15], words[2]),
        _ => (&[], 0),
    }
}

/// What is forged of a long segment is as wrong with fewer bytes.
fn shortened(frame: &RawFrame) -> RawFrame {
    let payload = frame.payload[..frame.payload.len().min(BYTES)].to_vec();
    RawFrame { payload, ..*frame }
}
