//! (g), step 6: which rows are wanted, and whether they are all there.

use super::experts::{AT, bare, generate, no, npy, object, read, told, wanted, with_prompt};
use super::*;
use dynamo_tito::FinalRow;

#[test]
fn an_object_that_was_not_trimmed_is() {
    let experts = read(&with_prompt(3, 2), &object(5, 0));
    assert_eq!(experts.values, (12..30).collect::<Vec<_>>());
    assert_eq!((experts.shape, experts.start), ([3, 2, 3], 2));
    // All of them.
    let experts = read(&with_prompt(3, 5), &object(5, 0));
    assert_eq!(
        (experts.values.len(), experts.shape, experts.start),
        (0, [0, 2, 3], 5)
    );
    let marked = format!("§{}", object(5, 0));
    no(&with_prompt(3, 6), &marked, "trim", "");
}

#[test]
fn an_object_that_was_trimmed_is_left_alone() {
    let experts = read(&with_prompt(3, 2), &object(3, 2));
    assert_eq!((experts.values.len(), experts.start), (18, 2));
    for start in [1, 3, 4] {
        let marked = format!("§{}", object(3, start));
        no(&with_prompt(3, 2), &marked, "trim", "");
    }
    // Where nothing was asked for, start stays.
    let experts = read(&with_prompt(3, 0), &object(3, 2));
    assert_eq!((experts.values.len(), experts.start), (18, 2));
}

#[test]
fn trimming_an_object_does_not_need_the_prompt() {
    let options = Options {
        routed_experts_prompt_start: Some(2),
        ..wanted()
    };
    let experts = read(&options, &object(9, 0));
    assert_eq!(
        (experts.shape[0], experts.start, experts.complete),
        (7, 2, true)
    );
}

#[test]
fn strings_are_counted_against_the_prompt() {
    for string in [npy as fn(u8) -> String, bare] {
        let options = |start| told(2, 3, with_prompt(3, start));
        // T = 3 + 3 - 1.
        let whole = read(&options(0), &string(5));
        assert_eq!((whole.values.len(), whole.start), (30, 0));
        let untrimmed = read(&options(2), &string(5));
        assert_eq!(
            (untrimmed.values[0], untrimmed.shape[0], untrimmed.start),
            (12, 3, 2)
        );
        let trimmed = read(&options(2), &string(3));
        assert_eq!(
            (trimmed.values[0], trimmed.shape[0], trimmed.start),
            (0, 3, 2)
        );
        for rows in [0, 1, 2, 4, 6] {
            no(&options(2), &format!("§{}", string(rows)), "trim", "");
        }
        no(&options(6), &format!("§{}", string(5)), "trim", "");
        let all = read(&options(5), &string(5));
        assert_eq!((all.shape[0], all.start), (0, 5));
        // The final row, where the engine sends one.
        let present = |start| Options {
            final_row: FinalRow::Present,
            ..options(start)
        };
        assert_eq!(read(&present(2), &string(6)).shape[0], 4);
        assert_eq!(read(&present(2), &string(4)).shape[0], 4);
        no(&present(2), &format!("§{}", string(5)), "trim", "");
    }
}

#[test]
fn trimming_a_string_needs_the_prompt() {
    let options = told(
        2,
        3,
        Options {
            routed_experts_prompt_start: Some(2),
            ..wanted()
        },
    );
    for string in [npy(5), bare(5)] {
        let body = generate(&format!("§{string}"));
        refused(&options, &body, Class::Argument, "needs_prompt_len", AT);
        let ids = [1, 2, 3];
        let options = Options {
            prompt_token_ids: Some(&ids),
            ..options
        };
        assert_eq!(read(&options, &string).start, 2);
    }
    // The echo tells, too.
    let body = generate(&npy(5)).replacen('{', r#"{"prompt_token_ids":[1,2,3],"#, 1);
    let experts = decoded(&options, &body).routed_experts;
    assert_eq!(experts.map(|experts| experts.start), Some(2));
}

#[test]
fn a_string_is_placed_by_the_prompt_or_the_callers_word() {
    for string in [npy as fn(u8) -> String, bare] {
        let asked = |start, prompt_len| {
            let options = Options {
                prompt_len,
                routed_experts_prompt_start: start,
                ..wanted()
            };
            told(2, 3, options)
        };
        let body = generate(&format!("§{}", string(5)));
        let unknown = asked(None, None);
        refused(&unknown, &body, Class::Argument, "needs_prompt_len", AT);
        assert_eq!(read(&asked(Some(0), None), &string(5)).start, 0);
        assert_eq!(read(&asked(None, Some(3)), &string(5)).start, 0);
        for rows in [0, 3, 4, 6] {
            let marked = format!("§{}", string(rows));
            no(&asked(None, Some(3)), &marked, "rows", "");
            no(&asked(Some(0), Some(3)), &marked, "rows", "");
        }
        // An abort lacks rows at its end, unless nobody knows what was asked for.
        let aborted =
            |experts: &str| generate(experts).replacen("[{", r#"[{"finish_reason":"abort","#, 1);
        let echoed = aborted(&format!("§{}", string(4)));
        let echoed = echoed.replacen('{', r#"{"prompt_token_ids":[1,2,3],"#, 1);
        let unasked = asked(None, None);
        refused(&unasked, &echoed, Class::RoutedExperts, "rows", AT);
        for start in [None, Some(0)] {
            let experts = decoded(&asked(start, Some(3)), &aborted(&string(4))).routed_experts;
            assert_eq!(experts.map(|it| (it.start, it.complete)), Some((0, false)));
        }
        // Without rows there is nothing to misplace.
        for (start, place) in [(None, 0), (Some(0), 0), (Some(2), 2)] {
            let experts = decoded(&asked(start, None), &aborted(&string(0))).routed_experts;
            let experts = experts.map(|it| (it.shape[0], it.start, it.complete));
            assert_eq!(experts, Some((0, place, false)));
        }
    }
}

#[test]
fn rows_that_begin_behind_what_was_asked_for_are_not_all() {
    for start in [None, Some(0)] {
        let options = Options {
            routed_experts_prompt_start: start,
            ..with_prompt(3, 0)
        };
        let experts = read(&options, &object(3, 2));
        assert_eq!((experts.start, experts.complete), (2, false));
    }
}

#[test]
fn the_servers_count_of_the_prompt_is_held_against_rows() {
    let counted = |count: &str, experts: &str| {
        let usage = format!(r#"{{"usage":{{"prompt_tokens":{count}}},"#);
        generate(experts).replacen('{', &usage, 1)
    };
    let body = counted("3", &object(5, 0));
    assert!(decoded(&wanted(), &body).routed_experts.is_some());
    for count in ["2", "4", "-1", "18446744073709551615"] {
        let body = counted(count, &format!("§{}", object(5, 0)));
        refused(&wanted(), &body, Class::RoutedExperts, "rows", AT);
    }
    // It places none.
    let unasked = Options {
        routed_experts_prompt_start: None,
        ..wanted()
    };
    let body = counted("3", &format!("§{}", npy(5)));
    refused(&unasked, &body, Class::Argument, "needs_prompt_len", AT);
    let body = counted("4", &format!("§{}", npy(5)));
    refused(&wanted(), &body, Class::RoutedExperts, "rows", AT);
}

#[test]
fn an_abort_before_the_first_token_brings_no_rows() {
    let body = |ids: &str| one_choice(&format!(r#""token_ids":{ids},"finish_reason":"abort""#));
    assert_eq!(decoded(&wanted(), &body("[]")).aborted, Some(true));
    let late = body("[7]");
    let error = decode(late.as_bytes(), &wanted()).expect_err("no rows");
    assert_eq!((error.class, error.kind), (Class::Missing, "missing"));
    let stopped = body("[]").replace("abort", "stop");
    let error = decode(stopped.as_bytes(), &wanted()).expect_err("no rows");
    assert_eq!((error.class, error.kind), (Class::Missing, "missing"));
}

#[test]
fn the_last_token_has_no_row() {
    for rows in [0, 1, 4, 6, 7] {
        no(
            &with_prompt(3, 0),
            &format!("§{}", object(rows, 0)),
            "rows",
            "",
        );
    }
    assert!(read(&with_prompt(3, 0), &object(5, 0)).complete);
    let present = Options {
        final_row: FinalRow::Present,
        ..with_prompt(3, 0)
    };
    assert!(read(&present, &object(6, 0)).complete);
    for rows in [5, 7] {
        no(&present, &format!("§{}", object(rows, 0)), "rows", "");
    }
    // start counts.
    assert!(read(&with_prompt(3, 2), &object(3, 2)).complete);
    no(
        &with_prompt(3, 0),
        &format!("§{}", object(3, 1)),
        "rows",
        "",
    );
    no(
        &with_prompt(3, 2),
        &format!("§{}", object(4, 2)),
        "rows",
        "",
    );
    let late = object(0, i64::MAX as u64);
    no(&with_prompt(3, 0), &format!("§{late}"), "rows", "");
    no(&with_prompt(u64::MAX, 0), &format!("§{late}"), "rows", "");
    // prompt_len wins over the ids, the ids count where there is none.
    let ids = [1, 2, 3];
    let longer = Options {
        prompt_token_ids: Some(&ids),
        ..with_prompt(4, 0)
    };
    assert_eq!(read(&longer, &object(6, 0)).shape[0], 6);
    let counted = Options {
        prompt_token_ids: Some(&ids),
        ..wanted()
    };
    no(&counted, &format!("§{}", object(6, 0)), "rows", "");
}

#[test]
fn without_a_prompt_nothing_is_counted() {
    for rows in [0, 1, 9] {
        let experts = read(&wanted(), &object(rows, 3));
        assert_eq!((experts.start, experts.complete), (3, false));
    }
}

#[test]
fn an_aborted_completion_may_have_fewer_rows_but_never_more() {
    let aborted = |reason: &str, experts: &str| {
        generate(experts).replacen("[{", &format!(r#"[{{"finish_reason":"{reason}","#), 1)
    };
    for reason in ["abort", "cancelled"] {
        for (rows, complete) in [(0, false), (4, false), (5, true)] {
            let body = aborted(reason, &object(rows, 0));
            let experts = decoded(&with_prompt(3, 0), &body).routed_experts;
            assert_eq!(
                experts.map(|e| (e.shape[0], e.complete)),
                Some((u64::from(rows), complete))
            );
        }
        let body = aborted(reason, &format!("§{}", object(6, 0)));
        refused(&with_prompt(3, 0), &body, Class::RoutedExperts, "rows", AT);
        // Rows to drop have to be there, and a string has to say which it is.
        let body = aborted(reason, &format!("§{}", object(1, 0)));
        refused(&with_prompt(3, 2), &body, Class::RoutedExperts, "trim", AT);
        let body = aborted(reason, &format!("§{}", npy(4)));
        refused(&with_prompt(3, 2), &body, Class::RoutedExperts, "trim", AT);
    }
    let body = aborted("stop", &format!("§{}", object(4, 0)));
    refused(&with_prompt(3, 0), &body, Class::RoutedExperts, "rows", AT);
}

#[test]
fn dynamo_has_to_say_that_it_was_an_abort() {
    let body = |detailed: &str| {
        format!(
            r#"{{"choices":[{{"finish_reason":"stop"}}],"nvext":{{"detailed_finish_reason":{detailed},"routed_experts":§{},"engine_data":{{"completion_token_ids":[7,8,9]}}}}}}"#,
            object(4, 0)
        )
    };
    let options = Options {
        wire: CHAT,
        ..with_prompt(3, 0)
    };
    for detailed in ["null", "\"stop\""] {
        let path = "nvext.routed_experts";
        refused(
            &options,
            &body(detailed),
            Class::RoutedExperts,
            "rows",
            path,
        );
    }
    let experts = decoded(&options, &unmarked(&body("\"cancelled\"")).0).routed_experts;
    assert_eq!(experts.map(|e| e.complete), Some(false));
}

#[test]
fn no_tokens_leave_the_prompt_but_for_its_last_token() {
    let body = one_choice(&format!(
        r#""token_ids":[],"routed_experts":{}"#,
        object(2, 0)
    ));
    assert!(decoded(&with_prompt(3, 0), &body).routed_experts.is_some());
    let body = one_choice(&format!(
        r#""token_ids":[],"routed_experts":§{}"#,
        object(0, 0)
    ));
    refused(&with_prompt(0, 0), &body, Class::RoutedExperts, "rows", AT);
}
