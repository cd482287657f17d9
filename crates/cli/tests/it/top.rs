//! `segue top` in a real terminal: what it shows, what its keys do, and how it gives the terminal
//! back.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::site::{AGENT, SETTINGS, Site};
use crate::terminal::Terminal;

/// Waits until something is on the screen.
async fn shows(terminal: &Terminal, expected: &str) {
    let began = Instant::now();
    while !terminal.text().contains(expected) {
        let text = terminal.text();
        assert!(began.elapsed() < PATIENCE, "no {expected:?} in\n{text}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// How long anything may take to be shown.
const PATIENCE: Duration = Duration::from_secs(30);

async fn ends(site: &Site, terminal: &mut Terminal) -> Option<i32> {
    let mut ended = None;
    site.until("segue top ends", || {
        ended = terminal.child.try_wait().unwrap();
        ended.is_some()
    })
    .await;
    site.until("the terminal is given back", || terminal.is_restored())
        .await;
    ended.unwrap().code()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_by_two_keys_really_rolls_back() {
    let site = Site::open_with(SETTINGS, "").await;
    site.deploy("v1");
    site.deploy("v2");
    let crowd = site.crowd("a", 3, 20_000);
    site.live(3).await;
    let mut terminal = Terminal::run(site.command(&["top"]), 110, 36);
    shows(&terminal, "releases").await;
    assert!(terminal.is_taken() && !terminal.is_restored());
    for text in [AGENT, "v2", "current", "3 live calls", "CAa0000", "gw-1"] {
        shows(&terminal, text).await;
    }
    // Nothing happens without a yes.
    terminal.press("R");
    shows(&terminal, "rollback desk?").await;
    shows(&terminal, "The 3 live calls").await;
    terminal.press("n");
    shows(&terminal, "nothing was done").await;
    assert_eq!(site.release("v2").unwrap()["state"], "current");
    terminal.press("R");
    shows(&terminal, "goes to v1 again").await;
    terminal.press("y");
    site.becomes("v1", "current").await;
    shows(&terminal, "rollback: every new call goes to v1 again").await;
    let log = site.ok(&["audit", "--output", "json"]);
    assert!(log.contains("asked for in segue top"), "{log}");
    // It fits another window.
    terminal.resize(80, 24);
    shows(&terminal, "rolled back").await;
    assert!(terminal.text().lines().count() <= 24, "{}", terminal.text());
    terminal.press("?");
    shows(&terminal, "Calls in progress are never moved").await;
    terminal.press("x");
    terminal.press("q");
    assert_eq!(ends(&site, &mut terminal).await, Some(0));
    crate::site::reports(crowd).await;
    site.spotless(3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_terminal_is_given_back_whoever_ends_it() {
    let site = Site::open_with(SETTINGS, "").await;
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        let mut terminal = Terminal::run(site.command(&["top"]), 100, 30);
        shows(&terminal, "nothing was deployed yet").await;
        kill_process(Pid::from_child(&terminal.child), signal).unwrap();
        assert_eq!(ends(&site, &mut terminal).await, Some(0), "{signal:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_goes_away_is_said_and_the_last_look_stays() {
    let mut site = Site::open_with(SETTINGS, "").await;
    site.deploy("v1");
    let mut terminal = Terminal::run(site.command(&["top"]), 110, 30);
    shows(&terminal, "complete").await;
    site.kill_serve();
    assert!(site.kill("run/controller.json"));
    shows(&terminal, "calls go on without it").await;
    assert!(terminal.text().contains("v1"), "{}", terminal.text());
    terminal.press("q");
    assert_eq!(ends(&site, &mut terminal).await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_frame_needs_no_terminal_and_the_rest_does() {
    let site = Site::open_with(SETTINGS, "").await;
    site.deploy("v1");
    let frame = site.ok(&["top", "--once", "--width", "100", "--height", "20"]);
    assert!(frame.contains("v1") && frame.contains("current"), "{frame}");
    assert_eq!(frame.trim_end().lines().count(), 20, "{frame}");
    assert!(
        frame.lines().all(|line| line.chars().count() <= 100),
        "{frame}"
    );
    let refused = site.run(&["top"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("hint: `segue top --once`"), "{said}");
    let unknown = site.run(&["top", "--once", "--agent", "nobody"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert_eq!(
        site.run(&["top", "--once", "--output", "json"])
            .status
            .code(),
        Some(2)
    );
}
