//! `fid_ep`: an endpoint, but for its messages.

use std::ffi::c_void;
use std::sync::Arc;

use gridnet::core::matching::Key;

use crate::abi::errno;
use crate::abi::flag::*;
use crate::abi::info::Info;
use crate::abi::object::*;
use crate::boundary::{guarded, guarded_int};
use crate::calls::av::write_address;
use crate::calls::{atomic, domain, msg, rma, tagged};
use crate::endpoint::Endpoint;
use crate::helper::Helper;
use crate::object::{head, Object};
use crate::state::{Domain, State};

static FID: FidOps = FidOps {
    size: size_of::<FidOps>(),
    close,
    bind,
    control,
    ops_open: missing,
    tostr: missing,
    ops_set: missing,
};

static OPS: EpOps = EpOps {
    size: size_of::<EpOps>(),
    cancel,
    getopt,
    setopt,
    tx_ctx: missing,
    rx_ctx: missing,
    rx_size_left: missing,
    tx_size_left: missing,
};

static CM: CmOps = CmOps { size: size_of::<CmOps>(), setname: missing, getname, others: [missing; 7] };
static COLLECTIVE: CollectiveOps = CollectiveOps { size: size_of::<CollectiveOps>(), all: [missing; 11] };

pub(crate) unsafe extern "C" fn open(
    fid: *mut FidDomain,
    info: *mut Info,
    ep_out: *mut *mut FidEp,
    context: *mut c_void,
) -> i32 {
    guarded_int(|| {
        // SAFETY: libfabric's promise.
        let (domain, info) = unsafe { (domain::of(fid)?, info.as_ref().ok_or(libc::EINVAL)?) };
        // SAFETY: as above: each part is NULL or valid.
        let flags = unsafe {
            let tx = info.tx_attr.as_ref().map_or(0, |attr| attr.op_flags);
            (tx, info.rx_attr.as_ref().map_or(0, |attr| attr.op_flags))
        };
        let endpoint = Endpoint::open(domain.wishes.api, domain.wishes.automatic, flags.0, flags.1)?;
        let key = domain.take_in(endpoint)?;
        if domain.wishes.automatic {
            help(domain, key)?;
        }
        let fid = FidEp {
            fid: head(CLASS_EP, context, &FID),
            ops: &OPS,
            cm: &CM,
            msg: &msg::OPS,
            rma: &rma::OPS,
            tagged: &tagged::OPS,
            atomic: &atomic::OPS,
            collective: &COLLECTIVE,
        };
        // SAFETY: as above.
        unsafe { ep_out.write(Object::open(fid, domain.clone(), key)) };
        Ok(())
    })
}

/// Gives a new endpoint its helper; without one it is closed.
fn help(domain: &Arc<Domain>, key: Key) -> Result<(), i32> {
    let helper = Helper::start(domain, key);
    let mut state = domain.enter();
    match (helper, state.endpoints.get_mut(key)) {
        (Ok(helper), Some(endpoint)) => endpoint.helper = Some(helper),
        (helper, _) => {
            let endpoint = state.endpoints.remove(key);
            drop(state);
            if let Some(endpoint) = endpoint {
                endpoint.close();
            }
            helper?.stop();
        }
    }
    Ok(())
}

unsafe extern "C" fn close(fid: *mut Fid) -> i32 {
    guarded_int(|| {
        // SAFETY: libfabric's promise: an open endpoint.
        let object = unsafe { Object::<FidEp>::of(fid) }?;
        let helper =
            object.domain.enter().endpoints.get_mut(object.key).and_then(|endpoint| endpoint.helper.take());
        if let Some(helper) = helper {
            helper.stop();
        }
        let endpoint = {
            let mut state = object.domain.enter();
            unbind(&mut state, object.key);
            state.endpoints.remove(object.key)
        };
        if let Some(endpoint) = endpoint {
            endpoint.close();
        }
        // SAFETY: as above; the program does not use it any more.
        unsafe { Object::<FidEp>::close(fid) };
        Ok(())
    })
}

/// Nothing knows of the endpoint any more.
fn unbind(state: &mut State, key: Key) {
    let Some(endpoint) = state.endpoints.get(key) else { return };
    if let Some(vector) = endpoint.vector.and_then(|vector| state.vectors.get_mut(vector)) {
        vector.endpoints.retain(|bound| *bound != key);
    }
    for side in [&endpoint.tx, &endpoint.rx] {
        if let Some(queue) = side.queue.and_then(|queue| state.reports.queues.get_mut(queue)) {
            queue.endpoints.retain(|bound| *bound != key);
        }
    }
    for counter in [endpoint.tx.counter, endpoint.rx.counter, endpoint.reads, endpoint.writes] {
        if let Some(counter) = counter.and_then(|counter| state.reports.counters.get_mut(counter)) {
            counter.endpoints.retain(|bound| *bound != key);
        }
    }
}

unsafe extern "C" fn bind(fid: *mut Fid, other: *mut Fid, flags: u64) -> i32 {
    guarded_int(|| {
        // SAFETY: libfabric's promise: an open endpoint, and an object of the class that it says.
        unsafe {
            match other.as_ref().ok_or(libc::EINVAL)?.class {
                CLASS_AV => with_bound::<FidAv>(fid, other, |state, key, vector| {
                    let known = state.vectors.get_mut(vector).ok_or(libc::EINVAL)?;
                    let endpoint = state.endpoints.get_mut(key).ok_or(libc::EINVAL)?;
                    if endpoint.vector.is_some() {
                        return Err(libc::EINVAL);
                    }
                    endpoint.vector = Some(vector);
                    known.endpoints.push(key);
                    Ok(())
                }),
                CLASS_CQ => {
                    with_bound::<FidCq>(fid, other, |state, key, queue| bind_queue(state, key, queue, flags))
                }
                CLASS_CNTR => with_bound::<FidCntr>(fid, other, |state, key, counter| {
                    bind_counter(state, key, counter, flags)
                }),
                _ => Err(libc::EINVAL),
            }
        }
    })
}

/// Goes in with the keys of an endpoint and of what is to be bound to it.
///
/// # Safety
/// `fid` is an open endpoint, `other` an open `F`.
unsafe fn with_bound<F>(
    fid: *mut Fid,
    other: *mut Fid,
    then: impl FnOnce(&mut State, Key, Key) -> Result<(), i32>,
) -> Result<(), i32> {
    // SAFETY: the caller's promise.
    let (endpoint, other) = unsafe { (Object::<FidEp>::of(fid)?, Object::<F>::of(other)?) };
    if !std::sync::Arc::ptr_eq(&endpoint.domain, &other.domain) {
        return Err(libc::EINVAL);
    }
    then(&mut endpoint.domain.enter(), endpoint.key, other.key)
}

fn bind_queue(state: &mut State, key: Key, queue: Key, flags: u64) -> Result<(), i32> {
    let endpoint = state.endpoints.get_mut(key).ok_or(libc::EINVAL)?;
    let known = state.reports.queues.get_mut(queue).ok_or(libc::EINVAL)?;
    if flags & !(SEND | RECV | SELECTIVE_COMPLETION) != 0 || flags & (SEND | RECV) == 0 {
        return Err(libc::EINVAL);
    }
    let selective = flags & SELECTIVE_COMPLETION != 0;
    let sides = endpoint.sides(flags);
    if sides.iter().any(|side| side.queue.is_some()) {
        return Err(libc::EINVAL);
    }
    for side in sides {
        (side.queue, side.selective) = (Some(queue), selective);
    }
    if let Some(sleep) = known.sleep.as_ref().filter(|_| !known.endpoints.contains(&key)) {
        sleep.watch(endpoint.descriptor()?)?;
    }
    if !known.endpoints.contains(&key) {
        known.endpoints.push(key);
    }
    Ok(())
}

fn bind_counter(state: &mut State, key: Key, counter: Key, flags: u64) -> Result<(), i32> {
    let endpoint = state.endpoints.get_mut(key).ok_or(libc::EINVAL)?;
    let known = state.reports.counters.get_mut(counter).ok_or(libc::EINVAL)?;
    // What peers do to memory of ours is not told (`FI_RMA_EVENT`).
    if flags & !(SEND | RECV | READ | WRITE) != 0 {
        return Err(errno::ENOSYS);
    }
    let places = [
        (SEND, &mut endpoint.tx.counter),
        (RECV, &mut endpoint.rx.counter),
        (READ, &mut endpoint.reads),
        (WRITE, &mut endpoint.writes),
    ];
    let named = || places.iter().filter(|(bit, _)| flags & bit != 0);
    if named().any(|(_, place)| place.is_some_and(|bound| bound != counter)) {
        return Err(libc::EINVAL);
    }
    for (_, place) in places.into_iter().filter(|(bit, _)| flags & bit != 0) {
        *place = Some(counter);
    }
    if flags != 0 && !known.endpoints.contains(&key) {
        known.endpoints.push(key);
    }
    Ok(())
}

unsafe extern "C" fn control(fid: *mut Fid, command: i32, arg: *mut c_void) -> i32 {
    guarded_int(|| {
        // SAFETY: libfabric's promise: an open endpoint.
        let object = unsafe { Object::<FidEp>::of(fid) }?;
        let mut state = object.domain.enter();
        let endpoint = state.endpoints.get_mut(object.key).ok_or(libc::EINVAL)?;
        match command {
            ENABLE => endpoint.enable(),
            GETOPSFLAG | SETOPSFLAG => {
                // SAFETY: libfabric's promise: flags.
                let flags = unsafe { arg.cast::<u64>().as_mut() }.ok_or(libc::EINVAL)?;
                let side = match *flags & (SEND | RECV) {
                    SEND => &mut endpoint.tx,
                    RECV => &mut endpoint.rx,
                    _ => return Err(libc::EINVAL),
                };
                if command == GETOPSFLAG {
                    *flags = side.op_flags;
                } else {
                    side.op_flags = *flags & !(SEND | RECV);
                }
                Ok(())
            }
            _ => Err(errno::ENOSYS),
        }
    })
}

unsafe extern "C" fn cancel(fid: *mut Fid, context: *mut c_void) -> isize {
    guarded(|| {
        // SAFETY: libfabric's promise: an open endpoint.
        let object = unsafe { Object::<FidEp>::of(fid) }?;
        let mut state = object.domain.enter();
        let endpoint = state.endpoints.get_mut(object.key).ok_or(libc::EINVAL)?;
        endpoint.cancel(context as usize).map(|()| 0)
    })
}

unsafe extern "C" fn getopt(
    fid: *mut Fid,
    level: i32,
    option: i32,
    value: *mut c_void,
    len: *mut usize,
) -> i32 {
    guarded_int(|| {
        if (level, option) != (OPT_ENDPOINT, OPT_MIN_MULTI_RECV) {
            return Err(libc::ENOPROTOOPT);
        }
        // SAFETY: libfabric's promise: an open endpoint, and room for `len` bytes.
        unsafe {
            let object = Object::<FidEp>::of(fid)?;
            if *len < size_of::<usize>() {
                return Err(errno::ETOOSMALL);
            }
            let state = object.domain.enter();
            let endpoint = state.endpoints.get(object.key).ok_or(libc::EINVAL)?;
            value.cast::<usize>().write_unaligned(endpoint.min_multi_recv);
            len.write(size_of::<usize>());
        }
        Ok(())
    })
}

unsafe extern "C" fn setopt(fid: *mut Fid, level: i32, option: i32, value: *const c_void, len: usize) -> i32 {
    guarded_int(|| {
        if (level, option) != (OPT_ENDPOINT, OPT_MIN_MULTI_RECV) {
            return Err(libc::ENOPROTOOPT);
        }
        if len != size_of::<usize>() {
            return Err(libc::EINVAL);
        }
        // SAFETY: libfabric's promise: an open endpoint, and a number of that size.
        let (object, value) = unsafe { (Object::<FidEp>::of(fid)?, value.cast::<usize>().read_unaligned()) };
        let mut state = object.domain.enter();
        state.endpoints.get_mut(object.key).ok_or(libc::EINVAL)?.min_multi_recv = value;
        Ok(())
    })
}

unsafe extern "C" fn getname(fid: *mut Fid, out: *mut c_void, len: *mut usize) -> i32 {
    guarded_int(|| {
        // SAFETY: libfabric's promise: an open endpoint.
        let object = unsafe { Object::<FidEp>::of(fid) }?;
        let state = object.domain.enter();
        let endpoint = state.endpoints.get(object.key).ok_or(libc::EINVAL)?;
        // SAFETY: libfabric's promise: room for `len` bytes.
        match unsafe { write_address(&endpoint.name_bytes(), out, len) } {
            true => Ok(()),
            false => Err(errno::ETOOSMALL),
        }
    })
}
