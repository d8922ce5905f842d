//! What waits to be sent: for the end of a round, for room in the kernel, or until there is something else to say.

use super::TcpRail;
use crate::conn::Conn;
use crate::watch::Want;

impl TcpRail {
    /// Sends what waited for the end of the round; `at_once` also what may gather for another one.
    pub(super) fn flush_dirty(&mut self, at_once: bool) {
        let (mut at, round) = (0, self.round);
        while let Some(&index) = self.dirty.get(at) {
            let waits = self.sender(index).is_some_and(|conn| {
                if !at_once && conn.is_gathering(round) {
                    return true;
                }
                conn.flush();
                conn.is_dirty = conn.waits();
                conn.is_dirty
            });
            if waits {
                at += 1;
            } else {
                self.dirty.swap_remove(at);
                self.check_broken(index);
            }
        }
    }

    /// Tells peers of what has come, when there was nothing else to say: all of them, or those from whom nothing comes now.
    pub(super) fn acknowledge_all(&mut self, silent_only: bool) {
        for at in (0..self.owing.len()).rev() {
            let index = self.owing[at];
            let is_later = |conn: &mut Conn| silent_only && conn.owes() && !conn.is_silent();
            if self.conn(index).is_some_and(is_later) {
                continue;
            }
            let still_owes = self.conn(index).is_some_and(|conn| {
                conn.acknowledge();
                // Where the kernel takes nothing, nothing was said.
                conn.is_owing = conn.owes() && !conn.is_broken();
                conn.is_owing
            });
            if !still_owes {
                self.owing.swap_remove(at);
            }
            self.note_sent(index);
        }
    }

    /// Something was given to a connection to be sent.
    #[inline]
    pub(crate) fn note_sent(&mut self, index: u32) {
        let Some(conn) = self.sender(index) else { return };
        if conn.waits() && !conn.is_dirty {
            conn.is_dirty = true;
            self.dirty.push(index);
            if self.is_armed {
                self.watch(index, Want { reading: true, writing: true });
                self.watcher.submit();
            }
        }
        self.check_broken(index);
    }

    /// Nothing goes by the connection any more that a link had.
    pub(crate) fn forget_dirty(&mut self, index: u32) {
        self.dirty.retain(|i| *i != index);
    }

    /// A connection over which nothing can be sent is read until it says why.
    #[inline]
    pub(super) fn check_broken(&mut self, index: u32) {
        let is_idle = |conn: &&mut Conn| conn.is_broken() && !conn.is_hot;
        // What the ring receives says why by itself, at the latest when it is asked for its end.
        if self.conn(index).filter(is_idle).is_some() && !self.leave_ring(index) {
            self.hot.push(index);
            if let Some(conn) = self.conn(index) {
                conn.is_hot = true;
            }
        }
    }
}
