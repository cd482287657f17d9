//! What is wrong with a configuration, and where.

use std::cell::RefCell;
use std::fmt;

/// One fault of a configuration file. The operator acts: nothing was taken from the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Name of the file, as it was given.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do, or why it is a fault.
    pub hint: Option<String>,
}

impl fmt::Display for Fault {
    /// `segue.toml:12:9: message`, and a second line `hint: …` if there is one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            column,
            message,
            hint,
        } = self;
        write!(f, "{file}:{line}:{column}: {message}")?;
        match hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Fault {}

/// Collects faults while a text is read, in any order. Every reader holds a shared reference to
/// it, so that one fault never keeps the next from being found.
#[derive(Debug)]
pub(super) struct Faults<'a> {
    text: &'a str,
    found: RefCell<Vec<Found>>,
}

/// A fault whose place is still a byte offset.
#[derive(Debug)]
struct Found {
    at: usize,
    message: String,
    hint: Option<String>,
}

impl<'a> Faults<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text,
            found: RefCell::default(),
        }
    }

    /// Notes a fault at a byte offset.
    pub(super) fn report(&self, at: usize, message: impl Into<String>, hint: Option<String>) {
        self.found.borrow_mut().push(Found {
            at,
            message: message.into(),
            hint,
        });
    }

    /// The line of a byte offset, for messages that name a second place.
    pub(super) fn line(&self, at: usize) -> usize {
        1 + self.text[..self.text.floor_char_boundary(at)]
            .matches('\n')
            .count()
    }

    /// All faults in the order of the text. One walk over the text serves all of them.
    pub(super) fn located(self, file: &str) -> Vec<Fault> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|found| found.at);
        let (mut line, mut column, mut walked) = (1, 1, 0);
        found
            .into_iter()
            .map(|found| {
                let at = self.text.floor_char_boundary(found.at);
                for char in self.text[walked..at].chars() {
                    (line, column) = if char == '\n' {
                        (line + 1, 1)
                    } else {
                        (line, column + 1)
                    };
                }
                walked = at;
                Fault {
                    file: file.to_owned(),
                    line,
                    column,
                    message: found.message,
                    hint: found.hint,
                }
            })
            .collect()
    }
}
