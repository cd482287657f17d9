//! Fuzz targets: one for each parser of bytes that others wrote.
//!
//! Only in tests and behind the feature `fuzz`. `make test` gives each target its corpus and a
//! bounded number of changes of it; `make fuzz` runs them under libFuzzer, which looks for new ways
//! through the code (see `crates/dispatch/fuzz`).

use crate::proto::{JobView, ServerMessage, WorkerMessage};

#[cfg(test)]
mod tests;

/// A parser and its oracle: panics at an input that shows a fault.
pub type Target = fn(&[u8]);

/// All of them, by the name of their folder in `crates/dispatch/fuzz/corpus`.
pub const TARGETS: [(&str, Target); 4] = [
    ("worker", worker),
    ("server", server),
    ("job", job),
    ("head", head),
];

/// What is read is written so that it reads the same.
fn worker(bytes: &[u8]) {
    if let Ok(message) = WorkerMessage::decode(bytes) {
        let written = message.encode();
        let again = WorkerMessage::decode(&written).expect("what is written can be read");
        assert_eq!(again.encode(), written);
    }
}

/// The same; and a job that is passed on stays as it is, byte for byte.
fn server(bytes: &[u8]) {
    let Ok(message) = ServerMessage::decode(bytes) else {
        return;
    };
    let written = message.encode();
    let again = ServerMessage::decode(&written).expect("what is written can be read");
    assert_eq!(again.encode(), written);
    if let (ServerMessage::Assignment(sent), ServerMessage::Assignment(got)) = (message, again) {
        assert_eq!(sent.job, got.job);
    }
}

fn job(bytes: &[u8]) {
    if let Ok(view) = JobView::of(bytes) {
        let again = JobView::of(&view.encode()).expect("what is written can be read");
        assert_eq!(again, view);
    }
}

/// A head never holds what would end it early once it is passed on.
fn head(bytes: &[u8]) {
    if let Some(head) = crate::head::parse(bytes) {
        let plain = |text: &str| !text.contains(['\r', '\n', ' ', '\0']);
        assert!(plain(&head.path) && plain(&head.query) && plain(&head.method));
        for (name, value) in &head.headers {
            assert!(plain(name) && !name.contains(':'));
            assert!(!value.iter().any(|byte| b"\r\n\0".contains(byte)));
        }
        let _ = (head.membership(), head.socket_key(), head.api_token());
    }
}
