//! What is refused of one agent, and how it is said.

use super::bad::check_agent;

#[test]
fn durations() {
    check_agent(
        "stickiness = 30\n",
        &["2:14: `stickiness`: found an integer, expected a duration … write \"30s\""],
    );
    check_agent(
        "standby = 1.5\n",
        &["2:11: `standby`: found a decimal number … write \"1.5s\""],
    );
    check_agent(
        "standby = true\n",
        &["2:11: `standby`: found a boolean … \"250ms\""],
    );
    for bad in [
        "",
        "5",
        "m",
        "5 minutes",
        "1h30m",
        "-5m",
        "0.0001ms",
        "1_0s",
        "5M",
        "9999999999s",
    ] {
        check_agent(
            &format!("standby = \"{bad}\"\n"),
            &["2:11: `standby`: … is not a duration … write one number"],
        );
    }
    check_agent(
        "stickiness = \"61m\"\nstraggler_buffer = \"2h\"\n",
        &["2:14: `stickiness` is \"61m\", must be 0ms to 1h … never hours"],
    );
    check_agent(
        "straggler_buffer = \"25h\"\n",
        &["2:20: `straggler_buffer` is \"25h\", must be 0ms to 24h"],
    );
    check_agent(
        "ready_timeout = \"1ms\"\n",
        &["2:17: `ready_timeout` is \"1ms\", must be 1s to 1h"],
    );
    check_agent(
        "standby = \"169h\"\n",
        &["2:11: `standby` is \"169h\", must be 0ms to 168h"],
    );
}

#[test]
fn the_buffer_covers_the_stickiness() {
    check_agent(
        "straggler_buffer = \"1m\"\n",
        &["2:20: `straggler_buffer` (1m) is shorter than `stickiness` (5m)"],
    );
    check_agent(
        "stickiness = \"10m\"\n",
        &["2:14: `straggler_buffer` (5m) is shorter … write straggler_buffer = \"10m\""],
    );
    check_agent(
        "straggler_buffer = \"9m\"\nstickiness = \"10m\"\n",
        &["2:20: `straggler_buffer` (9m)"],
    );
    check_agent(
        "straggler_buffer = \"1m\"\nstickiness = \"x\"\n",
        &["3:14: `stickiness`: \"x\" is not a duration"],
    );
}

#[test]
fn numbers() {
    check_agent(
        "workers = 0\n",
        &["2:11: `workers` is 0, must be 1 to 1000"],
    );
    check_agent(
        "workers = 1001\n",
        &["2:11: `workers` is 1001, must be 1 to 1000"],
    );
    check_agent("workers = -1\n", &["2:11: `workers` is -1, must be"]);
    check_agent(
        "capacity = 100_001\n",
        &["2:12: `capacity` is 100001, must be 1 to 100000"],
    );
    check_agent(
        "capacity = 99999999999999999999\n",
        &["2:12: `capacity` is 99999999999999999999, must be"],
    );
    check_agent(
        "max_tails = 11\n",
        &["2:13: `max_tails` is 11, must be 0 to 10"],
    );
    check_agent(
        "limits.min_calls = 0\n",
        &["2:20: `min_calls` is 0, must be 1 to 1000000"],
    );
    check_agent(
        "limits.drops = \"101%\"\n",
        &["2:16: `drops` is \"101%\", must be 0 % to 100 %"],
    );
    check_agent(
        "limits.errors = 5\n",
        &["2:17: `errors`: found an integer, expected a share … write \"5%\""],
    );
    for bad in ["5", "%", "1.234%", "-1%", "5%%"] {
        check_agent(
            &format!("limits.drops = \"{bad}\"\n"),
            &["2:16: `drops`: … is not a share … at most two decimals"],
        );
    }
}

#[test]
fn steps_rise() {
    let steps = |shares: &[&str]| {
        let step = |share: &&str| format!("{{ share = \"{share}\", pause = true }},\n");
        format!(
            "steps = [\n{}]\n",
            shares.iter().map(step).collect::<Vec<_>>().concat()
        )
    };
    check_agent(
        &steps(&["10%", "10%"]),
        &["4:11: `share` is 10 %, not above the 10 % of the step on line 3"],
    );
    check_agent(
        &steps(&["50%", "20%", "30%"]),
        &[
            "4:11: `share` is 20 % … on line 3",
            "5:11: `share` is 30 % … on line 3",
        ],
    );
    check_agent(
        &steps(&["50%", "100%"]),
        &["4:11: `share` is \"100%\", must be 0.01 % to 99.99 % … the cutover itself"],
    );
    check_agent(&steps(&["0%"]), &["3:11: `share` is \"0%\", must be"]);
    check_agent(
        "steps = [{ share = \"1%\" }]\n",
        &["2:10: the step waits for nothing"],
    );
    check_agent(
        "[[agents.a.steps]]\npause = true\n",
        &["2:1: missing `share`"],
    );
    check_agent(
        "[[agents.a.steps]]\nshare = \"1%\"\nmin_calls = 0\n",
        &["4:13: `min_calls` is 0, must be 1"],
    );
    let many: Vec<_> = (1..=21).map(|n| format!("{n}%")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    check_agent(&steps(&many), &["2:9: `steps` has 21 items, at most 20"]);
}

#[test]
fn smoke() {
    check_agent(
        "[agents.a.smoke]\n",
        &["2:1: missing `scenario` … scenario = \"hours\""],
    );
    check_agent(
        "smoke = { scenario = \"\", path = \"ws\", calls = 0, timeout = \"0s\" }\n",
        &[
            "2:22: `scenario` is empty",
            "2:33: `path`: \"ws\" does not start with `/` … write \"/ws\"",
            "2:47: `calls` is 0, must be 1 to 100",
            "2:60: `timeout` is \"0s\", must be 1s to 1h",
        ],
    );
    check_agent(
        "smoke = { scenario = \"x\", path = \"/{id}\" }\n",
        &["2:34: `path`: unknown placeholder `{id}`"],
    );
}

#[test]
fn commands() {
    check_agent(
        "command = \"agent --port {port}\"\n",
        &["2:11: `command`: found a string, expected a list … no shell"],
    );
    check_agent(
        "command = [\"agent\"]\n",
        &["2:11: `command` does not tell the worker its port … {port}"],
    );
    check_agent(
        "command = [\"\", \"{port}\"]\n",
        &["2:12: `command` is empty"],
    );
    check_agent(
        "command = [\"a\", \"{prot}\", \"{port}\", \"${HOME}\"]\n",
        &[
            "2:17: `command`: unknown placeholder `{prot}` … {port}, {release}, {worker} and {agent}",
            "2:37: `command`: unknown placeholder `{HOME}`",
        ],
    );
    check_agent(
        "env = { A = \"{x}\", \"1B\" = \"\", C = \"\\u0000\" }\n",
        &[
            "2:13: `A`: unknown placeholder `{x}`",
            "2:20: \"1B\" is not the name of a variable",
            "2:35: `C` contains a zero byte",
        ],
    );
    check_agent(
        "directory = \"\"\nhealth = \"healthz\"\n",
        &[
            "2:13: `directory` is empty",
            "3:10: `health`: \"healthz\" does not start with `/`",
        ],
    );
}

#[test]
fn hosts_and_paths() {
    check_agent(
        "hosts = [\"a.test:80\", \"*.b.test\", \"http://c\", \"\"]\n",
        &[
            "2:10: `hosts`: \"a.test:80\" has a port … write \"a.test\"",
            "2:23: `hosts`: \"*.b.test\" is a wildcard",
            "2:35: `hosts`: \"http://c\" is not a host name",
            "2:47: `hosts` is empty",
        ],
    );
    check_agent(
        "path = \"ws\"\n",
        &["2:8: `path`: \"ws\" does not start with `/`"],
    );
    check_agent("path = \"/a b\"\n", &["2:8: `path`: \"/a b\" contains ' '"]);
    check_agent("path = \"/a#b\"\n", &["2:8: `path`: \"/a#b\" contains `#`"]);
    check_agent(
        "path = \"/a?b\"\n",
        &["2:8: `path`: \"/a?b\" contains a query"],
    );
}

#[test]
fn sources() {
    for (source, message) in [
        (
            "X-Call-Id",
            "\"X-Call-Id\" is not a source … write header:NAME",
        ),
        ("headr:X", "unknown source \"headr\" … write header:NAME"),
        ("header:", "\"header:\" names nothing"),
        ("header:X Call", "\"X Call\" is not a header name"),
        ("cookie:a;b", "\"a;b\" is not a cookie name"),
        ("path:ws/{}", "\"ws/{}\" does not start with `/`"),
        ("path:/ws", "\"/ws\" must contain `{}` exactly once"),
        (
            "path:/{}/{call_id}",
            "must contain `{}` exactly once … in the place of the value",
        ),
        ("path:/{}/{tenant}", "must contain `{}` exactly once"),
        (
            "path:/ws/{}?x=1",
            "\"/ws/{}?x=1\" is more than a path … query:NAME",
        ),
    ] {
        let (message, hint) = message.split_once(" … ").unwrap_or((message, "hint: "));
        let expected = format!("2:12: `call_id`: … {message} … {hint}");
        check_agent(&format!("call_id = [\"{source}\"]\n"), &[&expected]);
    }
    check_agent(
        "caller = \"x\"\ntenant = 3\n",
        &[
            "2:10: `caller`: \"x\" is not a source",
            "3:10: `tenant`: found an integer, expected a list",
        ],
    );
}

#[test]
fn rules() {
    check_agent(
        "[[agents.a.rules]]\nrelease = \"v2\"\n",
        &["2:1: the rule does not say which calls"],
    );
    check_agent(
        "[[agents.a.rules]]\nheader = \"X\"\n",
        &["2:1: missing `release`"],
    );
    check_agent(
        "rules = [{ tenant = \"t\", header = \"X\", release = \"v2\" }]\n",
        &["2:26: the rule has both `tenant` and `header` … exactly one"],
    );
    for (rule, message) in [
        (
            "header = \"X Y\"",
            "2:21: `header`: \"X Y\" is not a header name",
        ),
        (
            "header = \"=x\"",
            "2:21: `header`: \"\" is not a header name",
        ),
        (
            "header = \"X=\"",
            "2:21: `header`: \"X=\" compares with nothing",
        ),
        (
            "caller = []",
            "2:21: `caller` is empty, so the rule matches no call",
        ),
        ("list = [\"\"]", "2:20: `list` is empty"),
        (
            "tenant = 1",
            "2:21: `tenant`: found an integer, expected a list",
        ),
    ] {
        check_agent(
            &format!("rules = [{{ {rule}, release = \"v2\" }}]\n"),
            &[message],
        );
    }
    check_agent(
        "rules = [{ list = \"a\", release = \"v 2\" }]\n",
        &["2:34: release label \"v 2\" is not valid"],
    );
    let many = "{ list = \"a\", release = \"v\" }, ".repeat(101);
    check_agent(
        &format!("rules = [{many}]\n"),
        &["2:9: `rules` has 101 items, at most 100"],
    );
    check_agent(
        "on_rollback = \"leave\"\n",
        &["2:15: `on_rollback` is \"leave\", must be \"stay\" or \"move\""],
    );
}
