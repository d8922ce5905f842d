//! The one seam for devices: what a rail can do, and how it is driven.
//!
//! A rail object serves one fabric over one kind of network. A *link* is its connection to one peer. The
//! protocol above asks for [`Capabilities`], never for the name. Nothing here blocks: a frame that cannot be
//! taken is answered by [`Posted::NoResource`], and comes again.

use std::sync::Arc;

use crate::error::Error;
use crate::loan::LoanMemory;
use crate::mem::{Gather, Iov, PeerBytes};
use crate::region::{Access, RemoteKey, Window};
use crate::ring::lane::Lane;
use crate::time::Time;
use crate::wire::{Address, Frame, Incoming, NetAddresses, NodeId, Preface};

/// Number of a peer in its fabric; small, never reused while the fabric is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(u32);

impl PeerId {
    /// The peer of this number.
    #[inline]
    pub const fn new(number: u32) -> PeerId {
        PeerId(number)
    }

    /// The number, as completions show it.
    #[inline]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The number, to index.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Number of a link in its rail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u32);

/// One of the paths of a link beside the first, for rails that have such. They carry segments only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PathId {
    /// The link.
    pub link: LinkId,
    /// Number of the path in its link, not 0; never used again there.
    pub number: u32,
}

/// What a rail can do. Constant while it is open.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Payload in bytes that travels with the header at no further cost.
    pub max_inline: usize,
    /// Largest payload in bytes of one frame that carries a whole message.
    pub max_eager: usize,
    /// Largest payload in bytes of one segment.
    pub max_segment: usize,
    /// Most pieces of memory that one frame may gather.
    pub max_iov: usize,
    /// A receiver can fetch from the sender's memory by itself.
    pub get: bool,
    /// Most bytes that are fetched in one go, so that a large message does not keep others waiting.
    pub max_get: usize,
    /// Regions that a peer's rail has lent memory for can be read and written without the peer.
    pub put: bool,
    /// Atomic operations on such regions are done without the peer.
    pub atomics: bool,
    /// It lends memory that peers read where it lies. Without it loans are copied as any message.
    pub loans: bool,
    /// Posting may answer [`Posted::Accepted`]: the memory of a frame stays in use for a while.
    pub keeps_memory: bool,
    /// Frames arrive in the order they were posted.
    pub ordered: bool,
    /// Frames are neither lost nor doubled while the link is up.
    pub reliable: bool,
    /// A link can go down while its peer lives.
    pub can_lose_connection: bool,
    /// What was posted is kept until the peer's rail has said that it came, and handed out when the link breaks: see
    /// [`Sink::broken`] and [`Rail::retained`].
    pub retains: bool,
    /// The system says which process a peer is, and whether it lives. Without it a rail knows of a peer what that claims.
    pub proves: bool,
    /// Time in ns until a small frame is seen by a polling peer.
    pub latency_ns: u32,
    /// Payload bytes that pass in a second.
    pub bandwidth: u64,
    /// Copies that the payload of a segment undergoes.
    pub copies: u8,
}

impl Capabilities {
    /// A rail that can do nothing but carry small frames in order; the start for others.
    pub const fn minimal() -> Capabilities {
        Capabilities {
            max_inline: 0,
            max_eager: 1024,
            max_segment: 1024,
            max_iov: 1,
            get: false,
            max_get: 2 << 20,
            put: false,
            atomics: false,
            loans: false,
            keeps_memory: false,
            ordered: true,
            reliable: true,
            can_lose_connection: true,
            retains: false,
            proves: false,
            latency_ns: 1000,
            bandwidth: 1_000_000_000,
            copies: 2,
        }
    }
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Posted {
    /// Taken; its memory may be reused at once.
    Done,
    /// Taken; its memory is in use until [`Sink::sent`] reports the token.
    Accepted(u64),
    /// Not taken: no room now. A normal value.
    NoResource,
    /// Not taken, now or ever: this rail cannot carry the frame, for this reason. The link goes on.
    Failed(Error),
    /// Not taken: the link is down, and [`Sink::down`] says or has said so.
    Down,
}

/// Why a rail does not serve an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The class of the reason.
    pub error: Error,
    /// The reason for people, lower case, without a full stop.
    pub reason: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(error: Error, reason: impl Into<String>) -> Refusal {
        Refusal { error, reason: reason.into() }
    }
}

/// Whether sleeping is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Armed {
    /// Nothing is there; whatever comes makes the wait handle ready.
    Yes,
    /// Something is there already: poll.
    Busy,
}

/// Memory of a peer that this side may fetch from, as the peer's RTS names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteSource {
    /// The key that the peer's rail gave out.
    pub rkey: u64,
    /// Where in the region.
    pub address: u64,
}

/// Memory that a rail lends for a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lent {
    /// Where it starts; aligned to 128 bytes at least, zeroed.
    pub base: *mut u8,
    /// Names it for [`Rail::free`].
    pub token: u64,
}

/// A region of this fabric, as its rails are told of it.
#[derive(Debug, Clone, Copy)]
pub struct Offered {
    /// Number of the region in the fabric; with a generation, and never 0.
    pub number: u64,
    /// Where it starts.
    pub base: *mut u8,
    /// Its length in bytes.
    pub len: u64,
    /// What peers may do, and whether they name places by offsets or by addresses ([`Access::offset_of`]).
    pub access: Access,
    /// The token of the memory, when the rail that is told has lent it.
    pub token: Option<u64>,
    /// The memory is the program's, which can unmap it at any time.
    pub may_fault: bool,
}

/// A backend: one rail of one fabric.
pub trait Rail {
    /// The name by which configuration and people call it.
    fn name(&self) -> &'static str;

    /// What it can do.
    fn capabilities(&self) -> &Capabilities;

    /// Length in bytes of the segments into which a rendezvous message of `total` bytes is best cut; between 1 and
    /// [`Capabilities::max_segment`].
    fn segment_len(&self, total: u64) -> usize {
        let _ = total;
        self.capabilities().max_segment
    }

    /// Length in bytes of the next segment, or of what is fetched in one go, while small messages come and go beside large ones:
    /// it moves in a few times what one of them takes. 0 when too much is on its way already, and nothing more had better be
    /// posted now.
    fn short_segment_len(&mut self, link: LinkId) -> usize {
        let _ = link;
        self.capabilities().max_segment.min(20 << 10)
    }

    /// As [`Self::short_segment_len`], for a path beside the first of a link.
    fn short_segment_len_on(&mut self, path: PathId) -> usize {
        self.short_segment_len(path.link)
    }

    /// Starts a link to the fabric of `address`, which this fabric calls `peer`. It may be used at once;
    /// frames are refused with [`Posted::NoResource`] until [`Sink::up`].
    ///
    /// # Errors
    /// Why this rail does not lead there.
    fn connect(&mut self, peer: PeerId, address: &Address) -> Result<LinkId, Refusal>;

    /// As [`Self::connect`], for the first link of a conversation with one that was heard to say this of itself: where it says so, frames
    /// may go to it before its handshake is there ([`Sink::up_unheard`]).
    ///
    /// # Errors
    /// As [`Self::connect`].
    fn connect_unheard(
        &mut self,
        peer: PeerId,
        address: &Address,
        preface: Preface,
    ) -> Result<LinkId, Refusal> {
        let _ = preface;
        self.connect(peer, address)
    }

    /// Whoever has this rail may want a link to the fabric of a node of this host and this user in a moment, and asks it by another way
    /// whether it may: what takes time and binds nobody may be done meanwhile. [`Self::connect`] may come for it, or not.
    fn foresee(&mut self, node: NodeId) {
        let _ = node;
    }

    /// Hands a frame over.
    fn post(&mut self, link: LinkId, frame: &Frame<'_>) -> Posted;

    /// Hands over a whole message without any extension: the hot path. As [`Self::post`] with such a frame.
    #[inline]
    fn post_message(&mut self, link: LinkId, tag: u64, message: &Iov) -> Posted {
        self.post(link, &Frame::eager(tag, Gather::one(message)))
    }

    /// Hands over a frame that names lent memory, by number, position and length: the hot path. As [`Self::post`] with such
    /// a frame.
    #[inline]
    fn post_loan(&mut self, link: LinkId, tag: u64, [loan, position, len]: [u64; 3]) -> Posted {
        self.post(link, &Frame::loan(tag, loan, position, len))
    }

    /// Hands over a segment that the peer has asked for over a path beside the first. [`Posted::Down`] when that path is over:
    /// the peer asks again elsewhere. [`Posted::Failed`] when there never was such a path.
    fn post_segment(&mut self, path: PathId, frame: &Frame<'_>) -> Posted {
        let _ = (path, frame);
        Posted::Failed(Error::PeerMisbehaved)
    }

    /// How many first bytes of a large message may go with its announcement now, by [`Self::post_ahead`]: as many as are worth a round
    /// trip. 0 for a rail, a peer or a moment without.
    fn ahead_len(&mut self, link: LinkId) -> usize {
        let _ = link;
        0
    }

    /// Hands over an announcement, and right behind it a segment with the first bytes of the message, of at most [`Self::ahead_len`]
    /// bytes: both, [`Posted::Done`], or none, [`Posted::NoResource`], and nothing else; of a link that breaks meanwhile the engine hears
    /// as ever. The memory of both is not read any more after the call: the rail copies what the network has not taken.
    fn post_ahead(&mut self, link: LinkId, announcement: &Frame<'_>, segment: &Frame<'_>) -> Posted {
        let _ = (link, announcement, segment);
        Posted::NoResource
    }

    /// Delivers at most about `budget` frames; returns how many. No system call.
    fn poll<S: Sink>(&mut self, budget: usize, sink: &mut S) -> usize;

    /// The lane of the only link that is in use, if there is one and its messages may be taken from it directly. Asked for now
    /// and then; an answer stays good until [`Lane::end`].
    fn favourite(&self) -> Option<&Arc<Lane>> {
        None
    }

    /// As [`Self::poll`], for one link, however idle it was.
    fn poll_link<S: Sink>(&mut self, link: LinkId, budget: usize, sink: &mut S) -> usize {
        let _ = link;
        self.poll(budget, sink)
    }

    /// The slow path: accepts links, notices the death of peers, runs timers. Returns how much happened. Called now
    /// and then while polling, and after each sleep.
    fn maintain<S: Sink>(&mut self, now: Time, sink: &mut S) -> usize;

    /// When [`Self::maintain`] has to be called at the latest.
    fn deadline(&self) -> Option<Time> {
        None
    }

    /// True while a link is being made: [`Self::maintain`] should then be called more often.
    fn is_connecting(&self) -> bool {
        false
    }

    /// Names memory of this process for [`Self::get`] by the peer, until [`Self::conceal`]. Only for rails whose
    /// capabilities say `get`; `None` when this memory cannot be fetched.
    fn expose(&mut self, link: LinkId, memory: &Gather<'_>) -> Option<RemoteSource> {
        let _ = (link, memory);
        None
    }

    /// Ends what [`Self::expose`] began: fetches by a peer fail from now on.
    fn conceal(&mut self, link: LinkId, source: RemoteSource) {
        let _ = (link, source);
    }

    /// Whether an announced message of `len` bytes had better be fetched than asked for in pieces. Asked once for each message
    /// that may be fetched.
    fn prefers_get(&mut self, link: LinkId, len: u64) -> bool {
        let _ = (link, len);
        true
    }

    /// Fetches from a peer's memory into `to`. Only for rails whose capabilities say `get`. After [`Posted::Accepted`] the rail
    /// writes there until [`Sink::fetched`] reports the token, [`Self::abort_get`], or the end of the link; after
    /// [`Posted::NoResource`] it is asked again; after anything but these and [`Posted::Done`] the rest of the message is asked for
    /// in pieces.
    fn get(&mut self, link: LinkId, from: RemoteSource, to: &Gather<'_>) -> Posted {
        let _ = (link, from, to);
        Posted::Down
    }

    /// Whether bytes of streams may be fetched over this link, in either direction: what one side exposes the other gets at once, without
    /// [`Posted::Accepted`], and both know [`crate::wire::Kind::Pull`]. Only for rails whose capabilities say `get`.
    fn pulls(&self, link: LinkId) -> bool {
        let _ = link;
        false
    }

    /// Ends a fetch that was accepted under this token, if it is under way: nothing is written into its memory any more, whatever
    /// that costs the link, and [`Sink::fetched`] is not called for it.
    fn abort_get(&mut self, link: LinkId, token: u64) {
        let _ = (link, token);
    }

    /// Lends memory for a region, so that peers reach it by themselves; `numa_node` is where it should lie, or
    /// [`crate::mem::NUMA_UNKNOWN`]. `None` for rails that lend none.
    ///
    /// # Errors
    /// [`Error::Limit`], [`Error::NoMemory`]; [`Error::Invalid`] for a node that does not exist.
    fn allocate(&mut self, len: usize, numa_node: u32) -> Option<Result<Lent, Refusal>> {
        let _ = (len, numa_node);
        None
    }

    /// Takes back what [`Self::allocate`] lent; no region is made of it any more.
    fn free(&mut self, token: u64) {
        let _ = token;
    }

    /// Makes a region known, so that peers may reach it by themselves: where its record is, for its key, or 0 when peers
    /// cannot. The memory stays until [`Self::withdraw`] has said true, but registered memory may be gone before.
    ///
    /// # Errors
    /// When there is no room for the record.
    fn offer(&mut self, region: &Offered) -> Result<u64, Refusal> {
        let _ = region;
        Ok(0)
    }

    /// Ends what [`Self::offer`] began: no access begins from now on. False while a peer is in the middle of one: to be asked
    /// again.
    fn withdraw(&mut self, number: u64, record: u64) -> bool {
        let _ = (number, record);
        true
    }

    /// Opens a window over a region of a live link's peer; `None` when it cannot be reached so, now or ever. The window is
    /// used until [`Sink::down`], or [`Self::disconnect`].
    fn window(&mut self, link: LinkId, key: &RemoteKey) -> Option<Window> {
        let _ = (link, key);
        None
    }

    /// Copies to a region that no window leads to; `None` when this rail does not reach it by itself. Rights and bounds were
    /// checked against the key.
    fn copy_to(
        &mut self,
        link: LinkId,
        key: &RemoteKey,
        offset: u64,
        from: &Iov,
    ) -> Option<Result<(), Error>> {
        let _ = (link, key, offset, from);
        None
    }

    /// Copies from a region, as [`Self::copy_to`].
    fn copy_from(
        &mut self,
        link: LinkId,
        key: &RemoteKey,
        offset: u64,
        to: &Iov,
    ) -> Option<Result<(), Error>> {
        let _ = (link, key, offset, to);
        None
    }

    /// Allots `len` bytes, a size of [`crate::loan::class_of`], that peers can read where they lie. Only for rails whose
    /// capabilities say `loans`.
    ///
    /// # Errors
    /// [`Error::Again`] when all is lent, and a later call may find what came back; [`Error::Limit`] when there is no room for
    /// as much, now or ever; [`Error::NoMemory`] when the system has none.
    fn lend(&mut self, len: usize) -> Result<LoanMemory, Error> {
        let _ = len;
        Err(Error::Unsupported)
    }

    /// Takes memory back that no peer reads any more.
    fn take_back(&mut self, memory: LoanMemory) {
        let _ = memory;
    }

    /// One loan that was kept ([`Sink::loan`]) is not read any more.
    fn release_loan(&mut self, link: LinkId) {
        let _ = link;
    }

    /// Prepares for sleep: from now on arrivals make the wait handle ready.
    fn arm(&mut self) -> Armed;

    /// The end of sleep.
    fn disarm(&mut self);

    /// Whether [`Self::arm`] still holds. False when polling, by another thread than the one that sleeps, has taken what would have woken it,
    /// and what comes next makes the wait handle ready no more. For rails that need no new arming then it always holds.
    fn is_armed(&self) -> bool {
        true
    }

    /// A descriptor that is readable when an armed rail has something to do; none for rails that only this
    /// process feeds.
    fn wait_handle(&self) -> Option<i32> {
        None
    }

    /// True when whoever spoke last runs on the core of the caller, so that spinning only keeps it from speaking.
    fn is_peer_on_this_core(&self) -> bool {
        false
    }

    /// Wake-ups given to sleeping peers so far.
    fn wakeups_sent(&self) -> u64 {
        0
    }

    /// Number of the process at the other end of a live link, where that means something here.
    fn process(&self, link: LinkId) -> Option<u32> {
        let _ = link;
        None
    }

    /// Where a link leads, and how it was found, for people. May take a call to the system.
    fn path(&self, link: LinkId) -> Path {
        let _ = link;
        Path::default()
    }

    /// The same of its paths beside the first.
    fn further_paths(&self, link: LinkId) -> Vec<Path> {
        let _ = link;
        Vec::new()
    }

    /// [Sequenced](crate::wire::is_sequenced) frames that have come through a link and were delivered; also of a broken one,
    /// where no more can come: it is fenced before [`Sink::broken`] is called. Only for rails that retain.
    fn delivered(&self, link: LinkId) -> u64 {
        let _ = link;
        0
    }

    /// Hands out, in order, the sequenced frames that were posted to a link after the first `after` ones: what the peer has
    /// not got, by its own account. They stay until [`Self::disconnect`]. Only for rails that retain.
    ///
    /// # Errors
    /// [`Error::PeerMisbehaved`] when there cannot be as many: fewer were posted, or more have been acknowledged.
    fn retained(
        &mut self,
        link: LinkId,
        after: u64,
        each: &mut dyn FnMut(Incoming<'_>),
    ) -> Result<(), Error> {
        let _ = (link, after, each);
        Err(Error::Unsupported)
    }

    /// Ends a link as if it had broken: it delivers nothing any more, and what it retains stays until [`Self::disconnect`].
    /// [`Sink::broken`] is not called for it; the peer, which lives, hears that the link has broken. Nothing happens to a link
    /// that is broken already. Only for rails that retain.
    fn fence(&mut self, link: LinkId) {
        let _ = link;
    }

    /// How long nobody had answered at the other end of a broken link when it broke, in ns; 0 for one that somebody has ended.
    fn silent_ns(&self, link: LinkId) -> u64 {
        let _ = link;
        0
    }

    /// Ends a link, or gives back what is left of one that broke; [`Sink::down`] is not called for it.
    fn disconnect(&mut self, link: LinkId);
}

/// Where a link leads, and how it was found, as a rail tells people: what it does not know is not there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Path {
    /// Address of this side.
    pub local: Option<String>,
    /// Address of the other side, or the one that is being tried.
    pub remote: Option<String>,
    /// Time there and back, in ns, as the network measures it by itself.
    pub round_trip_ns: Option<u64>,
    /// How what goes over it is protected, where it leaves the host.
    pub security: Option<&'static str>,
    /// Bytes that went there and that came from there, where the link has several paths.
    pub moved: Option<[u64; 2]>,
    /// Addresses that were tried before and did not do, each with the reason.
    pub tried: Vec<String>,
}

/// What a rail learns of a peer, beside its frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// It called, and can be called itself at these addresses.
    ListensAt(NetAddresses),
    /// Its host has answered the call that is under way, if nothing else has.
    HostAnswers,
    /// It takes nothing any more, or does again; its host answers.
    Stalled(bool),
}

/// Who listens to a rail.
pub trait Sink {
    /// A whole message of `peer` without any extension: the hot path. As [`Self::frame`] with such a frame.
    fn message(&mut self, peer: PeerId, tag: u64, payload: PeerBytes<'_>);

    /// A frame of `peer`. An error says that the peer broke the protocol: the rail delivers no more of its frames and
    /// takes the link down.
    fn frame(&mut self, peer: PeerId, frame: Incoming<'_>) -> Result<(), Error>;

    /// Where the next `len` bytes of a segment belong, for rails that can read them straight to their place: all of them, or
    /// `None`. `op` and `offset` are the word and the extension word of the segment. The rail reads into the place at once, as
    /// much as it has, and says so with [`Self::placed`] before it calls anything else; then the place is forgotten. Bytes
    /// without a place are handed over by [`Self::frame`], which also says what is wrong with them.
    ///
    /// A segment may come in parts, in order: each is placed, or handed over as a segment of its own, with its own offset.
    fn place(&mut self, peer: PeerId, op: u64, offset: u64, len: usize) -> Option<Gather<'_>> {
        let _ = (peer, op, offset, len);
        None
    }

    /// The first `len` bytes of the place that [`Self::place`] has answered hold what they should. An error means what it
    /// means for [`Self::frame`].
    fn placed(&mut self, peer: PeerId, op: u64, offset: u64, len: usize) -> Result<(), Error> {
        let _ = (peer, op, offset, len);
        Err(Error::Unsupported)
    }

    /// From now on pieces may be asked for over this path. It is over with its link, or by [`Self::path_over`].
    fn path_up(&mut self, peer: PeerId, path: PathId) {
        let _ = (peer, path);
    }

    /// Nothing comes over this path any more, whatever the network still holds; the link goes on.
    fn path_over(&mut self, peer: PeerId, path: PathId) {
        let _ = (peer, path);
    }

    /// As [`Self::place`], for a segment that comes over a path beside the first.
    fn place_on(
        &mut self,
        peer: PeerId,
        path: PathId,
        op: u64,
        offset: u64,
        len: usize,
    ) -> Option<Gather<'_>> {
        let _ = (peer, path, op, offset, len);
        None
    }

    /// As [`Self::placed`], for a place of [`Self::place_on`].
    fn placed_on(
        &mut self,
        peer: PeerId,
        path: PathId,
        op: u64,
        offset: u64,
        len: usize,
    ) -> Result<(), Error> {
        let _ = (peer, path, op, offset, len);
        Err(Error::Unsupported)
    }

    /// A segment, or a part of one, has come over a path beside the first. An error means what it means for [`Self::frame`].
    fn segment_on(
        &mut self,
        peer: PeerId,
        path: PathId,
        op: u64,
        offset: u64,
        payload: &PeerBytes<'_>,
    ) -> Result<(), Error> {
        let _ = (peer, path, op, offset, payload);
        Err(Error::PeerMisbehaved)
    }

    /// A message of `peer` in memory that it lends under the number `loan`, which a [`crate::wire::Kind::Return`] names.
    /// True when it is kept: then the bytes stay readable, also after the end of the link, until [`Rail::release_loan`].
    fn loan(
        &mut self,
        peer: PeerId,
        tag: u64,
        immediate: Option<u64>,
        loan: u64,
        message: PeerBytes<'_>,
    ) -> bool;

    /// The memory of the frame accepted under `token` is free.
    fn sent(&mut self, peer: PeerId, token: u64);

    /// The fetch that was accepted under `token` is over: the bytes are there, or the rest of the message is asked for in pieces. Not
    /// called after the end of the link, with which all of its fetches end.
    fn fetched(&mut self, peer: PeerId, token: u64, outcome: Result<(), Error>) {
        let _ = (peer, token, outcome);
    }

    /// A fabric asks for a link; the answer is the number by which it is called, or why it is refused.
    fn accept(&mut self, link: LinkId, node: NodeId, incarnation: u64) -> Result<PeerId, Refusal>;

    /// As [`Self::accept`], for a fabric of another user that the configuration allows. What it knows and sends is not to
    /// be taken for a process of the own user: neither its node id, which another may have, nor memory.
    fn accept_foreign(
        &mut self,
        link: LinkId,
        node: NodeId,
        incarnation: u64,
        user: u32,
    ) -> Result<PeerId, Refusal> {
        let _ = (link, node, incarnation);
        Err(Refusal::new(Error::Permission, format!("the peer runs as user {user}")))
    }

    /// The peer can be sent small messages by this lane, without a way through the rail. Said before [`Self::up`].
    fn lane(&mut self, peer: PeerId, lane: Arc<Lane>) {
        let _ = (peer, lane);
    }

    /// The link takes frames.
    fn up(&mut self, peer: PeerId);

    /// The same, before the peer has said that it takes the link: then comes [`Self::up`], or [`Self::refused`], or the link ends as any.
    /// For links of [`Rail::connect_unheard`] on rails that retain.
    fn up_unheard(&mut self, peer: PeerId) {
        self.up(peer);
    }

    /// The peer has refused a link that was [up unheard](Self::up_unheard): it has taken nothing that came by it. The rail keeps what it
    /// retains until [`Rail::disconnect`].
    fn refused(&mut self, peer: PeerId, link: LinkId, reason: Refusal) {
        self.down(peer, link, reason);
    }

    /// Something is learnt of a peer.
    fn sign(&mut self, peer: PeerId, sign: Sign) {
        let _ = (peer, sign);
    }

    /// The link is over, and everything that came through it was delivered; or it did not come about. The peer has gone if
    /// the reason says so ([`Error::PeerGone`]), unless another link has taken the place of this one.
    fn down(&mut self, peer: PeerId, link: LinkId, reason: Refusal);

    /// A link over a rail that retains is over, while the peer may live. Everything that came through it was delivered, and
    /// nothing comes through it any more, whatever the network still holds. The rail keeps what it retains until
    /// [`Rail::disconnect`]; by then a new link to the same peer may have been made.
    fn broken(&mut self, peer: PeerId, link: LinkId, reason: Refusal) {
        self.down(peer, link, reason);
    }
}
