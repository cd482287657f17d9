//! The JSON Schema of the file, for editors and other tools. Made from the keys.
//!
//! It says what a single value may be. What several of them must be together (versions, circles,
//! shares that rise) only [`parse`](super::parse()) knows.

use serde_json::{Map, Value, json};

use super::keys::{Fallback, Key, Keys, Kind, Need, TOP};
use super::reference::plain;
use crate::names::NAME_BYTES_MAX;

/// Where the schema is published.
pub const SCHEMA_ID: &str = "https://segue.dev/schema/segue.toml.json";

/// The JSON Schema of `segue.toml` (draft 2020-12).
pub fn schema() -> Value {
    let mut defs = Map::new();
    define(&TOP, &mut defs);
    let mut root = Map::new();
    root.insert(
        "$schema".to_owned(),
        json!("https://json-schema.org/draft/2020-12/schema"),
    );
    root.insert("$id".to_owned(), json!(SCHEMA_ID));
    root.insert("title".to_owned(), json!("segue.toml"));
    let top = defs.remove(&def_name(&TOP));
    if let Some(Value::Object(top)) = top {
        root.extend(top);
    }
    root.insert("$defs".to_owned(), Value::Object(defs));
    Value::Object(root)
}

/// The name of a table in the schema: `agents.NAME.smoke` is `agent.smoke`.
fn def_name(keys: &Keys) -> String {
    let header = keys.header.trim_matches(['[', ']']);
    header
        .replace("agents.NAME", "agent")
        .replace("components.NAME", "component")
}

/// Adds a table, and those that are in it.
fn define(keys: &Keys, defs: &mut Map<String, Value>) {
    let properties: Map<String, Value> = keys
        .rows
        .iter()
        .map(|key| (key.name.to_owned(), property(key, defs)))
        .collect();
    let required: Vec<&str> = keys
        .rows
        .iter()
        .filter(|key| matches!(key.default, Fallback::Required))
        .map(|key| key.name)
        .collect();
    let mut table = Map::new();
    table.insert("type".to_owned(), json!("object"));
    table.insert("additionalProperties".to_owned(), json!(false));
    table.insert("properties".to_owned(), Value::Object(properties));
    if !required.is_empty() {
        table.insert("required".to_owned(), json!(required));
    }
    let each = |names: &[&str]| -> Vec<Value> {
        let names = names.iter();
        names.map(|name| json!({ "required": [name] })).collect()
    };
    match keys.need {
        Need::Any => {}
        Need::Of(names) => {
            table.insert("anyOf".to_owned(), json!(each(names)));
        }
        Need::OneOf(names) => {
            table.insert("oneOf".to_owned(), json!(each(names)));
        }
    }
    defs.insert(def_name(keys), Value::Object(table));
}

fn property(key: &Key, defs: &mut Map<String, Value>) -> Value {
    let mut property = of_kind(&key.kind, defs);
    property.insert("description".to_owned(), json!(plain(key)));
    if let Fallback::Value(text) = key.default {
        property.insert("default".to_owned(), default(text));
    }
    Value::Object(property)
}

/// A default as JSON.
fn default(text: &str) -> Value {
    let table: Map<String, Value> =
        toml::from_str(&format!("x = {text}")).expect("defaults are TOML");
    table["x"].clone()
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

fn of_kind(kind: &Kind, defs: &mut Map<String, Value>) -> Map<String, Value> {
    object(match kind {
        Kind::Text => json!({ "type": "string" }),
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::Count(bound) => {
            json!({ "type": "integer", "minimum": bound.min, "maximum": bound.max })
        }
        Kind::Calls(bound) => {
            json!({ "type": "integer", "minimum": bound.min, "maximum": bound.max })
        }
        Kind::Duration(_) => json!({
            "type": "string",
            "pattern": r"^[0-9]{1,9}(\.[0-9]{1,9})?\s*(ms|s|m|h)$",
        }),
        Kind::Share(_) => json!({
            "type": "string",
            "pattern": r"^[0-9]{1,9}(\.[0-9]{1,2})?\s*%$",
        }),
        Kind::Word(words) => json!({ "enum": words }),
        Kind::Address => json!({ "type": "string", "pattern": r"^.+:[0-9]{1,5}$" }),
        Kind::Path => json!({ "type": "string", "pattern": r"^/[!-~]*$" }),
        Kind::Url => {
            json!({ "type": "string", "format": "uri", "pattern": r"^https?://[^@#\s]+$" })
        }
        Kind::Source => json!({
            "type": "string",
            "pattern": r"^(header|query|cookie|form|path):.+$",
        }),
        Kind::Network => json!({ "type": "string", "pattern": r"^[0-9a-fA-F.:]+(/[0-9]{1,3})?$" }),
        Kind::Name => named(),
        Kind::Version => json!({
            "type": "string",
            "pattern": r"^v?[0-9]+(\.[0-9]+){0,2}([-+].+)?$|\{release\}",
        }),
        Kind::Requirement => json!({
            "type": "string",
            "pattern": r"^\s*[A-Za-z0-9_-][A-Za-z0-9._-]*\s*[<>=~^*]",
        }),
        Kind::List(item, max) => {
            json!({ "type": "array", "items": of_kind(item, defs), "maxItems": max })
        }
        Kind::OneOrMore(item, max) => {
            let one = of_kind(item, defs);
            let list = json!({ "type": "array", "items": one, "maxItems": max });
            json!({ "anyOf": [one, list] })
        }
        Kind::Map => json!({
            "type": "object",
            "propertyNames": { "pattern": "^[A-Za-z_][A-Za-z0-9_]*$" },
            "additionalProperties": { "type": "string" },
        }),
        Kind::Table(keys) => reference_to(keys, defs),
        Kind::Tables(keys, max) => {
            json!({ "type": "array", "items": reference_to(keys, defs), "maxItems": max })
        }
        Kind::Named(keys, max) => json!({
            "type": "object",
            "propertyNames": named(),
            "additionalProperties": reference_to(keys, defs),
            "minProperties": usize::from(keys.header == "[agents.NAME]"),
            "maxProperties": max,
        }),
    })
}

fn named() -> Value {
    json!({
        "type": "string",
        "pattern": "^[A-Za-z0-9_-][A-Za-z0-9._-]*$",
        "maxLength": NAME_BYTES_MAX,
    })
}

fn reference_to(keys: &Keys, defs: &mut Map<String, Value>) -> Value {
    let name = def_name(keys);
    if !defs.contains_key(&name) {
        define(keys, defs);
    }
    json!({ "$ref": format!("#/$defs/{name}") })
}
