//! What the controller says, again and again.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;

use super::screen::Heard;
use super::state::{EVENTS_MAX, Event, News, State};
use crate::client::Client;
use crate::exit::Trouble;
use crate::home::Home;
use crate::story::{Labels, sentence_of};

/// How often the controller is asked. A person sees no more.
const EVERY: Duration = Duration::from_millis(500);

/// Calls that are listed: more than anybody scrolls through.
const CALLS_MAX: usize = 500;

/// Entries of the audit log asked for at once.
const PAGE: usize = 500;

/// Which agent is wanted; shared with the screen.
pub(super) type Wanted = Arc<Mutex<Option<String>>>;

/// Asks until the screen is gone.
pub(super) fn listen(client: &Client, wanted: &Wanted, heard: &mpsc::Sender<Heard>) {
    let mut place = Place::default();
    loop {
        let agent = wanted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let said = match look(client, agent.as_deref(), &mut place) {
            Ok(news) => Heard::News(Box::new(news)),
            Err(error) => Heard::Away(error.message),
        };
        if heard.blocking_send(said).is_err() {
            return;
        }
        // A thread of its own, with nothing else to do.
        thread::park_timeout(EVERY);
    }
}

/// One look, for one frame.
pub(crate) fn once(home: &Home, agent: Option<&str>) -> Result<State, Trouble> {
    let client = Client::find(home)?;
    if let Some(name) = agent {
        client.agent(name)?;
    }
    let mut state = State {
        agent: agent.map(str::to_owned),
        ..State::default()
    };
    state.take(look(&client, agent, &mut Place::default())?);
    Ok(state)
}

/// How far the log was read, and of whom.
#[derive(Default)]
struct Place {
    agent: Option<String>,
    after: u64,
}

fn look(client: &Client, agent: Option<&str>, place: &mut Place) -> Result<News, Trouble> {
    let status = client.status()?;
    let first = || status.agents.first().map(|agent| agent.name.to_string());
    let agent = agent.map(str::to_owned).or_else(first);
    let mut news = News {
        calls: Vec::new(),
        calls_unknown: Vec::new(),
        events: Vec::new(),
        agent: agent.clone(),
        status,
    };
    let Some(name) = &agent else {
        return Ok(news);
    };
    let calls = client.calls(name, CALLS_MAX)?;
    news.calls = calls.calls;
    news.calls_unknown = calls.unknown.iter().map(ToString::to_string).collect();
    if place.agent != agent {
        let entries = news.status.journal.entries;
        *place = Place {
            agent: agent.clone(),
            after: entries.saturating_sub(EVENTS_MAX as u64),
        };
    }
    let entries = client.audit(place.after, PAGE, Some(name))?.entries;
    let labels = Labels::of(&entries);
    if let Some(last) = entries.last() {
        place.after = last.seq;
    }
    let event = |entry: &segue_core::audit::Entry| Event {
        seq: entry.seq,
        at: entry.at,
        actor: entry.actor.clone(),
        what: sentence_of(entry, &labels),
    };
    news.events = entries.iter().map(event).collect();
    Ok(news)
}
