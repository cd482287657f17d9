//! What a receiver reads. Never what a release is made of: its environment may hold secrets; and
//! never the id of a call.

use segue_core::audit::Entry;
use segue_core::names::ReleaseId;
use segue_core::rollout::Fact;
use segue_core::spec::{NotifyFormat, NotifySpec};
use serde_json::{Value, json};

use crate::clock;
use crate::follow::About;
use crate::outbound::{Message, delivery_id};

/// Version of `CDEvents` that is spoken.
const CDEVENTS: &str = "0.5.0";
/// Version of its service events.
const SERVICE_EVENT: &str = "0.3.0";
/// What `CDEvents` calls an environment; Segue has one.
const ENVIRONMENT: &str = "default";
/// Longest text, in characters: chat programs cut off longer ones.
const TEXT_CHARS_MAX: usize = 2_000;

/// The message that tells a receiver of an entry.
pub(super) fn render(spec: &NotifySpec, entry: &Entry, fact: &Fact, about: &About) -> Message {
    let id = delivery_id(&["notify", &spec.name, &entry.hash]);
    let text = text(spec.template.as_deref(), entry, about);
    match spec.format {
        NotifyFormat::Json => Message::json(id.clone(), &body(&id, entry, about, &text)),
        NotifyFormat::Slack => Message::json(id, &json!({ "text": text })),
        NotifyFormat::Cdevents => {
            let event = cloud_event(&id, entry, fact, about, &text);
            Message::cloud_event(id, &event)
        }
    }
}

/// The text for people: the template's, or ours.
fn text(template: Option<&str>, entry: &Entry, about: &About) -> String {
    let release = about.label.as_deref().unwrap_or("-");
    let reason = about.reason.as_deref().unwrap_or("-");
    let text = match template {
        Some(template) => fill(template, |name| match name {
            "agent" => Some(entry.agent.as_str()),
            "event" => Some(&about.event),
            "release" => Some(release),
            "actor" => Some(&entry.actor),
            "reason" => Some(reason),
            _ => None,
        }),
        None => plain(entry, about),
    };
    text.chars().take(TEXT_CHARS_MAX).collect()
}

fn plain(entry: &Entry, about: &About) -> String {
    let mut text = format!("{}: {}", entry.agent, about.event.replace('_', " "));
    if let Some(label) = &about.label {
        text = format!("{text} {label}");
    }
    if let Some((_, other)) = &about.other {
        let word = if about.event.starts_with("roll") {
            "back to"
        } else {
            "after"
        };
        text = format!("{text} ({word} {other})");
    }
    if entry.actor != "segue" {
        text = format!("{text} by {}", entry.actor);
    }
    match &about.reason {
        Some(reason) => format!("{text}: {reason}"),
        None => text,
    }
}

/// Fills in what is in braces, once: what is filled in is not looked at again.
fn fill<'a>(template: &'a str, value: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut filled = String::new();
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        filled.push_str(&rest[..open]);
        let tail = &rest[open + 1..];
        let named = tail
            .find('}')
            .and_then(|end| Some((end, value(&tail[..end])?)));
        if let Some((end, value)) = named {
            filled.push_str(value);
            rest = &tail[end + 1..];
        } else {
            filled.push('{');
            rest = tail;
        }
    }
    filled + rest
}

fn body(id: &str, entry: &Entry, about: &About, text: &str) -> Value {
    let other = about.other.as_ref();
    json!({
        "id": id,
        "seq": entry.seq,
        "at": clock::rfc3339(entry.at),
        "agent": entry.agent,
        "event": about.event,
        "rollout": about.rollout,
        "release": about.release.map(|id| json!({ "id": id, "label": about.label })),
        "other": other.map(|(id, label)| json!({ "id": id, "label": label })),
        "actor": entry.actor,
        "reason": about.reason,
        "hash": entry.hash,
        "text": text,
    })
}

/// A fact that `CDEvents` has a word for is told in its words, and every other in ours.
fn cloud_event(id: &str, entry: &Entry, fact: &Fact, about: &About, text: &str) -> Value {
    let source = format!("/segue/agents/{}", entry.agent);
    let time = clock::rfc3339(entry.at);
    let ours = body(id, entry, about, text);
    let label = || about.label.clone().unwrap_or_default();
    let served = about.release.map(|release| (release, label()));
    // With what serves from then on; a service that is removed has none.
    let (kind, data) = match (fact, served, &about.other) {
        (Fact::Landed { .. }, Some(served), None) => service("deployed", Some(served)),
        (Fact::Landed { .. }, Some(served), Some(_)) => service("upgraded", Some(served)),
        (Fact::RolledBack { .. }, _, Some(back)) => service("rolledback", Some(back.clone())),
        (Fact::Retired { .. }, ..) => service("removed", None),
        _ => (format!("dev.segue.rollout.{}.v1", about.event), None),
    };
    let data = match data {
        None => ours,
        Some(Artifact(artifact)) => {
            let mut content = json!({ "environment": { "id": ENVIRONMENT } });
            if let Some((release, label)) = artifact {
                content["artifactId"] = json!(artifact_id(entry, release, &label));
            }
            let rollout = about.rollout.to_string();
            json!({
                "context": {
                    "specversion": CDEVENTS,
                    "id": id,
                    "chainId": delivery_id(&["rollout", entry.agent.as_str(), &rollout]),
                    "source": source,
                    "type": kind,
                    "timestamp": time,
                },
                "subject": { "id": entry.agent, "source": source, "content": content },
                "customData": { "segue": ours },
                "customDataContentType": "application/json",
            })
        }
    };
    json!({
        "specversion": "1.0",
        "id": id,
        "source": source,
        "type": kind,
        "subject": entry.agent,
        "time": time,
        "datacontenttype": "application/json",
        "data": data,
    })
}

/// What a service runs after an event of theirs, if anything: a release and its label.
struct Artifact(Option<(ReleaseId, String)>);

/// The type of an event of theirs, and its artifact.
fn service(word: &str, serves: Option<(ReleaseId, String)>) -> (String, Option<Artifact>) {
    let kind = format!("dev.cdevents.service.{word}.{SERVICE_EVENT}");
    (kind, Some(Artifact(serves)))
}

fn artifact_id(entry: &Entry, release: ReleaseId, label: &str) -> String {
    let (agent, digest) = (&entry.agent, String::from(release));
    format!("pkg:generic/{agent}@{label}?checksum=sha256:{digest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_filled_once() {
        let value = |name: &str| match name {
            "agent" => Some("desk"),
            "reason" => Some("{agent} said {"),
            _ => None,
        };
        for (template, filled) in [
            ("{agent}: {reason}", "desk: {agent} said {"),
            ("{other} {agent", "{other} {agent"),
            ("{{agent}}", "{desk}"),
            ("", ""),
        ] {
            assert_eq!(fill(template, value), filled, "{template}");
        }
    }
}
