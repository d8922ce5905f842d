use super::*;
use crate::testing::Scratch;
use rustls::{AlertDescription, Connection};
use std::os::unix::fs::PermissionsExt;

const DAY: Duration = Duration::from_secs(86_400);

/// A session, and directories of its nodes.
struct Scene {
    scratch: Scratch,
    authority: Authority,
}

impl Scene {
    fn new(what: &str) -> Scene {
        let authority = Authority::create(id(9), Moment::now()).unwrap();
        Scene { scratch: Scratch::new(what), authority }
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.scratch.path(name)
    }

    fn node(&self, name: &str) -> Credentials {
        keep_certified(&self.dir(name), &self.authority, Moment::now(), DAY).unwrap();
        Credentials::open(&self.dir(name)).unwrap()
    }

    fn revoke(&self, at: &str, node: NodeId) {
        keep_revoked(&self.dir(at), &BTreeMap::from([(node, Moment::now().after(DAY))])).unwrap();
    }
}

fn id(byte: u8) -> NodeId {
    NodeId::new([byte; 16]).unwrap()
}

/// A handshake in memory; what became of it for the caller and for the called.
fn meet(caller: &Credentials, called: &Credentials, fabric: NodeId) -> [Result<(), rustls::Error>; 2] {
    talk(caller.call(fabric).unwrap(), called.answer().unwrap())
}

fn talk(caller: ClientConnection, called: ServerConnection) -> [Result<(), rustls::Error>; 2] {
    let mut ends = [Connection::from(caller), Connection::from(called)];
    let mut came = [Ok(()), Ok(())];
    for turn in 0..12 {
        let (from, to) = (turn % 2, 1 - turn % 2);
        let mut said = Vec::new();
        while ends[from].wants_write() {
            ends[from].write_tls(&mut said).unwrap();
        }
        let mut said = said.as_slice();
        while !said.is_empty() && came[to].is_ok() {
            ends[to].read_tls(&mut said).unwrap();
            came[to] = ends[to].process_new_packets().map(drop);
        }
    }
    if came.iter().all(Result::is_ok) {
        assert!(ends.iter().all(|end| !end.is_handshaking() && end.peer_certificates().is_some()));
    }
    came
}

fn alert(description: AlertDescription) -> Result<(), rustls::Error> {
    Err(rustls::Error::AlertReceived(description))
}

#[test]
fn fabrics_of_two_nodes_meet_and_each_node_speaks_for_its_own() {
    let scene = Scene::new("credentials-meet");
    let (one, other) = (scene.node("one"), scene.node("other"));
    let fabrics = [fabric_id(other.node(), id(3)), fabric_id(other.node(), id(4))];
    assert_ne!(fabrics[0], fabrics[1]);
    for fabric in fabrics {
        assert_eq!(meet(&one, &other, fabric), [Ok(()), Ok(())]);
        assert_eq!(meet(&other, &other, fabric), [Ok(()), Ok(())], "two fabrics of one node");
    }
    // Who is called by the name of another's fabric.
    let [caller, _] = meet(&one, &other, fabric_id(one.node(), id(3)));
    assert_eq!(caller, Err(CertificateError::NotValidForName.into()));
    let shown = kept::read(&scene.dir("one")).unwrap().certificate;
    assert!(other.check(std::slice::from_ref(&shown), fabric_id(one.node(), id(5))).is_ok());
    let why = other.check(std::slice::from_ref(&shown), fabrics[0]).unwrap_err().to_string();
    assert!(why.contains(&one.node().to_string()) && why.contains("none of its fabrics"), "{why}");
    assert!(other.check(&[], fabrics[0]).is_err());
}

#[test]
fn nodes_of_another_session_are_refused_by_both_sides() {
    let (mine, others) = (Scene::new("credentials-mine"), Scene::new("credentials-others"));
    let (one, other) = (mine.node("one"), others.node("other"));
    let [caller, called] = meet(&one, &other, fabric_id(other.node(), id(3)));
    assert!(matches!(caller, Err(rustls::Error::InvalidCertificate(_))), "{caller:?}");
    assert!(matches!(called, Err(rustls::Error::AlertReceived(_))), "{called:?}");
    // One that takes whoever answers: the called finds it out, too.
    let mut careless = ClientConfig::clone(&one.current().client);
    careless
        .dangerous()
        .set_certificate_verifier(Arc::new(Called { chain: Arc::new(TakesAll), revoked: Arc::default() }));
    let fabric = tls::node(fabric_id(other.node(), id(3))).unwrap();
    let caller = ClientConnection::new(Arc::new(careless), fabric).unwrap();
    let [_, called] = talk(caller, other.answer().unwrap());
    assert!(matches!(called, Err(rustls::Error::InvalidCertificate(_))), "{called:?}");
}

#[test]
fn a_node_that_was_revoked_is_refused_from_the_next_connection_on() {
    let scene = Scene::new("credentials-revoked");
    let (one, other) = (scene.node("one"), scene.node("other"));
    let (to_one, to_other) = (fabric_id(one.node(), id(3)), fabric_id(other.node(), id(3)));
    assert_eq!(meet(&one, &other, to_other), [Ok(()), Ok(())]);
    scene.revoke("one", other.node());
    let revoked = || Err(CertificateError::Revoked.into());
    assert_eq!(meet(&one, &other, to_other), [revoked(), alert(AlertDescription::CertificateRevoked)]);
    assert_eq!(meet(&other, &one, to_one), [alert(AlertDescription::CertificateRevoked), revoked()]);
    assert_eq!(meet(&other, &other, to_other), [Ok(()), Ok(())], "who has not heard of it");
    // So are those that are connected, and those who have shown their certificate just before.
    assert_eq!(one.revoked_of(&[to_one, to_other]), [to_other]);
    assert_eq!(other.revoked_of(&[to_one, to_other]), []);
    let shown = kept::read(&scene.dir("other")).unwrap().certificate;
    let why = one.check(std::slice::from_ref(&shown), to_other).unwrap_err().to_string();
    assert!(why.contains("was revoked"), "{why}");
}

#[test]
fn a_certificate_that_has_ended_is_refused_by_peers_and_not_shown_any_more() {
    let scene = Scene::new("credentials-ended");
    let good = scene.node("good");
    let past = Moment::now().before(2 * DAY);
    keep_certified(&scene.dir("old"), &scene.authority, past, DAY).unwrap();
    let why = Credentials::open(&scene.dir("old")).unwrap_err();
    assert!(matches!(&why, Error::Config(text) if text.contains("it is to join again")), "{why}");
    // One that does not look at the time.
    let kept = kept::read(&scene.dir("old")).unwrap();
    let (old, loaded) = (kept.node, Loaded::of(&kept).unwrap());
    let fabric = tls::node(fabric_id(good.node(), id(3))).unwrap();
    let [caller, called] =
        talk(ClientConnection::new(loaded.client, fabric).unwrap(), good.answer().unwrap());
    assert_eq!(caller, alert(AlertDescription::CertificateExpired));
    assert!(matches!(called, Err(rustls::Error::InvalidCertificate(_))), "{called:?}");
    let server = ServerConnection::new(loaded.server).unwrap();
    let [caller, _] = talk(good.call(fabric_id(old, id(3))).unwrap(), server);
    assert!(matches!(caller, Err(rustls::Error::InvalidCertificate(_))), "{caller:?}");
}

/// A rendez-vous node whose clock is ahead certifies what is not good yet elsewhere; one that is behind, what ends too early.
#[test]
fn clocks_may_differ_by_an_hour() {
    const MINUTE: Duration = Duration::from_secs(60);
    let scene = Scene::new("credentials-clocks");
    let good = scene.node("good");
    let to_good = fabric_id(good.node(), id(3));
    for (name, now) in
        [("ahead", Moment::now().after(55 * MINUTE)), ("behind", Moment::now().before(55 * MINUTE))]
    {
        keep_certified(&scene.dir(name), &scene.authority, now, 2 * 60 * MINUTE).unwrap();
        let other = Credentials::open(&scene.dir(name)).unwrap();
        assert_eq!(meet(&other, &good, to_good), [Ok(()), Ok(())], "{name}");
        assert_eq!(meet(&good, &other, fabric_id(other.node(), id(3))), [Ok(()), Ok(())], "{name}");
    }
    keep_certified(&scene.dir("far"), &scene.authority, Moment::now().after(65 * MINUTE), DAY).unwrap();
    let loaded = Loaded::of(&kept::read(&scene.dir("far")).unwrap()).unwrap();
    let fabric = tls::node(to_good).unwrap();
    let [_, called] = talk(ClientConnection::new(loaded.client, fabric).unwrap(), good.answer().unwrap());
    let is_early = |e: &rustls::Error| {
        use CertificateError::{NotValidYet, NotValidYetContext};
        matches!(e, rustls::Error::InvalidCertificate(NotValidYet | NotValidYetContext { .. }))
    };
    assert!(called.as_ref().is_err_and(is_early), "{called:?}");
}

#[test]
fn what_is_renewed_counts_and_what_is_broken_does_not() {
    let scene = Scene::new("credentials-renewed");
    let (one, other) = (scene.node("one"), scene.node("other"));
    let fabric = fabric_id(other.node(), id(3));
    let first = other.until();
    let key = NodeKey::create().unwrap();
    let now = Moment::now().after(Duration::from_secs(5));
    let certificate = scene.authority.certify(other.node(), key.request(), now, DAY).unwrap();
    let identity = key.certified(other.node(), &certificate).unwrap();
    kept::write_node(&scene.dir("other"), &identity, scene.authority.certificate()).unwrap();
    assert!(other.until() > first);
    assert_eq!(meet(&one, &other, fabric), [Ok(()), Ok(())]);
    std::fs::write(scene.dir("other").join("node"), "version = 1").unwrap();
    assert_eq!(meet(&one, &other, fabric), [Ok(()), Ok(())], "what was read before counts");
    assert!(Credentials::open(&scene.dir("other")).unwrap_err().to_string().contains("missing field"));
    // Another node does not take its place in the middle of things.
    std::fs::copy(scene.dir("one").join("node"), scene.dir("other").join("node")).unwrap();
    assert_eq!(meet(&one, &other, fabric), [Ok(()), Ok(())]);
}

#[test]
fn what_others_can_read_or_what_is_no_node_is_refused_and_nothing_is_shown() {
    let scene = Scene::new("credentials-private");
    let one = scene.node("one");
    let file = scene.dir("one").join("node");
    let text = std::fs::read_to_string(&file).unwrap();
    let key = text.split("key = \"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    assert!(key.len() > 100 && !format!("{one:?} {:?}", one.answer().unwrap()).contains(&key[..40]));
    for (from, to) in [
        ("key = \"", "key = \"x"),
        ("certificate = \"", "certificate = \"00"),
        ("version = 1", "version = 2"),
    ] {
        std::fs::write(&file, text.replacen(from, to, 1)).unwrap();
        let why = Credentials::open(&scene.dir("one")).unwrap_err();
        assert!(matches!(&why, Error::Config(_)) && !why.to_string().contains(&key[..40]), "{why}");
    }
    std::fs::write(&file, &text).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(Credentials::open(&scene.dir("one")), Err(Error::Permission(_))));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::set_permissions(scene.dir("one"), std::fs::Permissions::from_mode(0o750)).unwrap();
    assert!(matches!(Credentials::open(&scene.dir("one")), Err(Error::Permission(_))));
    assert!(matches!(Credentials::open(&scene.dir("none")), Err(Error::Config(_) | Error::System(_))));
}

/// Takes every chain.
#[derive(Debug)]
struct TakesAll;

impl ServerCertVerifier for TakesAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2".into()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[test]
fn revocations_count_whatever_becomes_of_the_directory() {
    let scene = Scene::new("credentials-later");
    let (one, other, third) = (scene.node("one"), scene.node("other"), scene.node("third"));
    let is_revoked = |who: &Credentials| !one.revoked_of(&[fabric_id(who.node(), id(3))]).is_empty();
    scene.revoke("one", other.node());
    let path = scene.dir("one").join("revoked");
    let set_mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    set_mode(0o644);
    assert!(!is_revoked(&other), "what others can read is not taken");
    set_mode(0o600);
    assert!(is_revoked(&other), "what could not be read is read again");
    // The keeper has joined anew, as another node.
    let later = keep_certified(&scene.dir("one"), &scene.authority, Moment::now(), DAY).unwrap();
    scene.revoke("one", third.node());
    assert!(is_revoked(&third) && is_revoked(&other));
    assert_ne!(one.node(), later);
    assert_eq!(meet(&one, &one, fabric_id(one.node(), id(3))), [Ok(()), Ok(())], "it stays who it was");
}
