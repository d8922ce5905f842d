//! Lines within a host, between processes of one user: how the two come together, and know each other.
//!
//! The one that is asked listens at a [name](super::packets) for this one line, and says over the bootstrap channel, sealed, where, and
//! a secret for this once. The kernel says of which user the other process is; that it is the node, and not another process of that user,
//! each shows by a proof of the secret, compared in constant time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gridnet_core::wire::NodeId;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::direct::Direct;
use super::door::{DOOR_LIMIT, STRANGERS_MAX};
use super::packets::{knows_users, own_uid, Listener, Name, Packets, Process};
use crate::clock::Moment;
use crate::error::Refusal;
use crate::member::state::Shared;
use crate::secret::{JoinSecret, SECRET_BYTES};

const LABEL: &[u8] = b"gridnet line inside 1";
/// How long a proof may take that was not said yet.
const PROOF_LIMIT: Duration = Duration::from_secs(5);

/// Callers that are not the one, all in all; when there were so many the gate is shut, and the two meet in another way.
const DENIED_MAX: usize = 64;
/// Why not, where the kernel cannot say who is there.
const NO_USERS: &str =
    "users are not mapped here (user namespaces), so that nobody is known to be of this one";

/// What the one that is asked answers: where to call, and how to prove it. `Debug` does not show the secret.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Entry {
    /// The user of its process.
    pub(super) uid: u32,
    name: Name,
    secret: [u8; SECRET_BYTES],
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Entry({:?}, ..)", self.name)
    }
}

/// Who proves something.
#[derive(Clone, Copy)]
enum Role {
    Caller,
    Called,
}

/// What both know of a line that is being made.
#[derive(Clone)]
struct Pact {
    number: u64,
    /// Who calls, and who is called.
    nodes: [NodeId; 2],
    secret: JoinSecret,
}

impl Pact {
    fn parts<Out>(&self, role: Role, with: impl FnOnce(&[&[u8]]) -> Out) -> Out {
        let role: &[u8] = match role {
            Role::Caller => b"caller",
            Role::Called => b"called",
        };
        let [caller, called] = &self.nodes;
        with(&[role, &self.number.to_le_bytes(), caller.bytes(), called.bytes()])
    }

    fn prove(&self, role: Role) -> [u8; SECRET_BYTES] {
        self.parts(role, |parts| self.secret.prove(LABEL, parts))
    }

    fn verifies(&self, role: Role, proof: &[u8; SECRET_BYTES]) -> bool {
        self.parts(role, |parts| self.secret.verifies(LABEL, parts, proof))
    }
}

/// The place at which one that was asked waits.
pub(super) struct Gate {
    listener: Listener,
    pact: Pact,
}

/// Listens for the other member. Within the runtime.
///
/// # Errors
/// What the system says.
pub(super) fn open(own: NodeId, (node, number): (NodeId, u64)) -> Result<(Gate, Entry), String> {
    if !knows_users() {
        return Err(NO_USERS.to_owned());
    }
    let mut secret = [0; SECRET_BYTES];
    crate::random::fill(&mut secret).map_err(|e| e.to_string())?;
    let (listener, name) = Listener::open().map_err(|e| format!("listening within the host: {e}"))?;
    let pact = Pact { number, nodes: [node, own], secret: JoinSecret::from_bytes(secret) };
    Ok((Gate { listener, pact }, Entry { uid: own_uid(), name, secret }))
}

/// Waits until the member has called with which the line was agreed on. Nobody else gets in.
pub(super) async fn wait(
    shared: &Arc<Shared>,
    Gate { listener, pact }: Gate,
    until: Moment,
) -> Result<Direct, String> {
    let mut guests = JoinSet::new();
    let mut denied = 0;
    let called = async {
        while denied < DENIED_MAX {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    // It goes again: more than a few call only to shut the door.
                    Ok(_) if guests.len() >= STRANGERS_MAX => denied += 1,
                    Ok(caller) => drop(guests.spawn(greet(shared.clone(), caller, pact.clone()))),
                    // Descriptors may have run out.
                    Err(_) => sleep(Duration::from_millis(100)).await,
                },
                guest = guests.join_next(), if !guests.is_empty() => {
                    if let Some(Ok(Some(stood))) = guest {
                        return Ok(stood);
                    }
                    denied += 1;
                }
            }
        }
        Err(format!("{denied} have called who are not the one"))
    };
    // With it go the listener, and all other guests.
    let called = timeout(DOOR_LIMIT, called).await;
    let (packets, process) =
        called.unwrap_or_else(|_| Err(format!("it has not called within {DOOR_LIMIT:?}")))?;
    let line = (pact.nodes[0], pact.number);
    Ok(Direct::new(packets, line, until, (process.pid, false)))
}

/// Hears a caller; none when it is not the one. That is noted.
async fn greet(shared: Arc<Shared>, caller: Packets, pact: Pact) -> Option<(Packets, Process)> {
    let process = caller.peer().ok()?;
    let heard = match process.uid == own_uid() {
        true => timeout(PROOF_LIMIT, hear(&caller, &pact)).await.unwrap_or(Err("says nothing".to_owned())),
        false => Err(format!("is of user {}, not of this one", process.uid)),
    };
    let denied = match heard {
        Ok(()) => return Some((caller, process)),
        Err(why) => why,
    };
    let why = format!("at the door of a line with node {}: {denied}", pact.nodes[0]);
    let (who, now) = (format!("process {}", process.pid), (Instant::now(), Moment::now()));
    shared.lock().audit.refused_here(who, Refusal::Stranger, &why, now);
    None
}

async fn hear(caller: &Packets, pact: &Pact) -> Result<(), String> {
    let proof = caller.hear::<SECRET_BYTES>().await.map_err(|e| e.to_string())?;
    if !pact.verifies(Role::Caller, &proof) {
        return Err("does not prove to be it".to_owned());
    }
    // There is room: nothing was said before.
    caller.try_say(&pact.prove(Role::Called)).map(drop).map_err(|e| e.to_string())
}

/// Calls the other member.
///
/// # Errors
/// Why that is not to be, or was not answered.
pub(super) async fn call(
    own: NodeId,
    (node, number): (NodeId, u64),
    Entry { uid, name, secret }: Entry,
    until: Moment,
) -> Result<Direct, String> {
    let pact = Pact { number, nodes: [own, node], secret: JoinSecret::from_bytes(secret) };
    let failed = |e: std::io::Error| format!("calling within the host: {e}");
    if !knows_users() {
        return Err(NO_USERS.to_owned());
    }
    let packets = Packets::connect(name).map_err(failed)?;
    let process = packets.peer().map_err(failed)?;
    // Before anything is said.
    if uid != own_uid() || process.uid != uid {
        return Err(format!("who listens within the host is of user {}, not of this one", process.uid));
    }
    packets.try_say(&pact.prove(Role::Caller)).map_err(failed)?;
    let proof = timeout(PROOF_LIMIT, packets.hear::<SECRET_BYTES>()).await;
    let proof = proof.map_err(|_| "it does not answer within the host".to_owned())?.map_err(failed)?;
    match pact.verifies(Role::Called, &proof) {
        true => Ok(Direct::new(packets, (node, number), until, (process.pid, true))),
        false => Err("who listens within the host does not prove to be it".to_owned()),
    }
}

#[cfg(test)]
mod tests;
