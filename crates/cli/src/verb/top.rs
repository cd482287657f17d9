//! `segue top`: the full-screen view, or one frame of it.

use crate::args::{Format, TopArgs};
use crate::exit::{Exit, Trouble};
use crate::home::Home;
use crate::output;
use crate::top;

pub(crate) async fn run(home: &Home, format: Format, args: &TopArgs) -> anyhow::Result<Exit> {
    if format != Format::Table {
        let hint = "`segue status --output json` and `segue calls --output json` hold the same";
        return Err(Trouble::new(Exit::Usage, "a screen is for people", hint).into());
    }
    if !args.once {
        return top::run(home, args.agent.as_deref()).await;
    }
    let state = top::once(home, args.agent.as_deref())?;
    output::line(&top::frame_as_text(&state, args.width, args.height));
    Ok(Exit::Ok)
}
