//! The secret of a ticket: whoever proves to know it may join.
//!
//! It is never sent. A proof is HMAC-SHA256 (RFC 2104) over a label, keying material of the TLS connection that both ends
//! derive (RFC 8446, 7.5), and what is asked for; so it is worth nothing on another connection.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::error::Error;

/// Bytes of a secret, and of a proof.
pub const SECRET_BYTES: usize = 32;
const LABEL: &[u8] = b"gridnet join 1";

/// See the [module](self). Not shown by `Debug`, and wiped when it is dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct JoinSecret([u8; SECRET_BYTES]);

impl JoinSecret {
    /// A fresh one, from the random numbers of the system.
    ///
    /// # Errors
    /// [`Error::System`] when there are none.
    pub fn random() -> Result<JoinSecret, Error> {
        let mut bytes = [0; SECRET_BYTES];
        crate::random::fill(&mut bytes)?;
        Ok(JoinSecret(bytes))
    }

    /// One that follows from a key, and from which the key does not.
    pub(crate) fn derived(key: &[u8]) -> JoinSecret {
        let parent = JoinSecret(Sha256::digest(key).into());
        JoinSecret(parent.prove(b"derived", &[]))
    }

    /// One of these bytes.
    pub(crate) fn from_bytes(bytes: [u8; SECRET_BYTES]) -> JoinSecret {
        JoinSecret(bytes)
    }

    /// Reads 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`Error::Config`] when they are not that; what was found is not repeated.
    pub fn from_hex(text: &str) -> Result<JoinSecret, Error> {
        crate::hex::decode(text).map(JoinSecret).ok_or(Error::Config("secret: 64 hexadecimal digits".into()))
    }

    /// Its 64 hexadecimal digits, for the ticket file.
    pub(crate) fn to_hex(&self) -> zeroize::Zeroizing<String> {
        crate::hex::encode(&self.0).into()
    }

    /// Proves to know the secret, on the connection of this keying material, for these things.
    pub(crate) fn prove(&self, keying: &[u8], parts: &[&[u8]]) -> [u8; SECRET_BYTES] {
        self.mac(keying, parts).map_or([0; SECRET_BYTES], |mac| mac.finalize().into_bytes().into())
    }

    /// Whether a proof is right; takes the same time wherever it is wrong.
    pub(crate) fn verifies(&self, keying: &[u8], parts: &[&[u8]], proof: &[u8; SECRET_BYTES]) -> bool {
        self.mac(keying, parts).is_some_and(|mac| mac.verify_slice(proof).is_ok())
    }

    fn mac(&self, keying: &[u8], parts: &[&[u8]]) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).ok()?;
        for part in [LABEL, keying].iter().chain(parts) {
            // Lengths keep the parts apart.
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        Some(mac)
    }
}

impl std::fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JoinSecret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_good_for_its_connection_and_its_parts_only() {
        let secret = JoinSecret([7; SECRET_BYTES]);
        let proof = secret.prove(b"connection", &[b"node", b"request"]);
        assert!(secret.verifies(b"connection", &[b"node", b"request"], &proof));
        assert!(!secret.verifies(b"connectioM", &[b"node", b"request"], &proof));
        assert!(!secret.verifies(b"connection", &[b"noderequest", b""], &proof));
        assert!(!JoinSecret([8; SECRET_BYTES]).verifies(b"connection", &[b"node", b"request"], &proof));
        for byte in 0..SECRET_BYTES {
            let mut other = proof;
            other[byte] ^= 1;
            assert!(!secret.verifies(b"connection", &[b"node", b"request"], &other));
        }
    }

    #[test]
    fn it_shows_itself_to_the_ticket_only() {
        let secret = JoinSecret([0xab; SECRET_BYTES]);
        assert_eq!(format!("{secret:?}"), "JoinSecret(..)");
        let again = JoinSecret::from_hex(&secret.to_hex()).unwrap();
        assert_eq!(again.0, secret.0);
        for wrong in ["", "ab", &"ab".repeat(33), &"zz".repeat(32)] {
            let error = JoinSecret::from_hex(wrong).unwrap_err().to_string();
            assert_eq!(error, "secret: 64 hexadecimal digits");
        }
    }
}
