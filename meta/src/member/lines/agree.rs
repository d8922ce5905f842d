//! How two members agree on a line, over the bootstrap channel.
//!
//! The one that wants it asks where it can call; where that leads nowhere, it listens itself and asks to be called. Who listens does so
//! at the addresses by which it reaches the rendez-vous node and its leader, at 127.0.0.1 for one of this host, until the other one has
//! come or some seconds have passed.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gridnet_assembly::choice::Span;
use gridnet_core::wire::NodeId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::inside::{self, Entry};
use super::packets::own_uid;
use super::stages::Side;
use super::{dial, door, Made, LINE, PLACES_MAX};
use crate::error::Refusal;
use crate::member::state::Shared;
use crate::name::Name;
use crate::office::Told;
use crate::record::fields;

/// How long the other member may take to answer.
const ASK_LIMIT: Duration = Duration::from_secs(10);

/// What is asked. Behind it comes the user of the process, where it asks for a line [within the host](inside), and what later
/// versions say.
#[derive(Debug, Serialize, Deserialize)]
struct Ask {
    /// Number of the line.
    number: u64,
    /// Host of the one that asks, if it is known.
    host: Option<Name>,
    /// Where that one listens; nowhere: the one that is asked is to listen.
    at: Vec<SocketAddr>,
}

/// What is answered: where to call. Behind it comes the [`Entry`] of a line within the host, if there is one.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    /// Host of the one that answers, if it is known.
    host: Option<Name>,
    at: Vec<SocketAddr>,
}

impl Answer {
    fn encode(&self, entry: Option<Entry>) -> Result<Vec<u8>, String> {
        let mut bytes = postcard::to_stdvec(self).map_err(|e| e.to_string())?;
        if let Some(entry) = entry {
            bytes.extend(postcard::to_stdvec(&entry).map_err(|e| e.to_string())?);
        }
        Ok(bytes)
    }
}

/// What comes behind the first part of a request or an answer, of those who know it.
fn more<More: DeserializeOwned>(rest: &[u8]) -> postcard::Result<Option<More>> {
    (!rest.is_empty()).then(|| fields(rest)).transpose()
}

impl Shared {
    /// Asks another member for a line, and makes it, by whichever way is open.
    pub(super) async fn make_line(
        self: &Arc<Shared>,
        (node, number): (NodeId, u64),
        span: Span,
    ) -> Result<Made, String> {
        let mut why_not = String::new();
        if self.may_be_inside(node) {
            let (answer, entry) = self.ask_for_line(node, number, (Vec::new(), Some(own_uid()))).await?;
            let Some(entry) = entry else { return self.make_outside((node, number), span, answer).await };
            match self.enter((node, number), answer, entry).await {
                Ok(made) => return Ok(made),
                Err(why) => why_not = format!("{why}; "),
            }
        }
        if self.is_beside(node) {
            return Err(format!("{why_not}what there is leads there at once"));
        }
        let (answer, _) = self.ask_for_line(node, number, (Vec::new(), None)).await?;
        let made = self.make_outside((node, number), span, answer).await;
        made.map_err(|why| format!("{why_not}{why}"))
    }

    /// Goes where the other one waits within the host.
    async fn enter(&self, line: (NodeId, u64), answer: Answer, entry: Entry) -> Result<Made, String> {
        if !self.is_of_this_host(answer.host.as_ref()) {
            return Err("it is of another host".to_owned());
        }
        let until = self.post.office().certified_until(line.0);
        let until = until.ok_or("it was not known by a certificate any more")?;
        #[cfg(test)]
        if self.lines.blocked.load(std::sync::atomic::Ordering::Relaxed) {
            return Err("nobody gets in there".to_owned());
        }
        inside::call(self.node, line, entry, until).await.map(Made::from)
    }

    /// Makes a line by TLS over TCP, where it was answered so.
    async fn make_outside(
        self: &Arc<Shared>,
        (node, number): (NodeId, u64),
        span: Span,
        answer: Answer,
    ) -> Result<Made, String> {
        let is_same_host = self.is_of_this_host(answer.host.as_ref());
        if span == Span::Host && !is_same_host {
            return Err("the rules allow a line within a host only".to_owned());
        }
        let places = callable(&answer.at, is_same_host)?;
        let why_not = match dial::dial(self, (node, number), &places).await {
            Ok(stood) => return Ok(stood.into()),
            // The other one has no better way within a host, and does not believe that this is its own.
            Err(why) if is_same_host => return Err(why),
            Err(why) => why,
        };
        let (listeners, at) = door::open(&self.places(false)).map_err(|e| format!("{why_not}; {e}"))?;
        let called = door::wait(self, listeners, (node, number));
        let asked = async {
            match self.ask_for_line(node, number, (at, None)).await {
                // It calls.
                Ok(_) => std::future::pending().await,
                Err(why) => why,
            }
        };
        tokio::select! {
            stood = called => stood.map(Made::from).map_err(|why| format!("{why_not}; {why}")),
            why = asked => Err(format!("{why_not}; {why}")),
        }
    }

    /// Asks for a line: where this one listens, or of which user it is if the line is to be within the host.
    async fn ask_for_line(
        &self,
        node: NodeId,
        number: u64,
        (at, uid): (Vec<SocketAddr>, Option<u32>),
    ) -> Result<(Answer, Option<Entry>), String> {
        let ask = postcard::to_stdvec(&Ask { number, host: self.lock().host.clone(), at });
        let mut body = ask.map_err(|e| e.to_string())?;
        if let Some(uid) = uid {
            body.extend(postcard::to_stdvec(&uid).map_err(|e| e.to_string())?);
        }
        let (tell, told) = oneshot::channel();
        let now = Instant::now();
        let tell = Box::new(move |Told { outcome, .. }| drop(tell.send(outcome)));
        self.post.office().ask(node, (LINE, body), (now, now + ASK_LIMIT), tell);
        self.send_all();
        let outcome = told.await.map_err(|_| "this member has ended".to_owned())?;
        let body = outcome.map_err(|why| why.to_string())?;
        let answer = postcard::take_from_bytes(&body).and_then(|(answer, rest)| Ok((answer, more(rest)?)));
        answer.map_err(|e| format!("its answer makes no sense: {e}"))
    }

    /// Another member asks for a line: what it is answered.
    pub(in crate::member) fn answer_line(
        self: &Arc<Shared>,
        from: NodeId,
        body: &[u8],
    ) -> Result<Vec<u8>, (Refusal, String)> {
        if !self.lines.may_ask(from) {
            return Err((Refusal::Rate, "it asks for lines too often".to_owned()));
        }
        let malformed = |why: String| {
            self.refused_one(format!("node {from}"), Refusal::Malformed, &why);
            (Refusal::Malformed, why)
        };
        let asked = postcard::take_from_bytes(body).and_then(|(ask, rest)| Ok((ask, more::<u32>(rest)?)));
        let (Ask { number, host, at }, uid) =
            asked.map_err(|e| malformed(format!("it makes no sense: {e}")))?;
        let is_same_host = self.is_of_this_host(host.as_ref());
        if self.span(from)? == Span::Host && !is_same_host {
            return Err((Refusal::Other, "the rules allow a line within a host only".to_owned()));
        }
        let line = (from, number);
        let (listening, entry) = match at.is_empty() {
            true => {
                let may_enter = is_same_host && uid == Some(own_uid()) && self.may_be_inside(from);
                if uid.is_some() && !may_enter && self.is_beside(from) {
                    return Err((Refusal::Other, "what there is leads there at once".to_owned()));
                }
                self.lines.stages().begin(line, Side::Theirs, self.node, Instant::now())?;
                match may_enter.then(|| self.wait_inside(line)).flatten() {
                    Some(entry) => (Vec::new(), Some(entry)),
                    None => (self.listen_for_line(line, is_same_host), None),
                }
            }
            // Within a host the one that asks calls. That it is of this host is its own word: it is not to have this one call itself.
            false if is_same_host => {
                return Err(malformed("it is of this host, and is to call itself".to_owned()))
            }
            false => {
                let places = callable(&at, false).map_err(malformed)?;
                self.lines.stages().begin(line, Side::Theirs, self.node, Instant::now())?;
                let shared = self.clone();
                self.agreed(line, async move { dial::dial(&shared, line, &places).await.map(Made::from) });
                (Vec::new(), None)
            }
        };
        let answer = Answer { host: self.lock().host.clone(), at: listening };
        answer.encode(entry).map_err(|why| (Refusal::Trouble, why))
    }

    /// Waits for the other member within the host; how it comes in, unless there is no way.
    fn wait_inside(self: &Arc<Shared>, line: (NodeId, u64)) -> Option<Entry> {
        let until = self.post.office().certified_until(line.0)?;
        let opened = inside::open(self.node, line);
        let opened = opened.inspect_err(|why| tracing::debug!("session: no line to node {}: {why}", line.0));
        let (gate, entry) = opened.ok()?;
        let shared = self.clone();
        self.agreed(line, async move { inside::wait(&shared, gate, until).await.map(Made::from) });
        Some(entry)
    }

    /// Listens for the other member; where, or nowhere.
    fn listen_for_line(self: &Arc<Shared>, line: (NodeId, u64), is_same_host: bool) -> Vec<SocketAddr> {
        match door::open(&self.places(is_same_host)) {
            Ok((listeners, at)) => {
                let shared = self.clone();
                self.agreed(line, async move { door::wait(&shared, listeners, line).await.map(Made::from) });
                at
            }
            Err(why) => {
                self.lines.stages().failed(line, why, Instant::now());
                Vec::new()
            }
        }
    }

    fn is_of_this_host(&self, host: Option<&Name>) -> bool {
        host.is_some() && host == self.lock().host.as_ref()
    }
}

/// The addresses that the other side has written, if they are such as it may write.
fn callable(at: &[SocketAddr], is_same_host: bool) -> Result<Vec<SocketAddr>, String> {
    let is_one = |at: &SocketAddr| {
        let ip = at.ip().to_canonical();
        let is_one = match ip {
            IpAddr::V4(ip) => !ip.is_broadcast() && !ip.is_unspecified(),
            IpAddr::V6(ip) => !ip.is_unspecified(),
        };
        is_one && !ip.is_multicast() && ip.is_loopback() == is_same_host && at.port() != 0
    };
    match at.len() <= PLACES_MAX && at.iter().all(is_one) {
        true => Ok(at.to_vec()),
        false => Err("it names addresses that are not its own".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_sent_where_a_member_cannot_be() {
        let one = |text: &str, is_same_host| callable(&[text.parse().unwrap()], is_same_host).is_ok();
        assert!(one("10.0.0.1:5", false) && one("[2001:db8::1]:5", false) && one("127.0.0.1:5", true));
        for wrong in [
            "127.0.0.1:5",
            "[::1]:5",
            "[::ffff:127.0.0.1]:5",
            "0.0.0.0:5",
            "224.0.0.1:5",
            "255.255.255.255:5",
            "10.0.0.1:0",
        ] {
            assert!(!one(wrong, false), "{wrong}");
        }
        assert!(!one("10.0.0.1:5", true), "within a host");
        assert!(callable(&["10.0.0.1:5".parse().unwrap(); PLACES_MAX + 1], false).is_err());
    }
}
