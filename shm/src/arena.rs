//! Who has which part of the own segment. Private bookkeeping: nothing of it is in shared memory.

use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use gridnet_core::sync::{AtomicU32, AtomicU64, Ordering};

use crate::layout::{link_block_len, ARENA_OFFSET, LINE};
use crate::segment::OwnSegment;

/// Sizes in bytes of staging buffers. Messages take the smallest that holds them.
const CLASSES: [usize; 8] = [256, 1024, 4096, 8192, 16384, 32768, 65536, 131_072];
/// Largest staging buffer.
pub const MAX_STAGING: usize = 131_072;

/// A staging buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Staging {
    /// Its position in lines.
    pub line: u32,
    class: u8,
}

impl Staging {
    /// Its size in bytes.
    pub fn size(self) -> usize {
        CLASSES[usize::from(self.class)]
    }
}

/// Allots link blocks and staging buffers.
#[derive(Debug)]
pub struct Arena {
    segment: OwnSegment,
    slots: u32,
    /// First byte that was never allotted.
    next: usize,
    free_blocks: Vec<u32>,
    /// Lines that were records of regions.
    free_records: Vec<u32>,
    free_staging: [Vec<u32>; CLASSES.len()],
    /// Ranges that were staging buffers: first line and number of lines.
    joined: Vec<(u32, u32)>,
    /// Why the last request for a staging buffer found no memory.
    short: Option<Error>,
}

impl Arena {
    /// Allots the memory of `segment`; link blocks have rings of `slots`.
    pub fn new(segment: OwnSegment, slots: u32) -> Arena {
        Arena {
            segment,
            slots,
            next: ARENA_OFFSET,
            free_blocks: Vec::new(),
            free_records: Vec::new(),
            free_staging: Default::default(),
            joined: Vec::new(),
            short: None,
        }
    }

    /// The memory.
    #[inline]
    pub fn segment(&self) -> &OwnSegment {
        &self.segment
    }

    /// The memory, to take parts of it for other purposes than this arena's.
    pub fn segment_mut(&mut self) -> &mut OwnSegment {
        &mut self.segment
    }

    /// Why there was no memory for the last staging buffer asked for, if so: it has to come from other links.
    pub fn shortage(&self) -> Option<Error> {
        self.short
    }

    /// Bytes that are neither free nor given out for good.
    #[cfg(feature = "testing")]
    pub(crate) fn in_use(&self) -> usize {
        let staging = self.free_staging.iter().zip(CLASSES).map(|(free, size)| free.len() * size);
        let joined: usize = self.joined.iter().map(|(_, lines)| *lines as usize * LINE).sum();
        let blocks = self.free_blocks.len() * link_block_len(self.slots);
        let records = self.free_records.len() * LINE;
        self.next - ARENA_OFFSET - staging.sum::<usize>() - joined - blocks - records
    }

    /// Slots of the rings.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Allots a zeroed link block; its position in lines.
    ///
    /// # Errors
    /// When segment or system have no memory left.
    pub fn take_block(&mut self) -> Result<u32, Refusal> {
        let len = link_block_len(self.slots);
        if let Some(block) = self.free_blocks.pop() {
            self.segment.clear(block as usize * LINE, len);
            return Ok(block);
        }
        self.extend(len)
    }

    /// Has the system map the first pages of a block that no frame has passed, so that the first frame need not wait for it.
    pub fn touch_block(&self, block: u32) {
        let start = block as usize * LINE;
        let consumed = self.segment.at(start).cast::<AtomicU32>();
        let slot = self.segment.at(start + LINE).cast::<AtomicU64>();
        // SAFETY: inside the own segment, aligned, and only ever accessed as atomics. They are zero already, since nothing
        // has passed.
        unsafe {
            consumed.as_ref().store(0, Ordering::Relaxed);
            slot.as_ref().store(0, Ordering::Relaxed);
        }
    }

    /// Takes a link block back that no peer uses any more.
    pub fn give_block(&mut self, block: u32) {
        self.free_blocks.push(block);
    }

    /// Allots a line for a region's record; its position in lines.
    ///
    /// # Errors
    /// When segment or system have no memory left.
    pub fn take_record(&mut self) -> Result<u32, Refusal> {
        match self.free_records.pop() {
            Some(line) => Ok(line),
            None => self.extend(LINE),
        }
    }

    /// Takes the line of a record back.
    pub fn give_record(&mut self, line: u32) {
        self.free_records.push(line);
    }

    /// Allots a zeroed line, for good; its position in lines.
    ///
    /// # Errors
    /// When segment or system have no memory left.
    pub fn take_line(&mut self) -> Result<u32, Refusal> {
        let line = self.extend(LINE)?;
        self.segment.clear(line as usize * LINE, LINE);
        Ok(line)
    }

    /// A free staging buffer for `len` bytes, if one was given back.
    #[inline]
    pub fn take_staging(&mut self, len: usize) -> Option<Staging> {
        let class = class_of(len);
        let line = self.free_staging.get_mut(class)?.pop()?;
        self.short = None;
        Some(Staging { line, class: class as u8 })
    }

    /// Allots new staging buffers for `len` bytes: several small ones at once, so that the one just given back is not
    /// the next one used, whose lines are still on their way from the peer's cache.
    ///
    /// # Errors
    /// When segment or system have no memory left.
    #[cold]
    pub fn grow_staging(&mut self, len: usize) -> Result<(), Refusal> {
        let class = class_of(len);
        let count = if CLASSES[class] <= 8192 { 8 } else { 1 };
        for _ in 0..count {
            match self.extend(CLASSES[class]) {
                Ok(line) => self.free_staging[class].push(line),
                Err(_) if !self.free_staging[class].is_empty() => break,
                Err(refusal) => {
                    self.short = Some(refusal.error);
                    return Err(refusal);
                }
            }
        }
        Ok(())
    }

    /// Takes a staging buffer back.
    #[inline]
    pub fn give_staging(&mut self, staging: Staging) {
        self.free_staging[usize::from(staging.class)].push(staging.line);
    }

    /// Allots memory that was never used; when there is none, free staging buffers of any size are joined to what is
    /// needed.
    fn extend(&mut self, len: usize) -> Result<u32, Refusal> {
        let start = self.next;
        match self.segment.commit(start + len) {
            Ok(()) => {
                self.next = start + len;
                Ok((start / LINE) as u32)
            }
            Err(refusal) => self.take_range(len).or_else(|| self.join_free().take_range(len)).ok_or(refusal),
        }
    }

    /// Cuts `len` bytes off a joined range.
    fn take_range(&mut self, len: usize) -> Option<u32> {
        let lines = len.div_ceil(LINE) as u32;
        let range = self.joined.iter_mut().find(|(_, free)| *free >= lines)?;
        let start = range.0;
        *range = (start + lines, range.1 - lines);
        Some(start)
    }

    /// Makes ranges, as long as possible, of all free staging buffers.
    #[cold]
    fn join_free(&mut self) -> &mut Arena {
        let mut free = std::mem::take(&mut self.joined);
        for (lines, size) in self.free_staging.iter_mut().zip(CLASSES) {
            free.extend(lines.drain(..).map(|line| (line, (size / LINE) as u32)));
        }
        free.sort_unstable();
        for (line, lines) in free.into_iter().filter(|(_, lines)| *lines > 0) {
            match self.joined.last_mut() {
                Some((start, len)) if *start + *len == line => *len += lines,
                _ => self.joined.push((line, lines)),
            }
        }
        self
    }
}

#[inline]
fn class_of(len: usize) -> usize {
    CLASSES.iter().position(|size| len <= *size).unwrap_or(CLASSES.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Header;
    use std::collections::HashSet;

    #[test]
    fn allotted_memory_never_overlaps_and_runs_out_by_name() {
        let size = 1 << 20;
        let segment = OwnSegment::create(size, &Header::new(size, [1; 16], 0), false).unwrap();
        let mut arena = Arena::new(segment, 64);
        let mut lines = HashSet::new();
        let mut claim = |start: u32, len: usize| {
            for line in start..start + len.div_ceil(LINE) as u32 {
                assert!(lines.insert(line), "line {line} allotted twice");
                assert!((line as usize + 1) * LINE <= size);
            }
        };
        let refusal = loop {
            match arena.take_block() {
                Ok(block) => claim(block, link_block_len(64)),
                Err(refusal) => break refusal,
            }
            for len in [1, 300, 5000, 60_000] {
                if arena.grow_staging(len).is_ok() {
                    while let Some(staging) = arena.take_staging(len) {
                        assert!(staging.size() >= len);
                        claim(staging.line, staging.size());
                    }
                }
            }
        };
        assert!(refusal.reason.contains("GRIDNET_SHM_SEGMENT_SIZE"), "{refusal:?}");
        assert!(arena.take_staging(MAX_STAGING + 1).is_none());
    }

    #[test]
    fn buffers_given_back_serve_other_sizes_when_the_segment_is_full() {
        let size = 1 << 20;
        let segment = OwnSegment::create(size, &Header::new(size, [1; 16], 0), false).unwrap();
        let mut arena = Arena::new(segment, 64);
        let mut small = Vec::new();
        while arena.grow_staging(8192).is_ok() {
            small.extend(std::iter::from_fn(|| arena.take_staging(8192)));
        }
        assert!(arena.grow_staging(100_000).is_err());
        small.into_iter().for_each(|staging| arena.give_staging(staging));
        arena.grow_staging(100_000).unwrap();
        let large = arena.take_staging(100_000).unwrap();
        assert!(large.size() >= 100_000 && (large.line as usize) * LINE + large.size() <= size);
        // What was joined is not handed out a second time in its old size.
        while arena.grow_staging(8192).is_ok() {
            while let Some(other) = arena.take_staging(8192) {
                let (a, b) = (large.line, large.line + (large.size() / LINE) as u32);
                assert!(other.line + (8192 / LINE) as u32 <= a || other.line >= b);
            }
        }
    }

    #[test]
    fn a_block_comes_back_zeroed() {
        let segment = OwnSegment::create(1 << 20, &Header::new(1 << 20, [1; 16], 0), false).unwrap();
        let mut arena = Arena::new(segment, 64);
        let block = arena.take_block().unwrap();
        let at = arena.segment().at(block as usize * LINE + 100);
        // SAFETY: inside the block, which nobody else uses.
        unsafe { at.as_ptr().write(7) };
        arena.give_block(block);
        assert_eq!(arena.take_block().unwrap(), block);
        // SAFETY: as above.
        assert_eq!(unsafe { at.as_ptr().read() }, 0);
    }
}
