//! HTTP/1.1 as far as a gateway for calls needs it, and strictly.
//!
//! Everything that two parsers could read in two ways is refused: the worker behind us is another
//! parser. What goes to a worker is written anew from what was understood, never copied through.

pub(crate) mod body;
pub(crate) mod chunked;
pub(crate) mod head;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod values;

use std::borrow::Cow;

/// An answer of our own instead of a relayed one; the connection closes after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) reason: Cow<'static, str>,
    /// One more header, for the statuses that need one.
    pub(crate) header: Option<(&'static str, &'static str)>,
}

impl Answer {
    pub(crate) fn new(status: u16, reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            reason: reason.into(),
            header: None,
        }
    }

    pub(crate) fn bad(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, reason)
    }

    pub(crate) fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.header = Some((name, value));
        self
    }

    /// The whole response.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let Self { status, reason, .. } = self;
        let phrase = phrase(*status);
        let extra = self
            .header
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .unwrap_or_default();
        format!(
            "HTTP/1.1 {status} {phrase}\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Length: {}\r\n{extra}Connection: close\r\n\r\n{reason}\n",
            reason.len() + 1
        )
        .into_bytes()
    }
}

fn phrase(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        417 => "Expectation Failed",
        426 => "Upgrade Required",
        431 => "Request Header Fields Too Large",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Refused",
    }
}
