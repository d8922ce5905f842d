//! The suite on the TCP rail.

mod common;

use common::{ipv6, key, tls, Tcp};
use gridnet_core::{conformance_tests, fault_tests, reliability_tests};
use gridnet_uring_tcp::{Engine, Window};

conformance_tests!(io_uring, Tcp::new(Engine::IoUring));
conformance_tests!(epoll, Tcp::new(Engine::Epoll));
conformance_tests!(smallest, Tcp { window: SMALLEST, ..Tcp::new(Engine::Auto) });
conformance_tests!(with_a_key, Tcp { security: key(7), interfaces: ipv6(), ..Tcp::new(Engine::Auto) });
conformance_tests!(sealed, Tcp { security: tls(), ..Tcp::new(Engine::Auto) });
conformance_tests!(without_reliability, Tcp { retains: false, ..Tcp::new(Engine::Auto) });
reliability_tests!(
    cuts_with_io_uring_and_a_key,
    Tcp { security: key(7), interfaces: ipv6(), ..Tcp::new(Engine::IoUring) }
);
reliability_tests!(cuts_sealed, Tcp { security: tls(), window: SMALLEST, ..Tcp::new(Engine::Epoll) });
reliability_tests!(cuts_with_epoll, Tcp { window: SMALLEST, ..Tcp::new(Engine::Epoll) });
fault_tests!(faults, Tcp::new(Engine::Auto), cuts);
fault_tests!(faults_without_reliability, Tcp { retains: false, ..Tcp::new(Engine::Epoll) });

const SMALLEST: Window = Window { bytes: 256 << 10, frames: 1024 };
