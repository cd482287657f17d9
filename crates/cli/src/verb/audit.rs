//! `segue audit`: each decision, with what was known when it was taken.

mod openrtc;

use std::time::Duration;

use segue_core::audit::Entry;
use serde::Serialize;

use self::openrtc::Filter;
use crate::args::{AuditArgs, AuditDo, AuditExportArgs, AuditTailArgs, Format};
use crate::client::Client;
use crate::exit::{Exit, Trouble};
use crate::home::Home;
use crate::output;

/// Entries asked for at once; the API gives no more.
const PAGE: usize = 1_000;

/// How often a log that is followed is asked for more.
const FOLLOW_EVERY: Duration = Duration::from_millis(300);

/// Hexadecimal digits of a digest, and how many of them people are shown, as elsewhere.
const DIGEST_LEN: usize = 64;
const DIGITS: usize = 12;

#[derive(Serialize)]
struct View {
    entries: Vec<Entry>,
}

pub(crate) async fn run(home: &Home, format: Format, args: &AuditArgs) -> anyhow::Result<Exit> {
    match &args.what {
        Some(AuditDo::Tail(args)) => return tail(home, format, args).await,
        Some(AuditDo::Export(args)) => return export(home, args),
        Some(AuditDo::Verify) => return verify(home, format),
        None if args.verify => return verify(home, format),
        None => {}
    }
    let filter = Filter::new(&args.event)?;
    let client = Client::find(home)?;
    let view = View {
        entries: entries(&client, args, &filter)?,
    };
    match format {
        // JSON lines, one event each, as log pipelines take them in.
        Format::Json => {
            for entry in &view.entries {
                event_line(entry);
            }
        }
        Format::Yaml | Format::Table => output::data(format, &view, || {
            let rows: Vec<Vec<String>> = view.entries.iter().map(row).collect();
            output::table(&["SEQ", "AT", "AGENT", "BY", "DECISION", "PHASE"], &rows)
        }),
    }
    Ok(Exit::Ok)
}

fn verify(home: &Home, format: Format) -> anyhow::Result<Exit> {
    let view = Client::find(home)?.verify()?;
    output::data(format, &view, || match &view.error {
        None => format!(
            "{} entries, the chain holds; head {}",
            view.entries, view.head
        ),
        Some(error) => format!("the chain is broken: {error}"),
    });
    Ok(if view.ok { Exit::Ok } else { Exit::Failed })
}

/// Every entry, page by page: a log is longer than what fits in memory.
fn export(home: &Home, args: &AuditExportArgs) -> anyhow::Result<Exit> {
    let filter = Filter::new(&args.event)?;
    let client = Client::find(home)?;
    let mut after = args.after;
    loop {
        let page = client.audit(after, PAGE, args.agent.as_deref())?.entries;
        let Some(last) = page.last() else {
            return Ok(Exit::Ok);
        };
        after = last.seq;
        for entry in page.iter().filter(|is| filter.takes(is)) {
            event_line(entry);
        }
    }
}

async fn tail(home: &Home, format: Format, args: &AuditTailArgs) -> anyhow::Result<Exit> {
    let filter = Filter::new(&args.event)?;
    let client = Client::find(home)?;
    let agent = args.agent.as_deref();
    let head = client.status()?.journal.entries;
    let newest = newest(&client, args.lines, agent, &filter)?;
    for entry in &newest {
        told(format, entry);
    }
    // What was written between the two answers follows the first one.
    let mut after = newest.last().map_or(head, |last| last.seq.max(head));
    let mut away = false;
    loop {
        match client.audit(after, PAGE, agent) {
            Ok(page) => {
                away = false;
                after = page.entries.last().map_or(after, |last| last.seq);
                for entry in page.entries.iter().filter(|is| filter.takes(is)) {
                    told(format, entry);
                }
            }
            // It comes back, and nothing is missed: entries are asked for by number.
            Err(error) if error.exit == Exit::Unreachable => {
                if !away {
                    output::say("no controller answers; waiting for it");
                }
                away = true;
            }
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(Exit::Ok),
            () = tokio::time::sleep(FOLLOW_EVERY) => {}
        }
    }
}

/// One entry of a log that is followed: no columns, because the next one is not known.
fn told(format: Format, entry: &Entry) {
    match format {
        Format::Json => event_line(entry),
        Format::Yaml => output::data(format, &[entry], String::new),
        Format::Table => output::line(&row(entry).join("  ")),
    }
}

/// The entries that are asked for, oldest first.
fn entries(client: &Client, args: &AuditArgs, filter: &Filter) -> Result<Vec<Entry>, Trouble> {
    let agent = args.agent.as_deref();
    if !args.all && args.after.is_none() {
        return newest(client, args.limit, agent, filter);
    }
    let (mut after, mut found) = (args.after.unwrap_or(0), Vec::new());
    let limit = if args.all { usize::MAX } else { args.limit };
    while found.len() < limit {
        let page = client.audit(after, PAGE, agent)?;
        let Some(last) = page.entries.last() else {
            break;
        };
        after = last.seq;
        found.extend(page.entries.into_iter().filter(|is| filter.takes(is)));
    }
    found.truncate(limit);
    Ok(found)
}

/// The last `limit` entries, by pages from the end: the API lists forward only.
fn newest(
    client: &Client,
    limit: usize,
    agent: Option<&str>,
    filter: &Filter,
) -> Result<Vec<Entry>, Trouble> {
    let mut before = client.status()?.journal.entries;
    let mut found = Vec::new();
    while before > 0 && found.len() < limit {
        let after = before.saturating_sub(PAGE as u64);
        let mut page = client.audit(after, PAGE, agent)?.entries;
        // What is written meanwhile is on a page that was read already, or newer than all.
        page.retain(|entry| entry.seq <= before && filter.takes(entry));
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

fn event_line(entry: &Entry) {
    output::line(&cloud_event(entry).to_string());
}

/// The entry as a `CloudEvent` (`CloudEvents` 1.0, JSON format).
fn cloud_event(entry: &Entry) -> serde_json::Value {
    let mut event = serde_json::json!({
        "specversion": "1.0",
        "id": entry.seq.to_string(),
        "source": format!("segue/{}", entry.agent),
        "type": format!("dev.segue.{}.v1", openrtc::fact(entry)),
        "time": output::utc(entry.at),
        "datacontenttype": "application/json",
        "data": entry,
    });
    if let Some(name) = openrtc::name(entry) {
        event["openrtc"] = name.into();
    }
    event
}
