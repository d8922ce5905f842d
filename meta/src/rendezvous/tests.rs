//! Members that have gone wild: certified, and saying anything.

use super::*;
use crate::channel::{send, send_encoded};
use crate::message::tests::some;
use crate::packet::{Load, Packet};
use crate::testing::{in_runtime, Session as Scene, LONG};
use tokio::time::timeout;

fn id(number: u128) -> NodeId {
    NodeId::new((number + 1).to_be_bytes()).unwrap()
}

#[test]
fn whatever_a_member_says_the_others_are_served() {
    let count = if std::env::var_os("TEST_SOAK").is_some() { 20_000 } else { 300 };
    let scene = Scene::new("anything");
    in_runtime(async {
        let mut good = scene.member(id(0)).await;
        let (mut wild, mut connections) = (scene.member(id(1)).await, 1u128);
        // Numbers that are the same in each run (Knuth's generator, MMIX).
        let mut state = 20_260_101u64;
        let mut number = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        let messages = some();
        for _ in 0..count {
            let mut bytes = messages[number(messages.len())].encode().unwrap();
            for _ in 0..number(4) {
                let at = number(bytes.len());
                bytes[at] ^= 1 << number(8);
            }
            if number(2) == 0 {
                // A length that fits, so that the rest is looked at.
                let len = bytes.len() as u32 - 4;
                bytes[..4].copy_from_slice(&len.to_le_bytes());
            }
            let is_sent = send_encoded(&mut wild.writer, &bytes).await.is_ok();
            if !is_sent || number(8) == 0 {
                connections += 1;
                wild = scene.member(id(connections)).await;
            }
        }
        assert!(good.is_heard().await);
    });
    assert!(scene.rendezvous.is_running());
    assert!(scene.rendezvous.status().refusals["malformed"] > 0);
}

#[test]
fn a_member_that_floods_is_put_off_and_the_others_are_served() {
    let scene = Scene::new("flood");
    in_runtime(async {
        let mut good = scene.member(id(0)).await;
        let mut wild = scene.member(id(1)).await;
        assert!(good.is_heard().await && wild.is_heard().await);
        let packet = |number| Packet::new(id(1), id(0), number, &Load::Other(9));
        for number in 0..3000 {
            send(&mut wild.writer, &Message::Packet(packet(number))).await.unwrap();
            if number % 500 == 0 {
                assert!(good.is_heard().await);
            }
        }
        // It is told of some that did not get there.
        let told = async {
            loop {
                if let Message::Packet(told) = wild.reader.next().await.unwrap() {
                    return told.load();
                }
            }
        };
        let told = timeout(LONG, told).await.unwrap();
        assert!(matches!(told, Some(Load::Undelivered { why: Refusal::Rate, .. })), "{told:?}");
        assert!(good.is_heard().await);
    });
    assert!(scene.rendezvous.status().refusals["rate"] > 0);
}

#[test]
fn nobody_sends_in_the_name_of_another() {
    let scene = Scene::new("forged");
    in_runtime(async {
        let mut good = scene.member(id(0)).await;
        let mut wild = scene.member(id(1)).await;
        assert!(good.is_heard().await && wild.is_heard().await);
        let forged = Packet::new(id(2), id(0), 1, &Load::Other(9));
        send(&mut wild.writer, &Message::Packet(forged)).await.unwrap();
        let honest = Packet::new(id(1), id(0), 2, &Load::Other(9));
        send(&mut wild.writer, &Message::Packet(honest)).await.unwrap();
        let first = async {
            loop {
                if let Message::Packet(packet) = good.reader.next().await.unwrap() {
                    return packet;
                }
            }
        };
        let first = timeout(LONG, first).await.unwrap();
        assert_eq!((first.from, first.number, first.trail.nodes()), (id(1), 2, &[scene.store.session()][..]));
    });
    let status = scene.rendezvous.status();
    assert!(status.refused.iter().any(|line| line.refusal == "malformed" && line.why.contains("not there")));
}

/// Until its connection ends: why it was refused.
async fn refused(wild: &mut crate::testing::Wild) -> Refusal {
    let refused = async {
        loop {
            if let Message::Refused(refused) = wild.reader.next().await.unwrap() {
                return refused.refusal;
            }
        }
    };
    timeout(LONG, refused).await.unwrap()
}

#[test]
fn a_member_that_claims_to_lead_again_and_again_is_put_out() {
    let scene = Scene::new("claims");
    in_runtime(async {
        let (mut good, mut wild) = (scene.member(id(0)).await, scene.member(id(1)).await);
        let claim = Message::Leading(vec![SocketAddr::from(([127, 0, 0, 1], 9))]);
        // At once, so that nothing of it is unread when the connection ends.
        send_encoded(&mut wild.writer, &claim.encode().unwrap().repeat(30)).await.unwrap();
        assert_eq!(refused(&mut wild).await, Refusal::Rate);
        assert!(good.is_heard().await);
    });
}

#[test]
fn a_leader_that_names_many_that_are_not_there_does_not_push_out_what_others_were_refused_for() {
    let scene = Scene::new("names");
    let shared = &scene.rendezvous.shared;
    shared.refused("somebody".into(), Refusal::Ticket, "before");
    const COUNT: u64 = 1000;
    in_runtime(async {
        let (mut good, wild) = (scene.member(id(0)).await, scene.member(id(1)).await);
        let (cluster, label) = ("c".parse().unwrap(), "l".parse().unwrap());
        let (known, more) = (Version::default(), crate::record::Extras::default());
        let (will, leads, pass) = (Default::default(), Vec::new(), None);
        let about = crate::message::Attach { cluster, label, known, will, leads, pass, more };
        let (mut reader, mut writer) = (wild.reader, wild.writer);
        let names = async {
            for number in 0..COUNT {
                let present = crate::message::Present { node: id(number.into()), about: about.clone() };
                send(&mut writer, &Message::Present(present)).await.unwrap();
            }
        };
        let denied = async {
            let mut denied = 0;
            while denied < COUNT {
                denied += u64::from(matches!(reader.next().await.unwrap(), Message::Denied(_)));
            }
        };
        timeout(LONG, async { tokio::join!(names, denied) }).await.unwrap();
        assert!(good.is_heard().await);
    });
    let status = scene.rendezvous.status();
    assert_eq!(status.refusals["pass"], COUNT);
    assert!(status.refused.iter().any(|line| line.why == "before"), "{} lines", status.refused.len());
}

#[test]
fn hellos_of_strangers_are_limited_and_so_are_their_lines() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let scene = Scene::new("hellos");
    let (shared, later) = (&scene.rendezvous.shared, Instant::now() + Duration::from_secs(3600));
    const COUNT: usize = 100;
    in_runtime(async {
        let mut good = scene.member(id(0)).await;
        // All that may come of this address for an hour have come.
        while shared.hellos.may_come([127, 0, 0, 1].into(), later) {}
        for _ in 0..COUNT {
            let mut stranger = tokio::net::TcpStream::connect(scene.rendezvous.listening()[0]).await.unwrap();
            let _ = stranger.write_all(&[0x16, 3, 1]).await;
            let mut said = Vec::new();
            let _ = timeout(LONG, stranger.read_to_end(&mut said)).await.expect("it is dropped");
            assert!(said.is_empty(), "not even an alert: {said:?}");
        }
        assert!(good.is_heard().await);
    });
    let status = scene.rendezvous.status();
    assert_eq!(status.refusals["rate"], COUNT as u64);
    // Ten at once, and ten a second.
    let lines = status.refused.len() as u64;
    assert!(lines >= 10 && lines <= 10 + 10 * (1 + shared.started.elapsed().as_secs()), "{lines}");
}

#[test]
fn members_are_told_again_and_again_that_the_directory_is_still_so() {
    let rules = Rules { silence: LONG, still: Duration::from_millis(5), ..Rules::default() };
    let scene = Scene::with("still", rules);
    let key = crate::authority::AuthorityKey::of(scene.store.authority().unwrap().certificate()).unwrap();
    in_runtime(async {
        let mut member = scene.member(id(0)).await;
        let mut words = Vec::new();
        let hear = async {
            while words.len() < 5 {
                if let Message::Still(still) = member.reader.next().await.unwrap() {
                    assert!(still.is_signed_by(&key));
                    words.push(still);
                }
            }
        };
        timeout(LONG, hear).await.unwrap();
        assert!(words.is_sorted_by_key(|still| (still.version, still.at)), "{words:?}");
        assert!(words[4].version.number > 0);
    });
}

#[test]
fn a_plain_connection_is_given_no_certificate_whatever_others_its_node_has() {
    use crate::hub::{Hub, Said, Visitor};
    let scene = Scene::new("plain-visitor");
    in_runtime(async {
        // Over TLS.
        let mut good = scene.member(id(0)).await;
        assert!(good.is_heard().await);
        let (from, until) = (SocketAddr::from(([127, 0, 0, 1], 1)), Moment::from_unix(i64::MAX));
        let renew = |is_plain| {
            let mut visitor = Visitor { node: id(0), connection: 1, from, until, is_plain };
            let request = crate::identity::NodeKey::create().unwrap().request().to_vec();
            scene.rendezvous.shared.take(&mut visitor, Message::Renew(request)).unwrap()
        };
        assert!(matches!(renew(true), Said::Denied((Refusal::Malformed, _))));
        assert!(matches!(renew(false), Said::Answer(Message::Renewed(_))));
    });
}

#[test]
fn who_shows_a_certificate_that_has_ended_is_refused_and_audited() {
    let scene = Scene::new("ended");
    let past = Moment::now().before(48 * 60 * LONG);
    let identity = scene.identity_of(id(0), past, 60 * LONG);
    let tls = crate::tls::member(scene.store.authority().unwrap().certificate(), &identity).unwrap();
    let from = in_runtime(async {
        let stream = tokio::net::TcpStream::connect(scene.rendezvous.listening()[0]).await.unwrap();
        let from = stream.local_addr().unwrap();
        let connector = tokio_rustls::TlsConnector::from(tls);
        // In TLS 1.3 a caller is through before it is judged.
        if let Ok(stream) = connector.connect(crate::tls::rendezvous().unwrap(), stream).await {
            let mut inbox = crate::channel::Inbox::new(stream, 4096);
            assert!(timeout(LONG, inbox.next()).await.unwrap().is_err());
        }
        from
    });
    // The line is written when both have hung up.
    let deadline = Instant::now() + LONG;
    let status = || scene.rendezvous.status();
    while status().refused.is_empty() {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    let status = status();
    assert_eq!((status.refusals.get("stranger"), status.nodes.len()), (Some(&1), 0));
    let line = &status.refused[0];
    assert_eq!((line.who.clone(), line.refusal.as_str()), (from.to_string(), "stranger"));
    assert!(line.why.contains("certificate expired"), "{line:?}");
}
