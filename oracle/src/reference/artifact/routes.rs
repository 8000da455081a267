//! The routes of an artifact as the object that other answers have.

use super::super::RoutedExperts;
use super::super::containers::refuse;
use super::super::experts::{self, Outcome};
use super::super::json::{Kind, Member, Node, Text};
use super::super::placing::Sequence;
use super::manifest::Router;
use super::{elements, list, node};
use dynamo_tito::{Class, Error, ExpertsMode, FinalRow, Options, Result};

/// The routers of a choice and their tensors.
#[derive(Debug)]
pub(crate) struct Routes {
    pub(super) path: String,
    /// The offset of every error, for an inline artifact.
    pub(super) at: Option<usize>,
    pub(super) start: u64,
    pub(super) routers: Vec<Router>,
    pub(super) tensors: Vec<u8>,
}

impl Routes {
    /// The path, and the offset of an error that is of no tensor.
    pub(crate) fn place(&self) -> (&str, usize) {
        (&self.path, self.at.unwrap_or(0))
    }

    /// (g), for an artifact.
    pub(crate) fn read(&self, sequence: &Sequence, options: &Options<'_>) -> Result<Outcome> {
        if options.experts == ExpertsMode::Skip {
            return Ok(Outcome::Skipped);
        }
        let at = |own: usize| self.at.unwrap_or(own);
        let refuse = |kind, path: String, own: usize| Err(refuse(kind, &path, at(own), "refused"));
        for (i, router) in self.routers.iter().enumerate() {
            if self.routers[..i].iter().any(|it| it.id == router.id) {
                return refuse("duplicate_router", self.path.clone(), router.ids.at);
            }
        }
        let mut routers = Vec::new();
        match options.routers {
            None => routers.extend(&self.routers),
            Some(wanted) => {
                for id in wanted {
                    let Some(router) = self.routers.iter().find(|it| it.id == *id) else {
                        let path = format!("{}.routers", self.path);
                        let message = "no such router";
                        return Err(Error::new(Class::Missing, "missing", path, None, message));
                    };
                    routers.push(router);
                }
            }
        }
        let first = &routers[0].ids;
        if let Some(other) = routers.iter().find(|it| it.ids.shape != first.shape) {
            return refuse("shape", self.path.clone(), other.ids.at);
        }
        let (layers, top_k) = (routers.len() as u64, first.columns());
        let told = |told: Option<u64>, found| told.is_none_or(|told| told == found);
        if !told(options.num_layers, layers) || !told(options.top_k, top_k) {
            return refuse("shape", self.path.clone(), first.at);
        }
        let node = self.object(&routers, at(first.at));
        // What the caller said was looked at; a prompt alone has a row for each of its tokens.
        let options = Options {
            num_layers: None,
            top_k: None,
            final_row: match sequence.tokens {
                0 => FinalRow::Present,
                _ => options.final_row,
            },
            ..*options
        };
        let found = experts::from(&self.path, &node, sequence, &options)?;
        let RoutedExperts { values, shape, .. } = &found;
        let [rows, layers, top_k] = shape.map(|size| size as usize);
        let dropped = first.rows() as usize - rows;
        for (layer, router) in routers.iter().enumerate() {
            for row in 0..rows {
                for slot in 0..top_k {
                    let id = values[(row * layers + layer) * top_k + slot];
                    if id >= router.experts as i32 {
                        let path = format!("{}[{}][{slot}]", self.path, dropped + row);
                        return refuse("range", path, router.ids.at);
                    }
                }
            }
        }
        Ok(Outcome::Read(found, self.path.clone()))
    }

    /// `{"data", "shape", "start", "dtype"}` with the routers as layers.
    fn object(&self, routers: &[&Router], at: usize) -> Node {
        let first = &routers[0].ids;
        let wide = routers.iter().any(|it| it.ids.dtype == "u16");
        let mut bytes = Vec::new();
        for row in 0..first.rows() as usize {
            for router in routers {
                let columns = router.ids.columns() as usize;
                for element in elements(&self.tensors, &router.ids)
                    .skip(row * columns)
                    .take(columns)
                {
                    bytes.extend(element);
                    bytes.extend(if wide && element.len() == 1 {
                        &[0][..]
                    } else {
                        &[]
                    });
                }
            }
        }
        let shape = [first.rows(), routers.len() as u64, first.columns()];
        let shape = list(shape.iter().map(ToString::to_string), at);
        let dtype = if wide { "uint16" } else { "uint8" };
        let start = node(Kind::Number(self.start.to_string()), at);
        let members = [
            ("data", node(Kind::String(plain(&encoded(&bytes))), at)),
            ("shape", shape),
            ("start", start),
            ("dtype", node(Kind::String(plain(dtype)), at)),
        ];
        let members = members.map(|(key, value)| Member {
            offset: at,
            key_end: at,
            key: plain(key),
            value,
        });
        node(Kind::Object(members.into()), at)
    }
}

fn plain(value: &str) -> Text {
    Text {
        value: value.to_owned(),
        lone_surrogate: false,
        escaped: false,
    }
}

/// Base64.
pub(crate) fn encoded(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let byte = |i: usize| usize::from(group.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            let letter = char::from(LETTERS[bits >> (18 - 6 * i) & 63]);
            text.push(if i <= group.len() { letter } else { '=' });
        }
    }
    text
}
