//! RDMA adapters, through libibverbs.
//!
//! | file | concept |
//! |---|---|
//! | `device.rs` | an adapter behind the seam of the rail |
//! | `gid.rs` | which GID of which adapter is taken, and why |
//! | `objects.rs` | the objects of the library, which go in the right order |
//! | `library.rs` | the library, opened at run time |
//! | `abi.rs` | its structs and constants |

#[expect(missing_docs, reason = "names and meanings are those of the header")]
pub mod abi;
mod device;
pub mod gid;
#[expect(unsafe_code)] // A C library is found and its functions get their types.
mod library;
#[expect(unsafe_code)] // They are called.
pub mod objects;

pub use device::IbvDevice;
