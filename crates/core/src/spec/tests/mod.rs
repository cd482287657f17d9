//! Good files, and what they come to. Bad ones are in [`bad`] and [`bad_agent`].

mod bad;
mod bad_agent;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const FULL: &str = r#"
[gateway]
listen = "0.0.0.0:8443"
tls = { cert = "cert.pem", key = "key.pem" }

[api]
listen = "[::1]:7071"

[agents.receptionist]
command = ["agent", "--port", "{port}", "--name={release}/{worker}/{agent}"]
env = { GREETING = "hello", JSON = '{"a": {"b": 1}}', PORT = "{port}" }
directory = "agent"
workers = 2
capacity = 50
health = "/healthz?full=1"
hosts = ["Calls.Example.com", "[::1]"]
path = "/voice/"
call_id = ["header:X-Call-Id", "path:/ws/{call_id}", "path:/v/{}/ws", "query:id", "form:CallSid", "cookie:c"]
cohort = "header:X-Tenant"
caller = "form:From"
tenant = ["query:tenant"]
stickiness = "1.5m"
straggler_buffer = "90s"
standby = "0s"
max_tails = 0
on_rollback = "move"
ready_timeout = "1h"

[agents.receptionist.smoke]
scenario = "hours"
path = "/call/{call_id}?smoke=1"
calls = 2
timeout = "30s"

[[agents.receptionist.steps]]
share = "0.5%"
min_calls = 20
min_duration = "250ms"

[[agents.receptionist.steps]]
share = "99.99 %"
pause = true

[agents.receptionist.limits]
drops = "0%"
errors = "100%"
min_calls = 1

[[agents.receptionist.rules]]
header = "X-Beta=a=b"
release = "v2"

[[agents.receptionist.rules]]
header = "X-Beta"
release = "v2"

[[agents.receptionist.rules]]
caller = ["+15550100", "+15550101"]
release = "v3"

[[agents.receptionist.rules]]
tenant = "acme"
release = "v3"

[[agents.receptionist.rules]]
list = ["key"]
release = "0123456789ab"

[agents.bare]
path = "/bare"
"#;

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn good(text: &str) -> Spec {
    parse("segue.toml", text).unwrap_or_else(|faults| {
        let faults: Vec<_> = faults.iter().map(Fault::to_string).collect();
        panic!("{}", faults.join("\n"))
    })
}

fn agent(spec: &Spec, name: &str) -> AgentSpec {
    spec.agents[&name.parse::<AgentName>().unwrap()].clone()
}

#[test]
fn every_key_is_read() {
    let spec = good(FULL);
    assert_eq!(
        spec.gateway,
        GatewaySpec {
            listen: "0.0.0.0:8443".parse().unwrap(),
            tls: Some(TlsSpec {
                cert: "cert.pem".to_owned(),
                key: "key.pem".to_owned(),
            }),
        }
    );
    assert_eq!(spec.api.listen, "[::1]:7071".parse().unwrap());
    assert_eq!(
        agent(&spec, "receptionist"),
        AgentSpec {
            worker: full_worker(),
            parts: PartsSpec::default(),
            components: BTreeMap::new(),
            ingress: full_ingress(),
            policy: Policy {
                stickiness: Millis::from_secs(90),
                on_rollback: OnRollback::Move,
                straggler_buffer: Millis::from_secs(90),
                standby: Millis(0),
                max_tails: 0,
                ..Policy::default()
            },
            plan: full_plan(),
        }
    );
}

fn full_worker() -> WorkerSpec {
    let pair = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    WorkerSpec {
        command: strings(&[
            "agent",
            "--port",
            "{port}",
            "--name={release}/{worker}/{agent}",
        ]),
        env: [
            ("GREETING", "hello"),
            ("JSON", "{\"a\": {\"b\": 1}}"),
            ("PORT", "{port}"),
        ]
        .map(pair)
        .into(),
        directory: Some("agent".to_owned()),
        count: 2,
        capacity: 50,
        health_path: Some("/healthz?full=1".to_owned()),
        ..WorkerSpec::default()
    }
}

fn full_ingress() -> Ingress {
    let rule = |when, release: &str| TargetRule {
        when,
        release: release.to_owned(),
    };
    let beta = |equals: Option<&str>| RuleWhen::Header {
        name: "x-beta".to_owned(),
        equals: equals.map(str::to_owned),
    };
    Ingress {
        hosts: strings(&["calls.example.com", "[::1]"]),
        path: "/voice".to_owned(),
        call_id: vec![
            Source::Header("x-call-id".to_owned()),
            Source::Path("/ws/{}".to_owned()),
            Source::Path("/v/{}/ws".to_owned()),
            Source::Query("id".to_owned()),
            Source::Form("CallSid".to_owned()),
            Source::Cookie("c".to_owned()),
        ],
        cohort: vec![Source::Header("x-tenant".to_owned())],
        caller: vec![Source::Form("From".to_owned())],
        tenant: vec![Source::Query("tenant".to_owned())],
        rules: vec![
            rule(beta(Some("a=b")), "v2"),
            rule(beta(None), "v2"),
            rule(RuleWhen::Caller(strings(&["+15550100", "+15550101"])), "v3"),
            rule(RuleWhen::Tenant(strings(&["acme"])), "v3"),
            rule(RuleWhen::List(strings(&["key"])), "0123456789ab"),
        ],
    }
}

fn full_plan() -> Plan {
    Plan {
        ready_timeout: Millis::from_secs(3_600),
        smoke: Some(Smoke {
            scenario: "hours".to_owned(),
            path: "/call/{call_id}?smoke=1".to_owned(),
            calls: 2,
            timeout: Millis::from_secs(30),
        }),
        steps: vec![
            Step {
                share: Share(50),
                min_calls: 20,
                min_duration: Millis(250),
                pause: false,
            },
            Step {
                share: Share(9_999),
                min_calls: 0,
                min_duration: Millis(0),
                pause: true,
            },
        ],
        limits: Limits {
            drops: Share::NONE,
            errors: Share::ALL,
            min_calls: 1,
        },
        ..Plan::default()
    }
}

/// The full file has every key there is, so the test above covers all of them.
#[test]
fn the_full_file_is_full() {
    for key in keys::ALL.iter().flat_map(|keys| keys.names) {
        assert!(FULL.contains(key), "{key} is not in the full file");
    }
}

#[test]
fn an_agent_needs_only_its_name() {
    let minimal = good("[agents.a]\n");
    let spec = Spec {
        gateway: GatewaySpec {
            listen: GATEWAY_LISTEN,
            tls: None,
        },
        api: ApiSpec::default(),
        telemetry: TelemetrySpec::default(),
        notify: Vec::new(),
        agents: BTreeMap::from([(
            "a".parse().unwrap(),
            AgentSpec {
                worker: WorkerSpec::default(),
                parts: PartsSpec::default(),
                components: BTreeMap::new(),
                ingress: Ingress::default(),
                policy: Policy::default(),
                plan: Plan::default(),
            },
        )]),
    };
    assert_eq!(minimal, spec);
    assert_eq!(good("\u{feff}agents.a = {}\r\n"), spec);
}

#[test]
fn ports_and_hosts_may_differ_in_one_thing() {
    good("agents.a.path = \"/a\"\nagents.b.path = \"/b\"\n");
    good("agents.a.hosts = \"a.test\"\nagents.b.hosts = \"b.test\"\nagents.c = {}\n");
    good("gateway.listen = \"127.0.0.1:0\"\napi.listen = \"127.0.0.1:0\"\nagents.a = {}\n");
    good("agents.a = { command = [\"x\"], env = { PORT = \"{port}\" } }\n");
}

/// Removes the `#` of every `#key` line, as a reader of the example would.
fn uncommented(text: &str) -> String {
    let is_default = |rest: &str| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[');
    let line = |line: &str| match line.strip_prefix('#') {
        Some(rest) if is_default(rest) => format!("{rest}\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

#[test]
fn the_example_is_good_and_its_comments_are_the_defaults() {
    let example = good(EXAMPLE);
    let with_defaults = uncommented(EXAMPLE);
    assert!(with_defaults.len() + 25 < EXAMPLE.len());
    assert_eq!(good(&with_defaults), example);
    let agent = agent(&example, "receptionist");
    assert_eq!(agent.worker.command[..2], ["segue", "sample-agent"]);
    assert_eq!(agent.plan.smoke.unwrap().scenario, "hours");
    for key in keys::ALL.iter().flat_map(|keys| keys.names) {
        assert!(EXAMPLE.contains(key), "{key} is not in the example");
    }
}

/// Each table has its section in the reference, and each key its row there.
#[test]
fn every_key_is_in_the_reference() {
    let reference = include_str!("../../../../../docs/reference/config.md");
    let section = |header: &str| {
        let title = match header {
            "" => "\n## Top of the file\n".to_owned(),
            header => format!("\n## `{header}`\n"),
        };
        let (_, rest) = reference.split_once(&title)?;
        rest.split("\n## ").next()
    };
    for keys in keys::ALL {
        let rows = section(keys.header).unwrap_or_else(|| panic!("no section {}", keys.header));
        let documented: Vec<_> = rows
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .collect();
        assert_eq!(documented, keys.names, "{}", keys.header);
    }
}

proptest! {
    #[test]
    fn parse_never_panics(text in any::<String>()) {
        let _ = parse("segue.toml", &text);
    }

    #[test]
    fn parse_never_panics_on_what_looks_like_toml(
        parts in proptest::collection::vec(part(), 0..60)
    ) {
        places_are_in_the_text(&parts.concat());
    }

    #[test]
    fn parse_never_panics_on_a_damaged_file(
        at in 0..FULL.len(),
        gone in 0..40_usize,
        instead in part(),
    ) {
        let end = (at + gone).min(FULL.len());
        places_are_in_the_text(&format!("{}{instead}{}", &FULL[..at], &FULL[end..]));
    }
}

fn part() -> impl Strategy<Value = String> {
    let words = keys::ALL.iter().flat_map(|keys| keys.names.iter().copied());
    let marks = [
        "\n",
        "[",
        "]",
        "[[",
        "]]",
        "{",
        "}",
        "\"",
        "'",
        "\"\"\"",
        " = ",
        ".",
        ", ",
        "#",
        "5m",
        "1.5",
        "\"10%\"",
        "true",
        "\u{e9}",
        "agents.a",
        "\"{port}\"",
        "\\u0000",
        "0x",
        "-",
    ];
    let all: Vec<_> = words.chain(marks).map(str::to_owned).collect();
    proptest::sample::select(all)
}

/// Faults are in order and each is at a place that exists.
fn places_are_in_the_text(text: &str) {
    let Err(faults) = parse("segue.toml", text) else {
        return;
    };
    assert!(!faults.is_empty());
    assert!(faults.is_sorted_by_key(|fault| (fault.line, fault.column)));
    for Fault { line, column, .. } in faults {
        let line = text.split('\n').nth(line - 1).unwrap();
        assert!(column <= line.chars().count() + 1);
    }
}
