//! Many peers: a crowd of fabrics in the peer process, and one fabric of the parent with an endpoint to each.
//!
//! The crowd is polled by one thread, one fabric after the other, and answers message by message.

use crate::cabi::{Address, Buffer, Cq, Endpoint, Fabric, Kind, Sent};
use crate::failure::Failure;
use crate::perf::link::{patience, Link, Side};
use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
use std::time::{Duration, Instant};

/// The fabrics of the peer process.
#[derive(Default)]
pub(crate) struct Crowd {
    members: Vec<Member>,
    first: Option<Link>,
}

struct Member {
    cq: Cq,
    fabric: Fabric,
    /// To whoever has called, in the order of their calls.
    endpoints: Vec<(u32, Endpoint)>,
    /// Messages that are still to be answered.
    left: u64,
    in_flight: u64,
}

impl Crowd {
    /// Opens `count` fabrics.
    pub(crate) fn gather(count: usize, options: &[String]) -> Result<Crowd, Failure> {
        raise_limit();
        let members = (0..count).map(|_| Member::open(options)).collect::<Result<_, _>>()?;
        Ok(Crowd { members, first: None })
    }

    /// By which the parent reaches them.
    pub(crate) fn addresses(&self) -> Result<Vec<Vec<u8>>, Failure> {
        self.members.iter().map(|member| Ok(member.fabric.address()?.to_vec())).collect()
    }

    /// Answers `rounds` messages to each of `count` members from `first` on. Whoever was called once stays connected.
    pub(crate) fn echo(
        &mut self,
        first: usize,
        count: usize,
        rounds: u64,
        buffer: Buffer,
        ready: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let members = self.members.iter_mut().skip(first).take(count);
        let mut busy: Vec<&mut Member> = members.collect();
        for member in &mut busy {
            member.left = rounds;
            member.cq.recv(buffer, SIZE, CALL)?;
        }
        ready()?;
        let mut deadline = Instant::now() + patience();
        while !busy.is_empty() {
            for _ in 0..SWEEPS_PER_CLOCK {
                let before = busy.len();
                for member in &mut busy {
                    member.answer(buffer)?;
                }
                busy.retain(|member| member.left + member.in_flight > 0);
                if busy.len() < before {
                    deadline = Instant::now() + patience();
                }
            }
            if Instant::now() > deadline {
                return Err(Failure::Run(format!(
                    "no message for {} fabrics in {:?}",
                    busy.len(),
                    patience()
                )));
            }
        }
        Ok(())
    }

    /// The path of the first member, for runs; from then on it answers no messages.
    pub(crate) fn first(&mut self, largest: usize) -> Result<&Link, Failure> {
        if self.first.is_none() {
            self.first =
                self.members.drain(..1.min(self.members.len())).find_map(|member| member.into_link(largest));
        }
        self.first.as_ref().ok_or_else(|| Failure::Run("nobody has called the first fabric".into()))
    }
}

impl Member {
    fn open(options: &[String]) -> Result<Member, Failure> {
        let fabric = Fabric::open(None, options)?;
        let cq = fabric.cq()?;
        Ok(Member { cq, fabric, endpoints: Vec::new(), left: 0, in_flight: 0 })
    }

    /// Takes an entry if there is one, and answers if it is a message.
    fn answer(&mut self, buffer: Buffer) -> Result<(), Failure> {
        let Some(entry) = self.cq.poll()? else { return Ok(()) };
        if entry.kind == Kind::Send {
            self.in_flight -= 1;
            return Ok(());
        }
        if self.endpoints.iter().all(|(source, _)| *source != entry.source) {
            self.endpoints.push((entry.source, self.cq.answer(entry.source)?));
        }
        self.left -= 1;
        if self.left > 0 {
            self.cq.recv(buffer, SIZE, CALL)?;
        }
        for (_, endpoint) in self.endpoints.iter().filter(|(source, _)| *source == entry.source) {
            match endpoint.send(buffer, SIZE, ECHO)? {
                Sent::Done => {}
                Sent::InFlight => self.in_flight += 1,
                Sent::Again => return Err(Failure::Run("no room for an answer".into())),
            }
        }
        Ok(())
    }

    fn into_link(self, largest: usize) -> Option<Link> {
        let (_, endpoint) = self.endpoints.into_iter().next()?;
        Some(Link::new(Side::Peer, self.cq, endpoint, largest))
    }
}

/// The parent's fabric, with endpoints to some of a crowd.
pub(crate) struct Caller {
    cq: Cq,
    addresses: Vec<Address>,
    endpoints: Vec<Endpoint>,
    in_flight: u64,
}

impl Caller {
    /// Opens the fabric that is to call these.
    pub(crate) fn open(options: &[String], addresses: &[Vec<u8>]) -> Result<Caller, Failure> {
        raise_limit();
        let parse = |bytes: &Vec<u8>| bytes.as_slice().try_into().map(Address::from_bytes);
        let addresses = addresses.iter().map(parse).collect::<Result<Vec<_>, _>>();
        let addresses = addresses.map_err(|_| Failure::Run("an address has another length".into()))?;
        let cq = Fabric::open(None, options)?.cq()?;
        let endpoints = Vec::with_capacity(addresses.len());
        Ok(Caller { cq, addresses, endpoints, in_flight: 0 })
    }

    /// Opens another fabric that is to call the same.
    pub(crate) fn another(&self, options: &[String]) -> Result<Caller, Failure> {
        let cq = Fabric::open(None, options)?.cq()?;
        let endpoints = Vec::with_capacity(self.addresses.len());
        Ok(Caller { cq, addresses: self.addresses.clone(), endpoints, in_flight: 0 })
    }

    /// Calls the next `count` of them, and waits for the first echo of each; the time of all that.
    pub(crate) fn call(&mut self, count: usize, buffer: Buffer) -> Result<Duration, Failure> {
        let first = self.endpoints.len();
        self.expect(count, buffer)?;
        let start = Instant::now();
        for address in self.addresses.iter().skip(first).take(count) {
            let endpoint = self.cq.connect(address)?;
            self.in_flight += send(&endpoint, buffer)?;
            self.endpoints.push(endpoint);
        }
        self.collect(count)?;
        Ok(start.elapsed())
    }

    /// Sends each from `first` on `rounds` messages, of which it answers one after the other.
    pub(crate) fn exchange(&mut self, first: usize, rounds: u64, buffer: Buffer) -> Result<(), Failure> {
        for _ in 0..rounds {
            let called = self.endpoints.get(first..).unwrap_or_default();
            self.expect(called.len(), buffer)?;
            for endpoint in called {
                self.in_flight += send(endpoint, buffer)?;
            }
            self.collect(called.len())?;
        }
        Ok(())
    }

    /// The path to the first of them, for runs, and what keeps the others open.
    pub(crate) fn into_link(mut self, largest: usize) -> Result<(Link, Vec<Endpoint>), Failure> {
        if self.endpoints.is_empty() {
            return Err(Failure::Run("nobody was called".into()));
        }
        let first = self.endpoints.remove(0);
        Ok((Link::new(Side::Parent, self.cq, first, largest), self.endpoints))
    }

    fn expect(&self, count: usize, buffer: Buffer) -> Result<(), Failure> {
        (0..count).try_for_each(|_| Ok(self.cq.recv(buffer, SIZE, ECHO)?))
    }

    /// Waits for so many echoes, and for the entries of all sends.
    fn collect(&mut self, mut echoes: usize) -> Result<(), Failure> {
        while echoes > 0 || self.in_flight > 0 {
            match self.cq.wait(patience())?.kind {
                Kind::Recv => echoes -= 1,
                Kind::Send => self.in_flight -= 1,
            }
        }
        Ok(())
    }
}

/// Sends; 1 if an entry will follow.
fn send(endpoint: &Endpoint, buffer: Buffer) -> Result<u64, Failure> {
    match endpoint.send(buffer, SIZE, CALL)? {
        Sent::Done => Ok(0),
        Sent::InFlight => Ok(1),
        Sent::Again => Err(Failure::Run("no room for a call".into())),
    }
}

/// Hundreds of fabrics need more descriptors than most systems allow unasked. Where they do not allow them at all, opening
/// says so.
fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Bytes of a message and of its echo.
pub(crate) const SIZE: usize = 8;

const CALL: u64 = 7;
const ECHO: u64 = 8;

/// A look at the clock costs as much as several polls.
const SWEEPS_PER_CLOCK: u32 = 16;
