//! Numbers of errors: those of the system, and libfabric's own from 256 on.

use gridnet::core::error::Error;

/// No message is lost: try again after a read of the completion queue.
pub(crate) const EAGAIN: i32 = libc::EAGAIN;
/// An error waits in the completion queue.
pub(crate) const EAVAIL: i32 = 259;
/// The provider cannot do this.
pub(crate) const ENOSYS: i32 = libc::ENOSYS;
/// Unspecified.
pub(crate) const EOTHER: i32 = 256;
/// The buffer is too small.
pub(crate) const ETOOSMALL: i32 = 257;
/// Not in this state.
pub(crate) const EOPBADSTATE: i32 = 258;
/// No address vector is bound.
pub(crate) const ENOAV: i32 = 267;
/// No completion queue is bound.
pub(crate) const ENOCQ: i32 = 263;
/// No region has this key.
pub(crate) const ENOKEY: i32 = 266;
/// The message was longer than the buffer.
pub(crate) const ETRUNC: i32 = 265;

/// What a program of libfabric is told of an error of gridnet.
pub(crate) fn of(error: Error) -> i32 {
    match error {
        Error::Again => EAGAIN,
        Error::Truncated => ETRUNC,
        Error::Canceled => libc::ECANCELED,
        Error::NoMessage => libc::ENOMSG,
        Error::PeerGone => libc::ECONNRESET,
        Error::Timeout => libc::ETIMEDOUT,
        Error::Unreachable => libc::EHOSTUNREACH,
        Error::PeerMisbehaved | Error::Version | Error::Segment => libc::ECONNABORTED,
        Error::Permission | Error::Access => libc::EACCES,
        Error::Invalid | Error::Null | Error::Handle | Error::StructSize | Error::Config => libc::EINVAL,
        Error::NoMemory | Error::Limit => libc::ENOMEM,
        Error::NotFound => libc::ENOENT,
        Error::Key => ENOKEY,
        Error::Bounds => libc::EOVERFLOW,
        Error::Misaligned => libc::EINVAL,
        Error::Unsupported => libc::EOPNOTSUPP,
        Error::InUse | Error::NameInUse => libc::EBUSY,
        Error::Forked | Error::Thread => EOPBADSTATE,
        Error::System => libc::EIO,
        Error::Fault => libc::EFAULT,
        _ => EOTHER,
    }
}
