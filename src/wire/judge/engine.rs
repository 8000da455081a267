//! Step (e), last part: what the server tells of how it ran the request.

use crate::json::Value;
use crate::wire::answer::{Paths, ToldItem};
use crate::wire::read::told::Told;

/// The values, sorted by their names, and what `sources` says of those that are left out.
pub(crate) fn tell(mut items: Vec<ToldItem>, paths: &Paths<'_>) -> (Option<Value>, Option<String>) {
    items.sort_by_key(|item| item.name);
    let mut values = Vec::with_capacity(items.len());
    let mut unlike = Vec::new();
    for ToldItem { name, place, told } in items {
        match told {
            Told::Of(value) => values.push((name.to_owned(), value)),
            Told::Unlike => unlike.push(paths.text(place)),
            Told::Absent => {}
        }
    }
    let left_out = format!("left out, of another type: {}", unlike.join(", "));
    (
        (!values.is_empty()).then_some(Value::Map(values)),
        (!unlike.is_empty()).then_some(left_out),
    )
}
