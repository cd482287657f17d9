//! `segue audit`: each decision, with what was known when it was taken.

use segue_core::audit::Entry;

use crate::args::{AuditArgs, Format};
use crate::client::Client;
use crate::exit::Exit;
use crate::home::Home;
use crate::output;

pub(crate) fn run(home: &Home, format: Format, args: &AuditArgs) -> anyhow::Result<Exit> {
    let client = Client::find(home)?;
    if args.verify {
        let view = client.verify()?;
        output::data(format, &view, || match &view.error {
            None => format!(
                "{} entries, the chain holds; head {}",
                view.entries, view.head
            ),
            Some(error) => format!("the chain is broken: {error}"),
        });
        return Ok(if view.ok { Exit::Ok } else { Exit::Failed });
    }
    let view = client.audit(args.after, args.limit, args.agent.as_deref())?;
    match format {
        // JSON lines, one event each, as log pipelines take them in.
        Format::Json => {
            for entry in &view.entries {
                output::line(&serde_json::to_string(&cloud_event(entry))?);
            }
        }
        Format::Yaml | Format::Table => output::data(format, &view, || {
            let rows: Vec<Vec<String>> = view.entries.iter().map(row).collect();
            output::table(
                &["SEQ", "AT (UNIX MS)", "AGENT", "BY", "DECISION", "PHASE"],
                &rows,
            )
        }),
    }
    Ok(Exit::Ok)
}

fn row(entry: &Entry) -> Vec<String> {
    let mut decision = entry.fact["fact"].as_str().unwrap_or("?").replace('_', " ");
    for key in [
        "release", "worker", "gateway", "share", "step", "reason", "why",
    ] {
        let text = match &entry.fact[key] {
            serde_json::Value::String(text) => text.chars().take(60).collect(),
            serde_json::Value::Number(number) => number.to_string(),
            serde_json::Value::Object(object) => object["label"].as_str().unwrap_or("").to_owned(),
            _ => continue,
        };
        // A digest is known by its first digits.
        let text = if text.len() >= 60 {
            text[..12].to_owned()
        } else {
            text
        };
        decision.extend([" ", key, "=", &text]);
    }
    vec![
        entry.seq.to_string(),
        entry.at.0.to_string(),
        entry.agent.to_string(),
        entry.actor.clone(),
        decision,
        entry.inputs["phase"].as_str().unwrap_or("").to_owned(),
    ]
}

/// The entry as a `CloudEvent` (`CloudEvents` 1.0, JSON format).
fn cloud_event(entry: &Entry) -> serde_json::Value {
    serde_json::json!({
        "specversion": "1.0",
        "id": entry.seq.to_string(),
        "source": format!("segue/{}", entry.agent),
        "type": format!("dev.segue.{}.v1", entry.fact["fact"].as_str().unwrap_or("unknown")),
        "time_unix_ms": entry.at,
        "datacontenttype": "application/json",
        "data": entry,
    })
}
