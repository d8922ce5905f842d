//! A page as a reader finds it. Nothing in it is believed: it may be torn, of another version, or written by somebody who
//! means ill. It is read by system calls into private memory, so that not even a file that shrinks does harm.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use gridnet_core::stats::{PeerCells, PeerCounters};
use gridnet_core::sync::{fence, Ordering};

use super::layout::{
    Live, PeerRow, Prefix, Pulse, WaitSlot, HEAD_TEXT, LIVE_OFFSET, MAGIC, PAGE_BYTES, ROWS, ROWS_OFFSET,
    ROW_TEXT, VERSION, WAITS,
};
use super::place;
use super::text;
use super::waits::{now_ns, Call};
use crate::verdict::Verdict;
use crate::words::Waiting;

/// Times that the rows are read again when some are being written. A writer takes less than a microsecond; only one that
/// was stopped in the middle leaves a row torn for longer.
const TRIES: usize = 8;

/// Why a page cannot be read.
#[derive(Debug)]
pub enum ReadError {
    /// The file could not be read.
    Io(io::Error),
    /// It is no page, or one that is being made.
    NotAPage(&'static str),
    /// It is a page of this version.
    Version(u64),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Io(e) => e.fmt(f),
            ReadError::NotAPage(why) => write!(f, "not the page of a fabric: {why}"),
            ReadError::Version(found) => write!(
                f,
                "its page has version {found}, this build reads version {VERSION}: use the command of that build"
            ),
        }
    }
}

impl std::error::Error for ReadError {}

impl From<io::Error> for ReadError {
    fn from(e: io::Error) -> ReadError {
        ReadError::Io(e)
    }
}

/// Whose page it is: what never changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Who {
    /// Process number, in its namespace.
    pub pid: u32,
    /// Start of the process in clock ticks after boot.
    pub start: u64,
    /// Namespace of process numbers.
    pub namespace: u64,
    /// User.
    pub uid: u32,
    /// Node id, 32 hexadecimal digits.
    pub node: String,
    /// Start of the fabric, ns after 1970.
    pub incarnation: u64,
    /// Name of the fabric.
    pub name: Option<String>,
    /// Name of the program.
    pub program: String,
    /// Version of the library.
    pub version: String,
    /// What waiting calls do.
    pub wait_mode: String,
    /// Variables that were set.
    pub config: Vec<Setting>,
    /// Rails that cannot be had, each with the reason.
    pub missing: Vec<(String, String)>,
}

/// A variable that differs from its default, or was set to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Setting {
    /// Name.
    pub name: String,
    /// Value in force.
    pub value: String,
    /// Default.
    pub default: String,
    /// `environment` or `program`.
    pub origin: String,
}

/// What is counted of a whole fabric.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Activity {
    /// Sums over all peers that are or were shown.
    pub peers: PeerCounters,
    /// Receives that wait for a message; `None` when peers that are not shown could have matched some.
    pub posted: Option<u64>,
    /// Sends that have not completed.
    pub sends: u64,
    /// Receives whose message is coming in.
    pub incoming: u64,
    /// Unexpected messages in store.
    pub unexpected: u64,
    /// Their bytes.
    pub unexpected_bytes: u64,
    /// Operations with the peers shown that ended with an error.
    pub failures: u64,
    /// Peers there have been.
    pub peers_total: u64,
    /// Those of them that have gone.
    pub peers_gone: u64,
    /// Rounds of polling, as of the last look.
    pub polls: u64,
    /// Those that found nothing.
    pub empty_polls: u64,
    /// Times that a call slept.
    pub sleeps: u64,
    /// Wake-ups given to sleeping peers.
    pub wakeups_sent: u64,
    /// Time since the fabric last looked at its descriptors, in ns.
    pub looked_ago_ns: u64,
}

/// A call that waits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WaitView {
    /// Number of the thread.
    pub thread: u64,
    /// Name of the call.
    pub call: String,
    /// How long it has waited, in ns.
    pub for_ns: u64,
    /// How long it waits at most, in ns; `None` is for ever.
    pub timeout_ns: Option<u64>,
    /// Whether it sleeps, or polls.
    pub asleep: bool,
}

/// One peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerView {
    /// Its number in the fabric.
    pub peer: u32,
    /// Node id, 32 hexadecimal digits.
    pub node: String,
    /// Start of its fabric, ns after 1970.
    pub incarnation: u64,
    /// Process number.
    pub pid: Option<u32>,
    /// `connecting`, `up`, `broken` or `gone`.
    pub state: String,
    /// Status code and reason of the end.
    pub error: Option<(i32, String)>,
    /// Rail that carries its messages.
    pub rail: String,
    /// Figures of the rail: name and value, such as `latency_ns`.
    pub figures: Vec<(String, u64)>,
    /// Each rail, and why it is used or not.
    pub verdicts: Vec<Verdict>,
    /// Where the links lead, as they were when they came up.
    pub links: Vec<LinkView>,
    /// Times that the path broke.
    pub breaks: u64,
    /// Frames that were sent again because of that.
    pub replays: u64,
    /// Status code and reason of the last call that failed, while another path is sought.
    pub last_call: Option<(i32, String)>,
    /// What happened.
    pub counters: PeerCounters,
    /// What waits, and who takes nothing now.
    pub waiting: Waiting,
    /// The text was being written when its process was stopped: it may be mixed up.
    pub torn: bool,
}

/// Where a link leads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkView {
    /// Its rail.
    pub rail: String,
    /// Addresses of this side and of the other; empty where the rail has none.
    pub ends: [String; 2],
    /// Time there and back in ns, as the network measured it.
    pub round_trip_ns: Option<u64>,
    /// How what goes over it is protected: `TLS 1.3` or `plain`; nothing where it does not leave the host.
    pub security: Option<String>,
    /// Bytes that went there and that came from there, where it is one of several paths.
    pub moved: Option<[u64; 2]>,
    /// Addresses that were tried before and did not do, each with the reason.
    pub tried: Vec<String>,
}

/// A page at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageView {
    /// Whose it is.
    pub who: Who,
    /// The whole fabric.
    pub activity: Activity,
    /// Calls that wait.
    pub waits: Vec<WaitView>,
    /// Peers, in the order of their numbers.
    pub peers: Vec<PeerView>,
    /// Peers that are not shown.
    pub more_peers: u64,
}

impl PageView {
    /// Reads a page.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn read(file: &File) -> Result<PageView, ReadError> {
        let who = PageView::read_who(file)?;
        let mut live = vec![0; size_of::<Live>()];
        file.read_exact_at(&mut live, LIVE_OFFSET as u64)?;
        let now = now_ns();
        let used = pulse_word(&live, std::mem::offset_of!(Pulse, rows_used)).min(ROWS as u64) as usize;
        let peers = read_rows(file, used)?;
        let mut activity = activity(&live, now);
        for peer in &peers {
            activity.peers.add(&peer.counters);
            activity.failures = activity.failures.saturating_add(peer.waiting.failures);
        }
        let more_peers = (activity.peers_total).saturating_sub(peers.len() as u64);
        let hidden_alive = more_peers
            > activity.peers_gone.saturating_sub(peers.iter().filter(|p| p.state == "gone").count() as u64);
        activity.posted = (!hidden_alive).then(|| posted(&live, &activity.peers));
        Ok(PageView { who, waits: waits(&live, now), activity, peers, more_peers })
    }

    /// Reads whose page it is.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn read_who(file: &File) -> Result<Who, ReadError> {
        let (version, who) = PageView::read_head(file)?;
        if version != u64::from(VERSION) {
            return Err(match who.may_be_alive() {
                true => ReadError::Version(version),
                false => ReadError::NotAPage("its process has ended"),
            });
        }
        if file.metadata()?.size() != PAGE_BYTES as u64 {
            return Err(ReadError::NotAPage("its size is wrong"));
        }
        Ok(who)
    }

    /// Version, and whose it is: the head is the same in every version.
    pub(super) fn read_head(file: &File) -> Result<(u64, Who), ReadError> {
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(ReadError::NotAPage("no plain file"));
        }
        let mut head = [0; LIVE_OFFSET];
        let mut have = 0;
        while have < head.len() {
            match file.read_at(&mut head[have..], have as u64)? {
                0 => break,
                more => have += more,
            }
        }
        if have < size_of::<Prefix>() || word(&head, 0) != MAGIC {
            return Err(ReadError::NotAPage("it does not begin as one"));
        }
        let len = word(&head, 24).min(HEAD_TEXT as u64) as usize;
        let start = size_of::<Prefix>();
        Ok((word(&head, 8), who_of(&head[start..start + len])))
    }
}

impl Who {
    /// True when its process number means nothing here: it is one of another namespace.
    pub fn is_foreign(&self) -> bool {
        self.namespace != place::pid_namespace()
    }

    /// False when the process has certainly ended. A process in another namespace cannot be judged.
    pub fn may_be_alive(&self) -> bool {
        self.is_foreign() || place::start_of(self.pid) == Some(self.start)
    }
}

fn who_of(bytes: &[u8]) -> Who {
    let mut who = Who::default();
    for (key, values) in text::parse(bytes) {
        let value = |index: usize| values.get(index).cloned().unwrap_or_default();
        match key.as_str() {
            "pid" => who.pid = number(&value(0)),
            "start" => who.start = number(&value(0)),
            "namespace" => who.namespace = number(&value(0)),
            "uid" => who.uid = number(&value(0)),
            "node" => who.node = value(0),
            "incarnation" => who.incarnation = number(&value(0)),
            "name" => who.name = Some(value(0)),
            "program" => who.program = value(0),
            "version" => who.version = value(0),
            "wait_mode" => who.wait_mode = value(0),
            "missing" => who.missing.push((value(0), value(1))),
            "config" => who.config.push(Setting {
                name: value(0),
                value: value(1),
                default: value(2),
                origin: value(3),
            }),
            _ => {}
        }
    }
    who
}

/// The rows that are in use. Their turns are read before and after, to see which were not written meanwhile.
fn read_rows(file: &File, used: usize) -> Result<Vec<PeerView>, ReadError> {
    let mut images = [(); 3].map(|()| vec![0; used * size_of::<PeerRow>()]);
    let mut rows = vec![None; used];
    for attempt in 0..TRIES {
        for image in &mut images {
            file.read_exact_at(image, ROWS_OFFSET as u64)?;
            // Pair: the fence and the last store in `Page::write_row`. One image is complete before the next begins.
            fence(Ordering::Acquire);
        }
        let mut torn = false;
        for (index, row) in rows.iter_mut().enumerate().filter(|(_, row)| row.is_none()) {
            let [before, body, after] = [0, 1, 2].map(|which: usize| row_of(&images[which], index));
            let turn = std::mem::offset_of!(PeerRow, turn);
            let whole = word(before, turn) == word(after, turn) && word(before, turn).is_multiple_of(2);
            if whole || attempt + 1 == TRIES {
                *row = Some(peer_of(body, !whole));
            }
            torn |= row.is_none();
        }
        if !torn {
            break;
        }
    }
    let mut peers: Vec<PeerView> = rows.into_iter().flatten().flatten().collect();
    peers.sort_by_key(|peer| peer.peer);
    Ok(peers)
}

/// The peer of a row; `None` when the row is free.
fn peer_of(row: &[u8], torn: bool) -> Option<PeerView> {
    let len = word(row, std::mem::offset_of!(PeerRow, text_len)).min(ROW_TEXT as u64) as usize;
    if len == 0 {
        return None;
    }
    let start = std::mem::offset_of!(PeerRow, text);
    let mut peer = PeerView { torn, counters: counters(row), ..PeerView::default() };
    for (key, values) in text::parse(&row[start..start + len]) {
        let value = |index: usize| values.get(index).cloned().unwrap_or_default();
        match key.as_str() {
            "peer" => peer.peer = number(&value(0)),
            "node" => peer.node = value(0),
            "incarnation" => peer.incarnation = number(&value(0)),
            "pid" => peer.pid = value(0).parse().ok(),
            "state" => peer.state = value(0),
            "error" => peer.error = Some((value(0).parse().unwrap_or(0), value(1))),
            "rail" => peer.rail = value(0),
            "path" => {
                peer.verdicts.push(Verdict { rail: value(0), in_use: value(1) == "used", reason: value(2) })
            }
            "link" => peer.links.push(LinkView {
                rail: value(0),
                ends: [value(1), value(2)],
                round_trip_ns: value(3).parse().ok(),
                security: None,
                moved: None,
                tried: Vec::new(),
            }),
            "security" => peer.links.last_mut().into_iter().for_each(|link| link.security = Some(value(0))),
            "moved" => {
                let moved = value(0).parse().ok().zip(value(1).parse().ok());
                let link = peer.links.last_mut();
                link.into_iter().for_each(|link| link.moved = moved.map(|(sent, received)| [sent, received]));
            }
            "tried" => {
                let link = peer.links.last_mut().filter(|link| link.rail == value(0));
                link.into_iter().for_each(|link| link.tried.push(value(1)));
            }
            "breaks" => (peer.breaks, peer.replays) = (number(&value(0)), number(&value(1))),
            "last_call" => peer.last_call = Some((value(0).parse().unwrap_or(0), value(1))),
            "latency_ns" | "bandwidth" | "copies" | "max_inline" | "eager_max" => {
                peer.figures.push((key, number(&value(0))));
            }
            _ => {}
        }
    }
    let gauge = |index: usize| word(row, size_of::<PeerCells>() + index * 8);
    peer.waiting = Waiting {
        pending: gauge(0),
        bulk: gauge(1),
        unexpected: gauge(2),
        unexpected_bytes: gauge(3),
        failures: gauge(4),
        stopped: gauge(5) != 0,
        stopping: gauge(6) != 0,
    };
    Some(peer)
}

/// The counters at the start of `bytes`, in the order of `PeerCells`.
fn counters(bytes: &[u8]) -> PeerCounters {
    PeerCounters::from_values(std::array::from_fn(|index| word(bytes, index * 8)))
}

fn activity(live: &[u8], now: u64) -> Activity {
    let engine = |index: usize| word(live, index * 8);
    let pulse = |offset: usize| pulse_word(live, offset);
    Activity {
        peers: counters(&live[std::mem::offset_of!(Live, departed)..]),
        posted: None,
        sends: engine(2),
        incoming: engine(3),
        unexpected: engine(4),
        unexpected_bytes: engine(5),
        failures: 0,
        peers_total: engine(6),
        peers_gone: engine(7),
        polls: pulse(std::mem::offset_of!(Pulse, polls)),
        empty_polls: pulse(std::mem::offset_of!(Pulse, empty_polls)),
        sleeps: pulse(std::mem::offset_of!(Pulse, sleeps)),
        wakeups_sent: pulse(std::mem::offset_of!(Pulse, wakeups_sent)),
        looked_ago_ns: now.saturating_sub(pulse(std::mem::offset_of!(Pulse, looked_ns))),
    }
}

/// Receives that were posted, less those that got a message when it came, or were withdrawn.
fn posted(live: &[u8], peers: &PeerCounters) -> u64 {
    let matched = peers.messages_received.saturating_sub(peers.unexpected_total);
    word(live, 0).saturating_sub(word(live, 8)).saturating_sub(matched)
}

fn waits(live: &[u8], now: u64) -> Vec<WaitView> {
    let start = std::mem::offset_of!(Live, waits);
    let slots = (0..WAITS).map(|index| &live[start + index * size_of::<WaitSlot>()..]);
    // A slot without a call was taken a moment ago.
    let taken = slots.filter(|slot| word(slot, 0) != 0 && word(slot, 8) != 0);
    let view = taken.map(|slot| WaitView {
        thread: word(slot, 0),
        call: Call::name(word(slot, 8)).to_owned(),
        for_ns: now.saturating_sub(word(slot, 16)),
        timeout_ns: Some(word(slot, 24)).filter(|ns| *ns != u64::MAX),
        asleep: word(slot, 32) != 0,
    });
    view.collect()
}

fn pulse_word(live: &[u8], offset: usize) -> u64 {
    word(live, std::mem::offset_of!(Live, pulse) + offset)
}

fn row_of(image: &[u8], index: usize) -> &[u8] {
    &image[index * size_of::<PeerRow>()..][..size_of::<PeerRow>()]
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_ne_bytes(word)
}

fn number<T: std::str::FromStr + Default>(text: &str) -> T {
    text.parse().unwrap_or_default()
}
