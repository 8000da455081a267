//! A chunk, read with the readers of its wire.

use crate::error::{Class, Error, Result};
use crate::experts::Target;
use crate::json::Cursor;
use crate::limits::MAX_CHOICES;
use crate::wire::answer::{Answer, Paths};
use crate::wire::judge::locate::{Step, locate};
use crate::wire::{self, Decoded};

use super::choice::{Choice, Context, Said};
use super::judge::{add_metadata, add_prompt, judge};
use super::usual::Shape;

/// Reads a chunk and judges its choices.
pub(super) fn read_chunk(
    (choices, last, said, scratch): (&mut Vec<Choice>, &mut usize, &mut Said, &mut Decoded),
    cx: &Context<'_>,
    several: bool,
    mut experts: Option<&mut [i32]>,
) -> Result<()> {
    let read = wire::chunk(cx.body, &cx.options, several)?;
    let shape = Shape::of(&read, cx.body, cx.options.wire);
    let mut prompts = read.prompts.into_iter();
    if read.list.is_empty() {
        let paths = Paths { prefix: "" };
        if let Some(prompt) = prompts.next() {
            add_prompt(prompt, said, cx, &paths)?;
        }
        add_metadata((&read.shared, false), said, scratch, cx, &paths)?;
        said.take_told(read.told);
        return Ok(());
    }
    for answer in read.list {
        let known = choices
            .iter()
            .rposition(|choice| choice.index == answer.index);
        let known = match known {
            Some(known) => known,
            None => {
                check_room(choices.len(), several, &answer, cx)?;
                choices.push(Choice::new(answer.index));
                choices.len() - 1
            }
        };
        let target = experts.as_deref_mut().map_or(Target::Own, Target::Into);
        judge(
            &mut choices[known],
            answer,
            prompts.next(),
            said,
            scratch,
            cx,
            target,
        )?;
        *last = known;
    }
    // The recorded shape is of a chunk before this one, which has changed the state of the choice.
    choices[*last].shape = shape;
    Ok(())
}

/// Fails if the stream may have no further choice.
fn check_room(choices: usize, several: bool, answer: &Answer, cx: &Context<'_>) -> Result<()> {
    let (kind, message) = match choices {
        1.. if !several => (
            "several_choices",
            "several choices; feed_choices and finish_choices return them all".to_owned(),
        ),
        MAX_CHOICES.. => ("too_many", format!("more than {MAX_CHOICES} choices")),
        _ => return Ok(()),
    };
    let (path, at) = index_of(cx.body, answer);
    Err(Error::new(Class::Malformed, kind, path, at, message))
}

/// The offset of the index of a chunk's choice, or of the choice where that is implied; and whether it is implied.
fn index_of(body: &[u8], answer: &Answer) -> (String, usize) {
    let mut top = Cursor::new(body);
    top.space();
    let at = top.pos;
    let position = answer
        .prefix
        .strip_prefix("choices[")
        .and_then(|rest| rest.strip_suffix(']')?.parse().ok());
    let owner = match position {
        Some(i) => locate(body, at, &[Step::Key("choices"), Step::Index(i)]),
        None => Some(at),
    };
    let owner = owner.unwrap_or(at);
    let index = locate(body, owner, &[Step::Key("index")]);
    match index.filter(|&at| !body[at..].starts_with(b"null")) {
        Some(at) if answer.prefix.is_empty() => ("index".into(), at),
        Some(at) => (format!("{}.index", answer.prefix), at),
        None => (answer.prefix.clone(), owner),
    }
}
