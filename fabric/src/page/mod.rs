//! The page: what a fabric shows of itself to `gridnet explain` and `gridnet top`.
//!
//! A file of mode 0600, which the fabric alone writes and which any process of the user may read at any time, even when
//! its process hangs or is stopped. Counters lie in it, as of the last call; text of what changes seldom is written at
//! changes. Nothing is asked of the process that is looked at.
//!
//! | file | concept |
//! |---|---|
//! | `layout.rs` | what lies where |
//! | `text.rs` | lines of keys and values, and what may be in them |
//! | `place.rs` | where pages are in the file system, and whose they are |
//! | `writer.rs` | the own page |
//! | `waits.rs` | who waits in which call |
//! | `reader.rs` | a page as a reader finds it |
//! | `find.rs` | the pages of this user |

mod find;
mod layout;
mod place;
mod reader;
#[cfg(test)]
mod tests;
mod text;
mod waits;
mod writer;

pub use find::{all, of_name, of_process, Found, Missing};
pub use layout::VERSION;
pub use reader::{Activity, LinkView, PageView, PeerView, ReadError, Setting, WaitView, Who};
pub(crate) use waits::{Call, Waiting};
pub(crate) use writer::{Identity, Page, PageLedger};
