//! Bytes from a peer: each parser refuses them, or understands something that it would write in the same way.

#![no_main]

use gridnet_core::mem::{Gather, PeerBytes};
use gridnet_core::region::{RemoteKey, KEY_BYTES};
use gridnet_core::wire::{
    Address, Header, Hello, Incoming, Message, ADDRESS_BYTES, MAX_EXTENSION, MAX_HELLO_BYTES,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((&which, bytes)) = bytes.split_first() else { return };
    match which % 7 {
        0 => header(bytes),
        1 => message(bytes),
        2 => hello(bytes),
        3 => address(bytes),
        4 => gridnet_shm::testing::read_offer(bytes),
        5 => key(bytes),
        _ => gridnet_shm::testing::read_packet(bytes),
    }
});

fn header(bytes: &[u8]) {
    if let Ok(Some((header, len))) = Header::parse(bytes) {
        let mut again = Vec::new();
        header.encode(&mut again).expect("it was parsed");
        assert_eq!(bytes[..len], again[..]);
        // Any shorter part is the beginning of the same header.
        for cut in 0..len {
            assert_eq!(Header::parse(&bytes[..cut]), Ok(None));
        }
    }
}

fn message(bytes: &[u8]) {
    let (Some([kind, flags]), words) = (bytes.first_chunk().copied(), bytes.get(2..).unwrap_or_default())
    else {
        return;
    };
    let mut words = words.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    });
    let mut next = || words.next().unwrap_or_default();
    let word = next();
    let extension: [u64; MAX_EXTENSION] = std::array::from_fn(|_| next());
    let incoming = Incoming { kind, flags, word, extension, payload: PeerBytes::EMPTY };
    if let Ok(message) = Message::parse(&incoming) {
        let frame = message.frame(Gather::EMPTY);
        assert_eq!((frame.kind as u8, frame.flags), (kind, flags));
        // These have none: whatever stands there means nothing.
        assert!(frame.word == word || matches!(message, Message::Stop | Message::Go));
        assert_eq!(gridnet_core::wire::extension_words(kind, flags), Ok(frame.extension_len));
        let again = Incoming { extension: frame.extension, ..incoming };
        assert_eq!(Message::parse(&again), Ok(message));
    }
}

fn hello(bytes: &[u8]) {
    if let Ok(hello) = Hello::parse(bytes) {
        assert!(bytes.len() <= MAX_HELLO_BYTES);
        assert_eq!(Hello::parse(&hello.encode()), Ok(hello.clone()));
        let known: Vec<u16> = hello.extensions.iter().take(2).map(|extension| extension.kind).collect();
        let _ = hello.agree(&known);
        let _ = hello.agree(&[]);
    }
}

fn key(bytes: &[u8]) {
    if let Ok(key) = RemoteKey::parse(bytes) {
        assert_eq!(RemoteKey::parse(&key.pack()), Ok(key));
    }
    // A check value that fits, so that the fields are looked at, too.
    if let Some(fields) = bytes.first_chunk::<{ KEY_BYTES - 8 }>() {
        let mut whole = [0; KEY_BYTES];
        whole[..fields.len()].copy_from_slice(fields);
        whole[fields.len()..].copy_from_slice(&check_value(fields).to_le_bytes());
        if let Ok(key) = RemoteKey::parse(&whole) {
            assert_eq!(RemoteKey::parse(&key.pack()), Ok(key));
        }
    }
}

/// FNV-1a, as keys have it.
fn check_value(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn address(bytes: &[u8]) {
    let Some(bytes) = bytes.first_chunk::<ADDRESS_BYTES>() else { return };
    if let Ok(address) = Address::parse(bytes) {
        assert_eq!(Address::parse(&address.to_bytes()), Ok(address));
    }
}
