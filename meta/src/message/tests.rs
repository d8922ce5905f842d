use super::*;
use crate::authority::Authority;
use crate::clock::Moment;
use crate::directory::{Change, Directory, Entry, Head, Part, Record, Still};
use crate::packet::{self, Conversation, Load, PACKET_BYTES_MAX};
use crate::record::EXTRAS_BYTES_MAX;
use proptest::prelude::*;

fn node(byte: u8) -> NodeId {
    NodeId::new([byte; 16]).unwrap()
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn authority() -> &'static Authority {
    static AUTHORITY: std::sync::OnceLock<Authority> = std::sync::OnceLock::new();
    AUTHORITY.get_or_init(|| Authority::create(node(9), Moment::now()).unwrap())
}

fn unsealed() -> Plain {
    Plain { nonce: [6; 32], certificate: vec![1; 9], signature: vec![2; 70], ..Plain::default() }
}

/// One of each.
pub(crate) fn some() -> Vec<Message> {
    let more = Extras::default().with(5, b"new").unwrap();
    let via = Some(node(8));
    let (cluster, label) = (name("c"), name("h.1"));
    let entry =
        Entry { node: node(1), cluster, label, since: 9, order: 4, leads: true, via, more: more.clone() };
    let changes = [
        Change::Joined(entry),
        Change::Left(node(2), Departure::Lost),
        Change::Revoked(node(3), Moment::from_unix(7)),
        Change::Forgotten(node(4)),
    ];
    let mut records: Vec<Record> = changes.iter().map(Record::from).collect();
    records.push(Record::of_later(99, b"later"));
    let head = Head::sign(&Directory::new(3), authority()).unwrap();
    let version = Version { epoch: 3, number: 4 };
    let pass = Pass { serial: 5, proof: [3; 32] };
    let leads = vec!["10.0.0.1:5".parse().unwrap(), "[::1]:9".parse().unwrap()];
    let (cluster, label, addresses) = (name("c"), name("l"), leads.clone());
    let will = Will::Configured;
    let about = Attach { cluster, label, known: version, will, leads, pass: Some(pass.clone()), more };
    let refused = Refused { refusal: Refusal::UsedUp, reason: "why".into() };
    let packet = Packet::new(node(1), node(2), 7, &Load::Undelivered { number: 3, why: Refusal::Hops });
    let of = Conversation { number: 5, is_mine: true };
    let piped = |part| Message::Packet(Packet::new(node(1), node(2), 7, &Load::Piped(of, part)));
    vec![
        piped(packet::Part::Bytes { at: 0, bytes: vec![1; 40] }),
        piped(packet::Part::Room { received: 40, until: 1 << 18 }),
        piped(packet::Part::Finish { at: 40 }),
        piped(packet::Part::Over { why: Refusal::Late }),
        Message::Line(8),
        Message::Lead(()),
        Message::Follow(Follow { leader: node(3), addresses: addresses.clone(), pass, known: version }),
        Message::Leading(addresses),
        Message::Present(Present { node: node(4), about: about.clone() }),
        Message::Absent(Absent { node: node(4), why: Departure::Lost }),
        Message::Denied(Denied { node: node(4), why: refused.clone() }),
        Message::Packet(packet),
        Message::Request(Request { id: 1, done: 1, service: 2, left_ms: 3, body: vec![4; 5] }),
        Message::Answer(Answer { id: 1, refusal: Some(Refusal::Other), body: vec![] }),
        Message::Uplink(true),
        Message::Refusals([(Refusal::Stranger, 4), (Refusal::Rate, u64::MAX)].into()),
        Message::Still(Still::sign(version, Moment::from_unix(9), authority()).unwrap()),
        Message::Join(Join { ticket: node(1), proof: [7; 32], request: vec![1, 2] }),
        Message::Joined(Joined { node: node(1), certificate: vec![4], clock: -5 }),
        Message::Attach(about.clone()),
        Message::Renew(vec![1]),
        Message::Renewed(vec![2]),
        Message::Plain(unsealed()),
        Message::Through(()),
        Message::Refused(refused),
        Message::Update(Update {
            head: head.clone(),
            part: Part::Changes { from: 7, records: records.clone() },
        }),
        Message::Update(Update { head, part: Part::Snapshot { before: 1, records } }),
        Message::Missing(version),
        Message::Ping(1),
        Message::Pong(u64::MAX),
        Message::Leave(()),
    ]
}

#[test]
fn messages_come_out_as_they_went_in() {
    for message in some() {
        let bytes = message.encode().unwrap();
        let (length, rest) = bytes.split_first_chunk().unwrap();
        assert_eq!(Message::length(*length).unwrap(), rest.len());
        assert_eq!(Message::decode(rest).unwrap(), Some(message.clone()));
        // A later version adds fields at the end.
        let longer = [rest, &[1, 2, 3]].concat();
        assert_eq!(Message::decode(&longer).unwrap(), Some(message));
    }
}

#[test]
fn what_is_secret_is_not_shown() {
    let (secret, body) = ([173; 32], vec![211; 40]);
    let shown = |message: &Message| format!("{message:?} {message:#?}");
    let pass = || Pass { serial: 5, proof: secret };
    let (leader, known) = (node(3), Version::default());
    for message in [
        Message::Follow(Follow { leader, addresses: Vec::new(), pass: pass(), known }),
        Message::Join(Join { ticket: node(1), proof: secret, request: vec![1] }),
        Message::Request(Request { id: 1, done: 1, service: 2, left_ms: 3, body: body.clone() }),
        Message::Answer(Answer { id: 1, refusal: None, body }),
    ] {
        let shown = shown(&message);
        assert!(!shown.contains("173") && !shown.contains("211"), "{shown}");
    }
    for mut message in some() {
        if let Message::Attach(about) | Message::Present(Present { about, .. }) = &mut message {
            about.pass = Some(pass());
            assert!(!shown(&message).contains("173"), "{message:?}");
        }
    }
}

#[test]
fn what_cannot_be_is_refused_and_what_need_not_be_known_is_skipped() {
    assert_eq!(Message::decode(&[0x77, 0x00, 1, 2]).unwrap(), None);
    let error = Message::decode(&[0x77, 0x80, 1, 2]).unwrap_err().to_string();
    assert!(error.contains("unknown kind 0x8077"), "{error}");
    assert!(Message::decode(&[1]).is_err());
    for length in [0, 1, MESSAGE_BYTES_MAX as u32 + 1, u32::MAX] {
        assert!(Message::length(length.to_le_bytes()).is_err());
    }
    let zero = Message::Joined(Joined { node: node(1), certificate: vec![], clock: 0 }).encode().unwrap();
    let zeroed: Vec<u8> = zero[4..].iter().map(|byte| if *byte == 1 { 0 } else { *byte }).collect();
    assert!(Message::decode(&zeroed).unwrap_err().to_string().contains("makes no sense"));
    let packet = Packet {
        load: vec![0; PACKET_BYTES_MAX],
        ..Packet::new(node(1), node(2), u64::MAX, &Load::Other(9))
    };
    assert!(Message::Packet(packet).encode().unwrap().len() < crate::rendezvous::LONGEST_OF_MEMBER);
    let long = Message::Renew(vec![0; MESSAGE_BYTES_MAX]);
    assert!(matches!(long.encode(), Err(Error::Config(_))));
}

#[test]
fn the_largest_updates_fit() {
    let longest = name(&"n".repeat(crate::name::NAME_BYTES_MAX));
    let more = Extras::default().with(u16::MAX, &[7; EXTRAS_BYTES_MAX - 4]).unwrap();
    let mut directory = Directory::new(u64::MAX);
    for number in 1..=500u128 {
        let node = NodeId::new((number << 64 | 1).to_be_bytes()).unwrap();
        let (cluster, label, more) = (longest.clone(), longest.clone(), more.clone());
        let (order, via) = (u64::MAX, Some(node));
        directory.join(Entry { node, cluster, label, since: i64::MIN, order, leads: true, via, more });
    }
    let (at, head) = (directory.version(), Head::sign(&directory, authority()).unwrap());
    let mut known = vec![Version::default(), Version { number: at.number - 300, ..at }];
    while let Some(known) = known.pop() {
        let updates = directory.since(known, &head);
        assert!(updates.len() > 4);
        updates.into_iter().for_each(|update| drop(Message::Update(update).encode().unwrap()));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_borne(bytes: Vec<u8>, which in 0..22usize, at: usize, flip: u8) {
        let _ = Message::decode(&bytes);
        let mut mutated = some()[which].encode().unwrap();
        let at = at % mutated.len();
        mutated[at] ^= flip;
        let _ = Message::decode(&mutated[4..]);
    }
}
