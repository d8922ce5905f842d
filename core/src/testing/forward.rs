//! Rails around another rail: the calls that go through as they are.

/// The methods of a [`crate::rail::Rail`] that hand a call on to `self.inner`, and nothing else. The rail itself adds those in
/// which it does something.
macro_rules! forward_to_inner {
    () => {
        fn name(&self) -> &'static str {
            self.inner.name()
        }

        fn segment_len(&self, total: u64) -> usize {
            self.inner.segment_len(total)
        }

        fn deadline(&self) -> Option<$crate::time::Time> {
            self.inner.deadline()
        }

        fn expose(
            &mut self,
            link: $crate::rail::LinkId,
            memory: &$crate::mem::Gather<'_>,
        ) -> Option<$crate::rail::RemoteSource> {
            self.inner.expose(link, memory)
        }

        fn conceal(&mut self, link: $crate::rail::LinkId, source: $crate::rail::RemoteSource) {
            self.inner.conceal(link, source);
        }

        fn prefers_get(&mut self, link: $crate::rail::LinkId, len: u64) -> bool {
            self.inner.prefers_get(link, len)
        }

        fn allocate(
            &mut self,
            len: usize,
            numa_node: u32,
        ) -> Option<Result<$crate::rail::Lent, $crate::rail::Refusal>> {
            self.inner.allocate(len, numa_node)
        }

        fn free(&mut self, token: u64) {
            self.inner.free(token);
        }

        fn offer(&mut self, region: &$crate::rail::Offered) -> Result<u64, $crate::rail::Refusal> {
            self.inner.offer(region)
        }

        fn withdraw(&mut self, number: u64, record: u64) -> bool {
            self.inner.withdraw(number, record)
        }

        fn window(
            &mut self,
            link: $crate::rail::LinkId,
            key: &$crate::region::RemoteKey,
        ) -> Option<$crate::region::Window> {
            self.inner.window(link, key)
        }

        fn copy_to(
            &mut self,
            link: $crate::rail::LinkId,
            key: &$crate::region::RemoteKey,
            offset: u64,
            from: &$crate::mem::Iov,
        ) -> Option<Result<(), $crate::error::Error>> {
            self.inner.copy_to(link, key, offset, from)
        }

        fn copy_from(
            &mut self,
            link: $crate::rail::LinkId,
            key: &$crate::region::RemoteKey,
            offset: u64,
            to: &$crate::mem::Iov,
        ) -> Option<Result<(), $crate::error::Error>> {
            self.inner.copy_from(link, key, offset, to)
        }

        fn lend(&mut self, len: usize) -> Result<$crate::loan::LoanMemory, $crate::error::Error> {
            self.inner.lend(len)
        }

        fn take_back(&mut self, memory: $crate::loan::LoanMemory) {
            self.inner.take_back(memory);
        }

        fn release_loan(&mut self, link: $crate::rail::LinkId) {
            self.inner.release_loan(link);
        }

        fn delivered(&self, link: $crate::rail::LinkId) -> u64 {
            self.inner.delivered(link)
        }

        fn retained(
            &mut self,
            link: $crate::rail::LinkId,
            after: u64,
            each: &mut dyn FnMut($crate::wire::Incoming<'_>),
        ) -> Result<(), $crate::error::Error> {
            self.inner.retained(link, after, each)
        }

        fn disarm(&mut self) {
            self.inner.disarm();
        }

        fn wait_handle(&self) -> Option<i32> {
            self.inner.wait_handle()
        }

        fn is_peer_on_this_core(&self) -> bool {
            self.inner.is_peer_on_this_core()
        }

        fn wakeups_sent(&self) -> u64 {
            self.inner.wakeups_sent()
        }

        fn process(&self, link: $crate::rail::LinkId) -> Option<u32> {
            self.inner.process(link)
        }
    };
}
pub(super) use forward_to_inner;
