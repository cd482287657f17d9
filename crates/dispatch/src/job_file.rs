//! The jobs that run, so that a dispatcher that is killed has them when it is back.
//!
//! Lines of JSON, appended before what they tell is done; what is written survives the process. It
//! is synced only when it is made anew: a machine that fails takes its workers' sockets along, and
//! those that are elsewhere claim what they have.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use segue_core::dispatch::{Entry, JobRecord};
use segue_core::names::CallId;

/// Beyond this many bytes behind its beginning the file is made anew: some 20,000 jobs.
const GROWTH_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Longest file that is read: far beyond what [`GROWTH_BYTES_MAX`] allows.
const FILE_BYTES_MAX: u64 = 512 * 1024 * 1024;

#[derive(Debug)]
pub(crate) struct JobFile {
    path: PathBuf,
    file: File,
    grown: u64,
    /// A line could not be written, so the file lacks something.
    is_torn: bool,
}

impl JobFile {
    /// Opens it and reads what ran. A last line that was cut off is what a kill leaves.
    pub(crate) fn open(path: &Path) -> io::Result<(Self, Vec<JobRecord>)> {
        let jobs = read(path)?;
        let jobs: Vec<JobRecord> = jobs.into_values().collect();
        let file = anew(path, jobs.iter())?;
        let file = Self {
            path: path.to_owned(),
            file,
            grown: 0,
            is_torn: false,
        };
        Ok((file, jobs))
    }

    /// Writes one line. An error does not stop the job: calls go before records.
    pub(crate) fn write(&mut self, entry: &Entry) {
        let mut line = serde_json::to_vec(entry).expect("an entry is plain data");
        line.push(b'\n');
        self.grown += line.len() as u64;
        if let Err(error) = self.file.write_all(&line) {
            self.is_torn = true;
            tracing::error!(%error, "a job is not written down; a restart would not know it");
        }
    }

    /// Whether it should be made anew.
    pub(crate) fn is_due(&self) -> bool {
        self.is_torn || self.grown > GROWTH_BYTES_MAX
    }

    /// Makes it anew with what runs.
    pub(crate) fn compact<'a>(&mut self, jobs: impl Iterator<Item = &'a JobRecord>) {
        match anew(&self.path, jobs) {
            Ok(file) => {
                self.file = file;
                self.is_torn = false;
                self.grown = 0;
            }
            Err(error) => {
                // Not again with every line.
                self.grown = 0;
                tracing::error!(%error, "the file of jobs cannot be made anew");
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
    Ok(read(&path_below(state_dir))?.len())
}

pub(crate) fn path_below(state_dir: &Path) -> PathBuf {
    state_dir.join("dispatch").join("jobs.journal")
}

fn anew<'a>(path: &Path, jobs: impl Iterator<Item = &'a JobRecord>) -> io::Result<File> {
    let draft = path.with_extension("draft");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&draft)?;
    let mut bytes = Vec::new();
    for job in jobs {
        serde_json::to_writer(&mut bytes, &Entry::Begun(job.clone()))?;
        bytes.push(b'\n');
    }
    file.write_all(&bytes)?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(file)
}

fn read(path: &Path) -> io::Result<BTreeMap<CallId, JobRecord>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    let mut jobs = BTreeMap::new();
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
            Ok(Entry::Ended { job }) => {
                jobs.remove(&job);
            }
            Err(error) => tracing::warn!(%error, "a line of the file of jobs is not understood"),
        }
    }
    Ok(jobs)
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
        }
    }

    #[test]
    fn what_ran_is_found_again() {
        let folder = std::env::temp_dir().join(format!("segue-job-file-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("jobs.journal");
        let (mut file, before) = JobFile::open(&path).unwrap();
        assert_eq!(before, []);
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
        assert_eq!(found, [moved.clone(), record("c")]);
        file.compact([moved.clone()].iter());
        drop(file);
        assert_eq!(JobFile::open(&path).unwrap().1, [moved]);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
