//! Arguments of signed membership.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use segue_core::names::{AgentName, BadName, Environment, Label, ReleaseId, TokenId, WorkerId};
use segue_core::time::Millis;
use segue_membership::{Admitted, KeyId, ReleaseState};

use super::examples;

/// What is done with membership.
#[derive(Debug, Subcommand)]
pub(crate) enum MembershipDo {
    /// Make a key: NAME.pem for its owner, NAME.jwk for everybody
    ///
    /// Ed25519, as PKCS#8 in PEM, readable by its owner only. One for each job: root keys sign key
    /// sets and stay offline; one signs manifests, one worker tokens.
    #[command(after_help = examples::MEMBERSHIP_KEYGEN)]
    Keygen {
        /// The file to write; it must not be there yet
        file: PathBuf,
    },
    /// Make the next key set: who may sign from now on. Without a file yet, the first one
    ///
    /// Signed by enough root keys of the set before and of its own. While some are missing it waits
    /// in KEYS.draft, which others sign with --cosign.
    #[command(after_help = examples::MEMBERSHIP_ROTATE)]
    Rotate(RotateArgs),
    /// Make the next manifest: which releases are admitted, from now on and for some minutes
    ///
    /// From the running Segue, or from --admit, or with --renew from the manifest before. Its number
    /// and history follow that of the file, which is replaced in one step.
    #[command(after_help = examples::MEMBERSHIP_SIGN)]
    Sign(SignArgs),
    /// Make a token that says which release a worker is of
    ///
    /// Whoever has it is such a worker until it ends or its release does: it is printed alone, on
    /// standard output. With --bind it lasts minutes, and needs a proof of that key.
    #[command(after_help = examples::MEMBERSHIP_TOKEN)]
    Token(TokenArgs),
    /// Check a key set, a manifest or a token, as a gate would; exit code 1 if it is refused
    #[command(after_help = examples::MEMBERSHIP_VERIFY)]
    Verify(VerifyArgs),
    /// Print what a key set, a manifest or a token says, without checking it
    #[command(after_help = examples::MEMBERSHIP_SHOW)]
    Show {
        /// The file; `-`: standard input
        file: PathBuf,
    },
    /// Take back a key, a release, a token or a worker before it ends
    ///
    /// A key by the next key set; the rest by the next manifest. Calls in progress go on.
    #[command(after_help = examples::MEMBERSHIP_REVOKE)]
    Revoke(RevokeArgs),
}

/// Where key sets are.
#[derive(Debug, Clone, Args)]
pub(crate) struct KeysArg {
    /// The key sets, oldest first, one on each line
    #[arg(long, default_value = "keys.jsonl", value_name = "FILE")]
    pub(crate) keys: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct RotateArgs {
    #[command(flatten)]
    pub(crate) keys: KeysArg,
    /// Sign with this root key (PEM); once for each
    #[arg(long, required = true, value_name = "PEM")]
    pub(crate) sign: Vec<PathBuf>,
    /// Add a root key (JWK)
    #[arg(long, value_name = "JWK")]
    pub(crate) root: Vec<PathBuf>,
    /// Add a key that may sign manifests (JWK)
    #[arg(long, value_name = "JWK")]
    pub(crate) manifest: Vec<PathBuf>,
    /// Add a key that may sign worker tokens (JWK)
    #[arg(long, value_name = "JWK")]
    pub(crate) worker: Vec<PathBuf>,
    /// Take a key out
    #[arg(long, value_name = "KID", value_parser = kid, allow_hyphen_values = true)]
    pub(crate) remove: Vec<KeyId>,
    /// How many root keys must sign a key set [default: as before; at first 1]
    #[arg(long, value_name = "N")]
    pub(crate) threshold: Option<usize>,
    /// When the set ends, for example 366d [default: not]
    #[arg(long, value_name = "TIME", value_parser = length)]
    pub(crate) expires_in: Option<Millis>,
    /// From which number manifests go on, if a key that signed some is taken out
    #[arg(long, value_name = "VER")]
    pub(crate) floor: Option<u64>,
    /// Of the first set: the environment that it is for
    #[arg(long, value_name = "NAME")]
    pub(crate) env: Option<Environment>,
    /// Of the first set: who issues what it signs
    #[arg(long, default_value = "segue", value_name = "NAME")]
    pub(crate) issuer: String,
    /// Add signatures to the set that waits for them, and change nothing
    #[arg(long, conflicts_with_all = ["root", "manifest", "worker", "remove", "threshold", "expires_in", "floor", "env"])]
    pub(crate) cosign: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SignArgs {
    #[command(flatten)]
    pub(crate) keys: KeysArg,
    /// Sign with this key (PEM)
    #[arg(long, value_name = "PEM")]
    pub(crate) key: PathBuf,
    /// The manifest, which the next one follows and replaces
    #[arg(long, default_value = "manifest.jws", value_name = "FILE")]
    pub(crate) manifest: PathBuf,
    /// Admit this release, and only those named so: AGENT:LABEL:DIGEST:STATE, or with :WEIGHT in basis
    /// points behind it. States are active, canary and draining
    #[arg(long, value_name = "RELEASE", value_parser = admitted, conflicts_with = "renew")]
    pub(crate) admit: Vec<Admitted>,
    /// Admit what the manifest before admits
    #[arg(long)]
    pub(crate) renew: bool,
    /// When it ends: soon, so that one that is held back is noticed
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = length)]
    pub(crate) expires_in: Millis,
}

#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    #[command(flatten)]
    pub(crate) keys: KeysArg,
    /// Sign with this key (PEM)
    #[arg(long, value_name = "PEM")]
    pub(crate) key: PathBuf,
    /// Of which agent the worker is
    #[arg(long, short, value_name = "NAME")]
    pub(crate) agent: AgentName,
    /// Of which release, by its label
    #[arg(long, short, value_name = "LABEL")]
    pub(crate) release: Label,
    /// The digest of that release [default: as the manifest says, or the running Segue]
    #[arg(long, value_name = "HEX", value_parser = digest)]
    pub(crate) digest: Option<ReleaseId>,
    /// A manifest that admits it
    #[arg(long, value_name = "FILE")]
    pub(crate) manifest: Option<PathBuf>,
    /// Which worker [default: any of that release]
    #[arg(long, value_name = "ID")]
    pub(crate) worker: Option<WorkerId>,
    /// Bind it to this key (JWK) of the worker
    #[arg(long, value_name = "JWK")]
    pub(crate) bind: Option<PathBuf>,
    /// When it ends, for example 7d [default: 30d; bound to a key 5m]
    #[arg(long, value_name = "TIME", value_parser = length)]
    pub(crate) expires_in: Option<Millis>,
    /// Print the address for a LiveKit worker whose dispatcher listens here
    #[arg(long, value_name = "WS_URL")]
    pub(crate) url: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The file; `-`: standard input
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) keys: KeysArg,
    /// Whether this manifest admits the token, too
    #[arg(long, value_name = "FILE")]
    pub(crate) manifest: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct RevokeArgs {
    #[command(flatten)]
    pub(crate) what: Revoke,
    #[command(flatten)]
    pub(crate) keys: KeysArg,
    /// Sign with this key (PEM): root keys for a key, else one that may sign manifests
    #[arg(long, required = true, value_name = "PEM")]
    pub(crate) sign: Vec<PathBuf>,
    /// The manifest, which the next one follows and replaces
    #[arg(long, default_value = "manifest.jws", value_name = "FILE")]
    pub(crate) manifest: PathBuf,
    /// From which number manifests go on, if a key that signed some is revoked
    #[arg(long, value_name = "VER", requires = "key")]
    pub(crate) floor: Option<u64>,
    /// When the new manifest ends
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = length)]
    pub(crate) expires_in: Millis,
}

/// One of these.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Revoke {
    /// A key, by its name
    // One in sixty-four begins with a hyphen.
    #[arg(long, value_name = "KID", value_parser = kid, allow_hyphen_values = true)]
    pub(crate) key: Option<KeyId>,
    /// A token, by its id (`jti`)
    #[arg(long, value_name = "ID")]
    pub(crate) token: Option<TokenId>,
    /// Every token of a worker
    #[arg(long, value_name = "ID")]
    pub(crate) worker: Option<WorkerId>,
    /// A release, by its label or digest: it drains
    #[arg(long, value_name = "RELEASE")]
    pub(crate) release: Option<String>,
}

fn kid(text: &str) -> Result<KeyId, String> {
    // A thumbprint is 32 bytes in base64url.
    let is_one = text.len() == 43
        && text
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || b"-_".contains(&c));
    is_one.then(|| KeyId::from(text)).ok_or_else(|| {
        format!("{text:?} is no name of a key; `segue membership show keys.jsonl` lists them")
    })
}

fn digest(text: &str) -> Result<ReleaseId, String> {
    ReleaseId::try_from(text.to_owned()).map_err(|_| {
        format!(
            "{text:?} is no digest of 64 hexadecimal digits, as `segue status --output json` shows"
        )
    })
}

fn length(text: &str) -> Result<Millis, String> {
    super::access::seconds(text).map(Millis::from_secs)
}

/// `AGENT:LABEL:DIGEST:STATE[:WEIGHT]`.
fn admitted(text: &str) -> Result<Admitted, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (agent, version, id, state, weight) = match *parts.as_slice() {
        [agent, version, id, state] => (agent, version, id, state, "0"),
        [agent, version, id, state, weight] => (agent, version, id, state, weight),
        _ => return Err("write it as AGENT:LABEL:DIGEST:STATE[:WEIGHT]".to_owned()),
    };
    let state = match state {
        "active" => ReleaseState::Active,
        "canary" => ReleaseState::Canary,
        "draining" => ReleaseState::Draining,
        _ => return Err(format!("{state:?} is none of active, canary and draining")),
    };
    let weight = weight
        .parse::<u16>()
        .ok()
        .filter(|weight| *weight <= 10_000);
    Ok(Admitted {
        agent: agent.parse().map_err(|error: BadName| error.to_string())?,
        version: version
            .parse()
            .map_err(|error: BadName| error.to_string())?,
        digest: digest(id)?,
        state,
        weight: weight.ok_or("a weight is from 0 to 10000 basis points")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_may_begin_with_a_hyphen() {
        use clap::Parser as _;
        let name = format!("-{}", "Z".repeat(42));
        for args in [["revoke", "--key"], ["rotate", "--remove"]] {
            let line = [
                "segue",
                "membership",
                args[0],
                args[1],
                &name,
                "--sign",
                "r.pem",
            ];
            assert!(crate::args::Cli::try_parse_from(line).is_ok(), "{line:?}");
        }
    }

    #[test]
    fn releases_are_named_in_full() {
        let id = "0".repeat(64);
        let good = admitted(&format!("desk:v1:{id}:canary:500")).unwrap();
        assert_eq!((good.state, good.weight), (ReleaseState::Canary, 500));
        assert_eq!(admitted(&format!("desk:v1:{id}:active")).unwrap().weight, 0);
        for bad in [
            String::new(),
            "desk:v1".to_owned(),
            format!("desk:v1:{id}:paused"),
            format!("desk:v1:{id}:active:10001"),
            format!("desk:v1:{id}:active:-1"),
            format!("desk:v1:{id}:active:1:2"),
            format!("../desk:v1:{id}:active"),
            "desk:v1:abc:active".to_owned(),
        ] {
            assert!(admitted(&bad).is_err(), "{bad}");
        }
    }
}
