//! Threads that share an engine: each gets its own answers, and every call ends. Under a race detector: `make sanitize-threads`.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Barrier;
use std::thread;

use super::*;
use crate::http::{Next, Roots, Trust, Wanted};

const THREADS: usize = 6;
const CALLS: usize = 25;
/// Nothing takes so long, however slow the machine.
const LONG: Duration = Duration::from_secs(60);

/// A server that answers with what it was sent, over as many connections as come. It lives as long as the process.
fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            thread::spawn(move || while answer(&connection).is_some() {});
        }
    });
    url
}

/// One request answered; None once the client has left.
fn answer(mut connection: &TcpStream) -> Option<()> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, sent)) = text.split_once("\r\n\r\n") {
            let (_, length) = head.split_once("content-length: ")?;
            let length: usize = length.lines().next()?.parse().ok()?;
            if sent.len() == length {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
                connection.write_all(head.as_bytes()).ok()?;
                return connection.write_all(sent.as_bytes()).ok();
            }
        }
        let mut piece = [0; 1 << 14];
        match connection.read(&mut piece) {
            Ok(count) if count > 0 => bytes.extend_from_slice(&piece[..count]),
            _ => return None,
        }
    }
}

fn engine() -> Engine {
    let wiring = Wiring {
        timeout: LONG,
        max_head: 1 << 16,
        proxy: None,
        trust: Trust {
            roots: Some(Roots::System),
            named: true,
        },
    };
    let ceilings = Ceilings {
        head: 1 << 16,
        body: 1 << 30,
        error: 1 << 16,
    };
    Engine::new(wiring, ceilings, LONG)
}

/// What a thread sends with one of its calls, like that of no other.
fn content(thread: usize, call: usize) -> Vec<u8> {
    format!("{thread}:{call};")
        .repeat(call * call * 10 + 1)
        .into()
}

fn request(url: &str, content: &[u8], streamed: bool) -> Request {
    let wanted = Wanted {
        decoded: true,
        expected: content.len(),
        streamed,
    };
    Request::new("POST", url, std::iter::empty(), content, wanted, None).unwrap()
}

/// The same work on several threads, which begin at once.
fn at_once(work: impl Fn(usize) + Sync) {
    let begin = Barrier::new(THREADS);
    thread::scope(|scope| {
        for number in 0..THREADS {
            let (begin, work) = (&begin, &work);
            scope.spawn(move || {
                begin.wait();
                work(number);
            });
        }
    });
}

#[test]
fn every_thread_gets_its_own_answers() {
    let (url, engine) = (echo(), engine());
    at_once(|number| {
        for turn in 0..CALLS {
            let sent = content(number, turn);
            let call = engine
                .start(request(&url, &sent, false), None, true)
                .unwrap();
            assert!(call.wait(LONG));
            let answer = call.take().unwrap().unwrap();
            assert_eq!(answer.body.as_slice(), sent);
            assert!(call.take().is_none());
        }
    });
}

#[test]
fn every_thread_gets_its_own_stream() {
    let (url, engine) = (echo(), engine());
    at_once(|number| {
        for turn in 0..CALLS {
            let sent = content(number, turn);
            let call = engine
                .start(request(&url, &sent, true), None, true)
                .unwrap();
            let mut received = Vec::new();
            loop {
                match call.next() {
                    Next::Bytes(bytes) => received.extend_from_slice(bytes.as_slice()),
                    Next::Nothing => assert!(call.wait(LONG)),
                    Next::End(end) => break end.unwrap(),
                }
            }
            assert_eq!(received, sent);
        }
    });
}

#[test]
fn a_mailbox_hears_of_every_call_once() {
    let (url, engine, mailbox) = (echo(), engine(), Arc::new(Mailbox::new().unwrap()));
    let calls = Mutex::new(HashMap::new());
    let heard = Mutex::new(Vec::new());
    at_once(|number| {
        if number == 0 {
            let end = std::time::Instant::now() + LONG;
            while heard.lock().unwrap().len() < (THREADS - 1) * CALLS {
                assert!(std::time::Instant::now() < end);
                heard.lock().unwrap().extend(mailbox.drain());
                engine.flush().unwrap();
            }
            return;
        }
        for turn in 0..CALLS {
            let place = (number * CALLS + turn) as u64;
            let notify = Some((Arc::clone(&mailbox), place));
            let call = engine.start(request(&url, &content(number, turn), false), notify, false);
            calls.lock().unwrap().insert(place, call.unwrap());
        }
    });
    let mut heard = heard.into_inner().unwrap();
    heard.sort_unstable();
    let all: Vec<_> = (CALLS as u64..(THREADS * CALLS) as u64).collect();
    assert_eq!(heard, all);
    for (place, call) in calls.into_inner().unwrap() {
        let sent = content(place as usize / CALLS, place as usize % CALLS);
        assert_eq!(call.take().unwrap().unwrap().body.as_slice(), sent);
    }
}

#[test]
fn calls_that_others_cancel_and_close() {
    let url = echo();
    for _ in 0..5 {
        let (engine, calls) = (engine(), Mutex::new(Vec::new()));
        at_once(|number| match number {
            0 => engine.close(),
            1 => {
                for _ in 0..CALLS {
                    let call: Option<Arc<Call>> = calls.lock().unwrap().pop();
                    if let Some(call) = call {
                        call.cancel();
                    }
                }
            }
            _ => {
                for turn in 0..CALLS / 2 {
                    let sent = content(number, turn);
                    let call = match engine.start(request(&url, &sent, false), None, true) {
                        Ok(call) => call,
                        Err(NotBegun::Closed) => return,
                        Err(NotBegun::Io(error)) => panic!("{error}"),
                    };
                    calls.lock().unwrap().push(Arc::clone(&call));
                    let mut over = call.wait(Duration::from_millis(1));
                    while !over
                        && calls
                            .lock()
                            .unwrap()
                            .iter()
                            .any(|held| Arc::ptr_eq(held, &call))
                    {
                        over = call.wait(Duration::from_millis(1));
                    }
                    // One that was cancelled has no answer, one that was closed says so.
                    if let Some(Ok(answer)) = call.take() {
                        assert_eq!(answer.body.as_slice(), sent);
                    }
                }
            }
        });
        let late = engine.start(request(&url, b"late", false), None, true);
        assert!(matches!(late, Err(NotBegun::Closed)));
    }
}
