//! Arguments of who may ask, and where.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use segue_controller::api::wire::Role;

use super::examples;
use crate::reach::Remote;

/// Where a Segue is asked that is not in the state folder.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Another machine")]
pub(crate) struct RemoteArgs {
    /// Ask the Segue there, for example <https://segue.example.com:7070>
    #[arg(long, global = true, env = "SEGUE_API_URL", value_name = "URL")]
    api: Option<String>,
    /// Ask with the token in this file
    #[arg(long, global = true, env = "SEGUE_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Trust the certificates in this PEM file instead of those that browsers trust
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
}

impl RemoteArgs {
    pub(crate) fn remote(self) -> Remote {
        Remote {
            url: self.api,
            token_file: self.token_file,
            ca: self.ca,
        }
    }
}

/// What is done with tokens.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum TokenDo {
    /// Make one, and print it: it is shown this once
    #[command(after_help = examples::TOKEN_CREATE)]
    Create(TokenCreateArgs),
    /// List them, without their secrets
    #[command(after_help = examples::TOKEN)]
    List,
    /// Revoke one: from now on it opens nothing
    #[command(after_help = examples::TOKEN)]
    Revoke {
        /// Its id, or the name of who uses it
        token: String,
    },
}

/// What is told of the admin API.
#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum ApiDo {
    /// Print its description, `OpenAPI` 3.1; no Segue needs to run
    #[command(
        about = "Print its description in the format of OpenAPI 3.1; no Segue needs to run",
        after_help = examples::API
    )]
    Openapi,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct TokenCreateArgs {
    /// Who will use it; decisions are written down under this name
    pub(crate) name: String,
    /// What they may do
    #[arg(long, short, value_enum)]
    pub(crate) role: RoleArg,
    /// Of which agent a worker is [default: the only one]
    #[arg(long, short, value_name = "NAME")]
    pub(crate) agent: Option<String>,
    /// When it ends by itself, for example 8h or 30d [default: 90d, at most 366d]
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub(crate) expires_in: Option<u64>,
}

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleArg {
    /// Read.
    Viewer,
    /// Read and steer rollouts.
    Operator,
    /// Read and approve.
    Approver,
    /// Everything, tokens included.
    Admin,
    /// Keep the state of calls, and ask for permits: for agents.
    Worker,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Viewer => Self::Viewer,
            RoleArg::Operator => Self::Operator,
            RoleArg::Approver => Self::Approver,
            RoleArg::Admin => Self::Admin,
            RoleArg::Worker => Self::Worker,
        }
    }
}

/// The longest that a token lasts, in seconds: 366 days, as the API has it.
const EXPIRES_IN_MAX: u64 = 31_622_400;

/// `90s`, `15m`, `8h` or `30d` in seconds.
pub(super) fn seconds(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is no length of time; write it like 90s, 15m, 8h or 30d");
    let (number, unit) = text
        .split_at_checked(text.len().saturating_sub(1))
        .ok_or_else(bad)?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(bad()),
    };
    let number: u64 = number.parse().map_err(|_| bad())?;
    let seconds = number.checked_mul(unit).ok_or_else(bad)?;
    if !(1..=EXPIRES_IN_MAX).contains(&seconds) {
        return Err("it is from 1s to 366d".to_owned());
    }
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read_with_their_unit() {
        for (text, expected) in [
            ("90s", Some(90)),
            ("15m", Some(900)),
            ("8h", Some(28_800)),
            ("30d", Some(2_592_000)),
            ("366d", Some(31_622_400)),
            ("367d", None),
            ("0s", None),
            ("30", None),
            ("d", None),
            ("-1d", None),
            ("1.5h", None),
            ("é", None),
            ("", None),
            ("99999999999999999999d", None),
            ("999999999999999999d", None),
        ] {
            assert_eq!(seconds(text).ok(), expected, "{text:?}");
        }
    }
}
