//! What is refused in a file as a whole, and how it is said.

use super::*;

/// Expects these faults in this order and no other. Each must start with what is expected as
/// `line:column: message`; parts after ` … ` must be somewhere in its message or hint.
pub(super) fn check(text: &str, expected: &[&str]) {
    let faults = match parse("segue.toml", text) {
        Ok(spec) => panic!("no fault in\n{text}\n{spec:?}"),
        Err(faults) => faults,
    };
    let shown: Vec<_> = faults
        .iter()
        .map(|fault| {
            let fault = fault.to_string();
            fault.strip_prefix("segue.toml:").unwrap().to_owned()
        })
        .collect();
    let fits = |fault: &String, expected: &str| {
        let mut parts = expected.split(" … ");
        fault.starts_with(parts.next().unwrap()) && parts.all(|part| fault.contains(part))
    };
    let all_fit = shown.len() == expected.len()
        && shown
            .iter()
            .zip(expected)
            .all(|(fault, expected)| fits(fault, expected));
    assert!(all_fit, "in\n{text}\nfound\n{}\n", shown.join("\n"));
}

/// The same for lines of one agent, whose header is line 1.
pub(super) fn check_agent(lines: &str, expected: &[&str]) {
    check(&format!("[agents.a]\n{lines}"), expected);
}

#[test]
fn syntax() {
    check("[agents.a\n", &["1:10: unclosed table"]);
    check(
        "[agents.a]\nworkers = 1\nworkers = 2\n",
        &["3:1: duplicate key"],
    );
    check("[agents.a]\n[agents.a]\n", &["2:9: duplicate key"]);
    check_agent("workers = 007\n", &["2:11: unexpected leading zero"]);
    check_agent("workers =\n", &["2:10: a value is missing"]);
    check_agent("health = \"/x\n", &["2:13: invalid basic string"]);
    check_agent(
        "health = \"\\q\"\nworkers 2\n",
        &["2:12: missing escaped value", "3:9: key with no value"],
    );
    check("# é ü\n[agents.é]\n", &["2:9: invalid unquoted key"]);
    check(
        &"#".repeat((1 << 20) + 1),
        &["1:1: the file is longer than 1048576 bytes"],
    );
    check(&format!("{}a = 1", "a.".repeat(1_000)), &["1:"]);
}

#[test]
fn missing_quotes_do_not_hide_other_faults() {
    check_agent(
        "stickiness = 5m\nstandby = soon\nworkers = 0\n",
        &[
            "2:14: a text must be in quotes … write \"5m\"",
            "3:11: a text must be in quotes … write \"soon\"",
            "3:11: `standby`: \"soon\" is not a duration",
            "4:11: `workers` is 0",
        ],
    );
}

#[test]
fn unknown_keys() {
    check(
        "[agnets.a]\n",
        &[
            "1:1: missing `agents`",
            "1:2: unknown key \"agnets\" … did you mean `agents`?",
        ],
    );
    check_agent(
        "wrokers = 2\n",
        &["2:1: unknown key \"wrokers\" … did you mean `workers`?"],
    );
    check_agent(
        "pth = 2\n",
        &["2:1: unknown key \"pth\" … did you mean `path`?"],
    );
    check_agent(
        "drops = \"1%\"\n",
        &["2:1: unknown key \"drops\" … `drops` belongs in `[agents.NAME.limits]`"],
    );
    check_agent(
        "colour = 2\n",
        &["2:1: unknown key \"colour\" … known here: command, env"],
    );
    check_agent(
        "limits.minimum = 2\n",
        &["2:8: unknown key \"minimum\" … known here: drops, errors, min_calls"],
    );
    check_agent(
        "api = 1\n",
        &["2:1: unknown key \"api\" … belongs at the top of the file"],
    );
    check(
        "[agents.a]\n[gateway]\nlisten_ = 1\ntls.crt = 1\n",
        &[
            "3:1: unknown key \"listen_\" … did you mean `listen`?",
            "4:1: missing `cert`",
            "4:1: missing `key`",
            "4:5: unknown key \"crt\" … did you mean `cert`?",
        ],
    );
}

#[test]
fn wrong_types() {
    check_agent(
        "workers = \"2\"\n",
        &["2:11: `workers`: found a string, expected a whole number"],
    );
    check_agent(
        "workers = 2.5\n",
        &["2:11: `workers`: found a decimal number, expected a whole number"],
    );
    check_agent(
        "health = true\n",
        &["2:10: `health`: found a boolean, expected a string"],
    );
    check_agent(
        "directory = 7\n",
        &["2:13: `directory`: found an integer … write \"7\""],
    );
    check_agent(
        "smoke = \"hours\"\n",
        &["2:9: `smoke`: found a string, expected a table … known here: scenario"],
    );
    check_agent(
        "steps = { share = \"1%\" }\n",
        &["2:9: `steps`: found a table, expected a list"],
    );
    check_agent(
        "steps = [\"10%\"]\n",
        &["2:10: `steps`: found a string, expected a table"],
    );
    check_agent(
        "hosts = [\"a\", 1979-05-27]\n",
        &["2:15: `hosts`: found a date, expected a string"],
    );
    check_agent(
        "env = [\"A=b\"]\n",
        &["2:7: `env`: found a list, expected a table … { NAME = "],
    );
    check_agent(
        "env = { A = 1 }\n",
        &["2:13: `A`: found an integer, expected a string … write \"1\""],
    );
    check(
        "agents = 1\n",
        &["1:10: `agents`: found an integer, expected a table"],
    );
    check(
        "[agents]\ncommand = []\n",
        &["2:1: `command`: found a list, expected the table of an agent"],
    );
    check(
        "[agents.a]\n[[agents.a.steps]]\nshare = \"1%\"\npause = \"yes\"\n",
        &["4:9: `pause`: found a string, expected true or false"],
    );
}

#[test]
fn no_agents() {
    check("", &["1:1: missing `agents` … write [agents.NAME]"]);
    check("\n[agents]\n", &["2:1: `agents` names no agent"]);
    check(
        "[agents.\"a b\"]\n",
        &["1:9: agent name \"a b\" is not valid"],
    );
    let many: Vec<_> = (0..=100)
        .map(|n| format!("agents.a{n}.path = \"/{n}\"\n"))
        .collect();
    check(&many.concat(), &["1:1: more than 100 agents"]);
}

#[test]
fn two_agents_do_not_answer_the_same() {
    check(
        "[agents.b]\n\n[agents.a]\n",
        &["3:9: any host with path \"/\" is already taken by \"b\" on line 1"],
    );
    check(
        "[agents.a]\nhosts = [\"x.test\", \"y.test\"]\n[agents.b]\nhosts = [\"z.test\",\n\"Y.test\"]\n",
        &["5:1: host \"y.test\" with path \"/\" is already taken by \"a\" on line 2"],
    );
    check(
        "[agents.a]\npath = \"/x\"\n[agents.b]\npath = \"/x/\"\n",
        &["4:8: any host with path \"/x\" is already taken by \"a\" on line 2"],
    );
    check(
        "[agents.a]\npath = \"x\"\n[agents.b]\n",
        &["2:8: `path`: \"x\" does not start"],
    );
}

#[test]
fn addresses() {
    let agent = "agents.a = {}\n";
    for (line, expected) in [
        (
            "gateway.listen = \"localhost:80\"",
            "2:18: `listen`: \"localhost:80\" is not an IP address and a port … \"127.0.0.1:8080\"",
        ),
        (
            "gateway.listen = 8080",
            "2:18: `listen`: found an integer, expected a string",
        ),
        (
            "api.listen = \"0.0.0.0:7070\"",
            "2:14: refused: 0.0.0.0:7070 is not a loopback address … tls = {",
        ),
        (
            "api.listen = \"127.0.0.1:8080\"",
            "2:14: the gateway and the admin API both listen on port 8080",
        ),
        (
            "gateway.listen = \"0.0.0.0:7070\"",
            "2:18: the gateway and the admin API both listen on port 7070",
        ),
        (
            "gateway.tls = { cert = \"c.pem\" }",
            "2:15: missing `key` … TLS needs both",
        ),
        (
            "gateway.tls = { key = \"c.pem\" }",
            "2:15: missing `cert` … TLS needs both",
        ),
        (
            "gateway.tls = { key = \"c.pem\", cert = \"\" }",
            "2:39: `cert` is empty",
        ),
    ] {
        check(&format!("{agent}{line}\n"), &[expected]);
    }
}

#[test]
fn all_faults_come_at_once_and_in_order() {
    check(
        r#"
[api]
listen = "0.0.0.0:7070"
[agents.b]
workers = 0
workres = 3
command = ["agent", "{prot}"]
[[agents.b.steps]]
share = "10%"
min_calls = 5
[[agents.b.steps]]
share = "100%"
min_duration = 30
[agents."a a"]
hosts = ["calls.example.com:80"]
stickiness = "2h"
[[agents."a a".rules]]
header = "X-Bêta"
[gateway]
tls = { cert = "cert.pem" }
"#,
        &[
            "3:10: refused: 0.0.0.0:7070",
            "5:11: `workers` is 0",
            "6:1: unknown key \"workres\"",
            "7:21: `command`: unknown placeholder `{prot}`",
            "12:9: `share` is \"100%\"",
            "13:16: `min_duration`: found an integer",
            "14:9: agent name \"a a\" is not valid",
            "15:10: `hosts`: \"calls.example.com:80\" has a port",
            "16:14: `stickiness` is \"2h\"",
            "17:1: missing `release`",
            "18:10: `header`: \"X-Bêta\" is not a header name",
            "20:7: missing `key`",
        ],
    );
}

#[test]
fn columns_count_characters() {
    check(
        "agents = { \"é\" = {}, b = { workres = 1 } }\n",
        &[
            "1:12: agent name \"é\" is not valid",
            "1:22: any host",
            "1:28: unknown key",
        ],
    );
}

#[test]
fn a_fault_is_shown_with_its_hint() {
    let mut fault = Fault {
        file: "segue.toml".to_owned(),
        line: 12,
        column: 9,
        message: "message".to_owned(),
        hint: None,
    };
    assert_eq!(fault.to_string(), "segue.toml:12:9: message");
    fault.hint = Some("do it".to_owned());
    assert_eq!(fault.to_string(), "segue.toml:12:9: message\nhint: do it");
}
