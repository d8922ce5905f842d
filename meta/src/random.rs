//! Random numbers of the system.

use crate::error::Error;
use gridnet_core::wire::NodeId;

/// Fills `bytes`.
pub(crate) fn fill(bytes: &mut [u8]) -> Result<(), Error> {
    getrandom::fill(bytes).map_err(|e| Error::System(format!("random numbers: {e}")))
}

/// A number that nobody else has.
pub(crate) fn id() -> Result<NodeId, Error> {
    let mut bytes = [0; 16];
    loop {
        fill(&mut bytes)?;
        if let Some(id) = NodeId::new(bytes) {
            return Ok(id);
        }
    }
}

/// A number that is most probably another one than before.
pub(crate) fn word() -> Result<u64, Error> {
    let mut bytes = [0; 8];
    fill(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}
