//! What is in a file: looked at, or checked as a gate would.

use std::path::Path;

use segue_core::time::Timestamp;
use segue_membership::keyset;
use segue_membership::look::{Looked, look};
use segue_membership::store::Memory;
use segue_membership::{Gate, KeySet, Manifest, Reject, Settings, manifest, token};
use serde_json::{Value, json};

use super::{files, keys};
use crate::args::{Format, VerifyArgs};
use crate::exit::{Exit, Trouble};
use crate::output;

/// What holds: of which kind, in words, and for machines.
struct Good {
    kind: &'static str,
    words: String,
    says: Value,
}

const HINT: &str = "name a file with a key set, a manifest or a token, or `-`";

pub(super) fn verify(format: Format, args: &VerifyArgs) -> Result<Exit, Trouble> {
    let now = files::now();
    let text = files::read(&args.file, HINT)?;
    let text = text.trim();
    let answer = if text.starts_with('{') {
        keyset::newest(text, now).map(|set| chain(&set))
    } else {
        let set = files::key_set(&args.keys.keys, now)?;
        match look(text).map(|looked| looked.typ) {
            Err(reject) => Err(reject),
            Ok("membership-manifest+jwt") => {
                manifest::believed(&set, text, now).map(|(manifest, _)| of_manifest(&manifest))
            }
            Ok(_) => worker(args, &set, text, now)?,
        }
    };
    let (view, words) = match &answer {
        Ok(good) => (
            json!({ "ok": true, "kind": good.kind, "says": good.says }),
            good.words.clone(),
        ),
        Err(reject) => (
            json!({ "ok": false, "reason": reject.word(), "message": reject.to_string(), "hint": files::hint(reject) }),
            format!("refused ({}): {reject}", reject.word()),
        ),
    };
    output::data(format, &view, || words);
    match answer {
        Ok(_) => Ok(Exit::Ok),
        Err(reject) => {
            if format == Format::Table {
                output::say(&format!("hint: {}", files::hint(&reject)));
            }
            Ok(Exit::Failed)
        }
    }
}

fn chain(set: &KeySet) -> Good {
    let words = format!(
        "key set {} of {} holds: {} keys",
        set.set,
        set.env,
        set.keys.len()
    );
    Good {
        kind: "keys",
        words,
        says: json!({ "set": set.set, "env": set.env, "keys": keys::describe(set) }),
    }
}

fn of_manifest(manifest: &Manifest) -> Good {
    let until = output::utc(manifest.exp.at());
    let words = format!(
        "manifest {} of {} holds until {until}",
        manifest.ver, manifest.env
    );
    Good {
        kind: "manifest",
        words,
        says: serde_json::to_value(manifest).expect("manifests always serialise"),
    }
}

/// A token; with a manifest, whether that lets it in.
fn worker(
    args: &VerifyArgs,
    set: &KeySet,
    text: &str,
    now: Timestamp,
) -> Result<Result<Good, Reject>, Trouble> {
    let mut state = None;
    if let Some(path) = &args.manifest {
        let chain = files::read(&args.keys.keys, HINT)?;
        let signed = files::read(path, "`segue membership sign` makes it")?;
        let settings = Settings::new(set.env.clone(), files::random()?);
        let gate = Gate::open(settings, &chain, Box::new(Memory::default()), now);
        let mut gate = gate.map_err(|reject| files::refused(&args.keys.keys, &reject))?;
        gate.offer_manifest(&signed, now)
            .map_err(|reject| files::refused(path, &reject))?;
        match gate.admit(text, now) {
            Ok(member) => state = Some(member.state.to_string()),
            // All that is missing is the proof, which only a worker can give.
            Err(Reject::ProofMissing) => {}
            Err(reject) => return Ok(Err(reject)),
        }
    }
    Ok(token::believed(set, text, now).and_then(|(claims, _)| {
        token::lasting(&claims, now)?;
        let until = output::utc(claims.exp.at());
        let mut words = format!(
            "token {} of {} {} ({}) holds until {until}",
            claims.jti, claims.agent, claims.version, claims.digest,
        );
        if claims.cnf.is_some() {
            words.push_str(", with a proof of its key");
        }
        if let Some(state) = &state {
            words.extend([": ", state]);
        }
        let mut says = serde_json::to_value(&claims).expect("claims always serialise");
        says["state"] = state.into();
        Ok(Good {
            kind: "token",
            words,
            says,
        })
    }))
}

pub(super) fn show(format: Format, file: &Path) -> Result<(), Trouble> {
    let text = files::read(file, HINT)?;
    let text = text.trim();
    let view = if text.starts_with('{') {
        let one = |line: &str| {
            let (set, signers) = keyset::look(line)?;
            let keys = keys::describe(&set);
            let set = serde_json::to_value(&set).expect("sets always serialise");
            Ok(json!({ "claims": set, "signers": signers, "keys": keys }))
        };
        let sets = text.lines().filter(|line| !line.trim().is_empty()).map(one);
        let sets = sets.collect::<Result<Vec<_>, Reject>>();
        json!({ "kind": "keys", "verified": false, "sets": sets.map_err(|reject| files::refused(file, &reject))? })
    } else {
        let Looked { typ, kid, claims } =
            look(text).map_err(|reject| files::refused(file, &reject))?;
        json!({ "kind": typ, "verified": false, "kid": kid, "claims": claims })
    };
    output::data(format, &view, || {
        serde_json::to_string_pretty(&view).expect("views always serialise")
    });
    if format == Format::Table {
        output::say("not verified: `segue membership verify` does that");
    }
    Ok(())
}
