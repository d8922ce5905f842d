//! `libgridnet-fi.so`: a libfabric provider, by which MPI programs run over gridnet without being rebuilt.
//!
//! libfabric loads it from `FI_PROVIDER_PATH` and calls [`fi_prov_ini`]; all else goes through tables of functions. An endpoint
//! of libfabric is a fabric of gridnet; matching, flow control and paths are the engine's, and what is here translates.
//!
//! | file | concept |
//! |---|---|
//! | `abi/` | what libfabric's headers say |
//! | `info.rs` | what is offered |
//! | `host.rs` | who loaded it |
//! | `calls/` | the functions of the tables, one file per object |
//! | `object.rs`, `boundary.rs` | objects in the hands of programs; no panic crosses into C |
//! | `state.rs` | all that a domain has, behind one lock, or the promise of the program that its calls do not overlap |
//! | `endpoint.rs`, `peers.rs` | an endpoint, and its peers |
//! | `send.rs`, `receive.rs`, `op.rs` | operations: how they start, how they end |
//! | `quick.rs` | the short ways of small messages |
//! | `memory.rs`, `remote.rs` | memory that peers reach; operations on memory of theirs |
//! | `helper.rs` | what goes on without calls of the program |
//! | `queue.rs`, `wait.rs`, `addresses.rs` | completion queues, sleep, address vectors |

mod abi;
mod addresses;
mod boundary;
mod calls;
mod endpoint;
mod helper;
mod host;
mod info;
mod memory;
mod object;
mod op;
mod peers;
mod queue;
mod quick;
mod rank;
mod receive;
mod remote;
mod send;
mod state;
#[cfg(test)]
mod tests;
mod wait;

use std::cell::UnsafeCell;
use std::ffi::{c_char, c_void};

use abi::info::Info;
use abi::object::Provider;

/// libfabric keeps notes of its own in the provider's structure.
struct Static(UnsafeCell<Provider>);

// SAFETY: nothing of ours reads or writes it after it is made; libfabric has a lock for what it writes.
unsafe impl Sync for Static {}

static PROVIDER: Static = Static(UnsafeCell::new(Provider {
    version: info::VERSION,
    fi_version: info::API,
    context: [std::ptr::null_mut(); 4],
    name: info::NAME.as_ptr(),
    getinfo,
    fabric: calls::fabric::open,
    cleanup,
}));

/// The one symbol that libfabric looks for.
#[no_mangle]
pub extern "C" fn fi_prov_ini() -> *mut c_void {
    PROVIDER.0.get().cast()
}

unsafe extern "C" fn getinfo(
    api: u32,
    node: *const c_char,
    _service: *const c_char,
    _flags: u64,
    hints: *const Info,
    info_out: *mut *mut Info,
) -> i32 {
    // SAFETY: libfabric's promise for its arguments.
    boundary::guarded_int(|| unsafe { info::find(api, node, hints, info_out) })
}

/// Threads end with their endpoints: nothing is left to do.
unsafe extern "C" fn cleanup() {}
