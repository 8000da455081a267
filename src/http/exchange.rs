//! One request and its answer on one connection.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;

use tokio::io::AsyncWrite;
use tokio::task::yield_now;

use super::call::Call;
use super::chunks::Taken;
use super::failure::{Failure, Fault, Phase};
use super::head::{Framing, Head, end};
use super::low_water::LowWater;
use super::receive::{poll_read, read};
use super::request::{Request, Wanted};
use super::stream::Stream;
use crate::memory::{Buffer, OutOfMemory};

/// Bytes that the first read of an answer takes.
const FIRST: usize = 16 << 10;

/// Bytes that a further read takes where it is not known how many come.
const STEP: usize = 64 << 10;

/// Bytes that one read takes where more of the body certainly come, and after which others have their turn.
const LARGE_STEP: usize = 1 << 20;

/// Most bytes that are reserved before they arrive; a larger body grows.
const RESERVED: u64 = 256 << 20;

/// Ceilings of one answer, in bytes.
#[derive(Debug, Clone)]
pub struct Ceilings {
    /// Of status line and headers, those of interim answers included.
    pub head: u64,
    /// Of the body of a good answer, as sent.
    pub body: u64,
    /// Read of another body; the rest is not waited for.
    pub error: u64,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    /// Its head.
    pub head: Head,
    /// Its body as sent; of an error the beginning.
    pub body: Buffer<u8>,
}

/// What came of writing a request.
#[derive(Debug)]
pub(super) enum Sent {
    /// It is written.
    Whole,
    /// It is not, or not all of it, because an answer came before or writing failed; with the failure.
    Part(Option<io::Error>),
    /// Writing failed, and no byte of it was handed to the system.
    Nothing(io::Error),
}

/// Writes the request. Bytes that arrive while the server takes no more of it go to the inbox.
pub(super) async fn send(
    stream: &mut Stream,
    request: &Request,
    inbox: &mut Buffer<u8>,
    max_head: u64,
    call: &Call,
) -> Result<Sent, Failure> {
    let (mut at, mut interim) = (0, 0);
    // TLS keeps what it is given, and does not say how much of it has left.
    let plain = stream.is_plain();
    // Before the first write: a server may have read it before the call hears that it was written.
    if !call.may_write() {
        return Err(Failure::new(Phase::Connect, "the call is over"));
    }
    let bytes = &request.bytes;
    let sent = poll_fn(|cx| {
        loop {
            let written = match at < bytes.len() {
                true => Pin::new(&mut *stream).poll_write(cx, &bytes[at..]),
                false => Pin::new(&mut *stream).poll_flush(cx).map_ok(|()| 0),
            };
            match written {
                Poll::Ready(Ok(_)) if at == bytes.len() => return Poll::Ready(Ok(Sent::Whole)),
                Poll::Ready(Ok(count)) if count > 0 => {
                    at += count;
                    continue;
                }
                Poll::Ready(done) => {
                    let error = done.err().unwrap_or(io::ErrorKind::WriteZero.into());
                    if at == 0 && plain {
                        call.reach(Phase::Connect);
                        return Poll::Ready(Ok(Sent::Nothing(error)));
                    }
                    return Poll::Ready(Ok(Sent::Part(Some(error))));
                }
                Poll::Pending => {}
            }
            // A server that answers already may take no more, and so may one that waits for us to read.
            if inbox.len() as u64 > max_head {
                return Poll::Ready(Ok(Sent::Part(None)));
            }
            if let Err(out) = inbox.reserve(FIRST) {
                return Poll::Ready(Err(Failure::memory(call.phase(), out)));
            }
            match poll_read(stream, cx, inbox, FIRST) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Ok(Sent::Part(None))),
                Poll::Ready(Ok(_)) => loop {
                    let bytes = &inbox.as_slice()[interim..];
                    match end(bytes, &mut 0).map(|size| size.map(|size| &bytes[..size])) {
                        Ok(None) => break,
                        Ok(Some(head)) if Head::parse(head).is_ok_and(|head| head.is_interim()) => {
                            interim += head.len();
                        }
                        _ => return Poll::Ready(Ok(Sent::Part(None))),
                    }
                },
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await?;
    if matches!(sent, Sent::Whole) {
        call.reach(Phase::Headers);
    }
    Ok(sent)
}

/// Reads heads up to the one that is not interim, and what came with it of the body.
pub(super) async fn read_head(
    stream: &mut Stream,
    mut inbox: Buffer<u8>,
    max_head: u64,
) -> Result<(Head, Buffer<u8>), Failure> {
    let refused = |why| {
        Failure::new(
            Phase::Headers,
            format!("the answer is no valid HTTP: {why}"),
        )
    };
    let (mut earlier, mut seen) = (0, 0);
    loop {
        let found = end(inbox.as_slice(), &mut seen).map_err(refused)?;
        let size = earlier + found.unwrap_or(inbox.len()) as u64;
        if size > max_head {
            return Err(Failure {
                phase: Phase::Headers,
                fault: Fault::Over {
                    what: "the headers have",
                    found: size,
                    ceiling: max_head,
                    keyword: "max_header_bytes",
                },
            });
        }
        if let Some(found) = found {
            let head = Head::parse(&inbox.as_slice()[..found]).map_err(refused)?;
            inbox.drop_front(found);
            if !head.is_interim() {
                return Ok((head, inbox));
            }
            (earlier, seen) = (size, 0);
            continue;
        }
        if inbox.is_empty() && earlier == 0 && stream.is_plain() {
            // Who waits for an answer needs no memory for it.
            let _ = stream.tcp().readable().await;
        }
        let reserved = inbox.reserve(FIRST);
        reserved.map_err(|out| Failure::memory(Phase::Headers, out))?;
        match read(stream, &mut inbox, FIRST).await {
            Ok(0) => {
                let where_ = match inbox.is_empty() {
                    true => "before the answer",
                    false => "within the headers of the answer",
                };
                let said = format!("the connection was closed {where_}");
                return Err(Failure::new(Phase::Headers, said));
            }
            Ok(_) => {}
            Err(error) => {
                let doing = "the connection broke before the answer";
                return Err(Failure::io(Phase::Headers, doing, &error));
            }
        }
    }
}

/// Reads the answer; whether the connection takes another request afterwards.
pub(super) async fn receive(
    stream: &mut Stream,
    inbox: Buffer<u8>,
    ceilings: &Ceilings,
    wanted: Wanted,
    held: Option<Buffer<u8>>,
    call: &Call,
) -> Result<(Answer, bool), Failure> {
    let (head, inbox) = read_head(stream, inbox, ceilings.head).await?;
    call.reach(Phase::Body);
    if head.status == 101 {
        let said = "the server switches protocols, which was not asked for";
        return Err(Failure::new(Phase::Headers, said));
    }
    let refused =
        |why: &str| Failure::new(Phase::Body, format!("the answer is no valid HTTP: {why}"));
    let framing = head.framing().map_err(refused)?;
    let mut incoming = Incoming::new(framing, &head, ceilings, wanted, held)?;
    if wanted.streamed {
        call.begins(head.clone());
    }
    let reserved = incoming.body.extend_from_slice(inbox.as_slice());
    reserved.map_err(no_memory)?;
    drop(inbox);
    let mut ended = incoming.take(0).map_err(refused)?;
    let mut turn = 0;
    let mut low_water = LowWater::new();
    let unwatched = |error: io::Error| Failure::io(Phase::Body, "the connection broke", &error);
    loop {
        incoming.check()?;
        if wanted.streamed {
            call.pass(&mut incoming.body).await.map_err(no_memory)?;
        }
        if ended || incoming.enough() {
            break;
        }
        let most = incoming.room().map_err(no_memory)?;
        if !wanted.streamed {
            let coming = incoming.wanted();
            low_water.follow(stream, coming).map_err(unwatched)?;
        }
        let before = incoming.body.len();
        let count = match read(stream, &mut incoming.body, most).await {
            Ok(0) if incoming.framing == Framing::UntilClose => break,
            Ok(0) => return Err(Failure::new(Phase::Body, incoming.cut())),
            Ok(count) => count,
            Err(error) => return Err(Failure::io(Phase::Body, &incoming.cut(), &error)),
        };
        ended = incoming.take(before).map_err(refused)?;
        turn += count;
        if turn >= LARGE_STEP {
            turn = 0;
            yield_now().await;
        }
    }
    let reusable =
        ended && !incoming.surplus && head.keeps_alive() && low_water.follow(stream, 0).is_ok();
    let mut body = incoming.body;
    if !incoming.good {
        body.truncate(usize::try_from(ceilings.error).unwrap_or(usize::MAX));
    }
    Ok((Answer { head, body }, reusable))
}

fn no_memory(out: OutOfMemory) -> Failure {
    Failure::memory(Phase::Body, out)
}

/// Memory for the answer, from when the request is sent: of those that were used before, if one is as large as the answer
/// will probably be. So memory that one call gave back goes to the next at once, and none of it is given up in between.
pub(super) fn hold(wanted: Wanted) -> Option<Buffer<u8>> {
    let expected = wanted.expected.min(RESERVED as usize);
    match wanted.decoded && !wanted.streamed {
        true => Buffer::recycled(expected),
        false => None,
    }
}

/// Whether a body of this size may be in this memory.
fn suits(held: &Buffer<u8>, size: usize) -> bool {
    (size..=size.saturating_mul(2)).contains(&held.capacity())
}

/// A body that arrives.
#[derive(Debug)]
struct Incoming {
    body: Buffer<u8>,
    /// Bytes of the body so far, those that were handed over included.
    received: u64,
    framing: Framing,
    announced: u64,
    /// Bytes came behind its end.
    surplus: bool,
    good: bool,
    ceiling: u64,
}

impl Incoming {
    fn new(
        framing: Framing,
        head: &Head,
        ceilings: &Ceilings,
        wanted: Wanted,
        held: Option<Buffer<u8>>,
    ) -> Result<Self, Failure> {
        let good = (200..300).contains(&head.status);
        let ceiling = if good { ceilings.body } else { ceilings.error };
        let announced = match framing {
            Framing::Length(length) => length,
            _ => 0,
        };
        let mut incoming = Self {
            body: Buffer::new(),
            received: 0,
            framing,
            announced,
            surplus: false,
            good,
            ceiling,
        };
        incoming.check()?;
        let reserved = match wanted.streamed {
            true => 0,
            false => announced.min(ceiling).min(RESERVED) as usize,
        };
        let held = held.filter(|held| announced == 0 || suits(held, reserved));
        let body = match held {
            Some(held) if good => Ok(held),
            _ if good && wanted.decoded => Buffer::transient(reserved, wanted.expected),
            _ => Buffer::with_capacity(reserved),
        };
        incoming.body = body.map_err(no_memory)?;
        Ok(incoming)
    }

    /// Takes what stands behind the first `before` bytes; whether the body has ended.
    fn take(&mut self, before: usize) -> Result<bool, &'static str> {
        let fresh = self.body.len() - before;
        let (taken, ended) = match &mut self.framing {
            Framing::Length(left) => {
                let count = (*left).min(fresh as u64);
                *left -= count;
                let count = count as usize;
                let taken = Taken {
                    data: count,
                    read: count,
                };
                (taken, *left == 0)
            }
            Framing::Chunked(chunks) => {
                let taken = chunks.take(&mut self.body.as_mut_slice()[before..])?;
                (taken, chunks.ended())
            }
            Framing::UntilClose => {
                let taken = Taken {
                    data: fresh,
                    read: fresh,
                };
                (taken, false)
            }
        };
        self.body.truncate(before + taken.data);
        self.received += taken.data as u64;
        self.surplus |= taken.read < fresh;
        Ok(ended)
    }

    /// Bytes that certainly come.
    fn left(&self) -> u64 {
        match &self.framing {
            Framing::Length(left) => *left,
            Framing::Chunked(chunks) => chunks.left(),
            Framing::UntilClose => 0,
        }
    }

    /// Bytes that certainly come and will be read.
    fn wanted(&self) -> u64 {
        match self.good {
            true => self.left(),
            false => self.left().min(self.ceiling.saturating_sub(self.received)),
        }
    }

    /// Refuses a good body that is too large, or will be.
    fn check(&self) -> Result<(), Failure> {
        let size = self.received.saturating_add(self.left());
        if !self.good || size <= self.ceiling {
            return Ok(());
        }
        Err(Failure {
            phase: Phase::Body,
            fault: Fault::Over {
                what: "the body has",
                found: size,
                ceiling: self.ceiling,
                keyword: "max_response_bytes",
            },
        })
    }

    /// Whether as much of an error has come as is read of it.
    fn enough(&self) -> bool {
        !self.good && self.received >= self.ceiling
    }

    /// Makes room for the next read; how many bytes it may take.
    ///
    /// Of a body of known length it takes none that follow it, and of a large chunk neither: those bytes stay where they are.
    fn room(&mut self) -> Result<usize, OutOfMemory> {
        let left = self.left();
        let most = match &self.framing {
            Framing::Length(_) => left.min(LARGE_STEP as u64) as usize,
            _ if left >= STEP as u64 => left.min(LARGE_STEP as u64) as usize,
            _ if self.received < FIRST as u64 => FIRST,
            _ => STEP,
        };
        self.body.reserve(most)?;
        Ok(most)
    }

    /// The words for a body that has no end.
    fn cut(&self) -> String {
        let received = self.received;
        match &self.framing {
            Framing::Length(_) => format!(
                "the body ended after {received} of {} bytes",
                self.announced
            ),
            _ => format!("the body ended after {received} bytes, before its end"),
        }
    }
}
