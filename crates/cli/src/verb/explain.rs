//! `segue explain`: one rollout, decision by decision, each with what was known when it was taken.

use serde::Serialize;

use crate::args::{ExplainArgs, Format};
use crate::client::Client;
use crate::exit::{Exit, Trouble};
use crate::home::Home;
use crate::output;
use crate::story::{End, Labels, Story, Told, begun, read_back, stories};

/// A rollout, for machines.
#[derive(Debug, Serialize)]
struct ExplainView {
    agent: String,
    rollout: u64,
    release: String,
    from: Option<String>,
    outcome: End,
    reason: Option<String>,
    by: String,
    began: String,
    ended: Option<String>,
    decisions: Vec<Told>,
}

pub(crate) fn run(home: &Home, format: Format, args: &ExplainArgs) -> anyhow::Result<Exit> {
    let client = Client::find(home)?;
    let agent = client.one_agent(args.agent.as_deref())?.name;
    let wanted = args.rollout;
    let entries = read_back(&client, agent.as_str(), |entries| {
        begun(entries).any(|number| wanted.is_none_or(|wanted| number <= wanted))
    })?;
    let (stories, labels) = stories(&entries);
    let known = stories.last().map(|story| story.rollout);
    let story = stories
        .into_iter()
        .rev()
        .find(|story| wanted.is_none_or(|wanted| story.rollout == wanted));
    let Some(story) = story else {
        return Err(nothing(agent.as_str(), wanted, known).into());
    };
    let view = view(agent.as_str(), &story, &labels);
    output::data(format, &view, || text(&view));
    Ok(Exit::Ok)
}

fn nothing(agent: &str, wanted: Option<u64>, last: Option<u64>) -> Trouble {
    match (wanted, last) {
        (Some(number), Some(last)) => Trouble::new(
            Exit::Usage,
            format!("{agent} has no rollout {number}; the last one is {last}"),
            "`segue history` lists them",
        ),
        _ => Trouble::new(
            Exit::Usage,
            format!("{agent} has had no rollout yet"),
            "the first one begins with `segue deploy LABEL`",
        ),
    }
}

fn view(agent: &str, story: &Story, labels: &Labels) -> ExplainView {
    ExplainView {
        agent: agent.to_owned(),
        rollout: story.rollout,
        release: story.release.clone(),
        from: story.from.clone(),
        outcome: story.end,
        reason: story.reason.clone(),
        by: story.by.clone(),
        began: output::utc(story.began),
        ended: story.ended.map(output::utc),
        decisions: story.told(labels),
    }
}

/// How it ended and why; what the reason says of the end is not said twice.
fn how(outcome: End, reason: Option<&str>) -> String {
    let words = outcome.words();
    match reason {
        None => words.to_owned(),
        Some(reason) if reason.starts_with(words) => reason.to_owned(),
        Some(reason) => format!("{words}: {reason}"),
    }
}

fn text(view: &ExplainView) -> String {
    let from = view.from.as_deref();
    let from = from.map_or_else(String::new, |from| format!(" after {from}"));
    let how = how(view.outcome, view.reason.as_deref());
    let mut lines = vec![
        format!(
            "{}, rollout {}: {}{from}, {how}",
            view.agent, view.rollout, view.release,
        ),
        format!("begun {} by {}", view.began, view.by),
    ];
    for told in &view.decisions {
        lines.push(String::new());
        lines.push(format!(
            "+{}  {}  (entry {}, by {})",
            output::seconds(told.after_ms),
            told.what,
            told.seq,
            told.actor
        ));
        lines.extend(told.because.iter().map(|line| format!("      {line}")));
    }
    lines.join("\n")
}
