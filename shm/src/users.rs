//! Which users' processes may be peers.

use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use nix::unistd::geteuid;

/// The own user, and others that the configuration allows.
#[derive(Debug)]
pub(crate) struct Users {
    own: u32,
    allowed: Vec<u32>,
}

/// Whose a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum User {
    /// Our own user's: one domain of trust.
    Own,
    /// Of another user, which is allowed.
    Other(u32),
}

impl Users {
    /// This process's user, and others.
    pub(crate) fn new(allowed: Vec<u32>) -> Users {
        Users { own: geteuid().as_raw(), allowed }
    }

    /// As if this process ran as `own`.
    #[cfg(test)]
    pub(crate) fn pretending(own: u32, allowed: Vec<u32>) -> Users {
        Users { own, allowed }
    }

    /// Whether other users may be peers at all.
    pub(crate) fn has_others(&self) -> bool {
        !self.allowed.is_empty()
    }

    /// The own user.
    pub(crate) fn own(&self) -> u32 {
        self.own
    }

    /// What a process of `user` is to us.
    ///
    /// # Errors
    /// [`Error::Permission`], in words that either side understands.
    pub(crate) fn check(&self, user: u32) -> Result<User, Refusal> {
        if user == self.own {
            return Ok(User::Own);
        }
        if self.allowed.contains(&user) {
            return Ok(User::Other(user));
        }
        let own = self.own;
        let why = format!("GRIDNET_SHM_ALLOW_UIDS of the process of user {own} does not name user {user}");
        Err(Refusal::new(Error::Permission, why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_own_user_and_those_named_are_let_in() {
        let users = Users::pretending(7, vec![8, 65534]);
        assert_eq!(users.check(7), Ok(User::Own));
        assert_eq!(users.check(8), Ok(User::Other(8)));
        for stranger in [0, 9, u32::MAX] {
            let refusal = users.check(stranger).unwrap_err();
            assert_eq!(refusal.error, Error::Permission);
            for part in ["user 7", &format!("user {stranger}"), "GRIDNET_SHM_ALLOW_UIDS"] {
                assert!(refusal.reason.contains(part), "{refusal:?}");
            }
        }
        assert!(users.has_others() && !Users::pretending(7, Vec::new()).has_others());
    }
}
