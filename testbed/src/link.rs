//! A link of a lab, and what can be done to it.

use crate::error::Result;
use crate::impairment::{Change, Impairment};
use crate::lab::Lab;
use crate::plan::{EndPlan, LinkPlan};
use crate::relay::{Counts, Relay};
use crate::tool;
use crate::units::Rate;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A link of a lab.
#[derive(Clone, Copy, Debug)]
pub struct Link<'lab> {
    pub(crate) lab: &'lab Lab,
    pub(crate) index: usize,
}

/// How a link is now.
#[derive(Debug)]
pub(crate) struct LinkState {
    now: Mutex<Now>,
    relay: Option<Relay>,
}

#[derive(Clone, Copy, Debug)]
struct Now {
    impairment: Impairment,
    blackout: bool,
}

impl LinkState {
    pub(crate) fn new(impairment: Impairment, relay: Option<Relay>) -> LinkState {
        LinkState { now: Mutex::new(Now { impairment, blackout: false }), relay }
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'lab> Link<'lab> {
    /// Its name.
    pub fn name(&self) -> &'lab str {
        &self.plan().name
    }

    /// The hosts at its ends, each with its interface.
    pub fn ends(&self) -> [(&'lab str, &'lab str); 2] {
        self.plan()
            .ends
            .each_ref()
            .map(|end| (self.lab.plan.hosts[end.host].name.as_str(), end.interface.as_str()))
    }

    /// What is wrong with it now.
    pub fn impairment(&self) -> Impairment {
        self.state().lock().impairment
    }

    /// Whether packets go through the relay, and not through the kernel only.
    pub fn is_relayed(&self) -> bool {
        self.plan().relayed
    }

    /// From now on nothing passes, silently, in either direction; or it does again.
    ///
    /// # Errors
    /// When the packet filter refuses it.
    pub fn blackout(&self, on: bool) -> Result<()> {
        let mut now = self.state().lock();
        let next = Now { blackout: on, ..*now };
        self.apply_change(Some(&now), &next)?;
        *now = next;
        Ok(())
    }

    /// Changes what is wrong with it.
    ///
    /// # Errors
    /// [`Error::Topology`](crate::Error::Topology) for a delay on a link that has no relay, [`Error::Setup`](crate::Error::Setup) when a tool fails.
    pub fn change(&self, change: &Change) -> Result<()> {
        let mut now = self.state().lock();
        let next = Now { impairment: now.impairment.changed(change), ..*now };
        self.plan().check_change(&next.impairment)?;
        self.apply_change(Some(&now), &next)?;
        *now = next;
        Ok(())
    }

    /// Changes the rate.
    ///
    /// # Errors
    /// As [`change`](Link::change).
    pub fn set_rate(&self, rate: Rate) -> Result<()> {
        self.change(&Change { rate: Some(rate), ..Change::default() })
    }

    /// What has gone through, from the first end and from the second; none where the kernel alone carries it.
    ///
    /// # Errors
    /// When the relay has ended.
    pub fn counts(&self) -> Result<Option<[Counts; 2]>> {
        self.state().relay.as_ref().map(Relay::counts).transpose()
    }

    /// Lets everything pass while the lab goes on to believe in what was asked: for tests of the self-check.
    #[doc(hidden)]
    pub fn pretend(&self) -> Result<()> {
        self.apply_change(None, &Now { impairment: Impairment::default(), blackout: false })
    }

    /// Makes it so, as it was asked, after it has been made.
    pub(crate) fn apply(&self) -> Result<()> {
        let now = *self.state().lock();
        if now.impairment.is_none() && !self.is_relayed() {
            return Ok(());
        }
        self.apply_change(None, &now)
    }

    pub(crate) fn plan(&self) -> &'lab LinkPlan {
        &self.lab.plan.links[self.index]
    }

    fn state(&self) -> &'lab LinkState {
        &self.lab.links[self.index]
    }

    fn apply_change(&self, before: Option<&Now>, next: &Now) -> Result<()> {
        if let Some(relay) = &self.state().relay {
            relay.set(next.impairment);
            relay.set_blackout(next.blackout);
        }
        for end in &self.plan().ends {
            match &self.state().relay {
                // A blackout alone is done by now.
                Some(_) if before.is_some_and(|before| before.impairment == next.impairment) => {}
                Some(_) => self.limit_segments(end, &next.impairment)?,
                None => self.apply_to_kernel(end, before, next)?,
            }
        }
        Ok(())
    }

    /// How much the kernel may leave in one piece: losses are of single packets, and a burst should not be longer than
    /// what goes in a millisecond.
    fn limit_segments(&self, end: &EndPlan, impairment: &Impairment) -> Result<()> {
        let by_rate =
            impairment.rate.map_or(MOST_SEGMENTS, |rate| rate.bytes_in(Duration::from_millis(1)) / 1500);
        let segments = if impairment.loss.is_none() { by_rate.clamp(1, MOST_SEGMENTS) } else { 1 };
        tool::ip(
            &self.lab.namespaces[end.host],
            &format!("link set {} gso_max_segs {segments}", end.interface),
        )
    }

    /// Rate by `tbf` on what leaves, loss and blackout by rules on what comes.
    fn apply_to_kernel(&self, end: &EndPlan, before: Option<&Now>, next: &Now) -> Result<()> {
        let host = &self.lab.namespaces[end.host];
        let interface = &end.interface;
        let rate = next.impairment.rate;
        if before.is_none_or(|before| before.impairment.rate != rate) {
            match rate {
                Some(rate) => tool::tc(host, &shape(interface, rate, &next.impairment))?,
                None => tool::tc(host, &format!("qdisc replace dev {interface} root noqueue"))?,
            }
        }
        let table = format!("link{}{interface}", self.index);
        let loss = next.impairment.loss.parts_per_million;
        let rule = match (next.blackout, loss) {
            (true, _) => "drop".to_owned(),
            (false, 0) => String::new(),
            (false, loss) => format!("numgen random mod 1000000 < {loss} drop"),
        };
        // All in one go, so that nothing slips through between the old and the new.
        tool::nft(
            host,
            &format!(
                "add table netdev {table}
delete table netdev {table}
table netdev {table} {{
 chain ingress {{
  type filter hook ingress device {interface} priority -200; policy accept;
  {rule}
 }}
}}
"
            ),
        )
    }
}

fn shape(interface: &str, rate: Rate, impairment: &Impairment) -> String {
    // What may go at once: 2 ms, so that late timers cost no rate, and never less than some full packets.
    let burst = rate.bytes_in(Duration::from_millis(2)).max(6 * 1514);
    let queue = impairment.queue_bytes(rate);
    format!(
        "qdisc replace dev {interface} root tbf rate {}bit burst {burst} limit {queue}",
        rate.bits_per_second()
    )
}

/// 44 segments of 1448 bytes fill the largest IP packet.
const MOST_SEGMENTS: u64 = 44;
