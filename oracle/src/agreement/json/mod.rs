//! The grammar: what is JSON and what is not, at every place of every wire. The list of fragments, the decoder, the
//! reference and serde_json agree.

mod fragments;
mod places;

use std::collections::BTreeMap;

use fragments::{COMPLETED_BY_SURROUNDINGS, Fragment, fragments};
use places::{Place, places};
use serde_json::value::RawValue;

use super::agree;
use dynamo_tito::Limits;
use dynamo_tito::{ExpertsMode, Options, Wire, decode_choices};

/// Kinds of errors that say: this is no document.
const NO_DOCUMENT: [&str; 6] = [
    "truncated",
    "syntax",
    "utf8",
    "too_deep",
    "trailing_data",
    "event_stream",
];

/// Of a large family, each place gets one fragment in so many, and each place others.
const FAMILY: usize = 16;

fn body(place: &Place, fragment: &[u8]) -> Vec<u8> {
    [place.before.as_bytes(), fragment, place.behind.as_bytes()].concat()
}

/// serde_json takes a raw value by the grammar alone, at any depth and whatever a number's size.
fn serde_accepts(body: &[u8]) -> bool {
    serde_json::from_slice::<&RawValue>(body).is_ok()
}

/// Compares the four; `expected` is None where the surroundings decide.
fn check(body: &[u8], options: &Options<'_>, expected: Option<bool>, too_deep: bool) {
    let text = || format!("{:?}: {}", options.wire, body.escape_ascii());
    let grammatical = serde_accepts(body);
    if let Some(expected) = expected {
        assert_eq!(grammatical, expected, "serde_json, {}", text());
    }
    assert_eq!(agree(body, options), Ok(()), "{}", text());
    let result = decode_choices(body, options);
    let refusal = result.err().map(|error| error.kind);
    let refused = refusal.filter(|kind| NO_DOCUMENT.contains(kind));
    assert_eq!(
        refused.is_none(),
        grammatical && !too_deep,
        "{refusal:?}, {}",
        text()
    );
    if too_deep && grammatical {
        assert_eq!(refused, Some("too_deep"), "{}", text());
    }
}

fn is_string(fragment: &Fragment) -> bool {
    fragment.text.starts_with(b"\"")
}

fn options(wire: Wire, place: &Place) -> [Options<'static>; 2] {
    let base = Options {
        require_logprobs: false,
        prompt_token_ids: Some(&[1, 2]),
        num_layers: Some(1),
        top_k: Some(1),
        num_indexer_layers: Some(1),
        index_topk: Some(1),
        ..Options::new(wire)
    };
    // What is left out is skipped, not read: another way through the same bytes.
    let skipped = Options {
        experts: match place.before.contains("routed_experts")
            || place.before.contains("indexer_topk")
        {
            true => ExpertsMode::Skip,
            false => base.experts,
        },
        ..base
    };
    [base, skipped]
}

#[test]
fn every_expectation_is_that_of_serde_json() {
    let mut fragments = fragments();
    fragments.retain(|fragment| serde_accepts(&fragment.text) != fragment.value);
    let texts: Vec<_> = fragments
        .iter()
        .map(|fragment| fragment.text.escape_ascii())
        .collect();
    assert!(texts.is_empty(), "{texts:?}");
}

#[test]
fn every_fragment_at_every_place() {
    let fragments = fragments();
    let mut counts: BTreeMap<&str, [u64; 2]> = BTreeMap::new();
    for (_, wire) in Wire::ALL {
        for (at, place) in places(wire).iter().enumerate() {
            let [base, skipped] = options(wire, place);
            for (of, fragment) in fragments.iter().enumerate() {
                if fragment.one_of_many && place.depth > 0 && !(at + of).is_multiple_of(FAMILY) {
                    continue;
                }
                let options = if of % 2 == 0 { base } else { skipped };
                let value = fragment.value && (!place.key || is_string(fragment));
                let too_deep =
                    value && place.depth + fragment.depth() > Limits::default().max_depth;
                let body = body(place, &fragment.text);
                check(&body, &options, Some(value), too_deep);
                counts.entry(fragment.class).or_default()[usize::from(value)] += 1;
            }
        }
    }
    let mut total = 0;
    for (class, [refused, accepted]) in counts {
        println!("{class}: {accepted} documents, {refused} that are none");
        total += accepted + refused;
        assert!(accepted > 1000 && refused > 1000, "{class}");
    }
    println!("{total} bodies");
    assert!(total > 100_000, "{total}");
}

#[test]
fn what_the_surroundings_complete() {
    let mut completed = 0;
    for (_, wire) in Wire::ALL {
        for place in places(wire) {
            for text in COMPLETED_BY_SURROUNDINGS {
                let body = body(&place, text.as_bytes());
                for options in options(wire, &place) {
                    check(&body, &options, None, false);
                }
                completed += u64::from(serde_accepts(&body));
            }
        }
        assert!(!serde_accepts(b"") && !serde_accepts(b"1,2"));
    }
    assert!(completed > 100, "{completed}");
}
