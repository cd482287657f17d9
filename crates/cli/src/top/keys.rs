//! What a key does.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::consequence;
use super::state::{Dialog, State, Verb};

/// Calls that page up and page down move by.
const PAGE: usize = 10;

/// What is to be done beyond what is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Do {
    /// Leave.
    Quit,
    /// Ask the controller for this.
    Ask(Dialog),
}

/// Takes a key in.
pub(super) fn press(state: &mut State, key: KeyEvent) -> Option<Do> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
        return Some(Do::Quit);
    }
    if let Some(dialog) = state.dialog.take() {
        return answer(state, dialog, key.code);
    }
    if state.help {
        state.help = false;
        return None;
    }
    state.said = None;
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return Some(Do::Quit),
        KeyCode::Char('?' | 'h') => state.help = true,
        KeyCode::Char('p') => ask(state, Verb::Pause),
        KeyCode::Char('r') => ask(state, Verb::Resume),
        KeyCode::Char('P') => ask(state, Verb::Promote),
        KeyCode::Char('R') => ask(state, Verb::Rollback),
        KeyCode::Char('a') => ask(state, Verb::Abort),
        KeyCode::Tab => state.next_agent(),
        KeyCode::Down | KeyCode::Char('j') => scroll(state, 1),
        KeyCode::PageDown | KeyCode::Char(' ') => scroll(state, PAGE),
        KeyCode::Up | KeyCode::Char('k') => state.scroll = state.scroll.saturating_sub(1),
        KeyCode::PageUp => state.scroll = state.scroll.saturating_sub(PAGE),
        KeyCode::Home | KeyCode::Char('g') => state.scroll = 0,
        KeyCode::End | KeyCode::Char('G') => scroll(state, usize::MAX),
        _ => {}
    }
    None
}

fn scroll(state: &mut State, by: usize) {
    let last = state.calls.len().saturating_sub(1);
    state.scroll = state.scroll.saturating_add(by).min(last);
}

/// Only a clear yes is one: a key too many must not move calls.
fn answer(state: &mut State, dialog: Dialog, key: KeyCode) -> Option<Do> {
    match key {
        KeyCode::Char('y' | 'Y') => {
            state.said = Some(format!("{} …", dialog.verb.word()));
            Some(Do::Ask(dialog))
        }
        KeyCode::Char('n' | 'N' | 'q') | KeyCode::Esc => {
            state.said = Some(format!("{}: nothing was done", dialog.verb.word()));
            None
        }
        _ => {
            state.dialog = Some(dialog);
            None
        }
    }
}

fn ask(state: &mut State, verb: Verb) {
    if state.away.is_some() {
        state.said = Some(format!(
            "{}: no controller answers; calls go on without it",
            verb.word()
        ));
        return;
    }
    let Some(agent) = state.shown() else {
        state.said = Some("no agent is shown".to_owned());
        return;
    };
    let asked = consequence::of(verb, agent).map(|consequence| Dialog {
        verb,
        agent: agent.name.to_string(),
        revision: agent.revision,
        consequence,
    });
    match asked {
        Ok(dialog) => state.dialog = Some(dialog),
        Err(why) => state.said = Some(why),
    }
}
