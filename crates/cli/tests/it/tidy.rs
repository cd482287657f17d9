//! What must hold of the tree itself.

use std::fs;
use std::path::{Path, PathBuf};

/// A file longer than this holds more than one noun.
const LINES_MAX: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

pub(crate) fn files(extension: &str) -> Vec<(PathBuf, String)> {
    fn walk(dir: &Path, extension: &str, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    walk(&path, extension, found);
                }
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push((path.clone(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), extension, &mut found);
    assert!(
        !found.is_empty(),
        "no {extension} files: is this the repository?"
    );
    found
}

#[test]
fn no_file_is_longer_than_one_noun() {
    for (path, text) in files("rs") {
        let lines = text.lines().count();
        assert!(
            lines <= LINES_MAX,
            "{}: {lines} lines, at most {LINES_MAX}",
            path.display()
        );
    }
}

#[test]
fn crates_depend_in_one_direction() {
    let allowed: [(&str, &[&str]); 9] = [
        ("core", &[]),
        ("membership", &["core"]),
        ("voice", &[]),
        ("gateway", &["core"]),
        ("controller", &["core", "voice", "membership"]),
        ("dispatch", &["core", "gateway", "membership"]),
        ("worker", &["core", "membership"]),
        ("bench", &[]),
        (
            "cli",
            &[
                "core",
                "voice",
                "gateway",
                "membership",
                "controller",
                "dispatch",
                "worker",
                "bench",
            ],
        ),
    ];
    for (name, may) in allowed {
        let manifest =
            fs::read_to_string(root().join(format!("crates/{name}/Cargo.toml"))).unwrap();
        // Tests of core use core itself with a feature; other tests bring nothing of ours.
        let shipped = manifest.split("[dev-dependencies]").next().unwrap();
        for other in [
            "core",
            "voice",
            "gateway",
            "membership",
            "controller",
            "dispatch",
            "worker",
            "bench",
        ] {
            let depends = shipped
                .lines()
                .any(|line| line.starts_with(&format!("segue-{other}")));
            assert!(
                !depends || may.contains(&other),
                "{name} must not depend on {other}"
            );
        }
    }
}

#[test]
fn every_module_file_is_reachable() {
    for (path, _) in files("rs") {
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        let dir = path.parent().unwrap();
        let is_root = matches!(stem.as_str(), "main" | "lib" | "build")
            || ["tests", "bin", "benches", "examples"]
                .iter()
                .any(|name| dir.file_name().is_some_and(|n| n == *name));
        if is_root {
            continue;
        }
        let (module, parents) = if stem == "mod" {
            let name = dir.file_name().unwrap().to_string_lossy().into_owned();
            (name, siblings(dir.parent().unwrap()))
        } else {
            (stem, siblings(dir))
        };
        let declared = parents.iter().any(|parent| {
            let text = fs::read_to_string(parent).unwrap_or_default();
            text.lines()
                .any(|line| line.trim_end().ends_with(&format!("mod {module};")))
        });
        assert!(declared, "{} is declared by no module", path.display());
    }
}

/// Files that may declare the modules of a folder.
fn siblings(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = ["mod.rs", "lib.rs", "main.rs"]
        .iter()
        .map(|name| dir.join(name))
        .collect();
    files.push(dir.with_extension("rs"));
    files
}

#[test]
fn nothing_is_left_undone_without_saying_whose_it_is() {
    let marks =
        ["TO", "FIX"].map(|start| format!("{start}{}", if start == "TO" { "DO" } else { "ME" }));
    for (path, text) in files("rs") {
        for (number, line) in text.lines().enumerate() {
            let bare = marks
                .iter()
                .any(|mark| line.contains(mark.as_str()) && !line.contains(&format!("{mark}(")));
            assert!(!bare, "{}:{}: {line}", path.display(), number + 1);
        }
    }
}

#[test]
fn links_in_the_documents_lead_somewhere() {
    for (path, text) in files("md") {
        // The source of a page that is published elsewhere; its links are of that place.
        if path.ends_with("spec/reference.md") {
            continue;
        }
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let file = link.split('#').next().unwrap();
            if file.is_empty() || file.contains("://") || file.starts_with("mailto:") {
                continue;
            }
            let target = path.parent().unwrap().join(file);
            assert!(target.exists(), "{}: {link} leads nowhere", path.display());
        }
    }
}

#[test]
fn every_dependency_has_its_sentence() {
    let architecture = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for name in [
        "core",
        "voice",
        "gateway",
        "controller",
        "worker",
        "bench",
        "cli",
    ] {
        let manifest =
            fs::read_to_string(root().join(format!("crates/{name}/Cargo.toml"))).unwrap();
        let mut in_dependencies = false;
        for line in manifest.lines() {
            if line.starts_with('[') {
                in_dependencies = line.contains("dependencies");
            } else if in_dependencies && let Some((key, _)) = line.split_once(['=', '.']) {
                let key = key.trim();
                let ours = key.starts_with("segue-") || key.starts_with('#') || key.is_empty();
                assert!(
                    ours || architecture.contains(&format!("`{key}`")),
                    "{key} ({name}) has no sentence in ARCHITECTURE.md"
                );
            }
        }
    }
}
