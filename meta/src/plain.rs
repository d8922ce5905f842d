//! The bootstrap channel over bare TCP, for sessions whose configuration says `insecure = true`.
//!
//! Who begins a connection proves who it is, as over TLS; what follows is protected by nothing. So nothing is said over such a
//! connection that would be of use to others: a certificate is given for the key of a request only that the proof at the beginning
//! was for, changes of the directory are signed, and what members say to one another is sealed by them.
//!
//! ```text
//! caller -> Plain: random number                                                      rendez-vous node
//! caller <- Plain: random number, its certificate and the authority's, a signature    rendez-vous node
//! caller -> Plain: its certificate, a signature, and what it says of itself;          rendez-vous node
//!            or a request for another certificate
//! ```
//!
//! Signatures are over the role of who signs, both random numbers, and the rest of what is said. Who has no certificate says Join
//! instead, with its proof over both random numbers.

use rcgen::KeyPair;
use rcgen::SigningKey as _;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::channel::{send, Inbox};
use crate::error::Error;
use crate::identity::{Certificate, Identity};
use crate::message::{Message, Plain, LENGTH_BYTES, MESSAGE_BYTES_MAX};
use crate::ticket::Fingerprint;
use crate::tls::{self, KEYING_BYTES};

/// Bytes of a random number.
pub(crate) const NONCE_BYTES: usize = 32;

const LABEL: &[u8] = b"gridnet plain 1 ";
const CALLER: &[u8] = b"caller";
const CALLED: &[u8] = b"called";
const KEYING: &[u8] = b"keying";

/// The random numbers of the caller and of the one that is called.
struct Nonces([u8; NONCE_BYTES], [u8; NONCE_BYTES]);

impl Nonces {
    /// What somebody in this role signs, or what both have in common.
    fn text(&self, role: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        let mut text = [LABEL, role, b" ", &self.0, &self.1].concat();
        for part in parts {
            // Lengths keep the parts apart.
            text.extend((part.len() as u64).to_le_bytes());
            text.extend_from_slice(part);
        }
        text
    }

    /// What the proof of a newcomer is bound to.
    fn keying(&self) -> [u8; KEYING_BYTES] {
        Sha256::digest(self.text(KEYING, &[])).into()
    }
}

/// What the rendez-vous node shows.
pub(crate) struct Own {
    pub(crate) key: KeyPair,
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) authority: CertificateDer<'static>,
}

/// Who calls.
pub(crate) enum Caller {
    /// One that wants to join, and this is what is to be proved.
    Newcomer([u8; KEYING_BYTES]),
    /// A node, and the request for another certificate if that is all it wants.
    Node(Certificate, Option<Vec<u8>>),
}

/// The side of the rendez-vous node: who calls, and its first message if that has come with it.
pub(crate) async fn answer<Reader, Writer>(
    own: &Own,
    reader: &mut Inbox<Reader>,
    writer: &mut Writer,
) -> Result<(Caller, Option<Message>), Error>
where
    Reader: AsyncRead + Unpin,
    Writer: AsyncWrite + Unpin,
{
    let Message::Plain(hello) = reader.next().await? else { return Err(no_hello()) };
    let nonces = Nonces(hello.nonce, nonce()?);
    let signed = nonces.text(CALLED, &[&own.certificate, &own.authority]);
    let signature = own.key.sign(&signed).map_err(|e| Error::System(format!("signing: {e}")))?;
    let answer = Plain {
        nonce: nonces.1,
        certificate: own.certificate.to_vec(),
        authority: own.authority.to_vec(),
        signature,
        ..Plain::default()
    };
    send(writer, &Message::Plain(answer)).await?;
    let said = match reader.next().await? {
        Message::Plain(said) => said,
        other => return Ok((Caller::Newcomer(nonces.keying()), Some(other))),
    };
    let certificate = tls::judge_node(&own.authority, &CertificateDer::from(said.certificate.as_slice()))?;
    let signed = nonces.text(CALLER, &[&said.certificate, &said.request, &said.attach]);
    if !certificate.has_signed(&signed, &said.signature) {
        return Err(Error::Peer("it does not have the key of the certificate that it shows".into()));
    }
    if !said.request.is_empty() {
        return Ok((Caller::Node(certificate, Some(said.request)), None));
    }
    // What comes later anybody could have said.
    let attach = said.attach.get(LENGTH_BYTES..).unwrap_or_default();
    let attach = Message::decode(attach)?.ok_or_else(|| Error::Peer("it says nothing of itself".into()))?;
    Ok((Caller::Node(certificate, None), Some(attach)))
}

/// What the side that calls has learned: the certificates of the rendez-vous node and of the authority, and what a proof is bound to.
type Learned = (Vec<CertificateDer<'static>>, [u8; KEYING_BYTES]);

/// What a node wants that calls.
#[derive(Clone, Copy)]
pub(crate) enum Wants<'a> {
    /// Another certificate, for this request.
    Renewal(&'a [u8]),
    /// To be a member, of which this is said: [`Message::Attach`], encoded.
    Attach(&'a [u8]),
}

/// The side of one that calls: as this node, if it is one, which wants that.
pub(crate) async fn call<Stream>(
    stream: &mut Stream,
    authority: Fingerprint,
    node: Option<(&Identity, Wants<'_>)>,
) -> Result<Learned, Error>
where
    Stream: AsyncRead + AsyncWrite + Unpin,
{
    let own = nonce()?;
    send(stream, &Message::Plain(Plain { nonce: own, ..Plain::default() })).await?;
    // It says nothing more before it is asked for something.
    let answer = Inbox::new(&mut *stream, MESSAGE_BYTES_MAX).next().await?;
    let Message::Plain(theirs) = answer else { return Err(no_hello()) };
    let nonces = Nonces(own, theirs.nonce);
    let chain = [&theirs.certificate, &theirs.authority].map(|der| CertificateDer::from(der.clone()));
    let certificate = tls::judge_rendezvous(authority, &chain)?;
    let signed = nonces.text(CALLED, &[&theirs.certificate, &theirs.authority]);
    if !certificate.has_signed(&signed, &theirs.signature) {
        return Err(Error::Peer("it does not have the key of the rendez-vous node".into()));
    }
    if let Some((identity, wants)) = node {
        let (request, attach) = match wants {
            Wants::Renewal(request) => (request, &[][..]),
            Wants::Attach(attach) => (&[][..], attach),
        };
        let shown = identity.to_der().1.to_vec();
        let signature = identity.sign(&nonces.text(CALLER, &[&shown, request, attach]))?;
        let (request, attach) = (request.to_vec(), attach.to_vec());
        let said = Plain { certificate: shown, request, attach, signature, ..Plain::default() };
        send(stream, &Message::Plain(said)).await?;
    }
    Ok((chain.into(), nonces.keying()))
}

fn nonce() -> Result<[u8; NONCE_BYTES], Error> {
    let mut nonce = [0; NONCE_BYTES];
    crate::random::fill(&mut nonce)?;
    Ok(nonce)
}

fn no_hello() -> Error {
    Error::Peer("speaks no protocol of sessions".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::Authority;
    use crate::clock::Moment;
    use crate::message::Attach;
    use crate::testing::{in_runtime, Parties};
    use std::time::Duration;
    use tokio::io::{DuplexStream, ReadHalf, WriteHalf};

    const DAY: Duration = Duration::from_secs(86_400);

    fn own(authority: &Authority) -> Own {
        let (key, now) = (crate::authority::key().unwrap(), Moment::now());
        let certificate = authority.certify_rendezvous(&key, now, DAY).unwrap();
        Own { key, certificate, authority: authority.certificate().clone() }
    }

    type Ends = (Inbox<ReadHalf<DuplexStream>>, WriteHalf<DuplexStream>);

    fn ends(stream: DuplexStream) -> Ends {
        let (reader, writer) = tokio::io::split(stream);
        (Inbox::new(reader, 4096), writer)
    }

    /// What comes of it on the side that is called, and on the one that calls as a member with a request.
    fn meet(own: &Own, authority: Fingerprint, identity: &Identity) -> (Result<Caller, Error>, bool) {
        in_runtime(async {
            let (mut caller, called) = tokio::io::duplex(1 << 16);
            let calls = async {
                let learned =
                    call(&mut caller, authority, Some((identity, Wants::Renewal(b"request")))).await;
                drop(caller);
                learned.is_ok()
            };
            let (mut reader, mut writer) = ends(called);
            let (answered, learned) = tokio::join!(answer(own, &mut reader, &mut writer), calls);
            (answered.map(|(caller, _)| caller), learned)
        })
    }

    #[test]
    fn both_prove_who_they_are() {
        let parties = Parties::new();
        let (identity, _) = parties.member(0);
        let own = own(parties.authority());
        let authority = parties.authority().fingerprint();
        match meet(&own, authority, &identity) {
            (Ok(Caller::Node(certificate, request)), true) => {
                assert_eq!(
                    (certificate.node, request.as_deref()),
                    (Some(parties.node(0)), Some(&b"request"[..]))
                );
            }
            (_, learned) => panic!("{learned}"),
        }
        // A member of another session, and a rendez-vous node of another.
        let other = Parties::new();
        assert!(matches!(meet(&own, authority, &other.member(0).0), (Err(Error::Peer(_)), true)));
        assert!(!meet(&own, other.authority().fingerprint(), &identity).1);
        // One that shows the certificate of the rendez-vous node, and has another key.
        let thief = Own { key: crate::authority::key().unwrap(), ..own };
        assert!(!meet(&thief, authority, &identity).1);
    }

    /// Says what somebody on the way makes of what a member has said.
    fn change(change: impl Fn(&mut Plain)) -> Result<Caller, Error> {
        change_of(Wants::Renewal(b"request"), change).map(|(caller, _)| caller)
    }

    fn change_of(wants: Wants<'_>, change: impl Fn(&mut Plain)) -> Result<(Caller, Option<Message>), Error> {
        let parties = Parties::new();
        let (identity, _) = parties.member(0);
        let (own, authority) = (own(parties.authority()), parties.authority().fingerprint());
        in_runtime(async {
            let (mut caller, near) = tokio::io::duplex(1 << 16);
            let (far, called) = tokio::io::duplex(1 << 16);
            let ((mut from_caller, mut to_caller), (mut from_called, mut to_called)) =
                (ends(near), ends(far));
            let on_the_way = async {
                send(&mut to_called, &from_caller.next().await.unwrap()).await.unwrap();
                send(&mut to_caller, &from_called.next().await.unwrap()).await.unwrap();
                let Message::Plain(mut said) = from_caller.next().await.unwrap() else { panic!() };
                change(&mut said);
                send(&mut to_called, &Message::Plain(said)).await.unwrap();
            };
            let (mut reader, mut writer) = ends(called);
            let calls = call(&mut caller, authority, Some((&identity, wants)));
            let (answered, _, _) = tokio::join!(answer(&own, &mut reader, &mut writer), calls, on_the_way);
            answered
        })
    }

    #[test]
    fn nobody_on_the_way_changes_what_a_member_says_of_itself() {
        let attach = |label: &str| {
            let (cluster, label) = ("c".parse().unwrap(), label.parse().unwrap());
            let (known, more, leads) = Default::default();
            let will = crate::cluster::Will::Willing;
            Message::Attach(Attach { cluster, label, known, will, leads, pass: None, more })
        };
        let (honest, other) = (attach("honest"), attach("other"));
        let bytes = honest.encode().unwrap();
        let change = |change: &dyn Fn(&mut Plain)| change_of(Wants::Attach(&bytes), change);
        assert!(matches!(change(&|_| ()), Ok((Caller::Node(_, None), Some(said))) if said == honest));
        assert!(change(&|said| said.attach = other.encode().unwrap()).is_err());
        assert!(change(&|said| said.attach.clear()).is_err());
        assert!(change(&|said| said.request = b"request".to_vec()).is_err());
        // Who signs that it says nothing is not asked later.
        assert!(change_of(Wants::Attach(&[]), |_| ()).is_err());
    }

    #[test]
    fn nobody_on_the_way_gets_a_certificate_for_a_key_of_its_own() {
        assert!(change(|_| ()).is_ok());
        let key = |why: Result<Caller, Error>| matches!(why, Err(Error::Peer(why)) if why.contains("key"));
        assert!(key(change(|said| said.request = b"another".to_vec())));
        assert!(key(change(|said| said.request.clear())));
        assert!(key(change(|said| said.signature = vec![1; 70])));
        // Nothing of it can be another.
        for at in 0..30 {
            let flip = |bytes: &mut Vec<u8>| {
                let place = at * 7919 % bytes.len();
                bytes[place] ^= 1 << (at % 8);
            };
            assert!(change(|said| flip(&mut said.certificate)).is_err(), "{at}");
            assert!(change(|said| flip(&mut said.signature)).is_err(), "{at}");
        }
        // What was said over another connection is over.
        let earlier = std::cell::RefCell::new(Plain::default());
        assert!(change(|said| *earlier.borrow_mut() = said.clone()).is_ok());
        assert!(change(|said| *said = earlier.borrow().clone()).is_err());
    }
}
