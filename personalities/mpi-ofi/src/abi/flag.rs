//! Bits of capabilities and operations, and small enumerations.

// Capabilities, and what completions say of their operations.
pub(crate) const MSG: u64 = 1 << 1;
pub(crate) const TAGGED: u64 = 1 << 3;
pub(crate) const RMA: u64 = 1 << 2;
pub(crate) const ATOMIC: u64 = 1 << 4;
pub(crate) const READ: u64 = 1 << 8;
pub(crate) const WRITE: u64 = 1 << 9;
pub(crate) const RECV: u64 = 1 << 10;
pub(crate) const SEND: u64 = 1 << 11;
pub(crate) const REMOTE_READ: u64 = 1 << 12;
pub(crate) const REMOTE_WRITE: u64 = 1 << 13;
pub(crate) const MULTI_RECV: u64 = 1 << 16;
pub(crate) const REMOTE_CQ_DATA: u64 = 1 << 17;
pub(crate) const LOCAL_COMM: u64 = 1 << 51;
pub(crate) const REMOTE_COMM: u64 = 1 << 52;
pub(crate) const SOURCE: u64 = 1 << 57;
pub(crate) const DIRECTED_RECV: u64 = 1 << 59;

// Flags of operations.
pub(crate) const MORE: u64 = 1 << 18;
pub(crate) const PEEK: u64 = 1 << 19;
pub(crate) const COMPLETION: u64 = 1 << 24;
pub(crate) const INJECT: u64 = 1 << 25;
pub(crate) const INJECT_COMPLETE: u64 = 1 << 26;
pub(crate) const TRANSMIT_COMPLETE: u64 = 1 << 27;
pub(crate) const DELIVERY_COMPLETE: u64 = 1 << 28;
pub(crate) const MATCH_COMPLETE: u64 = 1 << 31;
pub(crate) const DISCARD: u64 = 1 << 58;
/// Of a question about an atomic operation.
pub(crate) const FETCH_ATOMIC: u64 = 1 << 58;
pub(crate) const COMPARE_ATOMIC: u64 = 1 << 59;
pub(crate) const CLAIM: u64 = 1 << 59;

/// Of a queue that is bound to an endpoint: only operations with [`COMPLETION`] report success.
pub(crate) const SELECTIVE_COMPLETION: u64 = 1 << 59;
/// Of an insertion into an address vector: the context is an array of errors, one for each address.
pub(crate) const SYNC_ERR: u64 = 1 << 58;

/// Messages from one sender come in their order.
pub(crate) const ORDER_SAS: u64 = 1 << 8;
/// Reads and writes of regions, and atomic operations among them, take effect in theirs: `FI_ORDER_RAR`, `_RAW`, `_WAR`, `_WAW`, and
/// the eight that say the same of a part of them.
pub(crate) const ORDER_REGIONS: u64 = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 4 | 0xff << 32;

/// Modes of registration: peers name places by addresses; the provider chooses keys.
pub(crate) const MR_VIRT_ADDR: i32 = 1 << 4;
pub(crate) const MR_PROV_KEY: i32 = 1 << 6;
/// What programs of old say for both, and for neither.
pub(crate) const MR_BASIC: i32 = 1 << 0;
pub(crate) const MR_SCALABLE: i32 = 1 << 1;

pub(crate) const EP_RDM: u32 = 3;
pub(crate) const AV_TABLE: u32 = 2;
pub(crate) const THREAD_SAFE: u32 = 1;
/// No two calls to objects of a domain at a time: the program sees to it.
pub(crate) const THREAD_DOMAIN: u32 = 3;
pub(crate) const PROGRESS_AUTO: u32 = 1;
pub(crate) const PROGRESS_MANUAL: u32 = 2;
pub(crate) const RM_ENABLED: u32 = 2;
pub(crate) const WAIT_NONE: u32 = 0;
pub(crate) const WAIT_UNSPEC: u32 = 1;
pub(crate) const WAIT_FD: u32 = 3;
pub(crate) const WAIT_YIELD: u32 = 5;

pub(crate) const FORMAT_CONTEXT: u32 = 1;
pub(crate) const FORMAT_MSG: u32 = 2;
pub(crate) const FORMAT_DATA: u32 = 3;
pub(crate) const FORMAT_TAGGED: u32 = 4;

// Commands of `fi_control`.
pub(crate) const GETOPSFLAG: i32 = 2;
pub(crate) const SETOPSFLAG: i32 = 3;
pub(crate) const GETWAIT: i32 = 5;
pub(crate) const ENABLE: i32 = 6;
pub(crate) const GETWAITOBJ: i32 = 16;

/// `FI_OPT_ENDPOINT`.
pub(crate) const OPT_ENDPOINT: i32 = 0;
/// `FI_OPT_MIN_MULTI_RECV`.
pub(crate) const OPT_MIN_MULTI_RECV: i32 = 0;
