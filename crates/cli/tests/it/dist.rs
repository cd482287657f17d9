//! What is given to others: the release archive and the systemd unit.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::site::{SEGUE, Site};

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().unwrap()
}

fn good(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Makes a release of the binary under test; answers the archive.
fn dist(folder: &Path) -> PathBuf {
    let made = Command::new(root().join("deploy/dist"))
        .args([Path::new(SEGUE), folder])
        .env("SOURCE_DATE_EPOCH", "1700000000")
        .env("LEVEL", "-1")
        .output()
        .unwrap();
    PathBuf::from(good(&made).trim())
}

#[test]
fn a_release_holds_all_that_is_needed_and_its_checksum_is_right() {
    let site = Site::prepare("", "");
    let archive = dist(&site.dir);
    let name = archive.file_name().unwrap().to_string_lossy().into_owned();
    let run = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        command.args(args).current_dir(&site.dir).output().unwrap()
    };
    good(&run("sha256sum", &["--check", &format!("{name}.sha256")]));
    good(&run("tar", &["--extract", "--file", &name]));
    let tree = site.dir.join(name.strip_suffix(".tar.gz").unwrap());
    let version = run(
        &tree.join("bin/segue").display().to_string(),
        &["--version"],
    );
    assert!(good(&version).starts_with("segue "));
    for (file, holds) in [
        ("share/man/man1/segue.1", ".TH segue"),
        ("share/man/man1/segue-deploy.1", "prompt"),
        ("share/bash-completion/completions/segue", "rollback"),
        ("share/zsh/site-functions/_segue", "#compdef segue"),
        ("share/fish/vendor_completions.d/segue.fish", "rollback"),
        ("segue.service", "KillMode=process"),
        ("segue.toml", "[agents.receptionist]"),
        ("segue.schema.json", "$schema"),
        ("openapi.json", "3.1"),
        ("LICENSE", "Apache License"),
        ("README.md", "# Segue"),
        ("CHANGELOG.md", "# Changelog"),
    ] {
        let text =
            fs::read_to_string(tree.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(text.contains(holds), "{file} has no {holds:?}");
    }
    let text = fs::read_to_string(tree.join("segue.toml")).unwrap();
    assert!(segue_core::spec::parse("segue.toml", &text).is_ok());
}

/// As far as systemd is here to say so; the lines that calls depend on are checked in any case.
#[test]
fn the_unit_is_one_that_systemd_takes_and_leaves_calls_alone() {
    let unit = fs::read_to_string(root().join("deploy/systemd/segue.service")).unwrap();
    for line in ["KillMode=process", "OOMPolicy=continue", "Restart=always"] {
        assert!(unit.lines().any(|is| is == line), "{line}");
    }
    assert!(!unit.contains("\nPrivateTmp=") && !unit.contains("\nMemoryDenyWriteExecute="));
    let site = Site::prepare("", "");
    let file = site.dir.join("segue.service");
    // The program and its user are not on this machine.
    let here = unit.replace("/usr/local/bin/segue", SEGUE);
    let here = here
        .replace("User=segue", "User=root")
        .replace("Group=segue", "Group=root");
    fs::write(&file, here).unwrap();
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).arg(&file);
    match verify.output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let ours = said.lines().filter(|line| line.contains("segue"));
            assert_eq!(ours.collect::<Vec<_>>(), Vec::<&str>::new());
        }
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound),
    }
}
