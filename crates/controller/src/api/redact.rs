//! Secrets do not leave by the API. What a release is started with is journaled whole, and so is
//! what its hooks said, so everything that shows journal entries or releases goes through here.
//!
//! What looks like a secret is for [`segue_core::redact`] to say; here is where one may be.

use segue_core::audit::Entry;
use segue_core::redact::{REDACTED, command, hides, is_secret_value};
use serde_json::Value;

/// The part of a release that holds variables.
const VARIABLES: &str = "env";
/// A program with its arguments.
const COMMAND: &str = "command";
/// The address of a webhook: for Slack and Teams its path is the secret.
const ADDRESS: &str = "url";
/// A word after which the secret follows.
const BEARER: &str = "bearer";

/// Hides what looks like a secret, wherever it is inside.
pub(super) fn redact(value: &mut Value) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                match value {
                    Value::Object(variables) if name == VARIABLES => {
                        variables.iter_mut().for_each(variable);
                    }
                    Value::Array(words) if name == COMMAND => arguments(words),
                    Value::String(text) if name == ADDRESS => *text = without_path(text),
                    value => redact(value),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(redact),
        Value::String(text) => *text = hidden(text),
        _ => {}
    }
}

/// An entry as it may be shown. Its digests stay those of what was written.
pub(super) fn entry(mut entry: Entry) -> Entry {
    redact(&mut entry.fact);
    redact(&mut entry.inputs);
    entry
}

fn variable((name, value): (&String, &mut Value)) {
    if hides(name, value.as_str().unwrap_or_default()) {
        *value = REDACTED.into();
    }
}

fn arguments(words: &mut Vec<Value>) {
    let texts: Option<Vec<String>> = words
        .iter()
        .map(|word| word.as_str().map(str::to_owned))
        .collect();
    if let Some(texts) = texts {
        *words = command(&texts).into_iter().map(Value::from).collect();
    }
}

/// What a program or a person said, line by line, without the secrets in it.
fn hidden(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(line).collect();
    lines.join("\n")
}

fn line(text: &str) -> String {
    let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
    let mut shown = command(&words);
    for (number, word) in words.iter().enumerate() {
        if word.eq_ignore_ascii_case(BEARER)
            && let Some(next) = shown.get_mut(number + 1)
        {
            REDACTED.clone_into(next);
        }
    }
    // No word of it alone is one, but the whole is.
    if shown == words && is_secret_value(text) {
        return REDACTED.to_owned();
    }
    shown.join(" ")
}

/// Only where it goes.
fn without_path(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else {
        return hidden(address);
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let host = rest[..end].rsplit('@').next().unwrap_or_default();
    match rest.len() - end {
        0 | 1 => format!("{scheme}://{host}"),
        _ => format!("{scheme}://{host}/{REDACTED}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_hidden_wherever_they_are() {
        let mut value = json!({
            "fact": "deployed",
            "release": { "content": {
                "env": {
                    "OPENAI_API_KEY": "a", "db_password": "b", "LANG": "c", "SMTP_PASS": "d",
                    "DB_PASSWD": "e", "DATABASE_URL": "postgres://u:hunter2@db/x", "AUTHOR": "f",
                },
                "command": ["bot", "--password=x", "--api-key", "y", "--port", "80", "KEY=z"],
                "components": { "engine": { "env": { "X_TOKEN_2": "d", "MODE": "e" } } },
            }},
            "webhooks": [{ "url": "https://hooks.slack.com/services/T0/B0/x", "name": "ops" }],
            "token": "not a variable",
            "list": [{ "env": { "SECRET": "f" } }],
            "report": { "output": ["PGPASSWORD=x psql", "to postgres://u:p@db/x", "done: 3 tables"] },
        });
        redact(&mut value);
        let content = &value["release"]["content"];
        assert_eq!(
            content["env"],
            json!({
                "OPENAI_API_KEY": "***", "db_password": "***", "LANG": "c", "SMTP_PASS": "***",
                "DB_PASSWD": "***", "DATABASE_URL": "***", "AUTHOR": "f",
            })
        );
        assert_eq!(
            content["command"],
            json!([
                "bot",
                "--password=***",
                "--api-key",
                "***",
                "--port",
                "80",
                "KEY=***"
            ])
        );
        let engine = &content["components"]["engine"]["env"];
        assert_eq!(*engine, json!({ "X_TOKEN_2": "***", "MODE": "e" }));
        assert_eq!(value["webhooks"][0]["url"], "https://hooks.slack.com/***");
        assert_eq!(value["list"][0]["env"]["SECRET"], "***");
        assert_eq!(value["token"], "not a variable");
        assert_eq!(
            value["report"]["output"],
            json!(["PGPASSWORD=*** psql", "to ***", "done: 3 tables"])
        );
    }

    #[test]
    fn texts_keep_what_is_no_secret() {
        for (text, shown) in [
            ("", ""),
            ("  two  spaces\n", "  two  spaces\n"),
            ("> Authorization: Bearer abc x", "> *** Bearer *** x"),
            ("one\nBasic abc\nthree", "one\n***\nthree"),
            ("https://host/a@b", "https://host/a@b"),
            ("http://127.0.0.1:80", "http://127.0.0.1:80"),
        ] {
            assert_eq!(hidden(text), shown);
        }
        assert_eq!(without_path("https://host/"), "https://host");
        assert_eq!(without_path("https://u:p@host?x"), "https://host/***");
    }
}
