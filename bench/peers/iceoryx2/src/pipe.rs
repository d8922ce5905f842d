//! Two services, one for each direction.

use crate::measure::{Outcome, WINDOW};
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;
use iceoryx2::sample::Sample;

/// Memory of the other side, lent to this one.
pub(crate) type Loan = Sample<ipc::Service, [u8], ()>;

pub(crate) struct Pipe {
    out: Publisher<ipc::Service, [u8], ()>,
    incoming: Subscriber<ipc::Service, [u8], ()>,
    // The ports are closed before the node.
    _node: Node<ipc::Service>,
}

impl Pipe {
    /// Opens one end for messages of up to `size` bytes, and waits until the other is there.
    pub(crate) fn open(name: &str, leads: bool, size: usize) -> Outcome<Pipe> {
        let node = NodeBuilder::new().create::<ipc::Service>()?;
        let (there, back) = (format!("{name}/there"), format!("{name}/back"));
        let (to, from) = if leads { (there, back) } else { (back, there) };
        let service = |name: &str| -> Outcome<_> {
            let builder = node.service_builder(&name.try_into()?).publish_subscribe::<[u8]>();
            // Nothing is overwritten: a full queue makes the sender wait, as it does with the other peers.
            let builder = builder.enable_safe_overflow(false).subscriber_max_buffer_size(2 * WINDOW);
            Ok(builder.max_publishers(1).max_subscribers(1).history_size(0).open_or_create()?)
        };
        let (to, from) = (service(&to)?, service(&from)?);
        let out = to.publisher_builder().initial_max_slice_len(size.max(16)).create()?;
        let incoming = from.subscriber_builder().buffer_size(2 * WINDOW).create()?;
        while to.dynamic_config().number_of_subscribers() == 0
            || from.dynamic_config().number_of_publishers() == 0
        {
            std::thread::yield_now();
        }
        Ok(Pipe { out, incoming, _node: node })
    }

    /// Copies `bytes` into a loan and sends it.
    #[inline]
    pub(crate) fn send(&self, bytes: &[u8]) -> Outcome<()> {
        self.out.loan_slice_uninit(bytes.len())?.write_from_slice(bytes).send()?;
        Ok(())
    }

    /// Waits for a message and copies it to `bytes`.
    #[inline]
    pub(crate) fn take(&self, bytes: &mut [u8]) -> Outcome<()> {
        bytes.copy_from_slice(self.sample()?.payload());
        Ok(())
    }

    /// Lends memory, writes `mark` to its first and its last cache line, and sends it.
    #[inline]
    pub(crate) fn send_loan(&self, size: usize, mark: u8) -> Outcome<()> {
        let mut loan = self.out.loan_slice_uninit(size)?;
        let bytes = loan.payload_mut();
        bytes[0].write(mark);
        bytes[size - 1].write(mark);
        // SAFETY: the bytes lie in shared memory that the system gave out zeroed, or hold an earlier message: each has a
        // value, and any value is a u8. Nothing may be written here, or the loan would not be O(1).
        #[expect(unsafe_code)]
        let loan = unsafe { loan.assume_init() };
        loan.send()?;
        Ok(())
    }

    /// Waits for a loan, and reads its first and its last cache line where they lie. It goes back when it is dropped.
    #[inline]
    pub(crate) fn take_loan(&self, mark: u8) -> Outcome<Loan> {
        let sample = self.sample()?;
        let marks = [sample.payload().first(), sample.payload().last()];
        match marks == [Some(&mark); 2] {
            true => Ok(sample),
            false => Err("a loan did not arrive as it was sent".into()),
        }
    }

    #[inline]
    fn sample(&self) -> Outcome<Loan> {
        loop {
            if let Some(sample) = self.incoming.receive()? {
                return Ok(sample);
            }
        }
    }
}
