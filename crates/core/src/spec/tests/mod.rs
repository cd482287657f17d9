//! Good files, and what they come to. Bad ones are in [`bad`] and [`bad_agent`].

mod bad;
mod bad_agent;
mod bad_more;
mod bad_stack;
mod full;
mod published;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const FULL: &str = r#"
[gateway]
listen = "0.0.0.0:8443"
tls = { cert = "cert.pem", key = "key.pem" }
max_connections = 500
max_connections_per_address = 50
head_timeout = "5s"
body_timeout = "1m"
stall_timeout = "250ms"

[api]
listen = "10.0.0.1:7071"
tls = { cert = "api.pem", key = "api.key" }
names = ["Segue.internal"]
rate_limit = 100

[telemetry]
otlp = "http://127.0.0.1:4318"

[[notify]]
name = "ops"
url = "https://hooks.example.com/services/T0/B0?x=1"
format = "slack"
events = ["landed", "rolled_back"]
template = "{agent}: {event} {release} by {actor} ({reason})"
secret_file = "ops.secret"
allow = ["127.0.0.1", "10.0.0.0/8", "fd00::/8"]

[[notify]]
name = "bus"
url = "http://[::1]:8088"
format = "cdevents"
events = "cut_over"

[membership]
environment = "production"
keys = "keys.jsonl"
manifest = "manifest.jws"
workers = "registered"

[livekit]
url = "wss://x.livekit.cloud"
ca_file = "ca.pem"
api_key = "APIkey"
secret_file = "livekit.secret"
listen = "0.0.0.0:7080"
unsigned = false
environment = "production"
keys = "keys.jsonl"
manifest = "manifest.jws"

[agents.receptionist]
command = ["agent", "--port", "{port}", "--name={release}/{worker}/{agent}", "{engine.url}/v1"]
env = { GREETING = "hello", JSON = '{"a": {"b": 1}}', PORT = "{port}", P = "{prompt} {model} {config}" }
version = "{release}"
depends_on = "engine"
requires = ["engine >= 2.0, < 3"]
notify = "/segue/events"
prompt = "prompt.toml"
model = "gpt-x"
config = "agent.toml"
bake = "10m"
fast_track = false
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

[agents.receptionist.components.engine]
command = ["engine", "--port", "{port}", "--licence", "{license-proxy.url}"]
env = { NAME = "{agent}-{release}" }
directory = "engine"
health = "/ready"
depends_on = ["license-proxy"]
version = "v2.1"
requires = ["license-proxy >= 1.2"]

[agents.receptionist.components.license-proxy]
command = ["proxy", "{port}"]
version = "1.2"

[[agents.receptionist.webhooks]]
name = "change-board"
url = "https://board.example.com/ask"
secret_file = "board.secret"
allow = "127.0.0.1"
timeout = "2s"
retries = 0

[[agents.receptionist.webhooks]]
name = "tests"
url = "https://tests.example.com"

[agents.receptionist.approval]
before = "cutover"

[agents.receptionist.hooks.before_deploy]
command = ["./migrate", "expand", "{release}"]
timeout = "1m"

[agents.receptionist.hooks.after_retire]
command = ["./migrate", "contract", "{agent}"]

[agents.receptionist.stragglers]
policy = "hand-off"
ceiling = "2h"
jitter = "1m"
per_second = 10

[agents.receptionist.rescue]
opening_messages = 3

[agents.receptionist.livekit]
name = "desk"
namespace = "north"
hold = "250ms"
redispatch = false
room_metadata = true

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

/// The full file has every key there is, so the test above covers all of them.
#[test]
fn the_full_file_is_full() {
    for key in keys::ALL.iter().flat_map(|keys| keys.names()) {
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
            limits: GatewayLimits::default(),
        },
        api: ApiSpec::default(),
        telemetry: TelemetrySpec::default(),
        notify: Vec::new(),
        membership: None,
        livekit: None,
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
    for key in keys::ALL.iter().flat_map(|keys| keys.names()) {
        assert!(EXAMPLE.contains(key), "{key} is not in the example");
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
    let words = keys::ALL.iter().flat_map(|keys| keys.names());
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
