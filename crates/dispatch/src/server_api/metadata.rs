//! A room's metadata with the release in it.

use segue_core::names::Label;
use serde::de::IgnoredAny;

/// What the release is called there, as in `OpenRTC`'s course.
const KEY: &str = "agent_version";

/// The metadata with the release in it. Everything else stays as it is written, also numbers that
/// would not survive being read. `None`: it is no object.
pub(super) fn with_release(metadata: &str, label: &Label) -> Option<String> {
    let ours = format!("{}:{}", quoted(KEY), quoted(label.as_str()));
    if metadata.trim().is_empty() {
        return Some(format!("{{{ours}}}"));
    }
    let _: IgnoredAny = serde_json::from_str(metadata).ok()?;
    let inner = metadata.trim().strip_prefix('{')?.strip_suffix('}')?;
    let others = members(inner).into_iter();
    let others = others.filter(|member| key(member).is_some_and(|key| key != KEY));
    let all: Vec<&str> = others.chain([ours.as_str()]).collect();
    Some(format!("{{{}}}", all.join(",")))
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The name of a member.
fn key(member: &str) -> Option<String> {
    let mut values = serde_json::Deserializer::from_str(member).into_iter();
    values.next()?.ok()
}

/// What lies between the commas of an object that is well formed.
fn members(inner: &str) -> Vec<&str> {
    let (mut depth, mut in_text, mut is_escaped, mut from) = (0_usize, false, false, 0);
    let mut members = Vec::new();
    for (at, byte) in inner.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => in_text = !in_text,
            _ if in_text => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => {
                members.push(&inner[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    members.push(&inner[from..]);
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_comes_in_and_nothing_else_changes() {
        let with = |metadata: &str| with_release(metadata, &"v2".parse().unwrap());
        for (before, after) in [
            ("", r#"{"agent_version":"v2"}"#),
            (" {} ", r#"{"agent_version":"v2"}"#),
            (r#"{"a":1}"#, r#"{"a":1,"agent_version":"v2"}"#),
            (r#"{"agent_version":"v1"}"#, r#"{"agent_version":"v2"}"#),
            (
                r#"{"b":{"agent_version":"x","l":[1,2]}, "agent_version" : "v1","a":"\",{"}"#,
                r#"{"b":{"agent_version":"x","l":[1,2]},"a":"\",{","agent_version":"v2"}"#,
            ),
            // Longer than any number that is read.
            (
                r#"{"n":123456789012345678901234567890.50}"#,
                r#"{"n":123456789012345678901234567890.50,"agent_version":"v2"}"#,
            ),
            // The same name, written otherwise.
            (
                r#"{"agent\u005fversion":"v1"}"#,
                r#"{"agent_version":"v2"}"#,
            ),
        ] {
            assert_eq!(with(before).as_deref(), Some(after), "{before}");
            let again = with(after);
            assert_eq!(again.as_deref(), Some(after), "twice is once");
        }
        for other in ["hello", "[1]", "\"x\"", "{", "{\"a\"}", "{} {}", "null"] {
            assert_eq!(with(other), None, "{other}");
        }
    }
}
