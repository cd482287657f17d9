//! `segue init`: a configuration to start from.

use std::fs;
use std::io::Write as _;

use segue_core::spec::EXAMPLE;

use crate::args::InitArgs;
use crate::exit::{Exit, Trouble};
use crate::output;

pub(crate) fn run(args: &InitArgs) -> anyhow::Result<Exit> {
    let file = args.file.display();
    let opened = fs::OpenOptions::new()
        .write(true)
        .create_new(!args.force)
        .create(true)
        .truncate(args.force)
        .open(&args.file);
    let mut out = opened.map_err(|error| {
        let hint = "write elsewhere with `segue init FILE`, or over it with --force";
        Trouble::new(
            Exit::Usage,
            format!("{file} cannot be written: {error}"),
            hint,
        )
    })?;
    out.write_all(EXAMPLE.as_bytes())?;
    output::say(&format!("wrote {file}"));
    output::say("hint: `segue serve` runs it; then, in another shell, `segue deploy v1`");
    Ok(Exit::Ok)
}
