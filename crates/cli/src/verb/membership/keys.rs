//! Keys, and the sets that say what they may sign.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use segue_core::time::{Millis, Timestamp};
use segue_membership::file::{Sight, create};
use segue_membership::keyset::{self, cosign};
use segue_membership::{KeyId, KeySet, PublicKey, SigningKey};
use serde_json::json;

use super::files;
use crate::args::{Format, RevokeArgs, RotateArgs};
use crate::exit::{Exit, Trouble};
use crate::output;

pub(super) fn keygen(format: Format, file: &Path) -> Result<(), Trouble> {
    let key = SigningKey::from_seed(files::random()?);
    create(file, key.to_pem().as_bytes(), Sight::Private)
        .map_err(|error| files::unwritten(file, &error))?;
    let public = public_of(file);
    let jwk = serde_json::to_string(&key.public()).expect("keys always serialise");
    create(&public, format!("{jwk}\n").as_bytes(), Sight::Public)
        .map_err(|error| files::unwritten(&public, &error))?;
    let view = json!({
        "key": file.display().to_string(),
        "public": public.display().to_string(),
        "kid": key.kid(),
        "jwk": key.public(),
    });
    output::data(format, &view, || key.kid().to_string());
    if format == Format::Table {
        let (file, public) = (file.display(), public.display());
        output::say(&format!(
            "{file} signs and is yours alone; {public} is for everybody"
        ));
    }
    Ok(())
}

/// `root.pem` has `root.jwk`, and `root` as well.
fn public_of(file: &Path) -> PathBuf {
    match file.extension() {
        Some(extension) if extension == "pem" => file.with_extension("jwk"),
        _ => beside(file, ".jwk"),
    }
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(suffix);
    name.into()
}

pub(super) fn rotate(format: Format, args: &RotateArgs) -> Result<(), Trouble> {
    let now = files::now();
    let path = &args.keys.keys;
    let signers = keys(&args.sign)?;
    let signers: Vec<&SigningKey> = signers.iter().collect();
    let hint = "the key sets are in one file, oldest first";
    let chain = files::read_if(path, hint)?;
    let draft = beside(path, ".draft");
    let line = if args.cosign {
        let waiting = files::read(&draft, "make the next key set without --cosign first")?;
        cosign(waiting.trim(), &signers).map_err(|reject| files::refused(&draft, &reject))?
    } else {
        let before = chain
            .as_ref()
            .map(|chain| keyset::newest(chain, now))
            .transpose();
        let before = before.map_err(|reject| files::refused(path, &reject))?;
        next(args, before, now)?.sign(&signers)
    };
    publish(format, path, chain.as_deref(), &line, now)
}

pub(super) fn revoke(format: Format, args: &RevokeArgs, key: &KeyId) -> Result<(), Trouble> {
    let now = files::now();
    let path = &args.keys.keys;
    let chain = files::read(path, "a key is revoked from a key set")?;
    let mut set = keyset::newest(&chain, now).map_err(|reject| files::refused(path, &reject))?;
    take_out(&mut set, key)?;
    agreeable(&set)?;
    set.floor = args.floor;
    let signers = keys(&args.sign)?;
    let line = following(set, now).sign(&signers.iter().collect::<Vec<_>>());
    publish(format, path, Some(&chain), &line, now)
}

fn keys(paths: &[PathBuf]) -> Result<Vec<SigningKey>, Trouble> {
    paths.iter().map(|path| files::private(path)).collect()
}

fn following(set: KeySet, now: Timestamp) -> KeySet {
    KeySet {
        set: set.set + 1,
        iat: now.into(),
        ..set
    }
}

/// The set that comes next, or first.
fn next(args: &RotateArgs, before: Option<KeySet>, now: Timestamp) -> Result<KeySet, Trouble> {
    let is_first = before.is_none();
    let mut set = match before {
        Some(before) => KeySet {
            floor: None,
            ..following(before, now)
        },
        None => KeySet {
            iss: args.issuer.clone(),
            env: args.env.clone().ok_or_else(|| {
                let message = format!("there is no {} yet", args.keys.keys.display());
                Trouble::new(
                    Exit::Usage,
                    message,
                    "say what the first key set is for: --env NAME",
                )
            })?,
            set: 1,
            iat: now.into(),
            exp: None,
            keys: Vec::new(),
            root: Vec::new(),
            threshold: 1,
            manifest: Vec::new(),
            worker: Vec::new(),
            floor: None,
        },
    };
    if !is_first && let Some(env) = args.env.as_ref().filter(|env| **env != set.env) {
        let message = format!("the key sets are for {}, not for {env}", set.env);
        let hint = "an environment has its own file and its own keys: --keys FILE";
        return Err(Trouble::new(Exit::Usage, message, hint));
    }
    for key in &args.remove {
        take_out(&mut set, key)?;
    }
    for (paths, role) in [
        (&args.root, &mut set.root),
        (&args.manifest, &mut set.manifest),
        (&args.worker, &mut set.worker),
    ] {
        for path in paths {
            let key = files::public(path)?;
            if !set.keys.contains(&key) {
                set.keys.push(key);
            }
            if !role.contains(&key.kid()) {
                role.push(key.kid());
            }
        }
    }
    if let Some(threshold) = args.threshold {
        set.threshold = threshold;
    }
    set.exp = args.expires_in.map(|length: Millis| (now + length).into());
    set.floor = args.floor;
    agreeable(&set)?;
    Ok(set)
}

/// Whether enough root keys are left to sign the set after this one.
fn agreeable(set: &KeySet) -> Result<(), Trouble> {
    if set.threshold == 0 || set.threshold > set.root.len() {
        let (need, have) = (set.threshold, set.root.len());
        let message = format!("{need} root keys must sign, and the set has {have}");
        let hint = "add root keys with --root JWK, or set --threshold";
        return Err(Trouble::new(Exit::Usage, message, hint));
    }
    Ok(())
}

fn take_out(set: &mut KeySet, key: &KeyId) -> Result<(), Trouble> {
    let before = set.keys.len();
    set.keys.retain(|is| is.kid() != *key);
    if set.keys.len() == before {
        let message = format!("the newest key set has no key {key}");
        let hint = "`segue membership show keys.jsonl` lists them";
        return Err(Trouble::new(Exit::Usage, message, hint));
    }
    for role in [&mut set.root, &mut set.manifest, &mut set.worker] {
        role.retain(|is| is != key);
    }
    Ok(())
}

/// Puts a set behind the others once enough have signed it; until then it waits beside them.
fn publish(
    format: Format,
    path: &Path,
    chain: Option<&str>,
    line: &str,
    now: Timestamp,
) -> Result<(), Trouble> {
    let draft = beside(path, ".draft");
    let whole = match chain {
        Some(chain) => format!("{}\n{line}\n", chain.trim_end()),
        None => format!("{line}\n"),
    };
    let (set, signers) = keyset::look(line).map_err(|reject| files::refused(path, &reject))?;
    let missing = match keyset::newest(&whole, now) {
        Ok(_) => None,
        Err(reject) if reject.word() == "threshold" => Some(reject.to_string()),
        Err(reject) => return Err(files::refused(path, &reject)),
    };
    if missing.is_some() {
        files::write(&draft, &format!("{line}\n"))?;
    } else {
        files::write(path, &whole)?;
        // Left behind, it would be signed again.
        let _ = std::fs::remove_file(&draft);
    }
    let view = json!({
        "set": set.set,
        "env": set.env,
        "complete": missing.is_none(),
        "missing": missing,
        "file": if missing.is_some() { &draft } else { path }.display().to_string(),
        "signers": signers,
        "keys": describe(&set),
    });
    output::data(format, &view, || match &missing {
        None => format!(
            "key set {} of {} is in {}",
            set.set,
            set.env,
            path.display()
        ),
        Some(why) => format!("key set {} waits in {}: {why}", set.set, draft.display()),
    });
    if missing.is_some() && format == Format::Table {
        output::say(
            "hint: others sign it with `segue membership rotate --cosign --sign THEIR.pem`",
        );
    }
    Ok(())
}

/// Each key and what it may sign.
pub(super) fn describe(set: &KeySet) -> Vec<serde_json::Value> {
    let roles = |key: &PublicKey| {
        let kid = key.kid();
        let all = [
            ("root", &set.root),
            ("manifest", &set.manifest),
            ("worker", &set.worker),
        ];
        let may = all.into_iter().filter(|(_, role)| role.contains(&kid));
        may.map(|(name, _)| name).collect::<Vec<_>>()
    };
    let one = |key: &PublicKey| json!({ "kid": key.kid(), "signs": roles(key) });
    set.keys.iter().map(one).collect()
}
