//! Other processes: this test binary again, told by its environment what to be. As tests they do
//! nothing.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use segue_controller::platform::process::Record;
use segue_controller::run;
use segue_controller::store::{Head, Journal as _, SqliteJournal};

use crate::Directory;

/// What a worker is started with. The test binary is not named in it: it is large, and a release
/// is made of the bytes of every file that is.
pub(crate) fn worker_command() -> Vec<String> {
    let script = "exec \"$IT_EXE\" helper::worker --exact --ignored --nocapture";
    ["sh", "-c", script, "worker", "{port}"]
        .map(str::to_owned)
        .into()
}

pub(crate) fn worker_env() -> BTreeMap<String, String> {
    let exe = env::current_exe().unwrap().to_string_lossy().into_owned();
    BTreeMap::from([
        ("IT_EXE".to_owned(), exe),
        ("IT_ROLE".to_owned(), "worker".to_owned()),
    ])
}

fn plays(role: &str) -> bool {
    env::var("IT_ROLE").is_ok_and(|plays| plays == role)
}

/// Starts this binary as another.
pub(crate) fn play(role: &str, directory: &Directory, more: &[(&str, &str)]) -> Child {
    player(role, directory, more).spawn().unwrap()
}

/// This binary, to be started as another.
pub(crate) fn player(role: &str, directory: &Directory, more: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args([
            &format!("helper::{role}"),
            "--exact",
            "--ignored",
            "--nocapture",
        ])
        .env("IT_ROLE", role)
        .env("IT_STATE", &directory.0)
        .envs(more.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

/// Waits until a player says something.
pub(crate) fn hear(child: &mut Child, wanted: &str) {
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    let heard = lines
        .map_while(Result::ok)
        .any(|line| line.contains(wanted));
    assert!(heard, "{wanted} was not said");
}

/// Ends what the workers of a directory left.
pub(crate) fn kill_workers(directory: &Path) {
    let Ok(agents) = fs::read_dir(directory.join("workers")) else {
        return;
    };
    for agent in agents.flatten() {
        for record in fs::read_dir(agent.path()).into_iter().flatten().flatten() {
            let pid = Record::read(&record.path())
                .ok()
                .and_then(|record| record.pid);
            if let Some(pid) = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
                let _ = kill_process_group(pid, Signal::KILL);
            }
        }
    }
}

#[test]
#[ignore = "a worker, when told to be one"]
fn worker() {
    if !plays("worker") {
        return;
    }
    let port: u16 = env::var("PORT").unwrap().parse().unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let status = if note_heard(&mut stream) {
            "200 OK"
        } else {
            "503 Busy"
        };
        let says = env::var("IT_SAYS").unwrap_or_default();
        let length = says.len();
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n");
        let _ = stream.write_all(format!("{head}{says}").as_bytes());
    }
}

/// Reads a request, and writes down what was posted, if it is told where. While there is a file of
/// that name and `.closed`, it does not take what is posted and writes one line more into that.
fn note_heard(stream: &mut TcpStream) -> bool {
    let mut text = Vec::new();
    let mut piece = [0; 1_024];
    while !crate::receiver::is_whole(&text) {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return true,
            Ok(count) => text.extend_from_slice(&piece[..count]),
        }
    }
    let Ok(path) = env::var("IT_HEARD") else {
        return true;
    };
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    if !head.starts_with("POST ") {
        return true;
    }
    let event: serde_json::Value = serde_json::from_str(body).unwrap();
    let at = crate::gateway::now();
    let line = serde_json::json!({ "at": at, "head": head, "event": event });
    let mut file = fs::OpenOptions::new();
    let closed = file.append(true).open(format!("{path}.closed"));
    let is_open = closed.is_err();
    let mut file = closed.unwrap_or_else(|_| file.create(true).open(path).unwrap());
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
    is_open
}

#[test]
#[ignore = "a controller, when told to be one"]
fn controller() {
    if !plays("controller") {
        return;
    }
    let state = env::var("IT_STATE").unwrap();
    let directory = std::mem::ManuallyDrop::new(Directory(state.into()));
    let spec = serde_json::from_str(&env::var("IT_SPEC").unwrap()).unwrap();
    if env::var_os("IT_LOG").is_some() {
        let all = tracing_subscriber::filter::LevelFilter::TRACE;
        tracing_subscriber::fmt().with_max_level(all).init();
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ended = runtime.block_on(run(directory.config(spec), std::future::pending()));
    panic!("the controller ended: {ended:?}");
}

#[test]
#[ignore = "holds the journal, when told to"]
fn locker() {
    if !plays("locker") {
        return;
    }
    let path = Path::new(&env::var("IT_STATE").unwrap()).join("journal.db");
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.execute_batch("BEGIN EXCLUSIVE").unwrap();
    println!("locked");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

#[test]
#[ignore = "appends to a journal until it is killed, when told to"]
fn appender() {
    if !plays("appender") {
        return;
    }
    let path = Path::new(&env::var("IT_STATE").unwrap()).join("journal.db");
    let journal = SqliteJournal::open(&path).unwrap();
    let mut head = journal.head().unwrap();
    loop {
        let entries = crate::store::entries(&head, 3);
        journal.append(head.seq, &entries).unwrap();
        head = Head::of(&entries[2]);
        println!("appended {}", head.seq);
    }
}

#[test]
#[ignore = "looks into every file of the state directory, when told to"]
fn visitor() {
    /// The bytes that whoever has a file open holds a lock on: from where, and how many.
    const READERS: (u64, u64) = (0x4000_0002, 510);
    if !plays("visitor") {
        return;
    }
    for name in ["control.db", "calls.db", "journal.db"] {
        let path = Path::new(&env::var("IT_STATE").unwrap()).join(name);
        let connection = rusqlite::Connection::open(&path).unwrap();
        let count = "SELECT count(*) FROM sqlite_schema";
        let tables: u32 = connection.query_row(count, [], |row| row.get(0)).unwrap();
        assert!(tables > 0, "{name}");
        // Not every engine looks further than at this lock before it takes the log away.
        let file = fs::File::open(&path).unwrap();
        let lock = rustix::process::Flock {
            start: READERS.0,
            length: READERS.1,
            ..rustix::process::FlockType::WriteLock.into()
        };
        let held = rustix::process::fcntl_getlk(&file, &lock).unwrap();
        assert!(held.is_some(), "who opens {name} next believes it is alone");
        connection.close().unwrap();
    }
    println!("looked");
}
