//! `segue audit`: each decision, with what was known when it was taken.

use segue_core::audit::Entry;
use serde::Serialize;

use crate::args::{AuditArgs, AuditDo, Format};
use crate::client::Client;
use crate::exit::{Exit, Trouble};
use crate::home::Home;
use crate::output;

/// Entries asked for at once; the API gives no more.
const PAGE: usize = 1_000;

/// Hexadecimal digits of a digest, and how many of them people are shown, as elsewhere.
const DIGEST_LEN: usize = 64;
const DIGITS: usize = 12;

#[derive(Serialize)]
struct View {
    entries: Vec<Entry>,
}

pub(crate) fn run(home: &Home, format: Format, args: &AuditArgs) -> anyhow::Result<Exit> {
    let client = Client::find(home)?;
    if args.verify || args.what == Some(AuditDo::Verify) {
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
    let view = View {
        entries: entries(&client, args)?,
    };
    match format {
        // JSON lines, one event each, as log pipelines take them in.
        Format::Json => {
            for entry in &view.entries {
                output::line(&serde_json::to_string(&cloud_event(entry))?);
            }
        }
        Format::Yaml | Format::Table => output::data(format, &view, || {
            let rows: Vec<Vec<String>> = view.entries.iter().map(row).collect();
            output::table(&["SEQ", "AT", "AGENT", "BY", "DECISION", "PHASE"], &rows)
        }),
    }
    Ok(Exit::Ok)
}

/// The entries that are asked for, oldest first.
fn entries(client: &Client, args: &AuditArgs) -> Result<Vec<Entry>, Trouble> {
    let agent = args.agent.as_deref();
    if !args.all && args.after.is_none() {
        return newest(client, args.limit, agent);
    }
    let (mut after, mut found) = (args.after.unwrap_or(0), Vec::new());
    let limit = if args.all { usize::MAX } else { args.limit };
    while found.len() < limit {
        let page = client.audit(after, PAGE.min(limit - found.len()), agent)?;
        let Some(last) = page.entries.last() else {
            break;
        };
        after = last.seq;
        found.extend(page.entries);
    }
    Ok(found)
}

/// The last `limit` entries, by pages from the end: the API lists forward only.
fn newest(client: &Client, limit: usize, agent: Option<&str>) -> Result<Vec<Entry>, Trouble> {
    let mut before = client.status()?.journal.entries;
    let mut found = Vec::new();
    while before > 0 && found.len() < limit {
        let after = before.saturating_sub(PAGE as u64);
        let mut page = client.audit(after, PAGE, agent)?.entries;
        // What is written meanwhile is on a page that was read already, or newer than all.
        page.retain(|entry| entry.seq <= before);
        page.append(&mut found);
        found = page;
        before = after;
    }
    Ok(found.split_off(found.len().saturating_sub(limit)))
}

fn row(entry: &Entry) -> Vec<String> {
    // By its name, as `events` of `[[notify]]` have it.
    let mut decision = entry.fact["fact"].as_str().unwrap_or("?").to_owned();
    for key in [
        "release", "gate", "attempt", "worker", "gateway", "share", "step", "reason", "why",
    ] {
        let text = match &entry.fact[key] {
            // A digest is known by its first digits.
            serde_json::Value::String(text) if is_digest(text) => text[..DIGITS].to_owned(),
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Number(number) => number.to_string(),
            // A release by its label, a gate of many by its name.
            serde_json::Value::Object(object) => {
                let name = ["label", "webhook"].iter().find_map(|key| object.get(*key));
                name.and_then(|name| name.as_str()).unwrap_or("").to_owned()
            }
            _ => continue,
        };
        decision.extend([" ", key, "=", &text]);
    }
    vec![
        entry.seq.to_string(),
        output::utc(entry.at),
        entry.agent.to_string(),
        entry.actor.clone(),
        decision,
        entry.inputs["phase"].as_str().unwrap_or("").to_owned(),
    ]
}

fn is_digest(text: &str) -> bool {
    text.len() == DIGEST_LEN && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The entry as a `CloudEvent` (`CloudEvents` 1.0, JSON format).
fn cloud_event(entry: &Entry) -> serde_json::Value {
    serde_json::json!({
        "specversion": "1.0",
        "id": entry.seq.to_string(),
        "source": format!("segue/{}", entry.agent),
        "type": format!("dev.segue.{}.v1", entry.fact["fact"].as_str().unwrap_or("unknown")),
        "time": output::utc(entry.at),
        "datacontenttype": "application/json",
        "data": entry,
    })
}
