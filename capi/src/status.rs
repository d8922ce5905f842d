//! Numbers and texts of errors.

use std::cell::RefCell;
use std::ffi::{c_char, CStr, CString};
use std::sync::OnceLock;

use gridnet::core::error::Error;
use gridnet::core::rail::Refusal;

/// 0: done. Positive: in progress, or a number of things. Negative: an error.
pub type gridnet_status = i32;

/// Done; no completion follows.
pub const GRIDNET_OK: gridnet_status = 0;
/// Under way; a completion follows.
pub const GRIDNET_IN_PROGRESS: gridnet_status = 1;
/// gridnet_cq_arm: something is there already; poll first.
pub const GRIDNET_BUSY: gridnet_status = 2;
/// An argument is out of its range.
pub const GRIDNET_ERR_INVALID: gridnet_status = -1;
/// A required pointer is NULL.
pub const GRIDNET_ERR_NULL: gridnet_status = -2;
/// The handle is closed, or is not a handle of this kind.
pub const GRIDNET_ERR_HANDLE: gridnet_status = -3;
/// The size field of a parameter struct is none that this library knows.
pub const GRIDNET_ERR_STRUCT_SIZE: gridnet_status = -4;
/// A configuration variable or value is unknown.
pub const GRIDNET_ERR_CONFIG: gridnet_status = -5;
/// Memory could not be had.
pub const GRIDNET_ERR_NO_MEMORY: gridnet_status = -6;
/// A configured limit, or one of the operating system, is reached.
pub const GRIDNET_ERR_LIMIT: gridnet_status = -7;
/// No resource at this moment: poll the completion queue, then try again.
pub const GRIDNET_ERR_AGAIN: gridnet_status = -8;
/// The time given has passed.
pub const GRIDNET_ERR_TIMEOUT: gridnet_status = -9;
/// The operation was cancelled.
pub const GRIDNET_ERR_CANCELED: gridnet_status = -10;
/// The message was longer than the buffer, which holds its first bytes.
pub const GRIDNET_ERR_TRUNCATED: gridnet_status = -11;
/// The peer process has ended; whether messages not yet acknowledged arrived is unknown.
pub const GRIDNET_ERR_PEER_GONE: gridnet_status = -12;
/// The peer broke the protocol and was cut off.
pub const GRIDNET_ERR_PEER_MISBEHAVED: gridnet_status = -13;
/// No rail reaches the address.
pub const GRIDNET_ERR_UNREACHABLE: gridnet_status = -14;
/// There is no such name or operation.
pub const GRIDNET_ERR_NOT_FOUND: gridnet_status = -15;
/// Another fabric of this host has the name.
pub const GRIDNET_ERR_NAME_IN_USE: gridnet_status = -16;
/// The handle was inherited through fork.
pub const GRIDNET_ERR_FORKED: gridnet_status = -17;
/// The call breaks the thread level chosen at open.
pub const GRIDNET_ERR_THREAD: gridnet_status = -18;
/// The other side, or a file, belongs to another user.
pub const GRIDNET_ERR_PERMISSION: gridnet_status = -19;
/// A system call failed.
pub const GRIDNET_ERR_SYSTEM: gridnet_status = -20;
/// The rail or build cannot do this.
pub const GRIDNET_ERR_UNSUPPORTED: gridnet_status = -21;
/// The object still has users.
pub const GRIDNET_ERR_IN_USE: gridnet_status = -22;
/// A probe found no message.
pub const GRIDNET_ERR_NO_MESSAGE: gridnet_status = -23;
/// The peer speaks no protocol version that this library speaks.
pub const GRIDNET_ERR_VERSION: gridnet_status = -24;
/// The peer's shared segment is corrupt, foreign, unsealed or too small.
pub const GRIDNET_ERR_SEGMENT: gridnet_status = -25;
/// A defect of gridnet itself.
pub const GRIDNET_ERR_INTERNAL: gridnet_status = -26;
/// The key names no region of this peer, or one that was closed.
pub const GRIDNET_ERR_KEY: gridnet_status = -27;
/// The region does not allow this operation.
pub const GRIDNET_ERR_ACCESS: gridnet_status = -28;
/// The access goes beyond the end of the region.
pub const GRIDNET_ERR_BOUNDS: gridnet_status = -29;
/// The place is not a multiple of the width of the operation.
pub const GRIDNET_ERR_MISALIGNED: gridnet_status = -30;
/// The memory behind the region is not there any more, or cannot be accessed so.
pub const GRIDNET_ERR_FAULT: gridnet_status = -31;
/// The stream takes no more bytes: one of its sides has ended it.
pub const GRIDNET_ERR_CLOSED: gridnet_status = -32;

/// Name and text of each status.
macro_rules! names {
    ($($number:ident),* $(,)?) => {
        fn name_of(status: gridnet_status) -> Option<&'static CStr> {
            match status {
                $($number => {
                    const NAME: &CStr = match CStr::from_bytes_with_nul(concat!(stringify!($number), "\0").as_bytes()) {
                        Ok(name) => name,
                        Err(_) => unreachable!(),
                    };
                    Some(NAME)
                })*
                _ => None,
            }
        }
    };
}

names!(
    GRIDNET_OK,
    GRIDNET_IN_PROGRESS,
    GRIDNET_BUSY,
    GRIDNET_ERR_INVALID,
    GRIDNET_ERR_NULL,
    GRIDNET_ERR_HANDLE,
    GRIDNET_ERR_STRUCT_SIZE,
    GRIDNET_ERR_CONFIG,
    GRIDNET_ERR_NO_MEMORY,
    GRIDNET_ERR_LIMIT,
    GRIDNET_ERR_AGAIN,
    GRIDNET_ERR_TIMEOUT,
    GRIDNET_ERR_CANCELED,
    GRIDNET_ERR_TRUNCATED,
    GRIDNET_ERR_PEER_GONE,
    GRIDNET_ERR_PEER_MISBEHAVED,
    GRIDNET_ERR_UNREACHABLE,
    GRIDNET_ERR_NOT_FOUND,
    GRIDNET_ERR_NAME_IN_USE,
    GRIDNET_ERR_FORKED,
    GRIDNET_ERR_THREAD,
    GRIDNET_ERR_PERMISSION,
    GRIDNET_ERR_SYSTEM,
    GRIDNET_ERR_UNSUPPORTED,
    GRIDNET_ERR_IN_USE,
    GRIDNET_ERR_NO_MESSAGE,
    GRIDNET_ERR_VERSION,
    GRIDNET_ERR_SEGMENT,
    GRIDNET_ERR_INTERNAL,
    GRIDNET_ERR_KEY,
    GRIDNET_ERR_ACCESS,
    GRIDNET_ERR_BOUNDS,
    GRIDNET_ERR_MISALIGNED,
    GRIDNET_ERR_FAULT,
    GRIDNET_ERR_CLOSED,
);

/// Version of the library: major * 65536 + minor * 256 + patch.
#[no_mangle]
pub extern "C" fn gridnet_version() -> u32 {
    VERSION
}

const VERSION: u32 = {
    const fn number(text: &str) -> u32 {
        let bytes = text.as_bytes();
        let (mut value, mut i) = (0, 0);
        while i < bytes.len() {
            value = value * 10 + (bytes[i] - b'0') as u32;
            i += 1;
        }
        value
    }
    number(env!("CARGO_PKG_VERSION_MAJOR")) << 16
        | number(env!("CARGO_PKG_VERSION_MINOR")) << 8
        | number(env!("CARGO_PKG_VERSION_PATCH"))
};

/// Version of the library as text, "0.1.0".
#[no_mangle]
pub extern "C" fn gridnet_version_string() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// Name of a status, "GRIDNET_ERR_PEER_GONE"; "GRIDNET_?" for numbers that are none. Never NULL.
#[no_mangle]
pub extern "C" fn gridnet_status_name(status: gridnet_status) -> *const c_char {
    name_of(status).unwrap_or(c"GRIDNET_?").as_ptr()
}

/// One sentence on a status. Never NULL; valid for ever.
#[no_mangle]
pub extern "C" fn gridnet_status_text(status: gridnet_status) -> *const c_char {
    static TEXTS: OnceLock<Vec<CString>> = OnceLock::new();
    let texts = TEXTS.get_or_init(|| Error::ALL.iter().map(|error| c_string(error.text())).collect());
    let text = match Error::from_code(status) {
        Some(_) => texts.get(status.unsigned_abs() as usize - 1).map(CString::as_c_str),
        None if status == GRIDNET_OK => Some(c"done"),
        None if status == GRIDNET_IN_PROGRESS => Some(c"under way: a completion follows"),
        None if status == GRIDNET_BUSY => Some(c"something is there already: poll first"),
        None => None,
    };
    text.unwrap_or(c"no status of this library").as_ptr()
}

/// Details of the last call of this thread that failed: which argument, variable or system call, and why. Never NULL;
/// valid until the next call that fails in this thread.
#[no_mangle]
pub extern "C" fn gridnet_last_error() -> *const c_char {
    LAST.with(|last| last.borrow().as_ptr())
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// Remembers details, and gives the number to return.
#[cold]
pub(crate) fn fail(refusal: &Refusal) -> gridnet_status {
    LAST.with(|last| *last.borrow_mut() = c_string(&refusal.reason));
    refusal.error.code()
}

fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', "?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_its_number_name_and_text() {
        for error in Error::ALL {
            let name = name_of(error.code()).expect("every error has a name").to_str().unwrap();
            let words: String = format!("{error:?}")
                .chars()
                .flat_map(|c| if c.is_uppercase() { vec!['_', c] } else { vec![c.to_ascii_uppercase()] })
                .collect();
            assert_eq!(name, format!("GRIDNET_ERR{words}"));
            // SAFETY: texts are valid for ever.
            let text = unsafe { CStr::from_ptr(gridnet_status_text(error.code())) };
            assert_eq!(text.to_str().unwrap(), error.text());
        }
        assert_eq!(VERSION, 0x0100, "0.1.0");
    }
}
