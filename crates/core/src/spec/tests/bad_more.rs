//! What is refused of gates, hooks, stragglers, notifications and the API.

use super::bad::{check, check_agent};
use crate::spec::{LivekitAdmission, parse};

#[test]
fn webhooks() {
    check_agent(
        "[[agents.a.webhooks]]\n",
        &["2:1: missing `name`", "2:1: missing `url`"],
    );
    let of = |lines: &str| format!("[[agents.a.webhooks]]\nname = \"board\"\n{lines}");
    for (url, message) in [
        ("", "`url` is empty"),
        ("board.example.com", "is not an address with a scheme"),
        (
            "ftp://board",
            "has the scheme \"ftp\" … only http and https",
        ),
        ("file:///etc/passwd", "has the scheme \"file\""),
        ("https://", "names no host"),
        ("https:///path", "names no host"),
        (
            "https://me:secret@board/x",
            "contains a user or password … secret_file",
        ),
        ("https://board:0/", "has a port that is none"),
        ("https://board:70000/", "has a port that is none"),
        ("https://board:http/", "has a port that is none"),
        ("https://board/#x", "contains `#`"),
        ("https://böard/", "contains 'ö'"),
        ("https://bo ard/", "contains ' '"),
        ("https://[::1/", "names no host"),
        ("https://[zz]/", "names no host"),
    ] {
        let (message, hint) = message.split_once(" … ").unwrap_or((message, ""));
        let expected = format!("4:7: … {message} … {hint}");
        check_agent(&of(&format!("url = \"{url}\"\n")), &[&expected]);
    }
    let long = format!("https://board/{}", "x".repeat(2_048));
    check_agent(
        &of(&format!("url = \"{long}\"\n")),
        &["4:7: `url`: … is too long"],
    );
    check_agent(
        &of("url = \"https://b\"\ntimeout = \"31s\"\nretries = 11\nsecret_file = \"\"\n"),
        &[
            "5:11: `timeout` is \"31s\", must be 100ms to 30s … better an approval",
            "6:11: `retries` is 11, must be 0 to 10",
            "7:15: `secret_file` is empty",
        ],
    );
    check_agent(
        &of("url = \"https://b\"\n[[agents.a.webhooks]]\nname = \"board\"\nurl = \"https://c\"\n"),
        &["6:8: \"board\" is already taken on line 3"],
    );
    check_agent(
        "webhooks = [{ name = \"a b\", url = \"https://b\" }]\n",
        &["2:22: name \"a b\" is not valid"],
    );
    check_agent(
        "webhooks = { name = \"a\", url = \"https://b\" }\n",
        &["2:12: `webhooks`: found a table, expected a list"],
    );
    let many: Vec<_> = (0..9)
        .map(|n| format!("{{ name = \"w{n}\", url = \"https://b\" }}, "))
        .collect();
    let many = many.concat();
    check_agent(
        &format!("webhooks = [{many}]\n"),
        &["2:12: `webhooks` has 9 items, at most 8"],
    );
}

#[test]
fn networks() {
    for (network, message) in [
        ("localhost", "is not an address or a network"),
        ("", "`allow` is empty"),
        ("10.0.0.0/33", "must end in 0 to 32"),
        ("10.0.0.0/", "must end in 0 to 32"),
        ("10.0.0.0/+8", "must end in 0 to 32"),
        ("fd00::/129", "must end in 0 to 128"),
        ("10.0.0.1/8", "is an address inside of its network"),
        ("fd00::1/8", "is an address inside of its network"),
        ("10.0.0", "is not an address or a network"),
    ] {
        check_agent(
            &format!(
                "[[agents.a.webhooks]]\nname = \"b\"\nurl = \"https://b\"\nallow = [\"{network}\"]\n"
            ),
            &[&format!("5:10: … {message}")],
        );
    }
}

#[test]
fn approvals() {
    check_agent(
        "approval = {}\n",
        &["2:12: missing `before` … \"ramp\": before the first call"],
    );
    check_agent(
        "approval = { before = \"deploy\" }\n",
        &["2:23: `before` is \"deploy\", must be \"ramp\" or \"cutover\""],
    );
    check_agent(
        "approval = true\n",
        &["2:12: `approval`: found a boolean, expected a table"],
    );
    check_agent(
        "approval = { before = \"ramp\", by = \"ada\" }\n",
        &["2:31: unknown key \"by\" … known here: before"],
    );
}

#[test]
fn hooks() {
    check_agent(
        "[agents.a.hooks.before_deploy]\n",
        &["2:1: missing `command`"],
    );
    check_agent(
        "hooks.after_retire.command = []\n",
        &["2:30: `command` names no program"],
    );
    check_agent(
        "hooks.after_retire.command = [\"\"]\n",
        &["2:31: `command` is empty"],
    );
    check_agent(
        "hooks.before_deploy = { command = [\"m\", \"{port}\", \"{engine.url}\"], timeout = \"2h\" }\n",
        &[
            "2:41: `command`: unknown placeholder `{port}` … {release} and {agent}",
            "2:78: `timeout` is \"2h\", must be 1s to 1h",
        ],
    );
    check_agent(
        "hooks.before_retire = { command = [\"m\"] }\n",
        &["2:7: unknown key \"before_retire\""],
    );
    check_agent(
        "hooks = [\"migrate\"]\n",
        &["2:9: `hooks`: found a list, expected a table … before_deploy, after_retire"],
    );
}

#[test]
fn bake_and_fast_track() {
    check_agent(
        "bake = \"25h\"\nfast_track = \"no\"\n",
        &[
            "2:8: `bake` is \"25h\", must be 0ms to 24h",
            "3:14: `fast_track`: found a string, expected true or false",
        ],
    );
    check_agent(
        "bake = 600\n",
        &["2:8: `bake`: found an integer, expected a duration … write \"600s\""],
    );
}

#[test]
fn stragglers() {
    check_agent(
        "stragglers = \"end\"\n",
        &["2:14: `stragglers`: found a string, expected a table … policy, ceiling"],
    );
    check_agent(
        "stragglers.policy = \"kill\"\n",
        &[
            "2:21: `policy` is \"kill\", must be \"wait\", \"announce\", \"hand-off\" or \"end\" … for \
             them",
        ],
    );
    for policy in ["announce", "hand-off", "end"] {
        check_agent(
            &format!("stragglers.policy = \"{policy}\"\n"),
            &[&format!(
                "2:21: the policy \"{policy}\" needs a `ceiling` … ceiling = \"2h\""
            )],
        );
    }
    check_agent(
        "stragglers = { policy = \"wait\", ceiling = \"2h\" }\n",
        &["2:43: `ceiling` says when, but the policy \"wait\" does nothing then"],
    );
    check_agent(
        "stragglers = { ceiling = \"2h\" }\n",
        &["2:26: `ceiling` says when, but the policy \"wait\""],
    );
    check_agent(
        "stragglers = { policy = \"end\", ceiling = \"8d\", jitter = \"2h\", per_second = 0 }\n",
        &[
            "2:42: `ceiling`: \"8d\" is not a duration",
            "2:57: `jitter` is \"2h\", must be 0ms to 1h",
            "2:76: `per_second` is 0, must be 1 to 1000",
        ],
    );
    check_agent(
        "stragglers = { policy = \"end\", ceiling = \"169h\" }\n",
        &["2:42: `ceiling` is \"169h\", must be 0ms to 168h"],
    );
}

#[test]
fn rescue() {
    check_agent(
        "rescue = true\n",
        &["2:10: `rescue`: found a boolean, expected a table … opening_messages"],
    );
    check_agent(
        "rescue = { opening_messages = 9, openings = 1 }\n",
        &[
            "2:31: `opening_messages` is 9, must be 0 to 8 … keeps them",
            "2:34: unknown key \"openings\" … known here: opening_messages",
        ],
    );
}

#[test]
fn limits_of_the_gateway() {
    let of = |line: &str| format!("[agents.a]\n[gateway]\n{line}\n");
    check(
        &of("max_connections = 0"),
        &["3:19: `max_connections` is 0, must be 1 to 100000 … descriptor"],
    );
    check(
        &of("head_timeout = \"2m\""),
        &["3:16: `head_timeout` is \"2m\", must be 100ms to 1m … for nothing"],
    );
}

#[test]
fn the_api() {
    let of = |lines: &str| format!("[agents.a]\n[api]\n{lines}");
    check(
        &of("listen = \"10.0.0.1:7070\"\n"),
        &["3:10: refused: 10.0.0.1:7070 is not a loopback address, and the API has no `tls`"],
    );
    // What is wrong with the identity is enough to say.
    check(
        &of("listen = \"10.0.0.1:7070\"\ntls = { cert = \"api.pem\" }\n"),
        &["4:7: missing `key` … TLS needs both"],
    );
    check(
        &of("names = [\"segue.internal:7070\", \"*.internal\", 1]\n"),
        &[
            "3:10: `names`: \"segue.internal:7070\" has a port … write \"segue.internal\"",
            "3:33: `names`: \"*.internal\" is a wildcard",
            "3:47: `names`: found an integer, expected a string",
        ],
    );
    check(
        &of("rate_limit = 10001\ntoken = \"x\"\n"),
        &[
            "3:14: `rate_limit` is 10001, must be 1 to 10000 … ten",
            "4:1: unknown key \"token\" … known here: listen, tls, names, rate_limit",
        ],
    );
    check(
        "[agents.a]\n[telemetry]\notlp = \"127.0.0.1:4318\"\nport = 1\n",
        &[
            "3:8: `otlp`: \"127.0.0.1:4318\" is not an address with a scheme",
            "4:1: unknown key \"port\" … known here: otlp",
        ],
    );
}

#[test]
fn notifications() {
    let of = |lines: &str| format!("agents.a = {{}}\n[[notify]]\nname = \"ops\"\n{lines}");
    check(&of(""), &["2:1: missing `url`"]);
    let url = "url = \"https://hooks.example.com\"\n";
    check(
        &of(&format!("{url}format = \"teams\"\n")),
        &["5:10: `format` is \"teams\", must be \"json\", \"slack\" or \"cdevents\""],
    );
    check(
        &of(&format!("{url}events = [\"landed\", \"landet\"]\n")),
        &["5:21: `events`: \"landet\" is no decision … known are configured, deployed"],
    );
    check(
        &of(&format!("{url}template = \"{{agent}} {{call}}\"\n")),
        &["5:12: `template`: unknown placeholder `{call}` … {agent}, {event}, {release}"],
    );
    check(
        &of(&format!("{url}template = \"\"\n")),
        &["5:12: `template` is empty"],
    );
    check(
        &of(&format!("{url}template = \"{}\"\n", "x".repeat(4_097))),
        &["5:12: `template` is longer than 4096 bytes"],
    );
    check(
        &of(&format!("{url}[[notify]]\nname = \"ops\"\n{url}")),
        &["6:8: \"ops\" is already taken on line 3"],
    );
    check(
        "agents.a = {}\nnotify = { name = \"ops\" }\n",
        &["2:10: `notify`: found a table, expected a list"],
    );
    let many: Vec<_> = (0..17)
        .map(|n| format!("[[notify]]\nname = \"n{n}\"\n{url}"))
        .collect();
    let many = many.concat();
    check(
        &format!("agents.a = {{}}\n{many}"),
        &["2:1: `notify` has 17 items, at most 16"],
    );
}

#[test]
fn livekit() {
    let file = |lines: &str, agent: &str| format!("[livekit]\n{lines}\n[agents.a]\n{agent}");
    let good = "url = \"ws://h\"\napi_key = \"k\"\nsecret_file = \"f\"\nunsigned = true";
    let takes = "livekit = {}\n";
    check(
        &file("", takes),
        &[
            "1:1: missing `url` … wss://HOST",
            "1:1: missing `api_key`",
            "1:1: missing `secret_file`",
            "1:1: missing `environment` … unsigned = true",
            "1:1: missing `keys`",
            "1:1: missing `manifest`",
        ],
    );
    for url in ["https://h", "wss://", "wss://u@h", "wss://h?x", "h"] {
        check(
            &file(&good.replace("ws://h", url), takes),
            &["2:7: `url`:  … is no address of a server … wss://HOST"],
        );
    }
    check(
        &file(&format!("{good}\nkeys = \"k\""), takes),
        &["6:8: `keys` is not used with unsigned = true"],
    );
    check(
        &file(good, ""),
        &["1:1: no agent takes jobs … agents.NAME.livekit"],
    );
    check_agent(
        "livekit = {}\n",
        &["2:11: the agent takes jobs … there is no [livekit]"],
    );
    check(
        &format!(
            "{}[agents.b]\npath = \"/b\"\nlivekit = {{}}\n",
            file(good, takes)
        ),
        &["10:11: a takes jobs as \"\" already … another `name`"],
    );
    check(
        &file(good, "livekit = { hold = \"2s\", nmae = \"x\" }\n"),
        &["7:20: `hold`", "7:26: unknown key \"nmae\" … name"],
    );
    let again = |namespace: &str| {
        let takes = format!("livekit = {{ redispatch = true, namespace = \"{namespace}\" }}\n");
        file(good, &takes)
    };
    check(
        &again("north"),
        &["7:26: `redispatch` is not for an agent with a `namespace` … by name alone"],
    );
    let spec = parse("segue.toml", &again("")).unwrap();
    assert!(
        spec.livekit
            .unwrap()
            .agents
            .values()
            .all(|of| of.redispatch)
    );
}

#[test]
fn membership() {
    check(
        "agents.a = {}\n[membership]\nworkers = \"asked\"\n",
        &[
            "2:1: missing `environment`",
            "2:1: missing `keys`",
            "2:1: missing `manifest`",
            "3:11: `workers` … registered",
        ],
    );
    // The dispatcher goes by the same files, unless it says otherwise.
    let is = "[membership]\nenvironment = \"e\"\nkeys = \"k\"\nmanifest = \"m\"\n\
        [livekit]\nurl = \"ws://h\"\napi_key = \"k\"\nsecret_file = \"f\"\nkeys = \"own\"\n\
        [agents.a]\nlivekit = {}\n";
    let spec = parse("segue.toml", is).unwrap();
    assert_eq!(
        spec.livekit.unwrap().admission,
        LivekitAdmission::Signed {
            environment: "e".parse().unwrap(),
            keys: "own".to_owned(),
            manifest: "m".to_owned(),
        }
    );
}
