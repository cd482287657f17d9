//! `segue rollback`: all new calls back to the release before, or one part of it.

use segue_controller::api::wire::{Ask, VerbBody};
use segue_controller::make::Part;

use crate::args::{Format, OnlyPart, RollbackArgs};
use crate::client::Client;
use crate::exit::Exit;
use crate::home::Home;
use crate::output;
use crate::verb::{act, deploy};

pub(crate) async fn run(home: &Home, format: Format, args: &RollbackArgs) -> anyhow::Result<Exit> {
    let Some(only) = args.only else {
        return act::run(home, format, "rollback", &args.verb);
    };
    let client = Client::find(home)?;
    let agent = client.one_agent(args.verb.agent.as_deref())?;
    let body = VerbBody {
        only: Some(part(only)),
        label: args.label.clone(),
        ask: Ask {
            actor: Some(act::operator()),
            reason: args.verb.reason.clone(),
            revision: args.verb.revision.or(Some(agent.revision)),
        },
        ..VerbBody::default()
    };
    let view = client.verb(agent.name.as_str(), "rollback", &body)?;
    if view.facts.iter().any(|fact| fact == "deployed") {
        return deploy::follow(&client, format, view, args.wait).await;
    }
    // Nothing else tells the two apart: it was an ordinary rollback.
    output::data(format, &view, || act::sentence("rollback", &view));
    Ok(act::exit_of(&view))
}

fn part(only: OnlyPart) -> Part {
    match only {
        OnlyPart::Prompt => Part::Prompt,
        OnlyPart::Model => Part::Model,
        OnlyPart::Config => Part::Config,
    }
}
