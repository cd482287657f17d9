//! What a release is made of, as the command line says it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use segue_controller::api::wire::{DeployBody, PartBody};

use crate::args::MadeOf;
use crate::exit::{Exit, Trouble};

/// Largest prompt or configuration: the API takes no more.
const PART_BYTES_MAX: u64 = 256 * 1024;

/// The part of a deploy's body that says so.
///
/// # Errors
///
/// When a file cannot be read, or something is not NAME=VALUE.
pub(crate) fn of(made: &MadeOf) -> Result<DeployBody, Trouble> {
    Ok(DeployBody {
        from: made.from.clone(),
        prompt: part("--prompt", made.prompt.as_deref())?,
        model: made.model.as_deref().map(model),
        config: part("--config", made.config.as_deref())?,
        env: pairs("--env", &made.env)?,
        component_versions: pairs("--component-version", &made.component_version)?,
        workers: made.workers,
        capacity: made.capacity,
        ..DeployBody::default()
    })
}

fn part(flag: &str, path: Option<&Path>) -> Result<Option<PartBody>, Trouble> {
    let Some(path) = path else { return Ok(None) };
    let bad = |why: String, hint: &str| {
        let message = format!("{flag} {}: {why}", path.display());
        Trouble::new(Exit::Usage, message, hint)
    };
    let hint = "name a text file of at most 256 KiB";
    let length = fs::metadata(path).map_err(|error| bad(error.to_string(), hint))?;
    if length.len() > PART_BYTES_MAX {
        return Err(bad(format!("it has {} bytes", length.len()), hint));
    }
    let content = fs::read_to_string(path).map_err(|error| bad(error.to_string(), hint))?;
    let name = path.file_name().map(|name| name.to_string_lossy());
    let name = name.ok_or_else(|| bad("it has no name".to_owned(), hint))?;
    Ok(Some(PartBody {
        name: name.into_owned(),
        content,
    }))
}

/// A path is made absolute: the controller runs in another folder. Anything else is a name.
fn model(text: &str) -> String {
    let path = Path::new(text);
    if text.contains('/') && path.exists() {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        return path.to_string_lossy().into_owned();
    }
    text.to_owned()
}

fn pairs(flag: &str, pairs: &[String]) -> Result<BTreeMap<String, String>, Trouble> {
    let pair = |pair: &String| {
        let split = pair.split_once('=').filter(|(name, _)| !name.is_empty());
        split
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .ok_or_else(|| {
                let message = format!("{flag} {pair:?} is not NAME=VALUE");
                let hint = format!("write it as {flag} NAME=VALUE");
                Trouble::new(Exit::Usage, message, &hint)
            })
    };
    pairs.iter().map(pair).collect()
}
