//! What is offered, and objects.

use super::party::{call, close, getinfo, provider, Party, Setup};
use crate::abi::errno;
use crate::abi::flag::*;
use crate::abi::info::Info;
use crate::abi::{version, ADDR_UNSPEC};
use crate::info::release;

const RMA_EVENT: u64 = 1 << 56;
const HMEM: u64 = 1 << 47;

/// What the provider answers when its own answer is changed so, and given back as hints.
fn ask(change: impl FnOnce(&mut Info)) -> Result<*mut Info, i32> {
    let hints = getinfo(version(2, 5), std::ptr::null()).unwrap();
    // SAFETY: an answer of the provider's.
    unsafe { change(&mut *hints) };
    let answer = getinfo(version(2, 5), hints);
    // SAFETY: as above; not used any more.
    unsafe { release(hints) };
    answer
}

macro_rules! part {
    ($info:expr, $part:ident) => {
        // SAFETY: an answer of the provider's has all parts.
        unsafe { &mut *$info.$part }
    };
}

#[test]
fn what_is_asked_for_in_other_words_is_echoed() {
    let answer = ask(|hints| {
        hints.caps = TAGGED;
        part!(hints, domain_attr).threading = THREAD_DOMAIN;
        part!(hints, domain_attr).data_progress = PROGRESS_AUTO;
        part!(hints, domain_attr).av_type = 1;
        part!(hints, tx_attr).op_flags = COMPLETION | DELIVERY_COMPLETE;
        part!(hints, ep_attr).mem_tag_format = 0x00c0_0000_7fff_ffff;
    })
    .unwrap();
    // SAFETY: an answer of the provider's.
    let info = unsafe { &mut *answer };
    let domain = part!(info, domain_attr);
    assert_eq!((domain.threading, domain.data_progress, domain.av_type), (THREAD_DOMAIN, PROGRESS_AUTO, 1));
    assert_eq!(part!(info, tx_attr).op_flags, COMPLETION | DELIVERY_COMPLETE);
    assert_eq!(info.caps, TAGGED | SEND | RECV | LOCAL_COMM | REMOTE_COMM);
    assert_eq!(domain.mr_mode, 0, "whatever a program can live with, nothing is asked of it");
    assert!(part!(info, ep_attr).mem_tag_format.leading_zeros() == 1, "63 bits of a tag are the program's");
    assert!(part!(info, fabric_attr).prov_name.is_null(), "libfabric sets it");
    assert!(!part!(info, fabric_attr).name.is_null() && !domain.name.is_null());
    // SAFETY: as above; not used any more.
    unsafe { release(answer) };
}

#[test]
fn of_modes_of_registration_those_stay_that_make_a_difference() {
    const LOCAL: i32 = 1 << 2;
    const ALLOCATED: i32 = 1 << 5;
    const ENDPOINT: i32 = 1 << 9;
    for (asked, kept) in [
        (LOCAL | ALLOCATED | ENDPOINT, 0),
        (MR_VIRT_ADDR | ALLOCATED | MR_PROV_KEY, MR_VIRT_ADDR | MR_PROV_KEY),
        (MR_BASIC, MR_BASIC),
        (MR_SCALABLE | MR_VIRT_ADDR, MR_SCALABLE),
    ] {
        let answer = ask(|hints| part!(hints, domain_attr).mr_mode = asked).unwrap();
        // SAFETY: an answer of the provider's.
        let info = unsafe { &mut *answer };
        assert_eq!(part!(info, domain_attr).mr_mode, kept, "{asked:x}");
        // SAFETY: as above; not used any more.
        unsafe { release(answer) };
    }
}

#[test]
fn what_there_is_not_is_not_offered() {
    let refused = |what: &str, change: &dyn Fn(&mut Info)| {
        assert_eq!(ask(change).err(), Some(libc::ENODATA), "{what}");
    };
    refused("events of operations of peers", &|hints| hints.caps |= RMA_EVENT);
    refused("wide keys", &|hints| part!(hints, domain_attr).mr_key_size = 16);
    refused("memory of devices", &|hints| hints.caps |= HMEM);
    refused("connected endpoints", &|hints| part!(hints, ep_attr).kind = 1);
    refused("datagrams", &|hints| part!(hints, ep_attr).kind = 2);
    refused("tags of 64 bits", &|hints| part!(hints, ep_attr).mem_tag_format = u64::MAX);
    refused("order of messages after writes", &|hints| part!(hints, tx_attr).msg_order = 1 << 7);
    refused("long injections", &|hints| part!(hints, tx_attr).inject_size = 1 << 20);
    refused("socket addresses", &|hints| hints.addr_format = 2);
    refused("wide data", &|hints| part!(hints, domain_attr).cq_data_size = 16);
    let other = c"eth0".as_ptr().cast_mut();
    refused("another domain", &|hints| {
        let domain = part!(hints, domain_attr);
        // SAFETY: the name is ours; the other one is given to `free` by nobody.
        unsafe { libc::free(domain.name.cast()) };
        // SAFETY: a text.
        domain.name = unsafe { libc::strdup(other) };
    });
    assert_eq!(getinfo(version(1, 4), std::ptr::null()).err(), Some(libc::ENODATA));
    for api in [version(1, 5), version(1, 18), version(1, 21), version(2, 5)] {
        // SAFETY: an answer of the provider's.
        unsafe { release(getinfo(api, std::ptr::null()).unwrap()) };
    }
    assert!(provider().fi_version >= version(2, 5));
}

#[test]
fn names_have_64_bytes_and_come_back_from_the_vector() {
    let (a, b) = Party::pair(Setup::default());
    assert_ne!(a.name(), b.name());
    let (mut out, mut len) = ([0u8; 64], 64usize);
    assert_eq!(call!(a.av, lookup, 0, out.as_mut_ptr().cast(), &mut len), 0);
    assert_eq!((out, len), (b.name(), 64));
    let mut ranked = b.name();
    crate::rank::write(&mut ranked, Some(7));
    assert_eq!(a.insert(&ranked), (1, 1));
    assert_eq!(call!(a.av, lookup, 1, out.as_mut_ptr().cast(), &mut len), 0);
    assert_eq!(out, ranked, "with the rank of who has it");
    let (mut little, mut len) = ([0u8; 8], 8usize);
    // SAFETY: room for 8 bytes.
    let result = unsafe { ((*(*a.ep).cm).getname)(a.ep.cast(), little.as_mut_ptr().cast(), &mut len) };
    assert_eq!((result, len), (-errno::ETOOSMALL, 64));
    assert_eq!(little, a.name()[..8]);
    let (mut text, mut len) = ([1 as libc::c_char; 16], 16usize);
    call!(a.av, straddr, out.as_ptr().cast(), text.as_mut_ptr(), &mut len);
    assert_eq!(text[15], 0, "shortened, and ended");
    assert!(len > 16);
}

#[test]
fn bytes_that_are_no_address_have_no_number() {
    let a = Party::new(Setup::default());
    assert_eq!(a.insert(&[0; 64]), (0, ADDR_UNSPEC));
    let mut later = a.name();
    later[0] = 9;
    assert_eq!(a.insert(&later), (0, ADDR_UNSPEC));
    assert_eq!(a.insert(&a.name()), (1, 0));
    assert_eq!(a.send(b"x", 1, 1), 0, "to itself");
    for wrong in [1, 7, u64::MAX - 1] {
        let (mut out, mut len) = ([0u8; 64], 64usize);
        assert_eq!(call!(a.av, lookup, wrong, out.as_mut_ptr().cast(), &mut len), -libc::EINVAL);
    }
    let mut number = 0;
    assert_eq!(call!(a.av, remove, &mut number, 1, 0), 0);
    assert_eq!(call!(a.av, remove, &mut number, 1, 0), -libc::EINVAL);
    assert_eq!(a.send(b"x", 1, 1), -(libc::ENOENT as isize), "its number is gone");
}

#[test]
fn what_is_bound_does_not_close_and_strangers_are_not_bound() {
    let (a, b) = Party::pair(Setup::default());
    for result in [close(a.cq), close(a.av), close(a.cntr)] {
        assert_eq!(result, -libc::EBUSY);
    }
    assert_eq!(a.bind(b.cntr, RECV), -libc::EINVAL, "of another domain");
    assert_eq!(a.bind(a.cq, SEND), -libc::EINVAL, "bound already");
    assert_eq!(a.bind(a.domain, 0), -libc::EINVAL);
}
