//! The terminal, from its taking over to its giving back, and what happens in between.

use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, KeyEvent};
use segue_controller::api::wire::VerbBody;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::draw::draw;
use super::feed::{Wanted, listen};
use super::keys::{Do, press};
use super::state::{Dialog, News, State, Verb};
use crate::client::Client;
use crate::exit::{Exit, Trouble};
use crate::home::Home;
use crate::verb::act;

/// What waits to be shown: the screen is faster than any of its sources.
const HEARD_MAX: usize = 64;

/// How often the keyboard thread looks whether the screen is gone.
const KEY_WAIT: Duration = Duration::from_millis(100);

/// What the screen hears.
pub(super) enum Heard {
    /// From the controller.
    News(Box<News>),
    /// It does not answer.
    Away(String),
    /// From the keyboard.
    Key(KeyEvent),
    /// The terminal has another size, or must be drawn again.
    Redraw,
    /// What came of a verb.
    Done(String),
    /// Somebody ends this.
    End,
}

/// Gives the terminal back, however this ends. A panic does so as well, before it is printed: see
/// [`ratatui::try_init`].
struct Taken(DefaultTerminal);

impl Drop for Taken {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Shows it until the operator leaves.
pub(crate) async fn run(home: &Home, agent: Option<&str>) -> anyhow::Result<Exit> {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        let hint = "`segue top --once` prints one frame; `segue status --watch` goes on";
        return Err(Trouble::new(Exit::Usage, "this is not a terminal", hint).into());
    }
    let client = Client::find(home)?;
    if let Some(name) = agent {
        client.agent(name)?;
    }
    let client = Arc::new(client);
    let mut state = State {
        agent: agent.map(str::to_owned),
        ..State::default()
    };
    let wanted: Wanted = Arc::new(Mutex::new(state.agent.clone()));
    let (said, mut heard) = mpsc::channel(HEARD_MAX);
    signals(&said)?;
    let terminal = ratatui::try_init().context("the terminal cannot be taken over")?;
    let mut taken = Taken(terminal);
    let asks = (Arc::clone(&client), Arc::clone(&wanted), said.clone());
    thread::spawn(move || listen(&asks.0, &asks.1, &asks.2));
    let keys = said.clone();
    thread::spawn(move || keyboard(&keys));
    loop {
        taken.0.draw(|frame| draw(&state, frame))?;
        match heard.recv().await {
            None | Some(Heard::End) => return Ok(Exit::Ok),
            Some(Heard::News(news)) => state.take(*news),
            Some(Heard::Away(why)) => state.away = Some(why),
            Some(Heard::Redraw) => {}
            Some(Heard::Done(text)) => state.said = Some(text),
            Some(Heard::Key(key)) => match press(&mut state, key) {
                Some(Do::Quit) => return Ok(Exit::Ok),
                Some(Do::Ask(dialog)) => {
                    let (client, said) = (Arc::clone(&client), said.clone());
                    thread::spawn(move || {
                        let done = ask(&client, &dialog);
                        // A screen that is gone does not want to know.
                        let _ = said.blocking_send(Heard::Done(done));
                    });
                }
                None => {}
            },
        }
        let shown = state.shown().map(|agent| agent.name.to_string());
        *wanted.lock().unwrap_or_else(PoisonError::into_inner) =
            state.agent.clone().and(shown).or(state.agent.clone());
    }
}

/// What would end this at once and leave the terminal as it is.
fn signals(said: &mpsc::Sender<Heard>) -> anyhow::Result<()> {
    for kind in [
        SignalKind::terminate(),
        SignalKind::hangup(),
        SignalKind::interrupt(),
        SignalKind::quit(),
    ] {
        let mut signal = signal(kind)?;
        let said = said.clone();
        tokio::spawn(async move {
            signal.recv().await;
            let _ = said.send(Heard::End).await;
        });
    }
    Ok(())
}

/// Reads keys until the screen is gone.
fn keyboard(said: &mpsc::Sender<Heard>) {
    while !said.is_closed() {
        let Ok(is_there) = event::poll(KEY_WAIT) else {
            // The terminal is gone.
            let _ = said.blocking_send(Heard::End);
            return;
        };
        if !is_there {
            continue;
        }
        let heard = match event::read() {
            Ok(event::Event::Key(key)) => Heard::Key(key),
            Ok(_) => Heard::Redraw,
            Err(_) => Heard::End,
        };
        if said.blocking_send(heard).is_err() {
            return;
        }
    }
}

/// Asks for a verb, on the revision the operator looked at.
fn ask(client: &Client, dialog: &Dialog) -> String {
    let asked = client.agent(&dialog.agent).and_then(|agent| {
        let revision = (dialog.verb != Verb::Rollback).then_some(dialog.revision);
        let reason = Some("asked for in segue top".to_owned());
        let body = VerbBody::default();
        act::decide(
            client,
            &agent,
            dialog.verb.word(),
            (revision, reason),
            &body,
        )
    });
    match asked {
        Ok(view) => act::sentence(dialog.verb.word(), &view)
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned(),
        Err(error) => {
            let hint = error.hint.as_deref().unwrap_or_default();
            format!("{}: {}  hint: {hint}", dialog.verb.word(), error.message)
        }
    }
}
