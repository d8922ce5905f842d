//! What the log says of strangers. A program of its own: what listens to the log does so for one thread, and other tests of the
//! same program would be asked first.

mod common;

use std::fmt::Debug;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::Tcp;
use gridnet_core::testing::pair::Pair;
use gridnet_uring_tcp::Engine;
use tracing::field::Field;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

#[test]
fn refusals_are_logged_with_their_address_and_reason() {
    let log = Log::default();
    let lines = Arc::clone(&log.0);
    tracing::subscriber::with_default(log, || {
        let mut pair = Pair::new(Tcp::new(Engine::Auto));
        let at: SocketAddr = pair.a.address().network.iter().next().expect("it listens");
        let strangers: [(&[u8], u64, &str); 3] = [
            (b"GET / HTTP/1.1\r\n\r\n", 0, "no handshake"),
            (b"\x01\x00W", 0, "out of its turn"),
            (b"\xc8\x00", 6, "did not say who it is within 5 s"),
        ];
        for (bytes, seconds, reason) in strangers {
            let mut stranger = TcpStream::connect(at).expect("somebody listens");
            let from = stranger.local_addr().unwrap().to_string();
            stranger.write_all(bytes).unwrap();
            pair.run_steps(50);
            pair.fixture.skipped += Duration::from_secs(seconds);
            until_hung_up(&mut pair, &mut stranger);
            let lines = lines.lock().unwrap();
            let is_meant = |line: &&String| line.contains(&from) && line.contains(reason);
            assert!(lines.iter().any(|line| is_meant(&line)), "nothing of {from}, {reason}, in {lines:?}");
        }
    });
}

fn until_hung_up(pair: &mut Pair<Tcp>, stranger: &mut TcpStream) {
    stranger.set_nonblocking(true).unwrap();
    let start = Instant::now();
    loop {
        match stranger.read(&mut [0; 1000]) {
            Ok(0) => return,
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
        pair.step();
        assert!(start.elapsed() < Duration::from_secs(60), "a stranger is still there");
    }
}

/// Warnings, a line each.
#[derive(Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = String::new();
        event.record(&mut |field: &Field, value: &dyn Debug| line += &format!("{field} {value:?} "));
        self.0.lock().unwrap().push(line);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
