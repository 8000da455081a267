//! Throughput of every base64 kernel that this machine runs, by what it makes of the text: nothing (it only looks for the
//! end), bytes, or int32 from each dtype of the wire. Bytes per second are bytes of text.
//!
//! `cargo bench --no-default-features --bench kernels`
#![allow(missing_docs)] // criterion's macros write public functions without any

use std::hint::black_box;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dynamo_tito::base64::{Element, Kernel};

/// Bytes of text: one that stays in a core's own cache with what is made of it, and one that goes through memory.
const SIZES: [(&str, usize); 2] = [("256KiB", 256 << 10), ("32MiB", 32 << 20)];

/// Bytes without a pattern.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(step).collect()
}

fn widened(bytes: &[u8], element: Element) -> Vec<i32> {
    match element {
        Element::U8 => bytes.iter().map(|&byte| byte.into()).collect(),
        Element::U16 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|&item| u16::from_le_bytes(item).into())
            .collect(),
        Element::I16 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|&item| i16::from_le_bytes(item).into())
            .collect(),
        Element::I32 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|&item| i32::from_le_bytes(item))
            .collect(),
    }
}

fn alphabet_len(criterion: &mut Criterion, kernel: Kernel) {
    let mut group = criterion.benchmark_group(format!("{}/letters", kernel.name()));
    for (name, size) in SIZES {
        let mut text = STANDARD.encode(noise(size / 4 * 3)).into_bytes();
        text.push(b'"');
        assert_eq!(kernel.alphabet_len(&text), size);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_with_input(BenchmarkId::from_parameter(name), &text, |bencher, text| {
            bencher.iter(|| kernel.alphabet_len(black_box(text)));
        });
    }
}

fn decode(criterion: &mut Criterion, kernel: Kernel) {
    let mut group = criterion.benchmark_group(format!("{}/bytes", kernel.name()));
    for (name, size) in SIZES {
        let bytes = noise(size / 4 * 3);
        let text = STANDARD.encode(&bytes).into_bytes();
        let mut out = vec![0; bytes.len()];
        kernel.decode(&text, 0, &mut out).expect("a good text");
        assert!(out == bytes);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_with_input(BenchmarkId::from_parameter(name), &text, |bencher, text| {
            bencher.iter(|| kernel.decode(black_box(text), 0, &mut out));
        });
    }
}

fn widen(criterion: &mut Criterion, kernel: Kernel) {
    for element in Element::ALL {
        let mut group = criterion.benchmark_group(format!("{}/{}", kernel.name(), element.name()));
        for (name, size) in SIZES {
            let bytes = noise(size / 4 * 3);
            let text = STANDARD.encode(&bytes).into_bytes();
            let mut out = vec![0; bytes.len() / element.size()];
            kernel
                .widen(&text, element, 0, &mut out)
                .expect("a good text");
            assert!(out == widened(&bytes, element));
            group.throughput(Throughput::Bytes(size as u64));
            group.bench_with_input(BenchmarkId::from_parameter(name), &text, |bencher, text| {
                bencher.iter(|| kernel.widen(black_box(text), element, 0, &mut out));
            });
        }
    }
}

fn every_kernel(criterion: &mut Criterion) {
    for kernel in Kernel::available() {
        alphabet_len(criterion, kernel);
        decode(criterion, kernel);
        widen(criterion, kernel);
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = every_kernel
}
criterion_main!(benches);
