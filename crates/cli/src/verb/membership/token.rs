//! Worker tokens.

use segue_core::names::{ReleaseId, hex};
use segue_core::time::Millis;
use segue_membership::token::{self, Confirmation};
use segue_membership::{Role, WorkerClaims, manifest, sign_worker};
use serde_json::json;

use super::files;
use super::manifest::digest_in;
use crate::args::{Format, TokenArgs};
use crate::client::Client;
use crate::exit::{Exit, Trouble};
use crate::home::Home;
use crate::output;

/// How long a token lasts unless it is said otherwise: it cannot be replaced in a running worker.
const BEARER_LASTS: Millis = Millis::from_secs(30 * 86_400);
/// One with a key is made anew each time it is shown.
const BOUND_LASTS: Millis = Millis::from_secs(300);

/// Random bytes of its id: two never meet.
const ID_BYTES: usize = 12;

pub(super) fn make(home: &Home, format: Format, args: &TokenArgs) -> Result<(), Trouble> {
    let now = files::now();
    let set = files::key_set(&args.keys.keys, now)?;
    let key = files::private(&args.key)?;
    if !set.of(Role::Worker).contains(&key.kid()) {
        let message = format!("the key {} may not sign worker tokens", key.kid());
        let hint = "add it with `segue membership rotate --worker NAME.jwk`";
        return Err(Trouble::new(Exit::Usage, message, hint));
    }
    let bind = args.bind.as_deref().map(files::public).transpose()?;
    let usual = bind.map_or(BEARER_LASTS, |_| BOUND_LASTS);
    let claims = WorkerClaims {
        iss: set.iss.clone(),
        aud: set.env.clone(),
        sub: args.worker.clone(),
        agent: args.agent.clone(),
        version: args.release.clone(),
        digest: digest(home, args)?,
        cnf: bind.map(|jwk| Confirmation { jwk }),
        iat: now.into(),
        nbf: None,
        exp: (now + args.expires_in.unwrap_or(usual)).into(),
        jti: hex(&files::random::<ID_BYTES>()?)
            .parse()
            .expect("digits are a name"),
    };
    let token = sign_worker(&claims, &key);
    token::believed(&set, &token, now).map_err(|reject| {
        Trouble::new(
            Exit::Usage,
            format!("no gate would take it: {reject}"),
            files::hint(&reject),
        )
    })?;
    // Any path before /agent is kept by LiveKit's workers.
    let url = args
        .url
        .as_ref()
        .map(|url| format!("{}/w/{token}", url.trim_end_matches('/')));
    let view = json!({ "token": token, "url": url, "kid": key.kid(), "claims": claims });
    output::data(format, &view, || {
        url.clone().unwrap_or_else(|| token.clone())
    });
    if format == Format::Table {
        let whose = match claims.cnf {
            None => "whoever has it is such a worker",
            Some(_) => "whoever has its key, too, is such a worker",
        };
        output::say(&format!(
            "token {} for {} {} ({}) until {}; {whose}",
            claims.jti,
            claims.agent,
            claims.version,
            claims.digest,
            output::utc(claims.exp.at()),
        ));
    }
    Ok(())
}

/// As named, as the manifest says, or as the running Segue has it.
fn digest(home: &Home, args: &TokenArgs) -> Result<ReleaseId, Trouble> {
    if let Some(digest) = args.digest {
        return Ok(digest);
    }
    let unknown = |whose: &str| {
        let message = format!(
            "{whose} has no release {} of {}, or two",
            args.release, args.agent
        );
        Trouble::new(Exit::Usage, message, "name it with --digest HEX")
    };
    if let Some(path) = &args.manifest {
        let now = files::now();
        let set = files::key_set(&args.keys.keys, now)?;
        let text = files::read(path, "`segue membership sign` makes it")?;
        let (manifest, _) = manifest::believed(&set, text.trim(), now)
            .map_err(|reject| files::refused(path, &reject))?;
        return digest_in(&manifest, &args.agent, &args.release)
            .ok_or_else(|| unknown("the manifest"));
    }
    let agent = Client::find(home)?.agent(args.agent.as_str())?;
    let mut of = agent.releases.iter().filter(|is| is.label == args.release);
    match (of.next(), of.next()) {
        (Some(release), None) => Ok(release.id),
        _ => Err(unknown("the running Segue")),
    }
}
