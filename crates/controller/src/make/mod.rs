//! Making a release: everything that it is started with is settled here, once, and frozen. What
//! changes later (the configuration, a file, `PATH`) makes another release or none.
//!
//! A release is made from the configuration, or from another release as it was written (its
//! template): then everything that is not asked for stays as it is, down to the bytes of its
//! program.

mod error;
mod parts;
mod program;
mod revert;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use segue_core::compat;
use segue_core::names::{AgentName, ComponentName, Label};
use segue_core::release::{Component, Content, Release};
use segue_core::spec::{AgentSpec, ComponentSpec, Hook, Plan, is_plain_label};
use segue_voice::scenario::Scenario;

use crate::api::wire::DeployBody;
use crate::copies::{Copies, Kept};
use crate::platform::process::WORKERS_PER_RELEASE_MAX;
use crate::platform::words::components_in;
use crate::platform::{HEALTH_PATH, NOTIFY_PATH};

use self::program::{Filling, Written, directory, is_variable, read, resolve};

pub use self::error::MakeError;
pub(crate) use self::revert::label;
pub use self::revert::{NoRevert, Part, Reverted, revert};

/// Calls one worker may hold; one process has no more sockets than this.
const CAPACITY_MAX: u32 = 100_000;

/// Files of one program whose bytes are part of its release's identity.
const FILES_MAX: usize = 64;

/// Bytes read for the identity of a release. Of a file beyond that (a model) size and time of
/// change stand for its bytes: nobody waits minutes for a deploy.
const HASH_BYTES_MAX: u64 = 1 << 30;

/// Bytes of a prompt or a configuration. They travel in the body of a request.
pub const PART_BYTES_MAX: usize = 256 << 10;

/// Program that means this very one.
const OURSELVES: &str = "segue";

/// Stands between a component and a variable of it.
const OF_COMPONENT: char = ':';

/// A release that can be deployed.
#[derive(Debug)]
pub struct Made {
    /// What.
    pub release: Release,
    /// How.
    pub plan: Plan,
    /// Its files, which must stay until it is decided.
    pub kept: Kept,
}

/// What a release is made of, beside the request.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The agent.
    pub agent: &'a AgentName,
    /// Its configuration.
    pub spec: &'a AgentSpec,
    /// The directory that paths of the configuration are relative to.
    pub config_dir: &'a Path,
    /// The release that it differs from in what is asked for; `None`: it is made from the
    /// configuration.
    pub base: Option<&'a Release>,
}

/// Makes the release that a deploy asks for, and keeps copies of its files for processes that are
/// started again later. Reads files, so it may take a while.
///
/// # Errors
///
/// When there can be no such release.
pub fn make(from: Origin<'_>, body: &DeployBody, copies: &Copies) -> Result<Made, MakeError> {
    let (agent, spec) = (from.agent, from.spec);
    let label: Label = body.label.parse()?;
    if !is_plain_label(&label) {
        return Err(MakeError::DigestLabel { label });
    }
    if let Some(smoke) = &spec.plan.smoke
        && Scenario::builtin(&smoke.scenario).is_none()
    {
        let name = smoke.scenario.clone();
        return Err(MakeError::UnknownScenario { name });
    }
    let (count, capacity) = match from.base {
        Some(base) => (base.workers, base.capacity),
        None => (spec.worker.count, spec.worker.capacity),
    };
    let workers = body.workers.unwrap_or(count);
    within("workers", workers, WORKERS_PER_RELEASE_MAX)?;
    let capacity = body.capacity.unwrap_or(capacity);
    within("capacity", capacity, CAPACITY_MAX)?;

    let mut kept = copies.hold();
    let mut template = match from.base {
        Some(base) => base.template().clone(),
        None => written_down(from, body, &mut kept)?,
    };
    change(&mut template, body, &mut kept)?;
    let filling = Filling::new(agent, &label);
    check(&template, &filling)?;
    let fresh = Fresh {
        worker: from.base.is_none() || body.command.is_some(),
        model: from.base.is_none() || body.model.is_some(),
        components: from.base.is_none(),
    };
    let mut content = settle(&mut template, fresh, &filling, &mut kept)?;
    if let Some(base) = from.base {
        still_there(&content, copies).map_err(|source| MakeError::BaseGone {
            label: base.label.clone(),
            source,
        })?;
    }
    let plan = plan(spec, body, (&mut content, &filling), &mut kept)?;
    template.hooks.clone_from(&content.hooks);
    let mut release = Release::new(agent, label, content, workers, capacity);
    if template != release.content {
        release.template = Some(Box::new(template));
    }
    Ok(Made {
        release,
        plan,
        kept,
    })
}

fn within(what: &'static str, value: u32, max: u32) -> Result<(), MakeError> {
    if (1..=max).contains(&value) {
        return Ok(());
    }
    Err(MakeError::OutOfBounds { what, value, max })
}

/// What the configuration says, with what a request brings in its place left out.
fn written_down(
    from: Origin<'_>,
    body: &DeployBody,
    kept: &mut Kept,
) -> Result<Content, MakeError> {
    let worker = &from.spec.worker;
    let mut env = worker.env.clone();
    let frozen = [
        (HEALTH_PATH, &worker.health_path),
        (NOTIFY_PATH, &worker.notify_path),
    ];
    for (name, path) in frozen {
        env.extend(path.clone().map(|path| (name.to_owned(), path)));
    }
    let components = from.spec.components.iter();
    let components = components.map(|(name, is)| Ok((name.clone(), component(is, from)?)));
    let mut content = Content {
        command: worker.command.clone(),
        env,
        directory: directory(worker.directory.as_ref(), from.config_dir)?,
        components: components.collect::<Result<_, MakeError>>()?,
        depends_on: worker.depends_on.clone(),
        version: worker.version.clone(),
        requires: worker.requires.clone(),
        ..Content::default()
    };
    parts::of_spec(&from.spec.parts, body, from.config_dir, kept, &mut content)?;
    Ok(content)
}

fn component(is: &ComponentSpec, from: Origin<'_>) -> Result<Component, MakeError> {
    Ok(Component {
        command: is.command.clone(),
        env: is.env.clone(),
        directory: directory(is.directory.as_ref(), from.config_dir)?,
        files: BTreeMap::new(),
        health_path: is.health_path.clone(),
        depends_on: is.depends_on.clone(),
        version: is.version.clone(),
        requires: is.requires.clone(),
    })
}

/// Puts what a request asks for in its place.
fn change(template: &mut Content, body: &DeployBody, kept: &mut Kept) -> Result<(), MakeError> {
    if let Some(command) = &body.command {
        template.command.clone_from(command);
        // What is named now is read now.
        let model = template.parts.model.clone();
        let is_model = |text: &String| Some(text) == model.as_ref();
        template.files.retain(|text, _| is_model(text));
    }
    if let Some(model) = &body.model {
        let is_word = template.command.contains(model);
        template.files.retain(|text, _| is_word || text != model);
    }
    for (name, value) in &body.env {
        let (env, variable) = match name.split_once(OF_COMPONENT) {
            None => (&mut template.env, name.as_str()),
            Some((of, variable)) => (&mut named(template, of)?.env, variable),
        };
        if !is_variable(variable) {
            return Err(MakeError::BadVariable { name: name.clone() });
        }
        env.insert(variable.to_owned(), value.clone());
    }
    for (name, version) in &body.component_versions {
        compat::version(version)?;
        named(template, name)?.version = Some(version.to_owned());
    }
    parts::of_body(body, kept, template)
}

fn named<'a>(template: &'a mut Content, name: &str) -> Result<&'a mut Component, MakeError> {
    let known = template.components.keys().map(ToString::to_string);
    let missing = MakeError::NoComponent {
        name: name.to_owned(),
        known: known.collect(),
    };
    let Ok(name) = name.parse::<ComponentName>() else {
        return Err(missing);
    };
    template.components.get_mut(&name).ok_or(missing)
}

/// Whether everybody is told what they need, and goes together.
fn check(template: &Content, filling: &Filling) -> Result<(), MakeError> {
    let mut texts = template.command.iter().chain(template.env.values());
    if !template.command.is_empty() && !texts.any(|text| text.contains("{port}")) {
        return Err(MakeError::NoPort);
    }
    let worker = (
        "the worker".to_owned(),
        &template.command,
        &template.env,
        &template.depends_on,
    );
    let components = template
        .components
        .iter()
        .map(|(name, is)| (name.to_string(), &is.command, &is.env, &is.depends_on));
    for (by, command, env, needs) in std::iter::once(worker).chain(components) {
        for text in command.iter().chain(env.values()) {
            let known = |name: &&str| {
                let is = |need: &ComponentName| need.as_str() == *name;
                needs.iter().any(is)
            };
            if let Some(name) = components_in(text).find(|name| !known(name)) {
                return Err(MakeError::NotDependedOn {
                    text: text.clone(),
                    name: name.to_owned(),
                    by,
                });
            }
        }
    }
    let mut filled = template.clone();
    fill_versions(&mut filled, filling);
    let mismatches = filled.check_compat();
    if mismatches.is_empty() {
        return Ok(());
    }
    let what = mismatches.iter().map(ToString::to_string).collect();
    Err(MakeError::Incompatible { what })
}

/// A version may be the label of the release.
fn fill_versions(content: &mut Content, filling: &Filling) {
    let components = content.components.values_mut();
    let versions = components.map(|is| &mut is.version);
    for version in versions.chain([&mut content.version]).flatten() {
        *version = filling.fill(version);
    }
}

/// Whose files are looked at now; those of others are known.
#[derive(Debug, Clone, Copy)]
struct Fresh {
    worker: bool,
    model: bool,
    components: bool,
}

/// Finds programs, reads files, and fills words in. The template keeps what was found.
fn settle(
    template: &mut Content,
    fresh: Fresh,
    filling: &Filling,
    kept: &mut Kept,
) -> Result<Content, MakeError> {
    let mut content = template.clone();
    fill_versions(&mut content, filling);
    let mut worker = Written {
        command: template.command.clone(),
        env: template.env.clone(),
        directory: template.directory.clone(),
        files: template.files.clone(),
        extra: template.parts.model.clone(),
        fresh: (fresh.worker, fresh.model),
    };
    let filled = worker.settle(filling, kept)?;
    (template.command, template.files) = (worker.command, worker.files);
    (content.command, content.env, content.files) = (filled.command, filled.env, filled.files);
    for (name, is) in &mut template.components {
        let mut written = Written {
            command: is.command.clone(),
            env: is.env.clone(),
            directory: is.directory.clone(),
            files: is.files.clone(),
            extra: None,
            fresh: (fresh.components, false),
        };
        let filled = written.settle(filling, kept)?;
        (is.command, is.files) = (written.command, written.files);
        if let Some(component) = content.components.get_mut(name) {
            (component.command, component.env, component.files) =
                (filled.command, filled.env, filled.files);
        }
    }
    for part in [&content.parts.prompt, &content.parts.config]
        .into_iter()
        .flatten()
    {
        kept.keep_known(&part.digest);
    }
    Ok(content)
}

/// Whether processes of it could be started now.
fn still_there(content: &Content, copies: &Copies) -> Result<(), crate::copies::Gone> {
    copies.stand_ins(&content.directory, &content.files)?;
    copies.parts(content)?;
    for component in content.components.values() {
        copies.stand_ins(&component.directory, &component.files)?;
    }
    Ok(())
}

/// How it is brought in. Hooks are those of the configuration as it is now, also if the rest is
/// made from another release, and so are their files.
fn plan(
    spec: &AgentSpec,
    body: &DeployBody,
    (content, filling): (&mut Content, &Filling),
    kept: &mut Kept,
) -> Result<Plan, MakeError> {
    let mut plan = spec.plan.clone();
    plan.fast_track = body.fast_track.unwrap_or(plan.fast_track);
    let (mut left, mut files) = (HASH_BYTES_MAX, BTreeMap::new());
    let hooks = [&mut plan.hooks.before_deploy, &mut plan.hooks.after_retire];
    for hook in hooks.into_iter().flatten() {
        find_hook(hook, content)?;
        for word in &hook.command {
            let text = filling.fill(word);
            let directory = Path::new(&content.directory);
            if files.contains_key(word) {
                continue;
            }
            if let Some(digest) = read(&text, directory, &mut left, kept)? {
                files.insert(word.clone(), digest);
            }
            if files.len() > FILES_MAX {
                return Err(MakeError::TooManyFiles);
            }
        }
    }
    content.hooks = files;
    Ok(plan)
}

/// A hook that cannot be run should fail the deploy, and not what comes after it.
fn find_hook(hook: &mut Hook, content: &Content) -> Result<(), MakeError> {
    let program = hook.command.first().cloned().unwrap_or_default();
    let directory = Path::new(&content.directory);
    let found = resolve(&program, directory, content.env.get("PATH"));
    let found = found.ok_or(MakeError::NoProgram { program })?;
    if let Some(first) = hook.command.first_mut() {
        *first = found;
    }
    Ok(())
}
