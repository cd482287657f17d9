//! Reads who else must agree to a release, and what runs around it.

use super::bounds;
use super::keys::{APPROVAL, HOOK_AFTER, HOOK_BEFORE, HOOKS, Keys, WEBHOOK};
use super::notify::{Names, read_outbound};
use super::program::{Known, need_command};
use super::reader::{Item, Section};
use super::values::{duration, whole, word};
use super::{Approval, Before, Hook, Hooks, Webhook};
use crate::time::Millis;

/// Time for each try of a webhook, if it does not say.
const WEBHOOK_TIMEOUT: Millis = Millis::from_secs(5);

/// How often a webhook is asked again, if it does not say.
const WEBHOOK_RETRIES: u32 = 3;

/// Time for a hook, if it does not say.
const HOOK_TIMEOUT: Millis = Millis::from_secs(300);

/// Placeholders of a hook's command.
const PLACEHOLDERS: [&str; 2] = ["release", "agent"];

pub(super) fn read_webhooks(item: Item<'_>) -> Option<Vec<Webhook>> {
    let mut names = Names::default();
    let webhooks: Vec<_> = item
        .items(bounds::WEBHOOKS_MAX)?
        .into_iter()
        .map(|item| read_webhook(item, &mut names))
        .collect();
    webhooks.into_iter().collect()
}

fn read_webhook<'a>(item: Item<'a>, names: &mut Names<'a>) -> Option<Webhook> {
    let webhook = item.section(&WEBHOOK)?;
    let name = names.take(&webhook);
    let to = read_outbound(&webhook);
    let timeout = webhook.read("timeout", WEBHOOK_TIMEOUT, |item| {
        duration(item, &bounds::WEBHOOK_TIMEOUT)
    });
    let retries = webhook.read("retries", WEBHOOK_RETRIES, |item| {
        whole(item, &bounds::WEBHOOK_RETRIES)
    });
    Some(Webhook {
        name: name?,
        to: to?,
        timeout,
        retries,
    })
}

pub(super) fn read_approval(item: Item<'_>) -> Option<Approval> {
    const WHY: &str = "\"ramp\": before the first call; \"cutover\": before all of them";
    let approval = item.section(&APPROVAL)?;
    let before = approval.need("before", WHY)?;
    let words = [("ramp", Before::Ramp), ("cutover", Before::Cutover)];
    Some(Approval {
        before: word(before, &words, WHY)?,
    })
}

pub(super) fn read_hooks(item: Item<'_>) -> Option<Hooks> {
    let hooks = item.section(&HOOKS)?;
    Some(Hooks {
        before_deploy: read_hook(&hooks, "before_deploy", &HOOK_BEFORE),
        after_retire: read_hook(&hooks, "after_retire", &HOOK_AFTER),
    })
}

fn read_hook(hooks: &Section<'_>, key: &str, keys: &Keys) -> Option<Hook> {
    let hook = hooks.item(key)?.section(keys)?;
    let known = Known {
        names: &PLACEHOLDERS,
        absent: &[],
        components: None,
        depends_on: None,
    };
    let command = need_command(&hook, &known);
    let timeout = hook.read("timeout", HOOK_TIMEOUT, |item| {
        duration(item, &bounds::HOOK_TIMEOUT)
    });
    Some(Hook {
        command: command?,
        timeout,
    })
}
