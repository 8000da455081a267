//! Canonical base64, a group of four characters at a time.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// How many of the last characters are padding: one or two `=`, or none.
pub(super) fn padding(text: &[u8]) -> usize {
    text.iter()
        .rev()
        .take(2)
        .take_while(|&&byte| byte == b'=')
        .count()
}

/// How many bytes a text stands for; None if it is not whole groups of four.
pub(super) fn decoded_len(text: &[u8]) -> Option<usize> {
    text.len()
        .is_multiple_of(4)
        .then(|| text.len() / 4 * 3 - padding(text))
}

/// The bytes of the first `groups` groups, or the position in `text` of the character that is wrong.
///
/// `text` is whole groups; there may be fewer than asked for.
pub(super) fn decode(text: &[u8], groups: usize) -> Result<Vec<u8>, usize> {
    let characters = text.len() - padding(text);
    let mut bytes = Vec::new();
    for start in (0..text.len()).step_by(4).take(groups) {
        // The last group may hold two or three characters: 12 or 18 bits for one or two bytes.
        let group = start..characters.min(start + 4);
        let mut bits: u32 = 0;
        for position in group.clone() {
            bits = bits << 6 | sextet(text[position]).ok_or(position)?;
        }
        let missing = 4 - group.len();
        bits <<= 6 * missing;
        let [_, decoded @ ..] = bits.to_be_bytes();
        let (kept, surplus) = decoded.split_at(3 - missing);
        if surplus.iter().any(|&byte| byte != 0) {
            return Err(group.end - 1);
        }
        bytes.extend_from_slice(kept);
    }
    Ok(bytes)
}

fn sextet(character: u8) -> Option<u32> {
    let position = ALPHABET.iter().position(|&c| c == character)?;
    u32::try_from(position).ok()
}
