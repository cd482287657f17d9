//! The command line itself: help that teaches, errors that help, forms for machines.

use std::process::{Command, Output};

use crate::site::{SEGUE, Site};

const VERBS: [&str; 19] = [
    "init",
    "serve",
    "stop",
    "deploy",
    "status",
    "calls",
    "pause",
    "resume",
    "promote",
    "abort",
    "rollback",
    "drain",
    "retire",
    "logs",
    "audit",
    "forget",
    "demo",
    "sample-agent",
    "completions",
];

fn segue(args: &[&str]) -> Output {
    Command::new(SEGUE)
        .args(args)
        .env("SEGUE_HOME", "/nonexistent/segue")
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn every_verb_has_help_and_the_first_page_names_them_all() {
    let page = String::from_utf8(segue(&["--help"]).stdout).unwrap();
    for verb in VERBS {
        assert!(
            page.contains(&format!("  {verb} ")),
            "{verb} is not on the first page"
        );
        let help = String::from_utf8(segue(&[verb, "--help"]).stdout).unwrap();
        assert!(
            help.contains("Usage: segue") && help.len() > 200,
            "{verb}: {help}"
        );
    }
    for code in ["UNACKED", "SEGUE_HOME", "130"] {
        assert!(page.contains(code), "{code} is not explained");
    }
}

#[test]
fn a_wrong_word_is_a_usage_error() {
    for args in [
        &["stats"][..],
        &["deploy"],
        &["promote", "--skip-gates"],
        &["demo", "--callers", "1"],
    ] {
        let output = segue(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", said(&output));
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn without_a_controller_every_verb_says_what_to_do() {
    for args in [
        &["status"][..],
        &["deploy", "v1"],
        &["calls"],
        &["promote"],
        &["rollback"],
        &["audit"],
        &["drain"],
        &["logs"],
    ] {
        let output = segue(args);
        assert_eq!(output.status.code(), Some(3), "{args:?}: {}", said(&output));
        assert!(
            said(&output).contains("hint: start one with `segue serve`"),
            "{}",
            said(&output)
        );
    }
}

#[test]
fn completions_are_made_for_every_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let output = segue(&["completions", shell]);
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success() && script.contains("rollback"),
            "{shell}"
        );
    }
}

#[test]
fn init_writes_a_configuration_once() {
    let site = Site::prepare("", "");
    let file = site.dir.join("new.toml");
    site.ok(&["init", "new.toml"]);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(segue_core::spec::parse("new.toml", &text).is_ok());
    let again = site.run(&["init", "new.toml"]);
    assert_eq!(again.status.code(), Some(2));
    assert!(said(&again).contains("--force"));
    site.ok(&["init", "new.toml", "--force"]);
}

#[test]
fn the_sample_agent_refuses_an_unknown_fault() {
    let output = segue(&["sample-agent", "--port", "1", "--fault", "sulky"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("hint: "), "{}", said(&output));
}
