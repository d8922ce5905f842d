//! Callers that have not said who they are: so many are heard at a time, and one more makes the one go that has been heard longest,
//! of the network that has the most. So nobody shuts the door by standing in it.

use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::error::{Error, Refusal};
use crate::register::Denied;
use crate::strangers::{network, Hellos};

/// How long a stranger may take for its first word, and from then on until it has said who it is.
const STRANGER_LIMIT: Duration = Duration::from_secs(5);

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Door {
    most: usize,
    /// Those that are heard, the first ones first.
    strangers: Mutex<Strangers>,
}

#[derive(Debug, Default)]
struct Strangers {
    last: u64,
    here: Vec<Stranger>,
}

#[derive(Debug)]
struct Stranger {
    number: u64,
    /// Its network.
    from: IpAddr,
    /// Dropped when it is to go.
    _stays: oneshot::Sender<()>,
}

/// The place of one stranger, until this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    door: Arc<Door>,
    number: u64,
    stays: oneshot::Receiver<()>,
}

impl Door {
    /// One at which so many stand at most.
    pub(crate) fn new(most: usize) -> Arc<Door> {
        Arc::new(Door { most: most.max(1), strangers: Mutex::default() })
    }

    fn strangers(&self) -> MutexGuard<'_, Strangers> {
        self.strangers.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// One has come.
    pub(crate) fn enter(self: &Arc<Door>, from: IpAddr) -> Place {
        let (sender, stays) = oneshot::channel();
        let mut strangers = self.strangers();
        strangers.last += 1;
        let number = strangers.last;
        strangers.here.push(Stranger { number, from: network(from), _stays: sender });
        if strangers.here.len() > self.most {
            strangers.send_one_away();
        }
        Place { door: self.clone(), number, stays }
    }
}

impl Strangers {
    fn send_one_away(&mut self) {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for stranger in &self.here {
            *counts.entry(stranger.from).or_default() += 1;
        }
        let most = counts.values().max().copied().unwrap_or(0);
        // Whoever has just come stands last.
        if let Some(at) = self.here.iter().position(|one| counts.get(&one.from) == Some(&most)) {
            self.here.remove(at);
        }
    }
}

impl Place {
    /// Until it is to make room for another; why it goes then.
    pub(crate) async fn is_lost(&mut self) -> Denied {
        // Nothing is ever sent.
        let _ = (&mut self.stays).await;
        (Refusal::Stranger, format!("made room: {} others have not said who they are", self.door.most))
    }

    /// Waits for the first word of who stands here: who says none, or comes too often, costs no signature.
    pub(crate) async fn first_word(
        &mut self,
        stream: &TcpStream,
        from: IpAddr,
        hellos: &Hellos,
    ) -> Result<(), Denied> {
        let mut first = [0];
        let has_spoken = tokio::select! {
            first = timeout(STRANGER_LIMIT, stream.peek(&mut first)) => matches!(first, Ok(Ok(1))),
            _ = self.is_lost() => false,
        };
        if !has_spoken {
            return Err((Refusal::Stranger, "it has said nothing".to_owned()));
        }
        if !hellos.may_come(from, Instant::now()) {
            return Err((Refusal::Rate, Hellos::why()));
        }
        Ok(())
    }

    /// Hears who stands here, for as long as that may take.
    pub(crate) async fn hear<T>(
        &mut self,
        greeting: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Denied> {
        tokio::select! {
            greeting = timeout(STRANGER_LIMIT, greeting) => match greeting {
                Ok(heard) => heard.map_err(|e| (Refusal::Stranger, e.to_string())),
                Err(_) => Err((Refusal::Stranger, format!("said not who it is within {STRANGER_LIMIT:?}"))),
            },
            denied = self.is_lost() => Err(denied),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let number = self.number;
        self.door.strangers().here.retain(|stranger| stranger.number != number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_lost(place: &mut Place) -> bool {
        place.stays.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    #[test]
    fn who_stands_longest_of_those_who_are_most_makes_room() {
        let [many, few] = [1, 2].map(|last| IpAddr::from([10, 0, 0, last]));
        let door = Door::new(4);
        let mut first = door.enter(few);
        let mut crowd: Vec<Place> = (0..10).map(|_| door.enter(many)).collect();
        let lost: Vec<bool> = crowd.iter_mut().map(is_lost).collect();
        assert_eq!(lost, [true, true, true, true, true, true, true, false, false, false]);
        assert!(!is_lost(&mut first), "it is not of the crowd");
        let mut second = door.enter(few);
        assert!(!is_lost(&mut second) && is_lost(&mut crowd[7]));
        drop((second, crowd));
        let second = door.enter(few);
        assert_eq!(door.strangers().here.len(), 2);
        drop((first, second));
        assert!(door.strangers().here.is_empty());
    }

    #[test]
    fn many_addresses_of_one_network_do_not_shut_the_door() {
        for network in ["2001:db8::", "::ffff:127.0.0."] {
            let door = Door::new(4);
            let address = |n: usize| format!("{network}{n}").parse::<IpAddr>().unwrap();
            let mut crowd: Vec<Place> = (1..=4).map(|n| door.enter(address(n))).collect();
            let mut other = door.enter(IpAddr::from([10, 0, 0, 1]));
            assert!(!is_lost(&mut other) && is_lost(&mut crowd[0]), "the one that stands there longest");
            let mut more: Vec<Place> = (5..50).map(|n| door.enter(address(n))).collect();
            assert!(
                !is_lost(&mut other)
                    && more.iter_mut().filter_map(|one| (!is_lost(one)).then_some(())).count() == 3
            );
        }
    }
}
