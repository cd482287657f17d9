//! Every key of the file. A key that is not here is a fault; a test asserts that each one here
//! is in the reference.

/// The keys of one kind of table.
#[derive(Debug)]
pub(super) struct Keys {
    /// Its header, as the reference writes it; empty at the top of the file.
    pub(super) header: &'static str,
    /// What may be in it.
    pub(super) names: &'static [&'static str],
}

pub(super) static TOP: Keys = Keys {
    header: "",
    names: &["gateway", "api", "agents"],
};

pub(super) static GATEWAY: Keys = Keys {
    header: "[gateway]",
    names: &["listen", "tls"],
};

pub(super) static TLS: Keys = Keys {
    header: "[gateway.tls]",
    names: &["cert", "key"],
};

pub(super) static API: Keys = Keys {
    header: "[api]",
    names: &["listen"],
};

pub(super) static AGENT: Keys = Keys {
    header: "[agents.NAME]",
    names: &[
        "command",
        "env",
        "directory",
        "workers",
        "capacity",
        "health",
        "hosts",
        "path",
        "call_id",
        "cohort",
        "caller",
        "tenant",
        "stickiness",
        "straggler_buffer",
        "standby",
        "max_tails",
        "on_rollback",
        "ready_timeout",
        "smoke",
        "steps",
        "limits",
        "rules",
    ],
};

pub(super) static SMOKE: Keys = Keys {
    header: "[agents.NAME.smoke]",
    names: &["scenario", "path", "calls", "timeout"],
};

pub(super) static STEP: Keys = Keys {
    header: "[[agents.NAME.steps]]",
    names: &["share", "min_calls", "min_duration", "pause"],
};

pub(super) static LIMITS: Keys = Keys {
    header: "[agents.NAME.limits]",
    names: &["drops", "errors", "min_calls"],
};

/// The four ways to say which calls a rule is about.
pub(super) const RULE_CONDITIONS: [&str; 4] = ["header", "caller", "tenant", "list"];

pub(super) static RULE: Keys = Keys {
    header: "[[agents.NAME.rules]]",
    names: &["header", "caller", "tenant", "list", "release"],
};

/// All of them, in the order of the reference.
pub(super) static ALL: [&Keys; 9] = [
    &TOP, &GATEWAY, &TLS, &API, &AGENT, &SMOKE, &STEP, &LIMITS, &RULE,
];

/// Longest typing slip that is still taken for another key.
const SLIP_EDITS_MAX: usize = 2;

impl Keys {
    /// What to do about a key that is not one of these.
    pub(super) fn hint(&self, unknown: &str) -> String {
        let near = self
            .names
            .iter()
            .map(|name| (edits(unknown, name), name))
            .filter(|(edits, name)| *edits <= SLIP_EDITS_MAX && *edits < name.len())
            .min();
        if let Some((_, name)) = near {
            return format!("did you mean `{name}`?");
        }
        match ALL.iter().find(|keys| keys.names.contains(&unknown)) {
            Some(keys) if keys.header.is_empty() => {
                format!("`{unknown}` belongs at the top of the file")
            }
            Some(keys) => format!("`{unknown}` belongs in `{}`", keys.header),
            None => format!("known here: {}", self.names.join(", ")),
        }
    }
}

/// How many characters to insert, remove or replace (Levenshtein), counted no further than one
/// past [`SLIP_EDITS_MAX`] when the lengths alone decide.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let from_chars = from.chars().take(to.len() + SLIP_EDITS_MAX + 1);
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, a) in from_chars.enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for (column, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted() {
        for (from, to, count) in [
            ("workers", "workers", 0),
            ("worker", "workers", 1),
            ("wrokers", "workers", 2),
            ("", "abc", 3),
            ("pth", "path", 1),
            ("abcdefghijk", "a", 3),
        ] {
            assert_eq!(edits(from, to), count, "{from} {to}");
        }
    }
}
