//! The journal: facts as text, appended at a position or not at all.

use segue_core::audit::{Entry, GENESIS};
use segue_core::rollout::{Agent, Fact};

/// Facts and audit entries, written in one transaction.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    /// Each fact as JSON: what a restart reads is what the format keeps.
    pub(crate) facts: Vec<String>,
    pub(crate) entries: Vec<Entry>,
}

/// What an append came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Append {
    Done,
    /// Somebody else wrote: the writer is no longer the one.
    Conflict,
}

impl Journal {
    /// Appends if `expected` is the position the writer knows.
    pub(crate) fn append(
        &mut self,
        expected: usize,
        fenced: bool,
        facts: &[Fact],
        entries: Vec<Entry>,
    ) -> Append {
        if fenced && expected != self.facts.len() {
            return Append::Conflict;
        }
        self.facts.extend(facts.iter().map(text));
        self.entries.extend(entries);
        Append::Done
    }

    /// The head of the audit chain.
    pub(crate) fn head(&self) -> (u64, String) {
        self.entries
            .last()
            .map_or((0, GENESIS.to_owned()), |e| (e.seq, e.hash.clone()))
    }

    /// Folds the journal into an agent, without the fact at `skip`.
    pub(crate) fn replay(&self, mut agent: Agent, skip: Option<usize>) -> Agent {
        for (index, fact) in self.facts.iter().enumerate() {
            if Some(index) != skip {
                agent.apply(&parse(fact));
            }
        }
        agent
    }
}

fn text(fact: &Fact) -> String {
    serde_json::to_string(fact).expect("facts always serialise")
}

/// Reads a fact back.
pub(crate) fn parse(text: &str) -> Fact {
    serde_json::from_str(text).expect("what was journaled can be read")
}
