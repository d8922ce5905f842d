//! Tag matching: the exact match with few and with many entries.

use std::hint::black_box;

use criterion::{criterion_group, criterion_main, BenchmarkId, Criterion};
use gridnet_core::matching::{Pattern, Posted, Source, Unexpected};
use gridnet_core::rail::PeerId;

const PEER: PeerId = PeerId::new(3);

fn exact(tag: u64) -> Pattern {
    Pattern { source: Source::Peer(PEER), tag, ignore: 0 }
}

fn posted(c: &mut Criterion) {
    let mut group = c.benchmark_group("post one, match one");
    for others in [0u64, 100, 10_000] {
        let mut queue = Posted::default();
        for tag in 0..others {
            queue.insert(exact(tag), tag);
        }
        group.bench_function(BenchmarkId::new("others posted", others), |b| {
            b.iter(|| {
                queue.insert(exact(u64::MAX), 7);
                black_box(queue.take(PEER, u64::MAX))
            });
        });
    }
    group.finish();
}

fn unexpected(c: &mut Criterion) {
    let mut group = c.benchmark_group("keep one, find one");
    for others in [0u64, 100, 10_000] {
        let mut store = Unexpected::default();
        for tag in 0..others {
            store.insert(PEER, tag, tag);
        }
        group.bench_function(BenchmarkId::new("others kept", others), |b| {
            b.iter(|| {
                store.insert(PEER, u64::MAX, 7);
                store.find(&exact(u64::MAX)).and_then(|key| store.remove(key)).map(black_box)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, posted, unexpected);
criterion_main!(benches);
