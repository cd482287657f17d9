//! What is published of the keys: the reference and the schema.

use serde_json::{Value, json};

use super::*;

const REFERENCE: &str = include_str!("../../../../../docs/reference/config.md");
const SCHEMA: &str = include_str!("../../../../../docs/reference/segue.schema.json");

/// The schema as it is checked in.
fn schema_text() -> String {
    let text = serde_json::to_string_pretty(&schema()).unwrap();
    text + "\n"
}

#[expect(
    clippy::disallowed_methods,
    reason = "whether to write the published files anew is the tester's choice"
)]
fn regenerates() -> bool {
    std::env::var("SEGUE_REGENERATE").is_ok()
}

/// `SEGUE_REGENERATE=1` writes them anew.
#[expect(
    clippy::disallowed_methods,
    reason = "the test that keeps the published files also writes them"
)]
fn check(name: &str, published: &str, made: &str) {
    if regenerates() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/");
        std::fs::write(format!("{folder}{name}"), made).unwrap();
        return;
    }
    assert!(
        published == made,
        "{name} is not what the keys say; write it anew with `make reference`"
    );
}

#[test]
fn the_published_reference_is_made_of_the_keys() {
    check("config.md", REFERENCE, &reference());
}

#[test]
fn the_published_schema_is_made_of_the_keys() {
    check("segue.schema.json", SCHEMA, &schema_text());
}

/// Each table has its section, and each key exactly one row in it.
#[test]
fn every_key_is_in_the_reference() {
    let reference = reference();
    let section = |header: &str| {
        let title = match header {
            "" => "\n## Top of the file\n".to_owned(),
            header => format!("\n## `{header}`\n"),
        };
        let (_, rest) = reference.split_once(&title)?;
        rest.split("\n## ").next()
    };
    for keys in keys::ALL {
        let rows = section(keys.header).unwrap_or_else(|| panic!("no section {}", keys.header));
        let mut documented: Vec<_> = rows
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .collect();
        let mut names: Vec<_> = keys.names().collect();
        documented.sort_unstable();
        names.sort_unstable();
        assert_eq!(documented, names, "{}", keys.header);
    }
}

/// Links within the page lead to its own titles.
#[test]
fn the_links_of_the_reference_lead_somewhere() {
    let reference = reference();
    let anchor = |title: &str| -> String {
        let kept = title
            .chars()
            .filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
        kept.collect::<String>()
            .trim()
            .replace(' ', "-")
            .to_lowercase()
    };
    let titles: Vec<String> = reference
        .lines()
        .filter_map(|line| line.strip_prefix("##"))
        .map(|title| anchor(title.trim_start_matches('#')))
        .collect();
    let links = reference.split("](#").skip(1);
    let mut count = 0;
    for link in links {
        let to = link.split(')').next().unwrap();
        assert!(
            titles.iter().any(|title| title == to),
            "#{to} of {titles:?}"
        );
        count += 1;
    }
    assert!(count > 15, "{count} links");
}

fn as_json(text: &str) -> Value {
    toml::from_str(text).unwrap()
}

fn faults(validator: &jsonschema::Validator, value: &Value) -> Vec<String> {
    let errors = validator.iter_errors(value);
    errors
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect()
}

fn validator() -> jsonschema::Validator {
    jsonschema::draft202012::new(&schema()).unwrap()
}

#[test]
fn the_schema_takes_what_segue_takes() {
    let validator = validator();
    let with_defaults = uncommented(EXAMPLE);
    for text in [FULL, EXAMPLE, &with_defaults, "agents.a = {}"] {
        assert_eq!(faults(&validator, &as_json(text)), [""; 0], "{text}");
    }
    let schema = schema();
    let meta = jsonschema::draft202012::meta::validate(&schema);
    assert!(meta.is_ok(), "{meta:?}");
}

/// An unknown key is refused in every table that the full file has, and it has all of them.
#[test]
fn the_schema_refuses_unknown_keys_everywhere() {
    let validator = validator();
    let full = as_json(FULL);
    let mut tables = Vec::new();
    paths(&full, String::new(), &mut tables);
    // Their keys are free: variables, agents and components.
    let free =
        |path: &str| path.ends_with("/env") || path.ends_with("/components") || path == "/agents";
    let mut refused = 0;
    for path in tables.iter().filter(|path| !free(path)) {
        let mut value = full.clone();
        let table = value.pointer_mut(path).unwrap();
        table["unknown"] = json!(1);
        assert_ne!(
            faults(&validator, &value),
            [""; 0],
            "unknown key in {path:?}"
        );
        refused += 1;
    }
    assert!(refused >= keys::ALL.len(), "{refused} tables of {tables:?}");
}

/// Paths of all tables.
fn paths(value: &Value, at: String, found: &mut Vec<String>) {
    match value {
        Value::Object(table) => {
            for (key, value) in table {
                paths(value, format!("{at}/{key}"), found);
            }
            found.push(at);
        }
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                paths(value, format!("{at}/{index}"), found);
            }
        }
        _ => {}
    }
}

#[test]
fn the_schema_refuses_what_a_value_cannot_be() {
    let validator = validator();
    for bad in [
        "",
        "agents = {}",
        "agents.a.workers = 0",
        "agents.a.workers = \"2\"",
        "agents.a.standby = \"soon\"",
        "agents.a.steps = [{ share = \"10%\" }]",
        "agents.a.steps = [{ min_calls = 1 }]",
        "agents.a.rules = [{ release = \"v\" }]",
        "agents.a.rules = [{ header = \"X\", caller = \"1\", release = \"v\" }]",
        "agents.a.stragglers.policy = \"kill\"",
        "agents.a.approval = {}",
        "agents.a.hooks.before_deploy = {}",
        "agents.a.components.engine = {}",
        "agents.a.components.\"a b\".command = [\"x\"]",
        "agents.a.webhooks = [{ name = \"x\", url = \"ftp://x\" }]",
        "agents.\"a b\" = {}",
        "api.rate_limit = 0\nagents.a = {}",
        "notify = [{ name = \"x\" }]\nagents.a = {}",
    ] {
        assert_ne!(faults(&validator, &as_json(bad)), [""; 0], "{bad}");
        assert!(parse("segue.toml", bad).is_err(), "{bad}");
    }
}
