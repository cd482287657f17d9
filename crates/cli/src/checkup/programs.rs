//! Whether the programs and files of the configuration are there.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use segue_core::spec::{AgentSpec, Outbound};

use super::{Findings, Patient};

/// Program that means this very one.
const OURSELVES: &str = "segue";

/// One program of the configuration.
struct Program<'a> {
    what: String,
    command: &'a [String],
    directory: Option<&'a String>,
    path: Option<&'a String>,
}

pub(super) fn check(patient: &Patient) -> Findings {
    let mut found = Findings::of("programs");
    let Some(spec) = &patient.spec else {
        return found;
    };
    for (name, agent) in &spec.agents {
        for program in programs(name.as_str(), agent) {
            look(&program, &patient.folder, &mut found);
        }
        files(name.as_str(), agent, &patient.folder, &mut found);
    }
    for notify in &spec.notify {
        secret(
            &format!("notify {}", notify.name),
            &notify.to,
            &patient.folder,
            &mut found,
        );
    }
    found
}

fn programs<'a>(name: &str, agent: &'a AgentSpec) -> Vec<Program<'a>> {
    let path = |env: &'a BTreeMap<String, String>| env.get("PATH");
    let worker = &agent.worker;
    let mut all = vec![Program {
        what: format!("{name}: worker"),
        command: &worker.command,
        directory: worker.directory.as_ref(),
        path: path(&worker.env),
    }];
    for (component, is) in &agent.components {
        all.push(Program {
            what: format!("{name}: component {component}"),
            command: &is.command,
            directory: is.directory.as_ref(),
            path: path(&is.env),
        });
    }
    let hooks = &agent.plan.hooks;
    let hooks = [
        ("before_deploy", &hooks.before_deploy),
        ("after_retire", &hooks.after_retire),
    ];
    for (hook, is) in hooks {
        if let Some(is) = is {
            all.push(Program {
                what: format!("{name}: hook {hook}"),
                command: &is.command,
                directory: worker.directory.as_ref(),
                path: path(&worker.env),
            });
        }
    }
    all
}

fn look(program: &Program<'_>, folder: &Path, found: &mut Findings) {
    let what = &program.what;
    let Some(name) = program.command.first() else {
        found.warn(
            format!("{what}: no `command`"),
            "write one, or give one with each deploy: `segue deploy LABEL -- COMMAND`",
        );
        return;
    };
    let directory = program
        .directory
        .map_or_else(|| folder.to_owned(), |directory| folder.join(directory));
    if !directory.is_dir() {
        found.fail(
            format!("{what}: the directory {} is not there", directory.display()),
            "make it, or mend `directory`; it is relative to segue.toml",
        );
        return;
    }
    match resolve(name, &directory, program.path) {
        Some(path) if is_program(&path) => found.ok(format!("{what}: {}", path.display())),
        Some(path) if path.exists() => found.fail(
            format!("{what}: {} may not be run", path.display()),
            format!("chmod +x {}", path.display()),
        ),
        _ => found.fail(
            format!("{what}: the program {name:?} was not found"),
            "give its path, or put it on the PATH that `segue serve` is started with",
        ),
    }
}

/// Where a shell would look.
fn resolve(name: &str, directory: &Path, path: Option<&String>) -> Option<PathBuf> {
    if name == OURSELVES {
        return std::env::current_exe().ok();
    }
    if name.contains('/') {
        return Some(directory.join(name));
    }
    let path = path.map(Into::into).or_else(|| std::env::var_os("PATH"))?;
    let places = std::env::split_paths(&path).map(|place| directory.join(place).join(name));
    places.into_iter().find(|place| is_program(place))
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// Prompt, configuration and secrets.
fn files(name: &str, agent: &AgentSpec, folder: &Path, found: &mut Findings) {
    let parts = [
        ("prompt", &agent.parts.prompt),
        ("config", &agent.parts.config),
    ];
    for (key, path) in parts {
        if let Some(path) = path
            && !folder.join(path).is_file()
        {
            found.fail(
                format!("{name}: the file {path} of `{key}` is not there"),
                "write it, or mend its path; it is relative to segue.toml",
            );
        }
    }
    for webhook in &agent.plan.webhooks {
        let whose = format!("{name}: webhook {}", webhook.name);
        secret(&whose, &webhook.to, folder, found);
    }
}

fn secret(whose: &str, to: &Outbound, folder: &Path, found: &mut Findings) {
    if let Some(path) = &to.secret_file {
        let path = folder.join(path);
        let Ok(is) = fs::metadata(&path) else {
            return found.fail(
                format!("{whose}: the secret {} is not there", path.display()),
                "write it, for this user to read",
            );
        };
        if is.permissions().mode() & 0o007 != 0 {
            found.warn(
                format!("{whose}: anybody may read {}", path.display()),
                format!("chmod o-rwx {}", path.display()),
            );
        }
    }
}
