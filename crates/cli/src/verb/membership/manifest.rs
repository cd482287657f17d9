//! Manifests: made from what runs, from what is named, or from the one before.

use std::path::Path;

use segue_core::names::ReleaseId;
use segue_core::time::{Millis, Timestamp};
use segue_membership::manifest::{self, fingerprint};
use segue_membership::{
    Admitted, KeySet, Manifest, ReleaseState, Revoked, Role, SigningKey, sign_manifest,
};
use serde_json::json;

use super::files;
use crate::args::{Format, RevokeArgs, SignArgs};
use crate::client::Client;
use crate::exit::{Exit, Trouble};
use crate::home::Home;
use crate::output;

pub(super) fn sign(home: &Home, format: Format, args: &SignArgs) -> Result<(), Trouble> {
    let now = files::now();
    let set = files::key_set(&args.keys.keys, now)?;
    let before = before(&args.manifest)?;
    let admit = if args.renew {
        let (manifest, _) = before.as_ref().ok_or_else(|| none(&args.manifest))?;
        manifest.admit.clone()
    } else if args.admit.is_empty() {
        running(home)?
    } else {
        args.admit.clone()
    };
    let revoked = (before.as_ref()).map_or_else(Vec::new, |(manifest, _)| manifest.revoked.clone());
    let next = next(
        &set,
        before.as_ref(),
        (admit, revoked),
        args.expires_in,
        now,
    );
    publish(
        format,
        &set,
        &files::private(&args.key)?,
        &next,
        &args.manifest,
        now,
    )
}

pub(super) fn revoke(format: Format, args: &RevokeArgs) -> Result<(), Trouble> {
    let now = files::now();
    let set = files::key_set(&args.keys.keys, now)?;
    let before = before(&args.manifest)?.ok_or_else(|| none(&args.manifest))?;
    let (mut admit, mut revoked) = (before.0.admit.clone(), before.0.revoked.clone());
    if let Some(name) = &args.what.release {
        let all = admit.len();
        let is_it = |is: &Admitted| {
            is.version.as_str() == name
                || (name.len() >= 12 && String::from(is.digest).starts_with(name.as_str()))
        };
        admit.retain(|is| !is_it(is));
        if admit.len() == all {
            let message = format!("the manifest admits no release {name}");
            let hint = "`segue membership show manifest.jws` lists them";
            return Err(Trouble::new(Exit::Usage, message, hint));
        }
    }
    revoked.extend(args.what.token.clone().map(Revoked::Jti));
    revoked.extend(args.what.worker.clone().map(Revoked::Worker));
    revoked.sort();
    revoked.dedup();
    let [key] = args.sign.as_slice() else {
        let hint = "one key that may sign manifests is enough";
        return Err(Trouble::new(
            Exit::Usage,
            "a manifest has one signature",
            hint,
        ));
    };
    let next = next(&set, Some(&before), (admit, revoked), args.expires_in, now);
    publish(
        format,
        &set,
        &files::private(key)?,
        &next,
        &args.manifest,
        now,
    )
}

/// The manifest before, and its text. Who signed it and when it ended do not matter here: it is what
/// gates have.
fn before(path: &Path) -> Result<Option<(Manifest, String)>, Trouble> {
    let Some(text) = files::read_if(path, "name the manifest with --manifest FILE")? else {
        return Ok(None);
    };
    let text = text.trim().to_owned();
    let looked =
        segue_membership::look::look(&text).map_err(|reject| files::refused(path, &reject))?;
    let manifest = serde_json::from_value(looked.claims).map_err(|error| {
        let message = format!("{} is no manifest: {error}", path.display());
        Trouble::new(
            Exit::Usage,
            message,
            "name the manifest with --manifest FILE",
        )
    })?;
    Ok(Some((manifest, text)))
}

fn none(path: &Path) -> Trouble {
    let message = format!("there is no manifest {} yet", path.display());
    Trouble::new(
        Exit::Usage,
        message,
        "make the first one with `segue membership sign`",
    )
}

/// What the running Segue gives calls to, or has calls of.
fn running(home: &Home) -> Result<Vec<Admitted>, Trouble> {
    let status = Client::find(home)?.status()?;
    let mut admit = Vec::new();
    for agent in status.agents {
        for release in agent.releases {
            let state = match release.state.as_str() {
                "current" => ReleaseState::Active,
                // Workers are let in before they are tried.
                "ramping" | "inactive" => ReleaseState::Canary,
                "draining" | "drained" | "retiring" => ReleaseState::Draining,
                _ => continue,
            };
            admit.push(Admitted {
                agent: agent.name.clone(),
                version: release.label,
                digest: release.id,
                state,
                weight: release.share_bp,
            });
        }
    }
    if admit.is_empty() {
        let hint = "deploy one, or name releases with --admit";
        return Err(Trouble::new(
            Exit::Usage,
            "the running Segue has no release",
            hint,
        ));
    }
    Ok(admit)
}

fn next(
    set: &KeySet,
    before: Option<&(Manifest, String)>,
    (admit, revoked): (Vec<Admitted>, Vec<Revoked>),
    lasts: Millis,
    now: Timestamp,
) -> Manifest {
    Manifest {
        iss: set.iss.clone(),
        env: set.env.clone(),
        ver: before
            .map_or(1, |(before, _)| before.ver + 1)
            .max(set.floor.unwrap_or(1)),
        prev: before.map(|(_, text)| fingerprint(text)),
        iat: now.into(),
        exp: (now + lasts).into(),
        admit,
        revoked,
    }
}

/// Signs, checks as a gate would, and only then replaces the file.
fn publish(
    format: Format,
    set: &KeySet,
    key: &SigningKey,
    next: &Manifest,
    path: &Path,
    now: Timestamp,
) -> Result<(), Trouble> {
    if !set.of(Role::Manifest).contains(&key.kid()) {
        let message = format!("the key {} may not sign manifests", key.kid());
        let hint = "add it with `segue membership rotate --manifest NAME.jwk`";
        return Err(Trouble::new(Exit::Usage, message, hint));
    }
    let signed = sign_manifest(next, key);
    manifest::believed(set, &signed, now).map_err(|reject| files::refused(path, &reject))?;
    files::write(path, &format!("{signed}\n"))?;
    let view = json!({
        "file": path.display().to_string(),
        "fingerprint": fingerprint(&signed),
        "kid": key.kid(),
        "manifest": next,
    });
    output::data(format, &view, || {
        let until = output::utc(next.exp.at());
        format!(
            "manifest {} of {} holds until {until}\n{}",
            next.ver,
            next.env,
            table(next)
        )
    });
    Ok(())
}

pub(super) fn table(manifest: &Manifest) -> String {
    let row = |is: &Admitted| {
        let state = serde_json::to_value(is.state).expect("states always serialise");
        vec![
            is.agent.to_string(),
            is.version.to_string(),
            is.digest.to_string(),
            state.as_str().unwrap_or_default().to_owned(),
            output::percent(is.weight),
        ]
    };
    let rows: Vec<Vec<String>> = manifest.admit.iter().map(row).collect();
    let mut text = output::table(&["AGENT", "RELEASE", "DIGEST", "STATE", "WEIGHT"], &rows);
    for revoked in &manifest.revoked {
        let (what, id) = match revoked {
            Revoked::Jti(id) => ("token", id.to_string()),
            Revoked::Worker(id) => ("worker", id.to_string()),
        };
        text.extend(["\nrevoked: ", what, " ", &id]);
    }
    text
}

/// The digest of a release, as a manifest has it.
pub(super) fn digest_in(
    manifest: &Manifest,
    agent: &segue_core::names::AgentName,
    label: &segue_core::names::Label,
) -> Option<ReleaseId> {
    let mut of = manifest
        .admit
        .iter()
        .filter(|is| is.agent == *agent && is.version == *label);
    let first = of.next()?;
    // A label that is used twice names none.
    of.next().is_none().then_some(first.digest)
}
