//! The jobs that run, so that a dispatcher that is killed has them when it is back.
//!
//! Lines of JSON, appended before what they tell is done; what is written survives the process. It
//! is never synced: that would be waited for by every job, and a machine that fails takes its workers'
//! sockets along, so that those that are elsewhere come back and claim what they have.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use segue_core::dispatch::{Entry, JobRecord, Vacancy, VacancyStage};
use segue_core::names::CallId;

/// A file that has grown by this many bytes, and to twice its length, is made anew: some 20,000 jobs.
/// Twice, so that what must be written again stays in proportion to what was written.
const GROWTH_BYTES_MIN: u64 = 8 * 1024 * 1024;

/// Longest file that is read: twice as many jobs as there may be, with metadata as long as it may be.
const FILE_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;

/// A file that could not be made anew is tried again after this: a disk stays full for a while, and
/// every try goes through all jobs.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct JobFile {
    path: PathBuf,
    file: File,
    /// Its length when it was made anew, in bytes.
    anew: u64,
    /// What came behind that.
    grown: u64,
    state: State,
    /// Not to be made anew before.
    rests_until: Option<Instant>,
}

/// What a file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    /// The jobs that run.
    pub(crate) jobs: BTreeMap<CallId, JobRecord>,
    /// Rooms whose agent may be gone, or was replaced.
    pub(crate) rooms: BTreeMap<CallId, Vacancy>,
}

impl Kept {
    fn entries(&self) -> impl Iterator<Item = Entry> {
        let jobs = self.jobs.values().cloned().map(Entry::Begun);
        let rooms = self.rooms.values().cloned().map(Box::new);
        jobs.chain(rooms.map(Entry::Vacant))
    }
}

/// Whether the file has every line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Whole,
    /// It lacks something, and its last line may be half of one.
    Torn,
}

impl JobFile {
    /// Opens it and reads what ran. A last line that was cut off is what a kill leaves.
    pub(crate) fn open(path: &Path) -> io::Result<(Self, Kept)> {
        let kept = read(path)?;
        let ((file, anew), state) = match anew(path, kept.entries()) {
            Ok(made) => (made, State::Whole),
            // A full disk is no reason to leave jobs alone: what is there is still true.
            Err(error) => {
                tracing::error!(%error, "the file of jobs cannot be made anew");
                let file = OpenOptions::new().append(true).open(path);
                ((file.map_err(|_| error)?, 0), State::Torn)
            }
        };
        let file = Self {
            path: path.to_owned(),
            file,
            anew,
            grown: 0,
            state,
            rests_until: None,
        };
        Ok((file, kept))
    }

    /// Writes one line. An error does not stop the job: calls go before records.
    pub(crate) fn write(&mut self, entry: &Entry) {
        // Half of a line spoils no other.
        let mut line = match self.state {
            State::Whole => Vec::new(),
            State::Torn => vec![b'\n'],
        };
        // A room is watched from when its worker is lost: its job's line is there.
        let brief = brief(entry, |_| true);
        let entry = brief.as_ref().unwrap_or(entry);
        serde_json::to_writer(&mut line, entry).expect("an entry is plain data");
        line.push(b'\n');
        self.grown += line.len() as u64;
        if let Err(error) = self.file.write_all(&line) {
            if self.state == State::Whole {
                tracing::error!(%error, "a job is not written down; a restart would not know it");
            }
            self.state = State::Torn;
        }
    }

    /// Whether it should be made anew.
    pub(crate) fn is_due(&self) -> bool {
        let grown = self.grown > self.anew.max(GROWTH_BYTES_MIN);
        let wanted = self.state == State::Torn || grown;
        wanted && self.rests_until.is_none_or(|until| Instant::now() >= until)
    }

    /// Makes it anew with what runs.
    pub(crate) fn compact(&mut self, entries: impl Iterator<Item = Entry>) {
        match anew(&self.path, entries) {
            Ok((file, length)) => {
                if self.state == State::Torn {
                    tracing::info!("the file of jobs is whole again");
                }
                (self.file, self.anew) = (file, length);
                self.state = State::Whole;
                self.grown = 0;
                self.rests_until = None;
            }
            Err(error) => {
                if self.rests_until.is_none() {
                    tracing::error!(%error, "the file of jobs cannot be made anew; it is tried again");
                }
                self.rests_until = Some(Instant::now() + AGAIN_AFTER);
            }
        }
    }
}

/// How many jobs ran when the file was last written.
///
/// # Errors
///
/// When it cannot be read; no file is no job.
pub fn jobs_left(state_dir: &Path) -> io::Result<usize> {
    Ok(read(&path_below(state_dir))?.jobs.len())
}

pub(crate) fn path_below(state_dir: &Path) -> PathBuf {
    state_dir.join("dispatch").join("jobs.journal")
}

/// The file, and its length.
fn anew(path: &Path, entries: impl Iterator<Item = Entry>) -> io::Result<(File, u64)> {
    let draft = path.with_extension("draft");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&draft)?;
    let mut bytes = Vec::new();
    let mut jobs = BTreeSet::new();
    for entry in entries {
        let brief = brief(&entry, |job| jobs.contains(job));
        serde_json::to_writer(&mut bytes, brief.as_ref().unwrap_or(&entry))?;
        bytes.push(b'\n');
        if let Entry::Begun(record) = entry {
            jobs.insert(record.job);
        }
    }
    file.write_all(&bytes)?;
    std::fs::rename(&draft, path)?;
    Ok((file, bytes.len() as u64))
}

/// A room without its metadata, which may be long, if its job's line has it.
fn brief(entry: &Entry, has_line: impl Fn(&CallId) -> bool) -> Option<Entry> {
    match entry {
        Entry::Vacant(room) if is_watched(room) && has_line(&room.job) => {
            let mut room = room.clone();
            room.again.metadata.clear();
            Some(Entry::Vacant(room))
        }
        _ => None,
    }
}

/// Takes from a job's line what [`brief`] left out of its room's.
fn remember(room: &mut Vacancy, job: &JobRecord) {
    if let Some(again) = &job.again
        && is_watched(room)
        && room.again.metadata.is_empty()
    {
        room.again.metadata.clone_from(&again.metadata);
    }
}

/// Nothing was sent for it yet.
fn is_watched(room: &Vacancy) -> bool {
    matches!(room.stage, VacancyStage::Doubtful | VacancyStage::Dead)
}

fn read(path: &Path) -> io::Result<Kept> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => {
            let length = file.metadata()?.len();
            if length > FILE_BYTES_MAX {
                // Without them there is still a dispatcher, and workers claim what they have.
                tracing::error!(
                    length,
                    "the file of jobs is too long; its last jobs are not known"
                );
            }
            file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    let mut kept = Kept::default();
    let jobs = &mut kept.jobs;
    for line in bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        match serde_json::from_slice(line) {
            Ok(Entry::Begun(record)) => {
                jobs.insert(record.job.clone(), record);
            }
            Ok(Entry::Spoken { job }) => {
                if let Some(record) = jobs.get_mut(&job) {
                    record.spoken = true;
                }
            }
            Ok(Entry::Moved { job, worker }) => {
                if let Some(record) = jobs.get_mut(&job) {
                    record.worker = worker;
                }
            }
            Ok(Entry::Drained { job, drains }) => {
                if let Some(record) = jobs.get_mut(&job) {
                    record.drains = drains;
                }
            }
            Ok(Entry::Ended { job }) => {
                jobs.remove(&job);
            }
            Ok(Entry::Vacant(mut room)) => {
                if let Some(job) = jobs.get(&room.job) {
                    remember(&mut room, job);
                }
                kept.rooms.insert(room.job.clone(), *room);
            }
            Ok(Entry::Occupied { job }) => {
                kept.rooms.remove(&job);
            }
            Err(error) => tracing::warn!(%error, "a line of the file of jobs is not understood"),
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use segue_core::names::ReleaseId;
    use segue_core::route::Reason;
    use segue_core::table::Epoch;
    use segue_core::time::Timestamp;

    use super::*;

    fn record(job: &str) -> JobRecord {
        JobRecord {
            job: job.parse().unwrap(),
            agent: "desk".parse().unwrap(),
            room: "room".to_owned(),
            release: ReleaseId::of(b"v1"),
            worker: "AW_1".parse().unwrap(),
            epoch: Epoch(3),
            reason: Reason::Split,
            is_override: false,
            decided: Timestamp(1),
            begun: Timestamp(2),
            spoken: false,
            drains: segue_core::dispatch::Drains::default(),
            again: None,
        }
    }

    #[test]
    fn what_ran_is_found_again() {
        let folder = std::env::temp_dir().join(format!("segue-job-file-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("jobs.journal");
        let (mut file, before) = JobFile::open(&path).unwrap();
        assert_eq!(before, Kept::default());
        for job in ["a", "b", "c"] {
            file.write(&Entry::Begun(record(job)));
        }
        file.write(&Entry::Moved {
            job: "b".parse().unwrap(),
            worker: "AW_2".parse().unwrap(),
        });
        file.write(&Entry::Ended {
            job: "a".parse().unwrap(),
        });
        drop(file);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend(b"{\"type\":\"ended\",\"jo");
        std::fs::write(&path, bytes).unwrap();

        let moved = JobRecord {
            worker: "AW_2".parse().unwrap(),
            ..record("b")
        };
        let (mut file, found) = JobFile::open(&path).unwrap();
        let found: Vec<JobRecord> = found.jobs.into_values().collect();
        assert_eq!(found, [moved.clone(), record("c")]);
        file.compact([Entry::Begun(moved.clone())].into_iter());
        drop(file);
        assert_eq!(jobs_in(&path), [moved]);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    fn watched(job: &str, stage: VacancyStage) -> Vacancy {
        Vacancy {
            job: job.parse().unwrap(),
            agent: "desk".parse().unwrap(),
            room: "room".to_owned(),
            release: ReleaseId::of(b"v1"),
            again: again(),
            since: Timestamp(3),
            stage,
        }
    }

    fn again() -> segue_core::dispatch::Again {
        segue_core::dispatch::Again {
            sid: "RM_1".to_owned(),
            dispatch: "AD_1".to_owned(),
            metadata: "a word that is long".repeat(100),
            identity: "agent".to_owned(),
        }
    }

    #[test]
    fn metadata_is_written_once_and_found_again() {
        let folder = std::env::temp_dir().join(format!("segue-job-meta-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("jobs.journal");
        let with = |job: &str| JobRecord {
            again: Some(Box::new(again())),
            ..record(job)
        };
        // One room's job is there, the other's is over.
        let rooms = [("a", VacancyStage::Doubtful), ("b", VacancyStage::Dead)];
        let rooms = rooms.map(|(job, stage)| watched(job, stage));
        let vacant = || {
            rooms
                .iter()
                .cloned()
                .map(|room| Entry::Vacant(Box::new(room)))
        };
        let (mut file, _) = JobFile::open(&path).unwrap();
        for job in ["a", "b"] {
            file.write(&Entry::Begun(with(job)));
        }
        for room in vacant() {
            file.write(&room);
        }
        file.write(&Entry::Ended {
            job: "b".parse().unwrap(),
        });
        drop(file);
        let copies = |path: &Path| {
            let text = std::fs::read_to_string(path).unwrap();
            text.matches(&again().metadata).count()
        };
        assert_eq!(copies(&path), 2, "with the jobs alone");
        let found = read(&path).unwrap();
        let wanted: Vec<&Vacancy> = rooms.iter().collect();
        assert_eq!(found.rooms.values().collect::<Vec<_>>(), wanted);
        // Made anew, the job that is over has no line.
        let (_, found) = JobFile::open(&path).unwrap();
        assert_eq!(copies(&path), 2);
        assert_eq!(found, read(&path).unwrap());
        assert_eq!(found.rooms.values().collect::<Vec<_>>(), wanted);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_long_file_is_made_anew_once_it_has_doubled() {
        let folder = std::env::temp_dir().join(format!("segue-job-long-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("jobs.journal");
        let (mut file, _) = JobFile::open(&path).unwrap();
        file.grown = GROWTH_BYTES_MIN + 1;
        assert!(file.is_due());
        let long = JobRecord {
            room: "r".repeat(usize::try_from(GROWTH_BYTES_MIN).unwrap() * 2),
            ..record("a")
        };
        file.compact([Entry::Begun(long)].into_iter());
        file.grown = GROWTH_BYTES_MIN + 1;
        assert!(
            !file.is_due(),
            "what is written anew is longer than what came"
        );
        file.grown = GROWTH_BYTES_MIN * 3;
        assert!(file.is_due());
        std::fs::remove_dir_all(&folder).unwrap();
    }

    /// A file of jobs whose folder cannot take another file: a folder has the draft's name.
    fn stuck(name: &str) -> (PathBuf, JobFile) {
        let folder = std::env::temp_dir().join(format!("segue-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("jobs.journal");
        let (file, _) = JobFile::open(&path).unwrap();
        std::fs::create_dir(path.with_extension("draft")).unwrap();
        (folder, file)
    }

    #[test]
    fn what_cannot_be_made_anew_rests_before_the_next_try() {
        let (folder, mut file) = stuck("job-file-rests");
        file.state = State::Torn;
        assert!(file.is_due());
        file.compact([].into_iter());
        assert!(!file.is_due(), "not again with every line");
        std::fs::remove_dir(folder.join("jobs.draft")).unwrap();
        file.rests_until = Some(Instant::now());
        assert!(file.is_due());
        file.compact([Entry::Begun(record("a"))].into_iter());
        assert!(!file.is_due());
        assert_eq!(jobs_in(&file.path), [record("a")]);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn half_a_line_spoils_no_other() {
        let (folder, mut file) = stuck("job-file-torn");
        file.write(&Entry::Begun(record("a")));
        // As a disk leaves it that was full for a moment.
        file.file.write_all(b"{\"type\":\"ended\",\"jo").unwrap();
        file.state = State::Torn;
        file.write(&Entry::Begun(record("b")));
        // A dispatcher that starts on a full disk goes on with the file as it is.
        let (mut next, jobs) = JobFile::open(&file.path).unwrap();
        let jobs: Vec<JobRecord> = jobs.jobs.into_values().collect();
        assert_eq!(jobs, [record("a"), record("b")]);
        next.write(&Entry::Ended {
            job: "a".parse().unwrap(),
        });
        assert_eq!(jobs_in(&file.path), [record("b")]);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    fn jobs_in(path: &Path) -> Vec<JobRecord> {
        read(path).unwrap().jobs.into_values().collect()
    }
}
