//! What two nodes say to each other about a stack: typed, bounded in length, and open to what comes later.
//!
//! A message is its kind (2 bytes, little-endian) and its fields as [postcard](https://postcard.jamesmunns.com/wire-format) writes
//! them. Fields that are added later come last, and are skipped by those who do not know them; what must be understood gets
//! another kind. Length, order and origin are up to what carries it.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::data::{Data, Hidden};
use crate::name::Name;
use crate::record::{fields, raw};
use crate::stack::{Security, STACK_BYTES_MAX};

/// Longest message.
pub const MESSAGE_BYTES_MAX: usize = 20 << 10;
/// Most bytes of data that travel with a request.
pub const FIRST_BYTES_MAX: usize = 16 << 10;
/// Most stacks of one request.
pub const CANDIDATES_MAX: usize = 8;
/// Most bytes that a method adds to a stack of a request.
pub const HINT_BYTES_MAX: usize = 256;
/// Most bytes that say where to connect.
pub const PLACE_BYTES_MAX: usize = 1024;
/// Most bytes of a reason.
pub const REASON_BYTES_MAX: usize = 160;

/// A request of one node: build one of these stacks on your side, and say where to connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Which life of the asker this is; a later one is greater.
    pub incarnation: u64,
    /// Number of the connection; those that are begun later are greater.
    pub connection: u64,
    /// How often it was tried before with other stacks: the same number is the same request.
    pub attempt: u16,
    /// How long an answer is waited for, in milliseconds.
    pub left_ms: u32,
    /// What the connection is for.
    pub service: Name,
    /// How safe the asker wants it, at least; number of [`Level`].
    pub min_security: Level,
    /// The stacks, the best first.
    pub candidates: Vec<Wanted>,
    /// It was allowed before to connect without being told where: see [`Grant`].
    pub again: Option<Grant>,
    /// The first bytes of the connection.
    pub first: Data,
}

/// A stack that the asker would use.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Its text. One that is not known is left out.
    pub stack: String,
    /// What the method wants the other side to know.
    #[serde(with = "raw")]
    pub hint: Vec<u8>,
}

impl std::fmt::Debug for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Wanted { stack, hint } = self;
        f.debug_struct("Wanted").field("stack", stack).field("hint", &Hidden(hint)).finish()
    }
}

/// By which later connections to the same place are known. No secret: who connects proves itself there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Grant {
    /// Which life of the one that gave it.
    pub incarnation: u64,
    /// Its own number.
    pub token: u64,
}

/// The answer to [`Ask`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Which life of the answerer this is.
    pub incarnation: u64,
    /// See [`Ask::connection`].
    pub connection: u64,
    /// See [`Ask::attempt`].
    pub attempt: u16,
    /// What was built, or why nothing was.
    pub outcome: Outcome,
    /// Stacks that come before the one that was built, and why they were not.
    pub failed: Vec<Failed>,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It stands.
    Built(Built),
    /// Nothing was built.
    Refused(Refusal, String),
}

/// What stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Built {
    /// Which of the candidates, from 0.
    pub index: u16,
    /// Where to connect, as the method writes it.
    #[serde(with = "raw")]
    pub place: Vec<u8>,
    /// By which the next connection need not ask where.
    pub grant: Option<Grant>,
}

/// A candidate that was not built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// Which of the candidates, from 0.
    pub index: u16,
    /// Why.
    pub refusal: Refusal,
    /// The same for people.
    pub why: String,
}

/// Why a stack, or a whole request, is refused; numbers of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "u16", into = "u16")]
#[non_exhaustive]
#[repr(u16)]
pub enum Refusal {
    /// A reason that this version does not know.
    Other = 0,
    /// The request makes no sense.
    Malformed = 1,
    /// The node asks too often.
    Rate = 2,
    /// The request was over already: it is not done again.
    Replayed = 3,
    /// The node has no such service.
    Service = 4,
    /// The stack is less safe than the rules of the node that is asked demand.
    Security = 5,
    /// Its rules do not allow the stack, or it does not have it.
    Policy = 6,
    /// It tried to build it, and could not.
    Build = 7,
    /// There is no room for more.
    Limit = 8,
    /// It is at it: ask again.
    Busy = 9,
    /// It does not know who asks.
    Unknown = 10,
    /// The time is over.
    Late = 11,
}

impl Refusal {
    /// All that this version knows.
    pub const ALL: [Refusal; 12] = [
        Refusal::Other,
        Refusal::Malformed,
        Refusal::Rate,
        Refusal::Replayed,
        Refusal::Service,
        Refusal::Security,
        Refusal::Policy,
        Refusal::Build,
        Refusal::Limit,
        Refusal::Busy,
        Refusal::Unknown,
        Refusal::Late,
    ];

    /// What it is called in audit lines and counters.
    pub fn name(self) -> &'static str {
        match self {
            Refusal::Other => "other",
            Refusal::Malformed => "malformed",
            Refusal::Rate => "rate",
            Refusal::Replayed => "replayed",
            Refusal::Service => "service",
            Refusal::Security => "security",
            Refusal::Policy => "policy",
            Refusal::Build => "build",
            Refusal::Limit => "limit",
            Refusal::Busy => "busy",
            Refusal::Unknown => "unknown",
            Refusal::Late => "late",
        }
    }
}

impl From<Refusal> for u16 {
    fn from(refusal: Refusal) -> u16 {
        refusal as u16
    }
}

impl From<u16> for Refusal {
    fn from(number: u16) -> Refusal {
        Refusal::ALL.into_iter().find(|refusal| *refusal as u16 == number).unwrap_or(Refusal::Other)
    }
}

/// A level of security by its number: 0 plain, 1 authenticated, 2 encrypted. Any greater one asks for more than there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Level(pub u16);

impl From<Security> for Level {
    fn from(security: Security) -> Level {
        Level(match security {
            Security::Plain => 0,
            Security::Authenticated => 1,
            Security::Encrypted => 2,
        })
    }
}

impl Level {
    /// The level, if this version has it.
    pub fn security(self) -> Option<Security> {
        Security::ALL.into_iter().find(|security| Level::from(*security) == self)
    }
}

const ASK: u16 = 0x8001;
const REPLY: u16 = 0x8002;

/// A text that fits a message, without characters that would do something to a log.
pub(crate) fn bounded(text: &str) -> String {
    let mut bounded = String::new();
    for c in text.chars().map(|c| if c.is_control() { '?' } else { c }) {
        if bounded.len() + c.len_utf8() > REASON_BYTES_MAX {
            break;
        }
        bounded.push(c);
    }
    bounded
}

fn encode(kind: u16, body: &impl Serialize) -> Option<Vec<u8>> {
    let bytes = postcard::to_extend(body, kind.to_le_bytes().to_vec()).ok()?;
    (bytes.len() <= MESSAGE_BYTES_MAX).then_some(bytes)
}

fn decode<Body: DeserializeOwned>(wanted: u16, bytes: &[u8]) -> Result<Body, String> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(format!("it has {} bytes, {MESSAGE_BYTES_MAX} are the most", bytes.len()));
    }
    match bytes.split_first_chunk() {
        Some((kind, body)) if u16::from_le_bytes(*kind) == wanted => fields(body).map_err(|e| e.to_string()),
        Some((kind, _)) => Err(format!("it is of the unknown kind {:#06x}", u16::from_le_bytes(*kind))),
        None => Err("it has no kind".to_owned()),
    }
}

impl Ask {
    /// As it is sent; `None` when it is longer than may be.
    pub fn encode(&self) -> Option<Vec<u8>> {
        self.check().ok()?;
        encode(ASK, self)
    }

    /// What somebody has sent.
    ///
    /// # Errors
    /// Why it makes no sense.
    pub fn decode(bytes: &[u8]) -> Result<Ask, String> {
        let ask: Ask = decode(ASK, bytes)?;
        ask.check().map(|()| ask)
    }

    fn check(&self) -> Result<(), String> {
        let is_long =
            |wanted: &Wanted| wanted.stack.len() > STACK_BYTES_MAX || wanted.hint.len() > HINT_BYTES_MAX;
        match () {
            () if !(1..=CANDIDATES_MAX).contains(&self.candidates.len()) => {
                Err(format!("it has {} stacks; 1 to {CANDIDATES_MAX} are accepted", self.candidates.len()))
            }
            () if self.candidates.iter().any(is_long) => Err("a stack is too long".to_owned()),
            () if self.first.len() > FIRST_BYTES_MAX => Err("it has too much data".to_owned()),
            () => Ok(()),
        }
    }
}

impl Reply {
    /// As it is sent. Reasons are cut off where they are too long; `None` when it is too long all the same.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let mut reply = self.clone();
        reply.failed.truncate(CANDIDATES_MAX);
        reply.failed.iter_mut().for_each(|failed| failed.why = bounded(&failed.why));
        if let Outcome::Refused(_, why) = &mut reply.outcome {
            *why = bounded(why);
        }
        reply.check().ok()?;
        encode(REPLY, &reply)
    }

    /// What somebody has answered.
    ///
    /// # Errors
    /// Why it makes no sense.
    pub fn decode(bytes: &[u8]) -> Result<Reply, String> {
        let reply: Reply = decode(REPLY, bytes)?;
        reply.check().map(|()| reply)
    }

    fn check(&self) -> Result<(), String> {
        let whys = self.failed.iter().map(|failed| &failed.why);
        let (place, why) = match &self.outcome {
            Outcome::Built(built) => (built.place.len(), None),
            Outcome::Refused(_, why) => (0, Some(why)),
        };
        match () {
            () if self.failed.len() > CANDIDATES_MAX => Err("it has too many reasons".to_owned()),
            () if whys.chain(why).any(|why| why.len() > REASON_BYTES_MAX) => {
                Err("a reason is too long".to_owned())
            }
            () if place > PLACE_BYTES_MAX => Err("a place is too long".to_owned()),
            () => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn ask() -> Ask {
        let wanted = |stack: &str| Wanted { stack: stack.to_owned(), hint: vec![7; 3] };
        Ask {
            incarnation: 3,
            connection: 9,
            attempt: 1,
            left_ms: 1000,
            service: "files".parse().unwrap(),
            min_security: Security::Encrypted.into(),
            candidates: vec![wanted("shm"), wanted("tls/tcp")],
            again: Some(Grant { incarnation: 1, token: 2 }),
            first: b"first".to_vec().into(),
        }
    }

    fn reply(outcome: Outcome) -> Reply {
        let failed = vec![Failed { index: 0, refusal: Refusal::Policy, why: "no".to_owned() }];
        Reply { incarnation: 4, connection: 9, attempt: 1, outcome, failed }
    }

    fn replies() -> [Reply; 2] {
        let built = Built { index: 1, place: vec![1, 2], grant: Some(Grant { incarnation: 5, token: 6 }) };
        [reply(Outcome::Built(built)), reply(Outcome::Refused(Refusal::Busy, "wait".into()))]
    }

    #[test]
    fn messages_are_read_as_they_were_written_and_later_fields_skipped() {
        let mut bytes = ask().encode().unwrap();
        assert_eq!(Ask::decode(&bytes), Ok(ask()));
        bytes.extend(b"later");
        assert_eq!(Ask::decode(&bytes), Ok(ask()));
        for reply in replies() {
            let mut bytes = reply.encode().unwrap();
            bytes.extend(b"later");
            assert_eq!(Reply::decode(&bytes), Ok(reply.clone()));
            assert!(Ask::decode(&bytes).is_err(), "another kind");
        }
    }

    #[test]
    fn the_longest_request_fits_and_nothing_longer_is_taken() {
        let wanted = Wanted { stack: "s".repeat(STACK_BYTES_MAX), hint: vec![1; HINT_BYTES_MAX] };
        let longest = Ask {
            incarnation: u64::MAX,
            connection: u64::MAX,
            attempt: u16::MAX,
            left_ms: u32::MAX,
            service: "n".repeat(64).parse().unwrap(),
            min_security: Level(u16::MAX),
            candidates: vec![wanted; CANDIDATES_MAX],
            again: Some(Grant { incarnation: u64::MAX, token: u64::MAX }),
            first: vec![0; FIRST_BYTES_MAX].into(),
        };
        assert!(Ask::decode(&longest.encode().unwrap()).is_ok());
        let mut more = longest.candidates.clone();
        more.push(more[0].clone());
        for wrong in [
            Ask { candidates: more, ..longest.clone() },
            Ask { candidates: vec![], ..longest.clone() },
            Ask { first: vec![0; FIRST_BYTES_MAX + 1].into(), ..longest.clone() },
        ] {
            assert_eq!(wrong.encode(), None);
            assert!(Ask::decode(&encode(ASK, &wrong).unwrap()).is_err());
        }
        assert!(Ask::decode(&vec![0; MESSAGE_BYTES_MAX + 1]).unwrap_err().contains("are the most"));
    }

    #[test]
    fn reasons_are_cut_off_and_harmless() {
        let long = reply(Outcome::Refused(Refusal::Build, format!("a\nb\x1b[2J{}", "ä".repeat(500))));
        let Outcome::Refused(_, why) = Reply::decode(&long.encode().unwrap()).unwrap().outcome else {
            panic!()
        };
        assert!(why.len() <= REASON_BYTES_MAX && why.starts_with("a?b?[2Jä"), "{why}");
        assert!(Reply::decode(&encode(REPLY, &long).unwrap()).is_err(), "a peer does not send longer ones");
        for refusal in Refusal::ALL {
            assert_eq!(Refusal::from(u16::from(refusal)), refusal);
        }
        assert_eq!(
            (Refusal::from(999), Level(3).security(), Level(2).security()),
            (Refusal::Other, None, Some(Security::Encrypted))
        );
    }

    proptest! {
        #[test]
        fn changed_messages_are_borne(at: prop::sample::Index, byte: u8, cut: prop::sample::Index, which in 0..3usize) {
            let [built, refused] = replies().map(|reply| reply.encode().unwrap());
            let mut bytes = [ask().encode().unwrap(), built, refused][which].clone();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes.truncate(cut.index(bytes.len()) + 1);
            if let Ok(ask) = Ask::decode(&bytes) {
                prop_assert!(ask.encode().is_some());
            }
            if let Ok(reply) = Reply::decode(&bytes) {
                prop_assert!(reply.encode().is_some());
            }
        }
    }
}
