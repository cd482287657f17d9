//! Every verb: help with examples, bad input that is refused with a way out, answers for machines.

use std::process::{Command, Output};

use crate::site::SEGUE;

/// Every verb that people are shown, with arguments that are wrong, and whether a machine can read
/// its answer.
const VERBS: &[(&[&str], &[&str])] = &[
    (&["init"], &["/nonexistent/folder/segue.toml"]),
    (&["serve"], &["--config", "/nonexistent.toml"]),
    (&["stop"], &["--hard"]),
    (&["reload"], &["--force"]),
    (&["upgrade"], &["--timeout", "0"]),
    (&["plan"], &["--workers", "0"]),
    (&["deploy"], &["v1", "--prompt", "/nonexistent.txt"]),
    (&["status"], &["--every", "day"]),
    (&["top"], &["--width", "9"]),
    (&["calls"], &["--limit", "many"]),
    (&["workers"], &["desk", "office"]),
    (&["workers", "inspect"], &[]),
    (&["workers", "drain"], &["AW_1", "AW_2"]),
    (&["workers", "undrain"], &["AW_1", "--all"]),
    (&["workers", "kick"], &["--yes"]),
    (&["pause"], &["--revision", "last"]),
    (&["resume"], &["now"]),
    (&["promote"], &["--skip-gates"]),
    (&["abort"], &["v1"]),
    (&["rollback"], &["--only", "command"]),
    (&["drain"], &["v1", "v2"]),
    (&["retire"], &["--all"]),
    (&["approve"], &["v1", "v2"]),
    (&["contract"], &["v1", "v2"]),
    (&["diff"], &["v1", "v2", "v3"]),
    (&["permits"], &["--limit", "0"]),
    (&["history"], &["--limit", "0"]),
    (&["explain"], &["0"]),
    (&["logs"], &["--lines", "-1"]),
    (&["audit"], &["--all", "--after", "1"]),
    (&["audit"], &["--event", "nothing.like.it"]),
    (&["audit", "tail"], &["--event", "nothing.like.it"]),
    (&["audit", "export"], &["--after", "last"]),
    (&["audit", "verify"], &["twice"]),
    (&["forget"], &["gw-1"]),
    (&["doctor"], &["--fix"]),
    (&["config"], &["mend"]),
    (&["config", "schema"], &["--yaml"]),
    (&["config", "reference"], &["workers"]),
    (&["config", "check"], &["/nonexistent.toml"]),
    (&["demo"], &["--callers", "1"]),
    (&["bench"], &["--rounds", "0"]),
    (&["sample-agent"], &["--port", "high"]),
    (&["completions"], &["tcsh"]),
    (&["token"], &["lend"]),
    (&["token", "create"], &["ann", "--role", "king"]),
    (&["token", "list"], &["ann"]),
    (&["token", "revoke"], &[]),
    (&["membership"], &["lend"]),
    (&["membership", "keygen"], &["/nonexistent/root.pem"]),
    (&["membership", "rotate"], &["--sign", "/nonexistent.pem"]),
    (&["membership", "sign"], &["--key", "/nonexistent.pem"]),
    (
        &["membership", "token"],
        &["--key", "k", "--agent", "desk", "--release", "../v1"],
    ),
    (&["membership", "verify"], &["/nonexistent.jws"]),
    (&["membership", "show"], &["/nonexistent.jws"]),
    (&["membership", "revoke"], &["--sign", "m.pem"]),
    (&["dispatch"], &["--config", "/nonexistent.toml"]),
    (&["api"], &["call"]),
    (&["api", "openapi"], &["--pretty"]),
    (&["man"], &["segue"]),
];

fn segue(args: &[&str]) -> Output {
    Command::new(SEGUE)
        .args(args)
        .env("SEGUE_HOME", "/nonexistent/segue")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The verbs of a page of help.
fn verbs(page: &str) -> Vec<String> {
    let after = page.split("Commands:\n").nth(1).unwrap_or_default();
    let names = after
        .lines()
        .take_while(|line| !line.is_empty() && !line.starts_with(char::is_alphabetic));
    let names = names.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let names = names.filter(|name| !name.is_empty() && *name != "help");
    names.map(str::to_owned).collect()
}

#[test]
fn every_verb_is_tried_here() {
    let page = text(&segue(&["--help"]).stdout);
    let shown = verbs(&page);
    assert!(shown.len() > 20, "{shown:?}");
    for verb in shown {
        let tried = VERBS.iter().any(|(path, _)| path[0] == verb);
        assert!(tried, "{verb} is not tried");
        let below = verbs(&text(&segue(&[&verb, "--help"]).stdout));
        for name in below {
            let path = [verb.as_str(), name.as_str()];
            let tried = VERBS.iter().any(|(tried, _)| *tried == path);
            assert!(tried, "{path:?} is not tried");
        }
    }
}

#[test]
fn every_page_of_help_ends_with_examples_that_parse() {
    for (path, _) in VERBS {
        let output = segue(&[path, &["--help"][..]].concat());
        let help = text(&output.stdout);
        let examples = help.split("Examples:\n").nth(1);
        let examples = examples.unwrap_or_else(|| panic!("{path:?} has no example:\n{help}"));
        assert!(help.contains("Usage: segue"), "{path:?}");
        let mine = format!("segue {}", path.join(" "));
        assert!(
            examples.contains(&mine) || examples.contains(&format!(" {} ", path[0])),
            "{path:?}: {examples}"
        );
        for line in examples.lines().filter(|line| !line.trim().is_empty()) {
            parses(line);
        }
    }
}

/// An example is one that clap takes: `--help` behind it shows help and not an error.
fn parses(line: &str) {
    // What follows two spaces says what it does; what follows a `|` is another program.
    let command = line.trim().split("  ").next().unwrap();
    let command = command.split(['|', '>', '&']).next().unwrap();
    let words: Vec<&str> = command.split_whitespace().collect();
    assert_eq!(words.first(), Some(&"segue"), "{line}");
    let mut args: Vec<String> = Vec::new();
    let mut quoted: Option<String> = None;
    for word in &words[1..] {
        if *word == "--" {
            break;
        }
        match (&mut quoted, word.strip_prefix('"'), word.strip_suffix('"')) {
            (None, Some(_), Some(_)) | (None, None, _) => args.push(word.replace('"', "")),
            (None, Some(rest), None) => quoted = Some(rest.to_owned()),
            (Some(text), _, Some(rest)) => {
                let text = format!("{text} {rest}");
                args.push(text);
                quoted = None;
            }
            (Some(text), _, None) => text.extend([" ", word]),
        }
    }
    args.push("--help".to_owned());
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let output = segue(&args);
    assert!(output.status.success(), "{line}: {}", text(&output.stderr));
}

#[test]
fn bad_input_is_refused_with_a_way_out() {
    for (path, bad) in VERBS {
        let args = [*path, *bad].concat();
        let output = segue(&args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(
            said.contains("hint: ") || said.contains("Usage: ") || said.contains("--help"),
            "{args:?}: {said}"
        );
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

/// Verbs that the first page does not show.
const HIDDEN: [&str; 3] = ["judge", "gateway", "controller"];

/// Documents name verbs in code: `segue verb`, or at the start of a line of a block.
#[test]
fn every_verb_that_the_documents_name_exists() {
    let known = verbs(&text(&segue(&["--help"]).stdout));
    let mut named = 0;
    for (path, document) in crate::tidy::files("md") {
        for after in document.split(['`', '\n']).filter_map(|part| {
            let part = part.trim_start_matches("$ ");
            part.strip_prefix("segue ")
        }) {
            let verb: String = after
                .chars()
                .take_while(|c| c.is_ascii_lowercase() || *c == '-')
                .collect();
            // Flags and prose (`segue is`) aside: a verb ends at a space or the end.
            let is_flag = verb.is_empty() || verb.starts_with('-');
            if is_flag {
                continue;
            }
            named += 1;
            assert!(
                known.contains(&verb) || HIDDEN.contains(&verb.as_str()),
                "{}: `segue {after}` names no verb",
                path.display()
            );
        }
    }
    assert!(named > 50, "only {named} verbs were found in the documents");
}
