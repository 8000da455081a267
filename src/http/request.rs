//! A request as bytes, and the server that it goes to.

use super::connect::Proxy;

/// A server: who one connects to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    pub(super) https: bool,
    pub(super) host: String,
    pub(super) port: u16,
}

impl Origin {
    /// Host and port, as a tunnel is asked for.
    pub(super) fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// What the answer goes into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Whether a good answer is decoded: its memory comes from the pool then.
    pub decoded: bool,
    /// Bytes that it will probably have, where the server does not say; 0 is unknown.
    pub expected: usize,
    /// Whether it is handed over as it comes.
    pub streamed: bool,
}

/// A request, ready to be written.
#[derive(Debug)]
pub struct Request {
    pub(super) origin: Origin,
    pub(super) bytes: Vec<u8>,
    pub(super) wanted: Wanted,
}

impl Request {
    /// The bytes of a request to an absolute URL.
    ///
    /// What cannot be sent is refused in words that show none of it.
    pub fn new<'a>(
        method: &str,
        url: &str,
        fields: impl Iterator<Item = (&'a str, &'a str)>,
        content: &[u8],
        wanted: Wanted,
        proxy: Option<&Proxy>,
    ) -> Result<Self, &'static str> {
        let (origin, authority, target) = split(url)?;
        if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return Err("the method cannot be sent");
        }
        let mut bytes = Vec::with_capacity(512 + target.len() + content.len());
        bytes.extend_from_slice(method.as_bytes());
        bytes.push(b' ');
        let forwarded = proxy.filter(|_| !origin.https);
        if forwarded.is_some() {
            bytes.extend_from_slice(b"http://");
            bytes.extend_from_slice(authority.as_bytes());
        }
        if !target.starts_with('/') {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(target.as_bytes());
        bytes.extend_from_slice(b" HTTP/1.1\r\n");
        let start = bytes.len();
        let mut named = false;
        for (name, value) in fields {
            named |= name == "host";
            push(&mut bytes, name, value)?;
        }
        if !named {
            let mut host = Vec::with_capacity(8 + authority.len());
            push(&mut host, "host", authority)?;
            bytes.splice(start..start, host);
        }
        if let Some(authorization) = forwarded.and_then(|proxy| proxy.authorization.as_deref()) {
            push(&mut bytes, "proxy-authorization", authorization)?;
        }
        if !content.is_empty() || method != "GET" {
            push(&mut bytes, "content-length", &content.len().to_string())?;
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(content);
        Ok(Self {
            origin,
            bytes,
            wanted,
        })
    }
}

/// The request for a tunnel through a proxy.
pub(super) fn connect_request(origin: &Origin, proxy: &Proxy) -> Result<Vec<u8>, &'static str> {
    let authority = origin.authority();
    let mut bytes = format!("CONNECT {authority} HTTP/1.1\r\n").into_bytes();
    push(&mut bytes, "host", &authority)?;
    if let Some(authorization) = &proxy.authorization {
        push(&mut bytes, "proxy-authorization", authorization)?;
    }
    bytes.extend_from_slice(b"\r\n");
    Ok(bytes)
}

/// Appends a field whose value is Latin-1.
fn push(bytes: &mut Vec<u8>, name: &str, value: &str) -> Result<(), &'static str> {
    if name.is_empty()
        || !name
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b':')
    {
        return Err("a header's name cannot be sent");
    }
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(b": ");
    for letter in value.chars() {
        match u8::try_from(letter) {
            Ok(byte @ (b'\t' | b' '..=b'~' | 0x80..)) => bytes.push(byte),
            _ => return Err("a header's value cannot be sent"),
        }
    }
    bytes.extend_from_slice(b"\r\n");
    Ok(())
}

/// The server, the authority as it is written, and the target of a URL without user information.
fn split(url: &str) -> Result<(Origin, &str, &str), &'static str> {
    const NONE: &str = "the url is no absolute http or https URL";
    let (scheme, rest) = url.split_once("://").ok_or(NONE)?;
    let https = match scheme {
        "http" => false,
        "https" => true,
        _ => return Err(NONE),
    };
    let rest = rest.split('#').next().unwrap_or(rest);
    let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if !url.bytes().all(|byte| byte.is_ascii_graphic()) || authority.contains('@') {
        return Err(NONE);
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(inner) => {
            let (host, rest) = inner.split_once(']').ok_or(NONE)?;
            (host, rest.strip_prefix(':'))
        }
        None => match authority.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = match port {
        None | Some("") => [80, 443][usize::from(https)],
        Some(port) => port.parse().map_err(|_| NONE)?,
    };
    if host.is_empty() {
        return Err(NONE);
    }
    let host = host.to_owned();
    Ok((Origin { https, host, port }, authority, target))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted = Wanted {
        decoded: false,
        expected: 0,
        streamed: false,
    };

    fn sent(method: &str, url: &str, content: &[u8], proxy: Option<&Proxy>) -> String {
        let fields = [("accept", "*/*"), ("x-name", "caf\u{e9}")];
        let request = Request::new(method, url, fields.into_iter(), content, WANTED, proxy);
        request
            .unwrap()
            .bytes
            .iter()
            .map(|&byte| char::from(byte))
            .collect()
    }

    #[test]
    fn a_request_is_these_bytes() {
        assert_eq!(
            sent("POST", "http://h:8000/v1/x?y=1#z", b"{}", None),
            "POST /v1/x?y=1 HTTP/1.1\r\nhost: h:8000\r\naccept: */*\r\nx-name: caf\u{e9}\r\ncontent-length: 2\r\n\r\n{}"
        );
        assert_eq!(
            sent("GET", "https://[::1]", b"", None),
            "GET / HTTP/1.1\r\nhost: [::1]\r\naccept: */*\r\nx-name: caf\u{e9}\r\n\r\n"
        );
    }

    #[test]
    fn a_proxy_gets_the_whole_address_of_plain_requests_only() {
        let proxy = Proxy {
            https: false,
            host: "p".into(),
            port: 3128,
            authorization: Some("Basic eA==".into()),
        };
        let plain = sent("POST", "http://h/x", b"", Some(&proxy));
        assert!(plain.starts_with("POST http://h/x HTTP/1.1\r\nhost: h\r\n"));
        assert!(plain.ends_with("proxy-authorization: Basic eA==\r\ncontent-length: 0\r\n\r\n"));
        let tunnelled = sent("POST", "https://h/x", b"", Some(&proxy));
        assert!(tunnelled.starts_with("POST /x HTTP/1.1\r\n"));
        assert!(!tunnelled.contains("proxy"));
        let (origin, ..) = split("https://[::1]/x").unwrap();
        assert_eq!(
            connect_request(&origin, &proxy).unwrap(),
            b"CONNECT [::1]:443 HTTP/1.1\r\nhost: [::1]:443\r\nproxy-authorization: Basic eA==\r\n\r\n"
        );
    }

    #[test]
    fn what_cannot_be_sent_is_refused() {
        let refused = |method, url, name, value| {
            Request::new(method, url, [(name, value)].into_iter(), b"", WANTED, None).is_err()
        };
        assert!(!refused("GET", "http://h", "a", "b"));
        for url in [
            "h",
            "ftp://h",
            "http://",
            "http://:1",
            "http://me@h",
            "http://h:x",
            "http://h/a b",
            "http://[::1/",
        ] {
            assert!(refused("GET", url, "a", "b"), "{url}");
        }
        for name in ["", "a b", "a:", "a\r\nb", "\u{e9}"] {
            assert!(refused("GET", "http://h", name, "b"), "{name}");
        }
        for value in ["a\r\nb: c", "\0", "\u{100}", "a\nb"] {
            assert!(refused("GET", "http://h", "a", value), "{value}");
        }
        assert!(refused("get", "http://h", "a", "b"));
        assert!(refused("GET / HTTP/1.1\r\n", "http://h", "a", "b"));
    }
}
