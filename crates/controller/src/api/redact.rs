//! Secrets of workers' environments do not leave by the API. What a release is started with is
//! journaled whole, so everything that shows journal entries or releases goes through here.

use segue_core::audit::Entry;
use serde_json::Value;

/// What is shown instead.
const HIDDEN: &str = "***";
/// A variable whose name has one of these in it is taken for a secret.
const SECRET_WORDS: [&str; 4] = ["KEY", "TOKEN", "SECRET", "PASSWORD"];
/// The part of a release that holds variables.
const VARIABLES: &str = "env";

/// Hides what looks like a secret in every environment inside.
pub(super) fn redact(value: &mut Value) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                match value {
                    Value::Object(variables) if name == VARIABLES => {
                        let secret = variables.iter_mut().filter(|(name, _)| is_secret(name));
                        secret.for_each(|(_, value)| *value = HIDDEN.into());
                    }
                    value => redact(value),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(redact),
        _ => {}
    }
}

/// An entry as it may be shown. Its digests stay those of what was written.
pub(super) fn entry(mut entry: Entry) -> Entry {
    redact(&mut entry.fact);
    redact(&mut entry.inputs);
    entry
}

fn is_secret(variable: &str) -> bool {
    let variable = variable.to_ascii_uppercase();
    SECRET_WORDS.iter().any(|word| variable.contains(word))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_hidden_wherever_an_environment_is() {
        let mut value = json!({
            "fact": "deployed",
            "release": { "content": {
                "env": { "OPENAI_API_KEY": "a", "db_password": "b", "LANG": "c" },
                "components": { "engine": { "env": { "X_TOKEN_2": "d", "MODE": "e" } } },
            }},
            "token": "not a variable",
            "list": [{ "env": { "SECRET": "f" } }],
        });
        redact(&mut value);
        let content = &value["release"]["content"];
        assert_eq!(
            content["env"],
            json!({ "OPENAI_API_KEY": "***", "db_password": "***", "LANG": "c" })
        );
        let engine = &content["components"]["engine"]["env"];
        assert_eq!(*engine, json!({ "X_TOKEN_2": "***", "MODE": "e" }));
        assert_eq!(value["list"][0]["env"]["SECRET"], "***");
        assert_eq!(value["token"], "not a variable");
    }
}
