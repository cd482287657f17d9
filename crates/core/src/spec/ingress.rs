//! Reads how requests are recognised as an agent's, and which of them are targeted.

use super::bounds;
use super::keys::{RULE, RULE_CONDITIONS};
use super::reader::{Item, Section, quoted};
use super::values::{Query, host, path, token};
use super::{Ingress, RuleWhen, Source, TargetRule};
use crate::names::Label;

/// The place of the call id in a path template.
const HOLE: &str = "{}";

/// Another way to write [`HOLE`], which says what it is for.
const NAMED_HOLE: &str = "{call_id}";

/// A host and path prefix that an agent answers, and where the file says so.
#[derive(Debug)]
pub(super) struct Claim {
    /// The host; empty for any.
    pub(super) host: String,
    /// The path prefix.
    pub(super) path: String,
    /// Offset of the host, or else of the path, or else of the agent's name.
    pub(super) at: usize,
}

/// How requests are recognised, and the claims that this makes. A bad host or path claims
/// nothing: one mistake is not reported as two.
pub(super) fn read_ingress(agent: &Section<'_>) -> (Ingress, Vec<Claim>) {
    let default = Ingress::default();
    let hosts = agent.read_sound("hosts", Vec::new(), read_hosts);
    let path = agent.read_sound("path", default.path.clone(), read_prefix);
    let claims = claims(agent, hosts.as_deref(), path.as_deref());
    let sources = |key, default| agent.read(key, default, read_sources);
    let ingress = Ingress {
        hosts: hosts
            .unwrap_or_default()
            .into_iter()
            .map(|(host, _)| host)
            .collect(),
        path: path.unwrap_or(default.path),
        call_id: sources("call_id", default.call_id),
        cohort: sources("cohort", default.cohort),
        caller: sources("caller", default.caller),
        tenant: sources("tenant", default.tenant),
        rules: agent.read("rules", default.rules, read_rules),
    };
    (ingress, claims)
}

fn read_hosts(item: Item<'_>) -> Option<Vec<(String, usize)>> {
    let read: Vec<_> = item
        .items_or_one(bounds::ITEMS_MAX)?
        .into_iter()
        .map(|item| Some((host(item)?, item.at)))
        .collect();
    read.into_iter().collect()
}

/// A path prefix. It ends at a segment, so a `/` at its end says nothing and is cut off.
fn read_prefix(item: Item<'_>) -> Option<String> {
    let prefix = path(item, Query::Refused)?.trim_end_matches('/');
    Some(if prefix.is_empty() { "/" } else { prefix }.to_owned())
}

fn claims(
    agent: &Section<'_>,
    hosts: Option<&[(String, usize)]>,
    path: Option<&str>,
) -> Vec<Claim> {
    let (Some(hosts), Some(path)) = (hosts, path) else {
        return Vec::new();
    };
    let claim = |host: &str, at| Claim {
        host: host.to_owned(),
        path: path.to_owned(),
        at,
    };
    if hosts.is_empty() {
        let at = agent.item("path").map_or(agent.at, |item| item.at);
        return vec![claim("", at)];
    }
    hosts.iter().map(|(host, at)| claim(host, *at)).collect()
}

fn read_sources(item: Item<'_>) -> Option<Vec<Source>> {
    let read: Vec<_> = item
        .items_or_one(bounds::ITEMS_MAX)?
        .into_iter()
        .map(source)
        .collect();
    read.into_iter().collect()
}

fn source(item: Item<'_>) -> Option<Source> {
    const HINT: &str = "write header:NAME, query:NAME, cookie:NAME, form:NAME or path:/prefix/{}";
    let text = item.text()?;
    let Some((kind, rest)) = text.split_once(':') else {
        let message = format!("`{}`: {} is not a source", item.name, quoted(text));
        return item.fault(message, HINT);
    };
    if rest.is_empty() {
        let message = format!("`{}`: {} names nothing", item.name, quoted(text));
        return item.fault(message, HINT);
    }
    match kind {
        "header" => Some(Source::Header(
            token(item, "header", rest)?.to_ascii_lowercase(),
        )),
        "query" => Some(Source::Query(rest.to_owned())),
        "cookie" => Some(Source::Cookie(token(item, "cookie", rest)?.to_owned())),
        "form" => Some(Source::Form(rest.to_owned())),
        "path" => path_template(item, rest),
        _ => {
            let message = format!("`{}`: unknown source {}", item.name, quoted(kind));
            item.fault(message, HINT)
        }
    }
}

fn path_template(item: Item<'_>, text: &str) -> Option<Source> {
    let fault = |what: &str, hint: &str| {
        item.fault(format!("`{}`: {} {what}", item.name, quoted(text)), hint)
    };
    if !text.starts_with('/') {
        return fault("does not start with `/`", "write path:/prefix/{}");
    }
    if text.contains(['?', '#']) {
        return fault(
            "is more than a path",
            "for a query parameter write query:NAME",
        );
    }
    let template = text.replace(NAMED_HOLE, HOLE);
    let holes = template.matches(HOLE).count();
    let other_braces = template.replace(HOLE, "").contains(['{', '}']);
    if holes != 1 || other_braces {
        return fault(
            &format!("must contain `{HOLE}` exactly once"),
            "write `{}` (or `{call_id}`) in the place of the value, as in path:/ws/{}",
        );
    }
    Some(Source::Path(template))
}

fn read_rules(item: Item<'_>) -> Option<Vec<TargetRule>> {
    let rules: Vec<_> = item
        .items(bounds::RULES_MAX)?
        .into_iter()
        .map(read_rule)
        .collect();
    rules.into_iter().collect()
}

fn read_rule(item: Item<'_>) -> Option<TargetRule> {
    let rule = item.section(&RULE)?;
    let release = rule
        .need("release", "name a label or digest: release = \"v2\"")
        .and_then(release);
    let when = condition(&rule).and_then(|(key, item)| read_condition(key, item));
    Some(TargetRule {
        when: when?,
        release: release?,
    })
}

/// The one condition of a rule.
fn condition<'a>(rule: &Section<'a>) -> Option<(&'static str, Item<'a>)> {
    const HINT: &str = "write exactly one of header, caller, tenant and list; a second rule may \
                        name the same release";
    let mut given: Vec<_> = RULE_CONDITIONS
        .into_iter()
        .filter_map(|key| Some((rule.key_at(key)?, key, rule.item(key)?)))
        .collect();
    given.sort_by_key(|(at, ..)| *at);
    match given[..] {
        [(_, key, item)] => Some((key, item)),
        [] => {
            rule.fault("the rule does not say which calls it is about", HINT);
            None
        }
        [(_, first, _), (at, second, item), ..] => item
            .placed(at)
            .fault(format!("the rule has both `{first}` and `{second}`"), HINT),
    }
}

fn read_condition(key: &str, item: Item<'_>) -> Option<RuleWhen> {
    match key {
        "header" => header_rule(item),
        "caller" => listed(item).map(RuleWhen::Caller),
        "tenant" => listed(item).map(RuleWhen::Tenant),
        "list" => listed(item).map(RuleWhen::List),
        _ => unreachable!("RULE_CONDITIONS has no key {key}"),
    }
}

fn header_rule(item: Item<'_>) -> Option<RuleWhen> {
    let text = item.text()?;
    let (name, equals) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    let name = token(item, "header", name)?.to_ascii_lowercase();
    if equals == Some("") {
        return item.fault(
            format!("`header`: {} compares with nothing", quoted(text)),
            "write \"NAME=value\", or \"NAME\" for any value",
        );
    }
    Some(RuleWhen::Header {
        name,
        equals: equals.map(str::to_owned),
    })
}

fn listed(item: Item<'_>) -> Option<Vec<String>> {
    let items = item.items_or_one(bounds::LISTED_MAX)?;
    if items.is_empty() {
        return item.fault(
            format!("`{}` is empty, so the rule matches no call", item.name),
            "list a value, or remove the rule",
        );
    }
    let read: Vec<_> = items
        .into_iter()
        .map(|item| item.filled().map(str::to_owned))
        .collect();
    read.into_iter().collect()
}

/// A label or a digest; both are names of the same form.
fn release(item: Item<'_>) -> Option<String> {
    let text = item.text()?;
    match text.parse::<Label>() {
        Ok(_) => Some(text.to_owned()),
        Err(bad) => item.fault(bad.to_string(), "name a label or digest: release = \"v2\""),
    }
}
