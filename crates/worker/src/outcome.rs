//! How a call went, as its agent saw it. A closed socket, or a job that succeeded, says nothing
//! about that.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Longest reason, in characters: one sentence.
pub(crate) const REASON_CHARS_MAX: usize = 200;
/// Largest data, in bytes of JSON.
pub(crate) const DATA_BYTES_MAX: usize = 8 * 1024;

/// Whether a call was what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The caller got what they came for.
    Success,
    /// They did not, and it is our fault.
    Failure,
    /// They left before anybody could tell.
    Abandoned,
}

/// How a call went.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    verdict: Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    data: Map<String, Value>,
}

/// Why this is no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadOutcome {
    /// It is a sentence, not a transcript.
    #[error(
        "the reason has more than {REASON_CHARS_MAX} characters, or none, or control characters"
    )]
    Reason,
    /// It is kept for every call.
    #[error("the data is larger than {DATA_BYTES_MAX} bytes of JSON")]
    Data,
}

impl Outcome {
    /// An outcome with nothing to say about it.
    pub fn new(verdict: Verdict) -> Self {
        Self {
            verdict,
            reason: None,
            data: Map::new(),
        }
    }

    /// With the reason, in one sentence.
    pub fn because(self, reason: &str) -> Result<Self, BadOutcome> {
        let is_long = reason.chars().count() > REASON_CHARS_MAX;
        if is_long || reason.trim().is_empty() || reason.chars().any(char::is_control) {
            return Err(BadOutcome::Reason);
        }
        let reason = Some(reason.to_owned());
        Ok(Self { reason, ..self })
    }

    /// With numbers and names that belong to it.
    pub fn with(self, data: Map<String, Value>) -> Result<Self, BadOutcome> {
        let text = serde_json::to_string(&data).map_err(|_| BadOutcome::Data)?;
        if text.len() > DATA_BYTES_MAX {
            return Err(BadOutcome::Data);
        }
        Ok(Self { data, ..self })
    }

    /// Whether it was what it should be.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Why, if that was said.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded() {
        let new = || Outcome::new(Verdict::Failure);
        for bad in ["", "  ", "a\nb", &"x".repeat(REASON_CHARS_MAX + 1)] {
            assert_eq!(new().because(bad), Err(BadOutcome::Reason), "{bad:?}");
        }
        assert!(new().because(&"é".repeat(REASON_CHARS_MAX)).is_ok());
        let data = |bytes: usize| {
            let mut data = Map::new();
            data.insert("a".to_owned(), "x".repeat(bytes).into());
            data
        };
        assert_eq!(new().with(data(DATA_BYTES_MAX)), Err(BadOutcome::Data));
        assert!(new().with(data(DATA_BYTES_MAX - 20)).is_ok());
        let text = serde_json::to_string(&new()).unwrap();
        assert_eq!(text, r#"{"verdict":"failure"}"#);
    }
}
