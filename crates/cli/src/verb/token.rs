//! `segue token`: who may ask the admin API, and for what.

use segue_controller::api::wire::{Role, TokenBody, TokenView, TokensView};
use segue_core::names::{AgentName, BadName};
use segue_core::time::Timestamp;

use crate::args::{Format, TokenCreateArgs, TokenDo};
use crate::client::Client;
use crate::exit::{Exit, Trouble};
use crate::home::Home;
use crate::output;

pub(crate) fn run(home: &Home, format: Format, what: &TokenDo) -> anyhow::Result<Exit> {
    let client = Client::find(home)?;
    match what {
        TokenDo::Create(args) => create(&client, format, args)?,
        TokenDo::List => list(&client, format)?,
        TokenDo::Revoke { token } => revoke(&client, format, token)?,
    }
    Ok(Exit::Ok)
}

fn create(client: &Client, format: Format, args: &TokenCreateArgs) -> Result<(), Trouble> {
    let role = args.role.into();
    let agent = match (&args.agent, role) {
        (Some(name), _) => Some(agent_name(name)?),
        (None, Role::Worker) => Some(client.one_agent(None)?.name),
        (None, _) => None,
    };
    let body = TokenBody {
        name: args.name.clone(),
        role,
        agent,
        expires_in: args.expires_in,
    };
    let made = client.make_token(&body)?;
    let Some(token) = &made.token else {
        // The answer was lost, and the second one does not have it.
        let message = format!(
            "the token {} was made, and its secret got lost",
            made.view.id
        );
        let hint = format!(
            "revoke it with `segue token revoke {}` and make another",
            made.view.id
        );
        return Err(Trouble::new(Exit::Failed, message, &hint));
    };
    output::data(format, &made, || token.clone());
    if format == Format::Table {
        output::say(&format!(
            "{} is {} until {}; keep the token, it is not shown again",
            made.view.name,
            role_of(&made.view),
            output::utc(made.view.expires_at),
        ));
    }
    Ok(())
}

fn agent_name(name: &str) -> Result<AgentName, Trouble> {
    name.parse().map_err(|error: BadName| {
        let hint = "see which agents there are with `segue status`";
        Trouble::new(Exit::Usage, error.to_string(), hint)
    })
}

/// What somebody may do, and for whom.
fn role_of(token: &TokenView) -> String {
    let role = token.role.word();
    match &token.agent {
        Some(agent) => format!("{role} of {agent}"),
        None => role.to_owned(),
    }
}

fn list(client: &Client, format: Format) -> Result<(), Trouble> {
    let tokens = all(client)?;
    let view = TokensView { tokens, next: None };
    output::data(format, &view, || {
        let rows: Vec<Vec<String>> = view.tokens.iter().map(row).collect();
        let head = ["ID", "NAME", "ROLE", "CREATED", "BY", "ENDS", "LAST USED"];
        output::table(&head, &rows)
    });
    Ok(())
}

fn revoke(client: &Client, format: Format, wanted: &str) -> Result<(), Trouble> {
    let mut found: Vec<TokenView> = all(client)?
        .into_iter()
        .filter(|token| token.revoked_at.is_none())
        .filter(|token| token.id == wanted || token.name == wanted)
        .collect();
    // A name that was used before belongs to the newest token.
    let Some(token) = found.pop() else {
        let message = format!("there is no token {wanted}, or it was revoked before");
        let hint = "see which there are with `segue token list`";
        return Err(Trouble::new(Exit::Usage, message, hint));
    };
    client.revoke_token(&token.id)?;
    let told = serde_json::json!({ "id": token.id, "name": token.name, "revoked": true });
    output::data(format, &told, || {
        format!("{} of {} is revoked", token.id, token.name)
    });
    Ok(())
}

fn all(client: &Client) -> Result<Vec<TokenView>, Trouble> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = client.tokens(after.as_deref())?;
        found.extend(page.tokens);
        after = page.next;
        if after.is_none() {
            return Ok(found);
        }
    }
}

fn row(token: &TokenView) -> Vec<String> {
    let time = |at: Option<Timestamp>| at.map_or_else(|| "-".to_owned(), output::utc);
    let ends = match token.revoked_at {
        Some(at) => format!("revoked {}", output::utc(at)),
        None => output::utc(token.expires_at),
    };
    vec![
        token.id.clone(),
        token.name.clone(),
        role_of(token),
        output::utc(token.created_at),
        token.created_by.clone(),
        ends,
        time(token.used_at),
    ]
}
