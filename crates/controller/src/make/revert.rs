//! `rollback --only`: the current release with one part of the release before.

use segue_core::names::{Label, NAME_BYTES_MAX};
use segue_core::release::{Content, Release};
use serde::{Deserialize, Serialize};

/// Names tried before giving up on one that is free.
const TRIES_MAX: u32 = 1_000;

/// A part of a release that can be taken back by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The prompt.
    Prompt,
    /// The model.
    Model,
    /// The configuration.
    Config,
}

/// What taking a part back comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reverted {
    /// It is the release before itself: an ordinary rollback.
    Before,
    /// A release of its own, made from this base.
    Other(Box<Release>),
}

/// Why a part cannot be taken back by itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoRevert {
    /// Nothing serves.
    #[error("no release is current")]
    NoCurrent,
    /// Nothing was before.
    #[error("no earlier release is running to take the {} from", .0.word())]
    NothingBefore(Part),
    /// It is the same.
    #[error("{current} and {before} have the same {}", .part.word())]
    Same {
        /// Which part.
        part: Part,
        /// The current release.
        current: Label,
        /// The one before.
        before: Label,
    },
}

impl NoRevert {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoCurrent => "deploy a release with `segue deploy`",
            Self::NothingBefore(_) => {
                "deploy the wanted file with `segue deploy LABEL --prompt FILE` (or --model, --config)"
            }
            Self::Same { .. } => {
                "see what differs with `segue diff`; take everything back with `segue rollback`"
            }
        }
    }
}

impl Part {
    /// One word for people, as it is given on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Model => "model",
            Self::Config => "config",
        }
    }

    fn differs(self, one: &Content, other: &Content) -> bool {
        match self {
            Self::Prompt => one.parts.prompt != other.parts.prompt,
            Self::Config => one.parts.config != other.parts.config,
            Self::Model => {
                let file = |content: &Content| {
                    let model = content.parts.model.as_ref()?;
                    content.files.get(model).cloned()
                };
                one.parts.model != other.parts.model || file(one) != file(other)
            }
        }
    }

    fn put(self, from: &Content, into: &mut Content) {
        match self {
            Self::Prompt => into.parts.prompt.clone_from(&from.parts.prompt),
            Self::Config => into.parts.config.clone_from(&from.parts.config),
            Self::Model => {
                into.parts.model.clone_from(&from.parts.model);
                if let Some(model) = &from.parts.model {
                    let file = from.files.get(model).cloned();
                    into.files
                        .extend(file.map(|digest| (model.clone(), digest)));
                }
            }
        }
    }
}

/// The current release with a part of the one before, as a base to make a release from.
///
/// # Errors
///
/// When there is nothing to take back.
pub fn revert(
    part: Part,
    current: Option<&Release>,
    before: Option<&Release>,
) -> Result<Reverted, NoRevert> {
    let current = current.ok_or(NoRevert::NoCurrent)?;
    let before = before.ok_or(NoRevert::NothingBefore(part))?;
    let (ours, theirs) = (current.template(), before.template());
    if !part.differs(ours, theirs) {
        return Err(NoRevert::Same {
            part,
            current: current.label.clone(),
            before: before.label.clone(),
        });
    }
    let mut template = ours.clone();
    part.put(theirs, &mut template);
    // The model's file counts only as long as it is named.
    let named = |text: &String| {
        template.command.contains(text) || template.parts.model.as_ref() == Some(text)
    };
    let files = template.files.clone().into_iter();
    template.files = files.filter(|(text, _)| named(text)).collect();
    if template == *theirs {
        return Ok(Reverted::Before);
    }
    let mut base = current.clone();
    base.template = Some(Box::new(template));
    Ok(Reverted::Other(Box::new(base)))
}

/// A name for it that nobody has: `v4-prompt-of-v3`.
pub(crate) fn label(
    part: Part,
    (current, before): (&Label, &Label),
    is_taken: impl Fn(&Label) -> bool,
) -> Option<Label> {
    (1..=TRIES_MAX).find_map(|number| {
        let end = if number == 1 {
            String::new()
        } else {
            format!("-{number}")
        };
        let middle = format!("-{}-of-", part.word());
        let room = NAME_BYTES_MAX - middle.len() - end.len();
        let (one, other) = (current.as_str(), before.as_str());
        let first = one
            .len()
            .min(room.saturating_sub(other.len()).max(room / 2));
        let second = other.len().min(room - first);
        let text = format!("{}{middle}{}{end}", &one[..first], &other[..second]);
        text.parse().ok().filter(|label| !is_taken(label))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use segue_core::release::PartFile;

    use super::*;

    fn release(label: &str, prompt: &str, model: &str, env: &str) -> Release {
        let mut content = Content {
            command: vec!["bot".to_owned(), "{port}".to_owned()],
            env: BTreeMap::from([("V".to_owned(), env.to_owned())]),
            ..Content::default()
        };
        content.parts.prompt = Some(PartFile {
            name: "p".to_owned(),
            digest: prompt.to_owned(),
        });
        content.parts.model = Some(model.to_owned());
        Release::new(
            &"desk".parse().unwrap(),
            label.parse().unwrap(),
            content,
            1,
            1,
        )
    }

    #[test]
    fn one_part_is_taken_back_and_nothing_else() {
        let v1 = release("v1", "old", "m1", "1");
        let v2 = release("v2", "new", "m1", "2");
        let Reverted::Other(base) = revert(Part::Prompt, Some(&v2), Some(&v1)).unwrap() else {
            panic!("v2 differs in more than its prompt");
        };
        let template = base.template();
        assert_eq!(template.parts.prompt, v1.content.parts.prompt);
        assert_eq!(template.env, v2.content.env);
        let same = revert(Part::Model, Some(&v2), Some(&v1)).unwrap_err();
        assert_eq!(same.to_string(), "v2 and v1 have the same model");
        assert!(!same.hint().is_empty());
        let only = release("v3", "new", "m1", "1");
        let back = revert(Part::Prompt, Some(&only), Some(&v1)).unwrap();
        assert_eq!(back, Reverted::Before, "nothing else differs");
        for (current, before) in [(None, Some(&v1)), (Some(&v2), None)] {
            let error = revert(Part::Prompt, current, before).unwrap_err();
            assert!(!error.hint().is_empty());
        }
    }

    #[test]
    fn a_model_that_is_a_file_brings_its_bytes() {
        let mut v1 = release("v1", "p", "m.bin", "1");
        let mut v2 = release("v2", "p", "m.bin", "2");
        let file = |digest: &str| BTreeMap::from([("m.bin".to_owned(), digest.to_owned())]);
        (v1.content.files, v2.content.files) = (file("aa"), file("bb"));
        let Reverted::Other(base) = revert(Part::Model, Some(&v2), Some(&v1)).unwrap() else {
            panic!("v2 differs in more than its model");
        };
        assert_eq!(base.template().files, file("aa"));
    }

    #[test]
    fn its_name_is_bounded_and_free() {
        let name = |text: &str| -> Label { text.parse().unwrap() };
        let of = |one: &str, other: &str, taken: &[&str]| {
            let is_taken = |label: &Label| taken.contains(&label.as_str());
            let label = label(Part::Prompt, (&name(one), &name(other)), is_taken).unwrap();
            label.to_string()
        };
        assert_eq!(of("v2", "v1", &[]), "v2-prompt-of-v1");
        let next = of("v2", "v1", &["v2-prompt-of-v1"]);
        assert_eq!(next, "v2-prompt-of-v1-2");
        let (long, other) = ("a".repeat(64), "b".repeat(64));
        let both = of(&long, &other, &[]);
        assert_eq!(both.len(), 64, "{both}");
        assert!(both.contains("aa-prompt-of-bb"), "{both}");
        assert!(of(&long, "v1", &[]).ends_with("a-prompt-of-v1"));
    }
}
