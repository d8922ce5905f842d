//! For the fuzzer: what others may say, to a handshake and to a link, without a network.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use gridnet_core::rail::{PeerId, Sink};
use gridnet_core::testing::pair::address_of;

use crate::auth::{Key, Security};
use crate::config::Window;
use crate::frame_in::{In, SCRATCH_BYTES};
use crate::handshake::{Called, Caller, Inbox, Purpose, Step};
use crate::out::Out;
use crate::socket::Stream;

/// Most bytes of a handshake that are said in one go.
const GULP: usize = 64;

/// Hears a handshake; true when whoever speaks has come through, which takes the key.
pub fn hear_handshake(as_caller: bool, with_key: bool, mut bytes: &[u8]) -> bool {
    let security = match Key::new(&[7; 32]) {
        Ok(key) if with_key => Security::Key(key),
        _ => Security::Insecure,
    };
    let (own, other) = (address_of(1, 0), address_of(2, 0));
    let target = (other.node, other.incarnation);
    let Ok((mut caller, _)) = Caller::begin(&own, &security, target, 1, Purpose::Link) else { return false };
    let (mut called, mut inbox) = (Called::default(), Inbox::default());
    loop {
        let step = if as_caller {
            caller.step(&mut inbox, &security)
        } else {
            called.step(&mut inbox, &own, &security)
        };
        match step {
            Ok(Step::Done(_)) => return true,
            Ok(Step::Send(_)) => {}
            Ok(Step::Wait) if bytes.is_empty() => return false,
            Ok(Step::Wait) => {
                let (now, later) = bytes.split_at(bytes.len().min(GULP));
                inbox.push(now);
                bytes = later;
            }
            Err(_) => return false,
        }
    }
}

/// One end of a link, to which anything can be said.
#[derive(Debug)]
pub struct Ear {
    far: UnixStream,
    near: Stream,
    inbox: In,
    out: Out,
    scratch: Vec<u8>,
}

impl Ear {
    /// A link over which nothing has come.
    ///
    /// # Errors
    /// When the system has no sockets left.
    pub fn new() -> std::io::Result<Ear> {
        let (near, far) = UnixStream::pair()?;
        near.set_nonblocking(true)?;
        let near = Stream::of_descriptor(OwnedFd::from(near));
        let (inbox, out) = (In::default(), Out::new(Window::default(), true));
        Ok(Ear { far, near, inbox, out, scratch: vec![0; SCRATCH_BYTES] })
    }

    /// Says some bytes, at most 64 KiB; false when the link is over.
    pub fn say<S: Sink>(&mut self, bytes: &[u8], sink: &mut S) -> bool {
        if self.far.write_all(bytes).is_err() {
            return false;
        }
        loop {
            let Ear { near, inbox, out, scratch, .. } = self;
            match inbox.receive(near, scratch, PeerId::new(0), out, sink) {
                Ok((0, false)) => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }

    /// Sequenced frames that were delivered.
    pub fn delivered(&self) -> u64 {
        self.inbox.delivered
    }
}
