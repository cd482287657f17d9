//! How it looks.

use ratatui::Frame;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Row, Table, Wrap};
use segue_controller::api::wire::{AgentView, ReleaseView};
use segue_core::time::Timestamp;

use super::state::{Dialog, Event, State};
use crate::output;
use crate::verb::status::phase;

/// Cells of a bar that stands for all calls.
const BAR: u16 = 10;

/// The same where there is little room, and the columns from which on there is more.
const BAR_NARROW: u16 = 3;
const WIDE: u16 = 104;

/// Releases that are shown: two in use, and the tails that a default configuration permits.
const RELEASES_MAX: usize = 8;

/// Lines of what the rollout waits for.
const HOLDS_MAX: usize = 4;

/// Width of a dialog, in columns.
const DIALOG_WIDTH: u16 = 64;

/// Columns of the time before a decision.
const SET_IN: usize = 9;

const KEYS: &str =
    " p pause  r resume  P promote  R rollback  a abort  ↑↓ calls  Tab agent  ? help  q quit";

const HELP: &str = "\
p        pause: the rollout waits where it is
r        resume: it goes on
P        promote: the next share of new calls, or all of them
R        rollback: every new call goes to the release before
a        abort: the new release is withdrawn

Each of these asks first, and says what will happen.
Calls in progress are never moved.

Tab      the next agent
↑ ↓ j k  scroll the calls; PageUp, PageDown, Home, End
?        this page
q        quit; nothing that runs is touched";

/// Draws what is shown.
pub(super) fn draw(state: &State, frame: &mut Frame<'_>) {
    let releases = state.shown().map_or(1, |agent| shown(agent).count());
    let holds = state
        .shown()
        .map_or(0, |agent| agent.holds.len().min(HOLDS_MAX));
    let height = |lines: usize| u16::try_from(lines).unwrap_or(u16::MAX);
    let [head, table, rollout, body, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(height(releases) + 3),
        Constraint::Length(height(holds) + 4),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    draw_head(state, frame, head);
    match state.shown() {
        Some(agent) => {
            draw_releases(agent, frame, table);
            draw_rollout(state, agent, frame, rollout);
        }
        None => frame.render_widget(Paragraph::new(nothing(state)), table),
    }
    let [calls, events] =
        Layout::horizontal([Constraint::Percentage(45), Constraint::Percentage(55)]).areas(body);
    draw_calls(state, frame, calls);
    draw_events(state, frame, events);
    draw_foot(state, frame, foot);
    if state.help {
        popup(frame, "keys", HELP, "any key goes back");
    }
    if let Some(dialog) = &state.dialog {
        draw_dialog(dialog, frame);
    }
}

/// One frame as text, without colours.
pub(crate) fn frame_as_text(state: &State, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height))
        .unwrap_or_else(|never: std::convert::Infallible| match never {});
    let drawn = terminal.draw(|frame| draw(state, frame));
    if let Err(never) = drawn {
        match never {}
    }
    let buffer = terminal.backend().buffer();
    let line = |y: u16| {
        let cells = (0..width).map(|x| buffer[(x, y)].symbol());
        cells.collect::<String>().trim_end().to_owned()
    };
    (0..height).map(line).collect::<Vec<_>>().join("\n")
}

fn now(state: &State) -> Timestamp {
    state
        .status
        .as_ref()
        .map(|status| status.at)
        .unwrap_or_default()
}

fn nothing(state: &State) -> String {
    match &state.status {
        Some(_) => "no agents; add an [agents.NAME] table to segue.toml".to_owned(),
        None => "asking the controller …".to_owned(),
    }
}

fn draw_head(state: &State, frame: &mut Frame<'_>, area: Rect) {
    let Some(status) = &state.status else {
        let text = state.away.clone().unwrap_or_default();
        return frame.render_widget(Paragraph::new(format!(" segue top  {text}")), area);
    };
    let mut spans = vec![Span::styled(" segue top ", bold())];
    if let Some(agent) = state.shown() {
        spans.push(Span::styled(format!(" {} ", agent.name), bold()));
        let many = status.agents.len();
        if many > 1 {
            let at = status.agents.iter().position(|is| is.name == agent.name);
            let at = at.map_or(1, |at| at + 1);
            spans.push(Span::raw(format!("({at} of {many})")));
        }
        spans.push(Span::raw(format!(" {} live calls ", agent.live)));
    }
    // Tenths of a second are noise on a screen that is drawn twice a second.
    let at: String = output::utc(status.at).chars().take(19).collect();
    spans.push(Span::raw(format!(" {at}Z ")));
    for gateway in &status.gateways {
        let (text, style) = if gateway.leased {
            (format!(" {}", gateway.gateway), Style::new())
        } else {
            (format!(" {} SILENT", gateway.gateway), bad())
        };
        spans.push(Span::styled(text, style));
    }
    if status.gateways.iter().all(|gateway| !gateway.leased) {
        spans.push(Span::styled(" no gateway reports ", bad()));
    }
    if let Some(error) = &status.journal.error {
        let text = format!(" journal: {error} ");
        spans.push(Span::styled(text, bad()));
    }
    frame.render_widget(Paragraph::new(Line::from(spans)), area);
}

fn shown(agent: &AgentView) -> impl Iterator<Item = &ReleaseView> {
    let alive = |release: &&ReleaseView| release.state != "retired";
    agent.releases.iter().filter(alive).take(RELEASES_MAX)
}

fn draw_releases(agent: &AgentView, frame: &mut Frame<'_>, area: Rect) {
    let cells = if area.width < WIDE { BAR_NARROW } else { BAR };
    let head = Row::new([
        "RELEASE",
        "STATE",
        "NEW CALLS",
        "LIVE SHARE",
        "LIVE",
        "PINNED",
        "WORKERS",
        "ENDED",
        "BAD",
    ])
    .style(Style::new().add_modifier(Modifier::DIM));
    let widths = [
        Constraint::Min(10),
        Constraint::Length(9),
        Constraint::Length(cells + 8),
        Constraint::Length(cells + 8),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(6),
    ];
    let rows = shown(agent).map(|release| release_row(release, cells));
    let table = Table::new(rows, widths)
        .header(head)
        .block(Block::bordered().title(" releases "));
    frame.render_widget(table, area);
}

fn release_row(release: &ReleaseView, cells: u16) -> Row<'_> {
    // A count that is not to be relied on says so.
    let mark = if release.unknown.is_empty() { "" } else { "?" };
    let wrong = release.dropped + release.errors + release.lost;
    let style = match release.state.as_str() {
        "current" => Style::new().fg(Color::Green),
        "ramping" => Style::new().fg(Color::Yellow),
        "draining" => Style::new().fg(Color::Cyan),
        _ => Style::new(),
    };
    let workers = if release.workers_ready < release.workers_want {
        Style::new().fg(Color::Red)
    } else {
        Style::new()
    };
    Row::new([
        Cell::from(release.label.to_string()).style(bold()),
        Cell::from(release.state.clone()).style(style),
        Cell::from(bar(release.share_bp, cells)),
        Cell::from(bar(release.live_share_bp, cells)),
        Cell::from(format!("{}{mark}", release.live)),
        Cell::from(format!("{}{mark}", release.pinned)),
        Cell::from(format!(
            "{}/{}",
            release.workers_ready, release.workers_want
        ))
        .style(workers),
        Cell::from(release.ended.to_string()),
        Cell::from(wrong.to_string()).style(if wrong > 0 { bad() } else { Style::new() }),
    ])
}

/// A share as a bar and a number. Anything above nothing shows.
fn bar(basis_points: u16, width: u16) -> String {
    let cells = (u32::from(basis_points) * u32::from(width)).div_ceil(10_000);
    let cells = usize::try_from(cells).unwrap_or(0).min(usize::from(width));
    let rest = usize::from(width) - cells;
    format!(
        "{}{} {}",
        "█".repeat(cells),
        "░".repeat(rest),
        output::percent(basis_points)
    )
}

fn draw_rollout(state: &State, agent: &AgentView, frame: &mut Frame<'_>, area: Rect) {
    let mut lines = Vec::new();
    let title = if let Some(rollout) = &agent.rollout {
        let after = rollout.outgoing.as_ref();
        let after = after.map_or_else(String::new, |after| format!(" after {after}"));
        let since = output::age(now(state).since(rollout.started).0);
        let text = format!("{}{after}, begun {since} ago: ", rollout.incoming);
        lines.push(Line::from(vec![
            Span::raw(text),
            Span::styled(phase(agent), bold()),
        ]));
        format!(" rollout {} ", rollout.id)
    } else {
        lines.push(Line::raw("nothing was deployed yet: `segue deploy LABEL`"));
        " rollout ".to_owned()
    };
    let reason = agent.rollout.as_ref().and_then(|is| is.reason.clone());
    let mut second: Vec<String> = shown(agent).filter_map(|is| left(state, is)).collect();
    second.extend(reason);
    if second.is_empty() {
        second.push("nothing drains".to_owned());
    }
    lines.push(Line::raw(second.join("; ")));
    for hold in agent.holds.iter().take(HOLDS_MAX) {
        lines.push(Line::styled(
            format!("waits: {hold}"),
            Style::new().fg(Color::Yellow),
        ));
    }
    let block = Block::bordered().title(title);
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// What a draining release still has.
fn left(state: &State, release: &ReleaseView) -> Option<String> {
    match release.state.as_str() {
        "draining" => {}
        "drained" => return Some(format!("{} stands by for a rollback", release.label)),
        _ => return None,
    }
    if !release.unknown.is_empty() {
        return Some(format!("{} drains, its calls unknown", release.label));
    }
    let count = release.live;
    if count == 0 && release.pinned > 0 {
        // Nobody is on the line, but they may come back.
        let may = release.pinned;
        return Some(format!(
            "{} drains: 0 calls left, {may} may call back",
            release.label
        ));
    }
    if count == 0 {
        return Some(format!("{} drains, empty", release.label));
    }
    let plural = if count == 1 { "" } else { "s" };
    let oldest = state
        .calls
        .iter()
        .find(|call| {
            // One that is being rescued waits for a worker, and its caller waits for it.
            let lives = matches!(call.state.as_str(), "live" | "rescuing" | "rescued");
            call.release == release.id && lives
        })
        .map(|call| output::age(now(state).since(call.since).0))
        .map_or_else(String::new, |age| format!(", the oldest {age}"));
    Some(format!(
        "{} drains: {count} call{plural} left{oldest}",
        release.label
    ))
}

fn draw_calls(state: &State, frame: &mut Frame<'_>, area: Rect) {
    let label = |id| {
        let releases = state.shown().map(|agent| agent.releases.as_slice());
        let mut releases = releases.unwrap_or_default().iter();
        let known = releases.find(|release| release.id == id);
        known.map_or_else(|| id.short(), |release| release.label.to_string())
    };
    let rows = state.calls.iter().skip(state.scroll).map(|call| {
        Row::new([
            output::age(now(state).since(call.since).0),
            label(call.release),
            call.state.clone(),
            call.call.to_string(),
        ])
    });
    let widths = [
        Constraint::Length(7),
        Constraint::Length(10),
        Constraint::Length(8),
        Constraint::Min(10),
    ];
    let title = match (state.calls.len(), state.scroll) {
        (0, _) => " calls ".to_owned(),
        (all, 0) => format!(" calls, oldest first: {all} "),
        (all, from) => format!(" calls from {} of {all} ", from + 1),
    };
    let mut block = Block::bordered().title(title);
    if !state.calls_unknown.is_empty() {
        let text = format!(" without those of {} ", state.calls_unknown.join(", "));
        block = block.title_bottom(text);
    }
    let head = Row::new(["AGE", "RELEASE", "STATE", "CALL"])
        .style(Style::new().add_modifier(Modifier::DIM));
    frame.render_widget(Table::new(rows, widths).header(head).block(block), area);
}

fn draw_events(state: &State, frame: &mut Frame<'_>, area: Rect) {
    // The newest below, as in a log.
    let room = usize::from(area.height.saturating_sub(2));
    let width = usize::from(area.width.saturating_sub(2));
    let mut lines: Vec<Line<'_>> = Vec::new();
    for event in state.events.iter().rev() {
        if lines.len() >= room {
            break;
        }
        lines.extend(event_lines(event, width).into_iter().rev());
    }
    lines.truncate(room);
    lines.reverse();
    let block = Block::bordered().title(" decisions ");
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// A decision, broken where a word ends; what follows is set in.
fn event_lines(event: &Event, width: usize) -> Vec<Line<'static>> {
    // The time of day: the date is in the head.
    let at: String = output::utc(event.at).chars().skip(11).take(8).collect();
    let mut text = String::new();
    if event.actor != "segue" {
        text.extend([event.actor.as_str(), ": "]);
    }
    text.push_str(&event.what);
    let dim = Style::new().add_modifier(Modifier::DIM);
    let mut before = Span::styled(format!("{at} "), dim);
    let room = width.saturating_sub(SET_IN).max(1);
    let mut lines = Vec::new();
    for part in broken(&text, room) {
        lines.push(Line::from(vec![before, Span::raw(part)]));
        before = Span::raw(" ".repeat(SET_IN));
    }
    lines
}

/// Lines of at most `room` characters; a word that is longer is cut by the edge of its box.
fn broken(text: &str, room: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > room {
            lines.push(String::new());
            used = 0;
        }
        let line = lines.last_mut().expect("there is always one");
        if used > 0 {
            line.push(' ');
            used += 1;
        }
        line.push_str(word);
        used += length;
    }
    lines
}

fn draw_foot(state: &State, frame: &mut Frame<'_>, area: Rect) {
    let line = match (&state.away, &state.said) {
        (Some(away), _) => Line::styled(format!(" {away}; calls go on without it"), bad()),
        (None, Some(said)) => Line::styled(format!(" {said}"), bold()),
        (None, None) => Line::raw(KEYS),
    };
    frame.render_widget(Paragraph::new(line), area);
}

fn draw_dialog(dialog: &Dialog, frame: &mut Frame<'_>) {
    let title = format!("{} {}?", dialog.verb.word(), dialog.agent);
    popup(frame, &title, &dialog.consequence, "y yes    n no");
}

/// A box in the middle, over everything else.
fn popup(frame: &mut Frame<'_>, title: &str, text: &str, keys: &str) {
    let all = frame.area();
    let width = DIALOG_WIDTH.min(all.width);
    let inner = usize::from(width.saturating_sub(4)).max(1);
    let wrapped = |line: &str| line.chars().count().div_ceil(inner).max(1);
    // A word may move to the next line: one line more than the letters need.
    let lines: usize = text.lines().map(wrapped).sum::<usize>() + 1;
    let height = u16::try_from(lines).unwrap_or(u16::MAX).saturating_add(4);
    let height = height.min(all.height);
    let area = Rect {
        x: all.x + (all.width - width) / 2,
        y: all.y + (all.height - height) / 2,
        width,
        height,
    };
    let block = Block::bordered()
        .title(format!(" {title} "))
        .title_bottom(format!(" {keys} "))
        .border_style(bold())
        .padding(ratatui::widgets::Padding::uniform(1));
    frame.render_widget(Clear, area);
    let text = Paragraph::new(text).wrap(Wrap { trim: false }).block(block);
    frame.render_widget(text, area);
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

fn bad() -> Style {
    Style::new().fg(Color::Red).add_modifier(Modifier::BOLD)
}
