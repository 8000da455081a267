//! Ids of a request as text.

use dynamo_tito::write_ids;

/// Bytes of the input that make one id.
const BYTES: usize = 5;

/// Ids of every width: a random one, shifted.
fn ids(input: &[u8]) -> Vec<i32> {
    let id = |&[shift, a, b, c, d]: &[u8; BYTES]| {
        let bits = u32::from_le_bytes([a, b, c, d]) >> 1;
        (bits >> (shift % 31)).cast_signed()
    };
    let (times, input) = input.split_first().unwrap_or((&0, input));
    let once: Vec<i32> = input.as_chunks().0.iter().map(id).collect();
    // Often more than the writer keeps on the stack at one time.
    once.repeat(usize::from(times % 8))
}

/// What is written is what serde_json writes and reads back as the same ids; what stood there before stays.
pub fn judge(input: &[u8]) {
    let ids = ids(input);
    let mut text = b"[".to_vec();
    write_ids(&ids, &mut text);
    text.push(b']');
    let read: Vec<i32> = serde_json::from_slice(&text).expect("a list of ids");
    assert_eq!(read, ids);
    assert_eq!(text, serde_json::to_vec(&ids).expect("ids"));
}
