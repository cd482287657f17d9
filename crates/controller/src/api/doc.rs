//! The description of the API (`OpenAPI` 3.1), made from the code: handlers say what they take and
//! answer, the table of endpoints says who may use them and what they refuse, and this adds what
//! holds for all.

use serde_json::{Map, Value, json};
use utoipa::OpenApi;

use super::roles::{CALL_STATE, ENDPOINTS, Endpoint, Needs};
use super::wire::{Problem, Role};

/// What the paths are collected under.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Segue",
        version = "1",
        description = "The admin API of Segue: releases of voice agents are replaced under live calls. Rules that hold for every path are in docs/reference/api.md."
    ),
    components(schemas(Problem)),
    tags(
        (name = "read", description = "Looking"),
        (name = "steer", description = "Deciding"),
        (name = "calls", description = "The state of calls, for agents"),
        (name = "tokens", description = "Who may do what")
    )
)]
pub(super) struct Frame;

/// The description, whole.
pub fn document() -> Value {
    let (_, collected) = super::endpoints().split_for_parts();
    let mut document = serde_json::to_value(collected).expect("a description always serialises");
    for schema in object(&mut document["components"]["schemas"]).values_mut() {
        flatten(schema, &SHARED);
    }
    document["components"]["securitySchemes"] =
        json!({ "token": { "type": "http", "scheme": "bearer" } });
    document["components"]["headers"] = json!({
        "RetryAfter": {
            "description": "Seconds after which it is worth asking again",
            "schema": { "type": "integer", "minimum": 1 }
        }
    });
    for endpoint in ENDPOINTS {
        let method = endpoint.method.to_ascii_lowercase();
        let operation = &mut document["paths"][endpoint.path][method.as_str()];
        complete(operation, endpoint);
        mend_parameters(operation);
    }
    document
}

/// A type by its name, and how it looks.
type Shared = (&'static str, fn() -> Value);

/// What is put into bodies by `flatten`; the macro describes it by reference, which fits no body
/// that refuses unknown fields.
const SHARED: [Shared; 2] = [
    ("Ask", schema_of::<super::wire::Ask>),
    ("TokenView", schema_of::<super::wire::TokenView>),
];

fn schema_of<T: utoipa::PartialSchema>() -> Value {
    serde_json::to_value(T::schema()).expect("a description always serialises")
}

fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut().expect("it was just made one")
}

/// Makes one object of `allOf` with shared parts.
fn flatten(schema: &mut Value, shared: &[Shared]) {
    let Some(parts) = schema.get_mut("allOf").and_then(Value::as_array_mut) else {
        return;
    };
    let mut whole = Map::new();
    let is_ask = |part: &Value| part["$ref"] == "#/components/schemas/Ask";
    let shared_by_body = parts.iter().any(is_ask);
    for part in std::mem::take(parts) {
        let name = part["$ref"]
            .as_str()
            .and_then(|name| name.rsplit('/').next());
        let part = match name {
            Some(name) => shared
                .iter()
                .find(|(of, _)| *of == name)
                .map(|(_, schema)| schema())
                .expect("what is flattened is listed above"),
            None => part,
        };
        let Value::Object(part) = part else { continue };
        for (name, value) in part {
            match (whole.get_mut(&name), value) {
                (Some(Value::Object(have)), Value::Object(more)) => have.extend(more),
                (Some(Value::Array(have)), Value::Array(more)) => have.extend(more),
                (_, value) => {
                    whole.insert(name, value);
                }
            }
        }
    }
    if shared_by_body {
        whole.insert("additionalProperties".to_owned(), json!(false));
    }
    let described = schema.get("description").cloned();
    whole.extend(described.map(|text| ("description".to_owned(), text)));
    *schema = Value::Object(whole);
}

/// Adds what the guard and the framework answer, who may ask, and the header of the key.
fn complete(operation: &mut Value, endpoint: &Endpoint) {
    let writes = endpoint.method != "GET";
    let roles: Vec<&str> = Role::ALL
        .into_iter()
        .filter(|role| endpoint.needs.are_met_by(*role))
        .map(Role::word)
        .collect();
    let operation = object(operation);
    operation.insert("x-segue-roles".to_owned(), json!(roles));
    let mut statuses = vec![400, 403, 429];
    if endpoint.needs == Needs::Nothing {
        operation.insert("security".to_owned(), json!([]));
    } else {
        operation.insert("security".to_owned(), json!([{ "token": [] }]));
        statuses.extend([401, 503]);
    }
    if writes {
        statuses.extend([408, 413, 415]);
    }
    // The state of a call takes no key: no answer about it is kept.
    if writes && endpoint.path != CALL_STATE {
        statuses.extend([409, 422]);
        let key = json!({
            "name": "Idempotency-Key",
            "in": "header",
            "required": false,
            "description": "The same request with the same key is carried out once, and answered again for 24 hours",
            "schema": { "type": "string", "pattern": "^[!-~]{1,128}$" }
        });
        let parameters = operation.entry("parameters").or_insert_with(|| json!([]));
        parameters.as_array_mut().expect("a list").push(key);
    }
    if endpoint.refuses.contains(&412) && endpoint.path.starts_with("/v1/agents/") {
        let tag = json!({
            "name": "If-Match",
            "in": "header",
            "required": false,
            "description": "Only if the agent is still at this revision: its ETag",
            "schema": { "type": "string" }
        });
        let parameters = operation.entry("parameters").or_insert_with(|| json!([]));
        parameters.as_array_mut().expect("a list").push(tag);
        // Every field of a verb may be left out, and so may the body.
        let may_be_empty = !endpoint.path.ends_with("/deploy");
        if let Some(body) = operation.get_mut("requestBody").filter(|_| may_be_empty) {
            body["required"] = json!(false);
        }
    }
    statuses.extend(endpoint.refuses);
    statuses.sort_unstable();
    statuses.dedup();
    let responses = object(&mut operation["responses"]);
    for status in statuses {
        responses
            .entry(status.to_string())
            .or_insert_with(|| problem(status));
    }
}

/// A parameter is there or not; it is never `null`. And tags have a form.
fn mend_parameters(operation: &mut Value) {
    let parameters = operation
        .get_mut("parameters")
        .and_then(Value::as_array_mut);
    for parameter in parameters.into_iter().flatten() {
        let is_tag = matches!(
            parameter["name"].as_str(),
            Some("If-Match" | "If-None-Match")
        );
        let schema = &mut parameter["schema"];
        let mut kinds = schema["type"].as_array().into_iter().flatten();
        if let Some(kind) = kinds.rfind(|kind| *kind != "null").cloned() {
            schema["type"] = kind;
        }
        let mut choices = schema["oneOf"].as_array().into_iter().flatten();
        let choice = choices.rfind(|choice| choice["type"] != "null");
        if let Some(choice) = choice.cloned() {
            *schema = choice;
        }
        if is_tag {
            schema["pattern"] = json!(TAGS);
        }
    }
}

/// `*`, or entity tags of the kind that are given out here; a list may be empty.
const TAGS: &str = r#"^(\*|((W/)?"[0-9A-Za-z._-]{0,40}"(, (W/)?"[0-9A-Za-z._-]{0,40}")*)?)$"#;

fn problem(status: u16) -> Value {
    let mut response = json!({
        "description": meaning(status),
        "content": { "application/problem+json": {
            "schema": { "$ref": "#/components/schemas/Problem" }
        } }
    });
    if matches!(status, 409 | 429 | 503) {
        response["headers"] =
            json!({ "Retry-After": { "$ref": "#/components/headers/RetryAfter" } });
    }
    response
}

fn meaning(status: u16) -> &'static str {
    match status {
        400 => "The path, the query, a header or the body is wrong",
        401 => "No token, or one that is no good",
        403 => "Not with this role, by this name, or from a page",
        404 => "There is no such thing",
        408 => "The body took too long to come",
        409 => "Somebody else was faster, or this very request is being carried out",
        412 => "It is not what If-Match or If-None-Match demands",
        413 => "The body is too large",
        415 => "The body is of another type",
        422 => "It does not fit the state that things are in",
        429 => "Asked too often",
        503 => "It cannot be done now, and was not decided",
        _ => "Refused",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const PUBLISHED: &str = include_str!("../../../../docs/reference/openapi.json");

    /// `SEGUE_REGENERATE=1` writes it anew.
    #[test]
    fn the_published_description_is_made_of_the_code() {
        let made = serde_json::to_string_pretty(&document()).unwrap() + "\n";
        if std::env::var("SEGUE_REGENERATE").is_ok() {
            let file = concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../docs/reference/openapi.json"
            );
            std::fs::write(file, made).unwrap();
            return;
        }
        assert!(
            PUBLISHED == made,
            "openapi.json is not what the code says; write it anew with `make reference`"
        );
    }

    #[test]
    fn the_table_and_the_handlers_know_the_same_endpoints() {
        let document = document();
        let mut described = BTreeSet::new();
        for (path, operations) in document["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                described.insert((method.to_ascii_uppercase(), path.clone()));
                assert!(operation["operationId"].is_string(), "{method} {path}");
            }
        }
        let table: BTreeSet<(String, String)> = ENDPOINTS
            .iter()
            .map(|endpoint| (endpoint.method.to_owned(), endpoint.path.to_owned()))
            .collect();
        assert_eq!(described, table);
        assert_eq!(table.len(), ENDPOINTS.len(), "no row is there twice");
    }

    #[test]
    fn the_page_about_the_api_names_every_endpoint_and_its_roles() {
        let page = include_str!("../../../../docs/reference/api.md");
        let who = |needs| match needs {
            Needs::Nothing => "anybody",
            Needs::Read => "readers",
            Needs::Operate => "operator, admin",
            Needs::Approve => "approver, admin",
            Needs::Dial => "worker, operator, admin",
            Needs::CallState | Needs::Report => "worker, admin",
            Needs::Administer => "admin",
        };
        for endpoint in ENDPOINTS {
            let begins = format!("| `{} {}` |", endpoint.method, endpoint.path);
            let line = page.lines().find(|line| line.starts_with(&begins));
            let line = line.unwrap_or_else(|| panic!("{begins} is not there"));
            let ends = format!("| {} |", who(endpoint.needs));
            assert!(line.ends_with(&ends), "{line}");
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn check(value: &Value, document: &Value) {
            match value {
                Value::Object(fields) => {
                    if let Some(Value::String(to)) = fields.get("$ref") {
                        let pointer = to.trim_start_matches('#');
                        assert!(document.pointer(pointer).is_some(), "{to}");
                    }
                    fields.values().for_each(|value| check(value, document));
                }
                Value::Array(values) => values.iter().for_each(|value| check(value, document)),
                _ => {}
            }
        }
        let document = document();
        assert_eq!(document["openapi"], "3.1.0");
        check(&document, &document);
    }
}
