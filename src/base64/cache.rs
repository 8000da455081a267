//! The size of an output from which on writing around the cache is faster than through it.

use std::fs;
use std::sync::OnceLock;

/// What is assumed where the system does not say: common for a group of cores.
const USUAL_L3: usize = 32 << 20;

/// Bytes of output from which on it is written around the cache.
///
/// A store through the cache first reads its line from memory, unless the cache has it, and drives another one out.
/// Measured on Sapphire Rapids: where the cache does not have the output, writing around it takes 0.6 to 0.7 of the time
/// from 2 MiB on, reading the result back included 0.75; where it does, 1.2 to 2 times as long, up to some 20 MiB. A
/// recycled block is seldom in the cache: since it was last written, a body of about its size and the arrays decoded from it
/// went through the cache. Hence a quarter of the last level, and at most 8 MiB: a cache of more than 32 MiB serves many
/// cores, and in a virtual machine those of other guests.
pub(crate) fn streaming_from() -> usize {
    static FROM: OnceLock<usize> = OnceLock::new();
    *FROM.get_or_init(|| {
        let size = fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index3/size");
        let size = size.ok().and_then(|size| parse(&size)).unwrap_or(USUAL_L3);
        (size / 4).clamp(2 << 20, 8 << 20)
    })
}

/// Bytes of a size as Linux writes it: `32768K`.
fn parse(size: &str) -> Option<usize> {
    let size = size.trim_end();
    let (digits, shift) = match size.as_bytes().last()? {
        b'K' => (&size[..size.len() - 1], 10),
        b'M' => (&size[..size.len() - 1], 20),
        _ => (size, 0),
    };
    digits.parse::<usize>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_linux_writes_them() {
        assert_eq!(parse("32768K\n"), Some(32 << 20));
        assert_eq!(parse("480M"), Some(480 << 20));
        assert_eq!(parse("512\n"), Some(512));
        for text in ["", "\n", "K", "32 K", "lots"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn within_bounds_on_every_machine() {
        assert!((2 << 20..=8 << 20).contains(&streaming_from()));
    }
}
