//! `segue history`: the rollouts of an agent, one line each.

use segue_core::time::Timestamp;
use serde::Serialize;

use crate::args::{Format, HistoryArgs};
use crate::client::Client;
use crate::exit::Exit;
use crate::home::Home;
use crate::output;
use crate::story::{End, Story, begun, read_back, stories};

/// The rollouts of an agent, for machines.
#[derive(Debug, Serialize)]
struct HistoryView {
    agent: String,
    /// Oldest first.
    rollouts: Vec<Line>,
}

#[derive(Debug, Serialize)]
struct Line {
    rollout: u64,
    release: String,
    from: Option<String>,
    outcome: End,
    reason: Option<String>,
    began: String,
    /// Until it ended, or until now.
    took_ms: u64,
    by: String,
}

pub(crate) fn run(home: &Home, format: Format, args: &HistoryArgs) -> anyhow::Result<Exit> {
    let client = Client::find(home)?;
    let agent = client.one_agent(args.agent.as_deref())?.name;
    let now = client.status()?.at;
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    // A rollback names the number of the rollout it belongs to: one beginning may be said twice.
    let entries = read_back(&client, agent.as_str(), |entries| {
        let numbers: std::collections::BTreeSet<u64> = begun(entries).collect();
        numbers.len() > limit
    })?;
    let (mut stories, _) = stories(&entries);
    let stories = stories.split_off(stories.len().saturating_sub(limit));
    let view = HistoryView {
        agent: agent.to_string(),
        rollouts: stories.iter().map(|story| line(story, now)).collect(),
    };
    output::data(format, &view, || text(&view));
    Ok(Exit::Ok)
}

fn line(story: &Story, now: Timestamp) -> Line {
    Line {
        rollout: story.rollout,
        release: story.release.clone(),
        from: story.from.clone(),
        outcome: story.end,
        reason: story.reason.clone(),
        began: output::utc(story.began),
        took_ms: story.ended.unwrap_or(now).since(story.began).0,
        by: story.by.clone(),
    }
}

/// Why it ended so, without the words that the line has already.
fn why(line: &Line) -> &str {
    let reason = line.reason.as_deref().unwrap_or_default();
    let rest = reason.strip_prefix(line.outcome.words());
    rest.map_or(reason, str::trim_start)
}

fn text(view: &HistoryView) -> String {
    if view.rollouts.is_empty() {
        return format!("{} has had no rollout yet", view.agent);
    }
    let rows: Vec<Vec<String>> = view
        .rollouts
        .iter()
        .map(|line| {
            vec![
                line.rollout.to_string(),
                line.release.clone(),
                line.from.clone().unwrap_or_else(|| "-".to_owned()),
                line.outcome.words().to_owned(),
                line.began.clone(),
                output::age(line.took_ms),
                line.by.clone(),
                why(line).to_owned(),
            ]
        })
        .collect();
    let head = [
        "ROLLOUT", "RELEASE", "FROM", "ENDED", "BEGAN", "TOOK", "BY", "REASON",
    ];
    output::table(&head, &rows)
}
