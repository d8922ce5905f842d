//! What can go wrong, sorted by who can do something about it.
//!
//! The numbers are the C ABI's `gridnet_status`; they are never renumbered, only added to.

/// Why an operation, an endpoint or a rail failed. Negative numbers of the C ABI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(i32)]
pub enum Error {
    /// An argument is out of its range.
    Invalid = -1,
    /// A required pointer is NULL.
    Null = -2,
    /// The handle is closed, or is not a handle of this kind.
    Handle = -3,
    /// The size field of a parameter struct is none that this library knows.
    StructSize = -4,
    /// A configuration variable or value is unknown.
    Config = -5,
    /// Memory could not be had.
    NoMemory = -6,
    /// A configured limit, or one of the operating system, is reached.
    Limit = -7,
    /// No resource at this moment: poll the completion queue, then try again.
    Again = -8,
    /// The time given has passed.
    Timeout = -9,
    /// The operation was cancelled.
    Canceled = -10,
    /// The message was longer than the buffer; the buffer holds its first bytes.
    Truncated = -11,
    /// The peer process has ended; whether messages not yet acknowledged arrived is unknown.
    PeerGone = -12,
    /// The peer broke the protocol; its endpoint is closed, others go on.
    PeerMisbehaved = -13,
    /// No rail reaches the address.
    Unreachable = -14,
    /// There is no such name or operation.
    NotFound = -15,
    /// Another fabric of this host has the name.
    NameInUse = -16,
    /// The handle was inherited through `fork`.
    Forked = -17,
    /// The call breaks the thread level chosen at open.
    Thread = -18,
    /// The other side, or a file, belongs to another user.
    Permission = -19,
    /// A system call failed.
    System = -20,
    /// The rail or build cannot do this.
    Unsupported = -21,
    /// The object still has users.
    InUse = -22,
    /// A probe found no message.
    NoMessage = -23,
    /// The peer speaks no protocol version that we speak.
    Version = -24,
    /// The peer's shared segment is corrupt, foreign, unsealed or too small.
    Segment = -25,
    /// A defect of gridnet itself.
    Internal = -26,
    /// The key names no region of this peer, or one that was closed.
    Key = -27,
    /// The region does not allow this operation.
    Access = -28,
    /// The access goes beyond the end of the region.
    Bounds = -29,
    /// The place is not a multiple of the width of the operation.
    Misaligned = -30,
    /// The memory behind the region is not there any more, or cannot be accessed so.
    Fault = -31,
    /// The stream takes no more bytes: one of its sides has ended it.
    Closed = -32,
}

impl Error {
    /// Every error, in the order of its number.
    pub const ALL: [Error; 32] = [
        Error::Invalid,
        Error::Null,
        Error::Handle,
        Error::StructSize,
        Error::Config,
        Error::NoMemory,
        Error::Limit,
        Error::Again,
        Error::Timeout,
        Error::Canceled,
        Error::Truncated,
        Error::PeerGone,
        Error::PeerMisbehaved,
        Error::Unreachable,
        Error::NotFound,
        Error::NameInUse,
        Error::Forked,
        Error::Thread,
        Error::Permission,
        Error::System,
        Error::Unsupported,
        Error::InUse,
        Error::NoMessage,
        Error::Version,
        Error::Segment,
        Error::Internal,
        Error::Key,
        Error::Access,
        Error::Bounds,
        Error::Misaligned,
        Error::Fault,
        Error::Closed,
    ];

    /// The number of the C ABI.
    #[inline]
    pub const fn code(self) -> i32 {
        self as i32
    }

    /// The error with this number, if there is one. For numbers that a peer wrote.
    pub fn from_code(code: i32) -> Option<Error> {
        let index = usize::try_from(code.checked_neg()?.checked_sub(1)?).ok()?;
        Self::ALL.get(index).copied()
    }

    /// One sentence for people.
    pub const fn text(self) -> &'static str {
        match self {
            Error::Invalid => "an argument is out of its range",
            Error::Null => "a required pointer is NULL",
            Error::Handle => "the handle is closed, or is not a handle of this kind",
            Error::StructSize => "the size field of a parameter struct is none that this library knows",
            Error::Config => "a configuration variable or value is unknown",
            Error::NoMemory => "memory could not be had",
            Error::Limit => "a configured limit, or one of the operating system, is reached",
            Error::Again => "no resource at this moment: poll the completion queue, then try again",
            Error::Timeout => "the time given has passed",
            Error::Canceled => "the operation was cancelled",
            Error::Truncated => "the message was longer than the buffer, which holds its first bytes",
            Error::PeerGone => {
                "the peer process has ended; whether messages not yet acknowledged arrived is unknown"
            }
            Error::PeerMisbehaved => "the peer broke the protocol and was cut off",
            Error::Unreachable => "no rail reaches the address",
            Error::NotFound => "there is no such name or operation",
            Error::NameInUse => "another fabric of this host has the name",
            Error::Forked => "the handle was inherited through fork; the child opens a fabric of its own",
            Error::Thread => "the call breaks the thread level chosen at open",
            Error::Permission => "the other side, or a file, belongs to another user",
            Error::System => "a system call failed",
            Error::Unsupported => "the rail or build cannot do this",
            Error::InUse => "the object still has users",
            Error::NoMessage => "a probe found no message",
            Error::Version => "the peer speaks no protocol version that this library speaks",
            Error::Segment => "the peer's shared segment is corrupt, foreign, unsealed or too small",
            Error::Internal => "a defect of gridnet itself; please report it",
            Error::Key => "the key names no region of this peer, or one that was closed",
            Error::Access => "the region does not allow this operation",
            Error::Bounds => "the access goes beyond the end of the region",
            Error::Misaligned => "the place is not a multiple of the width of the operation",
            Error::Fault => "the memory behind the region is not there any more, or cannot be accessed so",
            Error::Closed => "the stream takes no more bytes: one of its sides has ended it",
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip_and_strangers_are_refused() {
        for (i, error) in Error::ALL.into_iter().enumerate() {
            assert_eq!(error.code(), -(i as i32) - 1);
            assert_eq!(Error::from_code(error.code()), Some(error));
        }
        for stranger in [0, 1, -33, i32::MIN, i32::MAX] {
            assert_eq!(Error::from_code(stranger), None);
        }
    }
}
