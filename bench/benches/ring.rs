//! The slot ring: one message through it, and a stream.

use std::hint::black_box;
use std::ptr::NonNull;

use criterion::{criterion_group, criterion_main, Criterion, Throughput};
use gridnet_core::ring::slot::{Consumer, Producer, Slot, SlotHeader, BODY_WORDS};
use gridnet_core::sync::{AtomicU32, AtomicU64, Ordering};

fn ring() -> (Producer, Consumer) {
    let slots: &'static [Slot] = Vec::leak((0..256).map(|_| Slot::default()).collect());
    let consumed: &'static AtomicU32 = Box::leak(Box::default());
    let slots = NonNull::from(slots).cast();
    // SAFETY: leaked, zeroed memory that these two ends alone use.
    unsafe { (Producer::new(slots, 256, consumed.into()), Consumer::new(slots, 256, consumed.into())) }
}

fn one_thread(c: &mut Criterion) {
    let (mut producer, mut consumer) = ring();
    let mut group = c.benchmark_group("ring");
    group.throughput(Throughput::Elements(64));
    group.bench_function("64 slots in, 64 slots out", |b| {
        b.iter(|| {
            for i in 0..64u64 {
                if producer.has_space() == Ok(true) {
                    let fill = |body: &[AtomicU64; BODY_WORDS]| body[0].store(i, Ordering::Relaxed);
                    producer.push(SlotHeader::default(), i, fill);
                }
            }
            while let Some(ready) = consumer.peek() {
                black_box(ready.word());
                consumer.consume(false);
            }
        });
    });
    group.finish();
}

criterion_group!(benches, one_thread);
criterion_main!(benches);
