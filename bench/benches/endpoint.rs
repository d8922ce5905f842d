//! A message through two engines over loopback: what the protocol costs without a wire.

use criterion::{criterion_group, criterion_main, BenchmarkId, Criterion, Throughput};
use gridnet_bench::Pair;

fn messages(c: &mut Criterion) {
    let mut group = c.benchmark_group("message over loopback");
    for len in [8usize, 1024, 65_536, 1 << 20] {
        let mut pair = Pair::connected().expect("a hub refuses nobody");
        let (from, mut to) = (vec![1u8; len], vec![0u8; len]);
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(BenchmarkId::from_parameter(len), |b| {
            b.iter(|| pair.message(&from, &mut to).expect("operations fit the queues"));
        });
    }
    group.finish();
}

criterion_group!(benches, messages);
criterion_main!(benches);
