use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::PathBuf;

use segue_core::spec::{Hook, Smoke, WorkerSpec};
use segue_core::time::Millis;

use super::*;
use crate::api::wire::PartBody;
use crate::state::StateDir;

fn words(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn spec(command: &[&str]) -> AgentSpec {
    AgentSpec {
        worker: WorkerSpec {
            command: words(command),
            ..WorkerSpec::default()
        },
        ..AgentSpec::default()
    }
}

/// An agent with an engine and a proxy that it needs.
fn stack() -> AgentSpec {
    let mut spec = spec(&["sh", "bot.sh", "{port}", "{engine.url}"]);
    let component = |file: &str, needs: &[&str], version: &str, requires: &[&str]| ComponentSpec {
        command: words(&["sh", file, "{port}"]),
        depends_on: needs.iter().map(|name| name.parse().unwrap()).collect(),
        version: Some(version.to_owned()),
        requires: requires.iter().map(|text| text.parse().unwrap()).collect(),
        ..ComponentSpec::default()
    };
    let engine = component("engine.sh", &["proxy"], "2.1", &["proxy >= 1.2"]);
    let proxy = component("proxy.sh", &[], "1.2", &[]);
    spec.components.insert("engine".parse().unwrap(), engine);
    spec.components.insert("proxy".parse().unwrap(), proxy);
    spec.worker.depends_on = vec!["engine".parse().unwrap()];
    spec.worker.requires = vec!["engine >= 2.0".parse().unwrap()];
    spec
}

fn body(label: &str) -> DeployBody {
    DeployBody {
        label: label.to_owned(),
        ..DeployBody::default()
    }
}

fn part(name: &str, content: &str) -> PartBody {
    PartBody {
        name: name.to_owned(),
        content: content.to_owned(),
    }
}

struct Place {
    directory: PathBuf,
    copies: Copies,
}

impl Place {
    fn new(name: &str) -> Self {
        let directory = env::temp_dir().join(format!("segue-make-{name}-{}", std::process::id()));
        let state = StateDir::new(&directory);
        state.create().unwrap();
        Self {
            copies: Copies::new(&state),
            directory,
        }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.directory.join(name), text).unwrap();
    }

    fn try_make(
        &self,
        spec: &AgentSpec,
        body: &DeployBody,
        base: Option<&Release>,
    ) -> Result<Made, MakeError> {
        let agent = "desk".parse().unwrap();
        let origin = Origin {
            agent: &agent,
            spec,
            config_dir: &self.directory,
            base,
        };
        make(origin, body, &self.copies)
    }

    fn make(&self, spec: &AgentSpec, body: &DeployBody, base: Option<&Release>) -> Made {
        self.try_make(spec, body, base).unwrap()
    }

    fn refuses(&self, spec: &AgentSpec, body: &DeployBody, wanted: &str) {
        let error = self.try_make(spec, body, None).unwrap_err();
        assert!(error.to_string().contains(wanted), "{error}");
        assert!(!error.hint().is_empty());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

#[test]
fn what_a_file_holds_is_part_of_the_release() {
    let place = Place::new("files");
    place.write("prompt.txt", "be kind");
    let spec = spec(&["sh", "bot.sh", "prompt.txt", "{port}", "{release}@{agent}"]);
    let first = place.make(&spec, &body("v1"), None).release;
    assert!(first.content.command[0].starts_with('/'));
    assert_eq!(first.content.command[3..], ["{port}", "v1@desk"]);
    assert_eq!(first.content.files.len(), 2, "{:?}", first.content.files);
    let again = place.make(&spec, &body("v1"), None).release;
    assert_eq!(again.id, first.id);
    place.write("prompt.txt", "be short");
    assert_ne!(place.make(&spec, &body("v1"), None).release.id, first.id);
}

#[test]
fn what_cannot_be_is_refused_with_a_hint() {
    let place = Place::new("bad");
    let good = spec(&["sh", "{port}"]);
    place.refuses(&good, &body("a b"), "not valid");
    place.refuses(&good, &body("0123456789ab"), "looks like the digest");
    place.refuses(&spec(&[]), &body("v1"), "no command");
    place.refuses(&spec(&["sh"]), &body("v1"), "its port");
    place.refuses(&spec(&["no-such-bot", "{port}"]), &body("v1"), "not found");
    let missing = spec(&["./no-such-bot", "{port}"]);
    place.refuses(&missing, &body("v1"), "not found");
    let workers = DeployBody {
        workers: Some(0),
        ..body("v1")
    };
    place.refuses(&good, &workers, "from 1 to 1000");
    for name in ["A=B", "engine:1A", "1A"] {
        let variable = DeployBody {
            env: BTreeMap::from([(name.to_owned(), String::new())]),
            ..body("v1")
        };
        let wanted = "name of a variable";
        place.write("engine.sh", "");
        let error = place.try_make(&stack(), &variable, None).unwrap_err();
        assert!(error.to_string().contains(wanted), "{name}: {error}");
    }
    let mut away = good.clone();
    away.worker.directory = Some("nowhere".to_owned());
    place.refuses(&away, &body("v1"), "does not exist");
    let mut smoke = good.clone();
    smoke.plan.smoke = Some(Smoke {
        scenario: "nothing".to_owned(),
        path: "/".to_owned(),
        calls: 1,
        timeout: Millis(1),
    });
    place.refuses(&smoke, &body("v1"), "no scenario");
    let mut hook = good.clone();
    hook.plan.hooks.before_deploy = Some(Hook {
        command: words(&["./no-such-migration"]),
        timeout: Millis(1),
    });
    place.refuses(&hook, &body("v1"), "no-such-migration\" was not found");
    let mut prompt = good.clone();
    prompt.parts.prompt = Some("no-such-prompt.txt".to_owned());
    place.refuses(&prompt, &body("v1"), "could not be read");
    for (bad, wanted) in [
        (part("../x", ""), "not that of a file"),
        (part("", ""), "not that of a file"),
        (part(&"x".repeat(256), ""), "too long"),
        (part("x", &"x".repeat(PART_BYTES_MAX + 1)), "too large"),
    ] {
        let prompt = DeployBody {
            prompt: Some(bad),
            ..body("v1")
        };
        place.refuses(&good, &prompt, wanted);
    }
    let model = DeployBody {
        model: Some("a\nb".to_owned()),
        ..body("v1")
    };
    place.refuses(&good, &model, "it is no name");
}

#[test]
fn mixed_versions_are_refused() {
    let place = Place::new("mixed");
    let versions = |name: &str, version: &str| DeployBody {
        component_versions: BTreeMap::from([(name.to_owned(), version.to_owned())]),
        ..body("v1")
    };
    let made = place.make(&stack(), &versions("engine", "2.4"), None);
    let engine = &made.release.content.components[&"engine".parse().unwrap()];
    assert_eq!(engine.version.as_deref(), Some("2.4"));
    let refused = |body: &DeployBody| {
        let error = place.try_make(&stack(), body, None).unwrap_err();
        assert!(!error.hint().is_empty());
        error.to_string()
    };
    let old = refused(&versions("engine", "1.9"));
    assert!(old.contains("the worker requires engine >=2.0"), "{old}");
    let old = refused(&versions("proxy", "1.0"));
    assert!(old.contains("engine requires proxy >=1.2"), "{old}");
    let unknown = refused(&versions("cache", "1.0"));
    assert_eq!(unknown, "the release has no component \"cache\"");
    let none = refused(&versions("engine", "new"));
    assert!(none.contains("\"new\" is not a version"), "{none}");
    let reaches = DeployBody {
        command: Some(words(&["sh", "{port}", "{proxy.url}"])),
        ..body("v1")
    };
    let reaches = refused(&reaches);
    assert!(
        reaches.contains("the worker does not depend on"),
        "{reaches}"
    );
}

#[test]
fn another_migration_is_another_release() {
    let place = Place::new("migration");
    place.write("migrate", "first");
    let mut spec = spec(&["sh", "bot.sh", "{port}"]);
    let without = place.make(&spec, &body("v1"), None).release;
    assert!(without.content.hooks.is_empty());
    let json = serde_json::to_string(&without.content).unwrap();
    assert!(!json.contains("hooks"), "its digest is what it was: {json}");
    spec.plan.hooks.after_retire = Some(Hook {
        command: words(&["sh", "migrate", "contract", "{release}"]),
        timeout: Millis(1_000),
    });
    let made = place.make(&spec, &body("v1"), None);
    let first = made.release;
    let hooks = &first.content.hooks;
    assert_eq!(hooks.len(), 2, "the shell and the script: {hooks:?}");
    let command = &made.plan.hooks.after_retire.unwrap().command;
    assert!(hooks.contains_key(&command[0]) && hooks.contains_key("migrate"));
    assert_eq!(place.make(&spec, &body("v2"), None).release.id, first.id);
    place.write("migrate", "second");
    let second = place.make(&spec, &body("v2"), None).release;
    assert_ne!(second.id, first.id);
    // What the contract of the first runs is still there.
    let moved = place
        .copies
        .stand_ins(&first.content.directory, &first.content.hooks);
    assert_eq!(
        fs::read_to_string(&moved.unwrap()["migrate"]).unwrap(),
        "first"
    );
    let kept: Vec<&str> = crate::copies::digests(&first.content).collect();
    assert!(kept.contains(&first.content.hooks["migrate"].as_str()));
}

#[test]
fn a_version_may_be_the_label() {
    let place = Place::new("version-label");
    let mut spec = stack();
    let engine: ComponentName = "engine".parse().unwrap();
    spec.components.get_mut(&engine).unwrap().version = Some("{release}".to_owned());
    spec.worker.version = Some("{release}".to_owned());
    let v21 = place.make(&spec, &body("v2.1"), None).release;
    assert_eq!(v21.content.version.as_deref(), Some("v2.1"));
    let version = v21.content.components[&engine].version.as_deref();
    assert_eq!(version, Some("v2.1"));
    // Who is made from it has a label, and so a version, of its own.
    let asked = DeployBody {
        prompt: Some(part("new.toml", "be kind")),
        ..body("v2.2")
    };
    let v22 = place.make(&spec, &asked, Some(&v21)).release;
    assert_eq!(v22.content.version.as_deref(), Some("v2.2"));
    let old = place.try_make(&spec, &body("v1.9"), None).unwrap_err();
    let old = old.to_string();
    assert!(old.contains("the worker requires engine >=2.0"), "{old}");
    let word = place.try_make(&spec, &body("nightly"), None).unwrap_err();
    let word = word.to_string();
    assert!(word.contains("\"nightly\", the version of"), "{word}");
}

#[test]
fn one_that_is_made_from_another_differs_in_what_was_asked_for_only() {
    let place = Place::new("compose");
    for file in ["bot.sh", "engine.sh", "proxy.sh", "prompt.txt"] {
        place.write(file, "one");
    }
    let mut agent = stack();
    agent.worker.command.push("--release={release}".to_owned());
    agent.parts.prompt = Some("prompt.txt".to_owned());
    agent.worker.health_path = Some("/ready".to_owned());
    let first = place.make(&agent, &body("v1"), None);
    let v1 = &first.release;
    // Everything in its place changes, also the configuration.
    for file in ["bot.sh", "engine.sh", "proxy.sh", "prompt.txt", "{port}"] {
        place.write(file, "two");
    }
    let changed = spec(&["sh", "other.sh", "{port}"]);
    let asked = DeployBody {
        prompt: Some(part("new.toml", "be kind")),
        env: BTreeMap::from([("engine:LEVEL".to_owned(), "9".to_owned())]),
        ..body("v2")
    };
    let second = place.make(&changed, &asked, Some(v1));
    let v2 = &second.release;
    assert_eq!(v2.content.command.last().unwrap(), "--release=v2");
    assert_eq!(v2.content.command[..4], v1.content.command[..4]);
    assert_eq!(v2.content.files, v1.content.files, "the same bytes");
    let fields: Vec<String> = v1.diff(v2).into_iter().map(|is| is.field).collect();
    assert_eq!(fields, ["prompt", "components.engine.env.LEVEL"]);
    let prompt = v2.content.parts.prompt.as_ref().unwrap();
    assert_eq!(prompt.name, "new.toml");
    let path = place.copies.part(prompt).unwrap();
    assert_eq!(fs::read_to_string(path).unwrap(), "be kind");
    // With a command, that is looked at now, and nothing else is.
    let command = DeployBody {
        command: Some(words(&["sh", "bot.sh", "{port}"])),
        ..body("v3")
    };
    let third = place.make(&changed, &command, Some(v2)).release;
    assert_ne!(third.content.files["bot.sh"], v1.content.files["bot.sh"]);
    assert_eq!(third.content.components, v2.content.components);
    assert_eq!(third.content.parts, v2.content.parts);
    // What it was made of has to be there.
    drop((first, second));
    for copy in fs::read_dir(place.directory.join("releases"))
        .unwrap()
        .flatten()
    {
        let _ = fs::remove_file(copy.path());
        let _ = fs::remove_dir_all(copy.path());
    }
    let asked = DeployBody {
        model: Some("gpt-x".to_owned()),
        ..body("v4")
    };
    let error = place.try_make(&changed, &asked, Some(&third)).unwrap_err();
    let said = error.to_string();
    assert!(said.starts_with("v3 cannot be a base any more"), "{said}");
}

#[test]
fn a_program_that_is_named_after_its_release_is_found_anew() {
    let place = Place::new("named");
    place.write("v1.sh", "one");
    place.write("v2.sh", "two");
    let v1 = place.make(&spec(&["sh", "{release}.sh", "{port}"]), &body("v1"), None);
    let asked = DeployBody {
        env: BTreeMap::from([("A".to_owned(), "b".to_owned())]),
        ..body("v2")
    };
    let v2 = place.make(&spec(&[]), &asked, Some(&v1.release)).release;
    assert_eq!(v2.content.command[1], "v2.sh");
    assert_ne!(v2.content.files["v2.sh"], v1.release.content.files["v1.sh"]);
    assert_eq!(v2.template().command[1], "{release}.sh");
}

#[test]
fn a_model_is_a_name_or_a_file() {
    let place = Place::new("model");
    place.write("weights.bin", "one");
    let bot = spec(&["sh", "{port}"]);
    let with = |model: &str| DeployBody {
        model: Some(model.to_owned()),
        ..body("v1")
    };
    let named = place.make(&bot, &with("gpt-x"), None).release;
    assert!(!named.content.files.contains_key("gpt-x"));
    let file = place.make(&bot, &with("weights.bin"), None).release;
    let digest = file.content.files["weights.bin"].clone();
    place.write("weights.bin", "two");
    let env = DeployBody {
        env: BTreeMap::from([("A".to_owned(), "b".to_owned())]),
        ..body("v2")
    };
    let kept = place.make(&bot, &env, Some(&file)).release;
    assert_eq!(kept.content.files["weights.bin"], digest);
    let asked = place.make(&bot, &with("weights.bin"), Some(&file)).release;
    assert_ne!(asked.content.files["weights.bin"], digest, "asked for anew");
    let other = place.make(&bot, &with("gpt-x"), Some(&file)).release;
    assert!(!other.content.files.contains_key("weights.bin"));
}

#[test]
fn the_plan_is_frozen_with_its_hooks_found() {
    let place = Place::new("plan");
    let mut spec = spec(&["sh", "{port}"]);
    spec.plan.fast_track = true;
    spec.plan.hooks.after_retire = Some(Hook {
        command: words(&["sh", "-c", "true"]),
        timeout: Millis(1),
    });
    let slow = DeployBody {
        fast_track: Some(false),
        ..body("v1")
    };
    let plan = place.make(&spec, &slow, None).plan;
    assert!(!plan.fast_track);
    let hook = plan.hooks.after_retire.unwrap();
    assert!(hook.command[0].starts_with('/'), "{hook:?}");
    assert!(place.make(&spec, &body("v1"), None).plan.fast_track);
}
