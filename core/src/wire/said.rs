//! What is said about a stream, beside its bytes.

use super::Malformed;
use crate::error::Error;

/// Longest name of a service in bytes.
pub const MAX_SERVICE_BYTES: usize = 128;

/// What one side says about a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// The caller asks for a stream to the service that the payload names, and takes so many bytes of it. The number in
    /// the frame is the caller's.
    Open {
        /// Bytes that the caller has room for.
        window: u32,
    },
    /// The caller has its stream.
    Accept {
        /// The number by which the sender of this knows it.
        stream: u64,
        /// Bytes that it has room for.
        window: u32,
    },
    /// The caller has no stream.
    Refuse {
        /// Why.
        error: Error,
    },
    /// So many more bytes may be sent.
    Credit {
        /// How many.
        bytes: u32,
    },
    /// No bytes follow.
    End,
    /// What still comes is not read.
    Stop,
    /// Of the bytes that could be fetched so many were; those behind them are to be sent.
    Pulled {
        /// How many.
        bytes: u64,
    },
}

impl Said {
    /// The words of the frame.
    pub(super) fn words(self) -> [u64; 3] {
        match self {
            Said::Open { window } => [1, window.into(), 0],
            Said::Accept { stream, window } => [2, window.into(), stream],
            Said::Refuse { error } => [3, i64::from(error.code()) as u64, 0],
            Said::Credit { bytes } => [4, bytes.into(), 0],
            Said::End => [5, 0, 0],
            Said::Stop => [6, 0, 0],
            Said::Pulled { bytes } => [7, bytes, 0],
        }
    }

    /// Reads the words of a frame with so many bytes behind them.
    pub(super) fn parse([what, value, stream]: [u64; 3], payload: usize) -> Result<Said, Malformed> {
        let number = || u32::try_from(value).map_err(|_| Malformed("window of a stream that is too large"));
        let said = match what {
            1 => Said::Open { window: number()? },
            2 => Said::Accept { stream, window: number()? },
            3 => Said::Refuse { error: refusal(value)? },
            4 => Said::Credit { bytes: number()? },
            5 => Said::End,
            6 => Said::Stop,
            7 => Said::Pulled { bytes: value },
            _ => return Err(Malformed("unknown word about a stream")),
        };
        if said.words() != [what, value, stream] {
            return Err(Malformed("value where a word about a stream has none"));
        }
        let names = if what == 1 { 1..=MAX_SERVICE_BYTES } else { 0..=0 };
        if !names.contains(&payload) {
            return Err(Malformed("length of the name of a service"));
        }
        Ok(said)
    }
}

fn refusal(word: u64) -> Result<Error, Malformed> {
    let code = i32::try_from(word as i64).ok();
    code.and_then(Error::from_code).ok_or(Malformed("unknown status"))
}
