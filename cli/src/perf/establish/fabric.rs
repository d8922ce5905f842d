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
use gridnet::core::completion::Completion;
use gridnet::core::endpoint::{CqId, SendArgs};
use gridnet::core::matching::{Pattern, Source};
use gridnet::core::mem::Iov;
use gridnet::core::rail::{PeerId, Refusal};
use gridnet::core::wire::NodeId;
use gridnet::{Shared, ThreadLevel};
use gridnet_meta::member::LineState;

/// How long both poll before it is measured: some turns of the scheduler.
const SETTLES: Duration = Duration::from_millis(30);

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

    /// How long it takes until a first word has come and was answered, by an endpoint to a fabric with which nothing was ever agreed
    /// on; where it is `warm`, the two have a line already over which they ask each other.
    pub(super) fn open_other(&mut self, warm: bool) -> Result<Duration, Failure> {
        let node = self.other.next()?;
        self.knows(node)?;
        if warm {
            self.warm(node)?;
        }
        // The threads of the member stay where the system has them.
        let before = cores::allowed()?;
        if let Some(core) = self.core {
            cores::pin(core)?;
        }
        self.settle();
        let begun = Instant::now();
        let heard = self.talk(node);
        let took = begun.elapsed();
        cores::allow(&before)?;
        heard.map(|()| took)
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
    fn settle(&self) {
        let begun = Instant::now();
        while begun.elapsed() < SETTLES {
            if let Ok(mut fabric) = self.own.enter() {
                fabric.poll_round();
            }
        }
    }

    /// Opens an endpoint, says one word and hears one.
    fn talk(&self, node: NodeId) -> Result<(), Failure> {
        self.own.enter().map_err(unusable)?.open_node(self.cq, node, LIMIT, 0).map_err(refused)?;
        let completion = poll(&self.own, self.cq, || false)?;
        let peer = {
            let mut fabric = self.own.enter().map_err(unusable)?;
            match completion.status {
                0 => fabric.engine.open_known(PeerId::new(completion.source)).map_err(unusable)?,
                _ => return Err(Failure::Run(fabric.node_story(node).unwrap_or_default().join("; "))),
            }
        };
        receive(&self.own, self.cq)?;
        say(&self.own, self.cq, peer)?;
        // The own word, and the other's.
        for _ in 0..2 {
            poll(&self.own, self.cq, || false)?;
        }
        self.own.enter().map_err(unusable)?.engine.close(peer);
        Ok(())
    }
}

/// The process at the other end, which opens a fabric after the other. It ends when this is dropped.
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

    /// Has it open another fabric, in the place of the one before: its node.
    fn next(&mut self) -> Result<NodeId, Failure> {
        if let Some(to) = &mut self.child.stdin {
            to.write_all(b"\n")?;
        }
        let mut said = String::new();
        self.says.read_line(&mut said)?;
        said.trim().parse().map_err(|_| Failure::Run("the other process has no fabric".into()))
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// The other process: with each byte that comes it opens another fabric, which polls all the time and answers the first word.
pub(crate) fn be_opened(args: &OpenedArgs) -> Result<(), Failure> {
    let rounds = Arc::new(AtomicUsize::new(0));
    let (counts, (tell, told)) = (rounds.clone(), channel());
    std::thread::spawn(move || {
        let mut byte = [0];
        while std::io::stdin().read_exact(&mut byte).is_ok() && tell.send(()).is_ok() {
            counts.fetch_add(1, Ordering::Relaxed);
        }
        counts.store(usize::MAX, Ordering::Relaxed);
    });
    let all = cores::allowed()?;
    for round in 1.. {
        if told.recv().is_err() {
            break;
        }
        // Its threads stay where the system has them.
        cores::allow(&all)?;
        let own = open(&args.ticket)?;
        let cq = own.enter().map_err(unusable)?.engine.create_cq(4);
        receive(&own, cq)?;
        let node = own.enter().map_err(unusable)?.address().node;
        writeln!(std::io::stdout(), "{node}")?;
        if let Some(core) = args.core {
            cores::pin(core)?;
        }
        let is_over = || rounds.load(Ordering::Relaxed) > round;
        let Ok(word) = poll(&own, cq, is_over) else { continue };
        let peer = own.enter().map_err(unusable)?.engine.open_known(PeerId::new(word.source));
        say(&own, cq, peer.map_err(unusable)?)?;
        while poll(&own, cq, is_over).is_ok() {}
    }
    Ok(())
}

/// Wants one word.
fn receive(fabric: &Shared, cq: CqId) -> Result<(), Failure> {
    let any = Pattern { source: Source::Any, tag: 0, ignore: 0 };
    fabric.enter().map_err(unusable)?.engine.receive(cq, &any, Iov::EMPTY, 0).map_err(unusable).map(drop)
}

/// Says one word.
fn say(fabric: &Shared, cq: CqId, peer: PeerId) -> Result<(), Failure> {
    let (immediate, sync, always_complete) = (Some(1), false, true);
    let args = SendArgs { cq, owner: 0, context: 0, tag: 0, immediate, sync, always_complete };
    fabric.enter().map_err(unusable)?.engine.send_iov(peer, &[], &args).map_err(unusable).map(drop)
}

/// Polls until something has completed, or it is over.
fn poll(fabric: &Shared, cq: CqId, is_over: impl Fn() -> bool) -> Result<Completion, Failure> {
    let mut ended = None;
    while !is_over() {
        let mut fabric = fabric.enter().map_err(unusable)?;
        fabric.poll_round();
        fabric.take(cq, |completion| {
            ended = Some(completion);
            true
        });
        if let Some(completion) = ended.take() {
            return Ok(completion);
        }
    }
    Err(Failure::Run("nothing has come".into()))
}

fn open(ticket: &Path) -> Result<Arc<Shared>, Failure> {
    let config = vec![("GRIDNET_SESSION".to_owned(), ticket.to_string_lossy().into_owned())];
    let config = Config::from_process(&config).map_err(|e| Failure::Run(e.to_string()))?;
    Shared::open(config, None, ThreadLevel::Serialized).map_err(refused)
}
