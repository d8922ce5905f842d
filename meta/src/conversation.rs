//! One conversation between two members: TLS 1.3 inside of packets, so that those who pass them on see ciphertext only.
//!
//! No socket, no clock: pieces come in and go out. A piece that is missing ends the conversation; whoever has something to say
//! begins another one.

use std::io::{Read, Write};
use std::sync::Arc;

use gridnet_core::wire::NodeId;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};

use crate::channel::Frames;
use crate::clock::Moment;
use crate::error::Error;
use crate::message::{Message, MESSAGE_BYTES_MAX};
use crate::packet::{Conversation, Load, Sealed, PACKET_BYTES_MAX};
use crate::tls;

/// Bytes of a piece, so that it fits a packet with what is around it.
const PIECE_BYTES: usize = PACKET_BYTES_MAX - 64;

/// See the [module](self).
pub(crate) struct Talk {
    peer: NodeId,
    of: Conversation,
    tls: Connection,
    frames: Frames,
    next_in: u32,
    next_out: u32,
    /// When the peer's certificate ends; known once it has been shown.
    until: Option<Moment>,
}

impl Talk {
    /// Begins one.
    pub(crate) fn begin(peer: NodeId, number: u64, config: Arc<ClientConfig>) -> Result<Talk, Error> {
        let tls = ClientConnection::new(config, tls::node(peer)?).map_err(internal)?;
        Ok(Talk::new(peer, Conversation { number, is_mine: true }, tls.into()))
    }

    /// Answers one that the peer has begun.
    pub(crate) fn answer(peer: NodeId, number: u64, config: Arc<ServerConfig>) -> Result<Talk, Error> {
        let tls = ServerConnection::new(config).map_err(internal)?;
        Ok(Talk::new(peer, Conversation { number, is_mine: false }, tls.into()))
    }

    fn new(peer: NodeId, of: Conversation, mut tls: Connection) -> Talk {
        // What may wait for the end of the handshake is bounded by who speaks.
        tls.set_buffer_limit(None);
        Talk { peer, of, tls, frames: Frames::new(MESSAGE_BYTES_MAX), next_in: 0, next_out: 0, until: None }
    }

    /// Whether both sides are proved.
    pub(crate) fn is_open(&self) -> bool {
        self.until.is_some() && !self.tls.is_handshaking()
    }

    /// Whether the certificate of the peer has ended.
    pub(crate) fn has_ended(&self, now: Moment) -> bool {
        self.until.is_some_and(|until| now >= until)
    }

    /// When the certificate of the peer ends.
    pub(crate) fn certified_until(&self) -> Option<Moment> {
        self.until
    }

    /// Says something, once the other side is proved.
    pub(crate) fn say(&mut self, message: &Message) -> Result<(), Error> {
        let bytes = message.encode()?;
        self.tls.writer().write_all(&bytes).map_err(|e| Error::System(format!("TLS: {e}")))
    }

    /// Says what may be no message.
    #[cfg(test)]
    pub(crate) fn say_raw(&mut self, bytes: &[u8]) {
        self.tls.writer().write_all(bytes).unwrap();
    }

    /// Takes a piece; what the peer says by it.
    ///
    /// # Errors
    /// When a piece is missing, or the peer is not who it should be: the conversation is over.
    pub(crate) fn take(&mut self, piece: &Sealed) -> Result<Vec<Message>, Error> {
        if piece.sequence != self.next_in {
            return Err(Error::Unreachable(format!(
                "piece {} where {} was due",
                piece.sequence, self.next_in
            )));
        }
        self.next_in += 1;
        let mut bytes = &piece.bytes[..];
        let mut said = Vec::new();
        while !bytes.is_empty() {
            let taken = self.tls.read_tls(&mut bytes).map_err(|e| Error::Peer(format!("TLS: {e}")))?;
            if taken == 0 {
                return Err(Error::Peer("it speaks on after the end".into()));
            }
            let state = self.tls.process_new_packets().map_err(|e| Error::Peer(format!("TLS: {e}")))?;
            let mut plain = vec![0; state.plaintext_bytes_to_read()];
            self.tls.reader().read_exact(&mut plain).map_err(|e| Error::Peer(format!("TLS: {e}")))?;
            self.prove()?;
            self.frames.add(&plain);
            while let Some(message) = self.frames.next()? {
                said.push(message);
            }
        }
        Ok(said)
    }

    /// Who answers is proved by TLS, by its name; who has begun is to show the certificate of the node that the packets come from.
    fn prove(&mut self) -> Result<(), Error> {
        if self.until.is_some() || self.tls.is_handshaking() {
            return Ok(());
        }
        let shown = tls::shown(self.tls.peer_certificates())?;
        let certificate = shown.filter(|certificate| certificate.node == Some(self.peer));
        let certificate =
            certificate.ok_or_else(|| Error::Peer("it shows the certificate of another node".into()))?;
        self.until = Some(certificate.until);
        Ok(())
    }

    /// What is to be sent.
    pub(crate) fn pieces(&mut self) -> Vec<Load> {
        let mut bytes = Vec::new();
        while self.tls.wants_write() {
            // A vector takes all.
            if self.tls.write_tls(&mut bytes).is_err() {
                break;
            }
        }
        let pieces = bytes.chunks(PIECE_BYTES).map(|piece| {
            let sequence = self.next_out;
            self.next_out += 1;
            Load::Sealed(Sealed { of: self.of, sequence, bytes: piece.to_vec() })
        });
        pieces.collect()
    }
}

fn internal(error: rustls::Error) -> Error {
    Error::System(format!("TLS: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Parties;
    use proptest::prelude::*;

    /// Hands over what both have to say until they are silent; what each has heard, or why it has ended.
    fn run(one: &mut Talk, other: &mut Talk) -> Result<[Vec<Message>; 2], Error> {
        let mut heard = [Vec::new(), Vec::new()];
        loop {
            let (there, back) = (one.pieces(), other.pieces());
            if there.is_empty() && back.is_empty() {
                return Ok(heard);
            }
            for piece in there {
                heard[1].extend(other.take(sealed(&piece))?);
            }
            for piece in back {
                heard[0].extend(one.take(sealed(&piece))?);
            }
        }
    }

    fn sealed(load: &Load) -> &Sealed {
        match load {
            Load::Sealed(sealed) => sealed,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_said_comes_to_the_other_and_is_not_seen_on_the_way() {
        let parties = Parties::new();
        let (mut one, mut other) = parties.talk(0, 1, 0);
        one.say(&Message::Renew(vec![7; 20_000])).unwrap();
        assert!(!one.is_open());
        let heard = run(&mut one, &mut other).unwrap();
        assert_eq!(heard, [vec![], vec![Message::Renew(vec![7; 20_000])]]);
        assert!(one.is_open() && other.is_open());
        other.say(&Message::Ping(3)).unwrap();
        one.say(&Message::Renew(vec![7; 200])).unwrap();
        let pieces = one.pieces();
        assert!(!sealed(&pieces[0]).bytes.windows(20).any(|part| part == [7; 20]));
        assert_eq!(other.take(sealed(&pieces[0])).unwrap(), [Message::Renew(vec![7; 200])]);
        assert_eq!(run(&mut one, &mut other).unwrap(), [vec![Message::Ping(3)], vec![]]);
        assert!(!one.has_ended(Moment::now()) && one.has_ended(Moment::from_unix(i64::MAX)));
    }

    #[test]
    fn nobody_is_taken_for_another_and_a_piece_that_comes_again_or_not_at_all_ends_it() {
        let parties = Parties::new();
        // It claims to be node 2, and has the certificate of node 0.
        let (mut one, mut other) = parties.talk(0, 1, 2);
        assert!(matches!(run(&mut one, &mut other), Err(Error::Peer(why)) if why.contains("another node")));
        // One of another session.
        let (mut one, _) = parties.talk(0, 1, 0);
        let (_, mut other) = Parties::new().talk(0, 1, 0);
        assert!(matches!(run(&mut one, &mut other), Err(Error::Peer(_))));
        let (mut one, mut other) = parties.talk(0, 1, 0);
        let first = one.pieces();
        other.take(sealed(&first[0])).unwrap();
        assert!(matches!(other.take(sealed(&first[0])), Err(Error::Unreachable(_))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Whatever happens to a piece on its way, nothing else is heard than what was said, and nobody falls.
        #[test]
        fn pieces_that_were_changed_say_nothing(at: usize, flip in 1..=255u8, which in 0..3usize) {
            static PARTIES: std::sync::OnceLock<Parties> = std::sync::OnceLock::new();
            let (mut one, mut other) = PARTIES.get_or_init(Parties::new).talk(0, 1, 0);
            one.say(&Message::Ping(9)).unwrap();
            let mut heard = Vec::new();
            for step in 0..3 {
                for load in one.pieces() {
                    let mut piece = sealed(&load).clone();
                    if step == which {
                        let at = at % piece.bytes.len();
                        piece.bytes[at] ^= flip;
                    }
                    match other.take(&piece) {
                        Ok(said) => heard.extend(said),
                        Err(_) => return Ok(()),
                    }
                }
                for load in other.pieces() {
                    let _ = one.take(sealed(&load));
                }
            }
            prop_assert!(heard.iter().all(|message| *message == Message::Ping(9)));
        }
    }
}
