//! `segue diff`: what tells two releases apart.

use segue_controller::api::wire::{ChangeView, DiffView};

use crate::args::{DiffArgs, Format};
use crate::client::Client;
use crate::exit::Exit;
use crate::home::Home;
use crate::output;

pub(crate) fn run(home: &Home, format: Format, args: &DiffArgs) -> anyhow::Result<Exit> {
    let client = Client::find(home)?;
    let agent = client.one_agent(args.agent.as_deref())?;
    let view = client.diff(
        agent.name.as_str(),
        args.from.as_deref(),
        args.to.as_deref(),
    )?;
    output::data(format, &view, || text(&view));
    Ok(Exit::Ok)
}

fn text(view: &DiffView) -> String {
    let (from, to) = (&view.from, &view.to);
    if view.changes.is_empty() {
        return format!("{from} and {to} have the same content");
    }
    let mut lines = vec![format!("{from} → {to}")];
    for change in &view.changes {
        lines.push(change.field.clone());
        lines.extend(sides(change));
    }
    lines.join("\n")
}

fn sides(change: &ChangeView) -> Vec<String> {
    if change.secret {
        return vec!["  ~ it differs; it looks like a secret and is not shown".to_owned()];
    }
    let side = |mark: char, value: &Option<String>| {
        let lines = value.iter().flat_map(|value| value.lines());
        let lines = lines.map(|line| format!("  {mark} {line}"));
        lines.collect::<Vec<_>>()
    };
    [side('-', &change.before), side('+', &change.after)].concat()
}
