//! `segue man`: the manual, made from the same words as `--help`.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_mangen::Man;

use crate::args::{Cli, ManArgs};
use crate::exit::Exit;
use crate::output;

pub(crate) fn run(args: &ManArgs) -> anyhow::Result<Exit> {
    let command = Cli::command();
    let Some(dir) = &args.dir else {
        let mut page = Vec::new();
        Man::new(command).render(&mut page)?;
        output::raw(&page)?;
        return Ok(Exit::Ok);
    };
    let cannot = || format!("{} cannot be written", dir.display());
    fs::create_dir_all(dir).with_context(cannot)?;
    let mut pages = 1;
    write(dir, "segue", &Man::new(command.clone())).with_context(cannot)?;
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let name = format!("segue-{}", verb.get_name());
        // Its own page says `segue deploy`, not `deploy`.
        let page = verb
            .clone()
            .display_name(&name)
            .bin_name(format!("segue {}", verb.get_name()));
        write(dir, &name, &Man::new(page)).with_context(cannot)?;
        pages += 1;
    }
    output::say(&format!("wrote {pages} pages to {}", dir.display()));
    Ok(Exit::Ok)
}

fn write(dir: &Path, name: &str, page: &Man) -> std::io::Result<()> {
    let mut text = Vec::new();
    page.render(&mut text)?;
    fs::write(dir.join(format!("{name}.1")), text)
}
