//! Endpoints that cannot be opened.

use std::sync::Arc;

use super::party::{close, Party, Setup};
use crate::abi::errno;
use crate::abi::flag::REMOTE_WRITE;
use crate::abi::object::FidEp;
use crate::abi::version;
use crate::endpoint::Endpoint;
use crate::object::Object;

const LEN: usize = 1 << 16;
/// Far from where the system puts what is mapped meanwhile.
const PLACE: usize = 1 << 44;

#[test]
fn an_endpoint_that_cannot_show_old_memory_leaves_nothing_behind() {
    let a = Party::new(Setup::default());
    // SAFETY: new memory, in the place of none.
    let base = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        libc::mmap(PLACE as *mut _, LEN, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
    };
    assert_ne!(base, libc::MAP_FAILED);
    // SAFETY: just mapped.
    let memory = unsafe { std::slice::from_raw_parts_mut(base.cast(), LEN) };
    let mr = a.register(memory, REMOTE_WRITE, 1).unwrap();
    // SAFETY: nobody writes to it; but the program does not keep its promise.
    assert_eq!(unsafe { libc::munmap(base, LEN) }, 0);
    assert_eq!(a.open_another(), -libc::EFAULT);

    let endpoint = Endpoint::open(version(2, 5), true, 0, 0).unwrap();
    let fabric = Arc::downgrade(&endpoint.shared);
    // SAFETY: an open endpoint.
    let domain = unsafe { &Object::<FidEp>::of(a.ep).unwrap().domain };
    assert_eq!(domain.take_in(endpoint).err(), Some(libc::EFAULT));
    assert!(fabric.upgrade().is_none(), "its thread has ended, too");
    assert_eq!(close(mr), 0);
}

#[test]
fn memory_whose_end_waits_is_shown_by_no_new_endpoint() {
    let a = Party::new(Setup::default());
    let (mut memory, key) = ([0u8; 8], 9);
    let mr = a.register(&mut memory, REMOTE_WRITE, key).unwrap();
    // SAFETY: an open endpoint.
    let domain = unsafe { &Object::<FidEp>::of(a.ep).unwrap().domain };
    domain.enter().begin_end(key);
    assert_eq!(a.register(&mut [0; 8], REMOTE_WRITE, key).err(), Some(errno::ENOKEY), "it is still in use");
    let entered = domain.take_in(Endpoint::open(version(2, 5), true, 0, 0).unwrap()).unwrap();
    let endpoint = domain.enter().endpoints.remove(entered).unwrap();
    assert!(endpoint.regions.is_empty());
    endpoint.close();
    assert_eq!(close(mr), 0);
    let again = a.register(&mut memory, REMOTE_WRITE, key).unwrap();
    assert_eq!(close(again), 0);
}
