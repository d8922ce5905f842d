//! Lines that nobody has to read: whoever writes them never waits. Those that find no room are dropped, and counted.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes that wait for a reader; beyond, lines are dropped. Some hours of what a rendez-vous node has to say on a quiet day.
const WAITING_BYTES_MAX: usize = 1 << 20;

/// A stream of lines, written by a thread of its own. Clones write to the same one.
#[derive(Clone, Debug)]
pub(crate) struct Lossy(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Since the last word about it.
    dropped: u64,
    is_writing: bool,
    /// Nobody reads any more, or ever will.
    is_over: bool,
}

impl Lossy {
    /// Starts the thread, which writes to `to`. It ends with the process: it may be stuck in a write for good.
    ///
    /// # Errors
    /// When there are no threads.
    pub(crate) fn start(name: &str, to: impl Write + Send + 'static) -> io::Result<Lossy> {
        let lossy = Lossy(Arc::default());
        let shared = lossy.0.clone();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || shared.write_all(to))?;
        Ok(lossy)
    }

    /// Writes one line. It is dropped when there is no room.
    pub(crate) fn line(&self, line: &[u8]) {
        let mut state = self.0.lock();
        if state.is_over {
            return;
        }
        // A line that is longer than all that may wait has room when nothing waits.
        if state.bytes > 0 && state.bytes + line.len() > WAITING_BYTES_MAX {
            state.dropped += 1;
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line.to_vec());
        self.0.changed.notify_all();
    }

    /// Whether nobody reads any more, or ever will.
    pub(crate) fn is_over(&self) -> bool {
        self.0.lock().is_over
    }

    /// Waits until all is written, but not longer than `limit`.
    pub(crate) fn finish(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut state = self.0.lock();
        while !state.is_over && (state.is_writing || !state.lines.is_empty() || state.dropped > 0) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.0.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// What logs are written to: one call, one line.
impl Write for Lossy {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all(&self, mut to: impl Write) {
        loop {
            let line = self.next();
            if to.write_all(&line).and_then(|()| to.flush()).is_err() {
                let mut state = self.lock();
                *state = State { is_over: true, ..State::default() };
                self.changed.notify_all();
                return;
            }
        }
    }

    /// The next line, when there is one; the one before has been written.
    fn next(&self) -> Vec<u8> {
        let mut state = self.lock();
        state.is_writing = false;
        self.changed.notify_all();
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.bytes -= line.len();
                state.is_writing = true;
                return line;
            }
            if state.dropped > 0 {
                state.is_writing = true;
                let dropped = std::mem::take(&mut state.dropped);
                return format!("{dropped} lines were dropped here: nobody read them\n").into_bytes();
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_pipe_that_nobody_reads_stops_nobody_and_the_reader_learns_what_it_missed() {
        let (mut reader, writer) = io::pipe().unwrap();
        let lossy = Lossy::start("test", writer).unwrap();
        let line = [&[b'x'; 999][..], b"\n"].concat();
        // More than the pipe and the waiting room hold.
        let count = 2 * (WAITING_BYTES_MAX + (1 << 20)) / line.len();
        (0..count).for_each(|_| lossy.line(&line));
        lossy.finish(Duration::from_millis(1));
        let (mut said, mut part) = (Vec::new(), [0; 4096]);
        let told = b"lines were dropped here: nobody read them\n";
        while !said.ends_with(told) {
            let read = reader.read(&mut part).unwrap();
            said.extend(&part[..read]);
        }
        let said = String::from_utf8(said).unwrap();
        let whole = said.lines().filter(|line| line.len() == 999).count();
        let dropped: usize = said.lines().last().unwrap().split(' ').next().unwrap().parse().unwrap();
        assert!(dropped > 0 && whole + dropped == count, "{whole} and {dropped} of {count}");
        lossy.line(b"afterwards\n");
        lossy.finish(LONG);
        let mut after = [0; 11];
        reader.read_exact(&mut after).unwrap();
        assert_eq!(&after, b"afterwards\n");
    }

    #[test]
    fn a_reader_that_goes_is_no_trouble() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let lossy = Lossy::start("test", writer).unwrap();
        lossy.line(b"one\n");
        lossy.finish(LONG);
        lossy.line(b"two\n");
        lossy.finish(LONG);
        assert!(lossy.is_over());
    }
}
