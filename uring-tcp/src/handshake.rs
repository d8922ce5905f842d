//! What two rails say to each other before frames flow, without I/O.
//!
//! Packets: length of the rest (2 bytes, little-endian), type (1 byte), content.
//!
//! ```text
//! caller -> H hello with offer                       called
//! caller <- H hello with offer, P proof (with a key) called
//! caller -> P proof (with a key)                     called
//! caller <- W welcome                                called
//! ```
//!
//! Either side may say R (status, four bytes, and a text) instead, and hang up. Frames flow after W.

use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use gridnet_core::wire::{
    Address, Extension, Hello, NetAddresses, NodeId, Preface, EXTENSION_CRITICAL, FEATURE_AHEAD,
    FEATURE_PATHS, MAX_HELLO_BYTES,
};

use crate::auth::{nonce, Key, Role, Security, NONCE_BYTES, PROOF_BYTES};

/// Type of the extension of a handshake that holds an [`Offer`].
pub(crate) const TCP_OFFER: u16 = EXTENSION_CRITICAL | 2;
const OFFER_BYTES: usize = 64;
/// Type of the extension in which a caller says where it listens itself.
const TCP_LISTENS: u16 = 3;
/// Type of the extension in which a caller says to which link a further path is to belong: number of the path (4 bytes), proof.
const TCP_PATH: u16 = 4;
/// What the proof for a further path is good for.
const PATH_PURPOSE: &str = "gridnet tcp 1 path";
const TYPE_HELLO: u8 = b'H';
const TYPE_PROOF: u8 = b'P';
const TYPE_WELCOME: u8 = b'W';
const TYPE_REFUSE: u8 = b'R';
/// Longest text of a refusal that is sent or shown.
const MAX_TEXT: usize = 200;
/// Longest packet, without the two bytes of its length.
const MAX_PACKET: usize = 1 + MAX_HELLO_BYTES;

/// What a rail adds to the handshake.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 1 | what is asked of the peer: 0 nothing, 1 a proof, 2 TLS, inside of which this is said, 3 the same, but nothing that follows |
/// | 1 | 1 | what the connection is for: 0 a link, 1 a [pulse](crate::pulse), 2 a [further path](crate::paths) |
/// | 2 | 2 | 0 |
/// | 4 | 4 | user id of the process |
/// | 8 | 32 | random number |
/// | 40 | 16 | node id of the fabric that is meant |
/// | 56 | 8 | incarnation of the fabric that is meant |
#[derive(Debug, Clone, PartialEq, Eq)]
struct Offer {
    security: u8,
    /// Number of a [`Purpose`].
    purpose: u8,
    uid: u32,
    nonce: [u8; NONCE_BYTES],
    node: NodeId,
    incarnation: u64,
}

impl Offer {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![self.security, self.purpose, 0, 0];
        bytes.extend_from_slice(&self.uid.to_le_bytes());
        bytes.extend_from_slice(&self.nonce);
        bytes.extend_from_slice(self.node.bytes());
        bytes.extend_from_slice(&self.incarnation.to_le_bytes());
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Offer> {
        let bytes: &[u8; OFFER_BYTES] = bytes.try_into().ok()?;
        let (head, tail) = bytes.split_at_checked(8)?;
        let (nonce, tail) = tail.split_at_checked(NONCE_BYTES)?;
        let (node, incarnation) = tail.split_at_checked(16)?;
        let (&[security, purpose, 0, 0], uid) = head.split_first_chunk()? else { return None };
        Some(Offer {
            security,
            purpose,
            uid: u32::from_le_bytes(uid.try_into().ok()?),
            nonce: nonce.try_into().ok()?,
            node: NodeId::new(node.try_into().ok()?)?,
            incarnation: u64::from_le_bytes(incarnation.try_into().ok()?),
        })
    }
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Frames.
    Link,
    /// To see whether the other side's host answers.
    Pulse,
    /// Segments, beside the connection of a link.
    Path(Ticket),
}

impl Purpose {
    fn number(self) -> u8 {
        match self {
            Purpose::Link => 0,
            Purpose::Pulse => 1,
            Purpose::Path(_) => 2,
        }
    }

    /// The purpose of this number, in a handshake that may say more of it.
    fn of(number: u8, hello: &Hello) -> Option<Purpose> {
        match number {
            0 => Some(Purpose::Link),
            1 => Some(Purpose::Pulse),
            2 => hello.extension(TCP_PATH).and_then(Ticket::parse).map(Purpose::Path),
            _ => None,
        }
    }
}

/// What lets a connection be a further path of a link: only the two sides of the link can make one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    /// Number of the path in its link.
    pub(crate) number: u32,
    proof: [u8; PROOF_BYTES],
}

impl Ticket {
    /// The ticket for the path of this number.
    pub(crate) fn new(number: u32, secret: &Key) -> Ticket {
        Ticket { number, proof: secret.sign(PATH_PURPOSE, &[&number.to_le_bytes()]) }
    }

    /// Whether it is for a path of the link that has this secret. Takes the same time wherever it is wrong.
    pub(crate) fn is_for(&self, secret: &Key) -> bool {
        secret.accepts(PATH_PURPOSE, &[&self.number.to_le_bytes()], &self.proof)
    }

    fn encode(&self) -> Vec<u8> {
        [&self.number.to_le_bytes()[..], &self.proof].concat()
    }

    fn parse(bytes: &[u8]) -> Option<Ticket> {
        let (number, proof) = bytes.split_first_chunk()?;
        let number = u32::from_le_bytes(*number);
        (number != 0).then_some(Ticket { number, proof: proof.try_into().ok()? })
    }
}

/// What both sides know once they have greeted one another.
#[derive(Debug)]
pub(crate) struct Agreed {
    /// Made of the random numbers of both: nobody else has heard them who does not hear everything.
    pub(crate) secret: Key,
    /// The other side knows what further paths are.
    pub(crate) takes_paths: bool,
    /// It knows what bytes are that come unasked.
    pub(crate) takes_ahead: bool,
    /// What it has said of itself.
    pub(crate) preface: Preface,
}

impl Agreed {
    fn of(caller: &[u8], called: &[u8], theirs: &Hello) -> Option<Agreed> {
        let number = |greeting: &[u8]| {
            let hello = Hello::parse(greeting).ok()?;
            hello.extension(TCP_OFFER).and_then(Offer::parse).map(|offer| offer.nonce)
        };
        let secret = Key::new(&[number(caller)?, number(called)?].concat()).ok()?;
        let has = |feature| theirs.features & feature != 0;
        let (takes_paths, takes_ahead) = (has(FEATURE_PATHS), has(FEATURE_AHEAD));
        Some(Agreed { secret, takes_paths, takes_ahead, preface: Preface::of(theirs) })
    }
}

/// One thing that was said.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Packet {
    Hello(Vec<u8>),
    Proof([u8; PROOF_BYTES]),
    Welcome,
    Refuse(Refusal),
}

impl Packet {
    fn parse(bytes: &[u8]) -> Option<Packet> {
        let (kind, content) = bytes.split_first()?;
        match *kind {
            TYPE_HELLO => Some(Packet::Hello(content.to_vec())),
            TYPE_PROOF => Some(Packet::Proof(content.try_into().ok()?)),
            TYPE_WELCOME if content.is_empty() => Some(Packet::Welcome),
            TYPE_REFUSE => {
                let (code, text) = content.split_first_chunk()?;
                let error = Error::from_code(i32::from_le_bytes(*code)).unwrap_or(Error::Unreachable);
                Some(Packet::Refuse(Refusal::new(error, readable(text))))
            }
            _ => None,
        }
    }
}

/// What a peer wrote, fit to be shown.
fn readable(text: &[u8]) -> String {
    let text = text.get(..MAX_TEXT).unwrap_or(text);
    text.iter()
        .map(|&byte| if byte.is_ascii_graphic() || byte == b' ' { byte as char } else { '?' })
        .collect()
}

fn packet(kind: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(3 + content.len());
    bytes.extend_from_slice(&(content.len() as u16 + 1).to_le_bytes());
    bytes.push(kind);
    bytes.extend_from_slice(content);
    bytes
}

/// The packet that says no.
pub(crate) fn refusal(refusal: &Refusal) -> Vec<u8> {
    let text = refusal.reason.as_bytes();
    let mut content = refusal.error.code().to_le_bytes().to_vec();
    content.extend_from_slice(text.get(..MAX_TEXT).unwrap_or(text));
    packet(TYPE_REFUSE, &content)
}

/// The packet that says yes.
pub(crate) fn welcome() -> Vec<u8> {
    packet(TYPE_WELCOME, &[])
}

/// Puts packets together from what comes.
#[derive(Debug, Default)]
pub(crate) struct Inbox(Vec<u8>);

impl Inbox {
    /// Adds what came.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// What came behind the last packet.
    pub(crate) fn into_rest(self) -> Vec<u8> {
        self.0
    }

    fn next(&mut self) -> Result<Option<Packet>, Refusal> {
        // How whoever speaks TLS begins, or refuses what is none (RFC 8446, 5.1): no packet of ours has such a type.
        if matches!(self.0.as_slice(), [0x15 | 0x16, 3, 0..=4, ..]) {
            let why = "the other side has a session (GRIDNET_SESSION), this side none";
            return Err(Refusal::new(Error::Permission, why));
        }
        let Some((len, rest)) = self.0.split_first_chunk() else { return Ok(None) };
        let len = usize::from(u16::from_le_bytes(*len));
        if len == 0 || len > MAX_PACKET {
            return Err(misbehaved("what came is no handshake"));
        }
        let Some(bytes) = rest.get(..len) else { return Ok(None) };
        let packet = Packet::parse(bytes).ok_or_else(|| misbehaved("what came is no handshake"))?;
        self.0.drain(..2 + len);
        Ok(Some(packet))
    }
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Wait for more.
    Wait,
    /// Send this, and wait for more.
    Send(Vec<u8>),
    /// The peer is who it says: send this, if it is not empty. The caller may send frames; the called decides whether it wants
    /// the link, and says so.
    Done(Vec<u8>),
}

/// Who the other side is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stranger {
    pub(crate) node: NodeId,
    pub(crate) incarnation: u64,
    pub(crate) uid: u32,
    /// Grows with each call.
    pub(crate) generation: u32,
    /// What it wants.
    pub(crate) purpose: Purpose,
    /// Where it listens, if it says so.
    pub(crate) listens: NetAddresses,
}

/// How far the side that was called has come, as far as the caller can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It cannot have taken the call. What was said may be somebody else's word.
    Stranger,
    /// It may have taken the call.
    MayHaveTaken,
    /// It has shown that it is who was called, as far as anybody here has to, and has refused.
    Refused,
}

/// The side that connects.
#[derive(Debug)]
pub(crate) struct Caller {
    own: Vec<u8>,
    target: (NodeId, u64),
    agreed: Option<Agreed>,
    standing: Standing,
    /// The other side has said no.
    was_refused: bool,
}

impl Caller {
    /// Begins: the packet that is to be sent.
    ///
    /// # Errors
    /// When there is no randomness.
    pub(crate) fn begin(
        local: &Address,
        security: &Security,
        target: (NodeId, u64),
        generation: u32,
        purpose: Purpose,
    ) -> Result<(Caller, Vec<u8>), Refusal> {
        let own = greeting(local, security, target, generation, purpose)?;
        let bytes = packet(TYPE_HELLO, &own);
        // Who asks for no proof may say yes at once.
        let standing = match security {
            Security::Insecure | Security::Session(_) => Standing::MayHaveTaken,
            Security::Key(_) => Standing::Stranger,
        };
        Ok((Caller { own, target, agreed: None, standing, was_refused: false }, bytes))
    }

    /// How far the other side has come.
    pub(crate) fn standing(&self) -> Standing {
        self.standing
    }

    /// The other side has said no: it has taken nothing.
    pub(crate) fn was_refused(&self) -> bool {
        self.was_refused
    }

    /// The other side has ended the connection, and so knows that it is over.
    pub(crate) fn hear_end(&mut self) {
        self.standing = Standing::Stranger;
    }

    /// Takes the next packet out of `inbox`.
    ///
    /// # Errors
    /// Why there will be no link.
    pub(crate) fn step(&mut self, inbox: &mut Inbox, security: &Security) -> Result<Step, Refusal> {
        let step = self.hear(inbox, security);
        if step.is_err() {
            self.standing = if self.agreed.is_some() { Standing::Refused } else { Standing::Stranger };
        }
        step
    }

    fn hear(&mut self, inbox: &mut Inbox, security: &Security) -> Result<Step, Refusal> {
        match inbox.next()? {
            None => Ok(Step::Wait),
            Some(Packet::Refuse(refusal)) => {
                self.was_refused = true;
                Err(refusal)
            }
            Some(Packet::Welcome) if self.agreed.is_some() => Ok(Step::Done(Vec::new())),
            Some(Packet::Hello(theirs)) if self.agreed.is_none() => {
                match self.hear_hello(&theirs, security)? {
                    Step::Wait => self.hear(inbox, security),
                    step => Ok(step),
                }
            }
            Some(_) => Err(misbehaved("a packet of the handshake is out of its turn")),
        }
    }

    /// What both sides know, after the last step.
    pub(crate) fn into_agreed(self) -> Option<Agreed> {
        self.agreed
    }

    fn hear_hello(&mut self, theirs: &[u8], security: &Security) -> Result<Step, Refusal> {
        let split = split_proof(theirs, security);
        let (hello, proof) = split.ok_or_else(|| misbehaved("a handshake without its proof"))?;
        let (who, _) = examine(hello, security)?;
        if (who.node, who.incarnation) != self.target {
            return Err(stranger_there());
        }
        let parsed = Hello::parse(hello).map_err(|e| misbehaved(e.0))?;
        let agreed = Agreed::of(&self.own, hello, &parsed);
        let (Security::Key(key), Some(proof)) = (security, proof) else {
            self.agreed = agreed;
            return Ok(Step::Wait);
        };
        let greetings = [self.own.as_slice(), hello];
        if !key.verifies(Role::Called, greetings, &proof) {
            return Err(other_key());
        }
        let own_proof = packet(TYPE_PROOF, &key.prove(Role::Caller, greetings));
        (self.agreed, self.standing) = (agreed, Standing::MayHaveTaken);
        Ok(Step::Send(own_proof))
    }
}

/// The side that accepts.
#[derive(Debug, Default)]
pub(crate) struct Called {
    /// Both greetings, and who called.
    heard: Option<([Vec<u8>; 2], Stranger)>,
}

impl Called {
    /// Takes the next packet out of `inbox`.
    ///
    /// # Errors
    /// Why there will be no link: to be said to the other side.
    pub(crate) fn step(
        &mut self,
        inbox: &mut Inbox,
        local: &Address,
        security: &Security,
    ) -> Result<Step, Refusal> {
        match (inbox.next()?, &self.heard) {
            (None, _) => Ok(Step::Wait),
            (Some(Packet::Hello(theirs)), None) => self.hear_hello(theirs, local, security),
            (Some(Packet::Proof(proof)), Some((greetings, _))) => {
                let Security::Key(key) = security else {
                    return Err(misbehaved("a proof that nobody asked for"));
                };
                let [theirs, own] = greetings;
                if !key.verifies(Role::Caller, [theirs, own], &proof) {
                    return Err(other_key());
                }
                Ok(Step::Done(Vec::new()))
            }
            (Some(Packet::Refuse(refusal)), _) => Err(refusal),
            (Some(_), _) => Err(misbehaved("a packet of the handshake is out of its turn")),
        }
    }

    /// Who calls, once that is known.
    pub(crate) fn caller(&self) -> Option<Stranger> {
        self.heard.as_ref().map(|(_, who)| *who)
    }

    /// What both sides know, once it is known who calls.
    pub(crate) fn agreed(&self) -> Option<Agreed> {
        let ([theirs, own], _) = self.heard.as_ref()?;
        Agreed::of(theirs, own, &Hello::parse(theirs).ok()?)
    }

    fn hear_hello(&mut self, theirs: Vec<u8>, local: &Address, security: &Security) -> Result<Step, Refusal> {
        let (who, offer) = examine(&theirs, security)?;
        if (offer.node, offer.incarnation) != (local.node, local.incarnation) {
            return Err(stranger_there());
        }
        let own = greeting(local, security, (who.node, who.incarnation), who.generation, who.purpose)?;
        let step = match security {
            Security::Insecure | Security::Session(_) => Step::Done(packet(TYPE_HELLO, &own)),
            Security::Key(key) => {
                let mut content = own.clone();
                content.extend_from_slice(&key.prove(Role::Called, [&theirs, &own]));
                Step::Send(packet(TYPE_HELLO, &content))
            }
        };
        self.heard = Some(([theirs, own], who));
        Ok(step)
    }
}

/// What the called side says: its greeting, and the proof behind it where there is one.
fn split_proof<'a>(bytes: &'a [u8], security: &Security) -> Option<(&'a [u8], Option<[u8; PROOF_BYTES]>)> {
    match security {
        Security::Insecure | Security::Session(_) => Some((bytes, None)),
        Security::Key(_) => bytes.split_last_chunk().map(|(hello, proof)| (hello, Some(*proof))),
    }
}

/// Who says this hello, if we can talk to each other.
fn examine(hello: &[u8], security: &Security) -> Result<(Stranger, Offer), Refusal> {
    let hello = Hello::parse(hello).map_err(|e| misbehaved(e.0))?;
    hello.agree(&[TCP_OFFER]).map_err(|why| Refusal::new(Error::Version, why.to_string()))?;
    let offer = hello.extension(TCP_OFFER).and_then(Offer::parse);
    let offer = offer.ok_or_else(|| misbehaved("a handshake without an offer"))?;
    security.check(offer.security)?;
    let listens = hello.extension(TCP_LISTENS).map_or(Some(NetAddresses::NONE), NetAddresses::from_slice);
    let listens = listens.ok_or_else(|| misbehaved("network addresses that cannot be"))?;
    let purpose = Purpose::of(offer.purpose, &hello);
    let purpose = purpose.ok_or_else(|| misbehaved("a handshake without an offer"))?;
    let Hello { node, incarnation, generation, .. } = hello;
    let uid = offer.uid;
    let who = Stranger { node, incarnation, uid, generation, purpose, listens };
    Ok((who, offer))
}

fn greeting(
    local: &Address,
    security: &Security,
    target: (NodeId, u64),
    generation: u32,
    purpose: Purpose,
) -> Result<Vec<u8>, Refusal> {
    let mut hello = Hello::new(local.node, local.incarnation, generation);
    let offer = Offer {
        security: security.number(),
        purpose: purpose.number(),
        uid: local.uid,
        nonce: nonce()?,
        node: target.0,
        incarnation: target.1,
    };
    hello.extensions.push(Extension { kind: TCP_OFFER, bytes: offer.encode() });
    if let Purpose::Path(ticket) = purpose {
        hello.extensions.push(Extension { kind: TCP_PATH, bytes: ticket.encode() });
    }
    if !local.network.is_empty() {
        hello.extensions.push(Extension { kind: TCP_LISTENS, bytes: local.network.to_bytes().to_vec() });
    }
    Ok(hello.encode())
}

fn stranger_there() -> Refusal {
    Refusal::new(Error::PeerGone, "another fabric listens there: unknown incarnation")
}

fn other_key() -> Refusal {
    Refusal::new(Error::Permission, "the two sides have different keys (GRIDNET_NET_KEY_FILE)")
}

fn misbehaved(why: &'static str) -> Refusal {
    Refusal::new(Error::PeerMisbehaved, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Key;
    use gridnet_core::testing::pair::address_of;
    use proptest::prelude::*;

    fn key(byte: u8) -> Security {
        Security::Key(Key::new(&[byte; 32]).unwrap())
    }

    /// Both sides talk until one is done; what each comes to.
    fn talk(
        (one, other): (&Security, &Security),
        target: (NodeId, u64),
        mut forge: impl FnMut(usize, &mut Vec<u8>),
    ) -> (Result<(), Refusal>, Result<Stranger, Refusal>) {
        let (a, b) = (Address { network: at_home(), ..address_of(1, 10) }, address_of(2, 20));
        let (mut caller, mut said) = Caller::begin(&a, one, target, 3, Purpose::Pulse).unwrap();
        let (mut called, mut to_caller, mut to_called) =
            (Called::default(), Inbox::default(), Inbox::default());
        let silent = || Refusal::new(Error::Timeout, "nobody speaks");
        let mut accepted = Err(silent());
        for turn in 0..4 {
            forge(turn, &mut said);
            let answer = if turn % 2 == 0 {
                to_called.push(&said);
                match called.step(&mut to_called, &b, other) {
                    Ok(Step::Wait) => return (Err(silent()), accepted),
                    Ok(Step::Send(bytes)) => bytes,
                    Ok(Step::Done(mut bytes)) => {
                        accepted = Ok(called.caller().unwrap());
                        bytes.extend(welcome());
                        bytes
                    }
                    Err(why) => {
                        accepted = Err(why.clone());
                        refusal(&why)
                    }
                }
            } else {
                to_caller.push(&said);
                match caller.step(&mut to_caller, one) {
                    Ok(Step::Wait) => return (Err(silent()), accepted),
                    Ok(Step::Send(bytes)) => bytes,
                    Ok(Step::Done(_)) => return (Ok(()), accepted),
                    Err(why) => return (Err(why), accepted),
                }
            };
            said = answer;
        }
        (Err(silent()), accepted)
    }

    fn at_home() -> NetAddresses {
        NetAddresses::new(4711, ["10.0.0.1".parse().unwrap()])
    }

    fn there() -> (NodeId, u64) {
        (address_of(2, 0).node, 1)
    }

    #[test]
    fn sides_with_one_key_or_none_meet() {
        for security in [Security::Insecure, key(1)] {
            let (caller, called) = talk((&security, &security), there(), |_, _| {});
            let who = Stranger {
                node: address_of(1, 0).node,
                incarnation: 1,
                uid: 10,
                generation: 3,
                purpose: Purpose::Pulse,
                listens: at_home(),
            };
            assert_eq!((caller, called), (Ok(()), Ok(who)));
        }
    }

    #[test]
    fn other_keys_no_key_and_other_fabrics_are_refused_with_a_reason() {
        let cases = [
            (key(1), key(2), there(), Error::Permission),
            (key(1), Security::Insecure, there(), Error::Permission),
            (Security::Insecure, key(1), there(), Error::Permission),
            (key(1), key(1), (there().0, 2), Error::PeerGone),
            (key(1), key(1), (address_of(3, 0).node, 1), Error::PeerGone),
        ];
        for (one, other, target, error) in cases {
            let (caller, called) = talk((&one, &other), target, |_, _| {});
            assert_eq!(caller.unwrap_err().error, error);
            assert!(called.is_err());
        }
    }

    /// Only who has shown who it is can refuse; and whether it may have taken the call is known, too.
    #[test]
    fn a_refusal_is_the_peers_word_when_it_has_shown_who_it_is() {
        let (a, b) = (address_of(1, 0), address_of(2, 0));
        let no = refusal(&Refusal::new(Error::Unsupported, "this side takes one path for each link"));
        for (security, at_first) in
            [(Security::Insecure, Standing::MayHaveTaken), (key(1), Standing::Stranger)]
        {
            for knows_peer in [false, true] {
                let begun = Caller::begin(&a, &security, there(), 1, Purpose::Pulse);
                let (mut caller, hello) = begun.expect("there is randomness");
                assert_eq!(caller.standing(), at_first);
                let (mut called, mut to_called, mut inbox) =
                    (Called::default(), Inbox::default(), Inbox::default());
                to_called.push(&hello);
                if knows_peer {
                    let (Ok(Step::Send(answer)) | Ok(Step::Done(answer))) =
                        called.step(&mut to_called, &b, &security)
                    else {
                        panic!("the hello is right");
                    };
                    inbox.push(&answer);
                    assert!(caller.step(&mut inbox, &security).is_ok());
                    assert_eq!(caller.standing(), Standing::MayHaveTaken);
                }
                inbox.push(&no);
                assert_eq!(
                    caller.step(&mut inbox, &security).map_err(|no| no.error),
                    Err(Error::Unsupported)
                );
                let expected = if knows_peer { Standing::Refused } else { Standing::Stranger };
                assert_eq!(caller.standing(), expected);
            }
        }
        // Who does not have the key has shown nothing.
        let (mut caller, hello) = Caller::begin(&a, &key(1), there(), 1, Purpose::Pulse).expect("it begins");
        let (mut called, mut to_called, mut inbox) = (Called::default(), Inbox::default(), Inbox::default());
        to_called.push(&hello);
        let Ok(Step::Send(answer)) = called.step(&mut to_called, &b, &key(2)) else { panic!("it answers") };
        inbox.push(&answer);
        inbox.push(&no);
        assert_eq!(caller.step(&mut inbox, &key(1)).map_err(|no| no.error), Err(Error::Permission));
        assert_eq!(caller.standing(), Standing::Stranger);
    }

    #[test]
    fn a_proof_that_was_heard_before_is_worth_nothing() {
        let mut heard = Vec::new();
        let (caller, _) = talk((&key(1), &key(1)), there(), |turn, said| {
            if turn == 2 {
                heard = said.clone();
            }
        });
        assert_eq!(caller, Ok(()));
        let (_, called) = talk((&key(1), &key(1)), there(), |turn, said| {
            if turn == 2 {
                *said = heard.clone();
            }
        });
        assert_eq!(called.unwrap_err().error, Error::Permission);
    }

    proptest! {
        #[test]
        fn one_wrong_byte_anywhere_is_fatal(turn in 0..3usize, at: prop::sample::Index, flip in 1..=255u8) {
            let mut flipped = false;
            let (caller, called) = talk((&key(1), &key(1)), there(), |now, said| {
                if now == turn {
                    let at = at.index(said.len());
                    said[at] ^= flip;
                    flipped = true;
                }
            });
            prop_assert!(flipped);
            // The caller is welcome only if the called has heard everything as it was said.
            prop_assert!(caller.is_err() && called.is_err());
        }

        #[test]
        fn any_bytes_are_borne(bytes: Vec<u8>, cuts in prop::collection::vec(1..9usize, 1..40)) {
            let (mut called, mut inbox) = (Called::default(), Inbox::default());
            let mut left = bytes.as_slice();
            for cut in cuts {
                let (now, later) = left.split_at(cut.min(left.len()));
                inbox.push(now);
                left = later;
                if called.step(&mut inbox, &address_of(2, 0), &key(1)).is_err() {
                    break;
                }
            }
            prop_assert!(called.caller().is_none());
        }
    }
}
