//! `segue membership`: keys, key sets, manifests and tokens, as files.

mod files;
mod keys;
mod look;
mod manifest;
mod token;

use crate::args::{Format, MembershipDo};
use crate::exit::Exit;
use crate::home::Home;

pub(crate) fn run(home: &Home, format: Format, what: &MembershipDo) -> anyhow::Result<Exit> {
    match what {
        MembershipDo::Keygen { file } => keys::keygen(format, file)?,
        MembershipDo::Rotate(args) => keys::rotate(format, args)?,
        MembershipDo::Sign(args) => manifest::sign(home, format, args)?,
        MembershipDo::Token(args) => token::make(home, format, args)?,
        MembershipDo::Verify(args) => return Ok(look::verify(format, args)?),
        MembershipDo::Show { file } => look::show(format, file)?,
        MembershipDo::Revoke(args) => match &args.what.key {
            Some(key) => keys::revoke(format, args, key)?,
            None => manifest::revoke(format, args)?,
        },
    }
    Ok(Exit::Ok)
}
