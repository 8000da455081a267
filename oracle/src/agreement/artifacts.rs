//! Artifacts to hold both decoders against, made from a plan.

use crate::reference::base64_of;

/// Values in MessagePack, in their shortest forms.
#[derive(Debug, Default, Clone)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    fn head(&mut self, short: Option<u8>, wide: u8, len: usize) -> &mut Self {
        match (short, u16::try_from(len)) {
            (Some(byte), _) => self.0.push(byte),
            (None, Ok(len)) => {
                self.0.push(wide);
                self.0.extend(len.to_be_bytes());
            }
            (None, Err(_)) => {
                self.0.push(wide + 1);
                self.0.extend((len as u32).to_be_bytes());
            }
        }
        self
    }

    /// The head of a map.
    pub fn map(&mut self, len: usize) -> &mut Self {
        self.head((len < 16).then_some(0x80 | len as u8), 0xde, len)
    }

    /// The head of an array.
    pub fn array(&mut self, len: usize) -> &mut Self {
        self.head((len < 16).then_some(0x90 | len as u8), 0xdc, len)
    }

    /// A string of fewer than 32 bytes.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.0.push(0xa0 | text.len() as u8);
        self.0.extend(text.as_bytes());
        self
    }

    /// A natural number.
    pub fn number(&mut self, value: u64) -> &mut Self {
        let bytes = value.to_be_bytes();
        let (marker, bytes) = match value {
            0..=0x7f => (None, &bytes[7..]),
            0x80..=0xff => (Some(0xcc), &bytes[7..]),
            0x100..=0xffff => (Some(0xcd), &bytes[6..]),
            0x1_0000..=0xffff_ffff => (Some(0xce), &bytes[4..]),
            _ => (Some(0xcf), &bytes[..]),
        };
        self.0.extend(marker);
        self.0.extend(bytes);
        self
    }

    /// A double-precision number.
    pub fn float(&mut self, value: f64) -> &mut Self {
        self.0.push(0xcb);
        self.0.extend(value.to_be_bytes());
        self
    }

    /// Fewer than 256 bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend([0xc4, bytes.len() as u8]);
        self.0.extend(bytes);
        self
    }

    fn tensor(&mut self, (dtype, width): (&str, usize), shape: &[usize], offset: &mut usize) {
        let bytes = shape.iter().product::<usize>() * width;
        self.map(4).text("byte_count").number(bytes as u64);
        self.text("dtype").text(dtype);
        self.text("offset").number(*offset as u64);
        self.text("shape").array(shape.len());
        for &size in shape {
            self.number(size as u64);
        }
        *offset += bytes;
    }
}

/// What an artifact holds.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// P.
    pub prompt: usize,
    /// C.
    pub completion: usize,
    /// Routers, and experts of each token; without routers there are no routes.
    pub routers: usize,
    /// Experts of each token.
    pub top_k: usize,
    /// Experts of each router.
    pub experts: u64,
    /// The position of the first row.
    pub start: usize,
    /// Of log-probabilities; there are none without it.
    pub dtype: Option<(&'static str, usize)>,
    /// Candidates of each token.
    pub candidates: usize,
}

/// The smallest artifact with everything.
pub const SMALL: Plan = Plan {
    prompt: 3,
    completion: 2,
    routers: 2,
    top_k: 2,
    experts: 128,
    start: 0,
    dtype: Some(("fp32", 4)),
    candidates: 2,
};

/// The upload of SGLang's worker for two tokens.
pub fn metadata() -> Vec<u8> {
    let mut writer = Writer::default();
    let w = writer.map(2).text("schema_version").number(1);
    w.text("metadata").map(6);
    w.text("id").text("a\"b\u{7}");
    w.text("finish_reason").map(2).text("type").text("length");
    w.text("length").number(2);
    w.text("prompt_tokens").number(3);
    w.text("completion_tokens").number(2);
    w.text("output_token_logprobs").array(2);
    for (id, value) in [(7, -0.5), (70_000, f64::NEG_INFINITY)] {
        w.array(3).float(value).number(id).text("x");
    }
    w.text("routed_experts").map(4);
    w.text("type").text("ndarray").text("dtype").text("uint8");
    w.text("shape").array(3).number(4).number(2).number(1);
    w.text("data").bytes(&[0, 1, 2, 3, 4, 5, 6, 7]);
    writer.0
}

impl Plan {
    /// The manifest.
    pub fn manifest(&self) -> Vec<u8> {
        let (tokens, rows) = (self.prompt + self.completion, self.rows());
        let mut offset = 8 * tokens;
        let mut writer = Writer::default();
        let w = writer.map(1).text("choices").array(1).map(4);
        w.text("choice_index").number(0);
        let scores = usize::from(self.dtype.is_some());
        let list = usize::from(self.dtype.is_some() && self.candidates > 0);
        let routes = usize::from(self.routers > 0);
        w.text("components").array(routes + scores + list);
        if self.routers > 0 {
            w.map(3).text("kind").text("moe_routes");
            w.text("routers").array(self.routers);
            for id in 0..self.routers {
                w.map(3).text("expert_count").number(self.experts);
                w.text("expert_ids");
                w.tensor(self.ids(), &[rows, self.top_k], &mut offset);
                w.text("router_id").number(id as u64);
            }
            w.text("token_start").number(self.start as u64);
        }
        if let Some(dtype) = self.dtype {
            w.map(3).text("kind").text("selected_logprobs");
            w.text("logprobs");
            w.tensor(dtype, &[self.completion], &mut offset);
            w.text("token_start").number(self.prompt as u64);
        }
        if let (Some(dtype), 1..) = (self.dtype, self.candidates) {
            let shape = [self.completion, self.candidates];
            w.map(4).text("candidate_token_ids");
            w.tensor(("i64", 8), &shape, &mut offset);
            w.text("kind").text("topk_logprobs");
            w.text("logprobs");
            w.tensor(dtype, &shape, &mut offset);
            w.text("token_start").number(self.prompt as u64);
        }
        w.text("prompt_token_count").number(self.prompt as u64);
        w.text("sequence_token_ids");
        w.tensor(("i64", 8), &[tokens], &mut 0);
        writer.0
    }

    fn rows(&self) -> usize {
        let extent = self.prompt + self.completion - usize::from(self.completion > 0);
        extent.saturating_sub(self.start)
    }

    fn ids(&self) -> (&'static str, usize) {
        match self.experts {
            ..=256 => ("u8", 1),
            _ => ("u16", 2),
        }
    }

    /// The tensors: ids from 1 on, different experts, log-probabilities below 0.
    pub fn tensors(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for id in 1..=self.prompt + self.completion {
            bytes.extend((id as i64).to_le_bytes());
        }
        for router in 0..self.routers {
            for value in 0..self.rows() * self.top_k {
                let id = (router * 5 + value * 3) as u64 % self.experts;
                bytes.extend(&id.to_le_bytes()[..self.ids().1]);
            }
        }
        let Some((dtype, width)) = self.dtype else {
            return bytes;
        };
        // -0.5 and half of it, and so on.
        let value = |i: usize| match dtype {
            "fp16" => u32::from(0xb800 - 0x400 * i as u16),
            "bf16" => u32::from(0xbf00 - 0x80 * i as u16),
            _ => 0xbf00_0000 - 0x80_0000 * i as u32,
        };
        let count = self.completion * self.candidates;
        for i in 0..self.completion {
            bytes.extend(&value(i % 4).to_le_bytes()[..width]);
        }
        for i in 0..count {
            // The sampled token first.
            let (row, at) = (i / self.candidates, i % self.candidates);
            bytes.extend(((self.prompt + row + 1 + at) as i64).to_le_bytes());
        }
        for i in 0..count {
            let (row, at) = (i / self.candidates, i % self.candidates);
            bytes.extend(&value((row + at) % 4).to_le_bytes()[..width]);
        }
        bytes
    }

    /// The whole object.
    pub fn object(&self, compressed: bool) -> Vec<u8> {
        object(&self.manifest(), &self.tensors(), compressed)
    }
}

/// A prelude that tells the truth, a manifest and tensors.
pub fn object(manifest: &[u8], tensors: &[u8], compressed: bool) -> Vec<u8> {
    let mut object = b"DYNEXP1\0\x01\0\0\0".to_vec();
    object.extend([u8::from(compressed), 0]);
    object.extend((manifest.len() as u32).to_le_bytes());
    object.extend((tensors.len() as u64).to_le_bytes());
    let mut body = manifest.to_vec();
    body.resize(manifest.len().next_multiple_of(64), 0);
    body.extend(tensors);
    object.extend(match compressed {
        true => frame(&body),
        false => body,
    });
    object
}

/// A zstd frame that says what it holds.
pub fn frame(content: &[u8]) -> Vec<u8> {
    let mut out = vec![0; zstd_safe::compress_bound(content.len())];
    let len = zstd_safe::compress(&mut out[..], content, 1).expect("room enough");
    out.truncate(len);
    out
}

/// The answer of Dynamo's that holds an object.
pub fn inline(object: &[u8], contents: &str) -> Vec<u8> {
    let data = base64_of(object);
    format!(
        "{{\"choices\":[{{\"index\":0,\"finish_reason\":\"length\",\"logprobs\":null}}],\"nvext\":{{\"metadata_upload\":{{\
         \"kind\":\"generation_artifact\",\"mode\":\"inline_base64\",\"format\":\"generation_artifact_v1\",\"contents\":\
         {contents},\"byte_count\":{},\"data_base64\":\"{data}\"}}}}}}",
        object.len()
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agreement::{agree_on_artifact, agree_on_one};
    use dynamo_tito::{
        Class, ExpertsMode, Limits, LogprobsDtype, MissingLogprob, Options, Wire, decode_artifact,
    };

    const CONTENTS: &str = "[\"moe_routes\",\"selected_logprobs\",\"topk_logprobs\"]";

    fn options() -> Options<'static> {
        Options::new(Wire::DynamoChat)
    }

    fn plans() -> Vec<Plan> {
        let halves = [("fp16", 2), ("bf16", 2)];
        let mut plans = vec![
            SMALL,
            Plan {
                completion: 0,
                ..SMALL
            },
            Plan {
                routers: 0,
                ..SMALL
            },
            Plan {
                dtype: None,
                ..SMALL
            },
            Plan {
                candidates: 0,
                ..SMALL
            },
            Plan { start: 2, ..SMALL },
            Plan { start: 4, ..SMALL },
            Plan {
                experts: 300,
                routers: 20,
                ..SMALL
            },
        ];
        plans.extend(halves.map(|dtype| Plan {
            dtype: Some(dtype),
            ..SMALL
        }));
        plans.extend((1..12).map(|top_k| Plan { top_k, ..SMALL }));
        plans.extend((1..12).map(|top_k| Plan {
            top_k,
            experts: 257,
            ..SMALL
        }));
        plans
    }

    fn every_option() -> Vec<Options<'static>> {
        let base = Options {
            require_logprobs: false,
            ..options()
        };
        let mut list = vec![options(), base];
        list.extend([0, 1, 2, 4, 5].map(|n| Options {
            routed_experts_prompt_start: Some(n),
            ..base
        }));
        list.extend([
            Options {
                experts: ExpertsMode::Native,
                ..base
            },
            Options {
                experts: ExpertsMode::Skip,
                require_routed_experts: true,
                ..base
            },
            Options {
                require_routed_experts: true,
                ..base
            },
            Options {
                routers: Some(&[1]),
                ..base
            },
            Options {
                routers: Some(&[1, 0]),
                ..base
            },
            Options {
                routers: Some(&[9]),
                ..base
            },
            Options {
                num_layers: Some(2),
                top_k: Some(2),
                ..base
            },
            Options {
                num_layers: Some(3),
                ..base
            },
            Options {
                prompt_len: Some(4),
                ..base
            },
            Options {
                prompt_token_ids: Some(&[1, 2, 3]),
                ..base
            },
            Options {
                prompt_token_ids: Some(&[1, 2, 4]),
                ..base
            },
            Options {
                missing_logprob: MissingLogprob::Nan,
                ..base
            },
            Options {
                missing_logprob: MissingLogprob::Nan,
                logprobs_dtype: LogprobsDtype::Float32,
                ..base
            },
            Options {
                limits: Limits {
                    max_tokens: 4,
                    ..Limits::default()
                },
                ..base
            },
            Options {
                limits: Limits {
                    max_rows: 3,
                    ..Limits::default()
                },
                ..base
            },
            Options {
                limits: Limits {
                    max_decompressed: 600,
                    ..Limits::default()
                },
                ..base
            },
        ]);
        list
    }

    fn judge(data: &[u8], options: &Options<'_>) {
        agree_on_artifact(data, options).unwrap_or_else(|difference| {
            panic!("{}\n{options:?}\n{difference}", data.escape_ascii())
        });
    }

    #[test]
    fn both_agree_on_every_plan_under_every_option() {
        for plan in plans() {
            for compressed in [false, true] {
                let object = plan.object(compressed);
                for options in every_option() {
                    judge(&object, &options);
                    let answer = inline(&object, "[]");
                    agree_on_one(&answer, &options).unwrap();
                }
            }
            let options = Options {
                require_logprobs: false,
                ..options()
            };
            decode_artifact(&plan.object(true), &options).expect("a good artifact");
        }
    }

    #[test]
    fn an_artifact_that_is_cut_anywhere_is_refused() {
        for object in [SMALL.object(false), SMALL.object(true), frame(&metadata())] {
            decode_artifact(
                &object,
                &Options {
                    missing_logprob: MissingLogprob::Nan,
                    ..options()
                },
            )
            .expect("a good object");
            for end in 0..object.len() {
                judge(&object[..end], &options());
                let error = decode_artifact(&object[..end], &options()).unwrap_err();
                assert_eq!(error.class, Class::Malformed, "{end}: {error}");
            }
        }
    }

    #[test]
    fn both_agree_on_every_changed_byte() {
        let objects = [SMALL.object(false), SMALL.object(true), frame(&metadata())];
        for object in objects {
            for at in 0..object.len() {
                for change in [1, 0x10, 0x80, 0xff] {
                    let mut changed = object.clone();
                    changed[at] ^= change;
                    judge(&changed, &options());
                }
            }
        }
    }

    #[test]
    fn both_agree_on_every_changed_byte_of_the_uploads_content() {
        let content = metadata();
        for at in 0..content.len() {
            for change in [1, 0x10, 0x80, 0xff] {
                let mut changed = content.clone();
                changed[at] ^= change;
                judge(&frame(&changed), &options());
            }
            judge(&frame(&content[..at]), &options());
        }
    }

    #[test]
    fn both_agree_on_answers_with_an_artifact() {
        let good = inline(&SMALL.object(true), CONTENTS);
        agree_on_one(&good, &options()).unwrap();
        let text = String::from_utf8(good).unwrap();
        let changes = [
            ("generation_artifact\"", "other\""),
            ("\"kind\":", "\"kind\":null,\"other\":"),
            ("inline_base64", "object_store"),
            (
                "\"mode\"",
                "\"state\":\"failed\",\"error_code\":\"capture_invalid\",\"mode\"",
            ),
            (
                "\"mode\":\"inline_base64\"",
                "\"operation_id\":\"ga_1\",\"state\":\"pending\"",
            ),
            ("artifact_v1", "artifact_v2"),
            ("\"byte_count\":", "\"byte_count\":1"),
            ("\"byte_count\"", "\"kind\""),
            ("topk_logprobs\"]", "other\"]"),
            ("\"contents\":", "\"contents\":{},\"other\":"),
            ("\"data_base64\"", "\"other\""),
            ("\"data_base64\":\"", "\"data_base64\":7,\"other\":\""),
            ("\"data_base64\":\"", "\"data_base64\":\"="),
            ("\"data_base64\":\"RF", "\"data_base64\":\"\\u0052F"),
            ("\"index\":0", "\"index\":1"),
            ("\"index\":0", "\"token_ids\":[4,5]"),
            ("\"index\":0", "\"token_ids\":[4,6]"),
            ("\"index\":0", "\"token_ids\":[4]"),
            ("\"index\":0", "\"token_ids\":7"),
            ("\"metadata_upload\":{", "\"metadata_upload\":7,\"other\":{"),
            ("\"length\"", "\"error\""),
            (
                "\"logprobs\":null",
                "\"logprobs\":{\"content\":[{\"token\":\"token_id:4\",\"logprob\":-1},{\"token\":\"x\",\"logprob\":-1}]}",
            ),
            (
                "\"logprobs\":null",
                "\"logprobs\":{\"content\":[{\"token\":\"token_id:5\",\"logprob\":-1},{\"token\":\"x\",\"logprob\":-1}]}",
            ),
        ];
        for (old, new) in changes {
            assert!(text.contains(old), "{old}");
            let changed = text.replacen(old, new, 1);
            agree_on_one(changed.as_bytes(), &options()).unwrap_or_else(|it| panic!("{new}: {it}"));
        }
        for lacking in [
            Plan {
                routers: 0,
                ..SMALL
            },
            Plan {
                dtype: None,
                ..SMALL
            },
        ] {
            let answer = inline(&lacking.object(true), CONTENTS);
            agree_on_one(&answer, &options()).unwrap();
        }
    }
}
