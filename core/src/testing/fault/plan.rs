//! What goes wrong on a rail, and what has.

use crate::rail::Capabilities;

/// What goes wrong, and how often.
///
/// The first four faults break promises of the rail: its capabilities say so, and what is sent over it may be lost. The others
/// are what every rail may do, and what the protocol gets over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FaultPlan {
    /// Where the dice start.
    pub seed: u64,
    /// Probability that a frame is lost.
    pub drop: f64,
    /// Probability that it arrives twice.
    pub duplicate: f64,
    /// Probability that the next frame overtakes it.
    pub reorder: f64,
    /// Probability that it is held back, and all later ones of its link behind it,
    pub delay: f64,
    /// for so many polls of this rail.
    pub delay_polls: u32,
    /// The link that carries the frame of this number is cut before it, once, which is the end of its peer.
    pub disconnect_after: Option<u64>,
    /// Probability that there is no room for a frame, a fetch, or a segment on a further path, when it is posted.
    pub no_room: f64,
    /// Probability that a poll hears nothing, and the next ones do not either:
    pub deaf: f64,
    /// so many.
    pub deaf_polls: u32,
    /// Probability that the link is lost before a frame or a segment on a further path, and after a poll that has delivered some: then the sender does not
    /// know that they came.
    pub lose: f64,
    /// Probability that a call to a peer whose link was lost is refused, at once or later.
    pub refuse: f64,
}

impl FaultPlan {
    /// Nothing goes wrong.
    pub const NONE: FaultPlan = FaultPlan {
        seed: 0,
        drop: 0.0,
        duplicate: 0.0,
        reorder: 0.0,
        delay: 0.0,
        delay_polls: 0,
        disconnect_after: None,
        no_room: 0.0,
        deaf: 0.0,
        deaf_polls: 0,
        lose: 0.0,
        refuse: 0.0,
    };

    /// Whatever a rail may do that keeps its promises.
    pub const ALLOWED: FaultPlan = FaultPlan {
        seed: 5,
        no_room: 0.2,
        deaf: 0.1,
        deaf_polls: 5,
        lose: 0.01,
        refuse: 0.3,
        ..FaultPlan::NONE
    };

    /// What such a plan makes of a rail's capabilities.
    pub(super) fn spoils(&self, of: &Capabilities) -> Capabilities {
        let mut spoilt = *of;
        spoilt.reliable &= self.drop == 0.0 && self.duplicate == 0.0;
        spoilt.ordered &= self.reorder == 0.0;
        // What is held back here is not retained below.
        spoilt.retains &= spoilt.reliable && spoilt.ordered && self.delay == 0.0;
        spoilt.can_lose_connection |= self.disconnect_after.is_some() || self.lose > 0.0 && spoilt.retains;
        spoilt
    }

    /// The same without what is the end of every conversation over such a rail: where nothing is retained, a link that is lost
    /// is that of its peer, and nobody calls again. `disconnect_after` shows it.
    pub(super) fn within(self, capabilities: &Capabilities) -> FaultPlan {
        if capabilities.retains {
            return self;
        }
        FaultPlan { lose: 0.0, refuse: 0.0, ..self }
    }
}

impl Default for FaultPlan {
    fn default() -> FaultPlan {
        FaultPlan::NONE
    }
}

/// What a [`Faulty`](super::Faulty) rail has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultCounters {
    /// Frames that the engine has posted.
    pub frames: u64,
    /// Frames lost.
    pub dropped: u64,
    /// Frames doubled.
    pub duplicated: u64,
    /// Frames overtaken.
    pub reordered: u64,
    /// Frames held back by the dice, without those that waited behind them.
    pub delayed: u64,
    /// Links cut, which ended their peers.
    pub disconnected: u64,
    /// Times when there was no room.
    pub no_room: u64,
    /// Times when the rail went deaf.
    pub deaf: u64,
    /// Links lost, to be made again,
    pub lost: u64,
    /// and those of them that had just delivered something.
    pub lost_behind: u64,
    /// Calls refused.
    pub refused: u64,
}

impl std::ops::Add for FaultCounters {
    type Output = FaultCounters;

    fn add(self, more: FaultCounters) -> FaultCounters {
        FaultCounters {
            frames: self.frames + more.frames,
            dropped: self.dropped + more.dropped,
            duplicated: self.duplicated + more.duplicated,
            reordered: self.reordered + more.reordered,
            delayed: self.delayed + more.delayed,
            disconnected: self.disconnected + more.disconnected,
            no_room: self.no_room + more.no_room,
            deaf: self.deaf + more.deaf,
            lost: self.lost + more.lost,
            lost_behind: self.lost_behind + more.lost_behind,
            refused: self.refused + more.refused,
        }
    }
}
