//! The suite on the TCP rail: several fabrics in one process, over the loopback interface.

use std::time::Instant;

use gridnet_core::conformance_tests;
use gridnet_core::testing::pair::Fixture;
use gridnet_core::time::Time;
use gridnet_core::wire::Address;
use gridnet_uring_tcp::{Engine, Interfaces, Key, Security, TcpConfig, TcpRail, Tuning, Window};

conformance_tests!(io_uring, Tcp::new(Engine::IoUring));
conformance_tests!(epoll, Tcp::new(Engine::Epoll));
conformance_tests!(smallest, Tcp { window: SMALLEST, ..Tcp::new(Engine::Auto) });
conformance_tests!(with_a_key, Tcp { security: key(), interfaces: ipv6(), ..Tcp::new(Engine::Auto) });

const SMALLEST: Window = Window { bytes: 256 << 10, frames: 1024 };

/// Rails on the loopback interface.
struct Tcp {
    start: Instant,
    engine: Engine,
    security: Security,
    interfaces: &'static str,
    window: Window,
}

impl Tcp {
    fn new(engine: Engine) -> Tcp {
        Tcp {
            start: Instant::now(),
            engine: if engine == Engine::IoUring { allowed() } else { engine },
            security: Security::Insecure,
            interfaces: "127.0.0.1",
            window: Window::default(),
        }
    }
}

impl Fixture for Tcp {
    type Rail = TcpRail;

    fn rail(&mut self, address: &Address) -> TcpRail {
        TcpRail::open(TcpConfig {
            local: *address,
            interfaces: Interfaces::parse(self.interfaces).expect("the names are right"),
            ports: None,
            security: self.security.clone(),
            engine: self.engine,
            single_thread: true,
            tuning: Tuning::default(),
            window: self.window,
        })
        .expect("the rail opens")
    }

    fn reached_at(&self, rail: &TcpRail, address: Address) -> Address {
        Address { network: rail.listens_at(), ..address }
    }

    fn tick(&mut self) -> Time {
        // What the kernel does with packets may be waiting for the core.
        std::thread::yield_now();
        Time(self.start.elapsed().as_nanos() as u64)
    }

    fn quiet_steps(&self) -> usize {
        400
    }

    fn overshoot(&self) -> usize {
        // What is under way, and what was read at once before the word to stop was sent.
        self.window.frames as usize + 2 * 16384 / 24
    }
}

/// io_uring, where the system allows it.
fn allowed() -> Engine {
    let mut fixture = Tcp::new(Engine::Auto);
    let address = fixture.address(1);
    if fixture.rail(&address).engine() == "io_uring" {
        return Engine::IoUring;
    }
    eprintln!("SKIPPED io_uring: the system does not allow it; epoll in its place");
    Engine::Epoll
}

fn key() -> Security {
    Security::Key(Key::new(&[7; 32]).expect("the key is long enough"))
}

/// The loopback interface's address of IPv6, where there is one.
fn ipv6() -> &'static str {
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        return "::1";
    }
    eprintln!("SKIPPED IPv6: the loopback interface has no such address; IPv4 in its place");
    "127.0.0.1"
}
