//! The terminal while it belongs to us; given back as it was, however we end.

use crate::signals;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::termios::{tcgetattr, tcgetwinsize, tcsetattr, LocalModes, OptionalActions, Termios};
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// What ended a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// The time is over.
    Timeout,
    /// The user, or somebody else, wants an end.
    Quit,
}

/// A terminal in its second screen, which gives us keys as they are pressed.
pub(super) struct Terminal {
    before: Termios,
    /// Readable once a signal has come that would end us.
    signals: UnixStream,
}

impl Terminal {
    /// Takes the terminal.
    pub(super) fn open() -> io::Result<Terminal> {
        let signals = signals::ending()?;
        let before = tcgetattr(io::stdin())?;
        let mut keys = before.clone();
        keys.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        tcsetattr(io::stdin(), OptionalActions::Now, &keys)?;
        let terminal = Terminal { before, signals };
        say(b"\x1b[?1049h\x1b[?25l")?;
        Ok(terminal)
    }

    /// Shows as much of `lines` as there is room for.
    pub(super) fn draw(&mut self, lines: &[String]) -> io::Result<()> {
        let size = tcgetwinsize(io::stdout())?;
        // Some do not know their size.
        let known = |size: u16, otherwise: usize| if size == 0 { otherwise } else { size.into() };
        let (rows, columns) = (known(size.ws_row, 24), known(size.ws_col, 80));
        let mut frame = String::from("\x1b[H");
        for line in lines.iter().take(rows.saturating_sub(1)) {
            frame.extend(line.chars().take(columns));
            frame += "\x1b[K\r\n";
        }
        frame += "\x1b[Kq ends\x1b[J";
        say(frame.as_bytes())
    }

    /// Waits for a key or the end of `span`.
    pub(super) fn wait(&mut self, span: Duration) -> io::Result<Event> {
        let end = Instant::now() + span;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            let stdin = io::stdin();
            let mut files = [PollFd::new(&stdin, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
            match poll(&mut files, Some(&timeout)) {
                Ok(0) => return Ok(Event::Timeout),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
            }
            let [key, signal] = files.map(|file| !file.revents().is_empty());
            if signal || key && is_quit()? {
                return Ok(Event::Quit);
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Nobody is left to be told of an error.
        let _ = say(b"\x1b[?25h\x1b[?1049l");
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Whether one of the keys that were pressed is q or Ctrl-C, or the terminal has gone.
fn is_quit() -> io::Result<bool> {
    let mut keys = [0; 64];
    let count = rustix::io::read(io::stdin(), &mut keys).map_err(io::Error::from)?;
    Ok(count == 0 || keys[..count].iter().any(|key| matches!(key, b'q' | b'Q' | 3)))
}

fn say(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}
