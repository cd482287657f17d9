//! No descriptor is left for new calls.

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::support::agent::{Agent, Manner};
use crate::support::controller::Controller;
use crate::support::gateway::Process;
use crate::support::table::table;
use crate::support::ws::{self, BINARY, read_head, upgrade};
use crate::support::{Dir, soon};

/// Descriptors that are left.
const FREE: usize = 3;

/// Far more.
const CALLERS: usize = 24;

#[tokio::test(flavor = "multi_thread")]
async fn live_calls_flow_and_callers_wait_for_a_descriptor() {
    let dir = Dir::new();
    let worker = Agent::start(Manner::Echo).await;
    let workers = [("w1", "v1", worker.addr)];
    let mut controller = Controller::start(dir.path(), table(1, "v1", &workers));
    let gateway = Process::start(dir.path(), false).await;
    controller.report("the table", |r| r.epoch.0 == 1).await;
    let mut live = ws::call(gateway.addr, "/ws/live", "").await;

    let pid = Pid::from_raw(i32::try_from(gateway.child.id().unwrap()).unwrap()).unwrap();
    let limit = |current| {
        // The harder one is the same for us.
        let maximum = getrlimit(Resource::Nofile).maximum;
        let limit = Rlimit { current, maximum };
        prlimit(Some(pid), Resource::Nofile, limit).unwrap()
    };
    let open = std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).unwrap();
    let open = open.map(|fd| fd.unwrap().file_name().into_string().unwrap());
    let open: Vec<u64> = open.map(|fd| fd.parse().unwrap()).collect();
    let mut free = (0..).filter(|fd| !open.contains(fd));
    let before = limit(free.nth(FREE));
    let mut callers = Vec::new();
    for number in 0..CALLERS {
        let mut caller = TcpStream::connect(gateway.addr).await.unwrap();
        let request = upgrade(&format!("/ws/waits-{number}"), "");
        caller.write_all(request.as_bytes()).await.unwrap();
        callers.push(caller);
        live.send(BINARY, b"still here").await.unwrap();
        let heard = soon("an echo", live.next()).await.unwrap();
        assert_eq!(heard, Some((BINARY, b"still here".to_vec())));
    }
    limit(before.current);
    let mut accepted = 0;
    for caller in &mut callers {
        let head = soon("an answer", read_head(caller)).await;
        let (head, _) = head.expect("nobody is just hung up on");
        // Who was accepted while no worker could be dialled is told to try again.
        let refused = head.starts_with("HTTP/1.1 503 ") && head.contains("Retry-After: ");
        accepted += usize::from(head.starts_with("HTTP/1.1 101 "));
        assert!(refused || head.starts_with("HTTP/1.1 101 "), "{head}");
    }
    assert!(accepted > 0, "those that waited to be accepted are");
}
