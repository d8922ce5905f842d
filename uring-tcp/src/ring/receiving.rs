//! What a ring has beyond requests to watch, where it receives and accepts: buffers, a table of files, and who has called.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{OwnedFd, RawFd};

use io_uring::{opcode, Probe, Submitter};

use super::buffers::Buffers;
use crate::watch::Turn;

/// Connections that a ring receives for at a time; a process has no more descriptors than 1024 on many systems, and the table
/// may not be larger than that.
const FILES: u32 = 512;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Receiving {
    pub(super) buffers: Buffers,
    /// The last receive.
    turn: Turn,
    /// Places of the table that are free.
    free: Vec<u32>,
    /// The place of each connection, by the number of its link.
    places: HashMap<u32, u32>,
    /// Connections are accepted by the ring, too.
    pub(super) accepts: bool,
    /// Listeners for which it does so now.
    pub(super) listeners: Vec<u32>,
    /// Who has called, and where, and was not asked for.
    pub(super) accepted: VecDeque<(u32, OwnedFd)>,
    /// The process that opened the ring.
    pub(super) process: u32,
}

impl Receiving {
    /// What there has to be.
    ///
    /// # Errors
    /// When the system does not have it (Linux before 6.0), or not enough of it.
    pub(super) fn new(submitter: &Submitter<'_>, accepts: bool) -> std::io::Result<Receiving> {
        let mut probe = Probe::new();
        submitter.register_probe(&mut probe)?;
        // Whether a receive may last cannot be asked; this came with it.
        if !probe.is_supported(opcode::SendZc::CODE) {
            let why = "receives do not last (before Linux 6.0)";
            return Err(std::io::Error::new(std::io::ErrorKind::Unsupported, why));
        }
        submitter.register_files_sparse(FILES)?;
        Ok(Receiving {
            buffers: Buffers::register(submitter)?,
            free: (0..FILES).rev().collect(),
            places: HashMap::new(),
            accepts,
            turn: Turn::default(),
            listeners: Vec::new(),
            accepted: VecDeque::new(),
            process: std::process::id(),
        })
    }

    /// Whether there is a place left.
    pub(super) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Puts the connection of a link into the table; its place, if there is one.
    pub(super) fn enter(&mut self, submitter: &Submitter<'_>, link: u32, file: RawFd) -> Option<(u32, Turn)> {
        if self.places.contains_key(&link) {
            return None;
        }
        let place = self.free.pop()?;
        if submitter.register_files_update(place, &[file]).is_err() {
            self.free.push(place);
            return None;
        }
        self.places.insert(link, place);
        self.turn = self.turn.next();
        Some((place, self.turn))
    }

    /// Takes the connection of a link out of the table, for which nothing is received any more.
    pub(super) fn leave(&mut self, submitter: &Submitter<'_>, link: u32) {
        let Some(place) = self.places.remove(&link) else { return };
        // A place that cannot be emptied is not used again.
        if submitter.register_files_update(place, &[-1]).is_ok() {
            self.free.push(place);
        }
    }
}
