//! What is refused of an agent's components and of what its workers are given.

use super::bad::{check, check_agent};

/// An agent with these lines, and components with theirs. Lines of the agent begin at 2.
fn stack(agent: &str, components: &[(&str, &str)]) -> String {
    let tables = components.iter().map(|(name, lines)| {
        format!("[agents.a.components.{name}]\ncommand = [\"x\", \"{{port}}\"]\n{lines}")
    });
    format!("[agents.a]\n{agent}{}", tables.collect::<String>())
}

#[test]
fn names_of_components() {
    check_agent(
        "components = [\"engine\"]\n",
        &["2:14: `components`: found a list, expected a table"],
    );
    check_agent(
        "components = { engine = \"x\" }\n",
        &["2:16: `engine`: found a string, expected the table of a component"],
    );
    check_agent(
        "[agents.a.components.\"a b\"]\ncommand = [\"x\", \"{port}\"]\n",
        &["2:22: component name \"a b\" is not valid"],
    );
    let many: Vec<_> = (0..17)
        .map(|n| format!("[agents.a.components.c{n}]\ncommand = [\"x\", \"{{port}}\"]\n"))
        .collect();
    let many = many.concat();
    check_agent(&many, &["2:11: more than 16 components"]);
    check_agent(
        "[agents.a.components.engine]\ncommand = [\"x\", \"{port}\"]\nworkers = 2\n",
        &["4:1: unknown key \"workers\" … `workers` belongs in `[agents.NAME]`"],
    );
}

#[test]
fn commands_of_components() {
    let of = |lines: &str| format!("[agents.a.components.engine]\n{lines}");
    check_agent(&of(""), &["2:22: missing `command`"]);
    check_agent(&of("command = []\n"), &["3:11: `command` names no program"]);
    check_agent(
        &of("command = \"engine\"\n"),
        &["3:11: `command`: found a string, expected a list … no shell"],
    );
    check_agent(
        &of("command = [\"engine\"]\n"),
        &["3:11: `command` does not tell the component its port"],
    );
    check_agent(
        &of("command = [\"engine\", \"{port}\", \"{worker}\"]\n"),
        &["3:32: `command`: unknown placeholder `{worker}` … {port}, {release} and {agent}"],
    );
    check_agent(
        &of("command = [\"engine\", \"{port}\", \"{prompt}\"]\n"),
        &["3:32: `command`: unknown placeholder `{prompt}`"],
    );
    check_agent(
        &of("command = [\"engine\", \"{port}\"]\nhealth = \"ready\"\ndirectory = \"\"\n"),
        &[
            "4:10: `health`: \"ready\" does not start with `/`",
            "5:13: `directory` is empty",
        ],
    );
    check_agent(
        &of("command = [\"engine\", \"{port}\"]\nenv = { A = \"{a.url}\", \"B C\" = \"\" }\n"),
        &[
            "4:13: `A`: unknown placeholder `{a.url}`: there is no component \"a\" … components are \
             engine",
            "4:24: \"B C\" is not the name of a variable",
        ],
    );
}

#[test]
fn dependencies() {
    check_agent(
        "depends_on = [\"engine\"]\n",
        &["2:15: `depends_on`: there is no component \"engine\" … the agent has no components"],
    );
    check(
        &stack("depends_on = [\"enigne\", \"engine\"]\n", &[("engine", "")]),
        &["2:15: `depends_on`: there is no component \"enigne\" … components are engine"],
    );
    check(
        &stack(
            "depends_on = [\"engine\", \"engine\", \"a b\", 3]\n",
            &[("engine", "")],
        ),
        &[
            "2:25: `depends_on` names engine twice",
            "2:35: component name \"a b\" is not valid",
            "2:42: `depends_on`: found an integer, expected a string",
        ],
    );
    check(
        &stack("depends_on = {}\n", &[("engine", "")]),
        &["2:14: `depends_on`: found a table, expected a list"],
    );
    // One bad name says nothing about the others.
    check_agent(
        "depends_on = [\"engine\"]\n[agents.a.components.\"a b\"]\ncommand = [\"x\", \"{port}\"]\n",
        &["3:22: component name \"a b\" is not valid"],
    );
}

#[test]
fn circles() {
    check(
        &stack("", &[("engine", "depends_on = \"engine\"\n")]),
        &["4:14: engine depends on itself … none of them could be started first"],
    );
    check(
        &stack(
            "depends_on = [\"one\"]\n",
            &[
                ("one", "depends_on = [\"two\"]\n"),
                ("two", "depends_on = [\"three\"]\n"),
                ("three", "depends_on = [\"two\"]\n"),
            ],
        ),
        &["8:14: two, three depend on each other in a circle"],
    );
}

#[test]
fn addresses_of_components() {
    let agent = |command: &str| format!("command = [\"bot\", \"{{port}}\", \"{command}\"]\n");
    check(
        &stack(&agent("{engine.url}"), &[("engine", "")]),
        &[
            "2:29: `command`: `{engine.url}`, but it does not depend on engine … depends_on = \
             [\"engine\"]",
        ],
    );
    check_agent(
        &agent("{engine.url}"),
        &["2:29: `command`: unknown placeholder `{engine.url}` … the agent has no components"],
    );
    check(
        &stack(
            &format!("depends_on = \"engine\"\n{}", agent("{engine.port}")),
            &[("engine", "")],
        ),
        &["3:29: `command`: unknown placeholder `{engine.port}` … for a shell write $NAME"],
    );
    // What it depends on is bad by itself, and is not reported twice.
    check(
        &stack(
            &format!("depends_on = 3\n{}", agent("{engine.url}")),
            &[("engine", "")],
        ),
        &["2:14: `depends_on`: found an integer, expected a list"],
    );
    check(
        &stack(
            "",
            &[("api", "env = { E = \"{engine.url}\" }\n"), ("engine", "")],
        ),
        &["4:13: `E`: `{engine.url}`, but it does not depend on engine"],
    );
}

#[test]
fn versions() {
    for bad in ["\"new\"", "\"1.2.3.4\"", "\"{agent}\"", "\"1.x\""] {
        check_agent(
            &format!("version = {bad}\n"),
            &["2:11: `version`: … is not a version … \"{release}\""],
        );
    }
    check_agent("version = \"\"\n", &["2:11: `version` is empty"]);
    check_agent(
        "version = 2.1\n",
        &["2:11: `version`: found a decimal number, expected a string … write \"2.1\""],
    );
}

#[test]
fn requirements() {
    for bad in ["engine", ">= 2", "engine >= new", "engine => 2", "a b >= 2"] {
        check(
            &stack(&format!("requires = [\"{bad}\"]\n"), &[("engine", "")]),
            &["2:13: `requires`: … is not a requirement such as \"engine >= 2.0\""],
        );
    }
    check(
        &stack("requires = \"tts >= 1\"\n", &[("engine", "")]),
        &["2:12: `requires`: there is no component \"tts\" … components are engine"],
    );
    check(
        &stack("requires = \"engine >= 2.0\"\n", &[("engine", "")]),
        &["2:12: `requires` engine >=2.0, but engine has no version … in the table of engine"],
    );
    check(
        &stack(
            "requires = [\"engine >= 2.0\"]\n",
            &[("engine", "version = \"1.9\"\n")],
        ),
        &["2:13: `requires` engine >=2.0, but engine is 1.9 (line 5) … do not go together"],
    );
    check(
        &stack(
            "",
            &[
                (
                    "engine",
                    "version = \"2.0\"\nrequires = \"licence >= 1.2, < 2\"\n",
                ),
                ("licence", "version = \"v2.0.1\"\n"),
            ],
        ),
        &["5:12: `requires` licence >=1.2, <2, but licence is v2.0.1 (line 8)"],
    );
    // A bad version is reported by itself.
    check(
        &stack(
            "requires = \"engine >= 2.0\"\n",
            &[("engine", "version = \"two\"\n")],
        ),
        &["5:11: `version`: \"two\" is not a version"],
    );
}

#[test]
fn what_workers_are_given() {
    for part in ["prompt", "model", "config"] {
        check_agent(
            &format!("command = [\"bot\", \"{{port}}\", \"{{{part}}}\"]\n"),
            &[&format!(
                "2:29: `command`: `{{{part}}}`, but there is no `{part}` … write {part} = "
            )],
        );
        check_agent(
            &format!("{part} = \"\"\n"),
            &[&format!("2:{}: `{part}` is empty", part.len() + 4)],
        );
    }
    check_agent(
        "prompt = [\"a\"]\n",
        &["2:10: `prompt`: found a list, expected a string"],
    );
    check_agent(
        "notify = \"events\"\n",
        &["2:10: `notify`: \"events\" does not start with `/`"],
    );
}
