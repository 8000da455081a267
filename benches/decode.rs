//! Throughput of the whole decoder per wire: 8,192 tokens with routed experts, prompt rows trimmed, and 65,536 tokens without.
//! Bytes per second are bytes of body.
//!
//! `cargo bench --no-default-features --bench decode`
#![allow(missing_docs)] // criterion's macros write public functions without any

use std::fmt::Display;
use std::hint::black_box;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dynamo_tito::{Completion, ExpertIds, Options, Wire, decode};

/// What an engine sampled and which experts it went to.
struct Sample {
    name: &'static str,
    prompt: usize,
    ids: Vec<i32>,
    logprobs: Vec<f64>,
    /// 48 layers x top-8, of prompt and completion but the last token; empty for none.
    experts: Vec<u8>,
}

const ROW: usize = 48 * 8;

impl Sample {
    fn invent(name: &'static str, prompt: usize, completion: usize, routed: bool) -> Self {
        let mut noise = noise();
        let rows = if routed { prompt + completion - 1 } else { 0 };
        let logprob = |noise: u32| f64::from((noise as f32 / u32::MAX as f32).ln());
        Self {
            name,
            prompt,
            ids: (0..completion)
                .map(|_| (noise() % 151_936) as i32)
                .collect(),
            logprobs: (0..completion).map(|_| logprob(noise().max(1))).collect(),
            experts: (0..rows * ROW).map(|_| (noise() % 128) as u8).collect(),
        }
    }

    /// Routed experts of the completion's positions.
    fn wanted(&self) -> impl Iterator<Item = i32> {
        self.experts
            .get(self.prompt * ROW..)
            .unwrap_or(&[])
            .iter()
            .map(|&expert| expert.into())
    }

    fn object(&self) -> String {
        if self.experts.is_empty() {
            return "null".into();
        }
        let rows = self.experts.len() / ROW;
        let data = STANDARD.encode(&self.experts);
        format!(r#"{{"data":"{data}","shape":[{rows},48,8],"start":0,"dtype":"uint8"}}"#)
    }

    /// A list of log-probability entries, each written by `entry`.
    fn entries(&self, entry: impl Fn(i32, f64) -> String) -> String {
        list(
            self.ids
                .iter()
                .zip(&self.logprobs)
                .map(|(&id, &logprob)| entry(id, logprob)),
        )
    }

    fn body(&self, wire: Wire) -> String {
        let (ids, experts) = (list(&self.ids), self.object());
        let named = |id: i32, logprob: f64| {
            format!(
                r#"{{"token":"token_id:{id}","logprob":{logprob},"bytes":null,"top_logprobs":[]}}"#
            )
        };
        match wire {
            Wire::DynamoChat => format!(
                r#"{{"id":"x","choices":[{{"index":0,"message":{{"content":"w"}},"finish_reason":"stop","logprobs":null}}],"nvext":{{"engine_data":{{"completion_logprobs":{},"completion_token_ids":{ids},"routed_experts":{experts}}}}}}}"#,
                list(&self.logprobs)
            ),
            Wire::DynamoCompletions => format!(
                r#"{{"id":"x","choices":[{{"index":0,"text":"w","finish_reason":"stop","logprobs":{{"token_logprobs":{}}}}}],"nvext":{{"engine_data":{{"completion_token_ids":{ids},"routed_experts":{experts}}}}}}}"#,
                list(&self.logprobs)
            ),
            Wire::VllmGenerate | Wire::VllmChat => format!(
                r#"{{"choices":[{{"index":0,"logprobs":{{"content":{}}},"finish_reason":"stop","token_ids":{ids},"routed_experts":{experts}}}]}}"#,
                self.entries(named)
            ),
            Wire::VllmCompletions => format!(
                r#"{{"choices":[{{"index":0,"text":"w","logprobs":{{"token_logprobs":{}}},"finish_reason":"stop","token_ids":{ids},"routed_experts":{experts}}}]}}"#,
                list(&self.logprobs)
            ),
            Wire::SglangChat => format!(
                r#"{{"choices":[{{"index":0,"response_token_ids":{ids},"meta_info":{{"id":"x","finish_reason":{{"type":"stop"}},"output_token_logprobs":{},"routed_experts":{experts}}}}}]}}"#,
                self.entries(|id, logprob| format!("[{logprob},{id},null]"))
            ),
            Wire::SglangGenerate => format!(
                r#"{{"text":"w","output_ids":{ids},"meta_info":{{"id":"x","finish_reason":{{"type":"stop"}},"output_token_logprobs":{},"routed_experts":{experts}}}}}"#,
                self.entries(|id, logprob| format!("[{logprob},{id},null]"))
            ),
        }
    }
}

/// Routed experts in C order; empty where there are none.
fn experts(completion: &Completion) -> &[i32] {
    match completion
        .routed_experts
        .as_ref()
        .map(|routed| &routed.values)
    {
        Some(ExpertIds::I32(values)) => values.as_slice(),
        _ => &[],
    }
}

fn list(items: impl IntoIterator<Item = impl Display>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    format!("[{}]", items.join(","))
}

/// Numbers without a pattern.
fn noise() -> impl FnMut() -> u32 {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u32
    }
}

fn every_wire(criterion: &mut Criterion) {
    let samples = [
        Sample::invent("routed experts", 4_096, 4_096, true),
        Sample::invent("tokens", 512, 65_024, false),
    ];
    for (name, wire) in Wire::ALL {
        let mut group = criterion.benchmark_group(name);
        for sample in &samples {
            let body = sample.body(wire).into_bytes();
            let options = Options {
                prompt_len: Some(sample.prompt as u64),
                routed_experts_prompt_start: Some(sample.prompt as u64),
                ..Options::new(wire)
            };
            let found = decode(&body, &options).expect("a good body");
            assert_eq!(found.token_ids.as_slice(), sample.ids);
            let logprobs = found.logprobs.as_ref().expect("log-probabilities");
            assert!(logprobs.iter().eq(sample.logprobs.iter().copied()));
            assert!(experts(&found).iter().copied().eq(sample.wanted()));
            drop(found);
            group.throughput(Throughput::Bytes(body.len() as u64));
            group.bench_with_input(
                BenchmarkId::from_parameter(sample.name),
                &body,
                |b, body| {
                    b.iter(|| decode(black_box(body), &options));
                },
            );
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = every_wire
}
criterion_main!(benches);
