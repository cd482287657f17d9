//! Reads who is told of decisions, and addresses that Segue calls by itself.

use std::collections::BTreeMap;

use super::bounds;
use super::keys::{FORMATS, NOTIFY};
use super::reader::{Item, Section, quoted};
use super::values::{each, network, placeholders, url, word};
use super::{NotifyFormat, NotifySpec, Outbound};
use crate::names::{BadName, Label};
use crate::rollout::FACT_NAMES;

/// Placeholders of a notification.
const PLACEHOLDERS: [&str; 5] = ["agent", "event", "release", "actor", "reason"];

/// Names that are taken, each with its place.
#[derive(Debug, Default)]
pub(super) struct Names<'a>(BTreeMap<&'a str, usize>);

impl<'a> Names<'a> {
    /// The name of a table, which no other one has.
    pub(super) fn take(&mut self, section: &Section<'a>) -> Option<String> {
        let item = section.need("name", "give it one: name = \"ops\"")?;
        let text = item.text()?;
        // The same letters as all names: it is shown in logs and metrics.
        if let Err(bad) = text.parse::<Label>() {
            let message = BadName {
                what: "name",
                ..bad
            };
            return item.fault(message.to_string(), "such as \"ops\" or \"change-board\"");
        }
        if let Some(first) = self.0.get(text) {
            let line = item.line_of(*first);
            let message = format!("{} is already taken on line {line}", quoted(text));
            return item.fault(message, "give each its own name");
        }
        self.0.insert(text, item.at);
        Some(text.to_owned())
    }
}

/// An address that Segue calls, and how.
pub(super) fn read_outbound(section: &Section<'_>) -> Option<Outbound> {
    let url = section
        .need("url", "say where to: url = \"https://example.com/path\"")
        .and_then(url);
    let secret_file = section.read_option("secret_file", |item| Some(item.filled()?.to_owned()));
    let allow = section.read("allow", Vec::new(), |item| {
        each(item, bounds::ITEMS_MAX, network)
    });
    Some(Outbound {
        url: url?,
        secret_file,
        allow,
    })
}

/// Who is told.
pub(super) fn read_notify(top: &Section<'_>) -> Vec<NotifySpec> {
    let Some(items) = top
        .item("notify")
        .and_then(|item| item.items(bounds::NOTIFY_MAX))
    else {
        return Vec::new();
    };
    let mut names = Names::default();
    items
        .into_iter()
        .filter_map(|item| read_one(item, &mut names))
        .collect()
}

fn read_one<'a>(item: Item<'a>, names: &mut Names<'a>) -> Option<NotifySpec> {
    const WHY: &str = "\"json\": the audit entry; \"slack\": a text for a chat; \"cdevents\": CDEvents \
                       in CloudEvents";
    let section = item.section(&NOTIFY)?;
    let formats = [
        NotifyFormat::Json,
        NotifyFormat::Slack,
        NotifyFormat::Cdevents,
    ];
    let words: Vec<_> = FORMATS.into_iter().zip(formats).collect();
    let name = names.take(&section);
    let to = read_outbound(&section);
    let format = section.read("format", NotifyFormat::default(), |item| {
        word(item, &words, WHY)
    });
    let events = section.read("events", Vec::new(), |item| {
        each(item, bounds::ITEMS_MAX, event)
    });
    let template = section.read_option("template", template);
    Some(NotifySpec {
        name: name?,
        to: to?,
        format,
        events,
        template,
    })
}

fn event(item: Item<'_>) -> Option<String> {
    let text = item.text()?;
    if FACT_NAMES.contains(&text) {
        return Some(text.to_owned());
    }
    let message = format!("`{}`: {} is no decision", item.name, quoted(text));
    item.fault(message, format!("known are {}", FACT_NAMES.join(", ")))
}

fn template(item: Item<'_>) -> Option<String> {
    let text = item.filled()?;
    let known = PLACEHOLDERS.map(|name| format!("{{{name}}}")).join(", ");
    if let Some(name) = placeholders(text).find(|name| !PLACEHOLDERS.contains(name)) {
        let message = format!("`{}`: unknown placeholder `{{{name}}}`", item.name);
        return item.fault(message, format!("known are {known}"));
    }
    if text.len() > bounds::TEMPLATE_BYTES_MAX {
        let message = format!(
            "`{}` is longer than {} bytes",
            item.name,
            bounds::TEMPLATE_BYTES_MAX
        );
        return item.fault(message, "a notification is a line or two");
    }
    Some(text.to_owned())
}
