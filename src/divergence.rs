//! How far two scorings of the same tokens are apart.

use crate::error::{Class, Error, Result};

/// What to do with a sampled token that one side has no log-probability for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Refuse.
    Raise,
    /// Leave it out, and count it.
    Skip,
}

/// The difference of two scorings over the sampled tokens: d = sample - scored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Divergence {
    /// Tokens that were compared.
    pub count: usize,
    /// Sampled tokens that were left out, because one side is NaN.
    pub skipped: usize,
    /// Mean of d.
    pub mean: f64,
    /// Mean of |d|.
    pub mean_abs: f64,
    /// Largest |d|.
    pub max_abs: f64,
    /// Mean of e^-d - 1 + d.
    pub k3: f64,
}

/// Below this e^x - 1 - x loses digits, and its series does not.
const SMALL: f64 = 1e-3;

/// e^x - 1 - x, which is never negative.
#[inline]
fn k3(x: f64) -> f64 {
    if x.abs() < SMALL {
        // The next term is x^6 / 720: less than 1e-14 of the first.
        x * x * (0.5 + x * (1.0 / 6.0 + x * (1.0 / 24.0 + x / 120.0)))
    } else {
        x.exp_m1() - x
    }
}

/// Compares where the mask is not zero; values elsewhere are not read. The three have one length.
pub fn divergence<A, B>(
    sample: &[A],
    scored: &[B],
    mask: &[u8],
    missing: Missing,
) -> Result<Divergence>
where
    A: Copy + Into<f64>,
    B: Copy + Into<f64>,
{
    let (mut count, mut skipped) = (0, 0);
    let (mut sum, mut sum_abs, mut max_abs, mut sum_k3) = (0.0, 0.0, 0.0_f64, 0.0);
    let pairs = sample.iter().zip(scored).zip(mask).enumerate();
    for (at, ((&sample, &scored), _)) in pairs.filter(|(_, (_, sampled))| **sampled != 0) {
        let (sample, scored) = (sample.into(), scored.into());
        if !(sample.is_finite() && scored.is_finite()) {
            judge(at, sample, scored, missing)?;
            skipped += 1;
            continue;
        }
        let difference: f64 = sample - scored;
        count += 1;
        sum += difference;
        sum_abs += difference.abs();
        max_abs = max_abs.max(difference.abs());
        sum_k3 += k3(-difference);
    }
    // With no token compared, agreement is not known.
    let mean = |sum: f64| {
        if count == 0 {
            f64::NAN
        } else {
            sum / count as f64
        }
    };
    Ok(Divergence {
        count,
        skipped,
        mean: mean(sum),
        mean_abs: mean(sum_abs),
        max_abs: if count == 0 { f64::NAN } else { max_abs },
        k3: mean(sum_k3),
    })
}

/// NaN says that there is no log-probability, and may be left out; infinity is none, and may not.
#[cold]
fn judge(at: usize, sample: f64, scored: f64, missing: Missing) -> Result<()> {
    let sides = [("sample_logprobs", sample), ("scored", scored)];
    let infinite = sides.iter().find(|(_, value)| value.is_infinite());
    let absent = sides.iter().find(|(_, value)| value.is_nan());
    let ((name, value), advice) = match (infinite, absent) {
        (Some(side), _) => (side, "a log-probability is finite"),
        (None, Some(side)) if missing == Missing::Raise => {
            (side, "missing_logprob=\"skip\" leaves such tokens out")
        }
        _ => return Ok(()),
    };
    Err(Error::new(
        Class::Argument,
        "no_logprob",
        "",
        None,
        format!("{name}[{at}] is {value} for a sampled token; {advice}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(sample: &[f64], scored: &[f64], mask: &[u8]) -> Divergence {
        divergence(sample, scored, mask, Missing::Raise).unwrap()
    }

    #[test]
    fn by_hand() {
        let found = compared(&[-1.0, -2.0, -3.0], &[-1.5, -2.0, -2.0], &[1, 1, 1]);
        assert_eq!((found.count, found.skipped), (3, 0));
        assert!((found.mean - (0.5 - 1.0) / 3.0).abs() < 1e-15);
        assert_eq!(found.mean_abs, 0.5);
        assert_eq!(found.max_abs, 1.0);
        let expected = ((-0.5_f64).exp() - 1.0 + 0.5) + (1.0_f64.exp() - 1.0 - 1.0);
        assert!((found.k3 - expected / 3.0).abs() < 1e-15);
    }

    #[test]
    fn only_what_was_sampled_counts() {
        let nan = f64::NAN;
        let found = compared(
            &[nan, -1.0, f64::INFINITY, -4.0],
            &[nan, -1.25, -7.0, 9.0],
            &[0, 255, 0, 0],
        );
        assert_eq!(found.count, 1);
        assert_eq!((found.mean, found.max_abs), (0.25, 0.25));
    }

    #[test]
    fn nothing_sampled_is_nan() {
        for found in [compared(&[-1.0], &[-1.0], &[0]), compared(&[], &[], &[])] {
            assert_eq!((found.count, found.skipped), (0, 0));
            for value in [found.mean, found.mean_abs, found.max_abs, found.k3] {
                assert!(value.is_nan());
            }
        }
    }

    #[test]
    fn nan_among_sampled_tokens_is_refused_or_counted() {
        let (sample, scored) = ([-1.0, f64::NAN, -2.0], [-1.0, -1.0, f64::NAN]);
        let error = divergence(&sample, &scored, &[1, 1, 1], Missing::Raise).unwrap_err();
        assert_eq!(error.class, Class::Argument);
        assert!(error.message.starts_with("sample_logprobs[1] is NaN"));
        let error = divergence(&sample, &scored, &[1, 0, 1], Missing::Raise).unwrap_err();
        assert!(error.message.starts_with("scored[2] is NaN"));
        let found = divergence(&sample, &scored, &[1, 1, 1], Missing::Skip).unwrap();
        assert_eq!((found.count, found.skipped, found.mean), (1, 2, 0.0));
    }

    #[test]
    fn infinity_is_refused_whatever_the_policy() {
        let infinity = f64::NEG_INFINITY;
        for (sample, scored, name) in [
            (infinity, -1.0, "sample_logprobs[0]"),
            (-1.0, infinity, "scored[0]"),
            (infinity, infinity, "sample_logprobs[0]"),
            (f64::NAN, infinity, "scored[0]"),
        ] {
            for missing in [Missing::Raise, Missing::Skip] {
                let error = divergence(&[sample], &[scored], &[1], missing).unwrap_err();
                assert!(
                    error.message.starts_with(&format!("{name} is -inf")),
                    "{error}"
                );
            }
        }
    }

    #[test]
    fn widths_mix() {
        let found = divergence(&[-0.5_f32], &[-0.25_f64], &[1], Missing::Raise).unwrap();
        assert_eq!(found.mean, -0.25);
        let found = divergence(&[-0.5_f64], &[-0.25_f32], &[1], Missing::Raise).unwrap();
        assert_eq!(found.max_abs, 0.25);
    }

    #[test]
    fn k3_is_exact_where_it_is_tiny_and_continuous_where_the_series_ends() {
        for x in [1e-12, -1e-12, 1e-8, -1e-8] {
            let exact = x * x / 2.0 + x * x * x / 6.0;
            assert!((k3(x) - exact).abs() <= exact * 1e-15);
        }
        for x in [SMALL, -SMALL] {
            let (series, closed) = (k3(x * 0.999_999_999), k3(x));
            assert!(((series - closed) / closed).abs() < 1e-8);
        }
        assert_eq!(k3(0.0), 0.0);
        assert!(k3(-800.0) == 799.0 && k3(800.0).is_infinite());
    }
}
