//! Errors that the fuzz targets found, one test for each.

use super::agree;
use dynamo_tito::{Options, Wire, decode};

/// White space behind one colon only, in the member that a compact entry ends with: was refused as "null where an array was
/// expected".
#[test]
fn null_alternatives_after_a_space_in_a_compact_entry() {
    for space in ["", " ", "\n", "\t\r"] {
        let body = format!(
            r#"{{"choices":[{{"token_ids":[7,8],"logprobs":{{"content":[{{"token":"token_id:7","logprob":-1,"bytes":null,"top_logprobs":{space}null}},{{"token_id":8,"logprob":-2,"top_logprobs":{space}[]}}]}}}}]}}"#
        );
        for wire in [Wire::VllmGenerate, Wire::VllmChat, Wire::DynamoChat] {
            let options = Options::new(wire);
            assert_eq!(agree(body.as_bytes(), &options), Ok(()));
            let decoded = decode(body.as_bytes(), &options);
            let logprobs = decoded.unwrap().logprobs.expect("logprobs");
            assert!(logprobs.iter().eq([-1.0, -2.0]));
        }
    }
}
