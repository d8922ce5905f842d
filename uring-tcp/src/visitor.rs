//! A connection that somebody has made to this side, and that is not a link yet.

use std::net::SocketAddr;

use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use gridnet_core::time::Time;
use gridnet_core::wire::NodeId;

use crate::call::{say, HANDSHAKE_READ};
use crate::config::TcpConfig;
use crate::conn::DISCARD_BYTES;
use crate::handshake::{refusal, Agreed, Called, Inbox, Step, Stranger};
use crate::socket::{Moved, Stream};

/// How long a visitor may take to say who it is.
pub(crate) const VISIT_NS: u64 = 5_000_000_000;
/// Most visitors at a time; beyond, the one that came first has to go.
pub(crate) const MAX_VISITORS: usize = 256;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Visitor {
    stream: Stream,
    from: Option<SocketAddr>,
    /// The only fabric that may come by this connection, when that is known.
    only: Option<NodeId>,
    called: Called,
    inbox: Inbox,
    /// Since when; none before the first look at the clock.
    pub(crate) since: Option<Time>,
}

/// How a visit goes.
#[derive(Debug)]
pub(crate) enum Visit {
    /// It is to be looked at when its socket is ready.
    Waits(Visitor),
    /// It is who it says; these bytes are to be sent before the welcome.
    Known(Visitor, Stranger, Vec<u8>),
    /// It has gone.
    Over,
}

impl Visitor {
    pub(crate) fn new(stream: Stream, from: Option<SocketAddr>) -> Visitor {
        let (called, inbox) = (Called::default(), Inbox::default());
        Visitor { stream, from, only: None, called, inbox, since: None }
    }

    /// The connection was made for this fabric.
    pub(crate) fn of(self, only: NodeId) -> Visitor {
        Visitor { only: Some(only), ..self }
    }

    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Goes on as far as that is possible now.
    pub(crate) fn step(mut self, config: &TcpConfig) -> Visit {
        loop {
            match self.called.step(&mut self.inbox, &config.local, &config.security) {
                Ok(Step::Done(bytes)) => {
                    let Some(who) = self.called.caller() else { return Visit::Over };
                    let known = config.security.check_name(&self.stream, who.node);
                    if let Err(why) = known.and_then(|()| self.check_lent(who.node)) {
                        config.security.note_refusal(&self.name(), &why.reason);
                        self.refuse(&why);
                        return Visit::Over;
                    }
                    config.security.note_proved(self.from);
                    return Visit::Known(self, who, bytes);
                }
                Ok(Step::Send(bytes)) if !say(&self.stream, &bytes) => return Visit::Over,
                Ok(Step::Send(_)) => {}
                Ok(Step::Wait) => {
                    let mut buffer = [0; HANDSHAKE_READ];
                    match self.stream.receive(&mut buffer) {
                        Moved::Bytes(len) => self.inbox.push(buffer.get(..len).unwrap_or_default()),
                        Moved::Nothing => return Visit::Waits(self),
                        Moved::End => {
                            tracing::debug!(from = self.name(), "a visitor hung up");
                            return Visit::Over;
                        }
                        Moved::Broken(e) => {
                            config.security.note_failure(&self.name(), &e);
                            tracing::debug!(from = self.name(), reason = %e, "a visitor hung up");
                            return Visit::Over;
                        }
                    }
                }
                Err(why) => {
                    if why.error == Error::Permission {
                        config.security.note_refusal(&self.name(), &why.reason);
                    }
                    self.refuse(&why);
                    return Visit::Over;
                }
            }
        }
    }

    /// Who has a connection may not lend it to another one.
    fn check_lent(&self, who: NodeId) -> Result<(), Refusal> {
        if self.only.is_none_or(|only| only == who) {
            return Ok(());
        }
        Err(Refusal::new(Error::Permission, "the connection was made for another node"))
    }

    /// Says no, and why, after `bytes` of the handshake.
    pub(crate) fn refuse_after(self, bytes: &[u8], why: &Refusal) {
        say(&self.stream, bytes);
        self.refuse(why);
    }

    /// Leaves the connection to the process that this one was forked from.
    pub(crate) fn leave(self) {
        self.stream.leave();
    }

    /// Says no, and why.
    fn refuse(self, why: &Refusal) {
        // Of two calls that cross one is refused, and so is a path that is not wanted: nothing to be told to people.
        if matches!(why.error, Error::InUse | Error::Again | Error::Unsupported | Error::Limit) {
            tracing::debug!(from = self.name(), reason = %why.reason, "connection refused");
        } else {
            tracing::warn!(from = self.name(), reason = %why.reason, "connection refused");
        }
        say(&self.stream, &refusal(why));
        self.stream.end_sending();
        // Callers may have sent frames behind their greeting.
        self.stream.discard(DISCARD_BYTES);
    }

    /// What both sides know, once it is known who it is.
    pub(crate) fn agreed(&self) -> Option<Agreed> {
        self.called.agreed()
    }

    /// The connection, and what came behind the handshake.
    pub(crate) fn into_parts(self) -> (Stream, Vec<u8>) {
        (self.stream, self.inbox.into_rest())
    }

    /// The address that it comes from.
    pub(crate) fn from(&self) -> Option<SocketAddr> {
        self.from
    }

    /// Where it comes from.
    pub(crate) fn name(&self) -> String {
        let way = self.stream.way().unwrap_or("nowhere");
        self.from.map_or_else(|| way.to_owned(), |from| from.to_string())
    }
}
