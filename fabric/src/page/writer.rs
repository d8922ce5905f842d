//! The own page.

use std::fs::File;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use gridnet_core::endpoint::PeerState;
use gridnet_core::error::Error;
use gridnet_core::ledger::{EngineCells, Kept, Ledger, PeerCounts, PeerNote, Row};
use gridnet_core::rail::{Capabilities, Refusal};
use gridnet_core::stats::PeerCounters;
use gridnet_core::sync::{fence, Ordering};
use gridnet_core::wire::Address;
use memmap2::{Advice, MmapOptions, MmapRaw};
use nix::fcntl::{fallocate, FallocateFlags};
use nix::sys::resource::{getrlimit, Resource};
use nix::unistd::{ftruncate, geteuid};

use super::layout::{
    Live, PeerRow, Prefix, HEAD_TEXT, LIVE_OFFSET, MAGIC, PAGE_BYTES, ROWS, ROWS_OFFSET, ROW_TEXT, VERSION,
};
use super::place::{self, Place};
use super::text::{cut, Lines};
use super::waits::now_ns;
use crate::config::{Config, Origin, RailSelection};
use crate::fabric::WaitCounters;
use crate::verdict::Verdict;

/// Rows for which memory is taken in one go.
const ROWS_AT_A_TIME: usize = 16;
/// Most bytes of a reason in a row: three of them fit.
const REASON_BYTES: usize = 160;

/// The page of a fabric; removed with its last user.
#[derive(Debug)]
pub(crate) struct Page {
    map: MmapRaw,
    file: File,
    place: Place,
    process: u32,
}

/// Who a page says that the fabric is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Identity<'a> {
    pub(crate) local: &'a Address,
    pub(crate) name: Option<&'a str>,
    pub(crate) config: &'a Config,
    /// Rails that cannot be had, and why.
    pub(crate) missing: &'a [(&'static str, String)],
}

impl Page {
    /// Makes the page in the directory of a host, and removes those of the dead.
    ///
    /// # Errors
    /// What the system does not allow: a fabric does without a page then.
    pub(crate) fn create(dir: &Path, who: &Identity<'_>) -> Result<Arc<Page>, Refusal> {
        place::clean(dir);
        // Beyond this limit, sizing the file would raise SIGXFSZ.
        let limit = getrlimit(Resource::RLIMIT_FSIZE).map_or(u64::MAX, |(soft, _)| soft);
        if limit < PAGE_BYTES as u64 {
            return Err(Refusal::new(Error::Limit, "RLIMIT_FSIZE is too small for a page"));
        }
        let failed =
            |what: &str, e: &dyn std::fmt::Display| Refusal::new(Error::System, format!("{what}: {e}"));
        let (place, file) = Place::create(dir, who.local.node).map_err(|e| failed("making the page", &e))?;
        let map = ftruncate(&file, PAGE_BYTES as i64)
            .map_err(std::io::Error::from)
            .and_then(|()| take_memory(&file, 0, ROWS_OFFSET + ROWS_AT_A_TIME * size_of::<PeerRow>()))
            .and_then(|()| MmapOptions::new().len(PAGE_BYTES).map_raw(&file))
            // The page is the parent's: a forked child gets `GRIDNET_ERR_FORKED` before it could write.
            .and_then(|map| map.advise(Advice::DontFork).map(|()| map));
        let map = match map {
            Ok(map) => map,
            Err(e) => {
                place.remove();
                return Err(failed("memory for the page", &e));
            }
        };
        let page = Page { map, file, place, process: std::process::id() };
        page.write_head(&head(who));
        // Mapped now, so that nobody who connects waits for it.
        (0..ROWS_AT_A_TIME).for_each(|row| page.row(row).turn.store(0, Ordering::Relaxed));
        page.live().pulse.looked_ns.set(now_ns());
        Ok(Arc::new(page))
    }

    /// The counters of the fabric.
    #[inline(always)]
    pub(crate) fn live(&self) -> &Live {
        // SAFETY: inside the mapping, which `self` owns, has `PAGE_BYTES` and is aligned to a page; memory for this
        // part was taken at creation. A `Live` is made of atomics, for which any bytes are values.
        unsafe { &*self.map.as_ptr().add(LIVE_OFFSET).cast::<Live>() }
    }

    /// The process that opened the fabric.
    pub(crate) fn process(&self) -> u32 {
        self.process
    }

    /// The row of this index; memory for it was taken.
    fn row(&self, index: usize) -> &PeerRow {
        assert!(index < ROWS);
        // SAFETY: inside the mapping by the assertion; else as in `live`. Rows are handed out by `Rows::take`, which
        // takes memory for them first.
        unsafe { &*self.map.as_ptr().add(ROWS_OFFSET + index * size_of::<PeerRow>()).cast::<PeerRow>() }
    }

    /// Shows how polling goes.
    pub(crate) fn show_pulse(&self, wait: &WaitCounters, wakeups_sent: u64) {
        let pulse = &self.live().pulse;
        pulse.polls.set(wait.polls);
        pulse.empty_polls.set(wait.empty_polls);
        pulse.sleeps.set(wait.sleeps);
        pulse.wakeups_sent.set(wakeups_sent);
        pulse.looked_ns.set(now_ns());
    }

    fn write_head(&self, text: &str) {
        let bytes = cut(text, HEAD_TEXT).as_bytes();
        // SAFETY: the prefix and its text lie at the start of the mapping, whose memory was taken; nobody has a
        // reference to the text, which nobody but this function writes.
        let prefix = unsafe {
            let text = self.map.as_mut_ptr().add(size_of::<Prefix>());
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), text, bytes.len());
            &*self.map.as_ptr().cast::<Prefix>()
        };
        prefix.version.store(u64::from(VERSION), Ordering::Relaxed);
        prefix.bytes.store(PAGE_BYTES as u64, Ordering::Relaxed);
        prefix.text_len.store(bytes.len() as u64, Ordering::Relaxed);
        // Release: who reads the magic number, by a system call later, reads the rest as it was before.
        prefix.magic.store(MAGIC, Ordering::Release);
    }

    /// Replaces the text of a row. One thread at a time: the ledger is the engine's.
    fn write_row(&self, index: usize, text: &str) {
        let row = self.row(index);
        let bytes = cut(text, ROW_TEXT).as_bytes();
        let turn = row.turn.load(Ordering::Relaxed) | 1;
        row.turn.store(turn, Ordering::Relaxed);
        // Whoever reads new text also reads the odd turn, or a later one (a seqlock; Boehm, MSPC 2012). Readers read the
        // turn, the text and the turn by system calls, with fences between them.
        fence(Ordering::Release);
        row.text_len.store(bytes.len() as u64, Ordering::Relaxed);
        for (word, chunk) in row.text.iter().zip(bytes.chunks(8)) {
            let mut padded = [0; 8];
            padded[..chunk.len()].copy_from_slice(chunk);
            word.store(u64::from_ne_bytes(padded), Ordering::Relaxed);
        }
        row.turn.store(turn.wrapping_add(1), Ordering::Release);
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // In a forked child the file still belongs to the parent.
        if self.process == std::process::id() {
            self.place.remove();
        }
    }
}

/// A page as the ledger of an engine.
#[derive(Debug)]
pub(crate) struct PageLedger {
    page: Arc<Page>,
    /// Rows that were given back.
    free: Vec<u32>,
    /// Rows that have been used.
    used: usize,
    rails: Vec<(&'static str, Capabilities)>,
    allowed: RailSelection,
    /// At most so many rows; fewer than [`ROWS`] in tests.
    bound: usize,
}

impl PageLedger {
    /// The ledger of a fabric with these rails.
    pub(crate) fn new(
        page: Arc<Page>,
        rails: Vec<(&'static str, Capabilities)>,
        allowed: RailSelection,
    ) -> PageLedger {
        PageLedger { page, free: Vec::new(), used: 0, rails, allowed, bound: ROWS }
    }

    fn take(&mut self) -> Option<u32> {
        if let Some(row) = self.free.pop() {
            return Some(row);
        }
        if self.used >= self.bound {
            return None;
        }
        // For the first it was taken when the page was made: connecting does not wait for it.
        if self.used > 0 && self.used.is_multiple_of(ROWS_AT_A_TIME) {
            let from = ROWS_OFFSET + self.used * size_of::<PeerRow>();
            let len = ROWS_AT_A_TIME.min(ROWS - self.used) * size_of::<PeerRow>();
            if let Err(e) = take_memory(&self.page.file, from, len) {
                tracing::info!(reason = %e, "no memory for more peers in the page");
                self.bound = self.used;
                return None;
            }
        }
        self.used += 1;
        self.page.live().pulse.rows_used.set(self.used as u64);
        Some(self.used as u32 - 1)
    }

    fn text(&self, note: &PeerNote<'_>) -> String {
        let mut lines = Lines::new(ROW_TEXT);
        lines.add("peer", &[&note.peer.number().to_string()]);
        lines.add("node", &[&note.node.to_string()]);
        lines.add("incarnation", &[&note.incarnation.to_string()]);
        if let Some(pid) = note.process {
            lines.add("pid", &[&pid.to_string()]);
        }
        match note.state {
            PeerState::Connecting => lines.add("state", &["connecting"]),
            PeerState::Up => lines.add("state", &[if note.stalled { "stalled" } else { "up" }]),
            PeerState::Gone(why) | PeerState::Broken(why) => {
                let is_gone = matches!(note.state, PeerState::Gone(_));
                let otherwise = if note.stalled { "stalled" } else { "broken" };
                lines.add("state", &[if is_gone { "gone" } else { otherwise }]);
                lines.add("error", &[&why.error.code().to_string(), cut(&why.reason, REASON_BYTES)]);
            }
        }
        let (name, figures) = match self.rails.get(note.rail) {
            Some((name, figures)) => (*name, Some(figures)),
            None => ("none", None),
        };
        lines.add("rail", &[name]);
        if let Some(figures) = figures {
            lines.add("latency_ns", &[&figures.latency_ns.to_string()]);
            lines.add("bandwidth", &[&figures.bandwidth.to_string()]);
            lines.add("copies", &[&figures.copies.to_string()]);
            lines.add("max_inline", &[&figures.max_inline.to_string()]);
        }
        lines.add("eager_max", &[&note.eager_max.to_string()]);
        for verdict in Verdict::all(note.candidates, name, &self.allowed) {
            let used = if verdict.in_use { "used" } else { "refused" };
            lines.add("path", &[&verdict.rail, used, cut(&verdict.reason, REASON_BYTES)]);
        }
        add_paths(&mut lines, note);
        lines.into_text()
    }
}

/// What has become of the path, and where the links lead; what matters least comes last, where there may be no room.
fn add_paths(lines: &mut Lines, note: &PeerNote<'_>) {
    let text = |what: &Option<String>| what.clone().unwrap_or_default();
    let (breaks, replays) = note.breaks;
    if breaks > 0 {
        lines.add("breaks", &[&breaks.to_string(), &replays.to_string()]);
    }
    if let Some(why) = note.last_call {
        lines.add("last_call", &[&why.error.code().to_string(), cut(&why.reason, REASON_BYTES)]);
    }
    for (rail, path) in note.paths {
        let round_trip = path.round_trip_ns.map_or(String::new(), |ns| ns.to_string());
        lines.add("link", &[rail, &text(&path.local), &text(&path.remote), &round_trip]);
        // Of the link before them.
        path.security.iter().for_each(|how| lines.add("security", &[how]));
        if let Some([sent, received]) = path.moved {
            lines.add("moved", &[&sent.to_string(), &received.to_string()]);
        }
        path.tried.iter().for_each(|why| lines.add("tried", &[rail, cut(why, REASON_BYTES)]));
    }
}

impl Ledger for PageLedger {
    fn engine(&mut self) -> Kept<EngineCells> {
        let cells = NonNull::from(&self.page.live().engine);
        // SAFETY: the page keeps its mapping, in which the cells lie, as long as it lives; they are atomics.
        unsafe { Kept::within(self.page.clone(), cells) }
    }

    fn open(&mut self) -> Option<(Row, Kept<PeerCounts>)> {
        let row = self.take()?;
        let counts = NonNull::from(&self.page.row(row as usize).counts);
        // SAFETY: as in `engine`.
        Some((Row(row), unsafe { Kept::within(self.page.clone(), counts) }))
    }

    fn close(&mut self, row: Row, last: &PeerCounters) {
        self.page.write_row(row.0 as usize, "");
        self.page.row(row.0 as usize).counts.clear();
        self.page.live().departed.add(last);
        self.free.push(row.0);
    }

    fn note(&mut self, row: Row, note: &PeerNote<'_>) {
        self.page.write_row(row.0 as usize, &self.text(note));
    }
}

/// What never changes: who, which version, which configuration.
fn head(who: &Identity<'_>) -> String {
    let pid = std::process::id();
    let mut lines = Lines::new(HEAD_TEXT);
    lines.add("pid", &[&pid.to_string()]);
    lines.add("start", &[&place::start_of(pid).unwrap_or(0).to_string()]);
    lines.add("namespace", &[&place::pid_namespace().to_string()]);
    lines.add("uid", &[&geteuid().to_string()]);
    lines.add("node", &[&who.local.node.to_string()]);
    lines.add("incarnation", &[&who.local.incarnation.to_string()]);
    if let Some(name) = who.name {
        lines.add("name", &[name]);
    }
    let program = std::fs::read_to_string("/proc/self/comm").unwrap_or_default();
    lines.add("program", &[program.trim_end()]);
    lines.add("version", &[env!("CARGO_PKG_VERSION")]);
    for (rail, why) in who.missing {
        lines.add("missing", &[rail, cut(why, REASON_BYTES)]);
    }
    for entry in who.config.entries() {
        if entry.name == "GRIDNET_WAIT_MODE" {
            lines.add("wait_mode", &[&entry.value]);
        }
        if entry.origin != Origin::Default {
            lines.add("config", &[entry.name, &entry.value, entry.default, &entry.origin.to_string()]);
        }
    }
    lines.into_text()
}

/// Takes memory from the system now, so that touching it later cannot fail.
fn take_memory(file: &File, from: usize, len: usize) -> std::io::Result<()> {
    fallocate(file, FallocateFlags::empty(), from as i64, len as i64).map_err(std::io::Error::from)
}

/// Calls and threads share a page; see [`Page::write_row`] for the one writer.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Page>();
};
