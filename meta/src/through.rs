//! What newcomers of a closed network say to the rendez-vous node through a leader, where the leader was told to pass that on.
//!
//! A newcomer has no certificate that the leader could look at: anybody who reaches the leader may come. What passes is between the
//! newcomer and the rendez-vous node, which take each other for who they are as if they were connected: the leader passes on so many
//! bytes for so long, of so many at a time, and to nobody else.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{copy, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::channel::{prepare, send};
use crate::error::{Error, Refusal};
use crate::message::Message;
use crate::rate::Rates;
use crate::register::Denied;

/// Newcomers that are passed on at a time: one is through in some round trips, and is heard for 5 s more.
const PLACES: usize = 128;
/// Newcomers in a second. The rendez-vous node hears 64 of one network at a time, for 5 s each, who have not said who they are: whoever
/// comes and says nothing leaves room for the leader itself.
const PER_SECOND: u32 = 10;
/// How long one may take.
const TIME_MAX: Duration = Duration::from_secs(30);
/// Bytes to the rendez-vous node: requests.
const UP_BYTES_MAX: u64 = 256 << 10;
/// Bytes from it: a directory as large as it may be.
const DOWN_BYTES_MAX: u64 = 8 << 20;
/// How long one may take to ask, and the rendez-vous node to answer.
const ASK_LIMIT: Duration = Duration::from_secs(3);

/// See the [module](self).
pub(crate) struct Tunnels {
    places: Semaphore,
    rates: Mutex<Rates<()>>,
}

impl Default for Tunnels {
    fn default() -> Tunnels {
        Tunnels { places: Semaphore::new(PLACES), rates: Mutex::new(Rates::new(PER_SECOND)) }
    }
}

/// Asks a leader to pass on what follows.
pub(crate) async fn ask(stream: &mut TcpStream) -> Result<(), Error> {
    send(stream, &Message::Through(())).await
}

impl Tunnels {
    /// Hears whether one asks for what follows to be passed on: its place among those of whom it is.
    ///
    /// # Errors
    /// Why it is not.
    pub(crate) async fn admit(&self, stream: &mut TcpStream) -> Result<SemaphorePermit<'_>, Denied> {
        let asked = timeout(ASK_LIMIT, is_asked(stream)).await;
        if !matches!(asked, Ok(true)) {
            return Err((Refusal::Stranger, "speaks no protocol of leaders".into()));
        }
        let may_come =
            || self.rates.lock().unwrap_or_else(PoisonError::into_inner).allows((), Instant::now());
        // Who finds no place takes nothing of what may come in the second.
        self.places.try_acquire().ok().filter(|_| may_come()).ok_or_else(|| {
            let why = format!("more than {PLACES} at a time or {PER_SECOND} a second are to be passed on");
            (Refusal::Rate, why)
        })
    }

    /// Passes on what one says that has this place, and what it is told, until one of the two ends it.
    ///
    /// # Errors
    /// Why not, if nothing was passed on.
    pub(crate) async fn pass_on(
        &self,
        rendezvous: &[String],
        stream: TcpStream,
        _place: SemaphorePermit<'_>,
    ) -> Result<(), Denied> {
        let Some(other) = reach(rendezvous).await else {
            return Err((Refusal::NoRoute, "the rendez-vous node is not reached".into()));
        };
        let _ = timeout(TIME_MAX, carry(stream, other)).await;
        Ok(())
    }
}

async fn is_asked(stream: &mut TcpStream) -> bool {
    let Ok(expected) = Message::Through(()).encode() else { return false };
    let mut said = vec![0; expected.len()];
    stream.read_exact(&mut said).await.is_ok() && said == expected
}

async fn reach(addresses: &[String]) -> Option<TcpStream> {
    for address in addresses {
        if let Ok(Ok(stream)) = timeout(ASK_LIMIT, TcpStream::connect(address)).await {
            prepare(&stream);
            return Some(stream);
        }
    }
    None
}

async fn carry(mut newcomer: TcpStream, mut rendezvous: TcpStream) {
    let (from_newcomer, mut to_newcomer) = newcomer.split();
    let (from_rendezvous, mut to_rendezvous) = rendezvous.split();
    let up = async {
        let _ = copy(&mut from_newcomer.take(UP_BYTES_MAX), &mut to_rendezvous).await;
        let _ = to_rendezvous.shutdown().await;
    };
    let down = async {
        let _ = copy(&mut from_rendezvous.take(DOWN_BYTES_MAX), &mut to_newcomer).await;
        let _ = to_newcomer.shutdown().await;
    };
    tokio::select! {
        // The newcomer may say nothing more for long: whoever is told nothing more either is not waited for.
        () = down => (),
        () = async { up.await; std::future::pending().await } => (),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{in_runtime, LONG};
    use tokio::net::TcpListener;

    async fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    #[test]
    fn a_newcomer_that_stays_is_let_go_when_the_rendezvous_node_hangs_up() {
        in_runtime(async {
            let ((mut newcomer, near), (far, rendezvous)) = (connected().await, connected().await);
            drop(rendezvous);
            timeout(LONG, carry(near, far)).await.expect("it is over");
            assert_eq!(newcomer.read(&mut [0]).await.unwrap(), 0, "and is told so");
        });
    }

    #[test]
    fn what_is_said_last_still_comes_when_the_newcomer_has_ended() {
        in_runtime(async {
            let ((mut newcomer, near), (far, mut rendezvous)) = (connected().await, connected().await);
            newcomer.write_all(b"that is all").await.unwrap();
            newcomer.shutdown().await.unwrap();
            let talk = async {
                let mut heard = String::new();
                rendezvous.read_to_string(&mut heard).await.unwrap();
                rendezvous.write_all(b"well").await.unwrap();
                drop(rendezvous);
                heard
            };
            let ((), heard) = tokio::join!(carry(near, far), talk);
            let mut answer = String::new();
            newcomer.read_to_string(&mut answer).await.unwrap();
            assert_eq!((heard.as_str(), answer.as_str()), ("that is all", "well"));
        });
    }

    #[test]
    fn who_finds_no_place_costs_no_other_its_turn() {
        in_runtime(async {
            let tunnels = Tunnels::default();
            let admit = || async {
                let (mut newcomer, mut near) = connected().await;
                ask(&mut newcomer).await.unwrap();
                tunnels.admit(&mut near).await.map_err(|(refusal, _)| refusal)
            };
            let all = tunnels.places.try_acquire_many(PLACES as u32).unwrap();
            for _ in 0..2 * PER_SECOND {
                assert_eq!(admit().await.unwrap_err(), Refusal::Rate);
            }
            drop(all);
            assert!(admit().await.is_ok());
        });
    }
}
