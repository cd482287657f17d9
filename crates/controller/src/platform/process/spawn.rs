//! What a process of a release is started with: its program, its files as they were deployed, and
//! what only its release may know, the addresses of its components.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::PoisonError;

use segue_core::names::ComponentName;
use segue_core::release::Release;

use super::Spawn;
use super::member::{Member, Note, env_of};
use super::stack::{Role, tell};
use crate::copies::{Copies, Gone};
use crate::platform::words::Words;

/// Files of a process, in the places where they are what was deployed.
#[derive(Debug)]
pub(super) struct Files {
    /// By the word of the command that names one: the copy that stands in for it.
    moved: BTreeMap<String, PathBuf>,
    /// `prompt`, `model` and `config`, as far as there are any.
    parts: BTreeMap<&'static str, String>,
    /// Whether the program or one of its arguments is a copy.
    pub(super) is_copied: bool,
}

impl Files {
    /// Finds them. Reads files, so it may take a while.
    pub(super) fn of(copies: &Copies, release: &Release, role: &Role) -> Result<Self, Gone> {
        let content = &release.content;
        if let Role::Component(name) = role {
            let component = content.components.get(name);
            let of = |component: &segue_core::release::Component| {
                copies.stand_ins(&component.directory, &component.files)
            };
            let moved = component.map(of).transpose()?.unwrap_or_default();
            return Ok(Self {
                is_copied: !moved.is_empty(),
                moved,
                parts: BTreeMap::new(),
            });
        }
        let moved = copies.stand_ins(&content.directory, &content.files)?;
        let is_copied = content.command.iter().any(|word| moved.contains_key(word));
        let parts = copies.parts(content)?;
        Ok(Self {
            moved,
            parts,
            is_copied,
        })
    }
}

/// A program of a release, as it was written.
struct Program<'a> {
    command: &'a [String],
    env: &'a BTreeMap<String, String>,
    directory: &'a str,
    needs: &'a [ComponentName],
}

impl Member {
    fn program(&self) -> Program<'_> {
        let content = &self.release.content;
        let component = match &self.role {
            Role::Worker(_) => None,
            Role::Component(name) => content.components.get(name),
        };
        match component {
            Some(is) => Program {
                command: &is.command,
                env: &is.env,
                directory: &is.directory,
                needs: &is.depends_on,
            },
            None => Program {
                command: &content.command,
                env: &content.env,
                directory: &content.directory,
                needs: &content.depends_on,
            },
        }
    }

    /// How it is started, and as what its program sees itself.
    pub(super) fn spawn(&self, note: &Note, files: &Files) -> (Spawn, String) {
        let of = (&self.release.label, self.release.id);
        let Program {
            command,
            env: variables,
            directory,
            needs,
        } = self.program();
        let (mut words, mut env) = (Words::default(), BTreeMap::new());
        let port = note.port().to_string();
        env.insert("PORT".to_owned(), port.clone());
        words.set("port", port);
        tell(&mut words, &mut env, self.stack.addresses(needs));
        // A component may be called `api`; the admin API keeps its variable.
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        env.extend(told.iter().flat_map(|told| told.variables(&self.agent)));
        drop(told);
        if matches!(self.role, Role::Worker(_)) {
            words.set("worker", &self.name);
        }
        for (part, value) in &files.parts {
            words.set(*part, value);
            env.insert(
                format!("SEGUE_{}", part.to_ascii_uppercase()),
                value.clone(),
            );
        }
        for (name, value) in variables {
            env.insert(name.clone(), words.fill(value));
        }
        env.extend(env_of(note, &self.release, &self.name));
        let word = |text: &String| match files.moved.get(text) {
            Some(copy) => copy.to_string_lossy().into_owned(),
            None => words.fill(text),
        };
        let mut args = command.iter().map(word);
        let record_path = match note {
            Note::Worker(note) => self.state.worker_record(&self.agent, &note.worker),
            Note::Component(note) => {
                let name = &note.component;
                self.state.component_record(&self.agent, of, name)
            }
        };
        let spawn = Spawn {
            program: args.next().unwrap_or_default(),
            args: args.collect(),
            env,
            dir: Some(PathBuf::from(directory)),
            log: self.get().log,
            record_path,
            note: serde_json::to_value(note).expect("a note is plain data"),
        };
        (spawn, command.first().cloned().unwrap_or_default())
    }
}
