//! What the provider offers: `fi_getinfo`.

use std::ffi::{c_char, c_void, CStr};

use crate::abi::flag::*;
use crate::abi::info::{DomainAttr, EpAttr, Info, RxAttr, TxAttr};
use crate::abi::version;

/// Name of the provider, of its fabric and of its domain.
pub(crate) const NAME: &CStr = c"gridnet";
/// Version of the provider.
pub(crate) const VERSION: u32 = version(0, 1);
/// The newest API that the provider was written for.
pub(crate) const API: u32 = version(2, 5);
/// The oldest: before it, structures were shorter.
const OLDEST_API: u32 = version(1, 5);

/// The longest message that is copied by the call that sends it.
pub(crate) const INJECT_SIZE: usize = 4096;
/// Most pieces of memory of one message.
pub(crate) const IOV_LIMIT: usize = 64;
/// Tags have 63 bits: the last tells messages with and without tags apart.
pub(crate) const TAG_FORMAT: u64 = 0x5555_5555_5555_5555;
/// A number of our own, for libfabric's addresses of ours (`FI_PROV_SPECIFIC`).
const ADDR_FORMAT: u32 = 1 << 31 | 0x676e;
const PROTOCOL: u32 = 1 << 31 | 0x676e;
/// Most sends that have not ended; receives are limited by `GRIDNET_MAX_OPS`.
pub(crate) const MOST_OPERATIONS: usize = 1 << 16;
const DATA_BYTES: usize = 8;
const KEY_BYTES: usize = 8;
const MOST_REGISTRATIONS: usize = 1 << 16;

/// What can be asked for.
const CAPS: u64 = MSG
    | TAGGED
    | RMA
    | ATOMIC
    | READ
    | WRITE
    | REMOTE_READ
    | REMOTE_WRITE
    | SEND
    | RECV
    | MULTI_RECV
    | REMOTE_CQ_DATA
    | DIRECTED_RECV
    | SOURCE
    | LOCAL_COMM
    | REMOTE_COMM;
/// Capabilities that an operation sends with, and receives with.
const TX_CAPS: u64 = MSG | TAGGED | RMA | ATOMIC | SEND | READ | WRITE;
const RX_CAPS: u64 =
    MSG | TAGGED | RMA | ATOMIC | RECV | REMOTE_READ | REMOTE_WRITE | MULTI_RECV | DIRECTED_RECV | SOURCE;
/// Orders that are kept.
const ORDERS: u64 = ORDER_SAS | ORDER_REGIONS;
/// Those of a domain.
const DOMAIN_CAPS: u64 = LOCAL_COMM | REMOTE_COMM;
/// Flags that may be the default of all operations.
const TX_FLAGS: u64 = COMPLETION | INJECT | INJECT_COMPLETE | TRANSMIT_COMPLETE | DELIVERY_COMPLETE;
const RX_FLAGS: u64 = COMPLETION | MULTI_RECV;

/// What of the answer depends on what was asked.
struct Offer {
    caps: u64,
    threading: u32,
    control_progress: u32,
    data_progress: u32,
    av_type: u32,
    mr_mode: i32,
    tx_flags: u64,
    rx_flags: u64,
}

impl Offer {
    /// The offer for these hints; `None` when they ask for what there is not.
    ///
    /// # Safety
    /// `hints` and what it points to are as libfabric says.
    unsafe fn new(hints: *const Info) -> Option<Offer> {
        let mut offer = Offer {
            caps: CAPS,
            threading: THREAD_SAFE,
            control_progress: PROGRESS_MANUAL,
            data_progress: PROGRESS_MANUAL,
            av_type: AV_TABLE,
            mr_mode: 0,
            tx_flags: 0,
            rx_flags: 0,
        };
        // SAFETY: the caller's promise, here and below.
        let Some(hints) = (unsafe { hints.as_ref() }) else { return Some(offer) };
        if hints.caps & !CAPS != 0 || !matches!(hints.addr_format, 0 | ADDR_FORMAT) {
            return None;
        }
        if hints.caps != 0 {
            offer.caps = hints.caps | ways(hints.caps) | DOMAIN_CAPS;
        }
        // SAFETY: the caller's promise.
        let parts = unsafe {
            (
                hints.ep_attr.as_ref(),
                hints.tx_attr.as_ref(),
                hints.rx_attr.as_ref(),
                hints.fabric_attr.as_ref(),
            )
        };
        let (endpoint, tx, rx, fabric) = parts;
        let suits = endpoint.is_none_or(suits_endpoint)
            && tx.is_none_or(|tx| offer.take_tx(tx))
            && rx.is_none_or(|rx| offer.take_rx(rx))
            // SAFETY: the caller's promise: its names are texts.
            && fabric.is_none_or(|fabric| unsafe { is_ours(fabric.name) && is_ours(fabric.prov_name) });
        // SAFETY: the caller's promise; of a domain attribute only what 1.5 had is looked at.
        let suits = suits && (hints.domain_attr.is_null() || unsafe { offer.take_domain(hints.domain_attr) });
        suits.then_some(offer)
    }

    fn take_tx(&mut self, tx: &TxAttr) -> bool {
        self.tx_flags = tx.op_flags;
        tx.caps & !CAPS == 0
            && tx.op_flags & !TX_FLAGS == 0
            && tx.msg_order & !ORDERS == 0
            && tx.comp_order == 0
            && tx.inject_size <= INJECT_SIZE
            && tx.size <= MOST_OPERATIONS
            && tx.iov_limit <= IOV_LIMIT
            && tx.rma_iov_limit <= IOV_LIMIT
    }

    fn take_rx(&mut self, rx: &RxAttr) -> bool {
        self.rx_flags = rx.op_flags;
        rx.caps & !CAPS == 0
            && rx.op_flags & !RX_FLAGS == 0
            && rx.msg_order & !ORDERS == 0
            && rx.comp_order == 0
            && rx.size <= MOST_OPERATIONS
            && rx.iov_limit <= IOV_LIMIT
    }

    /// # Safety
    /// `domain` is valid, as long as API 1.5 has it; its name is a text.
    unsafe fn take_domain(&mut self, domain: *const DomainAttr) -> bool {
        let echo = |mine: &mut u32, theirs: u32| {
            if theirs != 0 {
                *mine = theirs;
            }
        };
        // SAFETY: the caller's promise.
        unsafe {
            // Programs compare the answer with what they asked for, also where it would be stronger.
            echo(&mut self.threading, (*domain).threading);
            echo(&mut self.control_progress, (*domain).control_progress);
            echo(&mut self.data_progress, (*domain).data_progress);
            echo(&mut self.av_type, (*domain).av_type);
            let mr_mode = (*domain).mr_mode;
            // Modes are what a program can live with. Of those it needs not, some are kept: keys that are chosen here are harder to
            // guess, and many programs give addresses, whatever they are told.
            self.mr_mode = match mr_mode & (MR_BASIC | MR_SCALABLE) {
                0 => mr_mode & (MR_VIRT_ADDR | MR_PROV_KEY),
                MR_SCALABLE => mr_mode & (MR_SCALABLE | MR_PROV_KEY),
                _ => MR_BASIC,
            };
            is_ours((*domain).name)
                && (*domain).av_type <= AV_TABLE
                && (*domain).mr_key_size <= KEY_BYTES
                && (*domain).mr_iov_limit <= 1
                && (*domain).cq_data_size <= DATA_BYTES
                && (*domain).caps & !CAPS == 0
        }
    }
}

/// The directions of what is asked for, where none is.
fn ways(caps: u64) -> u64 {
    let of = |kinds: u64, ways: u64| if caps & kinds != 0 && caps & ways == 0 { ways } else { 0 };
    of(MSG | TAGGED, SEND | RECV) | of(RMA | ATOMIC, READ | WRITE | REMOTE_READ | REMOTE_WRITE)
}

fn suits_endpoint(endpoint: &EpAttr) -> bool {
    matches!(endpoint.kind, 0 | EP_RDM)
        && matches!(endpoint.protocol, 0 | PROTOCOL)
        && endpoint.max_msg_size <= isize::MAX as usize
        && endpoint.mem_tag_format >> 63 == 0
        && endpoint.tx_ctx_cnt <= 1
        && endpoint.rx_ctx_cnt <= 1
        && endpoint.auth_key_size == 0
}

/// # Safety
/// `name` is NULL or a text.
unsafe fn is_ours(name: *const c_char) -> bool {
    // SAFETY: the caller's promise.
    name.is_null() || unsafe { CStr::from_ptr(name) }.to_bytes().eq_ignore_ascii_case(NAME.to_bytes())
}

/// Memory of the C library, all 0, which libfabric frees; NULL when there is none.
fn zeroed<T>() -> *mut T {
    // SAFETY: a call of the C library; each structure is valid when all its bytes are 0.
    unsafe { libc::calloc(1, size_of::<T>()) }.cast()
}

/// Answers `fi_getinfo`.
///
/// # Safety
/// As libfabric says of its arguments.
pub(crate) unsafe fn find(
    api: u32,
    node: *const c_char,
    hints: *const Info,
    out: *mut *mut Info,
) -> Result<(), i32> {
    // Endpoints are found by their addresses, not by names of hosts.
    if api < OLDEST_API || !node.is_null() {
        return Err(libc::ENODATA);
    }
    // SAFETY: the caller's promise.
    let offer = unsafe { Offer::new(hints) }.ok_or(libc::ENODATA)?;
    let info: *mut Info = zeroed();
    if info.is_null() {
        return Err(libc::ENOMEM);
    }
    // SAFETY: `info` is new memory of that size.
    let complete = unsafe { fill(&mut *info, &offer) };
    if !complete {
        // SAFETY: as above; what is missing is NULL, which `free` allows.
        unsafe { release(info) };
        return Err(libc::ENOMEM);
    }
    // SAFETY: the caller's promise.
    unsafe { out.write(info) };
    Ok(())
}

/// Fills the parts in; false when there is no memory.
///
/// # Safety
/// `info` is all 0.
unsafe fn fill(info: &mut Info, offer: &Offer) -> bool {
    info.caps = offer.caps;
    info.addr_format = ADDR_FORMAT;
    (info.tx_attr, info.rx_attr) = (zeroed(), zeroed());
    (info.ep_attr, info.domain_attr, info.fabric_attr) = (zeroed(), zeroed(), zeroed());
    // SAFETY: each is NULL or new memory of that size.
    let parts = unsafe {
        (
            info.tx_attr.as_mut(),
            info.rx_attr.as_mut(),
            info.ep_attr.as_mut(),
            info.domain_attr.as_mut(),
            info.fabric_attr.as_mut(),
        )
    };
    let (Some(tx), Some(rx), Some(endpoint), Some(domain), Some(fabric)) = parts else { return false };
    fill_contexts(tx, rx, offer);
    fill_endpoint(endpoint);
    fill_domain(domain, offer);
    // SAFETY: calls of the C library with a text.
    (domain.name, fabric.name) = unsafe { (libc::strdup(NAME.as_ptr()), libc::strdup(NAME.as_ptr())) };
    fabric.prov_version = VERSION;
    !domain.name.is_null() && !fabric.name.is_null()
}

fn fill_contexts(tx: &mut TxAttr, rx: &mut RxAttr, offer: &Offer) {
    tx.caps = offer.caps & TX_CAPS;
    tx.op_flags = offer.tx_flags;
    tx.msg_order = ORDERS;
    tx.inject_size = INJECT_SIZE;
    tx.size = MOST_OPERATIONS;
    tx.iov_limit = IOV_LIMIT;
    tx.rma_iov_limit = IOV_LIMIT;
    rx.caps = offer.caps & RX_CAPS;
    rx.op_flags = offer.rx_flags;
    rx.msg_order = ORDERS;
    rx.size = MOST_OPERATIONS;
    rx.iov_limit = IOV_LIMIT;
}

fn fill_endpoint(endpoint: &mut EpAttr) {
    endpoint.kind = EP_RDM;
    endpoint.protocol = PROTOCOL;
    endpoint.protocol_version = 1;
    endpoint.max_msg_size = isize::MAX as usize;
    let most = isize::MAX as usize;
    (endpoint.max_order_raw_size, endpoint.max_order_war_size, endpoint.max_order_waw_size) =
        (most, most, most);
    endpoint.mem_tag_format = TAG_FORMAT;
    endpoint.tx_ctx_cnt = 1;
    endpoint.rx_ctx_cnt = 1;
}

fn fill_domain(domain: &mut DomainAttr, offer: &Offer) {
    domain.threading = offer.threading;
    domain.control_progress = offer.control_progress;
    domain.data_progress = offer.data_progress;
    domain.resource_mgmt = RM_ENABLED;
    domain.av_type = offer.av_type;
    domain.mr_mode = offer.mr_mode;
    domain.mr_key_size = KEY_BYTES;
    domain.mr_iov_limit = 1;
    domain.mr_cnt = MOST_REGISTRATIONS;
    domain.cq_data_size = DATA_BYTES;
    (domain.cq_cnt, domain.ep_cnt, domain.cntr_cnt) = (256, 256, 256);
    (domain.tx_ctx_cnt, domain.rx_ctx_cnt) = (256, 256);
    (domain.max_ep_tx_ctx, domain.max_ep_rx_ctx) = (1, 1);
    domain.caps = DOMAIN_CAPS;
    domain.max_cntr_value = u64::MAX;
    domain.max_err_cntr_value = u64::MAX;
}

/// Frees an answer.
///
/// # Safety
/// `info` was made by [`find`], and is not used any more.
pub(crate) unsafe fn release(info: *mut Info) {
    // SAFETY: the caller's promise; `free` allows NULL.
    unsafe {
        if let Some(domain) = (*info).domain_attr.as_ref() {
            libc::free(domain.name.cast());
        }
        if let Some(fabric) = (*info).fabric_attr.as_ref() {
            libc::free(fabric.name.cast());
        }
        let parts: [*mut c_void; 6] = [
            (*info).tx_attr.cast(),
            (*info).rx_attr.cast(),
            (*info).ep_attr.cast(),
            (*info).domain_attr.cast(),
            (*info).fabric_attr.cast(),
            info.cast(),
        ];
        parts.into_iter().for_each(|part| libc::free(part));
    }
}
