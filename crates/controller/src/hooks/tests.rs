use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use rustix::process::{Pid, test_kill_process};
use segue_core::release::Content;
use segue_core::time::Millis;
use tokio::time::{sleep, timeout};

use super::*;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Time for a fault to show itself, longer than a hook that cannot be told is left alone. No test
/// passes for it: that nothing happened too early is told by the order of what is written.
async fn a_moment() {
    sleep(Duration::from_millis(700)).await;
}

struct Scene {
    state: StateDir,
    agent: AgentName,
}

impl Scene {
    fn new(name: &str) -> Self {
        let name = format!("segue-hooks-{name}-{}", std::process::id());
        let state = StateDir::new(std::env::temp_dir().join(name));
        state.create().unwrap();
        let agent = "desk".parse().unwrap();
        Self { state, agent }
    }

    fn hooks(&self) -> Hooks {
        let copies = Copies::new(&self.state);
        Hooks::new(self.state.clone(), copies, Arc::new(Notify::new()))
    }

    fn attempt(&self, script: &str, timeout_ms: u64, number: u32) -> Attempt {
        let mut content = Content {
            command: vec!["bot".to_owned()],
            directory: self.state.path().to_string_lossy().into_owned(),
            ..Content::default()
        };
        for (name, value) in [
            ("DB", "x"),
            ("LISTEN", ":{port}"),
            ("ENGINE", "{engine.url}"),
        ] {
            content.env.insert(name.to_owned(), value.to_owned());
        }
        let release = Release::new(&self.agent, "v2".parse().unwrap(), content, 1, 1);
        Attempt {
            key: Key {
                kind: HookKind::BeforeDeploy,
                rollout: 7,
                release: release.id,
                attempt: number,
            },
            release: Box::new(release),
            hook: Hook {
                command: ["sh", "-c", script, "hook", "{release}@{agent}"]
                    .map(str::to_owned)
                    .into(),
                timeout: Millis(timeout_ms),
            },
            from: Some("v1".parse().unwrap()),
        }
    }

    async fn ends(&self, hooks: &Hooks) -> Outcome {
        let ended = async {
            loop {
                if let Some((_, outcome)) = hooks.outcomes(&self.agent).pop() {
                    return outcome;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, ended).await.unwrap()
    }

    async fn file(&self, name: &str) -> String {
        let path = self.state.path().join(name);
        let there = async {
            loop {
                match fs::read_to_string(&path) {
                    Ok(text) if text.ends_with('\n') => return text.trim().to_owned(),
                    _ => sleep(Duration::from_millis(10)).await,
                }
            }
        };
        timeout(PATIENCE, there).await.unwrap()
    }

    fn files(&self) -> usize {
        fs::read_dir(self.state.hooks(&self.agent)).map_or(0, Iterator::count)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.state.path());
    }
}

fn is_alive(pid: &str) -> bool {
    let pid = pid.parse().ok().and_then(Pid::from_raw).unwrap();
    test_kill_process(pid).is_ok()
}

#[tokio::test]
async fn it_is_told_where_it_is_and_says_how_it_went() {
    let scene = Scene::new("told");
    let mut hooks = scene.hooks();
    let script = "echo \"$1 $SEGUE_HOOK $SEGUE_FROM_RELEASE $SEGUE_RELEASE $DB [$LISTEN$ENGINE]\"";
    hooks.want(&scene.agent, vec![scene.attempt(script, 10_000, 1)]);
    let outcome = scene.ends(&hooks).await;
    assert_eq!(outcome.failed, None);
    assert_eq!(outcome.report["status"], 0);
    let said = &outcome.report["output"][0];
    assert_eq!(said, "v2@desk before_deploy v1 v2 x []");
    // Wanted again, it does not run again; unwanted, nothing of it is left but its log.
    hooks.want(&scene.agent, vec![scene.attempt(script, 10_000, 1)]);
    assert_eq!(hooks.outcomes(&scene.agent).len(), 1);
    hooks.want(&scene.agent, Vec::new());
    assert_eq!((hooks.outcomes(&scene.agent).len(), scene.files()), (0, 0));
    // The next attempt is another run.
    let script = "for i in $(seq 100); do echo line $i; done; exit 3";
    hooks.want(&scene.agent, vec![scene.attempt(script, 10_000, 2)]);
    let outcome = scene.ends(&hooks).await;
    let why = outcome.failed.unwrap();
    assert_eq!(why, "before_deploy ended with status 3: line 100");
    let lines = outcome.report["output"].as_array().unwrap().len();
    assert_eq!(lines, 20, "what it said is bounded");
}

#[tokio::test]
async fn one_that_takes_too_long_is_ended_with_what_it_started() {
    let scene = Scene::new("late");
    let mut hooks = scene.hooks();
    let script = "sleep 600 & echo $! > child; echo begun; wait";
    hooks.want(&scene.agent, vec![scene.attempt(script, 1_500, 1)]);
    let child = scene.file("child").await;
    let why = scene.ends(&hooks).await.failed.unwrap();
    assert!(
        why.starts_with("before_deploy did not end within 1.5s"),
        "{why}"
    );
    assert!(why.ends_with(": begun"), "{why}");
    assert!(!is_alive(&child));
}

#[tokio::test]
async fn the_next_controller_waits_for_it_or_finds_what_came_of_it() {
    let scene = Scene::new("again");
    let script = "echo $$ > \"pid-$SEGUE_RELEASE\"; echo ran >> runs; \
                  while ! [ -e go ]; do sleep 0.05; done; exit 4";
    let attempt = || scene.attempt(script, 60_000, 1);
    let mut first = scene.hooks();
    first.want(&scene.agent, vec![attempt()]);
    let pid = scene.file("pid-v2").await;
    drop(first);
    assert!(is_alive(&pid), "a controller that ends leaves it alone");
    let mut second = scene.hooks();
    second.want(&scene.agent, vec![attempt()]);
    a_moment().await;
    drop(second);
    // It ends while nobody looks.
    fs::write(scene.state.path().join("go"), "").unwrap();
    let ended = async {
        while is_alive(&pid) || scene.files() < 2 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, ended).await.unwrap();
    let mut third = scene.hooks();
    third.want(&scene.agent, vec![attempt()]);
    let why = scene.ends(&third).await.failed.unwrap();
    assert_eq!(why, "before_deploy ended with status 4");
    let runs = fs::read_to_string(scene.state.path().join("runs")).unwrap();
    assert_eq!(runs, "ran\n", "it ran once");
}

#[tokio::test]
async fn one_that_is_not_wanted_any_more_comes_to_its_end_before_the_next_begins() {
    let scene = Scene::new("cancel");
    let mut hooks = scene.hooks();
    let slow = "trap 'echo broken off >> order' TERM; echo $$ > pid; \
                while ! [ -e go ]; do sleep 0.05; done; echo ended >> order";
    hooks.want(&scene.agent, vec![scene.attempt(slow, 60_000, 1)]);
    let pid = scene.file("pid").await;
    let next = || scene.attempt("echo begun >> order", 60_000, 2);
    hooks.want(&scene.agent, vec![next()]);
    a_moment().await;
    assert!(is_alive(&pid));
    // The next controller does not want it either, and waits as well.
    drop(hooks);
    let mut hooks = scene.hooks();
    hooks.want(&scene.agent, vec![next()]);
    a_moment().await;
    assert!(is_alive(&pid));
    assert!(hooks.outcomes(&scene.agent).is_empty());
    fs::write(scene.state.path().join("go"), "").unwrap();
    assert_eq!(scene.ends(&hooks).await.failed, None);
    let order = fs::read_to_string(scene.state.path().join("order")).unwrap();
    assert_eq!(order, "ended\nbegun\n");
    // Nothing is left of either.
    hooks.want(&scene.agent, Vec::new());
    assert_eq!(scene.files(), 0);
}

#[tokio::test]
async fn as_long_as_it_cannot_be_told_whether_one_runs_none_is_started() {
    let scene = Scene::new("unknown");
    let attempt = || scene.attempt("echo ran >> runs", 60_000, 1);
    let mut hooks = scene.hooks();
    let record = hooks.place(&scene.agent, &attempt().key, None).record;
    fs::create_dir_all(record.parent().unwrap()).unwrap();
    fs::write(&record, "{ damaged").unwrap();
    hooks.want(&scene.agent, vec![attempt()]);
    a_moment().await;
    assert!(hooks.outcomes(&scene.agent).is_empty(), "it has not failed");
    assert!(!scene.state.path().join("runs").exists());
    fs::remove_file(&record).unwrap();
    assert_eq!(scene.ends(&hooks).await.failed, None);
    let runs = fs::read_to_string(scene.state.path().join("runs")).unwrap();
    assert_eq!(runs, "ran\n", "it ran once");
}

#[tokio::test]
async fn one_whose_shell_was_killed_is_waited_for() {
    let scene = Scene::new("orphan");
    let script = "echo $PPID > shell; echo $$ > pid; while ! [ -e go ]; do sleep 0.05; done; \
                  echo ended >> order";
    let mut hooks = scene.hooks();
    hooks.want(&scene.agent, vec![scene.attempt(script, 60_000, 1)]);
    let (shell, pid) = (scene.file("shell").await, scene.file("pid").await);
    let shell = Pid::from_raw(shell.parse().unwrap()).unwrap();
    rustix::process::kill_process(shell, rustix::process::Signal::KILL).unwrap();
    a_moment().await;
    assert!(is_alive(&pid));
    assert!(hooks.outcomes(&scene.agent).is_empty());
    fs::write(scene.state.path().join("go"), "").unwrap();
    let why = scene.ends(&hooks).await.failed.unwrap();
    assert!(why.contains("before it could say how it went"), "{why}");
    let order = fs::read_to_string(scene.state.path().join("order")).unwrap();
    assert_eq!(order, "ended\n");
}

#[tokio::test]
async fn what_runs_is_what_was_deployed() {
    let scene = Scene::new("frozen");
    let (directory, copies) = (scene.state.path(), Copies::new(&scene.state));
    let program = directory.join("migrate");
    let write = |text: &str| {
        let _ = fs::remove_file(&program);
        fs::write(&program, format!("#!/bin/sh\necho {text} \"${{0##*/}}\"\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    };
    write("of v2");
    let mut attempt = scene.attempt("", 60_000, 1);
    let text = program.to_string_lossy().into_owned();
    attempt.hook.command = vec![text.clone()];
    let digest = crate::digest::digest(&program, &mut u64::MAX.clone()).unwrap();
    let mut kept = copies.hold();
    kept.keep(&program, &digest).unwrap();
    attempt.release.content.hooks = BTreeMap::from([(text, digest)]);
    write("of v3");
    let mut hooks = Hooks::new(scene.state.clone(), copies, Arc::new(Notify::new()));
    hooks.want(&scene.agent, vec![attempt]);
    let outcome = scene.ends(&hooks).await;
    assert_eq!(outcome.failed, None);
    assert_eq!(outcome.report["output"][0], "of v2 migrate");
    hooks.want(&scene.agent, Vec::new());
    assert_eq!(scene.files(), 0);
}
