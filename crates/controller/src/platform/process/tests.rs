use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use segue_core::release::Content;
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::*;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

struct Scene {
    state: StateDir,
    agent: AgentName,
    release: Release,
}

impl Scene {
    fn new(name: &str) -> Self {
        let name = format!("segue-platform-{name}-{}", std::process::id());
        let state = StateDir::new(std::env::temp_dir().join(name));
        state.create().unwrap();
        let agent: AgentName = "desk".parse().unwrap();
        let content = Content {
            command: vec!["bot".to_owned()],
            ..Content::default()
        };
        let release = Release::new(&agent, "v1".parse().unwrap(), content, 1, 1);
        Self {
            state,
            agent,
            release,
        }
    }

    /// A platform as the next controller has it, which knows of the release or does not.
    fn platform(&self, knows: bool) -> ProcessPlatform {
        let copies = Copies::new(&self.state);
        let platform = ProcessPlatform::new(self.state.clone(), copies, Arc::new(Notify::new()));
        let known = |_: &AgentName, id: ReleaseId| {
            (knows && id == self.release.id).then(|| self.release.clone())
        };
        platform.adopt(&known).unwrap();
        platform
    }

    fn record(&self) -> PathBuf {
        let worker = name(&self.release, &Role::Worker(1)).parse().unwrap();
        self.state.worker_record(&self.agent, &worker)
    }

    /// A worker that launched another process, whose pid it wrote down.
    async fn launch(&self, script: &str) -> (Handle, u32) {
        let spawn = Spawn {
            program: "/bin/sh".to_owned(),
            args: vec!["-c".to_owned(), script.to_owned()],
            env: BTreeMap::new(),
            dir: None,
            log: self.state.path().join("out.log"),
            record_path: self.record(),
            note: json!({
                "agent": self.agent,
                "release": self.release.id,
                "worker": name(&self.release, &Role::Worker(1)),
                "index": 1,
                "port": 9,
                "restarts": 0,
            }),
        };
        let log = spawn.log.clone();
        let leader = spawn.start().unwrap();
        let mut pid = None;
        until(|| {
            let text = fs::read_to_string(&log).unwrap_or_default();
            pid = text.strip_suffix('\n').and_then(|text| text.parse().ok());
            pid.is_some()
        })
        .await;
        (leader, pid.unwrap())
    }

    fn records(&self) -> usize {
        let directory = self.record();
        let entries = fs::read_dir(directory.parent().unwrap()).unwrap();
        let is_record = |entry: &fs::DirEntry| {
            let path = entry.path();
            path.extension().is_some_and(|ending| ending == "json")
        };
        entries.flatten().filter(is_record).count()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.state.path());
    }
}

async fn until(mut is: impl FnMut() -> bool) {
    let there = async {
        while !is() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, there).await.unwrap();
}

fn lives(pid: u32) -> bool {
    proc::stat(pid).unwrap().is_some_and(|is| !is.is_zombie)
}

#[tokio::test]
async fn what_a_worker_left_behind_is_found_again_and_ends_with_its_release() {
    let scene = Scene::new("left");
    // Both ways to stay: in the process group, and in a session of its own.
    for script in [
        "sleep 600 & echo $!",
        "setsid sh -c 'echo $$; exec sleep 600' &",
    ] {
        let _ = fs::remove_file(scene.state.path().join("out.log"));
        let (leader, child) = scene.launch(script).await;
        leader.exited().await;
        drop(leader);
        let first = scene.platform(true);
        let ours = BTreeSet::from([scene.release.id]);
        assert_eq!(first.processes(&scene.agent), ours);
        assert_eq!(first.strays(&scene.agent), 0);
        assert!(
            !scene.record().exists(),
            "the next worker has a record of its own"
        );
        // Another controller, and still nobody takes it away.
        drop(first);
        let second = scene.platform(true);
        second.reconcile(&scene.agent, &scene.release, Want::Keep);
        assert_eq!(second.processes(&scene.agent), ours);
        assert!(lives(child));
        second.reconcile(&scene.agent, &scene.release, Want::Stop);
        until(|| second.processes(&scene.agent).is_empty()).await;
        assert!(!lives(child), "{script}");
        assert_eq!(scene.records(), 0);
    }
}

#[tokio::test]
async fn what_nobody_knows_is_left_alone_and_told() {
    let scene = Scene::new("stray");
    let (leader, child) = scene.launch("sleep 600 & echo $!; wait").await;
    let platform = scene.platform(false);
    assert_eq!(platform.strays(&scene.agent), 1);
    assert_eq!(platform.strays(&"other".parse().unwrap()), 0);
    assert!(lives(leader.pid()) && lives(child));
    leader.signal(Signal::KILL).unwrap();
    leader.exited().await;
    drop(platform);
    let platform = scene.platform(false);
    assert_eq!(platform.strays(&scene.agent), 1, "its child lives");
    assert!(lives(child));
    let pid = rustix::process::Pid::from_raw(child.cast_signed()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    until(|| platform.strays(&scene.agent) == 0).await;
    assert_eq!(scene.records(), 0);
}

#[tokio::test]
async fn a_record_that_cannot_be_read_may_be_of_a_process_that_lives() {
    let scene = Scene::new("damaged");
    fs::create_dir_all(scene.record().parent().unwrap()).unwrap();
    fs::write(scene.record(), "{ damaged").unwrap();
    let platform = scene.platform(true);
    assert_eq!(platform.strays(&scene.agent), 1);
    drop(platform);
    let platform = scene.platform(true);
    assert_eq!((platform.strays(&scene.agent), scene.records()), (1, 1));
    // A person says that there is none.
    let directory = scene.record();
    for entry in fs::read_dir(directory.parent().unwrap()).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert_eq!(platform.strays(&scene.agent), 0);
}
