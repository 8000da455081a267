//! What a server tells of how it ran a request: values of documented types, which nothing is compared with.

use crate::error::{Class, Error, Result};
use crate::json::{Cursor, Kind, Value};
use crate::limits::MAX_METADATA_VALUES;

use super::field::{Span, span};
use super::walk::{Path, Walk};

/// The type that a value has.
#[derive(Debug)]
pub(crate) enum Form {
    /// An integer of 64 bits without sign, fraction or exponent.
    Count,
    /// A finite number, which becomes a float.
    Number,
    /// A string.
    Text,
    /// A list of counts, no longer than metadata may be.
    Counts,
    /// An object. Of its members these are read; null is absent, others are skipped.
    Members(&'static [(&'static str, Form)]),
}

/// A value as the walk left it. null counts as absent.
#[derive(Debug, Clone, Default)]
pub(crate) enum Told {
    #[default]
    Absent,
    /// Of another type than its form, so that it is left out.
    Unlike,
    Of(Value),
}

/// A reader of values of a form.
pub(crate) fn told(
    form: &'static Form,
) -> impl for<'a> FnOnce(&mut Walk<'a>, &mut Cursor<'a>, &Path<'_>) -> Result<Told> {
    move |walk, cursor, path| {
        let Some(Span { start, end }) = span(walk, cursor, path)? else {
            return Ok(Told::Absent);
        };
        // The text is valid JSON, so that what fails here is of another type.
        let mut text = Cursor::at(&walk.body[..end], start);
        let value = form.read(&mut text).ok().filter(|_| text.pos == end);
        Ok(value.map_or(Told::Unlike, Told::Of))
    }
}

impl Form {
    fn read(&self, cursor: &mut Cursor<'_>) -> Result<Value> {
        match self {
            Form::Count => count(cursor),
            Form::Number => number(cursor),
            Form::Text => text(cursor),
            Form::Counts => {
                let mut list = Vec::new();
                cursor.array(|cursor, i| {
                    if i == MAX_METADATA_VALUES {
                        return Err(unlike());
                    }
                    list.push(count(cursor)?);
                    Ok(())
                })?;
                Ok(Value::List(list))
            }
            Form::Members(forms) => members(cursor, forms),
        }
    }
}

fn count(cursor: &mut Cursor<'_>) -> Result<Value> {
    let start = cursor.pos;
    cursor.integer(u64::MAX).ok_or_else(unlike)?;
    let written = std::str::from_utf8(&cursor.bytes[start..cursor.pos]).ok();
    let value: Option<u64> = written.and_then(|text| text.parse().ok());
    let value = value.ok_or_else(unlike)?;
    Ok(i64::try_from(value).map_or(Value::Uint(value), Value::Int))
}

fn number(cursor: &mut Cursor<'_>) -> Result<Value> {
    let start = cursor.pos;
    if cursor.kind()? != Kind::Number {
        return Err(unlike());
    }
    cursor.skip_value()?;
    let written = std::str::from_utf8(&cursor.bytes[start..cursor.pos]).ok();
    let value: Option<f64> = written.and_then(|text| text.parse().ok());
    let value = value.filter(|value| value.is_finite());
    value.map(Value::Float).ok_or_else(unlike)
}

fn text(cursor: &mut Cursor<'_>) -> Result<Value> {
    if cursor.kind()? != Kind::String {
        return Err(unlike());
    }
    let text = cursor.string()?;
    let bytes = text.bytes().ok_or_else(unlike)?.into_owned();
    let text = String::from_utf8(bytes).map_err(|_| unlike())?;
    Ok(Value::Text(text))
}

/// The members in the order of the forms.
fn members(cursor: &mut Cursor<'_>, forms: &[(&'static str, Form)]) -> Result<Value> {
    if cursor.kind()? != Kind::Object {
        return Err(unlike());
    }
    let mut found: Vec<Option<Option<Value>>> = vec![None; forms.len()];
    cursor.object(|cursor, key| {
        let Some(at) = forms.iter().position(|(name, _)| key.is(name.as_bytes())) else {
            return cursor.skip_value();
        };
        let repeated = found[at].is_some();
        if repeated {
            return Err(unlike());
        }
        found[at] = Some(match cursor.null()? {
            true => None,
            false => Some(forms[at].1.read(cursor)?),
        });
        Ok(())
    })?;
    let named = forms.iter().zip(found);
    let here = named.filter_map(|((name, _), value)| Some(((*name).to_owned(), value??)));
    Ok(Value::Map(here.collect()))
}

/// The value is of another type; nobody reads more of this error.
#[cold]
fn unlike() -> Error {
    Error::new(Class::Malformed, "type", "", None, "")
}
