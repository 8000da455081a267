//! (g): routed experts, step by step.

use ::base64::Engine;
use ::base64::engine::general_purpose::STANDARD;

use super::super::RoutedExperts;
use super::*;
use dynamo_tito::ExpertsMode;

pub(super) const AT: &str = "choices[0].routed_experts";

/// vllm_generate: three tokens, and routed experts.
pub(super) fn generate(experts: &str) -> String {
    one_choice(&format!(
        r#""token_ids":[7,8,9],"routed_experts":{experts}"#
    ))
}

/// All of them, from the first token on.
pub(super) fn wanted() -> Options<'static> {
    Options {
        require_routed_experts: true,
        routed_experts_prompt_start: Some(0),
        ..lenient(GENERATE)
    }
}

/// With P = `prompt_len`, from position `start` on.
pub(super) fn with_prompt(prompt_len: u64, start: u64) -> Options<'static> {
    Options {
        prompt_len: Some(prompt_len),
        routed_experts_prompt_start: Some(start),
        ..wanted()
    }
}

/// Of a bare string.
pub(super) fn told(layers: u64, top_k: u64, options: Options<'static>) -> Options<'static> {
    Options {
        num_layers: Some(layers),
        top_k: Some(top_k),
        ..options
    }
}

fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// `rows` of 2 layers and top_k 3, uint8, counted up.
pub(super) fn object(rows: u8, start: u64) -> String {
    let data = base64(&counted(rows));
    format!(r#"{{"data":"{data}","shape":[{rows},2,3],"start":{start},"dtype":"uint8"}}"#)
}

fn counted(rows: u8) -> Vec<u8> {
    (0..rows * 6).collect()
}

/// An npy file of the same.
pub(super) fn npy(rows: u8) -> String {
    format!(
        "\"{}\"",
        base64(&npy_file(&described("|u1", rows), &counted(rows)))
    )
}

fn described(descr: &str, rows: u8) -> String {
    format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({rows}, 2, 3), }}")
}

fn npy_file(header: &str, data: &[u8]) -> Vec<u8> {
    let padded = format!("{header:<117}\n");
    let length = (padded.len() as u16).to_le_bytes();
    [b"\x93NUMPY\x01\0", &length[..], padded.as_bytes(), data].concat()
}

/// A bare string of the same.
pub(super) fn bare(rows: u8) -> String {
    let values = counted(rows).into_iter();
    let bytes: Vec<u8> = values
        .flat_map(|value| i32::from(value).to_le_bytes())
        .collect();
    format!("\"{}\"", base64(&bytes))
}

#[track_caller]
pub(super) fn read(options: &Options<'_>, experts: &str) -> RoutedExperts {
    let completion = decoded(options, &generate(experts));
    assert_eq!(source(&completion, "routed_experts").as_deref(), Some(AT));
    completion.routed_experts.expect("routed experts")
}

/// Refused with `place` after the path of the routed experts.
#[track_caller]
pub(super) fn no(options: &Options<'_>, experts: &str, kind: &str, place: &str) {
    let path = format!("{AT}{place}");
    refused(
        options,
        &generate(experts),
        Class::RoutedExperts,
        kind,
        &path,
    );
}

#[test]
fn an_object_is_rows_with_a_shape() {
    let experts = read(&wanted(), &object(2, 5));
    let expected = RoutedExperts {
        values: (0..12).collect(),
        shape: [2, 2, 3],
        start: 5,
        dtype: "uint8",
        complete: false,
    };
    assert_eq!(experts, expected);
}

#[test]
fn each_dtype_is_widened() {
    let cases: [(&str, &[u8], [i32; 2]); 6] = [
        ("\"uint8\"", &[0, 255], [0, 255]),
        ("null", &[1, 128], [1, 128]),
        ("\"uint16\"", &[1, 2, 255, 255], [513, 65535]),
        ("\"int16\"", &[1, 2, 255, 127], [513, 32767]),
        (
            "\"int32\"",
            &[1, 2, 3, 4, 255, 255, 255, 127],
            [67_305_985, i32::MAX],
        ),
        (r#""\u0075int8""#, &[7, 8], [7, 8]),
    ];
    for (dtype, bytes, values) in cases {
        let data = base64(bytes);
        let experts = format!(r#"{{"dtype":{dtype},"shape":[1,1,2],"data":"{data}"}}"#);
        let read = read(&wanted(), &experts);
        assert_eq!(read.values, values);
        let name = dtype.trim_matches('"').replace("\\u0075", "u");
        assert_eq!(read.dtype, if name == "null" { "uint8" } else { &name });
        assert_eq!(read.start, 0);
    }
}

#[test]
fn no_rows_are_fine() {
    for experts in [
        r#"{"data":"","shape":[0,4,2]}"#,
        r#"{"shape":[0,4,2],"start":null,"dtype":null,"data":""}"#,
    ] {
        let experts = read(&wanted(), experts);
        assert_eq!((experts.values.len(), experts.shape), (0, [0, 4, 2]));
    }
    assert_eq!(read(&told(4, 2, wanted()), "\"\"").shape, [0, 4, 2]);
    assert_eq!(read(&wanted(), &npy(0)).shape, [0, 2, 3]);
}

#[test]
fn dynamo_prefers_objects_then_strings() {
    let body = |nvext: &str, engine: &str| {
        format!(
            r#"{{"choices":[{{}}],"nvext":{{"routed_experts":{nvext},"engine_data":{{"completion_token_ids":[7,8,9],"routed_experts":{engine}}}}}}}"#
        )
    };
    let (one, two) = (object(1, 0), object(2, 0));
    let (bare_one, bare_two) = (bare(1), bare(2));
    let (outer, inner) = ("nvext.routed_experts", "nvext.engine_data.routed_experts");
    let cases = [
        (&*one, &*two, 1, outer),
        ("null", &*two, 2, inner),
        (&*bare_one, &*two, 2, inner),
        ("7", &*two, 2, inner),
        (&*one, "7", 1, outer),
        (&*bare_one, &*bare_two, 1, outer),
        ("7", &*bare_two, 2, inner),
        (&*bare_one, "[]", 1, outer),
    ];
    for wire in [CHAT, Wire::DynamoCompletions] {
        let options = Options {
            wire,
            require_routed_experts: false,
            ..told(2, 3, wanted())
        };
        for (nvext, engine, rows, path) in cases {
            let completion = decoded(&options, &body(nvext, engine));
            assert_eq!(source(&completion, "routed_experts").as_deref(), Some(path));
            assert_eq!(completion.routed_experts.map(|e| e.shape[0]), Some(rows));
        }
        let check = |body: &str, kind: &str, path: &str| {
            refused(&options, body, Class::RoutedExperts, kind, path);
        };
        check(&body("§7", "true"), "type", outer);
        check(&body("null", "§[]"), "type", inner);
        check(
            &body(r#"{"data":§7}"#, &two),
            "type",
            "nvext.routed_experts.data",
        );
        // An empty object is an object.
        check(&body("§{}", &two), "missing", "nvext.routed_experts.data");
    }
}

#[test]
fn the_other_wires_have_one_place() {
    let experts = object(2, 0);
    for wire in [GENERATE, Wire::VllmChat] {
        let completion = decoded(&lenient(wire), &generate(&experts));
        assert_eq!(source(&completion, "routed_experts").as_deref(), Some(AT));
    }
    let body = sglang(&format!(r#""routed_experts":{}"#, bare(1)));
    let options = Options {
        wire: SGLANG,
        ..told(2, 3, wanted())
    };
    let completion = decoded(&options, &body);
    let path = "meta_info.routed_experts";
    assert_eq!(source(&completion, "routed_experts").as_deref(), Some(path));
    let body = format!("[{body}]");
    let completion = decoded(&options, &body);
    let path = "[0].meta_info.routed_experts";
    assert_eq!(source(&completion, "routed_experts").as_deref(), Some(path));
}

#[test]
fn they_may_be_absent_unless_they_are_required() {
    let none = [
        (
            CHAT,
            dynamo("", r#""completion_token_ids":[]"#),
            "nvext.routed_experts",
        ),
        (GENERATE, generate("null"), AT),
        (SGLANG, sglang(""), "meta_info.routed_experts"),
    ];
    for (wire, body, path) in none {
        let completion = decoded(&lenient(wire), &body);
        assert_eq!(completion.routed_experts, None);
        assert_eq!(source(&completion, "routed_experts"), None);
        for experts in [ExpertsMode::Int32, ExpertsMode::Native, ExpertsMode::Skip] {
            let options = Options {
                require_routed_experts: true,
                experts,
                ..lenient(wire)
            };
            refused(&options, &body, Class::Missing, "missing", path);
        }
    }
}

#[test]
fn what_is_skipped_is_not_read() {
    let options = Options {
        experts: ExpertsMode::Skip,
        ..wanted()
    };
    for experts in [
        &*object(2, 0),
        "7",
        "[]",
        r#"{"data":1,"data":2}"#,
        "\"!\"",
        "\"k05VTVBZ\"",
    ] {
        let completion = decoded(&options, &generate(experts));
        assert_eq!(completion.routed_experts, None);
        let why = source(&completion, "routed_experts");
        assert_eq!(why.as_deref(), Some("left out: experts=\"skip\""));
    }
}

#[test]
fn an_object_is_read_in_document_order() {
    let cases = [
        ("§7", "type", ""),
        ("§[]", "type", ""),
        ("§true", "type", ""),
        (r#"{"data":§7}"#, "type", ".data"),
        (r#"{"data":§[],"shape":1}"#, "type", ".data"),
        (r#"{"shape":§1,"data":7}"#, "shape", ".shape"),
        (r#"{"shape":§"2,2,3"}"#, "shape", ".shape"),
        (r#"{"shape":§[]}"#, "shape", ".shape"),
        (r#"{"shape":§[2,2]}"#, "shape", ".shape"),
        (r#"{"shape":§[2,2,3,1]}"#, "shape", ".shape"),
        (r#"{"shape":§[2,2,null]}"#, "shape", ".shape"),
        (r#"{"shape":§[2,2,"3"]}"#, "shape", ".shape"),
        (r#"{"shape":§[2.0,2,3]}"#, "shape", ".shape"),
        (r#"{"shape":§[2e0,2,3]}"#, "shape", ".shape"),
        (r#"{"shape":§[-2,2,3]}"#, "shape", ".shape"),
        (r#"{"shape":§[-0,2,3]}"#, "shape", ".shape"),
        (r#"{"shape":§[2,0,3]}"#, "shape", ".shape"),
        (r#"{"shape":§[2,2,0]}"#, "shape", ".shape"),
        (r#"{"shape":§[9223372036854775808,2,3]}"#, "shape", ".shape"),
        (
            r#"{"shape":§[0,18446744073709551617,3]}"#,
            "shape",
            ".shape",
        ),
        (r#"{"start":§-1}"#, "start", ".start"),
        (r#"{"start":§-0}"#, "start", ".start"),
        (r#"{"start":§1.0}"#, "start", ".start"),
        (r#"{"start":§"0"}"#, "start", ".start"),
        (r#"{"start":§false}"#, "start", ".start"),
        (r#"{"start":§9223372036854775808}"#, "start", ".start"),
        (r#"{"dtype":§"int64"}"#, "dtype", ".dtype"),
        (r#"{"dtype":§"|u1"}"#, "dtype", ".dtype"),
        (r#"{"dtype":§"UINT8"}"#, "dtype", ".dtype"),
        (r#"{"dtype":§""}"#, "dtype", ".dtype"),
        (r#"{"dtype":§8}"#, "dtype", ".dtype"),
        (r#"{"data":"",§"data":""}"#, "duplicate_key", ".data"),
        (
            r#"{"start":null,§"st\u0061rt":null}"#,
            "duplicate_key",
            ".start",
        ),
        (
            r#"{"dtype":null,"x":1,"x":2,§"dtype":7}"#,
            "duplicate_key",
            ".dtype",
        ),
        (r#"{"shape":null,§"shape":7}"#, "duplicate_key", ".shape"),
        ("§{}", "missing", ".data"),
        (r#"§{"shape":[1,1,1]}"#, "missing", ".data"),
        (r#"§{"data":null,"shape":[1,1,1]}"#, "missing", ".data"),
        (r#"§{"data":""}"#, "missing", ".shape"),
        (r#"§{"data":"","shape":null}"#, "missing", ".shape"),
        // Before anything is said of the text.
        (
            r#"{"data":"A","shape":[0,1,1],"start":§-1}"#,
            "start",
            ".start",
        ),
        (r#"§{"data":"A"}"#, "missing", ".shape"),
    ];
    for (experts, kind, place) in cases {
        no(&wanted(), experts, kind, place);
    }
}

#[test]
fn a_bare_string_needs_the_callers_layers_and_top_k() {
    let needs = |options: Options<'static>, experts: &str| {
        refused(
            &options,
            &generate(experts),
            Class::Argument,
            "needs_num_layers",
            AT,
        );
    };
    needs(wanted(), "§\"\"");
    // Before the text's length.
    needs(wanted(), "§\"A\"");
    needs(
        Options {
            num_layers: Some(2),
            ..wanted()
        },
        "§\"AAAA\"",
    );
    needs(
        Options {
            top_k: Some(3),
            ..wanted()
        },
        "§\"AAAA\"",
    );
    let experts = read(&told(2, 3, wanted()), &bare(2));
    assert_eq!(experts.values, (0..12).collect::<Vec<_>>());
    assert_eq!(
        (experts.shape, experts.start, experts.dtype),
        ([2, 2, 3], 0, "int32")
    );
}

#[test]
fn the_text_is_whole_groups_of_four() {
    for data in ["A", "AA", "AAA", "AAAAA", "AAA==", "=", "!!!"] {
        let experts = format!(r#"{{"shape":[7,1,1],"data":"{data}§"}}"#);
        no(&wanted(), &experts, "base64", ".data");
        let experts = format!(r#""{data}§""#);
        no(&told(1, 1, wanted()), &experts, "base64", "");
        let experts = format!(r#""k05VTVBZ{data}§""#);
        no(&wanted(), &experts, "base64", "");
    }
    // Of what the escapes stand for; the quote is where it is.
    no(&told(1, 1, wanted()), r#""\u0041AA§""#, "base64", "");
    let experts = r#"{"shape":[1,1,3],"data":"\u0041A\/A"}"#;
    assert_eq!(read(&wanted(), experts).values, [0, 15, 192]);
}

#[test]
fn a_lone_surrogate_counts_three_bytes() {
    // 5 + 3 characters are whole groups, so the size is next: 24 / 4 * 3 is no row of 4.
    no(&told(1, 1, wanted()), r#"§"AAAAA\ud800""#, "size", "");
    no(
        &told(1, 3, wanted()),
        r#"§"AAAAAAAAAAAAA\ud800""#,
        "base64",
        "",
    );
}

#[test]
fn the_shape_is_what_the_caller_says() {
    let check = |layers, top_k, experts: &str, place: &str| {
        let options = Options {
            num_layers: layers,
            top_k,
            ..wanted()
        };
        no(&options, experts, "shape", place);
    };
    let marked = object(2, 0).replace("[2", "§[2");
    let string = npy(2).replacen('"', "§\"", 1);
    for (layers, top_k) in [
        (Some(3), None),
        (None, Some(2)),
        (Some(3), Some(2)),
        (Some(0), Some(3)),
    ] {
        check(layers, top_k, &marked, ".shape");
        check(layers, top_k, &string, "");
    }
    for experts in [object(2, 0), npy(2)] {
        assert_eq!(read(&told(2, 3, wanted()), &experts).shape, [2, 2, 3]);
    }
    // After the text's length, before its size.
    let marked = r#"{"shape":§[2,2,3],"data":"AAAA"}"#;
    check(Some(3), None, marked, ".shape");
    no(
        &told(3, 3, wanted()),
        r#"{"shape":[2,2,3],"data":"A§"}"#,
        "base64",
        ".data",
    );
}

#[test]
fn the_shape_accounts_for_every_byte() {
    let sized = |shape: &str, dtype: &str, bytes: usize| {
        let data = base64(&vec![0; bytes]);
        format!(r#"{{"shape":{shape},"dtype":"{dtype}","data":§"{data}"}}"#)
    };
    for (shape, dtype, bytes) in [
        ("[2,2,3]", "uint8", 11),
        ("[2,2,3]", "uint8", 13),
        ("[2,2,3]", "uint16", 12),
        ("[2,2,3]", "int32", 24),
        ("[0,2,3]", "uint8", 1),
        ("[1,2,3]", "uint8", 0),
        // Nothing wraps around.
        (
            "[9223372036854775807,9223372036854775807,9223372036854775807]",
            "int32",
            12,
        ),
        ("[4294967296,4294967296,1]", "uint8", 0),
        ("[4611686018427387904,1,4]", "uint8", 0),
        ("[6148914691236517206,1,3]", "uint8", 2),
        // numpy could not hold such a row.
        ("[0,2305843009213693952,1]", "uint8", 0),
        ("[0,9223372036854775807,9223372036854775807]", "uint8", 0),
    ] {
        no(&wanted(), &sized(shape, dtype, bytes), "size", ".data");
    }
    let (fits, _) = unmarked(&sized("[0,2305843009213693951,1]", "uint8", 0));
    assert_eq!(read(&wanted(), &fits).shape[0], 0);
    for (layers, top_k, bytes) in [
        (2, 3, 23),
        (2, 3, 25),
        (2, 3, 12),
        (0, 3, 0),
        (2, 0, 24),
        (u64::MAX, u64::MAX, 24),
        (1 << 61, 1, 0),
        (u64::MAX, u64::MAX, 0),
    ] {
        let experts = format!("§\"{}\"", base64(&vec![0; bytes]));
        no(&told(layers, top_k, wanted()), &experts, "size", "");
    }
    let wrong = npy_file(&described("|u1", 2), &counted(3));
    no(&wanted(), &format!("§\"{}\"", base64(&wrong)), "size", "");
    let wrong = npy_file(&described("<u2", 2), &counted(2));
    no(&wanted(), &format!("§\"{}\"", base64(&wrong)), "size", "");
}

#[test]
fn an_npy_file_says_what_it_holds() {
    let experts = read(&wanted(), &npy(2));
    assert_eq!(experts.values, (0..12).collect::<Vec<_>>());
    assert_eq!(
        (experts.shape, experts.start, experts.dtype),
        ([2, 2, 3], 0, "uint8")
    );
    for (descr, dtype, size) in [
        ("|u1", "uint8", 1),
        ("<u2", "uint16", 2),
        ("<i2", "int16", 2),
        ("<i4", "int32", 4),
    ] {
        let file = npy_file(&described(descr, 2), &vec![127; 12 * size]);
        let experts = read(&wanted(), &format!("\"{}\"", base64(&file)));
        assert_eq!(experts.dtype, dtype);
        let value = match dtype {
            "uint8" => 0x7f,
            "uint16" | "int16" => 0x7f7f,
            _ => 0x7f7f_7f7f,
        };
        assert_eq!(experts.values, [value; 12]);
    }
    // The second version of the format has a longer length.
    let header = described("|u1", 2);
    let length = (header.len() as u32).to_le_bytes();
    let file = [
        b"\x93NUMPY\x02\0",
        &length[..],
        header.as_bytes(),
        &counted(2),
    ]
    .concat();
    assert_eq!(
        read(&wanted(), &format!("\"{}\"", base64(&file))).shape,
        [2, 2, 3]
    );
}

#[test]
fn a_wrong_npy_header_is_refused() {
    let good = npy_file(&described("|u1", 2), &counted(2));
    let with = |at: usize, byte: u8| {
        let mut file = good.clone();
        file[at] = byte;
        file
    };
    let version_2 =
        |length: u32, rest: &[u8]| [b"\x93NUMPY\x02\0", &length.to_le_bytes()[..], rest].concat();
    let files = [
        b"\x93NUMPY".to_vec(),
        good[..11].to_vec(),
        good[..12].to_vec(),
        good[..100].to_vec(),
        with(6, 0),
        with(6, 3),
        with(7, 1),
        with(8, 255),
        with(9, 1),
        version_2(65_537, &[b' '; 65_537]),
        version_2(u32::MAX, b"{}"),
        version_2(3, b"{}"),
        npy_file(&described(">u2", 2), &counted(4)),
        npy_file(&described("<u1", 2), &counted(2)),
        npy_file(&described("|i1", 2), &counted(2)),
        npy_file(&described("<i8", 2), &counted(2)),
        npy_file(&described("<f4", 2), &counted(8)),
        npy_file(&described("|O", 2), &counted(2)),
        npy_file(&described("|u1", 2).replace("False", "True"), &counted(2)),
        npy_file(&described("|u1", 2).replace("2, 3", "0, 3"), &[]),
        npy_file(&described("|u1", 2).replace("2, 3", "2, 0"), &[]),
        npy_file(&described("|u1", 2).replace("2, 3", "6"), &counted(2)),
        npy_file("", &counted(2)),
    ];
    for file in files {
        no(&wanted(), &format!("§\"{}\"", base64(&file)), "npy", "");
    }
    // The length of a header has a ceiling of its own, and it is inclusive.
    let header = described("|u1", 2);
    let padded = header.clone() + &" ".repeat(65_536 - header.len());
    let file = version_2(65_536, &[padded.as_bytes(), &counted(2)].concat());
    assert_eq!(
        read(&wanted(), &format!("\"{}\"", base64(&file))).shape,
        [2, 2, 3]
    );
}

#[test]
fn a_bad_character_in_an_npy_header_comes_before_what_the_header_says() {
    let file = npy_file("", &counted(2));
    let spoilt = |at: usize| {
        let mut text = base64(&file);
        text.replace_range(at..=at, "§!");
        format!("\"{text}\"")
    };
    no(&wanted(), &spoilt(15), "base64", "");
    no(&wanted(), &spoilt(16), "base64", "");
    // The header is 128 bytes, 43 groups of four characters.
    no(&wanted(), &spoilt(171), "base64", "");
    let mut late = spoilt(172).replace('§', "");
    late.insert(0, '§');
    no(&wanted(), &late, "npy", "");
    // The version and the length are judged before the rest is looked at.
    let mut file = file.clone();
    file[6] = 9;
    let text = base64(&file);
    no(
        &wanted(),
        &format!("§\"{}!{}\"", &text[..16], &text[17..]),
        "npy",
        "",
    );
    no(
        &wanted(),
        &format!("\"{}§!{}\"", &text[..15], &text[16..]),
        "base64",
        "",
    );
    // Twelve bytes are enough to look at.
    no(&wanted(), "§\"k05VTVBZ!!!!\"", "npy", "");
    no(&wanted(), "\"k05VTVBZ§!!!!!!!!\"", "base64", "");
}

#[test]
fn every_character_is_judged_dropped_rows_too() {
    let data = base64(&counted(5));
    let spoilt = |at: usize, with: &str| {
        let mut text = data.clone();
        text.replace_range(at..=at, with);
        format!(r#"{{"shape":[5,2,3],"data":"{text}"}}"#)
    };
    for at in [0, 1, 20, data.len() - 1] {
        for with in ["§!", "§-", "§_", "§ ", "§=", "§.", "§\u{7f}"] {
            if at == data.len() - 1 && with == "§=" {
                continue;
            }
            no(&with_prompt(3, 2), &spoilt(at, with), "base64", ".data");
        }
    }
    // The earlier of two.
    let two = spoilt(3, "§!").replacen("Cg", "!!", 1);
    no(&with_prompt(3, 0), &two, "base64", ".data");
}

#[test]
fn a_character_is_judged_last() {
    // Trimming and counting come first.
    let experts = r#"§{"shape":[1,1,3],"data":"!!!!"}"#;
    no(&with_prompt(3, 0), experts, "rows", "");
    no(&with_prompt(3, 2), experts, "trim", "");
    let experts = r#"{"shape":[2,1,3],"data":§"!!!!"}"#;
    no(&wanted(), experts, "size", ".data");
    let experts = r#"{"shape":[1,1,3],"data":"§!!!!"}"#;
    no(&wanted(), experts, "base64", ".data");
}

#[test]
fn base64_is_canonical() {
    let bad = |shape: &str, data: &str| {
        let experts = format!(r#"{{"shape":{shape},"data":"{data}"}}"#);
        no(&wanted(), &experts, "base64", ".data");
    };
    bad("[1,1,1]", "A§B==");
    bad("[1,1,1]", "A§/==");
    bad("[1,1,2]", "AA§B=");
    bad("[1,1,2]", "AA§D=");
    bad("[1,1,1]", "A§===");
    bad("[1,1,1]", "§====");
    bad("[1,1,4]", "AA§==AA==");
    bad("[1,1,5]", "AAA§=AAA=");
    bad("[1,1,3]", "AA§=A");
    bad("[1,1,3]", "AA§é");
    // Where the text was escaped, the opening quote.
    let escaped = |data: &str| {
        let experts = format!(r#"{{"shape":[1,1,1],"data":§"{data}"}}"#);
        no(&wanted(), &experts, "base64", ".data");
    };
    escaped(r"\u0041B==");
    escaped(r"!\u0041==");
    escaped(r"A\n==");
    escaped(r"A\u0000==");
    let experts = r#"{"shape":[1,1,1],"data":"\u0041Q=\u003d"}"#;
    assert_eq!(read(&wanted(), experts).values, [1]);
}

#[test]
fn routed_experts_are_judged_last_of_all() {
    let body = one_choice(r#""token_ids":[7],"routed_experts":7,"sampling_mask":§7"#);
    malformed(&wanted(), &body, "type", "choices[0].sampling_mask");
    let body = one_choice(r#""token_ids":[7],"routed_experts":7,"finish_reason":§7"#);
    malformed(&wanted(), &body, "type", "choices[0].finish_reason");
}
