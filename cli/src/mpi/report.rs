//! What programs say: their output, within a time, and what of it comes from the provider.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{channel, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::process::{kill_process, kill_process_group, waitid, Pid, Signal, WaitId, WaitIdOptions};

use crate::failure::Failure;
use crate::signals;

/// Most that is kept of an output.
const MOST_BYTES: u64 = 1 << 20;
/// How long a launcher that was asked to end has to end its ranks.
const GRACE: Duration = Duration::from_secs(5);
/// Between two looks whether this program was asked to end.
const LOOK: Duration = Duration::from_millis(50);

/// How a program ended, and what it said on both of its outputs.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) text: String,
    pub(super) succeeded: bool,
}

/// Runs a program to its end.
///
/// # Errors
/// That it does not start, or does not end in time, or that this program was asked to end: then it is asked to end, and killed with
/// all of its group if it does not.
pub(super) fn output_of(command: &mut Command, patience: Duration) -> Result<Output, Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    // Of its own group, so that nothing of it is left; what a terminal tells this program is not told to that one.
    let asked = signals::ending()?;
    asked.set_nonblocking(true)?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let started = command.spawn();
    let mut child = started.map_err(|error| Failure::Run(format!("{name}: {error}")))?;
    let (sender, receiver) = channel();
    let mut streams = 0;
    let outputs: [Option<Box<dyn Read + Send>>; 2] = [
        child.stdout.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>),
        child.stderr.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>),
    ];
    for mut stream in outputs.into_iter().flatten() {
        let sender = sender.clone();
        streams += 1;
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stream.by_ref().take(MOST_BYTES).read_to_end(&mut bytes);
            // The rest is read, too: a program whose output nobody takes does not come to its end.
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
            let _ = sender.send(bytes);
        });
    }
    let started_at = Instant::now();
    let end = started_at + patience;
    let mut text = String::new();
    while streams > 0 {
        match receiver.recv_timeout(LOOK) {
            Ok(bytes) => {
                text.push_str(&String::from_utf8_lossy(&bytes));
                streams -= 1;
            }
            Err(RecvTimeoutError::Timeout) if Instant::now() < end && !was_asked(&asked) => {}
            Err(_) => return Err(give_up(&mut child, &name, started_at.elapsed(), GRACE)),
        }
    }
    // Its outputs are closed: it ends, or does not mean to.
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Output { text, succeeded: status.success() });
        }
        if Instant::now() >= end || was_asked(&asked) {
            return Err(give_up(&mut child, &name, started_at.elapsed(), GRACE));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether this program was asked to end.
fn was_asked(mut asked: &UnixStream) -> bool {
    asked.read(&mut [0]).is_ok_and(|read| read > 0)
}

/// Ends a launcher: it is asked first, since it knows where its ranks are.
fn give_up(child: &mut Child, name: &str, after: Duration, grace: Duration) -> Failure {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::TERM);
        let end = Instant::now() + grace;
        // It stays a zombie, and with it the number of the group, until all of that is killed.
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        while matches!(waitid(WaitId::Pid(pid), look), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = kill_process_group(pid, Signal::KILL);
    }
    let _ = child.wait();
    Failure::Run(format!("{name}: not at its end after {} s", after.as_secs()))
}

/// What an endpoint of the provider wrote to its log.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ranks {
    /// Lines of endpoints that were opened, by what loaded the provider: `libfabric FILE, API VERSION`.
    pub(super) loaded_by: Vec<String>,
    /// Rails of each endpoint that was closed.
    pub(super) rails: Vec<String>,
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

impl Ranks {
    /// Reads an output.
    pub(super) fn parse(text: &str) -> Ranks {
        let mut ranks = Ranks::default();
        for line in text.lines().map(without_colours) {
            if line.contains("gridnet_fi::endpoint: endpoint open ") {
                let of = |name| value_of(&line, name).unwrap_or("unknown");
                let loaded_by = format!("{}, API {}", of("libfabric"), of("api"));
                if !ranks.loaded_by.contains(&loaded_by) {
                    ranks.loaded_by.push(loaded_by);
                }
            }
            if line.contains("gridnet_fi::endpoint: endpoint closed ") {
                let number =
                    |name| value_of(&line, name).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
                ranks.messages = ranks.messages.saturating_add(number("messages_sent"));
                ranks.bytes = ranks.bytes.saturating_add(number("bytes_sent"));
                ranks.rails.push(value_of(&line, "rails").unwrap_or_default().to_owned());
            }
        }
        ranks
    }
}

/// The value of ` name=value`, or ` name="value"`.
fn value_of<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let from = line.find(&format!(" {name}="))? + name.len() + 2;
    let value = &line[from..];
    match value.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next(),
        None => value.split(' ').next(),
    }
}

/// A line without what makes terminals write in colours.
fn without_colours(line: &str) -> String {
    let mut plain = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        rest = after.split_once('m').map_or("", |(_, after)| after);
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_endpoints_are_read_with_and_without_colours() {
        let text = "something else\n\
            \u{1b}[2m2026-11-22T07:30:00Z\u{1b}[0m  INFO gridnet_fi::endpoint: endpoint open node=1 libfabric=\"/a/libfabric.so.1\" api=\"2.5\"\n\
            2026 INFO gridnet_fi::endpoint: endpoint open node=2 libfabric=\"/a/libfabric.so.1\" api=\"2.5\"\n\
            \u{1b}[32m INFO\u{1b}[0m gridnet_fi::endpoint: endpoint closed node=1 \u{1b}[3mmessages_sent\u{1b}[0m=3 bytes_sent=40 rails=\"shm,self\"\n\
            2026 INFO gridnet_fi::endpoint: endpoint closed node=2 messages_sent=4 bytes_sent=x rails=\"\"\n";
        let ranks = Ranks::parse(text);
        assert_eq!(ranks.loaded_by, ["/a/libfabric.so.1, API 2.5"]);
        assert_eq!(ranks.rails, ["shm,self", ""]);
        assert_eq!((ranks.messages, ranks.bytes), (7, 40));
        assert_eq!(Ranks::parse("endpoint closed"), Ranks::default());
    }

    #[test]
    fn a_program_that_says_more_than_is_kept_comes_to_its_end() {
        let mut talkative = Command::new("sh");
        talkative.args(["-c", "set -e; head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2; exit 0"]);
        let output = output_of(&mut talkative, Duration::from_secs(60)).unwrap();
        assert!(output.succeeded);
        assert_eq!(output.text.len() as u64, 2 * MOST_BYTES);
    }

    #[test]
    fn a_program_that_does_not_end_is_killed() {
        let mut forever = Command::new("sh");
        forever.args(["-c", "exec sleep 1000"]);
        let failure = output_of(&mut forever, Duration::from_millis(50)).err();
        assert!(failure.is_some_and(|failure| failure.text().contains("not at its end")));
        let output =
            output_of(Command::new("sh").args(["-c", "echo a; echo b >&2; exit 3"]), Duration::from_secs(60));
        let output = output.unwrap();
        assert!(!output.succeeded && output.text.contains('a') && output.text.contains('b'));
    }

    /// A place for what a program writes, which is gone at the end.
    struct File(std::path::PathBuf);

    impl File {
        fn new(name: &str) -> File {
            File(std::env::temp_dir().join(format!("gridnet-{name}-{}", std::process::id())))
        }

        fn text(&self) -> String {
            std::fs::read_to_string(&self.0).unwrap_or_default()
        }
    }

    impl Drop for File {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    /// Starts a launcher, which gets the name of a file; waits until it has written there.
    fn launch(script: &str, said: &File) -> Child {
        let mut launcher = Command::new("sh");
        let child = launcher.args(["-c", script]).arg(&said.0).process_group(0).spawn().unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        while !said.text().ends_with('\n') {
            assert!(Instant::now() < end, "the launcher says nothing");
            std::thread::sleep(Duration::from_millis(1));
        }
        child
    }

    #[test]
    fn a_launcher_is_asked_before_it_is_killed() {
        let said = File::new("asked");
        let script =
            "trap 'kill $!; wait; echo told >\"$0\"; exit' TERM; sleep 1000 & echo here >\"$0\"; wait";
        let mut child = launch(script, &said);
        give_up(&mut child, "sh", Duration::ZERO, Duration::from_secs(60));
        assert_eq!(said.text(), "told\n");
    }

    #[test]
    fn what_a_launcher_leaves_is_killed() {
        let said = File::new("left");
        let mut child = launch("trap '' TERM; sleep 1000 & echo $! >\"$0\"; wait", &said);
        give_up(&mut child, "sh", Duration::ZERO, Duration::from_millis(1));
        let rank: i32 = said.text().trim().parse().unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        // Killed, and perhaps not collected yet.
        let is_alive = || {
            let stat = std::fs::read_to_string(format!("/proc/{rank}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
        };
        while is_alive() {
            assert!(Instant::now() < end, "a rank is left");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
