//! Endpoints by node id between fabrics of two processes of this host, both polling: the other one is this program once more.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::node::LIMIT;
use crate::args::OpenedArgs;
use crate::cores;
use crate::failure::Failure;
use gridnet::config::Config;
use gridnet::core::completion::{Completion, OpKind};
use gridnet::core::endpoint::{CqId, SendArgs};
use gridnet::core::matching::{Pattern, Source};
use gridnet::core::mem::Iov;
use gridnet::core::rail::{PeerId, Refusal};
use gridnet::core::wire::NodeId;
use gridnet::{Shared, ThreadLevel};
use gridnet_meta::member::LineState;
use rustix::time::{clock_gettime, ClockId};

/// How long both poll before it is measured: some turns of the scheduler.
const SETTLES: Duration = Duration::from_millis(30);
/// How long they poll between two endpoints that are opened one after the other.
const BETWEEN: Duration = Duration::from_millis(1);

/// One fabric, which opens endpoints to those of other processes.
pub(super) struct Fabrics {
    own: Arc<Shared>,
    cq: CqId,
    /// Where this one polls.
    core: Option<usize>,
    other: Other,
}

fn refused(refusal: Refusal) -> Failure {
    Failure::Run(refusal.reason)
}

fn unusable(error: gridnet::core::error::Error) -> Failure {
    Failure::Run(error.text().to_owned())
}

impl Fabrics {
    /// Both poll on these cores.
    pub(super) fn open(ticket: &Path, [core, others]: [Option<usize>; 2]) -> Result<Fabrics, Failure> {
        let ticket = std::path::absolute(ticket)?;
        let own = open(&ticket)?;
        let cq = own.enter().map_err(unusable)?.engine.create_cq(64);
        Ok(Fabrics { own, cq, core, other: Other::start(&ticket, others)? })
    }

    /// An endpoint to a fabric with which nothing was ever agreed on; where it is `warm`, the two have a line already over which they
    /// ask each other.
    pub(super) fn open_other(&mut self, warm: bool) -> Result<Took, Failure> {
        self.open_others(b"1", warm)
    }

    /// The same just after one to another fabric: what that has used is in the caches.
    pub(super) fn open_again(&mut self) -> Result<Took, Failure> {
        self.open_others(b"2", true)
    }

    /// Endpoints to so many fabrics, one after the other; how long the last one has taken.
    fn open_others(&mut self, count: &[u8; 1], warm: bool) -> Result<Took, Failure> {
        let nodes = self.other.next(count)?;
        for node in &nodes {
            self.knows(*node)?;
            if warm {
                self.warm(*node)?;
            }
        }
        // The threads of the member stay where the system has them.
        let before = cores::allowed()?;
        if let Some(core) = self.core {
            cores::pin(core)?;
        }
        self.settle(SETTLES);
        let took = nodes.iter().map(|node| {
            let took = self.talk(*node);
            self.settle(BETWEEN);
            took
        });
        let took: Result<Vec<Took>, Failure> = took.collect();
        cores::allow(&before)?;
        took?.pop().ok_or_else(|| Failure::Run("the other process has no fabric".into()))
    }

    /// Waits until the directory has it, where it stays: below the leader of this host.
    fn knows(&self, node: NodeId) -> Result<(), Failure> {
        let begun = Instant::now();
        while begun.elapsed() < LIMIT {
            let nodes = self.own.enter().map_err(unusable)?.nodes().map_err(refused)?;
            if nodes.iter().any(|entry| entry.node == node && entry.via.is_some()) {
                return Ok(());
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        Err(Failure::Run("the directory does not have the other fabric".into()))
    }

    /// Waits until both ask each other over a line: what is asked by one that stands here is answered by it when it stands there, too.
    fn warm(&self, node: NodeId) -> Result<(), Failure> {
        let begun = Instant::now();
        let mut up = 0;
        while begun.elapsed() < LIMIT && up < 2 {
            let state = self.own.enter().map_err(unusable)?.ask_node(node, LIMIT).map_err(refused)?;
            up += usize::from(matches!(state, LineState::Up { .. }));
            std::thread::park_timeout(Duration::from_millis(1));
        }
        if up < 2 {
            return Err(Failure::Run("no line between the two fabrics".into()));
        }
        Ok(())
    }

    /// Polls for a moment, so that both do, each where it stays.
    fn settle(&self, long: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < long {
            if let Ok(mut fabric) = self.own.enter() {
                fabric.poll_round();
            }
        }
    }

    /// Opens an endpoint, says one word and hears one.
    fn talk(&self, node: NodeId) -> Result<Took, Failure> {
        let begun = now();
        self.own.enter().map_err(unusable)?.open_node(self.cq, node, LIMIT, 0).map_err(refused)?;
        let completion = poll(&self.own, self.cq)?;
        let peer = {
            let mut fabric = self.own.enter().map_err(unusable)?;
            match completion.status {
                0 => fabric.engine.open_known(PeerId::new(completion.source)).map_err(unusable)?,
                _ => return Err(Failure::Run(fabric.node_story(node).unwrap_or_default().join("; "))),
            }
        };
        receive(&self.own, self.cq)?;
        say(&self.own, self.cq, peer, Duration::ZERO)?;
        // The own word, and the other's.
        let mut arrived = Duration::ZERO;
        for _ in 0..2 {
            let completion = poll(&self.own, self.cq)?;
            if completion.kind == OpKind::Receive as u32 {
                arrived = Duration::from_nanos(completion.immediate);
            }
        }
        let echoed = now().saturating_sub(begun);
        self.own.enter().map_err(unusable)?.engine.close(peer);
        Ok(Took { arrived: arrived.saturating_sub(begun), echoed })
    }
}

/// How long it took from asking for an endpoint
pub(super) struct Took {
    /// until the first word was there,
    pub(super) arrived: Duration,
    /// and until it has come back.
    pub(super) echoed: Duration,
}

/// The time by the clock that all processes of a host share.
fn now() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default()
}

/// The process at the other end, which opens fabrics, some after the others. It ends when this is dropped.
struct Other {
    child: Child,
    says: BufReader<ChildStdout>,
}

impl Other {
    fn start(ticket: &Path, core: Option<usize>) -> Result<Other, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("perf-opened").arg("--ticket").arg(ticket);
        if let Some(core) = core {
            command.args(["--core", &core.to_string()]);
        }
        let failed = |why: &str| Failure::Run(format!("cannot start the other process: {why}"));
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.map_err(|e| failed(&e.to_string()))?;
        let says = child.stdout.take().map(BufReader::new).ok_or_else(|| failed("it says nothing"))?;
        Ok(Other { child, says })
    }

    /// Has it open so many other fabrics, in the place of those before: their nodes.
    fn next(&mut self, count: &[u8; 1]) -> Result<Vec<NodeId>, Failure> {
        if let Some(to) = &mut self.child.stdin {
            to.write_all(count)?;
        }
        let mut said = String::new();
        self.says.read_line(&mut said)?;
        let nodes = said.split_whitespace().map(str::parse).collect::<Result<Vec<NodeId>, _>>();
        nodes.map_err(|_| Failure::Run("the other process has no fabric".into()))
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// The other process: with each byte that comes it opens so many other fabrics as that says, which poll all the time and answer the
/// first word.
pub(crate) fn be_opened(args: &OpenedArgs) -> Result<(), Failure> {
    let rounds = Arc::new(AtomicUsize::new(0));
    let (counts, (tell, told)) = (rounds.clone(), channel());
    std::thread::spawn(move || {
        let mut byte = [0];
        while std::io::stdin().read_exact(&mut byte).is_ok() && tell.send(byte[0]).is_ok() {
            counts.fetch_add(1, Ordering::Relaxed);
        }
        counts.store(usize::MAX, Ordering::Relaxed);
    });
    let all = cores::allowed()?;
    for round in 1.. {
        let Ok(count) = told.recv() else { break };
        // Their threads stay where the system has them.
        cores::allow(&all)?;
        let fabrics = (0..count.saturating_sub(b'0')).map(|_| Opened::open(&args.ticket));
        let mut fabrics = fabrics.collect::<Result<Vec<_>, _>>()?;
        let nodes = fabrics.iter().map(|opened| Ok(opened.own.enter()?.address().node.to_string()));
        let nodes: Vec<String> = nodes.collect::<Result<_, _>>().map_err(unusable)?;
        writeln!(std::io::stdout(), "{}", nodes.join(" "))?;
        if let Some(core) = args.core {
            cores::pin(core)?;
        }
        while rounds.load(Ordering::Relaxed) <= round {
            fabrics.iter_mut().try_for_each(Opened::poll)?;
        }
    }
    Ok(())
}

/// A fabric that others open.
struct Opened {
    own: Arc<Shared>,
    cq: CqId,
    has_heard: bool,
}

impl Opened {
    fn open(ticket: &Path) -> Result<Opened, Failure> {
        let own = open(ticket)?;
        let cq = own.enter().map_err(unusable)?.engine.create_cq(4);
        receive(&own, cq)?;
        Ok(Opened { own, cq, has_heard: false })
    }

    /// One round; the first word is answered, and when it was there.
    fn poll(&mut self) -> Result<(), Failure> {
        let Some(word) = poll_once(&self.own, self.cq)? else { return Ok(()) };
        if std::mem::replace(&mut self.has_heard, true) {
            return Ok(());
        }
        let arrived = now();
        let peer = self.own.enter().map_err(unusable)?.engine.open_known(PeerId::new(word.source));
        say(&self.own, self.cq, peer.map_err(unusable)?, arrived)
    }
}

/// Wants one word.
fn receive(fabric: &Shared, cq: CqId) -> Result<(), Failure> {
    let any = Pattern { source: Source::Any, tag: 0, ignore: 0 };
    fabric.enter().map_err(unusable)?.engine.receive(cq, &any, Iov::EMPTY, 0).map_err(unusable).map(drop)
}

/// Says one word: a time.
fn say(fabric: &Shared, cq: CqId, peer: PeerId, time: Duration) -> Result<(), Failure> {
    let immediate = Some(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    let (sync, always_complete) = (false, true);
    let args = SendArgs { cq, owner: 0, context: 0, tag: 0, immediate, sync, always_complete };
    fabric.enter().map_err(unusable)?.engine.send_iov(peer, &[], &args).map_err(unusable).map(drop)
}

/// Polls until something has completed.
fn poll(fabric: &Shared, cq: CqId) -> Result<Completion, Failure> {
    loop {
        if let Some(completion) = poll_once(fabric, cq)? {
            return Ok(completion);
        }
    }
}

fn poll_once(fabric: &Shared, cq: CqId) -> Result<Option<Completion>, Failure> {
    let mut ended = None;
    let mut fabric = fabric.enter().map_err(unusable)?;
    // It polls where nothing has completed; no more than one is taken, as others are waited for, too.
    fabric.take(cq, |completion| {
        ended = Some(completion);
        false
    });
    Ok(ended)
}

fn open(ticket: &Path) -> Result<Arc<Shared>, Failure> {
    let config = vec![("GRIDNET_SESSION".to_owned(), ticket.to_string_lossy().into_owned())];
    let config = Config::from_process(&config).map_err(|e| Failure::Run(e.to_string()))?;
    Shared::open(config, None, ThreadLevel::Serialized).map_err(refused)
}
