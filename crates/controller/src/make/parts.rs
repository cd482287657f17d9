//! Prompt, model and configuration of a release.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use segue_core::release::{Content, PartFile};
use segue_core::spec::PartsSpec;

use super::{MakeError, PART_BYTES_MAX};
use crate::api::wire::{DeployBody, PartBody};
use crate::copies::Kept;

/// Longest name of a part, in bytes: as long as file systems allow.
const NAME_BYTES_MAX: usize = 255;

/// Longest name of a model, in bytes. Paths are bounded by the same.
const MODEL_BYTES_MAX: usize = 4_096;

/// Parts as the configuration names them, read now.
pub(super) fn of_spec(
    spec: &PartsSpec,
    body: &DeployBody,
    config_dir: &Path,
    kept: &mut Kept,
    content: &mut Content,
) -> Result<(), MakeError> {
    let mut read = |part, path: &Option<String>, given: bool| match path {
        // What the request brings itself is not read.
        Some(path) if !given => of_file(part, path, config_dir, kept).map(Some),
        _ => Ok(None),
    };
    content.parts.prompt = read("prompt", &spec.prompt, body.prompt.is_some())?;
    content.parts.config = read("config", &spec.config, body.config.is_some())?;
    content.parts.model.clone_from(&spec.model);
    Ok(())
}

/// Parts that a request brings.
pub(super) fn of_body(
    body: &DeployBody,
    kept: &mut Kept,
    content: &mut Content,
) -> Result<(), MakeError> {
    if let Some(prompt) = &body.prompt {
        content.parts.prompt = Some(of_text("prompt", prompt, kept)?);
    }
    if let Some(config) = &body.config {
        content.parts.config = Some(of_text("config", config, kept)?);
    }
    if let Some(model) = &body.model {
        let bad = model.is_empty()
            || model.len() > MODEL_BYTES_MAX
            || model.chars().any(char::is_control);
        if bad {
            return Err(MakeError::BadPart {
                part: "model",
                name: model.chars().take(NAME_BYTES_MAX).collect(),
                why: "it is no name".to_owned(),
            });
        }
        if content.parts.model.as_ref() != Some(model) {
            content.parts.model = Some(model.clone());
        }
    }
    Ok(())
}

fn of_file(
    part: &'static str,
    path: &str,
    config_dir: &Path,
    kept: &mut Kept,
) -> Result<PartFile, MakeError> {
    let place = config_dir.join(path);
    let unreadable = |source| MakeError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    let file = File::open(&place).map_err(unreadable)?;
    let mut file = file.take(PART_BYTES_MAX as u64 + 1);
    file.read_to_end(&mut bytes).map_err(unreadable)?;
    let name = place.file_name().map(|name| name.to_string_lossy());
    keep(part, &name.unwrap_or_default(), &bytes, kept)
}

fn of_text(part: &'static str, body: &PartBody, kept: &mut Kept) -> Result<PartFile, MakeError> {
    keep(part, &body.name, body.content.as_bytes(), kept)
}

fn keep(
    part: &'static str,
    name: &str,
    bytes: &[u8],
    kept: &mut Kept,
) -> Result<PartFile, MakeError> {
    let bad = |why: &str| MakeError::BadPart {
        part,
        name: name.chars().take(NAME_BYTES_MAX).collect(),
        why: why.to_owned(),
    };
    let plain = |letter: char| letter != '/' && !letter.is_control();
    if name.is_empty() || name == "." || name == ".." || !name.chars().all(plain) {
        return Err(bad("its name is not that of a file"));
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(bad("its name is too long"));
    }
    if bytes.len() > PART_BYTES_MAX {
        return Err(bad("it is too large"));
    }
    kept.keep_part(name, bytes)
        .map_err(|source| MakeError::NotKept {
            path: name.to_owned(),
            source,
        })
}
