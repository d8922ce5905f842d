//! The server: lets one client at a time in, and gives it a peer process.

use super::greeting::{self, Wish};
use super::key::KeyFile;
use super::{doors, options, quoted};
use crate::args::PerfArgs;
use crate::failure::Failure;
use crate::perf::{output, plan, unique_name};
use crate::{cabi, cores, signals};
use gridnet::config::Config;
use gridnet::proof::Key;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::process::{pidfd_open, Pid, PidfdFlags};
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{mpsc, Arc};
use std::time::{Duration, Instant};

/// Serves until one client is done, or until a signal comes.
pub(in crate::perf) fn serve(args: &PerfArgs) -> Result<(), Failure> {
    let config = Config::from_process(&[])?;
    let core = plan::alone(args.pin, &cores::allowed()?)?.parent;
    // Before there is anything to be cleaned up.
    let signals = signals::ending()?;
    let doors = doors::open(&args.hosts, &config)?;
    let key_file = KeyFile::create(args.hosts.key.as_deref(), &config)?;
    let patience = args.timeout.map_or(PATIENCE, Duration::from_secs);
    let at: Vec<SocketAddr> = doors.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
    output::print(&invitation(&at, &key_file, patience))?;
    let (admit, admitted) = mpsc::channel();
    let (woken, wake) = UnixStream::pair()?;
    woken.set_nonblocking(true)?;
    let hall = Hall { key: Arc::new(key_file.read()?), admit, wake: Arc::new(wake), strangers: Arc::new(()) };
    let end = Instant::now() + patience;
    let keep = args.hosts.keep;
    let mut server = Server {
        config,
        core,
        key_file,
        patience,
        keep,
        signals,
        doors,
        hall,
        admitted,
        woken,
        active: None,
        next: VecDeque::new(),
        end,
    };
    server.run()
}

struct Server {
    config: Config,
    core: Option<usize>,
    key_file: KeyFile,
    /// How long a client is waited for.
    patience: Duration,
    keep: bool,
    signals: UnixStream,
    doors: Vec<TcpListener>,
    hall: Hall,
    admitted: mpsc::Receiver<Guest>,
    woken: UnixStream,
    active: Option<Active>,
    /// Clients that have come while the process of one that has gone is ending.
    next: VecDeque<Guest>,
    /// Until when a client may come.
    end: Instant,
}

impl Server {
    fn run(&mut self) -> Result<(), Failure> {
        loop {
            let ready = self.wait()?;
            if ready.signal {
                return Err(Failure::Said(INTERRUPTED));
            }
            if let Some(status) = self.active.as_mut().and_then(Active::ended) {
                self.say_ended(status)?;
                if !self.keep {
                    return if status.success() { Ok(()) } else { Err(Failure::Said(1)) };
                }
            }
            self.next.extend(self.admitted.try_iter());
            self.admit_next()?;
            for door in &self.doors {
                self.hall.open(door)?;
            }
            if self.active.is_none() && Instant::now() >= self.end {
                return Err(Failure::Run(format!("no client came in {:?}", self.patience)));
            }
        }
    }

    /// Waits until there is something to do.
    fn wait(&self) -> Result<Ready, Failure> {
        let end = match &self.active {
            Some(active) => active.end,
            None => Some(self.end),
        };
        let left = end.map(|end| Timespec::try_from(end.saturating_duration_since(Instant::now())));
        let left = left.transpose().map_err(|error| Failure::Run(error.to_string()))?;
        let mut files =
            vec![PollFd::new(&self.signals, PollFlags::IN), PollFd::new(&self.woken, PollFlags::IN)];
        if let Some(active) = &self.active {
            files.push(PollFd::new(&active.process, PollFlags::IN));
            // One that has hung up stays so.
            if active.end.is_none() {
                files.push(PollFd::new(&active.stream, PollFlags::RDHUP));
            }
        }
        files.extend(self.doors.iter().map(|door| PollFd::new(door, PollFlags::IN)));
        match poll(&mut files, left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Failure::Run(format!("poll: {error}"))),
        }
        let signal = files.first().is_some_and(|signals| !signals.revents().is_empty());
        // What was said is in the queue; this only woke us up.
        let _ = (&self.woken).read(&mut [0; 64]);
        Ok(Ready { signal })
    }

    /// Lets clients in; they wait for a moment where the one before has gone and its process has not.
    fn admit_next(&mut self) -> Result<(), Failure> {
        while self.active.as_ref().is_none_or(|active| !has_hung_up(&active.stream)) {
            match self.next.pop_front() {
                Some(guest) => self.admit(guest)?,
                None => break,
            }
        }
        Ok(())
    }

    /// Gives a client its peer process, if nobody else has one.
    fn admit(&mut self, guest: Guest) -> Result<(), Failure> {
        let at = guest.at;
        if let Some(active) = &self.active {
            greeting::refuse(
                &guest.stream,
                &format!("it measures with {} now: try again later", active.client),
            );
            eprintln!("gridnet: {at} refused: there is a client already");
            return Ok(());
        }
        match self.start(guest) {
            Ok(active) => {
                output::print(&format!("{at}: measuring\n"))?;
                self.active = Some(active);
                if !self.keep {
                    // Others are refused by the system from now on.
                    self.doors.clear();
                }
            }
            Err(failure) => eprintln!("gridnet: {at} refused: {}", failure.text()),
        }
        Ok(())
    }

    fn start(&self, guest: Guest) -> Result<Active, Failure> {
        let Guest { stream, at, wish } = guest;
        match self.command(&stream, &wish) {
            Ok(mut command) => {
                greeting::welcome(&stream)?;
                let ends = [OwnedFd::from(stream.try_clone()?), OwnedFd::from(stream.try_clone()?)];
                let [input, output] = ends.map(Stdio::from);
                let child = command.stdin(input).stdout(output).spawn()?;
                Active::new(child, at, stream)
            }
            Err(failure) => {
                greeting::refuse(&stream, failure.text());
                Err(failure)
            }
        }
    }

    /// The peer process that a client wants.
    fn command(&self, stream: &TcpStream, wish: &Wish) -> Result<Command, Failure> {
        let wanted = [("GRIDNET_RAILS", &wish.rails), ("GRIDNET_WAIT_MODE", &wish.wait)];
        let wanted = wanted.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?)));
        let wanted: Vec<(String, String)> = wanted.collect();
        Config::from_process(&wanted)?;
        let mut all: Vec<String> = wanted.iter().map(|(name, value)| format!("{name}={value}")).collect();
        all.extend(options(stream.local_addr()?.ip(), self.key_file.path(), &self.config)?);
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["perf-peer", "--remote", "--name", &unique_name()])
            .args(["--parent", &std::process::id().to_string()])
            .args(["--largest", &wish.largest.to_string(), "--timeout", &wish.timeout.to_string()]);
        if let Some(core) = self.core {
            command.args(["--core", &core.to_string()]);
        }
        for option in &all {
            command.args(["--option", option]);
        }
        Ok(command)
    }

    fn say_ended(&mut self, status: ExitStatus) -> Result<(), Failure> {
        let Some(active) = self.active.take() else { return Ok(()) };
        let how = if status.success() { "done".to_owned() } else { format!("broken off ({status})") };
        output::print(&format!("{}: {how}\n", active.client))?;
        self.end = Instant::now() + self.patience;
        Ok(())
    }
}

struct Ready {
    signal: bool,
}

/// A client with the key.
struct Guest {
    stream: TcpStream,
    at: SocketAddr,
    wish: Wish,
}

/// Where strangers say who they are, each on a thread of its own.
struct Hall {
    key: Arc<Key>,
    admit: mpsc::Sender<Guest>,
    wake: Arc<UnixStream>,
    /// One more holder than there are strangers.
    strangers: Arc<()>,
}

impl Hall {
    /// Lets in whoever waits at a door.
    fn open(&self, door: &TcpListener) -> Result<(), Failure> {
        loop {
            match door.accept() {
                Ok((stream, at)) => self.let_in(stream, at),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                // It has gone meanwhile.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn let_in(&self, stream: TcpStream, at: SocketAddr) {
        let stranger = self.strangers.clone();
        if Arc::strong_count(&stranger) > MOST_STRANGERS + 1 {
            eprintln!("gridnet: {at} refused: {MOST_STRANGERS} others have not said who they are");
            return;
        }
        let (key, admit, wake) = (self.key.clone(), self.admit.clone(), self.wake.clone());
        let greet = move || {
            let _stranger = stranger;
            match greeting::answer(&stream, &key, STRANGER_PATIENCE) {
                Ok(wish) => {
                    // Errors say that the server has ended: nobody is to be let in or woken.
                    let _ = admit.send(Guest { stream, at, wish });
                    let _ = (&*wake).write(&[1]);
                }
                Err(failure) => eprintln!("gridnet: {at} refused: {}", failure.text()),
            }
        };
        if let Err(error) = std::thread::Builder::new().spawn(greet) {
            eprintln!("gridnet: {at} refused: {error}");
        }
    }
}

/// The measurement under way; killed when this is dropped before its end.
struct Active {
    child: Child,
    /// Readable once it has ended.
    process: OwnedFd,
    client: SocketAddr,
    stream: TcpStream,
    /// Until when it has to end, once the client has hung up.
    end: Option<Instant>,
}

impl Active {
    fn new(mut child: Child, client: SocketAddr, stream: TcpStream) -> Result<Active, Failure> {
        let pid = Pid::from_child(&child);
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) => Ok(Active { child, process, client, stream, end: None }),
            Err(error) => {
                // An error says that it has ended.
                let _ = child.kill();
                let _ = child.wait();
                Err(Failure::Run(format!("pidfd_open: {error}")))
            }
        }
    }

    /// How it has ended. It is made to, where it waits for messages of a client that has gone.
    fn ended(&mut self) -> Option<ExitStatus> {
        if self.end.is_none() && has_hung_up(&self.stream) {
            self.end = Some(Instant::now() + GRACE);
        }
        if self.end.is_some_and(|end| Instant::now() >= end) {
            // An error says that it has ended.
            let _ = self.child.kill();
            return self.child.wait().ok();
        }
        self.child.try_wait().ok().flatten()
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        // Errors say that it has ended, and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn has_hung_up(stream: &TcpStream) -> bool {
    let mut files = [PollFd::new(stream, PollFlags::RDHUP)];
    poll(&mut files, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// What is to be run on the other host.
fn invitation(at: &[SocketAddr], key: &KeyFile, patience: Duration) -> String {
    let all: Vec<String> = at.iter().map(SocketAddr::to_string).collect();
    let path = key.path().display().to_string();
    let mut text = format!("gridnet {} waits for a client at {}\n", cabi::version(), all.join(" and "));
    let Some(first) = at.first() else { return text };
    let mut copy = path.clone();
    // Writing to a string does not fail.
    let _ = if first.ip().is_loopback() {
        writeln!(text, "in another terminal of this host:")
    } else {
        copy = "gridnet-perf.key".to_owned();
        let user = std::env::var("USER").map_or(String::new(), |user| format!("{user}@"));
        let ip = if first.is_ipv6() { format!("[{}]", first.ip()) } else { first.ip().to_string() };
        writeln!(text, "on the other host:\n  scp -p {} {copy}", quoted(&format!("{user}{ip}:{path}")))
    };
    let _ = writeln!(text, "  gridnet perf --connect {first} --key {}", quoted(&copy));
    let _ = writeln!(
        text,
        "the key is in {path} as long as this runs; whoever has it may measure; Ctrl-C or {patience:?} without a client end it"
    );
    text
}

/// As shells say that a command was ended by SIGINT.
const INTERRUPTED: u8 = 130;

/// How long a client is waited for, unless the user says so.
const PATIENCE: Duration = Duration::from_secs(600);

/// Time for a peer process to end when its client has gone.
const GRACE: Duration = Duration::from_secs(2);

/// Time for a stranger to say who it is.
const STRANGER_PATIENCE: Duration = Duration::from_secs(5);

const MOST_STRANGERS: usize = 16;
