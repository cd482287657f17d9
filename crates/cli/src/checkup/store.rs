//! Whether what was decided is safe: the state folder, the journal, the disk.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::{StatVfs, statfs, statvfs};
use segue_controller::state::StateDir;
use segue_controller::store::{Head, Journal as _, SqliteJournal, StoreError};
use segue_core::time::Timestamp;

use super::{Findings, Patient};
use crate::home::Home;

/// Free room below which the journal may soon not be written, and below which somebody should look.
const FREE_BYTES: (u64, u64) = (100 * MIB, 1024 * MIB);

/// The journal is written back from its log every few megabytes; a log that grows beyond this means
/// that somebody holds it open for reading.
const WAL_BYTES_MAX: u64 = 64 * MIB;

/// Logs are the operator's to rotate; more than this deserves a word.
const LOG_BYTES_MAX: u64 = 4 * 1024 * MIB;

const MIB: u64 = 1024 * 1024;

/// File systems on which a lock or a sync may not be what it says, and those that forget. Numbers
/// as in statfs(2).
const FILE_SYSTEMS: [(u64, &str, bool); 6] = [
    (0x6969, "NFS", true),
    (0xff53_4d42, "CIFS", true),
    (0xfe53_4d42, "SMB", true),
    (0x0102_1994, "tmpfs", false),
    (0x8584_58f6, "ramfs", false),
    (0x6573_5546, "FUSE", true),
];

pub(super) fn check(patient: &Patient) -> Findings {
    let mut found = Findings::of("store");
    let home = &patient.home;
    if !home.path().exists() {
        found.ok(format!(
            "{} is not there yet; `segue serve` makes it",
            home.path().display()
        ));
        return found;
    }
    rights(home, &mut found);
    file_system(home.path(), &mut found);
    if let Ok(disk) = statvfs(home.path()) {
        room(&disk, home.path(), &mut found);
    }
    journal(home, &mut found);
    logs(home, &mut found);
    found
}

/// When the journal was last written, by its own words.
pub(super) fn last_entry(home: &Home) -> Option<Timestamp> {
    let journal = SqliteJournal::open_to_read(&StateDir::new(home.path()).journal()).ok()?;
    let head = journal.head().ok()?;
    let last = journal.read(head.seq.checked_sub(1)?, 1, None).ok()?;
    last.first().map(|entry| entry.at)
}

fn rights(home: &Home, found: &mut Findings) {
    let path = home.path().display();
    let Ok(folder) = fs::metadata(home.path()) else {
        found.fail(
            format!("{path} cannot be looked into"),
            "run `segue doctor` as the user of `segue serve`",
        );
        return;
    };
    if folder.uid() != rustix::process::geteuid().as_raw() {
        found.warn(
            format!("{path} belongs to another user"),
            "run `segue` as the user of `segue serve`",
        );
    }
    let secrets = ["run", "api.token", "override.token", "journal.db"];
    let inside = secrets.map(|name| home.path().join(name));
    let open: Vec<String> = std::iter::once(home.path().to_owned())
        .chain(inside)
        .filter(|path| fs::metadata(path).is_ok_and(|is| is.permissions().mode() & 0o077 != 0))
        .map(|path| path.display().to_string())
        .collect();
    if open.is_empty() {
        found.ok(format!("{path} is its owner's alone"));
    } else {
        found.fail(
            format!(
                "others may look into {}: tokens, environments of workers, sockets that move calls",
                open.join(", ")
            ),
            format!("chmod go-rwx {}", open.join(" ")),
        );
    }
}

fn file_system(path: &Path, found: &mut Findings) {
    let Ok(is) = statfs(path) else { return };
    // Its width differs between machines; the numbers all fit 32 bits.
    let kind = u64::try_from(is.f_type).unwrap_or(0) & 0xffff_ffff;
    let known = FILE_SYSTEMS.iter().find(|(number, ..)| *number == kind);
    let Some((_, name, remote)) = known else {
        return;
    };
    let what = if *remote {
        format!(
            "{} is on {name}: locks and syncs may not hold there",
            path.display()
        )
    } else {
        format!(
            "{} is on {name}: the audit log is gone after a reboot",
            path.display()
        )
    };
    found.warn(
        what,
        "put the state on a disk of this machine: --home, or $SEGUE_HOME",
    );
}

fn room(disk: &StatVfs, path: &Path, found: &mut Findings) {
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let what = format!("{} MiB free for {}", free / MIB, path.display());
    let fix = "free some: without room no decision can be written down, and none is taken";
    if free < FREE_BYTES.0 {
        found.fail(what, fix);
    } else if free < FREE_BYTES.1 {
        found.warn(what, fix);
    } else {
        found.ok(what);
    }
}

fn journal(home: &Home, found: &mut Findings) {
    let path = StateDir::new(home.path()).journal();
    if !path.exists() {
        found.ok("no journal yet");
        return;
    }
    match chain(&path) {
        Ok((head, None)) => found.ok(format!(
            "the journal's {} entries verify; head {}",
            head.seq, head.hash
        )),
        Ok((_, Some(broken))) => found.fail(
            format!("the journal's chain is broken: {broken}"),
            "restore journal.db from a copy that verifies; keep this one to find out who wrote to it",
        ),
        Err(error) => {
            let fix = match &error {
                StoreError::TooNew { .. } => "use the newer Segue that wrote it",
                _ => "see who holds it (`fuser -v`), and that its disk is well",
            };
            found.fail(format!("the journal cannot be read: {error}"), fix);
        }
    }
    let log = path.with_extension("db-wal");
    let bytes = fs::metadata(&log).map_or(0, |log| log.len());
    if bytes > WAL_BYTES_MAX {
        found.warn(
            format!("{} has grown to {} MiB", log.display(), bytes / MIB),
            "end the program that keeps reading the journal (`fuser -v` names it)",
        );
    }
}

/// The last good entry, and where the chain breaks.
fn chain(path: &Path) -> Result<(Head, Option<String>), StoreError> {
    let journal = SqliteJournal::open_to_read(path)?;
    let (mut good, mut broken) = (Head::default(), None);
    journal.load_all(&mut |entry| {
        if broken.is_some() {
            return;
        }
        if entry.seq != good.seq + 1 || entry.prev != good.hash {
            broken = Some(format!("entry {} does not follow {}", entry.seq, good.seq));
        } else if entry.digest() != entry.hash {
            broken = Some(format!("entry {} was edited", entry.seq));
        } else {
            good = Head::of(&entry);
        }
    })?;
    Ok((good, broken))
}

fn logs(home: &Home, found: &mut Findings) {
    let bytes = size(&home.log());
    if bytes > LOG_BYTES_MAX {
        found.warn(
            format!("{} MiB of logs in {}", bytes / MIB, home.log().display()),
            "rotate them with `copytruncate`: the processes keep their files open",
        );
    }
}

fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(is) if is.is_dir() => size(&entry.path()),
            Ok(is) => is.len(),
            Err(_) => 0,
        })
        .sum()
}
