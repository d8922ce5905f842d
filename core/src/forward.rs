//! Rails around other rails, and rails of several kinds: the calls that go through as they are.
//!
//! [`forward_rail!`](crate::forward_rail) has each method of [`Rail`](crate::rail::Rail) once. Who uses it denies
//! `clippy::missing_trait_methods` for its `impl`: a method that is new in the trait, and forgotten here, does not pass the
//! linter instead of quietly doing what the trait does by default.

/// Methods of a [`Rail`](crate::rail::Rail) that hand their call on, for the body of an `impl`.
///
/// First the name of a macro that leads to the rail inside: `each!(self, rail => call)`, where `rail` is to be bound by
/// reference, as it comes. Then what to hand on:
///
/// | group | methods |
/// |---|---|
/// | `frames` | those by which frames and links come and go, fetched memory, sleep, and the capabilities |
/// | `aside` | all others |
/// | `beside` | those of `aside` but `post_segment` and `fence`, for rails that end links themselves |
/// | `short_ways` | instead of those of `frames`: the short ways lead to `post` and `poll` of the rail around |
#[macro_export]
macro_rules! forward_rail {
    ($each:ident => $($group:ident)+) => {
        $( $crate::forward_rail!(@$group $each); )+
    };
    (@frames $each:ident) => {
        #[inline(always)]
        fn capabilities(&self) -> &$crate::rail::Capabilities {
            $each!(self, rail => rail.capabilities())
        }

        fn connect(
            &mut self,
            peer: $crate::rail::PeerId,
            address: &$crate::wire::Address,
        ) -> Result<$crate::rail::LinkId, $crate::rail::Refusal> {
            $each!(self, rail => rail.connect(peer, address))
        }

        fn connect_unheard(
            &mut self,
            peer: $crate::rail::PeerId,
            address: &$crate::wire::Address,
            preface: $crate::wire::Preface,
        ) -> Result<$crate::rail::LinkId, $crate::rail::Refusal> {
            $each!(self, rail => rail.connect_unheard(peer, address, preface))
        }

        #[inline(always)]
        fn post(
            &mut self,
            link: $crate::rail::LinkId,
            frame: &$crate::wire::Frame<'_>,
        ) -> $crate::rail::Posted {
            $each!(self, rail => rail.post(link, frame))
        }

        #[inline(always)]
        fn post_message(
            &mut self,
            link: $crate::rail::LinkId,
            tag: u64,
            message: &$crate::mem::Iov,
        ) -> $crate::rail::Posted {
            $each!(self, rail => rail.post_message(link, tag, message))
        }

        #[inline(always)]
        fn post_loan(
            &mut self,
            link: $crate::rail::LinkId,
            tag: u64,
            words: [u64; 3],
        ) -> $crate::rail::Posted {
            $each!(self, rail => rail.post_loan(link, tag, words))
        }

        #[inline(always)]
        fn poll<S: $crate::rail::Sink>(&mut self, budget: usize, sink: &mut S) -> usize {
            $each!(self, rail => rail.poll(budget, sink))
        }

        fn ahead_len(&mut self, link: $crate::rail::LinkId) -> usize {
            $each!(self, rail => rail.ahead_len(link))
        }

        fn post_ahead(
            &mut self,
            link: $crate::rail::LinkId,
            announcement: &$crate::wire::Frame<'_>,
            segment: &$crate::wire::Frame<'_>,
        ) -> $crate::rail::Posted {
            $each!(self, rail => rail.post_ahead(link, announcement, segment))
        }

        fn favourite(&self) -> Option<&std::sync::Arc<$crate::ring::lane::Lane>> {
            $each!(self, rail => rail.favourite())
        }

        fn poll_link<S: $crate::rail::Sink>(
            &mut self,
            link: $crate::rail::LinkId,
            budget: usize,
            sink: &mut S,
        ) -> usize {
            $each!(self, rail => rail.poll_link(link, budget, sink))
        }

        fn maintain<S: $crate::rail::Sink>(&mut self, now: $crate::time::Time, sink: &mut S) -> usize {
            $each!(self, rail => rail.maintain(now, sink))
        }

        fn get(
            &mut self,
            link: $crate::rail::LinkId,
            from: $crate::rail::RemoteSource,
            to: &$crate::mem::Gather<'_>,
        ) -> $crate::rail::Posted {
            $each!(self, rail => rail.get(link, from, to))
        }

        fn arm(&mut self) -> $crate::rail::Armed {
            $each!(self, rail => rail.arm())
        }

        fn disconnect(&mut self, link: $crate::rail::LinkId) {
            $each!(self, rail => rail.disconnect(link));
        }
    };
    (@short_ways $each:ident) => {
        fn ahead_len(&mut self, _link: $crate::rail::LinkId) -> usize {
            0
        }

        fn post_ahead(
            &mut self,
            _link: $crate::rail::LinkId,
            _announcement: &$crate::wire::Frame<'_>,
            _segment: &$crate::wire::Frame<'_>,
        ) -> $crate::rail::Posted {
            $crate::rail::Posted::NoResource
        }

        fn post_message(
            &mut self,
            link: $crate::rail::LinkId,
            tag: u64,
            message: &$crate::mem::Iov,
        ) -> $crate::rail::Posted {
            self.post(link, &$crate::wire::Frame::eager(tag, $crate::mem::Gather::one(message)))
        }

        fn post_loan(
            &mut self,
            link: $crate::rail::LinkId,
            tag: u64,
            [loan, position, len]: [u64; 3],
        ) -> $crate::rail::Posted {
            self.post(link, &$crate::wire::Frame::loan(tag, loan, position, len))
        }

        fn favourite(&self) -> Option<&std::sync::Arc<$crate::ring::lane::Lane>> {
            None
        }

        fn poll_link<S: $crate::rail::Sink>(
            &mut self,
            _link: $crate::rail::LinkId,
            budget: usize,
            sink: &mut S,
        ) -> usize {
            self.poll(budget, sink)
        }
    };
    (@aside $each:ident) => {
        $crate::forward_rail!(@beside $each);

        fn post_segment(
            &mut self,
            path: $crate::rail::PathId,
            frame: &$crate::wire::Frame<'_>,
        ) -> $crate::rail::Posted {
            $each!(self, rail => rail.post_segment(path, frame))
        }

        fn fence(&mut self, link: $crate::rail::LinkId) {
            $each!(self, rail => rail.fence(link));
        }
    };
    (@beside $each:ident) => {
        fn name(&self) -> &'static str {
            $each!(self, rail => rail.name())
        }

        #[inline]
        fn segment_len(&self, total: u64) -> usize {
            $each!(self, rail => rail.segment_len(total))
        }

        #[inline]
        fn short_segment_len(&mut self, link: $crate::rail::LinkId) -> usize {
            $each!(self, rail => rail.short_segment_len(link))
        }

        fn short_segment_len_on(&mut self, path: $crate::rail::PathId) -> usize {
            $each!(self, rail => rail.short_segment_len_on(path))
        }

        fn deadline(&self) -> Option<$crate::time::Time> {
            $each!(self, rail => rail.deadline())
        }

        fn foresee(&mut self, node: $crate::wire::NodeId) {
            $each!(self, rail => rail.foresee(node));
        }

        #[inline]
        fn is_connecting(&self) -> bool {
            $each!(self, rail => rail.is_connecting())
        }

        fn further_paths(&self, link: $crate::rail::LinkId) -> Vec<$crate::rail::Path> {
            $each!(self, rail => rail.further_paths(link))
        }

        fn expose(
            &mut self,
            link: $crate::rail::LinkId,
            memory: &$crate::mem::Gather<'_>,
        ) -> Option<$crate::rail::RemoteSource> {
            $each!(self, rail => rail.expose(link, memory))
        }

        fn conceal(&mut self, link: $crate::rail::LinkId, source: $crate::rail::RemoteSource) {
            $each!(self, rail => rail.conceal(link, source));
        }

        fn abort_get(&mut self, link: $crate::rail::LinkId, token: u64) {
            $each!(self, rail => rail.abort_get(link, token));
        }

        fn pulls(&self, link: $crate::rail::LinkId) -> bool {
            $each!(self, rail => rail.pulls(link))
        }

        fn prefers_get(&mut self, link: $crate::rail::LinkId, len: u64) -> bool {
            $each!(self, rail => rail.prefers_get(link, len))
        }

        fn allocate(
            &mut self,
            len: usize,
            numa_node: u32,
        ) -> Option<Result<$crate::rail::Lent, $crate::rail::Refusal>> {
            $each!(self, rail => rail.allocate(len, numa_node))
        }

        fn free(&mut self, token: u64) {
            $each!(self, rail => rail.free(token));
        }

        fn offer(&mut self, region: &$crate::rail::Offered) -> Result<u64, $crate::rail::Refusal> {
            $each!(self, rail => rail.offer(region))
        }

        fn withdraw(&mut self, number: u64, record: u64) -> bool {
            $each!(self, rail => rail.withdraw(number, record))
        }

        fn window(
            &mut self,
            link: $crate::rail::LinkId,
            key: &$crate::region::RemoteKey,
        ) -> Option<$crate::region::Window> {
            $each!(self, rail => rail.window(link, key))
        }

        fn copy_to(
            &mut self,
            link: $crate::rail::LinkId,
            key: &$crate::region::RemoteKey,
            offset: u64,
            from: &$crate::mem::Iov,
        ) -> Option<Result<(), $crate::error::Error>> {
            $each!(self, rail => rail.copy_to(link, key, offset, from))
        }

        fn copy_from(
            &mut self,
            link: $crate::rail::LinkId,
            key: &$crate::region::RemoteKey,
            offset: u64,
            to: &$crate::mem::Iov,
        ) -> Option<Result<(), $crate::error::Error>> {
            $each!(self, rail => rail.copy_from(link, key, offset, to))
        }

        fn lend(&mut self, len: usize) -> Result<$crate::loan::LoanMemory, $crate::error::Error> {
            $each!(self, rail => rail.lend(len))
        }

        fn take_back(&mut self, memory: $crate::loan::LoanMemory) {
            $each!(self, rail => rail.take_back(memory));
        }

        #[inline]
        fn release_loan(&mut self, link: $crate::rail::LinkId) {
            $each!(self, rail => rail.release_loan(link));
        }

        fn delivered(&self, link: $crate::rail::LinkId) -> u64 {
            $each!(self, rail => rail.delivered(link))
        }

        fn retained(
            &mut self,
            link: $crate::rail::LinkId,
            after: u64,
            each: &mut dyn FnMut($crate::wire::Incoming<'_>),
        ) -> Result<(), $crate::error::Error> {
            $each!(self, rail => rail.retained(link, after, each))
        }

        fn silent_ns(&self, link: $crate::rail::LinkId) -> u64 {
            $each!(self, rail => rail.silent_ns(link))
        }


        fn disarm(&mut self) {
            $each!(self, rail => rail.disarm());
        }

        fn is_armed(&self) -> bool {
            $each!(self, rail => rail.is_armed())
        }

        fn wait_handle(&self) -> Option<i32> {
            $each!(self, rail => rail.wait_handle())
        }

        #[inline]
        fn is_peer_on_this_core(&self) -> bool {
            $each!(self, rail => rail.is_peer_on_this_core())
        }

        fn wakeups_sent(&self) -> u64 {
            $each!(self, rail => rail.wakeups_sent())
        }

        fn process(&self, link: $crate::rail::LinkId) -> Option<u32> {
            $each!(self, rail => rail.process(link))
        }

        fn path(&self, link: $crate::rail::LinkId) -> $crate::rail::Path {
            $each!(self, rail => rail.path(link))
        }
    };
}

/// Methods of a [`Sink`](crate::rail::Sink) that hand on what a rail says of paths beside the first of a link, for the body of an
/// `impl` with the sink inside as `self.sink`.
#[cfg(any(test, feature = "testing"))]
macro_rules! forward_paths {
    () => {
        fn path_up(&mut self, peer: crate::rail::PeerId, path: crate::rail::PathId) {
            self.sink.path_up(peer, path);
        }

        fn path_over(&mut self, peer: crate::rail::PeerId, path: crate::rail::PathId) {
            self.sink.path_over(peer, path);
        }

        fn place_on(
            &mut self,
            peer: crate::rail::PeerId,
            path: crate::rail::PathId,
            op: u64,
            offset: u64,
            len: usize,
        ) -> Option<crate::mem::Gather<'_>> {
            self.sink.place_on(peer, path, op, offset, len)
        }

        fn placed_on(
            &mut self,
            peer: crate::rail::PeerId,
            path: crate::rail::PathId,
            op: u64,
            offset: u64,
            len: usize,
        ) -> Result<(), crate::error::Error> {
            self.sink.placed_on(peer, path, op, offset, len)
        }

        fn segment_on(
            &mut self,
            peer: crate::rail::PeerId,
            path: crate::rail::PathId,
            op: u64,
            offset: u64,
            payload: &crate::mem::PeerBytes<'_>,
        ) -> Result<(), crate::error::Error> {
            self.sink.segment_on(peer, path, op, offset, payload)
        }
    };
}
#[cfg(any(test, feature = "testing"))]
pub(crate) use forward_paths;
